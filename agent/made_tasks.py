"""Tasks that a run made up, as its ledger holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import JsonValue

from environments.base import Task
from memory.ledger import Ledger
from memory.records import Note

MADE = "made/"  # with a generation: what became of all that was written for it; behind that, with
# a task's id: one that was taken


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
        told: what is compared with other tasks; "" for the prompt.
    """

    task: Task
    how: str
    generation: int
    parents: tuple[str, ...] = ()
    source: str = ""
    key: str = ""
    vouched: bool = True
    proof: str = ""
    told: str = ""


def notes_of(
    generation: int, account: Mapping[str, JsonValue], tasks: Sequence[Made]
) -> list[tuple[str, Note]]:
    """What a ledger holds of a generation's tasks: the account, and a note for each task.

    Args:
        generation: for which they were made.
        account: what is told of it as a whole; no texts of tasks.
        tasks: those that were taken.
    """
    notes = [(f"{MADE}{generation}", Note(data=dict(account)))]
    for made in tasks:
        fields: dict[str, JsonValue] = made._asdict() | {
            "task": made.task.model_dump(mode="json"),
            "parents": list(made.parents),
        }
        told: dict[str, JsonValue] = {"text": made.task.prompt, "made": fields}  # can be erased
        notes.append((f"{MADE}{generation}/{made.task.id}", Note(data=told)))
    return notes


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
    for key, note in ledger.all(Note, MADE):
        if key.count("/") == 2 and note.data["text"]:  # else it was erased
            fields: Any = note.data["made"]
            task, parents = Task.model_validate(fields["task"]), tuple(fields["parents"])
            yield Made(**{**fields, "task": task, "parents": parents})
