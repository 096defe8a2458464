"""Workflows: what the solutions of several tasks have in common, with the values left open.

AWM (arXiv 2409.07429) induces routines from solved episodes and abstracts their values; ICE
(2401.13996) consolidates plans into pipelines. Here solutions that take the same kinds of steps
are generalised as little as they allow (least general generalisation, Plotkin 1970): words that
differ become slots, the same slot wherever they differ in the same way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from agent.evolution.update.writers.base import Situation, Written
from memory.records import Kind, MemoryItem, Trajectory, Trust


class WorkflowSettings(BaseModel):
    """Which routines are kept.

    Args:
        per_family: new ones of each family and generation, those of most tasks first.
        support: least number of tasks whose solutions take the same kinds of steps.
        steps: least and most steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_family: int = Field(2, ge=1)
    support: int = Field(2, ge=1)
    steps: tuple[int, int] = (2, 20)


def workflows(situation: Situation, settings: WorkflowSettings) -> Written:
    """One workflow for each way of solving that several tasks share."""
    alike: dict[tuple[str, tuple[str, ...]], dict[str, Trajectory]] = defaultdict(dict)
    for solution in situation.solutions:
        t = solution.trajectory
        done = deeds(t)
        if settings.steps[0] <= len(done) <= settings.steps[1]:
            shape = tuple(f"{line.split()[0]}/{len(line.split())}" for line in done)
            alike[t.family, shape].setdefault(t.task, t)
    count: dict[str, int] = defaultdict(int)
    items: list[MemoryItem] = []
    for (family, _), of_task in sorted(alike.items(), key=lambda a: (-len(a[1]), a[0])):
        group = list(of_task.values())
        if len(group) < settings.support or count[family] >= settings.per_family:
            continue
        count[family] += 1
        goal, *steps = generalise([[t.prompt, *deeds(t)] for t in group])
        text = "\n".join([f"# {goal}", *(f"{n}. {step}" for n, step in enumerate(steps, 1))])
        items.append(
            MemoryItem(
                kind=Kind.SKILL,
                text=text,
                key=situation.keys.get(group[0].task, group[0].prompt),
                content={"goal": goal, "steps": list(steps)},
                sources=tuple(t.slot for t in group),
                tasks=tuple(t.task for t in group),
                family=family,
                trust=Trust.VERIFIED,
                born=situation.generation,
            )
        )
    return Written(items, [])


def deeds(trajectory: Trajectory) -> list[str]:
    """What an episode did, one line a step; nothing where a step is no single line."""
    lines = [step.text.strip() for step in trajectory.turns]
    return lines if all(line and "\n" not in line for line in lines) else []


def generalise(episodes: Sequence[Sequence[str]]) -> list[str]:
    """What several sequences of texts have in common: differing words become ``{1}``, ``{2}`` …

    Args:
        episodes: sequences of the same length.

    Returns:
        One text per place; where the texts differ in their number of words, all of it is open.
    """
    slots: dict[tuple[str, ...], str] = {}

    def slot(values: tuple[str, ...]) -> str:
        return slots.setdefault(values, f"{{{len(slots) + 1}}}")

    found: list[str] = []
    for place in zip(*episodes, strict=True):
        words = [text.split() for text in place]
        if len({len(own) for own in words}) > 1:
            found.append(slot(tuple(place)))
            continue
        columns = zip(*words, strict=True)
        found.append(" ".join(c[0] if len(set(c)) == 1 else slot(tuple(c)) for c in columns))
    return found
