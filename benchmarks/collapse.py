"""Does the gate hold over many generations? Honest and corrupted data, with the gate and without.

All conditions of a seed begin with the same agent: ``PREFIX`` honest generations with the gate
on, in ``runs/bench-collapse-sSEED``. Then each goes on in a copy of its own for ``--generations``
more: the gate on or off, and the data honest (``none``), with rewards flipped (``flip``), with each
family's solutions replaced by copies of one (``duplicate``), or of one family alone
(``one-family``; see ``refine.corrupt``). Only weights evolve (memory has its own such test in
``poisoning.py``). What is there is continued.

A condition's course is kept in a folder beside ``--json``, and read from there if it lies there.
When a condition has all its generations, and not before, every generation's live agent answers
all retention tasks and a fixed probe: test tasks, which no gate has ever asked. Nothing depends on
that any more. A generation is worse than the one before if the paired interval of the difference
on the retention tasks lies below zero. What "collapse" is asked for here is what was published
(arXiv 2606.04703): a single round improves, further rounds lose it again; ``lost`` is the best
generation's score less the last one's.

    python benchmarks/collapse.py --json benchmarks/results/collapse.json
    python benchmarks/collapse.py --gate off --data flip one-family --seeds 1
    python benchmarks/collapse.py --name sequential update_weights.begin=incumbent \\
        update_weights.data=new --json benchmarks/results/collapse.json

Settings of your own hold for the generations after the prefix, which all of a seed share; give
them a ``--name``. The last command trains each generation's weights on from the ones before, on
new data alone, which is how the published collapse came about; without it training begins at the
base each time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import yaml
from _common import (
    ROOT,
    circumstances,
    measured,
    parser,
    piece,
    save,
    told_in_a_line,
)
from _evolved import pool
from rich.console import Console
from rich.table import Table

from agent.config import Config, load_config
from agent.evolution.cycle import evolve
from agent.evolution.play import measure
from agent.report import write_number
from agent.run import Run
from agent.run_folder import CONFIG, FORKED, LEDGER, config_hash, write_text
from agent.stats import paired_difference, rate
from memory.ledger import Ledger
from memory.records import Note

DATA = ("none", "flip", "duplicate", "one-family")
GATE = ("on", "off")
PREFIX = 2
GENERATIONS = 6
SETTINGS = (
    "update_memory.enabled=false",
    "test.run=false",
    "suite.tasks={train: 60, gate: 12, retention: 12, test: 12}",
    "update_weights.min_examples=4",
)
AFTERWARDS = ("acquire.tasks=32", "acquire.samples=4", "refine.per_family=16")  # than the prefix
QUICK = (
    "suite.options={families: [products, count_bits, chain_sum], per_family: 60}",
    "suite.tasks={train: 12, gate: 4, retention: 3, test: 3}",
    "acquire.tasks=6",
    "acquire.first_tasks=6",
    "acquire.samples=2",
    "update_weights.min_examples=1",
    "update_weights.epochs=1",
)
SPLITS = ("gate", "retention", "probe")


class Condition(NamedTuple):
    """What is done after the prefix."""

    gate: str
    data: str

    def __str__(self) -> str:
        return f"{self.data}, gate {self.gate}"

    def settings(self) -> tuple[str, ...]:
        return (
            f"gate.enabled={str(self.gate == 'on').lower()}",
            f"refine.corrupt={self.data}",
        )


def configured(seed: int, generations: int, quick: bool, further: Sequence[str]) -> Config:
    """The configuration of a run: the prefix's, if nothing further is set."""
    own = [*SETTINGS, *(AFTERWARDS if further else ()), *(QUICK if quick else ())]
    return load_config("quickstart", [*own, f"seed={seed}", f"generations={generations}", *further])


def prefix(folder: Path, config: Config, console: Console) -> None:
    """The honest generations that all conditions of a seed begin with."""
    with Run(folder, config, console=console) as run:
        evolve(run)


def fork(source: Path, folder: Path, config: Config) -> None:
    """Let a condition begin where the prefix ended: a copy, with its own configuration.

    Written beside it first, so that a folder that exists is whole.
    """
    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns("index", ".lock"))
    settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    with Ledger(partial / LEDGER) as ledger:  # what was made so far was made with its settings
        ledger.append(f"{FORKED}{config_hash(source)}", Note(data={"from": source.name}))
    write_text(partial / CONFIG, settings)
    partial.rename(folder)


def course(folder: Path, config: Config, console: Console) -> dict[str, Any]:
    """Go through all generations; then what each one's live agent scores, task by task."""
    with Run(folder, config, console=console) as run:
        evolve(run)
        told = []
        for g in run.generations():
            label = f"generation {g.n} · afterwards"
            scores = {
                name: measure(run, f"{label} · {name}", split, g.memory, g.weights)
                for name, split in (("gate", "gate"), ("retention", "retention"), ("probe", "test"))
            }
            told.append(
                {
                    "n": g.n,
                    "decision": g.decision,
                    "cell": g.cell,
                    "reason": g.reason,
                    "weights": g.weights,
                    "scores": scores,
                }
            )
        every = {t.id: t.family for s in ("gate", "retention", "test") for t in run.tasks(s)}
        seconds = sum(sum(g.seconds.values()) for g in run.generations() if g.n > PREFIX)
        return {"generations": told, "families": every, "minutes": round(seconds / 60, 2)}


