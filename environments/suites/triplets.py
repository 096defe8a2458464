"""A program, an input and an output: each to be found from the other two.

The tasks of Absolute Zero (arXiv 2505.03335, §3.2): deduction asks for the output, abduction for
an input, induction for the program. A few small programs are made by rule, so that there is
something to measure by; a policy writes more (``spawn``). Programs run in the sandbox alone, but
for those of the rule.
"""

from __future__ import annotations

import ast
import functools
import json
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from environments.base import Action, Briefing, Environment, Task
from environments.calls import expression, write_action
from environments.grading.grader import Grader, Problem, Test
from environments.kinds.code import SUBMIT, CodeAnswer
from environments.kinds.text import TextAnswer, answer_tool
from environments.sandbox.base import Sandbox

DEDUCTION, ABDUCTION, INDUCTION = KINDS = ("deduction", "abduction", "induction")
PAIRS = 6  # inputs of an induction; half of them are shown
TOOL = answer_tool("Write it as Python does, on one line.")

# By rule: a program with a number in it, and what its inputs are.
_RULES = (
    ("return x * {a} + {b}", "number"),
    ("return (x - {a}) % {b}", "number"),
    ("return [y + {a} for y in x]", "list"),
    ("return [y for y in x if y > {b}]", "list"),
    ("return sum(x) * {a}", "list"),
    ("return sorted(x)[-{a}:]", "list"),
    ("return x[::-1] + '{w}'", "text"),
    ("return x.upper() * {a}", "text"),
    ("return len(x) + {b}", "text"),
)


class Pair(NamedTuple):
    """The arguments of a call, and what it returns, each as Python writes them."""

    input: str
    output: str


