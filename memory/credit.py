"""What memory items have been worth: uses, wins, and what they change on paired episodes.

The estimator is D2Skill's hindsight utility (arXiv 2603.28716): the success rate of the
episodes that read the item minus that of the episodes on the same task, by the same policy,
that did not. D2Skill smooths it over time; here it is shrunk to the mean item, so that it has
an interval and does not depend on the order of the episodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from memory.records import MemoryItem, Trajectory, Worth

SOLVED = 16  # tasks that a worth remembers as solved, at most
_SLOTS = 8  # episodes that are named as the reason of a change, at most
_Z = 1.959964  # two-sided 95 % of a normal distribution


class CreditSettings(BaseModel):
    """How paired differences become a utility.

    Args:
        prior: pairs' worth of the mean difference that every item is credited with.
        variance: least variance of one task's difference. With success at random and a few
            samples each way it is about 0.1; a smaller one by luck would make the interval of
            an item with a single pair narrow.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prior: float = Field(4.0, gt=0)
    variance: float = Field(0.1, gt=0)


class Usage(NamedTuple):
    """How often an item stood in an episode's prompt, and in how many of those it succeeded."""

    uses: int = 0
    wins: int = 0


class Evidence(NamedTuple):
    """What episodes say about items.

    Args:
        worths: by item.
        families: by item and family of the task, from the episodes of that family alone.
        beside: by item, what it adds to all else that was shown: its success against that of
            episodes that had everything but it. In the plain difference a note that does
            nothing is credited with what stood beside it.
        won, lost: by item, slots of the last episodes that read it and succeeded or failed.
    """

    worths: Mapping[str, Worth] = {}
    families: Mapping[str, Mapping[str, Worth]] = {}
    beside: Mapping[str, Worth] = {}
    won: Mapping[str, tuple[str, ...]] = {}
    lost: Mapping[str, tuple[str, ...]] = {}


class _Episode(NamedTuple):
    """A trajectory that counts, and the items it speaks about."""

    trajectory: Trajectory
    shown: frozenset[str]


def usage(trajectories: Iterable[Trajectory]) -> dict[str, Usage]:
    """Uses and wins of every recalled item; episodes that broke do not count."""
    counts: dict[str, Usage] = defaultdict(Usage)
    for trajectory in trajectories:
        if trajectory.failure is None:
            for item in set(trajectory.recalled):
                uses, wins = counts[item]
                counts[item] = Usage(uses + 1, wins + trajectory.success)
    return dict(counts)


def credit(
    trajectories: Iterable[Trajectory],
    earlier: Mapping[str, Worth] | None = None,
    items: Iterable[MemoryItem] = (),
    settings: CreditSettings | None = None,
) -> dict[str, Worth]:
    """The worth of every item that an episode read.

    A group is one task, tried in one generation by one version of the weights, greedily or
    not. In a group that has episodes with an item and others without it, the item's difference
    is the mean success of the former minus that of the latter; the mean over a task's groups
    is the task's difference d, so that each task counts once. With n such tasks, the mean μ of
    all N differences of all items, and k = ``settings.prior``::

        utility = (Σd + k·μ) / (n + k)
        interval = utility ± 1.96·sqrt(s²/(n + k) + (k/(n + k))²·s²/N)

    That is the posterior of a normal mean whose prior is worth k observations (the shrinkage
    of Efron and Morris 1973), with the uncertainty of μ added; s² is the variance within items,
    pooled over all of them, at least ``settings.variance``. An item without a pair has the
    utility μ and the interval [−1, 1].

    Args:
        trajectories: all that count so far. Broken ones and those of other splits than train
            are left out, so that nothing is learnt from a gate or a test.
        earlier: what was known; votes are carried on, and items without an episode here keep
            all of it.
        items: where an item was merged or split from others, the parents' episodes (in its
            family, if it has been split for one) speak for it too, since its text is theirs.
        settings: the prior and the least variance.
    """
    return _credit(_episodes(trajectories, items), earlier or {}, settings or CreditSettings())


def evidence(
    trajectories: Iterable[Trajectory],
    earlier: Mapping[str, Worth] | None = None,
    items: Iterable[MemoryItem] = (),
    settings: CreditSettings | None = None,
) -> Evidence:
    """Worth in all and per family, and the episodes it rests on; arguments as of `credit`."""
    settings = settings or CreditSettings()
    episodes = _episodes(trajectories, items)
    by_family: dict[str, list[_Episode]] = defaultdict(list)
    outcomes: tuple[dict[str, list[str]], ...] = (defaultdict(list), defaultdict(list))
    for episode in episodes:
        by_family[episode.trajectory.family].append(episode)
        for item in episode.shown:
            outcomes[episode.trajectory.success][item].append(episode.trajectory.slot)
    families: dict[str, dict[str, Worth]] = defaultdict(dict)
    for family in sorted(by_family):
        for item, worth in _credit(by_family[family], {}, settings).items():
            families[item][family] = worth
    lost, won = ({i: tuple(slots[-_SLOTS:]) for i, slots in each.items()} for each in outcomes)
    return Evidence(
        worths=_credit(episodes, earlier or {}, settings),
        families=dict(families),
        beside=_credit(episodes, {}, settings, beside=True),
        won=won,
        lost=lost,
    )


