"""HumanEval, MBPP, their plus versions, and files in their form."""

import json
from pathlib import Path
from typing import Any

import pytest

from environments.base import Action, SuiteError, Task
from environments.checks import check_suite
from environments.suites.code_records import examples, family_of
from tests.environments.gold import DATA, failures, load

SETS = [("humaneval", False, 8), ("humaneval", True, 4), ("mbpp", False, 5), ("mbpp", True, 8)]


def few(name: str, plus: bool = False) -> Any:
    return load(name, data=str(DATA / name), plus=plus)


def attempt(suite: Any, task: Task, *codes: str) -> list[Any]:
    environment = suite.environment(task)
    try:
        return [environment.step(Action(text=c, tool="submit", arguments={"code": c}))
                for c in codes]  # fmt: skip
    finally:
        environment.close()


@pytest.mark.parametrize(("name", "plus", "tasks"), SETS)
def test_gold_earns_the_full_reward_and_the_suite_conforms(
    name: str, plus: bool, tasks: int
) -> None:
    suite = few(name, plus)
    assert len(suite.tasks()) == tasks
    assert failures(suite) == [] == check_suite(suite, limit=1)
    for task in suite.tasks():
        problem: Any = task.data["problem"]
        assert task.prompt in problem["solution"] or problem["solution"] not in task.prompt


@pytest.mark.parametrize(("name", "plus", "tasks"), SETS)
def test_wrong_code_earns_nothing(name: str, plus: bool, tasks: int) -> None:
    suite = few(name, plus)
    for task in suite.tasks():
        entry = task.data["problem"]["entry"]
        (result,) = attempt(suite, task, f"def {entry}(*args): return 0")
        assert result.reward == 0.0
        assert result.terminated or result.error == "test failed"


def test_errors_come_back_and_hidden_tests_do_not() -> None:
    suite = few("mbpp")
    task = next(t for t in suite.tasks() if t.data["problem"]["entry"] == "similar_elements")
    results = attempt(
        suite,
        task,
        "def similar_elements(a, b)\n    return 1",
        "def other(a, b): return 1",
        "import nothing_of_the_kind",
        "raise SystemExit(0)",
        "def similar_elements(a, b):\n    return 1 / 0",
        "def similar_elements(a, b): return [4, 5]",
        "def similar_elements(a, b): raise SystemExit",
        "def similar_elements(a, b): return (4, 5)",
    )
    said = [result.observation for result in results]
    assert said[0].startswith("Error: ") and results[0].error == "SyntaxError"
    assert said[1] == "Error: NameError: name 'similar_elements' is not defined"
    assert results[2].error == "ModuleNotFoundError"
    assert said[3] == "Error: the code ended before it defined similar_elements."
    test = "assert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)"
    assert test in task.prompt
    assert said[4] == (
        f"This failed: {test}\nIt raised ZeroDivisionError: division by zero (line 2)"
    )
    assert said[5] == f"This failed: {test}\nIt returned [4, 5]"
    assert said[6] == f"This failed: {test}\nError: the code ended the program."
    assert [r.terminated for r in results] == [False] * 7 + [True]
    assert results[7].reward == 0.0 and results[7].metrics == {"tests_passed": 0.0}
    assert said[7] == "Submitted."
    for hidden in task.data["problem"]["hidden"]:
        assert not any(hidden["source"] in text for text in (*said, task.prompt))


def test_a_program_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = few("mbpp")
    task = suite.tasks()[0]
    entry = task.data["problem"]["entry"]
    (result,) = attempt(suite, task, f"def {entry}(*args):\n    while True: pass")
    assert "took too long" in result.observation and not result.terminated


def test_the_body_may_use_what_the_prompt_imports_and_defines() -> None:
    suite = few("humaneval")
    by_entry = {t.data["problem"]["entry"]: t for t in suite.tasks()}
    code = (
        "def find_zero(xs: list) -> float:\n"
        "    low, high = -1.0, 1.0\n"
        "    while poly(xs, low) * poly(xs, high) > 0: low, high = low * 2, high * 2\n"
        "    while high - low > 1e-12:\n"
        "        middle = (low + high) / 2\n"
        "        low, high = (low, middle) if poly(xs, middle) * poly(xs, low) <= 0 "
        "else (middle, high)\n"
        "    return low\n"
    )
    (result,) = attempt(suite, by_entry["find_zero"], code)
    assert result.reward == 1.0  # another root than the published solution's will do


