"""The shipped conformance suite finds what is wrong with an environment, and says what to do."""

import itertools
import random
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from environments.base import Action, Briefing, StepResult, Suite, Task, Tool
from environments.checks import check_suite, examine_suite
from environments.conformance.leaks import Leaks
from environments.plain import PlainSuite
from environments.sandbox import make_sandbox
from environments.sandbox.base import SandboxUnavailable
from environments.tools import ToolError


class Safe:
    """Open the safe."""

    turns = 5
    example = ("Open it with 3.", "dial(digit=3)")
    done = False

    @staticmethod
    def tasks() -> list[dict[str, Any]]:
        return [{"hint": f"The digits add up to {a + b}.", "code": [a, b]}
                for a, b in itertools.product(range(2, 4), range(4, 7))]  # fmt: skip

    def reset(self, hint: str, code: list[int]) -> str:
        self.code, self.dialled = code, list[int]()
        return hint

    def dial(self, digit: int) -> str:
        """Dial one digit."""
        if not 0 <= digit <= 9:
            raise ToolError("a digit is 0 to 9")
        self.dialled.append(digit)
        self.done = len(self.dialled) == len(self.code)
        return f"Dialled {digit}."

    def reward(self) -> float:
        return float(self.dialled == self.code)

    def state(self) -> dict[str, Any]:
        return {"dialled": self.dialled}

    def gold(self) -> list[str]:
        return [f"dial(digit={digit})" for digit in self.code]


def check(cls: type[Any] = Safe, limit: int = 2, **attributes: Any) -> list[str]:
    made = type("Variant", (cls,), {"__doc__": Safe.__doc__, **attributes})
    return check_suite(PlainSuite(made, sandbox=make_sandbox), limit)


def test_a_good_class_has_no_problems() -> None:
    report = examine_suite(PlainSuite(Safe, sandbox=make_sandbox), limit=3)
    assert report.problems == ()
    assert report.checked["tasks"].startswith("6 tasks in 1 family, 3 of them played; none in ")
    assert report.checked["tools"] == "1 tool: descriptions and types"
    # Of each task: the gold solution, and a walk of two dials with and one without its digits.
    assert report.checked["determinism"].startswith("18 steps repeated")
    assert report.checked["memory"] == "looks tasks up by the field 'hint', which the agent sees"
    assert not {"see above", "not examined"} & set(report.checked.values())
    assert report.checked["gold"] == "3 solutions replayed"
    assert report.checked["limits"] == "5 turns and 60 s a call, held by the environment"


def dial(body: Callable[[Any, int], Any]) -> Any:
    """A tool with a body of its own, then the usual one."""

    def dial(self: Any, digit: int) -> str:
        """Dial one digit."""
        return body(self, digit) or Safe.dial(self, digit)

    return dial


class Shared:
    dials = 0
    tools: ClassVar[list[int]] = []


def count(self: Any, digit: int) -> str:
    Safe.dial(self, digit)
    Shared.dials += 1
    return f"Dial {Shared.dials}."


def in_common(self: Any, hint: str, code: list[int]) -> str:
    Shared.tools = []
    return Safe.reset(self, hint, code)


def dial_in_common(self: Any, digit: int) -> str:
    Shared.tools.append(digit)
    Safe.dial(self, digit)
    return f"Dialled {Shared.tools}."


def dialled_before_refusing(self: Any, digit: int) -> None:
    if digit > 9:
        self.dialled.append(digit)
        raise ToolError("a digit is 0 to 9")


def unforeseen(self: Any, digit: int) -> str:
    return "abcdefghij"[digit] and ""


