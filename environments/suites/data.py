"""Where a suite's data files lie (named by the user, or below ``INSTAR_DATA``); reading them."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from environments.base import SuiteError


def data_path(suite: str, given: str | None, folder: str, source: str) -> Path:
    """The file or folder that holds a suite's data.

    Args:
        suite: the suite's name, for the message.
        given: what the user named (the suite's option ``data``), or None.
        folder: its name below the folder in the environment variable ``INSTAR_DATA``.
        source: where it can be downloaded, for the message.

    Raises:
        SuiteError: nothing is there.
    """
    if given is not None:
        if not Path(given).exists():
            raise SuiteError(f"suite {suite}: data={given}: no such file or folder")
        return Path(given)
    root = os.environ.get("INSTAR_DATA")
    if root and (Path(root) / folder).exists():
        return Path(root) / folder
    looked = f"{root} has no {folder}" if root else "INSTAR_DATA is not set"
    raise SuiteError(
        f"suite {suite}: its data is missing ({looked}): download {source}, then set "
        f"suite.options.data=PATH, or INSTAR_DATA to the folder that holds {folder}"
    )


def data_files(suite: str, path: Path, names: Sequence[str]) -> list[Path]:
    """The files to read: ``path`` itself, or those of ``names`` that the folder ``path`` has.

    Raises:
        SuiteError: a folder that has none of them.
    """
    if not path.is_dir():
        return [path]
    found = [path / name for name in names if (path / name).is_file()]
    if not found:
        raise SuiteError(f"suite {suite}: {path} has none of the files {', '.join(names)}")
    return found


def read_jsonl(suite: str, path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The records of a JSON Lines file.

    Args:
        suite: the suite's name, for messages.
        path: the file.
        fields: what every record must have.

    Raises:
        SuiteError: it cannot be read; says the line and what is wrong with it.
    """
    records = []
    for number, line in enumerate(_text(suite, path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SuiteError(f"suite {suite}: {path}:{number} is not JSON: {error}") from None
        _require(suite, f"{path}:{number}", record, fields)
        records.append(record)
    return records


def read_records(
    suite: str, files: Sequence[Path], fields: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of several JSON Lines files, each with where it stands, for messages.

    Arguments and errors as in `read_jsonl`.
    """
    for file in files:
        for number, record in enumerate(read_jsonl(suite, file, fields), 1):
            yield f"{file}: record {number}", record


def read_csv(suite: str, path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a CSV file with a header; errors as in `read_jsonl`."""
    reader = csv.DictReader(_text(suite, path).splitlines(keepends=True))
    rows: list[dict[str, Any]] = []
    try:
        for row in reader:
            held = {key: value for key, value in row.items() if value is not None}
            _require(suite, f"{path}:{reader.line_num}", held, fields)
            rows.append(held)
    except csv.Error as error:
        raise SuiteError(f"suite {suite}: {path}:{reader.line_num}: {error}") from None
    return rows


def _text(suite: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"suite {suite}: {path} cannot be read: {error}") from None


def _require(suite: str, where: str, record: object, fields: Sequence[str]) -> None:
    missing = [f for f in fields if not isinstance(record, dict) or f not in record]
    if missing:
        raise SuiteError(f"suite {suite}: {where} has no {', '.join(map(repr, missing))}")
