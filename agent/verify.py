"""The audit behind ``instar verify``: is this run what it says it is?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from agent.config import Config, ConfigError, validate
from agent.evolution.canaries import verdict
from agent.made_tasks import MadeTasks
from agent.report import accounted
from agent.run_folder import (
    BASE,
    CONFIG,
    FORKED,
    LEDGER,
    config_hash,
    earlier_hashes,
    open_ledger,
    pruned,
)
from agent.training.adapter import AdapterError, check_adapter, read_manifest
from agent.training.adapter_set import member_folder, read_set
from environments.splits import split_of
from memory import history
from memory.credit import generation_of
from memory.embed import EmbedderError, load_embedder
from memory.index import LedgerKeys, check_index
from memory.kinds import KINDS
from memory.ledger import Ledger, LedgerError
from memory.lock import RunLock
from memory.records import (
    CANARY,
    COMPOSED,
    CORRECTION,
    MEMBER_OF,
    REWRITE,
    Generation,
    MemoryItem,
    MemorySnapshot,
    Note,
    Recollection,
    Trajectory,
)

LEARNING = ("acquire", CANARY, "probe", REWRITE, COMPOSED, CORRECTION)
BATCH = ("acquire", CANARY)
# What the policy said and learns again: answers to made-up tasks, tasks that it proposed.
OWN_WORDS = re.compile(r"said/(\d+)/(?:synthesised/\d+/answer|generate/absolute-zero/\d+)")
TAUGHT = re.compile(r"said/\d+/generate/ada-instruct-taught/\d+")  # a task that a writer learnt


def verify(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Audit a run folder; nothing is changed.

    Returns:
        how many of each thing were checked, and every problem in a sentence.

    Raises:
        ConfigError: the folder holds no run.
        LockError: another process is using it.
    """
    if not (folder / LEDGER).is_file():
        raise ConfigError(f"{folder} is no run folder: it has no {LEDGER}")
    counts: dict[str, int] = {}
    problems: list[str] = []
    with RunLock(folder):
        try:
            with open_ledger(folder) as ledger:
                problems += ledger.verify()
                counts |= {
                    "trajectories": ledger.count(Trajectory),
                    "memory items": ledger.count(MemoryItem),
                    "memory snapshots": ledger.count(MemorySnapshot),
                    "generations": ledger.count(Generation),
                    "adapters": ledger.count(Note, "adapter/"),
                }
                if made := len(MadeTasks(ledger)):
                    counts["tasks made up"] = made
                for n in history.void(ledger):
                    named = f"episodes of generation {n}, void by its canaries"
                    counts[named] = sum(ledger.count(Trajectory, f"{n}/{p}/") for p in BATCH)
                kinds = (Trajectory, MemoryItem, Recollection, MemorySnapshot, Note)
                if erased := sum(len(ledger.erased(kind)) for kind in kinds):
                    counts["records erased"] = erased
                checks = (
                    _config,
                    _trajectories,
                    _canaries,
                    _made,
                    _memory,
                    _adapters,
                    _generations,
                    _index,
                )
                for check in checks:
                    problems.extend(check(ledger, folder))
        except LedgerError as error:
            if str(error) not in problems:  # the audit of the ledger may have met it first
                problems.append(str(error))
    return counts, problems


def _config(ledger: Ledger, folder: Path) -> Iterator[str]:
    try:
        tree = yaml.safe_load((folder / CONFIG).read_text())
        validate(tree if isinstance(tree, dict) else {"": None}, CONFIG)
    except (OSError, ValueError, yaml.YAMLError) as error:
        yield f"{CONFIG}: {' '.join(str(error).split())}"


def _unseen(folder: Path) -> frozenset[str]:
    """Families that only the test may meet; none where ``_config`` reports the file anyway."""
    try:
        tree = yaml.safe_load((folder / CONFIG).read_text())
        return frozenset(validate(tree, CONFIG).suite.unseen)
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return frozenset()


