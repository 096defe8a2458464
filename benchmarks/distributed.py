"""What rollouts over Ray cost and gain on one machine, next to the local runner.

With the default model the engine is the bottleneck, and Ray can only cost: processes that
take cores from it, and messages. With worlds that compute in Python it can gain, since the
episodes of the local runner share one interpreter. Both runners play the same episodes, in an
order that alternates; each timing begins with an engine whose caches are empty. Starting Ray and
its actors, once a run, is told apart.

    python benchmarks/distributed.py --json benchmarks/results/distributed.json
    python benchmarks/distributed.py --quick
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import _distributed_worlds as busy
from _common import circumstances, parser, save
from rich.console import Console
from rich.table import Table

from agent.config import Config
from agent.distributed.fleet import Fleet
from agent.engines import Engine
from agent.evolution.acquire import plan
from agent.loop import Assignment
from agent.rollout import rollout
from agent.worlds import configured_suite
from environments.splits import families_in_turn, split_tasks
from memory.records import Trajectory

LOCAL = "local"
Play = Callable[[Sequence[Assignment]], Iterator[list[Trajectory]]]


class Timing(NamedTuple):
    """One rollout: what came out of it and how long it took."""

    episodes: list[Trajectory]
    seconds: float


def local(config: Config) -> Play:
    """The local runner, with a new engine each time."""
    suite = configured_suite(config)
    engine = Engine(config, Path("engine.log"), print)
    policy = engine.policy(None, "base")

    def play(assignments: Sequence[Assignment]) -> Iterator[list[Trajectory]]:
        renew(policy)
        return rollout(
            assignments,
            policy,
            suite,
            config.agent,
            seed=config.seed,
            in_flight=config.policy.slots * 3 // 2,
        )

    return play


def renew(policy: Any) -> None:
    """Empty a model's caches: a new engine around the same weights."""
    from agent.policies.engine import Engine as Batching

    if old := getattr(policy, "engine", None):
        policy.engine = Batching(old.model, old.tokenizer, slots=old.slots, context=old.context)


@contextmanager
def over_ray(config: Config, workers: int) -> Iterator[tuple[Play, float]]:
    """Over Ray, on this machine; also how long that took to start, in seconds."""
    more = {"runner": "ray", "workers": workers}
    tree = config.model_dump() | {"rollouts": more}
    begin = time.perf_counter()
    fleet = Fleet(Config.model_validate(tree), print)
    try:
        fleet.policy(None, "base")
        started = time.perf_counter() - begin

        def play(assignments: Sequence[Assignment]) -> Iterator[list[Trajectory]]:
            fleet.rest()
            fleet.policy(None, "base")  # loaded again, so caches are empty
            return fleet.rollout(assignments)

        yield play, started
    finally:
        fleet.close()


def timed(play: Play, episodes: Sequence[Assignment]) -> Timing:
    """Play episodes; what comes before the first is handed out is not counted."""
    batches = play(episodes)
    begin = time.perf_counter()
    done = [trajectory for batch in batches for trajectory in batch]
    seconds = time.perf_counter() - begin
    broken = [t.failure for t in done if t.failure is not None]
    if broken:
        raise SystemExit(f"{len(broken)} of {len(done)} episodes broke: {broken[0].message}")
    return Timing(done, seconds)


def alternate(
    plays: Mapping[str, Play], episodes: Sequence[Assignment], repeats: int, out: Console
) -> dict[str, list[Timing]]:
    """Time each of them so many times; every other round backwards."""
    timings: dict[str, list[Timing]] = {name: [] for name in plays}
    for repeat in range(repeats):
        for name in list(plays) if repeat % 2 == 0 else reversed(list(plays)):
            timing = timed(plays[name], episodes)
            timings[name].append(timing)
            out.print(f"repeat {repeat + 1}: {name}: {timing.seconds:.1f} s")
    return timings


def told(timings: Sequence[Timing], amount: Callable[[Timing], float]) -> dict[str, Any]:
    rates = [amount(t) / t.seconds for t in timings]
    return {
        "rate": round(median(rates), 2),
        "all": [round(rate, 2) for rate in rates],
        "seconds": round(median(t.seconds for t in timings), 2),
    }


def tokens(timing: Timing) -> float:
    return sum(t.produced_tokens for t in timing.episodes)


