"""Tasks that a run made up, as its ledger holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import JsonValue

from environments.base import Task
from memory.ledger import Ledger
from memory.records import Note

MADE = "made/"  # with the generation: the note of all that was made up for it


class Made(NamedTuple):
    """A task that was made up, and where it comes from.

    Args:
        task: a train task by its id; its origin says that it was made up.
        how: the method, and its operator.
        generation: for which it was made.
        parents: ids of the tasks that it was made from.
        source: the passage, tool or table that it names; "" for none.
        key: name of the note with what was written; "" where a rule made it.
        vouched: whether what it was made from is.
        proof: how it was found to be sound.
    """

    task: Task
    how: str
    generation: int
    parents: tuple[str, ...] = ()
    source: str = ""
    key: str = ""
    vouched: bool = True
    proof: str = ""

    def told(self) -> dict[str, JsonValue]:
        """As JSON."""
        fields = self._asdict() | {"task": self.task.model_dump(mode="json")}
        return fields | {"parents": list(self.parents)}


class MadeTasks(Mapping[str, Made]):
    """All that was made up so far, by the tasks' ids: practised, and never measured.

    Args:
        ledger: the run's; what is added to it is seen here.
    """

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self._read: dict[str, Made] = {}
        self._notes = 0

    def _now(self) -> dict[str, Made]:
        if (notes := self._ledger.count(Note, MADE)) != self._notes:
            self._read = {made.task.id: made for made in _stored(self._ledger)}
            self._notes = notes
        return self._read

    def __getitem__(self, task: str) -> Made:
        return self._now()[task]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())


def _stored(ledger: Ledger) -> Iterator[Made]:
    for _, note in ledger.all(Note, MADE):
        rows: Any = note.data["tasks"]
        for row in rows:
            task, parents = Task.model_validate(row["task"]), tuple(row["parents"])
            yield Made(**{**row, "task": task, "parents": parents})
