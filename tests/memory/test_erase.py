"""Erasing takes all that holds a text, and no more."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from memory import erase as erasing
from memory import history
from memory.ledger import Ledger, LedgerError
from memory.records import (
    Kind,
    MemoryChange,
    MemoryItem,
    MemorySnapshot,
    Note,
    Recollection,
    Status,
    Step,
    StopReason,
    Trajectory,
)
from tests import episodes
from tests.episodes import step

Make = Callable[..., MemoryItem]


def episode(
    slot: str, answer: str, *recalled: MemoryItem, looks: tuple[str, ...] = ()
) -> Trajectory:
    return episodes.episode(
        slot, step(answer), prompt="Solve the puzzle.", recalled=tuple(i.id for i in recalled),
        recollections=looks, metrics={"own": 2.0},
    )  # fmt: skip


def store(ledger: Ledger, *records: MemoryItem | Trajectory) -> None:
    ledger.append_many([(r.slot if isinstance(r, Trajectory) else r.id, r) for r in records])


@pytest.fixture
def told(ledger: Ledger, make_item: Make) -> dict[str, MemoryItem | Trajectory]:
    """An episode, its exemplar and what came of both; others that have nothing to do with it."""
    source = episode("1/acquire/t1/0", "print('zanzibar')")
    other = episode("1/acquire/t2/0", "print('usual words')")
    mine = make_item("print('zanzibar')", task="t1", sources=(source.slot,))
    theirs = make_item("print('usual words')", task="t2", sources=(other.slot,))
    merged = make_item(
        "the usual", kind=Kind.INSIGHT, made="merged", sources=(), parents=(mine.id, theirs.id)
    )
    look = Recollection(query="zanzibar puzzle", task="t1", memory="", reader="base")
    seen = episode("2/acquire/t3/0", "print('usual words')", mine, theirs)
    seen_again = episode("2/acquire/t4/0", "print('usual words')", mine, looks=("one", "two"))
    copied = episode("2/acquire/t5/0", "print('zanzibar', 5)", mine)
    from_copy = make_item("print('zanzibar', 5)", task="t5", sources=(copied.slot,))
    innocent = episode("2/acquire/t6/0", "print('usual words')", theirs)
    every = {
        "source": source, "other": other, "mine": mine, "theirs": theirs, "merged": merged,
        "seen": seen, "seen_again": seen_again, "copied": copied, "from_copy": from_copy,
        "innocent": innocent,
    }  # fmt: skip
    store(ledger, *every.values())
    ledger.append(look.id, look)
    ledger.append(f"reflection/{source.slot}", Note(data={"text": "I said it", "tokens": 3}))
    ledger.append("reflection/1/acquire/t2/0", Note(data={"text": "I said usual", "tokens": 3}))
    ledger.append("adapter/w1", Note(data={"folder": "x", "sources": [source.slot]}))
    ledger.append("adapter/w2", Note(data={"folder": "y", "sources": [other.slot]}))
    changes = (
        MemoryChange(item=mine.id, status=Status.ACTIVE, generation=1, reason="says zanzibar"),
        MemoryChange(item=theirs.id, status=Status.ACTIVE, generation=1, reason="new"),
    )
    snapshot = MemorySnapshot(generation=1, changes=changes)
    ledger.append(snapshot.id, snapshot)
    return every


def names(told: dict[str, MemoryItem | Trajectory], what: tuple[str, ...]) -> set[str]:
    keys = {r.slot if isinstance(r, Trajectory) else r.id: name for name, r in told.items()}
    return {keys[key] for key in what}


@pytest.mark.parametrize("by", ["item", "episode"])
def test_extent(ledger: Ledger, told: dict[str, MemoryItem | Trajectory], by: str) -> None:
    asked = ([told["mine"].id], []) if by == "item" else ([], ["1/acquire/t1/0"])
    what = erasing.extent(ledger, *asked)
    assert names(told, what.items) == {"mine", "merged", "from_copy"}
    # What repeats it goes whole; what only saw it loses what it saw, if that can be told apart.
    assert names(told, what.episodes) == {"source", "copied", "seen_again"}
    assert names(told, what.openings) == {"seen"}
    assert what.words == {"zanzibar"}
    assert what.notes == ("reflection/1/acquire/t1/0",)
    assert what.adapters == ("w1",)
    assert len(what.recollections) == len(what.snapshots) == 1


def test_erasing(ledger: Ledger, told: dict[str, MemoryItem | Trajectory]) -> None:
    (snapshot_id,) = ledger.keys(MemorySnapshot)
    assert history.state(ledger, snapshot_id)[told["mine"].id].status is Status.ACTIVE
    erasing.erase(ledger, erasing.extent(ledger, [told["mine"].id]))
    assert ledger.verify() == []
    for file in ledger.path.parent.iterdir():
        assert b"zanzibar" not in file.read_bytes(), file
    gone = ledger.get(Trajectory, "1/acquire/t1/0")
    assert gone is not None and gone.steps == () and gone.prompt == ""
    # What it scored and cost still counts.
    assert gone.success and gone.produced_tokens == 2 and gone.stop is StopReason.ERASED
    assert gone.failure is None and gone.metrics["own"] == 2
    seen = ledger.get(Trajectory, "2/acquire/t3/0")
    assert seen is not None and seen.steps[0].token_ids == (1, 2) and seen.prompt
    assert seen.steps[0].produced_ids == (1, 2) and seen.produced_tokens == 2
    assert ledger.get(Trajectory, "2/acquire/t6/0") == told["innocent"]
    item = ledger.get(MemoryItem, told["mine"].id)
    assert item is not None and (item.text, item.key, item.content) == ("erased", "erased", {})
    assert item.id == told["mine"].id and item.sources == ("1/acquire/t1/0",)
    note = ledger.get(Note, "reflection/1/acquire/t1/0")
    assert note is not None and note.data == {"text": "", "tokens": 3}
    state = history.state(ledger, snapshot_id)
    assert state[item.id].status is Status.RETIRED and state[item.id].reason == "erased"
    assert state[told["theirs"].id].status is Status.ACTIVE
    assert [i.id for i in history.items(ledger, snapshot_id)] == [told["theirs"].id]
    again = erasing.extent(ledger, [item.id])  # nothing is left to be found
    assert again.words == frozenset() or "zanzibar" not in again.words
    erasing.erase(ledger, again)
    assert ledger.verify() == []


def test_an_answer_that_was_rehearsed(
    ledger: Ledger, told: dict[str, MemoryItem | Trajectory]
) -> None:
    """Its token ids say it as well, and weights have learnt it."""
    for n, task in enumerate(("A zanzibar puzzle.", "Usual words.")):
        key = f"said/2/synthesised/{n}"
        ledger.append(key, Note(data={"text": task, "tokens": 3}))
        ledger.append(f"{key}/answer", Note(data={"text": "zanzibar", "tokens": 2, "ids": [7, 8]}))
        ledger.append(f"adapter/w{3 + n}", Note(data={"folder": "z", "sources": [f"{key}/answer"]}))
    what = erasing.extent(ledger, text="A zanzibar puzzle.")
    assert what.adapters == ("w3",)
    what = erasing.extent(ledger, [told["mine"].id])
    assert {"w3", "w4"} <= set(what.adapters)
    erasing.erase(ledger, what)
    note = ledger.get(Note, "said/2/synthesised/1/answer")
    assert note is not None and note.data == {"text": "", "tokens": 2, "ids": []}


def test_by_text(ledger: Ledger, told: dict[str, MemoryItem | Trajectory]) -> None:
    quoted = episode("3/acquire/t9/0", 'print("usual \\"words\\" \nüber")')
    store(ledger, quoted)
    what = erasing.extent(ledger, text='\\"words\\" \nüber')
    assert what.episodes == (quoted.slot,) and what.items == ()
    what = erasing.extent(ledger, text="zanzibar")
    assert names(told | {"q": quoted}, what.episodes) >= {"source", "copied"}
    assert names(told, what.items) >= {"mine", "from_copy", "merged"}
    erasing.erase(ledger, what)
    assert b"zanzibar" not in ledger.path.read_bytes()
    nothing = erasing.Extent(pieces=frozenset({"never said"}))
    assert erasing.extent(ledger, text="never said") == nothing


def test_words_that_all_use_give_nothing_away(ledger: Ledger, make_item: Make) -> None:
    """Without words of its own, an item takes its episode with it and no other."""
    source = episode("1/acquire/t1/0", "print('usual words')")
    text = "Solve the puzzle.\nprint('usual words')"
    item = make_item(text, task="t1", sources=(source.slot,))
    saw = episode("2/acquire/t2/0", "print('usual words')", item)
    store(ledger, source, item, saw, episode("1/acquire/t3/0", "print('usual words')"))
    what = erasing.extent(ledger, [item.id])
    assert (what.episodes, what.openings) == ((source.slot,), (saw.slot,))


def test_unknown_names(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="no MemoryItem 'nope'"):
        erasing.extent(ledger, ["nope"])
    with pytest.raises(LedgerError, match="no Trajectory '1/x'"):
        erasing.extent(ledger, [], ["1/x"])


def test_other_tries_that_went_the_same_way(ledger: Ledger, make_item: Make) -> None:
    source = episode("1/acquire/t1/0", "print('usual words')")
    item = make_item("Solve the puzzle.\nprint('usual words')", task="t1", sources=(source.slot,))
    twin = episode("1/acquire/t1/1", "print('usual words')")
    other = episode("1/acquire/t1/2", "print('other words')")
    elsewhere = episode("1/acquire/t2/0", "print('usual words')")
    store(ledger, source, item, twin, other, elsewhere)
    assert erasing.extent(ledger, [item.id]).episodes == (source.slot, twin.slot)


def test_what_says_the_same_word_for_word(ledger: Ledger, make_item: Make) -> None:
    """Even where every word of it is used elsewhere."""
    rule = make_item("print the usual words", kind=Kind.INSIGHT, sources=())
    twin = make_item("print the usual words", kind=Kind.INSIGHT, sources=(), born=2)
    quotes = episode("2/acquire/t2/0", "# print the usual words")
    store(ledger, rule, twin, quotes, episode("1/acquire/t1/0", "words usual the print"))
    ledger.append("rules/1", Note(data={"text": "1. print the usual words", "tokens": 5}))
    what = erasing.extent(ledger, [rule.id])
    assert what.items == (rule.id, twin.id) and what.episodes == (quotes.slot,)
    assert what.notes == ("rules/1",) and what.words == frozenset()
    erasing.erase(ledger, what)
    assert b"print the usual words" not in ledger.path.read_bytes()


def test_each_beginning_of_a_conversation_is_emptied() -> None:
    """Memory stood before the first turn, and again where the conversation began anew."""
    steps = tuple(
        Step(token_ids=(7, 8, 9), loss_mask=(0, 0, 1), logprobs=(-1.0,), policy="base", text="a",
             action={}, observation="b", anew=anew)
        for anew in (None, None, 1, None)
    )  # fmt: skip
    t = episode("1/acquire/t/0", "a").model_copy(update={"steps": steps})
    emptied = [step.token_ids for step in erasing._unopened(t).steps]
    assert emptied == [(9,), (7, 8, 9), (9,), (7, 8, 9)]
