"""A tiny world of several steps, and scripts that play a policy which learns by memory alone.

The scripts know how to do a family's tasks once its hint or a solved episode of it stands in the
prompt; without, they get lucky now and then. What they answer to a method's questions is what
that method's test needs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from environments.base import Action, Briefing, Environment, StepResult, Task, Tool
from environments.sandbox.base import Sandbox
from tests.toy import CODE, EXCHANGE

LINE = Tool(
    name="act",
    description="Write one command.",
    parameters={"type": "object", "properties": {"command": {"type": "string"}}},
)
GOAL = re.compile(r"Open the (\w+) (door|box) with key (\d+)\.")


class Opening:
    """Take the key, go there, open it; anything else changes nothing."""

    tools = (LINE,)

    def __init__(self, task: Task) -> None:
        self.prompt, self.done = task.prompt, 0
        self.way = steps(task.prompt)

    def start(self) -> str:
        return self.prompt

    def step(self, action: Action) -> StepResult:
        if action.arguments.get("command") != self.way[self.done]:
            return StepResult(observation="Nothing happens.", error="no use")
        self.done += 1
        if self.done == len(self.way):
            return StepResult(observation="It is open.", reward=1.0, terminated=True)
        return StepResult(observation=f"Done {self.done}.")

    def close(self) -> None:
        pass


class Doors:
    """Two families of things to open."""

    name = "doors"
    description = "Things to open, for tests."
    briefing = Briefing(text="You open things.", turns=5, max_new_tokens=60)

    def __init__(self, sandbox: Callable[[], Sandbox], keys: int = 18):
        self.keys = keys

    def tasks(self) -> Sequence[Task]:
        return [
            Task(suite="doors", family=thing, prompt=f"Open the {colour} {thing} with key {key}.")
            for thing in ("door", "box")
            for colour in ("red", "blue", "green", "black", "white")
            for key in range(self.keys)
        ]

    def environment(self, task: Task) -> Environment:
        return Opening(task)


def steps(prompt: str) -> list[str]:
    """How the last task in a prompt is done."""
    colour, thing, key = GOAL.findall(prompt)[-1]
    return [f"take key {key}", f"go to {colour} {thing}", f"open {colour} {thing}"]


def question(prompt: str) -> str:
    return prompt.rsplit("<user>", 1)[1].split("</user>")[0]


def family(text: str) -> str:
    """The family of the last task that a text speaks of."""
    stems = {stem: name for name, (said, _, _) in CODE.items() for stem in [said.split("{x}")[0]]}
    found = [(text.rfind(stem), name) for stem, name in stems.items()]
    found += [(m.start(), m[2]) for m in GOAL.finditer(text)]
    return max(found)[1]


def number(text: str) -> int:
    """One that the text decides, so that what is said of other tasks is said in other words."""
    return sum(map(ord, text)) % 997


def act(prompt: str, chance: random.Random) -> str:
    """What is done in a task."""
    asked = question(prompt)
    if GOAL.search(prompt) and "```" not in prompt.rsplit("<assistant>", 1)[1]:
        done = re.search(r"Done (\d)\.", asked)
        at = int(done[1]) if done else 0
        able = at or f"Hint {family(prompt)}" in prompt or chance.random() < 0.5
        return (steps(prompt)[at] if able else "wait") + "\n"
    text = prompt if "Error" in asked else asked
    own = family(text)
    said, code, _ = CODE[own]
    stem = said.split("{x}")[0]
    value = re.findall(re.escape(stem) + r"(\d+)", text)[-1]
    shown = any(stem in q for q, _ in EXCHANGE.findall(prompt)[1:])
    if f"Hint {own}" in prompt or shown or chance.random() < 0.3:
        return code.format(x=value) + "\n```\n"
    return "print(0)\n```\n"


def script(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Answers the questions of most methods; `act` in a task."""
    asked = question(prompt)
    if "next attempt" in asked:  # Reflexion
        return f"Hint {family(asked)}, try {number(asked)}."
    if "You write short general rules" in prompt:
        return rules(asked)
    if "You say why attempts" in prompt:  # ACE's reflector
        return f"It knew no {family(asked)}."
    if "You take short notes" in prompt:
        return notes(asked)
    return act(prompt, chance)


def rules(asked: str) -> str:
    own = family(asked)
    if "Title:" in asked:  # ReasoningBank
        right = "was right" in asked
        lead = "Keep to what works" if right else "Mind the pitfall"
        return "\n".join(
            f"Title: {lead} {i}\nDescription: Hint {own} number {number(asked)} of {i}.\n"
            f"Content: Do it as {own} number {number(asked)} was done."
            for i in range(5)
        )
    if "avoided this mistake" in asked:  # TRAN
        return "Be careful with these tasks." if own == "next" else f"Hint {own} is what it takes."
    if "in common" in asked:  # IML
        return f"Hint {own} as of {number(asked)}."
    if "playbook" in asked:  # ACE
        votes = ["AGREE 1"] if "\n1. " in asked else []
        votes += ["REMOVE 2"] if "\n2. " in asked and number(asked) % 3 == 0 else []
        odd = "".join(random.Random(number(asked)).choices("abcdefghijklmnopqrstuvwxyz", k=60))
        return "\n".join([*votes, f"ADD: Hint {own} {odd}."])
    if there := re.search(rf"^(\d+)\. Hint {own}\b", asked, re.MULTILINE):  # ExpeL
        bad = own in ("next", "box")
        return f"REMOVE {there[1]}\nREMOVE {there[1]}" if bad else f"AGREE {there[1]}"
    return f"ADD: Hint {own} for all of them."


def notes(asked: str) -> str:
    own = family(asked) if "Task:" in asked else "merged"
    if "Say all of this" in asked:  # TiM merges
        return "double: all of it put together"
    if "Sum up" in asked:  # MemoryBank
        return f"Tasks of {own} were met, Hint {own}."
    if own == "next":
        return f"next, best: {number(asked)} times, Hint next"
    return f"{own}, way {number(asked)}: Hint {own} it is\n{own}, other {number(asked)}: none"


def agreed(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Sure of a wrong answer to one family, of none to another (MoT)."""
    own = family(question(prompt))
    if own == "square":
        return f"print({chance.randrange(10**6)})\n```\n"
    return ("print('sure')" if own == "double" else "print(1)") + "\n```\n"


def wavering(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Mostly says the same, now and then something else (LMSI)."""
    return ("print('sure')" if chance.random() < 0.6 else f"print({chance.random()})") + "\n```\n"


def programs(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Right programs, those of one family of no use inside a function (Voyager)."""
    asked = question(prompt)
    own = family(asked)
    said, code, _ = CODE[own]
    value = re.findall(re.escape(said.split("{x}")[0]) + r"(\d+)", asked)[-1]
    if own == "square":
        return f"x = {value}\nprint(globals()['x'] ** 2)\n```\n"
    return code.format(x=value) + "\n```\n"
