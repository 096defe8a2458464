"""The truth of a run: an append-only, hash-chained SQLite file.

A record is stored once under (kind, key) and never changed: there is no update and no
delete, here or (by triggers) in SQL. The one exception is `Ledger.erase`, which leaves a
record's kind, key, content hash and link of the chain, and puts something without the text
in the place of its body. Every other store, the vector index first, can be rebuilt from
this one.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from pydantic import ValidationError

from memory import chain, sqlite
from memory.chain import Erasure
from memory.records import Note, Record

R = TypeVar("R", bound=Record)

_CHUNK = 200  # rows handled at a time: trajectories are large


class LedgerError(RuntimeError):
    """The ledger cannot be read or written, or refuses to; one line that says why."""


class _Row(NamedTuple):
    kind: str
    key: str
    id: str
    body: str
    redacted: str | None = None


def _row(key: str, record: Record) -> _Row:
    body = json.dumps(
        record.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return _Row(type(record).__name__, key, chain.digest(body), body)


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
                sqlite.create(self.path, sqlite.SCHEMA)
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
            head = _head(db)
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
                head = _insert(db, head, row)
                new += 1
        return new

    def erase(self, stand_ins: Iterable[tuple[str, Record]]) -> None:
        """Put other records in the place of stored ones, for good, all or none.

        What stood there is gone from every page of the file and from its log on return. What
        stands there now keeps the ``id`` of what was erased.

        Args:
            stand_ins: (key, record); the record of that kind and key is what is erased.

        Raises:
            LedgerError: there is no such record (nothing is changed then); or another process
                is reading, and its pages could not be wiped: the next opening does that.
        """
        rows = [_row(key, record) for key, record in stand_ins]
        if not rows:
            return
        with self._guard() as db:
            db.execute("PRAGMA secure_delete = ON")
            with sqlite.transaction(db):
                for start in range(0, len(rows), _CHUNK):
                    self._replace(db, rows[start : start + _CHUNK])
        self._wipe()

    def _replace(self, db: sqlite3.Connection, rows: list[_Row]) -> None:
        numbers: list[tuple[int, str]] = []
        for row in rows:
            stored = db.execute(
                "SELECT seq FROM records WHERE kind = ? AND key = ?", (row.kind, row.key)
            ).fetchone()
            if stored is None:
                raise LedgerError(f"{self.path}: there is no {row.kind} {row.key!r} to erase")
            numbers.append((stored[0], row.id))
        (count,) = db.execute("SELECT count(*) FROM records WHERE kind = 'Erasure'").fetchone()
        _insert(db, _head(db), _row(f"{count:06d}", Erasure(records=tuple(numbers))))
        db.executemany(
            "UPDATE records SET body = ?, redacted = ? WHERE seq = ?",
            [(row.body, digest, n) for row, (n, digest) in zip(rows, numbers, strict=True)],
        )

    def _wipe(self) -> None:
        """Rid the file of what was erased, unless that was done: a crash may lie between."""
        last = self.last(Erasure)
        if last is None or self.get(Note, f"wiped/{last[0]}") is not None:
            return
        with self._guard() as db:
            if not sqlite.wipe(db):
                raise LedgerError(
                    f"{self.path}: erased, but another process reads the file and keeps its old "
                    "pages; stop it (instar view?) and run this again"
                )
        self.append(f"wiped/{last[0]}", Note(data={}))

    # -- reading ---------------------------------------------------------------------------

    def get(self, model: type[R], key: str) -> R | None:
        """The record of this kind and key, or None."""
        with self._guard() as db:
            row = db.execute(
                "SELECT kind, key, id, body, redacted FROM records WHERE kind = ? AND key = ?",
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
                "SELECT kind, key, id, body, redacted FROM records "
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

    def all(
        self, model: type[R], prefix: str = "", containing: str = ""
    ) -> Iterator[tuple[str, R]]:
        """(key, record) of this kind whose key begins with ``prefix``, oldest first.

        What is appended while iterating is not seen.

        Args:
            model: the kind.
            prefix: of the key.
            containing: only records with this in their JSON: quicker than reading them all.
        """
        with self._guard() as db:
            # The index alone answers this; bodies are then read a few at a time.
            found = db.execute(
                "SELECT seq FROM records WHERE kind = ? AND key >= ? AND key < ? ORDER BY seq",
                (model.__name__, *_range(prefix)),
            )
            seqs = [seq for (seq,) in found]
        for start in range(0, len(seqs), _CHUNK):
            some = json.dumps(seqs[start : start + _CHUNK])
            with self._guard() as db:
                rows = db.execute(
                    "SELECT kind, key, id, body, redacted FROM records "
                    "WHERE seq IN (SELECT value FROM json_each(?)) AND instr(body, ?) "
                    "ORDER BY seq",
                    (some, containing),
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
                "SELECT kind, key, id, body, redacted FROM records WHERE seq = (SELECT max(seq) "
                "FROM records WHERE kind = ? AND key >= ? AND key < ?)",
                (model.__name__, *_range(prefix)),
            ).fetchone()
        return None if row is None else (row[1], self._parse(model, _Row(*row)))

    def erased(self, model: type[Record]) -> set[str]:
        """Keys of this kind whose record was erased, in whole or in part."""
        with self._guard() as db:
            found = db.execute(
                "SELECT key FROM records WHERE kind = ? AND redacted IS NOT NULL",
                (model.__name__,),
            )
            return {key for (key,) in found}

    def created(self, model: type[Record], key: str) -> float | None:
        """When the record was stored, in seconds since the epoch, or None."""
        with self._guard() as db:
            row = db.execute(
                "SELECT created FROM records WHERE kind = ? AND key = ?", (model.__name__, key)
            ).fetchone()
        return None if row is None else float(row[0])

    def verify(self) -> list[str]:
        """Audit the file: SQLite's own check and all that `chain.audit` looks at.

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
                last = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'records'")
                newest = last.fetchone()
            faults += chain.audit(self.path, self._rows(), newest[0] if newest else 0)
        except LedgerError as error:
            faults.append(str(error))
        return faults

    def _rows(self) -> Iterator[chain.Row]:
        """Every row, oldest first."""
        seq = 0
        while True:
            with self._guard() as db:
                rows = db.execute(
                    "SELECT seq, kind, key, id, body, chain, redacted FROM records "
                    "WHERE seq > ? ORDER BY seq LIMIT ?",
                    (seq, _CHUNK),
                ).fetchall()
            if not rows:
                return
            yield from map(chain.Row._make, rows)
            seq = rows[-1][0]

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
            if application != sqlite.APPLICATION_ID:
                raise LedgerError(f"{self.path}: a SQLite file, but no ledger; choose another path")
            if version != sqlite.SCHEMA_VERSION:
                raise LedgerError(
                    f"{self.path}: schema version {version}, but this program reads version "
                    f"{sqlite.SCHEMA_VERSION}; use the release that wrote it"
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
                with suppress(LedgerError):  # a reader is in the way: another time
                    self._wipe()

    def _parse(self, model: type[R], row: _Row) -> R:
        if chain.digest(row.body) != (row.redacted or row.id):
            raise LedgerError(
                f"{self.path}: {row.kind} {row.key!r} does not match its content hash; "
                "the file was changed from outside, restore it from a copy"
            )
        try:
            record = model.model_validate_json(row.body)
        except ValidationError as error:
            raise LedgerError(
                f"{self.path}: {row.kind} {row.key!r} is no valid {model.__name__}: "
                f"{chain.first(error)}"
            ) from error
        if row.redacted:  # what stands in for an erased record keeps its identity
            record.__dict__["id"] = row.id[:16]
        return record

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


def _insert(db: sqlite3.Connection, previous: str, row: _Row) -> str:
    """Add a row behind the one with this link of the chain; returns its own link."""
    linked = chain.link(previous, row.kind, row.key, row.id)
    db.execute(
        "INSERT INTO records (kind, key, id, body, chain, created) VALUES (?, ?, ?, ?, ?, ?)",
        (row.kind, row.key, row.id, row.body, linked, time.time()),
    )
    return linked
