"""The tables of the documents, made from ``benchmarks/results/*.json``.

A document holds ``<!-- table: NAME -->`` and ``<!-- /table -->``; what stands between them is
written here, so that every figure comes from a file that says when, where and how it was
measured. ``NAME`` is a result's file name and, after a ``/``, one of its parts.

    python benchmarks/tables.py            print all tables
    python benchmarks/tables.py --write    put them into the documents
    python benchmarks/tables.py --check    status 1 if a document shows anything else
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from _common import (
    ENGINE_BARS,
    ENGINE_GOAL,
    INSPECTOR_BARS,
    MEMORY_BARS,
    RESULTS,
    ROOT,
    SANDBOX_BARS,
    TRAINING_BARS,
    TRAINING_GOAL,
    UNEVOLVED,
    standing,
)

from agent.report import (
    arm_label,
    arms_in_order,
    rate_of,
    write_count,
    write_interval,
    write_number,
)

DOCUMENTS = ("README.md", "benchmarks/README.md")
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- /table -->)", re.DOTALL)
Figures = Mapping[str, Any]


def rendered(name: str) -> str:
    """The table of that name as Markdown.

    Raises:
        SystemExit: no such table, or a file that is no result.
    """
    stem, _, part = name.partition("/")
    path = RESULTS / f"{stem}.json"
    if not path.is_file():
        return "not measured yet"
    try:
        figures = json.loads(path.read_text())
        parts = PARTS[figures["benchmark"]]
        return parts[part or next(iter(parts))](figures)
    except (ValueError, KeyError) as error:
        raise SystemExit(f"{name}: {path.name} cannot be shown ({error!r})") from error


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int = 1) -> str:
    """A Markdown table; columns from ``numbers_from`` on are set to the right."""
    rule = ["---" if i < numbers_from else "---:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def origin(figures: Figures) -> str:
    """Where the figures come from, in one line."""
    versions = figures["versions"]
    quick = " **A quick run: too small to mean much.**" if figures["quick"] else ""
    note = f" Note: {figures['note'].rstrip('.')}." if figures.get("note") else ""
    return (
        f"{figures['date']}, commit `{figures['commit']}`, {figures['machine']}, "
        f"Python {versions['python']}, torch {versions['torch']}, "
        f"transformers {versions['transformers']}: `{figures['command']}`.{quick}{note}"
    )


# rollout


def rollout(figures: Figures) -> str:
    """Rollouts against the engine alone."""
    rows = [
        _speed("real rollouts", figures["rollout"]),
        _speed("the engine alone, same requests", figures["plain"]),
    ]
    ratio = figures["ratio"]
    verdict = "reached" if ratio["median"] >= figures["target"] else "missed"
    return _paragraphs(
        table(("what", "tokens/s", "range", "seconds", "engine busy"), rows),
        f"Ratio **{ratio['median']:.3f}** [{ratio['low']:.3f}, {ratio['high']:.3f}] over "
        f"{len(ratio['all'])} repeats; the target of {figures['target']} is {verdict}.",
        origin(figures),
    )


def distributed_model(figures: Figures) -> str:
    """The default model, locally and over Ray."""
    own = figures["model"]
    rows = [_runner(name, own["runners"][name], "tokens") for name in own["runners"]]
    ratio = own["ratio"]
    return _paragraphs(
        table(("runner", "tokens/s", "range", "seconds"), rows),
        f"Ray over local: **{ratio['median']:.3f}** [{ratio['low']:.3f}, {ratio['high']:.3f}] over "
        f"{len(ratio['all'])} repeats of {own['episodes']} episodes; {own['same_tokens']:.0%} of "
        f"the episodes have the same tokens in both. Start of Ray with its actors: "
        f"{own['start_seconds']:.0f} s.",
        origin(figures),
    )


def distributed_worlds(figures: Figures) -> str:
    """Worlds written in Python, locally and over Ray."""
    own = figures["worlds"]
    rows = [_runner(name, own["runners"][name], "episodes") for name in own["runners"]]
    return _paragraphs(
        table(("runner", "episodes/s", "range", "seconds"), rows),
        f"{own['episodes']} episodes of {own['steps']} steps of {own['step_ms']:g} ms of Python.",
    )


def _runner(name: str, own: Figures, what: str) -> tuple[str, ...]:
    rates = own["all"]
    digits = 0 if what == "tokens" else 1
    return (
        name,
        f"{own['rate']:.{digits}f}",
        f"{min(rates):.{digits}f} to {max(rates):.{digits}f}",
        f"{own['seconds']:.1f}",
    )


def generate(figures: Figures) -> str:
    """The engine against transformers' generate."""
    first = figures["first_turns"]
    rows = [_speed("the engine", first["engine"]), _speed("`generate`", first["generate"])]
    ratio = first["ratio"]
    return _paragraphs(
        table(("first turns by", "tokens/s", "range", "seconds", "engine busy"), rows),
        f"Ratio **{ratio['median']:.2f}** [{ratio['low']:.2f}, {ratio['high']:.2f}], "
        f"{figures['settings']['generate_prompts']} prompts.",
    )


