"""A task is seen from several sides; a checklist settles what these disagree on (Self-Contrast)."""

from __future__ import annotations

import re

from agent.evolution.feedback.base import UNDECIDED, quoted
from agent.evolution.solutions.base import (
    Stage,
    again,
    attempt,
    by_task,
    draft,
    first_slot,
    label,
    note,
    one_line,
    transcript,
)
from agent.evolution.votes import answer_of
from memory.records import Trajectory

_NUMBER = re.compile(r"^\W*\d+\W+\s*|^\W+")


def solve(stage: Stage) -> list[Trajectory]:
    """Tries from different perspectives; those that differ are compared, and revised.

    Self-Contrast, arXiv 2401.02009, §3: the policy writes perspectives of its own, solves by each,
    compares what came out differently, makes a checklist of the differences, and revises each of
    them by it. Where all agree nothing is revised. What was revised stands for its first try.
    """
    settings, tasks = stage.settings, stage.tasks()
    questions = {
        name: f"Task:\n{quoted(task.prompt)}\n\nName {settings.views} different ways to look at "
        "this task, a line each."
        for name, task in tasks.items()
    }
    views = {name: lines(text) for name, text in stage.ask("perspectives", questions).items()}
    planned = []
    for number, a in enumerate(stage.planned):
        sides = views[a.task.id][: settings.views]
        side = _turn(sides, number)
        seen = (note(stage, a.task, f"Look at it so: {side}"),) if side else ()
        planned.append(a._replace(carried=seen))
    tries = stage.play(planned)
    slots = {a.slot: a for a in stage.planned}
    unlike = {
        task: list({answer_of(t): t for t in reversed(own)}.values())[::-1]
        for task, own in by_task(tries).items()
    }
    unlike = {task: own for task, own in unlike.items() if len(own) > 1}
    compared = stage.ask(
        "compare",
        {
            task: f"Task:\n{quoted(own[0].prompt)}\n\n"
            + "\n\n".join(map(attempt, own[: settings.views]))
            + "\n\nThese attempts differ. Say where and why, and write a checklist of what has to "
            "be looked at, a line each."
            for task, own in unlike.items()
        },
    )
    revised, replaced = [], []
    for task, own in unlike.items():
        checklist = lines(compared[task])
        for t in own if checklist else ():
            a = slots[first_slot(t)]
            items = [draft(stage, a.task, transcript(t.turns), t)]
            items += [note(stage, a.task, f"Check: {line}", *own) for line in checklist]
            revised.append(again(a, "revised", *items))
            replaced.append(t)
    label(stage.run, {t.slot: UNDECIDED for t in replaced})
    return [*tries, *stage.play(revised, "revise")]


def _turn(sides: list[str], number: int) -> str:
    """The side that a try takes; "" where there is none."""
    return sides[number % len(sides)] if sides else ""


def lines(text: str) -> list[str]:
    """The lines of a list, without their numbers."""
    return [line for each in text.splitlines() if (line := one_line(_NUMBER.sub("", each)))]
