"""A time limit on every call of an environment, so that one that hangs cannot hold a run."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, cast

from environments.base import (
    Action,
    Environment,
    EnvironmentFailure,
    StepResult,
    Suite,
    Task,
    Tool,
)

SECONDS = 60.0  # longest call, where the environment names no limit
CLOSE_SECONDS = 5.0  # how long a broken environment is given to close


class _TooLong(Exception):
    """A call has no result yet."""


class _Abandoned(BaseException):
    """Raised in a thread whose result nobody waits for any more."""


class _Call(NamedTuple):
    ask: Callable[[], Any]
    result: SimpleQueue[tuple[Any, BaseException | None]]


class _Thread:
    """Makes calls one after the other, all in the same thread."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread = threading.Thread(
            target=_work, args=(self._calls,), name="environment", daemon=True
        )
        self._thread.start()

    def call(self, ask: Callable[[], Any], seconds: float) -> Any:
        """The result of a call, or its exception; ``_TooLong`` if it is not there in time."""
        call = _Call(ask, SimpleQueue())
        self._calls.put(call)
        try:
            result, error = call.result.get(timeout=seconds)
        except Empty:
            raise _TooLong from None
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        """Let the thread end when its calls are made."""
        self._calls.put(None)
        self._thread.join(CLOSE_SECONDS)

    def abandon(self) -> None:
        """Stop it at its next line of Python; a call into C goes on until it returns.

        Under a tracer (coverage, a debugger) one that waits in C is left to end by itself: until
        the exception arrives there, Python 3.11 holds every traced thread where it next enters
        a function.
        """
        traced = sys.gettrace() is not None or threading.gettrace() is not None
        # The number of a thread that has ended may be another's.
        if self._thread.is_alive() and not (traced and _waits(self._thread)):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(_Abandoned)
            )
        self._calls.put(None)
        self._thread.join(0.05)


def _waits(thread: threading.Thread) -> bool:
    """Whether a thread computes nothing at all for a second; one that has ended does not wait."""
    assert thread.native_id is not None
    # The clock by the system's own number (Linux's MAKE_THREAD_CPUCLOCK): pthread_getcpuclockid
    # reads the memory of a thread that has ended.
    clock, computed = (~thread.native_id << 3) | 6, -1.0
    for _ in range(50):
        try:
            before, computed = computed, time.clock_gettime(clock)
        except OSError:
            return False
        if computed > before >= 0:
            return False
        time.sleep(0.02)
    return True


def _work(calls: SimpleQueue[_Call | None]) -> None:
    try:
        while (call := calls.get()) is not None:
            try:
                call.result.put((call.ask(), None))
            except _Abandoned:
                return
            except Exception as error:  # raised again where the call was made
                call.result.put((None, error))
            except BaseException as error:  # sys.exit in a library ends its world, not the run
                told = f"it raised {type(error).__name__}: {error}"
                call.result.put((None, EnvironmentFailure(told)))
            del call  # a thread that waits keeps nothing alive
    except _Abandoned:
        return


@contextlib.contextmanager
def started(suite: Suite, task: Task, seconds: float | None) -> Iterator[Watched]:
    """A task's environment, watched and begun; it is closed at the end of the block.

    Args:
        suite: makes it.
        task: for which one.
        seconds: longest call (see `Watched`).
    """
    world = Watched(lambda: suite.environment(task), seconds)
    try:
        world.start()
        yield world
    finally:
        world.close()


class Watched:
    """An environment whose calls run in a thread of its own, each within a time limit.

    All calls are made in that one thread, so an environment may hold what belongs to a thread (an
    SQLite connection, a browser). A call that takes too long raises ``EnvironmentFailure``; the
    environment is then closed, within ``CLOSE_SECONDS``, and its thread abandoned.

    Args:
        environment: the environment; or a function that makes it, in the thread as well.
        seconds: longest call; default: the environment's own ``seconds``, or ``SECONDS``.
    """

    def __init__(
        self, environment: Environment | Callable[[], Environment], seconds: float | None = None
    ) -> None:
        self._make: Callable[[], Environment] | None = None
        self._world: Environment | None = None
        if isinstance(environment, Environment):
            self._world = environment
        else:
            self._make = environment
        self._seconds = seconds
        self._thread: _Thread | None = None
        self._closed = False

    @property
    def seconds(self) -> float:
        """Longest call."""
        own = getattr(self._world, "seconds", SECONDS)
        return float(own if self._seconds is None else self._seconds)

    @property
    def tools(self) -> Sequence[Tool]:
        """The environment's tools."""
        return cast(Sequence[Tool], self._ask("tools", lambda world: world.tools))

    @property
    def valid_actions(self) -> Sequence[str]:
        """All that can be done now; nothing where the environment does not say."""
        valid = self._ask("valid_actions", lambda world: getattr(world, "valid_actions", ()))
        return cast(Sequence[str], valid)

    def start(self) -> str:
        """Begin the episode."""
        return cast(str, self._ask("start", lambda world: world.start()))

    def step(self, action: Action) -> StepResult:
        """Carry out one action."""
        return cast(StepResult, self._ask("step", lambda world: world.step(action)))

    def state(self) -> Any:
        """The environment's ``state()``; None where it has none."""
        return self._ask("state", lambda world: getattr(world, "state", _nothing)())

    def close(self) -> None:
        """Close the environment and end its thread; safe to call twice."""
        if self._closed:
            return
        try:
            if self._world is not None:
                self._call("close", self._world.close)
        finally:
            self._closed, self._world, self._make = True, None, None
            if self._thread is not None:
                self._thread.end()
                self._thread = None

    def _ask(self, what: str, ask: Callable[[Environment], Any]) -> Any:
        if self._world is None and self._make is not None:
            self._world = self._call("making it", self._make)
        world = self._world
        if world is None:
            raise EnvironmentFailure(f"{what}: the environment is closed")
        return self._call(what, lambda: ask(world))

    def _call(self, what: str, ask: Callable[[], Any]) -> Any:
        limit = self.seconds
        self._thread = self._thread or _Thread()
        try:
            return self._thread.call(ask, limit)
        except _TooLong:
            self._give_up(close=what != "close")
            raise EnvironmentFailure(f"{what} took longer than {limit:g} s") from None

    def _give_up(self, close: bool) -> None:
        world, thread = self._world, self._thread
        self._closed, self._world, self._make, self._thread = True, None, None, None
        if thread is not None:
            thread.abandon()
        if close and world is not None:
            closer = _Thread()
            try:
                closer.call(world.close, CLOSE_SECONDS)
                closer.end()
            except _TooLong:
                closer.abandon()
            except Exception:  # it is broken already, and that is being told
                closer.end()


def _nothing() -> None:
    return None
