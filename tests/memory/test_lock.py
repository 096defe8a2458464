"""One process per run folder."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from memory.ledger import LedgerError
from memory.lock import LockError, RunLock

HOLD = """
import sys, time
from pathlib import Path
from memory.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_process_is_told_who_holds_it(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    holder = start(HOLD, tmp_path)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(LockError) as error:
        RunLock(tmp_path).__enter__()
    said = f"{tmp_path} is in use by process {holder.pid}; wait for it or stop it"
    assert str(error.value) == said
    assert isinstance(error.value, LedgerError)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with RunLock(tmp_path):  # died without a word: free again
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_excludes_within_a_process_and_can_be_taken_again(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "runs" / "x")
    for _ in range(2):
        with lock, pytest.raises(LockError, match=f"process {os.getpid()}"):
            RunLock(tmp_path / "runs" / "x").__enter__()


def test_released_on_an_exception(tmp_path: Path) -> None:
    with pytest.raises(KeyError), RunLock(tmp_path):
        raise KeyError
    with RunLock(tmp_path):
        pass


def test_forked_child_does_not_keep_it(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    source = """
import os, sys, time
from pathlib import Path
from memory.lock import RunLock
RunLock(Path(sys.argv[1])).__enter__()
child = os.fork()
if child == 0:
    print("forked", os.getpid(), flush=True)
    time.sleep(60)
os.kill(os.getpid(), 9)
"""
    parent = start(source, tmp_path)
    assert parent.stdout is not None
    line = parent.stdout.readline()
    parent.wait()
    try:
        with RunLock(tmp_path):
            pass
    finally:
        os.kill(int(line.split()[1]), signal.SIGKILL)


def test_place_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LockError, match="is a file, and a run is a folder"):
        RunLock(tmp_path / "file").__enter__()
    with pytest.raises(LockError, match="cannot be locked"):
        RunLock(tmp_path / "file" / "in it").__enter__()
