"""A vector index over memory items' keys. Never the truth: rebuilt from the ledger in doubt."""

from __future__ import annotations

import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from memory.embed import Embedder, Vectors

Hits = list[tuple[str, float]]

_BATCH = 500  # Chroma refuses batches above some 5,000, and single additions are slow
_CANARIES = 200
_DECIMALS = 5
_REEMBEDDED = 8
_EXACT = 1e-3  # how far a stored vector's similarity to itself may be from 1

_log = logging.getLogger(__name__)


class VectorIndexError(RuntimeError):
    """The index is damaged, belongs to another embedder, or cannot be written."""


@runtime_checkable
class Index(Protocol):
    """Vectors by id, found by cosine similarity."""

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Store vectors (one row per id); an id that is there already is replaced."""
        ...

    def query(self, vectors: Vectors, k: int) -> list[Hits]:
        """Per row, the ``k`` nearest (id, cosine similarity), best first; fewer if it holds fewer.

        Similarities are rounded to 5 decimals, and equal ones are in order of id, so that
        floating-point noise decides nothing.
        """
        ...

    def vectors(self, ids: Sequence[str]) -> Vectors:
        """The stored vectors, one row per id, in that order.

        Raises:
            VectorIndexError: an id is not in the index.
        """
        ...

    def ids(self) -> set[str]:
        """All ids."""
        ...

    def close(self) -> None:
        """Release everything; safe to call twice."""
        ...


class BruteForceIndex:
    """Exact search in memory; quick below some 20,000 items, and the oracle in tests."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._vectors: dict[str, Vectors] = {}

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        for id_, vector in zip(ids, _shaped(vectors, self.dimension), strict=True):
            self._vectors[id_] = vector

    def query(self, vectors: Vectors, k: int) -> list[Hits]:
        vectors = _shaped(vectors, self.dimension)
        ids = sorted(self._vectors)
        if not ids or k < 1:
            return [[] for _ in vectors]
        scores = np.round(vectors @ self.vectors(ids).T, _DECIMALS)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return [
            [(ids[i], round(float(row[i]), _DECIMALS)) for i in order]
            for row, order in zip(scores, best, strict=True)
        ]

    def vectors(self, ids: Sequence[str]) -> Vectors:
        missing = [id_ for id_ in ids if id_ not in self._vectors]
        if missing:
            raise VectorIndexError(f"the index lacks {len(missing)} items, {missing[0]!r} first")
        if not ids:
            return np.zeros((0, self.dimension), np.float32)
        return np.stack([self._vectors[id_] for id_ in ids])

    def ids(self) -> set[str]:
        return set(self._vectors)

    def close(self) -> None:
        pass


