"""Vectors in a Chroma collection: in a folder, or behind a server."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from memory.embed import Vectors
from memory.index.base import DECIMALS, Hits, VectorIndexError, batches, shaped

COLLECTION = "memory"
REQUEST_TIMEOUT_S = 300.0  # of a server that hangs; the client itself would wait for ever

# Chroma refuses batches above 5,461 and is quickest with the largest; vectors travel to a server
# as JSON, some 20 bytes a number.
_BATCH, _BATCH_SENT = 5000, 1000
_TRIES, _PAUSE_S = 20, 0.05
_ADDRESS = re.compile(r"(https?)://([^/:]+|\[[^/]+\])(?::(\d+))?/([\w.-]+)")
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class ChromaIndex:
    """A Chroma collection for one embedder.

    A folder is safe for threads, not for processes: two that have it open lose vectors (see
    `open_index`, which holds a lock). A server may have many clients.

    Args:
        place: a folder of Chroma's own, made if it is missing; or a collection's address,
            ``http://HOST:PORT/COLLECTION``.
        identity, dimension: of the embedder; an existing collection must have the same.
        size: how many items are expected, if that is known.
        make: whether to make the collection if it is missing.
        died: says in one line that the server behind the address is gone; "" while it lives.

    Raises:
        VectorIndexError: from any method, when Chroma fails; at once, when the collection is
            another embedder's.
    """

    def __init__(
        self,
        place: Path | str,
        identity: str,
        dimension: int,
        *,
        size: int = 0,
        make: bool = True,
        died: Callable[[], str] = str,
    ) -> None:
        from chromadb.errors import NotFoundError

        self.place = place
        self.dimension = dimension
        self.failed = False  # whether Chroma ever did
        self._died = died
        self._strays: dict[str, Vectors] = {}
        self._batch = _BATCH if isinstance(place, Path) else _BATCH_SENT
        self._resources = ExitStack()
        metadata: dict[str, str | int | float] = {"identity": identity, "dimension": dimension}
        try:
            with self._faults():
                client, name = connect(place)
                self._resources.callback(client.close)
                try:
                    self._collection = client.get_collection(name, embedding_function=None)
                except NotFoundError:
                    if not make:
                        raise
                    self._collection = client.create_collection(
                        name,
                        embedding_function=None,
                        metadata=metadata,
                        configuration={"hnsw": graph(size)},
                    )
                stored = dict(self._collection.metadata or {})
            if stored != metadata:
                raise VectorIndexError(
                    f"{place}: made by another embedder ({stored.get('identity')})"
                )
        except BaseException:
            self.close()
            raise

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        vectors = shaped(vectors, self.dimension)
        rows = dict(zip(ids, range(len(vectors)), strict=True))  # no id twice a batch
        with self._faults():
            for batch in batches(list(rows), self._batch):
                own = vectors[[rows[id_] for id_ in batch]]
                self._collection.upsert(ids=list(batch), embeddings=own)

    def query(self, vectors: Vectors, k: int, seen: dict[str, Vectors] | None = None) -> list[Hits]:
        vectors = shaped(vectors, self.dimension)
        if not len(vectors) or k < 1:
            return [[] for _ in vectors]
        include = ["distances"]
        if seen is not None and isinstance(self.place, Path):  # a server would send them as text
            include.append("embeddings")
        with self._faults():
            found = _patiently(
                lambda: self._collection.query(
                    query_embeddings=vectors, n_results=k, include=include
                )
            )
        if seen is not None:
            seen |= self._strays
            for ids, rows in zip(found["ids"], found["embeddings"] or (), strict=False):
                seen.update(zip(ids, np.asarray(rows, np.float32), strict=True))
        return [
            self._best(vector, zip(ids, distances, strict=True), k)
            for vector, ids, distances in zip(
                vectors, found["ids"], found["distances"], strict=True
            )
        ]

    def _best(self, vector: Vectors, found: Iterable[tuple[str, float]], k: int) -> Hits:
        near = {id_: 1 - distance for id_, distance in found}
        near |= {id_: float(own @ vector) for id_, own in self._strays.items()}
        hits = ((id_, round(similarity, DECIMALS)) for id_, similarity in near.items())
        return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:k]

    def compare(self, ids: Sequence[str]) -> None:
        """Compare these with every query from now on, whether the graph leads to them or not.

        It does not lead to all: one among many that are all nearest to the same few may have no
        neighbour that leads back to it.
        """
        self._strays |= dict(zip(ids, self.vectors(ids), strict=True))

    def vectors(self, ids: Sequence[str]) -> Vectors:
        rows: dict[str, Vectors] = {}
        with self._faults():
            for batch in batches(list(dict.fromkeys(ids)), self._batch):
                found = self._collection.get(ids=list(batch), include=["embeddings"])
                embeddings = np.asarray(found["embeddings"], np.float32)  # halves what is held
                rows.update(zip(found["ids"], embeddings, strict=True))
        missing = [id_ for id_ in ids if id_ not in rows]
        if missing:
            raise VectorIndexError(
                f"{self.place}: the index lacks {len(missing)} items, {missing[0]!r} first"
            )
        if not ids:
            return np.zeros((0, self.dimension), np.float32)
        return shaped(np.stack([rows[id_] for id_ in ids]), self.dimension)

    def ids(self) -> set[str]:
        with self._faults():
            return set(self._collection.get(include=[])["ids"])

    def keep(self, resources: ExitStack) -> None:
        """Release these as well when closed, after the client (a lock, a server)."""
        before = self._resources.pop_all()
        self._resources.push(resources)
        self._resources.push(before)

    def close(self) -> None:
        with self._faults():
            self._resources.close()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn whatever Chroma raises into one line.

        A damaged folder may raise anything, down to the native code's PanicException, which is
        no Exception.
        """
        try:
            yield
        except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, VectorIndexError):
            raise
        except BaseException as error:
            self.failed = True
            line = (str(error).splitlines() or [""])[0]
            said = self._died() or f"Chroma: {type(error).__name__}: {line}"
            raise VectorIndexError(f"{self.place}: {said}") from error


