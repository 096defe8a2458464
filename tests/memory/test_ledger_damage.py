"""Missing, damaged and read-only files, full disks, processes killed while writing."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memory.ledger import Ledger, LedgerError
from memory.records import Note

Start = Callable[..., "subprocess.Popen[str]"]


def note(value: object) -> Note:
    return Note.model_validate({"data": {"value": value}})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed ledger of some 80 pages."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.append_many([(f"n{i}", note(f"{i} " * 500)) for i in range(200)])
    return tmp_path / "ledger.db"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user may enter (unlike pytest's own)."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    return out


def test_missing_file_is_not_made_by_a_reader(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger here"):
        Ledger(tmp_path / "ledger.db", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_making_one_leaves_nothing_else(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.db").close()
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.db"]


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("size", [0, 10, 99, 4096, 12_288, 100_000, -1])
def test_truncated_file(path: Path, size: int, read_only: bool) -> None:
    size = size if size >= 0 else path.stat().st_size - 1
    os.truncate(path, size)
    with pytest.raises(LedgerError, match=r"truncated \(\d+ bytes\)") as error:
        Ledger(path, read_only=read_only)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert path.stat().st_size == size  # nothing was rewritten


@pytest.mark.parametrize("content", [b"hello", b"\x00" * 8192, b"not a database " * 1000])
def test_file_that_is_no_database(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="no SQLite database"):
        Ledger(path)
    assert path.read_bytes() == content


def test_folder_in_the_files_place(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="directory"):
        Ledger(tmp_path)


def test_foreign_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE records (x)")
    db.close()
    with pytest.raises(LedgerError, match="no ledger"):
        Ledger(path)


def test_other_schema_version_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 7")
    db.close()
    with pytest.raises(LedgerError, match=r"schema version 7.*reads version 2"):
        Ledger(path)


def test_damage_in_the_middle_is_an_error_when_it_is_read(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * 8)
        file.write(os.urandom(4096 * 30))
    with Ledger(path) as ledger:
        with pytest.raises(LedgerError) as error:
            list(ledger.all(Note))
        assert "restore it from a copy" in str(error.value)
        assert ledger.verify()


@pytest.mark.parametrize("seed", range(8))
def test_any_damage_is_a_ledger_error_or_found_by_verify(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with path.open("r+b") as file:
        file.seek(chance.randrange(100, path.stat().st_size - 600))
        file.write(chance.randbytes(600))
    try:
        with Ledger(path) as ledger:
            faults = ledger.verify()
    except LedgerError as error:
        faults = [str(error)]
    assert faults


def test_torn_log_loses_only_what_was_never_acknowledged(tmp_path: Path, start: Start) -> None:
    source = """
import os, sys
from pathlib import Path
from memory.ledger import Ledger
from memory.records import Note
ledger = Ledger(Path(sys.argv[1]))
for i in range(20):
    ledger.append(str(i), Note(data={"value": "x" * 3000}))
os._exit(0)  # no checkpoint: all is in the write-ahead log
"""
    path = tmp_path / "l.db"
    finish(start(source, path))
    log = tmp_path / "l.db-wal"
    with log.open("ab") as file:
        file.write(os.urandom(6000))  # the beginning of a transaction that never committed
    with Ledger(path) as ledger:
        assert ledger.keys(Note) == [str(i) for i in range(20)]
        assert ledger.verify() == []


def test_reader_after_a_killed_writer(tmp_path: Path, start: Start) -> None:
    source = """
import os, sys
from pathlib import Path
from memory.ledger import Ledger
from memory.records import Note
Ledger(Path(sys.argv[1])).append("a", Note(data={}))
os._exit(0)
"""
    finish(start(source, tmp_path / "l.db"))
    assert (tmp_path / "l.db-wal").stat().st_size > 0
    with Ledger(tmp_path / "l.db", read_only=True) as reader:
        assert reader.keys(Note) == ["a"]


READ_ONLY = """
import os, sys
from pathlib import Path
from memory.ledger import Ledger, LedgerError
from memory.records import Note
folder = Path(sys.argv[1])
if os.getuid() == 0:  # root may write anywhere: become somebody who may not
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in (folder / "ledger.db", folder / "sub" / "new.db"):
    try:
        Ledger(path)
    except LedgerError as error:
        print(error)
with Ledger(folder / "ledger.db", read_only=True) as reader:
    print(reader.keys(Note), reader.verify())
