"""Insights: rules in the policy's own words, with votes for and against.

ExpeL (arXiv 2308.10144, §4.2): failed and solved attempts of a task, and batches of solved ones,
are put before the policy beside the present rules; it adds, edits, agrees or removes. Which
episodes, what is asked, what may be done to the present rules and what a new one has to pass are
settings, so that TRAN's rules from failures, IML's induced notes, ReasoningBank's strategies and
ACE's playbook are the same writer with other settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

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
from agent.evolution.update.writers.trial import that_mend
from memory.records import Kind, MemoryItem, Trajectory, Trust

SYSTEM = "You write short general rules that help to solve tasks."
REFLECTOR = "You say why attempts at tasks went right or wrong."
Operation = Literal["ADD", "EDIT", "AGREE", "REMOVE"]
_WRITTEN: dict[Operation, str] = {
    "ADD": "ADD: and a new rule",
    "EDIT": "EDIT n: and a better rule n",
    "AGREE": "AGREE n",
    "REMOVE": "REMOVE n",
}
TITLED = (
    "Write lines of this form. Title: a few words. Description: one sentence. "
    "Content: how to go about it, in one sentence."
)
_TITLED = re.compile(
    r"title\W*:\W*(?P<title>[^\n]{2,80}?)\W*(?:\n\s*|\s+)\W*description\W*:\W*"
    r"(?P<says>[^\n]{8,300}?)(?:\s+\W*content\W*:\W*(?P<how>[^\n]{8,300})|$)",
    re.IGNORECASE | re.MULTILINE,
)
_OPERATION = re.compile(  # a new rule may begin with a number that is no rule's
    r"^\W*(ADD|EDIT|AGREE|REMOVE)\b(?:(?<=ADD)(?:\s*\d+\s*:)?|\W*(\d+)?)\W*(.*)$", re.IGNORECASE
)


class InsightSettings(BaseModel):
    """What rules are written from, and how.

    Args:
        sources: which episodes.
        per_family: groups of episodes of each family, source and generation.
        batch: episodes in a group of ``batches``.
        ask: what the policy is asked after it was shown the episodes.
        edit: put the present rules before it, and let it change and vote on them.
        operations: what it may do then; the first is what an answer means that names none.
        lines: how many lines it is asked for.
        known: at most so many of the present rules.
        shared: one list of rules for all families, of which any episode may change any; else
            each family has its own.
        reflect: asked about the episodes first; the answer stands before ``ask``, so that
            finding out what happened and writing rules are two jobs (ACE, arXiv 2510.04618, §3).
            "" leaves it out.
        titled: ask for strategies with a title, a description and a content instead
            (ReasoningBank, arXiv 2509.25140, §3); the present rules are left out.
        most: strategies taken from one answer.
        key: what finds a rule again: the prompt of its task, or its own text.
        mend: a rule is taken only if its task is solved with it (see `trial`).
        together: a mistake that its own rule did not mend is put before the policy once more,
            with others of its family that stayed so, at most so many in all (TRAN, arXiv
            2310.15746, §3); null gives it up. Needs ``mend``.
        tokens: most tokens of an answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[Source, ...] = ("pairs", "batches")
    per_family: int = Field(2, ge=1)
    batch: int = Field(3, ge=2)
    ask: str = "Which general rule would help with such tasks?"
    edit: bool = True
    operations: tuple[Operation, ...] = Field(("ADD", "EDIT", "AGREE", "REMOVE"), min_length=1)
    lines: int = Field(1, ge=1)
    known: int = Field(8, ge=1)
    shared: bool = False
    reflect: str = ""
    titled: bool = False
    most: int = Field(3, ge=1)
    key: Literal["task", "text"] = "task"
    mend: bool = False
    together: int | None = Field(None, ge=2)
    tokens: int = Field(60, ge=8)


def insights(situation: Situation, settings: InsightSettings) -> Written:
    """New rules, and edits of and votes on the present ones."""
    chosen = chosen_from(situation, settings.sources, settings.per_family, settings.batch)
    written = _drawn(situation, settings, chosen)
    if not settings.mend:
        return written
    items = that_mend(situation, written.items)
    if settings.together:
        mended = {item.tasks[0] for item in items}
        left = [group[0] for group in chosen.values() if group[0].task not in mended]
        again = _drawn(situation, settings, _together(left, settings.together))
        items += that_mend(situation, again.items)
    return written._replace(items=items)


