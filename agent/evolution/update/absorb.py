"""What new weights do as well without: consolidation of memory into weights."""

from __future__ import annotations

from collections.abc import Collection

from agent.evolution.play import play
from agent.run import Run
from environments.splits import first_of_each_family
from memory import history
from memory.records import MemoryChange

PROBES = 8  # tasks per family


def absorb(
    run: Run, n: int, weights: str, memory: str, tried: Collection[str]
) -> list[MemoryChange]:
    """Mark the items that the new weights do as well without.

    Train tasks are solved with and without memory (paired, greedily), and each item is credited
    with the difference where it stood in the prompt; one that never did, with that of its
    family (of all families, where it has none). What earns nothing costs no tokens while these
    weights act, and is back as soon as others do.

    Args:
        run: the run.
        n: the generation.
        weights: version of the new weights.
        memory: the snapshot whose active items are judged.
        tried: tasks that were practised. Others are preferred: these weights learnt from the
            practised ones and need no memory for them.
    """
    items = history.items(run.ledger, memory)
    own = [task for task in run.tasks("train") if run.vouched(task.id)]
    tasks = first_of_each_family(sorted(own, key=lambda task: task.id in tried), PROBES)
    label = f"generation {n} · what the weights absorbed"
    bare = play(run, label, "train", "", weights, tasks, n)
    aided = play(run, label, "train", memory, weights, tasks, n)
    credit: dict[str, int] = {}
    of_family: dict[str, int] = {}
    for without, with_ in zip(bare, aided, strict=True):
        if not with_.recalled or without.failure or with_.failure:
            continue
        earned = with_.success - without.success
        for family in {with_.family, ""}:
            of_family[family] = of_family.get(family, 0) + earned
        for shown in with_.recalled:
            credit[shown] = credit.get(shown, 0) + earned
    state = history.state(run.ledger, memory)
    return [
        change.model_copy(
            update={
                "generation": n,
                "absorbed_by": (*change.absorbed_by, weights),
                "reason": f"the weights {weights} do as well without it",
            }
        )
        for item in items
        if credit.get(item.id, of_family.get(item.family, 0)) <= 0
        for change in (state[item.id],)
    ]
