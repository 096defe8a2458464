"""Worlds that crash, hang or talk nonsense: told, stored, and the others go on."""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.loop import Assignment
from agent.policies.scripted import ScriptedPolicy
from agent.prompt import AgentSettings
from agent.rollout import rollout
from environments.base import (
    Action,
    Briefing,
    Environment,
    EnvironmentFailure,
    StepResult,
    Task,
    Tool,
)
from environments.sandbox import make_sandbox
from environments.sandbox.base import Limits, Sandbox
from memory.records import StopReason, Trajectory

LINE = Tool(
    name="say",
    description="Say something.",
    parameters={"type": "object", "properties": {"word": {"type": "string"}}},
)
LIMIT = 3.0  # seconds; for worlds that hang, whose other calls need next to nothing
HANG = threading.Event()  # what hangs waits for it, in C
SAYS = {  # what is wrong with a world → what its failure tells
    "cannot start": "ValueError: no map",
    "starts with no text": "AttributeError",
    "crashes": "ZeroDivisionError",
    "breaks": "EnvironmentFailure: the server is gone",
    "hangs": "step took longer than 3 s",
    "hangs at the start": "start took longer than 3 s",
    "returns nothing": "step returned NoneType, not a StepResult",
    "reward is no number": "the reward nan is not between 0 and 1",
    "reward is too much": "the reward 7.0 is not between 0 and 1",
    "metric is infinite": "a metric is no finite number",
    "cannot close": "closing it: OSError: busy",
    "its actions fail": "KeyError: 'door'",
}


class World:
    tools = (LINE,)

    def __init__(self, what: str, sandbox: Sandbox) -> None:
        self.what, self.sandbox, self.closed = what, sandbox, False
        self.seconds = LIMIT if what == "hangs at the start" else 60.0

    @property
    def valid_actions(self) -> Sequence[str]:
        if self.what == "its actions fail":
            raise KeyError("door")
        return ()

    def start(self) -> Any:
        if self.what == "hangs at the start":
            HANG.wait()
        self.sandbox.exec([*self.sandbox.python_argv(), "-c", "open('x', 'w').write('x')"])
        if self.what == "cannot start":
            raise ValueError("no map")
        if self.what == "hangs":
            self.seconds = LIMIT  # not before: a sandbox may take its time to start
        return 7 if self.what == "starts with no text" else "Say hello."

    def step(self, action: Action) -> Any:
        match self.what:
            case "crashes":
                return StepResult(observation=str(1 / 0))
            case "breaks":
                raise EnvironmentFailure("the server is gone")
            case "hangs":
                HANG.wait()
            case "returns nothing":
                return None
            case "reward is no number":
                return StepResult(observation="", reward=float("nan"), terminated=True)
            case "reward is too much":
                return StepResult(observation="", reward=7, terminated=True)
            case "metric is infinite":
                return StepResult(observation="", metrics={"m": float("inf")})
        return StepResult(observation="hello \ud800\x00", reward=1, terminated=True)

    def close(self) -> None:
        self.sandbox.close()
        if self.what == "cannot close" and not self.closed:
            self.closed = True
            raise OSError("busy")


class Worlds:
    name = description = "worlds"
    briefing = Briefing(turns=2)

    def tasks(self) -> Sequence[Task]:
        return [Task(suite="worlds", family="f", prompt=what) for what in (*SAYS, "works")]

    def environment(self, task: Task) -> Environment:
        return World(task.prompt, make_sandbox("bubblewrap", Limits(wall_s=20)))


def script(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    return "hello"


def children() -> set[str]:
    folder = Path("/proc/self/task")
    return {pid for task in folder.iterdir() for pid in (task / "children").read_text().split()}


@pytest.fixture(scope="module")
def played() -> Iterator[dict[str, list[Trajectory]]]:
    """Four episodes of each world, all at a time; then what is left is counted."""
    make_sandbox().close()  # the trial run, once
    folder, was = Path(tempfile.mkdtemp(prefix="instar-tests-")), tempfile.tempdir
    folder.chmod(0o711)
    tempfile.tempdir = str(folder)
    before = children(), len(os.listdir("/proc/self/fd")), threading.active_count()
    policy = ScriptedPolicy("tests.agent.test_injection:script", context=1000)
    assignments = [
        Assignment(f"a/{task.prompt}/{i}", task, "train", "acquire")
        for task in Worlds().tasks()
        for i in range(4)
    ]
    found: dict[str, list[Trajectory]] = {}
    for batch in rollout(assignments, policy, Worlds(), AgentSettings(), seed=0):
        for t in batch:
            found.setdefault(t.slot.split("/")[1], []).append(t)
    tempfile.tempdir = was
    HANG.set()
    left = time.monotonic() + 60  # a thread that hung is stopped at its next line of Python
    while time.monotonic() < left and threading.active_count() > before[2]:
        time.sleep(0.1)
    assert threading.active_count() <= before[2], threading.enumerate()
    assert children() == before[0] and len(os.listdir("/proc/self/fd")) == before[1]
    assert list(folder.iterdir()) == []
    folder.rmdir()
    yield found


@pytest.mark.parametrize("what", SAYS)
def test_a_broken_world_is_told_and_is_nobodys_loss(
    played: dict[str, list[Trajectory]], what: str
) -> None:
    assert len(played[what]) == 4
    for t in played[what]:
        assert t.failure is not None and SAYS[what] in t.failure.message
        assert (t.failure.source, t.stop) == ("environment", StopReason.FAILED)
        assert not t.success and t.reward == 0
        assert Trajectory.model_validate_json(t.model_dump_json()) == t  # it can be stored


def test_the_others_go_on(played: dict[str, list[Trajectory]]) -> None:
    assert len(played) == len(SAYS) + 1
    for t in played["works"]:
        assert t.success and t.failure is None
        assert t.steps[-1].observation == "hello ?\x00"
