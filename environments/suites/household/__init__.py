"""Household tasks in ALFWorld's form, in a house of our own making.

The games are ``alfworld_rebuilt``: rebuilt from ALFRED's trajectories
(https://github.com/askforalfred/alfred, MIT), so scores are near, not equal, to published ones.
"""

from __future__ import annotations

import functools
import gzip
import json
import random
import typing
from collections import defaultdict
from collections.abc import Iterator, Sequence
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
from environments.suites.data import data_path
from environments.suites.household.engine import NOTHING_HAPPENS, Goal, House, kind
from environments.suites.text_world import ACT, as_action, command_of

File = Literal["train", "valid_seen", "valid_unseen", "official"]
FAMILIES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
_STATES = {
    "pick_clean_then_place_in_recep": "clean",
    "pick_heat_then_place_in_recep": "heat",
    "pick_cool_then_place_in_recep": "cool",
}
_SOURCE = "alfworld_rebuilt (games rebuilt from github.com/askforalfred/alfred)"


class Household:
    """Household tasks: find things, carry them, clean, heat or cool them, use a lamp.

    Args:
        data: folder that holds ``train.jsonl.gz`` and the others; else ``INSTAR_DATA`` says it.
        files: which games: ``train``, ``valid_seen``, ``valid_unseen``, or ``official``, the 134
            games of ``valid_unseen`` that papers on ALFWorld report.
        families: which of the six kinds of task.
        limit: most tasks of a family and file, spread over them; None takes all.
        steps: commands an episode may give.

    Raises:
        SuiteError: an unknown family, missing or damaged data, or no tasks at all.
    """

    name = "household"
    description = "household tasks in ALFWorld's form (rebuilt), one text command a turn"

    def __init__(
        self,
        data: str | None = None,
        files: Sequence[File] = ("train",),
        families: Sequence[str] = FAMILIES,
        limit: int | None = 200,
        steps: int = 30,
    ) -> None:
        unknown = sorted(set(families) - set(FAMILIES))
        if unknown:
            raise SuiteError(
                f"{self.name}: unknown family {unknown[0]!r}; choose of: {', '.join(FAMILIES)}"
            )
        if not families or not files or steps < 1 or (limit is not None and limit < 1):
            raise SuiteError(
                f"{self.name}: no tasks; give at least one file and family, and limit and steps "
                "of 1 or more"
            )
        self._files, self._families, self._limit = files, frozenset(families), limit
        self._steps = steps
        self._folder = data_path(self.name, data, "alfworld_rebuilt", _SOURCE)
        self.briefing = Briefing(
            text=(
                "You are in a house and have a task to do. Write one command. Things may be "
                "inside closed receptacles. You can hold one object."
            ),
            example=(
                "You are in the middle of a room. Looking quickly around you, you see a bench 1, "
                "and a chest 1.\n\nYour task is to: open the chest.",
                "go to chest 1",
            ),
            turns=steps,
            max_new_tokens=24,
        )

    def tasks(self) -> Sequence[Task]:
        """All tasks, file by file; the same ones in the same order at every call."""
        return self._tasks

    @functools.cached_property
    def _tasks(self) -> tuple[Task, ...]:
        found: dict[str, Task] = {}
        for file in dict.fromkeys(self._files):
            games: dict[str, list[Task]] = defaultdict(list)
            path = self._folder / f"{'valid_unseen' if file == 'official' else file}.jsonl.gz"
            for number, record in _records(self.name, path):
                try:
                    if record["task_type"] not in self._families:
                        continue
                    if file == "official" and not record["official_eval"]:
                        continue
                    task = _task(self.name, record)
                except (AttributeError, KeyError, TypeError, ValueError) as error:
                    raise SuiteError(
                        f"{self.name}: {path}, line {number}: not a game "
                        f"({type(error).__name__}: {error}); download it again"
                    ) from None
                games[task.family].append(task)
            for family in sorted(games):
                found.update((task.id, task) for task in _spread(games[family], self._limit))
        if not found:
            raise SuiteError(f"{self.name}: {self._folder} holds no games of these families")
        return tuple(found.values())

    def environment(self, task: Task) -> Environment:
        """A fresh house for one task."""
        return HouseholdEnvironment(task.prompt, house(task), self._steps)

    def canary(self, task: Task, seed: int) -> Task | None:
        """The same house and task, judged by an object that is in other houses only."""
        things = typing.cast(list[list[str]], task.data["objects"])
        there = {kind(name) for name, _ in things}
        absent = sorted(self._kinds - there)
        if not absent:
            return None
        obj = random.Random(f"{seed}/{task.id}").choice(absent)
        goal = {**typing.cast(dict[str, Any], task.data["goal"]), "obj": obj}
        return task.model_copy(update={"data": {**task.data, "goal": goal}})

    @functools.cached_property
    def _kinds(self) -> frozenset[str]:
        """Kinds of objects in all houses."""
        things = (typing.cast(list[list[str]], task.data["objects"]) for task in self.tasks())
        return frozenset(kind(name) for own in things for name, _ in own)

    def gold(self, task: Task) -> list[Action]:
        """The commands of a solution."""
        plan = typing.cast(list[str], task.data["plan"])
        return [as_action(command) for command in plan]


