"""What to keep: duplicates go, and beyond the budget the least useful.

Pure functions: they propose changes, the update phase writes them into a snapshot.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from memory.embed import Vectors
from memory.records import MemoryChange, MemoryItem, Status, Trajectory
from memory.texts import near_identical as near_identical


class Usage(NamedTuple):
    """How often an item stood in an episode's prompt, and in how many of those it succeeded."""

    uses: int = 0
    wins: int = 0


class MemoryBudget(BaseModel):
    """How much is kept.

    Args:
        items: active items in all.
        per_family: active items of one family (None: no limit of its own).
        duplicate_similarity: cosine of two keys from which their items may be duplicates …
        duplicate_text: … if their texts are at least this alike (0 to 1).
        prior: uses' worth of average success that every item is credited with; an item is
            judged by its own uses only as they outnumber it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: int = Field(256, ge=0)
    per_family: int | None = Field(None, ge=0)
    duplicate_similarity: float = Field(0.95, ge=-1, le=1)
    duplicate_text: float = Field(0.95, gt=0, le=1)
    prior: float = Field(4.0, gt=0)


def usage(trajectories: Iterable[Trajectory]) -> dict[str, Usage]:
    """Uses and wins of every recalled item; episodes that broke do not count."""
    counts: dict[str, Usage] = defaultdict(Usage)
    for trajectory in trajectories:
        if trajectory.failure is None:
            for item in set(trajectory.recalled):
                uses, wins = counts[item]
                counts[item] = Usage(uses + 1, wins + trajectory.success)
    return dict(counts)


def utility(counts: Usage, mean: float, prior: float) -> float:
    """Success rate when recalled, shrunk to ``mean`` by ``prior`` uses."""
    return (counts.wins + prior * mean) / (counts.uses + prior)


def consolidate(
    state: Mapping[str, MemoryChange],
    items: Mapping[str, MemoryItem],
    new: Sequence[MemoryItem],
    vectors: Mapping[str, Vectors],
    usage: Mapping[str, Usage],
    budget: MemoryBudget,
    generation: int = 0,
) -> list[MemoryChange]:
    """Changes that take new items in, and retire duplicates and what exceeds the budget.

    Of near-duplicates (same kind and family, like keys and like texts) the better used stays,
    else the older. Beyond the budget the lowest `utility` goes first, of equal ones the newest.

    Args:
        state: the incumbent snapshot (see `history.state`); what is in it already is not new.
        items: at least the active items of ``state``, by id.
        new: candidates; one that is not kept is listed as retired.
        vectors: the keys' embeddings (length 1) of the active and the new items, by id.
        usage: uses and wins so far, by id.
        budget: what may be kept.

    Returns:
        One change per item whose status changes, new ones first, each with its reason.

    Raises:
        ValueError: an active item's record or vector is missing.
    """
    pool = {i: items[i] for i, c in state.items() if c.status is Status.ACTIVE and i in items}
    fresh = {item.id: item for item in new if item.id not in state}
    lacking = [i for i, c in state.items() if c.status is Status.ACTIVE and i not in items]
    pool |= fresh
    lacking += [i for i in pool if i not in vectors]
    if lacking:
        raise ValueError(f"no record or vector for {len(lacking)} memory items, {lacking[0]} first")

    retired = _duplicates(pool, vectors, usage, budget)
    total = sum(u.uses for u in usage.values())
    mean = sum(u.wins for u in usage.values()) / total if total else 0.5
    worth = {i: utility(usage.get(i, Usage()), mean, budget.prior) for i in pool}
    kept = sorted(
        (i for i in pool if i not in retired),
        key=lambda i: (worth[i], -pool[i].born, i in state, i),
    )  # the first to go first

    def retire(candidates: list[str], limit: int, what: str) -> None:
        for i in candidates[: max(0, len(candidates) - limit)]:
            uses, wins = usage.get(i, Usage())
            retired[i] = f"over the budget of {limit} {what}: utility {worth[i]:.2f}, " + (
                f"{wins} of {uses} uses succeeded" if uses else "never used"
            )

    if budget.per_family is not None:
        families: dict[str, list[str]] = defaultdict(list)
        for i in kept:
            families[pool[i].family].append(i)
        for family, members in families.items():
            retire(members, budget.per_family, f"items in family {family}")
    retire([i for i in kept if i not in retired], budget.items, "items")

    added = [
        MemoryChange(item=i, status=Status.RETIRED, generation=generation, reason=retired[i])
        if i in retired
        else MemoryChange(
            item=i,
            status=Status.ACTIVE,
            generation=generation,
            reason=f"new {item.kind} of {item.family}",
        )
        for i, item in fresh.items()
    ]
    dropped = [
        MemoryChange(
            item=i,
            status=Status.RETIRED,
            generation=generation,
            absorbed_by=change.absorbed_by,
            reason=retired[i],
        )
        for i, change in state.items()
        if i in retired
    ]
    return added + dropped


def _duplicates(
    pool: Mapping[str, MemoryItem],
    vectors: Mapping[str, Vectors],
    usage: Mapping[str, Usage],
    budget: MemoryBudget,
) -> dict[str, str]:
    """Id → reason of every item that says what a better one of its kind and family says."""

    def rank(position: int, i: str) -> tuple[int, int, int, int]:
        uses, wins = usage.get(i, Usage())
        return -wins, -uses, pool[i].born, position

    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for _, i in sorted((rank(position, i), i) for position, i in enumerate(pool)):
        groups[pool[i].kind, pool[i].family].append(i)
    reasons: dict[str, str] = {}
    for members in groups.values():
        matrix = np.stack([vectors[i] for i in members])
        kept: list[int] = []
        for row, i in enumerate(members):
            likeness = matrix[kept] @ matrix[row]
            for other, cosine in zip(kept, likeness, strict=True):
                twin = members[other]
                if cosine >= budget.duplicate_similarity - 1e-6 and near_identical(
                    pool[i].text, pool[twin].text, budget.duplicate_text
                ):
                    reasons[i] = f"duplicate of {twin}"
                    break
            else:
                kept.append(row)
    return reasons
