"""Settings that name one of several ways, or a way of one's own by its import path."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

T = TypeVar("T")


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


def found(name: str, known: Mapping[str, T], setting: str) -> T:
    """The way that a setting names.

    Args:
        name: one of ``known``, or an import path.
        known: ways by name.
        setting: where it is set, for the error.

    Raises:
        ConfigError: the import path leads nowhere.
    """
    if name in known:
        return known[name]
    made: T = own(name, setting)
    return made


def own(path: str, setting: str) -> Any:
    """The function at an import path.

    Args:
        path: ``package.module:function``.
        setting: where it is set, for the error.

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
    return made
