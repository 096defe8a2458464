"""The run as one page: ``report.html``, which needs nothing but itself.

The charts are SVG and tables (``charts``); the page runs no script. Its numbers also stand in it
as JSON (``<script type="application/json" id="data">``) for whoever wants to read them again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from agent.report import (
    CELLS,
    Rate,
    accounted,
    arm_label,
    arms_in_order,
    beside,
    charts,
    in_order,
    mapping,
    number,
    phase_costs,
    promoted_rate,
    rate_of,
    total_of,
    write_count,
    write_interval,
    write_number,
    write_seconds,
)
from agent.report.plain import json_for_html, plain
from memory.records import Generation, content_hash

REPORT = "report.html"


def write_report(
    run_folder: Path,
    summary: Mapping[str, Any],
    generations: Sequence[Generation],
    growth: Sequence[Mapping[str, Any]],
) -> Path:
    """Write the page of a run, finished or not, in one atomic step.

    Args:
        run_folder: where ``report.html`` goes; must exist.
        summary: the run's summary; every key may be missing (``test`` until the run ends).
        generations: the generations so far, in order.
        growth: per generation, how many memory items there are of each kind and status:
            ``{"generation": 1, "items": {"exemplar": {"active": 3, "retired": 0}}}``.

    Returns:
        Path of the page.

    Raises:
        OSError: the folder is missing or cannot be written; an earlier page stays as it was.
    """
    path = run_folder / REPORT
    draft = run_folder / f".{REPORT}.part"
    try:
        draft.write_text(page(summary, generations, growth), encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def page(
    summary: Mapping[str, Any],
    generations: Sequence[Generation],
    growth: Sequence[Mapping[str, Any]],
) -> str:
    """The page as text; arguments as for ``write_report``."""
    # The run is called by its folder's name: a page is shown to others, who have other paths.
    summary = {**summary, "run": Path(str(summary.get("run") or "run")).name}
    parts = (
        _header(summary, generations),
        _learning(generations),
        _test(summary),
        _families(mapping(summary.get("families"))),
        _generations(generations),
        _growth(growth),
        _by_family(generations),
        _costs(generations),
        _config(summary),
    )
    record = {
        "summary": summary,
        "generations": [g.model_dump(mode="json") for g in generations],
        "growth": growth,
    }
    template = Template((files("agent.report") / "template.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"{summary['run']} · Instar"),
        body="\n".join(part for part in parts if part),
        foot="Intervals are 95 %. A generation goes live only when a paired test on held-out gate "
        "tasks shows that it is better; the test split influences nothing.",
        data=json_for_html(record),
    )


# Sections


def _header(summary: Mapping[str, Any], generations: Sequence[Generation]) -> str:
    banner = ""
    if summary.get("unsafe"):
        banner = (
            '<p class="banner" role="alert"><strong>Unsafe run.</strong> The agent\'s code ran '
            "without a sandbox on this machine.</p>"
        )
    config = mapping(summary.get("config"))
    tokens = total_of(summary.get("tokens"))
    seconds = total_of(summary.get("seconds"))
    facts = {
        "model": summary.get("model"),
        "suite": summary.get("suite"),
        "machine": summary.get("machine"),
        "date": summary.get("date"),
        "config": content_hash(plain(config))[:12] if config else None,
        "tokens": write_count(tokens) if tokens is not None else None,
        "time": write_seconds(seconds) if seconds is not None else None,
    }
    listed = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in facts.items()
        if value not in (None, "")
    )
    run = escape(str(summary["run"]))
    return (
        f'<header>{banner}<p class="eyebrow">Instar · run report</p><h1>{run}</h1>'
        f'<dl class="facts">{listed}</dl>{_hero(summary, generations)}</header>'
    )


def _hero(summary: Mapping[str, Any], generations: Sequence[Generation]) -> str:
    tiles: list[tuple[str, str]] = []
    test = mapping(summary.get("test"))
    base, both = rate_of(test.get("base")), rate_of(test.get("both"))
    if base and both:
        tiles.append((_arrow(base, both), f"test split, base to evolved {write_interval(both)}"))
    scores = [score for g in generations if (score := promoted_rate(g))]
    if len(scores) > 1:
        tiles.append((_arrow(scores[0], scores[-1]), "gate split, first to last generation"))
    tried = [g for g in generations if g.decision in ("promoted", "kept")]
    if tried:
        promoted = sum(g.decision == "promoted" for g in tried)
        tiles.append((f"{promoted} of {len(tried)}", "generations promoted"))
    if not test:
        tiles.append(("in progress", "the test split comes at the end"))
    elif best := rate_of(test.get("best_of_n")):
        name = arm_label("best_of_n", test.get("best_of_n"))
        tiles.append((write_number(best.mean), f"{name}, the unevolved agent"))
    cells = "".join(
        f"<div><b>{value}</b><span>{escape(text)}</span></div>" for value, text in tiles
    )
    return f'<div class="hero">{cells}</div>'


def _arrow(old: Rate, new: Rate) -> str:
    return f'{write_number(old.mean)} <span class="arrow">→</span> {write_number(new.mean)}'


def _learning(generations: Sequence[Generation]) -> str:
    points = [(g, score) for g in generations if (score := promoted_rate(g))]
    if not points:
        return ""
    keys = [("the agent that goes on, with its interval", charts.knot())]
    keys += [
        (f"tried: {name}", charts.mark(name))
        for name in CELLS
        if any(len(g.cells) > 1 and name in g.cells for g, _ in points)
    ]
    return _section(
        "Learning curve",
        "Success rate on the gate split after each generation; the marks are all that was tried.",
        f'<div class="card">{charts.legend(keys)}'
        f'<div class="plot">{charts.curve(points)}</div></div>',
    )


def _test(summary: Mapping[str, Any]) -> str:
    test = mapping(summary.get("test"))
    differences = mapping(summary.get("differences"))
    scores = {a: score for a in arms_in_order(test) if (score := rate_of(test[a]))}
    if not scores:
        return ""
    base = scores.get("base")
    rows = [
        '<div class="row arm top" aria-hidden="true"><span></span><span></span>'
        "<span>success</span><span>against base</span></div>"
    ]
    for name, score in scores.items():
        label = arm_label(name, test[name])
        against = rate_of(differences.get(name))
        if against is None and base is not None and name != "base":
            against = Rate(score.mean - base.mean)
        rows.append(
            f'<div class="row arm"><span class="name">{escape(label)}</span>'
            f'<span class="chart">{charts.bar(name, label, score, 26)}</span>'
            f'<span class="value"><b>{write_number(score.mean)}</b> {write_interval(score)}</span>'
            f'<span class="against">{_against(against)}</span></div>'
        )
    ticks = "".join(
        f'<text x="{100 * i / 4:.0f}%" y="12" text-anchor="{anchor}">{i / 4:.2f}</text>'
        for i, anchor in enumerate(["start", "middle", "middle", "middle", "end"])
    )
    rows.append(
        '<div class="row arm axis" aria-hidden="true"><span class="name"></span>'
        f'<span class="chart"><svg width="100%" height="16">{ticks}</svg></span>'
        '<span class="value"></span></div>'
    )
    sizes = sorted({score.n for score in scores.values() if score.n is not None})
    tasks = (
        f" on {'–'.join(str(n) for n in dict.fromkeys((sizes[0], sizes[-1])))} tasks"
        if sizes
        else ""
    )
    return _section(
        "Test split",
        f"Success rate{tasks}, {_used(summary)}; whiskers are 95 % intervals."
        f"{_spent(test.get('best_of_n'))}",
        f'<div class="card">{"".join(rows)}</div>',
    )


def _used(summary: Mapping[str, Any]) -> str:
    if summary.get("first_test", True):
        return "used once"
    return "which earlier agents of this run were tested on as well"


def _spent(best_of_n: Any) -> str:
    tokens = number(mapping(best_of_n).get("tokens"))
    if tokens is None:
        return ""
    name = arm_label("best_of_n", best_of_n)
    said = f" The unevolved agent's {name} spent {write_count(tokens)} tokens"
    budget = number(mapping(best_of_n).get("budget"))
    if mapping(best_of_n).get("capped") and budget is not None:
        said += f"; evolution spent {write_count(budget)} (test.best_of_max caps the samples)"
    return said + "."


def _families(families: Mapping[str, Any]) -> str:
    cards = []
    for family, rates in families.items():
        bars = [
            f'<span class="dim">{escape(arm_label(arm))}</span>'
            f"<span>{charts.bar(arm, f'{family}, {arm_label(arm)}', score, 12)}</span>"
            f'<span class="num">{write_number(score.mean)}</span>'
            for arm in arms_in_order(mapping(rates))
            if (score := rate_of(rates[arm]))
        ]
        if bars:
            cards.append(
                f'<div class="card"><h3>{escape(family)}</h3>'
                f'<div class="bars">{"".join(bars)}</div></div>'
            )
    if not cards:
        return ""
    note = "Success rate on the test split, family by family."
    return _section("Families", note, f'<div class="small">{"".join(cards)}</div>')


def _generations(generations: Sequence[Generation]) -> str:
    if not generations:
        return ""
    cards = "".join(map(_generation, generations))
    note = (
        "What memory and weights did, each alone and together, on the gate split. The outlined "
        "cell is the agent that goes on."
    )
    return _section("Generations", note, f'<div class="cards">{cards}</div>')


def _generation(generation: Generation) -> str:
    table = (
        f'<table class="two" aria-label="Generation {generation.n}: memory by weights">'
        '<thead><tr><td class="none" style="border:0"></td><th scope="col">old weights</th>'
        '<th scope="col">new weights</th></tr></thead><tbody>'
    )
    for label, cells in (
        ("old memory", ("incumbent", "weights")),
        ("new memory", ("memory", "both")),
    ):
        table += f'<tr><th scope="row">{label}</th>'
        table += "".join(_two_cell(generation, name) for name in cells) + "</tr>"
    table += "</tbody></table>"
    decision = escape(generation.decision)
    if generation.decision == "promoted":
        decision += f": {escape(arm_label(generation.cell))}"
    told = "".join(f'<p class="reason">{escape(text)}</p>' for text in beside(generation))
    told += _account(generation)
    details = ""
    if generation.details:
        listed = "".join(
            f"<dt>{escape(k.replace('_', ' '))}</dt><dd>{escape(_compact(v))}</dd>"
            for k, v in generation.details.items()
            if k != "account"
        )
        details = f"<details><summary>numbers behind it</summary><dl>{listed}</dl></details>"
    return (
        f'<article class="card"><div class="head"><h3>Generation {generation.n}</h3>'
        f'<span class="decision {generation.decision}">{decision}</span></div>'
        f'{table if generation.cells else ""}<p class="reason">{escape(generation.reason)}</p>'
        f"{told}{details}</article>"
    )


def _account(generation: Generation) -> str:
    """What was learnt and lost, each sentence with its episodes (`instar episodes` lists them)."""
    rows = "".join(
        f"<li>{escape(text)}<details><summary>episodes</summary>"
        f"{' '.join(f'<code>{escape(slot)}</code>' for slot in episodes)}</details></li>"
        for text, episodes in accounted(generation)
    )
    return f'<ul class="account">{rows}</ul>' if rows else ""


def _two_cell(generation: Generation, name: str) -> str:
    score = rate_of(generation.cells.get(name))
    if score is None:
        return '<td class="none">not tried</td>'
    on = ' class="on"' if name == generation.cell else ""
    tasks = "" if score.n is None else f"{name}: {score.n} tasks"
    return (
        f'<td{on} style="--v:{score.mean:.3f}" title="{tasks}"><b>{write_number(score.mean)}</b>'
        f"<span>{write_interval(score)}</span></td>"
    )


def _growth(growth: Sequence[Mapping[str, Any]]) -> str:
    steps = [
        (entry.get("generation", i), mapping(entry.get("items"))) for i, entry in enumerate(growth)
    ]
    kinds = in_order(items for _, items in steps)
    if not kinds:
        return ""
    present = in_order(mapping(items.get(kind)) for _, items in steps for kind in kinds)
    statuses = [s for s in charts.STATUSES if s in present] + [
        s for s in present if s not in charts.STATUSES
    ]
    counts = {
        kind: [[_count(mapping(items.get(kind)).get(s)) for s in statuses] for _, items in steps]
        for kind in kinds
    }
    most = max(1, max(sum(column) for columns in counts.values() for column in columns))
    labels = [str(n) for n, _ in steps]
    cards = "".join(
        f'<div class="card"><h3>{escape(kind)}</h3>'
        f"{charts.columns(kind, labels, statuses, counts[kind], most)}</div>"
        for kind in kinds
    )
    keys = [(s, charts.swatch(charts.status_colour(s))) for s in statuses]
    note = (
        "Items by kind after each generation. Absorbed: the weights do as well without "
        "it. Retired: no longer recalled."
    )
    return _section("Memory", note, f'{charts.legend(keys)}<div class="cards">{cards}</div>')


def _by_family(generations: Sequence[Generation]) -> str:
    tables = [
        ("Gate success of the agent that goes on", [(g.n, g.families) for g in generations], None),
        (
            "Objective: the weight of a family in the next generation's tasks",
            [(g.n, g.objective) for g in generations],
            _largest,
        ),
    ]
    cards = "".join(charts.heat(title, columns, scale) for title, columns, scale in tables)
    if not cards:
        return ""
    layout = "broad" if len(generations) <= 7 else "stack"
    note = "Where the agent is strong and where it looks next; columns are generations."
    return _section("Families over generations", note, f'<div class="{layout}">{cards}</div>')


def _largest(values: Iterable[float]) -> float:
    return max(values, default=0.0) or 1.0


def _costs(generations: Sequence[Generation]) -> str:
    costs = phase_costs(generations)
    if not costs:
        return ""
    colours = {name: f"var(--p{i % 6 + 1})" for i, (name, _, _) in enumerate(costs)}
    bars = charts.durations(generations, colours)
    rows = "".join(_cost_row(escape(name), tokens, seconds) for name, tokens, seconds in costs)
    total_row = _cost_row("all", sum(t for _, t, _ in costs), sum(s for _, _, s in costs))
    keys = [(name, charts.swatch(colours[name])) for name, _, _ in costs]
    return _section(
        "Cost",
        "Time and tokens of each phase, over all generations.",
        f'<div class="card">{charts.legend(keys)}{bars}</div>'
        '<div class="card wide" style="margin-top:1rem"><table class="lines full"><thead><tr>'
        '<th scope="col">phase</th><th scope="col" class="num">tokens</th>'
        '<th scope="col" class="num">time</th><th scope="col" class="num">tokens/s</th></tr>'
        f"</thead><tbody>{rows}</tbody><tfoot>{total_row}</tfoot></table></div>",
    )


def _cost_row(name: str, tokens: float, seconds: float) -> str:
    speed = write_count(tokens / seconds) if tokens and seconds else "–"
    return (
        f'<tr><th scope="row">{name}</th><td class="num">{write_count(tokens) if tokens else "–"}'
        f'</td><td class="num">{write_seconds(seconds)}</td><td class="num">{speed}</td></tr>'
    )


def _config(summary: Mapping[str, Any]) -> str:
    config = mapping(summary.get("config"))
    if not config:
        return ""
    text = escape(json.dumps(plain(config), indent=2, ensure_ascii=False))
    body = f'<details class="card"><summary>show all settings</summary><pre>{text}</pre></details>'
    return _section("Configuration", "", body)


# Parts


def _section(title: str, note: str, body: str) -> str:
    about = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{about}{body}</section>"


def _against(difference: Rate | None) -> str:
    if difference is None:
        return ""
    return f"{write_number(difference.mean, signed=True)} {write_interval(difference)}".strip()


def _count(value: Any) -> int:
    return max(0, int(number(value) or 0))


def _compact(value: Any) -> str:
    value = plain(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