def house(task: Task) -> House:
    """The house of a task, as it is at the start."""
    data: dict[str, Any] = task.data
    return House(data["receptacles"], data["objects"], Goal(**data["goal"]))


class HouseholdEnvironment:
    """One house: every command is answered as ALFWorld answers it.

    Args:
        prompt: the first observation.
        house: the house, as it is at the start.
        steps: commands it may be given.
    """

    def __init__(self, prompt: str, house: House, steps: int) -> None:
        self._prompt, self._house, self._left = prompt, house, steps
        self._over = False

    @property
    def tools(self) -> Sequence[Tool]:
        """The one tool, ``act``."""
        return (ACT,)

    @property
    def valid_actions(self) -> Sequence[str]:
        """The commands that can be given now."""
        return () if self._over else self._house.commands()

    def start(self) -> str:
        """The room, and the task."""
        return self._prompt

    def step(self, action: Action) -> StepResult:
        """Give one command; the reward is 1.0 when the task is done.

        Raises:
            EnvironmentFailure: the episode is over.
        """
        if self._over:
            raise EnvironmentFailure("the episode is over: make a new environment")
        self._left -= 1
        command, problem = command_of(action)
        answer = self._house.do(command) if command is not None else None
        solved = answer is not None and self._house.solved
        self._over = solved or self._left <= 0
        if problem is None and answer is None:
            problem = StepResult(observation=NOTHING_HAPPENS, error="invalid command")
        if problem is not None:
            return problem.model_copy(update={"truncated": self._over})
        assert answer is not None
        return StepResult(
            observation=answer,
            reward=float(solved),
            terminated=solved,
            truncated=self._over and not solved,
        )

    def close(self) -> None:
        """Nothing is held."""
        self._over = True


def _records(suite: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                yield number, json.loads(line)
    except (OSError, EOFError, ValueError) as error:
        raise SuiteError(
            f"{suite}: {path} cannot be read ({error}); download {_SOURCE} again, or set "
            "suite.options.data"
        ) from None


def _task(suite: str, record: dict[str, Any]) -> Task:
    family, wanted = record["task_type"], record["pddl_params"]
    goal = Goal(
        obj=wanted["object_target"].lower(),
        receptacle=wanted["parent_target"].lower(),
        count=2 if family == "pick_two_obj_and_place" else 1,
        state=_STATES.get(family, ""),
        lamp=wanted["toggle_target"].lower(),
    )
    receptacles = [place["name"] for place in record["receptacles"]]
    objects = [(thing["name"], thing["at"]) for thing in record["objects"]]
    room = House(receptacles, objects, goal).look()
    return Task(
        suite=suite,
        family=family,
        prompt=f"{room}\n\nYour task is to: {record['goal']}.",
        data={
            "receptacles": receptacles,
            "objects": [list(pair) for pair in objects],
            "goal": dict(vars(goal)),
            "plan": list(record["oracle_plan"]),
        },
    )


def _spread(games: list[Task], limit: int | None) -> list[Task]:
    """Games taken at even distances: neighbours in the file are of the same kind and room."""
    if limit is None or len(games) <= limit:
        return games
    return [games[i * len(games) // limit] for i in range(limit)]
