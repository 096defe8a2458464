"""Edits that somebody who reads the items asks for: ExpeL's operations, by id.

ExpeL (arXiv 2308.10144) lets the policy ADD, EDIT, AGREE with and REMOVE insights: one begins
with 2 votes (`admit`), AGREE and EDIT add one, REMOVE takes one, and at 0 it is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydantic import JsonValue

from memory.consolidation.draft import LIVING, Draft
from memory.consolidation.rank import counted
from memory.kinds import status_at_birth
from memory.records import MemoryItem, Status, Trust, Worth, least


def upvote(draft: Draft, item: str, because: Iterable[str] = (), votes: int = 1) -> Draft:
    """AGREE: a vote more for an item.

    Args:
        draft: the memory.
        item: its id.
        because: slots of the episodes that were read.
        votes: how many.

    Raises:
        ValueError: no such living item.
    """
    return _vote(draft, item, votes, because)


def downvote(draft: Draft, item: str, because: Iterable[str] = (), votes: int = 1) -> Draft:
    """REMOVE: a vote less for an item, which is retired when it has none left."""
    return _vote(draft, item, -votes, because)


def revise(
    draft: Draft,
    item: str,
    text: str,
    *,
    sources: Iterable[str] = (),
    tasks: Iterable[str] = (),
    content: Mapping[str, JsonValue] | None = None,
    trust: Trust = Trust.JUDGED,
    status: Status | None = None,
) -> Draft:
    """EDIT: an item with another text takes this one's place, with one vote more.

    What it was found by stays its key. It is trusted as the less of the old item and the
    reviser, and has to prove itself: what the old text earned says nothing about the new one.

    Args:
        draft: the memory.
        item: id of the old item.
        text: the new text; if it is the old one this is an `upvote`.
        sources, tasks: slots and tasks of the episodes that led to it, beside the old ones.
        content: the new parts; None keeps the old ones.
        trust: of who revises it; `Trust.VERIFIED` for code that passed in the sandbox.
        status: of the new item; None takes `status_at_birth`.

    Raises:
        ValueError: no such living item.
    """
    old = _living(draft, item)
    if text == old.text:
        return upvote(draft, item, sources)
    trust = least((old.trust, trust))
    new = MemoryItem(
        kind=old.kind,
        text=text,
        key=old.key,
        content=dict(old.content if content is None else content),
        sources=tuple(dict.fromkeys((*old.sources, *sources))),
        tasks=tuple(dict.fromkeys((*old.tasks, *tasks))),
        family=old.family,
        trust=trust,
        born=draft.generation,
        made="revised",
        parents=(old.id,),
    )
    votes = draft.worth(item).votes + 1
    birth = draft.birth(
        new,
        status or status_at_birth(new.kind, trust),
        f"revised from {old.id}, {counted(votes, 'vote')}",
        Worth(votes=votes),
    )
    gone = draft.change(
        item, f"revised into {new.id}", status=Status.RETIRED, because=birth.because
    )
    return draft.apply([birth, gone], [new], {new.id: draft.vectors[item]})


def combine(
    draft: Draft,
    items: Sequence[str],
    text: str,
    *,
    content: Mapping[str, JsonValue] | None = None,
    status: Status | None = None,
) -> Draft:
    """One item takes the place of several that somebody has put into one text.

    Kind, family and key are those of the first, sources and tasks those of all, and it is
    trusted as the least of them.

    Args:
        draft: the memory.
        items: their ids.
        text: the new text.
        content: its parts; None keeps the first one's.
        status: of the new item; None takes `status_at_birth`.

    Raises:
        ValueError: one of them is no living item.
    """
    every = [_living(draft, item) for item in items]
    first, trust = every[0], least(item.trust for item in every)
    new = MemoryItem(
        kind=first.kind,
        text=text,
        key=first.key,
        content=dict(first.content if content is None else content),
        sources=tuple(dict.fromkeys(slot for item in every for slot in item.sources)),
        tasks=tuple(dict.fromkeys(task for item in every for task in item.tasks)),
        family=first.family,
        trust=trust,
        born=draft.generation,
        made="merged",
        parents=tuple(items),
    )
    birth = draft.birth(
        new,
        status or status_at_birth(new.kind, trust),
        f"merged from {', '.join(items)}",
        Worth(votes=max(draft.worth(item).votes for item in items)),
    )
    gone = [
        draft.change(i, f"merged into {new.id}", status=Status.RETIRED, because=birth.because)
        for i in items
    ]
    return draft.apply([birth, *gone], [new], {new.id: draft.vectors[first.id]})


def remove(draft: Draft, item: str, reason: str, because: Iterable[str] = ()) -> Draft:
    """Retire an item at once, whatever its votes.

    Raises:
        ValueError: no such living item.
    """
    _living(draft, item)
    return draft.apply([draft.change(item, reason, status=Status.RETIRED, because=because)])


def _vote(draft: Draft, item: str, votes: int, because: Iterable[str]) -> Draft:
    _living(draft, item)
    left = max(0, draft.worth(item).votes + votes)
    reason = f"{votes:+d} by who read it, {counted(left, 'vote')}".replace("-", "−")
    change = draft.change(
        item,
        reason if left else f"voted out: {reason}",
        status=None if left else Status.RETIRED,
        worth=draft.worth(item).model_copy(update={"votes": left}),
        because=because,
    )
    return draft.apply([change])


def _living(draft: Draft, item: str) -> MemoryItem:
    if item not in draft.state or draft.state[item].status not in LIVING:
        raise ValueError(f"no memory item {item} that could be changed")
    return draft.items[item]
