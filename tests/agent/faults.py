"""Real worlds that lose what they stand on during an episode, once; and who plays them."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from environments.base import Action, Environment, StepResult, Task, Tool
from environments.kinds.python import PythonAnswer
from environments.sandbox.base import Sandbox
from environments.sandbox.docker import LABEL, connect
from environments.suites.java_games import shared_pool
from environments.suites.miniwob import MiniWob
from environments.suites.textworld_express import TextWorldExpress
from tests.toy import ToySuite

MARK = "INSTAR_TEST_FAULTS"  # an environment variable that everything started here inherits
CALL_S = 5.0  # for Java, whose answers take milliseconds
PLANS: dict[str, list[str]] = {}  # by prompt: what to write, turn by turn


def script(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Follows the plan; on a page it presses the button that the task names."""
    for known, plan in PLANS.items():
        if known in prompt:
            return plan[prompt.rpartition(known)[2].count("<assistant>") - 1]
    page = prompt.rpartition("<user>")[2]
    name = re.escape(page.split('"')[1])
    found = re.search(rf'\[(\d+)\] button "{name}"', page)
    return f"click(ref={found[1]})" if found else "nothing"


def running() -> Counter[str]:
    """What runs of this test's: programs by name, containers, files in the temporary folder."""
    here, mark = os.fsencode(tempfile.gettempdir()), os.environ[MARK].encode()
    found: Counter[str] = Counter()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(folder.name) == os.getpid() or b"Z" in (folder / "stat").read_bytes()[:40]:
                continue
            of_ours = mark in (folder / "environ").read_bytes()  # some write over theirs
            if of_ours or here in (folder / "cmdline").read_bytes():
                found[(folder / "comm").read_text().strip()] += 1
    client = connect()
    owned = [c["Labels"][LABEL] for c in client.api.containers(all=True, filters={"label": LABEL})]
    client.close()
    found["containers"] = sum(f" {os.getpid()} " in label for label in owned)
    found["files"] = len(os.listdir(here))
    return found


class Once:
    """Something bad that happens to the first who comes; what ran then is kept."""

    def __init__(self, strike: Callable[[], None]) -> None:
        self.strike, self.lock = strike, threading.Lock()
        self.seen: Counter[str] | None = None

    def __call__(self) -> bool:
        with self.lock:
            if self.seen is not None:
                return False
            self.seen = running()
            self.strike()
            return True


class Struck:
    """An environment whose first step meets the fault."""

    def __init__(self, world: Any, fault: Once) -> None:
        self.world, self.fault = world, fault
        self.seconds = 60.0

    @property
    def tools(self) -> Sequence[Tool]:
        return self.world.tools  # type: ignore[no-any-return]

    @property
    def valid_actions(self) -> Sequence[str]:
        return self.world.valid_actions  # type: ignore[no-any-return]

    def start(self) -> str:
        return str(self.world.start())

    def step(self, action: Action) -> StepResult:
        self.fault()
        return self.world.step(action)  # type: ignore[no-any-return]

    def close(self) -> None:
        self.world.close()


class Coins(TextWorldExpress):
    """One Java process for all games; it is stopped."""

    def __init__(self) -> None:
        super().__init__(["coin"], 6, {"coin": ["numLocations=2,includeDoors=0"]}, processes=1)
        self._pool = shared_pool(replace(self._pool._spec, call_s=CALL_S))
        self.fault = Once(lambda: os.kill(self._pool.pids()[0], signal.SIGSTOP))

    def environment(self, task: Task) -> Environment:
        return Struck(super().environment(task), self.fault)

    def close(self) -> None:
        self._pool.close()


class Buttons(MiniWob):
    """Two pages at a time in one browser; it is killed."""

    def __init__(self) -> None:
        super().__init__(["click-button"], per_page=6, open_pages=2, timeout_s=10.0)
        self.fault = Once(kill_chromium)

    def environment(self, task: Task) -> Environment:
        return Struck(super().environment(task), self.fault)


def kill_chromium() -> None:
    """The browser's first process, which has no type."""
    here = os.fsencode(tempfile.gettempdir())
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes()
            if here in line and b"/chromium" in line.split(b"\0")[0] and b"--type=" not in line:
                os.kill(int(folder.name), signal.SIGKILL)


class Boxes(ToySuite):
    """A container for each episode; one is killed while its program runs.

    Each program says that it has begun and waits until it may go on.
    """

    def __init__(self, sandbox: Callable[[], Sandbox]) -> None:
        super().__init__(sandbox, per_family=2)
        self.fault = Once(lambda: None)

    def environment(self, task: Task) -> Environment:
        world = super().environment(task)
        assert isinstance(world, PythonAnswer)
        return Boxed(world, self.fault)

    def close(self) -> None:
        """Nothing is shared."""


class Boxed(Struck):
    def step(self, action: Action) -> StepResult:
        box = self.world._sandbox = self.world._make_sandbox()
        if not self.fault():
            box.write("go", b"")
            return super().step(action)
        killer = threading.Thread(target=self.kill, args=(box,))
        killer.start()
        try:
            return super().step(action)
        finally:
            killer.join()

    def kill(self, box: Any) -> None:
        end = time.monotonic() + 50
        while "begun" not in box.list() and time.monotonic() < end:
            time.sleep(0.02)
        client = connect()
        client.api.kill(box._box._id)
        client.close()
