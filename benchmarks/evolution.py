"""What evolution reaches: a recipe over several seeds, each arm with its interval.

Each seed is one ``instar evolve`` in a run folder of its own, ``runs/bench-NAME-sSEED``; what
is already there is continued, so the benchmark can be interrupted; a long run continues a
copy of the same seed's quickstart, if there is one. How arms are read and compared is told in
``_evolved.py``.

    python benchmarks/evolution.py --json benchmarks/results/evolution.json
    python benchmarks/evolution.py --long --json benchmarks/results/evolution-long.json
    python benchmarks/evolution.py --corrupt --json benchmarks/results/evolution-corrupt.json
    python benchmarks/evolution.py --quick

With ``--objective`` the same is asked of each objective of the weights, on suites of which some
families are never practised (``OBJECTIVES`` and ``SUITES`` below): memory × weights, best of n on
the same tokens, and beside them weights that were trained on gold solutions with the same base,
trainer and number of optimiser steps (``_gold.py``). p-values are Holm-corrected over all
comparisons of the file, which is brought up to date seed by seed: what is not measured yet is
missing in it. What came of a seed is kept in a folder beside the file.

    python benchmarks/evolution.py --objective sft dpo grpo --suite reasoning-gym textworld \\
        --json benchmarks/results/objectives.json
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from _common import (
    ROOT,
    circumstances,
    measured,
    parser,
    piece,
    save,
    told_in_a_line,
)
from _evolved import Seed, aggregate, correct, evolve, pool, read
from _gold import supervise
from rich.console import Console
from rich.table import Table

from agent.config import Config, load_config
from agent.evolution.cycle import evolve as evolve_in
from agent.evolution.final import test
from agent.report import arm_label, rate_of, write_count, write_interval, write_number
from agent.run import Run
from agent.run_folder import BASE, SUMMARY, open_ledger, stored_adapter
from agent.stats import paired_difference
from agent.training.adapter import read_manifest
from memory.ledger import Ledger
from memory.records import Generation, Note, Trajectory

RECIPE = "quickstart"
LONG_GENERATIONS = 6
QUICK = (
    "generations=1",
    "suite.options={families: [products, count_bits, chain_sum], per_family: 60}",
    "suite.tasks={train: 12, gate: 4, retention: 2, test: 4}",
    "acquire.tasks=9",
    "acquire.first_tasks=9",
    "acquire.samples=2",
    "acquire.further_samples=0",
    "update_weights.min_examples=2",
    "test.best_of_max=2",
)

# By objective. What learns from pairs and groups has many of them: a few of each task keep a
# generation's training within minutes.
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "sft": (),
    "weighted": ("update_weights.weighted.per_task=4",),
    "dpo": ("update_weights.dpo.pairs_per_task=1",),
    "kto": ("update_weights.kto.per_task=1",),
    "grpo": ("update_weights.grpo.per_task=4", "update_weights.epochs=2"),
}
ROUNDS = 5
# By suite: a recipe and what is laid over it, so that a seed with five rounds takes about half an
# hour, some families are tested and never practised, and there are 200 test tasks or more.
SUITES: dict[str, tuple[str, tuple[str, ...]]] = {
    "reasoning-gym": (
        "quickstart",
        (
            "suite.options={families: [chain_sum, products, count_bits, letter_counting, gcd, "
            "spell_backward, basic_arithmetic, word_sequence_reversal, lcm, decimal_chain_sum]}",
            "suite.unseen=[basic_arithmetic, word_sequence_reversal, lcm, decimal_chain_sum]",
            "acquire.tasks=36",
            "acquire.samples=8",
            "test.best_of_max=16",
        ),
    ),
    "textworld": (
        "textworld",
        (
            "suite.options={games: [coin, twc, peckingorder], per_game: 1000, "
            "steps: 10, params: {coin: ['numLocations=3,includeDoors=0', "
            "'numLocations=5,includeDoors=0'], twc: ['numLocations=1,numItemsToPutAway=1', "
            "'numLocations=2,numItemsToPutAway=1']}}",
            "suite.unseen=[peckingorder]",
            "suite.tasks={train: 80, gate: 30, retention: 10, test: 70}",
            "acquire.tasks=24",
            "acquire.first_tasks=36",
            # The high ones find coins that lie several rooms away; chosen on train tasks.
            "acquire.temperatures=[0.5, 1.0, 4.0]",
            "test.best_of_max=4",
        ),
    ),
}
QUICK_ROUNDS = 1
QUICK_OF = {
    "reasoning-gym": (
        "suite.options={families: [products, count_bits, chain_sum, gcd], per_family: 60}",
        "suite.unseen=[gcd]",
        *(setting for setting in QUICK if not setting.startswith(("suite.options", "gener"))),
    ),
    "textworld": (
        "suite.options={games: [twc, coin], per_game: 40, steps: 4, "
        "params: {coin: ['numLocations=2,includeDoors=0'], "
        "twc: ['numLocations=1,numItemsToPutAway=1']}}",
        "suite.unseen=[coin]",
        "suite.tasks={train: 6, gate: 3, retention: 2, test: 3}",
        "acquire.tasks=4",
        "acquire.first_tasks=4",
        "acquire.samples=2",
        "update_weights.min_examples=1",
        "test.best_of_max=2",
    ),
}
BAR = 0.85  # of what gold teaches, own successes alone should reach so much


def begin(folder: Path, quickstart: Path) -> None:
    """Let a long run begin with the generations of the same seed's finished quickstart."""
    if not folder.exists() and (quickstart / SUMMARY).is_file():
        shutil.copytree(quickstart, folder)


