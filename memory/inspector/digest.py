"""A run's ledger boiled down to small rows, in a SQLite file of its own.

Pages ask about 100,000 items and 50,000 episodes; reading the ledger's bodies each time would
take minutes. The digest reads each body once, in the ledger's order, and goes on where it
stopped. It is derived: delete it at any time. It holds no item's text and no episode's words
(these are read from the ledger when they are shown), but the beginnings of the tasks' prompts,
so that episodes can be found, and points that come from keys; after an erasure in the ledger it
is made anew.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from memory import sqlite
from memory.inspector.spans import settle
from memory.ledger import LedgerError
from memory.records import content_hash

VERSION = 1
NAME = "inspector.sqlite"
PROMPT_CHARS = 300  # of a task's prompt, to find its episodes by
_BATCH = 200

_SCHEMA = f"""
PRAGMA user_version = {VERSION};
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE erased (seq INTEGER PRIMARY KEY);
CREATE TABLE generations (n INTEGER PRIMARY KEY, weights TEXT, memory TEXT);
CREATE TABLE snapshots (id TEXT PRIMARY KEY, parent TEXT, generation INTEGER) WITHOUT ROWID;
CREATE TABLE items (
    no INTEGER PRIMARY KEY, id TEXT UNIQUE, seq INTEGER, kind TEXT, family TEXT, born INTEGER,
    trust TEXT, made TEXT, x REAL, y REAL
);
CREATE INDEX items_family ON items (family);
CREATE INDEX items_unplaced ON items (no) WHERE x IS NULL AND seq IS NOT NULL;
CREATE TABLE parents (child INTEGER, parent INTEGER, PRIMARY KEY (child, parent)) WITHOUT ROWID;
CREATE INDEX parents_parent ON parents (parent);
CREATE TABLE sources (slot TEXT, item INTEGER, PRIMARY KEY (slot, item)) WITHOUT ROWID;
CREATE TABLE changes (
    no INTEGER PRIMARY KEY, snapshot TEXT, item INTEGER, generation INTEGER, status TEXT,
    absorbed_by TEXT, uses INTEGER, wins INTEGER, pairs INTEGER, utility REAL, low REAL,
    high REAL, votes INTEGER, reason TEXT, because TEXT
);
CREATE INDEX changes_snapshot ON changes (snapshot);
CREATE INDEX changes_item ON changes (item);
CREATE INDEX changes_absorbed ON changes (no) WHERE absorbed_by != '[]';
CREATE TABLE spans (
    item INTEGER, start INTEGER, stop INTEGER, change INTEGER, standing TEXT, event TEXT,
    PRIMARY KEY (item, start)
) WITHOUT ROWID;
CREATE INDEX spans_start ON spans (start, event, item);
CREATE INDEX spans_stop ON spans (stop);
CREATE TABLE counts (
    generation INTEGER, kind TEXT, standing TEXT, n INTEGER,
    PRIMARY KEY (generation, kind, standing)
) WITHOUT ROWID;
CREATE TABLE deltas (generation INTEGER PRIMARY KEY, body TEXT);
CREATE TABLE tasks (no INTEGER PRIMARY KEY, id TEXT UNIQUE, prompt TEXT);
CREATE TABLE episodes (
    no INTEGER PRIMARY KEY, slot TEXT UNIQUE, task INTEGER, suite TEXT, family TEXT, split TEXT,
    phase TEXT, generation INTEGER, policy TEXT, memory TEXT, reward REAL, success INTEGER,
    stop TEXT, failure TEXT, steps INTEGER, tokens INTEGER, errors INTEGER, recalled INTEGER,
    created REAL
);
CREATE INDEX episodes_generation ON episodes (generation, phase);
CREATE INDEX episodes_family ON episodes (family);
CREATE INDEX episodes_task ON episodes (task);
CREATE TABLE uses (item INTEGER, episode INTEGER, PRIMARY KEY (item, episode)) WITHOUT ROWID;
CREATE TABLE trained (slot TEXT, version TEXT, PRIMARY KEY (slot, version)) WITHOUT ROWID;
"""


class Digest:
    """The digest of one ledger; made if it is missing, made anew if it is another ledger's.

    An item that was erased, or that was only heard of, has no ``seq``.

    Several processes may use it at once: each batch is one transaction, and begins where the
    last one ended, whoever wrote it.

    Args:
        ledger: the ledger's file.
        folder: where the digest goes; None for the run's ``index`` folder, or a cache folder
            of this user where that cannot be written.

    Raises:
        LedgerError: the ledger or the digest cannot be read.
    """

    def __init__(self, ledger: Path, folder: Path | None = None) -> None:
        self.ledger = Path(ledger)
        self.path = (folder or _folder(self.ledger)) / NAME
        with self._explained():
            self._begin()

    def update(
        self,
        progress: Callable[[int, int], None] = lambda _done, _of: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Take in what the ledger has gained.

        Args:
            progress: told (sequence number reached, the ledger's last) after each batch.
            stop: whether to leave off after a batch; what is done stays.

        Returns:
            Whether there was anything new.
        """
        gained = False
        with self._explained():
            self._begin()
        with self._explained(), closing(self._ledger()) as source, self.open(write=True) as db:
            last = source.execute("SELECT coalesce(max(seq), 0) FROM records").fetchone()[0]
            while not stop():
                with sqlite.transaction(db):
                    done = int(_meta(db, "seq", 0))
                    rows = source.execute(
                        "SELECT seq, kind, key, body, chain, created FROM records "
                        "WHERE seq > ? ORDER BY seq LIMIT ?",
                        (done, _BATCH),
                    ).fetchall()
                    for seq, kind, key, body, _, created in rows:
                        if (reader := _READERS.get(kind)) is not None and body:
                            try:
                                reader(db, key, from_json(body), seq, created)
                            except (KeyError, TypeError, ValueError) as error:
                                raise LedgerError(
                                    f"{self.ledger}: record {seq} ({kind} {key!r}) is not of a "
                                    f"form that is known here ({error!r}); see instar verify"
                                ) from error
                    if rows:
                        done, chain = rows[-1][0], rows[-1][4]
                        _put(db, seq=done, chain=chain, touched=rows[-1][5])
                if not rows:
                    break
                gained = True
                progress(done, max(last, done))
        return gained

    @contextmanager
    def open(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection of one's own, for the calling thread.

        Raises:
            LedgerError: what SQLite says, in one line.
        """
        with self._explained(), closing(sqlite.connect(self.path, read_only=not write)) as db:
            if write:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = OFF")  # derived: made anew after a crash
            yield db

    def state(self) -> dict[str, Any]:
        """How far it is, and how much there is."""
        with self.open() as db:
            (episodes,) = db.execute("SELECT count(*) FROM episodes").fetchone()
            (items, there, placed) = db.execute(
                "SELECT count(*), count(seq), count(x) FROM items"
            ).fetchone()
            (generations,) = db.execute("SELECT count(*) FROM generations").fetchone()
            return {
                "seq": int(_meta(db, "seq", 0)),
                "touched": _meta(db, "touched", None),
                "episodes": episodes,
                "items": items,
                "unplaced": there - placed,
                "generations": generations,
            }

    def _ledger(self) -> sqlite3.Connection:
        return sqlite.connect(self.ledger, read_only=True)

    def _begin(self) -> None:
        """Make it, if there is none that can go on; what was erased until now is known then."""
        if self.path.exists() and not self._usable():
            _remove(self.path)
        if self.path.exists():
            return
        sqlite.create(self.path, _SCHEMA)
        with closing(self._ledger()) as source, self.open(write=True) as db:
            erasures = source.execute("SELECT body FROM records WHERE kind = 'Erasure'").fetchall()
            gone = [(seq,) for (body,) in erasures for seq, _ in from_json(body)["records"]]
            with sqlite.transaction(db):
                db.executemany("INSERT OR IGNORE INTO erased VALUES (?)", gone)
                _put(db, erasures=len(erasures))

    def _usable(self) -> bool:
        """Whether it is of this version and this very ledger, and nothing was erased since."""
        try:
            with (
                closing(sqlite.connect(self.path, read_only=True)) as db,
                closing(self._ledger()) as source,
            ):
                if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                    return False
                seq = int(_meta(db, "seq", 0))
                chain = source.execute("SELECT chain FROM records WHERE seq = ?", (seq,)).fetchone()
                (erasures,) = source.execute(
                    "SELECT count(*) FROM records WHERE kind = 'Erasure'"
                ).fetchone()
                same = seq == 0 or (chain is not None and chain[0] == _meta(db, "chain", ""))
                return same and erasures == _meta(db, "erasures", 0)
        except sqlite3.Error:
            return False

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            raise LedgerError(f"{self.path}: {sqlite.explain(error)}") from error


def read_bodies(ledger: Path, seqs: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Sequence number → JSON of the ledger's records; what was erased is missing.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    try:
        with closing(sqlite.connect(ledger, read_only=True)) as db:
            rows = db.execute(
                "SELECT seq, body FROM records WHERE seq IN (SELECT value FROM json_each(?))",
                (json.dumps(list(seqs)),),
            )
            return {seq: from_json(body) for seq, body in rows if body}
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
        raise LedgerError(f"{ledger}: {sqlite.explain(error)}") from error


def discard(ledger: Path) -> None:
    """Delete a ledger's digest; the next page makes it anew."""
    for folder in (ledger.parent / "index", _cache(ledger)):
        _remove(folder / NAME)


def _folder(ledger: Path) -> Path:
    beside = ledger.parent / "index"
    there = beside if beside.is_dir() else ledger.parent
    return beside if os.access(there, os.W_OK) else _cache(ledger)


def _cache(ledger: Path) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    top = Path(home) if os.access(Path(home).parent, os.W_OK) else Path(tempfile.gettempdir())
    return top / "instar" / content_hash(str(ledger.absolute()))[:16]


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _meta(db: sqlite3.Connection, key: str, default: Any) -> Any:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return default if row is None else row[0]


def _put(db: sqlite3.Connection, **values: Any) -> None:
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())


