"""The files of a run folder: what they are called, and how they are read and replaced."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from agent.config import Config, ConfigError, validate
from agent.training.adapter import AdapterError, check_adapter, read_manifest
from agent.training.adapter_set import member_folder
from memory.ledger import Ledger
from memory.records import MEMBER_OF, Note, content_hash

LEDGER, CONFIG, SUMMARY = "ledger.sqlite", "config.yaml", "summary.json"
ENGINE_LOG = "engine.log"
# Settings with which a run may be continued otherwise: how far, where, and with how much memory.
FREE = ("generations", "token_budget", "rollouts")
MACHINE = (
    "policy.device",
    "policy.slots",
    "policy.endpoint.url",
    "policy.vllm.python",
    "update_weights.row_tokens",
    "update_weights.checkpoint_seconds",
    "update_weights.launch",
)
PLACES = (
    *MACHINE,
    "policy.threads",
    "policy.endpoint.key_variable",
    "policy.endpoint.timeout_s",
    "policy.vllm.arguments",
    "policy.vllm.environment",
    "policy.vllm.restarts",
    "policy.vllm.start_s",
    "policy.vllm.timeout_s",
    "policy.vllm.training",
    "memory.index_url",
)
FORKED = "forked/"  # and an earlier hash of the configuration, which adapters of the run have
BASE = "base"  # the version of weights that no adapter has changed


class RunError(RuntimeError):
    """The run cannot go on; one line that says why and what to do."""


def open_ledger(folder: Path) -> Ledger:
    """A run's ledger for reading only; works while the run goes on.

    Raises:
        ConfigError: the folder holds no run.
    """
    if not (folder / LEDGER).is_file():
        raise ConfigError(f"{folder} is no run folder: it has no {LEDGER}")
    return Ledger(folder / LEDGER, read_only=True)


def stored_adapter(run: Path, ledger: Ledger, version: str) -> Path | None:
    """Folder of a run's adapter, of an adapter set or of its member; None for the base weights.

    The folder is checked.

    Raises:
        RunError: the ledger knows no such adapter.
        AdapterError: its files are incomplete, or not those that were written.
    """
    version, _, member = version.partition(MEMBER_OF)
    if version == BASE:
        return None
    note = ledger.get(Note, f"adapter/{version}")
    if note is None:
        raise RunError(f"{run}: no adapter {version} in the ledger")
    folder = run / str(note.data["folder"])
    if pruned(run, ledger, version):
        raise RunError(
            f"{run}: the adapter {version} was pruned, its weights are gone (its lineage is not: "
            f"instar adapters show {version}); take another generation"
        )
    if check_adapter(folder) != version:
        raise AdapterError(f"{folder} holds another adapter than {version}")
    if member == BASE:
        return None
    return member_folder(folder, member) if member else folder


def pruned(run: Path, ledger: Ledger, version: str) -> bool:
    """Whether an adapter's folder was removed by ``instar adapters prune``."""
    note = ledger.get(Note, f"adapter/{version}")
    gone = note is not None and not (run / str(note.data["folder"])).exists()
    return gone and ledger.get(Note, f"pruned/{version}") is not None


def adapter_notes(run: Path, ledger: Ledger, folder: Path) -> list[tuple[str, Note]]:
    """What the ledger is to hold about a new adapter; nothing, if it holds that already.

    The whole manifest goes in, so that lineage outlives the folder. An adapter that was pruned
    and is made again takes its old place.

    Args:
        run: the run folder.
        ledger: its ledger.
        folder: the new adapter's.
    """
    manifest = read_manifest(folder)
    version = str(manifest["version"])
    known = ledger.get(Note, f"adapter/{version}")
    if known is not None:
        if pruned(run, ledger, version):
            place = run / str(known.data["folder"])
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder, place)
        return []
    stored = {
        "folder": str(folder.relative_to(run)),
        "sources": sorted(set(manifest["sources"])),
        "tokens": manifest["tokens"],
        "manifest": manifest,
    }
    if "members" in manifest:  # a set's
        stored["members"] = manifest["members"]
    return [(f"adapter/{version}", Note(data=stored))]


