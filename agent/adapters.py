"""A run's adapters: what there is, where it comes from, merging, export, and what can go."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from agent.config import Config, ConfigError
from agent.evolution.update.judge import latest
from agent.run import Run
from agent.run_folder import BASE, RunError, open_ledger, pruned, settle_config, stored_adapter
from agent.training.adapter import read_manifest
from agent.training.adapter_set import refuse_set
from agent.training.export import MADE_UP, As, export, model_card
from agent.training.merging import How, MergeSettings
from memory.ledger import Ledger
from memory.records import REWRITE, Generation, Note, Trajectory, content_hash

BY_HAND = "adapters"  # folder of what was merged by hand
METHODS = {
    "sft": "Masked supervised fine-tuning (LoRA) on solutions.",
    "weighted": "Reward-weighted supervised fine-tuning (LoRA).",
    "dpo": "Direct preference optimisation (LoRA) of solved over failed tries.",
    "kto": "Kahneman-Tversky optimisation (LoRA) on solved and failed tries.",
    "grpo": "Group-relative policy optimisation (LoRA).",
    "soup": "The mean of several adapters (model soup).",
    "ties": "Several adapters merged by TIES.",
    "dare": "Several adapters merged by DARE.",
    "evolve": "Several adapters merged by TIES over DARE, the mix found by CMA-ES.",
    "ama": "An adapter averaged with its base model, group of layers by group of layers.",
}


def listing(run: Path) -> list[dict[str, Any]]:
    """Every adapter that a run made, oldest first."""
    with open_ledger(run) as ledger:
        return _rows(run, ledger)


def detail(run: Path, name: str) -> dict[str, Any]:
    """One adapter with its whole lineage, that of its parents included.

    Args:
        run: the run folder.
        name: its version, or the beginning.

    Raises:
        ConfigError: there is no such adapter, or several begin so.
    """
    with open_ledger(run) as ledger:
        version = find(ledger, run, name)
        rows = {row["version"]: row for row in _rows(run, ledger)}
        return _told(run, ledger, version, rows) | {
            "gate": [_tested(g) for _, g in ledger.all(Generation) if _judged(g, version)],
            **_named(settle_config(run, None)),
        }


def find(ledger: Ledger, run: Path, name: str) -> str:
    """The version that a name or its beginning stands for.

    Raises:
        ConfigError: none, or several.
    """
    every = _versions(ledger)
    found = [v for v in every if v == name] or [v for v in every if name and v.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"{name} is the beginning of several adapters: {', '.join(found)}")
    raise ConfigError(f"{run} has no adapter {name!r}; it has {', '.join(every) or 'none yet'}")


def merge(
    run: Path,
    names: Sequence[str],
    asked: Mapping[str, Any],
    *,
    unsafe: bool = False,
    quiet: bool = True,
) -> str:
    """Merge adapters by hand; the version of the result, which is not live.

    Args:
        run: the run folder.
        names: versions, or their beginnings.
        asked: settings of the merge that differ from the run's.
        unsafe: whether merges may be tried without a sandbox.
        quiet: no progress.

    Raises:
        ConfigError: an unknown adapter, too few, or a setting that cannot be.
        AdapterError: one of them is a set, or damaged.
    """
    from pydantic import ValidationError

    from agent.evolution.update import merge as merging

    with Run(run, unsafe=unsafe, quiet=quiet) as opened:
        own = opened.config.update_weights.merge.model_dump() | {"how": "soup"} | dict(asked)
        if own["how"] not in get_args(How):
            raise ConfigError(f"--how {own['how']}: must be one of {', '.join(get_args(How))}")
        try:
            settings = MergeSettings.model_validate(own)
        except ValidationError as error:
            wrong = error.errors()[0]
            raise ConfigError(f"--{wrong['loc'][-1]}: {wrong['msg'].lower()}") from error
        parents = list(dict.fromkeys(find(opened.ledger, run, name) for name in names))
        if settings.how == "ama" and len(parents) != 1:
            raise ConfigError("--how ama is between the base and one adapter: name one")
        if settings.how != "ama" and len(parents) < 2:
            raise ConfigError(f"--how {settings.how} merges several adapters: name two or more")
        for folder in filter(None, map(opened.adapter, parents)):
            refuse_set(folder, "merged")  # before any merge is tried, which plays episodes
        incumbent = opened.incumbent()
        n = incumbent.n if incumbent else 0
        tried = {t.task for _, t in opened.ledger.all(Trajectory) if t.phase == "acquire"}
        found = merging.choose(opened, n, parents, settings, tried)
        if len(found.parents) == 1 and found.recipe.how == "soup":
            return found.parents[0]
        key = content_hash([found.parents, found.recipe.model_dump(mode="json")])[:12]
        return merging.store(opened, n, found, f"{BY_HAND}/{key}")


def write(run: Path, name: str, target: Path, form: As, force: bool) -> dict[str, Any]:
    """Export an adapter; what was written.

    Raises:
        ConfigError: there is no such adapter, or a scripted one.
        RunError: it was pruned.
        AdapterError: see ``export``.
    """
    from agent.policies.models import HUB_ID, resolve_model

    config = settle_config(run, None)
    if config.policy.engine == "scripted":
        raise ConfigError("a scripted policy has no weights to export")
    told = detail(run, name)
    with open_ledger(run) as ledger:
        adapter = stored_adapter(run, ledger, told["version"])
    assert adapter is not None
    files = export(
        adapter,
        target,
        form=form,
        model=resolve_model(config.policy.model),
        base=HUB_ID if config.policy.model == "default" else config.policy.model,
        card=model_card(told, form),
        lineage=told,
        dtype=config.policy.dtype,
        device=config.policy.device,
        force=force,
    )
    return {"version": told["version"], "as": form, "folder": str(target), "files": files}


def prune(
    run: Path, names: Sequence[str] = (), *, every: bool = False, sure: bool = False
) -> dict[str, Any]:
    """Remove the folders of adapters that nobody needs; the ledger keeps their lineage.

    Args:
        run: the run folder.
        names: these; none takes those that no generation acted with, that no later merge takes
            part of, and that were not merged by hand.
        every: those that only rollback would need as well.
        sure: do it; else it is only told.

    Returns:
        what goes, what stays and why, and the bytes that it frees.

    Raises:
        ConfigError: an adapter that is named is live.
        RunError: the folder of one that would go is missing; nothing is removed or noted.
    """
    with Run(run, quiet=True) as opened:
        ledger = opened.ledger
        needed = _needed(opened)
        rows = _rows(run, ledger)
        wanted = {find(ledger, run, name) for name in names}
        going, staying = [], []
        for row in rows:
            why = needed.get(row["version"], "")
            if row["state"] == "pruned" or (names and row["version"] not in wanted):
                continue
            if names and why in ("live", "the generation under way"):
                raise ConfigError(f"{row['version']} is {why}: it cannot be pruned")
            if names or not why or (every and why == "rollback"):
                going.append(row)
            else:
                staying.append({"version": row["version"], "for": why})
        for row in going:  # once it is noted, a folder that is lost could not be told from pruned
            if not (run / row["folder"]).is_dir():
                raise RunError(
                    f"{run / row['folder']} is missing, so {row['version']} cannot be pruned and "
                    "nothing was: restore the folder, or name the others"
                )
        if sure:
            ledger.append_many(
                (f"pruned/{row['version']}", Note(data={"folder": row["folder"]})) for row in going
            )
            for row in going:
                place = run / row["folder"]
                gone = place.with_name(place.name + ".pruned")
                shutil.rmtree(gone, ignore_errors=True)
                os.replace(place, gone)  # whole or not at all
            for gone in run.rglob("*.pruned"):
                shutil.rmtree(gone, ignore_errors=True)
    return {
        "pruned" if sure else "would_prune": [row["version"] for row in going],
        "kept": staying,
        "bytes": sum(row["bytes"] for row in going),
    }


def _needed(run: Run) -> dict[str, str]:
    """What each adapter that is needed is needed for."""
    needed: dict[str, str] = {}
    for key, note in run.ledger.all(Note, "adapter/"):
        if str(note.data["folder"]).startswith(f"{BY_HAND}/"):
            needed[key.removeprefix("adapter/")] = "merged by hand"
    incumbent = run.incumbent()
    for g in run.generations():
        trained = run.ledger.get(Note, f"trained/{g.n}")
        merges = run.config.update_weights.merge.how != "none"
        if merges and trained is not None and trained.data["version"] == g.weights:
            needed[str(trained.data.get("member", g.weights))] = "later merges"
        needed[g.weights] = "rollback"
    for key, note in run.ledger.all(Note, "adapter/"):
        told = note.data.get("manifest")
        begun = told.get("generation") if isinstance(told, dict) else None
        if isinstance(begun, int) and begun > (incumbent.n if incumbent else 0):
            needed[key.removeprefix("adapter/")] = "the generation under way"
    if incumbent is not None:
        needed[incumbent.weights] = "live"
    if judge := latest(run.ledger):
        needed[judge] = "live"
    return needed


def _versions(ledger: Ledger) -> list[str]:
    return [key.removeprefix("adapter/") for key in ledger.keys(Note, "adapter/")]


def _manifest(run: Path, note: Note) -> dict[str, Any]:
    """From the ledger; of a run of an older version, from the folder."""
    stored = note.data.get("manifest")
    return stored if isinstance(stored, dict) else read_manifest(run / str(note.data["folder"]))


def _rows(run: Path, ledger: Ledger) -> list[dict[str, Any]]:
    """What ``adapters list`` tells of each adapter, oldest first."""
    notes = {key.removeprefix("adapter/"): note for key, note in ledger.all(Note, "adapter/")}
    manifests = {version: _manifest(run, note) for version, note in notes.items()}
    states = _states(run, ledger, manifests)
    return [
        _row(run, version, note, manifests[version], states[version])
        for version, note in notes.items()
    ]


def _row(
    run: Path, version: str, note: Note, manifest: Mapping[str, Any], state: str
) -> dict[str, Any]:
    folder, merged = run / str(note.data["folder"]), manifest.get("merge")
    settings = manifest.get("settings", {})
    objective = manifest.get("objective") or settings.get("objective") or "sft"
    losses = manifest.get("losses") or []
    return {
        "version": version,
        "role": manifest.get("role", "policy"),
        "generation": manifest.get("generation"),
        "parents": manifest.get("parents") or [manifest.get("parent", BASE)],
        "state": state,
        "objective": merged["how"] if merged else objective,
        "examples": manifest.get("examples", len(set(manifest["sources"]))),
        "loss": {"first": losses[0], "last": losses[-1], "steps": len(losses)} if losses else None,
        "bytes": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
        "folder": str(note.data["folder"]),
    }


def _states(
    run: Path, ledger: Ledger, manifests: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Of each adapter: live; earlier (it acted, or judged, in a generation); part of another; a
    candidate that did not go live; or pruned.
    """
    last = ledger.last(Generation)
    live = {latest(ledger), last[1].weights if last else ""}
    earlier = {g.weights for _, g in ledger.all(Generation)}
    earlier |= {str(note.data["version"]) for _, note in ledger.all(Note, "verifier/")}
    parts = {part for told in manifests.values() for part in told.get("parents") or ()}
    ranked = {"live": live, "earlier": earlier, "part": parts}
    return {
        version: "pruned"
        if pruned(run, ledger, version)
        else next((state for state, own in ranked.items() if version in own), "candidate")
        for version in manifests
    }


