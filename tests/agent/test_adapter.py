"""Adapters on disk: whole, or not at all."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from safetensors import SafetensorError

from agent.training.adapter import (
    COMPLETE,
    MANIFEST,
    AdapterError,
    check_adapter,
    read_manifest,
    save_adapter,
)


def one_file(folder: Path) -> None:
    (folder / "weights").write_bytes(b"1")


def test_no_room_for_an_adapter(tmp_path: Path) -> None:
    """What safetensors raises on a full disk is no OSError."""

    def write(folder: Path) -> None:
        one_file(folder)
        raise SafetensorError("Error while serializing: No space left on device")

    version = save_adapter(tmp_path / "adapter", one_file, {})
    with pytest.raises(AdapterError, match=r"No space left on device.*make room"):
        save_adapter(tmp_path / "adapter", write, {})
    assert check_adapter(tmp_path / "adapter") == version


def test_a_seal_that_is_no_text(tmp_path: Path) -> None:
    save_adapter(tmp_path / "adapter", one_file, {})
    (tmp_path / "adapter" / COMPLETE).write_bytes(b"\xff")
    with pytest.raises(AdapterError, match="incomplete"):
        check_adapter(tmp_path / "adapter")


class Killed(BaseException):
    pass


def test_an_earlier_adapter_goes_when_the_new_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the process dies, one of them is whole, and the next try finds it."""
    folder = tmp_path / "adapter"
    version = save_adapter(folder, one_file, {})
    replace = os.replace

    def stops(at: Path, error: BaseException) -> None:
        def replacing(old: Path, new: Path) -> None:
            if old == at:
                raise error
            replace(old, new)

        monkeypatch.setattr(os, "replace", replacing)

    def two(to: Path) -> None:
        (to / "weights").write_bytes(b"2")

    stops(tmp_path / "adapter.partial", OSError(5, "Input/output error"))
    with pytest.raises(OSError, match="Input/output error"):
        save_adapter(folder, two, {})
    assert check_adapter(folder) == version
    stops(tmp_path / "adapter.partial", Killed())
    with pytest.raises(Killed):
        save_adapter(folder, two, {})
    assert check_adapter(tmp_path / "adapter.before") == version
    stops(tmp_path / "adapter", OSError(5, "Input/output error"))
    with pytest.raises(OSError, match="Input/output error"):
        save_adapter(folder, two, {})
    assert check_adapter(folder) == version
    monkeypatch.undo()
    assert save_adapter(folder, two, {}) != version and check_adapter(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_all_of_an_adapter_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seal, and the names in the folder, as well; then the folder's own name."""
    synced: list[str] = []
    sync, replace = os.fsync, os.replace

    def told(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def replaced(old: Path, new: Path) -> None:
        synced.append("renamed")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", told)
    monkeypatch.setattr(os, "replace", replaced)
    save_adapter(tmp_path / "adapter", one_file, {})
    before, after = synced[: synced.index("renamed")], synced[synced.index("renamed") + 1 :]
    assert {"weights", MANIFEST, COMPLETE} < set(before)
    assert before.index(COMPLETE) < before.index("adapter.partial") and after == [tmp_path.name]


@pytest.mark.parametrize(
    ("held", "why"),
    [
        ([], "it holds no object"),
        ({}, "it lacks version, sources"),
        ({"version": "a1", "sources": None}, "it lacks sources"),
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, held: object, why: str) -> None:
    save_adapter(tmp_path / "adapter", one_file, {"sources": []})
    assert read_manifest(tmp_path / "adapter")["sources"] == []
    file = tmp_path / "adapter" / MANIFEST
    file.write_text(json.dumps(held))
    with pytest.raises(AdapterError, match=re.escape(f"{file}: is no adapter's manifest ({why})")):
        read_manifest(tmp_path / "adapter")
