"""Documented, typed Python methods as tools: schema, validation, and errors as observations."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import re
import typing
from collections.abc import Iterator, Mapping
from types import MethodType
from typing import Annotated, Any, NamedTuple

import typing_extensions
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import to_jsonable_python

from environments.base import EnvironmentFailure, SuiteError, Tool
from environments.calls import PYTHON_MEDIA, clean, cut, parse_call, read_action, write_call
from environments.sandbox.base import SandboxFailure, SandboxUnavailable

__all__ = [
    "RESERVED",
    "Called",
    "PythonCode",
    "ShellCode",
    "SqlCode",
    "ToolError",
    "as_text",
    "call",
    "complaint",
    "fields_of",
    "parse_call",
    "read_action",
    "tools_of",
    "undocumented",
    "usage",
    "write_call",
]

PythonCode = Annotated[str, Field(json_schema_extra={"contentMediaType": PYTHON_MEDIA})]
SqlCode = Annotated[str, Field(json_schema_extra={"contentMediaType": "application/sql"})]
ShellCode = Annotated[str, Field(json_schema_extra={"contentMediaType": "text/x-shellscript"})]

# Public names of a plain environment that are no tools.
RESERVED = frozenset(
    {"reset", "reward", "close", "done", "tasks", "gold", "metrics", "valid_actions", "state"}
)
MAX_OBSERVATION = 4000  # characters of an observation
MAX_ERROR = 300
# These say that the world broke, whatever the agent did.
BROKEN = (EnvironmentFailure, SandboxFailure, SandboxUnavailable, MemoryError)
# Of operating system errors, these are about a path that a tool was given.
_PATH_ERRORS = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


class ToolError(ValueError):
    """A tool refuses what the agent asked; the message is the observation.

    Raise it before anything is changed: an observation with an error says that nothing was.
    """


class Called(NamedTuple):
    """What came of a call: the observation, what was wrong, and an exception not foreseen."""

    text: str
    error: str | None = None
    unexpected: Exception | None = None


def tools_of(world: object) -> list[Tool]:
    """The tools of an object or class: its public methods with a docstring, in their order.

    Args:
        world: an instance or a class; base classes' methods count too, and so do static and class
            methods, and the docstring of what a method overrides. The names in ``RESERVED``, and
            names that begin with an underscore, are no tools.

    Raises:
        SuiteError: a parameter without a type, or with one that JSON cannot hold.
    """
    return [made.tool for made in _made(_class(world)).values()]


def undocumented(world: object) -> list[str]:
    """Public methods that are no tools because they have no docstring."""
    cls = _class(world)
    return [name for name, _ in _methods(cls) if not _docstring(cls, name)]


def call(world: object, name: str, arguments: Mapping[str, Any]) -> Called:
    """Call a tool. Whatever the agent did wrong is told in ``error``, never raised.

    Arguments are converted where that loses nothing (``"3"`` to 3). ``ToolError`` is the tool's
    own refusal. Any other exception of the tool is an observation as well, since otherwise an
    agent could void an episode that it is about to lose; it is in ``unexpected``, to be counted.

    Raises:
        EnvironmentFailure, SandboxFailure, SandboxUnavailable: the world broke; an operating
            system error that is not about a path, and a lack of memory, count as that.
    """
    made = _made(_class(world))
    if name not in made:
        offered = ", ".join(usage(tool.tool) for tool in made.values())
        return Called(f"Unknown tool {clean(name)[:50]!r}. Tools: {offered}", "unknown tool")
    tool, fields = made[name].tool, made[name].arguments
    try:
        values = fields.validate_python(dict(arguments))
    except ValidationError as error:
        told = complaint(error, "argument")
        return Called(f"Error: {told}. Usage: {usage(tool)}", "bad arguments")
    for argument, value in values.items():
        if is_mistaken_bool(arguments.get(argument), value):
            given = cut(ascii(arguments[argument]), 60)
            text = f"Error: argument {argument} is {given}, not a valid number"
            return Called(f"{text}. Usage: {usage(tool)}", "bad arguments")
    try:
        result = getattr(world, name)(**values)
    except ToolError as error:
        return Called(cut(clean(f"Error: {error}"), MAX_ERROR), "ToolError")
    except BROKEN as error:
        if isinstance(error, MemoryError):
            raise EnvironmentFailure(f"{name} ran out of memory") from error
        raise
    except Exception as error:
        kind = type(error).__name__
        if isinstance(error, OSError) and not isinstance(error, _PATH_ERRORS):
            raise EnvironmentFailure(f"{name} raised {kind}: {error}") from error
        return Called(cut(clean(f"Error: {kind}: {error}"), MAX_ERROR), kind, error)
    return Called(as_text(result))


def usage(tool: Tool) -> str:
    """How a tool is called: ``search(query: string, limit: integer = 5)``."""
    shown = []
    for name, schema in tool.properties.items():
        schema = schema if isinstance(schema, dict) else {}
        options, kind = schema.get("enum"), schema.get("type")
        if isinstance(options, list):
            kind = " | ".join(json.dumps(option) for option in options)
        default = f" = {json.dumps(schema['default'])}" if "default" in schema else ""
        shown.append(f"{name}: {kind}{default}" if isinstance(kind, str) else f"{name}{default}")
    return f"{tool.name}({', '.join(shown)})"


def as_text(result: object) -> str:
    """What a tool returned, as an observation: text as it is, structures as JSON."""
    if result is None:
        return "Done."
    if isinstance(result, Mapping | list | tuple | set | frozenset | BaseModel) or (
        dataclasses.is_dataclass(result) and not isinstance(result, type)
    ):
        plain = to_jsonable_python(result, fallback=str, serialize_unknown=True)
        result = json.dumps(plain, ensure_ascii=False)
    return cut(clean(str(result)), MAX_OBSERVATION) or "(empty)"


def complaint(error: ValidationError, what: str) -> str:
    """A validation error in one line; ``what`` is what each item is (argument, field)."""
    told = []
    for problem in error.errors(include_url=False, include_context=False)[:3]:
        name = "".join(f"[{part}]" if i else str(part) for i, part in enumerate(problem["loc"]))
        match problem["type"]:
            case "missing":
                told.append(f"{what} {name} is missing")
            case "extra_forbidden":
                told.append(f"unknown {what} {name[:50]!r}")
            case _:
                message = problem["msg"].removeprefix("Input should be ")
                given = cut(ascii(problem["input"]), 60)
                told.append(f"{what} {name} is {given}, not {message}" if message != problem["msg"]
                            else f"{what} {name} is {given}: {message}")  # fmt: skip
    return "; ".join(told)


def fields_of(
    method: Any, described: str, ignore: frozenset[str] = frozenset()
) -> TypeAdapter[dict[str, Any]]:
    """A validator of a method's arguments by name.

    Args:
        method: a function whose first parameter is ``self``, or a bound method.
        described: what to call it in messages.
        ignore: parameters that others supply; with any, ``**fields`` takes all other names.

    Raises:
        SuiteError: a parameter without a type, of a type JSON cannot hold, or without a name.
    """
    try:
        hints = typing.get_type_hints(method, include_extras=True)
    except Exception as error:
        raise SuiteError(f"{described}: its types cannot be read: {error}") from None
    fields: dict[str, Any] = {}
    extra: typing.Literal["allow", "forbid"] = "forbid"
    for parameter in _parameters(method):
        name = parameter.name
        if name in ignore:
            continue
        if parameter.kind is parameter.VAR_KEYWORD and ignore:
            extra = "allow"
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise SuiteError(f"{described}: parameter {parameter} cannot be given by name")
        if name not in hints:
            raise SuiteError(f"{described}: parameter {name} has no type; write {name}: str, say")
        kind = hints[name]
        fields[name] = kind if parameter.default is parameter.empty else typing.NotRequired[kind]
    typed_dict: Any = typing_extensions.TypedDict
    made = typed_dict("Arguments", fields)
    made.__pydantic_config__ = ConfigDict(
        extra=extra, coerce_numbers_to_str=True, allow_inf_nan=False
    )
    try:
        adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(made)
        adapter.json_schema()
    except (PydanticUserError, TypeError) as error:
        line = str(error).splitlines()[0]
        raise SuiteError(f"{described}: a parameter has a type JSON cannot hold: {line}") from None
    return adapter


def is_mistaken_bool(given: Any, value: Any) -> bool:
    """Whether a number was made of True or False, which says that the caller mistook something."""
    if isinstance(given, bool):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(given, Mapping) and isinstance(value, Mapping):
        return any(is_mistaken_bool(given[key], value[key]) for key in given.keys() & value.keys())
    if isinstance(given, list | tuple) and isinstance(value, list | tuple):
        return any(map(is_mistaken_bool, given, value))
    return False


def _parameters(method: Any) -> list[inspect.Parameter]:
    """A method's parameters without ``self``."""
    parameters = list(inspect.signature(method).parameters.values())
    return parameters[1:] if inspect.isfunction(method) else parameters


