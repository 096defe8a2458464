"""A Chroma server of our own, for several processes that share an index."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from memory.index.base import VectorIndexError
from memory.index.chroma import COLLECTION

START_S = 120.0
_STOP_S = 15.0
_CLI = "import sys, chromadb_rust_bindings; chromadb_rust_bindings.cli(['chroma', *sys.argv[1:]])"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class ChromaServer:
    """``chroma run`` on the loopback, stopped with `close` or when this process dies.

    Chroma's server asks nobody who they are: every user of this machine can reach it.

    Args:
        folder: Chroma's folder; nobody else may have it open.
        log: file that it writes to, emptied first.
        lock: descriptor of a lock to hold as long as any of the server's processes lives.

    Raises:
        VectorIndexError: it does not start.
    """

    def __init__(self, folder: Path, log: Path, lock: int | None = None) -> None:
        self.log = log
        deadline = time.monotonic() + START_S
        while True:
            self.port = _free_port()
            self._process = _start(folder, self.port, log, lock)
            try:
                while self._process.poll() is None and not self._ready():
                    if time.monotonic() > deadline:
                        raise VectorIndexError(
                            f"{folder}: the Chroma server did not answer within {START_S:.0f} s; "
                            f"its log ends: {_tail(log)}"
                        )
                    time.sleep(0.05)
            except BaseException:
                self.close()
                raise
            if self._process.poll() is None:
                return
            taken = "not available" in _tail(log)  # somebody was quicker to take the port
            if not taken or time.monotonic() > deadline:
                raise VectorIndexError(f"{folder}: {self.died()}")

    @property
    def address(self) -> str:
        """Of its collection (see `join_index`)."""
        return f"http://127.0.0.1:{self.port}/{COLLECTION}"

    @property
    def pid(self) -> int:
        """Its process group."""
        return self._process.pid

    def died(self) -> str:
        """How it ended, in one line; "" while it lives."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.2)  # a client may notice before the system has told us
        code = self._process.returncode
        if code is None:
            return ""
        how = f"signal {abs(code) % 128}" if code < 0 or code > 128 else f"status {code}"
        return f"the Chroma server died ({how}); its log ends: {_tail(self.log)}"

    def close(self) -> None:
        """Stop it; safe to call twice."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _ready(self) -> bool:
        # Its own word first: another program may answer on a port that was taken meanwhile.
        if "listening on address" not in _ANSI.sub("", self.log.read_text(errors="replace")):
            return False
        url = f"http://127.0.0.1:{self.port}/api/v2/heartbeat"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _start(folder: Path, port: int, log: Path, lock: int | None) -> subprocess.Popen[bytes]:
    chroma = [sys.executable, "-c", _CLI, "run", "--path", str(folder.absolute())]
    keeper = [sys.executable, "-I", str(Path(__file__).with_name("serve.py"))]
    with log.open("wb") as out:
        return subprocess.Popen(
            [*keeper, *chroma, "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(log: Path, lines: int = 3) -> str:
    """The last lines of a log, on one."""
    try:
        text = _ANSI.sub("", log.read_text(errors="replace"))
    except OSError as error:
        return f"(no log: {error.strerror})"
    return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:])[-500:]