def _trajectories(ledger: Ledger, folder: Path) -> Iterator[str]:
    """Splits are what the task's hash says; learning never saw memory of its own task."""
    tasks_of: dict[str, set[str]] = {  # what is carried from try to try is of their own task
        key: set(item.tasks) if KINDS[item.kind].stored else set()
        for key, item in ledger.all(MemoryItem)
    }
    unseen = _unseen(folder)
    members = {
        key.removeprefix("adapter/"): dict(note.data["members"]).values()  # type: ignore[arg-type]
        for key, note in ledger.all(Note, "adapter/")
        if "members" in note.data
    }
    for slot, t in ledger.all(Trajectory):
        if t.family in unseen and t.split != "test":
            yield f"trajectory {slot}: the unseen family {t.family} was met outside the test"
        if t.slot != slot:
            yield f"trajectory {slot} is stored under another slot than its own, {t.slot}"
        if split_of(t.task) != t.split:
            yield f"trajectory {slot}: task {t.task} belongs to {split_of(t.task)}, not {t.split}"
        if t.phase in LEARNING and t.split != "train":
            yield f"trajectory {slot}: a {t.split} task was used for learning"
        if t.phase not in LEARNING and t.split == "train":
            yield f"trajectory {slot}: a train task was used for measuring ({t.phase})"
        version, of, member = t.policy.partition(MEMBER_OF)
        if of and member not in {BASE, *members.get(version, ())}:
            yield f"trajectory {slot}: {member} is no member of the adapter set {version}"
        for item in t.recalled:
            if item not in tasks_of:
                yield f"trajectory {slot} recalled the unknown memory item {item}"
            elif t.task in tasks_of[item]:
                yield f"trajectory {slot} saw memory made from its own task ({item})"
        if t.phase in (COMPOSED, CORRECTION):
            yield from _composed(ledger, slot)
        for step in t.steps:
            if step.policy != t.policy:
                yield f"trajectory {slot}: a step by {step.policy} in an episode of {t.policy}"


def _composed(ledger: Ledger, slot: str) -> Iterator[str]:
    """What was put together says from what, and that is there."""
    note = ledger.get(Note, f"composed/{slot}")
    if note is None:
        yield f"trajectory {slot} was put together, and nothing says from what"
        return
    sources = note.data["sources"]
    for source in sources if isinstance(sources, list) else ():
        name = str(source)
        if ledger.get(Note, name) is None and (t := ledger.get(Trajectory, name)) is None:
            yield f"trajectory {slot} was put together from {name}, which is not in the ledger"
        elif ledger.get(Note, name) is None and t is not None and t.split != "train":
            yield f"trajectory {slot} was put together from {name}, a {t.split} episode"


def _canaries(ledger: Ledger, folder: Path) -> Iterator[str]:
    """A batch is void just where its canaries say so."""
    if (config := _settings(folder)) is None:
        return
    void = history.void(ledger)
    for _, g in ledger.all(Generation):
        played = [t for _, t in ledger.all(Trajectory, f"{g.n}/{CANARY}/")]
        if verdict(played, config.refine) != void.get(g.n, ""):
            told = "void" if g.n in void else "not void"
            yield f"generation {g.n}: its batch is {told}, and its canaries say otherwise"
        if g.n in void and void[g.n] not in g.reason:
            yield f"generation {g.n}: its batch is void, and its reason does not say so"


def _made(ledger: Ledger, folder: Path) -> Iterator[str]:
    """What was made up is for training alone, and comes from train tasks."""
    unseen = _unseen(folder)
    for made in MadeTasks(ledger).values():
        what = f"the made-up task {made.task.id}"
        if split_of(made.task.id) != "train":
            yield f"{what} belongs to {split_of(made.task.id)}, not train"
        if not made.task.origin.startswith(made.how):
            yield f"{what} does not say how it was made"
        if made.task.family in unseen:
            yield f"{what} is of the unseen family {made.task.family}"
        for parent in made.parents:
            if split_of(parent) != "train":
                yield f"{what} was made from {parent}, a {split_of(parent)} task"
        if made.key and ledger.get(Note, made.key) is None:
            yield f"{what} was written in {made.key}, which is not in the ledger"


