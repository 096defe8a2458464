"""Bubblewrap with a keeper in it: the namespaces stay, programs come and go.

Python is forked from the keeper's interpreter, which never runs a program itself, instead of
started: a millisecond or two instead of fifteen. Between episodes a worker is used again only
if nothing is left in it (``README.md`` lists what is looked at); otherwise it is thrown away.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Callable

from environments.sandbox.base import SandboxFailure
from environments.sandbox.cell import Cell
from environments.sandbox.results import START_S
from environments.sandbox.workspace import Workspace

# Given a workspace and two descriptors (filter to read, status to write): the command line.
Command = Callable[[Workspace, int, int], list[str]]


class Worker:
    """One bubblewrap with a keeper as its process 1, and its workspace.

    Args:
        command: makes the command line that starts the keeper.
        denied: the system-call filter.
        workspace: makes the workspace; or one that is in use, whose worker broke.
        room_mb: the size of its /tmp, MiB.

    Raises:
        SandboxFailure: it did not start.
    """

    def __init__(
        self,
        command: Command,
        denied: Callable[[contextlib.ExitStack], int],
        workspace: Callable[[], Workspace] | Workspace,
        room_mb: int,
    ) -> None:
        # One in use may bear marks, which the keeper would take for its own.
        self._fresh = not isinstance(workspace, Workspace)
        self.workspace = workspace if isinstance(workspace, Workspace) else workspace()
        self._process: subprocess.Popen[bytes] | None = None
        self._init = -1
        self._pid = 0
        try:
            with contextlib.ExitStack() as stack:
                status, told = os.pipe()
                stack.callback(os.close, status)
                filter_fd = denied(stack)
                with os.fdopen(told, "wb"):
                    self._process = subprocess.Popen(
                        command(self.workspace, filter_fd, told),
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        env={},
                        cwd="/",
                        bufsize=0,
                        pass_fds=(filter_fd, told),
                    )
                self._find_init(status)
            assert self._process.stdin and self._process.stdout
            self.inside, self.outside = self._process.stdout.fileno(), self._process.stdin.fileno()
            self.cell = Cell(self, b"", 1, room_mb)
        except OSError as error:
            self.close()
            raise SandboxFailure(f"cannot start bubblewrap: {error}") from error
        except BaseException:
            self.close()
            raise

    def decode(self, data: bytes) -> bytes:
        """The keeper's bytes are as they are."""
        return data

    def root_pid(self) -> int:
        """The keeper, whose tree is everything inside."""
        return self._pid

    def fit(self, limits: object) -> None:
        """Nothing outside the keeper depends on a program's limits."""

    def destroy(self) -> str:
        """Kill everything inside and wait until it is gone; safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return ""
        try:
            if self._init >= 0:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._init, signal.SIGKILL)
            process.kill()
            process.wait()
            if self._init >= 0:
                gone = select.poll()
                gone.register(self._init, select.POLLIN)
                if not gone.poll(START_S * 1000):
                    raise SandboxFailure("processes of the sandbox outlived it")
        finally:
            if self._init >= 0:
                os.close(self._init)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        return ""

    def close(self) -> None:
        """End it and remove its workspace; safe to call twice."""
        try:
            self.destroy()
        finally:
            self.workspace.close()

    def reset(self) -> bool:
        """Make it as new for another episode; False if it must be thrown away."""
        if self.cell.broken or not self._fresh:
            return False
        self.workspace.clear()
        return self.cell.reset()

    def _find_init(self, status: int) -> None:
        assert self._process is not None and self._process.stderr is not None
        said = b""
        poller = select.poll()
        poller.register(status, select.POLLIN)
        while not said.endswith(b"\n"):
            part = os.read(status, 4096) if poller.poll(START_S * 1000) else b""
            if not part:
                self._process.kill()
                lines = self._process.stderr.read().decode(errors="replace").strip().splitlines()
                raise SandboxFailure(
                    f"bubblewrap could not start: {lines[-1] if lines else 'it said nothing'}"
                )
            said += part
        self._pid = json.loads(said.splitlines()[0])["child-pid"]
        self._init = os.pidfd_open(self._pid)