def config_hash(folder: Path) -> str:
    """Hash (16 hex digits) of a run's stored configuration, but for what may change."""
    return _hash(yaml.safe_load((folder / CONFIG).read_text()))


def earlier_hashes(folder: Path) -> list[str]:
    """`config_hash` as runs had it that were begun when less could change, or none of `PLACES`."""
    return _earlier(yaml.safe_load((folder / CONFIG).read_text()))


def _hash(tree: dict[str, Any], places: Sequence[str] = PLACES) -> str:
    return content_hash(_fixed(tree, places))[:16]


def _earlier(tree: dict[str, Any]) -> list[str]:
    return [_hash(tree, places) for places in ((), MACHINE)]


def _keep_hashes(ledger: Ledger, tree: dict[str, Any]) -> None:
    """Note the hashes that adapters have and that a change of this configuration would lose."""
    earlier = set(_earlier(tree)) - {_hash(tree)}
    for _, note in ledger.all(Note, "adapter/"):
        told = note.data.get("manifest")
        known = str(told.get("config")) if isinstance(told, dict) else ""
        if known in earlier and ledger.get(Note, f"{FORKED}{known}") is None:
            ledger.append(f"{FORKED}{known}", Note(data={}))


def _fixed(tree: dict[str, Any], places: Sequence[str] = PLACES) -> dict[str, Any]:
    """A configuration without what may change."""
    kept = {name: value for name, value in copy.deepcopy(tree).items() if name not in FREE}
    for place in places:
        *path, last = place.split(".")
        at = kept
        for name in path:
            at = at.setdefault(name, {})
        at.pop(last, None)
    return kept


def _with_changes(tree: dict[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration with today's values of what may change."""
    made = copy.deepcopy(tree) | {name: now[name] for name in FREE}
    for place in PLACES:
        *path, last = place.split(".")
        at, own = made, now
        for name in path:
            at, own = at.setdefault(name, {}), own[name]
        at[last] = own[last]
    return made


def settle_config(
    folder: Path, config: Config | None, begun: bool = True, ledger: Ledger | None = None
) -> Config:
    """The folder's configuration: stored when new, compared when the run has begun.

    A run may be continued with more generations, and on other machines (`FREE`, `PLACES`);
    anything else that differs is an error, unless no episode has ended yet (a first attempt that
    failed on a mistake in it, say). The run's ledger is told which adapters were made before.
    """
    path = folder / CONFIG
    if begun and not path.exists():
        raise ConfigError(
            f"{path} is gone: restore it to continue this run, or begin in another --run folder"
        )
    if not path.exists() or (config is not None and not begun):
        if config is None:
            raise ConfigError(f"{folder} is no run folder: it has no {CONFIG}")
        write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        return config
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: is cut or empty; restore it to continue this run")
    stored = validate(tree, str(path))
    if config is None:
        return stored
    whole = config.model_dump(mode="json")
    before, now = _fixed(stored.model_dump(mode="json")), _fixed(whole)
    if before != now:
        changed = sorted(k for k in now if now[k] != before[k])
        raise ConfigError(
            f"{folder} was begun with another configuration ({', '.join(changed)} differ); "
            "use another --run folder, or continue without these changes"
        )
    whole["generations"] = max(config.generations, stored.generations)
    new = _with_changes(tree, whole)
    if new != tree:
        if ledger is not None:
            _keep_hashes(ledger, tree)
        # The rest stays as it was written: see config_hash.
        write_text(path, yaml.safe_dump(new, sort_keys=False))
    return config


def take_back(folder: Path) -> None:
    """Remove a run folder in which nothing began, unless it holds the log that says why."""
    log = folder / ENGINE_LOG
    if not (log.is_file() and log.stat().st_size):
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step, so that it is never seen half-written."""
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1))