def profile(figures: Figures) -> str:
    """A decode step's largest rows."""
    told = figures["profile"]
    rows = [
        (
            f"`{row['name']}`",
            f"{row['share']:.1%}",
            f"{row['ms_per_step']:.2f}",
            f"{row['calls_per_step']:.0f}",
        )
        for row in told["operators"]
    ]
    return _paragraphs(
        table(("operator (own time)", "share", "ms a step", "calls a step"), rows),
        f"One decode step of {told['rows']} rows: {told['ms_per_step']:.1f} ms "
        f"({told['ms_per_step_profiled']:.1f} ms under the profiler).",
    )


def _speed(name: str, own: Figures) -> tuple[str, ...]:
    return (
        name,
        f"{own['tokens_per_second']:.0f}",
        f"{min(own['all']):.0f} to {max(own['all']):.0f}",
        f"{own['seconds']:.1f}",
        f"{own['engine_share']:.0%}",
    )


# engine and training

ENGINES = {
    "rollouts": "our rollouts, embedded engine",
    "generate": "transformers' `generate`, same prompts",
    "offline": "vLLM offline, same prompts",
    "offline-alike": "vLLM offline, with seeds and log-probabilities",
    "server": "our rollouts, vLLM server",
}
TRAINERS = {"own": "ours", "trl": "TRL's SFTTrainer", "plain": "a plain peft loop"}
CURVE = 8  # points of a loss curve that are shown


def engine(figures: Figures) -> str:
    """Rollouts beside generate and vLLM."""
    rows = [
        (
            ENGINES[name],
            own["dtype"],
            f"{own['tokens_per_second']:.0f}",
            f"{min(own['all']):.0f} to {max(own['all']):.0f}",
            f"{own['tokens']:,}",
            f"{own['seconds']:.1f}",
        )
        for name, own in figures["contestants"].items()
    ]
    how, got = figures["settings"], figures["bars"]
    name, goal = ENGINE_GOAL
    further = [f"{n} {r:.3f}" for n, r in got.items() if n not in ENGINE_BARS]
    told = _held(got, ENGINE_BARS)
    if name in got:
        reached = "reached" if got[name] >= goal else "missed"
        told += f" Goal: {name} at least {goal:g}, {reached}."
    if further:
        told += f" Also: {', '.join(further)}."
    if "share" in figures:
        told += (
            f" What the produced tokens alone compute (linear layers and head, no prompts) is "
            f"{figures['share']:.2%} of the matmul rate."
        )
    return _paragraphs(
        table(("what", "number type", "tokens/s", "range", "tokens", "seconds"), rows, 2),
        told,
        f"{how['episodes']} episodes, {how['requests']} requests, {how['rows']} rows at a time "
        f"(vLLM {how['vllm_rows']}), {how['threads']} threads, {how['repeats']} rounds, "
        f"{how['vllm']}.",
        origin(figures),
    )


def training(figures: Figures) -> str:
    """Training beside TRL and a plain loop."""
    rows, told = [], []
    ((what, (_, bar)),) = TRAINING_BARS.items()
    for kind, own in figures["kinds"].items():
        for name, one in own["contestants"].items():
            rows.append(
                (
                    f"{kind}: {TRAINERS[name]}",
                    f"{one['tokens_per_second']:.0f}",
                    f"{one['seconds']:.1f}",
                    f"{one['peak_mib']:,}",
                    f"{one['away']:.4f}",
                )
            )
        verdict = "reached" if own["ratio"] >= bar else "missed"
        goal = "reached" if own["share"] >= TRAINING_GOAL else "missed"
        shortest, middle, longest = own["lengths"]
        told.append(
            f"{kind} ({own['examples']} trajectories of {shortest} to {longest} tokens, half below "
            f"{middle}, {own['shared']} of them shared, {own['steps']} steps, rows of "
            f"{own['row_tokens']} tokens): {what} {own['ratio']:.2f} (bar: at least {bar:g}, "
            f"{verdict}); "
            f"{own['contestants']['own']['gflops']:.0f} GFLOP/s, {own['share']:.0%} of the matmul "
            f"rate (goal {TRAINING_GOAL:.0%}: {goal})."
        )
    rates, how = figures["matmul_gflops"], figures["settings"]
    measured = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
    return _paragraphs(
        table(("trajectories, trainer", "tokens/s", "seconds", "peak MiB", "loss, away"), rows),
        " ".join(told),
        f"Matmul rate, GFLOP/s: {measured}. Trained in {how['dtype']} with float32 adapters of "
        f"rank {how['rank']}, {how['threads']} threads.",
        origin(figures),
    )


