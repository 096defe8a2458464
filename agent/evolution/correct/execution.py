"""Corrections by what happened: a run's output and trace, the step at which a plan failed."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.evolution.correct.base import asked, attempted, draft, drafted, note
from agent.evolution.feedback.base import quoted
from agent.evolution.feedback.codet import code_of
from agent.evolution.update.writers.base import Situation
from memory.records import MemoryItem, Note, Trajectory, content_hash

if TYPE_CHECKING:
    from agent.run import Run

SHOWN = 400  # characters of what a program says, and of a trace
EVENTS = 40  # lines of a trace
_ERROR = re.compile(r"\b\w*(?:Error|Exception)\b|\btime ?out\b|took too long")

# Runs a program and tells line by line what changed, as a debugger would.
_TRACER = """
import io, json, sys
job = json.loads({job!r})
told, sys.stdout = sys.stdout, io.StringIO()
lines, before = [], dict()
def short(value):
    try: return repr(value)[:40]
    except Exception: return "?"
def watch(frame, event, arg):
    if frame.f_code.co_filename != "<attempt>": return None
    if event == "line" or event == "return":
        now = {{k: short(v) for k, v in list(frame.f_locals.items()) if k[:2] != "__"}}
        was = before.get(id(frame), dict())
        new = ", ".join(k + " = " + v for k, v in now.items() if was.get(k) != v)
        before[id(frame)] = now
        if len(lines) < {events}:
            if new: lines.append(new)
            if event == "return" and frame.f_code.co_name != "<module>":
                lines.append(frame.f_code.co_name + " returned " + short(arg))
            if event == "line": lines.append("line " + str(frame.f_lineno))
    return watch
try:
    program = compile(job, "<attempt>", "exec")
    sys.settrace(watch)
    exec(program, dict(__name__="attempt"))
except BaseException as error:
    sys.settrace(None)
    lines.append(type(error).__name__ + ": " + str(error)[:100])
sys.settrace(None)
told.write("; ".join(lines))
"""


def self_debug(
    situation: Situation, tries: Sequence[Trajectory], round_: int
) -> dict[str, list[MemoryItem]]:
    """The policy explains its program line by line beside its execution trace.

    Source: Self-Debug, arXiv 2304.05128, §3 (explanation and trace feedback; no human says what is
    wrong). The paper's traces are the model's own; these are the sandbox's. For a function the
    tests that stand in the task are run. What is no program is explained without a trace.
    """
    traces = {t.slot: trace(situation.run, t) for t in tries}
    questions = {
        t.slot: f"{attempted(t)}\nWhat happens when it runs:\n{quoted(traces[t.slot])}\n\n"
        "Explain what the attempt does, line by line, and where that is not what the task asks."
        for t in tries
    }
    tokens = situation.run.config.refine.critique_tokens
    said = asked(situation, round_, questions, tokens)
    notes = drafted(situation, tries, said, "What it does:")
    for t in tries:
        if t.slot in notes and traces[t.slot]:
            notes[t.slot].append(note(situation, t, f"Its trace: {traces[t.slot]}"))
    return notes


def interpreter(
    situation: Situation, tries: Sequence[Trajectory], round_: int
) -> dict[str, list[MemoryItem]]:
    """The program is mended by what the interpreter says, and nothing else is said of it.

    Source: SelfEvolve, arXiv 2306.02907, §3.2. What runs without an error is left as it is.
    """
    found = {t.slot: evidence(situation.run, t) for t in tries}
    return {
        t.slot: [
            draft(situation, t),
            note(situation, t, f"The interpreter says: {found[t.slot]} Mend the program."),
        ]
        for t in tries
        if _ERROR.search(found[t.slot])
    }


def isr_llm(
    situation: Situation, tries: Sequence[Trajectory], round_: int
) -> dict[str, list[MemoryItem]]:
    """A validator goes through the plan and names the first step that fails.

    Source: ISR-LLM, arXiv 2308.13724, §3 (its external validator). The validator is the world
    itself, which said what each step brought about. The paper's translation of tasks into PDDL
    is left out: the worlds here take actions, not PDDL.
    """
    return {
        t.slot: [draft(situation, t), note(situation, t, found)]
        for t in tries
        if (found := invalid(t))
    }


def invalid(t: Trajectory) -> str:
    """The first step of a plan that changed nothing, or that it does not reach the goal."""
    for number, step in enumerate(t.steps, 1):
        if step.error is not None:
            done = " ".join(step.text.split())
            return f"Step {number} of the plan fails: {done} gives: {step.observation}"
    seen = t.steps[-1].observation
    return f"All {len(t.steps)} steps can be done, but the goal is not reached: {seen}"


def evidence(run: Run, t: Trajectory) -> str:
    """What a tool says of a try: its program run again, or else the world's last answer."""
    code = code_of(t)
    if code is None:
        return t.steps[-1].observation[:SHOWN]
    return executed(run, t.slot, with_tests(code, t.prompt))[-SHOWN:]


def trace(run: Run, t: Trajectory) -> str:
    """How the values change line by line as a try's program runs; "" for what is no program."""
    code = code_of(t)
    if code is None:
        return ""
    job = json.dumps(with_tests(code, t.prompt))
    return executed(run, t.slot, _TRACER.format(job=job, events=EVENTS))[-SHOWN:]


def executed(run: Run, slot: str, program: str) -> str:
    """What a program prints and raises; run once, since it may say something else next time."""
    key = f"ran/{slot}/{content_hash(program)[:16]}"
    note = run.ledger.get(Note, key)
    if note is None:
        sandbox = run.sandbox()
        try:
            done = sandbox.exec([*sandbox.python_argv(), "-"], stdin=program)
        finally:
            sandbox.close()
        raised = (done.stderr.strip().splitlines() or [done.outcome])[-1]
        said = f"{done.stdout}\n{'' if done.outcome == 'ok' else raised}"
        note = Note(data={"said": " ".join(said.split())})
        run.ledger.append(key, note)
    return str(note.data["said"])


def with_tests(code: str, prompt: str) -> str:
    """A program and, where the task shows tests, those."""
    shown = [line.strip() for line in prompt.splitlines() if re.match(r"\s*assert\b", line)]
    return "\n".join([code, *(line for line in shown if _parses(line))])


def _parses(line: str) -> bool:
    try:
        ast.parse(line)
    except (SyntaxError, ValueError):
        return False
    return True
