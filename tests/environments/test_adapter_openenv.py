"""An OpenEnv environment, made and served with openenv-core's own code."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import environments
from environments.adapters.openenv import OpenEnv, as_text, misfit
from environments.base import Action, EnvironmentFailure, Suite, SuiteError, Task
from environments.checks import check_suite

APP = '''
"""Guess a number from 0 to 99. Some guesses break the world."""
import os, random, time
from openenv.core.env_server import Action, Environment, Observation, State, create_app
from pydantic import Field

class Guess(Action):
    """Guesses the number."""
    number: int = Field(description="from 0 to 99", le=999)
    aloud: bool = False

class Answer(Observation):
    said: str
    tries: int = 0

class Game(Environment):
    def __init__(self):
        super().__init__()
        self.secret, self.tries = 0, 0

    def reset(self, seed=None, limit=100, **kwargs):
        self.secret, self.tries = random.Random(seed).randrange(limit), 0
        return Answer(said=f"I think of a number (game {seed}).")

    def step(self, action, timeout_s=None, **kwargs):
        self.tries += 1
        if action.number == 900:
            raise ValueError("broken")
        if action.number == 901:
            time.sleep(1000)
        if action.number == 902:
            os._exit(3)
        if action.number == self.secret:
            return Answer(said="Yes.", tries=self.tries, reward=10 - self.tries, done=True)
        less = action.number < self.secret
        return Answer(said="More." if less else "Less.", tries=self.tries, reward=-1)

    @property
    def state(self):
        return State(step_count=self.tries)

app = create_app(Game, Guess, Answer)
'''


def guess(number: Any, **more: Any) -> Action:
    return Action(text=str(number), tool="act", arguments={"number": number, **more})


@pytest.fixture
def load(
    folder: Path, gone: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., OpenEnv]]:
    (folder / "guess_server.py").write_text(APP)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    made: list[OpenEnv] = []

    def load(**options: Any) -> OpenEnv:
        if "url" not in options:
            options.setdefault("app", "guess_server:app")
        made.append(OpenEnv(**{"seeds": 3, "success": 5.0, **options}))
        return made[-1]

    yield load
    for suite in made:
        suite.close()
        suite.close()
    assert gone("guess_server:app")


def bisect(environment: Any) -> list[Any]:
    """Guess until it is right; the results."""
    low, high, results = 0, 99, []
    while not results or not results[-1].terminated:
        middle = (low + high) // 2
        results.append(environment.step(guess(middle)))
        low, high = (middle + 1, high) if "More" in results[-1].observation else (low, middle - 1)
    return results


def test_an_episode(load: Callable[..., OpenEnv]) -> None:
    suite = load()
    assert isinstance(suite, Suite)
    tasks = suite.tasks()
    assert [task.prompt for task in tasks] == [
        f"said: I think of a number (game {seed}).\ntries: 0" for seed in range(3)
    ]
    runs = []
    for stored in (*tasks, *tasks):
        task = Task.model_validate_json(stored.model_dump_json())
        environment = suite.environment(task)
        (tool,) = environment.tools
        assert tool.description == "Guesses the number."
        assert tool.parameters["required"] == ["number"]
        assert list(tool.parameters["properties"]) == ["number", "aloud"]  # type: ignore[arg-type]
        assert environment.start() == task.prompt
        runs.append(bisect(environment))
        tries = len(runs[-1])
        assert runs[-1][-1].reward == pytest.approx(min(1.0, max(0.0, (10 - tries) / 5)))
        assert runs[-1][-1].observation == f"said: Yes.\ntries: {tries}"
        assert all(result.reward == 0 for result in runs[-1][:-1])
        with pytest.raises(EnvironmentFailure, match="over"):
            environment.step(guess(1))
        environment.close()
    assert runs[:3] == runs[3:]
    assert any(run[-1].reward == 1.0 for run in runs)
    assert check_suite(suite, limit=1) == []
    # The same server, as one that others have started.
    address, server = suite._host.take()
    other = load(url=address, score="sum", fail=-10.0)
    environment = other.environment(tasks[0])
    environment.start()
    assert environment.step(guess(999)).reward == pytest.approx(9 / 15)
    assert environment.step(guess(999)).reward == pytest.approx(8 / 15)
    environment.close()
    suite._host.give_back(address, server)


def test_wrong_arguments_change_nothing(load: Callable[..., OpenEnv]) -> None:
    suite = load(seeds=1)
    environment = suite.environment(suite.tasks()[0])
    environment.start()
    for action in (
        guess("five"),
        guess(True),
        guess(1, loud=True),
        guess(1, aloud="\ud800"),
        guess(100_000),
        Action(text="", tool="act"),
    ):
        result = environment.step(action)
        assert result.error == "bad arguments" and "Call act(number, aloud)." in result.observation
    assert environment.step(Action(text="5")).error == "no call"
    assert environment.step(guess(99)).observation == "said: Less.\ntries: 1"
    environment.close()


def test_resets_from_a_file(load: Callable[..., OpenEnv], folder: Path) -> None:
    rows = [{"seed": 7, "limit": 1, "family": "easy"}, {"seed": 8, "limit": 2, "family": "less"}]
    file = folder / "resets.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = load(tasks=str(file))
    assert [task.family for task in suite.tasks()] == ["easy", "less"]
    environment = suite.environment(suite.tasks()[0])
    environment.start()
    assert environment.step(guess(0)).terminated
    environment.close()


def test_a_lost_server_is_the_environments_failure(load: Callable[..., OpenEnv]) -> None:
    suite = load(seeds=1, timeout_s=2.0)
    for number, says in ((900, "broken"), (901, "step: TimeoutError"), (902, "step: Connection")):
        environment = suite.environment(suite.tasks()[0])
        environment.start()
        with pytest.raises(EnvironmentFailure, match=says) as error:
            environment.step(guess(number))
        assert "\n" not in str(error.value)
        environment.close()
    following = suite.environment(suite.tasks()[0])
    following.start()
    assert following.step(guess(99)).error is None
    following.close()


def test_no_server_outlives_a_killed_process(
    load: Callable[..., OpenEnv], gone: Callable[..., bool], nothing_leaks: Path, folder: Path
) -> None:
    root = Path(environments.__file__).parents[1]
    code = (
        "import os, signal, tempfile\n"
        f"tempfile.tempdir = {str(nothing_leaks)!r}\n"
        "from environments.adapters.openenv import OpenEnv\n"
        "suite = OpenEnv(app='guess_server:app')\n"
        "print(os.listdir(tempfile.tempdir), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == -signal.SIGKILL and "instar-openenv-" in done.stdout, done.stderr
    assert gone("guess_server:app")
    deadline = time.monotonic() + 2
    while list(nothing_leaks.iterdir()) != [folder] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(nothing_leaks.iterdir()) == [folder]


def test_observations_and_arguments() -> None:
    assert as_text({"text": "hello", "more": None}) == "hello"
    assert as_text({"text": "hello", "at": [1, 2]}) == "text: hello\nat: [1, 2]"
    assert as_text({}) == "(nothing to see)"
    schema = {"properties": {"a": {"type": "number"}, "b": {}}, "required": ["a"]}
    assert misfit(schema, {"a": 1, "b": object}) != "" == misfit(schema, {"a": 1.5, "b": "x"})
    assert misfit(schema, {"b": 1}) == "The argument a is missing."


def test_errors_say_what_is_wrong(load: Callable[..., OpenEnv]) -> None:
    for options, says in (
        ({"app": None}, "either url"),
        ({"url": "localhost:1"}, "does not begin with http"),
        ({"url": "http://127.0.0.1:9"}, "http://127.0.0.1:9/schema gives no schema"),
        ({"app": "no_such_module:app"}, "ended with status 3: .*no_such_module"),
        ({"success": 0.0}, "must be more than"),
        ({"turns": 0}, "must be positive"),
    ):
        with pytest.raises(SuiteError, match=says) as error:
            load(**options)
        assert "\n" not in str(error.value)
