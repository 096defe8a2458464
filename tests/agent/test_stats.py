"""Closed forms, calibration by simulation, and the e-value against exact enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from agent import stats

EIGHT = ["a", "b", "c", "d", "e", "f", "g", "h"]


def labels(per_family: int, families: list[str] = EIGHT) -> list[str]:
    return [f for f in families for _ in range(per_family)]


# Wilson and rate


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [  # R: prop.test(k, n, correct = FALSE)$conf.int
        (0, 10, 0.0, 0.27753280),
        (5, 10, 0.23659309, 0.76340691),
        (81, 263, 0.25527345, 0.36621677),
        (10, 10, 0.72246720, 1.0),
    ],
)
def test_wilson_known_values(k: int, n: int, low: float, high: float) -> None:
    assert stats.wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_solves_its_equation() -> None:
    k, n = 37, 120
    for bound in stats.wilson(k, n):
        assert abs(k / n - bound) == pytest.approx(
            stats.Z * math.sqrt(bound * (1 - bound) / n), rel=1e-9
        )


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="wilson"):
        stats.wilson(k, n)


def test_rate_without_families_is_wilson() -> None:
    values = [1.0] * 7 + [0.0] * 33
    score = stats.rate(values)
    assert (score.mean, score.n) == (7 / 40, 40)
    assert (score.low, score.high) == stats.wilson(7, 40)


def test_rate_falls_back_to_wilson_where_a_bootstrap_cannot_tell() -> None:
    few = [1.0, 0.0] * 8
    assert (stats.rate(few, labels(2)).low, stats.rate(few, labels(2)).high) == stats.wilson(8, 16)
    zeros = stats.rate([0.0] * 200, labels(25))
    assert zeros.low == 0
    assert zeros.high == stats.wilson(0, 200)[1] > 0
    rare = [1.0] * 9 + [0.0] * 191
    assert stats.rate(rare, labels(25)) == stats.rate(rare)
    # Every family is all right or all wrong: no spread within, still not certain.
    split = stats.rate([1.0] * 100 + [0.0] * 100, labels(25))
    assert (split.low, split.high) == stats.wilson(100, 200)


def test_rate_uses_the_families_and_repeats_itself() -> None:
    values = ([1.0] * 24 + [0.0]) * 4 + ([0.0] * 24 + [1.0]) * 4
    clustered, plain = stats.rate(values, labels(25)), stats.rate(values)
    assert clustered == stats.rate(values, labels(25))
    assert clustered.mean == plain.mean == 0.5
    assert clustered.high - clustered.low < 0.5 * (plain.high - plain.low)


def test_bootstrap_matches_the_normal_approximation() -> None:
    rng = np.random.default_rng(5)
    values = (rng.random(4000) < 0.4).astype(float)
    families = [str(i % 8) for i in range(4000)]
    score = stats.rate(values, families)
    within = [values[i::8] for i in range(8)]
    error = math.sqrt(sum(v.size * v.var(ddof=1) for v in within)) / 4000
    assert (score.high - score.low) / 2 == pytest.approx(stats.Z * error, rel=0.05)


def test_families_of_one_task_are_pooled() -> None:
    values = [1.0, 0.0] * 20
    pooled = stats.rate(values, [str(i) for i in range(40)])
    assert pooled == stats.rate(values, ["one"] * 40)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_rate_covers(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 1000)
    rng = np.random.default_rng(3)
    chances = np.repeat(np.linspace(p - 0.08, p + 0.08, 8), 10)
    hits = 0
    for _ in range(300):
        score = stats.rate((rng.random(80) < chances).astype(float), labels(10))
        hits += score.low <= chances.mean() <= score.high
    assert 0.91 <= hits / 300 <= 0.995


@pytest.mark.parametrize("values", [[], [1.0, 1.2], [-0.1], [float("nan")]])
def test_rate_refuses(values: list[float]) -> None:
    with pytest.raises(ValueError, match="successes"):
        stats.rate(values)


def test_rate_refuses_families_of_another_length() -> None:
    with pytest.raises(ValueError, match="got 2 for 3 tasks"):
        stats.rate([1.0, 0.0, 1.0], ["a", "b"])


# Differences


def test_paired_difference_and_its_mirror() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random(200) < 0.6).astype(float), (rng.random(200) < 0.3).astype(float)
    ab, ba = stats.paired_difference(a, b, labels(25)), stats.paired_difference(b, a, labels(25))
    assert ab.mean == pytest.approx(float(a.mean() - b.mean()))
    assert ab.n == 200
    assert 0 < ab.low < ab.mean < ab.high
    assert (ba.low, ba.high) == pytest.approx((-ab.high, -ab.low), abs=0.011)


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(1)
    old = (rng.random(200) < 0.5).astype(float)
    new = old.copy()
    new[:10] = 1.0
    paired = stats.paired_difference(new, old, labels(25))
    shuffled = stats.paired_difference(rng.permutation(new), old, labels(25))
    assert paired.high - paired.low < 0.5 * (shuffled.high - shuffled.low)


def test_small_difference_is_bonett_and_price() -> None:
    a, b = [1.0] * 6 + [0.0] * 14, [0.0] * 5 + [1.0] * 3 + [0.0] * 12
    wins, losses, n = 5, 2, 20
    p, q = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    half = stats.Z * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    score = stats.paired_difference(a, b)
    assert stats.discordant(a, b) == (wins, losses)
    assert (score.low, score.high) == pytest.approx((p - q - half, p - q + half))


def test_identical_arms_are_not_certain() -> None:
    same = [1.0, 0.0] * 50
    score = stats.paired_difference(same, same)
    assert score.mean == 0
    assert -0.1 < score.low < 0 < score.high < 0.1


@pytest.mark.parametrize("per_family", [2, 12])
def test_paired_difference_covers(per_family: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 1000)
    rng = np.random.default_rng(4)
    wins = np.repeat([0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.4, 0.7], per_family)
    hits = 0
    for _ in range(300):
        u = rng.random(wins.size)
        a, b = (u < wins).astype(float), (u > 0.95).astype(float)
        score = stats.paired_difference(a, b, labels(per_family))
        hits += score.low <= wins.mean() - 0.05 <= score.high
    assert 0.90 <= hits / 300 <= 0.998


def test_arms_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="a 2, b 1"):
        stats.paired_difference([1, 0], [1])


def test_interaction() -> None:
    n = 200
    base, memory, weights = np.zeros(n), np.zeros(n), np.zeros(n)
    both = np.zeros(n)
    memory[:40], weights[:100], both[:120] = 1, 1, 1
    score = stats.interaction(base, memory, weights, both, [str(i % 8) for i in range(n)])
    assert score.mean == pytest.approx(0.6 - 0.2 - 0.5)
    assert score.low < score.mean < score.high < 0
    tiny = stats.interaction([0] * 4, [0] * 4, [0] * 4, [1] * 4)
    assert tiny.mean == 1
    assert -1 < tiny.low < 1 < tiny.high <= 2


# E-values


def integrated(b: int, c: int) -> float:
    """The e-value by brute force: the likelihood ratio averaged over a Jeffreys prior above 1/2.

    With p = sin²(t), the Jeffreys density is uniform in t, on [π/4, π/2] here.
    """
    t = math.pi / 4 + (np.arange(200_000) + 0.5) * (math.pi / 4) / 200_000
    return float(np.mean((2 * np.sin(t) ** 2) ** b * (2 * np.cos(t) ** 2) ** c))


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 0), (9, 2), (3, 11), (0, 30), (40, 17)])
def test_e_value_against_integration(b: int, c: int) -> None:
    assert stats.e_value(b, c) == pytest.approx(integrated(b, c), rel=1e-6)


def test_e_value_closed_forms() -> None:
    assert stats.e_value(0, 0) == pytest.approx(1)
    assert stats.e_value(1, 0) == pytest.approx(1 + 2 / math.pi)
    for wins in range(1, 20):
        both_ways = stats.e_value(wins, 0) + stats.e_value(0, wins)
        assert both_ways == pytest.approx(2 * math.comb(2 * wins, wins) / 2**wins)
    assert stats.e_value(5, 0) < 20 < stats.e_value(6, 0)
    assert stats.e_value(4, 4) < 1 and stats.e_value(2, 9) < 0.1


def test_e_value_is_a_martingale() -> None:
    for b in range(12):
        for c in range(12):
            after = (stats.e_value(b + 1, c) + stats.e_value(b, c + 1)) / 2
            assert after == pytest.approx(stats.e_value(b, c))
    for n in (1, 2, 5, 10, 30):
        fair, unfair = (
            sum(
                math.comb(n, b) * p**b * (1 - p) ** (n - b) * stats.e_value(b, n - b)
                for b in range(n + 1)
            )
            for p in (0.5, 0.4)
        )
        assert fair == pytest.approx(1) and unfair < 1


def test_looking_after_every_task_stays_below_one_in_twenty() -> None:
    """Ville's inequality, exactly: the chance ever to see E >= 20 within 200 fair tosses."""
    alive, crossed = {0: 1.0}, 0.0  # wins -> probability of not having crossed yet
    for n in range(1, 201):
        after: dict[int, float] = {}
        for wins, chance in alive.items():
            for more in (wins, wins + 1):
                if stats.e_value(more, n - more) >= 20:
                    crossed += chance / 2
                else:
                    after[more] = after.get(more, 0.0) + chance / 2
        alive = after
    assert 0.01 < crossed <= 0.05