def show(figures: Mapping[str, Any], out: Console) -> None:
    """The figures as tables."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("arm", "success", "95 % interval", "seeds"):
        table.add_column(column)
    for name, own in figures["arms"].items():
        table.add_row(
            arm_label(name),
            f"[bold]{own['mean']:.3f}[/bold]",
            _interval(own),
            "  ".join(f"{m:.3f}" for m in own["seeds"]),
        )
    out.print(table)
    for name, own in figures["contrasts"].items():
        shown = write_number(own["mean"], signed=True)
        out.print(f"{name}: {shown} {_interval(own)}")
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("family")
    arms = list(figures["arms"])
    for name in arms:
        table.add_column(arm_label(name), justify="right")
    for family, own in figures["families"].items():
        table.add_row(family, *(write_number(own[name]) for name in arms))
    out.print(table)
    for run in figures["runs"]:
        course = ", ".join(
            f"{g['n']} {g['decision']}" + (f" {g['cell']}" if g["decision"] == "promoted" else "")
            for g in run["generations"]
        )
        tokens = write_count(run["tokens"]["total"])
        out.print(f"{run['run']}: {run['minutes']:.1f} min, {tokens} tokens; {course}")
    gate = figures["gate"]
    out.print(
        f"gate: {gate['candidates']} candidates tested in {gate['generations']} generations, "
        f"{gate['promoted']} generations promoted one"
    )
    if figures["corrupt"]:
        kept = gate["candidates"] > 0 and gate["promoted"] == 0 and gate["incumbent_unchanged"]
        out.print(
            "[green]every candidate from corrupted data was rejected, the incumbent's score is "
            "unchanged[/green]"
            if kept
            else "[red]not every candidate from corrupted data was rejected (or none was made)"
            "[/red]; see the reasons in the JSON"
        )


def _interval(score: Mapping[str, Any]) -> str:
    read = rate_of(score)
    return write_interval(read) if read else ""


# --- each objective, on practised and unseen families ---


def campaign(
    suites: Sequence[str], objectives: Sequence[str], seeds: int, rounds: int,
    extra: Sequence[str], name: str, quick: bool, file: Path | None, out: Console,
) -> None:  # fmt: skip
    """``--objective``: each on each suite, seed by seed; the file is written after each."""
    cells: dict[str, Any] = {}
    if file and file.is_file():
        cells = json.loads(file.read_text())["cells"]
    when: dict[str, list[dict[str, Any]]] = {}
    read_: dict[str, list[tuple[Seed, dict[str, Any]]]] = {}
    for seed in range(seeds):
        for suite in suites:
            for objective in objectives:
                label = f"{suite}-{objective}" + (f"-{name}" if name else "")
                label += "-quick" if quick else ""
                folder = ROOT / "runs" / f"bench-{label}-s{seed}"
                out.print(f"[bold]{suite} · {objective} · seed {seed}[/bold] · runs/{folder.name}")
                config = settled(suite, objective, rounds, extra, quick, seed)
                kept = piece(file, f"{label}-s{seed}", config, partial(one_seed, folder, config))
                gold, one = kept["gold"], Seed(**kept["seed"])
                if gold:
                    one = one._replace(arms={**one.arms, "gold": gold.pop("success")})
                done = read_.setdefault(label, [])
                done.append((one, gold))
                when.setdefault(label, []).append(kept)
                own = circumstances("objectives") | measured(when[label])
                own |= {"suite": suite, "objective": objective}
                own |= {"seeds": len(done), **aggregate([s for s, _ in done])}
                own |= {"gold": [g for _, g in done], "bar": held([s for s, _ in done])}
                cells[label] = own | {"config": one.summary["config"]}
                correct(list(cells.values()))
                now = circumstances("objectives") | measured(list(cells.values()))
                save(file, now | {"quick": quick, "cells": cells})
    for label, own in cells.items():
        out.print(f"[bold]{label}[/bold]")
        show(own | {"corrupt": False}, out)


def one_seed(folder: Path, config: Config) -> dict[str, Any]:
    """One run, and what gold teaches beside it."""
    run_once(folder, config)
    gold = supervised(folder, config)
    return {"gold": gold, "seed": read(folder, config.seed)._asdict()}


def settled(
    suite: str, objective: str, rounds: int, extra: Sequence[str], quick: bool, seed: int
) -> Config:
    """The configuration of one run of the campaign."""
    recipe, settings = SUITES[suite]
    how = [f"update_weights.objective={objective}", *OBJECTIVES[objective]]
    laid = [*settings, *how, f"generations={rounds}", *(QUICK_OF[suite] if quick else ())]
    return load_config(recipe, [*laid, f"seed={seed}", *extra])


def run_once(folder: Path, config: Config) -> None:
    """Evolve and test; continues what is there.

    Until weights are trained, and wherever the unevolved agent plays, a run is the same whatever
    the objective: what another run of the same suite and seed did there is taken from it. Its
    tokens count as if they had been produced here; its seconds do not.
    """
    if (folder / SUMMARY).is_file() and "test" in json.loads((folder / SUMMARY).read_text()):
        return
    with Run(folder, config) as run:
        for lender in _lenders(folder, config):
            with open_ledger(lender) as ledger:
                lend(ledger, run.ledger)
        evolve_in(run)
        test(run)


def lend(source: Ledger, target: Ledger) -> None:
    """What the unevolved agent did, and reflected in its first generation, as far as it is lacking.

    A slot names agent and task and decides the randomness, so these are the episodes that the
    other run would play itself.
    """
    for prefix in ("1/acquire/", "gate/", "retention/", "test/", "best_of/"):
        for slot, t in source.all(Trajectory, prefix):
            own = t.policy == BASE and not t.memory and t.failure is None
            if own and target.get(Trajectory, slot) is None:
                target.append(slot, t)
    for slot, note in source.all(Note, "said/1/reflection/"):
        if target.get(Note, slot) is None:
            target.append(slot, note)


def _lenders(folder: Path, config: Config) -> list[Path]:
    """Other runs that differ in how the weights are trained alone, and are done."""
    mine = config.model_dump(exclude={"update_weights"})
    found = []
    for path in sorted((ROOT / "runs").glob(f"bench-*/{SUMMARY}")):
        summary = json.loads(path.read_text())
        if path.parent != folder and "test" in summary:
            other = Config.model_validate(summary["config"])
            found += [path.parent] * (other.model_dump(exclude={"update_weights"}) == mine)
    return found


def supervised(folder: Path, config: Config) -> dict[str, Any]:
    """What gold teaches in as many steps as the run's own weights took; {} if it has none."""
    beside = folder.with_name(f"{folder.name}-gold")
    kept = beside / "gold.json"
    if not kept.is_file():
        if not (steps := steps_of(folder)):
            return {}
        told = supervise(beside, config, steps)._asdict() | {"own_steps": steps}
        save(kept, told)
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def steps_of(folder: Path) -> int:
    """Optimiser steps of the incumbent's weights; of the last ones trained, if none went live."""
    with open_ledger(folder) as ledger:
        last = ledger.last(Generation)
        notes = [str(note.data["version"]) for _, note in ledger.all(Note, "trained/")]
        versions = [v for v in notes if v]
        if last is not None and last[1].weights != BASE:
            versions.append(last[1].weights)
        if not versions:
            return 0
        place = stored_adapter(folder, ledger, versions[-1])
    assert place is not None
    return len(read_manifest(place)["losses"])


