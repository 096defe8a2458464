"""What an index is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from memory.embed import Vectors

Hits = list[tuple[str, float]]

DECIMALS = 5


class VectorIndexError(RuntimeError):
    """The index is damaged, belongs to another embedder, or cannot be reached or written."""


@runtime_checkable
class Index(Protocol):
    """Vectors by id, found by cosine similarity."""

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Store vectors (one row per id); an id that is there already is replaced."""
        ...

    def query(self, vectors: Vectors, k: int, seen: dict[str, Vectors] | None = None) -> list[Hits]:
        """Per row, the ``k`` nearest (id, cosine similarity), best first; fewer if it holds fewer.

        Similarities are rounded to 5 decimals, and equal ones are in order of id, so that
        floating-point noise decides nothing.

        Args:
            vectors: the queries', one row each.
            k: how many.
            seen: is given the vectors of those found, by id, where they cost less with the
                answer than asked for afterwards.
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


def batches(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (ids[i : i + size] for i in range(0, len(ids), size))


def shaped(vectors: Vectors, dimension: int) -> Vectors:
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise ValueError(f"vectors must be of shape (n, {dimension}), not {vectors.shape}")
    return vectors


def write(path: Path, text: str) -> None:
    """Put a text in place whole."""
    draft = path.with_name(path.name + ".new")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
