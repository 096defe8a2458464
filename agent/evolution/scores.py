"""Scores of an agent on tasks, and the objective that follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.evolution.objective import learnability
from agent.stats import rate
from environments.base import Task
from memory.records import Score


def score(tasks: Sequence[Task], successes: Sequence[float]) -> Score:
    """Success rate with its interval, stratified by family."""
    return rate(list(successes), [task.family for task in tasks])


def family_rates(tasks: Sequence[Task], successes: Sequence[float]) -> dict[str, float]:
    """Mean success per family."""
    sums: dict[str, list[float]] = {}
    for task, success in zip(tasks, successes, strict=True):
        sums.setdefault(task.family, []).append(success)
    return {family: sum(own) / len(own) for family, own in sorted(sums.items())}


def propose_objective(tasks: Sequence[Task], played: Mapping[str, float]) -> dict[str, float]:
    """Where the next generation should practise.

    Args:
        tasks: every task that was tried.
        played: success by task id; a family none of whose episodes ended is unknown.
    """
    families = sorted({task.family for task in tasks})
    ended = [task for task in tasks if task.id in played]
    return learnability(
        {f: sum(played[t.id] for t in ended if t.family == f) for f in families},
        {f: sum(t.family == f for t in ended) for f in families},
    )
