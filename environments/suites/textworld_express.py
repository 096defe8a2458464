"""TextWorldExpress: eight small text games whose difficulty is set by parameters.

Needs the package ``textworld-express`` (Apache-2.0) and Java.
"""

from __future__ import annotations

import functools
import json
import random
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from environments.base import (
    Action,
    Briefing,
    Environment,
    EnvironmentFailure,
    StepResult,
    SuiteError,
    Task,
    Tool,
)
from environments.suites.java_games import (
    Game,
    JavaGames,
    JavaPool,
    require_java,
    shared_pool,
    texts,
)
from environments.suites.text_world import ACT, as_action, command_of

# The games and their levels: the game's own parameters, one set after the other over the seeds.
LEVELS: dict[str, tuple[str, ...]] = {
    "coin": (
        "numLocations=3,includeDoors=0",
        "numLocations=4,includeDoors=1",
        "numLocations=6,includeDoors=0",
    ),
    "mapreader": (
        "numLocations=4,maxDistanceApart=2,maxDistractorItemsPerLocation=0",
        "numLocations=8,maxDistanceApart=3,maxDistractorItemsPerLocation=1",
    ),
    "simonsays": (
        "gameLength=3,numDistractors=2",
        "gameLength=5,numDistractors=3",
        "gameLength=8,numDistractors=3",
    ),
    "arithmetic": ("",),
    "cookingworld": (
        "numLocations=1,numIngredients=1,numDistractorItems=2,includeDoors=0,limitInventorySize=0",
        "numLocations=3,numIngredients=2,numDistractorItems=3,includeDoors=0,limitInventorySize=0",
    ),
    "twc": ("numLocations=1,numItemsToPutAway=1", "numLocations=2,numItemsToPutAway=2"),
    "sorting": ("",),
    "peckingorder": ("",),
}
SEEDS = {"train": range(1000), "dev": range(10_000, 11_000), "test": range(20_000, 21_000)}
_PARAMETERS = re.compile(r"(\w+=\d+(,\w+=\d+)*)?")
_UNKNOWN = "Unknown action"
_WALK = 25  # commands
_TRIES = 5


class TextWorldExpress:
    """Games of TextWorldExpress.

    Args:
        games: which of its eight games; each is a family.
        per_game: seeds of each game, 1000 at most; seeds that make the same game are one task.
        params: parameters of a game instead of its default ones (``{"coin":
            ["numLocations=5"]}``): the sets in turn, one a seed.
        fold: whose seeds and vocabulary: ``train``, ``dev`` or ``test``.
        steps: commands an episode may give.
        processes: Java processes at a time (about 250 MB each).

    Raises:
        SuiteError: an unknown game, bad parameters, no tasks, or a missing package or Java.
    """

    name = "textworld-express"
    description = "eight small text games (TextWorldExpress), one text command a turn"

    def __init__(
        self,
        games: Sequence[str] = ("coin", "mapreader", "simonsays", "arithmetic"),
        per_game: int = 200,
        params: Mapping[str, list[str]] = {},
        fold: Literal["train", "dev", "test"] = "train",
        steps: int = 30,
        processes: int = 2,
    ) -> None:
        self._games = tuple(dict.fromkeys(games))
        for game in (*self._games, *params):
            if game not in LEVELS:
                raise SuiteError(
                    f"{self.name}: unknown game {game!r}; choose of: {', '.join(LEVELS)}"
                )
        if not self._games or not 1 <= per_game <= 1000 or steps < 1 or processes < 1:
            raise SuiteError(
                f"{self.name}: give at least one game, per_game from 1 to 1000, and steps and "
                "processes of 1 or more"
            )
        self._levels = {game: _levels(self.name, game, params) for game in self._games}
        self._per_game, self._fold, self._steps = per_game, fold, steps
        self._pool = shared_pool(_games(self.name, processes))
        self.briefing = Briefing(
            text="You are in a text game and have a task to do. Write one command.",
            example=(
                "Your task is to ring the bell.\n\nYou are in the hall. You see a bell.",
                "ring bell",
            ),
            turns=steps,
            max_new_tokens=24,
        )

    def tasks(self) -> Sequence[Task]:
        """All tasks, game by game; the same ones in the same order at every call."""
        return self._tasks

    @functools.cached_property
    def _tasks(self) -> tuple[Task, ...]:
        found: dict[str, Task] = {}
        for game, levels in self._levels.items():
            different: set[tuple[str, ...]] = set()
            for number, params in enumerate(levels):
                seeds = SEEDS[self._fold][number : self._per_game : len(levels)]
                for seed, prompt, marks in self._made(game, params, seeds, _marks):
                    if (params, prompt, *marks) in different:
                        continue
                    different.add((params, prompt, *marks))
                    data: Any = {"game": game, "params": params, "seed": seed, "fold": self._fold}
                    task = Task(suite=self.name, family=game, prompt=prompt, data=data)
                    found[task.id] = task
        return tuple(found.values())

    def _made(
        self,
        game: str,
        params: str,
        seeds: Sequence[int],
        look: Callable[[Any, str, Callable[[], str]], list[str]],
    ) -> list[tuple[int, str, list[str]]]:
        """Seed, first observation, and what ``look`` finds of each seed's game."""

        def make(server: Any) -> list[tuple[int, str, list[str]]]:
            made = []
            for seed in seeds:
                anew = functools.partial(server.generateNewGameJSON, seed, self._fold, True)
                prompt = _first(server, json.loads(anew()))
                made.append((seed, prompt, look(server, game, anew)))
            return made

        opened = Game(open=lambda server: _load(server, game, params), repeat=_repeat)
        try:
            return self._pool.call(opened, make)
        finally:
            self._pool.forget(opened)

    def environment(self, task: Task) -> Environment:
        """The game of one task."""
        return TextWorldExpressEnvironment(task, self._pool, self._steps)

    def gold(self, task: Task) -> list[Action]:
        """The game's own solution."""
        data: dict[str, Any] = task.data
        made = self._made(data["game"], data["params"], [data["seed"]], _solution)
        return [as_action(command) for command in made[0][2]]


