"""The living items that are nearest to a query, from near to far, as far as one cares to look.

Of a kind with few items all are compared with the query, which is exact. Of a larger one the
index proposes some; where too few of them are of use, it is asked for more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memory.embed import Vectors
from memory.index import Hits, Index
from memory.recall.living import Living
from memory.recall.query import RecallSettings
from memory.records import Kind

EXACT = 20_000  # living items of a kind up to which they are compared one by one
_WIDER = 4  # so many times more are looked at where those before did not do

Columns = tuple[NDArray[Any], ...]


class Hit(NamedTuple):
    """A living item by its row; for the rest see `Candidate`."""

    row: int
    similarity: float
    recency: float
    utility: float
    score: float


@dataclass(frozen=True, eq=False)
class Shelf:
    """The living items of a kind.

    Args:
        living, index: all living items, and where their vectors are.
        mask: which of them they are.
        rows: the same by number.
        compared: a vector for each of ``rows`` if they are compared one by one.
    """

    living: Living
    index: Index
    mask: NDArray[np.bool_]
    rows: NDArray[np.int64]
    compared: Vectors | None

    @property
    def visible(self) -> bool:
        """Whether there is one that the reader has not absorbed."""
        return not bool(np.all(self.living.absorbed[self.rows]))

    def vectors(self, rows: Sequence[int]) -> Vectors:
        """The vectors of some rows of the shelf; where they come from the index, of any rows."""
        if self.compared is None:
            return self.index.vectors([self.living.ids[row] for row in rows])
        return self.compared[np.searchsorted(self.rows, rows)]


def shelf(living: Living, index: Index, kind: Kind, *, shadow: bool) -> Shelf:
    """The living items of a kind, with or without those on trial.

    Raises:
        VectorIndexError: an item is not in the index.
    """
    mask = living.of(kind, shadow=shadow)
    rows = np.flatnonzero(mask)
    few = len(rows) <= EXACT
    return Shelf(living, index, mask, rows, index.vectors(living.named(rows)) if few else None)


def nearest(
    shelf: Shelf, vector: Vectors, ask: Callable[[int], Hits], reach: int, settings: RecallSettings
) -> Iterator[list[Hit]]:
    """Hits among a shelf, best first, in growing portions; looks only as far as it is driven.

    Args:
        shelf: where to look.
        vector: the query's.
        ask: so many of the index's nearest items, best first.
        reach: how many to ask the index for at first.
        settings: how near, and what beside nearness counts.
    """
    if shelf.compared is not None:
        # Rounded, so that floating-point noise does not decide between equals.
        exact = np.round((shelf.compared @ vector).astype(np.float64), 5)
        columns = _ranked(shelf.living, shelf.rows, exact, settings)
        start, size = 0, settings.candidates
        while start < len(columns[0]):
            yield _hits(columns, slice(start, start + size))
            start, size = start + size, size * _WIDER
        return
    known: set[int] = set()
    while True:
        found = ask(reach)
        fresh = {}
        for id_, similarity in found:
            row = shelf.living.rows.get(id_)
            if row is not None and shelf.mask[row] and row not in known:
                fresh[row] = similarity
        known |= fresh.keys()
        rows = np.array(sorted(fresh), np.int64)
        similarities = np.array([fresh[row] for row in rows.tolist()], np.float64)
        yield _hits(_ranked(shelf.living, rows, similarities, settings), slice(None))
        if len(found) < reach or found[-1][1] < settings.min_similarity:
            return
        reach *= _WIDER


def _ranked(
    living: Living,
    rows: NDArray[np.int64],
    similarity: NDArray[np.floating[Any]],
    settings: RecallSettings,
) -> Columns:
    """The columns of what is near enough (see `Hit`), best first."""
    near = similarity >= settings.min_similarity
    rows, similarity = rows[near], similarity[near]
    recency = np.round(0.5 ** (living.age[rows] / settings.half_life), 5)
    utility = np.round(living.utility[rows], 5)
    score = similarity + settings.recency * recency + settings.utility * utility
    score = np.round(score, 5)
    best = np.argsort(-score, kind="stable")  # rows, and so equals, are in order of id
    return rows[best], similarity[best], recency[best], utility[best], score[best]


def _hits(columns: Columns, part: slice) -> list[Hit]:
    values = (column[part].tolist() for column in columns)
    return [Hit(*row) for row in zip(*values, strict=True)]
