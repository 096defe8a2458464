"""The fleet of a run: its episodes are played, and its policy lives, in other processes.

The driver, which is the process of the run, alone reads and writes the run folder. It hands
episodes to workers, each with the engine that it should ask, and takes the trajectories as they
end. Workers do what ``agent.rollout`` does; an engine generates for all of them together.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from agent.config import Config, ConfigError
from agent.distributed.actors import Question, Seat
from agent.distributed.crew import ENVIRONMENT, Crew, Member
from agent.distributed.parcels import pack
from agent.engines import words_of
from agent.loop import Assignment, Cancelled
from agent.policies.base import Completion, Policy, Request
from agent.policies.endpoint import NoAnswer
from agent.policies.served import ServedPolicy, Words
from environments.base import Task
from memory.index import VectorIndexError
from memory.ledger import LedgerError
from memory.recall import Recall
from memory.records import Trajectory

TOGETHER = 8  # samples of one task that share an engine, since their prompt is computed once
READERS = ("look_again", "search")  # of an assignment: they read memory, which the driver has


class Playing(NamedTuple):
    """An episode that was handed out: to whom, and the names that they had then."""

    assignment: Assignment
    worker: Member
    engine: Member
    names: tuple[str, str]


@dataclass
class Stage:
    """One rollout.

    Args:
        waiting: what nobody plays.
        playing: what is played, by the call that will bring it.
        last: task and engine that were handed out last, and how often in a row.
    """

    waiting: deque[Assignment]
    playing: dict[Any, Playing] = field(default_factory=dict)
    last: tuple[str, str, int] = ("", "", 0)


class Fleet:
    """A service of policies (`Service`), and the rollouts with them; started when first needed.

    Args:
        config: the run's.
        say: told what the user should know, as an engine that was replaced.
        unsafe: whether the sandbox may be ``none``.
    """

    def __init__(self, config: Config, say: Callable[[str], None], *, unsafe: bool = False):
        self.config = config
        self.crew = Crew(config, say, unsafe=unsafe)
        self._version = ""
        self._words: Words | None = None
        self._turns = count()

    # --- policies ---

    def policy(self, adapter: Path | None, version: str) -> Policy:
        """A policy whose weights are with the engines.

        Raises:
            ConfigError: Ray is not installed.
            RunError: no cluster, or no place in it.
        """
        os.environ.update(ENVIRONMENT | os.environ)
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"rollouts.runner: ray needs Ray ({error}); pip install 'instar[ray]'"
            ) from error
        self._words = self._words or words_of(self.config.policy)
        return ServedPolicy(
            self._words,
            self.ask,
            self,
            adapter,
            version=version,
            context=self.config.policy.context,
            under_way=self.crew.under_way,
        )

    def serve(self, version: str, adapter: Path | None) -> str:
        """All engines get the weights; see `Service.serve`."""
        self.crew.start()
        self.crew.serve(version, None if adapter is None else pack(version, adapter))
        self._version = version
        return version

    def release(self, version: str) -> None:
        """Engines let go of their weights when they get others."""

    def ask(self, version: str, request: Request) -> Completion:
        """Has a request of the driver's own answered; from any thread."""
        import ray
        from ray.exceptions import RayTaskError

        from agent.distributed.losses import LOST

        engines = self.crew.ready("engine")
        if not engines:
            raise NoAnswer("no engine is ready")
        engine = engines[next(self._turns) % len(engines)]
        try:
            completion: Completion = ray.get(engine.actor.ask.remote(version, request))
            return completion
        except LOST as error:
            raise NoAnswer(f"{engine} was lost") from error
        except RayTaskError as error:
            raise error.cause from None

    def revive(self, error: NoAnswer, tries: int) -> None:
        """See `Service.revive`; lost engines are replaced."""
        until = time.monotonic() + 0.1 * 2**tries
        while (left := until - time.monotonic()) > 0:
            self.crew.attend(timeout=left)
        self.crew.until(lambda: bool(self.crew.ready("engine")))

    def rest(self) -> None:
        """Engines free their memory; they serve again when they are asked."""
        import ray

        from agent.distributed.losses import LOST

        resting = [engine.actor.rest.remote() for engine in self.crew.ready("engine")]
        with contextlib.suppress(*LOST):  # that is seen when it is needed
            ray.get(resting)

    def close(self) -> None:
        """End all that was started; safe to call twice."""
        self.crew.close()

    # --- episodes ---

    def rollout(self, assignments: Sequence[Assignment]) -> Iterator[list[Trajectory]]:
        """Run episodes with the weights that are served; yields them as ``agent.rollout`` does.

        An episode whose worker is lost is played from its beginning by another.

        Raises:
            RunError: an actor was lost over and over, or there is no place for any.
        """
        stage = Stage(deque(assignments))
        try:
            while stage.waiting or stage.playing:
                self._hand_out(stage)
                done, questions = self.crew.attend(list(stage.playing))
                for worker, question in questions:
                    self._answer(stage, worker, question)
                if ended := [t for ref in done if (t := self._ended(stage, ref)) is not None]:
                    yield ended
        finally:
            if stage.playing:  # abandoned: what is still played must not go on
                self.crew.dismiss()

    def _hand_out(self, stage: Stage) -> None:
        """Give every worker as many episodes as it plays at a time."""
        while stage.waiting:
            workers = [w for w in self.crew.ready("worker") if w.load < self.crew.most]
            engines = self.crew.ready("engine")
            if not workers or not engines:
                return
            assignment = stage.waiting.popleft()
            worker = min(workers, key=lambda w: w.load)
            engine = _engine_for(stage, assignment.task, engines)
            recall = assignment.recall
            sent = assignment._replace(
                recall=None if recall is None else partial(_same, recall()),
                look_again=None,
                search=None,
            )
            readers = tuple(name for name in READERS if getattr(assignment, name) is not None)
            seat = Seat(engine.name, engine.actor)
            ref = worker.actor.play.remote(sent, readers, self._version, seat)
            worker.load, engine.load = worker.load + 1, engine.load + 1
            names = worker.name, engine.name
            stage.playing[ref] = Playing(assignment, worker, engine, names)

    def _ended(self, stage: Stage, ref: Any) -> Trajectory | None:
        """The episode that a call brought; None if it has to be played again."""
        import ray
        from ray.exceptions import ObjectLostError, RayTaskError

        from agent.distributed.losses import LOST

        assignment, worker, engine, names = stage.playing.pop(ref)
        for member, name in zip((worker, engine), names, strict=True):
            if member.name == name:
                member.load -= 1
        try:
            trajectory: Trajectory = ray.get(ref)
        except LOST as error:
            if worker.name == names[0]:
                self.crew.replace(worker, error)
        except ObjectLostError:  # its machine went after it had ended
            pass
        except RayTaskError as error:
            if not isinstance(error.cause, Cancelled):
                raise error.cause from None
        else:
            worker.lost = engine.lost = 0
            return trajectory
        stage.waiting.appendleft(assignment)
        return None

    def _answer(self, stage: Stage, worker: Member, question: Question) -> None:
        """Read memory for an episode; what is wrong with memory itself ends the rollout."""
        played = (playing.assignment for playing in stage.playing.values())
        asker = next((a for a in played if a.slot == question.slot), None)
        if asker is None:
            return
        answer: Recall | Exception
        try:
            answer = getattr(asker, question.reader)(question.text, question.shown)
        except (LedgerError, VectorIndexError):
            raise
        except Exception as error:  # the episode's, as it would be in this process
            answer = error
        worker.actor.answer.remote(question.ticket, answer)


def _engine_for(stage: Stage, task: Task, engines: Sequence[Member]) -> Member:
    """The one with the fewest episodes; the same again for some more samples of a task."""
    name, engine_name, samples = stage.last
    engine = next((e for e in engines if e.name == engine_name), None)
    if engine is None or name != task.id or samples >= TOGETHER:
        engine, samples = min(engines, key=lambda e: e.load), 0
    stage.last = task.id, engine.name, samples + 1
    return engine


def _same(found: Recall) -> Recall:
    return found
