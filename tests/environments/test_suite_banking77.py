"""The BANKING77 suite."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from environments.base import Action, EnvironmentFailure, SuiteError
from environments.checks import check_suite
from environments.suites.banking77 import family_of, words
from tests.environments.gold import DATA, failures, load

FEW = str(DATA / "banking77")


def test_gold_earns_the_full_reward_and_the_suite_conforms() -> None:
    suite = load("banking77", data=FEW, intents=12)
    assert len(suite.tasks()) == 36
    assert failures(suite) == [] == check_suite(suite)


def test_a_valid_action_is_each_intent_and_only_one_of_them_is_right() -> None:
    suite: Any = load("banking77", data=FEW, intents=12)
    assert len(suite.intents) == 12
    assert {"refund not showing up", "reverted card payment"} < set(suite.intents)
    for task in suite.tasks()[:5]:
        rewards = []
        for text in suite.environment(task).valid_actions:
            assert re.fullmatch(r"[a-z ]+", text)
            result = suite.environment(task).step(
                Action(text=text, tool="answer", arguments={"intent": text})
            )
            assert result.terminated
            rewards.append(result.reward)
        assert sorted(rewards) == [0.0] * 11 + [1.0]


def test_no_intent_can_be_answered_again_but_an_answer_cannot() -> None:
    suite = load("banking77", data=FEW, intents=12)
    task = suite.tasks()[0]
    environment = suite.environment(task)
    for text in ("", "weather", task.prompt):
        result = environment.step(Action(text=text, tool="answer", arguments={"intent": text}))
        assert (result.reward, result.terminated, result.error) == (0.0, False, "no answer")
    written = str(task.data["intent"]).upper().replace(" ", "_") + "."
    result = environment.step(Action(text="", tool="answer", arguments={"intent": written}))
    assert (result.reward, result.terminated) == (1.0, True)
    with pytest.raises(EnvironmentFailure, match="over"):
        environment.step(Action(text="x"))


def test_the_first_intents_by_name_can_be_chosen() -> None:
    suite: Any = load("banking77", data=FEW, intents=2)
    assert suite.intents == ("atm support", "card arrival") and len(suite.tasks()) == 6


def test_intents_become_words() -> None:
    assert words(" Refund_not_showing_up\n") == "refund not showing up"
    assert words("reverted_card_payment?") == "reverted card payment"


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        ("text,category\na,b\n", {}, "intents=77: give 2 to 1"),
        ("text,label\na,b\n", {}, r"b.csv:2 has no 'category'"),
        ("text,category\na\n", {}, r"b.csv:2 has no 'category'"),
        ("text,category\n\udcff,b\n", {}, "cannot be read"),
    ],
)
def test_unusable_data(tmp_path: Path, content: str, options: dict[str, Any], says: str) -> None:
    (tmp_path / "b.csv").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(SuiteError, match=says) as error:
        load("banking77", data=str(tmp_path / "b.csv"), **options)
    assert "\n" not in str(error.value)
    with pytest.raises(SuiteError, match=r"none of the files train.csv, test.csv"):
        load("banking77", data=str(tmp_path))


def test_missing_data_says_where_it_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INSTAR_DATA", raising=False)
    with pytest.raises(SuiteError, match=r"INSTAR_DATA is not set.*task-specific-datasets"):
        load("banking77")


def test_the_full_set(data_root: Path) -> None:
    suite: Any = load("banking77", data=str(data_root / "banking77"))
    tasks = suite.tasks()
    assert (len(tasks), len(suite.intents)) == (13071, 77)  # 12 differ only in their spaces
    families = Counter(task.family for task in tasks)
    assert len(families) == 9 and min(families.values()) > 500
    assert {family_of(intent) for intent in suite.intents} == set(families)
    beginning = Counter(task.data["intent"] for task in tasks[:500])
    assert len(beginning) > 70, "the stream is not mixed"
    assert failures(suite, 20) == []
