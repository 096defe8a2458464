"""Many episodes in flight, batched onto one policy.

Every episode runs in a thread of its own and blocks while it waits for the policy, so the
loop stays a plain loop; this module's one thread drives the engine. Sandboxes and graders
work while the engine generates.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from agent.loop import Assignment, Cancelled, run_episode
from agent.policies.base import Completion, Policy, Reader, Request
from agent.prompt import AgentSettings
from environments.base import Suite
from environments.watch import Watched
from memory.records import Trajectory

WAIT_S = 0.002  # how long the idle engine sleeps before it looks for new requests


class Desk:
    """Where episodes leave requests and wait for the answers."""

    def __init__(self, policy: Policy):
        self.policy = policy
        self.futures: dict[object, Future[Completion]] = {}
        self.lock = threading.Lock()
        self.closed = False

    def query(self, request: Request) -> Completion:
        """Blocks until the policy has answered; called from episode threads."""
        return self.ask(request).result()

    def ask(self, request: Request) -> Future[Completion]:
        """What the policy will answer; called from any thread."""
        future: Future[Completion] = Future()
        with self.lock:
            if self.closed:
                raise Cancelled
            ticket = object()  # no other desk's: the policy may still work for an earlier one
            self.futures[ticket] = future
        self.policy.submit(ticket, request)
        return future

    def pump(self) -> None:
        """Advance the engine and hand out what it finished; called from one thread."""
        for ticket, completion in self.policy.step():
            if future := self.futures.pop(ticket, None):
                future.set_result(completion)

    def close(self, why: Exception | None = None) -> None:
        """Wake everyone who waits; unless told why, their episodes never happened."""
        with self.lock:
            self.closed = True
            for future in self.futures.values():
                if not future.done():
                    future.set_exception(why or Cancelled())


def play(
    assignment: Assignment,
    query: Callable[[Request], Completion],
    policy: Reader,
    suite: Suite,
    settings: AgentSettings,
    *,
    seed: int,
    seconds: float | None = None,
) -> Trajectory:
    """One episode, in an environment of the suite's that is watched.

    Args:
        assignment: the episode.
        query: blocks until the policy has answered.
        policy, suite, settings, seed, seconds: as of ``rollout``.
    """
    return run_episode(
        assignment,
        lambda: Watched(lambda: suite.environment(assignment.task), seconds),
        query,
        policy,
        settings,
        suite.briefing,
        seed=seed,
    )


def rollout(
    assignments: Iterable[Assignment],
    policy: Policy,
    suite: Suite,
    settings: AgentSettings,
    *,
    seed: int,
    in_flight: int = 96,
    seconds: float | None = None,
) -> Iterator[list[Trajectory]]:
    """Run episodes and yield them as they end, those that end together in one list.

    Args:
        assignments: episodes to run; samples of one task are cheapest next to each other.
        policy: who acts.
        suite: makes the environments.
        settings: the agent's prompt and budgets.
        seed: the run's seed.
        in_flight: episodes at a time; a little more than the engine's rows keeps it full
            while some episodes are in their sandbox.
        seconds: longest call of an environment; None leaves that to the environment.
    """
    desk = Desk(policy)

    def episode(assignment: Assignment) -> Trajectory:
        return play(assignment, desk.query, policy, suite, settings, seed=seed, seconds=seconds)

    pool = ThreadPoolExecutor(max_workers=in_flight, thread_name_prefix="episode")
    try:
        running = {pool.submit(episode, assignment) for assignment in assignments}
        while running:
            if policy.busy:
                desk.pump()
                done = {future for future in running if future.done()}
            else:
                done, _ = wait(running, timeout=WAIT_S, return_when=FIRST_COMPLETED)
            running -= done
            if done:
                yield [future.result() for future in done if future.exception() is None]
                for future in done:
                    future.result()  # what is no episode's fault ends the rollout
    finally:
        desk.close()
        pool.shutdown(wait=True, cancel_futures=True)
