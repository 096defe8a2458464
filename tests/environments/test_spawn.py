"""Tasks that a policy writes: what a suite makes of them is graded as its own are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from environments.base import Action, Suite, Task
from environments.calls import write_action
from environments.checks import check_suite
from environments.kinds.code import SUBMIT
from environments.kinds.python import PYTHON
from environments.kinds.sql import SQL
from environments.plain import PlainSuite
from environments.sandbox import make_sandbox
from environments.splits import split_of
from environments.suites.code import JsonlCode
from environments.suites.gsm8k import Gsm8k
from environments.suites.reasoning_gym import ReasoningGym, score
from environments.suites.spider import Spider
from tests.environments.test_nonce import reward

DATA = Path(__file__).resolve().parents[1] / "data"
RECORD = {
    "text": "Write a function to add two numbers.",
    "code": "def add(a, b):\n    return a + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 5) == 5"],
}


def test_a_task_is_none_of_the_suites_by_its_origin() -> None:
    own = Task(suite="s", family="f", prompt="p")
    made = own.model_copy(update={"origin": "self-instruct/0"})
    assert own.id != made.id
    content = {"data": {}, "family": "f", "prompt": "p", "suite": "s"}  # as it always was
    body = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert own.id == hashlib.sha256(body.encode()).hexdigest()[:16]
    others = {own.model_copy(update={"origin": f"x/{i}"}).id for i in range(40)}
    assert {split_of(i) for i in others} == {"train", "gate", "retention", "test"}


def again(suite: Any, task: Task, **changes: str) -> Task:
    """What a suite makes of a task's fields, some of them changed."""
    made = suite.spawn({**suite.fields(task), **changes})
    assert isinstance(made, Task)
    return made


def test_gsm8k(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps({"question": "Two and two?", "answer": "2+2\n#### 4"}) + "\n")
    suite = Gsm8k(str(file), sandbox=make_sandbox)
    (task,) = suite.tasks()
    assert again(suite, task) == task
    made = again(suite, task, prompt="Three and three?", answer="That is 6.")
    assert made.family == task.family and made.prompt == "Three and three?"
    assert reward(suite, made, write_action(PYTHON, "print(6)")) == 1
    assert reward(suite, made, write_action(PYTHON, "print(5)")) == 0
    assert suite.spawn({**suite.fields(task), "answer": "no idea"}) is None


def test_reasoning_gym() -> None:
    suite = ReasoningGym(("products", "spell_backward"), per_family=3, sandbox=make_sandbox)
    for task in suite.tasks():
        fields = suite.fields(task)
        made = again(suite, task)
        assert (made.prompt, made.family) == (task.prompt, task.family)
        assert reward(suite, made, write_action(PYTHON, f"print({fields['answer']!r})")) == 1
        assert reward(suite, made, write_action(PYTHON, "print('nothing of it')")) < 1
    assert suite.spawn({**fields, "family": "nothing"}) is None
    assert suite.spawn({**fields, "answer": ""}) is None


def test_no_verifier_runs_an_answer_that_a_policy_wrote(tmp_path: Path) -> None:
    """Reasoning Gym's ``number_sorting`` evaluates the right answer as Python."""
    suite = ReasoningGym(("number_sorting",), per_family=1, sandbox=make_sandbox)
    (task,) = suite.tasks()
    mark = tmp_path / "ran"
    evil = f"[open({str(mark)!r}, 'w').close()]"
    score("number_sorting", {"question": "?", "answer": evil, "metadata": {}}, "[1]")
    assert mark.exists()  # as it would
    mark.unlink()
    assert suite.spawn({**suite.fields(task), "answer": evil}) is None
    assert not mark.exists()


