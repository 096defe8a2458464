"""The host's side of a warm sandbox: programs are given to its keeper, and watched.

Nothing that comes from inside is trusted: answers are length-prefixed bytes, counted here;
time, workspace and memory are measured here. A sandbox whose keeper is late, ends, or says
anything unexpected is destroyed; the workspace, which is the host's, stays.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from environments.sandbox.base import ExecResult, Limits, SandboxFailure
from environments.sandbox.results import (
    FLOOD,
    MIB,
    OPEN_FILES,
    START_S,
    WATCH_S,
    account,
    compose,
    outgrown,
)
from environments.sandbox.workspace import Workspace

PYTHON_FLAGS = ("-I", "-S", "-B", "-X", "utf8")
GRACE_S = 2.0  # for the keeper to kill a program
KEEPER = Path(__file__).with_name("keeper.py")
_CODE_READY, _CODE_OUT, _CODE_ERR, _CODE_END = b"r", b"o", b"e", b"x"  # as in keeper.py
_LONGEST = 1 << 20  # answers are of one pipe's content at most

# What process 1 is started with; it receives its code and the system-call filter first.
BOOT = """\
import sys
modules = frozenset(sys.modules)
import posix
def receive(count):
    data = b""
    while len(data) < count:
        data += posix.read(0, count - len(data)) or sys.exit()
    return data
code, denied = (receive(int.from_bytes(receive(4), "big")) for _ in "12")
space = {"__name__": "keeper", "__builtins__": __builtins__}
exec(compile(code, "keeper", "exec"), space)
space["serve"](modules, denied)
"""


class Channel(Protocol):
    """How the host reaches a keeper."""

    inside: int  # a descriptor to read answers from and poll
    outside: int  # a descriptor to write requests to

    def decode(self, data: bytes) -> bytes:
        """What the keeper wrote, of bytes read from ``inside``."""
        ...

    def root_pid(self) -> int:
        """The host's pid of the process whose tree's memory counts; 0: limited elsewhere."""
        ...

    def fit(self, limits: Limits) -> None:
        """Adapt what is limited outside the keeper to the next program's limits."""
        ...

    def destroy(self) -> str:
        """End every process inside and give everything back; why it had ended by itself, or ""."""
        ...


