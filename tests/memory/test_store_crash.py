"""The store (ledger and index) under SIGKILL at random instants, and on a full disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import memory
from memory.embed import HashEmbedder
from memory.index import check_index, open_index

KILLS = 105
ROOT = Path(memory.__file__).parents[1]


def test_killed_at_random(tmp_path: Path) -> None:
    """While adding, merging, rebuilding and opening: nothing lost, nothing out of reach."""
    driver = Path(__file__).with_name("store_driver.py")
    done = subprocess.run(
        [sys.executable, driver, tmp_path / "run", str(KILLS), "0"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["faults"] == []
    assert told["refused"] == KILLS // 10 + 1  # each time a second writer tried
    assert told["opening"] > 0
    assert all(count > 0 for count in told["done"].values())
    assert told["said"] > KILLS
    # A kill is no damage: only an opening that found some would have said so.
    assert "rebuilding" not in done.stderr


FULL = """
import resource, sys
from pathlib import Path
from memory.embed import HashEmbedder
from memory.index import VectorIndexError, open_index
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
embedder = HashEmbedder(64)
items = {str(i): f"text {i}" for i in range(200)}
if limit < 0:  # from the beginning
    resource.setrlimit(resource.RLIMIT_FSIZE, (-limit, -limit))
try:
    index = open_index(folder, embedder, items)
    if limit > 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    print("opened", flush=True)
    for i in range(200, 20_000, 50):
        batch = [str(j) for j in range(i, i + 50)]
        index.add(batch, embedder.embed([f"text {j}" for j in batch]))
        print(i + 50, flush=True)
except VectorIndexError as error:
    print("refused:", error)
"""


def assert_mended(folder: Path, count: int) -> None:
    """With room again, all is there."""
    items = {str(i): f"text {i}" for i in range(count)}
    embedder = HashEmbedder(64)
    with closing(open_index(folder, embedder, items)) as index:
        assert index.ids() == items.keys()
        found = index.query(embedder.embed(list(items.values())), 10)
        for id_, hits in zip(items, found, strict=True):
            assert id_ in dict(hits) or hits[-1][1] > 0.999
    assert check_index(folder, embedder, items) == []


@pytest.mark.parametrize("limit", [-20_000, -250_000])
def test_no_room_to_build(
    tmp_path: Path, limit: int, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(FULL, tmp_path / "index", limit)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    (said,) = out.splitlines()
    assert said.startswith("refused: ") and str(tmp_path) in said
    assert not (tmp_path / "index" / "current").exists()
    assert_mended(tmp_path / "index", 200)


def check_filled(out: str, folder: Path) -> None:
    opened, *stored, said = out.splitlines()
    assert opened == "opened" and stored
    assert said.startswith("refused: ") and str(folder) in said
    assert int(stored[-1]) < 20_000


def test_no_room_to_add(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start(FULL, tmp_path / "index", 1_000_000)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    check_filled(out, tmp_path)
    stored = int(out.splitlines()[-2])
    # The batch that failed may have left a part: its items are in the ledger before.
    assert_mended(tmp_path / "index", stored + 50)


def test_full_disk(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    mount = ("--bind", "/", "/", "--dev", "/dev", "--size", "3000000", "--tmpfs", str(tmp_path))
    wrap = ("bwrap", *mount)
    if shutil.which("bwrap") is None or subprocess.run([*wrap, "true"], check=False).returncode:
        pytest.skip("needs bubblewrap to mount a small disk; test_no_room_to_add covers the rest")
    process = start(FULL, tmp_path / "index", 0, wrap=wrap)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    check_filled(out, tmp_path)
