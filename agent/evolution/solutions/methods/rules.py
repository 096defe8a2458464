"""Action knowledge says which action may follow which (KnowAgent)."""

from __future__ import annotations

from itertools import pairwise

from agent.evolution.solutions.base import Stage, first_world, note
from agent.loop import verb
from agent.run import Run
from memory.records import Trajectory

Rules = dict[str, tuple[str, ...]]


def solve(stage: Stage) -> list[Trajectory]:
    """Actions are chosen among those that the action knowledge allows next; it is shown, too.

    KnowAgent, arXiv 2403.03101, §3: rules of actions, told as text, constrain the path that is
    planned; trajectories made with them are trained on and made anew. There rules are written by
    GPT-4 and people; here they are ``follows``, or what earlier tries of train tasks have shown to
    change the world. They hold while practising: what was learnt acts without them.
    """
    rules = dict(stage.settings.follows) or known(stage)
    if not rules:
        return stage.play(stage.planned)
    told = "; ".join(
        f"after {first}: {', '.join(then)}" if first else f"first: {', '.join(then)}"
        for first, then in rules.items()
    )
    return stage.play(
        [
            a._replace(follows=rules, carried=(note(stage, a.task, f"Actions: {told}"),))
            for a in stage.planned
        ]
    )


def known(stage: Stage) -> Rules:
    """Which kinds of action followed which, of those that changed something, in earlier tries."""
    seen: dict[str, dict[str, None]] = {}
    for t in stage.earlier():
        kinds = ["", *(verb(step.text) for step in t.steps if step.error is None)]
        for first, then in pairwise(kinds):
            seen.setdefault(first, {})[then] = None
    return {first: tuple(then) for first, then in seen.items()}


def needs(run: Run) -> str:
    """Why it cannot be had, or ""."""
    with first_world(run) as world:
        if world.valid_actions and run.config.agent.constrain:
            return ""
    return (
        f"suite {run.config.suite.name} does not tell its valid actions, so nothing can be left "
        "out of them (see agent.constrain)"
    )
