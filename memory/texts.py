"""Whether two texts say the same in the same words."""

from __future__ import annotations

from functools import lru_cache

from rapidfuzz.distance import LCSseq


def near_identical(a: str, b: str, ratio: float = 0.95) -> bool:
    """Whether two texts are the same but for case, white space and at most a few characters.

    Args:
        a, b: the texts; their order does not matter.
        ratio: from 0 to 1, the least share of characters that they have in common, in order.
    """
    a, b = normal(a), normal(b)
    total = len(a) + len(b)
    common = LCSseq.similarity(a, b, score_cutoff=int(ratio * total / 2))
    return 2 * common >= ratio * total


@lru_cache(maxsize=4096)
def normal(text: str) -> str:
    """A text without what does not matter: case and the amount of white space."""
    return " ".join(text.lower().split())
