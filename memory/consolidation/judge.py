"""Verdicts on single items by what was measured: promote, retire, quarantine."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pydantic import BaseModel, ConfigDict, Field

from memory.consolidation.draft import Draft
from memory.consolidation.rank import counted, interval, told
from memory.credit import SOLVED, Evidence
from memory.records import MemoryChange, MemoryItem, Status, Trust


class PromoteSettings(BaseModel):
    """When a trial ends well.

    Args:
        successes: tasks that were solved with the item, none of them one that it was made
            from, until it becomes active.
        untrusted: the same for untrusted items.
        margin: what the item adds to all else that was shown (`Evidence.beside`) must not be
            below minus this; of untrusted items not even at the low end of its interval, so
            that what only rides along stays where it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    successes: int = Field(2, ge=1, le=SOLVED)
    untrusted: int = Field(4, ge=1, le=SOLVED)
    margin: float = Field(0.05, ge=0)


class RetireSettings(BaseModel):
    """When an item that does not help leaves.

    Args:
        pairs, uses: so many paired tasks or uses are enough to judge; then an item leaves
            whose interval does not reach above 0, or with which nothing was ever solved.
        many: after so many paired tasks it leaves if its utility is at most …
        least: … this. (Shrinking to a mean above 0 keeps a utility from reaching 0.)
        trial: a shadow leaves that was not promoted in so many generations; null waits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: int = Field(6, ge=1)
    uses: int = Field(30, ge=1)
    many: int = Field(16, ge=1)
    least: float = 0.02
    trial: int | None = Field(6, ge=1)


class QuarantineSettings(BaseModel):
    """When an item does harm.

    Args:
        pairs: so many paired tasks are enough to judge.
        margin: it is quarantined if even the high end of its interval is below minus this.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: int = Field(4, ge=1)
    margin: float = Field(0.05, ge=0)


def promote(draft: Draft, settings: PromoteSettings | None, evidence: Evidence) -> Draft:
    """Shadows become active after enough independent verified successes."""
    if settings is None:
        return draft
    changes = []
    for item in draft.having(Status.SHADOW):
        worth = draft.worth(item.id)
        solved = set(worth.solved) - set(item.tasks)
        added = evidence.beside.get(item.id, worth)
        doubted = item.trust is Trust.UNTRUSTED
        needed = settings.untrusted if doubted else settings.successes
        least = added.low if doubted else added.utility if added.pairs else 0.0
        if len(solved) >= needed and least >= -settings.margin:
            reason = f"{counted(len(solved), 'other task')} solved with it; {told(worth)}"
            slots = evidence.won.get(item.id, ())
            changes.append(draft.change(item.id, reason, status=Status.ACTIVE, because=slots))
    return draft.apply(changes)


def retire(draft: Draft, settings: RetireSettings | None, evidence: Evidence) -> Draft:
    """Items leave that had their chance and did not help."""
    if settings is None:
        return draft
    changes = []
    for item in draft.living:
        worth, reason = draft.worth(item.id), ""
        trial = draft.generation - _on_trial_since(draft, item)
        enough = worth.pairs >= settings.pairs or worth.uses >= settings.uses
        idle = worth.pairs >= settings.many and worth.utility <= settings.least
        if idle or (enough and worth.pairs and worth.high <= 0):
            reason = f"no help in {counted(worth.pairs, 'paired task')}: {interval(worth)}"
        elif enough and worth.uses and not worth.wins:
            reason = f"no success in {counted(worth.uses, 'use')}"
        elif (
            settings.trial is not None
            and draft.state[item.id].status is Status.SHADOW
            and trial >= settings.trial
        ):
            reason = f"on trial for {counted(trial, 'generation')} and not promoted: {told(worth)}"
        if reason:
            slots = evidence.lost.get(item.id, ())
            changes.append(draft.change(item.id, reason, status=Status.RETIRED, because=slots))
    return draft.apply(changes)


def quarantine(draft: Draft, settings: QuarantineSettings | None) -> Draft:
    """Items that do harm are set aside, and with them what comes from the same episodes.

    ``because`` of a quarantined item names the episodes that are under suspicion from then on
    (see `suspect`). Suspicion spreads from items to what was made from them, and from episodes
    to items, but not on to those items' other episodes: else one bad episode would empty a
    memory of rules that many episodes gave.
    """
    if settings is None:
        return draft
    changes = []
    for item in draft.living:
        worth = draft.worth(item.id)
        if worth.pairs >= settings.pairs and worth.high < -settings.margin:
            reason = f"harm in {counted(worth.pairs, 'paired task')}: {interval(worth)}"
            changes.append(
                draft.change(item.id, reason, status=Status.QUARANTINED, because=item.sources)
            )
    draft = draft.apply(changes)
    while True:  # until no item is left that comes from one that has just been set aside
        doubt = suspect(draft)
        found = [(item, tainted_by(draft, item, doubt)) for item in draft.living]
        changes = [_set_aside(draft, i, cause, doubt) for i, cause in found if cause]
        if not changes:
            return draft
        draft = draft.apply(changes)


def suspect(draft: Draft) -> dict[str, Trust]:
    """Episodes under suspicion, by slot: those that quarantined items name, with the item's
    trust. What is more trusted than that is not doubted with it: a rule that the policy read
    into a verified episode may be bad without the episode being so.
    """
    doubt: dict[str, Trust] = {}
    order = list(Trust)
    for item in draft.having(Status.QUARANTINED):
        for slot in draft.state[item.id].because or item.sources:
            doubt[slot] = min(doubt.get(slot, item.trust), item.trust, key=order.index)
    return doubt


def tainted_by(draft: Draft, item: MemoryItem, doubt: Mapping[str, Trust]) -> str:
    """The quarantined parent or the episode under suspicion that an item comes from, or ""."""
    order = list(Trust)
    for parent in item.parents:
        if parent in draft.state and draft.state[parent].status is Status.QUARANTINED:
            return parent
    for slot in item.sources:
        if slot in doubt and order.index(item.trust) >= order.index(doubt[slot]):
            return slot
    return ""


def _set_aside(draft: Draft, item: MemoryItem, cause: str, doubt: Collection[str]) -> MemoryChange:
    slots = [slot for slot in item.sources if slot in doubt]
    if not slots:  # none of its own: what its parent was set aside for
        slots = [*(draft.state[cause].because or draft.items[cause].sources)]
    reason = f"made from {cause}, which is quarantined or under suspicion"
    return draft.change(item.id, reason, status=Status.QUARANTINED, because=slots)


def _on_trial_since(draft: Draft, item: MemoryItem) -> int:
    return max(item.born, draft.state[item.id].generation)
