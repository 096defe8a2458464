"""Something is said before a try: knowledge (SelfEvolve), thoughts by principles (Self-Align), a
plan (AutoAct).
"""

from __future__ import annotations

from agent.evolution.feedback.base import UNDECIDED, quoted
from agent.evolution.solutions.base import (
    SYSTEM,
    Stage,
    again,
    draft,
    first_slot,
    instruction,
    label,
    note,
    one_line,
    usable,
)
from agent.evolution.solutions.compose import Composition, composed, with_reason
from agent.loop import Assignment
from agent.run import Run
from environments.base import Task
from memory.records import MemoryItem, Trajectory


def solve(stage: Stage) -> list[Trajectory]:
    """What the policy says of a task stands before it while it is tried.

    SelfEvolve, arXiv 2306.02907, §3.1: the policy writes the knowledge that a program needs, then
    the program. Self-Align, 2305.03047, §3.2: principles and internal thoughts while acting, the
    bare prompt in training. AutoAct, 2401.05268, §3.2: the agent plans by itself; with ``keep`` the
    plan is trained on, before the first action.
    """
    settings, tasks = stage.settings, stage.tasks()
    told = "\n".join(settings.tell)
    said: dict[str, str] = {}
    if settings.question:
        questions = {
            name: f"Task:\n{quoted(task.prompt)}\n\n{settings.question}"
            for name, task in tasks.items()
        }
        said = stage.ask("prepare", questions, system=f"{told}\n{SYSTEM}".strip())
    before: dict[str, tuple[MemoryItem, ...]] = {}
    for name, task in tasks.items():
        rules = [instruction(stage, task, told)] if told else []
        before[name] = (*rules, *_shown(stage, task, said.get(name, "")))
    planned = [a._replace(carried=before[a.task.id]) for a in stage.planned]
    tries = stage.play(planned)
    return [*tries, *_kept(stage, planned, tries, said)] if settings.keep else tries


def needs(run: Run) -> str:
    """Why it cannot be had, or ""."""
    settings = run.config.acquire.solve
    if settings.keep and not settings.question:
        return "keep needs acquire.solve.question, whose answer is what is kept"
    return ""


def _shown(stage: Stage, task: Task, text: str) -> list[MemoryItem]:
    """What was said, after its lead."""
    lead = stage.settings.lead
    if not text:
        return []
    if "\n" not in text:
        return [note(stage, task, f"{lead} {text}".strip())]
    return [*([note(stage, task, lead)] if lead else []), draft(stage, task, text)]


def _kept(
    stage: Stage,
    planned: list[Assignment],
    tries: list[Trajectory],
    said: dict[str, str],
) -> list[Trajectory]:
    """The tries with what was said before their first action; as they were they do not count."""
    slots = {a.slot: a for a in planned}
    made = []
    for t in tries:
        text = one_line(said.get(t.task, ""))
        if usable(t) and text:
            a = slots[first_slot(t)]
            first, *more = [step.text for step in t.turns]
            made.append(
                Composition(
                    again(a, "kept"), [with_reason(text, first), *more],
                    (t.slot, stage.said("prepare", t.task)),
                )
            )  # fmt: skip
    label(stage.run, {t.slot: UNDECIDED for t in tries})
    return composed(stage, made)
