"""What an environment costs: steps of the text worlds, and what the watch adds to a call.

Each world is played by chance among its valid actions, and then the same actions again without
asking for the list of them, since an agent that writes freely needs none (two worlds make it
with every step anyway). The household's own engine is bound to a thousand steps a second, list
included. Its games are the twelve of ``tests/data``; the other worlds need Java, and are left
out where it is missing.

The watch (``environments.watch``) makes every call of a rollout in a thread of the environment's
own. Here it watches a world that does nothing, in turn with the same world unwatched.

    python benchmarks/worlds.py --json benchmarks/results/worlds.json
"""

from __future__ import annotations

import gzip
import itertools
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from _common import ROOT, circumstances, parser, save
from rich.console import Console
from rich.table import Table

from environments.base import Action, StepResult, Suite, SuiteError, Task, Tool
from environments.suites.household import Household, house
from environments.suites.scienceworld import ScienceWorld
from environments.suites.text_world import ACT, as_action
from environments.suites.textworld_express import TextWorldExpress
from environments.watch import Watched

GAMES = ROOT / "tests" / "data" / "alfworld_rebuilt" / "train.jsonl"
ENGINE = "household, the engine"
BAR = 1000  # its steps a second, with the list
TURNS = 40  # of an episode, if it does not end before

Make = Callable[[Task], Any]
Episode = tuple[Task, list[Action]]


class Engine:
    """A house alone, without what makes an environment of it."""

    done = StepResult(observation="")

    def __init__(self, task: Task) -> None:
        self.house = house(task)

    @property
    def valid_actions(self) -> Sequence[str]:
        return self.house.commands()

    def start(self) -> str:
        return ""

    def step(self, action: Action) -> StepResult:
        assert self.house.do(action.arguments["command"]) is not None, action
        return self.done

    def close(self) -> None:
        pass


def walk(make: Make, tasks: Sequence[Task], seconds: float) -> tuple[list[Episode], list[float]]:
    """Episodes by chance, and the seconds of every turn, with its list of valid actions."""
    chance, episodes, times = random.Random(0), [], []
    end = time.perf_counter() + seconds
    for task in itertools.cycle(tasks):
        environment, given = make(task), []
        try:
            environment.start()
            over = False
            while not over and len(given) < TURNS:
                began = time.perf_counter()
                valid = environment.valid_actions
                listed = time.perf_counter()
                given.append(as_action(chance.choice(valid)))
                asked = time.perf_counter()
                result = environment.step(given[-1])
                ended = time.perf_counter()
                times.append(listed - began + ended - asked)
                over = result.terminated or result.truncated
        finally:
            environment.close()
        episodes.append((task, given))
        if time.perf_counter() > end:
            break
    return episodes, times


def replay(make: Make, episodes: Sequence[Episode]) -> list[float]:
    """The same actions again: the seconds of every step."""
    times = []
    for task, given in episodes:
        environment = make(task)
        try:
            environment.start()
            for action in given:
                began = time.perf_counter()
                environment.step(action)
                times.append(time.perf_counter() - began)
        finally:
            environment.close()
    return times


def measure(tasks: Sequence[Task], listing: Make, plain: Make, seconds: float) -> dict[str, float]:
    """Figures of one world; ``plain`` makes environments that need not know what is valid."""
    walk(listing, tasks, seconds / 4)  # for the caches, and Java's compiler
    episodes, listed = walk(listing, tasks, seconds)
    steps = sorted(replay(plain, episodes))
    return {
        "steps": len(steps),
        "p50_us": round(median(steps) * 1e6, 2),
        "p99_us": round(steps[int(len(steps) * 0.99)] * 1e6, 2),
        "per_second": round(len(steps) / sum(steps), 1),
        "with_list_per_second": round(len(listed) / sum(listed), 1),
    }


def worlds(seconds: float) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Name → figures, and why others are missing."""
    measured: dict[str, dict[str, float]] = {}
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "train.jsonl.gz").write_bytes(gzip.compress(GAMES.read_bytes()))
        home = Household(data=folder)
        measured[ENGINE] = measure(home.tasks(), Engine, Engine, seconds)
        measured["household"] = measure(home.tasks(), home.environment, home.environment, seconds)
    makes: dict[str, Callable[[], tuple[Suite, Suite]]] = {
        "textworld-express": lambda: (
            express := TextWorldExpress(per_game=5, processes=1),
            express,
        ),
        "scienceworld": lambda: (
            ScienceWorld(variations=1, valid_actions=True, processes=1),
            ScienceWorld(variations=1, processes=1),
        ),
    }
    for name, make in makes.items():
        try:
            listing, plain = make()
            tasks = listing.tasks()
        except SuiteError as error:
            missing[name] = str(error)
            continue
        measured[name] = measure(tasks, listing.environment, plain.environment, seconds)
    return measured, missing


class Nothing:
    """A world in which nothing happens."""

    tools: Sequence[Tool] = (ACT,)
    done = StepResult(observation="Nothing happens.")

    def start(self) -> str:
        return "Nothing."

    def step(self, action: Action) -> StepResult:
        return self.done

    def close(self) -> None:
        pass


def watch(calls: int) -> dict[str, float]:
    """Microseconds of a call, unwatched and watched, taking turns."""
    action = Action(text="wait")
    ways: dict[str, Any] = {"unwatched": Nothing(), "watched": Watched(Nothing())}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for world in ways.values():
        world.start()
    try:
        for turn in range(11):
            for name, world in ways.items():
                for _ in range(calls // 10):
                    began = time.perf_counter()
                    world.step(action)
                    ended = time.perf_counter()
                    if turn:  # the first is for the caches
                        times[name].append(ended - began)
    finally:
        for world in ways.values():
            world.close()
    found = {name: median(own) * 1e6 for name, own in times.items()}
    ordered = sorted(times["watched"])
    return {
        "calls": len(ordered),
        **{f"{name}_us": round(us, 2) for name, us in found.items()},
        "watched_p99_us": round(ordered[int(len(ordered) * 0.99)] * 1e6, 2),
        "added_us": round(found["watched"] - found["unwatched"], 2),
    }


def show(figures: dict[str, Any], out: Console) -> None:
    table = Table(box=None, header_style="bold")
    for column in ("", "p50 µs", "p99 µs", "a second", "with the list", "steps"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, own in figures["worlds"].items():
        table.add_row(name, f"{own['p50_us']:.1f}", f"{own['p99_us']:.1f}",
                      f"{own['per_second']:,.0f}", f"{own['with_list_per_second']:,.0f}",
                      f"{own['steps']:,}")  # fmt: skip
    out.print(table)
    for name, reason in figures["missing"].items():
        out.print(f"{name}: not measured ({reason})")
    got = figures["worlds"][ENGINE]["with_list_per_second"]
    mark = "✓" if got >= BAR else "✗"
    out.print(f"{ENGINE}: {got:,.0f} steps/s (bar: at least {BAR:,}) {mark}")
    own = figures["watch"]
    out.print(f"the watch adds {own['added_us']:.1f} µs to a call ({own['calls']:,} calls)")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=5.0, help="of each world")
    arguments = options.parse_args()
    measured, missing = worlds(0.5 if arguments.quick else arguments.seconds)
    figures = circumstances("worlds") | {
        "quick": arguments.quick,
        "bars": {ENGINE: BAR},
        "worlds": measured,
        "watch": watch(1_000 if arguments.quick else 20_000),
        "missing": missing,
    }
    show(figures, Console(highlight=False))
    save(arguments.json, figures)


if __name__ == "__main__":
    main()
