"""Many episodes in flight: what has ended is kept, whatever happens to the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest

from agent.loop import Assignment
from agent.policies.scripted import ScriptedPolicy
from agent.prompt import AgentSettings
from agent.rollout import rollout
from environments.base import Briefing, Environment, Task
from environments.sandbox.base import SandboxUnavailable
from memory.recall import Recall

TASKS = [Task(suite="s", family="f", prompt=prompt) for prompt in ("broken", "none")]


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


class Busy(ScriptedPolicy):
    """Generates for so long that all episodes have ended when it looks up."""

    busy = True  # type: ignore[assignment]

    def step(self) -> list[tuple[object, object]]:  # type: ignore[override]
        time.sleep(0.5)
        return []


def play(recall: Callable[[], Recall] | None, tasks: Sequence[Task]) -> list[list[str | None]]:
    policy = Busy("tests.toy:script", context=1000)
    assignments = [Assignment(t.prompt, t, "train", "acquire", recall=recall) for t in tasks]
    seen: list[list[str | None]] = []
    for ended in rollout(assignments, policy, Worlds(), AgentSettings(), seed=0):
        seen.append([t.failure.message if t.failure else None for t in ended])
        print(seen)
    return seen


def test_what_has_ended_is_handed_out_before_the_rollout_fails(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SandboxUnavailable, match="no sandbox here"):
        play(None, TASKS)
    assert capsys.readouterr().out.strip() == "[['RuntimeError: it fell over']]"


def test_a_memory_that_fails_is_no_episodes_fault() -> None:
    def lost() -> Recall:
        raise OSError("the index is gone")

    with pytest.raises(OSError, match="the index is gone"):
        play(lost, TASKS[:1])
