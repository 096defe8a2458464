"""The time limit on an environment's calls."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from environments import watch
from environments.base import Action, Environment, EnvironmentFailure, StepResult, Tool
from environments.watch import Watched

GO = Action(text="go", tool="go")


class World:
    """Does what it is told with ``does``, in the call that ``when`` names."""

    tools = (Tool(name="go", description="Go."),)

    def __init__(self, when: str = "", does: Any = None) -> None:
        self.when, self.does = when, does
        self.threads: set[int] = set()
        self.closed = 0
        self._call("make")

    def _call(self, name: str) -> None:
        self.threads.add(threading.get_ident())
        if name == self.when:
            self.does()

    def start(self) -> str:
        self._call("start")
        return "hello"

    def step(self, action: Action) -> StepResult:
        self._call("step")
        return StepResult(observation=action.text, reward=0.5)

    def close(self) -> None:
        self._call("close")
        self.closed += 1


def spin() -> None:
    while True:
        pass


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before, threading.enumerate()


def test_it_is_the_environment() -> None:
    world = World()
    watched = Watched(world)
    assert isinstance(watched, Environment)
    assert watched.start() == "hello" and watched.tools == World.tools
    assert watched.step(GO) == StepResult(observation="go", reward=0.5)
    assert watched.valid_actions == () and watched.state() is None
    watched.close()
    watched.close()
    assert world.closed == 1
    with pytest.raises(EnvironmentFailure, match="closed"):
        watched.step(GO)


def test_all_calls_are_made_in_one_other_thread() -> None:
    made: list[World] = []

    def make() -> World:
        made.append(World())
        return made[0]

    watched = Watched(make)
    assert not made
    watched.start()
    watched.step(GO)
    watched.close()
    assert len(made[0].threads) == 1 and threading.get_ident() not in made[0].threads


def test_what_belongs_to_a_thread_can_be_used() -> None:
    class Base(World):
        def start(self) -> str:
            self.base = sqlite3.connect(":memory:")
            return "hello"

        def step(self, action: Action) -> StepResult:
            return StepResult(observation=str(self.base.execute("select 1").fetchone()))

        def close(self) -> None:
            self.base.close()

    watched = Watched(Base())
    watched.start()
    assert watched.step(GO).observation == "(1,)"
    watched.close()


def test_exceptions_come_through() -> None:
    def fail() -> None:
        raise KeyError("x")

    watched = Watched(World("step", fail))
    watched.start()
    for _ in range(2):
        with pytest.raises(KeyError) as error:
            watched.step(GO)
    assert any(entry.name == "fail" for entry in error.traceback)
    watched.close()
    watched = Watched(lambda: World("make", fail))
    with pytest.raises(KeyError):
        watched.start()
    watched.close()
    Watched(lambda: World("make", fail)).close()  # never made


@pytest.mark.parametrize("waits", [False, True], ids=["spins", "waits"])
@pytest.mark.parametrize("when", ["start", "step", "close", "make"])
def test_a_call_that_takes_too_long(when: str, waits: bool) -> None:
    never = threading.Event()
    does = never.wait if waits else spin
    world = World() if when == "make" else World(when, does)
    watched = Watched((lambda: World("make", does)) if when == "make" else world, seconds=0.2)
    name = "making it" if when == "make" else when
    with pytest.raises(EnvironmentFailure, match=rf"^{name} took longer than 0\.2 s$"):
        watched.start()
        watched.step(GO)
        watched.close()
    never.set()  # lets the abandoned thread go
    assert world.closed == (when in ("start", "step"))  # closed though it hung
    watched.close()
    with pytest.raises(EnvironmentFailure, match="closed"):
        watched.step(GO)


def test_a_thread_that_has_ended_is_left_alone() -> None:
    thread = watch._Thread()
    thread.end()
    assert not thread._thread.is_alive() and not watch._waits(thread._thread)
    thread.abandon()


def test_closing_what_hangs_is_bounded_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "CLOSE_SECONDS", 0.2)

    class Stuck(World):
        def close(self) -> None:
            spin()

    watched = Watched(Stuck("step", spin), seconds=0.2)
    watched.start()
    with pytest.raises(EnvironmentFailure, match="step took longer"):
        watched.step(GO)
    watched.close()


def test_the_environment_names_its_limit() -> None:
    world: Any = World("step", spin)
    world.seconds = 0.1
    assert Watched(world, seconds=3).seconds == 3
    assert Watched(World()).seconds == 60
    watched = Watched(lambda: world)
    watched.start()
    assert watched.seconds == 0.1
    with pytest.raises(EnvironmentFailure, match=r"longer than 0\.1 s"):
        watched.step(GO)
