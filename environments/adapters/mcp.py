"""MCP servers as environments: their tools, and tasks from a file.

Needs the package ``mcp`` (MIT), https://modelcontextprotocol.io. A server only offers tools, so
a task says what is worth a reward: an answer that the agent gives at the end, or a tool call
that the environment makes at the end with the result that it expects. The server is a program
that the user chose: it runs with the user's rights, outside the sandbox.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from environments.adapters.mcp_session import Session, Target, check_package
from environments.adapters.wire import OBSERVATION_CHARS, sendable
from environments.base import (
    Action,
    Briefing,
    Environment,
    EnvironmentFailure,
    StepResult,
    SuiteError,
    Task,
    Tool,
)
from environments.calls import cut, write_call
from environments.task_files import read_tasks

ANSWER_CHARS = 500
Match = Literal["exact", "contains", "number"]
ANSWER = Tool(
    name="answer",
    description="Ends the task with your answer.",
    parameters={
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
    },
)
FINISH = Tool(
    name="finish",
    description="Ends the task, when it is done.",
    parameters={"type": "object", "properties": {}},
)


class Call(BaseModel):
    """A call of one of the server's tools."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: str
    arguments: dict[str, JsonValue] = Field(default_factory=dict)

    def written(self) -> str:
        """The call as an agent would write it."""
        return write_call(self.tool, self.arguments)


class Check(Call):
    """A call that the environment makes at the end, and the result that is right."""

    expect: str
    match: Match = "exact"


class Entry(BaseModel):
    """One task of a file.

    Args:
        prompt: what the agent is told.
        family: group of related tasks.
        answer: right answer, given with the tool ``answer``.
        match: how an answer is compared: ``exact`` (not minding case, spaces and a full stop),
            ``contains``, or ``number`` (as numbers, to one part in a million).
        check: what must be true of the server at the end.
        setup: calls made before the episode begins.
        gold: calls of a solution, without its answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(min_length=1)
    family: str = Field("mcp", min_length=1)
    answer: str | None = Field(None, min_length=1)
    match: Match = "exact"
    check: Check | None = None
    setup: tuple[Call, ...] = ()
    gold: tuple[Call, ...] | None = None

    @model_validator(mode="after")
    def _graded(self) -> Entry:
        if self.answer is None and self.check is None:
            raise ValueError("a task needs answer or check, or nothing says what it is worth")
        return self


class Mcp:
    """The tools of an MCP server, and tasks from a file (each an :class:`Entry`).

    Args:
        tasks: the task file (JSONL, or what else ``read_tasks`` reads).
        command: starts the server (stdio); one for each episode, which ends with it.
        url: address of a running server (streamable HTTP) instead; an episode is a session,
            and what one episode changes there is the server's to undo.
        tools: names of the tools that the agent may use; None for all.
        environ: names of environment variables that the started server gets.
        headers_environ: name of an environment variable that holds the HTTP headers, as a JSON
            object; so that no secret stands in a configuration.
        turns: how many times the agent may act.
        timeout_s: most seconds of each call.

    Raises:
        SuiteError: no such server, tool or file, or a line that is no task.
    """

    name = "mcp"
    description = "the tools of an MCP server (stdio or HTTP), with tasks from a file"

    def __init__(
        self,
        tasks: str,
        command: list[str] | None = None,
        url: str | None = None,
        tools: list[str] | None = None,
        environ: list[str] | None = None,
        headers_environ: str | None = None,
        turns: int = 8,
        timeout_s: float = 30.0,
    ) -> None:
        if bool(command) == bool(url):
            raise SuiteError(f"{self.name}: give either command=[PROGRAM, ...] or url=ADDRESS")
        if timeout_s <= 0 or turns < 1:
            raise SuiteError(f"{self.name}: turns and timeout_s must be positive")
        check_package()
        self._tasks = _read(self.name, tasks)
        self._target = Target(
            command=tuple(command or ()),
            url=url or "",
            environ={name: _variable(self.name, name) for name in environ or ()},
            headers=_headers(self.name, headers_environ),
        )
        self._timeout_s = timeout_s
        offered = self._offered()
        if unknown := set(tools or ()) - {tool.name for tool in offered}:
            raise SuiteError(
                f"{self.name}: the server has no tool {sorted(unknown)[0]!r}; it has: "
                f"{', '.join(tool.name for tool in offered) or 'none'}"
            )
        self._offer = [tool for tool in offered if tools is None or tool.name in tools]
        if taken := {ANSWER.name, FINISH.name} & {tool.name for tool in self._offer}:
            raise SuiteError(
                f"{self.name}: the server's tool {min(taken)!r} has the name of the tool that "
                "ends a task; leave it out with tools=[...]"
            )
        self.briefing = Briefing(
            text="Do the task with the tools, one call a turn. Then end it.",
            turns=turns,
            max_new_tokens=128,
        )

    def tasks(self) -> Sequence[Task]:
        """The file's tasks, in its order; the same task twice is one."""
        return self._tasks

    def environment(self, task: Task) -> Environment:
        """A session with the server, for one task."""
        return McpEnvironment(
            _entry(self.name, task), self._target, self._offer, timeout_s=self._timeout_s
        )

    def gold(self, task: Task) -> Sequence[Action] | None:
        """The task's ``gold`` calls and its end; None where the file has none."""
        entry = _entry(self.name, task)
        if entry.gold is None and entry.check is not None:
            return None
        ending = Call(tool=FINISH.name)
        if entry.answer is not None:
            ending = Call(tool=ANSWER.name, arguments={"text": entry.answer})
        return [
            Action(
                text=write_call(call.tool, call.arguments), tool=call.tool, arguments=call.arguments
            )
            for call in (*(entry.gold or ()), ending)
        ]

    def _offered(self) -> list[Tool]:
        try:
            session = Session(self._target, self._timeout_s)
            try:
                return session.list_tools()
            finally:
                session.close()
        except EnvironmentFailure as error:
            raise SuiteError(f"{self.name}: {error}") from error


