"""Hard budgets: what memory may hold at most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from memory.consolidation.draft import Draft
from memory.consolidation.rank import counted, ranked, told
from memory.frame import shown
from memory.records import Kind, MemoryItem, Status


class Budget(BaseModel):
    """How much is kept; null is no limit.

    Args:
        items: items in all.
        per_family: items of one family.
        tokens: tokens that they take together as they are shown.
        kinds: items of one kind, where it is named.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: int | None = Field(None, ge=0)
    per_family: int | None = Field(None, ge=0)
    tokens: int | None = Field(None, ge=0)
    kinds: dict[Kind, NonNegativeInt] = {}


class FitSettings(BaseModel):
    """Budgets of what is active and of what is on trial.

    They are two, so that trials cannot push out what is proved, nor the reverse.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    active: Budget = Budget(items=96, per_family=12)
    shadow: Budget = Budget(items=48, per_family=6)


def fit(draft: Draft, settings: FitSettings | None, length: Callable[[str], int]) -> Draft:
    """Items beyond a budget are retired, those that are worth least first (see `ranked`).

    Each item is kept if it still fits, best first; one that is too long for the tokens left is
    passed over for shorter ones that are worth less.

    Args:
        draft: the memory.
        settings: the budgets.
        length: of a text, in tokens; asked only where there is a budget of tokens.
    """
    if settings is None:
        return draft
    for status, budget in ((Status.ACTIVE, settings.active), (Status.SHADOW, settings.shadow)):
        draft = _fit(draft, ranked(draft, draft.having(status)), budget, length, status)
    return draft


def _fit(
    draft: Draft,
    best_first: list[MemoryItem],
    budget: Budget,
    length: Callable[[str], int],
    status: Status,
) -> Draft:
    items, tokens = 0, 0
    families: Counter[str] = Counter()
    kinds: Counter[Kind] = Counter()
    changes = []
    for item in best_first:
        size = 0 if budget.tokens is None else length(shown(item))
        over = ""
        if budget.per_family is not None and families[item.family] >= budget.per_family:
            over = f"{counted(budget.per_family, f'{status} item')} in family {item.family}"
        elif item.kind in budget.kinds and kinds[item.kind] >= budget.kinds[item.kind]:
            over = counted(budget.kinds[item.kind], f"{status} {item.kind}")
        elif budget.items is not None and items >= budget.items:
            over = counted(budget.items, f"{status} item")
        elif budget.tokens is not None and tokens + size > budget.tokens:
            over = f"{counted(budget.tokens, 'token')} of {status} items, of which it has {size}"
        if over:
            reason = f"over the budget of {over}: {told(draft.worth(item.id))}"
            changes.append(draft.change(item.id, reason, status=Status.RETIRED))
            continue
        items, tokens = items + 1, tokens + size
        families[item.family] += 1
        kinds[item.kind] += 1
    return draft.apply(changes)
