"""Tasksets of the package verifiers, answered in one reply.

Needs the package ``verifiers`` (MIT), 0.4 or newer, https://github.com/PrimeIntellect-ai/verifiers.
A task's rewards run in this process on the agent's reply: they are code that the user chose.
What needs more than a reply (tools, a container, a model as judge) is refused.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from pydantic import JsonValue, ValidationError

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
from environments.calls import clean, parse_call

REPLY = Tool(
    name="reply",
    description="Your whole answer.",
    parameters={
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
    },
)


class Verifiers:
    """The tasks of a taskset. An agent's whole text is its reply, not only the first line.

    The reward is the weighted sum of the task's rewards, divided by the sum of the positive
    weights and cut to 0 … 1: full where every reward is 1.

    Args:
        taskset: name of an installed package that exports one, or ``module:Class``.
        config: settings of the taskset.
        limit: most tasks taken, in its order.
        family: name of a field of its tasks that names the family; None for one family.
        max_new_tokens: most tokens of a reply.
        timeout_s: most seconds that grading may take.

    Raises:
        SuiteError: no such taskset, or one that needs more than a reply.
    """

    name = "verifiers"
    description = "a taskset of the package verifiers, answered in one reply"

    def __init__(
        self,
        taskset: str,
        config: dict[str, JsonValue] | None = None,
        limit: int = 1000,
        family: str | None = None,
        max_new_tokens: int = 256,
        timeout_s: float = 30.0,
    ) -> None:
        if min(limit, max_new_tokens) < 1 or timeout_s <= 0:
            raise SuiteError(f"{self.name}: numbers must be positive")
        self._name, self._limit, self._family = taskset, limit, family
        self._timeout_s = timeout_s
        self._taskset = _load(self.name, taskset, config or {})
        self._kind: type[Any] = _package().Task
        self.briefing = Briefing(turns=1, max_new_tokens=max_new_tokens)
        self._tasks  # noqa: B018 - so that an unusable taskset is told now

    def tasks(self) -> Sequence[Task]:
        """The taskset's tasks; the same task twice is one."""
        return self._tasks

    @functools.cached_property
    def _tasks(self) -> tuple[Task, ...]:
        found: dict[str, Task] = {}
        try:
            for number, theirs in enumerate(itertools.islice(self._taskset, self._limit)):
                if number == 0:
                    self._kind = type(theirs)
                if problem := _unsupported(theirs, type(self._taskset), self._taskset.config):
                    raise SuiteError(f"{self.name}: {self._name}: task {number}: it {problem}")
                ours = self._ours(theirs)
                found[ours.id] = ours
        except SuiteError:
            raise
        except Exception as error:  # their loader: files, networks, anything
            raise SuiteError(
                f"{self.name}: {self._name} cannot be loaded: {_told(error)}"
            ) from error
        if not found:
            raise SuiteError(f"{self.name}: {self._name} holds no tasks")
        return tuple(found.values())

    def environment(self, task: Task) -> Environment:
        """The one question of a task, graded by its own rewards."""
        kind = self._kind
        try:
            data = kind.data_type().model_validate(task.data.get("row"))
        except ValidationError as error:
            problem = error.errors()[0]
            raise SuiteError(f"{self.name}: task {task.id}: {problem['msg']}") from None
        return VerifiersEnvironment(
            kind(data, self._taskset.config.task), task.prompt, self._timeout_s
        )

    def _ours(self, theirs: Any) -> Task:
        # Its position is no part of a task.
        row = theirs.data.model_dump(mode="json", exclude={"idx"}, exclude_defaults=True)
        family = self._name if self._family is None else getattr(theirs.data, self._family, None)
        if not isinstance(family, str) or not family:
            raise SuiteError(
                f"{self.name}: family={self._family} is no text field of every task; fields: "
                f"{', '.join(type(theirs.data).model_fields)}"
            )
        said = [(message.role, message) for message in _messages(theirs.data)]
        text = import_module("verifiers.v1.types").content_text
        spoken = {role for role, _ in said} - {"system", "user"}
        parts = [f"{role}: {text(m.content)}" if spoken else text(m.content) for role, m in said]
        return Task(
            suite=self.name,
            family=family,
            prompt=clean("\n\n".join(filter(None, parts))),
            data={"row": row},
        )


