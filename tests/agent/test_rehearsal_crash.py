"""SIGKILL while tasks are made up, solutions played again, a student tried: the same adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import load_config
from agent.run_folder import open_ledger
from agent.verify import verify
from memory.records import Note, Trajectory
from tests.agent.test_crash import APPEND, at, contents, driven, episodes
from tests.agent.test_rehearsal import chosen_so

Child = Callable[..., dict[str, Any]]
SMALL = (
    "suite.tasks={train: 12, gate: 2, retention: 1, test: 1}", "gate.enabled=false",
    "test.best_of_max=1", "acquire.first_tasks=6",
)  # fmt: skip
TRAIN = "agent.evolution.update.merge:train_adapter"

POINTS: dict[str, tuple[str, dict[str, Any]]] = {
    # SSR
    "some tasks are written": ("synthesised", at(APPEND, match="said/2/synthesised/4")),
    "tasks are written, none is answered": ("synthesised", at("agent.run:Run.say", when="after")),
    "some answers are there": (
        "synthesised", at(APPEND, match="/answer", nth=2, when="after"),
    ),
    "all is answered, nothing trained": ("synthesised", at(TRAIN, nth=2)),
    "trained on it, not in the ledger": ("synthesised", at(TRAIN, nth=2, when="after")),
    # SDFT
    "what is shown is in the ledger, nothing played": (
        "rewrite", at("agent.run_memory:RunMemory.add", when="after"),
    ),
    "some are played again": ("rewrite", episodes(2, "1/probe/rewrite/")),
    "all are played again": ("rewrite", at(TRAIN)),
    "trained on own words, not in the ledger": ("rewrite", at(TRAIN, when="after")),
    "in the second generation": ("rewrite", episodes(2, "2/probe/rewrite/")),
    # LLM2LLM
    "the student is not in the ledger": ("rounds", at(TRAIN, when="after")),
    "the student is a member, not a training": ("rounds", at(APPEND, match="trained/1/student1")),
    "the student is half tried": ("rounds", episodes(1, "1/probe/student1/")),
    "what it is shown is stored": (
        "rounds", at("agent.run_memory:RunMemory.add", when="after"),
    ),
    "it has practised some": ("rounds", episodes(4, "1/probe/student1/")),
    "it has practised, nothing is trained anew": ("rounds", at(TRAIN, nth=2)),
    "trained anew, not in the ledger": ("rounds", at(TRAIN, nth=2, when="after")),
    "in its second generation": ("rounds", episodes(2, "2/probe/student1/")),
}  # fmt: skip


@pytest.fixture(scope="module")
def child(toy_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """Evolve with a choice in a process of its own, killed at a point if one is given."""
    place = tmp_path_factory.mktemp("config")

    def go(choice: str, folder: Path, kill: dict[str, Any] | None = None) -> dict[str, Any]:
        config = place / f"{choice}.yaml"
        if not config.exists():
            settings = load_config(toy_yaml, [*chosen_so(choice), *SMALL])
            config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
        return drive(config, folder, kill)

    with driven() as drive:
        yield go


@pytest.fixture(scope="module")
def whole(child: Child, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The runs that nothing interrupted."""
    done: dict[str, Path] = {}

    def run(choice: str) -> Path:
        if choice not in done:
            folder = tmp_path_factory.mktemp(choice) / "run"
            assert child(choice, folder) == {"signal": None, "error": ""}
            done[choice] = folder
        return done[choice]

    return run


def adapters(folder: Path) -> dict[str, str]:
    """Where each adapter lies, by its hash."""
    with open_ledger(folder) as ledger:
        return {key: str(note.data["folder"]) for key, note in ledger.all(Note, "adapter/")}


def test_the_uninterrupted_runs_have_all_there_is(whole: Callable[[str], Path]) -> None:
    with open_ledger(whole("synthesised")) as ledger:
        assert ledger.count(Note, "said/2/synthesised/") > 13
    with open_ledger(whole("rewrite")) as ledger:
        assert all(ledger.count(Trajectory, f"{n}/probe/rewrite/") > 2 for n in (1, 2))
    with open_ledger(whole("rounds")) as ledger:
        assert all(ledger.count(Trajectory, f"{n}/probe/student1/again/") > 2 for n in (1, 2))
    assert len(adapters(whole("rounds"))) > len(adapters(whole("rewrite"))) > 1


@pytest.mark.parametrize("name", POINTS)
def test_a_killed_run_goes_on(
    name: str, child: Child, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    choice, kill = POINTS[name]
    folder = tmp_path / "run"
    assert child(choice, folder, kill) == {"signal": 9, "error": ""}
    assert child(choice, folder) == {"signal": None, "error": ""}
    assert verify(folder)[1] == []
    assert adapters(folder) == adapters(whole(choice))
    assert contents(folder) == contents(whole(choice))
