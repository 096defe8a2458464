"""No sandbox: programs run with all the rights of the caller. For whoever has no other way.

A fresh folder, an empty environment, and the limits as far as an ordinary process can be held
to them. Nothing keeps a program from the caller's files, network and processes, and a child
that makes a session of its own outlives its program.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from environments.sandbox.base import (
    DEFAULT_LIMITS,
    ExecResult,
    Limits,
    SandboxFailure,
    SandboxUnavailable,
)
from environments.sandbox.results import (
    FLOOD,
    MIB,
    OPEN_FILES,
    WATCH_S,
    account,
    compose,
    outgrown,
)
from environments.sandbox.workspace import Workspace, sweep

_PRLIMIT = "/usr/bin/prlimit"


class NoSandbox:
    """A folder, and programs run in it as ordinary child processes. It isolates nothing.

    Args:
        limits: what each execution may use, unless it is given its own.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        sweep()
        try:
            self._workspace = Workspace()
        except OSError as error:
            raise SandboxUnavailable(
                f"cannot make a workspace in the temporary folder: {error}"
            ) from error
        self._closed = False

    def python_argv(self) -> list[str]:
        """The Python that runs this, isolated and without site packages."""
        return [sys.executable, "-I", "-S", "-B", "-X", "utf8"]

    def exec(
        self, argv: Sequence[str], *, stdin: str = "", limits: Limits | None = None
    ) -> ExecResult:
        """Run a program in the folder; its process group is gone on return.

        Raises:
            SandboxFailure: it could not be started for want of resources.
            ValueError: the sandbox is closed, or argv is empty or has NUL characters.
        """
        if self._closed:
            raise ValueError("the sandbox is closed")
        if not argv or any("\0" in part for part in argv):
            raise ValueError("argv must name a program and have no NUL characters")
        return _execute(argv, stdin, limits or self._limits, self._workspace)

    def read(self, path: str) -> bytes:
        """A regular file of the workspace; links are refused (ValueError)."""
        return self._workspace.read(path)

    def write(self, path: str, data: bytes) -> None:
        """Write a file of the workspace; paths that leave it are refused (ValueError)."""
        self._workspace.write(path, data, self._limits.workspace_mb)

    def list(self) -> list[str]:
        """Relative paths of the workspace's regular files, sorted."""
        return self._workspace.list()

    def snapshot(self) -> dict[str, bytes]:
        """Path and content of the workspace's regular files, sorted by path."""
        return self._workspace.snapshot()

    def close(self) -> None:
        """Remove the workspace; safe to call twice."""
        self._closed = True
        self._workspace.close()


def _execute(argv: Sequence[str], stdin: str, limits: Limits, workspace: Workspace) -> ExecResult:
    prefix = []
    if os.access(_PRLIMIT, os.X_OK):  # no process limit: it would count the user's whole login
        prefix = [_PRLIMIT, f"--as={limits.memory_mb * MIB}",
                  f"--cpu={limits.cpu_s}:{limits.cpu_s + 1}", f"--fsize={limits.file_mb * MIB}",
                  f"--nofile={OPEN_FILES}", "--core=0", "--"]  # fmt: skip
    began = time.monotonic()
    with tempfile.TemporaryFile() as given:
        given.write(stdin.encode(errors="replace"))
        given.seek(0)
        try:
            process = subprocess.Popen(
                [*prefix, *argv],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=workspace.work,
                env={"PATH": "/usr/bin:/bin", "HOME": str(workspace.work), "LANG": "C.UTF-8"},
                start_new_session=True,
            )
        except FileNotFoundError as error:  # where prlimit would say so
            said = f"{argv[0]}: {error.strerror}\n".encode(errors="replace")
            return compose("", 127, (b"", said), limits, "", time.monotonic() - began)
        except OSError as error:
            raise SandboxFailure(f"cannot start {argv[0]}: {error}") from error
    with process:
        cause, streams = _watch(process, limits, workspace)
    code = None if cause else process.returncode
    note = account(workspace, limits, cause)
    return compose(cause, code, streams, limits, note, time.monotonic() - began)


def _watch(
    process: subprocess.Popen[bytes], limits: Limits, workspace: Workspace
) -> tuple[str, tuple[bytes, bytes]]:
    assert process.stdout is not None and process.stderr is not None
    out, err = process.stdout.fileno(), process.stderr.fileno()
    kept = {out: bytearray(), err: bytearray()}
    room = FLOOD * limits.output_bytes
    cause = ""

    def take(fd: int) -> bool:
        nonlocal cause
        try:
            data = os.read(fd, 65_536)
        except BlockingIOError:
            return False
        if len(kept[fd]) + len(data) > room:
            cause = cause or "output"
        kept[fd] += data[: room - len(kept[fd])]
        return bool(data)

    ended = os.pidfd_open(process.pid)
    try:
        poller = select.poll()
        for fd in (*kept, ended):
            os.set_blocking(fd, False)
            poller.register(fd, select.POLLIN)
        now = time.monotonic()
        deadline, check = now + limits.wall_s, now + WATCH_S
        running = True
        while running and not cause:
            for fd, _ in poller.poll(max(0.0, min(deadline, check) - now) * 1000):
                if fd == ended:
                    running = False
                elif not take(fd):
                    poller.unregister(fd)
            now = time.monotonic()
            if running and now >= deadline:
                cause = "timeout"
            elif now >= check and not cause:
                cause = outgrown(workspace, limits, process.pid)
                check = now + WATCH_S
    finally:
        os.close(ended)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # not reaped yet: the number is still its own
        process.wait()
    for fd in kept:
        while not cause and take(fd):
            pass
    return cause, (bytes(kept[out]), bytes(kept[err]))