def losses(figures: Figures) -> str:
    """The loss curves side by side, each step's own."""
    rows = []
    for kind, own in figures["kinds"].items():
        steps = own["steps"]
        shown = sorted({round(i * (steps - 1) / (CURVE - 1)) for i in range(CURVE)})
        for step in shown:
            found = [own["contestants"][name]["losses"][step] for name in TRAINERS]
            rows.append((f"{kind}, step {step + 1}", *(f"{loss:.3f}" for loss in found)))
    return table(("loss", *TRAINERS.values()), rows)


# evolution


def arms(figures: Figures) -> str:
    """Success of each arm on the test split."""
    names = arms_in_order(figures["arms"])
    rows = []
    for name in names:
        own = figures["arms"][name]
        against = figures["contrasts"].get(f"{name} - base")
        rows.append(
            (
                _arm(name),
                f"**{own['mean']:.3f}**",
                _interval(own),
                ", ".join(f"{m:.3f}" for m in own["seeds"]),
                f"{write_number(against['mean'], signed=True)} {_interval(against)}"
                if against
                else "",
            )
        )
    head = ("test split", "success", "95 % over tasks", "by seed", "against base")
    tasks = figures["arms"][names[0]]["n"]
    return _paragraphs(table(head, rows), f"{tasks} tasks, {_seeds(figures)}. {origin(figures)}")


def short(figures: Figures) -> str:
    """The same without the details, for the project's README."""
    rows = [
        (_arm(name), f"**{own['mean']:.2f}**", _interval(own))
        for name, own in ((name, figures["arms"][name]) for name in arms_in_order(figures["arms"]))
    ]
    minutes = sorted({f"{run['minutes']:.0f}" for run in figures["runs"]}, key=float)
    tasks = next(iter(figures["arms"].values()))["n"]
    return _paragraphs(
        table(("the agent", "success on the test split", "95 % interval"), rows),
        f"{tasks} test tasks, mean of {_seeds(figures)}, "
        f"{' to '.join(dict.fromkeys((minutes[0], minutes[-1])))} minutes a run on "
        f"{figures['machine']} "
        f"({figures['date']}, commit `{figures['commit']}`).",
    )


def contrasts(figures: Figures) -> str:
    """Paired differences between arms."""
    rows = [
        (
            " − ".join(arm_label(a) for a in name.split(" - ")),
            write_number(own["mean"], signed=True),
            _interval(own),
            _chance(own),
        )
        for name, own in figures["contrasts"].items()
    ]
    if together := figures.get("interaction"):
        shown = write_number(together["mean"], signed=True)
        row = ("interaction (both − memory − weights + base)", shown, _interval(together), "")
        rows.append(row)
    tested = 4 if any(row[3] for row in rows) else 3  # what was measured earlier has no p
    head = ("difference, task by task", "mean", "95 %", "p, Holm")
    return table(head[:tested], [row[:tested] for row in rows])


def _chance(contrast: Figures) -> str:
    return f"{contrast['p_holm']:.4f}" if "p_holm" in contrast else ""


def families(figures: Figures) -> str:
    """Success by family and arm."""
    names = arms_in_order(figures["arms"])
    rows = [
        (family, *(write_number(own[name]) for name in names))
        for family, own in figures["families"].items()
    ]
    return table(("family", *map(_arm, names)), rows)


def generations(figures: Figures) -> str:
    """Gate score of the agent that goes on, and the decision, per generation and seed."""
    rows = []
    for run in figures["runs"]:
        for g in run["generations"]:
            score = g["cells"].get(g["cell"]) or g["cells"].get("incumbent")
            decision = f"promoted: {g['cell']}" if g["decision"] == "promoted" else g["decision"]
            shown = f"{write_number(score['mean'])} {_interval(score)}" if score else ""
            rows.append((str(run["seed"]), str(g["n"]), decision, shown))
    return table(
        ("seed", "generation", "decision", "gate score of the agent that goes on"), rows, 3
    )