class _Made(NamedTuple):
    tool: Tool
    arguments: TypeAdapter[dict[str, Any]]


@functools.lru_cache(maxsize=256)
def _made(cls: type) -> dict[str, _Made]:
    made = {}
    for name, method in _methods(cls):
        doc = _docstring(cls, name)
        if not doc:
            continue
        described = f"{cls.__name__}.{name}"
        function = inspect.unwrap(method)
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise SuiteError(f"{described} is async; tools are plain methods (def)")
        arguments = fields_of(method, described)
        schema = _without_titles(arguments.json_schema())
        properties = schema.setdefault("properties", {})
        notes = _arguments_section(doc)
        for parameter in _parameters(method):
            shown = properties[parameter.name]
            if parameter.name in notes:
                shown.setdefault("description", notes[parameter.name])
            if parameter.default is not parameter.empty:
                with contextlib.suppress(ValueError):  # not JSON: it is not shown
                    shown.setdefault("default", to_jsonable_python(parameter.default))
        tool = Tool(name=name, description=_summary(doc), parameters=schema)
        made[name] = _Made(tool, arguments)
    return made


def _class(world: object) -> type:
    return world if isinstance(world, type) else type(world)


def _methods(cls: type) -> Iterator[tuple[str, Any]]:
    """Public functions of a class and its bases; a method that is overridden keeps its place."""
    names = dict.fromkeys(name for base in reversed(cls.__mro__[:-1]) for name in vars(base))
    for name in names:
        method = inspect.getattr_static(cls, name)
        if name.startswith("_") or name in RESERVED:
            continue
        if isinstance(method, classmethod):
            method = getattr(cls, name)  # bound, so its signature is without cls
        # A static method keeps its wrapper: it has no self to leave out.
        if inspect.isfunction(method) or isinstance(method, staticmethod | MethodType):
            yield name, method


