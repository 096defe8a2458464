"""What writers share: what they write from, how they choose episodes, how they ask the policy."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import JsonValue

from agent.evolution.refine import Solution, instructive_failures, refine
from agent.policies.base import Message
from memory.records import Kind, MemoryItem, Step, Trajectory, Trust

if TYPE_CHECKING:
    from agent.run import Run

Source = Literal["successes", "failures", "pairs", "batches"]
"""Which episodes a text is written from: one solved, one failed, a failed and a solved one of
the same task, or several solved ones of a family."""

LONGEST = 600  # characters of an attempt that the policy is shown


class Situation(NamedTuple):
    """What there is to write from.

    Args:
        run: the run, to ask its policy and to try code in its suite's environments.
        generation: that writes.
        weights: version of the weights that are asked.
        recent: the generation's unbroken episodes.
        solutions: what is worth learning of all experience, best first in each family.
        keys: by task id, the text that tasks are looked up by.
        known: the items that the incumbent's memory holds, active and on trial.
    """

    run: Run
    generation: int
    weights: str
    recent: Sequence[Trajectory]
    solutions: Sequence[Solution]
    keys: Mapping[str, str]
    known: Sequence[MemoryItem]


class Edit(NamedTuple):
    """What is to become of an item that is there.

    Args:
        does: ``agree`` and ``disagree`` are votes; ``revise`` replaces its text and is a vote
            for it; ``combine`` puts one text in place of this item and others.
        item: its id.
        text: the new text.
        because: slots of the episodes behind it.
        others: ids of the others.
        content: the parts of what they are combined into.
    """

    does: Literal["agree", "disagree", "revise", "combine"]
    item: str
    text: str
    because: tuple[str, ...]
    others: tuple[str, ...] = ()
    content: Mapping[str, JsonValue] | None = None


class Written(NamedTuple):
    """New items, and what is to become of the present ones."""

    items: list[MemoryItem]
    edits: list[Edit]


def chosen_from(
    situation: Situation, sources: Sequence[Source], per_family: int, batch: int
) -> dict[str, tuple[Trajectory, ...]]:
    """The groups of all sources by a key of their own; for the arguments see `groups`."""
    return {
        f"{source}/{group[0].slot}": group
        for source in sources
        for group in groups(situation, source, per_family, batch)
    }


def groups(
    situation: Situation, source: Source, per_family: int, batch: int
) -> list[tuple[Trajectory, ...]]:
    """Episodes to write from, at most so many groups of each family.

    Args:
        situation: what there is.
        source: which; of a pair the failed one comes first.
        per_family: most groups of a family.
        batch: episodes in a group of ``batches``.
    """
    if source == "pairs":
        return list(instructive_failures(situation.recent, per_family))
    of_family: dict[str, list[tuple[Trajectory, ...]]] = defaultdict(list)
    if source == "failures":
        for task, tries in _by_task(situation.recent).items():
            failed = [t for t in tries if not t.success and t.steps]
            if task and failed:
                of_family[failed[0].family].append((failed[0],))
    else:
        solved: dict[str, list[Trajectory]] = defaultdict(list)
        # Of this generation alone: among those of all, what is new would soon be too few to see.
        for solution in refine(situation.recent, situation.run.config.refine):
            solved[solution.trajectory.family].append(solution.trajectory)
        size = batch if source == "batches" else 1
        for family, own in solved.items():
            chunks = [tuple(own[i : i + size]) for i in range(0, len(own), size)]
            of_family[family] += [c for c in chunks if len(c) == size]
    return [group for own in of_family.values() for group in own[:per_family]]


def _by_task(trajectories: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
    tries: dict[str, list[Trajectory]] = defaultdict(list)
    for t in trajectories:
        tries[t.task].append(t)
    return tries


def transcript(steps: Sequence[Step]) -> str:
    """What was done, with what was seen between; nothing follows the last deed."""
    lines = [line for step in steps for line in (step.text.strip(), step.observation)]
    return "\n".join(lines[:-1])


def attempt(failed: Trajectory) -> tuple[str, str]:
    """What went wrong, and what it gave: the first turn if that failed, else the whole way."""
    steps = failed.steps[:1] if failed.steps[0].error else failed.turns
    return transcript(steps), steps[-1].observation


def told(group: Sequence[Trajectory]) -> str:
    """Attempts as the policy is shown them, each with how it ended."""
    parts = []
    for t in group:
        if t.success:
            parts.append(f"Task: {t.prompt}\nThis attempt was right:\n{transcript(t.turns)}")
        else:
            wrong, gave = attempt(t)
            parts.append(f"Task: {t.prompt}\nThis attempt was wrong:\n{wrong}\nIt gave: {gave}")
    return "\n\n".join(part[:LONGEST] for part in parts)


def ask(
    situation: Situation,
    what: str,
    system: str,
    questions: Mapping[str, str],
    tokens: int,
) -> dict[str, str]:
    """The policy's answers by key; each question is asked once in a run.

    Args:
        situation: who is asked.
        what: the writer's name: in the progress line and the notes' names.
        system: the system prompt.
        questions: by key; slots of what they are about.
        tokens: most tokens of an answer.
    """
    asked = put(situation.generation, what, system, questions)
    label = f"generation {situation.generation} · {what}"
    answers = situation.run.say(label, asked, situation.weights, tokens)
    return dict(zip(questions, answers.values(), strict=True))


def put(
    generation: int, what: str, system: str, questions: Mapping[str, str]
) -> dict[str, Sequence[Message]]:
    """Questions as conversations, in their order, by the names under which answers are noted."""
    return {
        f"said/{generation}/{what}/{key}": [
            {"role": "system", "content": system},
            {"role": "user", "content": question},
        ]
        for key, question in questions.items()
    }


def about(
    t: Trajectory, kind: Kind, text: str, generation: int, trust: Trust = Trust.JUDGED
) -> MemoryItem:
    """What is said of one try, to stand before its own task.

    Args:
        t: the try.
        kind: working memory, or a draft.
        text: what is said.
        generation: that says it.
        trust: who answers for it.
    """
    return MemoryItem(
        kind=kind,
        text=text,
        key=t.prompt,
        sources=(t.slot,),
        tasks=(t.task,),
        family=t.family,
        trust=trust,
        born=generation,
    )


SHORTEST = 8  # characters of a sentence that says something
_NUMBERED = re.compile(r"^\s*\d+[.)]\s+")
_STOP = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)\. ", re.IGNORECASE)


def sentence(text: str) -> str:
    """The first sentence of an answer, without its number in a list; "" where it says nothing."""
    said = " ".join(_NUMBERED.sub("", text).split())
    stop = _STOP.search(said, SHORTEST - 1)  # one before ends nothing that says something
    said = said[: stop.start() + 1] if stop else said
    return said if len(said) >= SHORTEST else ""
