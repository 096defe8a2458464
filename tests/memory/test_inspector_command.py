"""The command ``instar view``: it serves, exports, and says in one line what is wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.made_run import write_run

ROOT = Path(__file__).parents[2]


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "agent.cli", "view", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "shown"
    write_run(folder, items=12, episodes=30, generations=2)
    return folder


@pytest.fixture
def serving(run: Path) -> Iterator[subprocess.Popen[str]]:
    process = start("--run", run, "--port", 0, "--json")
    yield process
    process.kill()
    process.wait()


def test_it_serves_until_it_is_interrupted(serving: subprocess.Popen[str]) -> None:
    url = json.loads(serving.stdout.readline())["url"]
    assert url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{url}api/runs") as answer:
        assert json.load(answer) == [{"name": "shown"}]
    serving.send_signal(signal.SIGINT)
    assert serving.wait(60) == 0
    assert serving.stderr.read() == ""


def test_it_listens_to_this_machine_only(serving: subprocess.Popen[str]) -> None:
    port = int(json.loads(serving.stdout.readline())["url"].rstrip("/").rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    rows += [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    listening = {row[1] for row in rows if row[3] == "0A" and int(row[1][-4:], 16) == port}
    assert listening == {f"0100007F:{port:04X}"}


def test_it_exports(run: Path, tmp_path: Path) -> None:
    for target, path in ((tmp_path / "a.html",) * 2, (tmp_path / "b", tmp_path / "b/index.html")):
        process = start("--run", run, "--export", target, "--json")
        said, wrong = process.communicate()
        assert (process.returncode, wrong) == (0, "")
        assert json.loads(said) == {
            "path": str(path), "bytes": path.stat().st_size, "left_out": [],
        }  # fmt: skip
        assert str(run) not in path.read_text(), "where it lay is nobody's business"


def test_mistakes_are_one_line(run: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, says in (
            (("--run", tmp_path), "is no run folder"),
            (("--run", run, "--compare", tmp_path / "none"), "is no run folder"),
            (("--run", run, "--port", port), f"cannot listen on 127.0.0.1, port {port}"),
            (("--run", run, "--port", 99999), "65535"),
            (("--run", run, "--export", "/proc/none"), "/proc/none: cannot be written"),
        ):
            process = start(*arguments)
            _, wrong = process.communicate()
            assert process.returncode == 2, wrong
            assert says in wrong
            assert len(wrong.splitlines()) == 1, wrong
