"""The living items of a snapshot: what recall knows of each without reading it.

A row per item, in order of id, as arrays: some forty bytes an item beside its id.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from memory import history
from memory.ledger import Ledger, LedgerError
from memory.records import Kind, MemoryItem, MemorySnapshot, Status, Trust, standing

KINDS = list(Kind)
TRUSTS = list(Trust)


class Living(NamedTuple):
    """Items that are active or on trial.

    Args:
        ids: in order.
        rows: id → row.
        kinds, trusts: position in `KINDS` and in `TRUSTS` (the lower the more trusted).
        age: generations since an item was last shown or changed.
        utility: as measured.
        shadow: whether an item is on trial.
        absorbed: whether the reading weights do without it.
        share: of all items in the ledger, and so in the index.
    """

    ids: list[str]
    rows: dict[str, int]
    kinds: NDArray[np.uint8]
    trusts: NDArray[np.uint8]
    age: NDArray[np.float64]
    utility: NDArray[np.float64]
    shadow: NDArray[np.bool_]
    absorbed: NDArray[np.bool_]
    share: float

    def of(self, kind: Kind, *, shadow: bool) -> NDArray[np.bool_]:
        """Which rows are of a kind, with or without what is on trial."""
        wanted: NDArray[np.bool_] = self.kinds == KINDS.index(kind)
        return wanted if shadow else wanted & ~self.shadow

    def named(self, rows: NDArray[np.int64]) -> list[str]:
        """The ids of some rows."""
        return [self.ids[row] for row in rows.tolist()]


def living(ledger: Ledger, snapshot_id: str, reader: str) -> Living:
    """The living items of a snapshot as a version of the weights sees them.

    Raises:
        LedgerError: the snapshot or one of its items is not in the ledger.
    """
    changes = {
        id_: change
        for id_, change in sorted(history.state(ledger, snapshot_id).items())
        if change.status in (Status.ACTIVE, Status.SHADOW)
    }
    (now,) = ledger.fields(MemorySnapshot, [snapshot_id], ("generation",)).get(snapshot_id, (0,))
    fields = ledger.fields(MemoryItem, changes, ("kind", "trust"))
    lacking = changes.keys() - fields.keys()
    if lacking:
        raise LedgerError(f"{ledger.path}: no memory item {min(lacking)!r}")
    try:
        kinds = [KINDS.index(fields[id_][0]) for id_ in changes]
        trusts = [TRUSTS.index(fields[id_][1]) for id_ in changes]
    except ValueError as error:
        raise LedgerError(f"{ledger.path}: a memory item's {error}; run verify") from error
    known = list(changes.values())
    return Living(
        ids=list(changes),
        rows={id_: row for row, id_ in enumerate(changes)},
        kinds=np.array(kinds, np.uint8),
        trusts=np.array(trusts, np.uint8),
        age=np.array([max(0, now - max(c.worth.used, c.generation)) for c in known], np.float64),
        utility=np.array([c.worth.utility for c in known], np.float64),
        shadow=np.array([c.status is Status.SHADOW for c in known], np.bool_),
        absorbed=np.array([standing(c, reader) == "absorbed" for c in known], np.bool_),
        share=len(changes) / max(1, len(changes), ledger.count(MemoryItem)),
    )
