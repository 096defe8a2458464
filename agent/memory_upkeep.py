"""What a person does to a run's memory by hand: rebuild the index, erase, export, import."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, get_args

from agent.config import Config, ConfigError
from agent.inspection import find_item, generation_of
from agent.run import Run
from agent.run_folder import LEDGER, SUMMARY, open_ledger, settle_config
from environments.splits import Split, split_of
from memory import erase as erasing
from memory import history, transfer
from memory.embed import load_embedder
from memory.erase import Extent
from memory.index import LedgerKeys, open_index
from memory.ledger import Ledger
from memory.lock import RunLock
from memory.records import (
    Generation,
    MemoryChange,
    MemorySnapshot,
    Note,
    Status,
    Trajectory,
    standing,
)

DERIVED = (SUMMARY, "report.html")  # `instar evolve` writes them anew


def rebuild(folder: Path) -> dict[str, Any]:
    """The vector index anew from the ledger, in a fresh folder.

    Raises:
        LockError: another process uses the run.
    """
    config = _config(folder)
    with RunLock(folder), open_ledger(folder) as ledger:
        embedder = load_embedder(config.memory.embedder)
        items, index, store = LedgerKeys(ledger), folder / "index", config.memory
        open_index(index, embedder, items, store.index, store.index_url, rebuild=True).close()
        return {"items": len(items), "embedder": embedder.identity, "folder": str(index)}


# --- erasing ---


def erase(
    folder: Path, names: Sequence[str], *, text: str = "", sure: bool = False
) -> dict[str, Any]:
    """Erase items and episodes, with all that holds their text; a look first unless ``sure``.

    Args:
        folder: the run.
        names: ids of items (or their beginnings) and slots of episodes.
        text: whatever says this as well.
        sure: do it.

    Raises:
        ConfigError: nothing to erase, or a name that is neither an item nor an episode.
        LedgerError: see `Ledger.erase`.
    """
    if not names and not text:
        raise ConfigError("name an item or an episode to erase, or give --text")
    _config(folder)
    with RunLock(folder), _opened(folder, sure) as ledger:
        episodes = [name for name in names if ledger.get(Trajectory, name) is not None]
        items = [find_item(ledger, name).id for name in names if name not in episodes]
        what = erasing.extent(ledger, items, episodes, text)
        last = ledger.last(Generation)
        told: dict[str, Any] = {
            "erased": sure,
            **{k: list(v) for k, v in what._asdict().items() if k not in ("words", "pieces")},
            "active": list(_active(ledger, last[1], what)) if last else [],
            "files": [],
            "left": [],
        }
        lines = erasing.lines(ledger, what) | ({text} if text else set())
        told["files"] = [name for name in DERIVED if _holds(folder / name, lines, what.words)]
        if not sure:
            return told
        # The index first: it is rebuilt from whatever the ledger says, should this be cut off.
        shutil.rmtree(folder / "index", ignore_errors=True)
        for name in told["files"]:
            (folder / name).unlink(missing_ok=True)
        erasing.erase(ledger, what)
        if text:
            told["left"] = sorted(str(p.relative_to(folder)) for p in _holding(folder, text))
    rebuild(folder)
    return told


def _opened(folder: Path, writable: bool) -> Ledger:
    return Ledger(folder / LEDGER) if writable else open_ledger(folder)


def _config(folder: Path) -> Config:
    """A run's configuration; the first thing that a folder which is no run lacks is its ledger."""
    open_ledger(folder).close()
    return settle_config(folder, None)


def _active(ledger: Ledger, incumbent: Generation, what: Extent) -> Iterator[str]:
    """Which of the items the incumbent is shown now."""
    gone = set(what.items)
    for id_, change in history.state(ledger, incumbent.memory).items():
        if id_ in gone and standing(change, incumbent.weights) == Status.ACTIVE.value:
            yield id_


def _holds(path: Path, lines: Collection[str], words: Collection[str]) -> bool:
    """Whether a file says one of the lines or a long one of the words, in whatever encoding."""
    try:
        content = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    lower = content.lower()
    return any(form in content for line in lines for form in _forms(line)) or any(
        word in lower for word in words if len(word) >= 8
    )


