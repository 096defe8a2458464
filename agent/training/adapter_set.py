"""Adapter sets on disk: an adapter per task group and their selector, one version together.

A set's folder is an adapter's (``agent.training.adapter``) with ``set.json``, the selector and
which group has which member, and ``members/VERSION``, each a whole adapter. Its version is the
hash of all of that, so what holds for an adapter holds for a set: whole or not at all, checked
before it acts, rolled back to. A trajectory's policy is ``SET:MEMBER``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from agent.training.adapter import AdapterError, save_adapter
from agent.training.selector import Selector
from memory.records import MEMBER_OF

SET, MEMBERS = "set.json", "members"


class AdapterSet(BaseModel):
    """What a set's file says.

    Args:
        selector: chooses the group.
        members: version of the adapter of each group that has one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    selector: Selector
    members: dict[str, str]


def save_set(
    folder: Path, described: AdapterSet, members: Mapping[str, Path], manifest: dict[str, Any]
) -> str:
    """Write a set, whole or not at all; returns its version.

    Args:
        folder: where it goes; replaced if it exists.
        described: the selector, and the members' versions.
        members: folders of these adapters by version. They are linked where the disk can,
            so a member that is carried from set to set takes its place once.
        manifest: lineage, stored with it.

    Raises:
        AdapterError, OSError: it cannot be written; an earlier one stays as it was.
    """

    def write(target: Path) -> None:
        (target / SET).write_text(described.model_dump_json())
        for version, own in sorted(members.items()):
            shutil.copytree(own, target / MEMBERS / version, copy_function=_link)

    return save_adapter(folder, write, manifest)


def read_set(folder: Path) -> AdapterSet | None:
    """What a stored adapter's folder says of members; None where it is a single adapter.

    Raises:
        AdapterError: its file cannot be read.
    """
    if not (folder / SET).exists():
        return None
    try:
        return AdapterSet.model_validate_json((folder / SET).read_text())
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())
        raise AdapterError(f"{folder / SET}: cannot be read ({reason})") from error


def member_folder(folder: Path, member: str) -> Path:
    """Where a set keeps a member.

    Raises:
        AdapterError: it has none of that version.
    """
    own = folder / MEMBERS / member
    if not own.is_dir():
        raise AdapterError(f"{folder}: the set has no member {member}")
    return own


def refuse_set(folder: Path, what: str) -> None:
    """A single adapter passes.

    Args:
        folder: of a stored adapter or adapter set.
        what: cannot be done to a set; as ``exported``.

    Raises:
        AdapterError: it is a set; its members are named, each of which is an adapter by itself.
    """
    if (found := read_set(folder)) is not None:
        members = ", ".join(f"{own} ({group})" for group, own in sorted(found.members.items()))
        raise AdapterError(
            f"{folder} is a set of adapters, one for each group of tasks, and cannot be {what} as "
            f"one; each member is an adapter of its own in {folder / MEMBERS}: {members}"
        )


def member_name(version: str, member: str) -> str:
    """Version of the weights that act when a set's member does."""
    return f"{version}{MEMBER_OF}{member}"


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
