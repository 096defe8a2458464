"""Gymnasium worlds as environments: real ones, and one of our own with text actions."""

import time
from collections import deque
from collections.abc import Iterator
from typing import Any, ClassVar

import gymnasium
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Text

from environments.adapters.gymnasium import Gymnasium, jsonable, plain
from environments.base import Action, EnvironmentFailure, Suite, SuiteError, Task
from environments.calls import read_action
from environments.checks import check_suite
from environments.watch import Watched

STEPS = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}


def act(action: Any) -> Action:
    return Action(text=str(action), tool="act", arguments={"action": action})


class Echo(gymnasium.Env[Any, str]):
    """Say the word backwards. Some words break the world in a way of their own."""

    action_space = Text(12, charset="abcdefghijklmnopqrstuvwxyz")
    observation_space = Dict({"word": Text(12), "tries": Discrete(9), "noise": Box(0, 1, (2,))})
    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.word = "".join(self.np_random.choice(list("abcdef"), 6))
        return {"word": self.word, "tries": 0, "noise": self.np_random.random(2)}, {}

    def step(self, action: str) -> Any:
        if action == "raise":
            raise KeyError("broken")
        while action == "hang":
            time.sleep(0.02)
        reward = float("nan") if action == "nan" else float(action == self.word[::-1])
        return {"word": self.word, "tries": 1, "noise": [0.5, 0.25]}, reward, reward == 1, False, {}


@pytest.fixture
def echo() -> Iterator[Gymnasium]:
    gymnasium.register("instar/Echo-v0", entry_point=Echo)
    yield Gymnasium("instar/Echo-v0", seeds=5, max_steps=3, timeout_s=0.5)
    del gymnasium.registry["instar/Echo-v0"]


def shortest_walk(lake: list[str]) -> list[str]:
    """The fewest steps from S to G over F."""
    queue: deque[tuple[tuple[int, int], list[str]]] = deque([((0, 0), [])])
    seen = {(0, 0)}
    while queue:
        (row, column), walk = queue.popleft()
        if lake[row][column] == "G":
            return walk
        for name, (down, right) in STEPS.items():
            at = row + down, column + right
            if at not in seen and all(0 <= x < len(lake) for x in at) and lake[at[0]][at[1]] != "H":
                seen.add(at)
                queue.append((at, [*walk, name]))
    raise AssertionError("no way")


def test_every_lake_is_crossed_by_the_shortest_walk() -> None:
    suite = Gymnasium(kwargs={"is_slippery": False}, seeds=30)
    assert isinstance(suite, Suite)
    tasks = suite.tasks()
    assert len(tasks) > 20 and len({task.prompt for task in tasks}) == len(tasks)
    for stored in tasks:
        task = Task.model_validate_json(stored.model_dump_json())
        lake: Any = task.data["kwargs"]
        environment = suite.environment(task)
        assert environment.start() == task.prompt
        assert task.prompt == "[S]" + "\n".join(lake["desc"])[1:]
        for name in shortest_walk(lake["desc"]):
            assert name in environment.valid_actions  # type: ignore[attr-defined]
            result = environment.step(act(name))
        assert (result.reward, result.terminated) == (1.0, True), task
        assert result.observation.endswith("[G]")
        with pytest.raises(EnvironmentFailure, match="over"):
            environment.step(act("left"))
        environment.close()
    assert check_suite(suite, limit=3) == []


def test_the_same_actions_see_the_same_world() -> None:
    suite = Gymnasium(seeds=3)  # slippery, which is the default
    task = suite.tasks()[0]
    runs = []
    for _ in range(2):
        environment = suite.environment(task)
        environment.start()
        seen = []
        for name in ("right", "down", "right", "down"):
            seen.append(environment.step(act(name)))
            if seen[-1].terminated:
                break
        runs.append(seen)
        environment.close()
    assert runs[0] == runs[1]


