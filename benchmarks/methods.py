"""Recipes side by side: what each method is worth on the same budget of tokens.

Each cell is one recipe on one suite with one seed, in ``runs/bench-methods-SUITE-RECIPE-sSEED``;
what came of it is kept in a folder beside ``--json``, and read from there if it lies there.
A recipe is run as it is shipped, gate and all, with its own number of samples; how many tasks a
generation has follows from that, so that some generations fit into the budget, and no generation
begins of which less than half would fit (``token_budget``): tokens of practice, of writing and of
training. What each took, and what the gate took on top, stands beside the result; so do the
unevolved agent and best of n, the unevolved agent's samples on the same tokens, of which the most
frequent answer counts. Then the evolved agent answers the test tasks, greedily, once.

A recipe that only mends its own tries, with neither memory nor weights that outlive them, learns
from them by our weights' update (marked in the tables).

``lost`` is the share of what the unevolved agent solves on the test split that the evolved one
does not. Differences are ``instar`` minus the other, task by task, with the p of a permutation
test, Holm-corrected over the suite's recipes; a recipe that a suite cannot run says why.

    INSTAR_DATA=FOLDER python benchmarks/methods.py --json benchmarks/results/methods.json
    python benchmarks/methods.py reasoning-gym --recipes instar expel rft --seeds 1
    python benchmarks/methods.py --plot benchmarks/results/methods.svg \\
        --json benchmarks/results/methods.json
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from _common import (
    OURS,
    ROOT,
    circumstances,
    measured,
    parser,
    piece,
    save,
    standing,
)
from _evolved import pool
from rich.console import Console
from rich.table import Table

from agent.cli import _status
from agent.config import Config, find_recipe, load_config, recipes
from agent.evolution.cycle import evolve, learning_tokens
from agent.evolution.final import majority
from agent.evolution.play import measure
from agent.loop import Assignment
from agent.report import write_number
from agent.run import Run
from agent.run_folder import BASE
from agent.stats import holm, paired_difference, paired_p, rate
from memory import history
from memory.records import Trajectory

ROUNDS = 2  # about so many generations fit into the budget, where a task is not too dear
WRITTEN = 1.5  # what a generation takes that trains no weights, to what its practice takes
MOST_GENERATIONS = 8
LEAST_TASKS = 6
BEST_OF_MOST = 16
COLOURS = {OURS: "#0b7285", "base": "#868e96", "best_of_n": "#868e96"}


class Bench(NamedTuple):
    """How recipes are run on a suite.

    Args:
        suite: laid over a recipe.
        each: about how many tokens one episode writes.
        budget: tokens that a recipe may take: what RFT's smallest generation does (100 samples of 6
            tasks), and more where an episode takes few.
        most: tasks of a generation.
        trained: what a generation takes that trains weights, to what its practice takes: the more,
            the more an episode reads for each token that it writes.
    """

    suite: str
    each: int
    budget: int = 48_000
    most: int = 64
    trained: float = 2.5


SUITES = {
    "reasoning-gym": Bench(
        "{name: reasoning-gym, tasks: {train: 60, gate: 8, retention: 4, test: 15}}", 57
    ),
    "banking77": Bench(
        "{name: banking77, tasks: {train: 240, gate: 20, retention: 4, test: 20}}",
        8, budget=72_000, most=240,
    ),
    # Two games that the unevolved agent solves now and then, as in the objectives' campaign.
    "textworld": Bench(
        "{name: textworld-express, options: {games: [coin, twc], per_game: 400, steps: 10, params: "
        "{coin: ['numLocations=3,includeDoors=0', 'numLocations=5,includeDoors=0'], "
        "twc: ['numLocations=1,numItemsToPutAway=1', 'numLocations=2,numItemsToPutAway=1']}}, "
        "tasks: {train: 80, gate: 30, retention: 8, test: 50}}",
        31, budget=120_000, trained=8,
    ),
    "mbpp": Bench("{name: mbpp, tasks: {train: 60, gate: 16, retention: 4, test: 40}}", 60),
}  # fmt: skip
QUICK = ("acquire.tasks=4", "acquire.first_tasks=4", "generations=1")


def methods() -> list[str]:
    """The recipes that stand for a method: those that name no suite. Ours comes first."""
    found = [n for n in recipes() if "suite" not in (yaml.safe_load(_text(n)) or {})]
    return [OURS, *(name for name in found if name != OURS)]


def _text(recipe: str) -> str:
    return find_recipe(recipe).read_text()


def configured(suite: str, recipe: str, seed: int, budget: int, quick: bool) -> Config:
    """A recipe on a suite, with as many tasks a generation as its budget has room for."""
    bench = SUITES[suite]
    own = [
        f"suite={bench.suite}",
        f"seed={seed}",
        f"token_budget={budget}",
        f"generations={MOST_GENERATIONS}",
        "test.run=false",
    ]
    shipped = load_config(recipe, own)
    if not outlives(shipped):
        own.append("update_weights.enabled=true")
    acquire = shipped.acquire
    tries = acquire.samples + acquire.further_samples + acquire.retries
    trains = shipped.update_weights.enabled or not outlives(shipped)
    dear = tries * bench.each * (bench.trained if trains else WRITTEN)
    tasks = min(bench.most, max(LEAST_TASKS, round(budget / ROUNDS / dear)))
    own += [f"acquire.tasks={tasks}", f"acquire.first_tasks={tasks}", *(QUICK if quick else ())]
    return load_config(recipe, own)


def outlives(config: Config) -> bool:
    """Whether anything of what is learnt outlives its task."""
    return config.update_memory.enabled or config.update_weights.enabled


def live(folder: Path, config: Config, out: Console) -> dict[str, Any]:
    """Evolve one cell and test it; what came of it, and what it took."""
    with Run(folder, config, console=out) as run:
        last = evolve(run)
        tested = measure(run, "test · evolved", "test", last.memory, last.weights)
        items = history.items(run.ledger, last.memory)
        generations = run.generations()[1:]
        return {
            "success": tested,
            "tokens": learning_tokens(run)[0],
            "gate_tokens": sum(g.tokens.get("evaluate", 0) for g in run.generations()),
            "seconds": round(sum(sum(g.seconds.values()) for g in generations), 1),
            "items": len(items),
            "characters": sum(len(item.text) for item in items),
            "trained": last.weights != BASE,
            "generations": len(generations),
            "promoted": sum(g.decision == "promoted" for g in generations),
        }


def unevolved(folder: Path, config: Config, budget: int, out: Console) -> dict[str, Any]:
    """The agent as it is, and the majority of as many samples a test task as the budget buys."""
    with Run(folder, config, console=out) as run:
        run.publish()
        tasks = run.tasks("test")
        first = measure(run, "test · unevolved", "test", "", BASE)
        spent = max(1, run.tokens("test/"))
        n = max(1, min(BEST_OF_MOST, round(budget / spent)))
        samples = [
            Assignment(f"best_of/{i}/{task.id}", task, "test", "test",
                       config.test.best_of_temperature)
            for i in range(n)
            for task in tasks
        ]  # fmt: skip
        drawn: dict[str, list[Trajectory]] = {}
        for t in run.episodes(f"test · best of {n}", samples, BASE):
            drawn.setdefault(t.task, []).append(t)
        return {
            "success": first,
            "best_of_n": {task: majority(own) for task, own in drawn.items()},
            "families": {task.id: task.family for task in tasks},
            "samples": n,
            "tokens": run.tokens("best_of/"),
        }


def cell(
    suite: str, recipe: str, seed: int, budget: int, quick: bool, file: Path | None, out: Console
) -> dict[str, Any]:
    """One cell, as it was kept if it is done; ``why`` where the suite cannot run the recipe."""
    label = f"{suite}-{recipe}{'-quick' if quick else ''}-s{seed}"
    folder = ROOT / "runs" / f"bench-methods-{label}"
    config = configured(suite, OURS if recipe == "base" else recipe, seed, budget, quick)

    def measure() -> dict[str, Any]:
        out.print(f"[bold]{suite} · {recipe} · seed {seed}[/bold]")
        try:
            if recipe == "base":
                return unevolved(folder, config, budget, out)
            return live(folder, config, out)
        except Exception as error:
            if _status(error) is None:
                raise
            why = " ".join(str(error).split())
            out.print(f"  {why}", markup=False)
            return {"why": why}

    found = piece(file, label, config, measure)
    shutil.rmtree(folder / "index", ignore_errors=True)  # can be rebuilt
    return found


def told(base: Sequence[Mapping[str, Any]], cells: Mapping[str, Any]) -> dict[str, Any]:
    """One suite: each recipe's figures over its seeds, and the differences from ours.

    Args:
        base: per seed, what `unevolved` found.
        cells: per recipe and seed, what `live` found.
    """
    families = dict(base[0]["families"])
    arms: dict[str, list[Mapping[str, float]]] = {
        "base": [b["success"] for b in base],
        "best_of_n": [b["best_of_n"] for b in base],
    }
    missing = {name: own[0]["why"] for name, own in cells.items() if "why" in own[0]}
    ran = {name: own for name, own in cells.items() if name not in missing}
    arms |= {name: [c["success"] for c in own] for name, own in ran.items()}
    pooled = {name: pool(own) for name, own in arms.items()}
    figures: dict[str, Any] = {"seeds": len(base), "arms": {}, "contrasts": {}, "missing": missing}
    for name, own in pooled.items():
        tasks = sorted(own)
        score = rate([own[t] for t in tasks], [families[t] for t in tasks])
        figures["arms"][name] = score.model_dump(mode="json")
    figures["arms"]["best_of_n"]["samples"] = base[0]["samples"]
    for name, seeds in ran.items():
        parts = ("tokens", "gate_tokens", "seconds", "items", "characters", "promoted")
        costs = {part: round(sum(s[part] for s in seeds) / len(seeds), 1) for part in parts}
        figures["arms"][name] |= costs | {
            "lent": not outlives(load_config(name)),
            "generations": sum(s["generations"] for s in seeds) / len(seeds),
            "lost": _lost(arms["base"], arms[name]),
        }
    if OURS in pooled:
        ours = pooled[OURS]
        for name, own in pooled.items():
            if name == OURS:
                continue
            tasks = sorted(ours.keys() & own.keys())
            pair = [ours[t] for t in tasks], [own[t] for t in tasks]
            gap = paired_difference(*pair, [families[t] for t in tasks])
            figures["contrasts"][name] = gap.model_dump(mode="json") | {"p": paired_p(*pair)}
        corrected = holm([c["p"] for c in figures["contrasts"].values()])
        for contrast, p in zip(figures["contrasts"].values(), corrected, strict=True):
            contrast["p_holm"] = round(p, 5)
    return figures


def _lost(
    base: Sequence[Mapping[str, float]], evolved: Sequence[Mapping[str, float]]
) -> float | None:
    """Of what the unevolved agent solved, the share that the evolved one does not; by seed."""
    pairs = [
        (before[t], after[t])
        for before, after in zip(base, evolved, strict=True)
        for t in before.keys() & after.keys()
        if before[t]
    ]
    return round(sum(b > a for b, a in pairs) / len(pairs), 4) if pairs else None


def show(suites: Mapping[str, Any], out: Console) -> None:
    """Each suite's recipes, best first."""
    for suite, own in suites.items():
        table = Table(box=None, header_style="bold", pad_edge=False, title=suite)
        for column in ("recipe", "success", "95 %", "instar minus it", "tokens", "gate", "items",
                       "lost"):  # fmt: skip
            table.add_column(column)
        for name, arm in sorted(own["arms"].items(), key=lambda a: -a[1]["mean"]):
            gap = own["contrasts"].get(name)
            table.add_row(
                name,
                write_number(arm["mean"]),
                f"\\[{write_number(arm['low'])}, {write_number(arm['high'])}]",
                write_number(gap["mean"], signed=True) if gap else "",
                *(f"{arm[p]:,.0f}" if p in arm else "" for p in ("tokens", "gate_tokens", "items")),
                write_number(arm["lost"]) if arm.get("lost") is not None else "",
            )
        out.print(table)
        for name, why in own["missing"].items():
            out.print(f"{name}: {why}", markup=False)
        out.print(f"instar: {standing(own)}")


