"""Watching one program under bubblewrap: its output, its limits, its end."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from environments.sandbox.base import ExecResult, Limits, SandboxFailure
from environments.sandbox.results import FLOOD, START_S, WATCH_S, account, compose, outgrown
from environments.sandbox.workspace import Workspace

_NO_PROGRAM = b"bwrap: execvp "  # what bubblewrap says where there is no such program


@dataclass
class Run:
    """One running program: its streams, its processes, and what ended it.

    Args:
        bwrap: descriptor of bubblewrap's process.
        out, err: what the program's output is read from.
        status: what bubblewrap's ``--json-status-fd`` is read from.
        workspace: where the program works.
        limits: what it may use.
        release: given the process namespace's first process, which is still being set up, lets
            it start the program.
    """

    bwrap: int
    out: int
    err: int
    status: int
    workspace: Workspace
    limits: Limits
    release: Callable[[int], None]
    cause: str = ""
    init: int = -1  # pidfd of the process namespace's first process: it dies, all die
    init_pid: int = 0
    kept: dict[int, bytearray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kept = {self.out: bytearray(), self.err: bytearray(), self.status: bytearray()}
        for fd in self.kept:
            os.set_blocking(fd, False)

    def watch(self) -> None:
        """Collect output until the program ends or a limit does (then ``cause`` says which)."""
        poller = select.poll()
        for fd in (*self.kept, self.bwrap):
            poller.register(fd, select.POLLIN)
        now = time.monotonic()
        deadline, check = now + START_S, now + WATCH_S
        while not self.cause:
            for fd, _ in poller.poll(max(0.0, min(deadline, check) - now) * 1000):
                if fd == self.bwrap:
                    return
                if not self._take(fd):
                    poller.unregister(fd)
            now = time.monotonic()
            if self.init < 0 and self._find_init():
                self.release(self.init_pid)
                deadline = now + self.limits.wall_s  # the program's time begins
            if now >= deadline:
                self.cause = "timeout" if self.init >= 0 else "start"
            elif now >= check and not self.cause:
                self.cause = outgrown(self.workspace, self.limits, self.init_pid)
                check = now + WATCH_S

    def end(self) -> None:
        """Kill what is left and wait until it is gone."""
        try:
            self._find_init()
            processes = [fd for fd in (self.init, self.bwrap) if fd >= 0]
            for fd in processes:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            for fd in processes:
                gone = select.poll()
                gone.register(fd, select.POLLIN)
                if not gone.poll(START_S * 1000):
                    raise SandboxFailure("processes of the sandbox outlived it")
        finally:
            if self.init >= 0:
                os.close(self.init)

    def drain(self) -> None:
        """Take what the pipes still hold; nobody is left to write."""
        for fd in self.kept:
            while self._take(fd):
                pass

    def result(self, seconds: float) -> ExecResult:
        code = self._exit_code()
        note = account(self.workspace, self.limits, self.cause)
        out, err = bytes(self.kept[self.out]), bytes(self.kept[self.err])
        if self.cause == "start":
            raise SandboxFailure(f"bubblewrap did not start within {START_S:.0f} s")
        if not self.cause and code is None and err.startswith(_NO_PROGRAM):
            code = 127 if err.rstrip().endswith(b"No such file or directory") else 126
        if not self.cause and code is None:
            said = err.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise SandboxFailure(f"bubblewrap could not start the program: {said[-1]}")
        return compose(self.cause, code, (out, err), self.limits, note, seconds)

    def _take(self, fd: int) -> bool:
        """Read some of a stream; False at its end (or when a drained pipe is empty)."""
        kept = self.kept[fd]
        try:
            data = os.read(fd, 65_536)
        except BlockingIOError:
            return False
        room = FLOOD * self.limits.output_bytes - len(kept)
        if fd != self.status and len(data) > room:
            self.cause = self.cause or "output"
            data = data[:room]
        kept += data
        return bool(data)

    def _said(self) -> Iterator[dict[str, int]]:
        """What bubblewrap reported: one JSON object a line."""
        for line in bytes(self.kept[self.status]).splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield json.loads(line)

    def _find_init(self) -> bool:
        while self.init < 0 and self._take(self.status):
            pass
        self.init_pid = next((said["child-pid"] for said in self._said() if "child-pid" in said), 0)
        if self.init < 0 and self.init_pid:
            with contextlib.suppress(ProcessLookupError):
                self.init = os.pidfd_open(self.init_pid)
        return self.init >= 0

    def _exit_code(self) -> int | None:
        """The program's status; shells and bubblewrap report a signal as 128 plus its number."""
        code = next((said["exit-code"] for said in self._said() if "exit-code" in said), None)
        if code is not None and 128 < code <= 128 + signal.SIGRTMAX:
            return 128 - code
        return code
