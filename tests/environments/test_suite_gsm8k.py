"""The GSM8K suite."""

from decimal import Decimal
from pathlib import Path

import pytest

from environments.base import Action, SuiteError
from environments.checks import check_suite
from environments.suites.gsm8k import read_number, score
from tests.environments.gold import DATA, failures, load

FEW = str(DATA / "gsm8k")


@pytest.mark.parametrize("python", [True, False])
def test_gold_earns_the_full_reward_and_the_suite_conforms(python: bool) -> None:
    suite = load("gsm8k", data=FEW, python=python)
    assert len(suite.tasks()) == 16
    assert failures(suite) == [] == check_suite(suite, limit=2)
    assert {task.family for task in suite.tasks()} >= {"2 steps", "7 steps or more"}
    for task in suite.tasks():
        assert "####" not in task.prompt and "<<" not in str(task.data)


def test_both_ways_of_answering_have_the_same_tasks() -> None:
    ids = [[task.id for task in load("gsm8k", data=FEW, python=p).tasks()] for p in (True, False)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("72", "72"),
        ("#### 1,234", "1234"),
        ("3 * 12 = 36, so she pays $36.50.", "36.50"),
        ("It is -7", "-7"),
        ("7 and then .5", ".5"),
        ("2e3", "2000"),
        ("1e999999999999", "999999999999"),
        ("from 5 to 9, 10.", "10"),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number_is_the_answer(text: str, number: str | None) -> None:
    assert read_number(text) == (None if number is None else Decimal(number))


def test_numbers_are_compared_with_a_tolerance() -> None:
    assert score(Decimal(18), "18.0000001") == score(Decimal(18), "$18.00") == 1.0
    for wrong in ("18.1", "81", "-18", "", "nan", "inf", "9" * 5000, "1e999", "18 19"):
        assert score(Decimal(18), wrong) == 0.0, wrong


def test_reasoning_may_stand_before_the_number() -> None:
    suite = load("gsm8k", data=FEW, python=False)
    task = suite.tasks()[0]
    gold = task.data["answer"]
    text = f"First 2 + 2.\nThat makes {gold}"
    for said, argument, reward in (
        (text, "First 2 + 2.", 1.0),
        (f"{gold}\nor 3", f"{gold}", 0.0),
        ('answer(answer="3")', "3", 0.0),
        ("a call", str(gold), 1.0),
    ):
        result = suite.environment(task).step(
            Action(text=said, tool="answer", arguments={"answer": argument})
        )
        assert (result.reward, result.terminated) == (reward, True), said
    result = suite.environment(task).step(
        Action(text="many", tool="answer", arguments={"answer": "many"})
    )
    assert (result.terminated, result.error) == (False, "no answer")


def test_unusable_data(tmp_path: Path) -> None:
    for line, says in (
        ("nothing", r"x.jsonl:2 is not JSON"),
        ("[]", r"x.jsonl:2 has no 'question', 'answer'"),
        ('{"question": "?", "answer": "many"}', "record 2 has an answer that does not end"),
    ):
        path = tmp_path / "x.jsonl"
        path.write_text('{"question": "?", "answer": "#### 1"}\n' + line)
        with pytest.raises(SuiteError, match=says) as error:
            load("gsm8k", data=str(path)).tasks()
        assert "\n" not in str(error.value)


def test_the_full_set(data_root: Path) -> None:
    suite = load("gsm8k", data=str(data_root / "gsm8k"), python=False)
    assert len(suite.tasks()) == 8792
    assert len({task.family for task in suite.tasks()}) == 6
    assert failures(suite) == []
