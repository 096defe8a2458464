"""What each objective learns from: pairs, verdicts, groups of trajectories.

Made from trajectories by pure functions. What an objective cannot learn from (a task whose
tries all went the same way) is named, not hidden.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple, Protocol

from agent.training.packing import Example
from agent.training.settings import DpoSettings, GrpoSettings, KtoSettings, WeightedSettings
from memory.records import Trajectory

ALIKE = 1e-6  # rewards nearer than this are the same
SMALL = 1e-4  # added to a group's standard deviation, as in TRL


class Sequences(Protocol):
    """A trajectory as token sequences; ``whole``: its mistaken turns too (`conversations`)."""

    def __call__(self, trajectory: Trajectory, *, whole: bool) -> list[Example]: ...


class Lessons(NamedTuple):
    """What to train on.

    Args:
        examples: of all units.
        total: how many trajectories or pairs they are.
        silent: per reason ("all right", "all wrong", …) the tasks that give no signal.
    """

    examples: list[Example]
    total: int
    silent: dict[str, list[str]]

    def told(self) -> str:
        """The silent tasks in one line; "" if there are none."""
        if not self.silent:
            return ""
        reasons = ", ".join(f"{len(tasks)} {reason}" for reason, tasks in self.silent.items())
        return f"tasks without a signal to train on: {reasons}"


def pairs(
    solved: Sequence[Trajectory],
    failed: Sequence[Trajectory],
    sequences: Sequences,
    settings: DpoSettings,
) -> Lessons:
    """A solved and a failed trajectory of one task each, for DPO (ETO, arXiv 2403.02502, §3.2).

    The solved ones go without their mistaken turns, the failed ones as they were. With the
    prompt of acting, both halves of a pair have the same one.
    """
    won, lost = _by_task(solved), _by_task(failed)
    examples: list[Example] = []
    count = 0
    silent: dict[str, list[str]] = {}
    for task in sorted({*won, *lost}):
        better = [sequences(t, whole=False) for t in won.get(task, ())]
        worse = _distinct([sequences(t, whole=True) for t in reversed(lost.get(task, ()))])
        found = [
            (b, w, b[0].reward - w[0].reward if settings.weigh else 1.0)
            for w in worse
            for b in better
            if b and w and _prompt(b) == _prompt(w)
        ]
        counting = [pair for pair in found if pair[2] > 0]
        if not counting:
            reason = "all wrong" if not better else "all right" if not worse else "unlike prompts"
            silent.setdefault("no preference" if found else reason, []).append(task)
        for better_, worse_, weight in counting[: settings.pairs_per_task]:
            unit = f"pair {count}"
            examples += [e._replace(advantage=1.0, unit=unit, weight=weight) for e in better_]
            examples += [e._replace(advantage=-1.0, unit=unit, weight=weight) for e in worse_]
            count += 1
    return Lessons(examples, count, silent)


def extremes(
    tried: Sequence[Trajectory],
    earned: Mapping[str, float],
    sequences: Sequences,
    settings: DpoSettings,
) -> Lessons:
    """The best above the worst of each task, for DPO (Self-Rewarding, arXiv 2401.10020, §2.2).

    Of several that earned the same it is the newest; a task whose tries all earned the same has
    no pair.

    Args:
        tried: solved and failed ones, oldest first.
        earned: rewards or grades by slot.
        sequences: see ``Sequences``.
        settings: whether a pair counts as much as what was earned differs.
    """
    examples: list[Example] = []
    silent: dict[str, list[str]] = {}
    for task, own in sorted(_by_task(tried).items()):
        newest = own[::-1]
        best = max(newest, key=lambda t: earned[t.slot])
        worst = min(newest, key=lambda t: earned[t.slot])
        rewards = [earned[t.slot] for t in own]
        apart = max(rewards) - min(rewards)
        better, worse = sequences(best, whole=False), sequences(worst, whole=True)
        if apart < ALIKE:
            silent.setdefault(_likeness(rewards), []).append(task)
        elif not (better and worse and _prompt(better) == _prompt(worse)):
            silent.setdefault("unlike prompts", []).append(task)
        else:
            weight, unit = apart if settings.weigh else 1.0, f"pair {task}"
            for half, sign in ((better, 1.0), (worse, -1.0)):
                examples += [e._replace(advantage=sign, unit=unit, weight=weight) for e in half]
    return Lessons(examples, len({e.unit for e in examples}), silent)


def verdicts(
    solved: Sequence[Trajectory],
    failed: Sequence[Trajectory],
    sequences: Sequences,
    settings: KtoSettings,
) -> Lessons:
    """Solved and failed trajectories without partners, for KTO (arXiv 2402.01306)."""
    good = [sequences(t, whole=False) for t in solved]
    few = [t for own in _by_task(failed).values() for t in own[-settings.per_task :]]
    bad = _distinct([sequences(t, whole=True) for t in few])
    good, bad = [g for g in good if g], [b for b in bad if b]
    if not good:
        return Lessons([], 0, {"all wrong": sorted({t.task for t in failed})})
    undesirable = settings.undesirable
    if undesirable is None:
        undesirable = settings.desirable * len(good) / max(1, len(bad))
    examples = [
        e._replace(advantage=sign, weight=weight, unit=e.source)
        for own, sign, weight in ((good, 1.0, settings.desirable), (bad, -1.0, undesirable))
        for sequence in own
        for e in sequence
    ]
    return Lessons(examples, len(good) + len(bad), {})


def by_worth(
    tried: Sequence[Trajectory],
    earned: Mapping[str, float],
    sequences: Sequences,
    settings: WeightedSettings,
) -> Lessons:
    """Every trajectory as much as it earned, or as it earned above its task's mean.

    Args:
        tried: solved and failed ones.
        earned: rewards by slot.
        sequences: see ``Sequences``.
        settings: which of the two; weights are scaled to a mean of 1. Of a task that nobody
            solved no failure is better than another, so that it is named and teaches nothing.
    """
    weighed: list[tuple[list[Example], float]] = []
    silent: list[str] = []
    for task, own in _by_task(tried).items():
        group = evenly(own, earned, settings.per_task)
        if max(earned[t.slot] for t in group) < ALIKE:
            silent.append(task)
            continue
        mean = fmean(earned[t.slot] for t in group)
        for t in group:
            weight = earned[t.slot]
            if settings.by == "advantage":
                exponent = (weight - mean) / settings.temperature
                weight = math.exp(min(exponent, math.log(settings.max_weight)))
            if weight > 0 and (found := sequences(t, whole=False)):
                weighed.append((found, weight))
    told = {"all wrong": sorted(silent)} if silent else {}
    if not weighed:
        return Lessons([], 0, told)
    scale = fmean(weight for _, weight in weighed)
    examples = [e._replace(weight=weight / scale) for own, weight in weighed for e in own]
    return Lessons(examples, len(weighed), told)


def groups(
    tried: Sequence[Trajectory],
    earned: Mapping[str, float],
    sequences: Sequences,
    settings: GrpoSettings,
) -> Lessons:
    """Trajectories with their advantage over their task's others, for GRPO.

    A group's trajectories may be of several generations' weights: the mean that they share is
    the baseline all the same.
    """
    examples: list[Example] = []
    count = 0
    silent: dict[str, list[str]] = {}
    for task, own in _by_task(tried).items():
        group = evenly(own, earned, settings.per_task)
        rewards = [earned[t.slot] for t in group]
        if max(rewards) - min(rewards) < ALIKE:
            silent.setdefault(_likeness(rewards), []).append(task)
            continue
        spread = stdev(rewards) + SMALL if settings.scale == "std" else 1.0
        for t, reward in zip(group, rewards, strict=True):
            found = sequences(t, whole=True)
            advantage = (reward - fmean(rewards)) / spread
            examples += [e._replace(advantage=advantage, unit=t.slot) for e in found]
            count += bool(found)
    return Lessons(examples, count, {reason: sorted(tasks) for reason, tasks in silent.items()})


def evenly(
    tried: Sequence[Trajectory], earned: Mapping[str, float], limit: int
) -> list[Trajectory]:
    """At most so many of one task's trajectories: good and bad ones in turn, the newest first."""
    mean = fmean(earned[t.slot] for t in tried)
    good = [t for t in reversed(tried) if earned[t.slot] > mean]
    bad = [t for t in reversed(tried) if earned[t.slot] <= mean]
    turns = [own[i] for i in range(len(tried)) for own in (good, bad) if i < len(own)]
    kept = {t.slot for t in turns[:limit]}
    return [t for t in tried if t.slot in kept]


def _likeness(rewards: Sequence[float]) -> str:
    if len(rewards) == 1:
        return "tried once"
    if min(rewards) > 1 - ALIKE:
        return "all right"
    return "all wrong" if max(rewards) < ALIKE else "all alike"


def _by_task(trajectories: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
    found: dict[str, list[Trajectory]] = {}
    for t in trajectories:
        found.setdefault(t.task, []).append(t)
    return found


def _distinct(found: Sequence[list[Example]]) -> list[list[Example]]:
    """Without those that say what an earlier one said."""
    first: dict[tuple[tuple[int, ...], ...], list[Example]] = {}
    for own in found:
        first.setdefault(tuple(e.token_ids for e in own), own)
    return list(first.values())


def _prompt(sequences: Sequence[Example]) -> tuple[int, ...]:
    first = sequences[0]
    return first.token_ids[: first.loss_mask.index(1)]
