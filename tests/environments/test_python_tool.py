"""The environment whose one tool is Python."""

from collections.abc import Callable, Iterator

import pytest

from environments.base import Action, Environment, EnvironmentFailure, StepResult
from environments.kinds.python import PythonAnswer
from environments.sandbox import make_sandbox
from environments.sandbox.base import Limits, Sandbox, SandboxUnavailable


def call(code: object) -> Action:
    return Action(text=str(code), tool="python", arguments={"code": code})


def exact(answer: str) -> float:
    return float(answer == "42")


@pytest.fixture
def environment() -> Iterator[PythonAnswer]:
    limits = Limits(wall_s=1.0, memory_mb=256, output_bytes=2000)
    environment = PythonAnswer("6 * 7?", exact, lambda: make_sandbox("bubblewrap", limits))
    assert environment.start() == "6 * 7?"
    yield environment
    environment.close()
    environment.close()


def goes_on(result: StepResult) -> bool:
    return not (result.reward or result.terminated or result.truncated) and bool(result.error)


def test_protocol(environment: PythonAnswer) -> None:
    assert isinstance(environment, Environment)
    assert [tool.name for tool in environment.tools] == ["python"]


@pytest.mark.parametrize(("printed", "reward"), [("42", 1.0), ("41", 0.0), (" 42 \\n\\n", 1.0)])
def test_what_is_printed_is_the_answer(
    environment: PythonAnswer, printed: str, reward: float
) -> None:
    result = environment.step(call(f"print('{printed}')"))
    assert result == StepResult(
        observation=printed.removesuffix(" \\n\\n").strip(), reward=reward, terminated=True
    )
    with pytest.raises(EnvironmentFailure, match="over"):
        environment.step(call("print(42)"))


@pytest.mark.parametrize(
    ("code", "observation", "error"),
    [
        ("\nprint(gcd(2))", "Error: NameError: name 'gcd' is not defined (line 2)", "NameError"),
        ("print(1", "Error: SyntaxError: '(' was never closed (line 1)", "SyntaxError"),
        ("def f(x):\n    return 1 / x\n\nf(0)",
         "Error: ZeroDivisionError: division by zero (line 2)", "ZeroDivisionError"),
        ("print(42); assert 0", "Error: AssertionError (line 1)", "AssertionError"),
        ("raise ValueError('a\\n  b\\n\\nc')", "Error: ValueError: a b c (line 1)", "ValueError"),
        ("raise ValueError('a\\nb')", "Error: ValueError: a b (line 1)", "ValueError"),
        ("input()", "Error: EOFError: EOF when reading a line (line 1)", "EOFError"),
        ("exit(3)", "Error: NameError: name 'exit' is not defined (line 1)", "NameError"),
        ("raise SystemExit(3)", "Error: exit status 3", "exit"),
        ("raise SystemExit('so long')", "Error: so long", "exit"),
        ("import os; os.kill(os.getpid(), 11)", "Error: killed by SIGSEGV", "exit"),
        ("x = 42", "The code printed nothing.", "no output"),
        ("", "The code printed nothing.", "no output"),
        ("print(' ')", "The code printed nothing.", "no output"),
        ("while True: pass", "Error: the code took too long and was stopped.", "timeout"),
        ("while True: print(42)", "Error: the code printed too much and was stopped.", "output"),
        ("x = 'x' * (1 << 30)", "Error: MemoryError: the code needs too much memory.",
         "MemoryError"),
    ],
)  # fmt: skip
def test_errors_are_observations(
    environment: PythonAnswer, code: str, observation: str, error: str
) -> None:
    result = environment.step(call(code))
    assert (result.observation, result.error) == (observation, error)
    assert goes_on(result)
    assert environment.step(call("print(42)")).reward == 1.0


def test_no_call_at_all() -> None:
    def no_sandbox() -> Sandbox:
        raise SandboxUnavailable("made for nothing")

    environment = PythonAnswer("?", exact, no_sandbox)
    for action, error in [
        (Action(text="42"), "no code"),
        (Action(text="x", tool="shell", arguments={"code": "ls"}), "unknown tool"),
        (Action(text="x", tool="python"), "bad arguments"),
        (call(None), "bad arguments"),
        (call(["print(42)"]), "bad arguments"),
    ]:
        result = environment.step(action)
        assert result.error == error and goes_on(result)
    with pytest.raises(SandboxUnavailable):
        environment.step(call("print(42)"))
    environment.close()


def test_odd_code(environment: PythonAnswer) -> None:
    for code in ("print('\0')", "print('\ud800')", "\x1b[2J", "#" * 300_000):
        assert environment.step(call(code)).reward == 0.0
        environment._over = False


def test_long_texts_are_cut(environment: PythonAnswer) -> None:
    result = environment.step(call("raise ValueError('x' * 999)"))
    assert len(result.observation) == 300
    assert result.observation.startswith("Error: ValueError: xxx")
    assert result.observation.endswith("x ... (line 1)")
    result = environment.step(call("print('42' + 'x' * 999)"))
    assert len(result.observation) == 500 and result.observation.endswith(" ...")


@pytest.mark.parametrize("graded", [float("nan"), float("inf"), None, "1.0x"])
def test_grades_that_are_no_grades_count_nothing(graded: object) -> None:
    environment = PythonAnswer("?", lambda answer: graded, make_sandbox)  # type: ignore[arg-type, return-value]
    result = environment.step(call("print(1)"))
    assert result.terminated and result.reward == 0.0
    environment.close()


def test_grader_that_raises_counts_nothing() -> None:
    grade: Callable[[str], float] = int
    environment = PythonAnswer("?", grade, make_sandbox)
    result = environment.step(call("print('one')"))
    assert result.terminated and result.reward == 0.0 and result.observation == "one"
    environment.close()


def test_an_attempt_sees_the_files_of_the_one_before(environment: PythonAnswer) -> None:
    environment.step(call("open('x', 'w').write('42')"))
    assert environment.step(call("print(open('x').read())")).reward == 1.0


def test_no_sandbox_is_made_before_code_runs_and_none_twice() -> None:
    made = []

    def make() -> Sandbox:
        made.append(make_sandbox())
        return made[-1]

    environment = PythonAnswer("?", exact, make)
    environment.start()
    assert made == []
    environment.step(call("x = 1"))
    environment.step(call("print(42)"))
    assert len(made) == 1
    environment.close()
