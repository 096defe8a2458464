"""A verifiers taskset, made with the package's own classes."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from environments.adapters.verifiers import Verifiers
from environments.base import EnvironmentFailure, Suite, SuiteError, Task
from environments.calls import read_action
from environments.checks import check_suite
from environments.watch import Watched

MODULE = '''
"""Say words backwards, one a line."""
import time
import verifiers.v1 as vf

class Row(vf.TaskData):
    words: list[str]
    kind: str = "short"

class Backwards(vf.Task[Row]):
    @vf.reward(weight=3.0)
    async def right(self, trace: vf.Trace) -> float:
        reply = trace.last_reply
        if reply == "raise":
            raise KeyError("broken")
        while reply == "hang":
            time.sleep(0.02)
        if reply == "nan":
            return float("nan")
        return float(reply.split("\\n") == [word[::-1] for word in self.data.words])

    @vf.reward(weight=1.0)
    async def lines(self, trace: vf.Trace) -> float:
        assert trace.num_turns == 1 and trace.messages[-1].content.strip() == trace.last_reply
        return float(len(trace.last_reply.split("\\n")) == len(self.data.words))

    @vf.metric
    async def length(self, trace: vf.Trace) -> float:
        return len(trace.last_reply)

class Config(vf.TasksetConfig):
    size: int = 4

class Words(vf.Taskset[Backwards, Config]):
    def load(self):
        for n in range(self.config.size):
            words = ["pear", "fig", "apple", "plum"][: n % 4 + 1]
            yield Backwards(Row(
                words=words,
                kind="long" if n % 4 > 1 else "short",
                system_prompt="Write each word backwards.",
                prompt="\\n".join(words),
            ), self.config.task)

class Opens(vf.Taskset[Backwards, vf.TasksetConfig]):
    def load(self):
        yield Backwards(Row(words=["a"]), self.config.task)

class Boxed(vf.Task[Row]):
    @vf.reward
    async def files(self, trace: vf.Trace, runtime: vf.Runtime) -> float:
        return 1.0

class Box(vf.Taskset[Boxed, vf.TasksetConfig]):
    def load(self):
        yield Boxed(Row(words=["a"], prompt="a"), self.config.task)

class Talk(vf.Taskset[Backwards, vf.TasksetConfig]):
    def load(self):
        yield Backwards(Row(words=["a"], prompt=[
            vf.UserMessage(content="ab?"), vf.AssistantMessage(content="ba"),
            vf.UserMessage(content="a?"),
        ]), self.config.task)

class Broken(vf.Taskset[Backwards, vf.TasksetConfig]):
    def load(self):
        raise OSError("no file\\nat all")

__all__ = ["Words"]
'''


@pytest.fixture(autouse=True)
def module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "backward_words.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))


def test_an_episode() -> None:
    suite = Verifiers("backward-words", family="kind")
    assert isinstance(suite, Suite)
    tasks = suite.tasks()
    assert [task.family for task in tasks] == ["short", "short", "long", "long"]
    assert tasks[1].prompt == "Write each word backwards.\n\npear\nfig"
    for stored in tasks:
        task = Task.model_validate_json(stored.model_dump_json())
        row: Any = task.data["row"]
        right = "\n".join(word[::-1] for word in row["words"])
        for text, reward in (
            (right, 1.0),
            (f"reply(text={right!r})".replace("'", '"'), 1.0),
            ("\n".join(row["words"]), 0.25),
            ("?\n" * 9 + "?", 0.0),
        ):
            environment = suite.environment(task)
            assert environment.start() == task.prompt
            result = environment.step(read_action(text, environment.tools))
            assert (result.reward, result.terminated) == (reward, True), (text, result)
            assert result.metrics["right"] == float(reward == 1.0)
            with pytest.raises(EnvironmentFailure, match="over"):
                environment.step(read_action(text, environment.tools))
            environment.close()
    assert result.metrics == {"right": 0.0, "lines": 0.0, "length": 19.0}
    assert check_suite(suite) == []


def test_the_same_row_is_the_same_task() -> None:
    assert len(Verifiers("backward_words:Words", {"size": 9}).tasks()) == 4
    assert len(Verifiers("backward_words:Words", {"size": 9}, limit=2).tasks()) == 2


def test_messages_of_several_turns_are_told_with_their_roles() -> None:
    (task,) = Verifiers("backward_words:Talk").tasks()
    assert task.prompt == "user: ab?\n\nassistant: ba\n\nuser: a?"


def test_no_reply_changes_nothing() -> None:
    suite = Verifiers("backward-words")
    environment = suite.environment(suite.tasks()[0])
    environment.start()
    assert environment.step(read_action(" \n", environment.tools)).error == "no reply"
    assert environment.step(read_action("raep", environment.tools)).reward == 1.0


@pytest.mark.parametrize("how", ["raise", "nan", "hang"])
def test_a_broken_grader_is_the_environments_failure(how: str) -> None:
    suite = Verifiers("backward-words", timeout_s=0.5)
    environment = Watched(suite.environment(suite.tasks()[0]))
    environment.start()
    says = {"raise": "KeyError", "nan": "no reward", "hang": "longer than 0.5 s"}
    with pytest.raises(EnvironmentFailure, match=says[how]) as error:
        environment.step(read_action(how, environment.tools))
    assert "\n" not in str(error.value)
    environment.close()
    while any(thread.name == "environment" for thread in threading.enumerate()):
        time.sleep(0.02)  # the abandoned one is stopped at its next line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"taskset": "no-such-taskset"}, "taskset no-such-taskset: ModuleNotFoundError"),
        ({"taskset": "backward_words:Row"}, "is no Taskset"),
        ({"taskset": "backward_words:Nothing"}, "AttributeError"),
        ({"taskset": "backward_words:Opens"}, "has no prompt"),
        ({"taskset": "backward_words:Box"}, r"needs a runtime \(files\)"),
        ({"taskset": "backward_words:Broken"}, "cannot be loaded: OSError: no file at all"),
        ({"taskset": "backward-words", "config": {"size": "x"}}, "config size: "),
        ({"taskset": "backward-words", "config": {"size": 0}}, "holds no tasks"),
        ({"taskset": "backward-words", "family": "words"}, "family=words is no text field"),
        ({"taskset": "backward-words", "limit": 0}, "must be positive"),
    ],
)
def test_errors_say_what_is_wrong(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SuiteError, match=says) as error:
        Verifiers(**options)
    assert "\n" not in str(error.value)