def test_a_passenger_reaches_the_goal() -> None:
    suite = Gymnasium("Taxi-v4", seeds=40)
    assert len(suite.tasks()) > 35
    for task in suite.tasks()[:8]:
        environment: Any = suite.environment(task)
        assert environment.start() == task.prompt
        world = environment._env.unwrapped
        row, column, passenger, goal = world.decode(world.s)
        for (to_row, to_column), then in (
            (world.locs[passenger], "pickup"),
            (world.locs[goal], "dropoff"),
        ):
            # Along the row in the middle, which has no walls.
            moves = ["south" if row < 2 else "north"] * abs(2 - row)
            moves += ["east" if column < to_column else "west"] * abs(to_column - column)
            moves += ["south" if to_row > 2 else "north"] * abs(to_row - 2)
            for name in moves:
                assert name in environment.valid_actions
                environment.step(act(name))
            assert then in environment.valid_actions
            result = environment.step(act(then))
            row, column = to_row, to_column
        assert (result.reward, result.terminated) == (1.0, True)
        environment.close()


def test_scores_are_scaled_only_when_the_world_ends_the_episode() -> None:
    suite = Gymnasium("CliffWalking-v1", max_steps=20)
    (task,) = suite.tasks()  # it always begins the same
    for steps, reward in (
        (["up", *["right"] * 11, "down"], 1.0),
        (["up", "up", *["right"] * 11, "down", "down"], (100 - 15) / 87),
        (["up"] * 20, 0.0),
    ):
        environment = suite.environment(task)
        environment.start()
        results = [environment.step(act(name)) for name in steps]
        assert [r.reward for r in results[:-1]] == [0.0] * (len(steps) - 1)
        assert results[-1].reward == pytest.approx(reward)
        assert results[-1].terminated == (reward > 0) and results[-1].truncated == (reward == 0)
        environment.close()
    cards = Gymnasium("Blackjack-v1", seeds=30)
    assert "The dealer shows" in cards.tasks()[0].prompt and check_suite(cards, limit=2) == []


def test_a_world_with_text_actions(echo: Gymnasium) -> None:
    tasks = echo.tasks()
    assert len(tasks) == 5
    assert check_suite(echo) == []
    environment = echo.environment(tasks[0])
    word = eval(environment.start())["word"]
    assert not hasattr(environment, "valid_actions")
    refused = environment.step(act("a word"))
    assert refused.error == "unknown action" and "1 to 12 characters of: abc" in refused.observation
    result = environment.step(act(word[::-1]))
    assert (result.reward, result.terminated) == (1.0, True)
    assert result.observation == f'{{"word": "{word}", "tries": 1, "noise": [0.5, 0.25]}}'
    environment.close()


def test_wrong_actions_change_nothing() -> None:
    suite = Gymnasium("Taxi-v4", seeds=1)
    environment = suite.environment(suite.tasks()[0])
    environment.start()
    for action in (
        Action(text="go home"),
        act("fly"),
        act(3),
        act(None),
        Action(text="", tool="x"),
    ):
        result = environment.step(action)
        assert result.error and "Actions: south, north" in result.observation
    assert environment.step(read_action("North.\nI hope", environment.tools)).error is None
    environment.close()


@pytest.mark.parametrize("how", ["raise", "nan", "hang"])
def test_a_broken_world_is_told_in_time(echo: Gymnasium, how: str) -> None:
    environment = Watched(echo.environment(echo.tasks()[0]))
    environment.start()
    says = {"raise": "KeyError", "nan": "reward nan", "hang": "step took longer than 0.5 s"}
    with pytest.raises(EnvironmentFailure, match=says[how]):
        environment.step(act(how))
    environment.close()
    following = echo.environment(echo.tasks()[1])
    assert following.start()
    following.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"id": "Nowhere-v1"}, "Nowhere-v1 cannot be made"),
        ({"id": "no_such_module:X-v1"}, "cannot be made: ModuleNotFoundError"),
        ({"kwargs": {"colour": 1}}, "cannot be made: TypeError"),
        ({"id": "Pendulum-v1"}, r"actions are Box.*only Discrete and Text"),
        ({"actions": ["a", "b"]}, "has 4 actions"),
        ({"actions": ["a", "A", "b", "c"]}, "a name of its own"),
        ({"success": 0.0}, "must be more than"),
        ({"seeds": 0}, "must be positive"),
    ],
)
def test_errors_say_what_is_wrong(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SuiteError, match=says) as error:
        Gymnasium(**options)
    assert "\n" not in str(error.value)


def test_what_is_highlighted_stands_in_brackets() -> None:
    assert plain("  (Right)\nS\x1b[41mF\x1b[0mF\n\x1b[34;1mR\x1b[0m\n") == "S[F]F\nR"
    assert jsonable((1, {"a": (2.000049, None)}, "x")) == [1, {"a": [2.0, None]}, "x"]
