"""Suites by name, and the Reasoning Gym suite."""

import inspect
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import environments
from environments.base import Action, Briefing, Suite, SuiteError, Task
from environments.checks import check_suite
from environments.sandbox import make_sandbox
from environments.suites import SUITES, describe_suites, load_suite, suite_names
from environments.suites.reasoning_gym import FAMILIES, UNSAFE, score


def load(name: str = "reasoning-gym", **options: Any) -> Suite:
    return load_suite(name, sandbox=make_sandbox, options=options)


class Own:
    """A suite of one's own that takes no sandbox."""

    name, description, briefing = "own", "one task", Briefing()

    def __init__(self, word: str = "x", sizes: tuple[int, ...] = (1,), scale: float = 1.0) -> None:
        self.word, self.sizes, self.scale = word, sizes, scale

    def tasks(self) -> list[Task]:
        return [Task(suite="own", family="f", prompt=self.word)]

    def environment(self, task: Task) -> Any:
        raise NotImplementedError


class NoSuite:
    pass


# Names and options


def test_names() -> None:
    assert suite_names() == sorted(SUITES) and "reasoning-gym" in SUITES
    suite = load("reasoning-gym")
    assert isinstance(suite, Suite) and suite.name == "reasoning-gym"


@pytest.mark.parametrize(
    ("name", "needs"), [("mcp", "tasks"), ("openenv", "url"), ("verifiers", "taskset")]
)
def test_an_adapter_says_what_it_needs(name: str, needs: str) -> None:
    with pytest.raises(SuiteError, match=f"{name}: .*{needs}"):
        load(name)


def test_every_shipped_suite_says_what_it_is() -> None:
    described = describe_suites()
    assert [suite["name"] for suite in described] == suite_names()
    for suite in described:
        assert isinstance(suite["description"], str) and "\n" not in suite["description"], suite
        assert "sandbox" not in suite["options"], suite


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        (
            "reasoning_gym",
            {},
            r"unknown suite 'reasoning_gym'.*reasoning-gym.*package.module:Class",
        ),
        ("nowhere.at.all:X", {}, r"cannot import 'nowhere.at.all'"),
        (":X", {}, "cannot import ''"),
        ("environments.suites.reasoning_gym:Gym", {}, r"no 'Gym'; its classes: ReasoningGym"),
        ("environments.suites:SUITES", {}, "not a class or function"),
        ("environments.base:Task", {"suite": "s", "family": "f", "prompt": "p"}, "is no suite"),
        (
            "reasoning-gym",
            {"size": 3},
            r"unknown option 'size'; options: families, per_family, seed",
        ),
        ("reasoning-gym", {"sandbox": "x"}, "unknown option 'sandbox'"),
        ("reasoning-gym", {"per_family": "9"}, r'option per_family is "9": .*integer'),
        ("reasoning-gym", {"per_family": 1.5}, "option per_family is 1.5: "),
        ("reasoning-gym", {"per_family": True}, "option per_family is true: "),
        ("reasoning-gym", {"families": "gcd"}, 'option families is "gcd": '),
        ("reasoning-gym", {"families": ["gcd", 1]}, r"option families\[1\] is 1: .*string"),
        ("reasoning-gym", {"families": []}, "no tasks"),
        ("reasoning-gym", {"per_family": 0}, "no tasks"),
        ("reasoning-gym", {"families": ["cgd"]}, r"unknown family 'cgd'; did you mean: .*gcd"),
        ("reasoning-gym", {"families": ["?"]}, "did you mean: chain_sum"),
        (
            "reasoning-gym",
            {"families": ["countdown"]},
            "'countdown' is refused.*outside the sandbox",
        ),
    ],
)
def test_errors_say_what_exists(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(SuiteError, match=says) as error:
        load(name, **options)
    assert "\n" not in str(error.value)


def test_a_suite_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "my_pkg", sys.modules[__name__])
    suite = load("my_pkg:Own", word="y", sizes=[1, 2], scale=2)
    assert isinstance(suite, Own)
    assert (suite.word, suite.sizes, suite.scale) == ("y", (1, 2), 2.0)
    with pytest.raises(SuiteError, match=r"NoSuite is no suite, it has no name, .*; a suite needs"):
        load("my_pkg:NoSuite")
    with pytest.raises(SuiteError, match="options: word, sizes, scale"):
        load("my_pkg:Own", words="y")


