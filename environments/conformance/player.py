"""One episode, played step by step, with a look at every result."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from environments.base import (
    Action,
    Environment,
    EnvironmentFailure,
    StepResult,
    Suite,
    Task,
    Tool,
)
from environments.calls import write_call
from environments.sandbox.base import SandboxUnavailable
from environments.watch import Watched


class Finding(NamedTuple):
    """A problem: the sentence, and the part of the examination that it belongs to."""

    sentence: str
    part: str


class Findings:
    """Problems, one of each kind, and how often each thing was looked at.

    Two problems are of the same kind where they differ only in what is particular to a task: in
    arguments, numbers, texts.
    """

    def __init__(self) -> None:
        self.problems: dict[object, Finding] = {}
        self.part = ""  # what is being examined
        self.counts: Counter[str] = Counter()

    def add(self, problem: str, kind: object = None, part: str | None = None) -> None:
        """Note the first problem of a kind.

        Args:
            problem: a sentence.
            kind: what it is one of; default: the sentence without numbers and quoted texts.
            part: of the examination; default: what is being examined.
        """
        finding = Finding(problem, self.part if part is None else part)
        self.problems.setdefault(_plain(problem) if kind is None else kind, finding)


def _plain(sentence: str) -> str:
    """A sentence without what is quoted in it, and without its numbers."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+(\.\d+)?(e[+-]?\d+)?", "…", sentence)


class Record(NamedTuple):
    """An episode: its first observation, its actions and what came of them, whether it ended."""

    first: str
    actions: tuple[Action, ...]
    results: tuple[StepResult, ...]

    def seen(self) -> list[tuple[str, object]]:
        """What must be the same when the same is done again, with names for it."""
        seen: list[tuple[str, object]] = [("the first observation", self.first)]
        for number, (action, r) in enumerate(zip(self.actions, self.results, strict=True), 1):
            result = (r.observation, r.reward, r.terminated, r.truncated, r.error)
            seen.append((f"step {number}, {told(action)}", result))
        return seen


class Broken(Exception):
    """An environment raised what it must not; the message is a sentence.

    Args:
        sentence: what is wrong.
        kind: what it is one of, whatever was being done.
        part: of the examination that it belongs to, if that is known.
    """

    def __init__(self, sentence: str, kind: object = None, part: str | None = None) -> None:
        super().__init__(sentence)
        self.kind, self.part = kind, part


# Whose fault a plain class's failure is, by the method that failed, as parts of the examination.
_PARTS = {"reward": "rewards", "metrics": "JSON", "state": "JSON", "close": "clean-up"}


def failure(what: str, error: Exception) -> Broken:
    """An exception of an environment, as a sentence; the same fault is always the same kind.

    Args:
        what: what was being done.
        error: what it raised.
    """
    cause = f"{type(error).__name__}: {error}"
    if "took longer than" in cause:
        return Broken(f"{what} raised {cause}", "too long", "limits")
    method = re.match(r"EnvironmentFailure: (\w+) (returned|raised \w+)", cause)
    if method:
        return Broken(f"{what} raised {cause}", method[0], _PARTS.get(method[1]))
    place = what.partition("(")[0]  # without the arguments
    kind = place, _plain(cause) if isinstance(error, EnvironmentFailure) else type(error).__name__
    return Broken(f"{what} raised {cause}", kind, "JSON" if what == "state()" else None)


