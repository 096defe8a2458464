"""SIGKILL while tasks are made up, solutions played again, a student tried: the same adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.config import Config, load_config
from agent.run_folder import open_ledger
from memory.records import Note, Trajectory
from tests.agent.killed import Child, Whole, evolving, killed
from tests.agent.test_crash import APPEND, at, contents, episodes
from tests.agent.test_rehearsal import chosen_so

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


def configured(toy: Path, choice: str) -> Config:
    return load_config(toy, [*chosen_so(choice), *SMALL])


child, whole = evolving(configured)


def adapters(folder: Path) -> dict[str, str]:
    """Where each adapter lies, by its hash."""
    with open_ledger(folder) as ledger:
        return {key: str(note.data["folder"]) for key, note in ledger.all(Note, "adapter/")}


def test_the_uninterrupted_runs_have_all_there_is(whole: Whole) -> None:
    with open_ledger(whole("synthesised")) as ledger:
        assert ledger.count(Note, "said/2/synthesised/") > 13
    with open_ledger(whole("rewrite")) as ledger:
        assert all(ledger.count(Trajectory, f"{n}/probe/rewrite/") > 2 for n in (1, 2))
    with open_ledger(whole("rounds")) as ledger:
        assert all(ledger.count(Trajectory, f"{n}/probe/student1/again/") > 2 for n in (1, 2))
    assert len(adapters(whole("rounds"))) > len(adapters(whole("rewrite"))) > 1


@pytest.mark.parametrize("name", POINTS)
def test_a_killed_run_goes_on(name: str, child: Child, whole: Whole, tmp_path: Path) -> None:
    choice, kill = POINTS[name]
    folder = killed(child, choice, tmp_path / "run", kill)
    assert adapters(folder) == adapters(whole(choice))
    assert contents(folder) == contents(whole(choice))
