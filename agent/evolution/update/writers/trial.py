"""Words that are tried before they are taken.

TRAN (arXiv 2310.15746) keeps a rule that it drew from a mistake only if the rule leads to the
right answer of the very task that was failed.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.evolution.update.writers.base import Situation
from agent.loop import Assignment
from memory.records import Kind, MemoryItem


def that_mend(situation: Situation, items: Sequence[MemoryItem]) -> list[MemoryItem]:
    """The items with which the first task that each was made from is solved.

    The trial is a greedy episode with nothing but the item in the prompt. There it is working
    memory of that one task, and what the trial shows is no experience: it is not learnt from.

    Args:
        situation: the run and its weights.
        items: none of them is stored yet.
    """
    run, n = situation.run, situation.generation
    tasks = {task.id: task for task in run.tasks("train")}
    tried = {item.id: item for item in items if item.tasks[0] in tasks}
    notes = {i: item.model_copy(update={"kind": Kind.WORKING}) for i, item in tried.items()}
    run.memory.add(list(notes.values()))
    played = run.episodes(
        f"generation {n} · rules on trial",
        [
            Assignment(
                slot=f"{n}/probe/rule/{i}",
                task=tasks[item.tasks[0]],
                split="train",
                phase="probe",
                carried=(notes[i],),
            )
            for i, item in tried.items()
        ],
        situation.weights,
    )
    solved = {i for i, t in zip(tried, played, strict=True) if t.success}
    return [item for item in items if item.id in solved]
