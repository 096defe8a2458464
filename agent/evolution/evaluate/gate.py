"""The gate. Promote the best cell of memory × weights, or keep the incumbent.

Candidates go live only if a paired test on held-out gate tasks shows that they are better,
and only if what was mastered before is retained on tasks kept for just that question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from agent.stats import closed, discordant, e_value, paired_difference
from memory.records import Score

CELLS = ("memory", "weights", "both")


class GateSettings(BaseModel):
    """When a candidate is good enough.

    Args:
        enabled: off promotes the best candidate whatever the test says. For experiments that
            show what the gate is for.
        alpha: chance of promoting a candidate that is no better, over the cells of one gate.
        mastered: a family counts as mastered from this success rate of the incumbent.
        margin: how much success a candidate may lose on the mastered families together.
        family_margin: how much on any one of them.
        tie: candidates within this of the best mean count as equal to it; the one that
            changes most is then preferred, since what it remembers also helps to explore.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    alpha: float = Field(0.05, gt=0, lt=1)
    mastered: float = Field(0.8, gt=0, le=1)
    margin: float = Field(0.05, ge=0, lt=1)
    family_margin: float = Field(0.25, ge=0, le=1)
    tie: float = Field(0.02, ge=0, lt=1)

    @property
    def threshold(self) -> float:
        """Evidence that is asked of a candidate."""
        return 1 / self.alpha


class Comparison(NamedTuple):
    """A candidate against the incumbent on the same gate tasks.

    Evidence is the anytime-valid e-value of the discordant pairs: it keeps its meaning however
    many tasks have been looked at. It holds for all candidates of a gate together (`closed`).
    Each generation's test stands on its own.
    """

    cell: str
    mean: float
    wins: int
    losses: int
    evidence: float
    difference: Score


def compare(
    candidates: Mapping[str, Sequence[float]],
    incumbent: Sequence[float],
    families: Sequence[str],
) -> list[Comparison]:
    """Paired comparisons of each candidate, by its cell, with the incumbent, task by task."""
    pairs = {cell: discordant(own, incumbent) for cell, own in candidates.items()}
    evidence = closed([e_value(wins, losses) for wins, losses in pairs.values()])
    return [
        Comparison(
            cell=cell,
            mean=sum(own) / len(own),
            wins=pairs[cell][0],
            losses=pairs[cell][1],
            evidence=together,
            difference=paired_difference(own, incumbent, families),
        )
        for (cell, own), together in zip(candidates.items(), evidence, strict=True)
    ]


def ranked(comparisons: Sequence[Comparison], settings: GateSettings) -> list[Comparison]:
    """The candidates that are shown to be better, best first."""
    passed = list(comparisons)
    if settings.enabled:
        passed = [c for c in passed if c.evidence >= settings.threshold and c.difference.low > 0]
    best = max((c.mean for c in passed), default=0.0)

    def order(c: Comparison) -> tuple[float, int]:
        return (-best if best - c.mean <= settings.tie else -c.mean, -CELLS.index(c.cell))

    return sorted(passed, key=order)


def foremost(comparisons: Sequence[Comparison]) -> str:
    """The candidate with the best mean, passed or not; "" without any."""
    best = max(comparisons, key=lambda c: (c.mean, CELLS.index(c.cell)), default=None)
    return best.cell if best else ""


def explain(comparison: Comparison, threshold: float) -> str:
    """One clause for a reader: the difference, its interval and the evidence."""
    d = comparison.difference
    sign = "≥" if comparison.evidence >= threshold else "<"
    return (
        f"{comparison.cell} {comparison.mean:.3f} ({d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}], "
        f"{comparison.wins} won, {comparison.losses} lost, "
        f"e {comparison.evidence:.3g} {sign} {threshold:.3g})"
    )


def mastered(families: Mapping[str, float], settings: GateSettings) -> list[str]:
    """Families whose retention is checked."""
    return sorted(family for family, rate in families.items() if rate >= settings.mastered)


def retained(
    candidate: Sequence[float],
    incumbent: Sequence[float],
    families: Sequence[str],
    settings: GateSettings,
) -> tuple[bool, str]:
    """Whether what was mastered is still known, on retention tasks.

    Args:
        candidate, incumbent: per-task successes on the same retention tasks.
        families: the tasks' families.

    Returns:
        the verdict, and a clause for a reader.
    """
    if not candidate:
        return True, "nothing mastered yet"
    change = (sum(candidate) - sum(incumbent)) / len(candidate)
    worst, drop = "", 0.0
    for family in sorted(set(families)):
        at = [i for i, f in enumerate(families) if f == family]
        own = sum(incumbent[i] - candidate[i] for i in at) / len(at)
        if own > drop:
            worst, drop = family, own
    if -change > settings.margin:
        return False, f"retention lost {-change:.3f} on {len(candidate)} tasks of mastered families"
    if drop > settings.family_margin:
        return False, f"retention lost {drop:.2f} on the mastered family {worst}"
    return True, f"retention {change:+.3f} on {len(candidate)} tasks"
