"""The selector of an adapter set: which group's adapter acts, from the task's prompt alone.

ConPET (arXiv 2309.14763) trains a module that names the task at hand. Here it is the nearest of
the train families' mean prompts, in the run's own embedding: nothing to train, and nothing to
forget when a family comes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from memory.embed import Vectors

FOLDS = 5
DIGITS = 6  # of a centroid's numbers as they are stored: what a sum's order changes is behind


class Centroid(BaseModel):
    """The mean of a family's prompts, and the group that the family belongs to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    group: str
    vector: tuple[float, ...]


class Selector(BaseModel):
    """Chooses a group by a prompt's vector.

    Args:
        embedder: identity of the embedder; vectors of another one say nothing here.
        margin: how much nearer the best group has to be than the next one (cosine); below that
            none is chosen.
        centroids: of all families.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedder: str
    margin: float
    centroids: tuple[Centroid, ...]

    def choose(self, vectors: Vectors) -> list[str]:
        """The group of each prompt, "" where it is not clear.

        Args:
            vectors: of length 1, a row for each prompt.
        """
        groups = np.array([c.group for c in self.centroids])
        nearness = np.asarray(vectors) @ np.array([c.vector for c in self.centroids]).T
        chosen = []
        for row in nearness:
            best = groups[row.argmax()]
            others = row[groups != best]
            clear = not len(others) or row.max() - others.max() >= self.margin
            chosen.append(str(best) if clear else "")
        return chosen


class Judged(NamedTuple):
    """How well a selector does on prompts that it has not seen.

    Args:
        accuracy: share of prompts for which the right group is chosen.
        abstained: share for which none is; the rest goes to a wrong group.
        tasks: how many prompts.
    """

    accuracy: float
    abstained: float
    tasks: int


def fit(
    families: Sequence[str], vectors: Vectors, groups: dict[str, str], margin: float, embedder: str
) -> Selector:
    """A selector from train prompts.

    Args:
        families: of the prompts, in order.
        vectors: of the prompts, a row each.
        groups: the group of each family.
        margin, embedder: see `Selector`.
    """
    of = np.array(families)
    centroids = []
    for family in sorted(set(families)):
        mean = vectors[of == family].mean(axis=0)
        mean = mean / max(float(np.linalg.norm(mean)), 1e-12)
        vector = tuple(round(float(x), DIGITS) for x in mean)
        centroids.append(Centroid(family=family, group=groups[family], vector=vector))
    return Selector(embedder=embedder, margin=margin, centroids=tuple(centroids))


def cross_validated(
    families: Sequence[str], vectors: Vectors, groups: dict[str, str], margin: float
) -> Judged:
    """How well selectors do that were made without the prompts they are asked about.

    Each family's prompts are dealt out to ``FOLDS`` folds in turn; arguments as of `fit`.
    """
    seen: dict[str, int] = {}
    fold = []
    for family in families:
        fold.append(seen.get(family, 0) % FOLDS)
        seen[family] = seen.get(family, 0) + 1
    right = unclear = 0
    for own in sorted(set(fold)):
        held = np.array(fold) == own
        rest = [f for f, out in zip(families, held, strict=True) if not out]
        if not rest:
            continue
        selector = fit(rest, vectors[~held], groups, margin, "")
        asked = [f for f, out in zip(families, held, strict=True) if out]
        for family, chosen in zip(asked, selector.choose(vectors[held]), strict=True):
            right += chosen == groups[family]
            unclear += chosen == ""
    n = len(families)
    return Judged(round(right / n, 4), round(unclear / n, 4), n)
