"""Win rates: a judge compares the candidate's gate episodes with others of the same tasks.

The episodes were played for the gate anyway. Each pair is shown in both orders, as judges prefer
what stands first (or last), and is won only where both say so; else it is a tie (MT-Bench, arXiv
2306.05685, §3.4). The win rate against an opponent counts a tie as half (AlpacaFarm, arXiv
2305.14387). How far the judge agrees with the verifier stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agent.evolution.evaluate.debate import debated
from agent.evolution.evaluate.judges import TIE, ask, question
from agent.evolution.feedback.base import attempt
from agent.evolution.feedback.judges import ROOM, points_of, preferred
from agent.evolution.play import episodes_of
from agent.run import Run
from agent.run_folder import BASE
from agent.stats import rate
from environments.splits import families_in_turn
from memory.records import Trajectory

Agent = tuple[str, str]
"""Memory and weights."""


class Pair(NamedTuple):
    """Two episodes of one gate task: the candidate's, and another agent's."""

    candidate: Trajectory
    other: Trajectory


def preference(run: Run, n: int, cell: str, agents: Mapping[str, Agent]) -> dict[str, object]:
    """What judges prefer, for a generation's details; {} without a judge or a candidate.

    Args:
        run: the run.
        n: the generation.
        cell: the candidate; "" where there is none.
        agents: by cell, the incumbent's among them; all have played the gate.

    Returns:
        ``judge``, ``how``, ``candidate`` and, by opponent, ``against``: ``win_rate`` with a 95 %
        interval; ``wins``, ``ties`` and ``losses``, of which ``same`` are ties because both did
        the same; ``steady``, the share of those asked about on which both orders agree;
        ``agreement``, over tasks that one of both solved, the share on which the judge prefers
        that one, a tie being half; None where there is none.

    Raises:
        PolicyFailure: the judge does not answer; what it has said is kept.
    """
    settings = run.config.evaluate
    if settings.judge == "none" or not cell:
        return {}
    opponents = {"incumbent": agents["incumbent"], "base": ("", BASE)}
    mine = episodes_of(run, "gate", *agents[cell])
    found: dict[str, object] = {}
    for name in settings.against:
        theirs = episodes_of(run, "gate", *opponents[name])
        tasks = [task for task in run.tasks("gate") if _acted(task.id, mine, theirs)]
        chosen = families_in_turn(tasks, settings.tasks or len(tasks))
        found[name] = compared(run, n, [Pair(mine[t.id], theirs[t.id]) for t in chosen])
    judge = settings.endpoint.model if settings.judge == "endpoint" else "self"
    return {
        "preference": {"judge": judge, "how": settings.how, "candidate": cell, "against": found}
    }


def _acted(task: str, *agents: Mapping[str, Trajectory]) -> bool:
    """Whether each of the agents did something in a task."""
    return all(task in own and own[task].steps for own in agents)


def compared(run: Run, n: int, pairs: Sequence[Pair]) -> dict[str, object]:
    """What the judge says of pairs; for the keys see `preference`."""
    same = [p for p in pairs if attempt(p.candidate) == attempt(p.other)]
    asked = [p for p in pairs if p not in same]
    orders = [order for a, b in asked for order in ((a, b), (b, a))]
    votes = _votes(run, n, {f"{a.slot} {b.slot}": question(a, b) for a, b in orders})
    said = [(votes[f"{a.slot} {b.slot}"], votes[f"{b.slot} {a.slot}"]) for a, b in asked]
    points = [points_of(there, back) for there, back in said] + [0.5] * len(same)
    ordered = [*asked, *same]
    told = [
        won if pair.candidate.success else 1 - won
        for pair, won in zip(ordered, points, strict=True)
        if pair.candidate.success != pair.other.success
    ]
    steady = [float(both in STEADY) for both in said]
    win_rate = rate(points, [p.candidate.family for p in ordered]) if points else None
    return {
        "win_rate": win_rate.model_dump(mode="json") if win_rate else None,
        "wins": points.count(1.0),
        "ties": points.count(0.5),
        "losses": points.count(0.0),
        "same": len(same),
        "steady": sum(steady) / len(steady) if steady else None,
        "agreement": rate(told).model_dump(mode="json") if told else None,
    }


STEADY = {("A", "B"), ("B", "A"), (TIE, TIE)}
"""What was said of a pair in both orders where the order did not matter."""


def _votes(run: Run, n: int, comparisons: Mapping[str, str]) -> dict[str, str | None]:
    """By comparison, which of the two is better, "A" or "B"; TIE, or None where unclear."""
    settings = run.config.evaluate
    if settings.how == "debate":
        return debated(run, n, comparisons)
    tokens = settings.tokens if settings.judge == "endpoint" else ROOM
    answers = ask(run, n, {f"better/{k}": v for k, v in comparisons.items()}, tokens, vote=True)
    return {key: preferred(answers[f"better/{key}"], ("A", "B", TIE)) for key in comparisons}
