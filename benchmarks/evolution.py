"""What evolution reaches: the quickstart over several seeds, each arm with its interval.

Each seed is one ``instar evolve`` in a run folder of its own, ``runs/bench-NAME-sSEED``; what
is already there is continued, so the benchmark can be interrupted; a long run continues a
copy of the same seed's quickstart, if there is one. An arm's success on a test
task is its mean over the seeds that ran the task; intervals are the stratified bootstrap over
tasks of ``agent.stats``, and the spread over seeds stands beside them, because an interval over
tasks does not cover how differently training can end.

    python benchmarks/evolution.py --json benchmarks/results/evolution.json
    python benchmarks/evolution.py --long --json benchmarks/results/evolution-long.json
    python benchmarks/evolution.py --corrupt --json benchmarks/results/evolution-corrupt.json
    python benchmarks/evolution.py --quick
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from _common import ROOT, circumstances, parser, save
from rich.console import Console
from rich.table import Table

from agent.evolution.final import majority
from agent.evolution.play import arm
from agent.report import arm_label, rate_of, write_count, write_interval, write_number
from agent.run_folder import BASE, SUMMARY, open_ledger, settle_config
from agent.stats import interaction, paired_difference, rate
from memory.ledger import Ledger
from memory.records import Generation, Trajectory

RECIPE = "quickstart"
LONG_GENERATIONS = 6
FOUR = ("base", "memory", "weights", "both")
CONTRASTS = (
    ("memory", "base"),
    ("weights", "base"),
    ("both", "base"),
    ("both", "memory"),
    ("both", "weights"),
    ("both", "best_of_n"),
    ("weights", "best_of_n"),
)
QUICK = (
    "generations=1",
    "suite.options={families: [products, count_bits, chain_sum], per_family: 60}",
    "suite.tasks={train: 12, gate: 4, retention: 2, test: 4}",
    "acquire.tasks=9",
    "acquire.first_tasks=9",
    "acquire.samples=2",
    "update_weights.min_examples=2",
    "test.best_of_max=2",
)


class Seed(NamedTuple):
    """One run: its folder's name, its summary, and per arm the success on each test task."""

    name: str
    seed: int
    summary: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, float]]
    families: Mapping[str, str]


def begin(folder: Path, quickstart: Path) -> None:
    """Let a long run begin with the generations of the same seed's finished quickstart."""
    if not folder.exists() and (quickstart / SUMMARY).is_file():
        shutil.copytree(quickstart, folder)