def _told(
    run: Path, ledger: Ledger, version: str, rows: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    note = ledger.get(Note, f"adapter/{version}")
    if note is None:
        return {"version": version}  # verify complains
    manifest, row = _manifest(run, note), rows[version]
    begun = [p for p in [manifest.get("parent", BASE)] if p != BASE]  # it was trained on from there
    sources = sorted(set(manifest["sources"]))
    return row | {
        "sources": sources,
        "kinds": _kinds(ledger, sources),
        "families": manifest.get("families", {}),
        "data": manifest.get("data", ""),
        "config": manifest.get("config", ""),
        "model": manifest.get("model", ""),
        "settings": manifest.get("settings", {}),
        "seed": manifest.get("seed"),
        "tokens": manifest.get("tokens", 0),
        "merge": manifest.get("merge"),
        "fitness": manifest.get("fitness"),
        "tries": manifest.get("tries"),
        "method": METHODS.get(row["objective"], ""),
        "made_of": [_told(run, ledger, p, rows) for p in manifest.get("parents") or begun],
    }


def _kinds(ledger: Ledger, sources: Sequence[str]) -> dict[str, list[str]]:
    """The sources by what they are: in a rewrite a solution of the task stood in view, and tasks
    are what a writer of tasks has learnt.
    """
    kinds: dict[str, list[str]] = {"episodes": [], "rewrites": [], MADE_UP: [], "tasks": []}
    known = ledger.get_many(Trajectory, sources)
    for slot in sources:
        shown = slot in known and known[slot].phase == REWRITE
        kind = "rewrites" if shown else "episodes"
        if slot.startswith("said/"):
            kind = MADE_UP if slot.endswith("/answer") else "tasks"
        kinds[kind].append(slot)
    return kinds


def _judged(g: Generation, version: str) -> bool:
    candidate = g.details.get("candidate")
    return isinstance(candidate, dict) and candidate.get("weights") == version


def _tested(g: Generation) -> dict[str, Any]:
    return {
        "generation": g.n,
        "decision": g.decision,
        "cell": g.cell,
        "reason": g.reason,
        "cells": {cell: score.model_dump(mode="json") for cell, score in g.cells.items()},
        "comparisons": g.details.get("comparisons", []),
    }


def _named(config: Config) -> dict[str, str]:
    """The suite, the base model as hubs call it, with its licence where that is known, and who
    said what is right, unless it was the suite's grader.
    """
    from agent.policies.models import HUB_ID
    from agent.recipe_parts import LABELS

    model = config.policy.model
    default = model == "default"
    named = HUB_ID if default else Path(model).name if Path(model).is_dir() else model
    how, by = config.acquire.solve.how, config.feedback.by
    judge = "" if by == "environment" else f"feedback.by={by}"
    if how in LABELS["acquire.solve.how"]:
        judge = f"acquire.solve.how={how}"
    return {
        "suite": config.suite.name,
        "base": named,
        "licence": "apache-2.0" if default else "",
        "judge": judge,
    }
