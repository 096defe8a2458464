"""Adapters on disk: written whole or not at all, named by what is in them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memory.sqlite import sync

COMPLETE, MANIFEST = "COMPLETE", "manifest.json"
_ALWAYS = (("version", str), ("sources", list))  # what a manifest says, whoever made the adapter


class AdapterError(RuntimeError):
    """A stored adapter that is incomplete or was changed; one line."""


def save_adapter(folder: Path, write: Callable[[Path], None], manifest: dict[str, Any]) -> str:
    """Write to a temporary folder, ``COMPLETE`` last, then rename.

    Args:
        folder: where the adapter goes; replaced if it exists.
        write: writes the adapter's own files into the folder it is given.
        manifest: lineage, stored with it.

    Returns:
        the adapter's version: ``a`` and 12 hex digits of the hash of its files.

    Raises:
        AdapterError, OSError: it cannot be written; an earlier one stays as it was.
    """
    temporary = folder.with_name(folder.name + ".partial")
    before = folder.with_name(folder.name + ".before")
    if not folder.exists() and before.exists():  # a crash came between the two renames below
        os.replace(before, folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write(temporary)
    except OSError:
        raise
    except Exception as error:  # a full disk, in the words of the library that writes
        raise AdapterError(
            f"{folder}: the adapter cannot be written ({error}); make room and run again"
        ) from error
    version = "a" + _digest(temporary)
    (temporary / MANIFEST).write_text(
        json.dumps({**manifest, "version": version}, indent=1, sort_keys=True)
    )
    for path in temporary.rglob("*"):
        sync(path)
    (temporary / COMPLETE).write_text(version)
    sync(temporary / COMPLETE)
    sync(temporary)
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():  # it goes when the new one stands in its place, not before
        os.replace(folder, before)
    try:
        os.replace(temporary, folder)
    except OSError:
        if before.exists():
            os.replace(before, folder)
        raise
    sync(folder.parent)
    shutil.rmtree(before, ignore_errors=True)
    return version


def check_adapter(folder: Path) -> str:
    """The version of a stored adapter.

    Raises:
        AdapterError: incomplete, or its files are not those that were written.
    """
    try:
        version = (folder / COMPLETE).read_text()
        actual = "a" + _digest(folder)
    except (OSError, ValueError) as error:
        raise AdapterError(
            f"{folder}: the adapter is incomplete ({error}): restore it, or roll back to another "
            "generation"
        ) from error
    if version != actual:
        raise AdapterError(
            f"{folder}: the adapter was changed or cut: its files hash to {actual}, "
            f"not {version}; restore it, or roll back to another generation"
        )
    return version


def read_manifest(folder: Path) -> dict[str, Any]:
    """The lineage stored with an adapter.

    Raises:
        AdapterError: missing, unreadable, or without what every manifest has.
    """
    try:
        manifest: Any = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise AdapterError(f"{folder}: the manifest cannot be read ({error})") from error
    if not isinstance(manifest, dict):
        raise _cut(folder, "it holds no object")
    if missing := [name for name, kind in _ALWAYS if not isinstance(manifest.get(name), kind)]:
        raise _cut(folder, f"it lacks {', '.join(missing)}")
    return manifest


def _cut(folder: Path, why: str) -> AdapterError:
    return AdapterError(f"{folder / MANIFEST}: is no adapter's manifest ({why}); restore it")


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(filter(Path.is_file, folder.rglob("*"))):
        if path.name not in (COMPLETE, MANIFEST):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