"""


def test_read_only_folder(open_folder: Path, start: Start) -> None:
    path = open_folder / "ledger.db"
    with Ledger(path) as ledger:
        ledger.append("a", note(1))
    path.chmod(0o444)
    open_folder.chmod(0o555)
    try:
        lines = finish(start(READ_ONLY, open_folder)).splitlines()
    finally:
        open_folder.chmod(0o755)
    assert len(lines) == 3
    assert "read-only" in lines[0] and str(path) in lines[0]
    assert "Permission denied" in lines[1]
    assert lines[2] == "['a'] []"


FILL = """
import resource, sys
from pathlib import Path
from memory.ledger import Ledger, LedgerError
from memory.records import Note
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
with Ledger(folder / "ledger.db") as ledger:
    stored = 0
    try:
        while stored < 500:
            ledger.append(str(stored), Note(data={"value": "x" * 5000}))
            stored += 1
    except LedgerError as error:
        print(error)
    print(stored, ledger.count(Note), ledger.verify())
"""


def check_filled(out: str) -> None:
    said, counts = out.splitlines()
    assert "disk" in said and "full" in said and "make room" in said
    stored, counted, faults = counts.split(" ", 2)
    assert 0 < int(stored) == int(counted) < 500
    assert faults == "[]"


def test_file_size_limit(tmp_path: Path, start: Start) -> None:
    check_filled(finish(start(FILL, tmp_path, 300_000)))
    with Ledger(tmp_path / "ledger.db") as ledger:  # and with room again, all is there
        assert ledger.verify() == []
        assert ledger.append("more", note(1))


def _bubblewrap(folder: Path) -> tuple[str, ...]:
    return (
        "bwrap",
        "--bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--size",
        "600000",
        "--tmpfs",
        str(folder),
    )


def _can_mount(folder: Path) -> bool:
    if shutil.which("bwrap") is None:
        return False
    return subprocess.run([*_bubblewrap(folder), "true"], capture_output=True).returncode == 0


def test_full_disk(tmp_path: Path, start: Start) -> None:
    if not _can_mount(tmp_path):
        pytest.skip("needs bubblewrap to mount a small disk; test_file_size_limit covers the rest")
    check_filled(finish(start(FILL, tmp_path, 0, wrap=_bubblewrap(tmp_path))))


def test_full_disk_at_the_start(tmp_path: Path, start: Start) -> None:
    source = """
import resource, sys
from pathlib import Path
from memory.ledger import Ledger, LedgerError
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    Ledger(folder / "ledger.db")
except LedgerError as error:
    print(error)
"""
    assert "full" in finish(start(source, tmp_path))
    assert list(tmp_path.iterdir()) == []  # no half-made ledger in the way of the next attempt
    Ledger(tmp_path / "ledger.db").close()


WRITE = """
import sys
from pathlib import Path
from memory.ledger import Ledger
from memory.records import Note
ledger = Ledger(Path(sys.argv[1]))
batch = ledger.count(Note) // 7
while True:
    ledger.append_many([(f"{batch}/{i}", Note(data={"value": [batch, i]})) for i in range(7)])
    print(batch, flush=True)  # acknowledged
    batch += 1
"""


def test_nothing_acknowledged_is_lost_by_sigkill(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "ledger.db"
    chance = random.Random(0)
    acknowledged = -1
    for _ in range(10):
        process = start(WRITE, path)
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first, process.communicate()[1]
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        said = [int(line) for line in (first + process.stdout.read()).splitlines()]
        process.wait()
        # It went on where the last one was killed; one batch may be stored, yet unsaid.
        assert said[0] in (acknowledged + 1, acknowledged + 2)
        acknowledged = said[-1]
        with Ledger(path) as ledger:
            batches, rest = divmod(ledger.count(Note), 7)
            assert rest == 0  # a batch is stored whole or not at all
            assert batches in (acknowledged + 1, acknowledged + 2)
            assert ledger.keys(Note) == [f"{b}/{i}" for b in range(batches) for i in range(7)]
            assert ledger.verify() == []


def test_busy_writer_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory.sqlite.BUSY_TIMEOUT_S", 0.1)
    with Ledger(path) as ledger:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="another process is writing"):
            ledger.append("x", note(1))
        other.execute("ROLLBACK")
        other.close()
        assert ledger.append("x", note(1))
