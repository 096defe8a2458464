"""Provenance: what is written is trusted as far as where it comes from.

Content cannot be filtered: what a stranger wants said can be said innocently, and filters let
most of it through (arXiv 2605.08442). So influence is decided by origin. What comes from a task
that the suite does not vouch for (`Run.vouched`) is untrusted, whoever graded it: it is on trial
until vouched tasks were solved with it. Such tasks prove nothing, edit nothing and train nothing
either, or a stranger could bring witnesses along (MINJA, arXiv 2503.03704, asks only for tasks).
"""

from __future__ import annotations

from collections.abc import Callable

from agent.evolution.update.writers.base import Written
from memory.records import MemoryItem, Trust


def believed(written: Written, judged: Callable[[str], bool]) -> Written:
    """What was written from tries that a judge called right: no environment has verified it.

    Args:
        written: what was written.
        judged: whether a judge, or the method that made it, said how good the try of a slot was.
    """
    items = [
        MemoryItem.model_validate(item.model_dump() | {"trust": Trust.JUDGED})
        if item.trust is Trust.VERIFIED and any(map(judged, item.sources))
        else item
        for item in written.items
    ]
    return Written(items, written.edits)


def hearsay(written: Written) -> list[MemoryItem]:
    """What was written from strangers' episodes: items that nobody trusts, and no edits."""
    return [
        MemoryItem.model_validate(item.model_dump() | {"trust": Trust.UNTRUSTED})
        for item in written.items
    ]
