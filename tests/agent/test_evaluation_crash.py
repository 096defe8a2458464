"""SIGKILL while judges speak and an account is written: the same run comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.config import Config, load_config
from agent.run_folder import open_ledger
from memory.records import Note
from tests.agent.killed import Child, Whole, evolving, killed
from tests.agent.test_crash import APPEND, SMALLER, at, contents

TOLD = (
    *SMALLER,
    "policy.model=tests.agent.test_evaluation:judging",
    "evaluate={judge: self, how: debate, rounds: 1, account: policy, tasks: 6}",
    "objective={order: in-turn, follow: [{propose: regret}, {direction: knowledge}]}",
)

POINTS: dict[str, dict[str, Any]] = {
    "one has spoken": at(APPEND, nth=1, match="said/1/evaluate/debate/"),
    "some have voted": at(APPEND, nth=4, match="said/1/evaluate/vote/"),
    "no account is written": at(APPEND, nth=1, match="said/1/evaluate/account"),
    "in the second generation": at(APPEND, nth=3, match="said/2/evaluate/"),
}


def configured(toy: Path, choice: str) -> Config:
    return load_config(toy, TOLD)


child, whole = evolving(configured)


def test_the_uninterrupted_run_has_all_there_is(whole: Whole) -> None:
    with open_ledger(whole("told")) as ledger:
        assert ledger.count(Note, "said/2/evaluate/vote/")
        assert ledger.get(Note, "said/2/evaluate/account") is not None


@pytest.mark.parametrize("name", POINTS)
def test_a_killed_run_goes_on(name: str, child: Child, whole: Whole, tmp_path: Path) -> None:
    folder = killed(child, "told", tmp_path / "run", POINTS[name])
    assert contents(folder) == contents(whole("told"))
