"""Skills: programs that solved a task, made into functions of the task's values.

Voyager (arXiv 2305.16291) keeps a program as a skill once its environment has confirmed it.
Here the values that a program shares with its task become the parameters of a function, and the
function is kept only if calling it solves the task again, in a fresh environment.
"""

from __future__ import annotations

import ast
import copy
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from agent.evolution.update.writers.base import Situation, Written
from agent.loop import sound
from environments.base import FULL_REWARD, Task
from environments.calls import write_action
from environments.sandbox.base import SandboxUnavailable
from environments.watch import started
from memory.records import Kind, MemoryItem, Trust

if TYPE_CHECKING:
    from agent.run import Run


class SkillSettings(BaseModel):
    """Which programs become skills.

    Args:
        per_family: new ones of each family and generation, those that solved most tasks first.
        support: least number of tasks that the same function solved.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_family: int = Field(2, ge=1)
    support: int = Field(1, ge=1)


class Lifted(NamedTuple):
    """A program as a function: its definition (named ``NAME``) and the call for its own task."""

    definition: str
    call: str


NAME = "skill"


def skills(situation: Situation, settings: SkillSettings) -> Written:
    """Functions that solve a task again when they are called with its values."""
    found: dict[tuple[str, str], list[tuple[str, str, Lifted]]] = defaultdict(list)
    for solution in situation.solutions:
        t = solution.trajectory
        arguments = t.turns[-1].action.get("arguments")
        code = arguments.get("code") if isinstance(arguments, dict) else None
        lifted = lift(code, t.prompt) if isinstance(code, str) else None
        if lifted is not None:
            found[t.family, lifted.definition].append((t.slot, t.task, lifted))
    tasks = {task.id: task for task in situation.run.tasks("train")}
    known = {item.content.get("definition") for item in situation.known}
    count: dict[str, int] = defaultdict(int)
    items: list[MemoryItem] = []
    for (family, definition), uses in sorted(found.items(), key=lambda f: (-len(f[1]), f[0])):
        solved = tuple(dict.fromkeys(task for _, task, _ in uses))
        if (
            definition in known
            or len(solved) < settings.support
            or count[family] >= settings.per_family
            or not passes(situation.run, tasks[solved[0]], definition, uses[0][2].call)
        ):
            continue
        count[family] += 1
        items.append(
            MemoryItem(
                kind=Kind.SKILL,
                text=f"{definition}\n\n{uses[0][2].call}",
                key=situation.keys.get(solved[0], family),
                content={"definition": definition, "call": uses[0][2].call},
                sources=tuple(slot for slot, _, _ in uses),
                tasks=solved,
                family=family,
                trust=Trust.VERIFIED,
                born=situation.generation,
            )
        )
    return Written(items, [])


def passes(run: Run, task: Task, definition: str, call: str) -> bool:
    """Whether a function, called so, solves a task in a fresh environment."""
    try:
        with started(run.suite, task, run.config.suite.seconds) as world:
            action = write_action(world.tools[0], f"{definition}\n\n{call}\n")
            return sound(world.step(action)).reward >= FULL_REWARD
    except SandboxUnavailable:
        raise
    except Exception:  # a world that breaks over it proves nothing of it
        return False


def lift(code: str, prompt: str) -> Lifted | None:
    """A program as a function of the values that it shares with its task.

    Args:
        code: the program.
        prompt: the task's text.

    Returns:
        None where it is no program, or shares no value with the task: it cannot be general.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names = iter(_names(used))
    lifter = _Lifter(prompt, names)
    body = [lifter.visit(copy.deepcopy(statement)) for statement in tree.body]
    if not lifter.values:
        return None
    function = ast.parse(f"def {NAME}({', '.join(lifter.values)}): pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    function.body = body
    call = ", ".join(ast.unparse(value) for value in lifter.values.values())
    definition = ast.unparse(ast.fix_missing_locations(function))
    return Lifted(definition, f"{NAME}({call})")


def _names(used: set[str]) -> Iterator[str]:
    yield from (name for name in "abcdefghmnpqrstuvwxyz" if name not in used)
    number = 0
    while True:
        number += 1
        if f"value_{number}" not in used:
            yield f"value_{number}"


class _Lifter(ast.NodeTransformer):
    """Replaces what occurs in the task by parameters, the same value by the same one."""

    def __init__(self, prompt: str, names: Iterator[str]):
        self.prompt, self.names = prompt, names
        self.values: dict[str, ast.expr] = {}
        self._of: dict[str, str] = {}

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return self._lifted(node) if self._occurs(node) else node

    def visit_List(self, node: ast.List) -> ast.AST:
        if node.elts and all(map(self._occurs, node.elts)):
            return self._lifted(node)
        return self.generic_visit(node)

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        node.value = self.visit(node.value)  # its format is no value of the task
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        node.values = [
            self.visit(v) if isinstance(v, ast.FormattedValue) else v for v in node.values
        ]
        return node

    def _occurs(self, node: ast.expr) -> bool:
        if not isinstance(node, ast.Constant) or isinstance(node.value, bool | bytes):
            return False
        if isinstance(node.value, int | float):
            return (
                re.search(rf"(?<![\w.]){re.escape(repr(node.value))}(?!\w|\.\d)", self.prompt)
                is not None
            )
        return isinstance(node.value, str) and len(node.value) > 1 and node.value in self.prompt

    def _lifted(self, node: ast.expr) -> ast.Name:
        text = ast.unparse(node)
        if text not in self._of:
            name = next(self.names)
            self._of[text], self.values[name] = name, node
        return ast.Name(id=self._of[text], ctx=ast.Load())
