"""ScienceWorld in a real Java process: solved, repeatable, and lost on the way."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from environments.base import EnvironmentFailure, SuiteError
from environments.checks import check_suite
from environments.conformance import GARBAGE
from environments.suites import load_suite
from environments.suites.scienceworld import ScienceWorld
from environments.suites.text_world import as_action

KINDS = ("lifespan-longest-lived", "find-living-thing", "power-component", "use-thermometer")


@pytest.fixture(autouse=True)
def collected(nothing_leaks: Path) -> Iterator[None]:
    """Suites that an exception's frames hold are let go before leaks are looked for."""
    yield
    gc.collect()


@pytest.fixture
def suite() -> Iterator[ScienceWorld]:
    suite = ScienceWorld(tasks=KINDS, variations=1, processes=1)
    yield suite
    suite._pool.close()


def test_solutions_solve_their_tasks_alone_and_side_by_side(suite: ScienceWorld) -> None:
    """The simulator draws by chance and its sets have no order: seeded, they repeat."""
    tasks = suite.tasks()
    assert [task.family for task in tasks] == list(KINDS)
    plans = [suite.gold(task) for task in tasks]
    alone: list[list[Any]] = []
    for task, plan in zip(tasks, plans, strict=True):
        environment = suite.environment(task)
        told: list[Any] = [environment.start()]
        assert told[0] == task.prompt and told[0].startswith("Your task is to ")
        told += [environment.step(action) for action in plan]
        environment.close()
        assert (told[-1].reward, told[-1].terminated, told[-1].truncated) == (1.0, True, False)
        assert all(0 <= result.reward < 1 for result in told[1:-1])
        alone.append(told)

    suite._pool.close()
    again = ScienceWorld(tasks=KINDS, variations=1, processes=1)
    assert again.tasks() == tasks
    environments = [again.environment(task) for task in reversed(tasks)]
    together: list[list[Any]] = [[environment.start()] for environment in environments]
    for turn in range(max(map(len, plans))):
        if turn == 3:  # all games are opened and repeated in another process
            os.kill(again._pool.pids()[0], signal.SIGKILL)
        for environment, told, plan in zip(environments, together, reversed(plans), strict=True):
            if turn < len(plan):
                told.append(environment.step(plan[turn]))
    for environment in environments:
        environment.close()
    again._pool.close()
    assert together[::-1] == alone


def test_what_is_no_command_costs_a_turn() -> None:
    suite = ScienceWorld(tasks=["find-plant"], variations=1, steps=6)
    environment = suite.environment(suite.tasks()[0])
    assert not hasattr(environment, "valid_actions")
    environment.start()
    errors = [environment.step(action).error for action in GARBAGE]
    assert errors == ["no call", "no call", "unknown tool", "unknown tool"]
    result = environment.step(as_action("dance \ud800\x00"))
    assert (result.error, result.truncated) == ("invalid command", False)
    assert environment.step(as_action("look around")).truncated
    with pytest.raises(EnvironmentFailure):
        environment.step(as_action("look around"))
    environment.close()
    environment.close()


def test_losing_the_task_ends_it_without_reward(suite: ScienceWorld) -> None:
    environment = suite.environment(suite.tasks()[0])
    environment.start()
    result = environment.step(as_action("focus on picture"))
    assert (result.reward, result.terminated) == (0.0, True)
    environment.close()


def test_valid_actions_are_understood() -> None:
    suite = ScienceWorld(tasks=["find-plant"], variations=1, valid_actions=True)
    environment: Any = suite.environment(suite.tasks()[0])
    environment.start()
    valid = environment.valid_actions
    assert "look around" in valid and "teleport to kitchen" in valid
    for command in ("look around", "teleport to kitchen"):
        assert environment.step(as_action(command)).error is None
    assert environment.valid_actions != valid
    environment.close()
    assert environment.valid_actions == ()


def test_the_suite_conforms() -> None:
    suite = load_suite("scienceworld", sandbox=lambda: pytest.fail("no sandbox is needed"),
                       options={"tasks": ["find-animal"], "variations": 2})  # fmt: skip
    assert check_suite(suite, limit=2) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tasks": []}, "at least one task"),
        ({"tasks": ["fly"]}, "unknown task 'fly'; choose of: boil"),
        ({"simplifications": "easy, free"}, "unknown simplification 'free'"),
    ],
)
def test_bad_options_are_told_in_a_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SuiteError, match=says) as raised:
        ScienceWorld(**options).tasks()
    assert "\n" not in str(raised.value)
