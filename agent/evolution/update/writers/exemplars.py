"""Exemplars: episodes, stored whole.

What an environment verified; or, where there is no verifier, what the policy is sure of: the
answer that most of a task's samples agree on (MoT, arXiv 2305.05181, self-consistency); or, as a
baseline, simply all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.evolution.update.writers.base import Situation, Written, transcript
from agent.evolution.votes import answer_of, vote
from memory.records import Kind, MemoryItem, Trajectory, Trust


class ExemplarSettings(BaseModel):
    """Which episodes become exemplars.

    Args:
        per_family: new ones of each family and generation.
        which: ``verified``: what an environment graded right; ``agreed``: what a task's samples
            agree on; ``all``: right or wrong.
        agreement: least share of a task's samples that must have given the same answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_family: int = Field(6, ge=1)
    which: Literal["verified", "agreed", "all"] = "verified"
    agreement: float = Field(0.5, ge=0, le=1)


def exemplars(situation: Situation, settings: ExemplarSettings) -> Written:
    """One exemplar per task, the most reliable (or most agreed) of each family first."""
    candidates: Sequence[Trajectory] = [s.trajectory for s in situation.solutions]
    if settings.which == "agreed":
        candidates = list(_agreed(situation.recent, settings.agreement))
    elif settings.which == "all":
        candidates = [t for t in situation.recent if t.steps]
    items: list[MemoryItem] = []
    taken: dict[str, set[str]] = defaultdict(set)
    for t in candidates:
        tasks = taken[t.family]
        if t.task not in tasks and len(tasks) < settings.per_family:
            tasks.add(t.task)
            trust = Trust.VERIFIED if settings.which == "verified" else Trust.JUDGED
            items.append(exemplar(t, situation.generation, situation.keys.get(t.task, ""), trust))
    return Written(items, [])


def exemplar(
    trajectory: Trajectory, generation: int, key: str = "", trust: Trust = Trust.VERIFIED
) -> MemoryItem:
    """An episode as an item.

    Args:
        trajectory: the episode.
        generation: that makes it.
        key: the text that finds it again; "" takes the episode's first observation.
        trust: whether it was verified.
    """
    turns = [[step.text.strip(), step.observation] for step in trajectory.turns]
    return MemoryItem(
        kind=Kind.EXEMPLAR,
        text=f"{trajectory.prompt}\n{transcript(trajectory.turns)}",
        key=key or trajectory.prompt,
        content={"prompt": trajectory.prompt, "turns": [list(turn) for turn in turns]},
        sources=(trajectory.slot,),
        tasks=(trajectory.task,),
        family=trajectory.family,
        trust=trust,
        born=generation,
    )


def _agreed(trajectories: Sequence[Trajectory], least: float) -> Iterator[Trajectory]:
    """For each task the first episode with the answer most samples gave, most agreed first."""
    tries: dict[str, list[Trajectory]] = defaultdict(list)
    for t in trajectories:
        if t.steps:
            tries[t.task].append(t)
    found: list[tuple[float, str, Trajectory]] = []
    for task, own in tries.items():
        answers = [answer_of(t) for t in own]
        shares, winner = vote(answers, least)
        if winner is not None:
            first = answers.index(winner)
            found.append((-shares[first], task, own[first]))
    yield from (t for _, _, t in sorted(found, key=lambda f: f[:2]))
