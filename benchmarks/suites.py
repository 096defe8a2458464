"""What evolution reaches beyond the quickstart: a recipe for each suite, base against evolved.

Each seed of a suite is one ``instar evolve`` of its recipe in ``runs/bench-suite-NAME-sSEED``;
what is already there is continued. Figures are those of ``benchmarks/evolution.py``: success on
the test split with the stratified bootstrap over tasks, seeds beside it, paired differences. The
file is brought up to date suite by suite, each with its own date and commit; what it holds of
other suites stays. Settings of a recipe are changed as for ``instar evolve``, under a name of
their own.

    INSTAR_DATA=FOLDER python benchmarks/suites.py --json benchmarks/results/suites.json
    INSTAR_DATA=FOLDER python benchmarks/suites.py banking77 miniwob --seeds 2
    python benchmarks/suites.py textworld --name far suite.options.steps=30

With ``--base`` nothing evolves: the unevolved agent alone on a few train tasks of each family,
greedily and sampled. It tells where a first success can be found at all.

    INSTAR_DATA=FOLDER python benchmarks/suites.py --base --json benchmarks/results/suites-base.json
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _common import ROOT, circumstances, parser, save, told_in_a_line
from _evolved import aggregate, evolve, read
from rich.console import Console
from rich.table import Table

from agent.config import load_config
from agent.loop import Assignment
from agent.policies.models import resolve_model
from agent.policies.transformers import TransformersPolicy
from agent.report import write_number
from agent.rollout import rollout
from environments.sandbox import make_sandbox
from environments.splits import first_of_each_family, split_tasks
from environments.suites import load_suite
from memory.records import StopReason

SUITES = ("banking77", "miniwob", "textworld", "household", "lifelong-db", "mbpp")
QUICK = (
    "generations=1",
    "suite.tasks={train: 4, gate: 2, retention: 1, test: 2}",
    "acquire.tasks=6",
    "acquire.first_tasks=6",
    "acquire.samples=2",
    "update_weights.min_examples=2",
    "test.best_of_max=2",
)


BASE_TASKS, BASE_SAMPLES, BASE_TEMPERATURE = 4, 4, 0.7  # a family; a task


def base(name: str, settings: Sequence[str], quick: bool) -> dict[str, Any]:
    """What the unevolved agent does on a recipe's train tasks."""
    config = load_config(name, settings)
    suite = load_suite(config.suite.name, sandbox=make_sandbox, options=config.suite.options)
    count = 1 if quick else BASE_TASKS
    tasks = first_of_each_family(split_tasks(suite.tasks())["train"], count)
    samples = 2 if quick else BASE_SAMPLES
    episodes = [Assignment(f"greedy/{t.id}", t, "train", "act") for t in tasks] + [
        Assignment(f"sampled/{t.id}/{i}", t, "train", "act", BASE_TEMPERATURE)
        for t in tasks
        for i in range(samples)
    ]
    policy = TransformersPolicy(
        resolve_model(config.policy.model), slots=config.policy.slots, context=config.policy.context
    )
    began = time.monotonic()
    played = [t for b in rollout(episodes, policy, suite, config.agent, seed=0) for t in b]
    seconds = time.monotonic() - began
    policy.close()
    sampled = [t for t in played if t.slot.startswith("sampled")]
    return {
        "tasks": len(tasks),
        "samples": samples,
        "temperature": BASE_TEMPERATURE,
        "greedy": sum(t.success for t in played if t.slot.startswith("greedy")),
        "sampled": sum(t.success for t in sampled),
        "families": {
            f: sum(t.success for t in sampled if t.family == f)
            / sum(t.family == f for t in sampled)
            for f in dict.fromkeys(task.family for task in tasks)
        },
        "turns": sum(len(t.steps) for t in played),
        "out_of_context": sum(t.stop is StopReason.CONTEXT for t in played),
        "broken": sum(t.failure is not None for t in played),
        "seconds": round(seconds, 1),
    }


