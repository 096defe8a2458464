"""A state of memory while it is being worked on: what is there, and what changed so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

from memory.embed import Vectors
from memory.records import MemoryChange, MemoryItem, Status, Worth

LIVING = (Status.ACTIVE, Status.SHADOW)


@dataclass(frozen=True)
class Draft:
    """Memory as a generation's update would leave it; every operator returns a new one.

    Args:
        generation: the generation that works on it.
        items: by id; at least the living ones (erased ones are missing).
        state: the latest change of each item, by id.
        vectors: embeddings (length 1) of the keys, by id; at least those of the living.
        start: the state before this generation's work.
    """

    generation: int
    items: Mapping[str, MemoryItem]
    state: Mapping[str, MemoryChange]
    vectors: Mapping[str, Vectors]
    start: Mapping[str, MemoryChange]

    @classmethod
    def begin(
        cls,
        generation: int,
        items: Mapping[str, MemoryItem],
        state: Mapping[str, MemoryChange],
        vectors: Mapping[str, Vectors],
    ) -> Self:
        """A draft of a snapshot's state, nothing changed yet.

        Raises:
            ValueError: a living item's record or vector is missing.
        """
        living = [i for i, change in state.items() if change.status in LIVING]
        lacking = [i for i in living if i not in items or i not in vectors]
        if lacking:
            raise ValueError(
                f"no record or vector for {len(lacking)} memory items, {lacking[0]} first"
            )
        return cls(generation, dict(items), dict(state), dict(vectors), dict(state))

    def having(self, *statuses: Status) -> list[MemoryItem]:
        """The items of these statuses whose record is there, by id."""
        return [
            self.items[i]
            for i in sorted(self.state)
            if self.state[i].status in statuses and i in self.items
        ]

    @property
    def living(self) -> list[MemoryItem]:
        """The items that are shown at least on trial, by id."""
        return self.having(*LIVING)

    def worth(self, item: str) -> Worth:
        return self.state[item].worth

    def change(
        self,
        item: str,
        reason: str,
        *,
        status: Status | None = None,
        worth: Worth | None = None,
        because: Iterable[str] = (),
    ) -> MemoryChange:
        """A change of a known item; what is not named stays as it is."""
        return self.state[item].model_copy(
            update={
                "generation": self.generation,
                "status": status or self.state[item].status,
                "worth": worth or self.state[item].worth,
                "reason": reason,
                "because": tuple(because),
            }
        )

    def birth(
        self, item: MemoryItem, status: Status, reason: str, worth: Worth | None = None
    ) -> MemoryChange:
        """The first change of a new item, because of the episodes it was made from."""
        return MemoryChange(
            item=item.id,
            status=status,
            generation=self.generation,
            worth=worth or Worth(),
            reason=reason,
            because=item.sources,
        )

    def apply(
        self,
        changes: Iterable[MemoryChange],
        new_items: Iterable[MemoryItem] = (),
        vectors: Mapping[str, Vectors] | None = None,
    ) -> Draft:
        """The draft with these changes; a later change of an item replaces an earlier one.

        Raises:
            ValueError: a change of an unknown item, or a new item without a change or vector.
        """
        made = {item.id: item for item in new_items}
        state = {**self.state, **{change.item: change for change in changes}}
        items, known = {**self.items, **made}, {**self.vectors, **(vectors or {})}
        wrong = [i for i in made if i not in state or i not in known]
        wrong += [i for i in state if i not in self.state and i not in items]
        if wrong:
            raise ValueError(f"memory item {wrong[0]}: record, vector or change is missing")
        return replace(self, items=items, state=state, vectors=known)

    def new_items(self) -> list[MemoryItem]:
        """What was born and has to be stored: what lives, and what that was made from."""
        born = {i for i in self.state if i not in self.start}
        kept = {i for i in born if self.state[i].status in LIVING}
        ahead = list(kept)
        while ahead:
            parents = {p for p in self.items[ahead.pop()].parents if p in born} - kept
            kept |= parents
            ahead += parents
        return [self.items[i] for i in sorted(kept)]

    def changes(self) -> list[MemoryChange]:
        """What differs from the beginning, one change per item: new items first, then by id.

        A new item that did not outlive this update is left out (unless a living one was made
        from it). A utility that only drifted, because other items were tried, is no change.
        """
        born = [item.id for item in self.new_items()]
        changed = [
            i
            for i in sorted(self.start)
            if self.state[i] is not self.start[i]
            and _essence(self.state[i]) != _essence(self.start[i])
        ]
        return [self.state[i] for i in (*born, *changed)]

    def ungated(self) -> list[MemoryChange]:
        """Those of `changes` that need no gate.

        No agent notices those of items not active before or after when it counts (new trials,
        trials that ended): they alter no answer. And what was measured to do harm leaves at
        once: a gate asks for proof of a gain, which the end of a rare harm seldom gives.
        """
        return [
            change
            for change in self.changes()
            if change.status is Status.QUARANTINED
            or (change.status is not Status.ACTIVE and not self._began_active(change.item))
        ]

    def _began_active(self, item: str) -> bool:
        return item in self.start and self.start[item].status is Status.ACTIVE


def _essence(change: MemoryChange) -> MemoryChange:
    worth = change.worth
    counted = Worth(uses=worth.uses, pairs=worth.pairs, votes=worth.votes)
    return change.model_copy(update={"worth": counted})
