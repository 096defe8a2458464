"""Choosing among the items that compete for a place in a prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from memory.embed import Vectors
from memory.records import Candidate, Kind, MemoryItem
from memory.texts import near_identical

POOL = 4  # of each kind, so many times its quota compete


@dataclass(slots=True, eq=False)
class Competitor:
    """An item that competes.

    Args:
        id, item: the item.
        absorbed: whether it takes its place unseen.
        length: tokens that it takes.
        row: where its vector is to be found.
        similarity, recency, utility, score: see `Candidate`.
        verdict: how it ended, see `Candidate`; "" while it was not called to compete.
        compared: with so many of the texts in the prompt so far.
    """

    id: str
    item: MemoryItem
    absorbed: bool
    length: int
    row: int
    similarity: float
    recency: float
    utility: float
    score: float
    verdict: str = ""
    compared: int = 0

    def record(self) -> Candidate:
        return Candidate.model_construct(
            item=self.id,
            similarity=self.similarity,
            recency=self.recency,
            utility=self.utility,
            score=self.score,
            verdict=self.verdict,
        )


def choose(
    rankings: Mapping[Kind, Callable[[bool], Competitor | None]],
    quotas: Mapping[Kind, int],
    tokens: int,
    diversity: float,
    texts: Sequence[str],
    vectors: Callable[[Kind, Sequence[int]], Vectors],
    first: Sequence[Kind] = (),
    cluster: Callable[[Kind, int], int | None] = lambda kind, row: None,
) -> list[Competitor]:
    """Choose one after the other, by score and by unlikeness to those of its kind chosen before.

    The best `POOL` times the quota of each kind compete. What no longer fits, or says nearly
    what is in the prompt already, makes room for the next.

    Args:
        rankings: per kind, what gives its next best competitor; called with whether it should
            look far afield. It is not worth that once something is chosen.
        quotas: per kind, how many at most.
        tokens: how much they may take together.
        diversity: see `RecallSettings`.
        texts: what stands in the prompt already.
        vectors: the vectors of a kind's rows.
        first: see `RecallSettings`.
        cluster: a row's cluster, of which at most one is chosen; None: it is in none.

    Returns:
        Those chosen, in order; what became of each that competed stands in its ``verdict``.
    """
    chosen: list[Competitor] = []
    present = list(texts)
    left = {kind: quotas[kind] for kind in rankings if quotas[kind]}
    pools: dict[Kind, list[Competitor]] = {kind: [] for kind in left}
    room = tokens
    taken: set[tuple[Kind, int | None]] = set()

    def usable(one: Competitor) -> bool:
        new, one.compared = present[one.compared :], len(present)
        one.verdict = "quota"  # unless it is chosen yet
        if one.length > room:
            one.verdict = "tokens"
        elif any(near_identical(one.item.text, text) for text in new) or (
            taken and (one.item.kind, cluster(one.item.kind, one.row)) in taken
        ):
            one.verdict = "alike"
        return one.verdict == "quota"

    while left:
        for kind in left:
            pool = pools[kind] = list(filter(usable, pools[kind]))
            while len(pool) < POOL * quotas[kind]:
                following = rankings[kind](not chosen)
                if following is None:
                    break
                if usable(following):
                    pool.append(following)
        ranked = [
            (first.index(kind) if kind in first else len(first), -worth, one.id, one)
            for kind in left
            for worth, one in _marginal(pools[kind], chosen, kind, diversity, vectors)
        ]
        if not ranked:
            break
        best = min(ranked, key=lambda entry: entry[:3])[3]
        pools[best.item.kind].remove(best)
        best.verdict = "absorbed" if best.absorbed else "shown"
        chosen.append(best)
        present.append(best.item.text)
        if (place := cluster(best.item.kind, best.row)) is not None:
            taken.add((best.item.kind, place))
        room -= best.length
        left[best.item.kind] -= 1
        if not left[best.item.kind]:
            del left[best.item.kind]
    return chosen


def _marginal(
    pool: Sequence[Competitor],
    chosen: Sequence[Competitor],
    kind: Kind,
    diversity: float,
    vectors: Callable[[Kind, Sequence[int]], Vectors],
) -> list[tuple[float, Competitor]]:
    """Maximal marginal relevance of a kind's pool (Carbonell & Goldstein 1998)."""
    rivals = [one.row for one in chosen if one.item.kind is kind]
    held = np.zeros(len(pool))
    if pool and rivals and diversity:
        both = vectors(kind, [one.row for one in pool] + rivals)
        held = (both[: len(pool)] @ both[len(pool) :].T).max(axis=1)
    return [
        # Rounded, so that floating-point noise does not decide between equals.
        (round((1 - diversity) * one.score - diversity * float(like), 5), one)
        for one, like in zip(pool, held, strict=True)
    ]
