"""Worlds that compute in Python, and a script that walks through them at no cost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from environments.base import Action, Briefing, Environment, StepResult, Task, Tool
from environments.sandbox.base import Sandbox

STEPS = 4
LOOK = Tool(name="look", description="Looks around.", parameters={})


class Busy:
    """Tasks whose environments keep an interpreter busy.

    Args:
        count: how many tasks.
        step_ms: processor time of a step, in milliseconds.
    """

    name = "busy"
    description = "Worlds that compute, for a benchmark."
    briefing = Briefing(text="You walk.", turns=STEPS, max_new_tokens=16)

    def __init__(
        self, sandbox: Callable[[], Sandbox] | None = None, count: int = 200, step_ms: float = 10
    ):
        self.count, self.step_ms = count, step_ms

    def tasks(self) -> Sequence[Task]:
        return [Task(suite="busy", family="walk", prompt=f"Walk {n}.") for n in range(self.count)]

    def environment(self, task: Task) -> Environment:
        return World(task.prompt, self.step_ms)


class World:
    tools = (LOOK,)

    def __init__(self, prompt: str, step_ms: float):
        self.prompt, self.step_ms = prompt, step_ms

    def start(self) -> str:
        return self.prompt

    def step(self, action: Action) -> StepResult:
        until = time.thread_time() + self.step_ms / 1e3
        while time.thread_time() < until:
            sum(range(200))
        return StepResult(observation="A stone.", reward=1.0)

    def close(self) -> None:
        pass


def script(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    return "look()"
