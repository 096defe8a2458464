"""Trying a task again with what went wrong so far in mind (Reflexion, arXiv 2303.11366, §3).

The notes are working memory: they are carried from try to try of one task, and nothing else
ever sees them. What is learnt from a success is the episode, without the notes.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.evolution.acquire import TRY
from agent.evolution.feedback.verdicts import seen
from agent.evolution.update.writers.base import Situation
from agent.evolution.update.writers.reflections import carry
from agent.loop import Assignment
from agent.run import Run
from memory.records import Generation, MemoryItem, Trajectory


def retry(
    run: Run,
    n: int,
    incumbent: Generation,
    planned: Sequence[Assignment],
    played: Sequence[Trajectory],
) -> list[Trajectory]:
    """Try again where a task's first sample failed, up to ``acquire.retries`` times.

    A task whose try said nothing worth carrying is tried again with what was carried before.

    Args:
        run: the run.
        n: the generation.
        incumbent: whose weights act and reflect.
        planned: the generation's episodes.
        played: how they went, in the same order.

    Returns:
        The further tries.
    """
    settings = run.config.acquire
    first: dict[str, tuple[Assignment, Trajectory]] = {}
    judged = {t.slot: t for t in seen(run, incumbent.weights, played)}
    for assignment, trajectory in zip(planned, played, strict=True):
        if (t := judged.get(trajectory.slot)) is not None:
            first.setdefault(assignment.task.id, (assignment, t))
    carried: dict[str, tuple[MemoryItem, ...]] = {}
    last = {task: trajectory for task, (_, trajectory) in first.items()}
    tries: list[Trajectory] = []
    for number in range(1, settings.retries + 1):
        failed = [t for t in last.values() if not t.success and t.failure is None and t.steps]
        if not failed:
            break
        situation = Situation(run, n, incumbent.weights, failed, (), {}, ())
        notes = carry(situation, failed, settings.note_tokens) if settings.carried else []
        run.memory.add(notes)
        for note in notes:
            (task,) = note.tasks
            carried[task] = (*carried.get(task, ()), note)[-settings.carried :]
        again = [
            first[t.task][0]._replace(
                slot=f"{first[t.task][0].slot}{TRY}{number}",
                carried=carried.get(t.task, ()),
                withhold=0.0,
            )
            for t in failed
        ]
        label = f"generation {n} · try {number + 1}"
        further = run.episodes(label, again, incumbent.weights)
        tries += further
        last = {t.task: t for t in seen(run, incumbent.weights, further)}
    return tries
