"""When two items say the same, and finding those that do among many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from memory.embed import Vectors
from memory.records import MemoryItem
from memory.texts import near_identical, normal

_BLOCK = 512  # rows of the similarity matrix at a time
NEAREST = 16


class Likeness(BaseModel):
    """When items are near-duplicates.

    Args:
        similarity: cosine of two keys from which their items may be …
        text: … if their texts are at least this alike (0 to 1, see `near_identical`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    similarity: float = Field(0.95, ge=-1, le=1)
    text: float = Field(0.95, gt=0, le=1)


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
    matrix product; an item's text only with equal texts and those of the `NEAREST` like keys,
    so that ten thousand items with one key take seconds.

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
    _, same = np.unique(texts, return_inverse=True)  # one number per text
    alone = np.ones(len(members), bool)  # which are nobody's twin
    found: dict[str, str] = {}
    for start in range(first, len(members), _BLOCK):
        end = min(start + _BLOCK, len(members))
        block = matrix[start:end] @ matrix[:end].T
        like = block >= settings.similarity - 1e-6
        for row in range(start, end):
            others = np.flatnonzero(like[row - start, :row])
            both = lengths[others] + lengths[row]
            short = np.minimum(lengths[others], lengths[row])
            others = others[alone[others] & (2 * short >= settings.text * both)]
            nearest = others
            if len(others) > NEAREST:
                # Rounded, so that floating-point noise does not decide between equals.
                cosines = np.round(block[row - start, others], 5)
                nearest = others[np.argpartition(-cosines, NEAREST)[:NEAREST]]
            equal = others[same[others] == same[row]][:1]
            for other in sorted({*nearest.tolist(), *equal.tolist()}):
                if near_identical(texts[row], texts[other], settings.text):
                    found[members[row].id] = members[other].id
                    alone[row] = False
                    break
    return found


def _hashable(values: tuple[object, object]) -> tuple[str, str]:
    subject, value = values
    return normal(str(subject)), normal(str(value))
