"""Exact search in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memory.embed import Vectors
from memory.index.base import DECIMALS, Hits, VectorIndexError, shaped


class BruteForceIndex:
    """Compares with every vector; quick below some 20,000 items, and the oracle in tests."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._ids: list[str] = []
        self._rows: dict[str, int] = {}
        self._matrix = np.zeros((0, dimension), np.float32)  # grows by doubling

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        for id_, vector in zip(ids, shaped(vectors, self.dimension), strict=True):
            row = self._rows.setdefault(id_, len(self._rows))
            if row == len(self._ids):
                self._ids.append(id_)
                if row == len(self._matrix):
                    more = np.zeros((max(64, row), self.dimension), np.float32)
                    self._matrix = np.concatenate([self._matrix, more])
            self._matrix[row] = vector

    def query(self, vectors: Vectors, k: int, seen: dict[str, Vectors] | None = None) -> list[Hits]:
        vectors = shaped(vectors, self.dimension)
        if not self._ids or k < 1:
            return [[] for _ in vectors]
        stored = self._matrix[: len(self._ids)]
        return [self._best(np.round(stored @ vector, DECIMALS), k) for vector in vectors]

    def _best(self, scores: Vectors, k: int) -> Hits:
        if k < len(scores):
            # All that tie with the k-th, so that the order of ids decides between them.
            near = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
        else:
            near = np.arange(len(scores))
        hits = [(self._ids[row], round(float(scores[row]), DECIMALS)) for row in near]
        return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:k]

    def vectors(self, ids: Sequence[str]) -> Vectors:
        missing = [id_ for id_ in ids if id_ not in self._rows]
        if missing:
            raise VectorIndexError(f"the index lacks {len(missing)} items, {missing[0]!r} first")
        return self._matrix[[self._rows[id_] for id_ in ids]]

    def ids(self) -> set[str]:
        return set(self._ids)

    def close(self) -> None:
        pass