class Raises(Own):
    """A suite of one's own with a defect in it."""

    def __init__(self, early: bool = False) -> None:
        if early:
            raise KeyError("word")

    def tasks(self) -> Any:
        raise ValueError("no\nwords")


class NoTasks(Own):
    def __init__(self, none: bool = False) -> None:
        self.none = none

    def tasks(self) -> Any:
        return None if self.none else ["a"]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("Raises", {"early": True}, "making it raised KeyError: 'word'"),
        ("Raises", {}, "tasks\\(\\) raised ValueError: no\nwords"),
        ("NoTasks", {}, "tasks\\(\\) gave 'a', which is no Task"),
        ("NoTasks", {"none": True}, "tasks\\(\\) gave None, which is no Task"),
    ],
)
def test_a_defect_in_a_suite_of_ones_own_is_told(
    name: str, options: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "my_pkg", sys.modules[__name__])
    with pytest.raises(SuiteError, match=f"^suite my_pkg:{name}: {says}"):
        load(f"my_pkg:{name}", **options)


def test_a_module_that_exits_or_a_builtin_is_no_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "exits_at_once.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SuiteError, match="cannot import 'exits_at_once': SystemExit: 0"):
        load("exits_at_once:Shop")
    with pytest.raises(SuiteError, match="no signature"):
        load("builtins:int")


# Reasoning Gym


def test_the_eight_families_are_generated() -> None:
    tasks = load(seed=1, per_family=150).tasks()
    counts = Counter(task.family for task in tasks)
    assert tuple(counts) == FAMILIES and len(FAMILIES) == 8
    assert all(140 < count <= 150 for count in counts.values())


def test_tasks_are_the_same_in_every_process() -> None:
    code = (
        "from environments.suites import load_suite\n"
        "suite = load_suite('reasoning-gym', sandbox=lambda: None, options={'per_family': 20})\n"
        "print(*(task.id for task in suite.tasks()))"
    )
    root = Path(environments.__file__).parents[1]
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},  # sets come in another order there
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.split() == [task.id for task in load(per_family=20).tasks()]


def test_the_same_question_is_the_same_task() -> None:
    tasks = load(families=["products", "gcd"], per_family=3000).tasks()
    assert len({task.prompt for task in tasks}) == len(tasks) < 6000


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gold_answer_earns_the_full_reward_and_others_do_not(family: str) -> None:
    suite = load(families=[family], per_family=10)
    for stored in suite.tasks():
        task = Task.model_validate_json(stored.model_dump_json())
        entry: Any = task.data["entry"]
        environment = suite.environment(task)
        assert environment.start() == task.prompt
        code = f"print({entry['answer']!r})"
        result = environment.step(Action(text=code, tool="python", arguments={"code": code}))
        assert (result.reward, result.terminated) == (1.0, True), task
        assert result.observation == entry["answer"]
        environment.close()
        for wrong in ("0" + entry["answer"][::-1] + "1", "?", "1e999", ""):
            assert score(family, entry, wrong) < 1.0, (task, wrong)
    assert check_suite(suite, limit=2) == []


def test_every_family_is_usable_or_refused_with_a_reason() -> None:
    from reasoning_gym.factory import DATASETS

    usable = 0
    for family in sorted(DATASETS):
        try:
            tasks = load(families=[family], per_family=1).tasks()
        except SuiteError as error:
            assert repr(family) in str(error)
            continue
        usable += len(tasks)
    assert usable >= 80


def test_no_verifier_in_use_evaluates_an_answer() -> None:
    """Reads the installed verifiers, so a new version of the package cannot bring one in."""
    from reasoning_gym.factory import DATASETS

    evaluates = re.compile(r"(?<![\w.])(?:\w+\.)?(?:eval|exec|parse_expr|sympify)\(\s*answer")
    found = {
        name
        for name, (dataset, _) in DATASETS.items()
        if evaluates.search(inspect.getsource(dataset))
    }
    assert found == UNSAFE
