"""What the pages of a whole run, of one item, one episode, one generation show."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from memory import history
from memory.inspector.digest import Digest
from memory.inspector.queries import Changes, changes, episode_rows, explain, rows_of
from memory.inspector.spans import EVENTS
from memory.kinds import KINDS
from memory.ledger import Ledger
from memory.records import Generation, MemoryItem, Trajectory

_MANY = 200


def overview(ledger: Ledger, summary: Path | None = None) -> dict[str, Any]:
    """All generations, and the run's summary where there is one."""
    told: Any = {}
    if summary is not None and summary.is_file():
        try:
            told = json.loads(summary.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            told = {}  # it is being replaced, or damaged: the ledger is the truth
    keep = ("suite", "model", "date", "machine", "test", "differences", "unsafe")
    return {
        "generations": [_dump(generation) for _, generation in ledger.all(Generation)],
        "summary": {key: told[key] for key in keep if isinstance(told, dict) and key in told},
    }


def item(digest: Digest, ledger: Ledger, id_: str) -> dict[str, Any] | None:
    """One item: what it says, where it comes from, what became of it; None if it is unknown.

    Args:
        id_: its id, or the number that it has on the map.
    """
    with digest.open() as db:
        on_map = int(id_) + 1 if id_.isdecimal() and len(id_) < 16 else 0
        known = db.execute(
            "SELECT no, id, seq, kind, family, born FROM items WHERE no = ? OR id = ?",
            (on_map, id_),
        ).fetchone()
        if known is None:
            return None
        number, id_, seq, kind, family, born = known
        record = ledger.get(MemoryItem, id_) if seq is not None else None
        spans = rows_of(
            db,
            "SELECT s.start, s.stop, s.standing, s.event, c.generation changed, c.reason, "
            "c.because, c.uses, c.wins, c.pairs, c.utility, c.low, c.high, c.votes, "
            "c.absorbed_by FROM spans s JOIN changes c ON c.no = s.change WHERE s.item = ? "
            "ORDER BY s.start",
            (number,),
        )
        for span in spans:
            explain(span)
            span["absorbed_by"] = json.loads(span["absorbed_by"])
        used = rows_of(
            db,
            "SELECT coalesce(e.generation, -1) generation, count(*) uses, sum(e.success) wins "
            "FROM uses u JOIN episodes e ON e.no = u.episode WHERE u.item = ? "
            "GROUP BY 1 ORDER BY 1",
            (number,),
        )
        children = [
            id_
            for (id_,) in db.execute(
                "SELECT id FROM parents JOIN items ON no = child WHERE parent = ? LIMIT ?",
                (number, _MANY),
            )
        ]
        sources = list(record.sources[:_MANY]) if record else []
        adapters = rows_of(
            db,
            "SELECT version, count(*) episodes FROM trained WHERE slot IN "
            "(SELECT slot FROM sources WHERE item = ?) GROUP BY 1 ORDER BY 1",
            (number,),
        )
        from_episodes = episode_rows(db, sources)
        generations = [n for (n,) in db.execute("SELECT n FROM generations ORDER BY n")]
    parents = list(record.parents) if record else []
    return {
        "no": number - 1,
        "id": id_,
        "kind": kind or "",
        "family": family or "",
        "born": born,
        "item": _dump(record) if record else None,
        "says": KINDS[record.kind].says if record else "",
        "spans": spans,
        "used": used,
        "generations": generations,
        "sources": from_episodes,
        "parents": _relatives(digest, ledger, parents),
        "children": _relatives(digest, ledger, children),
        "adapters": adapters,
    }


def episode(digest: Digest, ledger: Ledger, slot: str) -> dict[str, Any] | None:
    """One episode with all it saw and did; None if it is unknown. Token ids are only counted."""
    trajectory = ledger.get(Trajectory, slot)
    if trajectory is None:
        return None
    told = trajectory.model_dump(mode="json", exclude={"steps"})
    told["steps"] = [
        {
            **step.model_dump(
                mode="json", exclude={"token_ids", "loss_mask", "logprobs", "choices"}
            ),
            "read": len(step.token_ids) - sum(step.loss_mask),
            "written": sum(step.loss_mask),
            "logprob": sum(step.logprobs) / len(step.logprobs) if step.logprobs else None,
            "choices": list(step.choices[:_MANY]),
        }
        for step in trajectory.steps
    ]
    looks = history.looks(ledger, trajectory)
    told["looks"] = [{**_dump(look), "id": id_} for id_, look in looks]
    shown = {c.item for _, look in looks for c in look.candidates}
    wanted = [*dict.fromkeys([*trajectory.recalled, *sorted(shown)])][:_MANY]
    with digest.open() as db:
        row = episode_rows(db, [slot])
        made = rows_of(
            db,
            "SELECT id, kind, family, born FROM sources JOIN items ON no = item WHERE slot = ?",
            (slot,),
        )
        trained = [v for (v,) in db.execute("SELECT version FROM trained WHERE slot = ?", (slot,))]
        around = {
            name: found[0] if found else None
            for name, sql in (
                ("before", "SELECT slot FROM episodes WHERE no < {} ORDER BY no DESC LIMIT 1"),
                ("after", "SELECT slot FROM episodes WHERE no > {} ORDER BY no LIMIT 1"),
            )
            for found in [
                db.execute(
                    sql.format("(SELECT no FROM episodes WHERE slot = ?)"), (slot,)
                ).fetchone()
            ]
        }
    return {
        **told,
        "generation": row[0]["generation"] if row else None,
        "items": {relative["id"]: relative for relative in _relatives(digest, ledger, wanted)},
        "made": made,
        "trained": trained,
        **around,
    }


def generation(digest: Digest, ledger: Ledger, n: int) -> dict[str, Any] | None:
    """One generation: its decision, its families beside its parent's, its memory diff."""
    records = {record.n: record for _, record in ledger.all(Generation)}
    if n not in records:
        return None
    record = records[n]
    parent = records.get(record.parent) if record.parent != n else None
    with digest.open() as db:
        events = Counter(
            dict(db.execute("SELECT event, count(*) FROM spans WHERE start = ? GROUP BY 1", (n,)))
        )
        played = rows_of(
            db,
            "SELECT phase, count(*) episodes, sum(success) won, sum(tokens) tokens, "
            "sum(failure IS NOT NULL) broken FROM episodes WHERE generation = ? "
            "GROUP BY 1 ORDER BY min(no)",
            (n,),
        )
        families = rows_of(
            db,
            "SELECT family, count(*) episodes, sum(success) won FROM episodes "
            "WHERE generation = ? AND phase = 'acquire' GROUP BY 1 ORDER BY 1",
            (n,),
        )
        (sources,) = db.execute(
            "SELECT count(*) FROM trained WHERE version = ?", (record.weights,)
        ).fetchone()
    return {
        "generation": _dump(record),
        "trained_on": sources,
        "parent": _dump(parent) if parent else None,
        "events": [
            {
                "event": event,
                "n": events[event],
                "means": means,
                "rows": changes(digest, Changes(generation=n, event=event, limit=8)),
            }
            for event, means in EVENTS.items()
            if events[event]
        ],
        "played": played,
        "practised": families,
    }


def _relatives(digest: Digest, ledger: Ledger, ids: list[str]) -> list[dict[str, Any]]:
    with digest.open() as db:
        found = db.execute(
            "SELECT id FROM items WHERE seq IS NULL AND id IN (SELECT value FROM json_each(?))",
            (json.dumps(ids),),
        )
        erased = {id_ for (id_,) in found}
    relatives = [(id_, ledger.get(MemoryItem, id_)) for id_ in ids]
    return [
        {
            "id": id_,
            "kind": relative.kind.value if relative else "",
            "family": relative.family if relative else "",
            "born": relative.born if relative else None,
            "made": relative.made if relative else "",
            "text": relative.text if relative and id_ not in erased else None,
        }
        for id_, relative in relatives
    ]


def _dump(record: Any) -> dict[str, Any]:
    return {"id": record.id, **record.model_dump(mode="json")}