def evolve(folder: Path, overrides: Sequence[str], recipe: str = RECIPE) -> None:
    """Run ``instar evolve`` to its end; continues what is there."""
    command = [sys.executable, "-m", "agent.cli", "evolve", recipe, *overrides]
    done = subprocess.run([*command, "--run", str(folder.relative_to(ROOT))], cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{folder.name}: instar evolve ended with status {done.returncode}")


def read(folder: Path, seed: int) -> Seed:
    """A finished run's summary, and what its arms did on each test task."""
    summary = json.loads((folder / SUMMARY).read_text())
    with open_ledger(folder) as ledger:
        last = ledger.last(Generation)
        assert last is not None
        incumbent = last[1]
        agents = {
            "base": ("", BASE),
            "memory": (incumbent.memory, BASE),
            "weights": ("", incumbent.weights),
            "both": (incumbent.memory, incumbent.weights),
        }
        settings = settle_config(folder, None).memory
        arms: dict[str, dict[str, float]] = {}
        families: dict[str, str] = {}
        for name, agent in agents.items():
            place = f"test/{arm(ledger, settings, *agent)}/"
            tested = [t for _, t in ledger.all(Trajectory, place)]
            arms[name] = {t.task: float(t.success) for t in tested if t.failure is None}
            families |= {t.task: t.family for t in tested}
        arms |= _best_of_n(ledger)
    return Seed(folder.name, seed, summary, {a: own for a, own in arms.items() if own}, families)


def _best_of_n(ledger: Ledger) -> dict[str, dict[str, float]]:
    """The unevolved agent's samples: what the majority says, and whether any is right."""
    samples: dict[str, list[Trajectory]] = {}
    for _, trajectory in ledger.all(Trajectory, "best_of/"):
        samples.setdefault(trajectory.task, []).append(trajectory)
    samples = {t: own for t, own in samples.items() if any(s.failure is None for s in own)}
    return {
        "best_of_n": {task: majority(own) for task, own in samples.items()},
        "pass_at_n": {task: float(any(t.success for t in own)) for task, own in samples.items()},
    }


def aggregate(seeds: Sequence[Seed]) -> dict[str, Any]:
    """All seeds together: arms, contrasts, families, decisions, costs."""
    families: dict[str, str] = {}
    for seed in seeds:
        families |= seed.families
    names = [a for a in (*FOUR, "best_of_n", "pass_at_n") if all(a in s.arms for s in seeds)]
    pooled = {name: _pool([s.arms[name] for s in seeds]) for name in names}
    contrasts = {}
    for a, b in CONTRASTS:
        if a in pooled and b in pooled:
            tasks = sorted(pooled[a].keys() & pooled[b].keys())
            score = paired_difference(
                [pooled[a][t] for t in tasks],
                [pooled[b][t] for t in tasks],
                [families[t] for t in tasks],
            )
            contrasts[f"{a} - {b}"] = score.model_dump(mode="json")
    figures: dict[str, Any] = {
        "arms": {name: _arm(name, pooled[name], families, seeds) for name in names},
        "contrasts": contrasts,
        "families": _families(pooled, families),
        "runs": [_run(seed) for seed in seeds],
        "gate": _gate(seeds),
    }
    if all(name in pooled for name in FOUR):
        tasks = sorted(pooled["both"])
        base, memory, weights, both = ([pooled[name][t] for t in tasks] for name in FOUR)
        together = interaction(base, memory, weights, both, [families[t] for t in tasks])
        figures["interaction"] = together.model_dump(mode="json")
    return figures


def _pool(arms: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Per task, the mean over the seeds that ran it."""
    every: dict[str, list[float]] = {}
    for own in arms:
        for task, success in own.items():
            every.setdefault(task, []).append(success)
    return {task: mean(values) for task, values in every.items()}


def _arm(
    name: str, pooled: Mapping[str, float], families: Mapping[str, str], seeds: Sequence[Seed]
) -> dict[str, Any]:
    tasks = sorted(pooled)
    score = rate([pooled[t] for t in tasks], [families[t] for t in tasks])
    means = [mean(s.arms[name].values()) for s in seeds]
    return score.model_dump(mode="json") | {
        "seeds": [round(m, 4) for m in means],
        "seed_sd": round(stdev(means), 4) if len(means) > 1 else None,
    }


def _families(
    pooled: Mapping[str, Mapping[str, float]], families: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    return {
        family: {
            name: round(mean(v for t, v in own.items() if families[t] == family), 4)
            for name, own in pooled.items()
        }
        for family in sorted(set(families.values()))
    }


def _run(seed: Seed) -> dict[str, Any]:
    """One seed's course and costs."""
    summary = seed.summary
    return {
        "run": seed.name,
        "seed": seed.seed,
        "minutes": round(summary["seconds"]["total"] / 60, 2),
        "seconds": summary["seconds"],
        "tokens": summary["tokens"],
        "samples": summary.get("test", {}).get("best_of_n", {}).get("samples"),
        "generations": [
            {key: g[key] for key in ("n", "decision", "cell", "reason", "cells")}
            for g in summary["generations"]
        ],
    }


def _gate(seeds: Sequence[Seed]) -> dict[str, Any]:
    """How many candidates were tested and promoted, and what became of the incumbent's score."""
    tested, promoted, unchanged = 0, 0, True
    for seed in seeds:
        later = seed.summary["generations"][1:]
        tested += sum(len(g["cells"]) - 1 for g in later)
        promoted += sum(g["decision"] == "promoted" for g in later)
        first = seed.summary["generations"][0]["cells"]["incumbent"]["mean"]
        unchanged &= all(g["cells"]["incumbent"]["mean"] == first for g in later)
        unchanged &= not any(g["decision"] == "promoted" for g in later)
    return {
        "generations": sum(len(s.summary["generations"]) - 1 for s in seeds),
        "candidates": tested,
        "promoted": promoted,
        "incumbent_unchanged": unchanged,
    }


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
        settings += ["refine.flip_rewards=true", "test.best_of_max=1"]
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
    options.add_argument("overrides", nargs="*", metavar="key=value", help="further settings")
    arguments = options.parse_args()
    count = arguments.seeds if arguments.seeds is not None else 1 if arguments.quick else 3
    if count < 1:
        options.error("--seeds must be at least 1")
    if arguments.overrides and not arguments.name:
        options.error("give --name with settings of your own, so that the runs have their folders")
    name, settings = overrides_for(arguments)
    told = circumstances("evolution") | {
        "quick": arguments.quick,
        "name": name,
        "corrupt": arguments.corrupt,
        "gate_on": not arguments.no_gate,
        "settings": settings,
    }
    out = Console(highlight=False)
    seeds: list[Seed] = []
    figures: dict[str, Any] = {}
    for seed in range(count):
        folder = ROOT / "runs" / f"bench-{name}-s{seed}"
        out.print(f"[bold]seed {seed}[/bold] · {folder.relative_to(ROOT)}")
        if name == f"{RECIPE}-long":
            begin(folder, ROOT / "runs" / f"bench-{RECIPE}-s{seed}")
        evolve(folder, [*settings, f"seed={seed}"])
        seeds.append(read(folder, seed))
        figures = told | {"seeds": len(seeds)} | aggregate(seeds)
        figures["config"] = seeds[0].summary["config"]
        save(arguments.json, figures)  # after each seed: nothing is lost if the next one fails
    show(figures, out)


if __name__ == "__main__":
    main()
