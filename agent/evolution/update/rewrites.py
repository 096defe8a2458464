"""Solutions in the trainee's own words, and more of what a trained student gets wrong.

Both are episodes of train tasks in which a solution may stand in view; it is stripped from what
is trained on (see ``conversations``), and what is not right in the world is not taken. Where a
generation's rewards cannot be believed (its batch is void) there is neither.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

from agent.evolution import canaries
from agent.evolution.feedback import verdicts
from agent.evolution.refine import Solution, refine
from agent.evolution.update.writers.base import about, transcript
from agent.loop import Assignment, seed_of
from agent.run import Run
from environments.base import Task
from environments.splits import families_in_turn
from memory.records import REWRITE, Generation, Kind, Trajectory, Trust

Train = Callable[[Sequence[Solution], Sequence[Trajectory], str], tuple[str, str]]
"""(solutions, experience, name of the training, "" for the last) → version of weights, and why."""

_PLACE = "rewrite/"  # in slots, before that of the solution
OWN_WORDS = "This is right. Solve the task in your own words."


def rewritten(
    run: Run,
    n: int,
    start: str,
    solutions: Sequence[Solution],
    experience: Sequence[Trajectory],
) -> tuple[list[Solution], list[Trajectory]]:
    """Each solution in the words of the weights that training begins with, where they are right.

    Self-distillation (SDFT, arXiv 2402.13669, §3): what is trained on is nearer to what the
    weights would say anyway, so less is forgotten. The paper takes a rewrite on the word of a
    pattern; here the world decides, and where it says no the original stays.

    Args:
        run, n: the run and the generation.
        start: version of the weights that training begins with.
        solutions, experience: what would be trained on.

    Returns:
        as many solutions, and the experience with the episodes behind them.
    """
    tasks = _practised(run)
    known = [s.trajectory for s in solutions if s.trajectory.task in tasks]
    planned = [_shown(n, tasks[t.task], t, f"{_PLACE}{t.slot}") for t in known]
    _note(run, planned)
    played = {t.slot: t for t in _played(run, f"generation {n} · own words", planned, start)}
    right: dict[str, Trajectory] = {}
    for solved, assignment in zip(known, planned, strict=True):
        own = played.get(assignment.slot)
        if own is not None and own.success and own.failure is None and own.steps:
            right[solved.slot] = own
    taken = [s._replace(trajectory=right.get(s.trajectory.slot, s.trajectory)) for s in solutions]
    return taken, [*experience, *right.values()]


def original(slot: str) -> str:
    """The slot of the solution that a rewrite says in other words; of any other episode its own."""
    return slot.partition(f"/probe/{_PLACE}")[2] or slot


def relearn(
    run: Run,
    n: int,
    incumbent: Generation,
    solutions: Sequence[Solution],
    experience: Sequence[Trajectory],
    train: Train,
) -> tuple[str, str]:
    """Train, try the student, practise what it gets wrong, train again: ``replay.rounds`` times.

    LLM2LLM (arXiv 2403.15042, §3): the student is tried on what was practised, new data are made
    for what it gets wrong, and training begins anew on all there was and these. Each round's data
    come on top, under caps of their own, so what was wrong weighs more each time. There is no
    teacher here: the student itself tries wrong tasks again, a known solution in view where there
    is one, and tasks like them that were never tried; what the world finds right is taken.

    Args:
        run, n, incumbent: the run, the generation and who acted in it.
        solutions, experience: what is trained on first.
        train: trains, under a name.
    """
    settings, tasks = run.config.update_weights, _practised(run)
    # In an order that does not depend on which episode ended first.
    met = [tasks[name] for name in sorted({t.task for t in experience} & tasks.keys())]
    believed = settings.enabled and not canaries.judge(run, n)
    for number in range(1, settings.replay.rounds + 1 if believed and met else 1):
        place = f"student{number}"
        student, _ = train(solutions, experience, place)
        if student == incumbent.weights:
            break
        random.Random(seed_of(run.config.seed, n, place)).shuffle(met)
        tries = [
            Assignment(f"{n}/probe/{place}/{task.id}", task, "train", "probe")
            for task in families_in_turn(met, settings.replay.tasks)
        ]
        played = _played(run, f"generation {n} · {place}", tries, student)
        wrong = [tasks[t.task] for t in played if not t.success and t.failure is None]
        if not wrong:
            break
        alike = _alike(wrong, tasks.values(), {t.task for t in experience})
        label = f"generation {n} · what {place} got wrong"
        more = _played(run, label, _again(run, n, place, [*wrong, *alike], solutions), student)
        experience = [*experience, *more]
        solutions = [*solutions, *refine(more, run.config.refine, n)]
    return train(solutions, experience, "")


def _again(
    run: Run, n: int, place: str, tasks: Sequence[Task], solutions: Sequence[Solution]
) -> list[Assignment]:
    """Tries of tasks, at the temperatures of practice, with a known solution in view."""
    solved = {s.trajectory.task: s.trajectory for s in solutions}
    temperatures = run.config.acquire.temperatures
    planned = []
    for task in tasks:
        for sample in range(run.config.update_weights.replay.samples):
            name, known = f"{place}/again/{task.id}/{sample}", solved.get(task.id)
            warm = temperatures[sample % len(temperatures)]
            plain = Assignment(f"{n}/probe/{name}", task, "train", "probe", warm)
            planned.append(_shown(n, task, known, name, warm) if known else plain)
    _note(run, planned)
    return planned


def _alike(wrong: Sequence[Task], pool: Iterable[Task], met: Collection[str]) -> list[Task]:
    """For each task one of its family that was never tried, as far as there are any."""
    open_: dict[str, list[Task]] = {}
    for task in pool:
        if task.id not in met:
            open_.setdefault(task.family, []).append(task)
    wanted = Counter(task.family for task in wrong)
    return [task for family, count in wanted.items() for task in open_.get(family, [])[:count]]


def _shown(
    n: int, task: Task, solved: Trajectory, name: str, temperature: float = 0.0
) -> Assignment:
    """An episode of a task with a solution of it in view."""
    draft = about(solved, Kind.DRAFT, transcript(solved.turns), n, Trust.VERIFIED)
    return Assignment(
        slot=f"{n}/probe/{name}",
        task=task,
        split="train",
        phase=REWRITE,
        temperature=temperature,
        carried=(draft, about(solved, Kind.WORKING, OWN_WORDS, n, Trust.VERIFIED)),
    )


def _note(run: Run, planned: Sequence[Assignment]) -> None:
    """What stands in view is in the ledger before it is shown."""
    run.memory.add([item for assignment in planned for item in assignment.carried])


def _played(run: Run, label: str, planned: Sequence[Assignment], weights: str) -> list[Trajectory]:
    """The episodes, with the reward that is learnt from."""
    if not planned:
        return []
    return verdicts.seen(run, weights, run.episodes(label, planned, weights))


def _practised(run: Run) -> dict[str, Task]:
    """The train tasks that the suite answers for, by id."""
    return {task.id: task for task in run.tasks("train") if run.vouched(task.id)}
