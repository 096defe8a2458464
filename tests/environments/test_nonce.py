"""Canaries of the shipped suites: they read like any task, and nobody's answer is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from environments.base import Action, Suite, Task
from environments.calls import write_action
from environments.kinds.python import PYTHON
from environments.kinds.sql import made_up_rows, same_rows
from environments.nonce import LEAST, nonce
from environments.sandbox import make_sandbox
from environments.suites.banking77 import TOOL, Banking77
from environments.suites.gsm8k import Gsm8k
from environments.suites.household import FAMILIES, Household
from environments.suites.household import house as house_of
from environments.suites.reasoning_gym import ReasoningGym, score
from tests.environments.gold import load

DATA = Path(__file__).resolve().parents[1] / "data"
CODE = [("humaneval", False), ("humaneval", True), ("mbpp", False), ("mbpp", True)]


def test_a_nonce_looks_like_the_answer() -> None:
    assert (made := nonce("-17", 1)) is not None
    assert made[0] == "-" and made[1:].isdigit() and len(made) == 1 + LEAST and made[1] != "0"
    assert (made := nonce("Tree house", 1)) is not None
    assert made[0].isupper() and made[4] == " " and made[5:].islower() and len(made) == LEAST + 1
    assert nonce("…", 1) is None
    assert nonce("17", 1) == nonce("17", 1) != nonce("17", 2)
    assert len({nonce("5", seed) for seed in range(1000)}) == 1000


def reward(suite: Suite, task: Task, *actions: Action) -> float:
    """What a walk through a task's environment earns."""
    environment = suite.environment(task)
    try:
        environment.start()
        result = None
        for action in actions:
            result = environment.step(action)
            if result.terminated or result.truncated:
                break
        assert result is not None and result.error is None
        return result.reward
    finally:
        environment.close()


def alike(task: Task, canary: Task) -> None:
    """Nothing but what it is graded by tells a canary from the task that it was made of."""
    assert (canary.suite, canary.family, canary.prompt) == (task.suite, task.family, task.prompt)
    assert canary.id != task.id and canary.data.keys() == task.data.keys()


def test_reasoning_gym() -> None:
    suite = ReasoningGym(per_family=12, sandbox=make_sandbox)
    tasks = list(suite.tasks())
    answers: dict[str, list[str]] = {}
    for task in tasks:
        entry: Any = task.data["entry"]
        answers.setdefault(task.family, []).append(entry["answer"])
    for task in tasks:
        made = suite.canary(task, 3)
        assert made is not None and made == suite.canary(task, 3) != suite.canary(task, 4)
        alike(task, made)
        entry = made.data["entry"]
        assert type(entry["answer"]) is str and entry.keys() == task.data["entry"].keys()  # type: ignore[union-attr]
        for said in answers[task.family]:  # the right answer and others of its kind
            assert score(task.family, entry, said) < 0.5
        assert score(task.family, entry, entry["answer"]) == 1  # graded as any task is
    task = tasks[0]
    right: Any = task.data["entry"]
    answer = write_action(PYTHON, f"print({right['answer']!r})")
    made = suite.canary(task, 0)
    assert made is not None
    assert reward(suite, task, answer) == 1 and reward(suite, made, answer) < 0.5


def test_a_verifier_that_works_the_answer_out_has_no_canary() -> None:
    suite = ReasoningGym(["jugs"], per_family=2, sandbox=make_sandbox)
    for task in suite.tasks():
        entry: Any = task.data["entry"]
        made_up = {**entry, "answer": nonce(entry["answer"], 0)}
        assert score("jugs", made_up, entry["answer"]) == 1
        assert suite.canary(task, 0) is None


def test_banking77() -> None:
    suite = Banking77(data=str(DATA / "banking77"), intents=12)
    for task in suite.tasks()[:5]:
        made = suite.canary(task, 1)
        alike(task, made)
        assert made.data["intent"] not in suite.intents
        for intent in suite.intents:  # all that can be answered
            assert reward(suite, made, write_action(TOOL, intent)) == 0
        assert reward(suite, task, *suite.gold(task)) == 1


