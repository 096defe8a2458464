"""Task suites by name, or by import path (``my_pkg.shop:Shop``), plain classes included."""

from __future__ import annotations

import contextlib
import inspect
import json
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from environments.abilities import tagged
from environments.base import Suite, SuiteError, Task
from environments.plain import SUPPLIED, PlainSuite, is_plain
from environments.sandbox.base import Sandbox, SandboxFailure, SandboxUnavailable

SUITES: dict[str, str] = {
    "banking77": "environments.suites.banking77:Banking77",
    "gsm8k": "environments.suites.gsm8k:Gsm8k",
    "gymnasium": "environments.adapters.gymnasium:Gymnasium",
    "household": "environments.suites.household:Household",
    "humaneval": "environments.suites.code:HumanEval",
    "jsonl-code": "environments.suites.code:JsonlCode",
    "lifelong-db": "environments.suites.lifelong_db:LifelongDb",
    "lifelong-os": "environments.suites.lifelong_os:LifelongOs",
    "mbpp": "environments.suites.code:Mbpp",
    "mcp": "environments.adapters.mcp:Mcp",
    "miniwob": "environments.suites.miniwob:MiniWob",
    "openenv": "environments.adapters.openenv:OpenEnv",
    "reasoning-gym": "environments.suites.reasoning_gym:ReasoningGym",
    "scienceworld": "environments.suites.scienceworld:ScienceWorld",
    "spider": "environments.suites.spider:Spider",
    "textworld-express": "environments.suites.textworld_express:TextWorldExpress",
    "triplets": "environments.suites.triplets:Triplets",
    "verifiers": "environments.adapters.verifiers:Verifiers",
}
SUITE_PARTS = ("name", "description", "briefing", "tasks", "environment")


def suite_names() -> list[str]:
    """Names of the shipped suites, sorted."""
    return sorted(SUITES)


def describe_suites(name: str | None = None) -> list[dict[str, Any]]:
    """Name, description, abilities and options (with defaults) of the shipped suites, or of one.

    Raises:
        SuiteError: no suite has that name.
    """
    described, tags = [], tagged()
    for each in suite_names() if name is None else [name]:
        make = _find(each)
        parameters = inspect.signature(make).parameters.values()
        about = getattr(make, "description", None) or inspect.getdoc(make) or ""
        described.append(
            {
                "name": each,
                "description": about.partition("\n")[0],
                "abilities": tags.get(each, []),
                "options": {
                    p.name: _jsonable(p.default) for p in parameters if p.name != "sandbox"
                },
            }
        )
    return described


def _jsonable(default: Any) -> Any:
    """A default as JSON has it; what has none is required."""
    return "required" if default is inspect.Parameter.empty else to_jsonable_python(default)


def load_suite(
    name: str,
    *,
    sandbox: Callable[[], Sandbox],
    options: Mapping[str, JsonValue] = {},
) -> Suite:
    """Make a suite.

    Args:
        name: a shipped suite, or the import path ``package.module:Class`` of your own: a suite,
            or a plain class (``environments.plain``).
        sandbox: makes a sandbox; passed on where the suite's constructor takes ``sandbox``.
        options: the constructor's other arguments; values must have the annotated types.

    Raises:
        SuiteError: an unknown name or option, a value of the wrong type; or a suite of your own
            raised something, or its tasks are none.
    """
    make = _find(name)
    given: dict[str, Any] = {}
    accepted = _options(name, make)
    supplied = SUPPLIED if is_plain(make) else {"sandbox"}
    supplied = {option for option in supplied if accepted.pop(option, None) is not None}
    for option, value in options.items():
        if option not in accepted:
            raise SuiteError(
                f"suite {name}: unknown option {option!r}; options: {', '.join(accepted) or 'none'}"
            )
        given[option] = _checked(name, option, value, accepted[option])
    try:
        inspect.signature(make).bind(**given, **dict.fromkeys(supplied))
    except TypeError as error:
        raise SuiteError(f"suite {name}: {error}; options: {', '.join(accepted)}") from None
    if is_plain(make):
        return PlainSuite(make, sandbox=sandbox, options=given)
    with _told(name, "making it"):
        suite = make(**given, **dict.fromkeys(supplied, sandbox))
        lacks = [part for part in SUITE_PARTS if not hasattr(suite, part)]
    if not isinstance(suite, Suite):
        raise SuiteError(
            f"suite {name}: {type(suite).__name__} is no suite, it has no {', '.join(lacks)}; a "
            "suite needs name, description, briefing, tasks() and environment(task), a plain "
            "class tasks, reset(), reward() and documented methods"
        )
    if name not in SUITES:
        _look_at_tasks(name, suite)
    return suite


@contextlib.contextmanager
def _told(name: str, what: str) -> Iterator[None]:
    """Whatever a suite of one's own raises is told in one line; a shipped one's is our defect."""
    try:
        yield
    except (SuiteError, SandboxFailure, SandboxUnavailable):
        raise
    except Exception as error:
        if name in SUITES:
            raise
        raise SuiteError(f"suite {name}: {what} raised {type(error).__name__}: {error}") from error


def _look_at_tasks(name: str, suite: Suite) -> None:
    """Whether ``tasks()`` of a suite of one's own gives tasks."""
    with _told(name, "tasks()"):
        given: Any = suite.tasks()
        tasks = list(given) if isinstance(given, Iterable) else [given]
    if wrong := [task for task in tasks if not isinstance(task, Task)]:
        raise SuiteError(
            f"suite {name}: tasks() gave {wrong[0]!r:.60}, which is no Task (environments.base)"
        )


def _find(name: str) -> Callable[..., Any]:
    path = SUITES.get(name, name)
    module_name, colon, attribute = path.partition(":")
    if not colon:
        raise SuiteError(
            f"unknown suite {name!r}; choose one of: {', '.join(suite_names())}; or give the "
            "import path of your own (package.module:Class)"
        )
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:  # a module of one's own may raise anything
        told = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise SuiteError(f"suite {name}: cannot import {module_name!r}: {told}") from error
    found = getattr(module, attribute, None)
    if found is None:
        public = [n for n, v in vars(module).items()
                  if inspect.isclass(v) and v.__module__ == module_name]  # fmt: skip
        raise SuiteError(
            f"suite {name}: {module_name} has no {attribute!r}; its classes: "
            f"{', '.join(public) or 'none'}"
        )
    if not callable(found):
        raise SuiteError(f"suite {name}: {attribute!r} is not a class or function")
    return typing.cast(Callable[..., Any], found)


def _options(name: str, make: Callable[..., Any]) -> dict[str, Any]:
    """The constructor's parameters and the types of their values."""
    target = make.__init__ if inspect.isclass(make) else make
    try:
        hints = typing.get_type_hints(target)
        parameters = inspect.signature(make).parameters.values()
    except Exception as error:  # annotations may be any expression; some builtins have no signature
        raise SuiteError(f"suite {name}: its annotations cannot be read: {error}") from None
    return {
        parameter.name: hints.get(parameter.name, Any)
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _checked(name: str, option: str, value: JsonValue, kind: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        where = "".join(f"[{part}]" for part in problem["loc"])
        raise SuiteError(
            f"suite {name}: option {option}{where} is {json.dumps(problem['input'])}: "
            f"{problem['msg']}"
        ) from None