def generation_of(slot: str) -> int:
    """The generation that a slot (``3/acquire/<task>/2``) belongs to; 0 if it names none."""
    first = slot.partition("/")[0]
    return int(first) if first.isdigit() else 0


def _episodes(trajectories: Iterable[Trajectory], items: Iterable[MemoryItem]) -> list[_Episode]:
    """The trajectories that count, oldest first, with all items that each speaks about."""
    heirs: dict[str, list[MemoryItem]] = defaultdict(list)
    for item in items:
        if item.made in ("merged", "split"):
            for parent in item.parents:
                heirs[parent].append(item)

    def shown(trajectory: Trajectory) -> frozenset[str]:
        found: set[str] = set()
        ahead = list(trajectory.recalled)
        while ahead:
            if (item := ahead.pop()) not in found:
                found.add(item)
                ahead += [
                    heir.id
                    for heir in heirs.get(item, ())
                    if heir.made == "merged" or heir.family == trajectory.family
                ]
        return frozenset(found)

    counted = [t for t in trajectories if t.failure is None and t.split == "train"]
    counted.sort(key=lambda t: (generation_of(t.slot), t.slot))
    return [_Episode(t, shown(t)) for t in counted]


def _credit(
    episodes: Sequence[_Episode],
    earlier: Mapping[str, Worth],
    settings: CreditSettings,
    *,
    beside: bool = False,
) -> dict[str, Worth]:
    uses: dict[str, int] = defaultdict(int)
    wins: dict[str, int] = defaultdict(int)
    used: dict[str, int] = defaultdict(int)
    solved: dict[str, dict[str, None]] = defaultdict(dict)
    for t, shown in episodes:
        for item in shown:
            uses[item] += 1
            used[item] = max(used[item], generation_of(t.slot))
            if t.success:
                wins[item] += 1
                solved[item].pop(t.task, None)  # the latest stand last
                solved[item][t.task] = None
    differences = _differences(episodes, beside)
    every = np.concatenate([d for _, d in sorted(differences.items())] or [np.zeros(0)])
    mean = float(np.mean(every)) if len(every) else 0.0
    spread = sum(float(np.sum((d - np.mean(d)) ** 2)) for _, d in sorted(differences.items()))
    freedom = sum(len(d) - 1 for d in differences.values())
    variance = max(spread / freedom if freedom else 0.0, settings.variance)

    def worth(item: str) -> Worth:
        paired = differences.get(item, np.zeros(0))
        weight = len(paired) + settings.prior
        utility = (float(np.sum(paired)) + settings.prior * mean) / weight
        reach = 2.0
        if len(paired):
            of_mean = (settings.prior / weight) ** 2 / len(every)
            reach = _Z * (variance * (1 / weight + of_mean)) ** 0.5
        return Worth(
            uses=uses[item],
            wins=wins[item],
            solved=tuple(solved[item])[-SOLVED:],
            pairs=len(paired),
            utility=round(utility, 4),
            low=round(max(-1.0, utility - reach), 4),
            high=round(min(1.0, utility + reach), 4),
            votes=earlier[item].votes if item in earlier else 0,
            used=used[item],
        )

    return {**earlier, **{item: worth(item) for item in sorted(uses)}}


def _differences(episodes: Sequence[_Episode], beside: bool = False) -> dict[str, np.ndarray]:
    """Per item, its difference on each task that was tried both with and without it.

    With ``beside`` an episode with it is only compared with those that had all else.
    """
    groups: dict[tuple[str, str, int, bool], list[_Episode]] = defaultdict(list)
    for episode in episodes:
        t = episode.trajectory
        groups[t.task, t.policy, generation_of(t.slot), t.temperature > 0].append(episode)
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (task, *_), members in sorted(groups.items()):
        if beside:
            for item, difference in _added(members).items():
                found[item][task].append(difference)
            continue
        total = sum(t.success for t, _ in members)
        with_it: dict[str, list[bool]] = defaultdict(list)
        for t, shown in members:
            for item in shown:
                with_it[item].append(t.success)
        for item, successes in with_it.items():
            without = len(members) - len(successes)
            if without:
                won = sum(successes)
                found[item][task].append(won / len(successes) - (total - won) / without)
    return {
        item: np.array([sum(tasks[task]) / len(tasks[task]) for task in sorted(tasks)])
        for item, tasks in found.items()
    }


def _added(members: Sequence[_Episode]) -> dict[str, float]:
    """Per item, the mean difference of episodes with it to those that had all else but it."""
    differences: dict[str, list[float]] = defaultdict(list)
    for t, shown in members:
        for item in shown:
            others = [o.success for o, had in members if item not in had and shown - {item} <= had]
            if others:
                differences[item].append(t.success - sum(others) / len(others))
    return {item: sum(own) / len(own) for item, own in differences.items()}