def costs(figures: Figures) -> str:
    """Minutes and tokens per phase, one column per seed."""
    runs = figures["runs"]
    phases = list(dict.fromkeys(p for run in runs for p in run["seconds"] if p != "total"))
    rows = [
        (
            phase,
            *(f"{run['seconds'].get(phase, 0) / 60:.1f}" for run in runs),
            *(write_count(run["tokens"].get(phase, 0)) for run in runs),
        )
        for phase in [*phases, "total"]
    ]
    seeds = [f"seed {run['seed']}" for run in runs]
    head = ("phase", *(f"minutes, {s}" for s in seeds), *(f"tokens, {s}" for s in seeds))
    return table(head, rows)


def gate(figures: Figures) -> str:
    """What the gate did, and what the incumbent scores at the end."""
    told = figures["gate"]
    base, both = figures["arms"].get("base"), figures["arms"].get("both")
    rows = [
        ("generations", str(told["generations"])),
        ("candidates tested", str(told["candidates"])),
        ("generations that promoted one", str(told["promoted"])),
        ("incumbent's gate score unchanged", "yes" if told["incumbent_unchanged"] else "no"),
    ]
    if base and both:
        rows += [
            ("test split, before", f"{base['mean']:.3f} {_interval(base)}"),
            ("test split, after", f"{both['mean']:.3f} {_interval(both)}"),
        ]
    data = "corrupted data" if figures["corrupt"] else "good data"
    switch = "on" if figures["gate_on"] else "off"
    return _paragraphs(table((f"{data}, gate {switch}", ""), rows), origin(figures))


# objectives


def objectives(figures: Figures) -> str:
    """Success of each arm by suite and objective, on practised and unseen families."""
    names = ("base", "memory", "weights", "both", "best_of_n", "gold")
    rows, notes = [], []
    for label, cell in figures["cells"].items():
        for group, own in (("all", cell), *cell.get("groups", {}).items()):
            shown = [own["arms"].get(name) for name in names]
            rows.append((
                f"`{label}`" if group == "all" else "", group,
                *(f"{write_number(arm['mean'])} {_interval(arm)}" if arm else "–" for arm in shown),
            ))  # fmt: skip
        minutes = [run["minutes"] for run in cell["runs"]]
        notes.append(
            f"`{label}`: {cell['arms']['base']['n']} test tasks, {_seeds(cell)}, "
            f"rounds: {len(cell['runs'][0]['generations']) - 1}, best of "
            f"{', '.join(str(run['samples']) for run in cell['runs'])}, {min(minutes):.0f} to "
            f"{max(minutes):.0f} minutes a seed, `{cell['commit']}`"
        )
    head = ("suite, objective", "families", "base", "memory", "weights", "both", "best of n",
            "gold, supervised")  # fmt: skip
    return _paragraphs(table(head, rows, 2), f"{'; '.join(notes)}. {origin(figures)}")


def objectives_contrasts(figures: Figures) -> str:
    """Paired differences by suite, objective and families, Holm-corrected over all of them."""
    rows, compared = [], 0
    for label, cell in figures["cells"].items():
        parts = [cell, *(cell.get("groups", {}).get(g, {}) for g in ("practised", "unseen"))]
        for name in cell["contrasts"]:
            found = [part.get("contrasts", {}).get(name) for part in parts]
            compared += sum(own is not None for own in found)
            rows.append((
                f"`{label}`", " − ".join(arm_label(a) for a in name.split(" - ")),
                *(f"{_difference(own)}, {_chance(own)}" if own else "" for own in found),
            ))  # fmt: skip
        if together := cell.get("interaction"):
            rows.append((f"`{label}`", "interaction", _difference(together), "", ""))
    head = ("suite, objective", "difference, task by task; p, Holm", "all families", "practised",
            "unseen")  # fmt: skip
    told = f"p of a paired permutation test over tasks, corrected over all {compared} comparisons."
    return _paragraphs(table(head, rows, 2), told)


def objectives_gold(figures: Figures) -> str:
    """Weights from own successes alone, against supervised training on gold."""
    rows = []
    for label, cell in figures["cells"].items():
        for group, own in cell["bar"].items():
            margin, bar = own["margin"], own["bar"]
            verdict = "nothing to reach"
            if own["ratio"] is not None:
                verdict = "reached" if own["ratio"] >= bar else "missed"
            steps = ", ".join(f"{g['own_steps']} / {g['steps']}" for g in cell["gold"])
            rows.append((
                f"`{label}`" if group == "all" else "", group,
                f"{own['ratio']:.2f}" if own["ratio"] is not None else "–", f"{bar:g}: {verdict}",
                _difference(margin), steps if group == "all" else "",
            ))  # fmt: skip
    head = ("suite, objective", "families", "own / gold", "bar", "own − bar × gold",
            "steps, own / gold, by seed")  # fmt: skip
    return table(head, rows, 2) if rows else "not measured yet"