def with_model(arguments: argparse.Namespace, out: Console) -> dict[str, Any]:
    """The default model on reasoning-gym."""
    config = Config()
    suite = configured_suite(config)
    tasks = families_in_turn(split_tasks(suite.tasks())["train"], arguments.tasks)
    acquire = config.acquire.model_copy(update={"samples": arguments.samples})
    families = {task.family for task in tasks}
    episodes = plan(tasks, {}, acquire, generation=1, weak=families, evolved=False).incumbent
    workers = max(arguments.workers)
    name = runner(workers)
    with over_ray(config, workers) as (ray, started):
        plays = {LOCAL: local(config), name: ray}
        for play in plays.values():
            timed(play, episodes[: max(2, len(episodes) // 8)])  # warm up
        timings = alternate(plays, episodes, arguments.repeats, out)
    ratios = [
        (tokens(b) / b.seconds) / (tokens(a) / a.seconds)
        for a, b in zip(timings[LOCAL], timings[name], strict=True)
    ]
    said = [
        {t.slot: [step.token_ids for step in t.steps] for t in timings[n][-1].episodes}
        for n in (LOCAL, name)
    ]
    return {
        "episodes": len(episodes),
        "start_seconds": round(started, 1),
        "runners": {n: told(own, tokens) for n, own in timings.items()},
        "same_tokens": sum(said[0][slot] == said[1][slot] for slot in said[0]) / len(said[0]),
        "ratio": {
            "median": round(median(ratios), 4),
            "low": round(min(ratios), 4),
            "high": round(max(ratios), 4),
            "all": [round(ratio, 4) for ratio in ratios],
        },
    }


def with_worlds(arguments: argparse.Namespace, out: Console) -> dict[str, Any]:
    """Worlds that compute in Python, with one to several workers."""
    options = {"count": arguments.worlds, "step_ms": arguments.step_ms}
    config = Config.model_validate(
        {
            "suite": {"name": "_distributed_worlds:Busy", "options": options},
            "policy": {"engine": "scripted", "model": "_distributed_worlds:script"},
            "agent": {"turns": busy.STEPS},
        }
    )
    tasks = configured_suite(config).tasks()
    episodes = [Assignment(f"bench/{t.id}", t, "train", "acquire") for t in tasks]
    timings = alternate({LOCAL: local(config)}, episodes, arguments.repeats, out)
    for workers in arguments.workers:
        with over_ray(config, workers) as (ray, _):
            timed(ray, episodes[: len(episodes) // 8])
            timings |= alternate({runner(workers): ray}, episodes, arguments.repeats, out)
    return {
        "episodes": len(episodes),
        "steps": busy.STEPS,
        "step_ms": arguments.step_ms,
        "runners": {n: told(own, lambda t: len(t.episodes)) for n, own in timings.items()},
    }


def runner(workers: int) -> str:
    return f"Ray, {workers} worker{'s' if workers > 1 else ''}, 1 engine"


def show(figures: dict[str, Any], out: Console) -> None:
    """The figures as tables."""
    for part, unit in (("model", "tokens/s"), ("worlds", "episodes/s")):
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("runner", unit, "lowest", "highest", "seconds"):
            table.add_column(column, justify="left" if column == "runner" else "right")
        for name, own in figures[part]["runners"].items():
            lowest, highest = min(own["all"]), max(own["all"])
            numbers = (own["rate"], lowest, highest, own["seconds"])
            table.add_row(name, *(f"{number:.1f}" for number in numbers))
        out.print(table)
    model = figures["model"]
    out.print(
        f"Ray / local with the model: [bold]{model['ratio']['median']:.3f}[/bold]; "
        f"{model['same_tokens']:.0%} of the episodes have the same tokens; "
        f"start {model['start_seconds']:.0f} s"
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--tasks", type=int, default=48, help="tasks, spread over the families")
    options.add_argument("--samples", type=int, default=8, help="episodes per task")
    options.add_argument("--worlds", type=int, default=400, help="episodes in Python worlds")
    options.add_argument("--step-ms", type=float, default=10, help="their steps' processor time")
    options.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options.add_argument("--repeats", type=int, default=3)
    arguments = options.parse_args()
    if arguments.quick:
        arguments.tasks, arguments.samples = min(arguments.tasks, 4), min(arguments.samples, 2)
        arguments.worlds, arguments.repeats = min(arguments.worlds, 60), min(arguments.repeats, 1)
    out = Console(highlight=False)
    figures = {
        **circumstances("distributed"),
        "quick": arguments.quick,
        "settings": {
            key: getattr(arguments, key)
            for key in ("tasks", "samples", "worlds", "step_ms", "workers", "repeats")
        },
        "model": with_model(arguments, out),
        "worlds": with_worlds(arguments, out),
    }
    show(figures, out)
    save(arguments.json, figures)


if __name__ == "__main__":
    main()
