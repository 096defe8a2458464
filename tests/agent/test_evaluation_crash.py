"""SIGKILL while judges speak and an account is written: the same run comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import load_config
from agent.run_folder import open_ledger
from agent.verify import verify
from memory.records import Note
from tests.agent.test_crash import APPEND, SMALLER, at, contents, driven

Child = Callable[..., dict[str, Any]]
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


@pytest.fixture(scope="module")
def child(toy_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """Evolve a folder in a process of its own, killed at a point if one is given."""
    config = tmp_path_factory.mktemp("config") / "told.yaml"
    config.write_text(yaml.safe_dump(load_config(toy_yaml, TOLD).model_dump(mode="json")))
    with driven() as drive:
        yield lambda folder, kill=None: drive(config, folder, kill)


@pytest.fixture(scope="module")
def whole(child: Child, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert child(folder) == {"signal": None, "error": ""}
    with open_ledger(folder) as ledger:
        assert ledger.count(Note, "said/2/evaluate/vote/")
        assert ledger.get(Note, "said/2/evaluate/account") is not None
    return folder


@pytest.mark.parametrize("name", POINTS)
def test_a_killed_run_goes_on(name: str, child: Child, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert child(folder, POINTS[name]) == {"signal": 9, "error": ""}
    assert child(folder) == {"signal": None, "error": ""}
    assert verify(folder)[1] == []
    assert contents(folder) == contents(whole)
