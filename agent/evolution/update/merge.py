"""From this generation's trainings to the one candidate: train members, merge, try merges.

What a merge is worth is how many train tasks it solves. Its episodes are probes like any others,
in slots named by the merged weights, and its result is noted, so an interrupted search goes on.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agent.engines import merge_adapters, train_adapter
from agent.evolution.play import play
from agent.run import Run
from agent.run_folder import BASE, RunError, adapter_notes, pruned
from agent.training.adapter import read_manifest
from agent.training.merging import MergeSettings, Recipe, recipe
from agent.training.packing import Example
from agent.training.search import evolve, greedy, of_mean
from environments.splits import first_of_each_family
from memory.records import Note, Trajectory, content_hash

ADAPTER = "adapter"  # the folder in a generation's
WEIGHTS = (0.0, 1.5)  # of each member, while evolving
DENSITIES = (0.1, 1.0)


class Merged(NamedTuple):
    """A merge that was chosen.

    Args:
        parents: versions of what it is made of, in the recipe's order.
        recipe: how.
        fitness: share of the train tasks that it solved; None where it was not tried.
        tries: merges that were tried to find it.
    """

    parents: tuple[str, ...]
    recipe: Recipe
    fitness: float | None = None
    tries: int = 0


Train = Callable[[Path, str, int], Mapping[str, Any]]
"""(folder, label on the screen, how many went before) → the manifest of what was trained."""


def members(
    run: Run,
    n: int,
    examples: Sequence[Example],
    described: Mapping[str, Any],
    name: str = ADAPTER,
) -> tuple[list[str], int]:
    """Versions of this generation's trainings, and the tokens that they read.

    Args:
        run, n: the run and the generation.
        examples, described: what to train on, and what the manifests are to say.
        name: of the folders, and in the ledger; a student's is trained once.
    """
    merge = run.config.update_weights.merge
    several = merge.how not in ("none", "ama") and merge.of == "seeds" and name == ADAPTER
    count = merge.members if several else 1

    def train(folder: Path, again: str, repeat: int) -> Mapping[str, Any]:
        label = f"generation {n} · train on {len(examples)}{again}"
        return train_adapter(run, examples, folder, described, label, repeat)

    return each_once(run, n, name, count, train)


def each_once(run: Run, n: int, name: str, count: int, train: Train) -> tuple[list[str], int]:
    """Several trainings of a generation, each done once; their versions, and the tokens read.

    Args:
        run, n: the run and the generation.
        name: of the folders, and in the ledger.
        count: how many.
        train: does one.

    Raises:
        FloatingPointError: the first one diverged; later ones that do are left out.
    """
    versions, tokens = [], 0
    for number in range(count):
        key = f"member/{n}/{name}/{number}"
        done = run.ledger.get(Note, key)
        if done is None:
            folder = run.generation_folder(n) / (f"{name}-{number}" if number else name)
            try:
                made = train(folder, f" · {number + 1} of {count}" * (count > 1), number)
                done = Note(data={"version": made["version"], "tokens": made["tokens"]})
                notes = adapter_notes(run.folder, run.ledger, folder)
            except FloatingPointError as error:
                if not number:
                    raise
                done, notes = Note(data={"version": "", "tokens": 0, "why": str(error)}), []
            run.ledger.append_many([*notes, (key, done)])
        versions.append(str(done.data["version"]))
        tokens += int(str(done.data["tokens"]))
    return list(dict.fromkeys(filter(None, versions))), tokens


def candidate(run: Run, n: int, own: Sequence[str], tried: Collection[str]) -> tuple[str, str]:
    """The version that goes before the gate, and what there is to say about it.

    Args:
        run, n: the run and the generation.
        own: versions of this generation's trainings.
        tried: tasks that were practised; merges are tried on others, as far as there are any.
    """
    settings = run.config.update_weights.merge
    parents = list(own)
    if settings.of == "generations" and settings.how not in ("none", "ama"):
        parents = list(dict.fromkeys([*own, *earlier(run, n)]))[: settings.members]
    if settings.how == "none" or (settings.how != "ama" and len(parents) < 2):
        return own[0], "" if settings.how == "none" else "nothing to merge with yet"
    found = choose(run, n, parents, settings, tried)
    if len(found.parents) == 1 and found.recipe.how == "soup":  # a greedy soup of one
        return found.parents[0], f"soup: {found.parents[0]} alone is the best"
    version = store(run, n, found, f"generations/{n:03d}/merged")
    return version, f"{found.recipe.how} of {', '.join(found.parents)}"


def earlier(run: Run, n: int) -> list[str]:
    """Versions trained in earlier generations whose candidate went live, the newest first."""
    versions = []
    for g in reversed(run.generations()):
        note = run.ledger.get(Note, f"trained/{g.n}")
        if g.n >= n or note is None or g.decision != "promoted":
            continue
        if g.weights != note.data["version"]:
            continue
        version = str(note.data.get("member", g.weights))
        if not pruned(run.folder, run.ledger, version):
            versions.append(version)
    return versions


def choose(
    run: Run, n: int, parents: Sequence[str], settings: MergeSettings, tried: Collection[str]
) -> Merged:
    """Which merge of these adapters; searches for it where the settings say so.

    Args:
        run: who plays.
        n: generation that its probes belong to.
        parents: versions; ``ama`` takes the first alone.
        settings: their ``how`` is not ``none``.
        tried: see ``candidate``.
    """
    seed = run.config.seed
    parents = tuple(parents[:1] if settings.how == "ama" else parents)
    plain = recipe(settings, len(parents), seed)
    searches = settings.how in ("evolve", "ama") or (settings.how == "soup" and settings.greedy)
    if not searches:
        return Merged(parents, plain)
    fitness = Fitness(run, n, settings, tried)
    if settings.how == "soup":

        def soup(numbers: Sequence[int]) -> Merged:
            chosen = tuple(parents[number] for number in numbers)
            return Merged(chosen, recipe(settings, len(chosen), seed))

        numbers, value = greedy(len(parents), lambda some: fitness(soup(some)))
        return soup(numbers)._replace(fitness=value, tries=2 * len(parents) - 1)

    def mix(point: Sequence[float]) -> Merged:
        if settings.how == "ama":
            ratios = of_mean(point, settings.mean)
            return Merged(parents, plain.model_copy(update={"ratios": ratios}))
        changed = {"weights": tuple(point[:-1]), "density": point[-1]}
        return Merged(parents, plain.model_copy(update=changed))

    if settings.how == "ama":
        start, bounds = plain.ratios, [(0.0, 1.0)] * settings.groups
    else:
        start = (*plain.weights, plain.density)
        bounds = [WEIGHTS] * len(parents) + [DENSITIES]
    best = evolve(
        lambda point: fitness(mix(point)), start, bounds, budget=settings.budget, seed=seed
    )
    return mix(best.point)._replace(fitness=best.fitness, tries=best.tries)


class Fitness:
    """Share of train tasks that a merge solves, greedily and without memory.

    Args:
        run, n: who plays, and the generation that the probes belong to.
        settings: tasks per family.
        tried: tasks that come last, because the members learnt from them.
    """

    def __init__(self, run: Run, n: int, settings: MergeSettings, tried: Collection[str]):
        own = [task for task in run.tasks("train") if run.vouched(task.id)]
        if not own:
            raise RunError("no train task that the suite vouches for, so no merge can be tried")
        self.tasks = first_of_each_family(
            sorted(own, key=lambda task: task.id in tried), settings.tasks
        )
        self.run, self.n = run, n

    def __call__(self, merged: Merged) -> float:
        run = self.run
        asked = [merged.parents, merged.recipe.model_dump(mode="json"), [t.id for t in self.tasks]]
        key = f"merge/{self.n}/{content_hash(asked)[:16]}"
        known = run.ledger.get(Note, key)
        if known is None:
            known = Note(data={"fitness": self._play(merged), "recipe": asked[1]})
            run.ledger.append(key, known)
        return float(str(known.data["fitness"]))

    def _play(self, merged: Merged) -> float:
        run = self.run
        label = f"generation {self.n} · try a merge"
        if len(merged.parents) == 1 and merged.recipe.how == "soup":
            return self._solved(label, merged.parents[0])
        place = run.generation_folder(self.n) / "merges"
        folders = [run.adapter(version) for version in merged.parents]
        made = merge_adapters(run, list(filter(None, folders)), merged.recipe, place / "new", {})
        version = str(made["version"])
        shutil.rmtree(place / version, ignore_errors=True)
        os.replace(place / "new", place / version)  # a folder of its own, as servers want it
        run.trials[version] = place / version
        try:
            return self._solved(label, version)
        finally:
            del run.trials[version]
            shutil.rmtree(place, ignore_errors=True)

    def _solved(self, label: str, version: str) -> float:
        played = play(self.run, label, "train", "", version, self.tasks, self.n)
        ended = [t.success for t in played if t.failure is None]
        return sum(ended) / len(ended) if ended else 0.0


def store(run: Run, n: int, merged: Merged, place: str) -> str:
    """Make a merge, in the run folder and in the ledger; its version.

    Args:
        run, n, merged: the run, the generation, and what was chosen.
        place: folder inside the run's.
    """
    folders = [run.adapter(version) for version in merged.parents]
    told = {"fitness": merged.fitness, "tries": merged.tries} if merged.tries else {}
    folder = run.folder / place
    described = {"generation": n, "parent": BASE, **told, **_shape(run, merged.parents)}
    made = merge_adapters(run, list(filter(None, folders)), merged.recipe, folder, described)
    version = str(made["version"])
    run.ledger.append_many(adapter_notes(run.folder, run.ledger, folder))
    stored = run.adapter(version)
    if stored != folder:  # the same parents and recipe, merged before
        shutil.rmtree(folder, ignore_errors=True)
    return version


def _shape(run: Run, parents: Sequence[str]) -> dict[str, Any]:
    """How many trajectories of each family the parents learnt from, each counted once."""
    slots: set[str] = set()
    for version in parents:
        folder = run.adapter(version)
        assert folder is not None
        slots |= set(read_manifest(folder)["sources"])
    families: Counter[str] = Counter()
    for slot in sorted(slots):
        if (trajectory := run.ledger.get(Trajectory, slot)) is not None:
            families[trajectory.family] += 1
    return {"families": dict(families)}
