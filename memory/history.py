"""The memory at any snapshot, what changed between two, and what comes from what.

A snapshot (`MemorySnapshot`) is stored under its id as the difference from its parent; an
item (`MemoryItem`) is stored under its id. "" is the empty memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple
from weakref import WeakKeyDictionary

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
    Trajectory,
    standing,
)

State = dict[str, MemoryChange]

ERASED = "erased"  # the reason of an item that is gone, and what stands for its text
_KEPT = 64  # states per ledger: who goes through generations finds the one before

_lock = threading.Lock()
_folded: WeakKeyDictionary[Ledger, OrderedDict[str, State]] = WeakKeyDictionary()


def state(ledger: Ledger, snapshot_id: str, *, as_it_was: bool = False) -> State:
    """Item id → its latest change, as of a snapshot, in the order in which items came.

    Args:
        ledger: holds the snapshot.
        snapshot_id: its id, "" for the empty memory.
        as_it_was: whether an item that was erased since is told of as it was; else it is shown
            as retired.

    Raises:
        LedgerError: the snapshot or one of its ancestors is not in the ledger.
    """
    folded = _fold(ledger, snapshot_id)
    if as_it_was:
        return dict(folded)
    gone = ledger.erased(MemoryItem)
    return {i: _without(c) if i in gone else c for i, c in folded.items()}


def _fold(ledger: Ledger, snapshot_id: str) -> State:
    """The state without regard to erasure; from the nearest ancestor that is still known."""
    with _lock:
        known = _folded.setdefault(ledger, OrderedDict())
    snapshots: list[MemorySnapshot] = []
    wanted, folded = snapshot_id, dict[str, MemoryChange]()
    while wanted:
        with _lock:
            found = known.get(wanted)
        if found is not None:
            folded = dict(found)
            break
        snapshot = ledger.get(MemorySnapshot, wanted)
        if snapshot is None:
            raise LedgerError(f"{ledger.path}: no memory snapshot {wanted!r}")
        snapshots.append(snapshot)
        wanted = snapshot.parent
    for each in reversed(snapshots):
        folded.update((change.item, change) for change in each.changes)
    with _lock:
        known[snapshot_id] = folded
        known.move_to_end(snapshot_id)
        while len(known) > _KEPT:
            known.popitem(last=False)
    return folded


def forget(ledger: Ledger) -> None:
    """Drop the states that were kept: what they were folded from has been erased."""
    with _lock:
        _folded.pop(ledger, None)


def _without(change: MemoryChange) -> MemoryChange:
    return change.model_copy(update={"status": Status.RETIRED, "absorbed_by": (), "reason": ERASED})


def items(
    ledger: Ledger, snapshot_id: str, statuses: Collection[Status] = (Status.ACTIVE,)
) -> list[MemoryItem]:
    """The items that have one of ``statuses`` in a snapshot, in the order in which they came.

    Raises:
        LedgerError: a snapshot or an item is not in the ledger.
    """
    found: list[MemoryItem] = []
    for change in state(ledger, snapshot_id).values():
        if change.status in statuses:
            item = ledger.get(MemoryItem, change.item)
            if item is None:
                raise LedgerError(f"{ledger.path}: no memory item {change.item!r}")
            found.append(item)
    return found


def diff(ledger: Ledger, a: str, b: str) -> list[MemoryChange]:
    """What turns snapshot ``a`` into snapshot ``b`` (neither need descend from the other).

    An item that is active in ``a`` and unknown in ``b`` is listed as retired.
    """
    before, after = state(ledger, a), state(ledger, b)
    changes = [change for item, change in after.items() if not _same(before.get(item), change)]
    gone = [
        _unknown(change)
        for item, change in before.items()
        if item not in after and change.status is Status.ACTIVE
    ]
    return changes + gone


def _same(a: MemoryChange | None, b: MemoryChange) -> bool:
    return a is not None and (a.status, set(a.absorbed_by)) == (b.status, set(b.absorbed_by))


def _unknown(change: MemoryChange) -> MemoryChange:
    """An item that a snapshot does not know, as one that is retired in it."""
    return MemoryChange(
        item=change.item,
        status=Status.RETIRED,
        generation=change.generation,
        worth=change.worth,
        reason="this memory is an earlier one, or another branch, and does not know it",
    )


# --- between two generations, for a reader ---

GROUPS = (
    "added",
    "imported",
    "merged",
    "revised",
    "split",
    "promoted",
    "back",
    "absorbed",
    "demoted",
    "retired",
    "quarantined",
    "replaced",
)
"""What can happen to an item, in the order in which a reader wants it. ``replaced``: retired,
because something was made of it that came at the same time."""


class Difference(NamedTuple):
    """One item that stands otherwise in a later generation.

    Args:
        group: one of `GROUPS`.
        item: as it is stored; what was erased says so.
        before, after: how its agents saw it ("" before it was known).
        change: its change as of the later one.
    """

    group: str
    item: MemoryItem
    before: str
    after: str
    change: MemoryChange


def compare(ledger: Ledger, a: Generation, b: Generation) -> list[Difference]:
    """What stands otherwise in generation ``b`` than in ``a``, each as its own agent saw it.

    Only the items that differ are read. Worth alone is no difference.
    """
    before, after = state(ledger, a.memory), state(ledger, b.memory)
    found: list[Difference] = []
    for id_ in [*after, *(i for i in before if i not in after)]:
        was, change = before.get(id_), after.get(id_)
        change = change or _unknown(before[id_])
        old = standing(was, a.weights) if was else ""
        new = standing(change, b.weights)
        if old == new or (not old and change.status in (Status.RETIRED, Status.QUARANTINED)):
            continue
        item = ledger.get(MemoryItem, id_)
        if item is not None:
            group = _group(old, new, item.made)
            found.append(Difference(group, item, old, new, change))
    parents = {p for d in found if not d.before for p in d.item.parents}
    replaced = [
        d._replace(group="replaced") if d.group == "retired" and d.item.id in parents else d
        for d in found
    ]
    return sorted(replaced, key=lambda d: GROUPS.index(d.group))


def _group(old: str, new: str, made: str) -> str:
    if not old:
        return made
    if new == "active":
        return "promoted" if old == "shadow" else "back"
    return "demoted" if new == "shadow" else new


# --- what an episode saw ---


def looks(ledger: Ledger, episode: Trajectory) -> list[tuple[str, Recollection]]:
    """An episode's looks into memory, (id, record) in order, as its agent saw them.

    What was chosen is ``withheld`` where it stood in none of its prompts: it was left out by
    chance, or the episode ended before.
    """
    seen = set(episode.recalled)

    def told(candidate: Candidate) -> Candidate:
        unseen = candidate.verdict == "shown" and candidate.item not in seen
        return candidate.model_copy(update={"verdict": "withheld"}) if unseen else candidate

    found = ledger.get_many(Recollection, episode.recollections)
    return [
        (id_, look.model_copy(update={"candidates": tuple(map(told, look.candidates))}))
        for id_ in episode.recollections
        if (look := found.get(id_))
    ]


# --- lineage ---


class Lineage(NamedTuple):
    """Which items were made from which: id → ids."""

    parents: dict[str, tuple[str, ...]]
    children: dict[str, list[str]]

    def ancestors(self, id_: str) -> list[str]:
        """What an item was made from, and that in turn; nearest first."""
        return _reach(self.parents, id_)

    def descendants(self, id_: str) -> list[str]:
        """What was made from an item, and from that in turn; nearest first."""
        return _reach(self.children, id_)


def lineage(items: Iterable[MemoryItem]) -> Lineage:
    """The lineage of these items; read once for many questions."""
    parents: dict[str, tuple[str, ...]] = {}
    children: dict[str, list[str]] = {}
    for item in items:
        parents[item.id] = item.parents
        for parent in item.parents:
            children.setdefault(parent, []).append(item.id)
    return Lineage(parents, children)


def _reach(edges: Mapping[str, Iterable[str]], start: str) -> list[str]:
    reached: dict[str, None] = {}
    edge = [start]
    while edge:
        edge = [i for known in edge for i in edges.get(known, ()) if i not in reached]
        edge = [i for i in dict.fromkeys(edge) if i != start]
        reached.update(dict.fromkeys(edge))
    return list(reached)


def void(ledger: Ledger) -> dict[int, str]:
    """Generations from whose episodes nothing may be learnt, and why."""
    notes = ledger.all(Note, "void/")
    return {int(key.removeprefix("void/")): str(note.data["why"]) for key, note in notes}


def adapters(ledger: Ledger, slots: Collection[str]) -> list[str]:
    """Versions of the weights that were trained on one of these episodes, oldest first."""
    wanted = set(slots)
    return [
        key.removeprefix("adapter/")
        for key, note in ledger.all(Note, "adapter/")
        if wanted.intersection(map(str, _listed(note.data.get("sources"))))
    ]


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []
