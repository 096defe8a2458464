"""What Ray runs: workers that play episodes, and engines that generate for all of them.

Plain classes; ``agent.distributed.fleet`` makes actors of them. An actor that is lost (killed, out
of memory, its machine gone) is never mended: the fleet starts another in its place.
"""

from __future__ import annotations

import asyncio
import os
import platform
import queue
import random
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from agent.config import Config
from agent.distributed.parcels import Parcel, unpack
from agent.distributed.settings import RolloutSettings
from agent.engines import Engine, words_of
from agent.loop import Assignment, Cancelled
from agent.machine import share_cores
from agent.policies.base import Completion, Policy, Request
from agent.policies.served import Words
from agent.rollout import Desk, play
from agent.worlds import configured_suite
from memory.recall import Recall
from memory.records import Trajectory

NEWS_S = 0.2  # how often an engine looks whether there is something to tell


class Reading:
    """A `Reader`: the words of a policy whose weights are elsewhere."""

    def __init__(self, words: Words, version: str, context: int):
        self.version, self.context = version, context
        self.encode, self.extend, self.count = words.encode, words.extend, words.count


class Question(NamedTuple):
    """What an episode asks memory, which only the driver can read.

    Args:
        ticket: names the question.
        slot, reader: whose question, and which of the assignment's readers answers it:
            ``look_again`` or ``search``.
        text, shown: the reader's arguments.
    """

    ticket: int
    slot: str
    reader: str
    text: str
    shown: frozenset[str]


class Home(NamedTuple):
    """Where an actor is."""

    host: str
    process: int
    node: str


def home() -> Home:
    """Of the actor that calls it."""
    import ray

    return Home(platform.node(), os.getpid(), ray.get_runtime_context().get_node_id())


class Seat(NamedTuple):
    """An engine that episodes can ask: its name, no other's ever, and the actor."""

    name: str
    actor: Any


class Worker:
    """Plays many episodes at a time, each in a thread of its own, as ``agent.rollout`` does.

    Args:
        config: the run's.
        folder: the driver's current folder; entered where it is there too, so that relative
            paths mean the same. "" is none.
        unsafe: whether the sandbox may be ``none``.
    """

    def __init__(self, config: Config, folder: str, unsafe: bool):
        if folder and Path(folder).is_dir():
            os.chdir(folder)
        share_cores()
        self.config, self.unsafe = config, unsafe
        self._questions: queue.SimpleQueue[Question] = queue.SimpleQueue()
        self._answers: dict[int, Future[Recall]] = {}
        self._changed = threading.Condition()
        self._seats: Mapping[str, Any] = {}
        self._edition = 0
        self._lost: set[str] = set()

    def join(self) -> Home:
        """Get ready.

        Raises:
            SuiteError, SandboxUnavailable, ModelError: nothing can be played on this machine.
        """
        self.suite = configured_suite(self.config, unsafe=self.unsafe)
        self.words = words_of(self.config.policy)
        return home()

    def play(
        self, assignment: Assignment, readers: tuple[str, ...], version: str, seat: Seat
    ) -> Trajectory:
        """Run one episode.

        Args:
            assignment: without its readers.
            readers: those of ``look_again`` and ``search`` that it had; the driver is asked.
            version: the weights that act.
            seat: the engine to ask, as long as there is this one.
        """
        asking: dict[str, Any] = {n: partial(self._read, assignment.slot, n) for n in readers}
        seats = [seat]

        def query(request: Request) -> Completion:
            return self._ask(seats, version, request)

        try:
            return play(
                assignment._replace(**asking),
                query,
                Reading(self.words, version, self.config.policy.context),
                self.suite,
                self.config.agent,
                seed=self.config.seed,
                seconds=self.config.suite.seconds,
            )
        except Cancelled as cancelled:  # it is the engine's error that ends the rollout
            raise (cancelled.__cause__ or cancelled) from None

    def _ask(self, seats: list[Seat], version: str, request: Request) -> Completion:
        """Blocks until an engine has answered; if that one is lost, another is asked again."""
        import ray
        from ray.exceptions import RayTaskError

        from agent.distributed.losses import LOST

        while True:
            seat = seats[-1]
            try:
                completion: Completion = ray.get(seat.actor.ask.remote(version, request))
                return completion
            except LOST:
                seats.append(self._instead_of(seat.name))
            except RayTaskError as error:
                raise Cancelled from error.cause

    def _instead_of(self, name: str) -> Seat:
        with self._changed:
            self._lost.add(name)
            self._changed.wait_for(lambda: self._seats.keys() - self._lost)
            found = random.choice(sorted(self._seats.keys() - self._lost))
            return Seat(found, self._seats[found])

    def engines(self, edition: int, seats: Mapping[str, Any]) -> None:
        """These can be asked now, by name; what an earlier edition said counts no more."""
        with self._changed:
            if edition > self._edition:
                self._edition, self._seats = edition, seats
                self._changed.notify_all()

    # --- memory is the driver's ---

    def _read(self, slot: str, reader: str, text: str, shown: frozenset[str]) -> Recall:
        future: Future[Recall] = Future()
        ticket = id(future)
        self._answers[ticket] = future
        self._questions.put(Question(ticket, slot, reader, text, shown))
        return future.result()

    def news(self) -> list[Question]:
        """Blocks until there are questions."""
        found = [self._questions.get()]
        while not self._questions.empty():
            found.append(self._questions.get())
        return found

    def answer(self, ticket: int, answer: Recall | Exception) -> None:
        """What memory holds, or why it could not be read."""
        future = self._answers.pop(ticket)
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    def close(self) -> None:
        """Nothing to end: an environment ends with its episode."""