def stored(file: Path | None, quick: bool) -> dict[str, Any]:
    """The suites that a file holds, each with the circumstances it was measured in.

    Raises:
        SystemExit: it is no such file, or one of runs of another size.
    """
    if file is None or not file.is_file():
        return {}
    try:
        figures = json.loads(file.read_text())
        suites, other = figures.pop("suites"), figures.pop("quick") != quick
    except (ValueError, KeyError, TypeError):
        raise SystemExit(f"{file}: no figures of suites; name another file") from None
    if other:
        size = "full" if quick else "quick"
        raise SystemExit(f"{file} holds figures of a {size} run; name another file")
    return {name: figures | own for name, own in suites.items()}


def look(names: Sequence[str], settings: Sequence[str], quick: bool, file: Path | None) -> None:
    """``--base``: each suite's line, stored as it is made."""
    told = stored(file, quick)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("suite", "greedy", "sampled", "families"):
        table.add_column(column, overflow="fold")
    for name in names:
        own = base(name, settings, quick)
        told[name] = circumstances("suites-base") | {"settings": list(settings)} | own
        families = ", ".join(f"{f} {write_number(v)}" for f, v in own["families"].items())
        table.add_row(
            name,
            f"{own['greedy']} of {own['tasks']}",
            f"{own['sampled']} of {own['tasks'] * own['samples']}",
            families,
        )
        save(file, circumstances("suites-base") | {"quick": quick, "suites": told})
    Console().print(table)


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "given", nargs="*", metavar="RECIPE|key=value",
        help=f"of {', '.join(SUITES)} (all); settings for them",
    )  # fmt: skip
    options.add_argument("--seeds", type=int, default=0, help="how many, from 0 (3; 1 if --quick)")
    options.add_argument("--base", action="store_true", help="only look at the unevolved agent")
    options.add_argument("--name", help="of the run folders; give one with your own settings")
    arguments = options.parse_args()
    settings = [text for text in arguments.given if "=" in text]
    names = [text for text in arguments.given if "=" not in text] or list(SUITES)
    if unknown := set(names) - set(SUITES):
        options.error(f"no such recipe: {', '.join(sorted(unknown))}; choose of {SUITES}")
    if arguments.base:
        look(names, settings, arguments.quick, arguments.json)
        return
    if settings and not arguments.name:
        options.error("give --name with settings of your own, so that the runs have their folders")
    count = arguments.seeds or (1 if arguments.quick else 3)
    told = stored(arguments.json, arguments.quick)
    out = Console(highlight=False)
    parts = ["bench-suite", *filter(None, [arguments.name])]
    for name in names:
        seeds = []
        for seed in range(count):
            own_parts = [*parts, name, *(["quick"] if arguments.quick else []), f"s{seed}"]
            label = "-".join(own_parts)
            out.print(f"[bold]{name} · seed {seed}[/bold] · runs/{label}")
            given = [*(QUICK if arguments.quick else ()), *settings, f"seed={seed}"]
            evolve(ROOT / "runs" / label, given, recipe=name)
            seeds.append(read(ROOT / "runs" / label, seed))
            own = circumstances("suites") | {"settings": settings, "seeds": len(seeds)}
            told[name] = own | aggregate(seeds) | {"config": seeds[0].summary["config"]}
            figures = circumstances("suites") | {"quick": arguments.quick, "suites": told}
            save(arguments.json, figures)
    show(told, out)


def show(suites: Mapping[str, Any], out: Console) -> None:
    """The suites side by side."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("suite", "base", "memory", "weights", "both", "both - base", "promoted"):
        table.add_column(column)
    for name, own in suites.items():
        arms, gain = own["arms"], own["contrasts"]["both - base"]
        low, high = (write_number(gain[end], signed=True) for end in ("low", "high"))
        table.add_row(
            name,
            *(write_number(arms[a]["mean"]) for a in ("base", "memory", "weights", "both")),
            f"{write_number(gain['mean'], signed=True)} [{low}, {high}]",
            f"{own['gate']['promoted']} of {own['gate']['generations']}",
        )
    out.print(table)


if __name__ == "__main__":
    told_in_a_line(main)