def test_code(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps(RECORD) + "\n")
    suite = JsonlCode(str(file), sandbox=make_sandbox)
    (task,) = suite.tasks()
    assert again(suite, task) == task
    made = again(
        suite,
        task,
        prompt="Write a function to double a number.",
        tests="assert twice(2) == 4\nassert twice(3) == 6",
        solution="def twice(x):\n    return 2 * x",
    )
    assert "assert twice(2) == 4" in made.prompt and "twice(3)" not in made.prompt
    right, wrong = "def twice(x):\n    return x + x", "def twice(x):\n    return x * x"
    assert reward(suite, made, write_action(SUBMIT, right)) == 1
    assert reward(suite, made, write_action(SUBMIT, wrong)) == 0  # passes the test that is shown
    assert suite.spawn({**suite.fields(task), "solution": "def add(a, b) return"}) is None
    assert suite.spawn({**suite.fields(task), "tests": ""}) is None


def test_spider(tmp_path: Path, shop: Path) -> None:
    suite = Spider(str(shop), sandbox=make_sandbox)
    task = suite.tasks()[0]
    made = again(suite, task, prompt="How many?", query="SELECT count(*) FROM boats")
    assert made.prompt.startswith("How many?\nCREATE TABLE")
    assert reward(suite, made, write_action(SQL, "SELECT 3")) == 1
    assert reward(suite, made, write_action(SQL, "SELECT 4")) == 0
    fields = suite.fields(task)
    for query in ("SELECT x FROM nowhere", "SELECT 1 WHERE 0", "DROP TABLE boats", ""):
        assert suite.spawn({**fields, "query": query}) is None
    assert suite.spawn({**fields, "database": "../shop"}) is None


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    import sqlite3

    folder = tmp_path / "spider"
    (folder / "db").mkdir(parents=True)
    connection = sqlite3.connect(folder / "db" / "harbour.sqlite")
    connection.execute("CREATE TABLE boats (id INTEGER, name TEXT)")
    connection.executemany("INSERT INTO boats VALUES (?, ?)", [(1, "Ada"), (2, "Eva"), (3, "Ida")])
    connection.commit()
    connection.close()
    record = {"db": "harbour", "question": "Who?", "gold_sql": "SELECT name FROM boats"}
    (folder / "tasks.jsonl").write_text(json.dumps(record) + "\n")
    return folder


class Purse:
    """Pay what is asked."""

    tasks: ClassVar = [{"ask": f"Pay {n}.", "price": n, "coins": [1, 2]} for n in range(1, 4)]
    prompt = "ask"

    def reset(self, ask: str, price: int, coins: list[int]) -> None:
        self.price, self.paid = price, 0

    def pay(self, amount: int) -> str:
        """Pay so much."""
        self.paid += amount
        return f"{self.paid}"

    def reward(self) -> float:
        return float(self.paid == self.price)


def test_a_plain_class() -> None:
    suite = PlainSuite(Purse, sandbox=make_sandbox, options={})
    task = suite.tasks()[0]
    assert suite.fields(task) == {
        "prompt": "Pay 1.", "family": "Purse", "price": "1", "coins": "[1, 2]",
    }  # fmt: skip
    assert again(suite, task) == task
    made = again(suite, task, prompt="Pay nine.", price="9")
    assert made.prompt == "Pay nine." and made.data["price"] == 9
    pay = Action(text="pay(9)", tool="pay", arguments={"amount": 9})
    assert reward(suite, made, pay) == 1
    assert suite.spawn({**suite.fields(task), "price": "much"}) is None
    assert suite.spawn({**suite.fields(task), "price": '"much"'}) is None
    assert suite.spawn({**suite.fields(task), "more": "1"}) is None


class Lost:
    """A suite that makes tasks and does not say of what."""

    def __init__(self, inner: Suite) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "fields":
            raise AttributeError(name)
        return getattr(self.inner, name)


def test_the_check_sees_a_spawn_without_fields() -> None:
    suite = ReasoningGym(("products",), per_family=3, sandbox=make_sandbox)
    assert check_suite(suite, limit=1) == []
    assert any("spawn() needs fields()" in p for p in check_suite(Lost(suite), limit=1))