def test_random_tests_are_the_same_for_both() -> None:
    suite = few("humaneval")
    by_entry = {t.data["problem"]["entry"]: t for t in suite.tasks()}
    (result,) = attempt(suite, by_entry["add"], "def add(x, y): return y + x")
    assert result.reward == 1.0
    (result,) = attempt(suite, by_entry["add"], "def add(x, y): return x + y if x < 900 else 0")
    assert result.reward == 0.0 and 0.0 < result.metrics["tests_passed"] < 1.0


def has_list(said: Any) -> bool:
    if isinstance(said, dict):
        return any(has_list(item) for item in said.get("t", ()))
    return isinstance(said, list)


def test_plus_inputs_get_the_types_that_json_has_not() -> None:
    suite = few("mbpp", plus=True)
    calls = {
        t.data["problem"]["entry"]: [test["call"] for test in t.data["problem"]["hidden"]]
        for t in suite.tasks()
    }
    assert all(set(arg) == {"t"} for (args, _) in calls["similar_elements"] for arg in args)
    assert all(set(args[1]) == {"c"} for args, _ in calls["angle_complex"])
    assert not any(has_list(args[0]) for args, _ in calls["extract_even"])
    assert all(set(args[0]) == {"c"} for args, _ in calls["convert"][3:])


def test_examples_of_a_docstring() -> None:
    text = (
        ">>> f(1)\n2\n>>> f('a')\n'b'\n\nExamples:\n  f(3, (4)) ➞ [5]\nf(2) => True\n"
        "f(x) == y\nnothing\nf(7) should return 'eight'.\nf(1) # => 2\n>>> print(f(1))\n2"
    )
    assert [test.source for test in examples(text, "f")] == [
        "assert f(1) == 2",
        "assert f('a') == 'b'",
        "assert f(3, (4)) == [5]",
        "assert f(2) == True",
        "assert f(7) == 'eight'",
    ]


def test_families() -> None:
    assert family_of("Write a function to sort a list of tuples.") == "tuples"
    assert family_of("Find the volume of a cone.") == "geometry"
    assert family_of("Do it.") == "other"


def test_any_file_in_one_of_the_forms(tmp_path: Path) -> None:
    records = [
        {
            "prompt": 'def inc(x):\n    """Add one.\n    >>> inc(1)\n    2\n    """\n',
            "entry_point": "inc",
            "canonical_solution": "    return x + 1\n",
            "test": "def check(candidate):\n    assert candidate(5) == 6\n",
        },
        {
            "prompt": "Double a number.",
            "code": "def double(x): return 2 * x",
            "test_list": ["assert double(1) == 2"],
            "test_imports": ["import math"],
        },
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    suite = load("jsonl-code", data=str(path))
    assert len(suite.tasks()) == 2 and failures(suite) == [] == check_suite(suite)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"a": 1}, "record 1 cannot be used: a record needs the fields prompt, entry_point"),
        (
            {"prompt": "x = 1", "entry_point": "f", "canonical_solution": "", "test": ""},
            "its prompt has no function f",
        ),
        ({"text": "?", "code": "def f(): pass", "test_list": []}, "its test_list is empty"),
        ({"text": "?", "code": "def f(", "test_list": ["assert f()"]}, "was never closed"),
        ({"text": "?", "code": "x = 1", "test_list": ["assert f()"]}, "calls no function"),
    ],
)
def test_unusable_records(tmp_path: Path, record: Any, says: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(record))
    with pytest.raises(SuiteError, match=says) as error:
        load("jsonl-code", data=str(path)).tasks()
    assert "\n" not in str(error.value)


def test_a_file_must_be_named() -> None:
    with pytest.raises(SuiteError, match="name a JSON Lines file"):
        load("jsonl-code")


@pytest.mark.parametrize(
    ("name", "plus", "tasks", "step"),
    [("humaneval", False, 164, 8), ("humaneval", True, 164, 9), ("mbpp", False, 971, 40),
     ("mbpp", True, 374, 25)],
)  # fmt: skip
def test_the_full_sets(data_root: Path, name: str, plus: bool, tasks: int, step: int) -> None:
    suite = load(name, data=str(data_root / name), plus=plus)
    assert len(suite.tasks()) == tasks and failures(suite, step) == []
    assert len({task.family for task in suite.tasks()}) <= 8
