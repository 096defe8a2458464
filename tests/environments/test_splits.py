"""Splits depend on a task's content and on nothing else."""

from collections import Counter

from environments.base import Task
from environments.splits import FRACTIONS, SPLITS, split_of, split_tasks


def task(n: int) -> Task:
    return Task(suite="s", family=f"f{n % 3}", prompt=str(n))


def test_fractions() -> None:
    assert abs(sum(FRACTIONS.values()) - 1) < 1e-9
    counts = Counter(split_of(task(n).id) for n in range(20_000))
    for split in SPLITS:
        assert abs(counts[split] / 20_000 - FRACTIONS[split]) < 0.015, split


def test_the_split_of_a_task_never_changes() -> None:
    # Pinned: another answer here would let old runs' training tasks into new runs' tests.
    assert [split_of(f"{n:016x}") for n in range(8)] == PINNED
    assert split_of(task(1).id) == split_of(task(1).model_copy(update={"data": {}}).id)


def test_split_tasks_keeps_order_and_drops_duplicates() -> None:
    tasks = [task(n) for n in range(100)]
    parts = split_tasks([*tasks, *reversed(tasks)])
    assert list(parts) == list(SPLITS)
    assert [task for part in parts.values() for task in part] == sorted(
        tasks, key=lambda t: (SPLITS.index(split_of(t.id)), int(t.prompt))
    )
    assert all(split_of(t.id) == split for split, part in parts.items() for t in part)


def test_other_tasks_make_no_difference() -> None:
    few, many = split_tasks(map(task, range(10))), split_tasks(map(task, range(1000)))
    assert all(many[split][: len(few[split])] == few[split] for split in SPLITS)


def test_no_tasks() -> None:
    assert split_tasks([]) == {split: [] for split in SPLITS}


PINNED = ["test", "train", "train", "gate", "train", "train", "test", "train"]
