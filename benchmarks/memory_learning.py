"""What memory is worth by itself: weights frozen, every way of remembering on the same budget.

Each arm practises the same number of episodes per generation (the same tasks as long as what it
remembers leads to the same objective), and is then tested greedily on tasks that nobody learnt
from. Its tokens are those of practice and of writing; what the gate of ``ours`` spends on top is
told beside them. Arms: ``none`` remembers nothing; ``history`` shows the last episodes, as many
as fit; ``add-all`` keeps every episode, right or wrong, and shows the nearest; ``ours`` is the
default; ``defended`` is the same where the suite does not vouch for a quarter of its train tasks
(nobody attacks: what the defence against poisoning costs); and the others are recipes of published
methods, without a gate, as published.

Two controls use the memory of ``ours`` as it is in the end: ``shuffled`` shows each task what was
recalled for another, ``wrong`` shows the right items with each other's answers. A gain that either
keeps is none of what memory knows.

Figures: success on the test split, a task's mean over the seeds, with the stratified bootstrap
over tasks; paired differences, and for the two that are claimed (ours against none and against
add-all) a paired permutation test, Holm-corrected.

    INSTAR_DATA=FOLDER python benchmarks/memory_learning.py \\
        --json benchmarks/results/memory-learning.json
    python benchmarks/memory_learning.py reasoning-gym --seeds 1 --arms none ours
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from _common import ROOT, circumstances, parser, save
from rich.console import Console
from rich.table import Table

from agent.config import Config, load_config
from agent.evolution.cycle import evolve
from agent.evolution.play import measure
from agent.loop import Assignment, seed_of
from agent.report import write_number
from agent.run import Run
from agent.run_folder import BASE
from agent.stats import holm, paired_difference, paired_p, rate
from environments.base import Task
from environments.splits import split_of
from memory import history
from memory.recall import Recall
from memory.records import MemoryItem, Note, Trajectory

FROZEN = ("update_weights.enabled=false", "test.run=false")
UNGATED = (*FROZEN, "gate.enabled=false")
ALL = (
    "update_memory.write={exemplars: {which: all, per_family: 100000}, reflections: null}",
    "update_memory.consolidation=add-all",
)
ARMS: dict[str, tuple[str | None, tuple[str, ...]]] = {  # arm: recipe, settings
    "none": (None, (*UNGATED, "update_memory.enabled=false")),
    "history": (
        None,
        (*UNGATED, *ALL, "memory.recall={quotas: {exemplar: 1000}, tokens: 1200, recency: 1000, "
         "min_similarity: -1, diversity: 0, candidates: 1000}"),
    ),
    "add-all": (None, (*UNGATED, *ALL)),
    "ours": (None, FROZEN),
    "defended": (None, FROZEN),
}  # fmt: skip
RECIPES = (
    "reflexion", "expel", "mot", "tran", "memorybank", "tim", "iml", "memgpt", "ice", "awm",
    "voyager", "reasoningbank", "ace",
)  # fmt: skip
CONTROLS = ("shuffled", "wrong")

SUITES: dict[str, tuple[str, ...]] = {
    "reasoning-gym": (
        "suite={name: reasoning-gym, tasks: {train: 60, gate: 10, retention: 4, test: 15}}",
        "acquire.tasks=40", "acquire.first_tasks=40", "acquire.samples=4",
    ),
    "banking77": (
        "suite={name: banking77, tasks: {train: 240, gate: 20, retention: 4, test: 30}}",
        "acquire.tasks=400", "acquire.first_tasks=400", "acquire.samples=4",
        "acquire.recall={quotas: {exemplar: 3}, min_similarity: 0.0}",
        "memory.recall.quotas={exemplar: 4}",
        "refine={per_task: 1, per_family: 200}",
        "update_memory.write={exemplars: {per_family: 100}, reflections: null}",
        "update_memory.consolidation={fit: {active: {items: 700, per_family: 100}}}",
    ),
    "textworld": (
        "suite={name: textworld-express, options: {steps: 12}, "
        "tasks: {train: 48, gate: 14, retention: 5, test: 30}}",
        "acquire.tasks=32", "acquire.first_tasks=32", "acquire.samples=4",
        "acquire.recall={quotas: {exemplar: 1}, min_similarity: 0.0, tokens: 800}",
        "memory.recall={quotas: {exemplar: 1}, tokens: 800}",
        "update_memory.write={reflections: null}",
    ),
}  # fmt: skip
GENERATIONS = 3
QUICK = ("generations=1", "acquire.tasks=4", "acquire.first_tasks=4", "acquire.samples=2")


def configured(suite: str, arm: str, seed: int, quick: bool) -> Config:
    """The configuration of an arm on a suite; the suite's settings are laid over the recipe's."""
    recipe, settings = ARMS.get(arm, (arm, UNGATED))
    own = [*SUITES[suite], *settings, f"generations={GENERATIONS}", f"seed={seed}"]
    if recipe is not None:  # what a method keeps and shows is its own
        kept = (
            "acquire.recall", "memory.recall", "update_memory.write", "update_memory.consolidation",
        )  # fmt: skip
        own = [setting for setting in own if not setting.startswith(kept)]
    own += QUICK if quick else ()
    config = load_config(recipe, own)
    if config.acquire.retries:  # tries are episodes as well
        samples = max(1, config.acquire.samples - config.acquire.retries)
        config = load_config(recipe, [*own, f"acquire.samples={samples}"])
    return config


def live(
    folder: Path, config: Config, console: Console, controls: Sequence[str], strangers: bool
) -> dict[str, Any]:
    """Evolve an arm, then test it, with controls if they are asked for."""
    with Run(folder, config, console=console) as run:
        if strangers:
            vars(run.suite)["vouched"] = lambda t: split_of(t.id) != "train" or int(t.id, 16) % 4
        last = evolve(run)
        tasks = run.tasks("test")
        arms = {"": measure(run, "test", "test", last.memory, BASE)}
        for control in controls:
            arms[control] = controlled(run, control, tasks, last.memory)
        items = history.items(run.ledger, last.memory)
        said = sum(int(str(n.data["tokens"])) for _, n in run.ledger.all(Note, "said/"))
        practised = sum(
            t.produced_tokens for _, t in run.ledger.all(Trajectory) if t.phase == "acquire"
        )
        gated = run.tokens("gate/") + run.tokens("retention/")
        tested = [t for _, t in run.ledger.all(Trajectory, "test/")]
        shown = sum(len(s.token_ids) - sum(s.loss_mask) for t in tested for s in t.steps)
        return {
            "arms": arms,
            "families": {task.id: task.family for task in tasks},
            "items": len(items),
            "characters": sum(len(item.text) for item in items),
            "tokens": {"practice": practised, "writing": said, "gate": gated},
            "prompt": round(shown / max(1, len(tested))),
        }


def controlled(run: Run, control: str, tasks: Sequence[Task], memory: str) -> dict[str, float]:
    """Success with what memory holds, but shown to the wrong task or with the wrong answers."""
    recalls = {id_: wait() for id_, wait in run.memory.recall(tasks, memory, BASE).items()}
    chance = random.Random(seed_of(run.config.seed, control))
    if control == "shuffled":
        others = list(recalls)
        chance.shuffle(others)
        shown = {id_: recalls[other] for id_, other in zip(recalls, others, strict=True)}
    else:
        every = {item.id: item for recall in recalls.values() for item in recall.items}
        swapped = exchanged(list(every.values()), chance)
        shown = {
            id_: recall._replace(items=tuple(swapped[item.id] for item in recall.items))
            for id_, recall in recalls.items()
        }
    assignments = [
        Assignment(
            f"{control}/{task.id}", task, "test", "test", memory=memory,
            recall=(lambda found: lambda: found)(shown.get(task.id, Recall())),
        )
        for task in tasks
    ]  # fmt: skip
    played = run.episodes(f"test · {control}", assignments, BASE)
    return {t.task: float(t.success) for t in played if t.failure is None}


def exchanged(items: Sequence[MemoryItem], chance: random.Random) -> dict[str, MemoryItem]:
    """Each item with the answer of another that answered otherwise; notes with another's text."""

    def answer(item: MemoryItem) -> Any:
        return item.content.get("turns") or item.text

    swapped = {}
    for item in items:
        others = [o for o in items if o.kind is item.kind and answer(o) != answer(item)]
        other = chance.choice(others) if others else item
        content = dict(item.content)
        if "turns" in content:
            content["turns"] = other.content["turns"]
        text = other.text if "turns" not in content else item.text
        swapped[item.id] = item.model_copy(update={"content": content, "text": text})
    return swapped