# collapse


def collapse(figures: Figures) -> str:
    """Each condition's course on the retention tasks."""
    rows = []
    for name, own in figures["conditions"].items():
        rows.append((
            name, *(write_number(point["mean"]) for point in own["curve"]["retention"]),
            f"{own['worse']} of {len(own['steps'])}", write_number(own["largest_fall"]),
            _difference(own["against_prefix"]),
            f"{sum(own['promoted'])} of {own['generations'] * own['seeds']}",
        ))  # fmt: skip
    length = max(len(row) for row in rows) - 5
    rows = [(*row[: len(row) - 4], *[""] * (length - len(row) + 5), *row[-4:]) for row in rows]
    head = ("data and gate", *map(str, range(length)), "worse than before", "largest fall",
            "last − prefix", "promoted")  # fmt: skip
    return _paragraphs(table(head, rows), f"{_tasks_of(figures, 'retention')} {origin(figures)}")


def collapse_probe(figures: Figures) -> str:
    """The same on test tasks, which nothing was decided by."""
    length = max(len(own["curve"]["probe"]) for own in figures["conditions"].values())
    rows = []
    for name, own in figures["conditions"].items():
        curve = [write_number(point["mean"]) for point in own["curve"]["probe"]]
        lost = _difference(own["lost"]["probe"])
        rows.append((name, *curve, *[""] * (length - len(curve)), lost))
    head = ("data and gate", *map(str, range(length)), "last − best")
    return _paragraphs(table(head, rows), _tasks_of(figures, "probe"))


def _tasks_of(figures: Figures, split: str) -> str:
    """What the curve is of, in two sentences."""
    conditions = list(figures["conditions"].values())
    tasks = conditions[0]["curve"][split][0]["n"]
    seeds = sorted({own["seeds"] for own in conditions})
    minutes = [m for own in conditions for m in own["minutes"]]
    return (
        f"{tasks} {split} tasks, greedy; the columns are generations, {figures['prefix']} of which "
        f"all conditions share; {' or '.join(map(str, seeds))} "
        f"{'seed' if seeds == [1] else 'seeds'}, {min(minutes):.0f} to {max(minutes):.0f} minutes "
        "a condition and seed."
    )


# prompt


def prompt(figures: Figures) -> str:
    """Success of the unevolved agent under different prompts."""
    rows = [
        (
            name,
            f"**{own['mean']:.3f}**",
            _interval(own),
            *map(write_number, own["families"].values()),
        )
        for name, own in figures["prompts"].items()
    ]
    families = next(iter(figures["prompts"].values()))["families"]
    tasks = next(iter(figures["prompts"].values()))["n"]
    return _paragraphs(
        table(("prompt", "success", "95 %", *families), rows),
        f"{tasks} train tasks, greedy. {origin(figures)}",
    )


def _arm(name: str) -> str:
    return {
        "base": "base (unevolved)",
        "memory": "memory only",
        "weights": "weights only",
        "best_of_n": "best of n, unevolved, same tokens",
        "pass_at_n": "pass@n, unevolved (a perfect judge)",
    }.get(name, arm_label(name))


def _seeds(figures: Figures) -> str:
    return "1 seed" if figures["seeds"] == 1 else f"{figures['seeds']} seeds"


def _interval(score: Figures) -> str:
    read = rate_of(score)
    return write_interval(read) if read else ""


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(parts)


# suites


def suites(figures: Figures) -> str:
    """Base against evolved, suite by suite."""
    rows = []
    for name, own in figures["suites"].items():
        arms, gate = own["arms"], own["gate"]
        minutes = [run["minutes"] for run in own["runs"]]
        best = arms.get("best_of_n")
        rows.append(
            (
                f"`{name}`",
                *(write_number(arms[a]["mean"]) for a in ("base", "memory", "weights")),
                f"**{write_number(arms['both']['mean'])}**",
                _difference(own["contrasts"]["both - base"]),
                write_number(best["mean"]) if best else "–",
                f"{gate['promoted']} of {gate['generations']}",
                f"{arms['both']['n']}",
                f"{own['seeds']}",
                f"{min(minutes):.0f} to {max(minutes):.0f}",
                f"`{own['commit']}`",
            )
        )
    head = ("suite", "base", "memory", "weights", "both", "both − base", "best of n", "promoted",
            "test tasks", "seeds", "minutes", "commit")  # fmt: skip
    return _paragraphs(table(head, rows), origin(figures), *_notes(figures))


