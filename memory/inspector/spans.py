"""How long each item stood how: the memory of every generation, as spans of generations.

A span says that from generation ``start`` until before ``stop`` an item had a standing, by a
change. So the memory of any generation is one question to an index, and what a generation did
is the spans that begin with it, each with an *event*: its name in a diff.
"""

from __future__ import annotations

import json
import sqlite3

OPEN = 1 << 40  # the stop of a span that has not ended
GONE = "gone"  # of an item that a rollback has made unknown
STANDINGS = ("shadow", "active", "absorbed", "retired", "quarantined")
_CODES = {GONE: 0} | {name: i + 1 for i, name in enumerate(STANDINGS)}
EVENTS = {
    "added": "new",
    "merged": "made from several",
    "revised": "a new version of another",
    "split": "a part of another",
    "imported": "from outside",
    "promoted": "trial passed",
    "returned": "the weights no longer do as well without it",
    "readmitted": "taken back",
    "restored": "known again after a rollback",
    "trial": "on trial",
    "updated": "its measured worth changed",
    "absorbed": "the weights do as well without it",
    "rejected": "not taken in",
    "retired": "no longer recalled",
    "quarantined": "did harm, or comes from what did",
    "undone": "unknown again after a rollback",
    "erased": "what it said was erased since",
}
"""Events in the order in which a diff lists them, and what they mean."""


def settle(db: sqlite3.Connection, n: int, weights: str, memory: str) -> None:
    """Record the memory that generation ``n`` left, as its weights see it.

    Args:
        db: the digest, in a transaction; it knows the snapshot and its ancestors.
        n: the generation; those before it are settled.
        weights, memory: version of its weights, id of its snapshot.
    """
    last = db.execute("SELECT weights, memory FROM generations ORDER BY n DESC LIMIT 1").fetchone()
    old_weights, old_memory = last or ("", "")
    before: dict[int, tuple[int, str]] = {
        item: (change, standing)
        for item, change, standing in db.execute(
            "SELECT item, change, standing FROM spans WHERE stop = ?", (OPEN,)
        )
    }
    path: list[str] = []
    reached = memory
    while reached and reached != old_memory:
        path.append(reached)
        parent = db.execute("SELECT parent FROM snapshots WHERE id = ?", (reached,)).fetchone()
        reached = parent[0] if parent else ""
    # The new memory descends from the old one, or everything is told from the beginning.
    after = {i: c for i, (c, s) in before.items() if s != GONE} if reached == old_memory else {}
    for snapshot in reversed(path):
        after.update(
            db.execute("SELECT item, no FROM changes WHERE snapshot = ? ORDER BY no", (snapshot,))
        )
    moved = [
        (item, change) for item, change in after.items() if before.get(item, (0, ""))[0] != change
    ]
    moved += [(item, c) for item, c in after.items() if before.get(item, (0, ""))[1] == GONE]
    if weights != old_weights:
        depends = {no for (no,) in db.execute("SELECT no FROM changes WHERE absorbed_by != '[]'")}
        moved += [(item, change) for item, change in after.items() if change in depends]
    made = dict(db.execute("SELECT no, made FROM items WHERE seq IS NOT NULL")) if moved else {}
    rows: list[tuple[int, int, int, int, str, str]] = []
    utilities: list[float] = []
    for item, change in dict(moved).items():
        status, absorbed_by, utility = db.execute(
            "SELECT status, absorbed_by, utility FROM changes WHERE no = ?", (change,)
        ).fetchone()
        standing = status
        if item not in made:  # erased, so no longer recalled
            standing = "retired"
        elif status == "active" and weights in json.loads(absorbed_by):
            standing = "absorbed"
        known = before.get(item)
        if known != (change, standing):
            event = _event(known and known[1], standing, made.get(item))
            rows.append((item, n, OPEN, change, standing, event))
            utilities.append(round(utility, 3))
    for item, (change, standing) in before.items():
        if item not in after and standing != GONE:
            rows.append((item, n, OPEN, change, GONE, "undone"))
            utilities.append(0.0)
    db.executemany(
        "UPDATE spans SET stop = ? WHERE item = ? AND start = "
        "(SELECT max(start) FROM spans WHERE item = ?)",
        [(n, row[0], row[0]) for row in rows if row[0] in before],
    )
    db.executemany("INSERT OR REPLACE INTO spans VALUES (?, ?, ?, ?, ?, ?)", rows)
    db.execute(
        "INSERT OR REPLACE INTO counts SELECT ?, coalesce(kind, ''), standing, count(*) "
        "FROM spans JOIN items ON no = item WHERE stop = ? AND standing != ? GROUP BY 2, 3",
        (n, OPEN, GONE),
    )
    delta = {
        "generation": n,
        "items": [row[0] - 1 for row in rows],
        "standings": [_CODES[row[4]] for row in rows],
        "utilities": utilities,
    }
    body = json.dumps(delta, separators=(",", ":"))
    db.execute("INSERT OR REPLACE INTO deltas VALUES (?, ?)", (n, body))
    db.execute("INSERT OR REPLACE INTO generations VALUES (?, ?, ?)", (n, weights, memory))


def _event(before: str | None, after: str, made: str | None) -> str:
    if before is None:
        if made is None:
            return "erased"
        return {"retired": "rejected", "quarantined": "quarantined"}.get(after, made)
    if before == after:
        return "updated"
    if before == GONE:
        return "restored"
    if after == "active":
        return {"shadow": "promoted", "absorbed": "returned"}.get(before, "readmitted")
    return "trial" if after == "shadow" else after
