"""A recipe's run with a script for a policy, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from agent.config import load_config
from agent.evolution.cycle import evolve
from agent.run import Run
from agent.run_folder import open_ledger
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


def read(t: Trajectory) -> str:
    """All that the policy read and wrote in an episode."""
    return "".join(chr(i) for step in t.steps for i in step.token_ids)
