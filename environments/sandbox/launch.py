"""The host's side of ``launcher.py``: one for each user that bubblewrap is started as."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from environments.sandbox.base import SandboxFailure
from environments.sandbox.launcher import GIVEN, receive
from environments.sandbox.results import START_S

LAUNCHER = Path(__file__).with_name("launcher.py")
_ALL: dict[tuple[int, tuple[str, ...]], Launcher] = {}
_ALL_LOCK = threading.Lock()


class Launcher:
    """A process that starts programs for us; safe for threads.

    Args:
        command: starts a Python, as the user that programs are to have.

    Raises:
        SandboxFailure: it cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._owner, self._lock = os.getpid(), threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(START_S)
        code = LAUNCHER.read_text()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [*command, "-I", "-S", "-c", code, str(self._owner)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={},
                    cwd="/",
                    start_new_session=True,  # a Ctrl-C is for us
                )
            except OSError as error:
                self._socket.close()
                raise SandboxFailure(f"cannot start {command[0]}: {error}") from error

    @property
    def alive(self) -> bool:
        """Whether it answers; a broken one is not used again."""
        return self._socket.fileno() >= 0 and self._process.poll() is None

    def start(self, argv: int, fds: Sequence[int]) -> int:
        """Start a program.

        Args:
            argv: descriptor of the program's path and arguments, separated by NUL.
            fds: what it gets as descriptors 0 to 4.

        Returns:
            A descriptor of the process.

        Raises:
            SandboxFailure: it could not be started.
        """
        assert len(fds) == GIVEN
        _, (process,) = self._ask(b"start", [argv, *fds])
        return process

    def limit(self, pid: int, bounds: Mapping[str, tuple[int, int]]) -> None:
        """Limit a process that belongs to the launcher's user.

        Args:
            pid: the process.
            bounds: soft and hard value by the limit's name (``as``, ``cpu`` …).

        Raises:
            SandboxFailure: the kernel refused.
        """
        told = (f"{name} {soft} {hard}" for name, (soft, hard) in bounds.items())
        self._ask(" ".join(["limit", str(pid), *told]).encode(), [])

    def close(self) -> None:
        """End it, and what it started; safe to call twice."""
        self._socket.close()
        if self._owner == os.getpid():  # else it is another process's, of which this is a fork
            self._process.kill()
            self._process.wait()

    def _ask(self, request: bytes, fds: Sequence[int]) -> tuple[bytes, list[int]]:
        try:
            with self._lock:
                socket.send_fds(self._socket, [request], fds)
                answer, got = receive(self._socket, 1)
        except OSError as error:
            self.close()
            raise SandboxFailure(f"the sandbox's launcher does not answer: {error}") from error
        if not answer:
            self.close()
            raise SandboxFailure("the sandbox's launcher is gone")
        if answer.startswith(b"!"):
            raise SandboxFailure(f"the sandbox's launcher: {answer[1:].decode(errors='replace')}")
        return answer, got


def launcher(prefix: tuple[str, ...], python: str) -> Launcher:
    """This process's launcher, started when first needed, and again when it was lost.

    Args:
        prefix: the command that becomes the user.
        python: a Python that this user may read.
    """
    with _ALL_LOCK:
        key = os.getpid(), (*prefix, python)
        if key not in _ALL or not _ALL[key].alive:
            if key in _ALL:
                _ALL[key].close()
            _ALL[key] = Launcher([*prefix, python])
        return _ALL[key]


@atexit.register
def _end() -> None:
    for one in _ALL.values():
        one.close()
