"""The page's charts: SVG and shaded tables as text, without a script.

They stretch with the window: places are given in percent, sizes in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise

from agent.report import (
    CELLS,
    Rate,
    in_order,
    number,
    phase_costs,
    rate_of,
    write_count,
    write_interval,
    write_number,
    write_seconds,
)
from memory.records import Generation

COLOURS = ("base", "memory", "weights", "both", "best_of_n")
MARKS = {  # one shape per arm, so that colour is never the only sign
    "incumbent": "M-4,0 a4,4 0 1,0 8,0 a4,4 0 1,0 -8,0",
    "memory": "M0,-5 L5,4 L-5,4 Z",
    "weights": "M-4,-4 H4 V4 H-4 Z",
    "both": "M0,-5.5 L5.5,0 L0,5.5 L-5.5,0 Z",
}
STATUSES = {"active": "var(--p3)", "absorbed": "var(--p1)", "retired": "var(--p5)"}


def curve(points: Sequence[tuple[Generation, Rate]]) -> str:
    """The gate score over generations with its band, and beside it the cells that were tried."""
    height, top = 250, 8
    span = max(1, max(g.n for g, _ in points))
    rates = [s for g, s in points] + [
        r for g, _ in points for r in map(rate_of, g.cells.values()) if r
    ]
    ceiling = _ceiling(max(r.high if r.high is not None else r.mean for r in rates))

    def x(n: float) -> float:
        return 4 + 92 * n / span

    def y(rate: float) -> float:
        return top + (height - top) * (1 - min(rate, ceiling) / ceiling)

    svg = []
    for i in range(5):
        value = ceiling * i / 4
        svg.append(
            f'<line class="grid" x1="0" x2="100%" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
            f'<text x="-8" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>'
        )
    every = math.ceil((span + 1) / 12)
    svg += [
        f'<text x="{x(g.n):.2f}%" y="{height + 20}" text-anchor="middle">{g.n}</text>'
        for g, _ in points
        if g.n % every == 0
    ]
    svg.append(f'<text x="50%" y="{height + 40}" text-anchor="middle">generation</text>')
    banded = [(g, s) for g, s in points if s.low is not None]
    edge = [f"{x(g.n):.2f},{y(s.high or 0):.1f}" for g, s in banded]
    edge += [f"{x(g.n):.2f},{y(s.low or 0):.1f}" for g, s in reversed(banded)]
    svg.append(
        f'<svg width="100%" height="{height}" viewBox="0 0 100 {height}" '
        f'preserveAspectRatio="none"><polygon class="band" points="{" ".join(edge)}"/></svg>'
    )
    svg += [
        f'<line class="curve" x1="{x(a.n):.2f}%" y1="{y(r.mean):.1f}" '
        f'x2="{x(b.n):.2f}%" y2="{y(s.mean):.1f}"/>'
        for (a, r), (b, s) in pairwise(points)
    ]
    beside = 7 if span <= 6 else 4 if span <= 12 else 2  # pixels: clear of the knot
    tests = [g for g, _ in points if len(g.cells) > 1]
    for g in tests:
        tried = [(name, score) for name in CELLS if (score := rate_of(g.cells.get(name)))]
        for name, score in tried:
            shift = (-2, -1, 1, 2)[CELLS.index(name)] * beside
            svg.append(
                f'<svg x="{x(g.n):.2f}%" y="{y(score.mean):.1f}" width="1" height="1" '
                f'overflow="visible"><g transform="translate({shift:.1f} 0)">'
                f"{mark(name)}{_title(f'generation {g.n}, {name}', score)}</g></svg>"
            )
    svg += [
        f'<circle class="knot" cx="{x(g.n):.2f}%" cy="{y(s.mean):.1f}" r="5.5">'
        f"{_title(f'generation {g.n}, {g.decision}', s)}</circle>"
        for g, s in points
    ]
    first, last = points[0][1], points[-1][1]
    spoken = (
        f"Gate score of the incumbent over {len(points)} generations, "
        f"from {write_number(first.mean)} to {write_number(last.mean)}"
    )
    return (
        f'<svg width="100%" height="{height + 48}" role="img" aria-label="{escape(spoken)}">'
        f"{''.join(svg)}</svg>"
    )


def columns(
    kind: str, labels: list[str], statuses: list[str], counts: list[list[int]], most: int
) -> str:
    """Stacked columns of item counts; the tallest of all kinds fills the height.

    Args:
        kind: which items, for whoever hears the page.
        labels: the generations.
        statuses: the layers, from the ground up.
        counts: per generation, one count per status.
        most: the count that fills the height.
    """
    height = 130
    slot = 100 / len(labels)
    wide = min(slot * 0.62, 12)
    every = math.ceil(len(labels) / 12)
    svg = [f'<line class="grid" x1="0" x2="100%" y1="{height}" y2="{height}"/>']
    for i, (label, column) in enumerate(zip(labels, counts, strict=True)):
        y = float(height)
        for status, items in zip(statuses, column, strict=True):
            if not items:
                continue
            tall = (height - 18) * items / most
            y -= tall
            title = escape(f"generation {label}: {items} {status}")
            svg.append(
                f'<rect x="{slot * (i + 0.5) - wide / 2:.2f}%" y="{y:.1f}" width="{wide:.2f}%" '
                f'height="{tall:.1f}" fill="{status_colour(status)}"><title>{title}</title></rect>'
            )
        if i % every == 0 or i == len(labels) - 1:
            middle = f'x="{slot * (i + 0.5):.2f}%" text-anchor="middle"'
            svg.append(f'<text {middle} y="{y - 5:.1f}">{sum(column)}</text>')
            svg.append(f'<text {middle} y="{height + 17}">{escape(label)}</text>')
    last = ", ".join(f"{n} {s}" for n, s in zip(counts[-1], statuses, strict=True))
    spoken = escape(f"{kind} items per generation; in the end {last}")
    return (
        f'<svg width="100%" height="{height + 22}" role="img" aria-label="{spoken}">'
        f"{''.join(svg)}</svg>"
    )


def durations(generations: Sequence[Generation], colours: Mapping[str, str]) -> str:
    """One bar per generation, as long as it took, its phases in their colours."""
    longest = max((sum(s for _, _, s in phase_costs([g])) for g in generations), default=0) or 1.0
    bars = ""
    for g in generations:
        own = [cost for cost in phase_costs([g]) if cost[2] > 0]
        if not own:
            continue
        left, svg = 0.0, ""
        for name, tokens, seconds in own:
            part = 100 * seconds / longest
            title = escape(f"{name}: {write_seconds(seconds)}, {write_count(tokens)} tokens")
            svg += (
                f'<rect x="{left:.2f}%" width="{part:.2f}%" height="18" fill="{colours[name]}">'
                f"<title>{title}</title></rect>"
            )
            left += part
        total = sum(s for _, _, s in own)
        spoken = escape(f"generation {g.n} took {write_seconds(total)}")
        bars += (
            f'<div class="row"><span class="name">generation {g.n}</span><span class="chart">'
            f'<svg width="100%" height="18" role="img" aria-label="{spoken}">{svg}</svg></span>'
            f'<span class="value">{write_seconds(total)}</span></div>'
        )
    return bars


def heat(
    title: str,
    columns: Sequence[tuple[int, Mapping[str, float]]],
    scale: Callable[[Iterable[float]], float] | None,
) -> str:
    """A table of numbers per family and generation, each cell as dark as its number is large.

    Args:
        title: what the numbers are.
        columns: per generation, the number of each family.
        scale: of all numbers, the one that is darkest; None for 1.
    """
    columns = [(n, values) for n, values in columns if values]
    if not columns:
        return ""
    full = scale(v for _, values in columns for v in values.values()) if scale else 1.0
    head = "".join(f'<th scope="col">{n}</th>' for n, _ in columns)
    rows = ""
    for family in in_order(values for _, values in columns):
        rows += f'<tr><th scope="row">{escape(family)}</th>'
        for _, values in columns:
            value = number(values.get(family))
            if value is None:
                rows += '<td class="none">–</td>'
            else:
                rows += f'<td style="--v:{min(1.0, value / full):.3f}">{write_number(value)}</td>'
        rows += "</tr>"
    return (
        f'<div class="card"><h3>{escape(title)}</h3><div class="wide"><table class="heat">'
        f'<thead><tr><th scope="col">family</th>{head}</tr></thead><tbody>{rows}</tbody>'
        "</table></div></div>"
    )


def legend(keys: Sequence[tuple[str, str]]) -> str:
    items = "".join(
        f'<li><svg viewBox="-7 -7 14 14" aria-hidden="true">{mark}</svg>{escape(text)}</li>'
        for text, mark in keys
    )
    return f'<ul class="legend">{items}</ul>'


def bar(arm: str, label: str, score: Rate, height: int) -> str:
    """A horizontal bar from 0 to 1 with a whisker for the interval."""
    middle = height / 2
    svg = f'<rect width="100%" height="{height}" rx="3" fill="var(--track)"/>'
    svg += f'<rect width="{_percent(score.mean)}" height="{height}" rx="3" fill="{_colour(arm)}"/>'
    if score.low is not None and score.high is not None:
        low, high = _percent(score.low), _percent(score.high)
        ends = f'<line x1="{low}" x2="{high}" y1="{middle}" y2="{middle}"/>' + "".join(
            f'<line x1="{end}" x2="{end}" y1="{middle - 4}" y2="{middle + 4}"/>'
            for end in (low, high)
        )
        svg += f'<g class="halo">{ends}</g><g class="whisker">{ends}</g>'
    spoken = escape(f"{label}: {_say(score)}")
    return (
        f'<svg width="100%" height="{height}" role="img" aria-label="{spoken}">'
        f"{_title(label, score)}{svg}</svg>"
    )


def mark(name: str) -> str:
    return f'<path d="{MARKS[name]}" fill="{_colour(name)}" fill-opacity=".85"/>'


def knot() -> str:
    return '<path d="M-7,0 H7" class="curve"/><circle r="4.5" class="knot"/>'


def swatch(colour: str) -> str:
    return f'<rect x="-5" y="-5" width="10" height="10" rx="2" fill="{colour}"/>'


def status_colour(status: str) -> str:
    return STATUSES.get(status, "var(--p2)")


def _colour(arm: str) -> str:
    arm = "base" if arm == "incumbent" else arm
    return f"var(--{arm})" if arm in COLOURS else "var(--other)"


def _title(label: str, score: Rate) -> str:
    return f"<title>{escape(f'{label}: {_say(score)}')}</title>"


def _say(score: Rate) -> str:
    tasks = "" if score.n is None else f", {score.n} tasks"
    return f"{write_number(score.mean)} {write_interval(score)}".strip() + tasks


def _percent(value: float) -> str:
    return f"{100 * min(1.0, max(0.0, value)):.2f}%"


def _ceiling(value: float) -> float:
    """The top of an axis of rates: the next of a few round numbers."""
    return next((top for top in (0.2, 0.4, 0.6, 0.8) if value <= top), 1.0)
