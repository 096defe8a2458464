"""Which tasks a generation practises: made-up ones and the suite's, by a choice of rules."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from agent.choices import found
from agent.config import ConfigError
from agent.evolution.objective import allocate, shared
from agent.loop import seed_of
from environments.base import Task
from memory.embed import Vectors
from memory.records import Generation, Trajectory

if TYPE_CHECKING:
    from agent.run import Run


class Tried(NamedTuple):
    """How a task went so far: unbroken tries, how many solved it, in how many generations."""

    tries: int = 0
    solved: int = 0
    generations: int = 0


class Choice(NamedTuple):
    """What there is to choose from.

    Args:
        pool: the tasks.
        wanted: how many of them.
        weights: per family, from the objective.
        tried: how tasks went, by id; those that were never tried are missing.
        seed: breaks ties.
        stage: how far evolution is, above 0 and up to 1.
        embed: prompts to vectors of length 1.
    """

    pool: Sequence[Task]
    wanted: int
    weights: Mapping[str, float]
    tried: Mapping[str, Tried]
    seed: int
    stage: float
    embed: Callable[[Sequence[str]], Vectors]


def choose(run: Run, n: int, incumbent: Generation, experience: Sequence[Trajectory]) -> list[Task]:
    """A generation's tasks: at most a share of made-up ones, the rest the suite's.

    Args:
        run: whose train tasks.
        n: the generation.
        incumbent: whose objective.
        experience: all tries so far.
    """
    settings = run.config.acquire
    tried = tally(experience)
    count = settings.first_tasks if n == 1 else settings.tasks
    aims = incumbent.objective  # families at 0 are of no objective; new ones are looked at
    pool = [task for task in run.tasks("train") if aims.get(task.family, 1.0) > 0]
    made = [task for task in pool if task.id in run.made]
    few = min(len(made), round(settings.generate.share * count))
    chosen: list[Task] = []
    for tasks, most in ((made, few), ([t for t in pool if t.id not in run.made], count)):
        number = most - len(chosen)
        choice = Choice(
            tasks,
            number,
            _weights(aims, tasks) if tasks is made else aims,
            tried,
            run.config.seed + n,
            min(1.0, n / run.config.generations),
            run.memory.embedder.embed,
        )
        chosen += _of_pool(run, choice, selector(run)(choice)) if number else []
    return chosen


def _of_pool(run: Run, choice: Choice, chosen: list[Task]) -> list[Task]:
    """What was chosen, if it is of the pool and no more than is wanted.

    Raises:
        ConfigError: a function of one's own chose something else.
    """
    known, ids = {task.id for task in choice.pool}, [task.id for task in chosen]
    if not known.issuperset(ids) or len({*ids}) < len(ids) or len(ids) > choice.wanted:
        raise ConfigError(
            f"acquire.select={run.config.acquire.select}: has to choose at most {choice.wanted} "
            f"tasks of Choice.pool, each once; it chose {len(ids)}, {len({*ids})} different ones, "
            f"{len({*ids} - known)} of them not of the pool"
        )
    return chosen


def tally(experience: Sequence[Trajectory]) -> dict[str, Tried]:
    """How tasks went, by id."""
    tried: dict[str, Tried] = {}
    known: set[tuple[str, str]] = set()
    for t in experience:
        if t.failure is None:
            before = tried.get(t.task, Tried())
            round_ = (t.task, t.slot.partition("/")[0])
            tried[t.task] = Tried(
                before.tries + 1,
                before.solved + t.success,
                before.generations + (round_ not in known),
            )
            known.add(round_)
    return tried


def by_weights(choice: Choice) -> list[Task]:
    """Families by the objective's weights, in each the unsolved and least tried tasks first."""

    def last(task: Task) -> tuple[bool, int]:
        tried = choice.tried.get(task.id, Tried())
        return tried.solved > 0, tried.tries

    return _of_families(choice, last)


def learnable(choice: Choice) -> list[Task]:
    """Families by weight, in each the tasks with the highest p(1-p) first.

    p is the share of tries that solved the task, smoothed (Laplace), so that a task that was
    never tried counts as solved every other time (arXiv 2408.15099, §4, where p is of many
    rollouts).
    """

    def last(task: Task) -> float:
        tried = choice.tried.get(task.id, Tried())
        p = (tried.solved + 1) / (tried.tries + 2)
        return -p * (1 - p)

    return _of_families(choice, last)


