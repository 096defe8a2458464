"""Corrections without a critique: with the answer as a hint, as another draft, by set passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.evolution.correct.base import asked, attempted, draft, drafted, note
from agent.evolution.update.writers.base import Situation
from memory.records import MemoryItem, Trajectory

Notes = dict[str, list[MemoryItem]]

PASSES = (
    ("omission", "What that the task asks for is missing in the attempt?"),
    ("evidence", "For each part of the attempt, quote the words of the task that support it."),
    ("prune", "Which parts of the attempt does nothing in the task support?"),
)


def rationalise(situation: Situation, tries: Sequence[Trajectory], round_: int) -> Notes:
    """The right answer is given as a hint; the policy finds a way to it.

    Source: STaR's rationalisation, arXiv 2203.14465, §3.1. The answer is the suite's own
    (``gold``), and the tasks are train tasks that the suite vouches for. What is then
    right is trained on without the hint; what is not is dropped, as without it.
    """
    gold: Any = getattr(situation.run.suite, "gold", None)
    vouched = situation.run.vouched
    tasks = {task.id: task for task in situation.run.tasks("train") if vouched(task.id)}
    notes: Notes = {}
    for t in tries:
        actions = gold(tasks[t.task]) if t.task in tasks else None
        if actions:
            way = "\n".join(action.text.strip() for action in actions)
            notes[t.slot] = (
                [note(situation, t, "Hint, this is right:"), draft(situation, t, way)]
                if "\n" in way
                else [note(situation, t, f"Hint, this is right: {way}")]
            )
    return notes


def redraft(situation: Situation, tries: Sequence[Trajectory], round_: int) -> Notes:
    """Another draft, with the last one in sight and nothing said of it.

    Source: iterative refinement, arXiv 2306.03856, §3.
    """
    return {
        t.slot: [draft(situation, t), note(situation, t, "The last draft is above. Do better.")]
        for t in tries
    }


def verify_passes(situation: Situation, tries: Sequence[Trajectory], round_: int) -> Notes:
    """One check a round: what is missing, what is supported, what is to be left out.

    Source: clinical self-verification, arXiv 2306.00024, §3 (omission, evidence, prune).
    """
    name, question = PASSES[(round_ - 1) % len(PASSES)]
    questions = {t.slot: f"{attempted(t)}\n\n{question}" for t in tries}
    said = asked(situation, round_, questions, situation.run.config.refine.critique_tokens)
    return drafted(situation, tries, said, f"Check for {name}:")
