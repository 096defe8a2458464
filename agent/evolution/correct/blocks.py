"""Correction block by block, with the values that each block left behind (LDB)."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from agent.evolution.correct.base import asked, attempted, draft, note
from agent.evolution.correct.execution import executed, with_tests
from agent.evolution.feedback.base import quoted
from agent.evolution.feedback.codet import code_of
from agent.evolution.update.writers.base import Situation
from memory.records import MemoryItem, Trajectory

BLOCKS = 10  # executed blocks that are shown: the first and the last of them (§3.2)
VALUE = 60  # characters of a value
_WRONG = re.compile(
    r"\bblock\W*(\d+)\W+(?:is\W+)?(?:false|wrong|incorrect)\b\W*(.*?)(?=\bblock\W*\d|$)",
    re.IGNORECASE | re.DOTALL,
)

# Runs a program and tells, block by block as they are executed, which values changed there.
_TRACER = """
import io, json, sys
job = json.loads({job!r})
block_of = {{int(line): block for line, block in job["blocks"].items()}}
told, sys.stdout = sys.stdout, io.StringIO()
runs, seen, at = [], dict(), dict()
def short(value):
    try: return repr(value)[:{value}]
    except Exception: return "?"
def leave(frame):
    block = at.pop(id(frame), None)
    if block is None: return
    now = {{k: short(v) for k, v in list(frame.f_locals.items())
           if k[:2] != "__" and not callable(v) and type(v).__name__ != "module"}}
    was = seen.get(id(frame), dict())
    seen[id(frame)] = now
    runs.append([block, {{k: v for k, v in now.items() if was.get(k) != v}}])
    del runs[{most}:-{most}]
def watch(frame, event, arg):
    if frame.f_code.co_filename != "<attempt>": return None
    if event == "call": seen[id(frame)] = dict()
    if event == "line":
        block = block_of.get(frame.f_lineno)
        first = block is not None and job["first"][str(block)] == frame.f_lineno
        if first or (block is not None and at.get(id(frame)) != block):
            leave(frame)
            at[id(frame)] = block
    if event == "return": leave(frame)
    return watch
error = ""
try:
    program = compile(job["code"], "<attempt>", "exec")
    sys.settrace(watch)
    exec(program, dict(__name__="attempt"))
except BaseException as raised:
    sys.settrace(None)
    error = type(raised).__name__ + ": " + str(raised)[:100]
sys.settrace(None)
told.write(json.dumps(dict(runs=runs, error=error)))
"""


class Block(NamedTuple):
    """A basic block: it is entered at its first line and left behind its last one.

    Args:
        lines: of the program, from 1.
        text: what they say.
    """

    lines: tuple[int, ...]
    text: str


class Execution(NamedTuple):
    """One time that a block was executed.

    Args:
        block: its number in the program.
        values: what it changed, as Python writes it.
    """

    block: int
    values: dict[str, str]


def by_blocks(
    situation: Situation, tries: Sequence[Trajectory], round_: int
) -> dict[str, list[MemoryItem]]:
    """The policy judges each block by its runtime values; the wrong ones are to be mended.

    Source: LDB, arXiv 2402.16906, §3: the failed program is cut into basic blocks of its control
    flow, run on a visible test with the values noted after each block, and the blocks are judged
    one by one (in one answer, as there). Where no block is called wrong nothing is tried again;
    so is what is no program. Tests are those that stand in the task; without any, what runs is
    the program itself.
    """
    found = {t.slot: _runs(situation, t) for t in tries}
    questions = {
        t.slot: f"{attempted(t)}\nIts blocks as they were executed:\n{quoted(told)}\n\n"
        "Say of each block whether it is right, a line each: BLOCK 1: True or False, and why."
        for t in tries
        if (told := _told(*found[t.slot]))
    }
    said = asked(situation, round_, questions, situation.run.config.refine.critique_tokens)
    notes: dict[str, list[MemoryItem]] = {}
    for t in tries:
        wrong = _wrong(said.get(t.slot, ""), *found[t.slot][:2])
        if wrong:
            notes[t.slot] = [draft(situation, t), *(note(situation, t, line) for line in wrong)]
    return notes


def blocks(code: str) -> list[Block]:
    """The basic blocks of a program, in the order of its lines; none if it does not parse.

    A line that decides where to go on (``if``, ``for``, ``while``, ``return`` …) ends a block, and
    what it leads to begins one.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found: list[list[int]] = []
    _walk(tree.body, found)
    lines = code.splitlines()
    return [Block(tuple(own), "\n".join(lines[i - 1] for i in own)) for own in sorted(found) if own]


def _walk(body: Sequence[ast.stmt], found: list[list[int]]) -> None:
    """Adds the blocks of a body; the last one is open until something ends it."""
    own: list[int] = []
    found.append(own)
    for statement in body:
        inner = [
            part
            for name in ("body", "orelse", "finalbody")
            if isinstance(part := getattr(statement, name, None), list) and part
        ]
        inner += [handler.body for handler in getattr(statement, "handlers", [])]
        inner += [case.body for case in getattr(statement, "cases", [])]
        last = inner[0][0].lineno - 1 if inner else statement.end_lineno or statement.lineno
        own += range(statement.lineno, max(statement.lineno, last) + 1)
        jumps = (ast.Return, ast.Raise, ast.Break, ast.Continue)
        for part in inner:
            _walk(part, found)
        if inner or isinstance(statement, jumps):
            own = []
            found.append(own)


def _runs(situation: Situation, t: Trajectory) -> tuple[list[Block], list[Execution], str]:
    """A try's blocks, how they were executed, and what was raised."""
    code = code_of(t)
    own = blocks(code) if code else []
    if not code or not own:
        return [], [], ""
    job = {
        "code": with_tests(code, t.prompt),
        "blocks": {line: i for i, block in enumerate(own) for line in block.lines},
        "first": {i: block.lines[0] for i, block in enumerate(own)},
    }
    program = _TRACER.format(job=json.dumps(job), value=VALUE, most=BLOCKS // 2)
    try:
        told = json.loads(executed(situation.run, t.slot, program))
        return own, [Execution(*each) for each in told["runs"]], str(told["error"])
    except (ValueError, TypeError, LookupError):  # it was stopped, or wrote over it
        return own, [], ""


def values_of(execution: Execution) -> str:
    """What a block changed, in words."""
    changed = ", ".join(f"{name} = {value}" for name, value in execution.values.items())
    return changed or "as before"


def _told(own: Sequence[Block], executed_: Sequence[Execution], error: str) -> str:
    """The executed blocks, numbered, with the values that they left."""
    lines = [
        f"BLOCK {number}:\n{own[each.block].text}\nvalues after it: {values_of(each)}"
        for number, each in enumerate(executed_, 1)
    ]
    return "\n".join([*lines, *([f"Then: {error}"] if error and lines else [])])


def _wrong(said: str, own: Sequence[Block], executed_: Sequence[Execution]) -> list[str]:
    """What is carried of the blocks that were called wrong, each once."""
    found: dict[int, str] = {}
    for number, why in _WRONG.findall(said):
        if 1 <= int(number) <= len(executed_):
            each = executed_[int(number) - 1]
            code = "; ".join(line.strip() for line in own[each.block].text.splitlines())
            line = f"This block is wrong: {code} (values after it: {values_of(each)}). {why}"
            found.setdefault(each.block, line.strip())
    return list(found.values())