class Player:
    """Plays one episode step by step, and looks at every result."""

    def __init__(self, suite: Suite, task: Task, findings: Findings) -> None:
        self.suite, self.findings = suite, findings
        self._made: list[Environment] = []
        self.environment = Watched(lambda: self._make(suite, task))
        self.first = ""
        self.offered: str | None = None  # the valid action that is being tried
        self.actions: list[Action] = []
        self.results: list[StepResult] = []

    @property
    def over(self) -> bool:
        """Whether the episode has ended."""
        last = self.results[-1] if self.results else None
        return last is not None and (last.terminated or last.truncated)

    def record(self) -> Record:
        """The episode so far."""
        return Record(self.first, tuple(self.actions), tuple(self.results))

    def start(self) -> None:
        """Begin the episode."""
        first = self._ask("start()", self.environment.start)
        if not isinstance(first, str) or not first:
            self.findings.add(f"start() returned {first!r:.60}, not a non-empty string.")
        self.first = str(first)
        self._text("start()", self.first)
        self._state()

    def step(self, action: Action) -> StepResult:
        """Do one thing."""
        what, add = f"the action {told(action)}", self.findings.add
        before = self._state()
        result: StepResult = self._ask(what, lambda: self.environment.step(action))
        if not isinstance(result, StepResult):
            kind = type(result).__name__
            raise Broken(f"{what} returned a {kind}, not a StepResult.", kind)
        self.actions.append(action)
        self.results.append(result)
        if not (math.isfinite(result.reward) and 0 <= result.reward <= 1):
            add(
                f"the reward {result.reward} is not between 0 and 1 (after {told(action)}).",
                "reward",
                "rewards",
            )
        if wrong := [k for k, v in result.metrics.items() if not math.isfinite(v)]:
            value = result.metrics[wrong[0]]
            add(f"the metric {wrong[0]} is {value}, which JSON cannot hold.", part="JSON")
        self._text(what, result.observation)
        if result.error and not self.over and self._state() != before:
            add(
                f"{what} is said to have failed ({result.error}), and yet it changed the state; "
                "raise the error before anything is changed.",
                (action.tool, "changed"),
                "garbage",
            )
        offered, self.offered = self.offered, None
        if offered is not None and result.error:
            add(
                f"valid_actions offers {offered!r:.60}, which is refused: "
                f"{result.observation:.100}",
                "valid action refused",
            )
        if unforeseen(self.results):
            add(
                f"{what} raised {result.observation.removeprefix('Error: '):.100}, which the "
                "class did not foresee; raise ToolError with a sentence that helps the agent, or "
                "mend it.",
                (action.tool, result.error),
                "garbage",
            )
        return result

    def close(self) -> None:
        """Close the environment, twice.

        Raises:
            Broken: it took too long; nothing else is played then.
        """
        what = "close()"
        try:
            self.environment.close()
            what = "closing it twice"
            for made in self._made:
                Watched(made).close()
        except Exception as error:
            if (broken := failure(what, error)).part == "limits":
                raise broken from error
            self.findings.add(str(broken), (what, type(error).__name__), "clean-up")

    def _make(self, suite: Suite, task: Task) -> Environment:
        made = suite.environment(task)
        if not isinstance(made, Environment):
            raise TypeError(f"environment() returned {made!r:.60}, which is no Environment")
        self._made.append(made)
        return made

    def valid(self) -> list[str]:
        """What the environment says can be done now."""
        given = self._ask("valid_actions", lambda: self.environment.valid_actions)
        many = isinstance(given, Iterable) and not isinstance(given, str)
        texts: list[Any] = list(given) if many else [None]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise Broken(f"valid_actions is {given!r:.60}, not a sequence of texts.")
        return texts

    def tools(self) -> list[Tool]:
        """Its tools at this moment."""
        given = self._ask("tools", lambda: self.environment.tools)
        tools: list[Any] = list(given) if isinstance(given, Iterable) else [None]
        if not all(isinstance(tool, Tool) for tool in tools):
            told = f"tools is {given!r:.60}, not a sequence of Tool (environments.base)."
            raise Broken(told, "tools", "tools")
        return tools

    def _ask(self, what: str, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except SandboxUnavailable:  # this machine's lack, not the environment's
            raise
        except Exception as error:
            raise failure(what, error) from error

    def _state(self) -> str:
        state = self._ask("state()", self.environment.state)
        try:
            return json.dumps(state, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            self.findings.add(f"state() returns what JSON cannot hold: {error}", part="JSON")
            return ""

    def _text(self, what: str, text: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError:
            sentence = f"what {what} returned holds half a character, and is no UTF-8."
            self.findings.add(sentence, "half a character", "JSON")


def unforeseen(results: Sequence[StepResult]) -> bool:
    """Whether the last step met an exception that a plain class did not foresee."""
    met = [result.metrics.get("tool_exceptions", 0.0) for result in results[-2:]]
    return bool(met and results[-1].error) and met[-1] > (met[0] if len(met) == 2 else 0)


def told(action: Action) -> str:
    """An action, short."""
    if action.tool is None:
        return ascii(action.text[:40])
    call = write_call(action.tool, action.arguments)
    return ascii(call)[1:-1] if len(call) <= 70 else ascii(call[:66])[1:-1] + " ..."


def difference(one: Record, other: Record) -> str | None:
    """Where two records of the same actions first differ, in words."""
    for first, second in zip_longest(one.seen(), other.seen()):
        if first is None or second is None:
            return "the episode ended earlier"
        if first != second:
            before, after = ascii(first[1]), ascii(second[1])
            start = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
                         0)  # fmt: skip
            begin = max(0, start - 20)
            return f"{first[0]}: …{before[begin : begin + 60]}… and …{after[begin : begin + 60]}…"
    return None
