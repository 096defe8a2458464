"""Forgetting what is not used: MemoryBank's curve."""

from __future__ import annotations

from math import exp

from pydantic import BaseModel, ConfigDict, Field

from memory.consolidation.draft import Draft
from memory.consolidation.rank import counted
from memory.records import MemoryItem, Status, Worth


class ForgetSettings(BaseModel):
    """When an item is forgotten.

    Args:
        threshold: least retention with which it stays. At 0.1 an item that was never used
            stays 2 generations, one that was used once 4, twice 6.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float = Field(0.1, gt=0, lt=1)


def retention(item: MemoryItem, worth: Worth, generation: int) -> float:
    """Ebbinghaus's curve as in MemoryBank (arXiv 2305.10250): R = exp(−t / S).

    The strength S is 1 at birth and grows by 1 at each recall, which also sets the time t back
    to 0. MemoryBank counts days and keeps an item with probability R; here t is in generations,
    and an item is kept while R is large enough, so that a run can be repeated.
    """
    strength = 1 + worth.uses
    age = max(0, generation - max(item.born, worth.used))
    return exp(-age / strength)


def forget(draft: Draft, settings: ForgetSettings | None) -> Draft:
    """Items that were not used for long, given how often they were, are retired."""
    if settings is None:
        return draft
    changes = []
    for item in draft.living:
        worth = draft.worth(item.id)
        kept = retention(item, worth, draft.generation)
        if kept < settings.threshold:
            since = draft.generation - max(item.born, worth.used)
            reason = (
                f"forgotten: retention {kept:.2f} below {settings.threshold}, "
                f"{counted(since, 'generation')} unused after {counted(worth.uses, 'use')}"
            )
            changes.append(draft.change(item.id, reason, status=Status.RETIRED))
    return draft.apply(changes)
