"""The truth of a run: an append-only, hash-chained SQLite file.

A record is stored once under (kind, key) and never changed: there is no update and no
delete, here or (by triggers) in SQL. Every other store, the vector index first, can be
rebuilt from this one.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from pydantic import ValidationError

from memory import sqlite
from memory.records import Record, content_hash

R = TypeVar("R", bound=Record)

SCHEMA_VERSION = 1
APPLICATION_ID = 0x494E5354  # "INST", so that a foreign SQLite file is told apart
_CHUNK = 200  # rows read at a time: trajectories are large

_SCHEMA = """
CREATE TABLE records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    id TEXT NOT NULL,
    body TEXT NOT NULL,
    chain TEXT NOT NULL,
    created REAL NOT NULL,
    UNIQUE (kind, key)
);
CREATE TRIGGER records_no_update BEFORE UPDATE ON records
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER records_no_delete BEFORE DELETE ON records
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER records_no_replace BEFORE INSERT ON records
    WHEN EXISTS (SELECT 1 FROM records WHERE kind = NEW.kind AND key = NEW.key)
      OR EXISTS (SELECT 1 FROM records WHERE seq = NEW.seq)
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""
_MARKS = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"


class LedgerError(RuntimeError):
    """The ledger cannot be read or written, or refuses to; one line that says why."""


class _Row(NamedTuple):
    kind: str
    key: str
    id: str
    body: str


