"""Items in groups that lie close together, so that a choice can be spread over them.

MoT (arXiv 2305.05181) clusters its memory and shows one item of each cluster: demonstrations
that are all alike teach one thing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memory.embed import Vectors

_ROUNDS = 10


def clusters(vectors: Vectors, k: int) -> NDArray[np.int64]:
    """The number of each vector's cluster, 0 to k - 1: k-means by cosine.

    It begins with k vectors that lie far apart (Gonzalez 1985), so the same vectors in the same
    order always give the same clusters.

    Args:
        vectors: of length 1, a row each.
        k: how many; fewer where there are fewer vectors that differ.
    """
    if not len(vectors):
        return np.zeros(0, np.int64)
    chosen = [0]
    nearness = vectors @ vectors[0]
    while len(chosen) < min(k, len(vectors)) and nearness.min() < 1 - 1e-6:
        chosen.append(int(nearness.argmin()))
        nearness = np.maximum(nearness, vectors @ vectors[chosen[-1]])
    centres = vectors[chosen]
    labels = np.zeros(len(vectors), np.int64)
    for round_ in range(_ROUNDS):
        # Rounded, so that floating-point noise does not decide between equals.
        nearest = np.round(vectors @ centres.T, 5).argmax(axis=1)
        if round_ and (nearest == labels).all():
            break
        labels = nearest
        sums = np.zeros_like(centres)
        np.add.at(sums, labels, vectors)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), centres)
    return labels
