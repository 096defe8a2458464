"""Trial and error with tools, remembering this trial and earlier ones (STE)."""

from __future__ import annotations

from agent.evolution.solutions.base import (
    Stage,
    again,
    draft,
    first_slot,
    first_world,
    note,
    one_line,
    transcript,
    usable,
)
from agent.run import Run
from memory.records import MemoryItem, Trajectory

REMEMBERED = 5  # earlier tasks that are shown


def solve(stage: Stage) -> list[Trajectory]:
    """Each task is tried until it is solved, at most ``rounds`` times.

    STE, arXiv 2403.04746, §3: short-term memory is the tries of this task with what the tool
    returned; long-term memory is what was asked of the tools before and whether that came out
    right. With ``acquire.generate.how=tools`` the tasks are imagined, tool by tool. What solved a
    task is learnt without either memory.
    """
    first = {a.task.id: a for a in reversed(stage.planned)}
    planned = [a for a in stage.planned if first[a.task.id] is a]
    seen = _long_term(stage)
    past = {
        a.slot: [
            note(stage, a.task, f"Asked before: {line}", t)
            for t, line in seen.get(a.task.family, [])
            if t.task != a.task.id
        ][-REMEMBERED:]
        for a in planned
    }
    slots = {a.slot: a for a in planned}
    last = stage.play([a._replace(carried=tuple(past[a.slot])) for a in planned], "trial 1")
    short: dict[str, list[MemoryItem]] = {a.slot: [] for a in planned}
    every = last
    for number in range(2, stage.settings.rounds + 1):
        further = []
        for t in stage.judged(last):
            if not usable(t) or t.success:
                continue
            a = slots[first_slot(t).partition("/try-")[0]]
            returned = one_line(t.steps[-1].observation)
            short[a.slot] += [
                draft(stage, a.task, transcript(t.turns), t),
                note(stage, a.task, f"This try failed; it returned: {returned}", t),
            ]
            further.append(again(a, f"trial-{number}", *past[a.slot], *short[a.slot]))
        last = stage.play(further, f"trial {number}")
        every = [*every, *last]
    return every


def needs(run: Run) -> str:
    """Why it cannot be had, or ""."""
    with first_world(run) as world:
        if world.tools:
            return ""
    return f"suite {run.config.suite.name} has no tools to try"


def _long_term(stage: Stage) -> dict[str, list[tuple[Trajectory, str]]]:
    """By family the tasks of earlier generations, each with how its last try went."""
    found: dict[str, tuple[Trajectory, str]] = {}
    for t in stage.judged(stage.earlier()):
        if t.success or t.task not in found or not found[t.task][0].success:
            done = "solved" if t.success else "not solved"
            way = one_line(transcript(t.turns))
            found[t.task] = t, f"{one_line(t.prompt)} ({done} by {way})"
    families: dict[str, list[tuple[Trajectory, str]]] = {}
    for t, line in found.values():
        families.setdefault(t.family, []).append((t, line))
    return families
