"""What to retrieve for a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from memory import history
from memory.consolidation.likeness import near_identical
from memory.embed import Embedder, Vectors
from memory.index import Index
from memory.ledger import Ledger
from memory.records import Kind, MemoryItem, Record, Status

_POOL = 4  # of each kind, so many times its quota compete for being chosen


class RecallSettings(BaseModel):
    """How much is recalled, and of what.

    Args:
        tokens: budget for the items' texts together; an item that does not fit is skipped whole.
        quotas: at most so many of each kind; a kind that is not named is not recalled.
        min_similarity: least cosine of query and key.
        candidates: how many nearest items the index is asked for before filtering.
        diversity: 0 chooses by similarity alone; the nearer to 1, the more a choice is held
            against its likeness to those already chosen (maximal marginal relevance, with
            lambda = 1 - diversity).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int = Field(256, ge=0)
    quotas: dict[Kind, NonNegativeInt] = Field({Kind.EXEMPLAR: 2, Kind.REFLECTION: 1})
    min_similarity: float = Field(0.3, ge=-1, le=1)
    candidates: int = Field(64, ge=1)
    diversity: float = Field(0.3, ge=0, le=1)

    @model_validator(mode="after")
    def _storable(self) -> Self:
        if Kind.WORKING in self.quotas:
            raise ValueError("working memory is carried within a task, not recalled")
        return self


class Query(NamedTuple):
    """One question to the memory.

    Args:
        text: compared with the items' keys (the task's prompt, say).
        task: the task's id.
        leave_out: never recall what was made from this very task (while learning).
    """

    text: str
    task: str
    leave_out: bool = True


class Recall(Record):
    """What was recalled: items in order of choice, their similarities, their texts' tokens."""

    items: tuple[MemoryItem, ...] = ()
    scores: tuple[float, ...] = ()
    tokens: int = 0


class MemoryView:
    """One snapshot as one version of the weights sees it; never changes anything.

    It shows the active items that this version has not absorbed. An absorbed item still takes
    its place among those recalled, unseen and at no cost: what these weights know already is
    not replaced by something less to the point.

    Args:
        ledger, index, embedder: where items, their vectors and the queries' come from.
        snapshot_id: the snapshot ("" for the empty memory).
        policy_version: the version of the weights that will read what is recalled.

    Raises:
        LedgerError: the snapshot or one of its items is not in the ledger.
        VectorIndexError: an item is not in the index (see `open_index`).
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
        self._index = index
        self._embedder = embedder
        changes = history.state(ledger, snapshot_id)
        self._active = {i.id: i for i in history.items(ledger, snapshot_id, (Status.ACTIVE,))}
        self.items: dict[str, MemoryItem] = {
            id_: item
            for id_, item in self._active.items()
            if policy_version not in changes[id_].absorbed_by
        }
        ids = list(self._active)
        self._rows = {id_: row for row, id_ in enumerate(ids)}
        self._vectors = index.vectors(ids)

    def recall(
        self,
        queries: Sequence[Query],
        settings: RecallSettings,
        count_tokens: Callable[[str], int],
    ) -> list[Recall]:
        """What to show for each query; all queries are embedded in one batch.

        The index proposes its nearest items. Where filtering leaves too few of them although
        there are others, all items of the view are compared instead, so nothing is missed.

        Args:
            queries: the questions.
            settings: quotas and budget.
            count_tokens: length of a text in the reader's tokens.
        """
        if not queries or not any(settings.quotas.get(i.kind) for i in self.items.values()):
            return [Recall() for _ in queries]
        lengths: dict[str, int] = {}

        def length(item: MemoryItem) -> int:
            if item.id not in self.items:
                return 0
            if item.id not in lengths:
                lengths[item.id] = count_tokens(item.text)
            return lengths[item.id]

        texts = list(dict.fromkeys(query.text for query in queries))
        embedded = self._embedder.embed(texts)
        vectors = dict(zip(texts, embedded, strict=True))
        hits = dict(zip(texts, self._index.query(embedded, settings.candidates), strict=True))
        return [
            self._choose(query, vectors[query.text], hits[query.text], settings, length)
            for query in queries
        ]

    def _choose(
        self,
        query: Query,
        vector: Vectors,
        hits: Sequence[tuple[str, float]],
        settings: RecallSettings,
        length: Callable[[MemoryItem], int],
    ) -> Recall:
        eligible = {
            id_
            for id_, item in self._active.items()
            if settings.quotas.get(item.kind) and not (query.leave_out and query.task in item.tasks)
        }
        near = {id_ for id_, _ in hits}
        recall, starved = self._select(eligible & near, vector, settings, length)
        # Beyond the index's last hit nothing is nearer than that one.
        reach = hits[-1][1] if len(hits) >= settings.candidates else 1.0
        if starved and reach >= settings.min_similarity and eligible - near:
            recall, _ = self._select(eligible, vector, settings, length)
        return recall

    def _select(
        self,
        eligible: Iterable[str],
        vector: Vectors,
        settings: RecallSettings,
        length: Callable[[MemoryItem], int],
    ) -> tuple[Recall, bool]:
        """Choose from ``eligible``; also whether more of them might have changed the choice."""
        ids = sorted(eligible)
        # Rounded, so that floating-point noise does not decide between equals.
        similarity = np.round(self._vectors[[self._rows[i] for i in ids]] @ vector, 5).tolist()
        scores = {
            id_: score
            for id_, score in sorted(zip(ids, similarity, strict=True), key=lambda s: (-s[1], s[0]))
            if score >= settings.min_similarity
        }
        quotas = {kind: quota for kind, quota in settings.quotas.items() if quota}
        ranked = {k: iter([i for i in scores if self._active[i].kind is k]) for k in quotas}
        pools: dict[Kind, list[str]] = {kind: [] for kind in quotas}
        chosen: list[MemoryItem] = []
        tokens = 0
        starved = False

        def usable(id_: str) -> bool:
            item = self._active[id_]
            return tokens + length(item) <= settings.tokens and not any(
                near_identical(item.text, other.text) for other in chosen
            )

        def marginal(id_: str) -> tuple[float, str]:
            own = self._vectors[self._rows[id_]]
            alike = [
                float(own @ self._vectors[self._rows[other.id]])
                for other in chosen
                if other.kind is self._active[id_].kind
            ]
            held = settings.diversity * max(alike, default=0.0)
            return -round((1 - settings.diversity) * scores[id_] - held, 5), id_

        while quotas:
            for kind in quotas:
                pool = [id_ for id_ in pools[kind] if usable(id_)]
                size = _POOL * settings.quotas[kind]
                pool += islice(filter(usable, ranked[kind]), size - len(pool))
                starved = starved or len(pool) < size
                pools[kind] = pool
            competing = [id_ for kind in quotas for id_ in pools[kind]]
            if not competing:
                break
            item = self._active[min(competing, key=marginal)]
            pools[item.kind].remove(item.id)
            chosen.append(item)
            tokens += length(item)
            quotas[item.kind] -= 1
            if not quotas[item.kind]:
                del quotas[item.kind]
        shown = [item for item in chosen if item.id in self.items]
        recall = Recall(
            items=tuple(shown), scores=tuple(scores[item.id] for item in shown), tokens=tokens
        )
        return recall, starved
