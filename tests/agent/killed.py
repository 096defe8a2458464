"""Runs that are killed at a point and begun again, beside those that nothing interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import Config
from agent.verify import verify
from tests.agent.test_crash import driven

Child = Callable[..., dict[str, Any]]
Whole = Callable[[str], Path]


def evolving(configured: Callable[[Path, str], Config]) -> tuple[Any, Any]:
    """Two fixtures: a process that evolves choices, and the runs that nothing interrupted.

    Args:
        configured: the configuration of a choice, by the toy's file and the choice's name.
    """

    @pytest.fixture(scope="module")
    def child(toy_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
        place = tmp_path_factory.mktemp("config")

        def go(choice: str, folder: Path, kill: dict[str, Any] | None = None) -> dict[str, Any]:
            config = place / f"{choice}.yaml"
            if not config.exists():
                tree = configured(toy_yaml, choice).model_dump(mode="json")
                config.write_text(yaml.safe_dump(tree))
            return drive(config, folder, kill)

        with driven() as drive:
            yield go

    @pytest.fixture(scope="module")
    def whole(child: Child, tmp_path_factory: pytest.TempPathFactory) -> Whole:
        """The runs that nothing interrupted, by choice."""
        done: dict[str, Path] = {}

        def run(choice: str) -> Path:
            if choice not in done:
                folder = tmp_path_factory.mktemp(choice) / "run"
                assert child(choice, folder) == {"signal": None, "error": ""}
                done[choice] = folder
            return done[choice]

        return run

    return child, whole


def killed(child: Child, choice: str, folder: Path, kill: dict[str, Any]) -> Path:
    """A run that was killed at a point, and brought to its end by the same command."""
    assert child(choice, folder, kill) == {"signal": 9, "error": ""}
    assert child(choice, folder) == {"signal": None, "error": ""}
    assert verify(folder)[1] == []
    return folder
