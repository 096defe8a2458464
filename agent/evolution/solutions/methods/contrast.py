"""Two prompts for one task, and what they lead to as a pair (RLCD, DLMA, GRATH, Ditto)."""

from __future__ import annotations

from agent.evolution.feedback.base import UNDECIDED, Verdict
from agent.evolution.solutions.base import (
    Stage,
    again,
    instruction,
    label,
    role_of,
    usable,
)
from agent.evolution.solutions.likelihood import preferred
from agent.loop import Assignment
from agent.run import Run
from agent.run_folder import BASE
from memory.records import MemoryItem, Trajectory


def solve(stage: Stage) -> list[Trajectory]:
    """One try by the better prompt and one by the worse; which prompt it was is the label.

    RLCD, arXiv 2307.12950, §3: nobody looks at what came out. DLMA, 2402.11907, §3: with ``weigh``
    a pair counts as much as the policy's own probabilities under both prompts prefer it. GRATH,
    2401.12292, §3: a truthful and a false answer, the false one always the base's. Ditto,
    2401.12474, §3.3: another role's profile makes the worse one. Neither prompt is trained on.
    """
    better = stage.play([_by(stage, a, better=True) for a in stage.planned], "by the better prompt")
    worse_by = BASE if stage.settings.worse_by == "base" else ""
    others = [_by(stage, a, better=False) for a in stage.planned]
    worse = stage.play(others, "by the worse prompt", worse_by)
    pairs = [
        (a, b)
        for a, b in zip(better, worse, strict=True)
        if usable(a) and usable(b) and _said(a) != _said(b)
    ]
    scores = preferred(stage, pairs) if stage.settings.weigh else {}
    verdicts = {t.slot: UNDECIDED for t in (*better, *worse)}
    for a, b in pairs:
        score = scores.get(a.slot, 1.0)
        if score <= 0.5:  # its own probabilities turn it round
            continue
        verdicts |= {a.slot: Verdict(score, True), b.slot: Verdict(1 - score, False)}
    label(stage.run, verdicts)
    return [*better, *worse]


def needs(run: Run) -> str:
    """Why it cannot be had, or ""."""
    settings = run.config.acquire.solve
    if settings.better == settings.worse and not settings.roles:
        return "needs acquire.solve.better and acquire.solve.worse, two different prompts"
    if len(settings.roles) == 1:
        return "needs two acquire.solve.roles, so that one can be wrong"
    if settings.weigh and run.config.policy.engine != "transformers":
        return "weigh needs policy.engine=transformers, which alone scores what is written"
    return ""


def _by(stage: Stage, a: Assignment, *, better: bool) -> Assignment:
    """A try by one of the prompts."""
    settings = stage.settings
    own, other = role_of(stage, a.task)
    profile = settings.roles.get(own if better else other, "")
    text = settings.better if better else settings.worse
    text = text.replace("{role}", own).replace("{profile}", profile)
    items: tuple[MemoryItem, ...] = (instruction(stage, a.task, text),) if text else ()
    named = a._replace(role=f"You are {own}." if own else "", carried=items)
    return named if better else again(named, "worse", *items)


def _said(t: Trajectory) -> list[str]:
    return [step.text.strip() for step in t.turns]
