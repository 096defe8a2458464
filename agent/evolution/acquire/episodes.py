"""The episodes that try a generation's tasks.

Several samples per task, some with memory in the prompt and some without, at several
temperatures: a verified success from any of them can be learnt from, because what is
trained on has the memory stripped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from agent.evolution.acquire.settings import AcquireSettings
from agent.loop import Assignment, seed_of
from environments.base import Task
from memory.recall import Recall
from memory.records import CANARY

Reader = Callable[[Task], Callable[[str, frozenset[str]], Recall] | None]
TRY = "/try"  # stands, with its number, in the slot of a task's further tries


def slots(generation: int, task: Task, samples: range, phase: str = "acquire") -> list[str]:
    """Names of a task's episodes in a generation, by the samples' numbers."""
    return [f"{generation}/{phase}/{task.id}/{sample}" for sample in samples]


class Plan(NamedTuple):
    """Episodes of one generation, by who acts: the incumbent's weights or the base model."""

    incumbent: list[Assignment]
    base: list[Assignment]


def plan(
    tasks: Sequence[Task],
    recalls: Mapping[str, Callable[[], Recall]],
    settings: AcquireSettings,
    *,
    samples: range,
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
        tasks: from ``select.choose``.
        recalls: per task id, what memory holds for it (never made from the task itself);
            empty where there is no memory yet.
        settings: temperatures, share with memory.
        samples: the numbers of each task's samples.
        generation: number of the generation.
        memory: id of the memory snapshot behind ``recalls``.
        weak: families that the incumbent mostly fails, where it is helped to explore.
        evolved: whether the incumbent's weights are others than the base model's.
        canaries: ids of the tasks that nobody can solve; only the phase tells their episodes.
        look_again, search: per task, how memory is read during its episodes (see `Assignment`).
    """
    episodes = Plan([], [])
    for number, task in enumerate(tasks):
        recall = recalls.get(task.id)
        # By chance, so that nothing but memory tells those with it from those without.
        chance = random.Random(seed_of(generation, task.id, "aided"))
        share = round(settings.memory_share * len(samples)) if recall else 0
        aided = set(chance.sample(samples, share))
        phase = CANARY if task.id in canaries else "acquire"
        for sample, slot in zip(samples, slots(generation, task, samples, phase), strict=True):
            explore = settings.explore and task.family in weak
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
