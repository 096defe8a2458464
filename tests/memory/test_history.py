"""The memory at any snapshot, and what changed between two."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from memory import history
from memory.ledger import Ledger, LedgerError
from memory.records import (
    Candidate,
    Generation,
    MemoryChange,
    MemoryItem,
    MemorySnapshot,
    Note,
    Recollection,
    Status,
)
from tests.memory.drafts import episode


def snapshot(ledger: Ledger, parent: str, generation: int, *changes: MemoryChange) -> str:
    record = MemorySnapshot(parent=parent, generation=generation, changes=changes)
    ledger.append(record.id, record)
    return record.id


def active(item: str, *absorbed_by: str, reason: str = "new", **more: object) -> MemoryChange:
    values = {"item": item, "absorbed_by": absorbed_by, "reason": reason, "generation": 1}
    return MemoryChange.model_validate({**values, "status": Status.ACTIVE, **more})


def retired(item: str, reason: str = "unused") -> MemoryChange:
    return MemoryChange(item=item, status=Status.RETIRED, generation=1, reason=reason)


def generation(n: int, memory: str, weights: str = "base") -> Generation:
    return Generation(
        n=n, parent=0, weights=weights, memory=memory, decision="kept", cell="incumbent", reason=""
    )


def test_state_is_the_latest_change_of_each_item(ledger: Ledger) -> None:
    first = snapshot(ledger, "", 1, active("a"), active("b"))
    second = snapshot(ledger, first, 2, active("c"), retired("a"))
    third = snapshot(ledger, second, 3, active("b", "w1"), active("a", reason="back"))
    assert history.state(ledger, "") == {}
    assert list(history.state(ledger, first).values()) == [active("a"), active("b")]
    assert history.state(ledger, second) == {"a": retired("a"), "b": active("b"), "c": active("c")}
    assert history.state(ledger, third) == {
        "a": active("a", reason="back"),
        "b": active("b", "w1"),
        "c": active("c"),
    }
    assert list(history.state(ledger, third)) == ["a", "b", "c"]


def test_unknown_snapshot_or_ancestor_is_named(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="no memory snapshot 'nope'"):
        history.state(ledger, "nope")
    orphan = snapshot(ledger, "lost", 2)
    with pytest.raises(LedgerError, match="no memory snapshot 'lost'"):
        history.state(ledger, orphan)


def test_items_by_status(ledger: Ledger, make_item: Callable[..., MemoryItem]) -> None:
    a, b, c = (make_item(text) for text in "abc")
    ledger.append_many([(item.id, item) for item in (c, a, b)])
    first = snapshot(ledger, "", 1, active(a.id), active(b.id), active(c.id))
    second = snapshot(ledger, first, 2, retired(b.id))
    assert history.items(ledger, "") == []
    assert history.items(ledger, first) == [a, b, c]
    assert history.items(ledger, second) == [a, c]
    assert history.items(ledger, second, (Status.RETIRED,)) == [b]
    assert history.items(ledger, second, tuple(Status)) == [a, b, c]
    third = snapshot(ledger, second, 3, active("gone"))
    with pytest.raises(LedgerError, match="no memory item 'gone'"):
        history.items(ledger, third)


def test_diff(ledger: Ledger) -> None:
    first = snapshot(ledger, "", 1, active("a"), active("b"))
    second = snapshot(ledger, first, 2, active("c"), retired("a"), active("b", reason="again"))
    third = snapshot(ledger, second, 3, active("b", "w1"))
    assert history.diff(ledger, "", first) == [active("a"), active("b")]
    assert history.diff(ledger, first, second) == [retired("a"), active("c")]
    assert history.diff(ledger, first, third) == [retired("a"), active("b", "w1"), active("c")]
    assert history.diff(ledger, third, third) == []
    back = history.diff(ledger, third, first)  # a rollback
    assert [(change.item, change.status) for change in back] == [
        ("a", Status.ACTIVE),
        ("b", Status.ACTIVE),
        ("c", Status.RETIRED),
    ]
    gone = history.diff(ledger, third, "")
    assert [(c.item, c.status, c.reason) for c in gone] == [
        (
            item,
            Status.RETIRED,
            "this memory is an earlier one, or another branch, and does not know it",
        )
        for item in ("b", "c")
    ]


def test_branches_do_not_see_each_other(ledger: Ledger) -> None:
    root = snapshot(ledger, "", 1, active("a"))
    left = snapshot(ledger, root, 2, active("l"))
    right = snapshot(ledger, root, 2, active("r"))
    assert history.state(ledger, left).keys() == {"a", "l"}
    changes = history.diff(ledger, left, right)
    assert [(c.item, c.status) for c in changes] == [("r", Status.ACTIVE), ("l", Status.RETIRED)]


def test_states_are_folded_from_the_nearest_that_is_known(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, every = "", []
    for n in range(1, 301):
        last = snapshot(ledger, last, n, active(f"i{n}"))
        every.append(last)
    assert len(history.state(ledger, last)) == 300
    asked: list[str] = []
    get = ledger.get
    monkeypatch.setattr(ledger, "get", lambda model, key: asked.append(key) or get(model, key))
    newer = snapshot(ledger, last, 301, retired("i7"))
    known = history.state(ledger, newer)
    assert known["i7"].status is Status.RETIRED and asked == [newer]
    known.clear()  # the caller's own
    assert len(history.state(ledger, newer)) == 300 and asked == [newer]
    for id_ in every:  # in order, each costs one record, however many there are
        asked.clear()
        history.state(ledger, id_)
        assert len(asked) <= 1
    history.forget(ledger)
    asked.clear()
    history.state(ledger, newer)
    assert len(asked) == 301


def test_compare_tells_what_happened(ledger: Ledger, make_item: Callable[..., MemoryItem]) -> None:
    a, b, c, d, e, f = (make_item(text) for text in "abcdef")
    merged = make_item("a and b", made="merged", parents=(a.id, b.id))
    ledger.append_many([(i.id, i) for i in (a, b, c, d, e, f, merged)])
    first = snapshot(
        ledger,
        "",
        1,
        *(active(i.id) for i in (a, b, c, d)),
        active(e.id, status=Status.SHADOW),
    )
    second = snapshot(
        ledger,
        first,
        2,
        retired(a.id),
        retired(b.id),
        active(c.id, "w1"),
        active(d.id, status=Status.QUARANTINED),
        active(e.id),
        active(f.id),
        active(merged.id),
    )
    g1, g2 = generation(1, first), generation(2, second, "w1")
    told = [(d.group, d.item.text, d.before, d.after) for d in history.compare(ledger, g1, g2)]
    assert told == [
        ("added", "f", "", "active"),
        ("merged", "a and b", "", "active"),
        ("promoted", "e", "shadow", "active"),
        ("absorbed", "c", "active", "absorbed"),
        ("quarantined", "d", "active", "quarantined"),
        ("replaced", "a", "active", "retired"),
        ("replaced", "b", "active", "retired"),
    ]
    assert history.compare(ledger, g2, g2) == []
    # Other weights alone: what they have not absorbed is back.
    other = history.compare(ledger, g2, generation(3, second, "w2"))
    assert [(d.group, d.item.text) for d in other] == [("back", "c")]
    back = {d.item.text: d.group for d in history.compare(ledger, g2, g1)}
    assert back == {
        "a": "back", "b": "back", "c": "back", "d": "back", "e": "demoted", "f": "retired",
        "a and b": "retired",
    }  # fmt: skip


def test_lineage_and_adapters(ledger: Ledger, make_item: Callable[..., MemoryItem]) -> None:
    a, b = make_item("a"), make_item("b")
    m = make_item("m", parents=(a.id, b.id))
    r = make_item("r", parents=(m.id,))
    family = history.lineage([r, a, b, m])
    assert family.ancestors(r.id) == [m.id, a.id, b.id] and family.ancestors(a.id) == []
    assert family.descendants(a.id) == [m.id, r.id] and family.descendants(r.id) == []
    for name, sources in (("w1", ["1/a"]), ("w2", ["1/b", "1/a"]), ("w3", ["1/c"])):
        ledger.append(f"adapter/{name}", Note(data={"folder": "x", "sources": sources}))
    assert history.adapters(ledger, ["1/a"]) == ["w1", "w2"]
    assert history.adapters(ledger, []) == []


def test_what_was_left_out_of_an_episode_is_not_told_as_shown(ledger: Ledger) -> None:
    numbers = {"similarity": 0.5, "recency": 1.0, "utility": 0.0, "score": 0.5}
    verdicts = {"seen": "shown", "left": "shown", "long": "tokens"}
    candidates = tuple(Candidate(item=i, verdict=v, **numbers) for i, v in verdicts.items())
    look = Recollection(query="q", task="t", memory="m", reader="", candidates=candidates)
    ledger.append(look.id, look)
    played = episode("t", 0, True, "seen", recollections=(look.id, "lost"))
    ((id_, told),) = history.looks(ledger, played)
    assert id_ == look.id and told.query == look.query
    assert {c.item: c.verdict for c in told.candidates} == verdicts | {"left": "withheld"}
