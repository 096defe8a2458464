"""Fixtures for the memory tests: a ledger, item factory, programs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import memory
from memory.ledger import Ledger
from memory.records import MemoryItem
from tests.memory.drafts import make

ROOT = Path(memory.__file__).parents[1]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.db") as opened:
        yield opened


@pytest.fixture
def make_item() -> Callable[..., MemoryItem]:
    return make


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a Python program (source text, arguments) that can import the packages."""
    started: list[subprocess.Popen[str]] = []

    def run(source: str, *arguments: object, wrap: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*wrap, sys.executable, "-c", source, *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            stdin=subprocess.PIPE,  # one that waits for its end does not see the tests' own
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
