"""Facts: what the policy says is so, each about a subject, until another supersedes it.

TiM (arXiv 2311.08719, §3) stores thoughts (head, relation, tail) in place of turns; thoughts
that another supersedes are forgotten, those with one head are merged. MemoryBank (2305.10250,
§2) stores a summary of what happened in each stretch of time. What they share is this writer,
what tells them apart is the settings.
"""

from __future__ import annotations

import re
from collections import defaultdict

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agent.evolution.update.writers.base import (
    Edit,
    Situation,
    Source,
    Written,
    ask,
    chosen_from,
    sentence,
    told,
)
from memory.records import Kind, MemoryItem, Trust

SYSTEM = "You take short notes."
_FACT = re.compile(r"^[\s\-*\d.]*([^:\n]{2,60}):\s*(\S[^\n]{2,300})$", re.MULTILINE)


class FactSettings(BaseModel):
    """What facts are written from, and how.

    Args:
        sources: which episodes.
        per_family: groups of episodes of each family, source and generation.
        batch: episodes in a group of ``batches``.
        ask: what the policy is asked after it was shown the episodes.
        subject: what all facts are about: of the answer the first sentence is taken. It may
            name ``{family}`` and ``{generation}``. "" leaves the subject to the policy.
        merge: so many facts with one head (the subject up to its first comma) are put before
            the policy, to be made into one; null leaves them apart.
        most: facts taken from one answer.
        tokens: most tokens of an answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[Source, ...] = ("successes",)
    per_family: int = Field(2, ge=1)
    batch: int = Field(3, ge=2)
    ask: str = "What is worth remembering? One line: subject: what is so."
    subject: str = ""
    merge: int | None = Field(None, ge=2)
    most: int = Field(2, ge=1)
    tokens: int = Field(48, ge=8)

    @field_validator("subject")
    @classmethod
    def _names_what_is_there(cls, subject: str) -> str:
        try:
            subject.format(family="", generation=0)
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{subject!r} may name {{family}} and {{generation}}, nothing else ({error})"
            ) from None
        return subject


def facts(situation: Situation, settings: FactSettings) -> Written:
    """New facts, and present ones made into one; a line without a subject is none."""
    chosen = chosen_from(situation, settings.sources, settings.per_family, settings.batch)
    questions = {key: f"{told(group)}\n\n{settings.ask}" for key, group in chosen.items()}
    answers = ask(situation, "fact", SYSTEM, questions, settings.tokens)
    items = []
    for key, group in chosen.items():
        for subject, value in _claims(situation, group[0].family, answers[key], settings):
            items.append(
                MemoryItem(
                    kind=Kind.FACT,
                    text=f"{subject}: {value}",
                    key=f"{subject}: {value}",
                    content={"subject": subject.lower(), "value": value},
                    sources=tuple(dict.fromkeys(t.slot for t in group)),
                    tasks=tuple(dict.fromkeys(t.task for t in group)),
                    family=group[0].family,
                    trust=Trust.JUDGED,
                    born=situation.generation,
                )
            )
    return Written(items, _combined(situation, settings) if settings.merge else [])


def _claims(
    situation: Situation, family: str, answer: str, settings: FactSettings
) -> list[tuple[str, str]]:
    """Subject and value of each fact in an answer."""
    if settings.subject:
        said = sentence(answer)
        subject = settings.subject.format(family=family, generation=situation.generation)
        return [(subject, said)] if said else []
    found = _FACT.findall(answer)[: settings.most]
    return [(" ".join(subject.split()), " ".join(value.split())) for subject, value in found]


def _combined(situation: Situation, settings: FactSettings) -> list[Edit]:
    """One line in place of all that is known about a head, where that is much."""
    about: dict[tuple[str, str], list[MemoryItem]] = defaultdict(list)
    for item in situation.known:
        if item.kind is Kind.FACT:
            about[item.family, head(item)].append(item)
    much = {
        f"merge/{own[0].id}": (subject, own)
        for (_, subject), own in about.items()
        if settings.merge is not None and len(own) >= settings.merge
    }
    questions = {
        key: "\n".join(
            [*(f"- {item.text}" for item in own), f"Say all of this in one line, {subject}: …"]
        )
        for key, (subject, own) in much.items()
    }
    answers = ask(situation, "fact", SYSTEM, questions, settings.tokens)
    edits = []
    for key, (subject, own) in much.items():
        claim = _FACT.search(answers[key])
        said = " ".join(claim[2].split()) if claim else sentence(answers[key])
        if said:
            ids = [item.id for item in own]
            content = {"subject": subject, "value": said}
            text = f"{subject}: {said}"
            edits.append(Edit("combine", ids[0], text, (), tuple(ids[1:]), content))
    return edits


def head(item: MemoryItem) -> str:
    """What a fact is about in the first place."""
    return str(item.content.get("subject", "")).partition(",")[0].strip()