def helper(self: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"dial": dial(lambda self, digit: f"{random.random()}")},
         r"gave something else the second time: step 1, dial\(digit=2\): .*; draw all randomness"),
        ({"dial": dial(count)}, "the second time: step 1, .*keep nothing from one episode"),
        ({"dial": dial(dial_in_common), "reset": in_common},
         "with another episode in progress.*: step 1, .*keep what changes on the instance"),
        ({"reward": lambda self: 2.0}, "EnvironmentFailure: reward returned 2.0, not a"),
        ({"reward": lambda self: 1.0}, "earned the full reward"),
        ({"reward": lambda self: 0.5}, r"gold solution earns 0\.5, not 1; it ends with: Dial"),
        ({"gold": lambda self: []}, "the gold solution earns 0, not 1; it is empty"),
        ({"gold": lambda self: ["dial(digit=11)"]}, r"solution's dial\(digit=11\) was refused"),
        ({"gold": lambda self: 1 / 0}, "gold.. raised SuiteError: .*ZeroDivisionError"),
        ({"gold": lambda self: ["open"]}, "gold.. raised SuiteError: .*no call such as dial"),
        ({"turns": 1}, "takes 2 actions, but an agent has only 1 turns"),
        ({"dial": dial(dialled_before_refusing)}, "and yet it changed the state; raise"),
        ({"dial": dial(unforeseen)}, "raised IndexError: .* did not foresee; raise ToolError"),
        ({"state": lambda self: {1, 2}}, r"state\(\) returns what JSON cannot hold: .*set"),
        ({"metrics": lambda self: {"a": float("nan")}}, "the metric a is nan, which JSON"),
        ({"valid_actions": lambda self: ["dial(digit=1)"]}, r"'dial\(digit=1\)', .*cannot do it"),
        ({"valid_actions": lambda self: ["open"]}, "valid_actions offers 'open', no call"),
        ({"valid_actions": lambda self: ["dial(digit=99)"]}, "'dial.digit=99.', which is refused"),
        ({"valid_actions": lambda self: "dial"}, "valid_actions returned 'dial', not a"),
        ({"close": lambda self: 1 / 0}, r"close\(\) raised ZeroDivisionError"),
        ({"example": ("Open.", "open it")}, "the example's answer 'open it' is no call"),
        ({"example": ("The digits add up to 6.", "dial(digit=1)")}, "is one of the tasks"),
        ({"helper": helper}, r"Variant.helper has no docstring, so it is no tool; .*_helper"),
        ({"seconds": 0.2, "dial": dial(lambda *_: time.sleep(0.4))}, r"longer than 0\.2 s"),
    ],
)  # fmt: skip
def test_problems_of_plain_classes(attributes: dict[str, Any], says: str) -> None:
    Shared.dials = 0
    problems = check(**attributes)
    assert any(re.search(says, problem) for problem in problems), problems
    assert all("\n" not in problem and len(problem) < 420 for problem in problems)


def tool(body: Callable[[Any], object]) -> Any:
    """A further tool, which the gold solution does not call."""

    def look(self: Any, item: str = "safe") -> str:
        """Look at something."""
        return f"You see {body(self)}."

    return look


def look_in_common(self: Any) -> list[int]:
    Shared.tools.append(1)
    return Shared.tools


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"look": tool(lambda self: random.random())}, r"second time: step \d, look.item='safe'."),
        ({"look": tool(lambda self: look_in_common(self)), "reset": in_common},
         "with another episode in progress.*: step "),
    ],
)  # fmt: skip
def test_tools_that_no_solution_calls_are_walked_too(attributes: dict[str, Any], says: str) -> None:
    Shared.tools = []
    problems = check(limit=1, **attributes)
    assert len(problems) == 1 and re.search(says, problems[0].replace('"', "'")), problems


def test_every_tool_is_walked_even_if_each_ends_the_episode() -> None:
    def ending(number: int) -> Any:
        def end(self: Any) -> str:
            """End it."""
            self.done = True
            return str(random.random()) if number == 4 else ""

        return end

    tools = {f"end{number}": ending(number) for number in range(5)}
    (problem,) = check(limit=1, **tools)
    assert "the second time: step 1, end4()" in problem


class Quiz:
    """Answer the question."""

    tasks: ClassVar[list[dict[str, Any]]] = [
        {"answer": f"colour {n}", "question": f"What is number {n}?", "id": n} for n in range(6)
    ]

    def reset(self, answer: str, question: str, id: int) -> str:
        self.answer, self.given = answer, ""
        return f"Question: {question.upper()}"

    def say(self, text: str) -> None:
        """Say the answer."""
        self.given, self.done = text, True

    def reward(self) -> float:
        return float(self.given == self.answer)

    def gold(self) -> list[str]:
        return [f"say(text={self.answer!r})"]


def examined(cls: type[Any], **attributes: Any) -> tuple[tuple[str, ...], dict[str, str]]:
    made = type("Variant", (cls,), {"__doc__": cls.__doc__, **attributes})
    report = examine_suite(PlainSuite(made, sandbox=make_sandbox))
    return report.problems, report.checked


