"""The memory at any snapshot, and what changed between two.

A snapshot (`MemorySnapshot`) is stored under its id as the difference from its parent; an
item (`MemoryItem`) is stored under its id. "" is the empty memory.
"""

from __future__ import annotations

from collections.abc import Collection

from memory.ledger import Ledger, LedgerError
from memory.records import MemoryChange, MemoryItem, MemorySnapshot, Status


def state(ledger: Ledger, snapshot_id: str) -> dict[str, MemoryChange]:
    """Item id → its latest change, as of a snapshot, in the order in which items came.

    Raises:
        LedgerError: the snapshot or one of its ancestors is not in the ledger.
    """
    snapshots: list[MemorySnapshot] = []
    wanted = snapshot_id
    while wanted:
        snapshot = ledger.get(MemorySnapshot, wanted)
        if snapshot is None:
            raise LedgerError(f"{ledger.path}: no memory snapshot {wanted!r}")
        snapshots.append(snapshot)
        wanted = snapshot.parent
    return {change.item: change for each in reversed(snapshots) for change in each.changes}


def items(
    ledger: Ledger, snapshot_id: str, statuses: Collection[Status] = (Status.ACTIVE,)
) -> list[MemoryItem]:
    """The items that have one of ``statuses`` in a snapshot, in the order in which they came.

    Raises:
        LedgerError: a snapshot or an item is not in the ledger.
    """
    found: list[MemoryItem] = []
    for change in state(ledger, snapshot_id).values():
        if change.status in statuses:
            item = ledger.get(MemoryItem, change.item)
            if item is None:
                raise LedgerError(f"{ledger.path}: no memory item {change.item!r}")
            found.append(item)
    return found


def diff(ledger: Ledger, a: str, b: str) -> list[MemoryChange]:
    """What turns snapshot ``a`` into snapshot ``b`` (neither need descend from the other).

    An item that is active in ``a`` and unknown in ``b`` is listed as retired.
    """
    before, after = state(ledger, a), state(ledger, b)
    changes = [change for item, change in after.items() if not _same(before.get(item), change)]
    gone = [
        MemoryChange(
            item=item,
            status=Status.RETIRED,
            generation=change.generation,
            reason=f"unknown in {b or 'empty memory'}",
        )
        for item, change in before.items()
        if item not in after and change.status is Status.ACTIVE
    ]
    return changes + gone


def _same(a: MemoryChange | None, b: MemoryChange) -> bool:
    return a is not None and (a.status, set(a.absorbed_by)) == (b.status, set(b.absorbed_by))
