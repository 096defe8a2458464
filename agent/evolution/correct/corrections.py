"""Corrections: what no try of a task solved is tried again, with what the method says of it.

A corrected try is an episode like any other; what was said stands before its task as notes,
which nothing else ever sees. It counts as a solution only if the feedback says so, and it is
trained on without the notes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.choices import found
from agent.config import ConfigError
from agent.evolution.acquire import TRY
from agent.evolution.correct.blocks import by_blocks
from agent.evolution.correct.critiques import constitutional, critic, rci, self_refine
from agent.evolution.correct.execution import interpreter, isr_llm, self_debug
from agent.evolution.correct.uncritical import rationalise, redraft, verify_passes
from agent.evolution.feedback.verdicts import seen
from agent.evolution.update.writers.base import Situation
from agent.loop import Assignment
from agent.run import Run
from agent.worlds import require_programs
from memory.records import REWRITE, Generation, MemoryItem, Trajectory

Notes = dict[str, list[MemoryItem]]
Corrector = Callable[[Situation, Sequence[Trajectory], int], Notes]
"""(who is asked, the tries, the round) → by slot, what stands before the task in its next try;
a try without any is left as it is."""

CORRECTORS: dict[str, Corrector] = {
    "self-refine": self_refine,
    "constitutional": constitutional,
    "rci": rci,
    "critic": critic,
    "isr-llm": isr_llm,
    "rationalise": rationalise,
    "self-debug": self_debug,
    "interpreter": interpreter,
    "blocks": by_blocks,
    "redraft": redraft,
    "verify": verify_passes,
}

EXECUTED = frozenset({"self-debug", "interpreter", "blocks"})  # they look at a program that runs
HINTED: frozenset[str] = frozenset({"rationalise"})  # a solution of the task stands in view


def check(run: Run) -> None:
    """Whether the configured correction can be had.

    Raises:
        ConfigError: no such function; rationalisation without known answers, execution without
            programs.
    """
    how = run.config.refine.correct
    if how != "none":
        _corrector(run)
    if how in EXECUTED:
        require_programs(run, f"refine.correct={how}")
    if how == "rationalise" and not hasattr(run.suite, "gold"):
        raise ConfigError(
            f"refine.correct=rationalise: suite {run.config.suite.name} has no gold solutions to "
            "hint at; choose another correction, or give the suite gold(task)"
        )


def _corrector(run: Run) -> Corrector:
    return found(run.config.refine.correct, CORRECTORS, "refine.correct", Notes)


def corrected(
    run: Run, n: int, incumbent: Generation, experience: Sequence[Trajectory]
) -> list[Trajectory]:
    """Further tries of what the generation did not solve, as the feedback sees them.

    Args:
        run: the run.
        n: the generation.
        incumbent: whose weights try and criticise, and whose memory is read.
        experience: all tries, as the feedback sees them.
    """
    settings = run.config.refine
    if settings.correct == "none":
        return []
    correct = _corrector(run)
    tasks = {task.id: task for task in run.tasks("train")}
    recent = [t for t in experience if t.slot.startswith(f"{n}/") and t.task in tasks]
    solved = {t.task for t in recent if t.success}
    first: dict[str, Trajectory] = {}
    for t in recent:
        if t.task not in solved and t.failure is None and t.steps:
            first.setdefault(t.task, t)
    recalls = run.memory.recall(
        [tasks[id_] for id_, t in first.items() if t.memory],
        incumbent.memory,
        incumbent.weights,
        run.config.acquire.recall,
        learning=True,
    )
    carried: dict[str, list[list[MemoryItem]]] = {}
    last, made = first, list[Trajectory]()
    for round_ in range(1, settings.rounds + 1):
        wrong = [t for t in last.values() if not t.success and t.failure is None and t.steps]
        if not wrong:
            break
        situation = Situation(run, n, incumbent.weights, wrong, (), {}, ())
        notes = correct(situation, wrong, round_)
        run.memory.add([item for own in notes.values() for item in own])
        again = [t for t in wrong if notes.get(t.slot)]
        if not again:
            break
        for t in again:
            carried[t.task] = [*carried.get(t.task, ()), notes[t.slot]][-settings.carried :]
        assignments = [
            Assignment(
                slot=f"{first[t.task].slot}{TRY}-{settings.correct}-{round_}",
                task=tasks[t.task],
                split="train",
                phase=REWRITE if settings.correct in HINTED else "acquire",
                temperature=t.temperature,
                memory=incumbent.memory if t.task in recalls else "",
                recall=recalls.get(t.task),
                carried=tuple(item for own in carried[t.task] for item in own),
            )
            for t in again
        ]
        label = f"generation {n} · {settings.correct} {round_}"
        played = run.episodes(label, assignments, incumbent.weights)
        tries = seen(run, incumbent.weights, played)
        made += tries
        last = {t.task: t for t in tries}
    return made
