"""The objective: which families the next generation practises, and how much.

Learnability p(1-p) (as in proposer-solver curricula) is highest where the agent sometimes
succeeds. Two changes make it fit for rare first successes: p is taken from its 95 % interval
at the value nearest one half (optimism where little is known), and headroom (1-p) is a
factor, so that a family at zero outweighs one that is mastered.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

from agent.stats import wilson

FLOOR = 0.02  # no family is ever dropped: forgetting must stay visible


def learnability(successes: Mapping[str, float], attempts: Mapping[str, int]) -> dict[str, float]:
    """Weight per family, summing to 1.

    Args:
        successes: number of solved tasks per family.
        attempts: number of tried tasks per family; 0 counts as unknown.
    """
    weights: dict[str, float] = {}
    for family, n in attempts.items():
        if n == 0:
            weights[family] = 0.5
            continue
        rate = successes[family] / n
        low, high = wilson(successes[family], n)
        p = min(max(0.5, low), high)
        weights[family] = sqrt(p * (1 - p)) * (1 - rate) + FLOOR
    total = sum(weights.values())
    return {family: weight / total for family, weight in weights.items()}


def allocate(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Split ``total`` by weight into whole numbers (largest remainder; ties by name)."""
    exact = {family: weight * total for family, weight in weights.items()}
    counts = {family: int(value) for family, value in exact.items()}
    rest = total - sum(counts.values())
    order = sorted(exact, key=lambda f: (counts[f] - exact[f], f))
    for family in order[:rest]:
        counts[family] += 1
    return counts
