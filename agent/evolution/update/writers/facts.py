"""Facts: what the policy says is so, each about a subject, until another supersedes it.

TiM (arXiv 2311.08719) stores thoughts (subject, relation, object) in place of turns, and inserts,
forgets and merges them; MemoryBank (2305.10250) stores summaries of what happened. What they
share is this writer, what tells them apart is the question.
"""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field

from agent.evolution.update.writers.base import Situation, Source, Written, ask, groups, told
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
        most: facts taken from one answer.
        tokens: most tokens of an answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[Source, ...] = ("successes",)
    per_family: int = Field(2, ge=1)
    batch: int = Field(3, ge=2)
    ask: str = "What is worth remembering? One line: subject: what is so."
    most: int = Field(2, ge=1)
    tokens: int = Field(48, ge=8)


def facts(situation: Situation, settings: FactSettings) -> Written:
    """New facts; a line without a subject is none."""
    chosen = {
        f"{source}/{group[0].slot}": group
        for source in settings.sources
        for group in groups(situation, source, settings.per_family, settings.batch)
    }
    questions = {key: f"{told(group)}\n\n{settings.ask}" for key, group in chosen.items()}
    answers = ask(situation, "fact", SYSTEM, questions, settings.tokens)
    items = []
    for key, group in chosen.items():
        for subject, value in _FACT.findall(answers[key])[: settings.most]:
            subject, value = " ".join(subject.split()), " ".join(value.split())
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
    return Written(items, [])
