"""OpenEnv servers as environments: a running one, or an app that is served here.

Needs the package ``openenv-core`` (BSD-3-Clause), https://github.com/meta-pytorch/OpenEnv. An app
is a program that the user chose: it runs with the user's rights, outside the sandbox.
"""

from __future__ import annotations

import functools
import json
import math
import re
import socket
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

from pydantic import JsonValue

from environments.adapters.processes import Server, free_port
from environments.adapters.starts import tasks_by_start
from environments.adapters.toy_text import Score
from environments.adapters.wire import OBSERVATION_CHARS, scaled, sendable
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
from environments.calls import cut
from environments.task_files import read_tasks

ACT = "act"
START_S = 60.0
FULL_S = 30.0  # how long a server may have no free place: most take one session
_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (dict,),
}


class OpenEnv:
    """Tasks are resets: one a seed, or one a row of a file with the arguments of ``reset``.

    Every step's reward is ``(score - fail) / (success - fail)``, cut to 0 … 1; the score is the
    last reward of the environment, or the sum of all.

    Args:
        url: address of a running server.
        app: import path of an app (``my_env.server.app:app``) to serve here instead. Episodes at
            the same time have a server each; one server waits for the next episode, and ends
            with the suite.
        tasks: file with the arguments of ``reset``; its column ``family`` names the family.
        seeds: without a file, how many seeds to reset with, from 0.
        servers: most servers of an app at a time; a further episode waits.
        score: ``last`` or ``sum``.
        success: score that is worth the full reward, 1.
        fail: score that is worth 0.
        rules: told to the agent at the beginning.
        turns: how many times the agent may act.
        timeout_s: most seconds of each call.

    Raises:
        SuiteError: no such server or app.
    """

    name = "openenv"
    description = "an OpenEnv server, or an app that is served here"

    def __init__(
        self,
        url: str | None = None,
        app: str | None = None,
        tasks: str | None = None,
        seeds: int = 50,
        servers: int = 16,
        score: Score = "last",
        success: float = 1.0,
        fail: float = 0.0,
        rules: str = "",
        turns: int = 8,
        timeout_s: float = 30.0,
    ) -> None:
        if bool(url) == bool(app):
            raise SuiteError(f"{self.name}: give either url=ADDRESS or app=MODULE:APP")
        if url is not None and not re.match(r"https?://", url):
            raise SuiteError(f"{self.name}: url={url} does not begin with http:// or https://")
        if timeout_s <= 0 or min(turns, seeds, servers) < 1:
            raise SuiteError(f"{self.name}: numbers must be positive")
        if not success > fail:
            raise SuiteError(f"{self.name}: success={success:g} must be more than fail={fail:g}")
        client = _client_class()
        self._resets = _resets(tasks, seeds, url or app or "")
        self._host = Host(url, app, servers)
        weakref.finalize(self, self._host.close)
        self._rules = Rules(client, score, success, fail, timeout_s)
        try:
            self._tool = _tool(self._host.schema(timeout_s))
        except EnvironmentFailure as error:
            self._host.close()
            raise SuiteError(f"{self.name}: {error}") from error
        self.briefing = Briefing(text=rules, turns=turns, max_new_tokens=96)

    def tasks(self) -> Sequence[Task]:
        """A task for each reset, without those whose first observation was there before."""
        return self._tasks

    @functools.cached_property
    def _tasks(self) -> tuple[Task, ...]:
        resets = ((family, {"reset": arguments}) for family, arguments in self._resets)
        return tasks_by_start(self, resets)

    def environment(self, task: Task) -> Environment:
        """A session with the server, reset with the task's arguments."""
        arguments = task.data.get("reset")
        if not isinstance(arguments, dict):
            raise SuiteError(f"{self.name}: task {task.id} has no arguments of reset")
        return OpenEnvEnvironment(self._host, arguments, self._tool, self._rules)

    def close(self) -> None:
        """End the server now; otherwise it ends with the suite, or with this process."""
        self._host.close()


class Rules(NamedTuple):
    """How a server is spoken to, how episodes are scored, how long calls may take."""

    client: Any
    score: Score
    success: float
    fail: float
    timeout_s: float