def held(seeds: Sequence[Seed]) -> dict[str, Any]:
    """Own successes against gold: the ratio of successes, and the first less ``BAR`` of the other.

    On all test tasks, and on the practised and the unseen families; {} without a gold arm.
    """
    if not all("gold" in s.arms and "weights" in s.arms for s in seeds):
        return {}
    unseen = set(seeds[0].summary["config"]["suite"].get("unseen", ()))
    families: dict[str, str] = {}
    for s in seeds:
        families |= s.families
    ours, gold = (pool([s.arms[arm] for s in seeds]) for arm in ("weights", "gold"))
    found: dict[str, Any] = {}
    for group, wanted in (("all", None), ("practised", False), ("unseen", True)):
        tasks = sorted(
            t for t in ours.keys() & gold.keys() if wanted in (None, families[t] in unseen)
        )
        if not tasks or (group != "all" and not unseen):
            continue
        own, told = [ours[t] for t in tasks], [gold[t] for t in tasks]
        margin = paired_difference(own, [BAR * g for g in told], [families[t] for t in tasks])
        ratio = round(sum(own) / sum(told), 4) if sum(told) else None
        found[group] = {"ratio": ratio, "bar": BAR, "margin": margin.model_dump(mode="json")}
    return found


# --- command line ---


def overrides_for(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    """The benchmark's name and its settings, without the seed."""
    parts: list[str] = [RECIPE]
    settings: list[str] = []
    if arguments.quick:
        parts.append("quick")
        settings += QUICK
    if arguments.long:
        parts.append("long")
        settings.append(f"generations={LONG_GENERATIONS}")
    if arguments.corrupt:
        parts.append("corrupt")
        settings += ["refine.corrupt=flip", "test.best_of_max=1"]
    if arguments.no_gate:
        parts.append("nogate")
        settings.append("gate.enabled=false")
    return arguments.name or "-".join(parts), [*settings, *arguments.overrides]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, help="how many, from 0 (3; 1 with --quick)")
    options.add_argument("--long", action="store_true", help=f"{LONG_GENERATIONS} generations")
    options.add_argument(
        "--corrupt", action="store_true", help="learn from failures as if they were successes"
    )
    options.add_argument("--no-gate", action="store_true", help="promote whatever looks best")
    options.add_argument("--name", help="of the run folders; give one with your own settings")
    options.add_argument(
        "--objective", nargs="+", choices=list(OBJECTIVES), metavar="NAME",
        help=f"compare objectives, with unseen families and gold: {', '.join(OBJECTIVES)}",
    )  # fmt: skip
    options.add_argument(
        "--suite", nargs="+", choices=list(SUITES), metavar="NAME", default=["reasoning-gym"],
        help=f"with --objective: {', '.join(SUITES)}",
    )  # fmt: skip
    options.add_argument("--rounds", type=int, help=f"with --objective: generations ({ROUNDS})")
    options.add_argument("overrides", nargs="*", metavar="key=value", help="further settings")
    arguments = options.parse_args()
    count = arguments.seeds if arguments.seeds is not None else 1 if arguments.quick else 3
    if count < 1:
        options.error("--seeds must be at least 1")
    if arguments.overrides and not arguments.name:
        options.error("give --name with settings of your own, so that the runs have their folders")
    out = Console(highlight=False)
    if arguments.objective:
        rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
        campaign(
            arguments.suite, arguments.objective, count, rounds, arguments.overrides,
            arguments.name or "", arguments.quick, arguments.json, out,
        )  # fmt: skip
        return
    name, settings = overrides_for(arguments)
    told = circumstances("evolution") | {
        "quick": arguments.quick,
        "name": name,
        "corrupt": arguments.corrupt,
        "gate_on": not arguments.no_gate,
        "settings": settings,
    }
    seeds: list[Seed] = []
    figures: dict[str, Any] = {}
    for seed in range(count):
        folder = ROOT / "runs" / f"bench-{name}-s{seed}"
        out.print(f"[bold]seed {seed}[/bold] · {folder.relative_to(ROOT)}")
        if name == f"{RECIPE}-long":
            begin(folder, ROOT / "runs" / f"bench-{RECIPE}-s{seed}")
        evolve(folder, [*settings, f"seed={seed}"], RECIPE)
        seeds.append(read(folder, seed))
        figures = told | {"seeds": len(seeds)} | aggregate(seeds)
        figures["config"] = seeds[0].summary["config"]
        save(arguments.json, figures)  # after each seed: nothing is lost if the next one fails
    show(figures, out)


if __name__ == "__main__":
    told_in_a_line(main)
