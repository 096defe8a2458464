"""Settings that name one of several ways, or a way of one's own by its import path."""

from __future__ import annotations

import difflib
import reprlib
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

T = TypeVar("T", bound=Callable[..., Any])
OURS = ("agent", "environments", "memory")  # packages whose errors say themselves what to do
CHECKED = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)


@dataclass(frozen=True)
class OneOf:
    """Marks a text setting: one of these names, or ``package.module:function``.

    Use it as ``Annotated[str, OneOf(("a", "b"))]``; without names it is always one's own.
    """

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, kind: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(kind))

    def _known(self, value: str) -> str:
        if value in self.names or ":" in value:
            return value
        if not self.names:
            raise ValueError(f"{value!r} is no import path, package.module:function")
        close = difflib.get_close_matches(value, self.names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"one of: {', '.join(self.names)}"
        raise ValueError(f"{value!r} is none of the choices ({hint}), nor package.module:function")


def found(name: str, known: Mapping[str, T], setting: str, returns: Any) -> T:
    """The way that a setting names.

    Args:
        name: one of ``known``, or an import path.
        known: ways by name.
        setting: where it is set, for the error.
        returns: the type of what it is to return (see `own`).

    Raises:
        ConfigError: the import path leads nowhere.
    """
    if name in known:
        return known[name]
    made: T = own(name, setting, returns)
    return made


def own(path: str, setting: str, returns: Any = Any) -> Any:
    """The function at an import path; where it fails, that is told in one line as well.

    Args:
        path: ``package.module:function``.
        setting: where it is set, for the error.
        returns: the type of what it is to return; called, it raises a ConfigError for anything
            else.

    Raises:
        ConfigError: the path leads nowhere, or to something that cannot be called.
    """
    from agent.config import ConfigError

    module, _, attribute = path.partition(":")
    try:
        made = getattr(import_module(module), attribute)
    except Exception as error:  # a module of one's own may raise anything
        told = str(error) if isinstance(error, ImportError | AttributeError) else repr(error)
        raise ConfigError(f"{setting}={path}: cannot be imported: {told}") from error
    if not callable(made):
        raise ConfigError(f"{setting}={path}: is not a function")
    return _guarded(made, f"{setting}={path}", returns)


def _guarded(made: Callable[..., Any], which: str, returns: Any) -> Callable[..., Any]:
    """A function of one's own that fails with one line, and never gives something else."""
    from agent.config import ConfigError

    wanted = TypeAdapter[Any](returns, config=CHECKED)

    @wraps(made)
    def called(*given: Any) -> Any:
        try:
            result = made(*given)
        except Exception as error:
            known = type(error).__module__.partition(".")[0] in OURS
            if known or isinstance(error, FloatingPointError):  # a training that diverged
                raise
            told = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{which}: fails{_place(error, made)}: {told}") from error
        try:
            return wanted.validate_python(result)
        except ValidationError as error:
            first = error.errors()[0]
            where = f" at {'.'.join(map(str, first['loc']))}" if first["loc"] else ""
            name = returns.__qualname__ if isinstance(returns, type) else returns
            raise ConfigError(
                f"{which}: has to return {name}, not {reprlib.repr(first['input'])}{where}"
            ) from error

    return called


def _place(error: Exception, made: Callable[..., Any]) -> str:
    """The last line of the function's own file that an error came through."""
    module = sys.modules.get(getattr(made, "__module__", ""))
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is the call
    frames = [f for f in frames if f.filename == getattr(module, "__file__", "")] or frames
    return f" at {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
