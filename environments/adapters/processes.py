"""Servers that we start: they end with us, with all that they started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from environments.adapters import supervisor
from environments.base import EnvironmentFailure

_END_S = 6.0  # longer than the supervisor takes to kill
_SAID_CHARS = 300


def supervised(command: Sequence[str], folder: str = "") -> list[str]:
    """A command that ends, with all its descendants, when this process does.

    Args:
        command: program and arguments; it gets the standard streams.
        folder: deleted when the command has ended; empty for none.
    """
    return [sys.executable, "-I", "-S", supervisor.__file__, str(os.getpid()), folder, *command]


class Server:
    """A program that runs beside us until it is closed, in a temporary folder of its own.

    The folder is its ``TMPDIR``, so that what it leaves in temporary files goes too. What it
    writes on its standard error is kept for messages.

    Args:
        command: program and arguments.
        prefix: of the folder's name.
        environ: its environment variables; None for ours.

    Raises:
        EnvironmentFailure: it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        prefix: str = "instar-server-",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=prefix))
        self.command = command[0]
        self._stderr = (self.folder / "stderr").open("w+b")
        try:
            self.process = subprocess.Popen(
                supervised(command, str(self.folder)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                env={**(os.environ if environ is None else environ), "TMPDIR": str(self.folder)},
                start_new_session=True,
            )
        except OSError as error:
            self._stderr.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise EnvironmentFailure(f"{self.command} cannot be started: {error}") from error

    def said(self) -> str:
        """The last line that it wrote on its standard error, shortened; for messages."""
        return last_line(self._stderr)

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait until it serves.

        Raises:
            EnvironmentFailure: it ended, or is not ready in time; it is closed then.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            ended = not self.alive()
            if ended or time.monotonic() > deadline:
                said = self.said()
                self.close()
                how = f"did not answer within {timeout_s:g} s"
                if ended:
                    how = f"ended with status {self.process.returncode}"
                raise EnvironmentFailure(f"{self.command} {how}{f': {said}' if said else ''}")
            time.sleep(0.02)

    def close(self) -> None:
        """End it and all that it started; safe to call twice."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                self.process.wait(_END_S)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self._stderr.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def last_line(file: IO[bytes]) -> str:
    """The last line of an open file that holds anything, shortened; empty if there is none.

    The position is not moved: a child may be writing through the same description.
    """
    if file.closed:
        return ""
    begin = max(0, os.fstat(file.fileno()).st_size - 4 * _SAID_CHARS)
    lines = os.pread(file.fileno(), 4 * _SAID_CHARS, begin).decode(errors="replace").split("\n")
    return next((line.strip()[:_SAID_CHARS] for line in reversed(lines) if line.strip()), "")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
