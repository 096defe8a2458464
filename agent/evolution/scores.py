"""Scores of an agent on tasks, and the objective that follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from agent.config import ConfigError
from agent.evolution.objective import PROPOSALS, Direction, Objective, Tally, mixed, shared
from agent.evolution.play import episodes_of
from agent.run import Run
from agent.run_folder import RunError
from agent.stats import rate
from environments.abilities import abilities_of
from environments.base import Task
from memory import history
from memory.records import Score, Trajectory


def score(tasks: Sequence[Task], successes: Sequence[float]) -> Score:
    """Success rate with its interval, stratified by family."""
    return rate(list(successes), [task.family for task in tasks])


def family_rates(tasks: Sequence[Task], successes: Sequence[float]) -> dict[str, float]:
    """Mean success per family."""
    sums: dict[str, list[float]] = {}
    for task, success in zip(tasks, successes, strict=True):
        sums.setdefault(task.family, []).append(success)
    return {family: sum(own) / len(own) for family, own in sorted(sums.items())}


# --- the objective ---


class Proposal(NamedTuple):
    """Where the next generation should practise.

    Args:
        weights: per family, summing to 1; 0 for families of no objective.
        told: what it is made of, for the record.
    """

    weights: dict[str, float]
    told: dict[str, Any]


def propose_objective(run: Run, n: int, memory: str, weights: str) -> Proposal:
    """The objective that follows from how the agent did that leaves generation n.

    Generation 0 looks everywhere in the objectives' families first. A family that has tasks to
    practise and none in the gate split cannot be told weak or strong: an objective that is about
    all families gives it the mean weight.

    Args:
        run: whose gate episodes, and whose earlier generations for what was known best.
        n: the generation.
        memory, weights: of the agent, which has played the gate's tasks.

    Raises:
        RunError: the environment does not tell the number that an objective goes by.
    """
    settings = run.config.objective
    played = list(episodes_of(run, "gate", memory, weights).values())
    measured = {task.family for task in run.tasks("gate")}
    practised = {task.family for task in run.tasks("train") if task.id not in run.made}
    shares, parts, followed = settings.shares(n), dict[int, dict[str, float]](), list[Any]()
    for i, objective in enumerate(settings.follow):
        families = chosen_families(run, objective)
        now = MEASURES[objective.direction](run, n, objective, families, played)
        best = _best(run, i, now)
        own = PROPOSALS[objective.propose](now, best) if n else dict.fromkeys(families, 1.0)
        if not objective.narrow:
            own = own | dict.fromkeys(practised - measured, fmean(own.values()))
        parts[i] = shared(own)
        followed.append(
            objective.model_dump(mode="json", exclude_defaults=True)
            | {
                "direction": objective.direction,
                "propose": objective.propose if n else "everywhere",
                "share": shares[i],
                "now": {family: tally.rate for family, tally in now.items()},
            }
        )
    nowhere = dict.fromkeys(measured | practised, 0.0)
    return Proposal(
        dict(sorted((nowhere | mixed(parts, shares)).items())),
        {"order": settings.order, "followed": followed},
    )


def check_objectives(run: Run) -> None:
    """Whether each objective has families to practise.

    Raises:
        ConfigError: one has none.
    """
    for objective in run.config.objective.follow:
        chosen_families(run, objective)


def chosen_families(run: Run, objective: Objective) -> list[str]:
    """The families of the gate's tasks that an objective is about, by name.

    Raises:
        ConfigError: there are none, or one that it names is not there.
    """
    every = sorted({task.family for task in run.tasks("gate")})
    if missing := sorted(set(objective.families) - set(every)):
        raise ConfigError(
            f"objective.follow: suite {run.config.suite.name} has no family {missing[0]} in its "
            f"gate split; it has: {', '.join(every)}"
        )
    if not objective.narrow:
        return every
    tags = abilities_of(run.config.suite.name, run.suite, every)
    wanted = set(objective.abilities)
    found = [f for f in every if wanted & tags[f] or f in objective.families]
    if not found:
        told = "; ".join(f"{f}: {', '.join(sorted(tags[f])) or 'none said'}" for f in every)
        raise ConfigError(
            f"objective.follow: no family of suite {run.config.suite.name} asks for "
            f"{' or '.join(objective.abilities)} ({told})"
        )
    return found


Measure = Callable[[Run, int, Objective, Sequence[str], Sequence[Trajectory]], dict[str, Tally]]


def _performance(
    run: Run, n: int, objective: Objective, families: Sequence[str], played: Sequence[Trajectory]
) -> dict[str, Tally]:
    """Success, or what the environment tells in its place."""
    if not objective.metric:
        return _tallies(families, ((t.family, float(t.success)) for t in played))
    told = [t for t in played if objective.metric in t.metrics and t.family in families]
    if not told:
        names = sorted({name for t in played for name in t.metrics})
        raise RunError(
            f"objective.follow: no gate episode tells the metric {objective.metric}; they tell: "
            f"{', '.join(names) or 'none'}"
        )
    wrong = next((t for t in told if not 0 <= t.metrics[objective.metric] <= 1), None)
    if wrong is not None:
        raise RunError(
            f"objective.follow: the metric {objective.metric} of episode {wrong.slot} is "
            f"{wrong.metrics[objective.metric]:g}; an objective goes by numbers from 0 to 1"
        )
    return _tallies(families, ((t.family, t.metrics[objective.metric]) for t in told))


def _adaptation(
    run: Run, n: int, objective: Objective, families: Sequence[str], played: Sequence[Trajectory]
) -> dict[str, Tally]:
    """Of the episodes with an error in a turn, those that were solved all the same.

    A family in which nothing went wrong has nothing to adapt to, and counts as adapted.
    """
    slips = [t for t in played if any(step.error for step in t.steps)]
    found = _tallies(families, ((t.family, float(t.success)) for t in slips))
    ended = _tallies(families, ((t.family, 1.0) for t in played))
    return {f: found[f] if found[f].n else ended[f] for f in families}


def _knowledge(
    run: Run, n: int, objective: Objective, families: Sequence[str], played: Sequence[Trajectory]
) -> dict[str, Tally]:
    """Train tasks that some try has solved; none of strangers, and no batch that is void."""
    void = history.void(run.ledger)
    solved = {
        t.task
        for generation in range(1, n + 1)
        if generation not in void
        for _, t in run.ledger.all(Trajectory, f"{generation}/acquire/")
        if t.success and t.failure is None
    }
    pool = [task for task in run.tasks("train") if run.vouched(task.id)]
    return _tallies(families, ((task.family, float(task.id in solved)) for task in pool))


MEASURES: dict[Direction, Measure] = {
    "performance": _performance,
    "adaptation": _adaptation,
    "knowledge": _knowledge,
    "safety": _performance,  # of the metric, without which it is no valid objective
}


def _tallies(families: Sequence[str], values: Iterable[tuple[str, float]]) -> dict[str, Tally]:
    found = dict.fromkeys(families, Tally(0.0, 0))
    for family, value in values:
        if family in found:
            found[family] = Tally(found[family].sum + value, found[family].n + 1)
    return found


def _best(run: Run, which: int, now: dict[str, Tally]) -> dict[str, float]:
    """By family, the best rate of one objective in any generation so far."""
    best = {family: tally.rate or 0.0 for family, tally in now.items()}
    for generation in run.generations():
        told: Any = generation.details.get("objective") or {}
        for family, value in (told["followed"][which]["now"] if told else {}).items():
            if family in best and value is not None:
                best[family] = max(best[family], value)
    return best
