"""Items that help in one family and hurt in another are kept for the family they help."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from memory.consolidation.draft import Draft
from memory.consolidation.rank import interval
from memory.credit import Evidence
from memory.records import MemoryItem, Status


class SplitSettings(BaseModel):
    """When an item is split.

    Args:
        pairs: so many paired tasks in a family are enough to judge the item there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: int = Field(3, ge=1)


def split(draft: Draft, settings: SplitSettings | None, evidence: Evidence) -> Draft:
    """One item per family that it helps, where it hurts in another and the intervals part.

    The new items have the old one's standing and what it earned in their family. What came out
    of a split is not split again.
    """
    if settings is None:
        return draft
    changes, born, vectors = [], [], {}
    for item in draft.living:
        families = {
            family: worth
            for family, worth in sorted(evidence.families.get(item.id, {}).items())
            if worth.pairs >= settings.pairs
        }
        hurt = {f: w for f, w in families.items() if w.utility < 0}
        helped = {
            f: w
            for f, w in families.items()
            if w.utility > 0 and any(w.low > other.high for other in hurt.values())
        }
        if item.made == "split" or not helped:
            continue
        worst = min(hurt, key=lambda f: hurt[f].utility)
        harm = f"{interval(hurt[worst])} in {worst}"
        for family, worth in helped.items():
            part = _for_family(item, family, draft.generation)
            worth = worth.model_copy(update={"votes": draft.worth(item.id).votes})
            reason = f"split from {item.id}: {interval(worth)} in {family}, but {harm}"
            changes.append(draft.birth(part, draft.state[item.id].status, reason, worth))
            born.append(part)
            vectors[part.id] = draft.vectors[item.id]
        reason = f"split: helps in {', '.join(helped)}, but {harm}"
        slots = evidence.lost.get(item.id, ())
        changes.append(draft.change(item.id, reason, status=Status.RETIRED, because=slots))
    return draft.apply(changes, born, vectors)


def _for_family(item: MemoryItem, family: str, generation: int) -> MemoryItem:
    return MemoryItem(
        kind=item.kind,
        text=item.text,
        key=item.key,
        content=item.content,
        sources=item.sources,
        tasks=item.tasks,
        family=family,
        trust=item.trust,
        born=generation,
        made="split",
        parents=(item.id,),
    )
