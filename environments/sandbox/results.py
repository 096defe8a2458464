"""What every backend measures while a program runs, and how its result is put together."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import get_args

from environments.sandbox.base import ExecResult, Limits, Outcome
from environments.sandbox.workspace import Workspace, WorkspaceError

MIB = 1 << 20
START_S = 30.0  # for a sandbox itself to set up, on a machine that is very busy
WATCH_S = 0.1  # how often a running program's workspace and memory are measured
FLOOD = 8  # a stream of more than this many times the kept bytes ends the program
OPEN_FILES = 64


def outgrown(workspace: Workspace, limits: Limits, root_pid: int = 0) -> str:
    """The limit, "workspace" or "memory", that a running program has passed, or "".

    Args:
        workspace: where it works.
        limits: what it may use.
        root_pid: the process whose whole tree's memory counts; 0: it is limited elsewhere.
    """
    cause = ""
    try:
        if workspace.usage() > limits.workspace_mb * MIB:
            cause = "workspace"
    except WorkspaceError:
        cause = "workspace"
    if root_pid and tree_memory(root_pid) > 2 * limits.memory_mb * MIB:
        cause = "memory"
    return cause


def account(workspace: Workspace, limits: Limits, cause: str) -> str:
    """Empty a workspace that has outgrown its limit; the note that says so, or ""."""
    try:
        used = workspace.usage()
        if used <= limits.workspace_mb * MIB and cause != "workspace":
            return ""
        reason = f"more than {limits.workspace_mb} MiB"
    except WorkspaceError as error:
        reason = str(error)
    workspace.clear()
    return f"\nsandbox: the workspace was emptied ({reason})\n"


def compose(
    cause: str,
    code: int | None,
    streams: tuple[bytes, bytes],
    limits: Limits,
    note: str,
    seconds: float,
) -> ExecResult:
    """The result of a program that has ended.

    Args:
        cause: the limit that ended it, or "".
        code: its exit status, negative for a signal; None where a limit ended it.
        streams: stdout and stderr.
        limits: what it might use.
        note: what is said about its workspace, which then is the error.
        seconds: real time it took.
    """
    out, err = streams
    outcome: Outcome = "ok" if code == 0 and not cause else "error"
    if cause in get_args(Outcome):
        outcome = cause  # type: ignore[assignment]
    elif code == -signal.SIGXCPU:
        outcome = "timeout"
    elif code and _last_line(err).startswith(b"MemoryError"):
        outcome = "memory"
    if note:
        outcome, code = "error", None
    return ExecResult(
        outcome=outcome,
        exit_code=code if outcome in ("ok", "error") else None,
        stdout=_cut(out, limits.output_bytes),
        stderr=_cut(err, limits.output_bytes) + note,
        truncated=max(len(out), len(err)) > limits.output_bytes,
        seconds=seconds,
    )


def tree_memory(root: int) -> int:
    """Bytes that a process and its descendants occupy, shared pages counted once."""
    total, pids = 0, [root]
    while pids:
        folder = Path(f"/proc/{pids.pop()}")
        try:
            for task in os.listdir(folder / "task"):
                pids += map(int, (folder / "task" / task / "children").read_text().split())
            if found := re.search(r"(?m)^Pss:\s+(\d+)", (folder / "smaps_rollup").read_text()):
                total += int(found[1]) * 1024
        except OSError:  # it has just ended
            continue
    return total


def _last_line(stream: bytes) -> bytes:
    return (stream.rstrip().splitlines() or [b""])[-1]


def _cut(stream: bytes, limit: int) -> str:
    """A stream as text: its beginning and its end where it is longer than ``limit`` bytes."""
    if len(stream) <= limit:
        return stream.decode(errors="replace")
    head, tail = stream[: limit - limit // 2], stream[len(stream) - limit // 2 :]
    return (
        f"{head.decode(errors='replace')}\n[... {len(stream) - limit} bytes cut ...]\n"
        f"{tail.decode(errors='replace')}"
    )
