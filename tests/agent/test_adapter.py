"""Adapters on disk: whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import SafetensorError

from agent.training.adapter import COMPLETE, AdapterError, check_adapter, save_adapter


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