def _forms(text: str) -> set[str]:
    """How a text may stand in a file: plain, in JSON, in HTML."""
    written = {json.dumps(text, ensure_ascii=ascii_)[1:-1] for ascii_ in (False, True)}
    return {form for plain in (text, *written) for form in (plain, escape(plain))}


def _holding(folder: Path, text: str) -> Iterator[Path]:
    """Files of a folder that hold a text."""
    forms = [form.encode() for form in _forms(text)]
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if any(form in content for form in forms):
                yield path


# --- in and out ---


def export(
    folder: Path,
    target: Path,
    *,
    generation: int | None,
    what: Sequence[str],
    format_: str,
    splits: Sequence[str],
    failures: bool,
) -> dict[str, Any]:
    """Write what a run remembers and did as files; returns the manifest.

    Raises:
        ConfigError: an unknown generation, split, format or kind of file.
    """
    for option, given, known in (
        ("--what", what, transfer.WHAT),
        ("--split", splits, get_args(Split)),
        ("--format", [format_], ("jsonl", "parquet")),
    ):
        for name in given:
            if name not in known:
                raise ConfigError(f"{option} {name}: must be one of {', '.join(known)}")
    with open_ledger(folder) as ledger:
        every = [g for _, g in ledger.all(Generation)]
        chosen = generation_of(ledger, folder, generation) if generation is not None else None
        return transfer.export(
            ledger,
            target,
            [chosen] if chosen else every,
            what=[name for name in transfer.WHAT if not what or name in what],
            format_="parquet" if format_ == "parquet" else "jsonl",
            splits=splits or ("train",),
            failures=failures,
        )


def take_in(folder: Path, file: Path, *, vouched: bool = False) -> dict[str, Any]:
    """Import items, all or none, as a new generation whose agent has them on trial.

    Nothing that counts changes by it: items on trial are shown while learning only, so what the
    gate measured of the incumbent still holds, and the next gate decides about them.

    Raises:
        ConfigError: the run has no generation yet.
        TransferError: a mistake in the file.
    """
    with Run(folder, quiet=True) as run:
        last = run.incumbent()
        if last is None:
            raise ConfigError(f"{folder}: no generation yet; run instar evolve first")
        n = last.n + 1
        read = transfer.read_items(
            file, generation=n, vouched=vouched, learnable=lambda task: split_of(task) == "train"
        )
        # What is known, retired or quarantined is not taken in by this door either.
        known = {
            (item.kind, item.key, item.text)
            for item in history.items(run.ledger, last.memory, tuple(Status))
        }
        new = [i for i in read.items.values() if (i.kind, i.key, i.text) not in known]
        told = {
            "read": len(read.items),
            "imported": [item.id for item in new],
            "known": len(read.items) - len(new),
            "trust": {i.id: i.trust.value for i in new},
            "generation": last.n,
        }
        if not new:
            return told
        snapshot = MemorySnapshot(
            parent=last.memory,
            generation=n,
            changes=tuple(
                MemoryChange(
                    item=item.id,
                    status=Status.SHADOW,
                    generation=n,
                    reason=f"imported from {file.name}",
                )
                for item in new
            ),
        )
        generation = last.model_copy(
            update={
                "n": n,
                "parent": last.n,
                "memory": snapshot.id,
                "decision": "import",
                "cell": "incumbent",
                "cells": {"incumbent": last.cells[last.cell]},
                "reason": f"{len(new)} items imported from {file.name} by hand, on trial",
                "tokens": {},
                "seconds": {},
                "details": {},
            }
        )
        origin = {item.id: read.origin[item.id] for item in new}
        note = Note(data={"file": file.name, "sha256": read.sha256, "items": origin})
        run.ledger.append_many(
            [
                *((item.id, item) for item in new),
                (snapshot.id, snapshot),
                (f"import/{n}", note),
                (f"{n:06d}", generation),
            ]
        )
        run.publish()
        return told | {"generation": n}
