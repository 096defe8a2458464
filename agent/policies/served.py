"""A policy whose model runs in another process: requests travel, one thread each.

One server serves all versions of a run's weights, so a policy here is light: a version, the
name under which its weights are served, and the requests under way. The server is the run's.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from agent.policies.base import Completion, Message, PolicyFailure, Request
from agent.policies.calls import answer
from agent.policies.chat import Chat
from agent.policies.endpoint import Endpoint, NoAnswer

WAIT_S = 0.05  # longest wait of a step for something to finish
TRIES = 6  # times that one request may get no answer


class Service(Protocol):
    """What serves the weights: it outlives the policies, and serves several versions at once."""

    def serve(self, version: str, adapter: Path | None) -> str:
        """Have a version served; returns the name under which requests ask for it.

        Raises:
            PolicyFailure: it cannot be.
        """
        ...

    def release(self, version: str) -> None:
        """The version's policy is closed: its weights may be forgotten."""
        ...

    def revive(self, error: NoAnswer, tries: int) -> None:
        """Requests got no answer, some so many times: see that the next will, or give up.

        Raises:
            PolicyFailure: there is no use in asking again.
        """
        ...

    def rest(self) -> None:
        """Give way to training; it serves again when it is needed."""
        ...

    def close(self) -> None:
        """End it, if it is ours."""
        ...


class HttpService(Service, Protocol):
    """A service behind a URL."""

    @property
    def endpoint(self) -> Endpoint:
        """Where requests go now."""
        ...


class Words(Protocol):
    """Texts as ids; see ``Policy``."""

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]: ...

    def extend(self, token_ids: tuple[int, ...], observation: str, begin: str) -> tuple[int, ...]:
        """See ``Policy.extend``."""
        ...

    def count(self, text: str) -> int: ...


Ask = Callable[[str, Request], Completion]
"""(name of the weights, request) → what they write; called from many threads."""


class ServedPolicy:
    """One version of a service's weights.

    Args:
        words: texts as ids.
        ask: has a request answered.
        service: where.
        adapter: folder of an adapter, or None for the base weights.
        version: name of these weights in trajectories.
        context: longest prompt plus completion, in tokens.
        under_way: requests sent at a time.
    """

    def __init__(
        self,
        words: Words,
        ask: Ask,
        service: Service,
        adapter: Path | None = None,
        *,
        version: str = "base",
        context: int = 2048,
        under_way: int = 84,
    ):
        self.version, self.context = version, context
        self.encode, self.extend, self.count = words.encode, words.extend, words.count
        self._ask, self._service = ask, service
        self._name = service.serve(version, adapter)
        self._open: dict[Hashable, Request] = {}
        self._tries: dict[Hashable, int] = {}
        self._ended: queue.SimpleQueue[tuple[Hashable, Completion | Exception]]
        self._ended = queue.SimpleQueue()
        self._asked: queue.SimpleQueue[tuple[Hashable, Request] | None] = queue.SimpleQueue()
        self._under_way, self._threads = under_way, 0
        self._closed = False

    def submit(self, ticket: Hashable, request: Request) -> None:
        self._open[ticket] = request
        self._send(ticket)

    def _send(self, ticket: Hashable) -> None:
        self._asked.put((ticket, self._open[ticket]))
        if self._threads < min(self._under_way, len(self._open)):
            self._threads += 1
            # No pool's thread: Python waits for those at its end, and an answer takes its time.
            threading.Thread(target=self._work, name="request", daemon=True).start()

    def _work(self) -> None:
        while (asked := self._asked.get()) is not None:
            ticket, request = asked
            if self._closed:
                continue
            try:
                self._ended.put((ticket, self._ask(self._name, request)))
            except Exception as error:  # raised where the policy is stepped
                self._ended.put((ticket, error))

    def step(self) -> list[tuple[Hashable, Completion]]:
        done: list[tuple[Hashable, Completion]] = []
        lost: list[Hashable] = []
        last: NoAnswer | None = None
        for ticket, outcome in self._finished():
            if isinstance(outcome, Completion):
                del self._open[ticket]
                self._tries.pop(ticket, None)
                done.append((ticket, outcome))
            elif isinstance(outcome, NoAnswer):
                lost.append(ticket)
                last = outcome
            else:
                raise outcome
        if last is not None:
            self._again(lost, last)
        return done

    def _finished(self) -> list[tuple[Hashable, Completion | Exception]]:
        """What has ended; waits a little for the first."""
        found = []
        wait = WAIT_S if self._open else 0.0
        try:
            while True:
                found.append(self._ended.get(timeout=wait))
                wait = 0.0
        except queue.Empty:
            return found

    def _again(self, lost: Sequence[Hashable], error: NoAnswer) -> None:
        """Send again what got no answer: a request is answered once, whoever asks how often."""
        for ticket in lost:
            self._tries[ticket] = self._tries.get(ticket, 0) + 1
            if self._tries[ticket] >= TRIES:
                raise PolicyFailure(f"no answer in {TRIES} tries: {error}") from error
        self._service.revive(error, max(self._tries[ticket] for ticket in lost))
        for ticket in lost:
            self._send(ticket)

    @property
    def busy(self) -> bool:
        return bool(self._open)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for _ in range(self._threads):
                self._asked.put(None)
            self._service.release(self.version)


def asker(service: HttpService, chat: Chat, ends: frozenset[int]) -> Ask:
    """Asks by token ids (see ``agent.policies.calls``)."""

    def ask(name: str, request: Request) -> Completion:
        endpoint = service.endpoint
        return drive(answer(request, chat, ends), partial(endpoint.complete, name, ends=ends))

    return ask


def drive(answering: Any, reply: Callable[[Any], Any]) -> Completion:
    """Run an answer to its end, getting each reply at once."""
    try:
        call = next(answering)
        while True:
            call = answering.send(reply(call))
    except StopIteration as ended:
        completion: Completion = ended.value
        return completion
