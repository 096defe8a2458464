"""New items enter: as what their kind and trust allow, and only if they say something new."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from memory.consolidation.draft import Draft
from memory.consolidation.judge import suspect, tainted_by
from memory.consolidation.likeness import Likeness, twins
from memory.consolidation.rank import foremost
from memory.credit import generation_of
from memory.embed import Vectors
from memory.kinds import KINDS, status_at_birth
from memory.records import Kind, MemoryItem, Status, Trust, Worth, least
from memory.texts import normal


class AdmitSettings(BaseModel):
    """How new items enter.

    Args:
        trial: words begin as shadows (`status_at_birth`); false makes everything active at
            once, as most published methods do.
        distinct: when a new item says what a present one says, and so is evidence for that
            one instead; null takes every item (but the same words of the same episodes once).
        votes: votes that an insight begins with (ExpeL, arXiv 2308.10144).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial: bool = True
    distinct: Likeness | None = Likeness()
    votes: int = Field(2, ge=1)


def admit(draft: Draft, settings: AdmitSettings | None, new: Sequence[MemoryItem]) -> Draft:
    """Take new items in; the draft holds their keys' vectors already.

    - Nothing is taken that was quarantined, says what a quarantined item says, has a
      quarantined parent, or comes from an episode under suspicion (see `judge.suspect`).
    - What a present item says already is evidence for it, if an episode of this generation
      says it and the new one is trusted at all: that becomes the reason of a change of the
      present item, which gains a vote if it is about many tasks. If the new one is more trusted,
      it enters (and `merge` decides).
    - What a retired item said may come again, on trial, if it was made from a task that the
      retired one was not made from; the same episode told again is no new evidence.
    - What is made from items is trusted as the least of them; an unknown parent not at all.

    Items are taken in an order of their own, so theirs does not matter.
    """
    if settings is None:
        return draft
    told = {_utterance(item) for item in draft.items.values()}
    fresh = {
        item.id: item for item in new if item.id not in draft.state and _utterance(item) not in told
    }
    vectors: dict[str, Vectors] = {}
    candidates: list[MemoryItem] = []
    trust = list(Trust)
    doubt = suspect(draft)
    for item in sorted(fresh.values(), key=lambda i: (trust.index(i.trust), i.born, i.id)):
        lineage = _lineage(item, fresh)
        if not KINDS[item.kind].stored or any(tainted_by(draft, i, doubt) for i in lineage):
            continue
        if item.id not in draft.vectors:
            raise ValueError(f"memory item {item.id}: the vector of its key is missing")
        trusted = _trusted(draft, item, lineage)
        vectors[trusted.id] = draft.vectors[item.id]
        candidates.append(trusted)
    again: dict[str, list[MemoryItem]] = {}
    back: set[str] = set()
    if settings.distinct is not None:
        candidates = _unlike(draft, settings.distinct, candidates, vectors, Status.QUARANTINED)[0]
        candidates, back = _unlike(draft, settings.distinct, candidates, vectors, Status.RETIRED)
        candidates, again = _unsaid(draft, settings.distinct, candidates, vectors)
    changes = []
    for item in candidates:
        status = status_at_birth(item.kind, item.trust) if settings.trial else Status.ACTIVE
        reason = f"new {item.kind} of {item.family or 'any family'}"
        if item.id in back and settings.trial:
            status, reason = Status.SHADOW, f"{reason}, retired before, on trial with new evidence"
        elif status is Status.SHADOW:
            reason += ", on trial"
        votes = settings.votes if item.kind is Kind.INSIGHT else 0
        changes.append(draft.birth(item, status, reason, Worth(votes=votes)))
    draft = draft.apply(changes, candidates, {i.id: vectors[i.id] for i in candidates})
    return draft.apply(
        draft.change(
            present,
            f"told again by {len(tellers)} new",
            worth=_agreed(draft, present, len(tellers)),
            because=dict.fromkeys(slot for item in tellers for slot in item.sources),
        )
        for present, tellers in sorted(again.items())
    )


