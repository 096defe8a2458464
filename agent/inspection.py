"""What a run remembers, as plain rows for the command line and other programs.

Everything is told as of a generation, as its agent saw it: statuses for its weights, worth as
measured until then. Nothing here writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from agent.config import ConfigError
from agent.run_folder import open_ledger, settle_config
from memory import history
from memory.embed import load_embedder
from memory.index import open_index
from memory.ledger import Ledger
from memory.records import (
    Generation,
    Kind,
    MemoryChange,
    MemoryItem,
    Status,
    Trajectory,
    Trust,
    standing,
)

STATUSES = {
    "living": ("active", "absorbed", "shadow"),  # what some agent may still be shown
    **{name: (name,) for name in (*(status.value for status in Status), "absorbed")},
    "all": (*(status.value for status in Status), "absorbed"),
}


class Filter(NamedTuple):
    """Which items are told; None and "" let all pass.

    Args:
        kind, family, trust: equal to these.
        status: one of `STATUSES`, as the generation's agent saw it.
        born: made in this generation.
        min_uses: stood in at least so many prompts.
        text: says this somewhere, in whatever case.
    """

    kind: str | None = None
    status: str = "living"
    family: str | None = None
    trust: str | None = None
    born: int | None = None
    min_uses: int = 0
    text: str = ""

    def check(self) -> None:
        """Raises ConfigError for a name that does not exist."""
        known = {"kind": tuple(Kind), "status": tuple(STATUSES), "trust": tuple(Trust)}
        for option, names in known.items():
            value = getattr(self, option)
            if value is not None and value not in names:
                raise ConfigError(f"--{option} {value}: must be one of {', '.join(names)}")

    def passes(self, row: dict[str, Any]) -> bool:
        return (
            all(
                wanted is None or row[name] == wanted
                for name, wanted in self._asdict().items()
                if name not in ("status", "min_uses", "text")
            )
            and row["status"] in STATUSES[self.status]
            and row["uses"] >= self.min_uses
            and self.text.lower() in f"{row['text']}\n{row['key']}".lower()
        )


def listing(
    folder: Path, *, generation: int | None = None, only: Filter | None = None
) -> list[dict[str, Any]]:
    """Items of a generation's memory (the incumbent's by default), as its agent saw them.

    Raises:
        ConfigError: an unknown generation, kind, status or trust.
    """
    only = only or Filter()
    only.check()
    with open_ledger(folder) as ledger:
        chosen = generation_of(ledger, folder, generation)
        return [row for row in _rows(ledger, chosen) if only.passes(row)] if chosen else []


def outside(folder: Path, generation: int | None = None) -> int:
    """How many stored items are not in a generation's memory (the incumbent's by default)."""
    with open_ledger(folder) as ledger:
        chosen = generation_of(ledger, folder, generation)
        known = history.state(ledger, chosen.memory) if chosen else {}
        return sum(key not in known for key in ledger.keys(MemoryItem, ""))


def detail(folder: Path, item_id: str, generation: int | None = None) -> dict[str, Any]:
    """One item: what it says, where it comes from, what it is worth.

    Raises:
        ConfigError: no such item, or several that begin so.
    """
    with open_ledger(folder) as ledger:
        item = find_item(ledger, item_id)
        chosen = generation_of(ledger, folder, generation)
        change = history.state(ledger, chosen.memory).get(item.id) if chosen else None
        return {
            **_row(item, change, chosen.weights if chosen else ""),
            "tasks": list(item.tasks),
            "parents": list(item.parents),
            "content": item.content,
            "reason": change.reason if change else "",
            "history": _past(ledger, item.id),
        }


def search(
    folder: Path, text: str, limit: int, generation: int | None = None, only: Filter | None = None
) -> list[dict[str, Any]]:
    """A generation's items nearest to a text by the run's own embedder, best first.

    Raises:
        ConfigError: no text, or an unknown generation, kind, status or trust.
    """
    only = only or Filter()
    only.check()
    if not text.strip():
        raise ConfigError("give a text to look for; `instar memory list` shows all items")
    with open_ledger(folder) as ledger:
        chosen = generation_of(ledger, folder, generation)
        rows = {row["id"]: row for row in _rows(ledger, chosen)} if chosen else {}
        rows = {id_: row for id_, row in rows.items() if only.passes(row)}
        if not rows:
            return []
        embedder = load_embedder(settle_config(folder, None).memory.embedder)
        keys = ((id_, row["key"]) for id_, row in rows.items())
        index = open_index(folder / "index", embedder, keys, "exact")
        hits = index.query(embedder.embed([text]), limit)[0]
        return [{"similarity": round(float(near), 4), **rows[id_]} for id_, near in hits]


def why(folder: Path, episode: str) -> dict[str, Any]:
    """What an episode was shown of memory, look by look, and what else was considered.

    Raises:
        ConfigError: no such episode, or several that begin so.
    """
    with open_ledger(folder) as ledger:
        slot = _one(ledger, Trajectory, episode, "episode", "instar episodes")
        played = ledger.get(Trajectory, slot)
        assert played is not None
        looks = []
        for id_, look in history.looks(ledger, played):
            candidates = []
            for candidate in look.candidates:
                item = ledger.get(MemoryItem, candidate.item)
                candidates.append(
                    {
                        **candidate.model_dump(mode="json"),
                        "kind": item.kind.value if item else "",
                        "text": item.text if item else "",
                        "trust": item.trust.value if item else "",
                        "made": item.made if item else "",
                        "born": item.born if item else None,
                        "sources": list(item.sources) if item else [],
                        "parents": list(item.parents) if item else [],
                    }
                )
            looks.append({**look.model_dump(mode="json"), "id": id_, "candidates": candidates})
        return {
            **_outcome(slot, played),
            "memory": played.memory,
            "weights": played.policy,
            "recalled": list(played.recalled),
            "looks": looks,
        }


def item_history(folder: Path, item_id: str) -> dict[str, Any]:
    """What became of an item: its changes, its family, who was trained on it, who saw it."""
    with open_ledger(folder) as ledger:
        item = find_item(ledger, item_id)
        every = {i.id: i for _, i in ledger.all(MemoryItem)}
        family = history.lineage(every.values())
        return {
            **_row(item, None, ""),
            "changes": _past(ledger, item.id),
            "ancestors": [_short(every, i) for i in family.ancestors(item.id)],
            "descendants": [_short(every, i) for i in family.descendants(item.id)],
            "adapters": history.adapters(ledger, item.sources),
            "uses": [
                _outcome(slot, t)
                for slot, t in ledger.all(Trajectory, containing=item.id)
                if item.id in t.recalled
            ],
        }


def timeline(folder: Path) -> list[dict[str, Any]]:
    """Per generation: items by kind and status, and how many of what happened to them."""
    with open_ledger(folder) as ledger:
        kinds = {key: item.kind.value for key, item in ledger.all(MemoryItem)}
        told, before = [], None
        for _, g in ledger.all(Generation):
            counts: dict[str, Counter[str]] = {}
            for id_, change in history.state(ledger, g.memory).items():
                own = counts.setdefault(kinds.get(id_, "?"), Counter())
                own[standing(change, g.weights)] += 1
            found: list[history.Difference] = history.compare(ledger, before, g) if before else []
            groups = Counter(d.group for d in found)
            told.append(
                {
                    "generation": g.n,
                    "decision": g.decision,
                    "weights": g.weights,
                    "memory": g.memory,
                    "items": {k.value: dict(counts[k.value]) for k in Kind if k.value in counts},
                    "changes": {name: groups[name] for name in history.GROUPS if groups[name]},
                }
            )
            before = g
        return told


def difference(folder: Path, a: int, b: int) -> dict[str, Any]:
    """What stands otherwise in the later one of two generations than in the earlier one."""
    a, b = sorted((a, b))
    with open_ledger(folder) as ledger:
        first, last = generation_of(ledger, folder, a), generation_of(ledger, folder, b)
        assert first is not None and last is not None
        found = history.compare(ledger, first, last)
        entries = []
        for d in found:
            parents = [ledger.get(MemoryItem, id_) for id_ in d.item.parents]
            entries.append(
                {
                    "group": d.group,
                    **_row(d.item, d.change, last.weights),
                    "before": d.before,
                    "after": d.after,
                    "reason": d.change.reason,
                    "because": list(d.change.because),
                    "parents": [{"id": p.id, "text": p.text} for p in parents if p is not None],
                }
            )
        groups = Counter(d.group for d in found)
        return {
            "from": first.n,
            "to": last.n,
            "entries": entries,
            "summary": {name: groups[name] for name in history.GROUPS if groups[name]},
        }


def stats(folder: Path, generation: int | None = None) -> dict[str, Any]:
    """How much lives, of what, how much of it is used, and what it takes on disk.

    ``status`` alone counts all that the generation knows, the retired and quarantined as well.
    """
    with open_ledger(folder) as ledger:
        chosen = generation_of(ledger, folder, generation)
        known = list(_rows(ledger, chosen)) if chosen else []
        rows = [row for row in known if Filter().passes(row)]
        measured = sorted((r for r in rows if r["pairs"]), key=lambda r: -r["utility"])
        unused = sum(not row["uses"] for row in rows)
        erased = len(ledger.erased(MemoryItem)), len(ledger.erased(Trajectory))
        return {
            "generation": chosen.n if chosen else None,
            "items": len(rows),
            "status": dict(Counter(str(row["status"]) for row in known).most_common()),
            "characters": sum(len(row["text"]) for row in rows),
            "by": {
                name: dict(Counter(str(row[name]) for row in rows).most_common())
                for name in ("kind", "family", "trust", "made")
            },
            "uses": sum(row["uses"] for row in rows),
            "never_used": unused / len(rows) if rows else 0.0,
            "best": measured[:5],
            "worst": measured[:-6:-1] if len(measured) > 5 else [],
            "stored": {
                "items": ledger.count(MemoryItem),
                "episodes": ledger.count(Trajectory),
                "erased_items": erased[0],
                "erased_episodes": erased[1],
            },
            "disk": {
                name: _size(folder / name)
                for name in ("ledger.sqlite", "ledger.sqlite-wal", "index", "generations")
            },
            "index": _index_state(folder),
        }


# --- finding ---


def generation_of(ledger: Ledger, folder: Path, n: int | None) -> Generation | None:
    """A generation by number; the incumbent (None before there is one) where none is given.

    Raises:
        ConfigError: there is no such generation.
    """
    if n is None:
        last = ledger.last(Generation)
        return last[1] if last else None
    found = ledger.get(Generation, f"{n:06d}")
    if found is None:
        last = ledger.last(Generation)
        known = f"0 to {last[1].n}" if last else "none yet"
        raise ConfigError(f"{folder} has no generation {n}; it has {known}")
    return found


def find_item(ledger: Ledger, beginning: str) -> MemoryItem:
    """The item whose id is this or begins so.

    Raises:
        ConfigError: none or several.
    """
    id_ = _one(ledger, MemoryItem, beginning, "memory item", "instar memory list")
    item = ledger.get(MemoryItem, id_)
    assert item is not None
    return item


def _one(
    ledger: Ledger,
    model: type[MemoryItem] | type[Trajectory],
    beginning: str,
    what: str,
    where: str,
) -> str:
    if beginning and ledger.get(model, beginning) is not None:
        return beginning
    keys = ledger.keys(model, beginning) if beginning else []
    if len(keys) == 1:
        return keys[0]
    short = what.rpartition(" ")[2]
    found = f"{len(keys)} {short}s begin so: {', '.join(keys[:5])}" if keys else f"no such {short}"
    raise ConfigError(f"{what} {beginning!r}: {found}; see `{where}`")


# --- rows ---


def _rows(ledger: Ledger, generation: Generation) -> Iterator[dict[str, Any]]:
    """The items that a generation knew, in the order in which they came to memory."""
    state = history.state(ledger, generation.memory)
    known = {key: item for key, item in ledger.all(MemoryItem) if key in state}
    for id_, change in state.items():
        if id_ in known:
            yield _row(known[id_], change, generation.weights)


def _row(item: MemoryItem, change: MemoryChange | None, weights: str) -> dict[str, Any]:
    measured = ("uses", "wins", "pairs", "utility", "low", "high")
    return {
        "id": item.id,
        "kind": item.kind.value,
        "family": item.family,
        "status": standing(change, weights) if change else "unknown",
        "trust": item.trust.value,
        "born": item.born,
        "made": item.made,
        "changed": change.generation if change else None,
        # None where the generation's memory has it not: then nothing was measured there.
        **{name: getattr(change.worth, name) if change else None for name in measured},
        "key": item.key,
        "text": item.text,
        "sources": list(item.sources),
    }


def _past(ledger: Ledger, id_: str) -> list[dict[str, Any]]:
    """An item's standing in each generation that knew it, and what changed there."""
    past: list[dict[str, Any]] = []
    for _, g in ledger.all(Generation):
        change = history.state(ledger, g.memory).get(id_)
        if change is not None:
            past.append(
                {
                    "generation": g.n,
                    "status": standing(change, g.weights),
                    "changed": change.generation,
                    "reason": change.reason,
                    "because": list(change.because),
                    "worth": change.worth.model_dump(mode="json"),
                }
            )
    return past


def _short(every: dict[str, MemoryItem], id_: str) -> dict[str, Any]:
    item = every.get(id_)
    if item is None:
        return {"id": id_, "kind": "unknown", "made": "", "born": None, "text": ""}
    return {
        "id": id_,
        "kind": item.kind.value,
        "made": item.made,
        "born": item.born,
        "text": item.text,
    }


def _outcome(slot: str, trajectory: Trajectory) -> dict[str, Any]:
    return {
        "episode": slot,
        "task": trajectory.task,
        "family": trajectory.family,
        "split": trajectory.split,
        "phase": trajectory.phase,
        "success": trajectory.success,
        "reward": trajectory.reward,
        "end": trajectory.stop.value,
    }


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; what vanishes meanwhile counts nothing."""
    if path.is_dir():
        return sum(_size(child) for child in path.iterdir())
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _index_state(folder: Path) -> str:
    """In words, without opening it: whoever opens an index must hold the run's lock."""
    index = folder / "index"
    if (index / "opening").exists():
        return "its last opening did not end; it will be rebuilt"
    return "there" if (index / "current").exists() else "none; built when it is needed"
