"""Duplicates go; beyond the budget the least useful; the reader is told why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from pydantic import ValidationError

from memory.consolidate import (
    MemoryBudget,
    Usage,
    consolidate,
    near_identical,
    usage,
    utility,
)
from memory.embed import HashEmbedder
from memory.records import Failure, Kind, MemoryChange, MemoryItem, Status, Trajectory

MakeItem = Callable[..., MemoryItem]
DISTINCT = ["alpha", "bravo bravo", "charlie", "delta x", "echo 12", "foxtrot?", "golf", "hotel!"]


def run(
    old: Sequence[MemoryItem] = (),
    new: Sequence[MemoryItem] = (),
    uses: Mapping[str, Usage] | None = None,
    state: Mapping[str, MemoryChange] | None = None,
    **budget: object,
) -> list[MemoryChange]:
    if state is None:
        state = {item.id: MemoryChange(item=item.id, status=Status.ACTIVE) for item in old}
    both = [*old, *new]
    embedded = HashEmbedder().embed([item.key for item in both])
    vectors = {item.id: vector for item, vector in zip(both, embedded, strict=True)}
    items = {item.id: item for item in old}
    return consolidate(state, items, new, vectors, uses or {}, MemoryBudget.model_validate(budget))


def summary(changes: Sequence[MemoryChange]) -> dict[str, str]:
    assert all(change.reason and "\n" not in change.reason for change in changes)
    assert len({change.item for change in changes}) == len(changes)
    return {change.item: str(change.status) for change in changes}


def test_new_items_become_active(make_item: MakeItem) -> None:
    old, new = make_item("old"), [make_item(text) for text in DISTINCT]
    changes = run([old], new)
    assert summary(changes) == {item.id: "active" for item in new}
    assert changes[0].reason == "new exemplar of gcd"
    assert run([old], []) == []


def test_what_is_known_is_not_new(make_item: MakeItem) -> None:
    a, b = make_item("alpha"), make_item("bravo")
    state = {
        a.id: MemoryChange(item=a.id, status=Status.ACTIVE),
        b.id: MemoryChange(item=b.id, status=Status.RETIRED),
    }
    assert run([a, b], [a, b], state=state) == []  # the retired one does not come back


def test_the_same_new_item_twice_is_one(make_item: MakeItem) -> None:
    item = make_item("alpha")
    assert summary(run([], [item, item])) == {item.id: "active"}


def test_duplicates_keep_the_older(make_item: MakeItem) -> None:
    old = make_item("print(gcd(a, b))", key="gcd of 3 and 6", born=1)
    new = make_item("PRINT(gcd(a,  b))", key="gcd of 3 and 6", born=2, task="t2")
    (change,) = run([old], [new])
    assert (change.item, change.status) == (new.id, Status.RETIRED)
    assert change.reason == f"duplicate of {old.id}"


def test_duplicates_keep_the_better_used(make_item: MakeItem) -> None:
    text = "print(gcd(a, b))"
    a, b, c = (make_item(text, key="gcd", born=i, task=f"t{i}") for i in (1, 2, 3))
    uses = {a.id: Usage(9, 0), b.id: Usage(2, 1), c.id: Usage(0, 0)}
    changes = run([a, b, c], [], uses)
    assert summary(changes) == {a.id: "retired", c.id: "retired"}
    assert {change.reason for change in changes} == {f"duplicate of {b.id}"}


@pytest.mark.parametrize(
    "other",
    [
        {"kind": Kind.REFLECTION},
        {"family": "lcm"},
        {"key": "an entirely different question"},
        {"text": "use Euclid's algorithm by hand instead"},
    ],
)
def test_what_differs_is_no_duplicate(make_item: MakeItem, other: dict[str, object]) -> None:
    fields: dict[str, object] = {"text": "print(gcd(a, b))", "key": "gcd of 3 and 6"}
    a, b = make_item(**fields), make_item(**(fields | other), task="t2")
    assert summary(run([a], [b])) == {b.id: "active"}


def test_budget_retires_the_least_useful(make_item: MakeItem) -> None:
    good, poor, rare, fresh = (make_item(text) for text in DISTINCT[:4])
    uses = {good.id: Usage(20, 18), poor.id: Usage(20, 1), rare.id: Usage(1, 0)}
    changes = run([good, poor, rare], [fresh], uses, items=3)
    assert summary(changes) == {fresh.id: "active", poor.id: "retired"}
    assert "over the budget of 3 items" in changes[1].reason
    assert "1 of 20 uses succeeded" in changes[1].reason
    # One failure says little: a rarely used item outlives a proven failure.
    changes = run([good, poor, rare], [fresh], uses, items=2)
    assert summary(changes) == {fresh.id: "active", poor.id: "retired", rare.id: "retired"}


def test_of_equals_the_newest_goes_first(make_item: MakeItem) -> None:
    old = [make_item(text, born=i) for i, text in enumerate(DISTINCT[:3])]
    new = [make_item(text, born=3) for text in DISTINCT[3:5]]
    changes = run(old, new, items=2)
    assert summary(changes) == {i.id: "retired" for i in (*new, old[2])}
    assert "never used" in changes[0].reason
    same_age = make_item(DISTINCT[5], born=1)  # new now, though as old as old[1]
    assert summary(run(old[:2], [same_age], items=2)) == {same_age.id: "retired"}


def test_budget_per_family(make_item: MakeItem) -> None:
    a = [make_item(text, family="a", born=i) for i, text in enumerate(DISTINCT[:4])]
    b = [make_item(text, family="b", born=9) for text in DISTINCT[4:6]]
    changes = run([*a, *b], [], per_family=2)
    assert summary(changes) == {a[2].id: "retired", a[3].id: "retired"}
    assert "2 items in family a" in changes[0].reason
    changes = run([*a, *b], [], per_family=2, items=3)
    assert len(summary(changes)) == 3 and len({b[0].id, b[1].id} & summary(changes).keys()) == 1


def test_zero_budget_and_order_independence(make_item: MakeItem) -> None:
    items = [make_item(text) for text in DISTINCT]
    assert set(summary(run(items, [], items=0)).values()) == {"retired"}
    forward = summary(run(items[:4], items[4:], items=5))
    backward = summary(run(items[3::-1], items[:3:-1], items=5))
    assert forward == backward


def test_retiring_keeps_what_absorbed_it(make_item: MakeItem) -> None:
    item = make_item("alpha")
    known = MemoryChange(item=item.id, status=Status.ACTIVE, absorbed_by=("w1",))
    (change,) = run([item], [], state={item.id: known}, items=0)
    assert (change.status, change.absorbed_by) == (Status.RETIRED, ("w1",))


def test_missing_vector_or_record_is_named(make_item: MakeItem) -> None:
    item = make_item("alpha")
    state = {item.id: MemoryChange(item=item.id, status=Status.ACTIVE)}
    vector = {item.id: np.ones(1, np.float32)}
    with pytest.raises(ValueError, match=item.id):
        consolidate(state, {item.id: item}, [], {}, {}, MemoryBudget())
    with pytest.raises(ValueError, match=item.id):
        consolidate(state, {}, [], vector, {}, MemoryBudget())
    with pytest.raises(ValueError, match=item.id):
        consolidate({}, {}, [item], {}, {}, MemoryBudget())


def test_utility_is_shrunk_to_the_mean() -> None:
    assert utility(Usage(), 0.3, 4) == pytest.approx(0.3)
    assert utility(Usage(4, 4), 0.5, 4) == pytest.approx(0.75)
    assert utility(Usage(1000, 900), 0.1, 4) == pytest.approx(0.9, abs=0.01)


def test_usage_counts_what_was_recalled() -> None:
    def trajectory(slot: str, recalled: tuple[str, ...], **fields: object) -> Trajectory:
        values: dict[str, object] = {
            "slot": slot, "task": "t", "suite": "s", "family": "f", "split": "train",
            "phase": "acquire", "policy": "base", "recalled": recalled,
        }  # fmt: skip
        return Trajectory.model_validate(values | fields)

    broken = Failure(source="sandbox", message="gone")
    assert usage(
        [
            trajectory("1", ("a", "b"), success=True),
            trajectory("2", ("a",)),
            trajectory("3", ()),
            trajectory("4", ("a", "c"), failure=broken),
        ]
    ) == {"a": Usage(2, 1), "b": Usage(1, 1)}
    assert usage([]) == {}


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("", "", True),
        ("a b", " A\n\tB ", True),
        ("abc", "abd", False),
        ("x" * 99 + "y", "x" * 100, True),
        ("x" * 50, "x" * 100, False),
        ("print(1)", "print(2)", False),
        ("ab" * 50, "ba" * 50, True),
        ("one two three four", "four three two one", False),
    ],
)
def test_near_identical(a: str, b: str, same: bool) -> None:
    assert near_identical(a, b) is same
    assert near_identical(b, a) is same


@pytest.mark.parametrize("fields", [{"items": -1}, {"item": 3}, {"prior": 0}])
def test_budget_is_checked(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        MemoryBudget.model_validate(fields)