def graph(size: int) -> dict[str, Any]:
    """The graph's settings for some number of items.

    Many neighbours find what few miss, and cost less than a long search while building: of
    12,000 random vectors, the hardest case, 0.89 of the true ten with 32 neighbours and
    ``ef_construction`` 100; 0.90 with 200, which takes half as long again; 0.67 with 16.
    """
    return {
        "space": "cosine",
        "ef_construction": 100,
        "ef_search": 200,
        "max_neighbors": 32,
        "num_threads": 1,  # the graph, and so what it finds, is the same each time
        # What is not yet in the graph's files is added again at each opening. Each writing of the
        # files writes all ids, so a large index does it more rarely.
        "sync_threshold": min(10_000, max(1000, size // 20)),
    }


def connect(place: Path | str) -> tuple[Any, str]:
    """A Chroma client for a folder or a collection's address, and the collection's name."""
    import chromadb
    from chromadb.config import Settings

    settings = Settings(anonymized_telemetry=False)
    if isinstance(place, Path):
        return chromadb.PersistentClient(str(place.absolute()), settings=settings), COLLECTION
    parts = _ADDRESS.fullmatch(place)
    if parts is None:
        raise VectorIndexError(f"{place}: no address of the form http://HOST:PORT/COLLECTION")
    scheme, host, port, name = parts.groups()
    secure = scheme == "https"
    with _directly() if host in _LOOPBACK else nullcontext():
        client: Any = chromadb.HttpClient(
            host, int(port or (443 if secure else 80)), ssl=secure, settings=settings
        )
    client._server._session.timeout = REQUEST_TIMEOUT_S
    return client, name


def _patiently(read: Callable[[], Any]) -> Any:
    """Read again when another client's first addition is just on its way into the graph.

    Chroma then says for a moment that there is no graph at all (chroma-core/chroma#4212).
    """
    for _ in range(_TRIES):
        try:
            return read()
        except Exception as error:
            if "Nothing found on disk" not in str(error):
                raise
        time.sleep(_PAUSE_S)
    return read()


@contextmanager
def _directly() -> Iterator[None]:
    """A client made meanwhile uses no proxy, whatever the environment says."""
    before = os.environ.get("no_proxy")
    os.environ["no_proxy"] = "*"
    try:
        yield
    finally:
        if before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = before