def _memory(ledger: Ledger, folder: Path) -> Iterator[str]:
    """Every item comes from train episodes that exist; every snapshot leads to empty memory."""
    for key, item in ledger.all(MemoryItem):
        if item.id != key:
            yield f"memory item {key} is stored under another id than its own, {item.id}"
        stored = KINDS[item.kind].stored  # else of no use once its task is done
        yield from _sources(ledger, f"memory item {key}", item.sources, learns=stored)
        for slot in item.sources:
            source = ledger.get(Trajectory, slot)
            if source is not None and source.task not in item.tasks:
                yield f"memory item {key} does not name the task {source.task} that it comes from"
    for key, snapshot in ledger.all(MemorySnapshot):
        if snapshot.id != key:
            yield f"memory snapshot {key} is stored under another id than its own, {snapshot.id}"
        try:
            for item_id in history.state(ledger, key):
                if ledger.get(MemoryItem, item_id) is None:
                    yield f"memory snapshot {key} names the unknown item {item_id}"
        except LedgerError as error:
            yield f"memory snapshot {key}: {error}"


def _sources(
    ledger: Ledger,
    what: str,
    slots: tuple[str, ...] | list[str],
    *,
    learns: bool = True,
    said: bool = False,
) -> Iterator[str]:
    """What is wrong with the sources of something.

    Args:
        ledger: the run's.
        what: has them, for the message.
        slots: they are episodes.
        learns: nothing may come from a batch that is void.
        said: they may also be notes: the policy's own words, and train tasks that a writer of
            tasks has learnt.
    """
    void = history.void(ledger)
    for slot in slots:
        note = ledger.get(Note, slot) if said else None
        if note is not None and (own := OWN_WORDS.fullmatch(slot)):
            if int(own[1]) in void:
                yield f"{what} comes from {slot}, of a batch that is void"
            elif not note.data.get("ids") and slot not in ledger.erased(Note):
                yield f"{what} comes from {slot}, where nothing was said"
            continue
        if note is not None and TAUGHT.fullmatch(slot):
            task = str(note.data.get("task", ""))
            if split_of(task) != "train" and slot not in ledger.erased(Note):
                yield f"{what} comes from {slot}, a {split_of(task)} task"
            continue
        source = ledger.get(Trajectory, slot)
        if source is None:
            yield f"{what} comes from {slot}, which is not in the ledger"
        elif source.split != "train" or source.failure is not None:
            state = "broken" if source.failure else source.split
            yield f"{what} comes from {slot}, which is a {state} episode"
        elif source.phase == CANARY:
            yield f"{what} comes from {slot}, a task that nobody can solve"
        elif learns and generation_of(slot) in void:
            yield f"{what} comes from {slot}, of a batch that is void"


def _adapters(ledger: Ledger, folder: Path) -> Iterator[str]:
    """Every adapter is whole, is the one that was made, and knows where it comes from."""
    for key, note in ledger.all(Note, "adapter/"):
        version = key.removeprefix("adapter/")
        place = folder / str(note.data["folder"])
        sources = note.data["sources"]
        slots = [str(slot) for slot in sources] if isinstance(sources, list) else []
        if not pruned(folder, ledger, version):
            try:
                if check_adapter(place) != version:
                    yield f"{place} holds another adapter than {version}"
                manifest = read_manifest(place)
                if sorted(set(manifest["sources"])) != slots:
                    yield f"{place}: the manifest names other sources than the ledger"
                elif differ := _differences(manifest, note, remade=_pruned_once(ledger, version)):
                    yield f"{place}: the manifest differs from the ledger ({', '.join(differ)})"
                whole = read_set(place)
                for member in whole.members.values() if whole else ():
                    if check_adapter(member_folder(place, member)) != member:
                        yield f"{place}: its member {member} is another adapter"
            except (AdapterError, KeyError) as error:
                yield str(error)
        yield from _sources(ledger, f"adapter {version}", slots, said=True)
        yield from _made_from(ledger, folder, version, note, slots)


