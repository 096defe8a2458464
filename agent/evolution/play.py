"""One agent on given tasks: greedy episodes, each run once however often it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from agent.loop import Assignment
from agent.paging import lone
from agent.run import Run
from agent.run_folder import RunError
from agent.worlds import first_world
from environments.base import Task
from environments.splits import Split
from memory import history
from memory.ledger import Ledger
from memory.records import Status, Trajectory, content_hash

if TYPE_CHECKING:
    from agent.config import StoreSettings


def searchable(run: Run) -> None:
    """Tell where the agent is to search memory, and has no way to call for it."""
    if run.config.memory.search is None:
        return
    with first_world(run) as world:
        if lone(world.tools):
            run.print(
                "[yellow]memory.search has no effect: an action of suite "
                f"{run.config.suite.name} is a text alone, and memory's tools are called[/yellow]"
            )


def measure(
    run: Run,
    label: str,
    split: Split,
    memory: str,
    weights: str,
    tasks: Sequence[Task] | None = None,
) -> dict[str, float]:
    """Success (0 or 1) of one agent on each task of a split, by task id, greedily.

    Episodes that broke are left out: a fallen sandbox says nothing about the agent.
    """
    tasks = run.tasks(split) if tasks is None else tasks
    played = play(run, label, split, memory, weights, tasks)
    return {t.task: float(t.success) for t in played if t.failure is None}


def episodes_of(run: Run, split: Split, memory: str, weights: str) -> dict[str, Trajectory]:
    """An agent's unbroken episodes so far on a split's tasks, by task id, in the tasks' order."""
    agent = arm(run.ledger, run.config.memory, memory, weights)
    found = ((task.id, run.done(f"{split}/{agent}/{task.id}")) for task in run.tasks(split))
    return {task: t for task, t in found if t is not None}


def fair(tasks: Sequence[Task], outcomes: Sequence[Mapping[str, float]]) -> list[Task]:
    """The tasks that every agent played to an end; only these are compared.

    Raises:
        RunError: there are none.
    """
    kept = [task for task in tasks if all(task.id in own for own in outcomes)]
    if tasks and not kept:
        raise RunError(
            "no task was played to an end by every agent, so nothing can be compared; "
            "see why episodes broke, mend that, and run this again"
        )
    return kept


def play(
    run: Run,
    label: str,
    split: Split,
    memory: str,
    weights: str,
    tasks: Sequence[Task],
    probe: int | None = None,
) -> list[Trajectory]:
    """One greedy episode per task by one agent (for a generation's probe, if one is given)."""
    agent = arm(run.ledger, run.config.memory, memory, weights)
    place = f"{split if probe is None else f'{probe}/probe'}/{agent}"
    slots = {f"{place}/{task.id}": task for task in tasks}
    phase = split if probe is None else "probe"
    return run.episodes(label, _assigned(run, slots, split, phase, memory, weights), weights)


def sample(
    run: Run, label: str, place: str, n: int, memory: str, weights: str
) -> dict[str, list[Trajectory]]:
    """``n`` sampled episodes of one agent on each test task, by task id; slots begin ``place``."""
    tasks = run.tasks("test")
    slots = {f"{place}/{task.id}/{i}": task for task in tasks for i in range(n)}
    heat = run.config.test.best_of_temperature
    assignments = _assigned(run, slots, "test", "test", memory, weights, heat)
    played = run.episodes(label, assignments, weights)
    return {task.id: played[i * n : i * n + n] for i, task in enumerate(tasks)}


def _assigned(
    run: Run,
    slots: Mapping[str, Task],
    split: Split,
    phase: str,
    memory: str,
    weights: str,
    temperature: float = 0.0,
) -> list[Assignment]:
    """An agent's episodes, by slot; memory is read once a task, and only for what is not played."""
    open_ = {task.id: task for slot, task in slots.items() if not run.done(slot)}
    recalls = run.memory.recall(list(open_.values()), memory, weights) if open_ else {}
    return [
        Assignment(
            slot=slot,
            task=task,
            split=split,
            phase=phase,
            temperature=temperature,
            memory=memory,
            recall=recalls.get(task.id),
            look_again=run.memory.again(task, memory, weights),
            search=run.memory.search(task, memory, weights),
        )
        for slot, task in slots.items()
    ]


def arm(ledger: Ledger, settings: StoreSettings, memory: str, weights: str) -> str:
    """Name of an agent in slots: what it sees of its memory, and its weights.

    Snapshots that look the same to it (they differ in items on trial, say) are one agent, which
    is measured once.

    Args:
        ledger: holds the snapshot.
        settings: what recall goes by.
        memory: the snapshot's id, "" for none.
        weights: version of the weights.
    """
    looks = (settings.recall, settings.each_step, settings.search)
    by_worth = any(r.recency or r.utility for r in looks if r)
    seen = {
        item: [weights in change.absorbed_by, change.worth.model_dump() if by_worth else None]
        for item, change in history.state(ledger, memory, as_it_was=True).items()
        if change.status is Status.ACTIVE
    }
    return f"{content_hash(seen)[:16] if seen else 'none'}+{weights}"
