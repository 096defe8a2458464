"""Which tasks are learnt from, which decide, which test: by the hash of a task's content.

A task is in the same split in every run, on every machine and whatever other tasks there
are, so no run can learn from what another one tests on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol, TypeVar, get_args

from environments.base import Task

Split = Literal["train", "gate", "retention", "test"]

SPLITS: tuple[Split, ...] = get_args(Split)
FRACTIONS: dict[Split, float] = {"train": 0.50, "gate": 0.20, "retention": 0.10, "test": 0.20}


class _OfFamily(Protocol):
    @property
    def family(self) -> str: ...


T = TypeVar("T", bound=_OfFamily)


def split_of(task_id: str) -> Split:
    """The split of a task, by its id."""
    # Hashed again: an id's own digits may be sorted or sampled on elsewhere.
    digest = hashlib.sha256(f"split:{task_id}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    for split in SPLITS:
        point -= FRACTIONS[split]
        if point < 0:
            return split
    return SPLITS[-1]


def split_tasks(tasks: Iterable[Task]) -> dict[Split, list[Task]]:
    """Tasks by split, each once and in the order given."""
    parts: dict[Split, list[Task]] = {split: [] for split in SPLITS}
    for task in {task.id: task for task in tasks}.values():
        parts[split_of(task.id)].append(task)
    return parts


def families_in_turn(tasks: Sequence[T], count: int) -> list[T]:
    """``count`` tasks (or tries of some), as many of each family as can be: the first of each,
    the second, …
    """
    seen: dict[str, int] = {}
    order = []
    for position, task in enumerate(tasks):
        seen[task.family] = seen.get(task.family, 0) + 1
        order.append((seen[task.family], position))
    return [tasks[position] for _, position in sorted(order)[:count]]


def first_of_each_family(tasks: Iterable[Task], count: int) -> list[Task]:
    """At most ``count`` tasks of each family, the first ones, in the order given."""
    taken: dict[str, int] = {}
    first = []
    for task in tasks:
        taken[task.family] = taken.get(task.family, 0) + 1
        if taken[task.family] <= count:
            first.append(task)
    return first
