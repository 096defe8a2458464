"""The objective: what the next generation practises for, and how much of each family.

An objective is abilities × a direction (survey, arXiv 2404.14387): the abilities choose the task
families, the direction says what is measured on them. Evaluation proposes from these measures
where to practise; a run can follow several objectives. README.md beside it tells the choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.stats import wilson
from environments.abilities import ABILITIES

Direction = Literal["performance", "adaptation", "knowledge", "safety"]
Propose = Literal["weakest", "learnability", "regret"]

FLOOR = 0.02  # no family of an objective is ever dropped: forgetting must stay visible
UNKNOWN = 0.5  # the weight of a family of which nothing is known


class Objective(BaseModel):
    """Abilities × a direction.

    Args:
        abilities: the families that ask for one of these (`environments.abilities`); none: all.
        families: by name, besides; none, if abilities are given, or all.
        direction: what is to get better. ``performance``: success on the gate's tasks.
            ``adaptation``: success after a turn that went wrong, that is, by what the world said
            of it. ``knowledge``: the share of the train tasks, made-up ones included, that some
            try has solved. ``safety``: ``metric``, which the environment has to tell.
        metric: a number from 0 to 1 that the environment tells beside the reward (``metrics``),
            higher is better; with ``performance`` it takes the place of success.
        propose: which families come first. ``weakest``: where the agent is weak and can learn;
            ``learnability``: p(1-p), where it succeeds every other time; ``regret``: where it has
            been better than it is.
        weight: of several objectives that are followed together, this one's share.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    abilities: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    direction: Direction = "performance"
    metric: str = ""
    propose: Propose = "weakest"
    weight: float = Field(1.0, gt=0)

    @property
    def narrow(self) -> bool:
        """Whether it is about some families only."""
        return bool(self.abilities or self.families)

    @model_validator(mode="after")
    def _can_be_measured(self) -> Self:
        if unknown := sorted(set(self.abilities) - ABILITIES.keys()):
            raise ValueError(f"{unknown[0]!r} is no ability; abilities: {', '.join(ABILITIES)}")
        if self.direction == "safety" and not self.metric:
            raise ValueError(
                "direction safety needs metric, the name of a number that the environment tells"
            )
        if self.metric and self.direction in ("adaptation", "knowledge"):
            raise ValueError(f"direction {self.direction} has a measure of its own; leave metric")
        return self


class ObjectiveSettings(BaseModel):
    """What a run evolves for.

    Args:
        follow: the objectives.
        order: several are followed ``together``, each generation's tasks shared among them by
            their weights, or ``in-turn``, one a generation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    follow: tuple[Objective, ...] = Field((Objective(),), min_length=1)
    order: Literal["together", "in-turn"] = "together"

    def shares(self, n: int) -> list[float]:
        """How much each objective counts in the generation that comes after generation n."""
        if self.order == "in-turn":
            return [float(i == n % len(self.follow)) for i in range(len(self.follow))]
        total = sum(objective.weight for objective in self.follow)
        return [objective.weight / total for objective in self.follow]


class Tally(NamedTuple):
    """What was measured on a family: the sum of values from 0 to 1, and of how many."""

    sum: float
    n: int

    @property
    def rate(self) -> float | None:
        """The mean; None where nothing was measured."""
        return self.sum / self.n if self.n else None


def weakest(now: Mapping[str, Tally], best: Mapping[str, float]) -> dict[str, float]:
    """Weight per family: high where the agent mostly fails and yet can learn.

    Learnability p(1-p) is highest where the agent sometimes succeeds. Two changes make it fit
    for rare first successes: p is taken from its 95 % interval at the value nearest one half
    (optimism where little is known), and headroom (1-p) is a factor, so that a family at zero
    outweighs one that is mastered.
    """
    weights: dict[str, float] = {}
    for family, tally in now.items():
        rate = tally.rate
        if rate is None:
            weights[family] = UNKNOWN
            continue
        low, high = wilson(tally.sum, tally.n)
        p = min(max(0.5, low), high)
        weights[family] = sqrt(p * (1 - p)) * (1 - rate) + FLOOR
    return weights


def learnability(now: Mapping[str, Tally], best: Mapping[str, float]) -> dict[str, float]:
    """p(1-p), as curricula between proposer and solver have it (Sampling for Learnability,
    arXiv 2408.15099, §4); what is never or always solved gets the floor alone.
    """
    rates = {family: tally.rate for family, tally in now.items()}
    return {f: (0.25 if p is None else p * (1 - p)) + FLOOR for f, p in rates.items()}


def regret(now: Mapping[str, Tally], best: Mapping[str, float]) -> dict[str, float]:
    """What was forgotten: a family's best rate so far minus that of now."""
    rates = {family: tally.rate for family, tally in now.items()}
    return {
        f: (0.0 if p is None else max(0.0, best.get(f, 0.0) - p)) + FLOOR for f, p in rates.items()
    }


PROPOSALS: dict[Propose, Callable[[Mapping[str, Tally], Mapping[str, float]], dict[str, float]]] = {
    "weakest": weakest,
    "learnability": learnability,
    "regret": regret,
}
"""(what each family came to now, the best it ever came to) → its weight."""


def shared(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights that sum to 1."""
    total = sum(weights.values())
    return {family: weight / total for family, weight in weights.items()}


def mixed(parts: Mapping[int, Mapping[str, float]], shares: list[float]) -> dict[str, float]:
    """The weights of several objectives as one, each as much as its share."""
    families = sorted({family for own in parts.values() for family in own})
    return {f: sum(shares[i] * own.get(f, 0.0) for i, own in parts.items()) for f in families}


def allocate(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Split ``total`` by weight into whole numbers (largest remainder; ties by name)."""
    exact = {family: weight * total for family, weight in weights.items()}
    counts = {family: int(value) for family, value in exact.items()}
    rest = total - sum(counts.values())
    order = sorted(exact, key=lambda f: (counts[f] - exact[f], f))
    for family in order[:rest]:
        counts[family] += 1
    return counts