def _docstring(cls: type, name: str) -> str:
    """A method's docstring, or that of the method which it overrides."""
    for base in cls.__mro__:
        doc = getattr(vars(base).get(name), "__doc__", None)
        if isinstance(doc, str) and doc.strip():
            return inspect.cleandoc(doc)
    return ""


_SECTION = re.compile(
    r"^(Args|Arguments|Parameters|Returns?|Raises|Yields|Examples?|Notes?):[ \t]*$", re.MULTILINE
)
_SPHINX = re.compile(r"^:(?:param|parameter|arg)\s+(?:[^:]*\s)?(\w+):[ \t]*(.*)$", re.MULTILINE)
_ARGUMENT = re.compile(r"^(\w+)[ \t]*(?:\([^)]*\))?:[ \t]*(.*)$")


def _summary(doc: str) -> str:
    """What stands before the sections of a docstring, in one line."""
    ends = [match.start() for match in (_SECTION.search(doc), re.search(r"^:\w+", doc, re.M))
            if match]  # fmt: skip
    return " ".join(doc[: min(ends, default=len(doc))].split())


def _arguments_section(doc: str) -> dict[str, str]:
    """What a docstring says of each parameter (Google's ``Args:`` or Sphinx's ``:param x:``)."""
    notes = {name: " ".join(text.split()) for name, text in _SPHINX.findall(doc)}
    inside, name, margin = False, "", 0
    for line in doc.splitlines():
        if heading := _SECTION.match(line):
            inside, name, margin = heading[1] in ("Args", "Arguments", "Parameters"), "", 0
        elif inside and line.strip():
            indent = len(line) - len(line.lstrip())
            if not indent:
                inside = False
                continue
            margin = margin or indent
            found = _ARGUMENT.match(line.strip())
            if indent <= margin and found:
                name = found[1]
                notes[name] = found[2].strip()
            elif name:
                notes[name] = f"{notes[name]} {line.strip()}".strip()
    return notes


def _without_titles(schema: Any) -> Any:
    """A schema without pydantic's titles, which say the names again."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key == "title" and isinstance(value, str):
            continue
        if key in ("properties", "$defs"):  # here the keys are names
            kept[key] = {name: _without_titles(item) for name, item in value.items()}
        else:
            kept[key] = value if key in ("default", "enum", "const") else _without_titles(value)
    return kept