class Cell:
    """A keeper and the sandbox around it; runs one program at a time.

    Args:
        channel: how to reach it.
        denied: a system-call filter for the keeper to install; nothing where one is in place.
        own_processes: what the process limit counts beside the program's, or None where the
            channel limits processes.
        room_mb: the size of its /tmp, through which standard input goes, MiB.

    Raises:
        SandboxFailure: the keeper did not start.
    """

    def __init__(
        self, channel: Channel, denied: bytes, own_processes: int | None, room_mb: int
    ) -> None:
        self._channel = channel
        self._room = room_mb * MIB
        self._own = own_processes
        self._buffer = bytearray()
        self.broken = False
        os.set_blocking(channel.inside, False)
        os.set_blocking(channel.outside, False)
        code = KEEPER.read_bytes()
        try:
            self._send(b"".join(len(p).to_bytes(4, "big") + p for p in (code, denied)))
            end = time.monotonic() + START_S
            answers: list[tuple[bytes, bytes]] = []
            while not answers and time.monotonic() < end:
                answers = self._answers(end)
            if answers != [(_CODE_READY, b"")]:
                raise SandboxFailure("the sandbox's keeper did not start in time")
        except EOFError:
            said = self.destroy()
            raise SandboxFailure(f"the sandbox's keeper did not start: {said}") from None
        except BaseException:
            self.destroy()
            raise

    def run(
        self, argv: Sequence[str], stdin: str, limits: Limits, workspace: Workspace, warm: bool
    ) -> ExecResult:
        """Run a program; see ``Sandbox.exec``.

        Args:
            argv: program and arguments.
            stdin: its standard input.
            limits: what it may use.
            workspace: the folder that it finds at /work.
            warm: argv is the sandbox's Python with ``-`` or ``-c CODE``: the keeper's copy
                runs it.

        Raises:
            SandboxFailure: the sandbox broke; it is destroyed.
        """
        began = time.monotonic()
        request = _request(argv, stdin, limits, self._own, warm)
        if len(request) > self._room:
            raise ValueError(f"{len(request)} bytes of standard input are more than /tmp holds")
        try:
            self._channel.fit(limits)
            self._send(request)
            cause, code, streams = self._watch(limits, workspace)
        except BaseException:
            self.destroy()
            raise
        note = account(workspace, limits, cause)
        return compose(cause, code, streams, limits, note, time.monotonic() - began)

    def reset(self) -> bool:
        """Whether nothing of its programs is left; the workspace must have been emptied."""
        header = b"reset"
        try:
            self._send(len(header).to_bytes(4, "big") + bytes(4) + header)
            answers: list[tuple[bytes, bytes]] = []
            end = time.monotonic() + GRACE_S
            while not answers and time.monotonic() < end:
                answers = self._answers(end)
        except (EOFError, SandboxFailure):
            return False
        return answers == [(_CODE_END, b"0 - clean")]

    def destroy(self) -> str:
        """End everything inside; why it had ended by itself, or "". Safe to call twice."""
        self.broken = True
        return self._channel.destroy()

    def _watch(
        self, limits: Limits, workspace: Workspace
    ) -> tuple[str, int | None, tuple[bytes, bytes]]:
        """What ended the program (or ""), its status, and its two streams."""
        kept = {_CODE_OUT: bytearray(), _CODE_ERR: bytearray()}
        room = FLOOD * limits.output_bytes
        cause, asked = "", False  # asked: the keeper was told to kill it
        now = time.monotonic()
        deadline, check = now + limits.wall_s, now + WATCH_S
        while True:
            try:
                answers = self._answers(min(deadline, check) if not asked else deadline)
            except EOFError:
                cause = self.destroy() or cause
                if not cause:
                    raise SandboxFailure("the sandbox's keeper ended") from None
                break
            for letter, data in answers:
                if letter == _CODE_END:
                    status, said, clean = data.decode(errors="replace").split(" ")
                    if said.startswith("fork"):
                        raise SandboxFailure("the sandbox could not start another process")
                    if (said == "killed") != asked or clean != "clean":
                        self.destroy()  # a byte too many, or files too many, await the next one
                    cause = cause or said.strip("-")
                    return cause, None if cause else int(status), _both(kept)
                stream = kept[letter]
                if len(stream) + len(data) > room:
                    cause = cause or "output"
                stream += data[: room - len(stream)]
            now = time.monotonic()
            if asked:
                if now >= deadline:
                    self.destroy()
                    break
                continue
            if now >= deadline:
                cause = "timeout"
            elif now >= check and not cause:
                cause = outgrown(workspace, limits, self._channel.root_pid())
                check = now + WATCH_S
            if cause:
                asked, deadline = True, now + GRACE_S
                self._send(b"K")
        return cause, None, _both(kept)

    def _answers(self, until: float) -> list[tuple[bytes, bytes]]:
        """The answers that have come, waiting for the first; none if there is none in time.

        Raises:
            EOFError: the keeper is gone.
            SandboxFailure: it said what it cannot say.
        """
        if not _wait(self._channel.inside, select.POLLIN, until):
            return []
        try:
            data = os.read(self._channel.inside, 1 << 18)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError
        self._buffer += self._channel.decode(data)
        answers = []
        while len(self._buffer) >= 5:
            letter, size = bytes(self._buffer[:1]), int.from_bytes(self._buffer[1:5], "big")
            if letter not in _LETTERS or size > _LONGEST:
                raise SandboxFailure("the sandbox's keeper said what it cannot say")
            if len(self._buffer) < 5 + size:
                break
            answers.append((letter, bytes(self._buffer[5 : 5 + size])))
            del self._buffer[: 5 + size]
        return answers

    def _send(self, data: bytes) -> None:
        view, end = memoryview(data), time.monotonic() + START_S
        while view:
            if not _wait(self._channel.outside, select.POLLOUT, end):
                raise SandboxFailure("the sandbox's keeper does not listen")
            try:
                view = view[os.write(self._channel.outside, view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise SandboxFailure(f"the sandbox's keeper is gone: {error}") from error


_LETTERS = (_CODE_READY, _CODE_OUT, _CODE_ERR, _CODE_END)


def is_python(argv: Sequence[str], python: Sequence[str]) -> bool:
    """Whether argv is the sandbox's Python with ``-`` or ``-c CODE`` and arguments."""
    n = len(python)
    given = list(argv[n:])
    return list(argv[:n]) == list(python) and (
        given == ["-"] or (len(given) >= 2 and given[0] == "-c")
    )


def _request(argv: Sequence[str], stdin: str, limits: Limits, own: int | None, warm: bool) -> bytes:
    if not argv or any("\0" in part for part in argv):
        raise ValueError("argv must name a program and have no NUL characters")
    fields = [
        "warm" if warm else "cold",
        limits.memory_mb * MIB,
        limits.cpu_s,
        limits.file_mb * MIB,
        OPEN_FILES,
        0 if own is None else limits.processes + own,
        FLOOD * limits.output_bytes,
        *argv,
    ]
    header = "\0".join(map(str, fields)).encode(errors="surrogateescape")
    data = stdin.encode(errors="replace")
    return len(header).to_bytes(4, "big") + len(data).to_bytes(4, "big") + header + data


def _wait(fd: int, event: int, until: float) -> bool:
    poller = select.poll()
    poller.register(fd, event)
    return bool(poller.poll(max(0.0, until - time.monotonic()) * 1000))


def _both(kept: dict[bytes, bytearray]) -> tuple[bytes, bytes]:
    return bytes(kept[_CODE_OUT]), bytes(kept[_CODE_ERR])
