"""The final test: each arm once on the test split, and what the same tokens buy otherwise.

The unevolved agent gets the tokens that evolution spent, as best-of-n: n samples per test
task, of which the answer that most samples gave is taken (self-consistency, arXiv
2203.11171), or what the learned verifier ranks first (``test.best_of_pick``), since at test time
nobody tells the agent which answer is right. What a perfect judge would have picked (pass@n)
stands beside it. ``test.evolved_samples`` lets the evolved agent have several answers too, of which
one is picked the same way (V-STaR, arXiv 2402.06457, §3).
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from agent.evolution.play import arm, fair, measure, sample
from agent.evolution.scores import family_rates, score
from agent.evolution.update.judge import by_verifier
from agent.evolution.votes import answer_of, plurality
from agent.run import Run
from agent.run_folder import BASE, SUMMARY, write_json
from agent.stats import interaction, paired_difference
from memory import history
from memory.records import Generation, Kind, MemoryItem, Note, StopReason, Trajectory, standing


def test(run: Run) -> dict[str, Any]:
    """Run the test split's arms (once) and return the run's summary, also stored as JSON."""
    incumbent = run.incumbent()
    assert incumbent is not None
    arms = {
        "base": ("", BASE),
        "memory": (incumbent.memory, BASE),
        "weights": ("", incumbent.weights),
        "both": (incumbent.memory, incumbent.weights),
    }
    with run.timed("test"):
        played = {name: measure(run, f"test · {name}", "test", *arms[name]) for name in arms}
        vote, oracle, cost = best_of_n(run)
        played |= {"best_of_n": vote, "pass_at_n": oracle}
        costs = {"best_of_n": cost}
        if run.config.test.evolved_samples:
            played["both_of_n"], costs["both_of_n"] = both_of_n(run, incumbent)
    tasks = fair(run.tasks("test"), list(played.values()))
    families = [task.family for task in tasks]
    successes = {name: [own[task.id] for task in tasks] for name, own in played.items()}
    table: dict[str, Any] = {
        name: score(tasks, own).model_dump(mode="json") for name, own in successes.items()
    }
    for name, spent in costs.items():
        table[name] |= spent
    rates = {
        name: family_rates(tasks, own) for name, own in successes.items() if name != "pass_at_n"
    }
    differences = {
        name: paired_difference(own, successes["base"], families).model_dump(mode="json")
        for name, own in successes.items()
        if name != "base"
    }
    agents = {slot.split("/")[1] for slot, _ in run.ledger.all(Trajectory, "test/")}
    when = run.ledger.get(Note, f"date/{incumbent.n}")
    if when is None:  # a finished run that is looked at again was still tested then
        when = Note(data={"date": time.strftime("%Y-%m-%d"), "machine": machine()})
        run.ledger.append(f"date/{incumbent.n}", when)
    together = interaction(
        successes["base"], successes["memory"], successes["weights"], successes["both"], families
    )
    return summarise(
        run,
        {
            **when.data,
            "test": table,
            "first_test": agents
            == {arm(run.ledger, run.config.memory, *agent) for agent in arms.values()},
            "differences": differences,
            "interaction": together.model_dump(mode="json"),
            "families": {f: {name: rates[name][f] for name in rates} for f in rates["base"]},
        },
    )


def best_of_n(run: Run) -> tuple[dict[str, float], dict[str, float], dict[str, Any]]:
    """The unevolved agent on the token budget that evolution had.

    Returns:
        by task id, whether the picked answer is right; by task id, whether any is; what it
        cost: samples per task, tokens spent, the budget, and whether ``test.best_of_max``
        kept it below that; and who picked.
    """
    budget = evolution_tokens(run)
    single = sample(run, "test · what a sample costs", "best_of", 1, "", BASE)
    first = sum(t.produced_tokens for own in single.values() for t in own)
    wanted = max(1, ceil(budget / max(first, 1)))
    n = min(wanted, run.config.test.best_of_max)
    groups = sample(run, f"test · best of {n}", "best_of", n, "", BASE)
    picked, cost = _pick(run, groups, n)
    cost |= {"budget": budget, "capped": n < wanted}
    return picked, {id_: float(any(t.success for t in groups[id_])) for id_ in picked}, cost


def both_of_n(run: Run, agent: Generation) -> tuple[dict[str, float], dict[str, Any]]:
    """Whether the pick among the evolved agent's answers is right, by task id; what it cost."""
    n = run.config.test.evolved_samples
    place = f"both_of/{arm(run.ledger, run.config.memory, agent.memory, agent.weights)}"
    label = f"test · both, best of {n}"
    return _pick(run, sample(run, label, place, n, agent.memory, agent.weights), n)