def _drawn(
    situation: Situation, settings: InsightSettings, chosen: Mapping[str, Sequence[Trajectory]]
) -> Written:
    """What the policy says of some groups of episodes, by key."""
    written = Written([], [])
    rules = {key: _rules(situation, group[0].family, settings) for key, group in chosen.items()}
    before = {
        key: "\n\n".join([*([_numbered(rules[key])] if rules[key] else []), told(group)])
        for key, group in chosen.items()
    }
    if settings.reflect:
        asked = {key: f"{shown}\n\n{settings.reflect}" for key, shown in before.items()}
        why = ask(situation, "reflected", REFLECTOR, asked, settings.tokens)
        before = {key: f"{shown}\n\n{why[key].strip()}" for key, shown in before.items()}
    questions = {
        key: f"{shown}\n\n{settings.ask}\n\n{_how(settings, bool(rules[key]))}"
        for key, shown in before.items()
    }
    answers = ask(situation, "insight", SYSTEM, questions, settings.tokens)
    for key, group in chosen.items():
        because = tuple(dict.fromkeys(t.slot for t in group))
        if settings.titled:
            for strategy in strategies(answers[key])[: settings.most]:
                title, *says = map(str, strategy.values())
                text = f"{title}: {' '.join(says)}"
                written.items.append(_insight(situation, group, text, settings, strategy))
            continue
        default = settings.operations[0] if rules[key] else "ADD"
        for operation, number, text in operations(answers[key], default):
            if rules[key] and operation not in settings.operations:
                continue
            known = rules[key][number - 1] if 0 < number <= len(rules[key]) else None
            if operation == "AGREE" and known:
                written.edits.append(Edit("agree", known.id, "", because))
            elif operation == "REMOVE" and known:
                written.edits.append(Edit("disagree", known.id, "", because))
            elif operation == "EDIT" and known and text:
                written.edits.append(Edit("revise", known.id, text, because))
            elif operation == "ADD" and text:
                written.items.append(_insight(situation, group, text, settings))
    return written


def _together(mistakes: Sequence[Trajectory], most: int) -> dict[str, tuple[Trajectory, ...]]:
    """Each mistake with others of its family, by key; none that is the only one."""
    groups = {}
    for mistake in mistakes:
        others = [t for t in mistakes if t.family == mistake.family and t is not mistake]
        if others:
            groups[f"together/{mistake.slot}"] = (mistake, *others[: most - 1])
    return groups


def strategies(answer: str) -> list[dict[str, JsonValue]]:
    """Title, description and, where there is one, content of each strategy in an answer."""
    found: list[dict[str, JsonValue]] = []
    for match in _TITLED.finditer(answer):
        says, how = sentence(match["says"]), sentence(match["how"] or "")
        if says:
            strategy: dict[str, JsonValue] = {
                "title": " ".join(match["title"].split()),
                "description": says,
            }
            found.append(strategy | ({"content": how} if how else {}))
    return found


def _how(settings: InsightSettings, rules: bool) -> str:
    """How the policy is to write its answer."""
    if settings.titled:
        return TITLED
    if not settings.edit or (not rules and "ADD" not in settings.operations):
        return "One sentence."
    *most, last = (_WRITTEN[operation] for operation in settings.operations)
    lines = "one line" if settings.lines == 1 else f"at most {settings.lines} lines"
    return f"Answer with {lines}. Write {', '.join([*most, f'or {last}' if most else last])}."


def operations(answer: str, default: str = "ADD") -> Iterator[tuple[str, int, str]]:
    """(operation, number of the rule or 0, text) of every line that names one.

    An answer without any is its first sentence as the default one, of rule 1.
    """
    found = [match.groups() for line in answer.splitlines() if (match := _OPERATION.match(line))]
    if not found:
        found = [(default, None if default == "ADD" else "1", answer)]
    for operation, number, text in found:
        yield operation.upper(), int(number or 0), sentence(text)


def _rules(situation: Situation, family: str, settings: InsightSettings) -> Sequence[MemoryItem]:
    """The present rules that a family's episodes may change, in a stable order.

    None that is untrusted: what the policy writes after it has read one is not its own.
    """
    if not settings.edit or settings.titled:
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


def _insight(
    situation: Situation,
    group: Sequence[Trajectory],
    text: str,
    settings: InsightSettings,
    content: Mapping[str, JsonValue] | None = None,
) -> MemoryItem:
    task_key = situation.keys.get(group[0].task, group[0].prompt)
    return MemoryItem(
        kind=Kind.INSIGHT,
        text=text,
        key=task_key if settings.key == "task" else text,
        content=dict(content or {}),
        sources=tuple(dict.fromkeys(t.slot for t in group)),
        tasks=tuple(dict.fromkeys(t.task for t in group)),
        family="" if settings.shared else group[0].family,
        trust=Trust.JUDGED,
        born=situation.generation,
    )
