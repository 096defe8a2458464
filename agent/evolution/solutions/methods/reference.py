"""The suite's own solution against what the policy writes (SPIN)."""

from __future__ import annotations

from typing import Any

from agent.evolution.feedback.base import UNDECIDED, Verdict
from agent.evolution.solutions.base import Stage, again, label, usable
from agent.evolution.solutions.compose import Composition, composed
from agent.run import Run
from memory.records import Trajectory


def solve(stage: Stage) -> list[Trajectory]:
    """The reference is preferred to each own try, right or wrong, that says something else.

    SPIN, arXiv 2401.01335, §4: the opponent is the last iteration's policy, and play ends where it
    cannot be told from the reference. Needs known solutions (``gold``), of train tasks alone: it is
    supervised, and learns nothing that is not in them.
    """
    gold: Any = stage.run.suite.gold  # type: ignore[attr-defined]
    tries = stage.play(stage.planned)
    first = {a.task.id: a for a in reversed(stage.planned)}
    made = []
    for a in reversed(first.values()):
        actions = gold(a.task) if stage.run.vouched(a.task.id) else None
        if actions:
            turns = [action.text for action in actions]
            made.append(Composition(again(a, "reference"), turns, ()))
    references = {t.task: t for t in composed(stage, made) if usable(t)}
    verdicts = {t.slot: Verdict(1.0, True) for t in references.values()}
    for t in tries:
        known = references.get(t.task)
        own = usable(t) and known is not None and _said(t) != _said(known)
        verdicts[t.slot] = Verdict(0.0, False) if own else UNDECIDED
    label(stage.run, verdicts)
    return [*tries, *references.values()]


def needs(run: Run) -> str:
    """Why it cannot be had, or ""."""
    if hasattr(run.suite, "gold"):
        return ""
    return (
        f"suite {run.config.suite.name} has no gold solutions to play against; choose another "
        "method, or give the suite gold(task)"
    )


def _said(t: Trajectory) -> list[str]:
    return [step.text.strip().removesuffix("```").strip() for step in t.turns]
