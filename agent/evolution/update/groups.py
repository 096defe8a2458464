"""An adapter per task group, and a selector: one version of the weights (ConPET, 2309.14763).

A group is a family; of many families, those whose prompts are alike. Where a group has verified
solutions that its adapter was not trained on, a new one is trained from base: on the group's own
examples, and on a share of the other groups' for rehearsal. The other groups' adapters are
carried over as they are, so what one group learns cannot harm another. The selector is made from
the prompts of all train tasks; how well it does on prompts that it has not seen stands in the
set's manifest.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.engines import train_adapter
from agent.evolution.refine import Solution
from agent.evolution.update.rewrites import original
from agent.evolution.update.weights import composition
from agent.loop import seed_of
from agent.members import adapter_set
from agent.run_folder import adapter_notes, config_hash
from agent.training.adapter import AdapterError, check_adapter, read_manifest
from agent.training.adapter_set import MEMBERS, AdapterSet, member_folder, save_set
from agent.training.packing import Example, Unit, units
from agent.training.selector import cross_validated, fit
from memory.embed import Vectors
from memory.recall.clusters import clusters
from memory.records import Generation, Trajectory, content_hash

if TYPE_CHECKING:
    from agent.run import Run


def candidate(
    run: Run,
    n: int,
    incumbent: Generation,
    examples: Sequence[Example],
    solutions: Sequence[Solution],
    experience: Sequence[Trajectory],
    described: Mapping[str, Any],
) -> tuple[str, str, int]:
    """A new adapter set, from the incumbent's and what its groups have learnt since.

    Args:
        run, n, incumbent: the run, the generation and whose set is carried on.
        examples: of all groups, as the objective makes them.
        solutions: verified; those that a group's adapter has not seen have it trained anew.
        experience: the trajectories behind the examples.
        described: lineage that all manifests hold.

    Returns:
        the set's version, empty where no group has anything new; what is to be told; and the
        tokens that training read.
    """
    folder = run.generation_folder(n) / "adapter"
    settings = run.config.update_weights
    families, vectors = _prompts(run)
    group_of = grouped(families, vectors, settings.groups.most)
    families_of = {t.slot: t.family for t in experience}
    own: dict[str, list[Unit]] = {group: [] for group in sorted(set(group_of.values()))}
    for unit in units(examples):
        own[group_of[families_of[unit[0].source]]].append(unit)
    solved: dict[str, list[str]] = {group: [] for group in own}
    for solution in solutions:
        slot = solution.trajectory.slot
        solved[group_of[families_of[slot]]].append(slot)
    before = _carried(run, incumbent.weights)
    members, told, tokens = dict(before), [], 0
    for number, (group, of_group) in enumerate(own.items()):
        known = read_manifest(before[group])["solutions"] if group in before else []
        few = len({e.source for unit in of_group for e in unit}) < settings.min_examples
        if set(map(original, solved[group])) <= set(map(original, known)) or few:
            continue
        rehearsed = _rehearsed(own, group, settings.groups.rehearsal, run.config.seed)
        flat = [example for unit in [*of_group, *rehearsed] for example in unit]
        place = folder.with_name(MEMBERS) / f"{number:03d}"
        try:
            manifest = _trained(run, n, group, flat, sorted(solved[group]), place, {
                **described,
                "group": group,
                "families": composition(flat, experience),
                "rehearsed": sorted({e.source for unit in rehearsed for e in unit}),
            })  # fmt: skip
        except FloatingPointError as error:
            told.append(f"{group}: {error}")
            continue
        members[group] = place
        tokens += int(manifest["tokens"])
    anew = [group for group in own if members.get(group) != before.get(group)]
    if not anew:
        return "", "; ".join(["no training: no group has enough new solutions", *told]), 0
    manifests = {group: read_manifest(place) for group, place in members.items()}
    versions = {group: str(m["version"]) for group, m in manifests.items()}
    margin = settings.groups.margin
    selector = fit(families, vectors, group_of, margin, run.memory.embedder.identity)
    lineage = {
        **described,
        "config": config_hash(run.folder),
        "members": versions,
        "trained": {group: m["generation"] for group, m in manifests.items()},
        "groups": group_of,
        "selector": cross_validated(families, vectors, group_of, margin)._asdict(),
        "sources": sorted({slot for m in manifests.values() for slot in m["sources"]}),
        "tokens": tokens,
    }
    stored = AdapterSet(selector=selector, members=versions)
    save_set(folder, stored, {versions[g]: place for g, place in members.items()}, lineage)
    shutil.rmtree(folder.with_name(MEMBERS), ignore_errors=True)
    accuracy = lineage["selector"]["accuracy"]
    told.insert(0, f"trained for {', '.join(anew)}; the selector finds {accuracy:.0%} of groups")
    run.ledger.append_many(adapter_notes(run.folder, run.ledger, folder))
    return read_manifest(folder)["version"], "; ".join(told), tokens


def grouped(families: Sequence[str], vectors: Vectors, most: int) -> dict[str, str]:
    """The group of each family: itself, or a cluster of families where there are too many.

    Args:
        families: of the prompts, in order.
        vectors: of the prompts, a row each.
        most: groups at most.
    """
    names = sorted(set(families))
    if len(names) <= most:
        return {name: name for name in names}
    of = np.array(families)
    means = np.stack([vectors[of == name].mean(axis=0) for name in names])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    labels = clusters(means.astype(np.float32), most)
    together: dict[int, list[str]] = {}
    for name, label in zip(names, labels, strict=True):
        together.setdefault(int(label), []).append(name)
    return {name: " + ".join(own) for own in together.values() for name in own}


def _prompts(run: Run) -> tuple[list[str], Vectors]:
    """Families of the train tasks that are vouched for, and their prompts' vectors."""
    tasks = [task for task in run.tasks("train") if run.vouched(task.id)]
    return [t.family for t in tasks], run.memory.embedder.embed([t.prompt for t in tasks])


def _carried(run: Run, version: str) -> dict[str, Path]:
    """Folders of the members of a set, by group; none of the base weights."""
    members = adapter_set(run, version)
    folder = run.adapter(version)
    if members is None or folder is None:
        return {}
    return {group: member_folder(folder, own) for group, own in members.members.items()}


def _rehearsed(
    own: Mapping[str, Sequence[Unit]], group: str, share: float, seed: int
) -> list[Unit]:
    """Units of the other groups, in turn, as many as a share of the group's own."""
    chance = random.Random(seed_of(seed, group, "rehearsal"))
    piles = [list(other) for name, other in own.items() if name != group and other]
    for pile in piles:
        chance.shuffle(pile)
    turns = [pile[i] for i in range(max(map(len, piles), default=0)) for pile in piles
             if i < len(pile)]  # fmt: skip
    return turns[: round(share * len(own[group]))]


def _trained(
    run: Run,
    n: int,
    group: str,
    examples: Sequence[Example],
    solved: Sequence[str],
    place: Path,
    described: dict[str, Any],
) -> Mapping[str, Any]:
    """The manifest of a group's new adapter; one that a crash left finished is taken."""
    key = content_hash([[*e] for e in examples])[:16]
    try:
        check_adapter(place)
        if (found := read_manifest(place))["lessons"] == key:
            return found
    except (AdapterError, KeyError):
        pass
    described = {**described, "lessons": key, "solutions": list(solved)}
    place.parent.mkdir(parents=True, exist_ok=True)
    label = f"generation {n} · train {group} on {len(examples)}"
    return train_adapter(run, examples, place, described, label)
