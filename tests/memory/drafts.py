"""Drafts of memory for the tests of its evolution."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from memory.consolidation.draft import Draft
from memory.embed import HashEmbedder
from memory.records import Kind, MemoryChange, MemoryItem, Status, Trajectory, Worth
from tests import episodes


def make(text: str, key: str = "", task: str = "task", **fields: object) -> MemoryItem:
    values: dict[str, object] = {
        "kind": Kind.EXEMPLAR,
        "text": text,
        "key": key or text,
        "sources": (f"0/acquire/{task}/0",),
        "tasks": (task,),
        "family": "gcd",
        "born": 1,
    }
    return MemoryItem.model_validate(values | fields)


def draft_of(
    items: Iterable[MemoryItem] = (),
    *,
    new: Iterable[MemoryItem] = (),
    status: Mapping[str, Status] | Status = Status.ACTIVE,
    worths: Mapping[str, Worth] | None = None,
    generation: int = 3,
) -> Draft:
    """A draft that holds items, and the vectors of those that want in."""
    items, worths = list(items), worths or {}
    both = [*items, *new]
    embedded = HashEmbedder().embed([item.key for item in both]) if both else ()
    vectors = {item.id: vector for item, vector in zip(both, embedded, strict=True)}
    state = {
        item.id: MemoryChange(
            item=item.id,
            status=status if isinstance(status, Status) else status.get(item.id, Status.ACTIVE),
            generation=item.born,
            worth=worths.get(item.id, Worth()),
        )
        for item in items
    }
    return Draft.begin(generation, {item.id: item for item in items}, state, vectors)


def summary(draft: Draft) -> dict[str, str]:
    """Item → status of all that changed; every change has a line of reason."""
    changes = draft.changes()
    assert all(change.reason and "\n" not in change.reason for change in changes)
    assert len({change.item for change in changes}) == len(changes)
    assert all(change.generation == draft.generation for change in changes)
    return {change.item: change.status.value for change in changes}


def reason(draft: Draft, item: MemoryItem) -> str:
    return draft.state[item.id].reason


def episode(
    task: str,
    sample: int,
    success: bool,
    *recalled: str,
    generation: int = 1,
    **fields: object,
) -> Trajectory:
    slot = f"{generation}/acquire/{task}/{sample}"
    return episodes.episode(
        slot, success=success, recalled=recalled, **{"family": "f", "temperature": 0.5} | fields
    )