def test_memory_looks_tasks_up_by_what_the_agent_sees() -> None:
    (problem,), checked = examined(Quiz)
    assert "and in 5 more tasks: memory looks tasks up by the field 'answer', which the" in problem
    assert problem.endswith("set `prompt = 'question'` in the class.")
    assert checked["memory"] == "see above" and checked["determinism"].startswith("18 steps")
    assert examined(Quiz, prompt="question")[0] == ()
    hidden = {"reset": lambda self, answer, question, id: Quiz.reset(self, answer, "?", id) + "?"}
    hidden["reset"].__annotations__ = Quiz.reset.__annotations__
    (problem,), _ = examined(Quiz, **hidden)
    assert problem.endswith("set `prompt = 'family'` in the class.")
    problems, checked = examined(Quiz, prompt="family", **hidden)
    assert not problems and checked["memory"] == "looks tasks up by their family"


def test_the_summary_does_not_contradict_the_problems() -> None:
    problems, checked = examined(Quiz, prompt="question", reward=lambda self: None)
    assert len(problems) == 1 and "reward returned None, not a number" in problems[0]
    assert checked["rewards"] == "see above"
    assert {checked[part] for part in ("gold", "clean-up", "determinism")} == {"not examined"}
    assert checked["tools"] == "1 tool: descriptions and types"

    def broken(self: Any, answer: str, question: str, id: int) -> str:
        raise KeyError(answer)

    problems, checked = examined(Quiz, prompt="question", reset=broken)
    assert len(problems) == 1 and "and in 5 more tasks" in problems[0]
    told = {name: line for name, line in checked.items() if name not in ("tasks", "limits")}
    assert set(told.values()) == {"not examined"}

    without = {n: value for n, value in vars(Quiz).items() if n[0] != "_" and n != "gold"}
    no_gold = type("Quiz", (), {"__doc__": "Play.", **without})
    problems, checked = examined(no_gold, prompt="question")
    assert problems == () and checked["gold"] == "there is none"
    problems, checked = examined(Quiz, prompt="question", close=lambda self: 1 / 0)
    assert len(problems) == 1 and checked["clean-up"] == "see above"


def test_one_mistake_is_one_line() -> None:
    def say(self: Any, text: str) -> None:
        Quiz.say(self, text)

    def look(self: Any) -> str:
        """Look around."""
        return "a room"

    parts = {name: value for name, value in vars(Quiz).items() if not name.startswith("__")}
    more = {"__doc__": "Play.", "say": say, "look": look, "prompt": "question"}
    bare = type("Bare", (), parts | more)
    example = ("What is blue?", "say(text='a colour')")
    problems, checked = examined(bare, example=example)
    assert len(problems) == 1 and "Variant.say has no docstring" in problems[0]
    assert checked["gold"] == "not examined" and checked["tools"] == "see above"

    def failing(self: Any, text: str) -> None:
        """Say the answer."""
        raise KeyError(text)

    problems, checked = examined(Quiz, prompt="question", say=failing)
    assert len(problems) == 1 and "and in 5 more tasks" in problems[0]
    assert checked["garbage"] == "see above"
    assert "raised KeyError: 'colour 0', which the class did not foresee" in problems[0]

    problems, _ = examined(Quiz, prompt="question", reward=lambda self: 1.0)
    assert len(problems) == 1 and "earned the full reward" in problems[0]


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"turn": 3}, "Variant.turn is nothing that Instar knows: did you mean turns"),
        ({"second": 1}, "did you mean seconds"),
        ({"max_new_token": 5}, "did you mean max_new_tokens"),
        ({"max_turns": 5}, "did you mean turns"),
        ({"exemple": ("a", "b")}, "did you mean example"),
        ({"metric": lambda self: {}}, "Variant.metric is .*: did you mean metrics"),
        ({"turn": 0}, None), ({"names": ["a"]}, None), ({"second": 1, "seconds": 9}, None),
        ({"turn": True}, None), ({"rows": 3}, None),
    ],
)  # fmt: skip
def test_misspelt_names(attributes: dict[str, Any], says: str | None) -> None:
    problems, _ = examined(Quiz, prompt="question", **attributes)
    assert len(problems) == (says is not None)
    assert says is None or re.search(says, problems[0]), problems


