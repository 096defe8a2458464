"""The statistics of the promotion gate and of the reports. Pure functions on plain numbers.

The unit is always the task: one value per task (0 or 1, or the mean of several runs). Every
interval is a 95 % interval, and every result is a function of its input: resampling uses a
fixed seed.

Why a stratified bootstrap: a suite's tasks come from a few families (eight in the quickstart).
Families are fixed, not sampled, and far too few to cluster by, so tasks are resampled within
their family: the interval speaks about new tasks of the *same* families. Resamples hold one
task fewer than the family (Rao & Wu 1988, doi:10.1080/01621459.1988.10478591), which undoes
the bootstrap's bias towards too narrow intervals in small strata. Where a bootstrap is too narrow
or empty, a closed form with pseudo-counts takes its place (Wilson for a rate, Bonett & Price
for a difference): below ``SMALL`` tasks, where fewer than ``RARE`` tasks depart from the most
common value, and where no family shows any spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memory.records import Score

Array = NDArray[np.float64]
Values = Sequence[float] | Array
"""One value in [0, 1] per task."""

RESAMPLES = 10_000
SEED = 0
SMALL = 30
"""Fewest tasks for a bootstrap: below it, percentile intervals cover too little."""
RARE = 10
"""Fewest tasks (successes, failures, discordant pairs) off the common value for a bootstrap."""
MAX_E_VALUE = 1e12
Z = 1.959963984540054
"""97.5 % point of the normal distribution."""


def rate(successes: Values, families: Sequence[str] | None = None) -> Score:
    """Mean of per-task successes with a 95 % interval.

    Without families: Wilson. With families: stratified bootstrap over tasks within family;
    Wilson where a bootstrap cannot tell (see the module). Wilson on fractional values (means
    of several runs) is conservative, as they vary less than 0/1 values do.

    Args:
        successes: one value in [0, 1] per task.
        families: each task's family, in the same order.

    Raises:
        ValueError: nothing to average, a value outside [0, 1], or lengths that differ.
    """
    values = _values("successes", successes)
    interval = None if families is None else _bootstrap(values, families)
    low, high = interval or wilson(float(values.sum()), values.size)
    return _score(values, low, high)


def wilson(k: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval for ``k`` successes in ``n`` trials.

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.

    Raises:
        ValueError: unless 0 <= k <= n and n > 0.
    """
    if n <= 0 or not 0 <= k <= n:
        raise ValueError(f"wilson: k={k}, n={n}; needs 0 <= k <= n and n > 0")
    p, z2 = k / n, Z * Z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(a: Values, b: Values, families: Sequence[str] | None = None) -> Score:
    """Mean of ``a - b`` over tasks that both arms ran, with a 95 % interval.

    Stratified paired bootstrap over tasks; where a bootstrap cannot tell (see the module),
    the adjusted Wald interval, which adds one win and one loss.

    Source: Bonett & Price 2012, doi:10.3102/1076998611411915 (the adjusted interval).

    Args:
        a, b: the arms' values in [0, 1], task by task in the same order.
        families: each task's family, in the same order.

    Raises:
        ValueError: no tasks, a value outside [0, 1], or lengths that differ.
    """
    return _contrast([("a", a, 1), ("b", b, -1)], families)


def interaction(
    base: Values,
    memory: Values,
    weights: Values,
    both: Values,
    families: Sequence[str] | None = None,
) -> Score:
    """What memory and weights do together beyond the sum of what each does alone.

    The mean over tasks of ``both - memory - weights + base``, in [-2, 2]: above zero they
    help each other, below zero they do the same work twice. Interval as in
    ``paired_difference``.

    Raises:
        ValueError: no tasks, a value outside [0, 1], or lengths that differ.
    """
    arms = [("base", base, 1), ("memory", memory, -1), ("weights", weights, -1), ("both", both, 1)]
    return _contrast(arms, families)


def discordant(new: Values, old: Values) -> tuple[int, int]:
    """Wins and losses of ``new`` against ``old`` over tasks; ties do not count.

    Raises:
        ValueError: no tasks, a value outside [0, 1], or lengths that differ.
    """
    difference = _paired([("new", new, 1), ("old", old, -1)])
    return int((difference > 0).sum()), int((difference < 0).sum())


def e_value(wins: int, losses: int) -> float:
    """Anytime-valid evidence that a discordant task is won more often than lost.

    The likelihood ratio against a fair coin, averaged over chances of winning above one half as
    Jeffreys' prior weighs them: for ``b`` wins and ``c`` losses
    ``2^(b + c + 1) * B(b + 1/2, c + 1/2) / π`` times the chance that a Beta(b + 1/2, c + 1/2)
    lies above one half. Under a coin that is fair, or worse for the new arm, it is a non-negative
    supermartingale that starts at 1, so by Ville's inequality it ever reaches 20 with probability
    at most 1/20, however often one looks.

    Source: Ramdas et al. 2023, arXiv:2210.01948 (mixture martingales, Ville's inequality).

    Returns:
        The e-value, never more than ``MAX_E_VALUE``.

    Raises:
        ValueError: a negative count.
    """
    from scipy.special import betainc

    if wins < 0 or losses < 0:
        raise ValueError(f"e_value: wins={wins}, losses={losses}; counts cannot be negative")
    better = float(betainc(losses + 0.5, wins + 0.5, 0.5))
    if not better:  # so many losses that it is less than the smallest number
        return 0.0
    log_beta = math.lgamma(wins + 0.5) + math.lgamma(losses + 0.5) - math.lgamma(wins + losses + 1)
    log_e = log_beta - math.log(math.pi) + (wins + losses + 1) * math.log(2) + math.log(better)
    return math.exp(min(log_e, math.log(MAX_E_VALUE)))