def _utterance(item: MemoryItem) -> tuple[object, ...]:
    """What was said by which episodes: proposed again in each generation, it is one item."""
    return item.kind, item.family, item.key, item.text, item.sources


def _lineage(item: MemoryItem, fresh: Mapping[str, MemoryItem]) -> list[MemoryItem]:
    """The item and all new items that it was made from."""
    found, ahead = {item.id: item}, [item]
    while ahead:
        for parent in ahead.pop().parents:
            if parent in fresh and parent not in found:
                found[parent] = fresh[parent]
                ahead.append(fresh[parent])
    return list(found.values())


def _trusted(draft: Draft, item: MemoryItem, lineage: Sequence[MemoryItem]) -> MemoryItem:
    """The item with no more trust than what it was made from has."""
    trusts = [each.trust for each in lineage]
    new = {each.id for each in lineage}
    for parent in dict.fromkeys(p for each in lineage for p in each.parents if p not in new):
        known = draft.items.get(parent)
        trusts.append(known.trust if known else Trust.UNTRUSTED)
    trust = least(trusts)
    if trust is item.trust:
        return item
    return MemoryItem.model_validate(item.model_dump() | {"trust": trust})


def _unlike(
    draft: Draft,
    likeness: Likeness,
    candidates: Sequence[MemoryItem],
    vectors: dict[str, Vectors],
    status: Status,
) -> tuple[list[MemoryItem], set[str]]:
    """Those that no item of a status rules out, and which of them say what such an item said."""

    def group(item: MemoryItem) -> Hashable:  # poison is poison in any family
        return item.kind if status is Status.QUARANTINED else (item.kind, item.family)

    gone = [item for item in draft.having(status) if item.id in draft.vectors]
    found = twins([*gone, *candidates], {**draft.vectors, **vectors}, likeness, group, len(gone))
    # A twin may be another candidate, which is none of this function's business.
    of_gone = {i: twin for i, twin in found.items() if twin in draft.state}
    if status is Status.QUARANTINED:
        return [item for item in candidates if item.id not in of_gone], set()
    told: dict[str, set[str]] = defaultdict(set)  # text → the tasks that it was made from
    for item in gone:
        told[normal(item.text)].update(item.tasks)
    old = {i: told[normal(draft.items[twin].text)] for i, twin in of_gone.items()}
    kept = [i for i in candidates if i.id not in old or set(i.tasks) - old[i.id]]
    return kept, {i.id for i in kept} & old.keys()


def _unsaid(
    draft: Draft,
    likeness: Likeness,
    candidates: Sequence[MemoryItem],
    vectors: dict[str, Vectors],
) -> tuple[list[MemoryItem], dict[str, list[MemoryItem]]]:
    """Those that say something new, and per present item those that only say it again."""
    present = foremost(draft, draft.living)
    found = twins(
        [*present, *candidates], {**draft.vectors, **vectors}, likeness, first=len(present)
    )
    trust = list(Trust)
    kept: list[MemoryItem] = []
    again: dict[str, list[MemoryItem]] = {}
    for item in candidates:
        twin = found.get(item.id)
        if twin is None:
            kept.append(item)
        elif twin not in draft.state:
            continue  # another candidate, better or as good, says it
        elif trust.index(item.trust) < trust.index(draft.items[twin].trust):
            kept.append(item)
        elif item.trust is not Trust.UNTRUSTED and any(
            generation_of(slot) == draft.generation for slot in item.sources
        ):
            again.setdefault(twin, []).append(item)
    return kept, again


def _agreed(draft: Draft, item: str, times: int) -> Worth:
    worth = draft.worth(item)
    if KINDS[draft.items[item].kind].unit == "task":
        return worth
    return worth.model_copy(update={"votes": worth.votes + times})
