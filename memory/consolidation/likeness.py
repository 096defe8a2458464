"""When two items say the same, and finding those that do among many."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from memory.embed import Vectors
from memory.records import MemoryItem

_BLOCK = 512  # rows of the similarity matrix at a time
_BINS, _GRAM = 512, 3


class Likeness(BaseModel):
    """When items are near-duplicates.

    Args:
        similarity: cosine of two keys from which their items may be …
        text: … if their texts are at least this alike (0 to 1, see `near_identical`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    similarity: float = Field(0.95, ge=-1, le=1)
    text: float = Field(0.95, gt=0, le=1)


def normal(text: str) -> str:
    """A text without what does not matter: case and the amount of white space."""
    return re.sub(r"\s+", " ", text).strip().lower()


def near_identical(a: str, b: str, ratio: float = 0.95) -> bool:
    """Whether two texts are the same but for case, white space and at most a few characters."""
    a, b = normal(a), normal(b)
    if a == b:
        return True
    if 2 * min(len(a), len(b)) < ratio * (len(a) + len(b)):
        return False
    matcher = SequenceMatcher(None, min(a, b), max(a, b), autojunk=False)
    return matcher.quick_ratio() >= ratio and matcher.ratio() >= ratio


def claim(item: MemoryItem) -> tuple[object, object]:
    """What a fact is about and what it says of it, where its content tells; both may be None."""
    return item.content.get("subject"), item.content.get("value")


def family_group(item: MemoryItem) -> Hashable:
    """Items of one kind and family, within which duplicates are looked for."""
    return item.kind, item.family


def twins(
    ranked: Sequence[MemoryItem],
    vectors: Mapping[str, Vectors],
    settings: Likeness,
    group: Callable[[MemoryItem], Hashable] = family_group,
    first: int = 0,
) -> dict[str, str]:
    """Near-duplicates: item id → id of the best-ranked item that says the same.

    Items say the same if they are in one group, claim the same, have like keys and like texts.
    An item that has a twin is nobody's twin itself. Keys are compared block by block as one
    matrix product; texts only where keys are alike and counts of their letters allow it.

    Args:
        ranked: best first.
        vectors: of their keys, by id.
        settings: the thresholds.
        group: only items of an equal group are compared.
        first: the items before this position are taken as they are, without looking for twins
            of theirs.
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for position, item in enumerate(ranked):
        groups[group(item), _hashable(claim(item))].append(position)
    found: dict[str, str] = {}
    for positions in groups.values():
        if len(positions) > 1 and positions[-1] >= first:
            members = [ranked[p] for p in positions]
            found |= _group_twins(members, vectors, settings, sum(p < first for p in positions))
    return found


def _group_twins(
    members: Sequence[MemoryItem],
    vectors: Mapping[str, Vectors],
    settings: Likeness,
    first: int,
) -> dict[str, str]:
    matrix = np.stack([vectors[item.id] for item in members])
    texts = [normal(item.text) for item in members]
    lengths = np.array([len(text) for text in texts])
    grams: dict[int, NDArray[np.int64]] = {}

    def counted(row: int) -> NDArray[np.int64]:
        if row not in grams:
            grams[row] = _grams(texts[row])
        return grams[row]

    alone = np.ones(len(members), bool)  # which are nobody's twin
    found: dict[str, str] = {}
    for start in range(first, len(members), _BLOCK):
        block = matrix[start : start + _BLOCK] @ matrix[: start + _BLOCK].T
        like = block >= settings.similarity - 1e-6
        for row in range(start, min(start + _BLOCK, len(members))):
            others = np.flatnonzero(like[row - start, :row] & alone[:row])
            both = lengths[others] + lengths[row]
            others = others[2 * np.minimum(lengths[others], lengths[row]) >= settings.text * both]
            for other in others.tolist():
                if _may_match(texts[row], texts[other], counted, row, other, settings.text) and (
                    near_identical(texts[row], texts[other], settings.text)
                ):
                    found[members[row].id] = members[other].id
                    alone[row] = False
                    break
    return found


def _may_match(
    a: str,
    b: str,
    counted: Callable[[int], NDArray[np.int64]],
    row: int,
    other: int,
    ratio: float,
) -> bool:
    """False only if the texts cannot be near-identical: a quick look before the slow one.

    At most (1 - ratio)·(len a + len b) characters are unmatched, and each spoils at most three
    trigrams (the q-gram lemma), so the others must be common; hashing only adds to them.
    """
    if a == b:
        return True
    unmatched = (1 - ratio) * (len(a) + len(b))
    needed = max(len(a), len(b)) - _GRAM + 1 - _GRAM * unmatched
    if needed <= 0:
        return True
    return int(np.minimum(counted(row), counted(other)).sum()) >= needed - 1e-6


def _grams(text: str) -> NDArray[np.int64]:
    """How often each trigram occurs, hashed into bins."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    mixed = (codes[:-2] * 961 + codes[1:-1] * 31 + codes[2:]) * np.uint64(2654435761)
    return np.bincount((mixed >> np.uint64(16)) % _BINS, minlength=_BINS)


def _hashable(values: tuple[object, object]) -> tuple[str, str]:
    subject, value = values
    return normal(str(subject)), normal(str(value))