def told(seeds: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Arms over all seeds: rates, paired differences, sizes and costs.

    A task's outcome is its mean over the seeds, so that tasks are what the intervals are over.
    """
    names = [name for name in seeds[0] if all(name in seed for seed in seeds)]
    outcomes: dict[str, list[Mapping[str, float]]] = {}
    families: dict[str, str] = {}
    for seed in seeds:
        for name in names:
            families |= seed[name]["families"]
            for control, own in seed[name]["arms"].items():
                outcomes.setdefault(control or name, []).append(own)
    played = [set(own) for each in outcomes.values() for own in each]
    tasks = sorted(set.intersection(*played))
    strata = [families[task] for task in tasks]
    values = {
        name: [sum(own[task] for own in each) / len(each) for task in tasks]
        for name, each in outcomes.items()
    }
    arms: dict[str, Any] = {}
    for name, own in values.items():
        each = [sum(o[task] for task in tasks) / len(tasks) for o in outcomes[name]]
        arms[name] = rate(own, strata).model_dump(mode="json") | {"seeds": each}
        if name in names:
            mine = [seed[name] for seed in seeds]
            arms[name] |= {
                "items": fmean(m["items"] for m in mine),
                "prompt": fmean(m["prompt"] for m in mine),
                "tokens": {
                    part: fmean(m["tokens"][part] for m in mine) for part in mine[0]["tokens"]
                },
            }
    contrasts: dict[str, Any] = {}
    if "ours" in values:
        for name, own in values.items():
            if name != "ours":
                gap = paired_difference(values["ours"], own, strata)
                contrasts[f"ours - {name}"] = gap.model_dump(mode="json")
        claimed = [name for name in ("none", "add-all") if name in values]
        chances = [paired_p(values["ours"], values[name]) for name in claimed]
        for name, corrected in zip(claimed, holm(chances), strict=True):
            contrasts[f"ours - {name}"]["p_holm"] = corrected
    return {"tasks": len(tasks), "arms": arms, "contrasts": contrasts}


def show(suites: Mapping[str, Any], out: Console) -> None:
    """Each suite's arms."""
    for suite, own in suites.items():
        table = Table(box=None, header_style="bold", pad_edge=False, title=suite)
        for column in ("arm", "success", "95 %", "ours minus it", "items", "tokens", "prompt"):
            table.add_column(column)
        for name, arm in own["arms"].items():
            gap = own["contrasts"].get(f"ours - {name}")
            spent = sum(arm["tokens"].values()) if "tokens" in arm else None
            table.add_row(
                name,
                write_number(arm["mean"]),
                f"[{write_number(arm['low'])}, {write_number(arm['high'])}]".replace("[", r"\["),
                write_number(gap["mean"], signed=True) if gap else "",
                f"{arm['items']:.0f}" if "items" in arm else "",
                f"{spent:,.0f}" if spent is not None else "",
                f"{arm['prompt']:.0f}" if "prompt" in arm else "",
            )
        out.print(table)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}")
    options.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    options.add_argument("--arms", nargs="*", help=f"of {', '.join([*ARMS, *RECIPES])}")
    arguments = options.parse_args()
    names = arguments.suites or list(SUITES)
    arms = arguments.arms or [*ARMS, *RECIPES]
    unknown = [n for n in names if n not in SUITES] + [
        a for a in arms if a not in (*ARMS, *RECIPES)
    ]
    if unknown:
        options.error(f"unknown: {', '.join(unknown)}")
    out = Console(highlight=False)
    found: dict[str, Any] = {}
    if arguments.json and arguments.json.is_file():
        found = json.loads(arguments.json.read_text())["suites"]
    quick = "-quick" if arguments.quick else ""
    for suite in names:
        seeds: list[dict[str, Any]] = []
        for seed in range(arguments.seeds):
            seeds.append({})
            for arm in arms:
                folder = ROOT / "runs" / f"bench-memory-{suite}-{arm}{quick}-s{seed}"
                out.print(f"[bold]{suite} · seed {seed} · {arm}[/bold]")
                kept = folder / "memory-learning.json"
                if not kept.is_file():
                    controls = CONTROLS if arm == "ours" else ()
                    config = configured(suite, arm, seed, arguments.quick)
                    save(kept, live(folder, config, out, controls, arm == "defended"))
                    shutil.rmtree(folder / "index", ignore_errors=True)  # can be rebuilt
                seeds[-1][arm] = json.loads(kept.read_text())
            found[suite] = circumstances("memory-learning") | {"seeds": len(seeds)} | told(seeds)
            save(
                arguments.json,
                circumstances("memory-learning") | {"quick": arguments.quick, "suites": found},
            )
    show(found, out)


if __name__ == "__main__":
    main()
