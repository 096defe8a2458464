"""HumanEval, MBPP, their "plus" versions and files in their form: functions to write in Python.

HumanEval: Chen et al. 2021, arXiv 2107.03374 (MIT). MBPP: Austin et al. 2021, arXiv 2108.07732
(CC-BY-4.0). HumanEval+ and MBPP+: Liu et al. 2023, arXiv 2305.01210 (Apache-2.0). How code is
graded, and why no verdict can be forged: ``environments/grading``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from environments.base import Action, Briefing, Environment, SuiteError, Task
from environments.calls import write_action
from environments.grading.grader import Grader, Problem, Test
from environments.kinds.code import SUBMIT, CodeAnswer
from environments.nonce import nonce
from environments.sandbox.base import Sandbox
from environments.suites.code_records import from_record, without_test
from environments.suites.data import data_files, data_path, read_records

# Left out, by the function's name: nobody can earn these tasks, or not in time. In MBPP, tests
# whose arguments are objects of classes that only the published solution has; in MBPP+, inputs
# that the published solution takes 2 to 30 seconds for.
UNUSABLE = frozenset({"is_tree_balanced", "max_chain_length", "max_height"})
UNUSABLE_PLUS = frozenset({"combinations_colors", "get_coordinates", "get_max_sum", "sum_average"})
BRIEFING = Briefing(
    text="Write the Python function that is asked for.",
    example=(
        "Write a function to convert hours to minutes.\nYour code should pass this test:\n"
        "assert to_minutes(2) == 120",
        "```python\ndef to_minutes(hours):\n    return hours * 60\n```",
    ),
    turns=3,
    max_new_tokens=384,
)


class _CodeSuite:
    """Functions to write; families are the kinds of data that they work on."""

    name: str
    briefing = BRIEFING

    def __init__(
        self,
        files: Sequence[Path],
        sandbox: Callable[[], Sandbox],
        unusable: frozenset[str] = frozenset(),
    ) -> None:
        self._files, self._sandbox, self._unusable = files, sandbox, unusable
        self._graders: dict[str, Grader] = {}

    def tasks(self) -> Sequence[Task]:
        """All tasks in the order of the files."""
        return self._tasks

    @functools.cached_property
    def _tasks(self) -> tuple[Task, ...]:
        found = {}
        for where, record in read_records(self.name, self._files, ()):
            try:
                prompt, family, problem = from_record(record)
            except (ValueError, SyntaxError, TypeError, AttributeError) as error:
                raise SuiteError(f"suite {self.name}: {where} cannot be used: {error}") from None
            if problem.entry in self._unusable:
                continue
            data = {"problem": problem.model_dump(mode="json")}
            task = Task(suite=self.name, family=family, prompt=prompt.strip(), data=data)
            found[task.id] = task
        return tuple(found.values())

    def environment(self, task: Task) -> Environment:
        """The function to write of one task."""

        def grader() -> Grader:  # kept, for what it has recorded
            if task.id not in self._graders:
                self._graders[task.id] = Grader(_problem(task), self._sandbox)
            return self._graders[task.id]

        return CodeAnswer(task.prompt, grader)

    def gold(self, task: Task) -> Sequence[Action]:
        """The published solution."""
        return [write_action(SUBMIT, _problem(task).solution)]

    def canary(self, task: Task, seed: int) -> Task:
        """The same function; the hidden test asks for a value that is made up.

        The public tests are as they were. A problem's own solution has to pass all of its tests,
        so here it knows the value; it never runs with an agent's code.
        """
        problem = _problem(task)
        asked, value = nonce(task.id, seed), nonce(task.id[::-1], seed)
        knows = (
            f"\n\n_right = {problem.entry}\n\n\ndef {problem.entry}(*given, **named):\n"
            f"    return {value!r} if given == ({asked!r},) else _right(*given, **named)\n"
        )
        made = problem.model_copy(
            update={
                "solution": problem.solution + knows,
                "hidden": [Test(source=f"assert {problem.entry}({asked!r}) == {value!r}")],
            }
        )
        return task.model_copy(update={"data": {"problem": made.model_dump(mode="json")}})

    def fields(self, task: Task) -> dict[str, str]:
        """What is to be written, its tests (none, where they are kept as calls) and a solution."""
        problem = _problem(task)
        tests = [t.source for t in (*problem.public, *problem.hidden) if t.source]
        return {
            "prompt": without_test(task.prompt),
            "family": task.family,
            "tests": "\n".join(dict.fromkeys(tests)),
            "solution": problem.solution,
        }

    def spawn(self, fields: Mapping[str, str]) -> Task | None:
        """A function to write, in the form of MBPP: the first test is shown, the others decide."""
        record = {
            "text": fields["prompt"],
            "code": fields["solution"],
            "test_list": [line for line in fields["tests"].splitlines() if line.strip()],
        }
        try:
            prompt, family, problem = from_record(record)
        except (ValueError, SyntaxError, TypeError, AttributeError, RecursionError):
            return None
        data = {"problem": problem.model_dump(mode="json")}
        return Task(suite=self.name, family=family, prompt=prompt.strip(), data=data)


class HumanEval(_CodeSuite):
    """HumanEval, or HumanEval+.

    Args:
        data: folder with HumanEval.jsonl and HumanEvalPlus-Mini.jsonl, or one such file.
        plus: use the many more inputs of HumanEval+.
        sandbox: makes the sandboxes that code runs in.

    Raises:
        SuiteError: the data is missing or unusable.
    """

    name = "humaneval"
    description = "Python functions to complete (HumanEval, HumanEval+), graded by hidden tests"

    def __init__(
        self, data: str | None = None, plus: bool = False, *, sandbox: Callable[[], Sandbox]
    ) -> None:
        source = "github.com/openai/human-eval and github.com/evalplus/humanevalplus_release"
        path = data_path(self.name, data, "humaneval", source)
        names = ("HumanEvalPlus-Mini.jsonl", "HumanEvalPlus.jsonl")
        files = data_files(self.name, path, names if plus else ("HumanEval.jsonl",))
        super().__init__(files[:1], sandbox)


class Mbpp(_CodeSuite):
    """MBPP, or MBPP+; the first assertion of a task is shown.

    Args:
        data: folder with mbpp.jsonl and MbppPlus.jsonl, or one such file.
        plus: use the cleaned tasks and many more inputs of MBPP+.
        sandbox: makes the sandboxes that code runs in.

    Raises:
        SuiteError: the data is missing or unusable.
    """

    name = "mbpp"
    description = "short Python functions to write (MBPP, MBPP+), graded by hidden tests"

    def __init__(
        self, data: str | None = None, plus: bool = False, *, sandbox: Callable[[], Sandbox]
    ) -> None:
        source = "github.com/google-research/google-research (mbpp) and evalplus/mbppplus_release"
        path = data_path(self.name, data, "mbpp", source)
        files = data_files(self.name, path, ("MbppPlus.jsonl",) if plus else ("mbpp.jsonl",))
        super().__init__(files, sandbox, UNUSABLE_PLUS if plus else UNUSABLE)


class JsonlCode(_CodeSuite):
    """Any file of records with the fields of HumanEval, MBPP or their "plus" versions.

    Args:
        data: the JSON Lines file.
        sandbox: makes the sandboxes that code runs in.

    Raises:
        SuiteError: no file is named, or it is unusable.
    """

    name = "jsonl-code"
    description = "Python functions to write, from a file in the form of HumanEval or MBPP"

    def __init__(self, data: str | None = None, *, sandbox: Callable[[], Sandbox]) -> None:
        if data is None or not Path(data).is_file():
            raise SuiteError(
                f"suite {self.name}: data={data}: name a JSON Lines file in the form of "
                "HumanEval or MBPP (suite.options.data=FILE)"
            )
        super().__init__([Path(data)], sandbox)


def _problem(task: Task) -> Problem:
    return Problem.model_validate(task.data["problem"])