def test_an_episode_that_goes_on_after_the_solution() -> None:
    def say(self: Any, text: str) -> None:
        """Say the answer."""
        self.given = text

    (problem,), checked = examined(Quiz, prompt="question", say=say)
    assert "earns 1, and yet the episode goes on" in problem and "self.done = True" in problem
    assert checked["gold"] == "see above"


def test_a_class_needs_a_docstring_or_a_base_that_has_one() -> None:
    assert check(__doc__=None) == []  # Safe has one
    parts = {name: value for name, value in vars(Safe).items() if not name.startswith("__")}
    problems = check(type("Bare", (), parts), __doc__=None)
    assert len(problems) == 1 and "Variant has no docstring; it is what the agent" in problems[0]


def left_process(self: Any) -> None:
    self.process = subprocess.Popen(["sleep", "30"])
    PROCESSES.append(self.process)


PROCESSES: list[subprocess.Popen[bytes]] = []
WAIT = threading.Event()
OPEN: list[Any] = []


@pytest.fixture
def tidy(nothing_leaks: Any) -> Iterator[None]:
    yield
    for process in PROCESSES:
        process.kill()
        process.wait()
    WAIT.set()
    for file in OPEN:
        file.close()
    for path in nothing_leaks.iterdir():
        path.rmdir()
    PROCESSES.clear(), OPEN.clear(), WAIT.clear()


@pytest.mark.parametrize(
    ("leaves", "says"),
    [
        (left_process, r"a process it started is still there \(sleep\); close\(\) must end it"),
        (lambda self: threading.Thread(target=WAIT.wait, name="clock", daemon=True).start(),
         r"a thread it started is still running \(clock\)"),
        (lambda self: tempfile.mkdtemp(prefix="safe-"),
         r"a temporary file or folder is left \(safe-\w+\)"),
        (lambda self: OPEN.append(Path("/dev/null").open()),  # noqa: SIM115
         r"is still open \(/dev/null\)"),
    ],
    ids=["process", "thread", "folder", "file"],
)  # fmt: skip
@pytest.mark.usefixtures("tidy")
def test_what_is_left_behind(leaves: Callable[[Any], Any], says: str) -> None:
    def reset(self: Any, hint: str, code: list[int]) -> str:
        leaves(self)
        return Safe.reset(self, hint, code)

    problems = check(limit=1, reset=reset)
    assert any(re.search(says, problem) for problem in problems), problems


@pytest.mark.usefixtures("tidy")
def test_the_same_leak_in_several_tasks_is_one_line() -> None:
    def reset(self: Any, hint: str, code: list[int]) -> str:
        tempfile.mkdtemp(prefix="safe-")
        return Safe.reset(self, hint, code)

    (problem,) = check(limit=2, reset=reset)
    assert "and in 1 more task: after close() a temporary file or folder is left" in problem


@pytest.mark.usefixtures("tidy")
def test_what_is_made_once_is_no_leak() -> None:
    def reset(self: Any, hint: str, code: list[int]) -> str:
        if not PROCESSES:
            left_process(self)
        return Safe.reset(self, hint, code)

    assert check(reset=reset) == []


def test_leaks_wait_for_what_is_about_to_end() -> None:
    leaks = Leaks()
    thread = threading.Thread(target=time.sleep, args=(0.2,))
    thread.start()
    assert leaks.found() == []
    leaks.close()


class World:
    """A world of the full protocol; what it answers is set on the class."""

    tools: Sequence[Tool] = (
        Tool(name="go", description="Go.", parameters={"properties": {"x": {"type": "string"}}}),
    )
    answer: Any = StepResult(observation="ok")
    valid_actions: Sequence[str] = ()

    def start(self) -> str:
        return "hello"

    def step(self, action: Action) -> StepResult:
        answer: StepResult = self.answer
        return answer

    def close(self) -> None:
        pass


