"""How a run is told: tables in the terminal (``terminal``) and a page (``html``).

This file holds what both share: the names of the arms, and how numbers are written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from memory.records import Generation, Score

CELLS = ("incumbent", "memory", "weights", "both")
"""The 2×2, row by row: memory old or new × weights old or new is (0,0), (1,0), (0,1), (1,1)."""

ARMS = {
    "base": "base",
    "incumbent": "incumbent",
    "memory": "memory",
    "weights": "weights",
    "both": "both",
    "best_of_n": "best of n",
    "pass_at_n": "pass@n",
    "both_of_n": "both, best of n",
}
"""Arms in the order they are shown, with their labels; others follow under their own name."""

PHASES = ("acquire", "refine", "update", "evaluate")


class Rate(NamedTuple):
    """A rate as far as it is known: the interval and the number of tasks may be missing."""

    mean: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


def rate_of(value: Any) -> Rate | None:
    """Read a rate from a Score, a mapping with at least ``mean``, or a number; else None."""
    if isinstance(value, Score):
        value = value.model_dump()
    if not isinstance(value, Mapping):
        value = {"mean": value}
    mean, low, high, n = (number(value.get(key)) for key in ("mean", "low", "high", "n"))
    if mean is None:
        return None
    if low is None or high is None:
        low = high = None
    return Rate(mean, low, high, None if n is None else int(n))


def number(value: Any) -> float | None:
    """The value as a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def arms_in_order(names: Iterable[str]) -> list[str]:
    """Known arms in the order of ``ARMS``, then the others as they come."""
    given = list(dict.fromkeys(names))
    return [a for a in ARMS if a in given] + [a for a in given if a not in ARMS]


def arm_label(name: str, arm: Any = None) -> str:
    """What an arm is called in a table; ``..._n`` says its n where ``arm`` has it."""
    samples = number(mapping(arm).get("samples"))
    if name in ("best_of_n", "pass_at_n", "both_of_n") and samples is not None:
        return ARMS[name][:-1] + str(int(samples))
    return ARMS.get(name, name.replace("_", " "))


def promoted_rate(generation: Generation) -> Rate | None:
    """Gate score of the agent that left this generation: the promoted cell or the incumbent."""
    cells = generation.cells
    return rate_of(cells.get(generation.cell) or cells.get("incumbent"))


def judged(generation: Generation) -> str:
    """How far the judge of a generation's tries agrees with the verifier; "" without a judge."""
    told = mapping(generation.details.get("feedback"))
    agreement = rate_of(told.get("agreement"))
    if not told:
        return ""
    unclear = f"; {told['undecided']} undecided" if told.get("undecided") else ""
    if agreement is None:
        return f"feedback by {told.get('by')}: nothing was judged{unclear}"
    kappa = number(told.get("kappa"))
    beyond = "–" if kappa is None else write_number(kappa)
    return (
        f"feedback by {told.get('by')}: agrees with the environment on "
        f"{write_number(agreement.mean)} {write_interval(agreement)} of {told.get('tries')} tries "
        f"(kappa {beyond}){unclear}"
    )


def made_up(generation: Generation) -> str:
    """What tasks a generation made up, and how many it dropped and why; "" for none."""
    told = mapping(generation.details.get("generated"))
    if not told:
        return ""
    drafts, taken = (int(number(told.get(key)) or 0) for key in ("drafts", "taken"))
    tries, solved = (int(number(told.get(key)) or 0) for key in ("tries", "solved"))
    dropped = sorted(mapping(told.get("dropped")).items(), key=lambda pair: (-pair[1], pair[0]))
    why = "; ".join(f"{count} × {reason}" for reason, count in dropped)
    return (
        f"tasks by {told.get('how')}: {taken} of {drafts} drafts are sound"
        + (f" ({why})" if why else "")
        + f"; made-up tasks were tried {tries} times, solved {solved} times"
    )


