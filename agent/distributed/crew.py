"""The members of a fleet: Ray actors, each in its place, replaced when it is lost.

The driver waits on one pending call of every actor (``news``): it brings what the actor has to
say, and breaks when the actor is lost, which is how the driver knows at once.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from agent.config import Config
from agent.distributed import guard
from agent.distributed.actors import EngineActor, Home, Question, Worker
from agent.distributed.parcels import Parcel
from agent.run_folder import RunError

MARKS = 16  # variables that name the run in the environment of its Ray's processes
STORE_BYTES = 256 * 2**20  # of objects, in a Ray of our own; only adapters are large
SPARE_CALLS = 4  # of a member, beside its episodes or their requests
LOOK_S = 2.0  # how long nothing may happen before the driver looks around
CLOSE_S = 15.0  # longest goodbye of an actor
KNOCK_S = 10.0  # longest wait for a cluster to take a connection

ENVIRONMENT = {  # of Ray, where it says nothing else; read when it is imported
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # GPUs are hidden from who asked for none
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what it would print to standard output; we say who is lost
}

Role = Literal["worker", "engine"]


@dataclass(eq=False)
class Member:
    """A place in the fleet, whoever holds it now.

    Args:
        role, number: which place.
        actor: who holds it.
        name: of that actor; no other's ever.
        home: where that actor is, once it is placed.
        state: ``placing`` until Ray has started it, ``loading`` while an engine gets its
            weights, then ``ready``.
        step: the pending call after which the state changes.
        news: the pending call that brings its news and breaks when it is lost.
        since: when it was asked for.
        load: episodes that it has.
        lost: how often in a row this place's actor was lost.
    """

    role: Role
    number: int
    actor: Any = None
    name: str = ""
    home: Home | None = None
    state: Literal["placing", "loading", "ready"] = "placing"
    step: Any = None
    news: Any = None
    since: float = 0.0
    load: int = 0
    lost: int = 0

    def __str__(self) -> str:
        where = f" ({self.home.host}, process {self.home.process})" if self.home else ""
        return f"{self.role} {self.number}{where}"


class Crew:
    """Starts the members, tells the workers of the engines, and replaces who is lost.

    Args:
        config: the run's.
        say: told what the user should know, as an engine that was replaced.
        unsafe: whether the sandbox may be ``none``.
    """

    def __init__(self, config: Config, say: Callable[[str], None], *, unsafe: bool):
        self.config, self.settings = config, config.rollouts
        self.say, self.unsafe = say, unsafe
        self.members: list[Member] = []
        self._guarded = contextlib.ExitStack()
        self._ours = False  # whether the connection to Ray is to be closed with the crew
        self._session: Path | None = None  # folder of a Ray of our own
        self._serving: tuple[str, Parcel | None] | None = None
        self._names, self._editions = count(), count(1)

    @property
    def under_way(self) -> int:
        """Episodes at a time that keep all engines full, as of ``agent.run``."""
        return self.settings.engines * self.config.policy.slots * 3 // 2

    @property
    def most(self) -> int:
        """Episodes at a time of a worker."""
        return self.settings.episodes or math.ceil(self.under_way / self.settings.workers)

    def ready(self, role: Role) -> list[Member]:
        """Those who can be asked now."""
        return [m for m in self.members if m.role == role and m.state == "ready"]

    def start(self) -> None:
        """Connect to Ray and start all members, unless that was done."""
        if self.members:
            return
        self._connect()
        engines = [Member("engine", number) for number in range(self.settings.engines)]
        workers = [Member("worker", number) for number in range(self.settings.workers)]
        self.members = engines + workers
        for member in self.members:
            self._place(member)
        while any(member.state == "placing" for member in self.members):
            self.attend()
            self._check_places(every=True)

    def serve(self, version: str, parcel: Parcel | None) -> None:
        """Have all engines act with these weights; those that come later as well."""
        self._serving = version, parcel
        for member in self.members:
            self._load(member)
        self.until(lambda: bool(self.ready("engine")) and not self._loading())

    def attend(
        self, calls: Sequence[Any] = (), timeout: float = LOOK_S
    ) -> tuple[list[Any], list[tuple[Member, Question]]]:
        """Wait for calls and for members, and see to the members.

        Returns:
            the calls that are done, and what workers ask.

        Raises:
            RunError: a member was lost over and over, or there is no place for any.
        """
        import ray

        watched = {ref: m for m in self.members for ref in (m.step, m.news) if ref is not None}
        every = [*calls, *watched]
        done, _ = ray.wait(every, num_returns=1, timeout=timeout)
        if done:
            done, _ = ray.wait(every, num_returns=len(every), timeout=0)
        questions: list[tuple[Member, Question]] = []
        for ref in done:
            member = watched.get(ref)
            if member is not None and ref in (member.step, member.news):
                questions += [(member, question) for question in self._heard(member, ref)]
        self._check_places()
        return [ref for ref in done if ref not in watched], questions

    def until(self, met: Callable[[], bool]) -> None:
        """Attend until a condition is met."""
        while not met():
            self.attend()

    def replace(self, member: Member, error: Exception) -> None:
        """Start another in the place of one that was lost.

        Raises:
            RunError: that was done too often in a row.
        """
        import ray

        member.lost += 1
        why = _cause(error)
        if member.lost > self.settings.restarts:
            raise RunError(
                f"{member} was lost {member.lost} times in a row before an episode had ended "
                f"({why}); mend that, or raise rollouts.restarts, and run the same command again"
            )
        with contextlib.suppress(Exception):
            ray.kill(member.actor)  # out of reach is not dead
        self.say(f"{member} was lost: {why}; another takes its place")
        self._place(member)

    def dismiss(self) -> None:
        """End all members; the next start makes others."""
        import ray

        members, self.members = self.members, []
        with contextlib.suppress(Exception):
            parting = [m.actor.close.remote() for m in members if m.state == "ready"]
            if parting:
                ray.wait(parting, num_returns=len(parting), timeout=CLOSE_S)
        for member in members:
            with contextlib.suppress(Exception):
                ray.kill(member.actor)

    def close(self) -> None:
        """End all that was started; safe to call twice."""
        if not self.members and not self._ours:
            return
        import ray

        try:
            self.dismiss()
        finally:
            if self._ours:
                self._ours = False
                ray.shutdown()
            self._guarded.close()
            if self._session is not None:
                _forget(self._session)
                self._session = None

    def _connect(self) -> None:
        import ray

        settings = self.settings
        if ray.is_initialized():  # by whoever uses this package, or before an earlier dismissal
            return
        how: dict[str, Any] = {"address": settings.address}
        if settings.address is None:
            cores = settings.workers * settings.worker_cpus
            cores += settings.engines * self._engine_cpus
            how = {
                "address": "local",
                "num_cpus": max(os.cpu_count() or 1, math.ceil(cores)),
                "include_dashboard": False,
                "object_store_memory": STORE_BYTES,
            }
        try:
            _knock(settings.address or "")
            with self._guard() if settings.address is None else contextlib.nullcontext():
                begun = ray.init(
                    **how,
                    runtime_env=dict(settings.runtime_env) or None,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        except Exception as error:
            self._guarded.close()
            where = "on this machine" if settings.address is None else f"at {settings.address}"
            raise RunError(f"rollouts.address: no Ray {where}: {_lines(error)[0]}") from error
        self._ours = True
        if settings.address is None:
            self._session = Path(begun.address_info["session_dir"])

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """What is started meanwhile ends with the crew, or with this process (see `guard`)."""
        mark = uuid.uuid4().hex
        # Ray's agents write their title over a third of their environment, whose order is Ray's.
        marks = {f"INSTAR_RAY_{number}": mark for number in range(MARKS)}
        program = [sys.executable, "-I", "-S", guard.__file__, mark]
        quiet = subprocess.DEVNULL
        watch = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True
        )
        self._guarded.enter_context(watch)  # closes the pipe, and waits
        os.environ.update(marks)
        try:
            yield
        finally:
            for name in marks:
                del os.environ[name]

    def _place(self, member: Member) -> None:
        """Ask Ray for an actor in a member's place."""
        import ray

        here = "" if "working_dir" in self.settings.runtime_env else str(Path.cwd())
        member.name, member.home = f"{member.role} {member.number}.{next(self._names)}", None
        member.state, member.since, member.load = "placing", time.monotonic(), 0
        arguments: tuple[Any, ...] = (self.config, here)
        if member.role == "engine":
            calls, cpus, gpus = 2 * self.under_way, self._engine_cpus, self._gpus()
            actor = ray.remote(EngineActor)
            arguments = (*arguments, os.environ.get("OMP_NUM_THREADS"))
        else:
            calls, cpus, gpus = self.most, self.settings.worker_cpus, 0.0
            actor, arguments = ray.remote(Worker), (*arguments, self.unsafe)
        member.actor = actor.options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_concurrency=calls + SPARE_CALLS,
            max_restarts=0,
            scheduling_strategy="SPREAD",
        ).remote(*arguments)
        member.step, member.news = member.actor.join.remote(), member.actor.news.remote()
        if member.role == "engine":
            self._tell_workers()

    def _load(self, member: Member) -> None:
        """Have an engine get the weights that are served; one that is not there yet will."""
        if member.role == "engine" and member.state != "placing" and self._serving is not None:
            member.state = "loading"
            member.step = member.actor.serve.remote(*self._serving)

    def _loading(self) -> bool:
        return any(m.role == "engine" and m.state == "loading" for m in self.members)

    def _heard(self, member: Member, ref: Any) -> list[Question]:
        """A member's pending call is done; returns what it asks, if that is what it does."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        from agent.distributed.losses import LOST

        try:
            told = ray.get(ref)
        except LOST as error:
            self.replace(member, error)
            return []
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:  # there is no use in another, as with a bad runtime_env
            first, *more = _lines(error)
            told = " … ".join([first, *more[-1:]])
            raise RunError(f"Ray cannot run {member} (see rollouts): {told}") from error
        if ref == member.news:
            member.news = member.actor.news.remote()
            for text in (one for one in told if isinstance(one, str)):
                self.say(f"{member}: {text}")
            return [one for one in told if isinstance(one, Question)]
        member.step = None
        if member.state == "placing":
            member.home = told
        if member.role == "engine" and member.state == "placing":
            member.state = "loading"
            self._load(member)
        else:
            member.state = "ready"
            self._tell_workers()
        return []

    def _tell_workers(self) -> None:
        """All workers learn which engines there are."""
        seats = {engine.name: engine.actor for engine in self.ready("engine")}
        edition = next(self._editions)
        for worker in self.ready("worker"):
            worker.actor.engines.remote(edition, seats)

    def _check_places(self, every: bool = False) -> None:
        """Has a role none, or not every one, for too long?"""
        for role in ("engine", "worker"):
            own = [m for m in self.members if m.role == role]
            missing = [m for m in own if m.state == "placing"]
            if not missing or (len(missing) < len(own) and not every):
                continue
            if time.monotonic() - min(m.since for m in missing) > self.settings.wait_s:
                raise RunError(self._no_place())

    def _no_place(self) -> str:
        import ray

        has, wants = ray.cluster_resources(), self.settings
        return (
            f"no place in the Ray cluster in {wants.wait_s:g} s (rollouts.wait_s): "
            f"{wants.engines} engines of {self._engine_cpus:g} CPUs and {self._gpus():g} GPUs and "
            f"{wants.workers} workers of {wants.worker_cpus:g} CPUs are asked for, and it has "
            f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs; ask for less, or add "
            "machines"
        )

    @property
    def _engine_cpus(self) -> float:
        return 1.0 if self.settings.engine_cpus is None else self.settings.engine_cpus

    def _gpus(self) -> float:
        """GPUs of an engine."""
        import ray

        if self.settings.engine_gpus is not None:
            return self.settings.engine_gpus
        policy = self.config.policy
        can = policy.engine in ("transformers", "vllm", "vllm-offline") and policy.device != "cpu"
        return 1.0 if can and ray.cluster_resources().get("GPU") else 0.0


def _knock(address: str) -> None:
    """See whether anyone listens at an address; Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    parts = urlsplit(address if "//" in address else f"//{address}")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), timeout=KNOCK_S).close()


def _forget(session: Path) -> None:
    """Remove what a Ray of our own has left once its processes are gone: logs and sockets."""
    latest = session.with_name("session_latest")
    with contextlib.suppress(OSError):
        if latest.readlink() == session:  # Ray never replaces one that leads nowhere
            latest.unlink()
    shutil.rmtree(session, ignore_errors=True)


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]


def _cause(error: BaseException) -> str:
    """What Ray says at the end of its report on a lost actor, without its advice.

    Of what it killed to free memory it says that at the beginning, and advice at the end.
    """
    from ray.exceptions import RayActorError

    lines = _lines(error)
    line = lines[-1] if isinstance(error, RayActorError) else lines[0]
    said = line.rpartition("Worker exit detail: ")[2]
    return said.partition(" Some common causes")[0].rstrip(".")[:300]
