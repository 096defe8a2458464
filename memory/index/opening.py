"""Opening an index: checked against the ledger, brought up to date, rebuilt in doubt."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import numpy as np

from memory.embed import Embedder
from memory.index.base import Index, VectorIndexError, batches, write
from memory.index.chroma import ChromaIndex
from memory.index.exact import BruteForceIndex
from memory.index.stores import Collections, Folders, Stores, current, fresh_name, lock
from memory.ledger import Ledger
from memory.records import MemoryItem

Backend = Literal["chroma", "chroma-server", "exact"]

_CANARIES, _AFTER_A_CRASH = 200, 2000
_ASTRAY = 0.1  # share of items that a graph loses as it grows (see `_astray`)
_REEMBEDDED = 8
_EXACT = 1e-3  # how far a stored vector's similarity to itself may be from 1
_BATCH = 1000  # texts embedded at a time

_log = logging.getLogger(__name__)


class LedgerKeys(Mapping[str, str]):
    """Id → key text of every memory item in a ledger; an item is read when its key is asked for."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __getitem__(self, id_: str) -> str:
        item = self._ledger.get(MemoryItem, id_)
        if item is None:
            raise KeyError(id_)
        return item.key

    def __iter__(self) -> Iterator[str]:
        return iter(self._ledger.keys(MemoryItem))

    def __len__(self) -> int:
        return self._ledger.count(MemoryItem)


def open_index(
    folder: Path,
    embedder: Embedder,
    items: Mapping[str, str] | Iterable[tuple[str, str]],
    backend: Backend = "chroma",
    url: str | None = None,
    rebuild: bool = False,
) -> Index:
    """Open the index and make sure that it holds just the ledger's items, or rebuild it.

    Items that are missing are embedded and added. Anything else that is off (unknown ids,
    another embedder, damage, vectors that are not found again) leads to a rebuild in a fresh
    store, with a warning that says why; only then is the old one removed. One that was not closed
    in order is tried in a process apart first: a torn graph can crash Chroma's native code. The
    caller holds the `RunLock`.

    Args:
        folder: where the index lives; only what this function made there is ever removed.
        embedder: makes the vectors of items that have to be added.
        items: id → key text of every memory item in the ledger; a mapping (such as `LedgerKeys`)
            is asked for the keys that are needed only.
        backend: ``chroma``, in this process; ``chroma-server``, for several processes: the others
            use `join_index` with the `ChromaIndex.place` of this one; or ``exact``: in memory,
            embedded anew at each opening.
        url: of a Chroma server to use, ``http://HOST:PORT``; without one, ``chroma-server``
            starts its own on the loopback, which ends with the index or with this process.
        rebuild: build it anew, whatever is there.

    Raises:
        VectorIndexError: it cannot be built (a full disk, a read-only folder, no server), or
            another process has it open.
    """
    wanted = items if isinstance(items, Mapping) else dict(items)
    if backend == "exact":
        exact = BruteForceIndex(embedder.dimension)
        _fill(exact, embedder, wanted, list(wanted))
        return exact
    folder = Path(folder)
    try:
        with ExitStack() as held:
            stores, apart = _stores(folder, backend, url, held)
            index = _open(folder, stores, apart, embedder, wanted, rebuild)
            index.keep(held.pop_all())
            return index
    except OSError as error:
        raise VectorIndexError(
            f"{folder}: the memory index cannot be written ({error.strerror}); "
            "check the folder, its permissions and its disk"
        ) from error


def join_index(address: str, embedder: Embedder) -> Index:
    """Use an index that another process opened with the backend ``chroma-server``.

    It is neither checked nor rebuilt: that is for whoever opened it. Any number of processes may
    add and query at a time.

    Args:
        address: ``http://HOST:PORT/COLLECTION``, the other's `ChromaIndex.place`.
        embedder: the same as the other's.

    Raises:
        VectorIndexError: there is no such index, or it is another embedder's.
    """
    return ChromaIndex(address, embedder.identity, embedder.dimension, make=False)


def check_index(
    folder: Path, embedder: Embedder, items: Mapping[str, str] | Iterable[tuple[str, str]]
) -> list[str]:
    """Audit the index against the ledger's items; changes nothing. Empty when all is well.

    The caller holds the `RunLock`.
    """
    wanted = items if isinstance(items, Mapping) else dict(items)
    folder = Path(folder)
    index = None
    try:
        with ExitStack() as held:
            if not folder.is_dir():
                name = None
            else:
                stores, apart = _stores(folder, "chroma", None, held)
                name = current(folder, stores.has)
            if name is None:
                lacking = [f"{folder}: there is no index for {len(wanted)} items"]
                return lacking if len(wanted) else []
            canaries = _CANARIES
            if not stores.closed_in_order(name):
                stores, canaries = apart or stores, _AFTER_A_CRASH
            index = stores.open(name, embedder, len(wanted))
            held.callback(index.close)
            ids, here = list(wanted), index.ids()
            missing = [id_ for id_ in ids if id_ not in here]
            if missing:
                return [f"{folder}: the index lacks {len(missing)} items, {min(missing)!r} first"]
            looked_for = _canaries(ids, canaries)
            lost = _lost(index, looked_for)
            size, astray = stores.bytes(name), _astray(folder)
            faults = _faulty(index, size, embedder, wanted, ids, here, looked_for, lost, astray)
            return [f"{folder}: {fault}" for fault in faults]
    except VectorIndexError as error:
        return [str(error)]