def _row(key: str, record: Record) -> _Row:
    body = json.dumps(
        record.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return _Row(type(record).__name__, key, _digest(body), body)


def _digest(body: str) -> str:
    """The content hash of a record whose canonical JSON is ``body`` (see `content_hash`)."""
    return hashlib.sha256(body.encode()).hexdigest()


def _kinds(base: type[Record] = Record) -> Iterator[type[Record]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


def _range(prefix: str) -> tuple[str, str | bytes]:
    """The first key that begins with ``prefix``, and what is just beyond the last."""
    for i in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[i])
        if code < 0x10FFFF:  # surrogates are no characters: step over them
            return prefix, prefix[:i] + chr(0xE000 if code == 0xD7FF else code + 1)
    return prefix, b""  # to SQLite any bytes are beyond any text


class Ledger:
    """Append-only store of records. Safe to share between the threads of one process.

    Args:
        path: the SQLite file; made, with its folder, if it is missing.
        read_only: never write; the file must exist. Works beside a writing process.

    Raises:
        LedgerError: from any method, when the file is missing, damaged, of another schema
            version, busy, on a full disk or in a read-only folder.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self.read_only = read_only
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        with _explained(self.path):
            if not self.path.exists():
                if read_only:
                    raise LedgerError(f"{self.path}: there is no ledger here; check the folder")
                sqlite.create(self.path, _SCHEMA + _MARKS)
            if sqlite.is_truncated(self.path):
                raise LedgerError(
                    f"{self.path}: the ledger is truncated ({self.path.stat().st_size} bytes); "
                    "restore it from a copy"
                )
            self._db = sqlite.connect(self.path, read_only=read_only)
        try:
            self._settle()
        except BaseException:
            self.close()
            raise

    # -- writing ---------------------------------------------------------------------------

    def append(self, key: str, record: Record) -> bool:
        """Store a record; durable on return.

        Returns:
            True if it is new, False if this very record is already there.

        Raises:
            LedgerError: another record is stored under this kind and key.
        """
        return self.append_many([(key, record)]) == 1

    def append_many(self, records: Iterable[tuple[str, Record]]) -> int:
        """Store records in one transaction, all or none; durable on return.

        Returns:
            How many were new; records that are already there are passed over.

        Raises:
            LedgerError: another record is stored under one of the kinds and keys.
        """
        rows = [_row(key, record) for key, record in records]
        with self._guard() as db, sqlite.transaction(db):
            chain = _head(db)
            new = 0
            for row in rows:
                stored = db.execute(
                    "SELECT id FROM records WHERE kind = ? AND key = ?", (row.kind, row.key)
                ).fetchone()
                if stored is not None:
                    if stored[0] != row.id:
                        raise LedgerError(
                            f"{self.path}: {row.kind} {row.key!r} is stored as {stored[0][:16]} "
                            f"and cannot become {row.id[:16]}; the ledger is append-only"
                        )
                    continue
                chain = _link(chain, row.kind, row.key, row.id)
                db.execute(
                    "INSERT INTO records (kind, key, id, body, chain, created) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (*row, chain, time.time()),
                )
                new += 1
        return new

    # -- reading ---------------------------------------------------------------------------

    def get(self, model: type[R], key: str) -> R | None:
        """The record of this kind and key, or None."""
        with self._guard() as db:
            row = db.execute(
                "SELECT kind, key, id, body FROM records WHERE kind = ? AND key = ?",
                (model.__name__, key),
            ).fetchone()
        return None if row is None else self._parse(model, _Row(*row))

    def get_many(self, model: type[R], keys: Iterable[str]) -> dict[str, R]:
        """The records of this kind with these keys, in the keys' order; one query for all.

        A key that is not stored is left out.
        """
        wanted = json.dumps(list(keys))
        with self._guard() as db:
            rows = db.execute(
                "SELECT kind, key, id, body FROM records "
                "WHERE kind = ? AND key IN (SELECT value FROM json_each(?))",
                (model.__name__, wanted),
            ).fetchall()
        found = {row[1]: self._parse(model, _Row(*row)) for row in rows}
        return {key: found[key] for key in json.loads(wanted) if key in found}

    def fields(
        self, model: type[Record], keys: Iterable[str], names: Sequence[str]
    ) -> dict[str, tuple[Any, ...]]:
        """Some top-level fields of many records, by key, without reading the whole records.

        Five times as quick as `get_many`, but nothing is checked: for a first look over
        records that are read properly before they are used. A key that is not stored is left
        out.
        """
        columns = "".join(f", json_extract(body, '$.{name}')" for name in names)
        with self._guard() as db:
            rows = db.execute(
                f"SELECT key{columns} FROM records "  # noqa: S608 (names of the model's fields)
                "WHERE kind = ? AND key IN (SELECT value FROM json_each(?))",
                (model.__name__, json.dumps(list(keys))),
            )
            return {row[0]: tuple(row[1:]) for row in rows}

    def all(self, model: type[R], prefix: str = "") -> Iterator[tuple[str, R]]:
        """(key, record) of this kind whose key begins with ``prefix``, oldest first.

        What is appended while iterating is not seen.
        """
        with self._guard() as db:
            # The index alone answers this; bodies are then read a few at a time.
            found = db.execute(
                "SELECT seq FROM records WHERE kind = ? AND key >= ? AND key < ? ORDER BY seq",
                (model.__name__, *_range(prefix)),
            )
            seqs = [seq for (seq,) in found]
        for start in range(0, len(seqs), _CHUNK):
            chunk = json.dumps(seqs[start : start + _CHUNK])
            with self._guard() as db:
                rows = db.execute(
                    "SELECT kind, key, id, body FROM records "
                    "WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq",
                    (chunk,),
                ).fetchall()
            for row in rows:
                yield row[1], self._parse(model, _Row(*row))

    def keys(self, model: type[Record], prefix: str = "") -> list[str]:
        """Keys of this kind that begin with ``prefix``, oldest first."""
        with self._guard() as db:
            found = db.execute(
                "SELECT key FROM records WHERE kind = ? AND key >= ? AND key < ? ORDER BY seq",
                (model.__name__, *_range(prefix)),
            )
            return [key for (key,) in found]

    def count(self, model: type[Record], prefix: str = "") -> int:
        """How many keys of this kind begin with ``prefix``."""
        with self._guard() as db:
            found = db.execute(
                "SELECT count(*) FROM records WHERE kind = ? AND key >= ? AND key < ?",
                (model.__name__, *_range(prefix)),
            )
            return int(found.fetchone()[0])

    def last(self, model: type[R], prefix: str = "") -> tuple[str, R] | None:
        """The newest (key, record) of this kind whose key begins with ``prefix``, or None."""
        with self._guard() as db:
            row = db.execute(
                "SELECT kind, key, id, body FROM records WHERE seq = (SELECT max(seq) "
                "FROM records WHERE kind = ? AND key >= ? AND key < ?)",
                (model.__name__, *_range(prefix)),
            ).fetchone()
        return None if row is None else (row[1], self._parse(model, _Row(*row)))

    def created(self, model: type[Record], key: str) -> float | None:
        """When the record was stored, in seconds since the epoch, or None."""
        with self._guard() as db:
            row = db.execute(
                "SELECT created FROM records WHERE kind = ? AND key = ?", (model.__name__, key)
            ).fetchone()
        return None if row is None else float(row[0])

    def verify(self) -> list[str]:
        """Audit the file: SQLite's own check, every content hash, the chain, every body.

        Returns:
            One line per fault, naming the record; empty when all is well.
        """
        faults: list[str] = []
        try:
            with self._guard() as db:
                faults += [
                    f"{self.path}: SQLite: {line}"
                    for (line,) in db.execute("PRAGMA integrity_check")
                    if line != "ok"
                ]
            faults += self._verify_rows()
        except LedgerError as error:
            faults.append(str(error))
        return faults

    def _verify_rows(self) -> Iterator[str]:
        models = {model.__name__: model for model in _kinds()}
        chain, seq = "", 0
        while True:
            with self._guard() as db:
                rows = db.execute(
                    "SELECT seq, kind, key, id, body, chain FROM records WHERE seq > ? "
                    "ORDER BY seq LIMIT ?",
                    (seq, _CHUNK),
                ).fetchall()
            if not rows:
                break
            for number, kind, key, id_, body, stored_chain in rows:
                where = f"{self.path}: record {number} ({kind} {key!r})"
                if number != seq + 1:
                    yield f"{where}: {number - seq - 1} records before it are gone"
                seq = number
                if _digest(body) != id_:
                    yield f"{where}: the body does not match its content hash"
                elif kind in models:
                    try:
                        models[kind].model_validate_json(body)
                    except ValidationError as error:
                        yield f"{where}: no valid {kind}: {_first(error)}"
                if _link(chain, kind, key, id_) != stored_chain:
                    yield f"{where}: the hash chain is broken here"
                chain = stored_chain
        with self._guard() as db:
            row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'records'").fetchone()
        if row is not None and row[0] > seq:
            yield f"{self.path}: {row[0] - seq} records after record {seq} are gone"

    def close(self) -> None:
        """Close the file; safe to call twice."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- inside ----------------------------------------------------------------------------

    def _settle(self) -> None:
        """Refuse what is no ledger of ours or cannot be written; set durability."""
        with self._guard() as db:
            application = db.execute("PRAGMA application_id").fetchone()[0]
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if application != APPLICATION_ID:
                raise LedgerError(f"{self.path}: a SQLite file, but no ledger; choose another path")
            if version != SCHEMA_VERSION:
                raise LedgerError(
                    f"{self.path}: schema version {version}, but this program reads version "
                    f"{SCHEMA_VERSION}; use the release that wrote it"
                )
            _head(db)
            if not self.read_only:
                if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                    raise LedgerError(
                        f"{self.path}: its file system has no shared memory; use a local disk"
                    )
                db.execute("PRAGMA synchronous = FULL")
                # Learn now, not at the first record, if it cannot write.
                with sqlite.transaction(db):
                    pass

    def _parse(self, model: type[R], row: _Row) -> R:
        if _digest(row.body) != row.id:
            raise LedgerError(
                f"{self.path}: {row.kind} {row.key!r} does not match its content hash; "
                "the file was changed from outside, restore it from a copy"
            )
        try:
            return model.model_validate_json(row.body)
        except ValidationError as error:
            raise LedgerError(
                f"{self.path}: {row.kind} {row.key!r} is no valid {model.__name__}: {_first(error)}"
            ) from error

    @contextmanager
    def _guard(self) -> Iterator[sqlite3.Connection]:
        """The connection, under the lock; what SQLite or the system says becomes one line."""
        with self._lock, _explained(self.path):
            if self._db is None:
                raise LedgerError(f"{self.path}: the ledger is closed")
            yield self._db


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
        raise LedgerError(f"{path}: {sqlite.explain(error)}") from error


def _head(db: sqlite3.Connection) -> str:
    row = db.execute("SELECT chain FROM records ORDER BY seq DESC LIMIT 1").fetchone()
    return "" if row is None else str(row[0])


def _link(previous: str, kind: str, key: str, id_: str) -> str:
    return content_hash([previous, kind, key, id_])


def _first(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
