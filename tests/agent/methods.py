"""A recipe's run with a script for a policy, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.config import load_config
from agent.evolution.cycle import evolve
from agent.run import Run
from agent.run_folder import open_ledger
from agent.verify import verify
from memory import history
from memory.ledger import Ledger
from memory.records import Generation, MemoryChange, MemoryItem, Status, Trajectory

# What is proposed goes live, so that memory grows.
LIVE = ("gate.enabled=false", "gate.margin=0.99", "gate.family_margin=1", "suite.tasks.gate=2")


class Evolved(NamedTuple):
    """A run and what it came to."""

    folder: Path
    ledger: Ledger

    @property
    def generations(self) -> list[Generation]:
        return [g for _, g in self.ledger.all(Generation)]

    def episodes(self, prefix: str) -> list[Trajectory]:
        return [t for _, t in self.ledger.all(Trajectory, prefix)]

    def items(self, n: int = -1, *statuses: Status) -> list[MemoryItem]:
        memory = self.generations[n].memory
        return history.items(self.ledger, memory, statuses or (Status.ACTIVE,))

    def state(self, n: int = -1) -> dict[str, MemoryChange]:
        return history.state(self.ledger, self.generations[n].memory)


def evolved(folder: Path, toy_yaml: Path, name: str, overrides: Iterable[str]) -> Evolved:
    """Evolve a recipe on top of the toy settings."""
    config = load_config([toy_yaml, name], [*LIVE, *overrides])
    with Run(folder, config, quiet=True) as opened:
        evolve(opened)
    return Evolved(folder, open_ledger(folder))


Run_ = Callable[[str, tuple[str, ...], str], Evolved]


def runs(toy_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run_]:
    """A recipe's run with some settings; asked again (under one name) it is not run again."""
    done: dict[tuple[str, tuple[str, ...], str], Evolved] = {}

    def one(recipe: str, settings: tuple[str, ...], name: str) -> Evolved:
        key = recipe, settings, name
        if key not in done:
            done[key] = evolved(tmp_path_factory.mktemp(recipe) / "run", toy_yaml, recipe, settings)
        return done[key]

    yield one
    for each in done.values():
        each.ledger.close()


class Row(NamedTuple):
    """One mechanism.

    Args:
        recipe, mechanism: whose, and which.
        settings: of both runs.
        without: settings that take the mechanism out, or what of the code is replaced by what.
        outcome: what the mechanism brings about.
    """

    recipe: str
    mechanism: str
    settings: tuple[str, ...]
    without: tuple[str, ...] | tuple[object, str, object]
    outcome: Callable[[Evolved], bool]


def less(row: Row, run: Run_, monkeypatch: pytest.MonkeyPatch) -> Evolved:
    """The run of a row's method without its mechanism."""
    if isinstance(row.without[0], str):
        return run(row.recipe, (*row.settings, *map(str, row.without)), "whole")
    place, name, instead = row.without
    monkeypatch.setattr(place, str(name), instead)
    return run(row.recipe, row.settings, row.mechanism)


def needs_its_mechanism(row: Row, run: Run_, monkeypatch: pytest.MonkeyPatch) -> None:
    """Assert that a row's outcome is the method's, and not what is left without its mechanism."""
    whole = run(row.recipe, row.settings, "whole")
    assert row.outcome(whole)
    assert verify(whole.folder)[1] == []
    assert not row.outcome(less(row, run, monkeypatch))


def read(t: Trajectory) -> str:
    """All that the policy read and wrote in an episode."""
    return "".join(chr(i) for step in t.steps for i in step.token_ids)
