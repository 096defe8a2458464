"""What to retrieve for a task, and the record of why."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from heapq import nsmallest
from itertools import islice
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from memory.embed import Embedder, Vectors
from memory.frame import shown
from memory.index import Hits, Index
from memory.ledger import Ledger, LedgerError
from memory.recall.choice import Competitor, choose
from memory.recall.clusters import clusters
from memory.recall.living import TRUSTS, living
from memory.recall.nearest import Hit, Shelf, nearest, shelf
from memory.recall.query import Query, RecallSettings
from memory.records import Candidate, Kind, MemoryItem, Recollection

_READ = 16  # items read from the ledger at a time
_CACHED = 4096  # items kept in memory
_LISTED = 16  # candidates in a record
_QUERY = 1000  # characters of the query in a record


class Recall(NamedTuple):
    """What was recalled.

    Args:
        items: what to show, in order of choice.
        recollection: the record of it, for the caller to store; None where the memory had
            nothing to choose from.
        tokens: length of what is shown.
    """

    items: tuple[MemoryItem, ...] = ()
    recollection: Recollection | None = None
    tokens: int = 0


class MemoryView:
    """One snapshot as one version of the weights sees it; never changes anything.

    It shows the active items that this version has not absorbed. An absorbed item still takes
    its place among those recalled, unseen and at no cost: what these weights know already is
    not replaced by something less to the point.

    In memory it holds a few figures of each living item, the vectors of the kinds that have few
    of them (see `memory.recall.nearest`) and some items. Safe to share between threads.

    Args:
        ledger, index, embedder: where items, their vectors and the queries' come from.
        snapshot_id: the snapshot ("" for the empty memory).
        policy_version: the version of the weights that will read what is recalled.

    Raises:
        LedgerError: the snapshot or one of its items is not in the ledger (any more).
        VectorIndexError: from `recall`, when an item of a kind that is compared one by one is
            not in the index (see `open_index`).
    """

    def __init__(
        self,
        ledger: Ledger,
        index: Index,
        embedder: Embedder,
        snapshot_id: str,
        policy_version: str,
    ) -> None:
        self.snapshot_id = snapshot_id
        self.policy_version = policy_version
        self._ledger = ledger
        self._index = index
        self._embedder = embedder
        self._living = living(ledger, snapshot_id, policy_version)
        self._shelves: dict[tuple[Kind, bool], Shelf] = {}
        self._clusters: dict[tuple[Kind, bool, int], NDArray[np.int64]] = {}
        self._items: dict[str, MemoryItem] = {}
        self._lengths: dict[str, int] = {}
        self._lock = threading.Lock()

    def ids(self, *, shadow: bool = False) -> list[str]:
        """Ids of all items that may be shown, in order; with ``shadow`` those on trial too."""
        may = ~self._living.absorbed & (~self._living.shadow | shadow)
        return self._living.named(np.flatnonzero(may))

    def recall(
        self,
        queries: Sequence[Query],
        settings: RecallSettings,
        count_tokens: Callable[[str], int],
        *,
        shadow: bool = False,
    ) -> list[Recall]:
        """What to show for each query; all queries are embedded in one batch.

        Args:
            queries: the questions.
            settings: quotas, budget and weights.
            count_tokens: length of a text in the reader's tokens; a view has one reader, so the
                same at every call.
            shadow: whether items on trial are shown: only while learning.
        """
        shelves = {k: self._shelf(k, shadow) for k, n in settings.quotas.items() if n}
        if not queries or not any(shelf.visible for shelf in shelves.values()):
            return [Recall() for _ in queries]
        texts = list(dict.fromkeys(query.text for query in queries))
        embedded = self._embedder.embed(texts)
        # The index holds also what no longer lives: so much more is asked for.
        reach = ceil(settings.candidates / self._living.share)
        answers: list[Hits] = [[] for _ in texts]
        seen: dict[str, Vectors] = {}
        if any(shelf.compared is None for shelf in shelves.values()):
            answers = self._index.query(embedded, reach, seen)
        found = {
            text: (vector, {reach: hits})
            for text, vector, hits in zip(texts, embedded, answers, strict=True)
        }

        def ask(text: str, k: int) -> Hits:
            vector, known = found[text]
            if k not in known:
                (known[k],) = self._index.query(vector[None], k, seen)
            return known[k]

        recalls = []
        for query in queries:
            vector, _ = found[query.text]
            near = {
                kind: nearest(shelf, vector, partial(ask, query.text), reach, settings)
                for kind, shelf in shelves.items()
            }
            groups = {
                kind: self._clustered(kind, shadow, settings.quotas[kind])
                for kind in shelves
                if kind in settings.spread
            }
            recalls.append(self._chosen(query, near, shelves, seen, groups, settings, count_tokens))
        return recalls

    def _chosen(
        self,
        query: Query,
        near: Mapping[Kind, Iterator[list[Hit]]],
        shelves: Mapping[Kind, Shelf],
        seen: dict[str, Vectors],
        groups: Mapping[Kind, NDArray[np.int64]],
        settings: RecallSettings,
        count_tokens: Callable[[str], int],
    ) -> Recall:
        admitted: list[Competitor] = []
        refused: list[Candidate] = []
        least = TRUSTS.index(settings.trust)

        def admit(hits: Sequence[Hit]) -> list[Competitor]:
            some, others = self._admit(hits, query, least, count_tokens)
            admitted.extend(some)
            refused.extend(others)
            return some

        def vectors(kind: Kind, rows: Sequence[int]) -> Vectors:
            if shelves[kind].compared is not None:
                return shelves[kind].vectors(rows)
            ids = [self._living.ids[row] for row in rows]
            if any(id_ not in seen for id_ in ids):
                # With all that may compete yet: asking for each apart would take longest.
                rivals = (c for c in admitted if c.verdict in ("", "quota"))
                more = (c.id for c in rivals if shelves[c.item.kind].compared is None)
                asked = [id_ for id_ in dict.fromkeys([*ids, *more]) if id_ not in seen]
                seen.update(zip(asked, self._index.vectors(asked), strict=True))
            return np.stack([seen[id_] for id_ in ids])

        def cluster(kind: Kind, row: int) -> int | None:
            if kind not in groups:
                return None
            return int(groups[kind][np.searchsorted(shelves[kind].rows, row)])

        there = self._ledger.get_many(MemoryItem, query.shown) if query.shown else {}
        rankings = {kind: _Ranking(hits, admit) for kind, hits in near.items()}
        ahead = (row for ranking in rankings.values() for row in ranking.ahead)
        self._read([row for row in ahead if self._living.trusts[row] <= least])  # all at once
        chosen = choose(
            {kind: ranking.take for kind, ranking in rankings.items()},
            settings.quotas,
            settings.tokens,
            settings.diversity,
            [item.text for item in there.values()],
            vectors,
            settings.first,
            cluster,
        )
        tokens = sum(one.length for one in chosen)
        room = max(0, _LISTED - len(chosen))
        lost = [one for one in admitted if one.verdict not in ("", "shown", "absorbed")]
        nearly = nsmallest(room, lost, key=lambda one: (-one.score, one.id))
        others = [one.record() for one in nearly] + refused
        best = nsmallest(room, others, key=lambda one: (-one.score, one.item))
        return Recall(
            items=tuple(one.item for one in chosen if not one.absorbed),
            recollection=Recollection(
                query=query.text[:_QUERY],
                task=query.task,
                memory=self.snapshot_id,
                reader=self.policy_version,
                candidates=(*(one.record() for one in chosen), *best),
                tokens=tokens,
            ),
            tokens=tokens,
        )

    def _admit(
        self,
        hits: Sequence[Hit],
        query: Query,
        least: int,
        count_tokens: Callable[[str], int],
    ) -> tuple[list[Competitor], list[Candidate]]:
        """Which of some hits compete, and which others a record may name."""
        trusted = [hit for hit in hits if self._living.trusts[hit.row] <= least]
        competitors = []
        refused = [
            self._refused(hit, "trust") for hit in hits if self._living.trusts[hit.row] > least
        ]
        for hit, item in zip(trusted, self._read([hit.row for hit in trusted]), strict=True):
            id_ = self._living.ids[hit.row]
            if id_ in query.shown:
                refused.append(self._refused(hit, "alike"))
            elif not (
                (query.leave_out and query.task in item.tasks)
                or (item.made == "split" and query.family not in ("", item.family))
            ):
                absorbed = bool(self._living.absorbed[hit.row])
                length = 0 if absorbed else self._length(id_, item, count_tokens)
                competitors.append(Competitor(id_, item, absorbed, length, *hit))
        return competitors, refused

    def _refused(self, hit: Hit, verdict: str) -> Candidate:
        fields = hit._asdict()
        id_ = self._living.ids[fields.pop("row")]
        return Candidate.model_construct(item=id_, verdict=verdict, **fields)

    # --- reading ---

    def _shelf(self, kind: Kind, shadow: bool) -> Shelf:
        with self._lock:
            if (kind, shadow) not in self._shelves:
                self._shelves[kind, shadow] = shelf(self._living, self._index, kind, shadow=shadow)
            return self._shelves[kind, shadow]

    def _clustered(self, kind: Kind, shadow: bool, k: int) -> NDArray[np.int64]:
        """For each row of a shelf its cluster."""
        shelf = self._shelf(kind, shadow)
        with self._lock:
            if (kind, shadow, k) not in self._clusters:
                vectors = shelf.vectors(shelf.rows.tolist())
                self._clusters[kind, shadow, k] = clusters(vectors, k)
            return self._clusters[kind, shadow, k]

    def _read(self, rows: Sequence[int]) -> list[MemoryItem]:
        ids = [self._living.ids[row] for row in rows]
        with self._lock:
            missing = [id_ for id_ in ids if id_ not in self._items]
            if missing:
                self._items |= self._ledger.get_many(MemoryItem, missing)
                gone = [id_ for id_ in missing if id_ not in self._items]
                if gone:  # erased since the view was opened
                    raise LedgerError(f"{self._ledger.path}: no memory item {gone[0]!r}")
            items = [self._items[id_] for id_ in ids]
            for oldest in list(islice(self._items, max(0, len(self._items) - _CACHED))):
                del self._items[oldest]
        return items

    def _length(self, id_: str, item: MemoryItem, count_tokens: Callable[[str], int]) -> int:
        length = self._lengths.get(id_)
        if length is None:
            length = self._lengths[id_] = count_tokens(shown(item))
        return length


class _Ranking:
    """The competitors of a kind, best first; items are read only as they are needed.

    Args:
        portions: hits, from near to far; the first is at hand.
        admit: makes competitors of those hits that may compete.
    """

    def __init__(
        self,
        portions: Iterator[list[Hit]],
        admit: Callable[[Sequence[Hit]], list[Competitor]],
    ) -> None:
        self._portions = portions
        self._admit = admit
        self._hits = next(portions, [])
        self._ready: list[Competitor] = []

    @property
    def ahead(self) -> list[int]:
        """The rows of those that come next."""
        return [hit.row for hit in self._hits[:_READ]]

    def take(self, far: bool) -> Competitor | None:
        """The next one; None if there is no other, or only beyond what is at hand."""
        while not self._ready:
            if not self._hits:
                portion = next(self._portions, None) if far else None
                if portion is None:
                    return None
                self._hits = portion
            self._ready = self._admit(self._hits[:_READ])
            self._hits = self._hits[_READ:]
        return self._ready.pop(0)