class ChromaIndex:
    """A Chroma collection in a folder of its own, for one embedder.

    Chroma is safe for threads, not for processes: whoever opens it holds the `RunLock`.

    Args:
        folder: Chroma's folder; made if it is missing.
        identity, dimension: of the embedder; an existing collection must have the same.

    Raises:
        VectorIndexError: from any method, when Chroma fails; at once, when the collection is
            another embedder's.
    """

    def __init__(self, folder: Path, identity: str, dimension: int) -> None:
        import chromadb
        from chromadb.config import Settings
        from chromadb.errors import NotFoundError

        self.folder = Path(folder)
        self.dimension = dimension
        self._client: Any = None
        metadata: dict[str, str | int | float] = {"identity": identity, "dimension": dimension}
        with _faults(self.folder):
            self._client = chromadb.PersistentClient(
                str(self.folder.absolute()), settings=Settings(anonymized_telemetry=False)
            )
            try:
                self._collection = self._client.get_collection("memory", embedding_function=None)
            except NotFoundError:
                self._collection = self._client.create_collection(
                    "memory",
                    embedding_function=None,
                    metadata=metadata,
                    configuration={
                        # One thread: the graph, and so what it finds, is the same each time.
                        "hnsw": {
                            "space": "cosine",
                            "ef_construction": 200,
                            "ef_search": 200,
                            "max_neighbors": 32,
                            "num_threads": 1,
                        }
                    },
                )
            stored = dict(self._collection.metadata or {})
        if stored != metadata:
            self.close()
            raise VectorIndexError(
                f"{self.folder}: made by another embedder ({stored.get('identity')})"
            )

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        rows = dict(zip(ids, _shaped(vectors, self.dimension), strict=True))  # no id twice a batch
        with _faults(self.folder):
            for batch in _batches(list(rows)):
                self._collection.upsert(ids=batch, embeddings=[rows[id_] for id_ in batch])

    def query(self, vectors: Vectors, k: int) -> list[Hits]:
        vectors = _shaped(vectors, self.dimension)
        if not len(vectors) or k < 1:
            return [[] for _ in vectors]
        with _faults(self.folder):
            found = self._collection.query(
                query_embeddings=vectors, n_results=k, include=["distances"]
            )
            return [
                sorted(
                    ((i, round(1 - d, _DECIMALS)) for i, d in zip(ids, distances, strict=True)),
                    key=lambda hit: (-hit[1], hit[0]),
                )
                for ids, distances in zip(found["ids"], found["distances"], strict=True)
            ]

    def vectors(self, ids: Sequence[str]) -> Vectors:
        rows: dict[str, Vectors] = {}
        with _faults(self.folder):
            for batch in _batches(list(dict.fromkeys(ids))):
                found = self._collection.get(ids=batch, include=["embeddings"])
                rows.update(zip(found["ids"], found["embeddings"], strict=True))
        missing = [id_ for id_ in ids if id_ not in rows]
        if missing:
            raise VectorIndexError(
                f"{self.folder}: the index lacks {len(missing)} items, {missing[0]!r} first"
            )
        if not ids:
            return np.zeros((0, self.dimension), np.float32)
        return _shaped(np.stack([rows[id_] for id_ in ids]), self.dimension)

    def ids(self) -> set[str]:
        with _faults(self.folder):
            return set(self._collection.get(include=[])["ids"])

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with _faults(self.folder):
                client.close()


def open_index(
    folder: Path,
    embedder: Embedder,
    items: Iterable[tuple[str, str]],
    backend: Literal["chroma", "exact"] = "chroma",
) -> Index:
    """Open the index and make sure that it holds just the ledger's items, or rebuild it.

    Items that are missing are embedded and added. Anything else that is off (unknown ids,
    another embedder, damage, vectors that are not found again, a process that died while
    opening it) leads to a rebuild in a fresh folder, with a warning that says why; only then
    is the old one removed. The caller holds the `RunLock`.

    Args:
        folder: where the index lives; only what this function made there is ever removed.
        embedder: makes the vectors of items that have to be added.
        items: (id, key text) of every memory item in the ledger.
        backend: ``chroma``, or ``exact``: in memory, embedded anew at each opening.

    Raises:
        VectorIndexError: it cannot be built (a full disk, a read-only folder).
    """
    wanted = dict(items)
    if backend == "exact":
        exact = BruteForceIndex(embedder.dimension)
        _fill(exact, embedder, wanted)
        return exact
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        store = _current(folder)
        opening = folder / "opening"
        if store is None:
            reason = ""
        elif opening.exists():
            # Damage can crash Chroma's native code and with it the process: not twice.
            reason = "the last attempt to open it did not end"
        else:
            opening.touch()
            try:
                index, reason = _reopen(store, embedder, wanted)
            finally:
                opening.unlink()
            if index is not None:
                _sweep(folder, keep=store)
                return index
        if reason:
            _log.warning("%s: rebuilding the memory index: %s", folder, reason)
        store = folder / f"chroma-{uuid.uuid4().hex[:12]}"  # Chroma caches state by path
        rebuilt = ChromaIndex(store, embedder.identity, embedder.dimension)
        try:
            _fill(rebuilt, embedder, wanted)
            _point_to(folder, store)
        except BaseException:
            rebuilt.close()
            raise
        opening.unlink(missing_ok=True)
        _sweep(folder, keep=store)
        return rebuilt
    except OSError as error:
        raise VectorIndexError(
            f"{folder}: the memory index cannot be written ({error.strerror}); "
            "check the folder, its permissions and its disk"
        ) from error


