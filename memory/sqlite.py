"""The ledger's SQLite file: its schema, and how it is made, opened, wiped and explained."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

APPLICATION_ID = 0x494E5354  # "INST", so that a foreign SQLite file is told apart
SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    id TEXT NOT NULL,
    body TEXT NOT NULL,
    chain TEXT NOT NULL,
    created REAL NOT NULL,
    redacted TEXT, -- content hash of what stands in the place of an erased body
    UNIQUE (kind, key)
);
CREATE INDEX records_redacted ON records (kind, key) WHERE redacted IS NOT NULL;
CREATE TRIGGER records_no_update BEFORE UPDATE ON records
    -- but for an erasure that the newest Erasure record announces
    WHEN (NEW.seq, NEW.kind, NEW.key, NEW.id, NEW.chain, NEW.created)
        IS NOT (OLD.seq, OLD.kind, OLD.key, OLD.id, OLD.chain, OLD.created)
      OR OLD.kind IN ('Erasure', 'Generation')
      OR NEW.redacted IS NULL
      OR coalesce(instr((SELECT body FROM records WHERE kind = 'Erasure'
                         ORDER BY key DESC LIMIT 1), NEW.redacted), 0) = 0
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER records_no_delete BEFORE DELETE ON records
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER records_no_replace BEFORE INSERT ON records
    WHEN EXISTS (SELECT 1 FROM records WHERE kind = NEW.kind AND key = NEW.key)
      OR EXISTS (SELECT 1 FROM records WHERE seq = NEW.seq)
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""
SCHEMA += f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
BUSY_TIMEOUT_S = 2.0


def create(path: Path, schema: str) -> None:
    """Make a database beside ``path`` and move it there whole.

    So a file that exists is complete, and one of zero bytes is damage, not a beginning.

    Args:
        path: where; its folder is made if it is missing. A file that is there meanwhile stays.
        schema: SQL, run in one transaction.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with closing(_connect(_uri(draft))) as db:
            db.executescript(f"BEGIN; {schema} COMMIT;")
        sync(draft)
        try:
            os.link(draft, path)  # unlike a rename, never replaces a ledger made meanwhile
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            if not path.exists():
                draft.rename(path)
        sync(path.parent)
    finally:
        for suffix in ("", "-journal"):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open an existing database; statements commit on their own unless in a `transaction`."""
    uri = _uri(path)
    if not read_only:
        return _connect(uri + "?mode=rw")
    db = _connect(uri + "?mode=ro")
    try:
        db.execute("SELECT 1 FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError:
        db.close()
        # A write-ahead log needs a writable folder beside it. Without a log nobody is
        # writing, and the file can be read as it is.
        if _size(path.with_name(path.name + "-wal")) > 0:
            raise
        return _connect(uri + "?mode=ro&immutable=1")
    return db


def is_truncated(path: Path) -> bool:
    """Whether the file lost its end: SQLite takes an empty one for new, and sees others late."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(100)
    short = len(header) < 100
    if not short and _size(path.with_name(path.name + "-wal")) == 0:
        page = int.from_bytes(header[16:18], "big")
        page = 65536 if page == 1 else page
        short = size < page * int.from_bytes(header[28:32], "big")
    return short and (not header or header.startswith(b"SQLite format 3\0"[: len(header)]))


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of the block or nothing; takes the write lock at once."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def wipe(db: sqlite3.Connection) -> bool:
    """Leave nothing of deleted content in the file, its free pages or its log.

    Returns:
        False if another connection reads the log, so that it could not be emptied.
    """
    db.execute("VACUUM")
    busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy


def explain(error: sqlite3.Error | OSError | UnicodeDecodeError) -> str:
    """What happened and what to do, from SQLite's or the system's own error."""
    if isinstance(error, OSError):
        return f"{error.strerror or error}; check the folder, its permissions and its disk"
    if isinstance(error, UnicodeDecodeError):
        return "the ledger is damaged (text that is not UTF-8); restore it from a copy"
    name = getattr(error, "sqlite_errorname", "")
    advice = {
        "SQLITE_FULL": "the disk is full; make room and run again, nothing stored is lost",
        "SQLITE_IOERR": "cannot read or write (disk full, a file size limit, or a failing disk?); "
        "make room and run again",
        "SQLITE_READONLY": "the file or its folder is read-only; make it writable or copy it",
        "SQLITE_CANTOPEN": "cannot be opened; check that the folder exists and is writable",
        "SQLITE_PERM": "no permission; check who owns the file",
        "SQLITE_AUTH": "no permission; check who owns the file",
        "SQLITE_BUSY": "another process is writing; wait for it or stop it",
        "SQLITE_NOTADB": "is no SQLite database, or its beginning is damaged; "
        "restore it from a copy",
        "SQLITE_CORRUPT": "the ledger is damaged; restore it from a copy",
    }
    for prefix, text in advice.items():
        if name.startswith(prefix):
            return f"{text} ({error})"
    return f"{error} ({name or type(error).__name__})"


def _uri(path: Path) -> str:
    return f"file:{quote(str(path.absolute()))}"


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(
        uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )


def sync(path: Path) -> None:
    """A file's bytes, or a folder's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
