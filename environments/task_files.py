"""Task files: JSONL, CSV, Parquet and datasets of the Hugging Face hub, row by row.

Parquet needs the package ``pyarrow``, the hub the package ``datasets``.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import JsonValue

from environments.base import SuiteError

_HUB = re.compile(r"hf:(?P<name>[^:]+?)(?::(?P<split>[\w.\-\[\]%:+]+))?$")
_READ = ".jsonl, .csv, .parquet, or hf:owner/name:split"


class Row(NamedTuple):
    """One task of a file: where it stands (``tasks.csv line 3``), and its fields."""

    where: str
    fields: dict[str, JsonValue]


def read_tasks(source: str | Path, folder: Path | None = None) -> list[Row]:
    """The tasks of a file or dataset, in order.

    Args:
        source: path of a ``.jsonl`` (an object a line), ``.csv`` (with a header; every value is a
            text, and an empty cell is a field left out) or ``.parquet`` file; or
            ``hf:owner/name[/config][:split]``, which is ``datasets.load_dataset`` (split
            ``train`` unless another is named); a path that begins with ``.`` or ``/`` after
            ``hf:`` is a dataset's folder.
        folder: what a relative path is relative to; default: the current folder.

    Raises:
        SuiteError: in one line, which file and line, and what is wrong there. The same task
            twice is an error too, except in a dataset, whose repeated rows are dropped.
    """
    text = str(source)
    if text.startswith("hf:"):
        return _without_repeats(_hub(text, folder), drop=True)
    path = Path(source) if folder is None else folder / source
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise SuiteError(f"{path.name}: unknown kind of task file; it may be {_READ}")
    if not path.is_file():
        raise SuiteError(f"{path}: no such file")
    try:
        rows = _without_repeats(readers[path.suffix.lower()](path))
    except OSError as error:
        raise SuiteError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not rows:
        raise SuiteError(f"{path.name}: holds no tasks")
    return rows


def _without_repeats(rows: Iterable[Row], drop: bool = False) -> list[Row]:
    seen: dict[str, str] = {}
    kept = []
    for row in rows:
        content = json.dumps(row.fields, sort_keys=True)
        first = seen.setdefault(content, row.where)
        if first is row.where:
            kept.append(row)
        elif not drop:
            raise SuiteError(f"{row.where}: the same task as {first}; remove one")
    return kept


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Where each line stands, and its text."""
    for number, raw in enumerate(path.read_bytes().split(b"\n"), 1):
        where = f"{path.name} line {number}"
        try:
            yield where, raw.decode("utf-8-sig" if number == 1 else "utf-8") + "\n"
        except UnicodeDecodeError as error:
            raise SuiteError(f"{where}: not UTF-8 (byte {error.start + 1})") from None


def _jsonl(path: Path) -> Iterator[Row]:
    for where, line in _lines(path):
        if not line.strip():
            continue
        try:
            fields = json.loads(line, object_pairs_hook=_once, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            raise SuiteError(f"{where}, column {error.colno}: no JSON: {error.msg}") from None
        except (ValueError, RecursionError) as error:
            raise SuiteError(f"{where}: {error}") from None
        if not isinstance(fields, dict):
            raise SuiteError(f"{where}: {_kind(fields)}, not an object with a task's fields")
        yield Row(where, _json(where, fields))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twice} stands there twice")
    return fields


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _csv(path: Path) -> Iterator[Row]:
    lines = (line for _, line in _lines(path))
    reader = csv.reader(lines, strict=True)
    header: list[str] = []
    begin = 1  # a quoted cell may hold line breaks: a row is named by its first line
    try:
        for cells in reader:
            where, begin = f"{path.name} line {begin}", reader.line_num + 1
            if not cells:
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                if "" in header or len(set(header)) < len(header):
                    raise SuiteError(f"{where}: the header needs a different name per column")
                continue
            if len(cells) != len(header):
                raise SuiteError(f"{where}: {len(cells)} cells, but the header has {len(header)}")
            pairs = zip(header, cells, strict=True)
            yield Row(where, _json(where, {name: cell for name, cell in pairs if cell != ""}))
    except csv.Error as error:
        raise SuiteError(f"{path.name} line {begin}: no CSV: {error}") from None


def _parquet(path: Path) -> Iterator[Row]:
    try:
        pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise SuiteError(
            f"{path.name}: reading Parquet needs the package pyarrow ({error}): pip install pyarrow"
        ) from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, ValueError) as error:
        message = " ".join(str(error).split())
        raise SuiteError(f"{path.name}: cannot be read as Parquet: {message}") from None
    for number, fields in enumerate(rows, 1):
        where = f"{path.name} row {number}"
        yield Row(where, _json(where, fields))


def _hub(source: str, folder: Path | None) -> Iterator[Row]:
    match = _HUB.match(source)
    if match is None:
        raise SuiteError(f"{source}: write hf:owner/name, hf:owner/name:split, or with a "
                         "configuration hf:owner/name/config:split")  # fmt: skip
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise SuiteError(
            f"{source}: reading it needs the package datasets ({error}): pip install datasets"
        ) from error
    name, split = match["name"], match["split"] or "train"
    config = None
    if name.startswith((".", "/")):
        name = str((folder or Path()) / name)
    elif name.count("/") == 2:
        name, _, config = name.rpartition("/")
    try:
        rows = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # no network, no such set, no such split: all kinds
        message = " ".join(str(error).split())
        raise SuiteError(f"{source}: {type(error).__name__}: {message[:300]}") from None
    for number, fields in enumerate(rows, 1):
        where = f"{source} row {number}"
        yield Row(where, _json(where, fields))


def _json(where: str, fields: dict[str, Any]) -> dict[str, JsonValue]:
    """The fields, if JSON can hold them."""
    for name, value in fields.items():
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise SuiteError(f"{where}: field {name} holds half a character (\\ud800 …)") from None
        except (TypeError, ValueError):
            raise SuiteError(
                f"{where}: field {name} is {_kind(value)} that JSON cannot hold; store it as a "
                "text or a number"
            ) from None
    return fields


def _kind(value: object) -> str:
    names = {"list": "a list", "str": "a text", "NoneType": "null", "bool": "true or false",
             "int": "a number", "float": "a number"}  # fmt: skip
    return names.get(type(value).__name__, f"a {type(value).__name__}")
