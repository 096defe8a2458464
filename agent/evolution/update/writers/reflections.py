"""Reflections: why an attempt failed, in the policy's own words (Reflexion, arXiv 2303.11366).

``reflections`` are kept, each beside the error and what mended it. ``carry`` is for the next
try of the same task and is forgotten with it: working memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from agent.evolution.update.writers.base import (
    Situation,
    Written,
    about,
    ask,
    attempt,
    groups,
    sentence,
    told,
    transcript,
)
from memory.records import Kind, MemoryItem, Trajectory, Trust

SYSTEM = "You explain mistakes in one sentence."


class ReflectionSettings(BaseModel):
    """Which failures are reflected on.

    Args:
        per_family: new reflections of each family and generation.
        tokens: most tokens of one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_family: int = Field(1, ge=1)
    tokens: int = Field(40, ge=8)


def reflections(situation: Situation, settings: ReflectionSettings) -> Written:
    """What was wrong with attempts at tasks that other attempts solved."""
    pairs = {g[0].slot: g for g in groups(situation, "pairs", settings.per_family, 1)}
    question = "What was wrong with the first one? One sentence."
    questions = {slot: f"{told(pair)}\n\n{question}" for slot, pair in pairs.items()}
    answers = ask(situation, "reflection", SYSTEM, questions, settings.tokens)
    items = []
    for slot, (failed, solved) in pairs.items():
        if said := sentence(answers[slot]):
            wrong, gave = attempt(failed)
            mended = transcript(solved.turns)
            items.append(
                MemoryItem(
                    kind=Kind.REFLECTION,
                    text=said,
                    key=situation.keys.get(failed.task, failed.prompt),
                    content={"failed": wrong, "observation": gave, "mended": mended},
                    sources=tuple(dict.fromkeys((failed.slot, solved.slot))),
                    tasks=(failed.task,),
                    family=failed.family,
                    trust=Trust.JUDGED,
                    born=situation.generation,
                )
            )
    return Written(items, [])


def carry(situation: Situation, failed: Sequence[Trajectory], tokens: int) -> list[MemoryItem]:
    """A note for the next try of each failed episode's task, where the policy says something.

    Args:
        situation: who is asked.
        failed: episodes, each with at least one step.
        tokens: most tokens of a note.
    """
    question = "Say in one sentence what to do differently in the next attempt."
    questions = {t.slot: f"{told([t])}\n\n{question}" for t in failed}
    answers = ask(situation, "carried", SYSTEM, questions, tokens)
    return [
        about(t, Kind.WORKING, said, situation.generation)
        for t in failed
        if (said := sentence(answers[t.slot]))
    ]
