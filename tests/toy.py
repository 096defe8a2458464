"""A tiny suite and a script that plays the policy, for tests of everything around a model.

The script imitates: it solves a family once it has learnt a right answer of that family, or
sees one in its prompt, and fails where all it has been taught is wrong. Untaught, it gets
lucky now and then. It writes real code that runs in the sandbox.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from environments.base import Environment, Task
from environments.kinds.python import PYTHON_BRIEFING, PythonAnswer
from environments.nonce import nonce
from environments.sandbox.base import Sandbox

CODE = {
    "double": ("Double the number {x}.", "print({x} * 2)", lambda x: x * 2),
    "next": ("Which number follows {x}?", "print({x} + 1)", lambda x: x + 1),
    "square": ("Square the number {x}.", "print({x} ** 2)", lambda x: x * x),
}

EXCHANGE = re.compile(r"<user>([^<]*)</user><assistant>([^<]*)</assistant>")


class ToySuite:
    """Three families of one-line arithmetic."""

    name = "toy"
    description = "One-line arithmetic, for tests."
    briefing = PYTHON_BRIEFING

    def __init__(
        self,
        sandbox: Callable[[], Sandbox],
        per_family: int = 60,
        crash: str = "",
        while_exists: str = "",
    ):
        self.sandbox, self.per_family = sandbox, per_family
        self.crash = crash if not while_exists or Path(while_exists).exists() else ""

    def tasks(self) -> Sequence[Task]:
        return [
            Task(
                suite=self.name, family=family, prompt=text.format(x=x), data={"answer": str(f(x))}
            )
            for family, (text, _, f) in CODE.items()
            for x in range(10, 10 + self.per_family)
        ]

    def canary(self, task: Task, seed: int) -> Task | None:
        made_up = nonce(str(task.data["answer"]), seed)
        return task.model_copy(update={"data": {"answer": made_up}})

    def fields(self, task: Task) -> dict[str, str]:
        answer = str(task.data["answer"])
        return {"prompt": task.prompt, "family": task.family, "answer": answer}

    def spawn(self, fields: Mapping[str, str]) -> Task | None:
        data: dict[str, JsonValue] = {"answer": fields["answer"]}
        family, prompt = fields["family"], fields["prompt"]
        return Task(suite=self.name, family=family, prompt=prompt, data=data) if prompt else None

    def environment(self, task: Task) -> Environment:
        if self.crash and self.crash in task.prompt:
            raise RuntimeError("the toy world fell over")
        return PythonAnswer(
            task.prompt,
            grade=lambda text: float(text == task.data["answer"]),
            sandbox=self.sandbox,
        )


def script(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Goes on from the beginning of a code block.

    Writes the family's code if that was learnt or is shown; else mostly something wrong.
    """
    question = prompt.rsplit("<user>", 1)[1].split("</user>")[0]
    if "What was wrong" in question:
        return "It printed the wrong thing."
    for text, code, _ in CODE.values():
        stem = text.split("{x}")[0]
        asked = prompt if "Error" in question else question
        match = re.search(re.escape(stem) + r"(\d+)", asked)
        if match is None:
            continue
        taught = [answer for p, answer in learnt if stem in p.rsplit("<user>", 1)[1]]
        if "Error" not in question:
            taught += [answer for asked_, answer in EXCHANGE.findall(prompt) if stem in asked_]
        lucky = chance.random() < 0.25
        right = re.escape(code).replace(r"\{x\}", r"\d+")
        if any(re.search(right, answer) for answer in taught) if taught else lucky:
            return code.format(x=match.group(1)) + "\n```\n"
        return f"print({chance.choice(['undefined', '0'])})\n```\n"
    return "I do not know that task."