def preferred(generation: Generation) -> list[str]:
    """Per opponent, what the judge prefers: the candidate, and how far the verifier agrees."""
    told = mapping(generation.details.get("preference"))
    lines = []
    for opponent, found in mapping(told.get("against")).items():
        win_rate, agreement = (rate_of(found.get(key)) for key in ("win_rate", "agreement"))
        if win_rate is None:
            continue
        steady = number(found.get("steady"))
        line = (
            f"{told.get('candidate')} against {opponent}, by judge {told.get('judge')} "
            f"({told.get('how')}): wins {write_number(win_rate.mean)} {write_interval(win_rate)} "
            f"of {win_rate.n} tasks ({found.get('wins')} won, {found.get('ties')} tied, "
            f"{found.get('losses')} lost)"
        )
        if steady is not None:
            line += f"; both orders agree on {write_number(steady)}"
        if agreement is not None:
            line += (
                f"; agrees with the environment on {write_number(agreement.mean)} "
                f"{write_interval(agreement)} of {agreement.n}"
            )
        lines.append(line)
    return lines


def aimed(generation: Generation) -> str:
    """What the next generation practises for; "" for records that do not say it."""
    told = mapping(generation.details.get("objective"))
    parts = []
    for own in map(mapping, told.get("followed") or ()):
        share = number(own.get("share")) or 0.0
        if not share:
            continue
        what = ", ".join([*own.get("abilities", ()), *own.get("families", ())]) or "all families"
        measure = f" by {own['metric']}" if own.get("metric") else ""
        first = _FIRST.get(str(own.get("propose")), "")
        part = f"{own.get('direction')}{measure} in {what}, {first}"
        parts.append(part + (f" ({share:.0%})" if share < 1 else ""))
    most = sorted(generation.objective.items(), key=lambda item: (-item[1], item[0]))[:3]
    families = ", ".join(f"{family} {weight:.0%}" for family, weight in most if weight)
    return f"next: {'; '.join(parts)}: {families}" if parts else ""


_FIRST = {
    "weakest": "weakest first",
    "learnability": "p(1-p) first",
    "regret": "what was forgotten first",
    "everywhere": "everywhere",
}


def beside(generation: Generation) -> list[str]:
    """What is told of a generation beside its gate, a line each."""
    told = (made_up(generation), judged(generation), *preferred(generation), aimed(generation))
    return [line for line in told if line]


def accounted(generation: Generation) -> list[tuple[str, list[str]]]:
    """What a generation learnt and lost: sentences, each with the slots of its episodes."""
    told = mapping(generation.details.get("account"))
    return [
        (str(sentence["text"]), [str(slot) for slot in sentence["episodes"]])
        for sentence in told.get("sentences") or ()
    ]


def in_order(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every key of the mappings once, in order of first appearance."""
    return list(dict.fromkeys(key for m in mappings for key in m))


def total_of(value: Any) -> float | None:
    """A total that is given as a number, as ``{"total": …}``, or as parts to be added."""
    parts = mapping(value)
    if not parts:
        return number(value)
    if (total := number(parts.get("total"))) is not None:
        return total
    return sum(n for part in parts.values() if (n := number(part)) is not None)


def phase_costs(generations: Sequence[Generation]) -> list[tuple[str, int, float]]:
    """Tokens and seconds of each phase over these generations, in the order of the cycle."""
    given = in_order([g.tokens | g.seconds for g in generations])
    phases = [p for p in PHASES if p in given] + [p for p in given if p not in PHASES]
    return [
        (
            phase,
            sum(g.tokens.get(phase, 0) for g in generations),
            sum(g.seconds.get(phase, 0.0) for g in generations),
        )
        for phase in phases
        if phase != "total"
    ]


def write_interval(rate: Rate) -> str:
    """``[0.44, 0.60]``, or nothing where there is no interval."""
    if rate.low is None or rate.high is None:
        return ""
    return f"[{write_number(rate.low)}, {write_number(rate.high)}]"


def write_number(value: float, *, signed: bool = False) -> str:
    """Two decimals; never ``-0.00``; ``signed`` for differences."""
    value = round(value, 2) + 0.0
    return (f"{value:+.2f}" if signed and value else f"{value:.2f}").replace("-", "−")


def write_count(value: float) -> str:
    """A count in three digits or so: ``950``, ``12.3k``, ``4.56M``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def write_seconds(seconds: float) -> str:
    """A duration in its two largest units: ``0.4 s``, ``42 s``, ``4 min 05 s``, ``1 h 02 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
