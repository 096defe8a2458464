"""Household tasks: the rules of the house, and every kind of task solved by its own plan."""

import gzip
import json
import random
from pathlib import Path

import pytest

from environments.base import Action, EnvironmentFailure, SuiteError, Task
from environments.checks import check_suite
from environments.conformance import GARBAGE
from environments.suites import load_suite
from environments.suites.household import FAMILIES, Household
from environments.suites.household.engine import Goal, House
from environments.suites.text_world import as_action

RECEPTACLES = ("countertop 1", "drawer 1", "fridge 1", "microwave 1", "shelf 1", "sinkbasin 1")
OBJECTS = (
    ("apple 1", "countertop 1"),
    ("knife 1", "countertop 1"),
    ("mug 1", "drawer 1"),
    ("mug 2", "fridge 1"),
    ("desklamp 1", "shelf 1"),
)


def a_house(**goal: object) -> House:
    return House(RECEPTACLES, OBJECTS, Goal(**{"obj": "mug", "receptacle": "shelf", **goal}))


def play(world: House, *commands: str) -> list[str | None]:
    return [world.do(command) for command in commands]


SMALL = Path(__file__).resolve().parents[1] / "data" / "alfworld_rebuilt" / "train.jsonl"


@pytest.fixture
def suite(tmp_path: Path) -> Household:
    return Household(data=write(tmp_path, *SMALL.read_text().splitlines()))


def test_answers_are_alfworlds() -> None:
    world = a_house()
    assert world.look() == (
        "You are in the middle of a room. Looking quickly around you, you see a countertop 1, "
        "a drawer 1, a fridge 1, a microwave 1, a shelf 1, and a sinkbasin 1."
    )
    assert play(
        world,
        "go to countertop 1",
        "look",
        "inventory",
        "take knife 1 from countertop 1",
        "inventory",
        "slice apple 1 with knife 1",
        "examine apple 1",
        "move knife 1 to countertop 1",
        "go to drawer 1",
        "open drawer 1",
        "take mug 1 from drawer 1",
        "examine drawer 1",
        "close drawer 1",
        "go to shelf 1",
        "examine desklamp 1",
        "use desklamp 1",
        "examine desklamp 1",
        "examine mug 1",
    ) == [
        "You arrive at countertop 1. On the countertop 1, you see a apple 1, and a knife 1.",
        "You are facing the countertop 1. Next to it, you see nothing.",
        "You are not carrying anything.",
        "You pick up the knife 1 from the countertop 1.",
        "You are carrying: a knife 1.",
        "You sliced the apple 1 with the knife 1.",
        "This is a sliced apple 1.",
        "You move the knife 1 to the countertop 1.",
        "You arrive at drawer 1. The drawer 1 is closed.",
        "You open the drawer 1. The drawer 1 is open. In it, you see a mug 1.",
        "You pick up the mug 1 from the drawer 1.",
        "The drawer 1 is open. In it, you see nothing.",
        "You close the drawer 1.",
        "You arrive at shelf 1. On the shelf 1, you see a desklamp 1.",
        "This desklamp 1 is off.",
        "You turn on the desklamp 1.",
        "This desklamp 1 is on.",
        "There's nothing special about mug 1.",
    ]


@pytest.mark.parametrize(
    ("before", "command"),
    [
        ((), "take apple 1 from countertop 1"),  # not there
        (("go to countertop 1",), "go to countertop 1"),
        (("go to countertop 1",), "take mug 1 from countertop 1"),
        (("go to countertop 1",), "open countertop 1"),
        (("go to countertop 1",), "heat apple 1 with microwave 1"),
        (("go to drawer 1",), "take mug 1 from drawer 1"),  # closed
        (("go to drawer 1",), "examine mug 1"),
        (("go to drawer 1",), "close drawer 1"),
        (("go to drawer 1",), "open fridge 1"),
        (("go to shelf 1",), "take desklamp 1 from shelf 1"),  # it stays where it is
        (
            ("go to countertop 1", "take apple 1 from countertop 1"),
            "take knife 1 from countertop 1",
        ),
        (
            ("go to countertop 1", "take apple 1 from countertop 1", "go to fridge 1"),
            "move apple 1 to fridge 1",  # closed
        ),
        (
            ("go to countertop 1", "take apple 1 from countertop 1", "go to shelf 1"),
            "move apple 1 to shelf 1",  # shelves take no food
        ),
        (
            ("go to countertop 1", "take knife 1 from countertop 1", "go to fridge 1"),
            "cool knife 1 with fridge 1",
        ),
        ((), "go to countertop 9"),
        ((), "xyzzy"),
        ((), ""),
    ],
)
def test_what_cannot_be_done_changes_nothing(before: tuple[str, ...], command: str) -> None:
    world = a_house()
    assert None not in play(world, *before)
    valid = world.commands()
    assert command not in valid
    assert world.do(command) is None
    assert world.commands() == valid


def test_older_forms_and_sloppy_writing_are_understood() -> None:
    world = a_house()
    told = play(
        world,
        "GO TO  Fridge 1.",
        "open fridge 1",
        "take mug 2 from fridge 1",
        "go to shelf 1",
        "put mug 2 in/on shelf 1",
        "turn on desklamp 1",
        "look around",
        "help",
    )
    assert None not in told
    assert world.solved