def check_index(folder: Path, embedder: Embedder, items: Iterable[tuple[str, str]]) -> list[str]:
    """Audit the index against the ledger's items; changes nothing. Empty when all is well.

    The caller holds the `RunLock`.
    """
    wanted = dict(items)
    store = _current(Path(folder))
    if store is None:
        return [f"{folder}: there is no index for {len(wanted)} items"] if wanted else []
    index = None
    try:
        index = ChromaIndex(store, embedder.identity, embedder.dimension)
        missing = wanted.keys() - index.ids()
        if missing:
            return [f"{folder}: the index lacks {len(missing)} items, {min(missing)!r} first"]
        return [f"{folder}: {fault}" for fault in _faulty(index, store, embedder, wanted)]
    except VectorIndexError as error:
        return [str(error)]
    finally:
        if index is not None:
            index.close()


def _reopen(
    store: Path, embedder: Embedder, wanted: Mapping[str, str]
) -> tuple[ChromaIndex | None, str]:
    """The index in ``store``, brought up to date; or None and why it is of no use."""
    index = None
    try:
        index = ChromaIndex(store, embedder.identity, embedder.dimension)
        here = index.ids()
        _fill(index, embedder, {id_: key for id_, key in wanted.items() if id_ not in here})
        faults = list(_faulty(index, store, embedder, wanted))
        if not faults:
            return index, ""
        reason = faults[0]
    except VectorIndexError as error:
        reason = str(error)
    if index is not None:
        try:
            index.close()
        except VectorIndexError as error:
            _log.warning("%s", error)
    return None, reason


def _faulty(
    index: ChromaIndex, store: Path, embedder: Embedder, wanted: Mapping[str, str]
) -> Iterator[str]:
    """What is wrong with an index that holds at least the wanted items."""
    extra = index.ids() - wanted.keys()
    if extra:
        yield f"it holds {len(extra)} items that the ledger does not, {min(extra)!r} first"
    size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    if size > 2**28 + 40 * len(wanted) * embedder.dimension:
        yield f"it takes {size / 2**20:.0f} MiB for {len(wanted)} items"
    ids = sorted(wanted)
    canaries = ids[:: len(ids) // _CANARIES + 1]
    vectors = index.vectors(canaries)
    found = index.query(vectors, 10)
    lost = [
        id_
        for id_, hits in zip(canaries, found, strict=True)
        # Items may share a key: then the nearest are all as near as the item itself.
        if not hits or (id_ not in dict(hits) and hits[-1][1] < 1 - _EXACT)
    ]
    if lost:
        yield f"{len(lost)} of {len(canaries)} items are not found by their own vectors"
    again = canaries[:: len(canaries) // _REEMBEDDED + 1]
    fresh = embedder.embed([wanted[id_] for id_ in again]) if again else vectors[:0]
    likeness = np.sum(fresh * index.vectors(again), axis=1)
    if not np.all(likeness > 1 - _EXACT):
        yield "its vectors are not those of its items' keys"


def _fill(index: Index, embedder: Embedder, items: Mapping[str, str]) -> None:
    for batch in _batches(list(items)):
        index.add(batch, embedder.embed([items[id_] for id_ in batch]))


def _current(folder: Path) -> Path | None:
    """The folder of the last index that was completed, or None."""
    try:
        name = (folder / "current").read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    store = folder / name
    return store if re.fullmatch(r"chroma-[0-9a-f]{12}", name) and store.is_dir() else None


def _point_to(folder: Path, store: Path) -> None:
    draft = folder / "current.new"
    with draft.open("w") as file:
        file.write(store.name)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / "current")


def _sweep(folder: Path, keep: Path) -> None:
    """Remove earlier and unfinished indices."""
    for path in folder.glob("chroma-*"):
        if path != keep and re.fullmatch(r"chroma-[0-9a-f]{12}", path.name):
            shutil.rmtree(path, ignore_errors=True)


def _batches(ids: list[str]) -> Iterator[list[str]]:
    return (ids[i : i + _BATCH] for i in range(0, len(ids), _BATCH))


def _shaped(vectors: Vectors, dimension: int) -> Vectors:
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise ValueError(f"vectors must be of shape (n, {dimension}), not {vectors.shape}")
    return vectors


@contextmanager
def _faults(folder: Path) -> Iterator[None]:
    """Turn whatever Chroma raises into one line.

    A damaged folder may raise anything, down to the native code's PanicException, which is
    no Exception.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        line = (str(error).splitlines() or [""])[0]
        raise VectorIndexError(f"{folder}: Chroma: {type(error).__name__}: {line}") from error
