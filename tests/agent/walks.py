"""Short walks whose every step notes its process, and a script that walks: for tests of Ray.

Some of them are deadly: to the process that plays them, or to the one that generates for them.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.policies.base import PolicyFailure
from environments.base import Action, Briefing, Environment, StepResult, Task, Tool
from environments.sandbox.base import Sandbox

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
LOOK = Tool(name="look", description="Looks around.", parameters={})
SAY = Tool(name="say", description="Says something.", parameters=TEXT)
THINK_S = 0.02  # of the script, so that an engine has always something to do


class Walks:
    """Walk 0, walk 1, …; each takes three turns.

    Args:
        log: file to which every start of a walk and every step is written, with its process.
        pause: seconds of a step.
    """

    name = "walks"
    description = "Short walks, for tests."
    briefing = Briefing(text="You walk.", turns=4, max_new_tokens=80)

    def __init__(
        self, sandbox: Callable[[], Sandbox] | None = None, log: str = "", pause: float = 0.0
    ):
        self.log, self.pause = log, pause

    def tasks(self) -> Sequence[Task]:
        return walks(40)

    def environment(self, task: Task) -> Environment:
        return Walk(task.prompt, self.log, self.pause)


def walks(count: int, kind: str = "walk") -> list[Task]:
    return [Task(suite="walks", family="walk", prompt=f"{kind} {n}.") for n in range(count)]


class Walk:
    tools = (LOOK, SAY)

    def __init__(self, prompt: str, log: str, pause: float):
        self.prompt, self.log, self.pause = prompt, log, pause

    def start(self) -> str:
        self._note("start")
        return self.prompt

    def step(self, action: Action) -> StepResult:
        self._note("step")
        if self.prompt.startswith("deadly walk"):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(20 * self.pause if self.prompt.startswith("slow walk") else self.pause)
        if action.tool == "say":
            said = str(action.arguments.get("text"))
            return StepResult(observation="End.", reward=float("5" in said), terminated=True)
        return StepResult(observation=f"A stone, on {self.prompt}")

    def close(self) -> None:
        pass

    def _note(self, what: str) -> None:
        if self.log:
            with Path(self.log).open("a") as file:  # one write, so lines stay whole
                file.write(f"{what}|{self.prompt}|{os.getpid()}\n")


def noted(log: Path, what: str) -> Counter[tuple[str, int]]:
    """How often something was noted, by the walk and the process."""
    lines = [line.split("|") for line in log.read_text().splitlines()]
    return Counter((prompt, int(process)) for kind, prompt, process in lines if kind == what)


def script(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Looks, searches memory, and says a number that its seed decides."""
    time.sleep(THINK_S)
    if "fatal walk" in prompt:
        os.kill(os.getpid(), signal.SIGKILL)
    if "unspeakable walk" in prompt:
        raise PolicyFailure("there are no words for this walk")
    turn = prompt.count("<assistant>")
    if turn == 1:
        return "look()"
    return 'memory_search(query="stones")' if turn == 2 else f'say(text="{chance.random():.6f}")'
