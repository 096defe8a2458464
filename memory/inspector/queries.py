"""What lists, charts and the map of a page ask the digest; plain JSON-able rows.

Texts are read from the ledger, for the rows that are shown. Generations are numbers; "as of
generation n" is the memory that n left, as n's weights see it.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any, Literal

from pydantic import BaseModel, Field

from memory import sqlite
from memory.inspector.digest import Digest, read_bodies
from memory.inspector.spans import EVENTS, GONE, STANDINGS

PAGE = 50
MOST = 500
_FOUND = 20_000  # most items that a search by text goes on with
_CUT = 400  # characters of a text in a list
_SORTS = {
    "newest": "i.no DESC",
    "oldest": "i.no",
    "utility": "c.utility DESC, i.no DESC",
    "harm": "c.utility, i.no DESC",
    "uses": "c.uses DESC, i.no DESC",
}
_EPISODE_SORTS = {
    "newest": "e.no DESC",
    "oldest": "e.no",
    "longest": "e.tokens DESC, e.no DESC",
    "reward": "e.reward DESC, e.no DESC",
}
_EPISODE = (
    "SELECT e.slot, t.id task, t.prompt, e.suite, e.family, e.split, e.phase, e.generation, "
    "e.policy, e.memory, e.reward, e.success, e.stop, e.failure, e.steps, e.tokens, e.errors, "
    "e.recalled FROM episodes e JOIN tasks t ON t.no = e.task "
)
OUTCOMES = {
    "": "1",
    "success": "e.success = 1",
    "wrong": "e.success = 0 AND e.failure IS NULL",
    "error": "e.errors > 0",
    "broken": "e.failure IS NOT NULL",
}
Rows = list[dict[str, Any]]


class Page(BaseModel):
    """Which rows of a list are wanted."""

    offset: int = Field(0, ge=0)
    limit: int = Field(PAGE, ge=1, le=MOST)


class Items(Page):
    """Which items: of a generation's memory; "" lets all pass."""

    generation: int
    kind: str = ""
    standing: str = ""
    family: str = ""
    text: str = ""
    sort: str = "newest"


class Changes(Page):
    """Which changes: the items to which something happened in a generation."""

    generation: int
    event: str


class Episodes(Page):
    """Which episodes; "" lets all pass.

    Args:
        generation: a number, or ``final`` for the final test.
        outcome: ``success``, ``wrong`` (ended without success), ``error`` (some step had one)
            or ``broken`` (something failed).
        text: part of a slot, a family, or the beginning of a task's prompt.
        task, item: only of this task, only where this item stood in the prompt.
    """

    generation: str = Field("", pattern=r"^(\d+|final)?$")
    phase: str = ""
    split: str = ""
    family: str = ""
    outcome: Literal["", "success", "wrong", "error", "broken"] = ""
    text: str = ""
    task: str = ""
    item: str = ""
    sort: str = "newest"


def timeline(digest: Digest) -> dict[str, Any]:
    """How many items of each kind had which standing after each generation, and what happened."""
    with digest.open() as db:
        return {
            "generations": [n for (n,) in db.execute("SELECT n FROM generations ORDER BY n")],
            "counts": rows_of(
                db, "SELECT generation, kind, standing, n FROM counts ORDER BY 1, 2, 3"
            ),
            "events": rows_of(
                db,
                "SELECT start generation, event, count(*) n FROM spans GROUP BY 1, 2 ORDER BY 1, 2",
            ),
            "meanings": EVENTS,
        }


def facets(digest: Digest) -> dict[str, Any]:
    """What lists can be filtered by."""
    with digest.open() as db:

        def column(sql: str) -> list[Any]:
            return [value for (value,) in db.execute(sql) if value not in (None, "")]

        return {
            "kinds": column("SELECT DISTINCT kind FROM items ORDER BY 1"),
            "standings": list(STANDINGS),
            "families": column("SELECT DISTINCT family FROM items ORDER BY 1"),
            "episode_families": column("SELECT DISTINCT family FROM episodes ORDER BY 1"),
            "phases": column("SELECT DISTINCT phase FROM episodes ORDER BY 1"),
            "generations": column("SELECT n FROM generations ORDER BY 1"),
            "episode_generations": column(
                "SELECT DISTINCT generation FROM episodes WHERE generation IS NOT NULL ORDER BY 1"
            ),
        }


