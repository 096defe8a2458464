"""Canaries: tasks that nobody can solve, mixed in with those that are practised.

Whoever solves one has not worked: rewards were mixed up, the grader takes anything, the world
tells what it should keep. Then nothing that was graded beside it can be believed, so the whole
batch of the generation is void: it trains nothing and is written nowhere, then or later.

A canary has the prompt and the family of a train task, and an answer that is made up (`Suite`).
Agent and grader get it as they get any task; only the phase of its episodes tells us.

The rule: the batch is void if any canary's episode earned ``SOLVED`` or more, of the rewards that
are learnt from (so flipped ones are seen). Less is what some graders give for a likeness. By
chance a made-up answer earns that in fewer than 1 of 200,000 episodes (Reasoning Gym's
``spell_backward``, 6 of 12 letters in place; elsewhere 1 of 10**12 or never), so 4 canaries with 8
samples void an honest batch in fewer than 1 of 6,000 generations. A grader that gives everybody
less than half is not seen. Where all canaries' episodes broke, nothing vouches for the batch, and
it is void as well.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from agent.config import ConfigError
from agent.evolution.refine import earned
from agent.loop import seed_of
from environments.base import Task
from environments.splits import split_of
from memory.records import CANARY, Note, Trajectory

if TYPE_CHECKING:
    from agent.evolution.refine import RefineSettings
    from agent.run import Run

SOLVED = 0.5  # earned by a canary, from here on
SEEDS = 32  # tried of a task, until what is made of it is a train task


def check(run: Run) -> None:
    """Whether the suite has canaries, where they are asked for.

    Raises:
        ConfigError: it has none.
    """
    if run.config.acquire.canaries and not hasattr(run.suite, "canary"):
        raise ConfigError(
            f"acquire.canaries: the suite {run.config.suite.name} has none; give it a method "
            "canary(task, seed), or set acquire.canaries=0"
        )


def plant(run: Run, n: int, tasks: Sequence[Task]) -> tuple[list[Task], frozenset[str]]:
    """The tasks of a generation with canaries among them, and the canaries' ids.

    They are made of train tasks of the same families, and are train tasks by their own content,
    so that whatever learns from one by mistake learns nothing that is measured.

    Raises:
        ConfigError: the suite could not make as many.
    """
    count = run.config.acquire.canaries
    if not count:
        return list(tasks), frozenset()
    families = {task.family for task in tasks}
    real = {task.id for task in run.tasks("train")}
    pool = [t for t in run.tasks("train") if t.family in families and run.vouched(t.id)]
    chance = random.Random(seed_of(run.config.seed, n, CANARY))
    chance.shuffle(pool)
    made: dict[str, Task] = {}
    for task in pool:
        if len(made) == count:
            break
        for seed in range(SEEDS):
            found = run.suite.canary(task, seed_of(run.config.seed, n, seed))  # type: ignore[attr-defined]
            if found is None:
                break
            if split_of(found.id) == "train" and found.id not in real:
                made[found.id] = found
                break
    if len(made) < count:
        raise ConfigError(
            f"acquire.canaries={count}: the suite {run.config.suite.name} made {len(made)} of its "
            "train tasks; ask for fewer"
        )
    mixed = list(tasks)
    for canary in made.values():
        mixed.insert(chance.randint(0, len(mixed)), canary)
    return mixed, frozenset(made)


def phase(task: Task, planted: Collection[str]) -> str:
    """The phase of a task's episodes while acquiring."""
    return CANARY if task.id in planted else "acquire"


def without(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Trajectories less those of canaries."""
    return [t for t in trajectories if t.phase != CANARY]


def judge(run: Run, n: int) -> str:
    """Why the batch of a generation is void, or ""; told and noted once, then looked up."""
    note = run.ledger.get(Note, f"void/{n}")
    if note is None:
        why = verdict([t for _, t in run.ledger.all(Trajectory, f"{n}/{CANARY}/")],
                      run.config.refine)  # fmt: skip
        if not why:
            return ""
        note = Note(data={"why": why})
        run.ledger.append(f"void/{n}", note)
        run.print(f"generation {n}: {why}")
    return str(note.data["why"])


def verdict(played: Sequence[Trajectory], settings: RefineSettings) -> str:
    """Why a batch is void, by its canaries' episodes; "" if it is not.

    Args:
        played: all of a generation's; broken ones say nothing, unless all are.
        settings: how rewards are read.
    """
    played = sorted(played, key=lambda t: t.slot)
    ended = [t for t in played if t.failure is None]
    if played and not ended:
        return (
            f"batch void: none of {len(played)} episodes of canaries came to an end "
            f"({played[-1].failure.message if played[-1].failure else ''}), so nothing vouches for "
            "its rewards and nothing of this generation's episodes is learnt"
        )
    solved = [t for t in ended if earned(t, settings) >= SOLVED]
    if not solved:
        return ""
    families = ", ".join(sorted({t.family for t in solved}))
    flipped = " (refine.corrupt is flip)" if settings.corrupt == "flip" else ""
    return (
        f"batch void: {len(solved)} of {len(ended)} episodes of canaries, which nobody can solve, "
        f"earned {SOLVED:g} or more ({families}; {solved[0].slot}){flipped}, so rewards cannot be "
        "believed and nothing of this generation's episodes is learnt"
    )


def acquired(run: Run, before: int) -> list[Trajectory]:
    """All trajectories acquired in the generations before one, oldest first; no void batches.

    Within a generation they go by slot, whichever ended first: what is learnt in which order must
    not hang on that.
    """
    return [
        trajectory
        for n in range(1, before)
        if not judge(run, n)
        for _, trajectory in sorted(run.ledger.all(Trajectory, f"{n}/acquire/"))
    ]