class EngineActor:
    """Holds the policy, and generates for the episodes of all workers together.

    An asynchronous actor: requests wait on its event loop, and one thread of its own advances
    the policy while there is anything to do, as ``agent.rollout`` does with its caller's.

    Args:
        config: the run's.
        folder: the driver's current folder (see `Worker`).
        threads: the driver's OMP_NUM_THREADS. Ray sets it to the cores that it sets aside.
    """

    def __init__(self, config: Config, folder: str, threads: str | None):
        if folder and Path(folder).is_dir():
            os.chdir(folder)
        share_cores()
        if config.rollouts.engine_cpus is None:
            os.environ.pop("OMP_NUM_THREADS", None)
            os.environ.update({"OMP_NUM_THREADS": threads} if threads else {})
        self._folder = tempfile.TemporaryDirectory(prefix="instar-engine-")
        self._said: list[str] = []
        here = config.model_copy(update={"rollouts": RolloutSettings()})
        self.engine = Engine(here, Path(self._folder.name) / "engine.log", self._say)
        self.policy: Policy | None = None
        self.desk: Desk | None = None
        self._serving: tuple[str, Parcel | None] = ("", None)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._driving = False

    async def join(self) -> Home:
        """Get ready; the weights come later."""
        return home()

    async def serve(self, version: str, parcel: Parcel | None) -> None:
        """From now on act with this version of the weights.

        Args:
            version: its name.
            parcel: its adapter; None for the base weights.

        Raises:
            ModelError, PolicyFailure, AdapterError: it cannot be had; one line.
        """
        self._serving = version, parcel
        await self._run(self._load)

    async def ask(self, version: str, request: Request) -> Completion:
        """Have a request answered by a version, which has to be the one that acts.

        Raises:
            PolicyFailure: the engine cannot answer.
        """
        if version != self._serving[0]:
            raise Cancelled(f"{version} was asked, and {self._serving[0]} acts")
        if self.policy is None or self.policy.version != version:
            await self._run(self._load)
        assert self.policy is not None and self.desk is not None
        answer = asyncio.wrap_future(self.desk.ask(request))
        if not self._driving:
            self._driving = True
            self._driver = asyncio.create_task(self._drive())
        return await answer

    async def _drive(self) -> None:
        """Advance the policy until nothing is left; that is seen where requests come in."""
        while self.policy is not None and self.policy.busy:
            await self._run(self._advance)
        self._driving = False

    def _advance(self) -> None:
        assert self.policy is not None and self.desk is not None
        try:
            while self.policy.busy:
                self.desk.pump()
        except Exception as error:
            self.desk.close(error)  # it is told to all who wait; nobody can ask this policy again
            self._drop()

    def _load(self) -> None:
        version, parcel = self._serving
        if self.policy is not None and self.policy.version == version:
            return
        self._drop()
        adapter = unpack(parcel, Path(self._folder.name)) if parcel is not None else None
        self.policy = self.engine.policy(adapter, version)
        self.desk = Desk(self.policy)

    def _drop(self) -> None:
        if self.desk is not None:
            self.desk.close()
        if self.policy is not None:
            self.policy.close()
        self.desk = self.policy = None

    async def rest(self) -> None:
        """Free the memory that training needs; it serves again when it is asked."""
        await self._run(self._rest)

    def _rest(self) -> None:
        self._drop()
        self.engine.make_room()

    async def news(self) -> list[str]:
        """Waits until there is something that the user should know."""
        while not self._said:
            await asyncio.sleep(NEWS_S)
        said, self._said = self._said, []
        return said

    async def close(self) -> None:
        """End what it started."""
        await self._run(self._close)

    def _close(self) -> None:
        self._drop()
        self.engine.close()
        self._folder.cleanup()

    def _say(self, text: str) -> None:
        self._said.append(text)

    async def _run(self, work: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work)
