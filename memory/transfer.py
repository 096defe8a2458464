"""Memory and experience leave and enter as files: JSONL or Parquet, with a manifest.

What is exported for training never holds an episode of a held-out split unless it is asked
for by name. What is imported is a stranger's word: a hash shows that a file is whole, not that
what it says was ever graded. So it enters untrusted unless somebody vouches for it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from memory import history
from memory.chain import first
from memory.credit import generation_of
from memory.kinds import KINDS
from memory.ledger import Ledger
from memory.records import (
    CANARY,
    REWRITE,
    Generation,
    Kind,
    MemoryChange,
    MemoryItem,
    Trajectory,
    Trust,
    content_hash,
    standing,
)

MANIFEST = "manifest.json"
FORMAT = "instar-export"
VERSION = 1
What = Literal["items", "trajectories", "chat"]
WHAT: tuple[What, ...] = ("items", "trajectories", "chat")
_NESTED = ("content", "steps", "frame", "failure", "metrics", "messages", "worth")


class TransferError(ValueError):
    """A file that cannot be imported, or an export that cannot be made; one line."""


# --- out ---


def export(
    ledger: Ledger,
    folder: Path,
    generations: Sequence[Generation],
    *,
    what: Collection[What] = WHAT,
    format_: Literal["jsonl", "parquet"] = "jsonl",
    splits: Collection[str] = ("train",),
    failures: bool = False,
) -> dict[str, Any]:
    """Write items, trajectories and a chat dataset; returns the manifest, also written.

    The chat dataset holds no canaries, no batch that is void, and no episode with a solution of
    its task in view: without it, as chat tells it, nobody could have acted like that.

    Args:
        ledger: the run's.
        folder: where to; made if it is missing. Files that are there are replaced.
        generations: of one of them: the items that it knew, the episodes that it played. Of
            several: every item, as the last of them saw it, and every episode.
        what: which files.
        format_: of the files.
        splits: episodes of these splits.
        failures: whether the chat dataset also holds what did not reach full reward.

    Raises:
        TransferError: pyarrow is missing, or the folder cannot be written.
    """
    left_out: Counter[str] = Counter()
    void = history.void(ledger)  # nobody should learn from those
    sources: dict[What, Callable[[], Iterator[dict[str, Any]]]] = {
        "items": lambda: _items(ledger, generations),
        "trajectories": lambda: map(_trajectory, _episodes(ledger, generations, splits, left_out)),
        "chat": lambda: (
            chat(t)
            for t in _episodes(ledger, generations, splits, left_out)
            if t.steps and t.failure is None and (t.success or failures)
            if t.phase not in (CANARY, REWRITE) and generation_of(t.slot) not in void
        ),
    }
    files = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in WHAT:
            if name in what:
                left_out.clear()
                path = folder / f"{name}.{format_}"
                count = _write(path, sources[name]())
                files[path.name] = {
                    "what": name,
                    "rows": count,
                    "sha256": _file_hash(path),
                    "schema": _SCHEMAS[name],
                }
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "generations": [g.n for g in generations],
            "splits": sorted(splits),
            "left_out": dict(left_out),
            "files": files,
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False))
    except OSError as error:
        raise TransferError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return manifest


def chat(trajectory: Trajectory) -> dict[str, Any]:
    """An episode as a conversation, as other trainers read it: the bare prompt without memory.

    Turns with an error are left out, as where this program trains (see `Trajectory.turns`).
    """
    frame = trajectory.frame
    messages = [{"role": "system", "content": frame.system}] if frame.system else []
    said = [*(frame.example or ()), trajectory.prompt]
    for step in trajectory.turns:
        said += [step.text, step.observation]
    roles = ("user", "assistant")
    messages += [{"role": roles[i % 2], "content": text} for i, text in enumerate(said[:-1])]
    return {
        "messages": messages,
        "reward": trajectory.reward,
        "task": trajectory.task,
        "family": trajectory.family,
        "split": trajectory.split,
        "episode": trajectory.slot,
    }


_SCHEMAS: dict[What, dict[str, Any]] = {
    "items": MemoryItem.model_json_schema(),
    "trajectories": Trajectory.model_json_schema(),
    "chat": {
        "messages": "array of {role, content}",
        "reward": "number, 0 to 1",
        "task": "id of the task",
        "family": "string",
        "split": "string",
        "episode": "slot of the trajectory",
    },
}


def _items(ledger: Ledger, generations: Sequence[Generation]) -> Iterator[dict[str, Any]]:
    last = generations[-1] if generations else None
    state = history.state(ledger, last.memory) if last else {}
    gone = ledger.erased(MemoryItem)
    for id_, item in ledger.all(MemoryItem):
        change = state.get(id_)
        if id_ not in gone and (change is not None or len(generations) != 1):
            yield _exported(item, change, last.weights if last else "")


def _exported(item: MemoryItem, change: MemoryChange | None, weights: str) -> dict[str, Any]:
    return {
        "id": item.id,
        **item.model_dump(mode="json"),
        "status": standing(change, weights) if change else "",
        "worth": change.worth.model_dump(mode="json") if change else None,
    }


def _trajectory(trajectory: Trajectory) -> dict[str, Any]:
    return {"id": trajectory.id, **trajectory.model_dump(mode="json")}


def _episodes(
    ledger: Ledger,
    generations: Sequence[Generation],
    splits: Collection[str],
    left_out: Counter[str],
) -> Iterator[Trajectory]:
    only = generations[0] if len(generations) == 1 else None
    gone = ledger.erased(Trajectory)
    for slot, trajectory in ledger.all(Trajectory):
        if slot in gone:
            continue
        if only is not None and not (
            slot.startswith(f"{only.n}/")
            or (trajectory.memory, trajectory.weights) == (only.memory, only.weights)
        ):
            continue
        if trajectory.split in splits:
            yield trajectory
        else:
            left_out[trajectory.split] += 1


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    count = 0
    draft = path.with_name(path.name + ".partial")
    if path.suffix == ".parquet":
        count = _write_parquet(draft, rows)
    else:
        with draft.open("w", encoding="utf-8") as file:
            for count, row in enumerate(rows, 1):  # noqa: B007
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    draft.replace(path)
    return count


def _write_parquet(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Flat columns; what is nested stands in its column as JSON."""
    pa, parquet = _arrow()
    table = pa.Table.from_pylist(
        [
            {
                key: json.dumps(value, ensure_ascii=False) if key in _NESTED else value
                for key, value in row.items()
            }
            for row in rows
        ]
    )
    parquet.write_table(table, path)
    return int(table.num_rows)