def plot(suites: Mapping[str, Any], file: Path) -> None:
    """Success of each recipe with its interval, a panel a suite; ours and the unevolved marked."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "instar"  # the same figures draw the same file
    from matplotlib import pyplot

    most = max(len(own["arms"]) for own in suites.values())
    figure, panels = pyplot.subplots(
        1, len(suites), figsize=(4.2 * len(suites), 0.24 * most + 1), squeeze=False
    )
    for panel, (suite, own) in zip(panels[0], suites.items(), strict=True):
        arms = sorted(own["arms"].items(), key=lambda a: a[1]["mean"])
        for at, (name, arm) in enumerate(arms):
            colour = COLOURS.get(name, "#343a40")
            panel.plot([arm["low"], arm["high"]], [at, at], color=colour, linewidth=1.5)
            panel.plot([arm["mean"]], [at], "o", color=colour, markersize=4)
        panel.set_yticks(range(len(arms)), [name.replace("_", " ") for name, _ in arms], fontsize=7)
        panel.set_xlim(left=0)
        panel.grid(axis="x", linewidth=0.3)
        panel.set_title(f"{suite}, {own['seeds']} seed{'s' * (own['seeds'] > 1)}", fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    print(f"written: {file}")


def main() -> None:
    every = methods()
    options = parser(__doc__)
    options.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}")
    options.add_argument("--recipes", nargs="+", metavar="RECIPE", help="these alone, not all")
    options.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    options.add_argument("--budget", type=int, help="tokens a cell (each suite's own)")
    options.add_argument("--plot", type=Path, metavar="SVG", help="draw what stands in --json")
    arguments = options.parse_args()
    out = Console(highlight=False)
    found: dict[str, Any] = {}
    if arguments.json and arguments.json.is_file():
        found = json.loads(arguments.json.read_text())["suites"]
    if arguments.plot:
        if not found:
            options.error("--plot draws what --json FILE holds, and that holds nothing")
        plot(found, arguments.plot)
        return
    names, chosen = arguments.suites or list(SUITES), arguments.recipes or every
    unknown = [*(set(names) - set(SUITES)), *(set(chosen) - set(every))]
    if unknown:
        options.error(f"unknown: {', '.join(sorted(unknown))}")
    for suite in names:
        budget = arguments.budget or (500 if arguments.quick else SUITES[suite].budget)
        base: list[dict[str, Any]] = []
        cells: dict[str, list[dict[str, Any]]] = {}
        for seed in range(arguments.seeds):
            settings = seed, budget, arguments.quick, arguments.json, out
            base.append(cell(suite, "base", *settings))
            for recipe in chosen:
                own = cell(suite, recipe, *settings)
                cells.setdefault(recipe, []).append(own)
                # Recipes with as many seeds as the unevolved agent; the others follow.
                full = {n: c for n, c in cells.items() if len(c) == len(base)}
                when = measured([*base, *(c for own in full.values() for c in own)])
                found[suite] = circumstances("methods") | when | {"budget": budget}
                found[suite] |= told(base, full)
                now = circumstances("methods") | {"quick": arguments.quick, "suites": found}
                save(arguments.json, now | measured(list(found.values())))
    show(found, out)


if __name__ == "__main__":
    main()