class McpEnvironment:
    """One task with the tools of a server.

    Args:
        entry: the task.
        target: the server.
        offer: the tools of the server that the agent may use.
        timeout_s: most seconds of each call.
    """

    def __init__(
        self, entry: Entry, target: Target, offer: Sequence[Tool], *, timeout_s: float
    ) -> None:
        self._entry, self._target, self._timeout_s = entry, target, timeout_s
        self.seconds = 20 + timeout_s * (2 + len(entry.setup))  # most that ``start`` may take
        self._ending = FINISH if entry.answer is None else ANSWER
        self._tools = (*offer, self._ending)
        self._session: Session | None = None
        self._over = False

    @property
    def tools(self) -> Sequence[Tool]:
        """The server's tools, and the one that ends the task."""
        return self._tools

    def start(self) -> str:
        """Connect, make the task's ``setup`` calls; returns the prompt."""
        if self._over or self._session is not None:
            raise EnvironmentFailure("an environment is used once: make a new one")
        self._session = Session(self._target, self._timeout_s)
        for call in self._entry.setup:
            result = self._session.call_tool(call.tool, call.arguments)
            if result.is_error:
                raise EnvironmentFailure(f"setup: {call.written()}: {cut(result.text, 300)}")
        return self._entry.prompt

    def step(self, action: Action) -> StepResult:
        """Make one call.

        Raises:
            EnvironmentFailure: the server is lost or does not answer.
        """
        if self._over or self._session is None:
            raise EnvironmentFailure("the episode is over or not begun: make a new environment")
        names = ", ".join(tool.name for tool in self._tools)
        if action.tool is None:
            return StepResult(observation=f"No call found. Tools: {names}.", error="no call")
        if action.tool not in {tool.name for tool in self._tools}:
            return StepResult(
                observation=f"Unknown tool {action.tool[:50]!r}. Tools: {names}.",
                error="unknown tool",
            )
        if action.tool == self._ending.name:
            return self._end(action.arguments)
        if not sendable(action.arguments):
            return StepResult(
                observation="The arguments cannot be sent: they are too long or no JSON.",
                error="bad arguments",
            )
        result = self._session.call_tool(action.tool, action.arguments)
        return StepResult(
            observation=cut(result.text, OBSERVATION_CHARS) or "(no output)",
            error="tool error" if result.is_error else None,
        )

    def close(self) -> None:
        """End the session and its server; safe to call twice."""
        self._over = True
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _end(self, arguments: Mapping[str, Any]) -> StepResult:
        text = arguments.get("text")
        if self._ending is ANSWER and not isinstance(text, str):
            return StepResult(
                observation="The tool answer takes one argument, text, which is a string.",
                error="bad arguments",
            )
        entry, session = self._entry, self._session
        assert session is not None
        right = True
        if entry.answer is not None:
            right = matches(entry.match, entry.answer, str(text)[:ANSWER_CHARS])
        if right and entry.check is not None:
            check = entry.check
            result = session.call_tool(check.tool, check.arguments)
            right = not result.is_error and matches(check.match, check.expect, result.text)
        self._over = True
        return StepResult(observation="The task has ended.", reward=float(right), terminated=True)


def matches(how: Match, expected: str, given: str) -> bool:
    """Whether a text is the expected one."""
    if how == "number":
        wanted, got = _number(expected), _number(given)
        return wanted is not None and got is not None and math.isclose(wanted, got, rel_tol=1e-6)
    wanted_text, got_text = _normal(expected), _normal(given)
    return wanted_text in got_text if how == "contains" else wanted_text == got_text


def _normal(text: str) -> str:
    return " ".join(text.casefold().split()).strip("\"'").rstrip(".").strip("\"'")


def _number(text: str) -> float | None:
    bare = re.sub(r"(?<=\d),(?=\d{3})", "", text.strip().strip("$€%.\"'").strip())
    try:
        value = float(bare)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _read(suite: str, file: str) -> tuple[Task, ...]:
    tasks: dict[str, Task] = {}
    for where, fields in read_tasks(file):
        try:
            entry = Entry.model_validate_json(json.dumps(fields))
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, problem["loc"]))
            message = problem["msg"].removeprefix("Value error, ")
            raise SuiteError(
                f"{suite}: {where}: {f'{place}: ' if place else ''}{message}"
            ) from None
        data = entry.model_dump(mode="json", exclude={"prompt", "family"}, exclude_defaults=True)
        task = Task(suite=suite, family=entry.family, prompt=entry.prompt, data=data)
        tasks[task.id] = task
    return tuple(tasks.values())


def _entry(suite: str, task: Task) -> Entry:
    try:
        return Entry.model_validate({"prompt": task.prompt, "family": task.family, **task.data})
    except ValidationError as error:
        raise SuiteError(f"{suite}: task {task.id}: {error.errors()[0]['msg']}") from None


def _variable(suite: str, name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise SuiteError(f"{suite}: the environment variable {name} is not set")
    return value


def _headers(suite: str, name: str | None) -> dict[str, str]:
    if name is None:
        return {}
    try:
        headers = json.loads(_variable(suite, name))
    except ValueError:
        headers = None
    if not isinstance(headers, dict) or not all(isinstance(v, str) for v in headers.values()):
        raise SuiteError(f"{suite}: {name} must hold a JSON object of HTTP headers")
    return headers
