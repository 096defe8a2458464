"""GSM8K: grade-school word problems, answered with a number or with Python that prints it.

Data: openai/grade-school-math (MIT; Cobbe et al. 2021, arXiv 2110.14168).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, DecimalException

from environments.base import Action, Briefing, Environment, SuiteError, Task
from environments.calls import write_action
from environments.kinds.python import PYTHON, PythonAnswer
from environments.kinds.text import TextAnswer, answer_tool
from environments.nonce import nonce
from environments.sandbox.base import Sandbox
from environments.suites.data import data_files, data_path, read_records

SOURCE = "github.com/openai/grade-school-math (folder grade_school_math/data)"
FILES = ("train.jsonl", "test.jsonl")
MOST_STEPS = 7  # longer solutions are rare and make one family
NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?!\d))?")
TOOL = answer_tool("The last number you write is your answer.")
_QUESTION = "Tom has 3 boxes with 12 pens each and gives 4 pens away. How many pens are left?"


class Gsm8k:
    """Word problems; families are the number of steps of the published solution.

    Args:
        data: folder with train.jsonl and test.jsonl, or one such file (question, answer).
        python: answer by writing Python that prints the number; else by writing the number
            (reasoning may stand before it).
        sandbox: makes the sandbox that an episode's code runs in.

    Raises:
        SuiteError: the data is missing or unusable.
    """

    name = "gsm8k"
    description = "grade-school word problems (GSM8K), answered with Python or in words"

    def __init__(
        self, data: str | None = None, python: bool = True, *, sandbox: Callable[[], Sandbox]
    ) -> None:
        self._path = data_path(self.name, data, "gsm8k", SOURCE)
        self._python, self._sandbox = python, sandbox
        if python:
            answer = "```python\npens = 3 * 12\nprint(pens - 4)\n```"
            self.briefing = Briefing(example=(_QUESTION, answer), turns=2, max_new_tokens=160)
        else:
            self.briefing = Briefing(
                text="Solve the problem. Write the final number last.",
                example=(_QUESTION, "3 * 12 = 36 pens, and 36 - 4 = 32. #### 32"),
                turns=1,
                max_new_tokens=160,
            )

    def tasks(self) -> Sequence[Task]:
        """All problems in the order of the files."""
        return self._tasks

    @functools.cached_property
    def _tasks(self) -> tuple[Task, ...]:
        found = {}
        files = data_files(self.name, self._path, FILES)
        for where, record in read_records(self.name, files, ("question", "answer")):
            solution, mark, answer = str(record["answer"]).rpartition("####")
            if not mark or read_number(answer) is None:
                raise SuiteError(
                    f"suite {self.name}: {where} has an answer that does not end with #### and a "
                    "number"
                )
            steps = min(MOST_STEPS, len(solution.strip().splitlines()))
            task = Task(
                suite=self.name,
                family=f"{steps} step{'s' if steps > 1 else ''}"
                + (" or more" if steps == MOST_STEPS else ""),
                prompt=str(record["question"]).strip(),
                data={"answer": str(read_number(answer))},
            )
            found[task.id] = task
        return tuple(found.values())

    def environment(self, task: Task) -> Environment:
        """The question of one task."""
        gold = Decimal(str(task.data["answer"]))
        if self._python:
            return PythonAnswer(task.prompt, lambda said: score(gold, said), self._sandbox)
        return TextAnswer(
            task.prompt,
            TOOL,
            read=lambda argument, text: said if read_number(said := _whole(argument, text)) is not
            None else None,
            grade=lambda said: score(gold, said),
            unreadable="Write your answer as a number.",
        )  # fmt: skip

    def canary(self, task: Task, seed: int) -> Task | None:
        """The same problem with a number that is made up."""
        made_up = nonce(str(task.data["answer"]), seed)
        return task.model_copy(update={"data": {"answer": made_up}}) if made_up else None

    def fields(self, task: Task) -> dict[str, str]:
        """The problem and its number."""
        return {"prompt": task.prompt, "family": task.family, "answer": str(task.data["answer"])}

    def spawn(self, fields: Mapping[str, str]) -> Task | None:
        """A problem whose answer is the last number of a text."""
        number = read_number(fields["answer"])
        if number is None or not fields["prompt"].strip():
            return None
        return Task(
            suite=self.name,
            family=fields["family"],
            prompt=fields["prompt"].strip(),
            data={"answer": str(number)},
        )

    def gold(self, task: Task) -> Sequence[Action]:
        """The right number: printed, or written."""
        answer = str(task.data["answer"])
        if self._python:
            return [write_action(PYTHON, f"print({answer})")]
        return [write_action(TOOL, answer)]


def read_number(text: str) -> Decimal | None:
    """The last number in a text, or None; commas between digits are dropped."""
    found = NUMBER.findall(text)
    try:
        return Decimal(found[-1].replace(",", "")) if found else None
    except DecimalException:
        return None


def score(gold: Decimal, said: str) -> float:
    """1.0 where the last number of a text is the gold answer, to one part in a million."""
    number = read_number(said)
    if number is None:
        return 0.0
    try:
        return float(abs(number - gold) <= max(Decimal(1), abs(gold)) * Decimal("1e-6"))
    except DecimalException:
        return 0.0


def _whole(argument: str, text: str) -> str:
    """Everything the agent wrote, where the argument is but its first line."""
    return text if text.lstrip().startswith(argument.strip()) else argument
