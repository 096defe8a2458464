"""SIGKILL while tries are judged and corrected: the same command ends with the same run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import load_config
from agent.run_folder import open_ledger
from agent.verify import verify
from memory.records import MemoryItem, Note, Trajectory
from tests.agent.methods import LIVE
from tests.agent.test_crash import APPEND, at, contents, driven, episodes
from tests.agent.test_refinement import FUNCTIONS, LEARNS

Child = Callable[..., dict[str, Any]]
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


@pytest.fixture(scope="module")
def child(toy_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """Evolve a recipe in a process of its own, killed at a point if one is given."""
    place = tmp_path_factory.mktemp("config")

    def go(recipe: str, folder: Path, kill: dict[str, Any] | None = None) -> dict[str, Any]:
        config = place / f"{recipe}.yaml"
        if not config.exists():
            settings = load_config([toy_yaml, recipe], [*LIVE, *SMALL, *RUNS[recipe]])
            config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
        return drive(config, folder, kill)

    with driven() as drive:
        yield go


@pytest.fixture(scope="module")
def whole(child: Child, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The runs that nothing interrupted."""
    done: dict[str, Path] = {}

    def run(recipe: str) -> Path:
        if recipe not in done:
            folder = tmp_path_factory.mktemp(recipe) / "run"
            assert child(recipe, folder) == {"signal": None, "error": ""}
            done[recipe] = folder
        return done[recipe]

    return run


def test_the_uninterrupted_runs_have_all_there_is(whole: Callable[[str], Path]) -> None:
    with open_ledger(whole("constitutional-ai")) as ledger:
        assert ledger.count(Note, "said/2/feedback/") and ledger.count(Note, "said/1/correct/")
        assert any("/try-" in slot for slot, _ in ledger.all(Trajectory, "2/acquire/"))
        assert ledger.count(Note, "verdict/2/") and ledger.count(MemoryItem)
    with open_ledger(whole("codet")) as ledger:
        assert ledger.count(Note, "ran/1/") > 1


@pytest.mark.parametrize("name", POINTS)
def test_a_killed_run_goes_on(
    name: str, child: Child, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    recipe, kill = POINTS[name]
    folder = tmp_path / "run"
    assert child(recipe, folder, kill) == {"signal": 9, "error": ""}
    assert child(recipe, folder) == {"signal": None, "error": ""}
    assert verify(folder)[1] == []
    assert contents(folder) == contents(whole(recipe))