def begin_and_follow(
    begun: Path, first: Config, folder: Path, config: Config, console: Console
) -> dict[str, Any]:
    """One condition, from the generations that all of its seed begin with."""
    prefix(begun, first, console)
    fork(begun, folder, config)
    return course(folder, config, console)


def added_up(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A condition over its seeds: the curve on each split, and what the retention tasks say.

    Args:
        runs: of each seed the generations, with success by task and split, and families by task.
    """
    families = {t: f for run in runs for t, f in run["families"].items()}
    length = min(len(run["generations"]) for run in runs)
    curve: dict[str, list[dict[str, Any]]] = {}
    pooled: dict[str, list[dict[str, float]]] = {}
    for split in SPLITS:
        pooled[split] = [
            pool([run["generations"][n]["scores"][split] for run in runs]) for n in range(length)
        ]
        curve[split] = [
            rate([own[t] for t in sorted(own)], [families[t] for t in sorted(own)]).model_dump(
                mode="json"
            )
            for own in pooled[split]
        ]
    steps = [
        _change(pooled["retention"][n], pooled["retention"][n - 1], families)
        for n in range(PREFIX + 1, length)
    ]
    after = {split: [point["mean"] for point in curve[split][PREFIX:]] for split in SPLITS}
    lost = {
        split: _change(
            pooled[split][-1], pooled[split][PREFIX + after[split].index(max(after[split]))],
            families,
        )
        for split in SPLITS
    }  # fmt: skip
    promoted = [
        sum(g["decision"] == "promoted" for g in run["generations"][PREFIX + 1 :]) for run in runs
    ]
    return {
        "seeds": len(runs),
        "generations": length - 1 - PREFIX,
        "curve": curve,
        "steps": steps,
        "worse": sum(step["high"] < 0 for step in steps),
        "largest_fall": round(max([0.0, *(-step["mean"] for step in steps)]), 4),
        "lost": lost,
        "against_prefix": _change(pooled["retention"][-1], pooled["retention"][PREFIX], families),
        "promoted": promoted,
        "minutes": [run["minutes"] for run in runs],
        "decisions": [
            [{k: g[k] for k in ("n", "decision", "cell", "reason")} for g in run["generations"]]
            for run in runs
        ],
    }


def _change(
    new: Mapping[str, float], old: Mapping[str, float], families: Mapping[str, str]
) -> dict[str, Any]:
    tasks = sorted(new.keys() & old.keys())
    return paired_difference(
        [new[t] for t in tasks], [old[t] for t in tasks], [families[t] for t in tasks]
    ).model_dump(mode="json")


def show(conditions: Mapping[str, Any], out: Console) -> None:
    """Each condition's curve on the retention tasks."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("condition", "retention, generation by generation", "lost", "worse", "promoted"):
        table.add_column(column)
    for name, own in conditions.items():
        curve = "  ".join(write_number(point["mean"]) for point in own["curve"]["retention"])
        lost = write_number(own["lost"]["retention"]["mean"], signed=True)
        table.add_row(name, curve, lost, str(own["worse"]), f"{mean(own['promoted']):.1f}")
    out.print(table)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=1, help="how many, from 0")
    options.add_argument("--gate", nargs="+", choices=GATE, default=list(GATE))
    options.add_argument("--data", nargs="+", choices=DATA, default=list(DATA), metavar="HOW",
                         help=f"of {', '.join(DATA)}")  # fmt: skip
    options.add_argument("--generations", type=int, help=f"after the prefix ({GENERATIONS})")
    options.add_argument("--name", default="", help="give one with settings of your own")
    options.add_argument("overrides", nargs="*", metavar="key=value", help="further settings")
    arguments = options.parse_args()
    if arguments.overrides and not arguments.name:
        options.error("give --name with settings of your own, so that the runs have their folders")
    more = arguments.generations or (2 if arguments.quick else GENERATIONS)
    quick = "-quick" if arguments.quick else ""
    name = f"-{arguments.name}" if arguments.name else ""
    out = Console(highlight=False)
    found: dict[str, Any] = {}
    if arguments.json and arguments.json.is_file():
        found = json.loads(arguments.json.read_text())["conditions"]
    read: dict[Condition, list[Mapping[str, Any]]] = {}
    for seed in range(arguments.seeds):
        begun = ROOT / "runs" / f"bench-collapse{quick}-s{seed}"
        for data in arguments.data:
            for gate in arguments.gate:
                condition = Condition(gate, data)
                folder = begun.with_name(f"bench-collapse{quick}{name}-{data}-gate-{gate}-s{seed}")
                out.print(f"[bold]{condition}{name} · seed {seed}[/bold] · runs/{folder.name}")
                further = (*condition.settings(), *arguments.overrides)
                config = configured(seed, PREFIX + more, arguments.quick, further)
                first = configured(seed, PREFIX, arguments.quick, ())
                measure = partial(begin_and_follow, begun, first, folder, config, out)
                own = piece(arguments.json, f"{folder.name}-{PREFIX + more}", config, measure)
                read.setdefault(condition, []).append(own)
                label = f"{condition}{', ' + arguments.name if arguments.name else ''}"
                found[label] = circumstances("collapse") | measured(read[condition])
                found[label] |= added_up(read[condition]) | {"settings": arguments.overrides}
                told_now = {"quick": arguments.quick, "prefix": PREFIX, "conditions": found}
                told_now |= measured(list(found.values()))
                save(arguments.json, circumstances("collapse") | told_now)
    show(found, out)


if __name__ == "__main__":
    told_in_a_line(main)
