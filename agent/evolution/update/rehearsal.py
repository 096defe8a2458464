"""What weights are trained on besides what is new, so that what was known stays known.

The default trains on all experience in each generation, from base, so nothing needs to be
replayed. Training on new experience alone forgets the rest; a share of past tasks among it is
the oldest remedy ("replay-based" in-weight updates in the survey, 2404.14387). Where past tasks
are not to be kept, the base can make up such tasks (SSR, arXiv 2403.01244, §3).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np

from agent.evolution.acquire.near import SAME, Shelf, like_any, measured
from agent.evolution.refine import RefineSettings, Solution, refine, solves
from agent.evolution.update.weights import WeightsUpdateSettings
from agent.loop import seed_of
from agent.prompt import opening
from agent.run import Run
from agent.run_folder import BASE
from agent.training.packing import Example
from environments.splits import families_in_turn, split_of
from memory.credit import generation_of
from memory.embed import Vectors
from memory.recall.clusters import clusters
from memory.records import Note, Trajectory

HOT = 0.8  # the temperature at which tasks are made up: greedily, like demonstrations give like


def rehearsed(
    settings: WeightsUpdateSettings,
    judged: RefineSettings,
    generation: int,
    seed: int,
    solutions: Sequence[Solution],
    experience: Sequence[Trajectory],
) -> tuple[Sequence[Solution], Sequence[Trajectory]]:
    """The solutions and the experience that a generation trains on.

    Args:
        settings: all data, or new data and a share of past tasks.
        judged: what counts as a solution.
        generation: for which one.
        seed: the run's; which past tasks are replayed.
        solutions: of all experience, from ``refine``.
        experience: all that was tried, oldest first; none of it by strangers.
    """
    if settings.data == "all":
        return solutions, experience
    new = [t for t in experience if generation_of(t.slot) == generation]
    met = {t.task for t in new}
    solved = {t.task for t in new if solves(t, judged, generation)}
    past = {t.task: t for t in experience if solves(t, judged, generation)}
    names = sorted(past.keys() - met)
    random.Random(seed_of(seed, generation, "replay")).shuffle(names)
    some = families_in_turn([past[n] for n in names], round(settings.replay.past * len(solved)))
    replayed = {t.task for t in some}
    kept = [t for t in experience if t.task in replayed or generation_of(t.slot) == generation]
    return refine(kept, judged, generation), kept


def synthesised(run: Run, n: int, weights: str, solutions: Sequence[Solution]) -> list[Example]:
    """Made-up tasks with the incumbent's answers: a rehearsal of what it does, unverified.

    The base writes each after a few past tasks. What is a task of the suite, or too much like one
    that is measured (see ``measured``), is dropped, and of each cluster the most central one is
    kept. Only the first turn can be rehearsed: there is no world for a made-up task.

    Args:
        run, n: the run and the generation.
        weights: the incumbent's, which answer.
        solutions: verified; those of earlier generations are the past.
    """
    replay = run.config.update_weights.replay
    past = [s.trajectory for s in solutions if generation_of(s.trajectory.slot) < n]
    past = [t for t in past if split_of(t.task) == "train" and run.vouched(t.task)]
    if not replay.synthesised or not past:
        return []
    chance = random.Random(seed_of(run.config.seed, n, "synthesised"))
    asked, like = {}, {}
    for number in range(replay.synthesised * replay.drafts):
        few = chance.sample(past, min(len(past), replay.demonstrations))
        key = f"said/{n}/synthesised/{number}"
        listed = "\n\n".join(f"Task: {t.prompt}" for t in few)
        asked[key] = [{"role": "user", "content": f"{listed}\n\nWrite one more such task."}]
        like[key] = few[-1]
    label = f"generation {n} · made-up tasks"
    said = run.say(label, asked, BASE, replay.tokens, temperature=HOT)
    embed = run.memory.embedder.embed
    others = Shelf([t.prompt for t in run.suite.tasks() if split_of(t.id) == "train"], SAME, embed)
    shelves = [others, *measured(run, lambda task: task.prompt)]
    texts: dict[str, str] = {}
    dropped: Counter[str] = Counter()
    for key, text in said.items():
        text = text.strip().removeprefix("Task:").strip()
        if why := like_any(text, shelves) if text else "nothing":
            dropped[why] += 1
        else:
            others.add(text)
            texts[key] = text
    if not texts:
        why = ", ".join(f"{why} {count}" for why, count in sorted(dropped.items()))
        run.print(
            f"generation {n}: none of {len(said)} made-up tasks is rehearsed: too much like a task "
            f"of the suite ({why}; see acquire.generate.apart)"
        )
    vectors = embed(list(texts.values()))
    keys = [list(texts)[i] for i in central(vectors, replay.synthesised)]
    answers = {f"{key}/answer": opening(like[key].frame, texts[key]) for key in keys}
    run.say(f"{label}, answered", answers, weights, replay.tokens, ids=True)
    policy, made = run.policy(weights), []
    for key, messages in answers.items():
        note = run.ledger.get(Note, key)
        ids = note.data.get("ids") if note else None
        if not isinstance(ids, list) or not 0 < len(ids) < replay.tokens:  # cut off: no answer
            continue
        prompt, produced = policy.encode(messages), tuple(int(str(i)) for i in ids)
        mask = (0,) * len(prompt) + (1,) * len(produced)
        made.append(Example(prompt + produced, mask, 1.0, key, policy=weights, task=key))
    return made


def central(vectors: Vectors, count: int) -> list[int]:
    """Of each of ``count`` clusters the number of the vector nearest its centre."""
    labels = clusters(vectors, count)
    found = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        found.append(int(own[(vectors[own] @ vectors[own].mean(axis=0)).argmax()]))
    return sorted(found)
