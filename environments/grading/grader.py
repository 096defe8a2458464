"""Runs the two programs of this folder and reads what they say."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from environments.base import EnvironmentFailure
from environments.calls import clean
from environments.grading.values import is_plain
from environments.sandbox.base import ExecResult, Limits, Sandbox

MOST_BYTES = 4 << 20  # of all that an agent's function returned, as JSON
RESULT = "result.jsonl"
# A task's own code may take its time: a busy machine must not turn it into a failure.
TRUSTED_LIMITS = Limits(wall_s=60.0, cpu_s=60, memory_mb=2048, file_mb=64)


class Test(BaseModel):
    """One test: a program that calls the function, or a call whose value is compared.

    Args:
        source: Python that raises where the function (by its name, or as ``candidate``) is wrong.
        call: in place of it, ``[arguments, keyword arguments]`` as `values.encode` writes them.
    """

    __test__ = False  # no test of pytest's

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str | None = None
    call: JsonValue = None


class Problem(BaseModel):
    """A function to write.

    Args:
        entry: its name.
        before: code that the agent's is put after (imports and helpers of the prompt).
        solution: the published code, whole; it runs with the tests and never with the agent's.
        public: tests that the agent may see; those that the solution fails are not used.
        hidden: tests that decide.
        atol: absolute tolerance of compared floats.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    entry: str
    before: str = ""
    solution: str
    public: list[Test] = Field(default_factory=list)
    hidden: list[Test]
    atol: float = 0.0


class Recorded(BaseModel):
    """A test with the calls it makes: ``[call, what the published solution did]``.

    What was done is ``{"value": …}`` or ``{"error": [name, message]}``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str | None
    calls: list[tuple[JsonValue, JsonValue]]
    held: int


class Answers(BaseModel):
    """What an agent's function did: one record a call, ``{"value": …}`` or ``{"error": …}``.

    Args:
        run: how the process ended.
        ready: whether the function came to be defined.
        outputs: for the calls, in order; shorter than them where the process ended early.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: ExecResult
    ready: bool
    outputs: list[dict[str, JsonValue]]


class Grader:
    """Grades code for one problem; see the docstring of this package.

    Args:
        problem: what is to be written.
        sandbox: makes a sandbox; every run gets a fresh one.
    """

    def __init__(self, problem: Problem, sandbox: Callable[[], Sandbox]) -> None:
        self.problem, self._make_sandbox = problem, sandbox
        self._recorded: tuple[list[Recorded], list[Recorded]] | None = None

    def tests(self) -> tuple[list[Recorded], list[Recorded]]:
        """The public and the hidden tests with their calls, recorded once.

        Hidden calls whose value takes more than `MOST_BYTES` allows are left out.

        Raises:
            EnvironmentFailure: the published solution fails a hidden test, or a test's arguments
                cannot be written as plain values.
        """
        if self._recorded is None:
            problem = self.problem
            tests = [*problem.public, *problem.hidden]
            found = self._trusted([test.model_dump() for test in tests], None)
            recorded: list[list[Recorded]] = [[], []]
            for index, (test, report) in enumerate(zip(tests, found, strict=True)):
                hidden = index >= len(problem.public)
                plain = all(is_plain(call) for call, _ in report["calls"])
                if report["passed"] and plain and report["calls"]:
                    calls, held = report["calls"], report["held"]
                    recorded[hidden].append(Recorded(source=test.source, calls=calls, held=held))
                elif hidden and not report.get("too_large"):
                    why = report.get("why") or (
                        "" if plain else "their arguments are no plain values"
                    )
                    raise EnvironmentFailure(
                        f"the published solution of {problem.entry} cannot be used with its own "
                        f"tests: {why or 'they do not call it'}"
                    )
            if not recorded[1]:
                raise EnvironmentFailure(f"no test of {problem.entry} can be used: all too large")
            self._recorded = recorded[0], recorded[1]
        return self._recorded

    def answers(self, code: str, tests: Sequence[Recorded]) -> Answers:
        """What the code's function returns when it is called as the tests call it."""
        calls = [call for test in tests for call, _ in test.calls]
        job = {
            "before": self.problem.before,
            "code": clean(code),
            "entry": self.problem.entry,
            "calls": calls,
            "result": RESULT,
        }
        run, raw = self._run("untrusted", job, None)
        try:
            lines = [json.loads(line) for line in raw.splitlines()[: len(calls) + 1]]
        except (ValueError, RecursionError):
            lines = []
        ready = bool(lines) and lines[0] == {"ready": True}
        outputs = lines[1:] if ready else []
        good = all(_is_output(output) for output in outputs)
        return Answers(run=run, ready=ready, outputs=outputs if good else [])

    def judge(self, tests: Sequence[Recorded], answers: Answers) -> list[float]:
        """For each test, the share of its assertions that held (1.0: it passed)."""
        calls = [pair for test in tests for pair in test.calls]
        if len(answers.outputs) == len(calls) and all(
            "value" in output and _same(output, expected)
            for (_, expected), output in zip(calls, answers.outputs, strict=True)
        ):
            return [1.0] * len(tests)
        missing: dict[str, JsonValue] = {"error": ["Exception", "nothing was returned"]}
        outputs = answers.outputs + [missing] * (len(calls) - len(answers.outputs))
        try:
            reports = self._trusted([test.model_dump() for test in tests], outputs)
        except EnvironmentFailure:  # what was returned is more than the tests can take
            return [0.0] * len(tests)
        return [
            1.0 if report["passed"] else min(report["held"] / max(test.held, 1), 0.99)
            for test, report in zip(tests, reports, strict=True)
        ]

    def _trusted(self, tests: list[Any], outputs: list[Any] | None) -> list[Any]:
        job = {
            "solution": self.problem.solution,
            "entry": self.problem.entry,
            "tests": tests,
            "outputs": outputs,
            "atol": self.problem.atol,
            "most": MOST_BYTES // 2,
            "result": RESULT,
        }
        run, raw = self._run("trusted", job, TRUSTED_LIMITS)
        if run.outcome != "ok":
            said = run.stderr.strip().splitlines() or [run.outcome]
            raise EnvironmentFailure(f"the tests of {self.problem.entry} do not run: {said[-1]}")
        reports: list[Any] = json.loads(raw)
        return reports

    def _run(
        self, program: str, job: dict[str, Any], limits: Limits | None
    ) -> tuple[ExecResult, bytes]:
        sandbox = self._make_sandbox()
        try:
            argv = [*sandbox.python_argv(), "-c", _program(program)]
            run = sandbox.exec(argv, stdin=json.dumps(job), limits=limits)
            try:
                raw = sandbox.read(RESULT)
            except (ValueError, OSError):  # removed, or replaced by something else
                raw = b""
            return run, raw if len(raw) <= MOST_BYTES or program == "trusted" else b""
        finally:
            sandbox.close()


@functools.cache
def _program(name: str) -> str:
    """The text of a program of this folder, with what it needs of `values`."""
    folder = Path(__file__).parent
    text = "".join(folder.joinpath(f"{part}.py").read_text() for part in ("values", name))
    lines = [line for line in text.splitlines()
             if not line.startswith(("from __future__", "from environments"))]  # fmt: skip
    return "\n".join(["from __future__ import annotations", *lines, "main()"])


def _is_output(output: Any) -> bool:
    if not isinstance(output, dict) or len(output) != 1:
        return False
    error = output.get("error")
    return "value" in output or (isinstance(error, list) and len(error) == 2)


def _same(one: JsonValue, other: JsonValue) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
