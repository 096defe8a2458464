"""What evolution reaches beyond the quickstart: a recipe for each suite, base against evolved.

Each seed of a suite is one ``instar evolve`` of its recipe in ``runs/bench-suite-NAME-sSEED``;
what is already there is continued. Figures are those of ``benchmarks/evolution.py``: success on
the test split with the stratified bootstrap over tasks, seeds beside it, paired differences. The
file is brought up to date suite by suite, each with its own date and commit.

    INSTAR_DATA=FOLDER python benchmarks/suites.py --json benchmarks/results/suites.json
    INSTAR_DATA=FOLDER python benchmarks/suites.py banking77 miniwob --seeds 2
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from _common import ROOT, circumstances, parser, save
from evolution import aggregate, evolve, read
from rich.console import Console
from rich.table import Table

from agent.report import write_number

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


def main() -> None:
    options = parser(__doc__)
    options.add_argument("suites", nargs="*", metavar="RECIPE", help=f"of {', '.join(SUITES)}")
    options.add_argument("--seeds", type=int, default=0, help="how many, from 0 (3; 1 if --quick)")
    arguments = options.parse_args()
    names = arguments.suites or list(SUITES)
    if unknown := set(names) - set(SUITES):
        options.error(f"no such recipe: {', '.join(sorted(unknown))}; choose of {SUITES}")
    count = arguments.seeds or (1 if arguments.quick else 3)
    told: dict[str, Any] = {}
    if arguments.json and arguments.json.is_file():
        told = json.loads(arguments.json.read_text())["suites"]
    out = Console(highlight=False)
    for name in names:
        seeds = []
        for seed in range(count):
            label = f"bench-suite-{name}{'-quick' if arguments.quick else ''}-s{seed}"
            out.print(f"[bold]{name} · seed {seed}[/bold] · runs/{label}")
            settings = [*(QUICK if arguments.quick else ()), f"seed={seed}"]
            evolve(ROOT / "runs" / label, settings, recipe=name)
            seeds.append(read(ROOT / "runs" / label, seed))
            own = circumstances("suites") | {"seeds": len(seeds)} | aggregate(seeds)
            told[name] = own | {"config": seeds[0].summary["config"]}
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
    main()