def closed(evidence: Sequence[float]) -> list[float]:
    """e-values of several hypotheses, each for there being the others, in their order.

    The mean of e-values is an e-value, however they depend on each other. One is as good as the
    least mean over all groups that it is in, which is one with some of the smallest others: those
    that reach 1/alpha are all right with probability 1 - alpha (closed testing). That is never
    less than dividing by the number of hypotheses (Bonferroni).

    Source: Vovk & Wang 2021, arXiv:1912.06116 (adjusted e-values for multiple hypotheses).
    """
    adjusted = []
    for place, own in enumerate(evidence):
        least = total = own
        for size, other in enumerate(sorted([*evidence[:place], *evidence[place + 1 :]]), start=2):
            total += other
            least = min(least, total / size)
        adjusted.append(least)
    return adjusted


def paired_p(new: Values, old: Values) -> float:
    """Two-sided p of a paired permutation test: that new and old only differ by chance.

    Under the null hypothesis a task's two values might as well be exchanged; each resample
    exchanges some (Fisher 1935). Ties say nothing.

    Raises:
        ValueError: no tasks, a value outside [0, 1], or lengths that differ.
    """
    difference = _paired([("new", new, 1), ("old", old, -1)])
    observed = abs(difference.sum())
    signs = np.random.default_rng(SEED).choice((-1.0, 1.0), (RESAMPLES, len(difference)))
    at_least = int((np.abs(signs @ difference) >= observed - 1e-9).sum())
    return (at_least + 1) / (RESAMPLES + 1)


def holm(chances: Sequence[float]) -> list[float]:
    """p-values corrected for being several (Holm 1979), in their order."""
    corrected, least = [0.0] * len(chances), 0.0
    for rank, place in enumerate(sorted(range(len(chances)), key=lambda i: chances[i])):
        least = max(least, min(1.0, chances[place] * (len(chances) - rank)))
        corrected[place] = least
    return corrected


def _values(name: str, values: Values) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: needs at least one value, one per task")
    if not ((array >= 0) & (array <= 1)).all():  # also catches NaN
        raise ValueError(f"{name}: values must be finite and lie in [0, 1]")
    return array


Arm = tuple[str, Values, int]  # name, one value per task, its sign in the contrast


def _paired(arms: Sequence[Arm]) -> Array:
    arrays = [_values(name, values) for name, values, _ in arms]
    if len({a.size for a in arrays}) > 1:
        sizes = ", ".join(f"{name} {a.size}" for (name, _, _), a in zip(arms, arrays, strict=True))
        raise ValueError(f"paired arms must hold the same tasks; got {sizes}")
    total = np.zeros_like(arrays[0])
    for array, (_, _, sign) in zip(arrays, arms, strict=True):
        total += sign * array
    return total


def _contrast(arms: Sequence[Arm], families: Sequence[str] | None) -> Score:
    values = _paired(arms)
    bound = len(arms) / 2
    interval = _bootstrap(values, families if families is not None else [""] * values.size)
    low, high = interval or _adjusted_wald(values, bound)
    return _score(values, low, high)


def _bootstrap(values: Array, families: Sequence[str]) -> tuple[float, float] | None:
    """Stratified percentile interval of the mean; None where a bootstrap cannot tell."""
    if len(families) != values.size:
        raise ValueError(f"families: got {len(families)} for {values.size} tasks")
    common = int(np.unique(values, return_counts=True)[1].max())
    if values.size < SMALL or values.size - common < RARE:
        return None
    names, stratum, sizes = np.unique(
        np.asarray(families, dtype=str), return_inverse=True, return_counts=True
    )
    # A family of one task has no spread of its own: all such families form one stratum.
    stratum = np.where(sizes[stratum] > 1, stratum, len(names))
    rng = np.random.default_rng(SEED)
    sums, spread = np.zeros(RESAMPLES), False
    for s in np.unique(stratum):
        levels, counts = np.unique(values[stratum == s], return_counts=True)
        size = int(counts.sum())
        if len(levels) == 1:
            sums += size * levels[0]
            continue
        # Drawing tasks with replacement is drawing how often each distinct value occurs.
        drawn = rng.multinomial(size - 1, counts / size, size=RESAMPLES)
        sums += (drawn @ levels) * (size / (size - 1))
        spread = True
    if not spread:
        return None
    low, high = np.quantile(sums / values.size, [0.025, 0.975])
    return float(low), float(high)


def _adjusted_wald(values: Array, bound: float) -> tuple[float, float]:
    """Wald interval after adding one task at each bound (for 0/1 arms: a win and a loss)."""
    n = values.size + 2
    mean = float(values.sum()) / n
    variance = (float((values**2).sum()) + 2 * bound**2) / n - mean**2
    half = Z * math.sqrt(variance / n)
    return max(-bound, mean - half), min(bound, mean + half)


def _score(values: Array, low: float, high: float) -> Score:
    mean = float(values.mean())
    return Score(mean=mean, low=min(low, mean), high=max(high, mean), n=values.size)
