"""Several answers, each revised in sight of the others; the majority is right (debate)."""

from __future__ import annotations

from agent.evolution.feedback.base import UNDECIDED, Verdict
from agent.evolution.solutions.base import (
    Stage,
    again,
    by_task,
    draft,
    first_slot,
    label,
    note,
    transcript,
)
from agent.evolution.votes import elected
from memory.records import Trajectory

SHOWN = 3  # answers of others that stand before a revision


def solve(stage: Stage) -> list[Trajectory]:
    """The samples of a task debate; what most of them say in the end is the solution.

    Multi-agent debate, arXiv 2305.14325, §2: every agent reads the others' last answers and gives
    its own anew, for some rounds. The agents are samples of one policy. Earlier rounds are not
    learnt from; what is trained on is the last answer without the debate.
    """
    planned = {a.slot: a for a in stage.planned}
    every = last = stage.play(stage.planned)
    for round_ in range(1, stage.settings.rounds + 1):
        further = []
        for own in by_task(last).values():
            for i, t in enumerate(own):
                others = [own[(i + k) % len(own)] for k in range(1, min(len(own), SHOWN + 1))]
                if not others:
                    continue
                slot = first_slot(t).partition("/try-")[0]
                a = planned[slot]
                items = [
                    note(stage, a.task, "Other agents answered:", *others),
                    *(draft(stage, a.task, transcript(o.turns), o) for o in others),
                    note(stage, a.task, "Your own last answer:", t),
                    draft(stage, a.task, transcript(t.turns), t),
                    note(stage, a.task, "Weigh them, and give your answer anew."),
                ]
                further.append(again(a, f"debate-{round_}", *items))
        last = stage.play(further, f"debate {round_}")
        every = [*every, *last]
    right = elected([t for own in by_task(last).values() for t in own], stage.settings.agreement)
    ended = {t.slot for t in last}
    label(
        stage.run,
        {
            t.slot: Verdict(float(t.slot in right), t.slot in right)
            if t.slot in ended
            else UNDECIDED
            for t in every
        },
    )
    return every