class TextWorldExpressEnvironment:
    """One game.

    Args:
        task: which one.
        pool: the Java processes.
        steps: commands it may be given.
    """

    def __init__(self, task: Task, pool: JavaPool, steps: int) -> None:
        self._prompt, self._pool, self._left = task.prompt, pool, steps
        self._over = False
        self._valid: tuple[str, ...] = ()
        data: dict[str, Any] = task.data

        def start(server: Any) -> str:
            _load(server, data["game"], data["params"])
            return str(server.generateNewGameJSON(data["seed"], data["fold"], False))

        self._start = start
        self._game = Game(open=start, repeat=_repeat)

    @property
    def tools(self) -> Sequence[Tool]:
        """The one tool, ``act``."""
        return (ACT,)

    @property
    def valid_actions(self) -> Sequence[str]:
        """The commands that the game knows at the moment."""
        return self._valid

    def start(self) -> str:
        """The task, and what is to be seen.

        Raises:
            EnvironmentFailure: Java does not answer, or makes another game than it once made.
        """

        def first(server: Any) -> tuple[str, dict[str, Any]]:
            state = json.loads(self._start(server))
            return _first(server, state), state

        prompt, state = self._pool.call(self._game, first)
        if prompt != self._prompt:
            raise EnvironmentFailure(
                "textworld-express: the game differs from the task's (another version of the "
                "package?); make the tasks anew"
            )
        self._valid = _valid(state)
        return prompt

    def step(self, action: Action) -> StepResult:
        """Give one command; the reward is 1.0 when the task is done.

        Raises:
            EnvironmentFailure: Java was lost or does not answer, or the episode is over.
        """
        if self._over:
            raise EnvironmentFailure("the episode is over: make a new environment")
        self._left -= 1
        command, problem = command_of(action)
        if command is None:
            assert problem is not None
            self._over = self._left <= 0
            return problem.model_copy(update={"truncated": self._over})
        state = json.loads(self._pool.call(self._game, lambda server: server.stepJSON(command)))
        self._game.past.append(command)
        self._valid = _valid(state)
        ended = bool(state["tasksuccess"] or state["taskfailure"])
        self._over = ended or self._left <= 0
        answer = str(state["observation"]).strip()
        return StepResult(
            observation=answer or "Nothing happens.",
            reward=float(state["tasksuccess"]),
            terminated=ended,
            truncated=self._over and not ended,
            error="invalid command" if answer.startswith(_UNKNOWN) else None,
            metrics={"score": float(state["score"])},
        )

    def close(self) -> None:
        """Give the game's place in its process to others."""
        self._over, self._valid = True, ()
        self._pool.forget(self._game)


def _games(suite: str, processes: int) -> JavaGames:
    found = find_spec("textworld_express")
    if found is None or found.origin is None:
        raise SuiteError(f"{suite} needs its package: pip install textworld-express")
    require_java(suite)
    return JavaGames(
        suite=suite,
        jar=Path(found.origin).parent / "textworld-express.jar",
        interface="textworldexpress.runtime.PythonInterface",
        processes=processes,
        games=1,  # sorting, for one, keeps state that all games of a process share
        heap_mb=384,
    )


def _levels(suite: str, game: str, params: Mapping[str, list[str]]) -> Sequence[str]:
    levels = [re.sub(r"\s", "", level) for level in params.get(game, LEVELS[game])]
    for level in levels:
        if not _PARAMETERS.fullmatch(level):
            raise SuiteError(
                f"{suite}: params of {game}: {level!r} is not of the form name=number,name=number"
            )
    if not levels:
        raise SuiteError(f"{suite}: params of {game}: give at least one set, which may be ''")
    return levels


def _load(server: Any, game: str, params: str) -> None:
    if problem := server.load(game, params):
        told = " ".join(str(problem).split())
        raise SuiteError(f"textworld-express: params of {game} ({params}): {told}")


def _solution(server: Any, game: str, anew: Callable[[], str]) -> list[str]:
    """The game's solution; of coin, which draws another detour each time, a short one."""
    found = [texts(server.getGoldActionSequence())]
    while game == "coin" and len(found) < _TRIES:
        anew()
        found.append(texts(server.getGoldActionSequence()))
    return min(found, key=len)


def _marks(server: Any, game: str, anew: Callable[[], str]) -> list[str]:
    """What tells one game from another that begins like it.

    That is its solution; for coin, where solutions are drawn by chance, what is met on a walk.
    """
    if game != "coin":
        return texts(server.getGoldActionSequence())
    state, choose, met = json.loads(anew()), random.Random(0), []
    for _ in range(_WALK):
        if not (valid := _valid(state)):
            break
        state = json.loads(server.stepJSON(choose.choice(valid)))
        met.append(str(state["observation"]))
    return met


def _repeat(server: Any, command: str) -> None:
    server.stepJSON(command)


def _first(server: Any, state: Mapping[str, Any]) -> str:
    """The task, the room, and what is carried, if anything is."""
    parts = [server.getTaskDescription(), state["observation"]]
    if "currently empty" not in state["inventory"]:
        parts.append(state["inventory"])
    return "\n\n".join(" ".join(str(part).split()) for part in parts if str(part).strip())


def _valid(state: Mapping[str, Any]) -> tuple[str, ...]:
    if state["tasksuccess"] or state["taskfailure"]:
        return ()
    return tuple(sorted(typing.cast(list[str], state["validActions"])))
