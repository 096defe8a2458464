"""A plain class as a suite: its tasks, its documented methods as tools, its reward.

``environments/README.md`` says what such a class may have.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from pydantic import JsonValue, TypeAdapter, ValidationError

from environments.base import (
    ROUNDING,
    Action,
    Briefing,
    Environment,
    EnvironmentFailure,
    StepResult,
    SuiteError,
    Task,
    Tool,
)
from environments.calls import clean, read_action
from environments.sandbox.base import Sandbox, SandboxFailure, SandboxUnavailable
from environments.task_files import Row, read_tasks
from environments.tools import call, complaint, fields_of, is_mistaken_bool, tools_of, usage

SUPPLIED = frozenset({"sandbox", "seed"})  # parameters that are given per episode
TURNS, SECONDS, MAX_NEW_TOKENS = 10, 60.0, 64


class PlainClass(Protocol):
    """What a class needs to be a suite of its own; it inherits from nothing."""

    tasks: Any

    def reset(self, **fields: Any) -> str | None:
        """Begin an episode of one task; returns the first observation."""
        ...

    def reward(self) -> float:
        """How well the task is done so far, 0 to 1."""
        ...


def is_plain(made: object) -> TypeGuard[type[PlainClass]]:
    """Whether something is meant as a plain class: it has ``reset``, and no ``environment``."""
    return inspect.isclass(made) and hasattr(made, "reset") and not hasattr(made, "environment")


class PlainSuite:
    """The suite that a plain class is.

    Args:
        cls: the class; it is made anew for every episode.
        sandbox: makes a sandbox, where ``reset`` or the constructor takes ``sandbox``.
        options: the constructor's other arguments.

    Raises:
        SuiteError: something is missing from the class or wrong with it or with its tasks.
    """

    def __init__(
        self,
        cls: type[PlainClass],
        *,
        sandbox: Callable[[], Sandbox],
        options: Mapping[str, Any] = {},
    ) -> None:
        self.cls, self._make_sandbox, self._options = cls, sandbox, dict(options)
        called = cls.__name__
        for needed in ("tasks", "reset", "reward"):
            if not hasattr(cls, needed):
                raise SuiteError(
                    f"{called} has no {needed}; a class needs tasks, reset(), reward() and a "
                    "documented method for each tool"
                )
        self.tools = tuple(tools_of(cls))
        if not self.tools:
            raise SuiteError(
                f"{called} has no tools; give its public methods docstrings and typed parameters"
            )
        doc = _docstring(cls)
        named, described = getattr(cls, "name", None), getattr(cls, "description", None)
        self.name = named if isinstance(named, str) and named else called
        self.description = described if isinstance(described, str) and described else ""
        self.description = self.description or doc.partition("\n")[0] or called
        self.abilities = getattr(cls, "abilities", ())
        self.seconds = float(_attribute(cls, "seconds", SECONDS, float))
        self.briefing = Briefing(
            text=doc,
            example=_attribute(cls, "example", None, tuple[str, str] | None),
            turns=_attribute(cls, "turns", TURNS, int),
            max_new_tokens=_attribute(cls, "max_new_tokens", MAX_NEW_TOKENS, int),
        )
        self.arguments = fields_of(cls.reset, f"{called}.reset", SUPPLIED)
        self.first_field, self.prompt_field = _prompt_fields(cls)
        self._tasks: tuple[Task, ...] | None = None

    def tasks(self) -> Sequence[Task]:
        """All tasks, the same ones in the same order at every call."""
        if self._tasks is None:
            self._tasks = tuple(self._task(row) for row in self._rows())
            if not self._tasks:
                raise SuiteError(f"{self.name}: tasks holds no tasks")
        return self._tasks

    def environment(self, task: Task) -> Environment:
        """A fresh environment for one task; its instance is made by ``start``."""
        return PlainEnvironment(self, task)

    def gold(self, task: Task) -> list[Action] | None:
        """The calls of the class's own solution of a task; None where it has no ``gold``.

        Raises:
            SuiteError: ``gold`` failed, or returned a text that is no action.
        """
        if not hasattr(self.cls, "gold"):
            return None
        environment = PlainEnvironment(self, task)
        try:
            environment.start()
            texts = environment.gold()
        except EnvironmentFailure as error:
            raise SuiteError(f"{self.name}: the gold solution of task {task.id}: {error}") from None
        finally:
            environment.close()
        actions = [read_action(text, self.tools) for text in texts]
        for text, action in zip(texts, actions, strict=True):
            if action.tool is None:
                raise SuiteError(f"{self.name}: gold() of task {task.id} returned {text!r}, which "
                                 f"is no call such as {usage(self.tools[0])}")  # fmt: skip
        return actions

    def fields(self, task: Task) -> dict[str, str]:
        """The prompt and the other arguments of ``reset``; what is no text is written as JSON."""
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in task.data.items()}
        if self.prompt_field:
            texts.pop(self.prompt_field, None)
        return {**texts, "prompt": task.prompt, "family": task.family}

    def spawn(self, fields: Mapping[str, str]) -> Task | None:
        """A task with these arguments of ``reset``; None where it does not take them."""
        types = {
            p.name: p.annotation for p in inspect.signature(self.cls.reset).parameters.values()
        }
        try:
            values = {
                name: text if types.get(name) in (str, "str") else json.loads(text)
                for name, text in fields.items()
                if name not in ("prompt", "family")
            }
            if self.prompt_field and self.prompt_field != "family":
                values[self.prompt_field] = fields["prompt"]
            return self._task(Row("a task that was written", values | {"family": fields["family"]}))
        except (ValueError, RecursionError):  # a SuiteError is one
            return None

    def make(self, task: Task | None, sandbox: Callable[[], Sandbox]) -> Any:
        """An instance of the class."""
        takes = inspect.signature(self.cls).parameters
        return self.cls(**self._options, **supplied(takes, task, sandbox))

    def _rows(self) -> list[Row]:
        source = inspect.getattr_static(self.cls, "tasks")
        if isinstance(source, str | Path):
            module = sys.modules.get(self.cls.__module__)
            file = getattr(module, "__file__", None)
            return read_tasks(source, Path(file).parent if file else None)
        if not callable(source) and not isinstance(source, staticmethod | classmethod | property):
            return self._listed(source)
        instance: Any = self.cls
        sandboxes: list[Sandbox] = []
        try:
            if not isinstance(source, staticmethod | classmethod):
                instance = self.make(None, lambda: _kept(sandboxes, self._make_sandbox()))
            given = instance.tasks
            given = given() if callable(given) else given
            return given if _are_rows(given) else self._listed(given)
        except (SuiteError, SandboxFailure, SandboxUnavailable):
            raise
        except Exception as error:
            raise SuiteError(
                f"{self.name}: tasks raised {type(error).__name__}: {error}"
            ) from error
        finally:
            for sandbox in sandboxes:
                sandbox.close()

    def _listed(self, given: Any) -> list[Row]:
        if not isinstance(given, Iterable) or isinstance(given, str | Mapping):
            raise SuiteError(
                f"{self.name}: tasks is a {type(given).__name__}; make it a task file's path, a "
                "list of dicts, or a method that yields them"
            )
        rows = []
        for number, fields in enumerate(given, 1):
            where = f"{self.name} task {number}"
            if not isinstance(fields, Mapping):
                raise SuiteError(f"{where}: {fields!r:.60} is no dict of reset's parameters")
            rows.append(Row(where, dict(fields)))
        return rows

    def _task(self, row: Row) -> Task:
        fields = dict(row.fields)
        family: Any = fields.get("family", self.cls.__name__)
        if "family" not in inspect.signature(self.cls.reset).parameters:
            fields.pop("family", None)
        if not isinstance(family, str) or not family:
            raise SuiteError(f"{row.where}: field family is {family!r}, not a text")
        try:
            values = self.arguments.validate_python(fields)
            # As JSON has them: the same task has the same id, whichever kind of file it is from.
            data = self.arguments.dump_python(values, mode="json", warnings=False)
            json.dumps(data, allow_nan=False).encode()
        except ValidationError as error:
            takes = [p for p in inspect.signature(self.cls.reset).parameters
                     if p != "self" and p not in SUPPLIED]  # fmt: skip
            known = f"; reset takes: {', '.join(takes)}" if _unknown(error) else ""
            raise SuiteError(f"{row.where}: {complaint(error, 'field')}{known}") from None
        except ValueError as error:
            raise SuiteError(f"{row.where}: JSON cannot hold it: {error}") from None
        for name, value in values.items():
            if is_mistaken_bool(fields.get(name), value):
                raise SuiteError(f"{row.where}: field {name} is {fields[name]!r}, not a number")
        # Never the other fields: they may hold the answer.
        prompt = str(values.get(self.prompt_field, "") if self.prompt_field else "") or family
        return Task(suite=self.name, family=family, prompt=clean(prompt), data=data)


class PlainEnvironment:
    """One episode with an instance of a plain class.

    Args:
        suite: the class's suite.
        task: the task; its data are the arguments of ``reset``.
    """

    def __init__(self, suite: PlainSuite, task: Task) -> None:
        self._suite, self._task = suite, task
        self._world: Any = None
        self._sandboxes: list[Sandbox] = []
        self._turn = self._exceptions = 0
        self._over = False

    @property
    def tools(self) -> Sequence[Tool]:
        """The class's documented methods."""
        return self._suite.tools

    @property
    def seconds(self) -> float:
        """Longest call; ``environments.watch`` holds it."""
        return self._suite.seconds

    @property
    def valid_actions(self) -> Sequence[str]:
        """All that can be done now; nothing where the class does not say."""
        return _texts("valid_actions", self._ask("valid_actions", ())) if self._world else ()

    def start(self) -> str:
        """Make the instance and begin the task."""
        if self._world is not None or self._over:
            raise EnvironmentFailure("an environment is used once: make a new one")
        suite = self._suite
        try:
            fields = suite.arguments.validate_python(self._task.data)
        except ValidationError as error:
            raise EnvironmentFailure(f"task {self._task.id}: {complaint(error, 'field')}") from None
        self._world = self._guard("__init__", lambda: suite.make(self._task, self._sandbox))
        takes = inspect.signature(self._world.reset).parameters
        more = supplied(takes, self._task, self._sandbox)
        first = self._guard("reset", lambda: self._world.reset(**fields, **more))
        if first is None and suite.first_field in self._task.data:
            return self._task.prompt
        if not isinstance(first, str) or not first:
            raise EnvironmentFailure(
                f"reset returned {first!r:.80}, not the first observation (or, if a parameter "
                "holds that, name it: prompt = 'question')"
            )
        return clean(first)

    def step(self, action: Action) -> StepResult:
        """Carry out one call.

        Raises:
            EnvironmentFailure: the class itself failed, or the episode is over.
        """
        if self._world is None or self._over:
            raise EnvironmentFailure("the episode is not running: start it once, step, close")
        error: str | None = "no call"
        if action.tool is None:
            text = f"No call found. Write one such as {usage(self.tools[0])}"
        else:
            text, error, unexpected = call(self._world, action.tool, action.arguments)
            self._exceptions += unexpected is not None
        self._turn += 1
        done = bool(self._ask("done", False))
        self._over = done or self._turn >= self._suite.briefing.turns
        return StepResult(
            observation=text,
            reward=self._reward(),
            terminated=done,
            truncated=self._over and not done,
            error=error,
            metrics=self._metrics(),
        )

    def close(self) -> None:
        """Close the instance and its sandbox; safe to call twice."""
        self._over = True
        world, self._world = self._world, None
        sandboxes, self._sandboxes = self._sandboxes, []
        try:
            if world is not None and callable(getattr(world, "close", None)):
                world.close()
        finally:
            for sandbox in sandboxes:
                sandbox.close()

    def state(self) -> JsonValue:
        """What the class's ``state`` says; None where it has none."""
        return self._ask("state") if hasattr(self._suite.cls, "state") else None

    def gold(self) -> list[str]:
        """The class's own solution, from here."""
        return _texts("gold", self._ask("gold"))

    def _sandbox(self) -> Sandbox:
        return _kept(self._sandboxes, self._suite._make_sandbox())

    def _ask(self, name: str, *default: Any) -> Any:
        """An attribute's value, or what the method of that name returns."""

        def ask() -> Any:
            given = getattr(self._world, name, *default)
            return given() if callable(given) else given

        return self._guard(name, ask)

    def _reward(self) -> float:
        reward = self._ask("reward")
        if isinstance(reward, bool):
            return float(reward)
        try:
            value = float(reward)
        except (TypeError, ValueError):
            value = math.nan
        if not -ROUNDING <= value <= 1 + ROUNDING:
            raise EnvironmentFailure(f"reward returned {reward!r:.80}, not a number from 0 to 1")
        return min(max(value, 0.0), 1.0)

    def _metrics(self) -> dict[str, float]:
        metrics = self._ask("metrics", {})
        try:
            numbers = TypeAdapter(dict[str, float]).validate_python(metrics)
        except ValidationError:
            raise EnvironmentFailure(
                f"metrics returned {metrics!r:.80}, not a dict of numbers by name"
            ) from None
        if self._exceptions:
            numbers["tool_exceptions"] = self._exceptions
        return numbers

    def _guard(self, name: str, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except (EnvironmentFailure, SandboxFailure, SandboxUnavailable):
            raise
        except Exception as error:
            told = f"{name} raised {type(error).__name__}: {error}"
            raise EnvironmentFailure(told) from error


def supplied(
    takes: Mapping[str, Any], task: Task | None, sandbox: Callable[[], Sandbox]
) -> dict[str, Any]:
    """Those of the parameters that are given per episode: a sandbox, a seed."""
    given: dict[str, Any] = {}
    if "seed" in takes:
        given["seed"] = int(task.id, 16) % 2**32 if task is not None else 0
    if "sandbox" in takes:
        given["sandbox"] = sandbox()
    return given


def _kept(sandboxes: list[Sandbox], sandbox: Sandbox) -> Sandbox:
    sandboxes.append(sandbox)
    return sandbox


def _docstring(cls: type) -> str:
    """A class's docstring, or that of the environment it inherits from (not of ``abc.ABC``)."""
    docs = (vars(base).get("__doc__") for base in cls.__mro__ if hasattr(base, "reset"))
    return inspect.cleandoc(next((doc for doc in docs if isinstance(doc, str)), ""))


def _attribute(cls: type, name: str, default: Any, kind: Any) -> Any:
    value = getattr(cls, name, default)
    try:
        checked = TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise SuiteError(f"{cls.__name__}.{name} is {value!r:.60}: {message}") from None
    if isinstance(checked, int | float) and not 0 < checked < math.inf:
        raise SuiteError(f"{cls.__name__}.{name} is {value!r}; it must be above 0")
    return checked


def _prompt_fields(cls: type[PlainClass]) -> tuple[str | None, str | None]:
    """The task's field that holds the first observation, and the one it is looked up by."""
    parameters = inspect.signature(cls.reset).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    texts = [p.name for p in parameters.values()
             if p.annotation in (str, "str") and p.name not in SUPPLIED]  # fmt: skip
    usual = "prompt" if "prompt" in parameters or (takes_all and not texts) else None
    named = getattr(cls, "prompt", usual)
    if named is None:
        return None, next(iter(texts), None)
    if not isinstance(named, str) or (named not in {*parameters, "family"} and not takes_all):
        raise SuiteError(f"{cls.__name__}.prompt is {named!r}, not a parameter of reset")
    return named, named


def _texts(name: str, given: Any) -> list[str]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise EnvironmentFailure(f"{name} returned {given!r:.80}, not a list of texts")
    texts = list(given)
    if not all(isinstance(text, str) and text for text in texts):
        raise EnvironmentFailure(f"{name} returned {texts!r:.80}, not a list of texts")
    return texts


def _are_rows(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and all(isinstance(row, Row) for row in given)


def _unknown(error: ValidationError) -> bool:
    return any(problem["type"] == "extra_forbidden" for problem in error.errors())
