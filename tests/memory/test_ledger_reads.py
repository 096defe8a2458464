"""Many records in one query."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import pytest

from memory.ledger import Ledger, LedgerError
from memory.records import MemoryItem, Note

MakeItem = Callable[..., MemoryItem]


@pytest.fixture
def items(ledger: Ledger, make_item: MakeItem) -> dict[str, MemoryItem]:
    made = [
        make_item(f"text {i} ü\u2028'\"", trust="judged" if i % 2 else "verified") for i in range(9)
    ]
    ledger.append_many([(item.id, item) for item in made])
    ledger.append("note", Note(data={"kind": "none"}))
    ledger.append(made[0].id, Note(data={}))  # the same key, another kind
    return {item.id: item for item in made}


def test_records_come_in_the_order_asked_for(ledger: Ledger, items: dict[str, MemoryItem]) -> None:
    wanted = [*sorted(items, reverse=True)[:5], "unknown", "note"]
    found = ledger.get_many(MemoryItem, iter([*wanted, wanted[0]]))
    assert list(found) == wanted[:5]
    assert found == {key: items[key] for key in wanted[:5]}
    assert ledger.get_many(MemoryItem, []) == {}
    assert ledger.get_many(MemoryItem, items) == items
    assert ledger.get_many(Note, ["note", *items]).keys() == {"note", next(iter(items))}


def test_it_is_one_query(ledger: Ledger, items: dict[str, MemoryItem]) -> None:
    assert ledger._db is not None
    statements: list[str] = []
    ledger._db.set_trace_callback(statements.append)
    ledger.get_many(MemoryItem, items)
    ledger.fields(MemoryItem, items, ("kind",))
    ledger._db.set_trace_callback(None)
    assert len(statements) == 2
    plan = ledger._db.execute(f"EXPLAIN QUERY PLAN {statements[0]}").fetchall()
    assert "SEARCH records USING INDEX" in str(plan)  # cost does not grow with the ledger


def test_what_was_changed_from_outside_is_refused(
    ledger: Ledger, items: dict[str, MemoryItem]
) -> None:
    with sqlite3.connect(ledger.path) as db:
        db.execute("DROP TRIGGER records_no_update")
        db.execute("UPDATE records SET body = replace(body, 'text 3', 'text 4')")
    changed = next(key for key, item in items.items() if item.text.startswith("text 3"))
    with pytest.raises(LedgerError, match=f"'{changed}' does not match its content hash"):
        ledger.get_many(MemoryItem, items)
    assert len(ledger.get_many(MemoryItem, items.keys() - {changed})) == 8


def test_fields(ledger: Ledger, items: dict[str, MemoryItem]) -> None:
    found = ledger.fields(MemoryItem, [*items, "note", "unknown"], ("text", "trust", "born"))
    assert found == {k: (i.text, i.trust.value, i.born) for k, i in items.items()}
    assert ledger.fields(MemoryItem, [], ("text",)) == {}
