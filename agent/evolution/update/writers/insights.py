"""Insights: rules in the policy's own words, with votes for and against.

ExpeL (arXiv 2308.10144, §4.2): failed and solved attempts of a task, and batches of solved ones,
are put before the policy beside the present rules; it adds, edits, agrees or removes. Which
episodes, what is asked and whether the present rules may be changed are settings, so that TRAN's
rules from failures, IML's induced notes, ReasoningBank's strategies and ACE's playbook are the
same writer with other words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict, Field

from agent.evolution.update.writers.base import (
    Edit,
    Situation,
    Source,
    Written,
    ask,
    groups,
    sentence,
    told,
)
from memory.records import Kind, MemoryItem, Trajectory, Trust

SYSTEM = "You write short general rules that help to solve tasks."
OPERATIONS = (
    "Answer with one line. Write ADD: and a new rule, EDIT n: and a better rule n, "
    "AGREE n, or REMOVE n."
)
_OPERATION = re.compile(r"^\W*(ADD|EDIT|AGREE|REMOVE)\b\W*(\d+)?\W*(.*)$", re.IGNORECASE)


class InsightSettings(BaseModel):
    """What rules are written from, and how.

    Args:
        sources: which episodes.
        per_family: groups of episodes of each family, source and generation.
        batch: episodes in a group of ``batches``.
        ask: what the policy is asked after it was shown the episodes.
        edit: put the present rules before it, and let it change and vote on them.
        known: at most so many of them.
        tokens: most tokens of an answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[Source, ...] = ("pairs", "batches")
    per_family: int = Field(2, ge=1)
    batch: int = Field(3, ge=2)
    ask: str = "Which general rule would help with such tasks?"
    edit: bool = True
    known: int = Field(8, ge=1)
    tokens: int = Field(60, ge=8)


def insights(situation: Situation, settings: InsightSettings) -> Written:
    """New rules, and edits of and votes on the present ones."""
    written = Written([], [])
    chosen = {
        f"{source}/{group[0].slot}": group
        for source in settings.sources
        for group in groups(situation, source, settings.per_family, settings.batch)
    }
    rules = {key: _rules(situation, group[0].family, settings) for key, group in chosen.items()}
    questions = {
        key: "\n\n".join(
            [
                *([_numbered(rules[key])] if rules[key] else []),
                told(group),
                settings.ask,
                *([OPERATIONS] if settings.edit else ["One sentence."]),
            ]
        )
        for key, group in chosen.items()
    }
    answers = ask(situation, "insight", SYSTEM, questions, settings.tokens)
    for key, group in chosen.items():
        because = tuple(dict.fromkeys(t.slot for t in group))
        for operation, number, text in operations(answers[key]):
            known = rules[key][number - 1] if 0 < number <= len(rules[key]) else None
            if operation == "AGREE" and known:
                written.edits.append(Edit("agree", known.id, "", because))
            elif operation == "REMOVE" and known:
                written.edits.append(Edit("disagree", known.id, "", because))
            elif operation == "EDIT" and known and text:
                written.edits.append(Edit("revise", known.id, text, because))
            elif operation == "ADD" and text:
                written.items.append(_insight(situation, group, text))
    return written


def operations(answer: str) -> Iterator[tuple[str, int, str]]:
    """(operation, number of the rule or 0, text) of every line that names one.

    An answer without any adds its first sentence.
    """
    found = [match.groups() for line in answer.splitlines() if (match := _OPERATION.match(line))]
    if not found:
        found = [("ADD", None, answer)]
    for operation, number, text in found:
        yield operation.upper(), int(number or 0), sentence(text)


def _rules(situation: Situation, family: str, settings: InsightSettings) -> Sequence[MemoryItem]:
    """The present rules that a family's episodes may change, in a stable order.

    None that is untrusted: what the policy writes after it has read one is not its own.
    """
    if not settings.edit:
        return []
    own = [
        item
        for item in situation.known
        if item.kind is Kind.INSIGHT
        and item.family in (family, "")
        and item.trust is not Trust.UNTRUSTED
    ]
    return own[: settings.known]


def _numbered(rules: Sequence[MemoryItem]) -> str:
    return "Rules:\n" + "\n".join(f"{n}. {rule.text}" for n, rule in enumerate(rules, 1))


def _insight(situation: Situation, group: Sequence[Trajectory], text: str) -> MemoryItem:
    return MemoryItem(
        kind=Kind.INSIGHT,
        text=text,
        key=situation.keys.get(group[0].task, group[0].prompt),
        sources=tuple(dict.fromkeys(t.slot for t in group)),
        tasks=tuple(dict.fromkeys(t.task for t in group)),
        family=group[0].family,
        trust=Trust.JUDGED,
        born=situation.generation,
    )