def test_every_kind_of_goal_needs_all_its_parts() -> None:
    get = ("go to drawer 1", "open drawer 1", "take mug 1 from drawer 1")
    put = ("go to shelf 1", "move mug 1 to shelf 1")
    clean = ("go to sinkbasin 1", "clean mug 1 with sinkbasin 1")
    heat = ("go to microwave 1", "heat mug 1 with microwave 1")
    cool = ("go to fridge 1", "cool mug 1 with fridge 1")
    second = ("go to fridge 1", "open fridge 1", "take mug 2 from fridge 1", "go to shelf 1",
              "move mug 2 to shelf 1")  # fmt: skip
    lamp = ("go to shelf 1", "use desklamp 1")
    cases = [
        ({}, (*get, *put), get),
        ({"state": "clean"}, (*get, *clean, *put), (*get, *put)),
        ({"state": "heat"}, (*get, *heat, *put), (*get, *heat, *cool, *put)),
        ({"state": "cool"}, (*get, *cool, *put), (*get, *cool, *heat, *put)),
        ({"count": 2}, (*get, *put, *second), (*get, *put)),
        ({"receptacle": "", "lamp": "desklamp"}, (*get, *lamp), lamp),
        ({"receptacle": "", "lamp": "desklamp"}, (*lamp, *get, "go to shelf 1"), (*lamp, *get)),
    ]
    for goal, enough, too_little in cases:
        for commands, solved in ((enough, True), (too_little, False)):
            world = a_house(**goal)
            assert None not in play(world, *commands)
            assert world.solved is solved, (goal, commands)


def test_plans_solve_their_tasks(suite: Household) -> None:
    assert len(suite.tasks()) == 12
    solve_all(suite)


def test_plans_solve_the_full_set(data_root: Path) -> None:
    folder = str(data_root / "alfworld_rebuilt")
    solve_all(Household(data=folder, files=("train", "valid_seen", "valid_unseen"), limit=60))


def solve_all(suite: Household) -> None:
    tasks = suite.tasks()
    assert {task.family for task in tasks} == set(FAMILIES)
    for task in tasks:
        environment = suite.environment(task)
        assert environment.start() == task.prompt
        assert task.prompt.startswith("You are in the middle of a room.")
        assert "\n\nYour task is to: " in task.prompt
        *before, last = suite.gold(task)
        for action in before:
            assert action.arguments["command"] in environment.valid_actions
            result = environment.step(action)
            assert (result.reward, result.terminated, result.error) == (0.0, False, None)
        result = environment.step(last)
        assert (result.reward, result.terminated, result.truncated) == (1.0, True, False)
        assert environment.valid_actions == ()
        with pytest.raises(EnvironmentFailure):
            environment.step(last)


def test_valid_actions_are_understood(suite: Household) -> None:
    choose = random.Random(0)
    for task in suite.tasks():
        environment = suite.environment(task)
        environment.start()
        while True:
            result = environment.step(as_action(choose.choice(environment.valid_actions)))
            assert result.error is None
            if result.terminated or result.truncated:
                break


def test_the_suite_conforms(suite: Household) -> None:
    assert check_suite(suite) == []


def test_the_suite_finds_its_data(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTAR_DATA", str(data_root))
    suite = load_suite("household", sandbox=lambda: pytest.fail("no sandbox is needed"),
                      options={"files": ["official"], "limit": 3})  # fmt: skip
    assert check_suite(suite) == []


def test_the_134_official_games(data_root: Path) -> None:
    suite = Household(data=str(data_root / "alfworld_rebuilt"), files=("official",), limit=None)
    assert len(suite.tasks()) == 134


def test_what_is_no_command_costs_a_turn(suite: Household) -> None:
    environment = suite.environment(suite.tasks()[0])
    environment.start()
    errors = [environment.step(action).error for action in GARBAGE]
    assert errors == ["no call", "no call", "unknown tool", "unknown tool"]
    result = environment.step(as_action("dance"))
    assert (result.observation, result.error) == ("Nothing happens.", "invalid command")
    results = [environment.step(Action(text="")) for _ in range(25)]
    assert [result.truncated for result in results] == [False] * 24 + [True]


def test_plans_stay_hidden(suite: Household) -> None:
    for task in suite.tasks():
        assert task.data["plan"]
        assert not any(str(step) in task.prompt for step in task.data["plan"])


def write(folder: Path, *lines: str) -> str:
    with gzip.open(folder / "train.jsonl.gz", "wt") as out:
        out.write("\n".join(lines))
    return str(folder)


def test_unusable_data_is_told_in_a_line(tmp_path: Path) -> None:
    def told(**options: object) -> str:
        with pytest.raises(SuiteError) as raised:
            Household(**options).tasks()
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "unknown family" in told(data=str(tmp_path), families=["cooking"])
    assert "no tasks" in told(data=str(tmp_path), limit=0)
    assert "no such file" in told(data=str(tmp_path / "none"))
    assert "cannot be read" in told(data=str(tmp_path))
    assert "cannot be read" in told(data=write(tmp_path, "{"))
    assert "line 1: not a game" in told(data=write(tmp_path, "[]"))
    record = json.loads(SMALL.read_text().splitlines()[0])
    record["objects"][0]["at"] = "moon 1"
    assert "line 1: not a game" in told(data=write(tmp_path, json.dumps(record)))


def test_tasks_hold_what_the_house_needs_and_no_more(suite: Household) -> None:
    task = suite.tasks()[0]
    assert Task.model_validate_json(task.model_dump_json()).id == task.id
    assert "pddl" not in task.model_dump_json()
