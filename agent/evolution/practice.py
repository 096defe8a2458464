"""Practice: a generation's tasks, made up or chosen, are tried several times."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from agent.evolution import canaries
from agent.evolution.acquire import Plan, generate, plan, slots
from agent.evolution.acquire.select import choose
from agent.evolution.feedback.verdicts import seen
from agent.evolution.retry import retry
from agent.evolution.solutions import solve
from agent.evolution.solutions.settings import SAMPLE
from agent.run import Run
from agent.run_folder import BASE
from environments.base import Task
from memory.records import CANARY, Generation, Trajectory


def practised(
    run: Run, n: int, incumbent: Generation, earlier: Sequence[Trajectory]
) -> list[Trajectory]:
    """Make tasks up, choose some, try each several times, with and without memory.

    Args:
        run, n: the run, and the generation.
        incumbent: who tries.
        earlier: what former generations tried.

    Returns:
        the tries; those of canaries are not among them.
    """
    settings = run.config.acquire
    generate.generated(run, n, incumbent, earlier)
    tasks, planted = canaries.plant(run, n, choose(run, n, incumbent, earlier))
    label = f"generation {n} · acquire"
    episodes = _planned(run, n, incumbent, tasks, range(settings.samples), planted)
    explored = run.episodes(f"{label} · base explores", episodes.base, BASE)
    tries = solve.solved(run, n, incumbent, label, episodes.incumbent)
    explored, tries = canaries.without(explored), canaries.without(tries)
    tried = explored + tries
    if settings.explore and settings.further_samples:
        solved = {t.family for t in seen(run, incumbent.weights, tried) if t.success}
        missed = [t for t in tasks if t.family not in solved and t.id not in planted]
        samples = range(settings.samples, settings.samples + settings.further_samples)
        more = _planned(run, n, incumbent, missed, samples)
        tried += run.episodes(f"{label} · base explores further", more.base, BASE)
        tried += run.episodes(f"{label} · further", more.incumbent, incumbent.weights)
    if settings.retries:
        seen(run, incumbent.weights, tried)  # with the base's: they are compared
        planned = [a for a in episodes.incumbent if a.phase != CANARY]
        tried += retry(run, n, incumbent, planned, tries)
    return tried


def _planned(
    run: Run,
    n: int,
    incumbent: Generation,
    tasks: Sequence[Task],
    samples: range,
    planted: Collection[str] = (),
) -> Plan:
    """Episodes that try tasks, with what memory holds for those that are not done yet."""
    settings, memory, weights = run.config.acquire, incumbent.memory, incumbent.weights
    further = settings.retries or settings.solve.how != SAMPLE  # read memory as the first did
    open_ = [
        t
        for t in tasks
        if further or not all(map(run.done, slots(n, t, samples, canaries.phase(t, planted))))
    ]
    return plan(
        tasks,
        run.memory.recall(open_, memory, weights, settings.recall, learning=True),
        settings,
        samples=samples,
        generation=n,
        memory=memory,
        weak={f for f, solved_share in incumbent.families.items() if solved_share < 0.5},
        # A method says who tries what: the base does not explore beside it.
        evolved=weights != BASE and settings.solve.how == SAMPLE,
        canaries=planted,
        look_again=lambda task: run.memory.again(task, memory, weights, learning=True),
        search=lambda task: run.memory.search(task, memory, weights, learning=True),
    )