# One reader per kind of record. They take JSON, not records: 50,000 trajectories are validated
# by whoever shows one, and what a digest does not need may change its form.


def item_number(db: sqlite3.Connection, id_: str) -> int:
    """An item's number; one that was only heard of gets its number too."""
    row = db.execute("SELECT no FROM items WHERE id = ?", (id_,)).fetchone()
    if row is not None:
        return int(row[0])
    return int(db.execute("INSERT INTO items (id) VALUES (?)", (id_,)).lastrowid or 0)


def _item(db: sqlite3.Connection, key: str, body: dict[str, Any], seq: int, _at: float) -> None:
    number = item_number(db, key)
    made = body.get("made", "added")
    gone = db.execute("SELECT 1 FROM erased WHERE seq = ?", (seq,)).fetchone()
    db.execute(
        "UPDATE items SET seq = ?, kind = ?, family = ?, born = ?, trust = ?, made = ? "
        "WHERE no = ?",
        (
            None if gone else seq,
            body["kind"],
            body["family"],
            body["born"],
            body.get("trust"),
            made,
            number,
        ),
    )
    db.executemany(
        "INSERT OR IGNORE INTO parents VALUES (?, ?)",
        [(number, item_number(db, parent)) for parent in body.get("parents", ())],
    )
    db.executemany(
        "INSERT OR IGNORE INTO sources VALUES (?, ?)", [(slot, number) for slot in body["sources"]]
    )


