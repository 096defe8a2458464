"""Functions written in Python and graded by hidden tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from environments.base import Action, EnvironmentFailure, StepResult, Tool
from environments.calls import PYTHON_MEDIA, cut
from environments.grading.grader import Answers, Grader, Recorded
from environments.grading.values import decode
from environments.kinds.answer import SUBMITTED, code_of
from environments.kinds.python import describe_error

SHOWN_CHARS = 200
SUBMIT = Tool(
    name="submit",
    description="Submit your function as Python code. It is tested, and that ends the task.",
    parameters={
        "type": "object",
        "properties": {"code": {"type": "string", "contentMediaType": PYTHON_MEDIA}},
        "required": ["code"],
    },
)


class CodeAnswer:
    """A function to write; the first code that passes the public tests is graded.

    Code that does not define the function, or fails a public test, comes back as an error and may
    be tried again. Of the hidden tests the agent sees nothing, neither before nor after.

    Args:
        prompt: the task, which is the first observation.
        grader: makes the grader, when code is first submitted.
    """

    def __init__(self, prompt: str, grader: Callable[[], Grader]) -> None:
        self._prompt, self._make_grader = prompt, grader
        self._over = False

    @property
    def tools(self) -> Sequence[Tool]:
        """The one tool, ``submit``."""
        return (SUBMIT,)

    def start(self) -> str:
        """The task."""
        return self._prompt

    def step(self, action: Action) -> StepResult:
        """Test the action's code. The metric ``tests_passed`` is the share of hidden tests.

        Raises:
            SandboxFailure, SandboxUnavailable: the sandbox broke or cannot be made.
            EnvironmentFailure: the episode is over, or the task's own solution fails its tests.
        """
        if self._over:
            raise EnvironmentFailure("the episode is over: make a new environment")
        code = code_of(action, SUBMIT)
        if isinstance(code, StepResult):
            return code
        grader = self._make_grader()
        public, hidden = grader.tests()
        # The first run knows the public calls alone: what it shows the agent gives no more away.
        if problem := _public_problem(grader, public, grader.answers(code, public)):
            observation, error = problem
            return StepResult(observation=observation, error=error)
        passed = grader.judge(hidden, grader.answers(code, hidden))
        self._over = True
        return StepResult(
            observation=SUBMITTED,
            reward=float(all(share == 1.0 for share in passed)),
            terminated=True,
            metrics={"tests_passed": sum(passed) / len(passed)},
        )

    def close(self) -> None:
        """Nothing is kept open between steps; safe to call twice."""
        self._over = True


def _public_problem(
    grader: Grader, public: Sequence[Recorded], answers: Answers
) -> tuple[str, str] | None:
    """What the agent is told, and a short name for it, when its code is not fit to be graded."""
    if not answers.ready:
        if answers.run.outcome == "ok":
            return f"Error: the code ended before it defined {grader.problem.entry}.", "exit"
        return describe_error(answers.run)
    passed = grader.judge(public, answers)
    failed = next((index for index, share in enumerate(passed) if share < 1.0), None)
    if failed is None:
        return None
    first = sum(len(test.calls) for test in public[:failed])
    text = (public[failed].source or "a test").strip()
    if first >= len(answers.outputs):
        told, _ = (describe_error(answers.run) if answers.run.outcome != "ok"
                   else ("Error: the code ended the program.", ""))  # fmt: skip
        return f"This failed: {text}\n{told}", "test failed"
    return f"This failed: {text}\n{_outcome(answers.outputs[first])}", "test failed"


def _outcome(output: dict[str, Any]) -> str:
    if "error" in output:
        name, text = output["error"]
        said = f"It raised {name}: {text}"
    else:
        try:
            said = f"It returned {decode(output['value'])!r}"
        except Exception:  # the code wrote something of its own
            said = "It returned something that cannot be read."
    return cut(" ".join(said.split()), SHOWN_CHARS)