def suites_families(figures: Figures) -> str:
    """The same, family by family."""
    rows, names = [], arms_in_order(a for own in figures["suites"].values() for a in own["arms"])
    for suite, own in figures["suites"].items():
        for family, arms in own["families"].items():
            shown = (write_number(arms[name]) if name in arms else "–" for name in names)
            rows.append((f"`{suite}`", family, *shown))
    return table(("suite", "family", *map(_arm, names)), rows, 2)


def suites_base(figures: Figures) -> str:
    """What the unevolved agent does by itself."""
    rows = [
        (
            f"`{name}`",
            f"{own['greedy']} of {own['tasks']}",
            f"{own['sampled']} of {own['tasks'] * own['samples']}",
            ", ".join(f"{f} {write_number(v)}" for f, v in own["families"].items() if v) or "none",
            f"{own['seconds']:.0f}",
            f"`{own.get('commit', figures['commit'])}`",
        )
        for name, own in figures["suites"].items()
    ]
    head = ("suite", "greedy", "sampled", "families with a success (rate)", "seconds", "commit")
    return _paragraphs(table(head, rows), origin(figures), *_notes(figures))


def _notes(figures: Figures) -> list[str]:
    """What is to be known about single rows of a file that is brought up to date row by row."""
    return [
        f"`{name}`: {own['note']}."
        for name, own in figures["suites"].items()
        if own.get("note") not in (None, figures.get("note"))
    ]


