"""The whole cycle on other suites: choices, lines, code blocks, many turns; then the audit.

The policy is a script (it chooses at random, or writes one program for everything), so this is
about the way from a world to the ledger and back, not about learning.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.config import validate
from agent.evolution import final
from agent.evolution.cycle import evolve
from agent.run import Run
from agent.verify import verify
from memory.records import Trajectory
from tests.real import absent, data_folder

SMALL: dict[str, Any] = {
    "generations": 1,
    "policy": {
        "engine": "scripted",
        "model": "tests.agent.test_suite_cycles:script",
        "context": 100_000,
        "slots": 8,
    },
    "sandbox": {"limits": {"wall_s": 60}},
    "memory": {"embedder": "hash", "recall": {"tokens": 4000}},
    "acquire": {"tasks": 6, "first_tasks": 6, "samples": 3},
    "update_weights": {"min_examples": 1},
    "test": {"best_of_max": 2},
}
COUNTS = {"train": 3, "gate": 2, "retention": 1, "test": 2}
# Suite → options and turns; what is small enough for the records that lie here needs none else.
SUITES: dict[str, dict[str, Any]] = {
    "banking77": {"data": "banking77"},
    "household": {"data": "alfworld_rebuilt", "steps": 8},
    "lifelong-db": {"data": "lifelong_agentbench"},
    "mbpp": {"data": "mbpp"},
    "textworld-express": {"per_game": 40, "steps": 6},
    "gymnasium": {"id": "FrozenLake-v1", "seeds": 60},
}
CONSTRAINED = ("banking77", "household", "textworld-express", "gymnasium")


def script(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    last = prompt.rpartition("<assistant>")[2]
    if last.startswith("```sql"):
        return "SELECT 1\n```\n"
    return "def f(x):\n    return x\n```\n"


@pytest.mark.parametrize("name", SUITES)
def test_the_cycle_runs(name: str, tmp_path: Path) -> None:
    options = dict(SUITES[name])
    if name == "textworld-express" and not shutil.which("java"):
        absent("needs Java")
    if "data" in options:
        # The records that lie here are too few to be split four ways.
        options["data"] = str(data_folder() / options["data"])
    tree = SMALL | {"suite": {"name": name, "options": options, "tasks": COUNTS}}
    with Run(tmp_path / "run", validate(tree, name), quiet=True) as run:
        assert evolve(run).n == 1
        summary = final.test(run)
        played = [t for _, t in run.ledger.all(Trajectory)]
        constrained = [s for t in played for s in t.steps if s.choices]
        assert not [t.failure for t in played if t.failure]
        assert all(s.text in s.choices for s in constrained)
        assert bool(constrained) is (name in CONSTRAINED)
    assert summary["test"]["base"]["n"] > 0
    checked, problems = verify(tmp_path / "run")
    assert problems == [] and checked


def test_a_stream_is_practised_in_its_order(tmp_path: Path) -> None:
    """Each generation's tasks are the next ones of the data, whatever their families."""
    data = str(data_folder() / "lifelong_agentbench")
    counts = {"train": 20, "gate": 1, "retention": 1, "test": 1}
    tree = SMALL | {
        "generations": 2,
        "suite": {"name": "lifelong-db", "options": {"data": data}, "tasks": counts},
        "acquire": {"tasks": 8, "first_tasks": 5, "samples": 1, "select": "in-order"},
    }
    with Run(tmp_path / "run", validate(tree, "lifelong-db"), quiet=True) as run:
        assert evolve(run).n == 2
        stream = [task.id for task in run.tasks("train")]
        for n, expected in ((1, stream[:5]), (2, stream[5:13])):
            played = {t.task for _, t in run.ledger.all(Trajectory, f"{n}/acquire/")}
            assert played == set(expected)
        assert len({t.family for t in run.tasks("train")}) > 3
