"""In-context update: new memory items from what was acquired.

Verified solutions become exemplars; an instructive failure becomes a reflection in the
policy's own words (Reflexion, arXiv 2303.11366), kept beside the error and what mended it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from agent.evolution.refine import Solution
from agent.policies.base import Message
from memory.consolidation.consolidate import ConsolidationSettings
from memory.records import Kind, MemoryItem, Trajectory, Trust


class MemoryUpdateSettings(BaseModel):
    """What enters memory and how much of it stays.

    Args:
        enabled: off leaves memory empty (weights-only evolution).
        exemplars: new exemplars per family and generation.
        reflections: new reflections per family and generation.
        reflection_tokens: most tokens of a reflection.
        consolidation: what memory keeps, and how much.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    exemplars: int = Field(6, ge=0)
    reflections: int = Field(1, ge=0)
    reflection_tokens: int = Field(40, ge=8)
    consolidation: ConsolidationSettings = ConsolidationSettings()


def exemplars(
    solutions: Sequence[Solution], generation: int, limit: int, prompts: Mapping[str, str]
) -> list[MemoryItem]:
    """One exemplar per solved task, the most reliable solutions of each family first.

    Args:
        solutions: from ``refine``.
        generation: that makes them.
        limit: most per family.
        prompts: by task id, the text that tasks are looked up by.
    """
    items: list[MemoryItem] = []
    taken: dict[str, set[str]] = defaultdict(set)
    for solution in solutions:
        trajectory = solution.trajectory
        tasks = taken[trajectory.family]
        if trajectory.task in tasks or len(tasks) >= limit:
            continue
        tasks.add(trajectory.task)
        turns = [(step.text.strip(), step.observation) for step in trajectory.turns]
        items.append(
            MemoryItem(
                kind=Kind.EXEMPLAR,
                text=f"{trajectory.prompt}\n{told(turns)}",
                key=prompts.get(trajectory.task, trajectory.prompt),
                content={"prompt": trajectory.prompt, "turns": [list(turn) for turn in turns]},
                sources=(trajectory.slot,),
                tasks=(trajectory.task,),
                family=trajectory.family,
                trust=Trust.VERIFIED,
                born=generation,
            )
        )
    return items


def told(turns: Sequence[tuple[str, str]]) -> str:
    """What was done, with what was seen between; nothing follows the last deed."""
    lines = [part for turn in turns[:-1] for part in turn]
    return "\n".join([*lines, *(done for done, _ in turns[-1:])])


def reflection_prompt(failed: Trajectory, solved: Trajectory) -> list[Message]:
    """Asks the policy what went wrong; both attempts are its own."""
    wrong, gave = _attempt(failed)
    right = told([(step.text.strip(), step.observation) for step in solved.turns])
    return [
        {"role": "system", "content": "You explain mistakes in one sentence."},
        {
            "role": "user",
            "content": (
                f"Task: {failed.prompt}\n\nThis attempt was wrong:\n{wrong}\n"
                f"It gave: {gave}\n\nThis attempt was right:\n{right}\n\n"
                "What was wrong with the first one? One sentence."
            ),
        },
    ]


def _attempt(failed: Trajectory) -> tuple[str, str]:
    """What went wrong, and what it gave: the first turn if that failed, else the whole way."""
    steps = failed.steps[:1] if failed.steps[0].error else failed.turns
    return told([(step.text.strip(), step.observation) for step in steps]), steps[-1].observation


def reflection(
    failed: Trajectory,
    solved: Trajectory,
    words: str,
    generation: int,
    prompts: Mapping[str, str],
) -> MemoryItem | None:
    """A reflection from the policy's words, or None where it said nothing."""
    said = " ".join(words.split())
    said = said[: said.find(". ") + 1] if ". " in said else said
    if len(said) < 8:
        return None
    wrong, gave = _attempt(failed)
    right = told([(step.text.strip(), step.observation) for step in solved.turns])
    return MemoryItem(
        kind=Kind.REFLECTION,
        text=said,
        key=prompts.get(failed.task, failed.prompt),
        content={
            "failed": wrong,
            "observation": gave,
            "mended": right,
        },
        sources=tuple(dict.fromkeys((failed.slot, solved.slot))),
        tasks=(failed.task,),
        family=failed.family,
        trust=Trust.JUDGED,
        born=generation,
    )