def points(digest: Digest) -> dict[str, Any]:
    """Every item's point, in columns; an item's number is its place in them.

    ``x`` and ``y`` are thousandths, None where an item is not placed yet.
    """
    with digest.open() as db:
        rows = db.execute(
            "SELECT no, kind, family, born, CAST(round(x * 1000) AS INTEGER), "
            "CAST(round(y * 1000) AS INTEGER) FROM items ORDER BY no"
        ).fetchall()
        basis = db.execute("SELECT value FROM meta WHERE key = 'basis_embedder'").fetchone()
    kinds = sorted({row[1] or "" for row in rows})
    families = sorted({row[2] or "" for row in rows})
    kind_of = {name: i for i, name in enumerate(kinds)}
    family_of = {name: i for i, name in enumerate(families)}
    return {
        "kinds": kinds,
        "families": families,
        "embedder": basis[0] if basis else "",
        "kind": [kind_of[row[1] or ""] for row in rows],
        "family": [family_of[row[2] or ""] for row in rows],
        "born": [row[3] for row in rows],
        "x": [row[4] for row in rows],
        "y": [row[5] for row in rows],
    }


def deltas(digest: Digest, since: int = -1) -> str:
    """What each generation after ``since`` changed, as JSON that was made when it ended.

    A list of objects: ``generation``, and in columns ``items`` (numbers), ``standings`` (the
    place in `STANDINGS` + 1, 0 for an item that is not known) and ``utilities``.
    """
    with digest.open() as db:
        found = db.execute(
            "SELECT body FROM deltas WHERE generation > ? ORDER BY generation", (since,)
        )
        return f"[{','.join(body for (body,) in found)}]"