def _snapshot(
    db: sqlite3.Connection, key: str, body: dict[str, Any], _seq: int, _at: float
) -> None:
    db.execute(
        "INSERT OR IGNORE INTO snapshots VALUES (?, ?, ?)",
        (key, body["parent"], body["generation"]),
    )
    rows = []
    for change in body["changes"]:
        worth = change.get("worth", {})
        rows.append(
            (
                key,
                item_number(db, change["item"]),
                change.get("generation", body["generation"]),
                change["status"],
                json.dumps(change.get("absorbed_by", [])),
                *(worth.get(name, 0) for name in ("uses", "wins", "pairs", "utility")),
                worth.get("low", -1.0),
                worth.get("high", 1.0),
                worth.get("votes", 0),
                change.get("reason", ""),
                json.dumps(change.get("because", [])),
            )
        )
    marks = ", ".join("?" * 14)
    db.executemany(f"INSERT INTO changes VALUES (NULL, {marks})", rows)  # noqa: S608


def _generation(db: sqlite3.Connection, _key: str, body: dict[str, Any], *_: Any) -> None:
    settle(db, body["n"], body["weights"], body["memory"])


def _note(db: sqlite3.Connection, key: str, body: dict[str, Any], *_: Any) -> None:
    if key.startswith("adapter/"):
        version = key.removeprefix("adapter/")
        slots = body["data"].get("sources") or []
        db.executemany(
            "INSERT OR IGNORE INTO trained VALUES (?, ?)", [(str(slot), version) for slot in slots]
        )