def _stores(
    folder: Path, backend: Backend, url: str | None, held: ExitStack
) -> tuple[Stores, Stores | None]:
    """The backend's stores, and a way to try one in a process apart where this one might crash."""
    folder.mkdir(parents=True, exist_ok=True)
    locked = lock(folder)
    held.push(locked)
    served = Folders(folder, served=True, lock=locked.descriptor)
    if backend == "chroma":
        return Folders(folder, served=False, lock=None), served
    return (served if url is None else Collections(folder, url)), None


def _open(
    folder: Path,
    stores: Stores,
    apart: Stores | None,
    embedder: Embedder,
    wanted: Mapping[str, str],
    rebuild: bool,
) -> ChromaIndex:
    name = None if rebuild else current(folder, stores.has)
    reason = ""
    if name is not None:
        if apart is not None and not stores.closed_in_order(name):
            tried, reason = _reopen(folder, apart, name, embedder, wanted)
            if tried is not None:
                tried.close()
        if not reason:
            index, reason = _reopen(folder, stores, name, embedder, wanted)
            if index is not None:
                stores.sweep(keep=name)
                return index
        _log.warning("%s: rebuilding the memory index: %s", folder, reason)
    name = fresh_name()
    rebuilt = stores.open(name, embedder, len(wanted))
    try:
        _fill(rebuilt, embedder, wanted, list(wanted))
        canaries = _canaries(list(wanted), _CANARIES)
        lost = _lost(rebuilt, canaries)
        rebuilt.compare(lost)
        write(folder / "astray", str(len(lost) / max(1, len(canaries))))
        write(folder / "current", name)
    except BaseException:
        rebuilt.close()
        raise
    stores.sweep(keep=name)
    return rebuilt


def _astray(folder: Path) -> float:
    """The share of items that the graph did not lead to when it was new.

    Where many vectors are equal, they fill each other's lists of neighbours, and no way leads to
    what lies near them: a rebuild would lose as many.
    """
    try:
        return float((folder / "astray").read_text())
    except (OSError, ValueError):
        return 0.0


def _reopen(
    folder: Path, stores: Stores, name: str, embedder: Embedder, wanted: Mapping[str, str]
) -> tuple[ChromaIndex | None, str]:
    """The store of that name, brought up to date; or None and why it is of no use."""
    with ExitStack() as opened:
        try:
            canaries = _CANARIES if stores.closed_in_order(name) else _AFTER_A_CRASH
            index = stores.open(name, embedder, len(wanted))
            opened.callback(index.close)
            ids, here = list(wanted), index.ids()
            _fill(index, embedder, wanted, [id_ for id_ in ids if id_ not in here])
            looked_for = _canaries(ids, canaries)
            lost = _lost(index, looked_for)
            size, astray = stores.bytes(name), _astray(folder)
            faults = list(
                _faulty(index, size, embedder, wanted, ids, here, looked_for, lost, astray)
            )
            if not faults:
                index.compare(lost)
                opened.pop_all()
                return index, ""
            reason = faults[0]
        except VectorIndexError as error:
            reason = str(error)
        try:
            opened.close()
        except VectorIndexError as error:
            _log.warning("%s", error)
    return None, reason


def _faulty(
    index: ChromaIndex,
    size: int,
    embedder: Embedder,
    wanted: Mapping[str, str],
    ids: Sequence[str],
    here: set[str],
    canaries: Sequence[str],
    lost: Sequence[str],
    astray: float,
) -> Iterator[str]:
    """What is wrong with an index that takes ``size`` bytes and holds at least ``ids``.

    Args:
        here: the ids that it held before the missing ones were added.
        canaries, lost: the items that were looked for, and those not found.
        astray: the share of them that was not found when it was new.
    """
    extra = here.difference(ids)
    if extra:
        yield f"it holds {len(extra)} items that the ledger does not, {min(extra)!r} first"
    if size > 2**28 + 40 * len(ids) * embedder.dimension:
        yield f"it takes {size / 2**20:.0f} MiB for {len(ids)} items"
    if len(lost) > max(1, (_ASTRAY + 1.5 * astray) * len(canaries)):  # one is a graph's chance
        yield f"{len(lost)} of {len(canaries)} items are not found by their own vectors"
    again = canaries[:: len(canaries) // _REEMBEDDED + 1]
    if again:
        fresh = embedder.embed([wanted[id_] for id_ in again])
        likeness = np.sum(fresh * index.vectors(again), axis=1)
        if not np.all(likeness > 1 - _EXACT):
            yield "its vectors are not those of its items' keys"


def _canaries(ids: Sequence[str], spread: int) -> list[str]:
    """So many items all over the index, and as many of the newest."""
    older, newest = ids[:-spread], ids[-spread:]
    return [*older[:: len(older) // spread + 1], *newest]


def _lost(index: ChromaIndex, canaries: Sequence[str]) -> list[str]:
    """Those that are not found by their own vectors."""
    found = index.query(index.vectors(canaries), 10)
    return [
        id_
        for id_, hits in zip(canaries, found, strict=True)
        # Items may share a key: then the nearest are all as near as the item itself.
        if not hits or (id_ not in dict(hits) and hits[-1][1] < 1 - _EXACT)
    ]


def _fill(index: Index, embedder: Embedder, items: Mapping[str, str], ids: Sequence[str]) -> None:
    for batch in batches(ids, _BATCH):
        index.add(batch, embedder.embed([items[id_] for id_ in batch]))
