"""A scripted policy evolving on the toy suite: one finished run for all, and the command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import load_config
from agent.evolution import final
from agent.evolution.cycle import evolve
from agent.run import Run

ROOT = Path(__file__).resolve().parents[2]

# With this seed generation 1 learns two of the three families and generation 2 the third.
TOY: dict[str, Any] = {
    "generations": 2,
    "seed": 1,
    "suite": {
        "name": "tests.toy:ToySuite",
        "options": {"per_family": 90},
        "tasks": {"train": 12, "gate": 10, "retention": 2, "test": 4},
    },
    "policy": {"engine": "scripted", "model": "tests.toy:script", "context": 100_000, "slots": 8},
    "agent": {"max_new_tokens": 400},
    "sandbox": {"limits": {"wall_s": 60}},  # a busy machine must not decide what happens
    "memory": {"embedder": "hash", "recall": {"tokens": 4000}},
    "acquire": {"tasks": 3, "first_tasks": 3, "samples": 3, "temperatures": [0.5, 0.9]},
    "update_weights": {"min_examples": 1},
    "test": {"best_of_max": 4},
}

Instar = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def toy_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of the toy runs."""
    path = tmp_path_factory.mktemp("toy") / "toy.yaml"
    path.write_text(yaml.safe_dump(TOY))
    return path


@pytest.fixture(scope="session")
def evolve_toy(toy_yaml: Path) -> Callable[..., dict[str, Any]]:
    """Evolve (or continue) a toy run in a folder, with overrides; returns its summary."""

    def go(folder: Path, *overrides: str) -> dict[str, Any]:
        with Run(folder, load_config(toy_yaml, overrides), quiet=True) as run:
            evolve(run)
            return final.test(run) if run.config.test.run else final.summarise(run)

    return go


@pytest.fixture(scope="session")
def evolved(
    tmp_path_factory: pytest.TempPathFactory, evolve_toy: Callable[..., dict[str, Any]]
) -> Path:
    """A finished toy run; tests that change it take ``copied`` instead."""
    folder = tmp_path_factory.mktemp("runs") / "evolved"
    evolve_toy(folder)
    return folder


@pytest.fixture
def copied(evolved: Path, tmp_path: Path) -> Path:
    """A copy of the finished toy run."""
    return shutil.copytree(evolved, tmp_path / "copied")


@pytest.fixture(scope="session")
def instar() -> Instar:
    """Run the command ``instar`` in a process of its own."""

    def go(
        *arguments: object, env: dict[str, str] | None = None, wrap: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*wrap, sys.executable, "-m", "agent.cli", *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {"COLUMNS": "200"} | (env or {}),
            capture_output=True,
            text=True,
            timeout=250,
        )

    return go


@pytest.fixture(scope="session")
def instar_json(instar: Instar) -> Callable[..., Any]:
    """What a command prints with ``--json``, parsed."""

    def go(*arguments: object) -> Any:
        done = instar(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return go