def _trajectory(
    db: sqlite3.Connection, key: str, body: dict[str, Any], _seq: int, at: float
) -> None:
    prompt = body.get("prompt", "")[:PROMPT_CHARS]
    db.execute(
        "INSERT INTO tasks (id, prompt) VALUES (?, ?) "
        "ON CONFLICT (id) DO UPDATE SET prompt = excluded.prompt WHERE prompt = ''",
        (body["task"], prompt),
    )
    (task,) = db.execute("SELECT no FROM tasks WHERE id = ?", (body["task"],)).fetchone()
    steps = body.get("steps", [])
    recalled = list(dict.fromkeys(body.get("recalled", [])))
    failure = body.get("failure")
    row = (
        key,
        task,
        *(body[name] for name in ("suite", "family", "split", "phase")),
        _generation_of(db, key, body["split"]),
        body["policy"],
        body.get("memory", ""),
        body.get("reward", 0.0),
        bool(body.get("success")),
        body.get("stop"),
        failure and f"{failure['source']}: {failure['message']}"[:200],
        len(steps),
        sum(sum(step["loss_mask"]) for step in steps)
        + int(body.get("metrics", {}).get("erased_tokens", 0)),
        sum(step.get("error") is not None for step in steps),
        len(recalled),
        at,
    )
    marks = ", ".join("?" * len(row))
    cursor = db.execute(f"INSERT OR IGNORE INTO episodes VALUES (NULL, {marks})", row)  # noqa: S608
    if cursor.rowcount:
        episode = cursor.lastrowid
        db.executemany(
            "INSERT OR IGNORE INTO uses VALUES (?, ?)",
            [(item_number(db, item), episode) for item in recalled],
        )


def _generation_of(db: sqlite3.Connection, slot: str, split: str) -> int | None:
    """The generation that an episode was played for; None for the final test.

    Its slot begins with it, or it was played while that generation was not yet recorded.
    """
    head = slot.split("/", 1)[0]
    if head.isdecimal():
        return int(head)
    if split == "test":
        return None
    return int(db.execute("SELECT coalesce(max(n), -1) + 1 FROM generations").fetchone()[0])


_READERS: dict[str, Callable[..., None]] = {
    "MemoryItem": _item,
    "MemorySnapshot": _snapshot,
    "Generation": _generation,
    "Note": _note,
    "Trajectory": _trajectory,
}