def k_centre(choice: Choice) -> list[Task]:
    """The tasks that lie farthest from all that was practised, one after the other.

    DiverseEvol (arXiv 2311.08182, §3, k-centre sampling): the next task is the one whose nearest
    neighbour among those that were chosen, or practised before, is farthest; whatever its family.
    The paper embeds with the model that is trained, this with the run's embedder.
    """
    pool = list(choice.pool)
    random.Random(seed_of(choice.seed, "k-centre")).shuffle(pool)
    if not pool:
        return []
    known = [i for i, task in enumerate(pool) if task.id in choice.tried]
    picked = farthest_first(choice.embed([task.prompt for task in pool]), known, choice.wanted)
    return [pool[i] for i in picked]


def easy_to_hard(choice: Choice) -> list[Task]:
    """The easier part of the tasks, which grows to all of them over the generations.

    SOFT (arXiv 2402.07610, §4, SOFT+): what is easy first, in stages. The paper ranks by
    perplexity; here a task is as hard as its tries found it, one that was never tried as hard as
    its family's were, and before anything was tried the longer prompt is the harder. In the part
    that is open the least tried tasks come first.
    """
    of_family: dict[str, Tried] = {}
    for task in choice.pool:
        own, sum_ = choice.tried.get(task.id, Tried()), of_family.get(task.family, Tried())
        of_family[task.family] = Tried(sum_.tries + own.tries, sum_.solved + own.solved)

    def hardness(task: Task) -> float:
        tried = choice.tried.get(task.id) or of_family[task.family]
        return 1 - (tried.solved + 1) / (tried.tries + 2)

    ranked = sorted(choice.pool, key=lambda t: (hardness(t), len(t.prompt), t.id))
    open_ = ranked[: max(choice.wanted, math.ceil(choice.stage * len(ranked)))]
    return sorted(open_, key=lambda t: choice.tried.get(t.id, Tried()).tries)[: choice.wanted]


def in_order(choice: Choice) -> list[Task]:
    """The tasks one after the other, as the suite has them, whatever their families.

    A generation goes on where the last one stopped: first comes what fewest generations tried.
    After the last task the first one is next.
    """

    def rounds(task: Task) -> int:
        return choice.tried.get(task.id, Tried()).generations

    return sorted(choice.pool, key=rounds)[: choice.wanted]


SELECTORS: dict[str, Callable[[Choice], list[Task]]] = {
    "weights": by_weights,
    "k-centre": k_centre,
    "easy-to-hard": easy_to_hard,
    "learnability": learnable,
    "in-order": in_order,
}


def selector(run: Run) -> Callable[[Choice], list[Task]]:
    """How a run chooses.

    Raises:
        ConfigError: it is no such function.
    """
    return found(run.config.acquire.select, SELECTORS, "acquire.select", list[Task])


def farthest_first(vectors: Vectors, known: Sequence[int], count: int) -> list[int]:
    """Greedy k-centre: numbers of the vectors chosen, in order; none of the known ones.

    Args:
        vectors: of length 1, a row each.
        known: numbers of those that are covered already; without any the first row is chosen
            first.
        count: how many.
    """
    nearness = np.full(len(vectors), -np.inf)
    for i in known:
        nearness = np.maximum(nearness, vectors @ vectors[i])
    open_ = np.ones(len(vectors), bool)
    open_[list(known)] = False
    chosen: list[int] = []
    while len(chosen) < count and open_.any():
        # Rounded, so that floating-point noise does not decide between equals.
        next_ = int(np.where(open_, np.round(nearness, 5), np.inf).argmin())
        chosen.append(next_)
        open_[next_] = False
        nearness = np.maximum(nearness, vectors @ vectors[next_])
    return chosen


def _weights(objective: Mapping[str, float], tasks: Sequence[Task]) -> dict[str, float]:
    """Weight of each family of these tasks, summing to 1; one without any has the mean weight."""
    mean = fmean(objective.values() or (1.0,))
    return shared({f: objective.get(f, mean) for f in sorted({task.family for task in tasks})})


def _of_families(choice: Choice, last: Callable[[Task], object]) -> list[Task]:
    """So many of each family as its weight says, in an order; ties by chance.

    What a family has too few tasks for goes to the others, by their weights.
    """
    own: dict[str, list[Task]] = {}
    for task in choice.pool:
        own.setdefault(task.family, []).append(task)
    weights = {f: w for f, w in choice.weights.items() if w > 0 and f in own}
    counts = dict.fromkeys(weights, 0)
    while weights and (rest := choice.wanted - sum(counts.values())):
        for family, share in allocate(shared(weights), rest).items():
            counts[family] = min(len(own[family]), counts[family] + share)
        weights = {f: w for f, w in weights.items() if counts[f] < len(own[f])}
    chosen: list[Task] = []
    for family, share in counts.items():
        tasks = own[family]
        random.Random(seed_of(choice.seed, family)).shuffle(tasks)
        tasks.sort(key=last)  # type: ignore[arg-type]
        chosen += tasks[:share]
    return chosen