def _arrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise TransferError(
            "Parquet needs pyarrow: pip install 'instar[files]', or take --format jsonl"
        ) from None


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- in ---


class Imported(NamedTuple):
    """What a file holds: items as they would enter, and where each stood in the file.

    Args:
        items: new items, by the id that they will have.
        origin: by that id, what the file said of it: its id there and its source episodes.
        sha256: of the file.
    """

    items: dict[str, MemoryItem]
    origin: dict[str, dict[str, Any]]
    sha256: str


def read_items(
    path: Path,
    *,
    generation: int,
    vouched: bool = False,
    learnable: Callable[[str], bool] = lambda task: True,
) -> Imported:
    """Read items from an export (its folder or a file of it) or a JSONL file written by hand.

    By hand only ``kind`` and ``text`` are needed. An item's sources are episodes of another
    run, whose slots may be taken here, so they are kept beside it and not in it; its tasks stay,
    so that it is never recalled for those while learning.

    Args:
        path: a folder with a manifest, or a .jsonl or .parquet file.
        generation: that takes them in.
        vouched: whether items keep their trust, if the episodes that they come from stand in the
            same export, hash to their ids and reached full reward. Otherwise, and always
            by default, they are untrusted: whoever writes a file writes its hashes.
        learnable: whether memory may know a task (held-out ones it may not).

    Raises:
        TransferError: the first mistake, with file, line and field; then nothing is read.
    """
    path = _items_file(path)
    try:
        rows = _rows(path)
        manifest = _manifest(path)
        proofs = _proofs(path) if vouched else {}
        digest = _file_hash(path)
    except (OSError, UnicodeDecodeError) as error:
        raise TransferError(f"{path}: cannot be read ({error})") from error
    told = manifest.get("files", {}).get(path.name, {}).get("sha256", digest)
    if told != digest:
        raise TransferError(
            f"{path}: was changed since it was exported; remove {MANIFEST} to import it as "
            "written by hand"
        )
    if not rows:
        raise TransferError(f"{path}: holds no item")
    items: dict[str, MemoryItem] = {}
    origin: dict[str, dict[str, Any]] = {}
    for number, row in rows:
        where = f"{path}: line {number}"
        source = _item(row, where)
        for task in source.tasks:
            if not learnable(task):
                raise TransferError(
                    f"{where}: tasks: {task} is held out here; memory may not know it"
                )
        proved = bool(source.sources) and all(
            proofs.get(slot) in source.tasks for slot in source.sources
        )
        item = source.model_copy(
            update={
                "sources": (),
                "parents": (),
                "trust": source.trust if proved else Trust.UNTRUSTED,
                "born": generation,
                "made": "imported",
            }
        )
        item = MemoryItem.model_validate(item.model_dump())  # a copy would keep the old id
        items.setdefault(item.id, item)
        origin.setdefault(item.id, {"id": row.get("id", ""), "sources": list(source.sources)})
    return Imported(items, origin, digest)


