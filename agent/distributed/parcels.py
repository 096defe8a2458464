"""Adapters on their way to another machine: whole files, checked by what they hash to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agent.training.adapter import AdapterError, check_adapter
from memory.records import MEMBER_OF


class Parcel(NamedTuple):
    """An adapter for engines that may not see its folder.

    Args:
        version: what its files hash to; of a set's member ``SET:MEMBER``, of which they hash to the
            latter.
        folder: where it lies on the machine that sent it.
        files: a reference to the files' contents in Ray's object store, alone in a sequence: so
            Ray does not fetch it before it is asked for.
    """

    version: str
    folder: str
    files: Sequence[Any]


def pack(version: str, folder: Path) -> Parcel:
    """Put an adapter into the object store."""
    import ray

    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return Parcel(version, str(folder.absolute()), (ray.put(files),))


def unpack(parcel: Parcel, cache: Path) -> Path:
    """The adapter's folder on this machine: its own where it can be seen, else a copy.

    Args:
        parcel: what was sent.
        cache: folder of copies, each named by its version.

    Raises:
        AdapterError: what arrived is not what was sent.
    """
    import ray

    here, copy = Path(parcel.folder), cache / parcel.version
    for folder in (here, copy):
        if _holds(folder, parcel.version):
            return folder
    files: Mapping[str, bytes] = ray.get(parcel.files[0])
    copy.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (copy / Path(name).name).write_bytes(content)
    if not _holds(copy, parcel.version):
        raise AdapterError(f"the adapter {parcel.version} did not arrive whole in {copy}")
    return copy


def _holds(folder: Path, version: str) -> bool:
    try:
        return check_adapter(folder) == version.rpartition(MEMBER_OF)[2]
    except AdapterError:
        return False
