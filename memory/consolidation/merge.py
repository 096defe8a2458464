"""Of items that say the same, one stays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from memory.consolidation.draft import Draft
from memory.consolidation.likeness import Likeness, twins
from memory.consolidation.rank import foremost, told
from memory.records import Kind, MemoryItem, Status
from memory.texts import normal

_WORDS = (Kind.INSIGHT, Kind.FACT)


def merge(draft: Draft, settings: Likeness | None) -> Draft:
    """Near-duplicates of one kind and family become one item.

    The foremost stays, active if one of them was: the more trusted, then an active one before
    a shadow, then the one that is worth more, then the older. Where words differ, if only in a
    few letters, a merged item takes the place of all: with the foremost one's text, the sources
    and tasks of all and the sum of their votes. That goes for items of equal trust only; else a
    doubtful copy would lower the trust of a proved item, or add votes to it.
    """
    if settings is None:
        return draft
    groups: dict[str, list[str]] = defaultdict(list)
    for item, twin in twins(foremost(draft, draft.living), draft.vectors, settings).items():
        groups[twin].append(item)
    changes, born = [], []
    for best, others in sorted(groups.items()):
        first = draft.items[best]
        equals = [draft.items[i] for i in sorted(others) if draft.items[i].trust is first.trust]
        active = [i for i in (best, *sorted(others)) if draft.state[i].status is Status.ACTIVE]
        status = Status.ACTIVE if active else Status.SHADOW
        stays = best
        if first.kind in _WORDS and any(normal(i.text) != normal(first.text) for i in equals):
            merged = _merged(draft, first, equals)
            stays = merged.id
            worth = draft.worth(best)
            votes = worth.votes + sum(draft.worth(item.id).votes for item in equals)
            reason = f"merged from {', '.join(merged.parents)}: {told(worth)}"
            inherited = worth.model_copy(update={"votes": votes})
            born.append((merged, draft.vectors[best]))
            changes.append(draft.birth(merged, status, reason, inherited))
            others = [best, *others]
        elif status is not draft.state[best].status:
            reason = f"takes the place of {active[0]}, which says the same and was active"
            changes.append(draft.change(best, reason, status=status, because=first.sources))
        for item in sorted(others):
            taken_up = item == best or (stays != best and draft.items[item] in equals)
            what = "merged into" if taken_up else "duplicate of"
            reason = f"{what} {stays}; {told(draft.worth(item))}"
            slots = draft.items[best].sources
            changes.append(draft.change(item, reason, status=Status.RETIRED, because=slots))
    return draft.apply(changes, [i for i, _ in born], {i.id: vector for i, vector in born})


def _merged(draft: Draft, first: MemoryItem, others: Sequence[MemoryItem]) -> MemoryItem:
    every = [first, *others]
    return MemoryItem(
        kind=first.kind,
        text=first.text,
        key=first.key,
        content=first.content,
        sources=tuple(dict.fromkeys(slot for item in every for slot in item.sources)),
        tasks=tuple(dict.fromkeys(task for item in every for task in item.tasks)),
        family=first.family,
        trust=first.trust,
        born=draft.generation,
        made="merged",
        parents=tuple(item.id for item in every),
    )