def _pick(
    run: Run, groups: Mapping[str, Sequence[Trajectory]], n: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Of each task's samples the one taken, unless all broke: whether it is right; what it cost."""
    whole = {id_: own for id_, own in groups.items() if any(t.failure is None for t in own)}
    spent = sum(t.produced_tokens for own in groups.values() for t in own)
    cost: dict[str, Any] = {"samples": n, "tokens": spent, "pick": run.config.test.best_of_pick}
    if run.config.test.best_of_pick == "verifier":
        cost["verifier"], picked = by_verifier(run, whole)
        return picked, cost
    return {id_: majority(own) for id_, own in whole.items()}, cost


def majority(samples: Sequence[Trajectory]) -> float:
    """Whether the answer that most samples gave is right; samples without one do not vote."""
    given = [(answer_of(t), t) for t in samples if t.stop is StopReason.TERMINATED]
    winner = plurality(answer for answer, _ in given)
    if winner is None:
        return 0.0
    return float(next(t for answer, t in given if answer == winner).success)


def evolution_tokens(run: Run) -> int:
    """Tokens that evolution produced, reflections included: everything but the test."""
    episodes = sum(t.produced_tokens for _, t in run.ledger.all(Trajectory) if t.phase != "test")
    return episodes + run.said_tokens("")


def summarise(run: Run, tested: Mapping[str, Any] = {}) -> dict[str, Any]:
    """The summary of a run, tested or not yet; writes ``summary.json`` and ``report.html``."""
    from agent.report.html import write_report

    generations = run.generations()
    totals: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for generation in generations:
        for name, value in generation.tokens.items():
            totals[name] = totals.get(name, 0) + value
        for name, taken in generation.seconds.items():
            seconds[name] = round(seconds.get(name, 0) + taken, 1)
    if tested:
        totals["test"] = sum(run.tokens(slots) for slots in ("test/", "best_of/", "both_of/"))
        seconds["test"] = run.seconds("test")
    summary: dict[str, Any] = {
        "run": str(run.folder),
        "model": run.config.policy.model,
        "suite": run.config.suite.name,
        "sandbox": run.config.sandbox.backend,
        "unsafe": run.config.sandbox.backend == "none",
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "seed": run.config.seed,
        **tested,
        "generations": [
            {
                "n": g.n,
                "decision": g.decision,
                "cell": g.cell,
                "reason": g.reason,
                "cells": {cell: s.model_dump(mode="json") for cell, s in g.cells.items()},
                "families": g.families,
            }
            for g in generations
        ],
        "tokens": {"total": sum(totals.values()), **totals},
        "seconds": {"total": round(sum(seconds.values()), 1), **seconds},
        "config": run.config.model_dump(mode="json"),
    }
    write_json(run.folder / SUMMARY, summary)
    write_report(run.folder, summary, generations, growth(run, generations))
    return summary


def growth(run: Run, generations: Sequence[Generation]) -> list[dict[str, Any]]:
    """Memory items by kind and status at each generation, as its agent saw them."""
    entries = []
    for g in generations:
        counts: dict[str, Counter[str]] = {kind.value: Counter() for kind in Kind}
        for change in history.state(run.ledger, g.memory).values():
            item = run.ledger.get(MemoryItem, change.item)
            if item is None:
                continue
            counts[item.kind.value][standing(change, g.weights)] += 1
        entries.append({"generation": g.n, "items": {k: dict(c) for k, c in counts.items()}})
    return entries


def machine() -> str:
    """Processor, cores, memory and GPUs, in a few words; no names or paths."""
    model = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open() as file:
            model = next(
                (line.split(":", 1)[1].strip() for line in file if line.startswith("model name")),
                model,
            )
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (OSError, ValueError):
        return f"{model}, {os.cpu_count()} cores"
    gpus: Counter[str] = Counter()
    for path in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        gpus.update(re.findall(r"(?m)^Model:\s*(.+)$", path.read_text(errors="replace")))
    parts = [model, f"{len(os.sched_getaffinity(0))} cores", f"{memory:.0f} GiB"]
    return ", ".join(parts + [f"{count} × {name}" for name, count in gpus.items()])
