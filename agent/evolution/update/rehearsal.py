"""What weights are trained on besides what is new: experience replay.

The default trains on all experience in each generation, from base, so nothing needs to be
replayed. Training on new experience alone forgets the rest; a share of past tasks among it is
the oldest remedy ("replay-based" in-weight updates in the survey, 2404.14387).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from agent.evolution.refine import RefineSettings, Solution, refine, solves
from agent.evolution.update.weights import WeightsUpdateSettings
from agent.loop import seed_of
from memory.credit import generation_of
from memory.records import Trajectory


def rehearsed(
    settings: WeightsUpdateSettings,
    judged: RefineSettings,
    generation: int,
    seed: int,
    solutions: Sequence[Solution],
    experience: Sequence[Trajectory],
) -> tuple[Sequence[Solution], Sequence[Trajectory]]:
    """The solutions and the experience that a generation trains on.

    Args:
        settings: all data, or new data and a share of past tasks.
        judged: what counts as a solution.
        generation: for which one.
        seed: the run's; which past tasks are replayed.
        solutions: of all experience, from ``refine``.
        experience: all that was tried, oldest first; none of it by strangers.
    """
    if settings.data == "all":
        return solutions, experience
    new = [t for t in experience if generation_of(t.slot) == generation]
    met = {t.task for t in new}
    solved = {t.task for t in new if solves(t, judged, generation)}
    past = {t.task: t.family for t in experience if solves(t, judged, generation)}
    names = sorted(past.keys() - met)
    random.Random(seed_of(seed, generation, "replay")).shuffle(names)
    turns: Counter[str] = Counter()  # families take turns
    order: list[tuple[int, int, str]] = []
    for name in names:
        order.append((turns[past[name]], len(order), name))
        turns[past[name]] += 1
    replayed = {name for *_, name in sorted(order)[: round(settings.replay * len(solved))]}
    kept = [t for t in experience if t.task in replayed or generation_of(t.slot) == generation]
    return refine(kept, judged, generation), kept
