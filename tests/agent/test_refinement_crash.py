"""SIGKILL while tries are judged and corrected: the same command ends with the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.config import Config, load_config
from agent.run_folder import open_ledger
from memory.records import MemoryItem, Note, Trajectory
from tests.agent.killed import Child, Whole, evolving, killed
from tests.agent.methods import LIVE
from tests.agent.test_crash import APPEND, at, contents, episodes
from tests.agent.test_refinement import FUNCTIONS, LEARNS

SMALL = ("suite.tasks={train: 6, gate: 1, retention: 1, test: 1}", "test.best_of_max=1")
RUNS = {
    "constitutional-ai": (*LEARNS, "generations=2", "acquire.tasks=3"),
    "codet": (*FUNCTIONS, "acquire.samples=4"),
}

POINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "nothing is judged": ("constitutional-ai", at("agent.run:Run.say")),
    "answers are there, no verdicts": ("constitutional-ai", at("agent.run:Run.say", when="after")),
    "critiques are there": ("constitutional-ai", at("agent.run:Run.say", nth=2, when="after")),
    "notes are stored": ("constitutional-ai", at("agent.run_memory:RunMemory.add", when="after")),
    "some are corrected": ("constitutional-ai", episodes(4, "1/acquire/")),
    "corrected ones are not judged": ("constitutional-ai", at("agent.run:Run.say", nth=3)),
    "all is corrected": ("constitutional-ai", at("agent.evolution.cycle:refine")),
    "in the second generation": ("constitutional-ai", episodes(2, "2/acquire/")),
    "tests are written": ("codet", at("agent.run:Run.say", when="after")),
    "some programs have run": ("codet", at(APPEND, nth=1, match="ran/1/")),
}  # fmt: skip


def configured(toy: Path, recipe: str) -> Config:
    return load_config([toy, recipe], [*LIVE, *SMALL, *RUNS[recipe]])


child, whole = evolving(configured)


def test_the_uninterrupted_runs_have_all_there_is(whole: Whole) -> None:
    with open_ledger(whole("constitutional-ai")) as ledger:
        assert ledger.count(Note, "said/2/feedback/") and ledger.count(Note, "said/1/correct/")
        assert any("/try-" in slot for slot, _ in ledger.all(Trajectory, "2/acquire/"))
        assert ledger.count(Note, "verdict/2/") and ledger.count(MemoryItem)
    with open_ledger(whole("codet")) as ledger:
        assert ledger.count(Note, "ran/1/") > 1


@pytest.mark.parametrize("name", POINTS)
def test_a_killed_run_goes_on(name: str, child: Child, whole: Whole, tmp_path: Path) -> None:
    choice, kill = POINTS[name]
    folder = killed(child, choice, tmp_path / "run", kill)
    assert contents(folder) == contents(whole(choice))