class Triplets:
    """Programs, inputs and outputs.

    Args:
        per_family: tasks made by rule for each of the three questions.
        sandbox: makes the sandboxes that programs run in.
    """

    name = "triplets"
    description = "small programs, their inputs and outputs: each asked for from the other two"
    briefing = Briefing(text="You work out what programs do.", turns=1, max_new_tokens=120)

    def __init__(self, per_family: int = 90, *, sandbox: Callable[[], Sandbox]) -> None:
        self._per_family, self._sandbox = per_family, sandbox

    def tasks(self) -> Sequence[Task]:
        """Those made by rule, the three questions in turn."""
        return self._tasks

    @functools.cached_property
    def _tasks(self) -> tuple[Task, ...]:
        found: dict[str, Task] = {}
        for number in range(self._per_family * len(KINDS)):
            kind, chance = KINDS[number % len(KINDS)], random.Random(number)
            body, of = _RULES[chance.randrange(len(_RULES))]
            word = "".join(chance.choices("abcdefgh", k=2))
            body = body.format(a=chance.randrange(2, 9), b=chance.randrange(2, 30), w=word)
            program = f"def f(x):\n    {body}"
            names: dict[str, Any] = {}
            exec(program, names)  # noqa: S102  # one of the rules above
            count = PAIRS if kind == INDUCTION else 1
            inputs = [_input(of, chance) for _ in range(count)]
            pairs = [Pair(repr(x), repr(names["f"](x))) for x in inputs]
            task = made(kind, program, pairs)
            found[task.id] = task
        return tuple(found.values())

    def environment(self, task: Task) -> Environment:
        """The question of one task."""
        program, pairs = _program(task), _pairs(task)
        if task.family == INDUCTION:
            problem = Problem(
                entry="f",
                solution=program,
                public=[_test(pair) for pair in pairs[: len(pairs) // 2]],
                hidden=[_test(pair) for pair in pairs],
            )
            return CodeAnswer(task.prompt, lambda: Grader(problem, self._sandbox))
        deduces = task.family == DEDUCTION
        return TextAnswer(
            task.prompt,
            TOOL,
            read=lambda argument, text: value_of(argument if deduces else f"({argument},)"),
            grade=lambda said: float(
                said == value_of(pairs[0].output)
                if deduces
                else outputs(self._sandbox, program, [said]) == [value_of(pairs[0].output)]
            ),
            unreadable="That is no value as Python writes it.",
        )

    def gold(self, task: Task) -> Sequence[Action]:
        """The output, the input or the program."""
        pair = _pairs(task)[0]
        if task.family == INDUCTION:
            return [write_action(SUBMIT, _program(task))]
        return [write_action(TOOL, pair.output if task.family == DEDUCTION else pair.input)]

    def fields(self, task: Task) -> dict[str, str]:
        """The program, and its inputs and outputs as lists in JSON."""
        pairs = _pairs(task)
        return {
            "prompt": task.prompt,
            "family": task.family,
            "program": _program(task),
            "inputs": json.dumps([pair.input for pair in pairs]),
            "outputs": json.dumps([pair.output for pair in pairs]),
        }

    def spawn(self, fields: Mapping[str, str]) -> Task | None:
        """A task of a program, inputs and outputs that belong together; its prompt follows."""
        try:
            inputs, results = json.loads(fields["inputs"]), json.loads(fields["outputs"])
        except ValueError:
            return None
        kind, count = fields["family"], len(inputs)
        least = 2 if kind == INDUCTION else 1
        if kind not in KINDS or count != len(results) or count < least:
            return None
        pairs = [Pair(str(i), str(o)) for i, o in zip(inputs, results, strict=True)]
        return made(kind, fields["program"], pairs)


def made(kind: str, program: str, pairs: Sequence[Pair]) -> Task:
    """The question of a kind about a program and its pairs."""
    pair = pairs[0]
    if kind == DEDUCTION:
        asked = f"{program}\n\nWhat does f({pair.input}) return?"
    elif kind == ABDUCTION:
        asked = f"{program}\n\nWith which arguments does f return {pair.output}?"
    else:
        shown = "\n".join(f"f({i}) == {o}" for i, o in pairs[: len(pairs) // 2])
        asked = f"Write the function f, of which this is known:\n{shown}"
    data = {"program": program, "pairs": [list(each) for each in pairs]}
    return Task(suite=Triplets.name, family=kind, prompt=asked, data=data)


def value_of(text: str) -> str | None:
    """A literal as Python itself writes it; None where it is none."""
    try:
        return repr(ast.literal_eval(expression(text.strip())))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def outputs(
    sandbox: Callable[[], Sandbox], program: str, inputs: Sequence[str]
) -> list[str | None]:
    """What a program's f returns, as Python writes it; None for what is no value.

    Args:
        sandbox: makes the sandbox that it runs in.
        program: defines f.
        inputs: arguments of a call each, as a tuple or separated by commas; literals, or the
            program is not asked.
    """
    calls = [value_of(f"({text},)" if not text.startswith("(") else text) for text in inputs]
    if None in calls:
        return [None] * len(inputs)
    mark = secrets.token_hex(16)
    job = json.dumps({"program": program, "calls": calls, "mark": mark})
    box = sandbox()
    try:
        done = box.exec([*box.python_argv(), "-"], stdin=_RUN.format(job=job))
    finally:
        box.close()
    _, found, told = done.stdout.rpartition(mark)
    try:
        said = json.loads(told) if found else []
    except ValueError:
        said = []
    if len(said) != len(inputs):
        return [None] * len(inputs)
    return [value_of(text) if isinstance(text, str) else None for text in said]


_RUN = """
import io, json, sys
job = json.loads({job!r})
told, sys.stdout = sys.stdout, io.StringIO()
names, said = dict(__name__="program"), []
exec(compile(job["program"], "<program>", "exec"), names)
for call in job["calls"]:
    try: said.append(repr(names["f"](*eval(call))))
    except Exception: said.append(None)
told.write(job["mark"] + json.dumps(said))
"""


def _test(pair: Pair) -> Test:
    return Test(source=f"assert f({pair.input}) == {pair.output}")


def _input(of: str, chance: random.Random) -> Any:
    if of == "number":
        return chance.randrange(100)
    if of == "list":
        return [chance.randrange(40) for _ in range(chance.randrange(3, 7))]
    return "".join(chance.choices("abcdefgh", k=chance.randrange(3, 7)))


def _program(task: Task) -> str:
    return str(task.data["program"])


def _pairs(task: Task) -> list[Pair]:
    found: Any = task.data["pairs"]
    return [Pair(str(i), str(o)) for i, o in found]
