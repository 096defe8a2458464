"""Contradictions: of two items that cannot both be right, one stays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

from pydantic import BaseModel, ConfigDict

from memory.consolidation.draft import Draft
from memory.consolidation.likeness import claim
from memory.consolidation.rank import counted, interval
from memory.records import Kind, MemoryChange, MemoryItem, Status, Trust, Worth
from memory.texts import normal


class ResolveSettings(BaseModel):
    """Which contradictions are resolved.

    Args:
        facts: of facts about one subject that say different things, the newer one.
        insights: of rules that contradict each other, the one with better evidence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    facts: bool = True
    insights: bool = True


def resolve(draft: Draft, settings: ResolveSettings | None) -> Draft:
    """Facts are superseded by newer ones, rules by better proved ones.

    Facts contradict each other if their ``content`` has the same subject and another value.
    The newer one supersedes the older if it is trusted at least as much, and takes its
    standing, so that what was known does not turn into nothing; it is put on trial otherwise.
    Untrusted text never takes an active fact's place before its own trial is over. A fact's
    validity ends with the generation of the change that retires it.

    Insights contradict each other if they have the same subject, or the same key and opposite
    measured utility. Items of equal standing are compared, so that a challenger has its trial;
    where the evidence is equal both stay until it is not.
    """
    if settings is None:
        return draft
    if settings.facts:
        for facts in _groups(draft, Kind.FACT):
            draft = _supersede(draft, facts)
    if settings.insights:
        for insights in _groups(draft, Kind.INSIGHT):
            draft = _settle(draft, insights)
    return draft


def _groups(draft: Draft, kind: Kind) -> list[list[MemoryItem]]:
    """Living items of a kind and family about one subject; insights also those with one key."""
    groups: dict[tuple[str, str, str], list[MemoryItem]] = defaultdict(list)
    for item in draft.living:
        if item.kind is not kind:
            continue
        subject, _ = claim(item)
        if subject is not None:
            groups[item.family, "subject", normal(str(subject))].append(item)
        if kind is Kind.INSIGHT:
            groups[item.family, "key", normal(item.key)].append(item)
    return [items for _, items in sorted(groups.items()) if len(items) > 1]


def _supersede(draft: Draft, facts: Sequence[MemoryItem]) -> Draft:
    order = list(Trust)
    state: dict[str, MemoryChange] = {}

    def status(item: MemoryItem) -> Status:
        return (state.get(item.id) or draft.state[item.id]).status

    oldest, *later = sorted(facts, key=lambda i: (i.born, -order.index(i.trust), i.id))
    current = oldest
    for newer in later:
        if normal(str(claim(newer)[1])) == normal(str(claim(current)[1])):
            continue  # the same again; `merge` sees to that
        proved = status(current) is Status.ACTIVE
        trusted = order.index(newer.trust) <= order.index(current.trust)
        if trusted and proved and newer.trust is Trust.UNTRUSTED:
            trusted = status(newer) is Status.ACTIVE
        if trusted:
            reason = f"superseded by {newer.id} from generation {draft.generation} on"
            state[current.id] = draft.change(
                current.id, reason, status=Status.RETIRED, because=newer.sources
            )
            if proved and status(newer) is not Status.ACTIVE:
                state[newer.id] = draft.change(
                    newer.id,
                    f"supersedes {current.id}, which was active",
                    status=Status.ACTIVE,
                    because=newer.sources,
                )
            current = newer
        elif status(newer) is Status.ACTIVE:
            state[newer.id] = draft.change(
                newer.id,
                f"contradicts {current.id}, which is {current.trust} and not {newer.trust}",
                status=Status.SHADOW,
                because=current.sources,
            )
    return draft.apply(state.values())


def _settle(draft: Draft, insights: Sequence[MemoryItem]) -> Draft:
    changes: dict[str, MemoryChange] = {}
    for a, b in combinations(insights, 2):
        if a.id in changes or b.id in changes:
            continue
        one, other = draft.worth(a.id), draft.worth(b.id)
        if draft.state[a.id].status is not draft.state[b.id].status or not _contradict(
            a, b, one, other
        ):
            continue
        if _weight(one) == _weight(other):
            continue
        best, worse = (a, b) if _weight(one) > _weight(other) else (b, a)
        changes[worse.id] = draft.change(
            worse.id,
            f"contradicts {best.id}: {_for(draft.worth(worse.id))}, "
            f"against {_for(draft.worth(best.id))}",
            status=Status.RETIRED,
            because=best.sources,
        )
    return draft.apply(changes.values())


def _contradict(a: MemoryItem, b: MemoryItem, one: Worth, other: Worth) -> bool:
    about, says = claim(a)
    if about is not None and normal(str(about)) == normal(str(claim(b)[0])):
        return (says, normal(a.text)) != (claim(b)[1], normal(b.text))
    measured = bool(one.pairs and other.pairs)
    return measured and normal(a.key) == normal(b.key) and one.utility * other.utility < 0


def _weight(worth: Worth) -> tuple[float, int]:
    return (worth.low if worth.pairs else -1.0), worth.votes


def _for(worth: Worth) -> str:
    votes = counted(worth.votes, "vote")
    return f"{interval(worth)} and {votes}" if worth.pairs else votes
