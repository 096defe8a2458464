"""BANKING77: which of 77 intents a bank's customer has; a stream of short questions.

Data: PolyAI-LDN/task-specific-datasets, ``banking_data`` (CC-BY-4.0; Casanueva et al. 2020,
"Efficient Intent Detection with Dual Sentence Encoders"). The published files are sorted by
intent, which as a stream would ask for one intent at a time: here the order is that of the
tasks' content hashes.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

from environments.base import Action, Briefing, Environment, SuiteError, Task
from environments.calls import write_action
from environments.kinds.text import TextAnswer, answer_tool
from environments.suites.data import data_files, data_path, read_csv

SOURCE = "github.com/PolyAI-LDN/task-specific-datasets (folder banking_data)"
FILES = ("train.csv", "test.csv")
# The first family with a word that occurs in the intent is its family.
FAMILIES: dict[str, tuple[str, ...]] = {
    "top up": ("top up", "topping up"),
    "exchange": ("exchange", "currency", "currencies"),
    "cash": ("cash", "atm"),
    "virtual card": ("virtual", "disposable", "apple pay"),
    "card order": ("order", "delivery", "arrival", "linking", "activate", "physical", "spare",
                   "expire", "visa", "acceptance"),
    "security": ("pin", "passcode", "lost", "compromised", "swallowed", "not working"),
    "identity": ("verify", "age limit", "personal details", "terminate", "country"),
    "payment": ("payment", "charge", "refund", "transaction", "direct debit"),
    "transfer": ("transfer", "beneficiary", "receiving", "cheque"),
}  # fmt: skip
TOOL = answer_tool("Give the customer's intent.", "intent")


class Banking77:
    """Customer questions, each with one of 77 intents; the intents are the valid actions.

    Args:
        data: folder with train.csv and test.csv, or one such file (columns text, category).
        intents: use the first so many intents by name, and their questions.

    Raises:
        SuiteError: the data is missing or unusable, or fewer than two intents are asked for.
    """

    name = "banking77"
    description = "bank customers' questions, each with one of 77 intents: a stream for memory"
    briefing = Briefing(
        text="You sort the questions of a bank's customers. Write the intent of the question, "
        "in lower-case words.",
        example=("Customer: Is my money insured with you?", "deposit protection"),
        turns=1,
        max_new_tokens=16,
    )

    def __init__(self, data: str | None = None, intents: int = 77) -> None:
        path = data_path(self.name, data, "banking77", SOURCE)
        rows = [
            (" ".join(str(row["text"]).split()), words(str(row["category"])))
            for file in data_files(self.name, path, FILES)
            for row in read_csv(self.name, file, ("text", "category"))
        ]
        names = sorted({intent for _, intent in rows})
        if not 2 <= intents <= len(names):
            raise SuiteError(
                f"suite {self.name}: intents={intents}: give 2 to {len(names)}, which is how "
                f"many {path} has"
            )
        self.intents = tuple(names[:intents])
        self._rows = [row for row in rows if row[1] in set(self.intents)]

    def tasks(self) -> Sequence[Task]:
        """All questions; the same ones in the same, mixed order at every call."""
        return self._tasks

    @functools.cached_property
    def _tasks(self) -> tuple[Task, ...]:
        found = {
            task.id: task
            for text, intent in self._rows
            for task in [
                Task(
                    suite=self.name,
                    family=family_of(intent),
                    prompt=f"Customer: {text}",
                    data={"intent": intent},
                )
            ]
        }
        return tuple(found[key] for key in sorted(found))

    def environment(self, task: Task) -> Environment:
        """The question of one task."""
        known = set(self.intents)
        return TextAnswer(
            task.prompt,
            TOOL,
            read=lambda argument, _: found if (found := words(argument)) in known else None,
            grade=lambda answer: float(answer == task.data["intent"]),
            unreadable="That is no intent. Write one of the known intents and nothing else.",
            valid_actions=self.intents,
        )

    def canary(self, task: Task, seed: int) -> Task:
        """The same question with an intent that is made up of two, and so is none of the known."""
        known, chance = set(self.intents), random.Random(f"{seed}/{task.id}")
        made_up = task.data["intent"]
        while made_up in known:
            one, other = (chance.choice(self.intents).split() for _ in range(2))
            made_up = " ".join([*one[:2], *other[-2:]])
        return task.model_copy(update={"data": {"intent": made_up}})

    def gold(self, task: Task) -> Sequence[Action]:
        """The right intent."""
        return [write_action(TOOL, str(task.data["intent"]))]


def words(intent: str) -> str:
    """An intent as lower-case words: ``Refund_not_showing_up`` is ``refund not showing up``."""
    return " ".join(intent.casefold().replace("_", " ").strip(" \t\r\n.?!\"'`").split())


def family_of(intent: str) -> str:
    """The topic of an intent, as `words` writes it: one of ``FAMILIES``, or ``card``."""
    for family, signs in FAMILIES.items():
        if any(sign in intent for sign in signs):
            return family
    return "card"