def _differences(manifest: dict[str, Any], note: Note, *, remade: bool) -> list[str]:
    """Names under which a manifest says something else than the ledger."""
    told = note.data.get("manifest")
    if not isinstance(told, dict):
        return []  # a run of a version that noted the sources only
    names = {"version", "data", "settings", "seed", "model"} if remade else {*told, *manifest}
    return sorted(name for name in names if told.get(name) != manifest.get(name))


def _pruned_once(ledger: Ledger, version: str) -> bool:
    return ledger.get(Note, f"pruned/{version}") is not None


def _made_from(
    ledger: Ledger, folder: Path, version: str, note: Note, slots: list[str]
) -> Iterator[str]:
    """An adapter is of this configuration; a merged one has its parents' sources, no others."""
    told = note.data.get("manifest")
    if not isinstance(told, dict):
        return
    unread = any(_config(ledger, folder))  # which its own check says
    known = {key.removeprefix(FORKED) for key, _ in ledger.all(Note, FORKED)}
    if not unread and told.get("config") not in {
        config_hash(folder),
        *earlier_hashes(folder),
        *known,
    }:
        yield f"adapter {version} was made with another configuration than {CONFIG}"
    parents = told.get("parents")
    inherited: set[str] = set()
    for parent in parents if isinstance(parents, list) else ():
        stored = ledger.get(Note, f"adapter/{parent}")
        if stored is None:
            yield f"adapter {version} is merged from {parent}, which is not in the ledger"
            return
        own = stored.data["sources"]
        inherited |= set(map(str, own)) if isinstance(own, list) else set()
    if parents and inherited != set(slots):
        yield f"adapter {version} names other sources than the adapters that it is merged from"


def _generations(ledger: Ledger, folder: Path) -> Iterator[str]:
    """Numbers without gaps; memory and weights known; the folder shows what the ledger says."""
    for expected, (_, g) in enumerate(ledger.all(Generation)):
        if g.n != expected:
            yield f"generation {g.n} stands where {expected} is due"
        if g.weights != BASE and ledger.get(Note, f"adapter/{g.weights}") is None:
            yield f"generation {g.n} has the unknown weights {g.weights}"
        if g.memory and ledger.get(MemorySnapshot, g.memory) is None:
            yield f"generation {g.n} has the unknown memory {g.memory}"
        for _, slots in accounted(g):
            for slot in slots:
                if ledger.get(Trajectory, slot) is None:
                    yield f"generation {g.n}: its account names {slot}, which is not in the ledger"
        file = folder / "generations" / f"{g.n:03d}" / "generation.json"
        try:
            if json.loads(file.read_text()) != g.model_dump(mode="json"):
                yield f"{file} differs from the ledger"
        except (OSError, ValueError) as error:
            yield f"{file}: {error}"


def _index(ledger: Ledger, folder: Path) -> Iterator[str]:
    """The vector index holds just the ledger's items, and each is found by its own key."""
    items = LedgerKeys(ledger)
    if not items:
        return
    if (config := _settings(folder)) is None or config.memory.index == "exact":  # no files
        return
    try:
        embedder = load_embedder(config.memory.embedder)
    except EmbedderError as error:
        yield f"index: cannot be checked: {error}"
        return
    yield from check_index(folder / "index", embedder, items)


def _settings(folder: Path) -> Config | None:
    """The run's configuration; None where its own check has said what is wrong with it."""
    try:
        tree = yaml.safe_load((folder / CONFIG).read_text())
        return validate(tree if isinstance(tree, dict) else {"": None}, CONFIG)
    except (OSError, ValueError, yaml.YAMLError):
        return None
