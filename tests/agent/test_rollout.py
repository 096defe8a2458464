"""Many episodes in flight: what has ended is kept, whatever happens to the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest

from agent.loop import Assignment
from agent.policies.scripted import ScriptedPolicy
from agent.prompt import AgentSettings
from agent.rollout import rollout
from environments.base import Briefing, Environment, Task
from environments.sandbox.base import SandboxUnavailable
from memory.recall import Recall
from memory.records import Trajectory

TASKS = [Task(suite="s", family="f", prompt=prompt) for prompt in ("broken", "none")]
Play = Callable[..., list[list[str | None]]]


class Worlds:
    """One world that breaks, and one that cannot be made on this machine."""

    name = description = "worlds"
    briefing = Briefing()

    def tasks(self) -> Sequence[Task]:
        return TASKS

    def environment(self, task: Task) -> Environment:
        if task.prompt == "broken":
            raise RuntimeError("it fell over")
        raise SandboxUnavailable("no sandbox here")


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Run episodes that all have ended when the policy's thread looks up."""
    episodes: list[Future[Trajectory]] = []

    class Pool(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            episodes.append(super().submit(*args, **kwargs))
            return episodes[-1]

    class Busy(ScriptedPolicy):
        busy = True  # type: ignore[assignment]

        def step(self) -> list[tuple[object, object]]:  # type: ignore[override]
            wait(episodes)
            return []

    def go(recall: Callable[[], Recall] | None, tasks: Sequence[Task]) -> list[list[str | None]]:
        policy = Busy("tests.toy:script", context=1000)
        assignments = [Assignment(t.prompt, t, "train", "acquire", recall=recall) for t in tasks]
        seen: list[list[str | None]] = []
        for ended in rollout(assignments, policy, Worlds(), AgentSettings(), seed=0):
            seen.append([t.failure.message if t.failure else None for t in ended])
            print(seen)
        return seen

    monkeypatch.setattr("agent.rollout.ThreadPoolExecutor", Pool)
    return go


def test_what_has_ended_is_handed_out_before_the_rollout_fails(
    capsys: pytest.CaptureFixture[str], play: Play
) -> None:
    with pytest.raises(SandboxUnavailable, match="no sandbox here"):
        play(None, TASKS)
    assert capsys.readouterr().out.strip() == "[['RuntimeError: it fell over']]"


def test_a_memory_that_fails_is_no_episodes_fault(play: Play) -> None:
    def lost() -> Recall:
        raise OSError("the index is gone")

    with pytest.raises(OSError, match="the index is gone"):
        play(lost, TASKS[:1])


def test_no_call_of_a_world_takes_longer_than_allowed() -> None:
    go_on = threading.Event()

    class Stuck(Worlds):
        def environment(self, task: Task) -> Environment:
            go_on.wait()
            raise AssertionError("nobody waits for it any more")

    policy = ScriptedPolicy("tests.toy:script", context=1000)
    assignments = [Assignment("a", TASKS[0], "train", "acquire")]
    try:
        ((t,),) = rollout(assignments, policy, Stuck(), AgentSettings(), seed=0, seconds=0.2)
    finally:
        go_on.set()
    assert t.failure is not None and t.failure.message.endswith("making it took longer than 0.2 s")
