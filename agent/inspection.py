"""What a run remembers, as plain rows for the command line and other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.config import ConfigError
from agent.run_folder import open_ledger, settle_config
from memory import history
from memory.credit import Usage, usage
from memory.embed import load_embedder
from memory.index import open_index
from memory.ledger import Ledger
from memory.records import Generation, Kind, MemoryItem, Trajectory, standing


def listing(
    folder: Path,
    *,
    generation: int | None = None,
    kind: str | None = None,
    family: str | None = None,
) -> list[dict[str, Any]]:
    """Items of a generation's memory (the incumbent's by default), as its agent saw them.

    Raises:
        ConfigError: an unknown generation or kind.
    """
    if kind is not None and kind not in list(Kind):
        raise ConfigError(f"--kind {kind}: must be one of {', '.join(Kind)}")
    with open_ledger(folder) as ledger:
        chosen = _generation(ledger, folder, generation)
        if chosen is None:
            return []
        counts = usage(t for _, t in ledger.all(Trajectory))
        rows = []
        for change in history.state(ledger, chosen.memory).values():
            item = ledger.get(MemoryItem, change.item)
            if item is None or (kind and item.kind != kind) or (family and item.family != family):
                continue
            rows.append(_row(item, standing(change, chosen.weights), counts.get(item.id, Usage())))
        return rows


def detail(folder: Path, item_id: str) -> dict[str, Any]:
    """One item: what it says, where it comes from, what became of it.

    Raises:
        ConfigError: no such item, or several that begin so.
    """
    with open_ledger(folder) as ledger:
        ids = ledger.keys(MemoryItem, item_id) if item_id else []
        if len(ids) != 1:
            found = f"{len(ids)} items begin so: {', '.join(ids[:5])}" if ids else "no such item"
            raise ConfigError(f"memory item {item_id!r}: {found}; see `instar memory list`")
        item = ledger.get(MemoryItem, ids[0])
        assert item is not None
        counts = usage(t for _, t in ledger.all(Trajectory))
        past: list[dict[str, Any]] = []
        for _, generation in ledger.all(Generation):
            change = history.state(ledger, generation.memory).get(item.id)
            if change is not None:
                status = standing(change, generation.weights)
                past.append({"generation": generation.n, "status": status, "reason": change.reason})
        status = past[-1]["status"] if past else "never promoted"
        return {
            **_row(item, status, counts.get(item.id, Usage())),
            "trust": item.trust,
            "sources": list(item.sources),
            "tasks": list(item.tasks),
            "content": item.content,
            "history": past,
        }


def search(folder: Path, text: str, limit: int) -> list[dict[str, Any]]:
    """The incumbent's items nearest to a text by the run's own embedder, best first."""
    with open_ledger(folder) as ledger:
        chosen = _generation(ledger, folder, None)
        items = {i.id: i for i in history.items(ledger, chosen.memory)} if chosen else {}
        if not items:
            return []
        embedder = load_embedder(settle_config(folder, None).memory.embedder)
        index = open_index(
            folder / "index", embedder, ((i.id, i.key) for i in items.values()), "exact"
        )
        hits = index.query(embedder.embed([text]), limit)[0]
        counts = usage(t for _, t in ledger.all(Trajectory))
        state = history.state(ledger, chosen.memory) if chosen else {}
        weights = chosen.weights if chosen else ""
        return [
            {
                "similarity": round(float(similarity), 4),
                **_row(items[id_], standing(state[id_], weights), counts.get(id_, Usage())),
            }
            for id_, similarity in hits
        ]


def _generation(ledger: Ledger, folder: Path, n: int | None) -> Generation | None:
    every = [generation for _, generation in ledger.all(Generation)]
    if n is None:
        return every[-1] if every else None
    for generation in every:
        if generation.n == n:
            return generation
    known = f"0 to {every[-1].n}" if every else "none yet"
    raise ConfigError(f"{folder} has no generation {n}; it has {known}")


def _row(item: MemoryItem, status: str, counts: Usage) -> dict[str, Any]:
    return {
        "id": item.id,
        "kind": item.kind.value,
        "family": item.family,
        "status": status,
        "born": item.born,
        "uses": counts.uses,
        "wins": counts.wins,
        "text": item.text,
    }
