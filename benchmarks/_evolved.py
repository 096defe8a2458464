"""A finished evolution read and added up: what every benchmark that evolves has in common.

An arm's success on a test task is its mean over the seeds that ran the task; intervals are the
stratified bootstrap over tasks of ``agent.stats``, and the spread over seeds stands beside them,
because an interval over tasks does not cover how differently training can end. Differences are
paired, task by task, with the p of a permutation test over tasks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from _common import ROOT

from agent.evolution.final import majority
from agent.evolution.play import arm
from agent.run_folder import BASE, SUMMARY, open_ledger, settle_config
from agent.stats import holm, interaction, paired_difference, paired_p, rate
from memory.ledger import Ledger
from memory.records import Generation, Trajectory

FOUR = ("base", "memory", "weights", "both")
CONTRASTS = (
    ("memory", "base"),
    ("weights", "base"),
    ("both", "base"),
    ("both", "memory"),
    ("both", "weights"),
    ("both", "best_of_n"),
    ("weights", "best_of_n"),
    ("weights", "gold"),
)
ARMS = (*FOUR, "best_of_n", "pass_at_n", "gold")


class Seed(NamedTuple):
    """One run: its folder's name, its summary, and per arm the success on each test task."""

    name: str
    seed: int
    summary: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, float]]
    families: Mapping[str, str]


def evolve(folder: Path, overrides: Sequence[str], recipe: str) -> None:
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
    """All seeds together: arms, contrasts, families, decisions, costs.

    Where some families are unseen (``suite.unseen``), arms and contrasts of the practised and of
    the unseen ones stand in ``groups``.
    """
    families: dict[str, str] = {}
    for seed in seeds:
        families |= seed.families
    names = [a for a in ARMS if all(a in s.arms for s in seeds)]
    pooled = {name: pool([s.arms[name] for s in seeds]) for name in names}
    unseen = set(seeds[0].summary["config"]["suite"].get("unseen", ()))
    figures: dict[str, Any] = {
        "arms": {name: _arm(name, pooled[name], families, seeds) for name in names},
        "contrasts": _contrasts(pooled, families),
        "families": _families(pooled, families),
        "runs": [_run(seed) for seed in seeds],
        "gate": _gate(seeds),
    }
    if unseen:
        figures["groups"] = {}
        for group in ("practised", "unseen"):
            own = {t: f for t, f in families.items() if (f in unseen) == (group == "unseen")}
            part = {a: {t: v for t, v in of.items() if t in own} for a, of in pooled.items()}
            figures["groups"][group] = {
                "arms": {name: _arm(name, part[name], own, seeds) for name in names},
                "contrasts": _contrasts(part, own),
            }
    correct([figures])
    if all(name in pooled for name in FOUR):
        tasks = sorted(pooled["both"])
        base, memory, weights, both = ([pooled[name][t] for t in tasks] for name in FOUR)
        together = interaction(base, memory, weights, both, [families[t] for t in tasks])
        figures["interaction"] = together.model_dump(mode="json")
    return figures


def _contrasts(
    pooled: Mapping[str, Mapping[str, float]], families: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Paired differences over the tasks that both arms ran, with the permutation test's p."""
    found = {}
    for a, b in CONTRASTS:
        if a in pooled and b in pooled:
            tasks = sorted(pooled[a].keys() & pooled[b].keys())
            ours, theirs = [pooled[a][t] for t in tasks], [pooled[b][t] for t in tasks]
            score = paired_difference(ours, theirs, [families[t] for t in tasks])
            found[f"{a} - {b}"] = score.model_dump(mode="json") | {"p": paired_p(ours, theirs)}
    return found


def correct(many: Sequence[dict[str, Any]]) -> None:
    """Put Holm's correction over all the comparisons of several figures beside each p."""
    parts = [part for f in many for part in (f, *f.get("groups", {}).values())]
    contrasts = [c for part in parts for c in part["contrasts"].values()]
    for contrast, p in zip(contrasts, holm([c["p"] for c in contrasts]), strict=True):
        contrast["p_holm"] = round(p, 5)


def pool(arms: Sequence[Mapping[str, float]]) -> dict[str, float]:
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
    means = [mean(v for t, v in s.arms[name].items() if t in families) for s in seeds]
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
