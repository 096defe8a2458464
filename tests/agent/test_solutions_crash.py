"""SIGKILL while tries are explained, put together, labelled: the same command ends the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.config import Config, load_config
from agent.run_folder import open_ledger
from memory.records import COMPOSED, Note, Trajectory
from tests.agent.killed import Child, Whole, evolving, killed
from tests.agent.methods import LIVE
from tests.agent.test_crash import APPEND, at, contents, episodes
from tests.agent.test_refinement import LEARNS
from tests.agent.test_self_play import SETTINGS
from tests.agent.test_solutions import EXPLORES, PROMPTED, by

MANY = f"{APPEND}_many"
METHODS = "agent.evolution.solutions.methods"
SMALL = ("suite.tasks={train: 6, gate: 1, retention: 1, test: 1}", "test.best_of_max=1")
RUNS = {
    "a3t": (*EXPLORES, "acquire.samples=2", "acquire.first_tasks=3", "generations=2"),
    "grath": (*PROMPTED, "generations=2"),
    "self-talk": (*LEARNS, by("talker")),
    "debate": (
        *LEARNS,
        by("debater"),
        "acquire.samples=3",
        "generations=2",
        "update_memory.enabled=true",
        "acquire.memory_share=0.6",
    ),
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
    "all have answered once": ("debate", episodes(9, "2/acquire/")),
    "programs are proposed": ("absolute-zero", at("agent.run:Run.say", when="after")),
    "some have run": ("absolute-zero", at(APPEND, nth=3, match="ran/1/absolute-zero/")),
    "all are tried": ("absolute-zero", at("agent.evolution.cycle:proposals")),
}  # fmt: skip


def configured(toy: Path, recipe: str) -> Config:
    small = () if recipe == "absolute-zero" else SMALL
    return load_config([toy, recipe], [*LIVE, *small, *RUNS[recipe]])


child, whole = evolving(configured)


def test_the_uninterrupted_runs_have_all_there_is(whole: Whole) -> None:
    for recipe, place in (("a3t", "2/acquire/"), ("self-talk", "1/acquire/")):
        with open_ledger(whole(recipe)) as ledger:
            assert any(t.phase == COMPOSED for _, t in ledger.all(Trajectory, place))
            assert ledger.count(Note, f"said/{place[0]}/solve/") > 1
    with open_ledger(whole("grath")) as ledger:
        assert ledger.count(Note, "verdict/2/") > 1
    with open_ledger(whole("absolute-zero")) as ledger:
        assert ledger.count(Note, "proposed/1/") and ledger.count(Trajectory, "1/made/")


@pytest.mark.parametrize("name", POINTS)
def test_a_killed_run_goes_on(name: str, child: Child, whole: Whole, tmp_path: Path) -> None:
    choice, kill = POINTS[name]
    folder = killed(child, choice, tmp_path / "run", kill)
    assert settled(folder) == settled(whole(choice))


def settled(folder: Path) -> dict[str, Any]:
    """All that a run found out, but what programs said that say something else each time."""
    found = contents(folder)
    notes = {k: v for k, v in found["notes"].items() if "/absolute-zero/" not in k}
    return found | {"notes": notes}