class Host:
    """Where the server is; of an app, as many servers as there are episodes at a time.

    Args:
        url: address of a running server; or
        app: import path of an app to serve.
        most: most servers of an app at a time; a further episode waits.
    """

    def __init__(self, url: str | None, app: str | None, most: int) -> None:
        self._url, self._app = (url or "").rstrip("/"), app
        self._places = threading.BoundedSemaphore(most)
        self._lock = threading.Lock()
        self._idle: tuple[str, Server] | None = None  # a server that waits for the next episode

    def take(self) -> tuple[str, Server | None]:
        """The address of a server that no other episode uses, and the server if it is ours.

        Raises:
            EnvironmentFailure: it cannot be started.
        """
        if self._app is None:
            return self._url, None
        self._places.acquire()
        try:
            with self._lock:
                idle, self._idle = self._idle, None
            if idle is not None:
                if idle[1].alive():
                    return idle
                idle[1].close()
            port = free_port()
            server = Server(
                [sys.executable, "-m", "uvicorn", self._app, "--host", "127.0.0.1",
                 "--port", str(port), "--log-level", "warning"],
                prefix="instar-openenv-",
            )  # fmt: skip
            server.wait_until(lambda: _listens(port), START_S)
            return f"http://127.0.0.1:{port}", server
        except BaseException:
            self._places.release()
            raise

    def give_back(self, address: str, server: Server | None, *, sound: bool = True) -> None:
        """Leave a server: one that is sound waits for the next episode, if none waits yet."""
        if server is None:
            return
        try:
            with self._lock:
                if sound and self._idle is None and server.alive():
                    self._idle = address, server
                    return
            server.close()
        finally:
            self._places.release()

    def schema(self, timeout_s: float) -> Mapping[str, Any]:
        """The JSON schema of its actions.

        Raises:
            EnvironmentFailure: it does not answer, or not with a schema.
        """
        address, server = self.take()
        try:
            with urlopen(f"{address}/schema", timeout=timeout_s) as answer:  # noqa: S310
                schema = json.load(answer)["action"]
        except (URLError, OSError, ValueError, KeyError, TypeError) as error:
            raise EnvironmentFailure(f"{address}/schema gives no schema: {_told(error)}") from error
        finally:
            self.give_back(address, server)
        if not isinstance(schema, dict):
            raise EnvironmentFailure(f"{address}/schema gives no schema")
        return schema

    def close(self) -> None:
        """End the server that waits; safe to call twice."""
        with self._lock:
            idle, self._idle = self._idle, None
        if idle is not None:
            idle[1].close()


class OpenEnvEnvironment:
    """One session with a server.

    Args:
        host: the server.
        arguments: of ``reset``.
        tool: the one tool, whose parameters are the fields of the server's actions.
        rules: scoring and time limits.
    """

    def __init__(
        self, host: Host, arguments: Mapping[str, JsonValue], tool: Tool, rules: Rules
    ) -> None:
        self._host, self._arguments, self._tool, self._rules = host, arguments, tool, rules
        self.seconds = 600.0  # ``start`` may wait for a place; each call has a limit of its own
        self._client: Any = None
        self._taken: tuple[str, Server | None] | None = None
        self._over, self._sound = False, True
        self._sum = 0.0

    @property
    def tools(self) -> Sequence[Tool]:
        """The one tool, ``act``."""
        return (self._tool,)

    def start(self) -> str:
        """Open a session and reset it; returns the first observation."""
        if self._over or self._taken is not None:
            raise EnvironmentFailure("an environment is used once: make a new one")
        self._taken = self._host.take()
        timeout_s = self._rules.timeout_s
        deadline = time.monotonic() + FULL_S
        while True:
            self._client = self._rules.client(
                self._taken[0], connect_timeout_s=timeout_s, message_timeout_s=timeout_s
            )
            try:
                self._client.connect()
                return as_text(self._client.reset(**self._arguments).observation)
            except Exception as error:
                # A session that was just left may still take a place there.
                if "(code: CAPACITY_REACHED)" not in str(error) or time.monotonic() > deadline:
                    raise self._lost("reset", error) from error
                self._client.disconnect()
                time.sleep(0.05)

    def step(self, action: Action) -> StepResult:
        """Send one action.

        Raises:
            EnvironmentFailure: the server is lost, does not answer, or raised an exception.
        """
        if self._over or self._client is None:
            raise EnvironmentFailure("the episode is over or not begun: make a new environment")
        if action.tool != ACT:
            return StepResult(observation=self._usage(), error="no call")
        if problem := misfit(self._tool.parameters, action.arguments):
            return StepResult(observation=f"{problem} {self._usage()}", error="bad arguments")
        try:
            result = self._client.step(dict(action.arguments))
        except Exception as error:
            # The server refused the action's fields; it has told so and goes on.
            if isinstance(error, RuntimeError) and "(code: VALIDATION_ERROR)" in str(error):
                return StepResult(observation=self._usage(), error="bad arguments")
            raise self._lost("step", error) from error
        reward = float(result.reward or 0.0)
        if not math.isfinite(reward):
            raise self._lost("step", ValueError(f"the reward {reward}"))
        self._sum += reward
        score = reward if self._rules.score == "last" else self._sum
        self._over = bool(result.done)
        return StepResult(
            observation=as_text(result.observation),
            reward=scaled(score, self._rules.fail, self._rules.success),
            terminated=self._over,
            metrics={"score": score},
        )

    def close(self) -> None:
        """Leave the session; safe to call twice."""
        self._over = True
        client, self._client = self._client, None
        taken, self._taken = self._taken, None
        if taken is not None and not self._sound and taken[1] is not None:
            taken[1].close()  # first, since a server that hangs is slow to say good-bye
        try:
            if client is not None:
                client.disconnect()
        finally:
            if taken is not None:
                self._host.give_back(*taken, sound=self._sound)

    def _lost(self, what: str, error: Exception) -> EnvironmentFailure:
        self._over, self._sound = True, False  # what is left there may hang, or fill its places
        return EnvironmentFailure(f"{what}: {_told(error)}")

    def _usage(self) -> str:
        names = ", ".join(self._tool.properties)
        return f"Call {ACT}({names})."