def _difference(score: Figures) -> str:
    mean, low, high = (write_number(score[k], signed=True) for k in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


# sandbox


def sandbox(figures: Figures) -> str:
    """One program in every way there is."""
    rows = []
    for part, note in (("execs", ""), ("episodes", ": made, one program, closed")):
        for name, own in figures[part].items():
            p50, p99 = f"{own['p50_ms']:.1f}", f"{own['p99_ms']:.1f}"
            rows.append((f"{name}{note}", p50, p99, f"{own['per_second']:.0f}"))
    rows += [(name, "–", "–", reason) for name, reason in figures["missing"].items()]
    told = ", ".join(
        f"{name} {figures['bars'][name]:.2f} (bar {bar:g}: "
        f"{'reached' if figures['bars'][name] <= bar else 'missed'})"
        for name, bar in SANDBOX_BARS.items()
        if name in figures["bars"]
    )
    head = ("way", "p50 ms", "p99 ms", "a second")
    return _paragraphs(table(head, rows), f"{told}.", origin(figures))


# environments


def worlds(figures: Figures) -> str:
    """Steps of the text worlds, and what the watch adds."""
    rows = [
        (
            name,
            f"{own['p50_us']:.1f}",
            f"{own['p99_us']:.1f}",
            f"{own['per_second']:,.0f}",
            f"{own['with_list_per_second']:,.0f}",
            f"{own['steps']:,}",
        )
        for name, own in figures["worlds"].items()
    ]
    rows += [(name, "–", "–", "–", "–", reason) for name, reason in figures["missing"].items()]
    told = []
    for name, bar in figures["bars"].items():
        got = figures["worlds"][name]["with_list_per_second"]
        verdict = "reached" if got >= bar else "missed"
        told.append(f"{name}: {got:,.0f} steps a second with the list (bar {bar:,}: {verdict}).")
    own = figures["watch"]
    told.append(
        f"The watch adds {own['added_us']:.1f} µs to a call (median of {own['calls']:,}; "
        f"{own['watched_us']:.1f} against {own['unwatched_us']:.1f} µs)."
    )
    head = ("world", "step, p50 µs", "p99 µs", "a second", "with the list, a second", "steps")
    return _paragraphs(table(head, rows), " ".join(told), origin(figures))


# memory


def memory_learning(figures: Figures) -> str:
    """What each way of remembering is worth with frozen weights."""
    rows, notes = [], []
    for suite, own in figures["suites"].items():
        for name, arm in own["arms"].items():
            gap = own["contrasts"].get(f"ours - {name}")
            spent = sum(arm["tokens"].values()) if "tokens" in arm else None
            rows.append((
                f"`{suite}`", name, f"{write_number(arm['mean'])} {_interval(arm)}",
                _difference(gap) if gap else "",
                f"{gap['p_holm']:.4f}" if gap and "p_holm" in gap else "",
                f"{arm['items']:.0f}" if "items" in arm else "",
                f"{arm['prompt']:.0f}" if "prompt" in arm else "",
                write_count(round(spent)) if spent is not None else "",
            ))  # fmt: skip
        notes.append(f"{suite}: {own['tasks']} test tasks, {_seeds(own)}, `{own['commit']}`")
    head = ("suite", "memory", "success", "ours minus it", "p, Holm", "items", "prompt tokens",
            "tokens spent learning")  # fmt: skip
    return _paragraphs(table(head, rows, 2), f"{'; '.join(notes)}. {origin(figures)}")


def methods(figures: Figures) -> str:
    """Recipes on the same budget of tokens, best first."""
    rows, notes = [], []
    for suite, own in figures["suites"].items():
        for name, arm in sorted(own["arms"].items(), key=lambda a: -a[1]["mean"]):
            gap = own["contrasts"].get(name)
            counts = [write_count(round(arm[p])) if p in arm else ""
                      for p in ("tokens", "gate_tokens")]  # fmt: skip
            rows.append((
                f"`{suite}`", _arm_of(name) + " †" * arm.get("lent", False),
                f"{write_number(arm['mean'])} {_interval(arm)}", _difference(gap) if gap else "",
                f"{gap['p_holm']:.3f}" if gap else "", *counts,
                f"{arm['seconds']:.0f}" if "seconds" in arm else "",
                f"{arm['items']:.0f}" if "items" in arm else "",
                write_number(arm["lost"]) if arm.get("lost") is not None else "",
            ))  # fmt: skip
        notes.append(
            f"{suite}: `instar` is {standing(own)}; {_seeds(own)}, budget "
            f"{write_count(own['budget'])} tokens, best of {own['arms']['best_of_n']['samples']}, "
            f"{own['date']}, `{own['commit']}`."
        )
        if own["missing"]:
            out = "; ".join(f"`{name}`: {why}" for name, why in own["missing"].items())
            notes.append(f"Cannot be run on {suite}: {out}.")
    head = ("suite", "recipe", "success", "instar minus it", "p, Holm", "tokens", "gate's tokens",
            "seconds", "items", "lost")  # fmt: skip
    return _paragraphs(table(head, rows, 2), " ".join(notes), origin(figures))


def _arm_of(name: str) -> str:
    return UNEVOLVED.get(name, f"`{name}`")


def memory_index(figures: Figures) -> str:
    """Ours beside Chroma and mem0: adding, and being asked."""
    rows = []
    for size, own in figures["sizes"].items():
        asked = own["asked"]
        for name in ("ours", "Chroma, same graph", "Chroma as it comes"):
            added, ours = own[name], name == "ours"
            times = asked["times"]["index" if ours else name]
            rows.append((
                f"{int(size):,}", f"{name}{', the index alone' if ours else ''}",
                f"{times['p50_ms']:.2f}", f"{times['p99_ms']:.2f}",
                f"{asked['recall_at_10'][name]:.4f}", f"{added['add_per_second']:,.0f}",
                f"{added['rss_mb']:.0f}", f"{added['disk_mb']:,.0f}",
            ))  # fmt: skip
            if ours:
                whole = asked["times"]["recall"]
                rows.append((
                    f"{int(size):,}", "ours, a whole recall",
                    f"{whole['p50_ms']:.2f}", f"{whole['p99_ms']:.2f}", "", "", "", "",
                ))  # fmt: skip
        if isinstance(own.get("mem0"), dict):
            got = own["mem0"]
            rows.append((
                f"{int(size):,}", "mem0", f"{got['p50_ms']:.2f}", f"{got['p99_ms']:.2f}", "",
                f"{got['add_per_second']:,.0f}", "", f"{got['disk_mb']:,.0f}",
            ))  # fmt: skip
    head = ("items", "system", "asked, p50 ms", "p99 ms", "recall@10", "added a second",
            "memory, MiB", "disk, MiB")  # fmt: skip
    embedding = [own["asked"]["times"]["embedding"]["p50_ms"] for own in figures["sizes"].values()]
    missing = "".join(f" Not measured: {n} ({why})." for n, why in figures["missing"].items())
    return _paragraphs(
        table(head, rows, 2),
        f"A whole recall embeds its query as well ({min(embedding):.1f} to {max(embedding):.1f} "
        f"ms); all others are given the vector. {_held(figures['bars'], MEMORY_BARS)}{missing}",
        origin(figures),
    )


def inspector(figures: Figures) -> str:
    """How quick the pages are."""
    rows = [
        (f"{what}{name}", f"{own['p50_ms']:.0f}", f"{own['p95_ms']:.0f}", f"{own['worst_ms']:.0f}")
        for what, part in (("", "pages"), ("scrubbing: ", "scrub"))
        for name, own in figures[part].items()
    ]
    prepared = ", ".join(
        f"{name} {value:g}{'' if 'MiB' in name else ' s'}"
        for name, value in figures["prepared"].items()
    )
    return _paragraphs(
        table(("page", "p50 ms", "p95 ms", "worst ms"), rows),
        f"{figures['items']:,} items, {figures['episodes']:,} episodes, {figures['generations']} "
        f"generations. {_held(figures['bars'], INSPECTOR_BARS)} Before that: {prepared}.",
        origin(figures),
    )


def _held(got: Figures, bars: Mapping[str, tuple[str, float]]) -> str:
    """Figures and whether each keeps to its bar; those that a bar is set for."""
    told = []
    for name, (side, bar) in bars.items():
        if name in got:
            good = got[name] <= bar if side == "at most" else got[name] >= bar
            verdict = "reached" if good else "missed"
            told.append(f"{name} {got[name]:.4g} (bar: {side} {bar:g}, {verdict})")
    return f"{', '.join(told)}."


# poisoning


def poisoning(figures: Figures) -> str:
    """Attacks on memory: how often they succeed, and what they and the defence cost."""
    attacks = list(next(iter(figures["arms"].values()))["attacks"])
    rows = []
    for name, own in figures["arms"].items():
        cells = [own["attacks"][attack] for attack in attacks]
        rows.append((name, *(_share(cell["worst"]) for cell in cells),
                     write_number(min(cell["utility"]["mean"] for cell in cells), signed=True),
                     _difference(own["first_against_undefended"]),
                     _difference(own["last_against_undefended"])))  # fmt: skip
    head = ("memory", *attacks, "ordinary tasks, worst attack",
            "no attack, first generation, against undefended", "the same, last")  # fmt: skip
    n = {a: next(iter(figures["arms"].values()))["attacks"][a]["worst"]["n"] for a in attacks}
    tasks = ", ".join(f"{count} for {attack}" for attack, count in n.items())
    return _paragraphs(
        table(head, rows),
        f"Share of victim tasks ({tasks}) whose answer became the attacker's, in the worst "
        f"generation, {_seeds(figures)}; Wilson's 95 % interval. {origin(figures)}",
    )


def _share(score: Figures) -> str:
    return f"{score['mean']:.1%} [{score['low']:.1%}, {score['high']:.1%}]"


PARTS: dict[str, dict[str, Callable[[Figures], str]]] = {
    "memory-learning": {"learning": memory_learning},
    "methods": {"methods": methods},
    "memory": {"index": memory_index},
    "inspector": {"inspector": inspector},
    "poisoning": {"poisoning": poisoning},
    "engine": {"engine": engine},
    "training": {"training": training, "losses": losses},
    "rollout": {"rollout": rollout, "generate": generate, "profile": profile},
    "distributed": {"model": distributed_model, "worlds": distributed_worlds},
    "evolution": {
        "arms": arms,
        "short": short,
        "contrasts": contrasts,
        "families": families,
        "generations": generations,
        "costs": costs,
        "gate": gate,
    },
    "objectives": {
        "arms": objectives,
        "contrasts": objectives_contrasts,
        "gold": objectives_gold,
    },
    "collapse": {"retention": collapse, "probe": collapse_probe},
    "prompt": {"prompt": prompt},
    "suites": {"suites": suites, "families": suites_families},
    "suites-base": {"base": suites_base},
    "sandbox": {"sandbox": sandbox},
    "worlds": {"worlds": worlds},
}


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--write", action="store_true", help="put the tables into the documents")
    options.add_argument("--check", action="store_true", help="are the documents up to date?")
    arguments = options.parse_args()
    stale = []
    for document in DOCUMENTS:
        path = ROOT / document
        text = path.read_text()
        if not (arguments.write or arguments.check):
            for match in BLOCK.finditer(text):
                print(f"{document}: {match[2]}\n\n{rendered(match[2])}\n")
            continue
        filled = BLOCK.sub(lambda m: f"{m[1]}{rendered(m[2])}\n{m[3]}", text)
        if filled == text:
            continue
        if arguments.check:
            stale.append(document)
        else:
            path.write_text(filled)
            print(f"written: {document}")
    if stale:
        raise SystemExit(f"{', '.join(stale)}: run python benchmarks/tables.py --write")


if __name__ == "__main__":
    main()
