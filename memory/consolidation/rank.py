"""Which items are worth more than others, and saying what an item is worth."""

from __future__ import annotations

from collections.abc import Iterable

from memory.consolidation.draft import Draft
from memory.records import MemoryItem, Status, Trust, Worth

_PRIOR = 4.0  # uses' worth of the mean item's success that each item is credited with


def ranked(draft: Draft, items: Iterable[MemoryItem]) -> list[MemoryItem]:
    """The most worth first: by utility, then by share of wins, then by votes, then the oldest.

    An item without a paired task is taken for a mean one, so that what is new neither pushes
    out what is proved nor is pushed out by what is proved useless. The share of wins is shrunk
    to the mean as well: one failure says little.
    """
    items = list(items)
    worths = [draft.worth(item.id) for item in items]
    measured = [worth.utility for worth in worths if worth.pairs]
    typical = round(sum(measured) / len(measured), 4) if measured else 0.0
    uses = sum(worth.uses for worth in worths)
    rate = sum(worth.wins for worth in worths) / uses if uses else 0.5

    def key(item: MemoryItem) -> tuple[float, float, int, int, bool, str]:
        worth = draft.worth(item.id)
        share = (worth.wins + _PRIOR * rate) / (worth.uses + _PRIOR)
        utility = worth.utility if worth.pairs else typical
        new = item.id not in draft.start
        return -utility, -round(share, 6), -worth.votes, item.born, new, item.id

    return sorted(items, key=key)


def foremost(draft: Draft, items: Iterable[MemoryItem]) -> list[MemoryItem]:
    """Which of items that say the same should stay: the trusted, the active, the most worth."""
    trust = list(Trust)
    return sorted(
        ranked(draft, items),
        key=lambda item: (
            trust.index(item.trust),
            draft.state[item.id].status is not Status.ACTIVE,
        ),
    )


def interval(worth: Worth) -> str:
    """Utility with its interval, as in ``−0.02 [−0.11, 0.06]``."""
    numbers = f"{worth.utility:.2f} [{worth.low:.2f}, {worth.high:.2f}]"
    return numbers.replace("-0.00", "0.00").replace("-", "−")


def counted(n: int, what: str) -> str:
    """``1 paired task``, ``2 paired tasks``."""
    return f"{n} {what}" + ("" if n == 1 else "s")


def told(worth: Worth) -> str:
    """What an item has been worth, in a few words with numbers."""
    if worth.pairs:
        return f"utility {interval(worth)} in {counted(worth.pairs, 'paired task')}"
    if worth.uses:
        return f"{worth.wins} of {counted(worth.uses, 'use')} succeeded"
    return "never used"
