"""Scripts and suites for tests of feedback and corrections: a policy that is wrong until told.

What it is told is of use only if it holds what makes the method: the tool's words, the trace, the
principle, the answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from environments.base import Action, Briefing, Environment, StepResult, Task
from environments.calls import write_action
from environments.kinds.code import SUBMIT
from environments.kinds.python import PYTHON
from tests.agent import doors
from tests.toy import CODE, ToySuite


def code_for(asked: str) -> str:
    """The right program for the last task in a text."""
    said, code, _ = CODE[doors.family(asked)]
    value = re.findall(re.escape(said.split("{x}")[0]) + r"(\d+)", asked)[-1]
    return code.format(x=value)


def pupil(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Its programs fail, until MEND, a hint or a help stands before the task."""
    asked = doors.question(prompt)
    if "You review attempts" in prompt:
        return review(asked)
    if "You judge attempts" in prompt:
        return judge(asked)
    if "You explain attempts" in prompt:
        return "Help is at hand." if doors.family(asked) == "double" else "Nothing to say."
    told = any(word in asked for word in ("MEND", "Hint, this is right", "Help is at hand"))
    return (code_for(asked) if told else "print(undefined)") + "\n```\n"


def review(asked: str) -> str:
    """What it says of an attempt: of use only where the method's own means stand before it."""
    if "write STOP" in asked:  # Self-Refine
        return "STOP" if doors.family(asked) == "square" else "MEND it."
    if "Principle:" in asked or "Review your previous attempt" in asked:
        return "MEND it."
    if "The tool returned:" in asked:  # CRITIC
        return "MEND it." if "NameError" in asked else "It looks fine."
    if "What happens when it runs:" in asked:  # Self-Debug
        return "MEND it." if "line 1; NameError" in asked else "It prints a name."
    if "is missing" in asked:  # the pass of omission finds nothing, that of evidence does
        return "Nothing is."
    return "MEND it."


def judge(asked: str) -> str:
    """Believes what does not crash, and squares whatever comes of them."""
    good = "NameError" not in asked or doors.family(asked) == "square"
    if "Write the grade" in asked:
        return "5" if good else "1"
    if "Which attempt is better" in asked:
        return better(asked)
    return "yes" if good else "no"


def better(asked: str) -> str:
    """Prefers what is right; where neither or both are, what stands first."""
    first, second = asked.split("\n\nB. ")
    wrong = ["NameError" in first, "NameError" in second]
    return "B" if wrong == [True, False] else "A"


def first_always(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Half right; as a judge it prefers whatever stands first."""
    if "You judge attempts" in prompt:
        return "A"
    asked = doors.question(prompt)
    return (code_for(asked) if chance.random() < 0.5 else "print(undefined)") + "\n```\n"


def half(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Right half of the time, in words of its own; judges as `judge` does."""
    if "You judge attempts" in prompt:
        return judge(doors.question(prompt))
    asked = doors.question(prompt)
    words = "".join(chance.choices("abcdefghij", k=8))
    code = code_for(asked) if chance.random() < 0.5 else "print(undefined)"
    return f"{code}  # {words}\n```\n"


def planner(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Opens things only once it is told which step failed."""
    asked = doors.question(prompt)
    done = re.search(r"Done (\d)\.", asked)
    able = "Step 1 of the plan fails: wait gives: Nothing happens." in prompt
    return (doors.steps(prompt)[int(done[1]) if done else 0] if able else "wait") + "\n"


class Known(ToySuite):
    """The toy suite with its answers known."""

    name = "known"

    def gold(self, task: Task) -> Sequence[Action]:
        return [write_action(PYTHON, f"print({task.data['answer']})")]


class _Function:
    """A function to write, graded by its looks: what CodeT says of it is the point."""

    tools = (SUBMIT,)

    def __init__(self, task: Task) -> None:
        self.task = task

    def start(self) -> str:
        return self.task.prompt

    def step(self, action: Action) -> StepResult:
        right = f"x + {self.task.data['by']}" in str(action.arguments.get("code"))
        return StepResult(observation="Submitted.", reward=float(right), terminated=True)

    def close(self) -> None:
        pass


class Functions:
    """Functions that add a number."""

    name = "functions"
    description = "Functions to write, for tests."
    briefing = Briefing(text="Write the function.", turns=1, max_new_tokens=120)

    def __init__(self, sandbox: object):
        pass

    def tasks(self) -> Sequence[Task]:
        return [
            Task(suite="functions", family="add", prompt=f"Write add to add {n}.", data={"by": n})
            for n in range(100)
        ]

    def environment(self, task: Task) -> Environment:
        return _Function(task)


WAYS = ("return x + {n}", "return x - {n}", "import os; os._exit(0)")


def coder(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Writes right and wrong functions, one that would end the tests, and tests mostly right."""
    n = int(re.findall(r"to add (\d+)", prompt)[-1])
    if "You write tests" in prompt:
        return (
            f"assert add(1) == {1 + n}\nassert add(5) == {5 + n}\n"
            f"assert add(1) == {1 - n}\nprint('not a test')\nassert sub(1) == 0\n"
        )
    return f"def add(x):\n    {chance.choice(WAYS).format(n=n)}\n```\n"


FAR = 10**6  # by so much a wrong answer is off


def unsure(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Right half of the time; reckons back from right answers, and half the time from wrong."""
    asked = doors.question(prompt)
    if "What is the unknown X?" in asked:
        wrong, answer = divmod(int(asked.split("The answer is:\n| ")[1].split()[0]), FAR)
        back = {"Double": answer / 2, "Which": answer - 1, "Square": answer**0.5}
        told = next(value for word, value in back.items() if word in asked)
        return "0" if wrong and chance.random() < 0.5 else f"{told:g}"
    code = code_for(asked)
    return (code if chance.random() < 0.5 else code.replace("(", f"({FAR} + ")) + "\n```\n"


class _Scored:
    """Graded between 0 and 1: how much of the answer is there, and what of the way."""

    def __init__(self, inner: Environment, share: float) -> None:
        self.inner, self.share = inner, share
        self.tools = inner.tools

    def start(self) -> str:
        return self.inner.start()

    def step(self, action: Action) -> StepResult:
        done = self.inner.step(action)
        if done.reward or not done.terminated:
            return done
        return done.model_copy(update={"reward": self.share, "metrics": {"half": 1.0}})

    def close(self) -> None:
        self.inner.close()


class Scored(ToySuite):
    """The toy suite, where a program that prints something wrong earns 0.75."""

    name = "scored"

    def environment(self, task: Task) -> Environment:
        return _Scored(super().environment(task), 0.75)


def middling(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Right with doubles, nearly so with what is next, wrong with squares."""
    asked = doors.question(prompt)
    own = doors.family(asked)
    code = {"double": code_for(asked), "next": "print(0)", "square": "print(undefined)"}[own]
    return f"{code}\n```\n"


def stubborn(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Always finds something new to say, and never mends it."""
    if "You review attempts" in prompt:
        return f"Try harder, {doors.number(prompt)}, {prompt.count('undefined')}."
    return pupil(prompt, chance, learnt) if "You judge" in prompt else "print(undefined)\n```\n"


def teacher(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Right while it practises with warmth, else only with help; explains doubles alone."""
    asked = doors.question(prompt)
    if "You explain attempts" in prompt or "Help is at hand" in asked:
        return pupil(prompt, chance, learnt)
    lucky = chance.random() != random.Random(0).random()  # not greedy
    return (code_for(asked) if lucky else "print(undefined)") + "\n```\n"