@pytest.mark.parametrize("python", [True, False])
def test_gsm8k(python: bool) -> None:
    suite = Gsm8k(data=str(DATA / "gsm8k"), python=python, sandbox=make_sandbox)
    task = suite.tasks()[0]
    made = suite.canary(task, 1)
    assert made is not None
    alike(task, made)
    assert reward(suite, task, *suite.gold(task)) == 1
    assert reward(suite, made, *suite.gold(task)) == 0


@pytest.mark.parametrize(("name", "plus"), CODE)
def test_code(name: str, plus: bool) -> None:
    """What passes all that a task is really about is graded as any code is, and fails."""
    suite: Any = load(name, data=str(DATA / name), plus=plus)
    for task in suite.tasks()[:3]:
        made = suite.canary(task, 1)
        alike(task, made)
        assert made == suite.canary(task, 1) != suite.canary(task, 2)
        problem, changed = task.data["problem"], made.data["problem"]
        assert changed["public"] == problem["public"] and changed["before"] == problem["before"]
        assert reward(suite, task, *suite.gold(task)) == 1
        assert reward(suite, made, *suite.gold(task)) == 0
        assert reward(suite, made, *suite.gold(made)) == 1  # who knew the value would pass


@pytest.mark.parametrize("name", ["spider", "lifelong-db"])
def test_sql(name: str) -> None:
    folder = {"spider": "spider", "lifelong-db": "lifelong_agentbench"}[name]
    suite: Any = load(name, data=str(DATA / folder))
    found = set()
    for task in suite.tasks():
        made = suite.canary(task, 1)
        if made is None:
            continue
        found.add(task.family)
        assert (made.prompt, made.family) == (task.prompt, task.family)
        added = {"spider": "rows", "lifelong-db": "right"}[name]
        assert made.id != task.id and made.data.keys() == task.data.keys() | {added}
        assert suite.canary(task, 2) != made
        assert reward(suite, task, *suite.gold(task)) == 1
        assert reward(suite, made, *suite.gold(task)) == 0
    assert len(found) > 2


def test_a_made_up_row_differs_in_one_value_that_is_not_rounded_away() -> None:
    rows = [[None, 2.5], ["a", 1]]
    made = made_up_rows(rows, 3)
    assert made is not None and made[0][0] is None and made[1] == ["a", 1]
    assert isinstance(made[0][1], int) and made[0][1] > 10**10 and rows[0][1] == 2.5
    assert not same_rows(made, rows, ordered=False) and made == made_up_rows(rows, 3)
    assert made_up_rows([[None], ["…"]], 3) is None


def test_shell() -> None:
    suite: Any = load("lifelong-os", data=str(DATA / "lifelong_agentbench"))
    for task in suite.tasks()[:3]:
        made = suite.canary(task, 1)
        alike(task, made)
        assert made != suite.canary(task, 2)
        assert reward(suite, task, *suite.gold(task)) == 1
        assert reward(suite, made, *suite.gold(task)) == 0


def test_household(compressed: Callable[[], str]) -> None:
    suite = Household(data=compressed())
    found = set()
    for task in suite.tasks():
        made = suite.canary(task, 1)
        if made is None:
            continue
        alike(task, made)
        found.add(task.family)
        assert reward(suite, task, *suite.gold(task)) == 1
        assert reward(suite, made, *suite.gold(task)) == 0
        goal: Any = made.data["goal"]
        assert not any(goal["obj"] in command for command in house_of(made).commands())
    assert found == set(FAMILIES)


@pytest.fixture
def compressed(tmp_path: Path) -> Callable[[], str]:
    import gzip

    def go() -> str:
        lines = (DATA / "alfworld_rebuilt" / "train.jsonl").read_bytes()
        (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(lines))
        return str(tmp_path)

    return go