class VerifiersEnvironment:
    """One question; the first reply ends it.

    Args:
        task: the package's task.
        prompt: the first observation.
        seconds: most that grading may take; see ``environments.watch.Watched``.
    """

    def __init__(self, task: Any, prompt: str, seconds: float) -> None:
        self._task, self._prompt, self.seconds = task, prompt, seconds
        self._over = False

    @property
    def tools(self) -> Sequence[Tool]:
        """The one tool, ``reply``."""
        return (REPLY,)

    def start(self) -> str:
        """The task's messages as text."""
        return self._prompt

    def step(self, action: Action) -> StepResult:
        """Grade a reply.

        Raises:
            EnvironmentFailure: grading raised an exception, or gave no number.
        """
        if self._over:
            raise EnvironmentFailure("the episode is over: make a new environment")
        given = action.arguments.get("text")
        if action.tool != REPLY.name or not isinstance(given, str):
            return StepResult(observation="Write your answer.", error="no reply")
        call = parse_call(action.text, (REPLY,))
        reply = given if call is not None and call[0] == REPLY.name else action.text
        self._over = True
        trace = _trace(self._task, clean(reply))
        try:
            asyncio.run(asyncio.wait_for(self._task.score(trace), self.seconds))
        except Exception as error:
            raise EnvironmentFailure(f"grading: {_told(error)}") from error
        rewards = [reward for reward in trace.rewards.values() if reward is not None]
        full = sum(reward.weight for reward in rewards if reward.weight > 0)
        if not full or not math.isfinite(trace.reward):
            raise EnvironmentFailure(f"grading gave no reward, but {trace.rewards}"[:300])
        scores = {name: r.score for name, r in trace.rewards.items() if r is not None}
        metrics = {name: v for name, v in trace.metrics.items() if v is not None}
        return StepResult(
            observation="Replied.",
            reward=min(1.0, max(0.0, trace.reward / full)),
            terminated=True,
            metrics={k: v for k, v in {**metrics, **scores}.items() if math.isfinite(v)},
        )

    def close(self) -> None:
        """Nothing to release; safe to call twice."""
        self._over = True


def _package() -> Any:
    try:
        return import_module("verifiers.v1")
    except ImportError as error:
        raise SuiteError(
            f"the suite verifiers needs the package verifiers, 0.4 or newer ({error}): "
            "pip install 'verifiers>=0.4'"
        ) from error


def _load(suite: str, name: str, config: dict[str, JsonValue]) -> Any:
    package = _package()
    loaders = import_module("verifiers.v1.utils.loaders")
    module, colon, attribute = name.partition(":")
    try:
        if colon:
            found = getattr(import_module(module), attribute)
            if not (inspect.isclass(found) and issubclass(found, package.Taskset)):
                raise SuiteError(f"{suite}: {name} is no Taskset")
        else:
            found = loaders.taskset_class(name)
        concrete = import_module("verifiers.v1.utils.generic").concrete_type
        settings = concrete(found, package.TasksetConfig, origin=package.Taskset)
        return found((settings or package.TasksetConfig).model_validate(config))
    except SuiteError:
        raise
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise SuiteError(f"{suite}: config {where}: {problem['msg']}") from None
    except Exception as error:  # their imports and constructors
        raise SuiteError(f"{suite}: taskset {name}: {_told(error)}") from error


def _unsupported(task: Any, taskset: type[Any], config: Any) -> str:
    """What a task needs beyond a reply; empty if nothing."""
    base = _package().Task
    if task.NEEDS_CONTAINER or task.data.image:
        return "needs a container"
    if type(task).toolsets(task.config) or taskset.toolsets(config):
        return "has tools of its own"
    if task.config.judges:
        return "is graded by a model"
    if type(task).setup is not base.setup or type(task).finalize is not base.finalize:
        return "prepares or reads a runtime"
    for reward in task.hooks("reward"):
        needed = inspect.signature(reward).parameters.get("runtime")
        if needed is not None and needed.default is needed.empty:
            return f"has a reward that needs a runtime ({reward.__name__})"
    if not task.hooks("reward"):
        return "has no reward"
    return "" if _messages(task.data) else "has no prompt: its user begins"


def _messages(data: Any) -> list[Any]:
    types = import_module("verifiers.v1.types")
    system = [types.SystemMessage(content=data.system_prompt)] if data.system_prompt else []
    if isinstance(data.prompt, str):
        return [*system, types.UserMessage(content=data.prompt)]
    return [*system, *(data.prompt or [])] if data.prompt else []


def _trace(task: Any, reply: str) -> Any:
    """The package's record of an episode in which a model gave one reply."""
    package = _package()
    nodes = []
    for number, message in enumerate(_messages(task.data)):
        nodes.append(package.MessageNode(parent=number - 1 if number else None, message=message))
    answer = package.AssistantMessage(content=reply)
    nodes.append(package.MessageNode(parent=len(nodes) - 1, message=answer, sampled=True))
    state = import_module("verifiers.v1.state").state_cls(type(task))
    return package.Trace(
        task=package.TraceTask(type=type(task).__name__, data=task.data),
        agent=package.AgentInfo(config=package.AgentConfig()),
        nodes=nodes,
        state=state(),
    )


def _told(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
