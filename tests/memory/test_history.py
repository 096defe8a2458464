"""The memory at any snapshot, and what changed between two."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from memory import history
from memory.ledger import Ledger, LedgerError
from memory.records import MemoryChange, MemoryItem, MemorySnapshot, Status


def snapshot(ledger: Ledger, parent: str, generation: int, *changes: MemoryChange) -> str:
    record = MemorySnapshot(parent=parent, generation=generation, changes=changes)
    ledger.append(record.id, record)
    return record.id


def active(item: str, *absorbed_by: str, reason: str = "new") -> MemoryChange:
    return MemoryChange(item=item, status=Status.ACTIVE, absorbed_by=absorbed_by, reason=reason)


def retired(item: str, reason: str = "unused") -> MemoryChange:
    return MemoryChange(item=item, status=Status.RETIRED, reason=reason)


def test_state_is_the_latest_change_of_each_item(ledger: Ledger) -> None:
    first = snapshot(ledger, "", 1, active("a"), active("b"))
    second = snapshot(ledger, first, 2, active("c"), retired("a"))
    third = snapshot(ledger, second, 3, active("b", "w1"), active("a", reason="back"))
    assert history.state(ledger, "") == {}
    assert list(history.state(ledger, first).values()) == [active("a"), active("b")]
    assert history.state(ledger, second) == {"a": retired("a"), "b": active("b"), "c": active("c")}
    assert history.state(ledger, third) == {
        "a": active("a", reason="back"),
        "b": active("b", "w1"),
        "c": active("c"),
    }
    assert list(history.state(ledger, third)) == ["a", "b", "c"]


def test_unknown_snapshot_or_ancestor_is_named(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="no memory snapshot 'nope'"):
        history.state(ledger, "nope")
    orphan = snapshot(ledger, "lost", 2)
    with pytest.raises(LedgerError, match="no memory snapshot 'lost'"):
        history.state(ledger, orphan)


def test_items_by_status(ledger: Ledger, make_item: Callable[..., MemoryItem]) -> None:
    a, b, c = (make_item(text) for text in "abc")
    ledger.append_many([(item.id, item) for item in (c, a, b)])
    first = snapshot(ledger, "", 1, active(a.id), active(b.id), active(c.id))
    second = snapshot(ledger, first, 2, retired(b.id))
    assert history.items(ledger, "") == []
    assert history.items(ledger, first) == [a, b, c]
    assert history.items(ledger, second) == [a, c]
    assert history.items(ledger, second, (Status.RETIRED,)) == [b]
    assert history.items(ledger, second, tuple(Status)) == [a, b, c]
    third = snapshot(ledger, second, 3, active("gone"))
    with pytest.raises(LedgerError, match="no memory item 'gone'"):
        history.items(ledger, third)


def test_diff(ledger: Ledger) -> None:
    first = snapshot(ledger, "", 1, active("a"), active("b"))
    second = snapshot(ledger, first, 2, active("c"), retired("a"), active("b", reason="again"))
    third = snapshot(ledger, second, 3, active("b", "w1"))
    assert history.diff(ledger, "", first) == [active("a"), active("b")]
    assert history.diff(ledger, first, second) == [retired("a"), active("c")]
    assert history.diff(ledger, first, third) == [retired("a"), active("b", "w1"), active("c")]
    assert history.diff(ledger, third, third) == []
    back = history.diff(ledger, third, first)  # a rollback
    assert [(change.item, change.status) for change in back] == [
        ("a", Status.ACTIVE),
        ("b", Status.ACTIVE),
        ("c", Status.RETIRED),
    ]
    gone = history.diff(ledger, third, "")
    assert [(c.item, c.status, c.reason) for c in gone] == [
        (item, Status.RETIRED, "unknown in empty memory") for item in ("b", "c")
    ]


def test_branches_do_not_see_each_other(ledger: Ledger) -> None:
    root = snapshot(ledger, "", 1, active("a"))
    left = snapshot(ledger, root, 2, active("l"))
    right = snapshot(ledger, root, 2, active("r"))
    assert history.state(ledger, left).keys() == {"a", "l"}
    changes = history.diff(ledger, left, right)
    assert [(c.item, c.status) for c in changes] == [("r", Status.ACTIVE), ("l", Status.RETIRED)]