def items(digest: Digest, asked: Items) -> dict[str, Any]:
    """A page of the items as of a generation, and how many there are."""
    where, values = (
        ["s.start <= ?", "s.stop > ?", "s.standing != ?"],
        [asked.generation, asked.generation, GONE],
    )
    columns = {"i.kind": asked.kind, "s.standing": asked.standing, "i.family": asked.family}
    for column, value in columns.items():
        if value:
            where.append(f"{column} = ?")
            values.append(value)
    with digest.open() as db:
        if asked.text:
            where.append("i.no IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(_holding(digest, db, asked.text)))
        source = (
            "FROM items i CROSS JOIN spans s ON s.item = i.no JOIN changes c ON c.no = s.change "
        )
        source += f"WHERE {' AND '.join(where)}"
        if asked.family or asked.text:
            total = db.execute(f"SELECT count(*) {source}", values).fetchone()[0]
        else:
            total = db.execute(
                "SELECT coalesce(sum(n), 0) FROM counts WHERE generation = ? "
                "AND ? IN ('', kind) AND ? IN ('', standing)",
                (asked.generation, asked.kind, asked.standing),
            ).fetchone()[0]
        rows = rows_of(
            db,
            "SELECT i.no - 1 no, i.id, i.seq, i.kind, i.family, i.born, i.trust, i.made, "
            f"s.standing, s.start, c.uses measured, c.utility, c.low, c.high {source} "
            f"ORDER BY {_SORTS.get(asked.sort, _SORTS['newest'])} LIMIT ? OFFSET ?",
            [*values, asked.limit, asked.offset],
        )
        _count_uses(db, rows, asked.generation)
    return {"total": total, "rows": _told(digest, rows)}


def changes(digest: Digest, asked: Changes) -> Rows:
    """A page of a generation's memory diff: the items to which something happened.

    What was made from other items comes with those, as ``parents``.
    """
    with digest.open() as db:
        rows = rows_of(
            db,
            "SELECT i.no - 1 no, i.id, i.seq, i.kind, i.family, i.born, s.standing, s.event, "
            "s.start, c.generation changed, c.reason, c.because, c.uses measured, c.utility, "
            "c.low, c.high FROM spans s "
            "JOIN items i ON i.no = s.item JOIN changes c ON c.no = s.change "
            "WHERE s.start = ? AND s.event = ? ORDER BY s.item LIMIT ? OFFSET ?",
            (asked.generation, asked.event, asked.limit, asked.offset),
        )
        _count_uses(db, rows, asked.generation)
        for row in rows:
            explain(row)
            row["parents"] = rows_of(
                db,
                "SELECT i.id, i.seq, i.kind FROM parents JOIN items i ON i.no = parent "
                "WHERE child = ?",
                (row["no"] + 1,),
            )
    for row in rows:
        _told(digest, row["parents"])
    return _told(digest, rows)


def explain(row: dict[str, Any]) -> None:
    """Give a span's row the reason and the episodes of its change, if that is what began it.

    Otherwise nothing was changed about the item, but other weights read it.
    """
    row["because"] = json.loads(row["because"])
    if row.pop("changed") < row["start"]:
        row["reason"], row["because"] = EVENTS[row["event"]], []


def label(digest: Digest, number: int) -> dict[str, Any]:
    """One point of the map: its item's id and the beginning of its text."""
    with digest.open() as db:
        rows = rows_of(
            db, "SELECT id, seq, kind, family, born FROM items WHERE no = ?", (number + 1,)
        )
    return _told(digest, rows)[0] if rows else {}


def episodes(digest: Digest, asked: Episodes) -> dict[str, Any]:
    """A page of episodes, how many there are, and how many of those succeeded."""
    where, values = [OUTCOMES[asked.outcome]], list[Any]()
    columns = {
        "e.phase": asked.phase, "e.split": asked.split, "e.family": asked.family,
        "t.id": asked.task,
    }  # fmt: skip
    for column, value in columns.items():
        if value:
            where.append(f"{column} = ?")
            values.append(value)
    if asked.generation == "final":
        where.append("e.generation IS NULL")
    elif asked.generation:
        where.append("e.generation = ?")
        values.append(int(asked.generation))
    if asked.text:
        within = ("t.prompt", "e.slot", "e.family")
        where.append("(" + " OR ".join(f"{c} LIKE ? ESCAPE '\\'" for c in within) + ")")
        values += [_pattern(asked.text)] * len(within)
    if asked.item:
        where.append(
            "e.no IN (SELECT episode FROM uses WHERE item = (SELECT no FROM items WHERE id = ?))"
        )
        values.append(asked.item)
    condition = f"WHERE {' AND '.join(where)}"
    joined = "FROM episodes e"
    if asked.text or asked.task:
        joined += " JOIN tasks t ON t.no = e.task"
    with digest.open() as db:
        total, won = db.execute(
            f"SELECT count(*), coalesce(sum(e.success), 0) {joined} {condition}",
            values,
        ).fetchone()
        rows = rows_of(
            db,
            f"{_EPISODE} {condition} "
            f"ORDER BY {_EPISODE_SORTS.get(asked.sort, _EPISODE_SORTS['newest'])} "
            "LIMIT ? OFFSET ?",
            [*values, asked.limit, asked.offset],
        )
    return {"total": total, "won": won, "rows": rows}


def episode_rows(db: sqlite3.Connection, slots: list[str]) -> Rows:
    """The episodes of some slots, in that order, as in a list; those not known are left out."""
    found = {
        row["slot"]: row
        for row in rows_of(
            db,
            f"{_EPISODE} WHERE e.slot IN (SELECT value FROM json_each(?))",  # noqa: S608
            (json.dumps(slots),),
        )
    }
    return [found[slot] for slot in slots if slot in found]


def _count_uses(db: sqlite3.Connection, rows: Rows, generation: int) -> None:
    """Add to each item's row in how many episodes it stood until then, and how many were won."""
    counted = {
        item: (uses, wins)
        for item, uses, wins in db.execute(
            "SELECT u.item, count(*), sum(e.success) FROM uses u "
            "JOIN episodes e ON e.no = u.episode "
            "WHERE u.item IN (SELECT value FROM json_each(?)) AND e.generation <= ? GROUP BY 1",
            (json.dumps([row["no"] + 1 for row in rows]), generation),
        )
    }
    for row in rows:
        row["uses"], row["wins"] = counted.get(row["no"] + 1, (0, 0))


def _holding(digest: Digest, db: sqlite3.Connection, text: str) -> list[int]:
    """Numbers of the items whose id begins with a text, or whose text or key holds it."""
    # Most bodies are told apart without being taken to pieces.
    coarse = _pattern(json.dumps(text, ensure_ascii=False)[1:-1])
    with closing(sqlite.connect(digest.ledger, read_only=True)) as source:
        seqs = source.execute(
            "SELECT seq FROM records WHERE kind = 'MemoryItem' AND body LIKE ? ESCAPE '\\' "
            "AND (json_extract(body, '$.text') LIKE ? ESCAPE '\\' "
            "OR json_extract(body, '$.key') LIKE ? ESCAPE '\\') ORDER BY seq DESC LIMIT ?",
            (coarse, _pattern(text), _pattern(text), _FOUND),
        ).fetchall()
    wanted = json.dumps([seq for (seq,) in seqs])
    named = db.execute(
        "SELECT no FROM items WHERE seq IN (SELECT value FROM json_each(?)) "
        "OR id LIKE ? ESCAPE '\\'",
        (wanted, _pattern(text)[1:]),
    )
    return [no for (no,) in named]


def _pattern(text: str) -> str:
    for special in ("\\", "%", "_"):
        text = text.replace(special, "\\" + special)
    return f"%{text}%"


def _told(digest: Digest, rows: Rows) -> Rows:
    """The rows with the beginning of their items' texts, None where it was erased."""
    bodies = read_bodies(digest.ledger, [row["seq"] for row in rows if row["seq"] is not None])
    for row in rows:
        body = bodies.get(row.pop("seq"))
        row["text"] = None if body is None else str(body.get("text", ""))[:_CUT]
    return rows


def rows_of(db: sqlite3.Connection, sql: str, values: Any = ()) -> Rows:
    cursor = db.execute(sql, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]