class Worlds:
    name, description, briefing = "worlds", "for tests", Briefing(turns=3)

    def __init__(self, **attributes: Any) -> None:
        self.kind = type("World", (World,), attributes)

    def tasks(self) -> Sequence[Task]:
        return [Task(suite="worlds", family="f", prompt=p) for p in "ab"]

    def environment(self, task: Task) -> World:
        return self.kind()


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"answer": "ok"}, r"^Task \w+ \(f\), and in 1 more task: .* a str, not a StepResult"),
        ({"answer": StepResult(observation="\ud800")}, "half a character"),
        ({"tools": (Tool(name="go", description=" "),)}, "the tool go has no description"),
        ({"tools": (*World.tools, *World.tools)}, "two of its tools have the same name"),
        ({"tools": (Tool(name="go", description="x", parameters={"properties": {"x": {}}}),)},
         "the parameter x of the tool go has no type"),
        ({"tools": 5}, "tools is 5, not a sequence of Tool"),
        ({"tools": ("go",)}, r"tools is \('go',\), not a sequence of Tool"),
        ({"valid_actions": 5}, "valid_actions is 5, not a sequence of texts"),
        ({"valid_actions": ("go x", "")}, "valid_actions is .*not a sequence of texts"),
        ({"valid_actions": ("x",), "answer": StepResult(observation="no", error="bad")},
         "valid_actions offers 'x', which is refused: no"),
    ],
)  # fmt: skip
def test_problems_of_the_full_protocol(attributes: dict[str, Any], says: str) -> None:
    assert check_suite(Worlds()) == []
    problems = check_suite(Worlds(**attributes))
    assert any(re.search(says, problem) for problem in problems), problems


def test_one_hanging_task_is_enough() -> None:
    class Hanging(World):
        seconds = 0.1
        started: ClassVar[list[int]] = []

        def start(self) -> str:
            self.started.append(1)
            time.sleep(0.2)
            return "hello"

    suite = Worlds()
    suite.kind = Hanging
    (problem,) = check_suite(suite)
    assert "start() raised EnvironmentFailure: start took longer than 0.1 s" in problem
    assert len(Hanging.started) == 1


def test_one_hanging_close_is_enough() -> None:
    class Hanging(World):
        seconds = 0.1
        closed: ClassVar[list[int]] = []

        def close(self) -> None:
            self.closed.append(1)
            time.sleep(0.2)

    suite = Worlds()
    suite.kind = Hanging
    (problem,) = check_suite(suite)
    assert "close() raised EnvironmentFailure: close took longer than 0.1 s" in problem
    assert len(Hanging.closed) == 1


def raising(*_: Any) -> Any:
    raise RuntimeError("not\ntoday")


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"environment": lambda task: None}, r"environment\(\) returned None, which is no"),
        ({"environment": raising}, r"start\(\) raised RuntimeError: not today$"),
        ({"gold": lambda task: ["go"]}, r"gold\(\) returned \['go'\], not a sequence of Action"),
        ({"gold": lambda task: 5}, r"gold\(\) returned 5, not a sequence of Action"),
        ({"fields": raising, "spawn": raising}, r"^fields\(\) and spawn\(\) raised RuntimeError"),
        ({"vouched": raising}, r"vouched\(\) raised RuntimeError: not today$"),
        ({"vouched": lambda task: "yes"}, r"vouched\(\) returned 'yes', not True or False"),
        ({"canary": raising}, r"canary\(\) raised RuntimeError: not today$"),
        ({"canary": lambda task, seed: task.model_copy(update={"prompt": "c"})},
         r"canary\(\) returned no Task with the same prompt and family"),
        ({"abilities": ("jumping",)}, "'jumping' is no ability"),
    ],
)  # fmt: skip
def test_problems_of_what_a_suite_may_have(attributes: dict[str, Any], says: str) -> None:
    suite = Worlds()
    vars(suite).update(attributes)
    (problem,) = check_suite(suite)
    assert re.search(says, problem), problem


def test_what_a_suite_may_have() -> None:
    suite: Any = Worlds()
    suite.vouched = lambda task: task.prompt == "a"
    suite.canary = lambda task, seed: task.model_copy(update={"data": {"answer": seed}})
    suite.abilities = ("planning",)
    assert check_suite(suite) == []


def test_a_suite_needs_a_briefing() -> None:
    suite: Any = Worlds()
    suite.briefing = "Play."
    assert isinstance(suite, Suite)
    assert check_suite(suite) == ["The suite's briefing is not a Briefing (environments.base)."]


def test_a_missing_sandbox_is_no_fault_of_the_environment() -> None:
    def missing() -> Any:
        raise SandboxUnavailable("no bubblewrap: apt-get install bubblewrap")

    def reset(self: Any, hint: str, code: list[int], sandbox: Any) -> str:
        return Safe.reset(self, hint, code)

    suite = PlainSuite(type("Boxed", (Safe,), {"reset": reset}), sandbox=missing)
    with pytest.raises(SandboxUnavailable, match="apt-get install bubblewrap"):
        check_suite(suite)
