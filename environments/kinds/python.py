"""Questions answered by writing Python: what the code prints is the answer."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Sequence

from environments.base import Action, Briefing, EnvironmentFailure, StepResult, Tool
from environments.calls import PYTHON_MEDIA, cut
from environments.kinds.answer import as_reward, code_of
from environments.sandbox.base import ExecResult, Sandbox

OBSERVATION_CHARS = 500
ERROR_CHARS = 300
PYTHON = Tool(
    name="python",
    description="It is run, and what it prints is your answer.",
    parameters={
        "type": "object",
        "properties": {"code": {"type": "string", "contentMediaType": PYTHON_MEDIA}},
        "required": ["code"],
    },
)
PYTHON_BRIEFING = Briefing(
    example=(
        "Sort these words alphabetically: pear, fig, apple",
        '```python\nwords = ["pear", "fig", "apple"]\nprint(", ".join(sorted(words)))\n```',
    ),
    turns=2,
)


class PythonAnswer:
    """One question; the first code that runs without error and prints something answers it.

    Until then the agent may try again: each error comes back as the observation. Nothing the
    agent sees says whether the answer was right.

    Args:
        prompt: the question, which is the first observation.
        grade: reward (0 to 1) of an answer; an exception it raises counts as 0.
        sandbox: makes the sandbox, when code is first run.
    """

    def __init__(
        self, prompt: str, grade: Callable[[str], float], sandbox: Callable[[], Sandbox]
    ) -> None:
        self._prompt = prompt
        self._grade = grade
        self._make_sandbox = sandbox
        self._sandbox: Sandbox | None = None
        self._over = False

    @property
    def tools(self) -> Sequence[Tool]:
        """The one tool, ``python``."""
        return (PYTHON,)

    def start(self) -> str:
        """The question."""
        return self._prompt

    def step(self, action: Action) -> StepResult:
        """Run the action's code.

        Raises:
            SandboxFailure, SandboxUnavailable: the sandbox broke or cannot be made.
            EnvironmentFailure: the episode is over.
        """
        if self._over:
            raise EnvironmentFailure("the episode is over: make a new environment")
        code = code_of(action, PYTHON)
        if isinstance(code, StepResult):
            return code
        if self._sandbox is None:
            self._sandbox = self._make_sandbox()
        result = self._sandbox.exec([*self._sandbox.python_argv(), "-"], stdin=code)
        if result.outcome != "ok":
            message, name = describe_error(result)
            return StepResult(observation=message, error=name)
        answer = result.stdout.strip()
        if not answer:
            return StepResult(observation="The code printed nothing.", error="no output")
        self._over = True
        return StepResult(
            observation=cut(answer, OBSERVATION_CHARS),
            reward=self._reward(answer),
            terminated=True,
        )

    def close(self) -> None:
        """Close the sandbox; safe to call twice."""
        self._over = True
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None

    def _reward(self, answer: str) -> float:
        try:
            return as_reward(self._grade(answer))
        except Exception:  # verifiers stumble over malformed answers, each in its own way
            return 0.0


def describe_error(result: ExecResult) -> tuple[str, str]:
    """What the agent is told about Python code that failed, and a short name for it.

    The traceback is cut down to its last line and the number of the line that raised.
    """
    if result.outcome == "timeout":
        return "Error: the code took too long and was stopped.", "timeout"
    if result.outcome == "memory":
        return "Error: MemoryError: the code needs too much memory.", "MemoryError"
    if result.outcome == "output":
        return "Error: the code printed too much and was stopped.", "output"
    lines = result.stderr.rstrip().splitlines()
    begin = max((i for i, line in enumerate(lines) if line.startswith('  File "')), default=0)
    while begin < len(lines) and lines[begin].startswith("  "):  # the frame, its source, carets
        begin += 1
    message = " ".join(" ".join(lines[begin:]).split())
    name = re.match(r"([A-Za-z_][\w.]*)(?=:|$)", message)
    if not message:
        code = result.exit_code or 0
        message = f"exit status {code}" if code >= 0 else f"killed by {_signal_name(-code)}"
    at = re.findall(r'^  File "<stdin>", line (\d+)', result.stderr, re.MULTILINE)
    where = f" (line {at[-1]})" if at else ""
    text = f"Error: {cut(message, ERROR_CHARS - len('Error: ') - len(where))}{where}"
    return text, name[1] if name else "exit"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