def test_e_value_never_overflows() -> None:
    assert stats.e_value(100_000, 0) == pytest.approx(stats.MAX_E_VALUE)
    assert 0 < stats.e_value(5_000, 5_000) < 1
    assert stats.e_value(0, 100_000) == 0
    with pytest.raises(ValueError, match="negative"):
        stats.e_value(-1, 0)


def test_several_e_values_are_held_against_every_combination() -> None:
    assert stats.closed([]) == [] and stats.closed([7.0]) == [7.0]
    chance = np.random.default_rng(0)
    for _ in range(200):
        own = list(np.exp(chance.normal(1, 2, size=int(chance.integers(1, 5)))))
        at = range(len(own))
        groups = [g for n in range(1, len(own) + 1) for g in itertools.combinations(at, n)]
        expected = [min(np.mean([own[j] for j in g]) for g in groups if i in g) for i in at]
        assert stats.closed(own) == pytest.approx(expected)
        assert all(e >= o / len(own) for e, o in zip(stats.closed(own), own, strict=True))


def test_one_of_several_that_are_no_better_passes_once_in_twenty_at_most() -> None:
    """Three candidates that share most of their luck, and one of them is really better."""
    chance = np.random.default_rng(1)
    wrong = right = 0
    for _ in range(2000):
        shared = chance.random(40)
        own = np.where(chance.random((3, 40)) < 0.7, shared, chance.random((3, 40)))
        wins = (own < np.array([0.5, 0.5, 0.85])[:, None]).sum(1)
        passed = np.array(stats.closed([stats.e_value(int(w), 40 - int(w)) for w in wins])) >= 20
        wrong += bool(passed[:2].any())
        right += bool(passed[2])
    assert wrong / 2000 <= 0.05 and right / 2000 > 0.9


# The rest


# Permutation test and Holm


def test_paired_p_against_enumeration() -> None:
    new, old = [1.0] * 7 + [0.0, 0.5, 0.5], [0.0] * 7 + [1.0, 0.5, 0.5]
    # Eight tasks differ, sum 6: |sum| is at least 6 with 0 or 1 of them the other way.
    exact = 2 * (1 + 8) / 2**8
    assert stats.paired_p(new, old) == pytest.approx(exact, abs=0.01)
    assert stats.paired_p(new, old) == stats.paired_p(old, new) == stats.paired_p(new, old)
    assert stats.paired_p(old, old) == 1.0


def test_holm() -> None:  # R: p.adjust(c(0.01, 0.04, 0.03), "holm")
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0] and stats.holm([]) == []
