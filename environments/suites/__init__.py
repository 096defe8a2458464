"""Task suites by name, or by import path (``my_pkg.shop:Shop``)."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError

from environments.base import Suite, SuiteError
from environments.sandbox.base import Sandbox

SUITES: dict[str, str] = {
    "household": "environments.suites.household:Household",
    "reasoning-gym": "environments.suites.reasoning_gym:ReasoningGym",
    "scienceworld": "environments.suites.scienceworld:ScienceWorld",
    "textworld-express": "environments.suites.textworld_express:TextWorldExpress",
}


def suite_names() -> list[str]:
    """Names of the shipped suites, sorted."""
    return sorted(SUITES)


def describe_suites() -> list[dict[str, Any]]:
    """Name, description and options (with their defaults, as text) of the shipped suites."""
    described = []
    for name in suite_names():
        make = _find(name)
        parameters = inspect.signature(make).parameters.values()
        described.append(
            {
                "name": name,
                "description": getattr(make, "description", make.__doc__),
                "options": {p.name: str(p.default) for p in parameters if p.default is not p.empty},
            }
        )
    return described


def load_suite(
    name: str,
    *,
    sandbox: Callable[[], Sandbox],
    options: Mapping[str, JsonValue] = {},
) -> Suite:
    """Make a suite.

    Args:
        name: a shipped suite, or the import path ``package.module:Class`` of your own.
        sandbox: makes a sandbox; passed on where the suite's constructor takes ``sandbox``.
        options: the constructor's other arguments; values must have the annotated types.

    Raises:
        SuiteError: an unknown name or option, or a value of the wrong type.
    """
    make = _find(name)
    given: dict[str, Any] = {}
    accepted = _options(name, make)
    if "sandbox" in accepted:
        del accepted["sandbox"]
        given["sandbox"] = sandbox
    for option, value in options.items():
        if option not in accepted:
            raise SuiteError(
                f"suite {name}: unknown option {option!r}; options: {', '.join(accepted) or 'none'}"
            )
        given[option] = _checked(name, option, value, accepted[option])
    try:
        inspect.signature(make).bind(**given)
    except TypeError as error:
        raise SuiteError(f"suite {name}: {error}; options: {', '.join(accepted)}") from None
    suite = make(**given)
    if not isinstance(suite, Suite):
        raise SuiteError(
            f"suite {name}: {type(suite).__name__} is no suite; it needs name, description, "
            "tasks() and environment(task)"
        )
    return suite


def _find(name: str) -> Callable[..., Any]:
    path = SUITES.get(name, name)
    module_name, colon, attribute = path.partition(":")
    if not colon:
        raise SuiteError(
            f"unknown suite {name!r}; choose one of: {', '.join(suite_names())}; or give the "
            "import path of your own (package.module:Class)"
        )
    try:
        found = getattr(import_module(module_name), attribute)
    except (ImportError, ValueError) as error:
        raise SuiteError(f"suite {name}: cannot import {module_name!r}: {error}") from error
    except AttributeError:
        public = [n for n, v in vars(import_module(module_name)).items()
                  if inspect.isclass(v) and v.__module__ == module_name]  # fmt: skip
        raise SuiteError(
            f"suite {name}: {module_name} has no {attribute!r}; its classes: "
            f"{', '.join(public) or 'none'}"
        ) from None
    if not callable(found):
        raise SuiteError(f"suite {name}: {attribute!r} is not a class or function")
    return typing.cast(Callable[..., Any], found)


def _options(name: str, make: Callable[..., Any]) -> dict[str, Any]:
    """The constructor's parameters and the types of their values."""
    target = make.__init__ if inspect.isclass(make) else make
    try:
        hints = typing.get_type_hints(target)
    except NameError as error:
        raise SuiteError(f"suite {name}: its annotations cannot be read: {error}") from None
    return {
        parameter.name: hints.get(parameter.name, Any)
        for parameter in inspect.signature(make).parameters.values()
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
