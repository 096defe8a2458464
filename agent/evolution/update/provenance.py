"""Provenance: what is written is trusted as far as where it comes from.

Content cannot be filtered: what a stranger wants said can be said innocently, and filters let
most of it through (arXiv 2605.08442). So influence is decided by origin. What comes from a task
that the suite does not vouch for is untrusted, whoever graded it: it is on trial until vouched
tasks were solved with it. Such tasks prove nothing and edit nothing either, or a stranger could
bring witnesses along (MINJA, arXiv 2503.03704, asks only for tasks).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from agent.evolution.refine import Solution
from agent.evolution.update.writers.base import Written
from memory.records import MemoryItem, Trajectory, Trust

if TYPE_CHECKING:
    from agent.run import Run


def strange(run: Run) -> frozenset[str]:
    """Ids of the train tasks that the suite does not vouch for; none where it says nothing."""
    vouched = getattr(run.suite, "vouched", None)
    if vouched is None:
        return frozenset()
    return frozenset(task.id for task in run.tasks("train") if not vouched(task))


def trainable(solutions: Sequence[Solution], strangers: Collection[str]) -> list[Solution]:
    """Solutions that may change weights: a lesson learnt there can not be put on trial.

    Args:
        solutions: from all tasks.
        strangers: ids of tasks that nobody vouches for.
    """
    return [s for s in solutions if s.trajectory.task not in strangers]


def vouched_for(experience: Sequence[Trajectory], strangers: Collection[str]) -> list[Trajectory]:
    """Trajectories that may change weights: as ``trainable``, failures included."""
    return [t for t in experience if t.task not in strangers]


def by_origin(written: Written, strangers: Collection[str]) -> Written:
    """What was written, with no more trust than its origin allows.

    Args:
        written: by the writers.
        strangers: ids of tasks that nobody vouches for.
    """
    if not strangers:
        return written
    items = [
        MemoryItem.model_validate(item.model_dump() | {"trust": Trust.UNTRUSTED})
        if any(task in strangers for task in item.tasks)
        else item
        for item in written.items
    ]
    # A slot names its task: ``3/acquire/<task>/2``.
    edits = [
        edit
        for edit in written.edits
        if not any(part in strangers for slot in edit.because for part in slot.split("/"))
    ]
    return Written(items, edits)
