"""SIGKILL while tries are explained, put together, labelled: the same command ends the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import load_config
from agent.run_folder import open_ledger
from agent.verify import verify
from memory.records import COMPOSED, Note, Trajectory
from tests.agent.methods import LIVE
from tests.agent.test_crash import APPEND, at, contents, driven, episodes
from tests.agent.test_refinement import LEARNS
from tests.agent.test_self_play import SETTINGS
from tests.agent.test_solutions import EXPLORES, PROMPTED, by

Child = Callable[..., dict[str, Any]]
MANY = f"{APPEND}_many"
METHODS = "agent.evolution.solutions.methods"
SMALL = ("suite.tasks={train: 6, gate: 1, retention: 1, test: 1}", "test.best_of_max=1")
RUNS = {
    "a3t": (*EXPLORES, "acquire.samples=2", "acquire.first_tasks=3", "generations=2"),
    "grath": (*PROMPTED, "generations=2"),
    "self-talk": (*LEARNS, by("talker")),
    "absolute-zero": (*SETTINGS, "acquire.generate.drafts=12", "acquire.generate.count=4"),
}

POINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "nothing is explained": ("a3t", at("agent.run:Run.say")),
    "reasons are there": ("a3t", at("agent.run:Run.say", when="after")),
    "one is put together": ("a3t", at(MANY, nth=2, match="composed/")),
    "all are, not labelled": ("a3t", at(f"{METHODS}.explain:label", nth=2)),
    "in the second generation": ("a3t", at(f"{METHODS}.explain:label", nth=3)),
    "the better ones are there": ("grath", at("agent.run:Run.episodes", nth=2, when="after")),
    "some of the worse ones": ("grath", episodes(4, "1/acquire/")),
    "the client has spoken": ("self-talk", at("agent.run:Run.say", when="after")),
    "the agent has acted": ("self-talk", at("agent.run:Run.say", nth=5, when="after")),
    "a dialogue is stored": ("self-talk", at(MANY, nth=1, match="composed/", when="after")),
    "programs are proposed": ("absolute-zero", at("agent.run:Run.say", when="after")),
    "some have run": ("absolute-zero", at(APPEND, nth=3, match="ran/1/absolute-zero/")),
    "all are tried": ("absolute-zero", at("agent.evolution.cycle:proposals")),
}  # fmt: skip


@pytest.fixture(scope="module")
def child(toy_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """Evolve a recipe in a process of its own, killed at a point if one is given."""
    place = tmp_path_factory.mktemp("config")

    def go(recipe: str, folder: Path, kill: dict[str, Any] | None = None) -> dict[str, Any]:
        config = place / f"{recipe}.yaml"
        if not config.exists():
            small = () if recipe == "absolute-zero" else SMALL
            settings = load_config([toy_yaml, recipe], [*LIVE, *small, *RUNS[recipe]])
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
    for recipe, place in (("a3t", "2/acquire/"), ("self-talk", "1/acquire/")):
        with open_ledger(whole(recipe)) as ledger:
            assert any(t.phase == COMPOSED for _, t in ledger.all(Trajectory, place))
            assert ledger.count(Note, f"said/{place[0]}/solve/") > 1
    with open_ledger(whole("grath")) as ledger:
        assert ledger.count(Note, "verdict/2/") > 1
    with open_ledger(whole("absolute-zero")) as ledger:
        assert ledger.count(Note, "proposed/1/") and ledger.count(Trajectory, "1/made/")


@pytest.mark.parametrize("name", POINTS)
def test_a_killed_run_goes_on(
    name: str, child: Child, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    recipe, kill = POINTS[name]
    folder = tmp_path / "run"
    assert child(recipe, folder, kill) == {"signal": 9, "error": ""}
    assert child(recipe, folder) == {"signal": None, "error": ""}
    assert verify(folder)[1] == []
    assert settled(folder) == settled(whole(recipe))


def settled(folder: Path) -> dict[str, Any]:
    """All that a run found out, but what programs said that say something else each time."""
    found = contents(folder)
    notes = {k: v for k, v in found["notes"].items() if "/absolute-zero/" not in k}
    return found | {"notes": notes}
