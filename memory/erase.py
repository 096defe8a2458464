"""Erasure: what holds a text, and how all of it forgets.

Erased is what was asked for and what comes from it: an episode's items, an item's
descendants, their episode where they tell of one, what says the same word for word, other
tries of its task that went the same way, and in the episodes that were shown an item what
stood before the policy. A policy may also repeat what it was shown; then those of the words
that nothing else in the run uses give it away, and that episode goes too.

Records stay, without their text: what an episode scored, what an item was worth, and that
both existed, still counts. What weights have learnt cannot be erased; they are named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from memory import history
from memory.kinds import KINDS
from memory.ledger import Ledger, LedgerError
from memory.records import (
    Failure,
    Frame,
    MemoryChange,
    MemoryItem,
    MemorySnapshot,
    Note,
    Recollection,
    Record,
    Step,
    StopReason,
    Trajectory,
)

ERASED = history.ERASED
_WORD = re.compile(r"\w{4,}")
_SHORT = 12  # characters; what is shorter stands in many places


class Extent(NamedTuple):
    """What an erasure touches, by key.

    Args:
        items: memory items.
        episodes: trajectories that lose all they say.
        openings: trajectories that lose what stood before the policy's first turn.
        recollections, notes, snapshots: records about them that hold some of the text.
        adapters: versions of weights trained on the episodes, or on what was said; these cannot be
            made to forget.
        words: words of the text that nothing else in the run uses.
        pieces: lines of the items' texts, and the text that was asked for.
    """

    items: tuple[str, ...] = ()
    episodes: tuple[str, ...] = ()
    openings: tuple[str, ...] = ()
    recollections: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    snapshots: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()
    pieces: frozenset[str] = frozenset()


def extent(
    ledger: Ledger, items: Collection[str] = (), episodes: Collection[str] = (), text: str = ""
) -> Extent:
    """What has to be erased so that these are gone; changes nothing.

    Args:
        ledger: the run's.
        items: ids of memory items.
        episodes: slots of trajectories.
        text: also whatever says this.

    Raises:
        LedgerError: one of them is not in the ledger.
    """
    known = dict(ledger.all(MemoryItem))
    for kind, names in ((MemoryItem, items), (Trajectory, episodes)):
        for name in names:
            if ledger.get(kind, name) is None:
                raise LedgerError(f"{ledger.path}: there is no {kind.__name__} {name!r}")
    asked = {*items, *(i for i, item in known.items() if text and text in _said(item))}
    asked |= {i for i, item in known.items() if any(_repeats(item, known[a]) for a in asked)}
    told = {*episodes}
    for item in (known[i] for i in asked):
        if KINDS[item.kind].unit == "task" or KINDS[item.kind].shown == "code":
            told.update(item.sources)  # it tells what happened there
    if text:
        within = ledger.all(Trajectory, containing=json.dumps(text, ensure_ascii=False)[1:-1])
        told |= {slot for slot, trajectory in within if text in _said(trajectory)}

    shows: dict[str, tuple[set[str], int]] = {}
    for slot, trajectory in ledger.all(Trajectory):
        if trajectory.recalled:
            shows[slot] = (set(trajectory.recalled), len(trajectory.recollections))
        if any(_repeats(trajectory, known[i]) for i in asked):
            told.add(slot)
    made = _made(known, told, asked)
    words, copies = _copies(ledger, known, shows, made, told)
    told |= copies - known.keys()
    made |= _made(known, (), copies & known.keys())
    for key, note in ledger.all(Note, "composed/"):  # put together of what others said
        sources = note.data.get("sources")
        if isinstance(sources, list) and told & set(map(str, sources)):
            told.add(key.partition("/")[2])
    shown = {slot: looks for slot, (recalled, looks) in shows.items() if recalled & made}
    # What was seen at a later look may stand anywhere between the turns.
    told |= {slot for slot, looks in shown.items() if looks > 1}

    pieces = {piece for i in made for piece in _lines(known[i].text)} | ({text} if text else set())

    def holds(record: Record) -> bool:
        said = _said(record)
        return any(p in said for p in pieces) or not words.isdisjoint(_words(said))

    looks = {i for slot in told if (t := ledger.get(Trajectory, slot)) for i in t.recollections}
    notes = tuple(
        key
        for key, note in ledger.all(Note)
        if isinstance(note.data.get("text"), str) and (key.partition("/")[2] in told or holds(note))
    )
    trained = {*told, *notes, *(f"{key}/answer" for key in notes)}  # weights rehearse answers too
    return Extent(
        items=tuple(i for i in known if i in made),
        episodes=tuple(sorted(told)),
        openings=tuple(sorted(shown.keys() - told)),
        recollections=tuple(k for k, r in ledger.all(Recollection) if k in looks or holds(r)),
        notes=notes,
        snapshots=tuple(key for key, snapshot in ledger.all(MemorySnapshot) if holds(snapshot)),
        adapters=tuple(history.adapters(ledger, trained)),
        words=words,
        pieces=frozenset(pieces),
    )


def erase(ledger: Ledger, what: Extent) -> None:
    """Make the ledger forget; all of it or, if anything fails, nothing.

    Raises:
        LedgerError: see `Ledger.erase`.
    """
    parts: list[tuple[type[Record], Collection[str]]] = [
        (MemoryItem, what.items),
        (Trajectory, {*what.episodes, *what.openings}),
        (Recollection, what.recollections),
        (Note, what.notes),
        (MemorySnapshot, what.snapshots),
    ]
    openings = set(what.openings)

    def stand_ins() -> Iterator[tuple[str, Record]]:
        for model, keys in parts:
            for key in keys:
                record = ledger.get(model, key)
                if record is None:
                    continue
                if isinstance(record, Trajectory) and key in openings:
                    yield key, _unopened(record)
                elif isinstance(record, MemorySnapshot):
                    yield key, _unexplained(record, what)
                else:
                    yield key, _silent(record)

    ledger.erase(stand_ins())
    history.forget(ledger)


def lines(ledger: Ledger, what: Extent) -> set[str]:
    """What is to be erased, line by line, for looking into files; short lines are everywhere."""
    records: list[Record | None] = [ledger.get(MemoryItem, key) for key in what.items]
    records += [ledger.get(Trajectory, key) for key in what.episodes]
    return {line for r in records if r is not None for line in _lines(_said(r))}


def _lines(text: str) -> Iterator[str]:
    return (line for line in map(str.strip, text.splitlines()) if len(line) >= _SHORT)


# --- what stands in for a record ---


def _silent(record: Record) -> Record:
    """A record that says nothing any more."""
    if isinstance(record, MemoryItem):
        return record.model_copy(update={"text": ERASED, "key": ERASED, "content": {}})
    if isinstance(record, Trajectory):
        failure = record.failure and Failure(source=record.failure.source, message=ERASED)
        tokens = {"erased_tokens": float(record.produced_tokens)}
        return record.model_copy(
            update={
                "frame": Frame(),
                "prompt": "",
                "steps": (),
                "stop": StopReason.ERASED,
                "failure": failure,
                "metrics": record.metrics | tokens,
            }
        )
    if isinstance(record, Recollection):
        return record.model_copy(update={"query": ERASED})
    assert isinstance(record, Note)
    ids = "ids" in record.data  # an answer's tokens, which say it as well
    return Note(data=_blank(record.data) | ({"ids": []} if ids else {}))


def _unopened(trajectory: Trajectory) -> Trajectory:
    """An episode without what its conversations began with: memory stood there."""

    def bare(step: Step) -> Step:
        ids = step.produced_ids
        return step.model_copy(update={"token_ids": ids, "loss_mask": (1,) * len(ids)})

    steps = enumerate(trajectory.steps)
    opened = (bare(step) if not i or step.anew is not None else step for i, step in steps)
    return trajectory.model_copy(update={"steps": tuple(opened)})


def _unexplained(snapshot: MemorySnapshot, what: Extent) -> MemorySnapshot:
    gone = set(what.items)

    def tells(change: MemoryChange) -> bool:
        why = change.reason
        return (
            change.item in gone
            or any(piece in why for piece in what.pieces)
            or not what.words.isdisjoint(_words(why))
        )

    changes = tuple(
        change.model_copy(update={"reason": ERASED}) if tells(change) else change
        for change in snapshot.changes
    )
    return snapshot.model_copy(update={"changes": changes})


def _blank(value: Any) -> Any:
    """The same JSON without its texts."""
    if isinstance(value, str):
        return ""
    if isinstance(value, list):
        return [_blank(v) for v in value]
    return {k: _blank(v) for k, v in value.items()} if isinstance(value, dict) else value


# --- what comes from what ---


def _made(
    known: Mapping[str, MemoryItem], episodes: Collection[str], items: Collection[str]
) -> set[str]:
    """These items, those made from these episodes, and all that was made from any of them."""
    family, slots = history.lineage(known.values()), set(episodes)
    first = {*items, *(i for i, item in known.items() if not slots.isdisjoint(item.sources))}
    return first.union(*(family.descendants(id_) for id_ in first))


def _copies(
    ledger: Ledger,
    known: Mapping[str, MemoryItem],
    shows: Mapping[str, tuple[set[str], int]],
    made: Collection[str],
    told: Collection[str],
) -> tuple[frozenset[str], set[str]]:
    """Words that only the erased use, and what was influenced by them and uses one as well."""
    items, slots = set(made), set[str]()
    while True:
        reached = {slot for slot, (recalled, _) in shows.items() if recalled & items}
        more = _made(known, reached, items)
        if reached == slots and more == items:
            break
        items, slots = more, reached
    items, slots = items - set(made), slots - set(told)

    def read(slots: Iterable[str]) -> Iterator[tuple[str, Record]]:
        return ((slot, t) for slot in slots if (t := ledger.get(Trajectory, slot)) is not None)

    words: set[str] = set()
    for _, record in (*read(told), *((i, known[i]) for i in made)):
        words |= _words(_said(record))
    for slot, trajectory in ledger.all(Trajectory):
        if slot not in told and slot not in slots:
            words -= _words(_said(trajectory))
    for id_, item in known.items():
        if id_ not in made and id_ not in items:
            words -= _words(_said(item))
    suspects = (*read(slots), *((i, known[i]) for i in items))
    copies = {key for key, record in suspects if not words.isdisjoint(_words(_said(record)))}
    return frozenset(words), copies


def _repeats(record: MemoryItem | Trajectory, item: MemoryItem) -> bool:
    """Whether something says all that an item says: as it stands, or, in another try of its
    task, line by line.
    """
    said = _said(record)
    if len(item.text) >= _SHORT and item.text in said:
        return True
    return (
        isinstance(record, Trajectory)
        and record.task in item.tasks
        and set(item.text.splitlines()).issubset(said.splitlines())
    )


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def _said(record: Record) -> str:
    """All that a record says in words, a line each."""
    if isinstance(record, MemoryItem):
        return "\n".join((record.text, record.key, *_texts(record.content)))
    if isinstance(record, Trajectory):
        failure = record.failure.message if record.failure else ""
        parts = [part for step in record.steps for part in _step(step)]
        return "\n".join((record.prompt, failure, *parts))
    if isinstance(record, MemorySnapshot):
        return "\n".join(change.reason for change in record.changes)
    return "\n".join(_texts(record.query if isinstance(record, Recollection) else _data(record)))


def _step(step: Step) -> Iterator[str]:
    yield from (step.text, step.observation, step.error or "", *step.choices)
    yield from _texts(step.action)


def _data(record: Record) -> Any:
    return record.data if isinstance(record, Note) else ""


def _texts(value: Any) -> Iterator[str]:
    """The texts in JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
