"""What new weights do as well without: consolidation of memory into weights."""

from __future__ import annotations

from collections.abc import Collection

from agent.evolution.play import play
from agent.run import Run
from memory import history
from memory.records import MemoryChange


def absorb(
    run: Run, n: int, weights: str, memory: str, recent: Collection[str]
) -> list[MemoryChange]:
    """Mark the items that the new weights do as well without.

    Tasks are solved with and without memory (paired, greedily; train tasks only: those of the
    items and those just tried), and each recalled item is credited with the difference. What
    earns nothing costs no tokens while these weights act, and is back as soon as others do.
    """
    state = history.state(run.ledger, memory)
    items = history.items(run.ledger, memory)
    wanted = {*recent, *(t for item in items for t in item.tasks)}
    tasks = [task for task in run.tasks("train") if task.id in wanted]
    label = f"generation {n} · what the weights absorbed"
    bare = {t.task: t.success for t in play(run, label, "train", "", weights, tasks, n)}
    credit: dict[str, int] = {}
    for t in play(run, label, "train", memory, weights, tasks, n):
        for shown in t.recalled:
            credit[shown] = credit.get(shown, 0) + t.success - bare[t.task]
    changes = []
    for item in items:
        known = item.tasks and all(bare.get(task, False) for task in item.tasks)
        if credit.get(item.id, 0) > 0 or not (item.id in credit or known):
            continue
        change = state[item.id]
        changes.append(
            change.model_copy(
                update={
                    "absorbed_by": (*change.absorbed_by, weights),
                    "reason": f"the weights {weights} do as well without it",
                }
            )
        )
    return changes