def misfit(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> str:
    """What is wrong with arguments, as far as names and plain types go; empty if nothing is."""
    properties = _properties(schema)
    if not sendable(arguments):
        return "The arguments cannot be sent: they are too long or no JSON."
    for name in arguments:
        if name not in properties:
            return f"There is no argument {name[:50]!r}."
    required = schema.get("required")
    for name in required if isinstance(required, list) else ():
        if name not in arguments:
            return f"The argument {name} is missing."
    for name, value in arguments.items():
        kind = properties[name].get("type") if isinstance(properties[name], dict) else None
        if not isinstance(kind, str) or kind not in _KINDS:
            continue
        if not isinstance(value, _KINDS[kind]) or (kind != "boolean" and isinstance(value, bool)):
            return f"The argument {name} must be of type {kind}."
    return ""


def as_text(observation: Mapping[str, Any]) -> str:
    """An observation as text: its only field, or a line for each that is not empty."""
    fields = {key: value for key, value in observation.items() if value not in (None, "", [], {})}
    texts = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in fields.items()
    }
    if len(texts) == 1:
        return cut(next(iter(texts.values())), OBSERVATION_CHARS)
    lines = "\n".join(f"{key}: {text}" for key, text in texts.items())
    return cut(lines, OBSERVATION_CHARS) or "(nothing to see)"


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, dict) else {}


def _tool(schema: Mapping[str, Any]) -> Tool:
    """The fields of an action as parameters; ``metadata`` is not the agent's."""
    parameters = {key: value for key, value in schema.items() if key != "title"}
    parameters["properties"] = {
        name: kind for name, kind in _properties(schema).items() if name != "metadata"
    }
    described = parameters.pop("description", "") or "Acts in the environment."
    return Tool(name=ACT, description=str(described), parameters=parameters)


def _resets(tasks: str | None, seeds: int, family: str) -> list[tuple[str, dict[str, JsonValue]]]:
    if tasks is None:
        return [(family, {"seed": seed}) for seed in range(seeds)]
    found = []
    for where, fields in read_tasks(tasks):
        arguments = dict(fields)
        named = arguments.pop("family", family)
        if not isinstance(named, str) or not named:
            raise SuiteError(f"{where}: family is no name")
        found.append((named, arguments))
    return found


def _client_class() -> Any:
    try:
        return import_module("openenv.core.generic_client").GenericEnvClient
    except ImportError as error:
        raise SuiteError(
            f"the suite openenv needs the package openenv-core ({error}): pip install openenv-core"
        ) from error


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _told(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
