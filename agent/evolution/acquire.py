"""Acquire: choose tasks for the objective and plan the episodes that try them.

Several samples per task, some with memory in the prompt and some without, at several
temperatures: a verified success from any of them can be learnt from, because what is
trained on has the memory stripped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat

from agent.evolution.objective import allocate
from agent.loop import Assignment, seed_of
from environments.base import Task
from memory.recall import Recall, RecallSettings
from memory.records import CANARY, Kind, Trust

Reader = Callable[[Task], Callable[[str, frozenset[str]], Recall] | None]
TRY = "/try"  # stands, with its number, in the slot of a task's further tries


class PracticeRecall(RecallSettings):
    """As `RecallSettings`, but untrusted items are shown too: practice is where they are tried."""

    trust: Trust = Trust.UNTRUSTED


class AcquireSettings(BaseModel):
    """How experience is gathered in each generation.

    Args:
        tasks: tasks per generation.
        first_tasks: tasks of the first generation, whose agent mostly fails.
        samples: episodes per task.
        temperatures: samples take them in turn, two each.
        hot_tokens, heat: where the incumbent mostly fails, every other sample draws the first
            so many tokens of a turn at so many times the temperature. A program's first tokens
            decide which one it is, the later ones whether it runs: the former should vary.
        memory_share: share of a task's samples that see recalled memory, if there is any.
        withhold: chance that an item which was recalled for a sample is left out of it, as long
            as one stays: with and without it on the same task tell what it is worth.
        recall: what they see; less alike than when acting, since a solution of another
            family can be the pattern for a first success. Items on trial are among them, and
            untrusted ones.
        retries: how often the first sample of a task that fails is tried again, each time with
            what the policy says went wrong so far (Reflexion, arXiv 2303.11366).
        carried: at most so many of those notes, the last ones; 0 asks for none, and a further
            try is one more sample.
        note_tokens: most tokens of such a note.
        canaries: tasks per generation that cannot be solved, mixed in with the others (see
            `agent.evolution.canaries`): where one is "solved", nothing that the generation tried
            is learnt from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: int = Field(96, ge=1)
    first_tasks: int = Field(48, ge=1)
    samples: int = Field(8, ge=1)
    temperatures: tuple[NonNegativeFloat, ...] = Field((0.3, 0.4, 0.5, 0.7), min_length=1)
    hot_tokens: int = Field(3, ge=0)
    heat: float = Field(3.0, ge=1)
    memory_share: float = Field(0.6, ge=0, le=1)
    withhold: float = Field(0.25, ge=0, lt=1)
    recall: PracticeRecall = PracticeRecall(
        quotas={Kind.EXEMPLAR: 1, Kind.REFLECTION: 1}, min_similarity=0.0
    )
    retries: int = Field(0, ge=0)
    carried: int = Field(3, ge=0)
    note_tokens: int = Field(48, ge=8)
    canaries: int = Field(0, ge=0)


def select_tasks(
    pool: Sequence[Task],
    weights: Mapping[str, float],
    count: int,
    tried: Mapping[str, int],
    solved: set[str],
    seed: int,
) -> list[Task]:
    """Tasks for one generation: families by weight, least tried and unsolved tasks first.

    Args:
        pool: the train split.
        weights: per family, from the objective.
        count: how many.
        tried: per task id, how often it was tried before.
        solved: ids of tasks solved before.
        seed: breaks ties.
    """
    chosen: list[Task] = []
    for family, share in allocate(weights, count).items():
        tasks = [task for task in pool if task.family == family]
        random.Random(seed_of(seed, family)).shuffle(tasks)
        tasks.sort(key=lambda task: (task.id in solved, tried.get(task.id, 0)))
        chosen += tasks[:share]
    return chosen


def slots(generation: int, task: Task, samples: int, phase: str = "acquire") -> list[str]:
    """Names of a task's episodes in a generation."""
    return [f"{generation}/{phase}/{task.id}/{sample}" for sample in range(samples)]


class Plan(NamedTuple):
    """Episodes of one generation, by who acts: the incumbent's weights or the base model."""

    incumbent: list[Assignment]
    base: list[Assignment]


def plan(
    tasks: Sequence[Task],
    recalls: Mapping[str, Callable[[], Recall]],
    settings: AcquireSettings,
    *,
    generation: int,
    memory: str = "",
    weak: Collection[str],
    evolved: bool = True,
    canaries: Collection[str] = (),
    look_again: Reader = lambda _: None,
    search: Reader = lambda _: None,
) -> Plan:
    """The episodes of one generation; samples of one task stand next to each other.

    Args:
        tasks: from ``select_tasks``.
        recalls: per task id, what memory holds for it (never made from the task itself);
            empty where there is no memory yet.
        settings: samples, temperatures, share with memory.
        generation: number of the generation.
        memory: id of the memory snapshot behind ``recalls``.
        weak: families that the incumbent mostly fails: there half the samples have a hot
            beginning, and half are the base model's, since evolved weights have settled on a
            few forms and explore little.
        evolved: whether the incumbent's weights are others than the base model's.
        canaries: ids of the tasks that nobody can solve; only the phase tells their episodes.
        look_again, search: per task, how memory is read during its episodes (see `Assignment`).
    """
    episodes = Plan([], [])
    for number, task in enumerate(tasks):
        recall = recalls.get(task.id)
        # By chance, so that nothing but memory tells those with it from those without.
        chance = random.Random(seed_of(generation, task.id, "aided"))
        share = round(settings.memory_share * settings.samples) if recall else 0
        aided = set(chance.sample(range(settings.samples), share))
        phase = CANARY if task.id in canaries else "acquire"
        for sample, slot in enumerate(slots(generation, task, settings.samples, phase)):
            explore = task.family in weak
            turn = sample // 2 + number  # so that each task has other temperatures
            by_base = evolved and explore and (sample // 2) % 2 == 1
            (episodes.base if by_base else episodes.incumbent).append(
                Assignment(
                    slot=slot,
                    task=task,
                    split="train",
                    phase=phase,
                    temperature=settings.temperatures[turn % len(settings.temperatures)],
                    hot_tokens=settings.hot_tokens if explore and sample % 2 else 0,
                    heat=settings.heat,
                    memory=memory if sample in aided else "",
                    recall=recall if sample in aided else None,
                    look_again=look_again(task) if sample in aided else None,
                    search=search(task) if sample in aided else None,
                    withhold=settings.withhold if sample in aided else 0.0,
                )
            )
    return episodes
