"""One agent on given tasks: greedy episodes, each run once however often it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from agent.loop import Assignment
from agent.run import Run
from environments.base import Task
from environments.splits import Split
from memory.records import Trajectory


def measure(
    run: Run,
    label: str,
    split: Split,
    memory: str,
    weights: str,
    tasks: Sequence[Task] | None = None,
) -> list[float]:
    """Success (0 or 1) of one agent on each task of a split, greedily; run once per agent."""
    tasks = run.tasks(split) if tasks is None else tasks
    return [float(t.success) for t in play(run, label, split, memory, weights, tasks)]


def play(
    run: Run,
    label: str,
    split: Split,
    memory: str,
    weights: str,
    tasks: Sequence[Task],
    probe: int | None = None,
) -> list[Trajectory]:
    """One greedy episode per task by one agent (for a generation's probe, if one is given)."""
    recalls = run.recall(tasks, memory, weights)
    phase = split if probe is None else "probe"
    place = split if probe is None else f"{probe}/probe"
    assignments = [
        Assignment(
            slot=f"{place}/{arm(memory, weights)}/{task.id}",
            task=task,
            split=split,
            phase=phase,
            memory=memory,
            recall=recalls.get(task.id),
        )
        for task in tasks
    ]
    return run.episodes(label, assignments, weights)


def arm(memory: str, weights: str) -> str:
    """Name of an agent in slots: its memory and its weights."""
    return f"{memory or 'none'}+{weights}"
