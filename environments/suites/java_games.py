"""Games that run in Java: a few processes of our own serve any number of episodes.

A game is deterministic, so an episode is its opening and its commands so far. It borrows a
process for each command; a process that no longer holds the episode's game opens it anew and
repeats its commands. So processes and games in memory stay bounded, and an episode outlives the
loss of a process.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import select
import shutil
import subprocess
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from environments.base import EnvironmentFailure, SuiteError

T = TypeVar("T")
_FLAGS = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",  # games are short: quick compilation beats quick code
    "-XX:-UsePerfData",  # no file in the temporary folder
    "-Xshare:auto",
)


def _as_it_is(server: Any) -> Any:
    return server


@dataclass(frozen=True)
class JavaGames:
    """What to start, and its bounds.

    Args:
        suite: the suite's name, for messages.
        jar: file that holds the game.
        interface: Java class whose objects each hold one game.
        processes: most processes at a time.
        games: most games that one process holds.
        heap_mb: Java heap of one process (MiB); the process itself takes about 150 MiB more.
        start_s: seconds a process may take to start.
        call_s: seconds the game may take for one answer.
        flags: more options for Java.
        wrap: makes what a game is handled with out of an interface object.
    """

    suite: str
    jar: Path
    interface: str
    processes: int = 2
    games: int = 16
    heap_mb: int = 512
    start_s: float = 60.0
    call_s: float = 30.0
    flags: tuple[str, ...] = ()
    wrap: Callable[[Any], Any] = _as_it_is


class _Lost(Exception):
    """The process is gone, or no longer answers."""


class _Hung(_Lost):
    """It did not answer in time."""


@dataclass(eq=False)
class Game:
    """One episode's game.

    Args:
        open: opens the game in an interface object that holds nothing, or another game.
        repeat: gives a command that was given before.
        past: the commands given so far; who changes the game appends to it.
    """

    open: Callable[[Any], object]
    repeat: Callable[[Any, str], object]
    past: list[str] = field(default_factory=list)


def require_java(suite: str) -> None:
    """Raise SuiteError where there is no Java."""
    if shutil.which("java") is None:
        raise SuiteError(
            f"the suite {suite} needs Java 17 or newer: apt-get install openjdk-17-jre-headless"
        )


def shared_pool(games: JavaGames) -> JavaPool:
    """The pool of these games; its processes end when nobody refers to it any more."""
    with _POOLS_LOCK:
        pool = _POOLS.get(games)
        if pool is None or pool.closed:
            pool = _POOLS[games] = JavaPool(games)
        return pool


_POOLS: weakref.WeakValueDictionary[JavaGames, JavaPool] = weakref.WeakValueDictionary()
_POOLS_LOCK = threading.Lock()


class JavaPool:
    """The processes of one kind of game, started when needed.

    Safe for threads; a caller waits while all processes are busy. All processes end with
    ``close``, when the pool is collected, when the interpreter exits, and when it is killed
    (Java ends when its standard input does).
    """

    def __init__(self, games: JavaGames) -> None:
        self._spec = games
        self._changed = threading.Condition()
        self._processes: list[_Process] = []
        self._starting = 0
        self._owner = os.getpid()
        self._stop = weakref.finalize(self, _end_all, self._processes, os.getpid())

    @property
    def closed(self) -> bool:
        """The pool starts no process any more, or belongs to a process that forked."""
        return not self._stop.alive or self._owner != os.getpid()

    def pids(self) -> list[int]:
        """Process ids of the running processes."""
        with self._changed:
            return [process.popen.pid for process in self._processes]

    def close(self) -> None:
        """End all processes; safe to call twice."""
        self._stop()

    def call(self, game: Game, work: Callable[[Any], T]) -> T:
        """Let ``work`` use the interface object that holds a game.

        A process that is lost on the way is replaced once, and the game repeated there; ``work``
        then runs again.

        Raises:
            EnvironmentFailure: Java cannot be started or did not answer in time, the game raised
                an exception of its own, or two processes were lost.
        """
        spec = self._spec
        for attempt in (1, 2):
            with self._borrowed(game) as process:
                try:
                    return process.use(game, work)
                except _Hung:
                    # Not tried again: the command may be what it hangs on.
                    raise EnvironmentFailure(
                        f"{spec.suite}: the game did not answer within {spec.call_s:g} s; its "
                        "Java process was ended"
                    ) from None
                except _Lost as error:
                    if attempt == 2:
                        raise EnvironmentFailure(
                            f"{spec.suite}: two Java processes were lost one after the other: "
                            f"{error}"
                        ) from None
        raise AssertionError

    def forget(self, game: Game) -> None:
        """Give up what is kept for a game."""
        with self._changed:
            for process in self._processes:
                process.forget(game)

    @contextlib.contextmanager
    def _borrowed(self, game: Game) -> Iterator[_Process]:
        process = self._take(game)
        try:
            yield process
        except BaseException as error:
            if not isinstance(error, EnvironmentFailure):
                process.end()  # cut off in the middle of an answer
            raise
        finally:
            with self._changed:
                process.busy = False
                if process.ended and process in self._processes:
                    self._processes.remove(process)
                self._changed.notify_all()

    def _take(self, game: Game) -> _Process:
        with self._changed:
            while True:
                if self.closed:
                    raise EnvironmentFailure(f"{self._spec.suite}: the Java processes are closed")
                home = next((p for p in self._processes if p.holds(game)), None)
                free = [p for p in self._processes if not p.busy]
                if home is None and free:
                    home = min(free, key=lambda p: p.held)
                if home is not None and not home.busy:
                    home.busy = True
                    return home
                if home is None and len(self._processes) + self._starting < self._spec.processes:
                    self._starting += 1
                    break
                self._changed.wait()
        process = None
        try:
            process = _Process(self._spec)
        finally:
            with self._changed:
                self._starting -= 1
                if process is not None and not self.closed:
                    process.busy = True
                    self._processes.append(process)
                self._changed.notify_all()
        if self.closed:
            process.end()
            raise EnvironmentFailure(f"{self._spec.suite}: the Java processes are closed")
        return process


class _Process:
    """One Java process; used by one thread at a time."""

    def __init__(self, spec: JavaGames) -> None:
        self._spec = spec
        self.busy = False
        self.ended = False
        self._slots: OrderedDict[Game | int, Any] = OrderedDict()  # the longest unused is first
        self._guard = threading.Lock()
        self._disconnect: Callable[[], object] = lambda: None
        try:
            from py4j.java_gateway import find_jar_path  # type: ignore[import-untyped]
        except ImportError as error:
            raise SuiteError(f"{spec.suite} needs py4j ({error}): pip install py4j") from error
        classpath = os.pathsep.join((find_jar_path(), str(spec.jar)))
        # Standard input is how Java learns that this process is gone, however it went. A signal
        # at the parent's death (PR_SET_PDEATHSIG) would come when the starting thread ends.
        command = ["java", f"-Xmx{spec.heap_mb}m", *_FLAGS, *spec.flags, "-cp", classpath,
                   "py4j.GatewayServer", "--die-on-broken-pipe", "--enable-auth", "0"]  # fmt: skip
        try:
            self.popen = subprocess.Popen(
                command,
                cwd=spec.jar.parent,  # the games read files beside their jar
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for us, who may still finish episodes
            )
        except OSError as error:
            raise EnvironmentFailure(f"{spec.suite}: Java cannot be started: {error}") from None
        try:
            gateway = _connect(*self._greeting(), spec.call_s)
            self._disconnect = gateway.close
            self._make = functools.reduce(getattr, spec.interface.split("."), gateway.jvm)
        except BaseException as error:
            self.end()
            if isinstance(error, Exception) and not isinstance(error, EnvironmentFailure):
                raise EnvironmentFailure(
                    f"{spec.suite}: Java started, but {type(error).__name__}: {error}"
                ) from None
            raise

    def _greeting(self) -> tuple[int, str]:
        """Port and token, which the server prints; then nobody listens to its output."""
        assert self.popen.stdout is not None
        out = self.popen.stdout.fileno()
        deadline, text = time.monotonic() + self._spec.start_s, b""
        while True:
            wait = deadline - time.monotonic()
            if wait <= 0 or not select.select([out], [], [], wait)[0]:
                raise EnvironmentFailure(
                    f"{self._spec.suite}: Java did not start within {self._spec.start_s:g} s"
                )
            text += (chunk := os.read(out, 4096))
            lines = text.decode(errors="replace").split("\n")
            numbers = [i for i, line in enumerate(lines[:-1]) if line.strip().isdigit()]
            if numbers and len(lines) > numbers[0] + 2:
                self.popen.stdout.close()
                return int(lines[numbers[0]]), lines[numbers[0] + 1].strip()
            if not chunk:
                raise EnvironmentFailure(
                    f"{self._spec.suite}: Java did not start: {' '.join(lines)[-300:].strip()}"
                )

    @property
    def held(self) -> int:
        """Number of games it holds."""
        with self._guard:
            return sum(isinstance(key, Game) for key in self._slots)

    def holds(self, game: Game) -> bool:
        return game in self._slots

    def forget(self, game: Game) -> None:
        """Keep the interface object for another game."""
        with self._guard:
            server = self._slots.pop(game, None)
            if server is not None:
                self._slots[id(server)] = server
                self._slots.move_to_end(id(server), last=False)

    def use(self, game: Game, work: Callable[[Any], T]) -> T:
        """Run ``work`` with the game in the state that its past left it in."""
        from py4j.protocol import (  # type: ignore[import-untyped]
            Py4JError,
            Py4JNetworkError,
        )

        try:
            with self._guard:
                server = self._slots.pop(game, None)
                spare = self._spare() if server is None else None
            if server is None:
                server = spare if spare is not None else self._spec.wrap(self._make())
                game.open(server)
                for command in game.past:
                    game.repeat(server, command)
            result = work(server)
            with self._guard:
                self._slots[game] = server
            return result
        except Py4JNetworkError as error:
            self.end()
            if isinstance(error.cause, TimeoutError):
                raise _Hung from None
            raise _Lost(str(error.cause or error)) from None
        except Py4JError as error:
            # The game's own exception: its object is not to be used again.
            told = " ".join(str(error).split())
            raise EnvironmentFailure(f"{self._spec.suite}: the game broke: {told[:300]}") from None

    def _spare(self) -> Any:
        """An interface object nobody needs, or that of the game longest unused, if full."""
        first = next(iter(self._slots), None)
        if first is None:
            return None
        if isinstance(first, Game) and len(self._slots) < self._spec.games:
            return None
        return self._slots.pop(first)

    def end(self) -> None:
        """Kill the process and wait until it is gone."""
        self.ended = True
        with self._guard:
            self._slots.clear()
        self.popen.kill()
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self.popen.wait()
        with contextlib.suppress(Exception):
            self._disconnect()


def texts(items: Any) -> list[str]:
    """A Java list of texts as a Python one; the Java list is released."""
    found = [str(items.get(i)) for i in range(items.size())]
    items._gateway_client.garbage_collect_object(items._get_object_id())
    return found


def _connect(port: int, token: str, timeout_s: float) -> Any:
    """A py4j gateway over one connection.

    py4j's own client hides what we have to know: it reports a lost or silent process as an error
    of the game, logs it to the root logger, and sends a command a second time where the answer
    was empty.
    """
    from py4j.java_gateway import GatewayClient, GatewayConnection, GatewayParameters, JavaGateway

    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # its errors reach us as exceptions
    parameters = GatewayParameters(
        port=port, auth_token=token, read_timeout=timeout_s, enable_memory_management=False
    )

    class OneConnection(GatewayClient):  # type: ignore[misc]
        connection: Any = None

        def send_command(self, command: str, retry: bool = True, binary: bool = False) -> Any:
            if self.connection is None:
                self.connection = GatewayConnection(parameters, self.gateway_property)
                self.connection.start()
            return self.connection.send_command(command)

        def close(self) -> None:
            if self.connection is not None:
                self.connection.close(reset=True)

    gateway = JavaGateway(gateway_parameters=parameters)
    gateway.set_gateway_client(OneConnection(gateway_parameters=parameters))
    return gateway


def _end_all(processes: list[_Process], owner: int) -> None:
    if os.getpid() != owner:
        return  # a fork's copy: the processes are its parent's
    for process in list(processes):
        process.end()
    processes.clear()
