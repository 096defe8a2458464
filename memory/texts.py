"""Whether two texts say the same in the same words."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_GRAM = 3
_BUCKETS = 1 << 14


def near_identical(a: str, b: str, ratio: float = 0.95) -> bool:
    """Whether two texts are the same but for case, white space and at most a few characters.

    Args:
        a, b: the texts; their order does not matter.
        ratio: from 0 to 1, the least share of characters that they have in common, in order.
    """
    a, b = normal(a), normal(b)
    if a == b:
        return True
    total = len(a) + len(b)
    if 2 * min(len(a), len(b)) < ratio * total:
        return False
    # A character that is not shared spoils at most three trigrams (Ukkonen 1992, the q-gram
    # lemma), so most pairs are told apart without an alignment.
    ours, theirs = _trigrams(a), _trigrams(b)
    spoilt = _GRAM * (1 - ratio) * total
    if max((ours & ~theirs).bit_count(), (theirs & ~ours).bit_count()) > spoilt:
        return False
    return _in_common(min(a, b), max(a, b)) >= ratio


@lru_cache(maxsize=4096)
def normal(text: str) -> str:
    """A text without what does not matter: case and the amount of white space."""
    return " ".join(text.lower().split())


@lru_cache(maxsize=4096)
def _trigrams(text: str) -> int:
    """The set of a text's trigrams, hashed, as the bits of a number."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    if len(codes) < _GRAM:
        return 0
    grams = (codes[:-2] * 1_000_003 + codes[1:-1]) * 1_000_003 + codes[2:]
    bits = np.zeros(_BUCKETS, np.bool_)
    bits[(grams * 0x9E3779B97F4A7C15 >> 40) % _BUCKETS] = True
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@lru_cache(maxsize=4096)
def _in_common(a: str, b: str) -> float:
    """Twice the longest common subsequence by both lengths; the same pairs meet again.

    Of what lies between the common beginning and end, a row of the table at a time as the bits
    of one number (Hyyrö 2004).
    """
    total = len(a) + len(b)
    begun = _same(a, b)
    a, b = a[begun:], b[begun:]
    ended = _same(a[::-1], b[::-1])
    a, b = a[: len(a) - ended], b[: len(b) - ended]
    places: dict[str, int] = {}
    for i, character in enumerate(a):
        places[character] = places.get(character, 0) | 1 << i
    row = full = (1 << len(a)) - 1
    for character in b:
        met = row & places.get(character, 0)
        row = (row + met | row - met) & full
    return 2 * (begun + ended + len(a) - row.bit_count()) / total


def _same(a: str, b: str) -> int:
    """With how many characters both begin."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