def _items_file(path: Path) -> Path:
    if path.is_dir():
        for name in ("items.jsonl", "items.parquet"):
            if (path / name).is_file():
                return path / name
        raise TransferError(f"{path}: holds neither items.jsonl nor items.parquet")
    if not path.is_file():
        raise TransferError(f"{path}: no such file; give an export's folder or a JSONL file")
    return path


def _manifest(path: Path) -> Mapping[str, Any]:
    file = path.with_name(MANIFEST)
    if not file.is_file():
        return {}
    try:
        manifest = json.loads(file.read_text())
    except ValueError as error:
        raise TransferError(f"{file}: is no JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return {}  # another program's
    if manifest.get("version") != VERSION:
        raise TransferError(
            f"{file}: version {manifest.get('version')}; this program reads {VERSION}"
        )
    return manifest


def _proofs(path: Path) -> dict[str, str]:
    """Slot → task of the export's episodes that are whole and reached full reward."""
    proofs: dict[str, str] = {}
    for name in ("trajectories.jsonl", "trajectories.parquet"):
        file = path.with_name(name)
        if not file.is_file():
            continue
        for number, row in _rows(file):
            id_ = row.pop("id", "")
            try:
                trajectory = Trajectory.model_validate(row)
            except ValidationError as error:
                raise TransferError(f"{file}: line {number}: {first(error)}") from error
            if trajectory.id != id_:
                raise TransferError(
                    f"{file}: line {number}: {trajectory.slot} does not match its content hash"
                )
            if trajectory.success and trajectory.failure is None:
                proofs[trajectory.slot] = trajectory.task
    return proofs


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line or row number from 1, object) of a file."""
    if path.suffix == ".parquet":
        _, parquet = _arrow()
        try:
            rows = parquet.read_table(path).to_pylist()
        except Exception as error:  # of many types, for a file that is no Parquet
            line = (str(error).splitlines() or [""])[0]
            raise TransferError(f"{path}: is no Parquet file ({line})") from error
        for row in rows:
            row.update({key: json.loads(row[key]) for key in _NESTED if row.get(key)})
        return list(enumerate(rows, 1))
    found: list[tuple[int, dict[str, Any]]] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, parse_constant=_no_number)
                json.dumps(row, ensure_ascii=False).encode()
            except (ValueError, RecursionError) as error:
                raise TransferError(f"{path}: line {number}: is no JSON ({error})") from error
            if not isinstance(row, dict):
                raise TransferError(f"{path}: line {number}: must be an object, not {row!r:.40}")
            found.append((number, row))
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _item(row: Mapping[str, Any], where: str) -> MemoryItem:
    """The item that a line tells, as it was in its own run.

    Raises:
        TransferError: which field is wrong, and how.
    """
    fields = {k: v for k, v in row.items() if k not in ("id", "status", "worth")}
    for name in ("text", "key"):
        if name in fields and isinstance(fields[name], str) and not fields[name].strip():
            raise TransferError(f"{where}: {name}: is empty")
    defaults = {"key": fields.get("text"), "sources": (), "tasks": (), "family": "", "born": 0}
    try:
        item = MemoryItem.model_validate(defaults | fields)
    except ValidationError as error:
        raise TransferError(f"{where}: {first(error)}") from error
    if not KINDS[item.kind].stored:
        raise TransferError(f"{where}: kind: {item.kind} is never stored")
    if item.kind is Kind.EXEMPLAR and not _is_episode(item.content):
        raise TransferError(
            f"{where}: content: an exemplar needs a prompt and turns: "
            '{"prompt": "…", "turns": [["what was done", "what was seen"]]}'
        )
    stored = row.get("id")
    if stored is not None and stored != content_hash(item.model_dump(mode="json"))[:16]:
        raise TransferError(f"{where}: id: does not match the item; leave it out if you changed it")
    return item


def _is_episode(content: Mapping[str, Any]) -> bool:
    turns = content.get("turns")
    return (
        isinstance(content.get("prompt"), str)
        and isinstance(turns, list)
        and bool(turns)
        and all(
            isinstance(turn, list) and len(turn) == 2 and all(isinstance(t, str) for t in turn)
            for turn in turns
        )
    )
