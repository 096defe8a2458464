"""The shipped checks find what is wrong."""

from collections.abc import Sequence
from typing import Any

import pytest

from environments.base import Action, Briefing, StepResult, Task, Tool
from environments.checks import check_suite
from environments.sandbox.base import ExecResult, Limits
from environments.sandbox.bubblewrap import BubblewrapSandbox
from environments.sandbox.checks import check_sandbox


class Echo:
    """Says back what it is told."""

    tools = (
        Tool(
            name="say", description="say", parameters={"properties": {"word": {"type": "string"}}}
        ),
    )
    first, reward, fragile, once = "hello", 0.0, False, False

    def __init__(self) -> None:
        self.closed = False

    def start(self) -> str:
        return self.first

    def step(self, action: Action) -> StepResult:
        if self.fragile:
            action.arguments["word"].upper()
        return StepResult(observation="…", reward=self.reward)

    def close(self) -> None:
        if self.once and self.closed:
            raise RuntimeError("closed already")
        self.closed = True


class Echoes:
    name, description, briefing = "echoes", "says it back", Briefing(turns=3)
    kind: type[Echo] = Echo
    prompts: Sequence[str] = ("a", "b")

    def tasks(self) -> Sequence[Task]:
        return [Task(suite="echoes", family="f", prompt=p) for p in self.prompts]

    def environment(self, task: Task) -> Echo:
        return self.kind()


def broken(**attributes: Any) -> Echoes:
    suite = Echoes()
    suite.kind = type("Broken", (Echo,), attributes)
    return suite


def test_a_good_suite_has_no_problems() -> None:
    assert check_suite(Echoes()) == []


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"first": ""}, "not a non-empty string"),
        ({"reward": 2.0}, "reward 2.0 is not between 0 and 1"),
        ({"reward": float("nan")}, "reward nan"),
        ({"reward": 1.0}, "earned the full reward"),
        ({"fragile": True}, "raised KeyError"),
        ({"once": True}, "closing it twice raised RuntimeError"),
        ({"tools": ()}, "offers no tools"),
    ],
)
def test_problems_of_environments(attributes: dict[str, Any], says: str) -> None:
    problems = check_suite(broken(**attributes))
    assert problems and all("Task " in problem for problem in problems)
    assert any(says in problem for problem in problems)


def test_problems_of_suites() -> None:
    suite = Echoes()
    suite.prompts = ("a", "a")
    assert any("same content" in problem for problem in check_suite(suite))
    suite.prompts = ()
    assert check_suite(suite) == ["The suite has no tasks."]
    suite = Echoes()
    suite.name = "other"
    assert any("names the suite 'echoes', not 'other'" in problem for problem in check_suite(suite))
    calls = iter([("a", "b"), ("b", "a")])
    suite = Echoes()
    suite.tasks = lambda: [Task(suite="echoes", family="f", prompt=p) for p in next(calls)]  # type: ignore[method-assign]
    assert any("another order" in problem for problem in check_suite(suite))


class Careless(BubblewrapSandbox):
    """Isolated still, but it reports badly and forgets."""

    def exec(
        self, argv: Sequence[str], *, stdin: str = "", limits: Limits | None = None
    ) -> ExecResult:
        result = super().exec(argv, limits=limits)
        return result.model_copy(update={"truncated": False, "exit_code": 0})

    def list(self) -> list[str]:
        return ["link", *super().list()]

    def read(self, path: str) -> bytes:
        return b""

    def close(self) -> None:
        if self._closed:
            raise RuntimeError("closed already")
        super().close()


def test_problems_of_sandboxes() -> None:
    problems = "\n".join(check_sandbox(Careless))
    for says in (
        "exits with status 3 ended as",
        "did not get its whole standard input",
        "Output beyond the limit was not cut",
        "runs for ever ended as",
        "The host could read 'link'",
        "Links or pipes are listed",
        "A fresh sandbox sees files",
        "not the same for both",
        "Closing it twice raised RuntimeError",
    ):
        assert says in problems
