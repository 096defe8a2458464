"""Finding a good mix where only trying tells: greedy soups, CMA-ES, ratios of a fixed mean.

Pure functions over a fitness. They ask for the same tries in the same order whenever they are
called again, so a fitness that remembers makes an interrupted search go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Point = tuple[float, ...]


class Found(NamedTuple):
    """The best that a search has seen, the earlier of equals; higher fitness is better."""

    point: Point
    fitness: float
    tries: int


def greedy(
    count: int, fitness: Callable[[tuple[int, ...]], float]
) -> tuple[tuple[int, ...], float]:
    """Which members a soup is made of (model soups, arXiv 2203.05482, recipe 1).

    Args:
        count: members there are.
        fitness: of a soup of some members, by their numbers.

    Returns:
        the numbers of those that stay, the best first, and their fitness.
    """
    alone = {member: fitness((member,)) for member in range(count)}
    best_first = sorted(range(count), key=lambda member: -alone[member])
    kept: tuple[int, ...] = (best_first[0],)
    best = alone[best_first[0]]
    for member in best_first[1:]:
        value = fitness((*kept, member))
        if value >= best:
            kept, best = (*kept, member), value
    return kept, best


def evolve(
    fitness: Callable[[Point], float],
    start: Sequence[float],
    bounds: Sequence[tuple[float, float]],
    *,
    budget: int,
    seed: int,
    sigma: float = 0.3,
) -> Found:
    """CMA-ES within bounds; the start is tried first, so nothing worse is ever found.

    Args:
        fitness: to be made large.
        start: where the search begins.
        bounds: lowest and highest value of each coordinate.
        budget: tries, the start included.
        seed: of the draws.
        sigma: first step's size, as a share of the bounds' width.
    """
    import numpy as np
    from cmaes import CMA

    low, high = (np.array(side, dtype=float) for side in zip(*bounds, strict=True))
    width = np.where(high > low, high - low, 1.0)

    def place(scaled: Any) -> Point:  # rounded: what is stored is what was tried
        return tuple(round(float(v), 4) for v in low + np.asarray(scaled) * width)

    begin = (np.asarray(start, dtype=float) - low) / width
    best = Found(place(begin), fitness(place(begin)), 1)
    within = np.stack([low * 0, (high - low) / width], 1)
    mean = np.clip(begin, *within.T)  # the start may be a setting beyond them; it is tried as it is
    optimiser = CMA(mean=mean, sigma=sigma, bounds=within, seed=seed)
    tries = 1
    while True:
        told = []
        for _ in range(optimiser.population_size):
            if tries >= budget:  # a generation that is cut short teaches nothing
                return best._replace(tries=tries)
            scaled = optimiser.ask()
            value = fitness(place(scaled))
            tries += 1
            told.append((scaled, -value))
            if value > best.fitness:
                best = Found(place(scaled), value, tries)
        optimiser.tell(told)


def of_mean(values: Sequence[float], mean: float) -> Point:
    """The nearest point in the unit cube whose coordinates have this mean.

    Args:
        values: any numbers.
        mean: between 0 and 1.
    """
    low, high = -1 - max(values), 1 - min(values) + 1
    for _ in range(80):  # the clipped values' mean grows with the shift
        shift = (low + high) / 2
        found = [min(1.0, max(0.0, value + shift)) for value in values]
        if sum(found) / len(found) < mean:
            low = shift
        else:
            high = shift
    return tuple(round(value, 4) for value in found)
