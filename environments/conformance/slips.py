"""Slips of a plain class that no episode shows: misspelt names, what memory looks tasks up by."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from environments.base import Suite, Task
from environments.plain import PlainSuite
from environments.tools import RESERVED, undocumented

_VALUES: dict[str, type | tuple[type, ...]] = {
    "turns": int, "seconds": (int, float), "max_new_tokens": int, "example": (tuple, list),
    "prompt": str, "name": str, "description": str, "done": bool,
    "abilities": (tuple, list, dict, str),
}  # fmt: skip
_OTHER_NAMES = {"max_turns": "turns", "max_tokens": "max_new_tokens", "timeout": "seconds"}
_ALIKE = 0.85


def misspelt(cls: type) -> Iterator[tuple[str, str]]:
    """Attributes of a class that look like a known one which it does not have: both names."""
    has = {name for base in cls.__mro__[:-1] for name in vars(base)}
    for name in sorted(name for name in has if not name.startswith("_")):
        if name in RESERVED or name in _VALUES:
            continue
        value = inspect.getattr_static(cls, name)
        is_method = inspect.isroutine(value) or isinstance(value, staticmethod | classmethod)
        fitting = [known for known in {*_VALUES, *RESERVED} - has if _fits(known, value, is_method)]
        close = difflib.get_close_matches(name.lower(), sorted(fitting), 1, _ALIKE)
        if not close and _OTHER_NAMES.get(name) in fitting:
            close = [_OTHER_NAMES[name]]
        if close:
            yield name, close[0]


def _fits(known: str, value: Any, is_method: bool) -> bool:
    if is_method:
        return known in RESERVED
    kind = _VALUES.get(known)
    if kind is None or (isinstance(value, bool) and kind is not bool):
        return False
    # A turn = 0 is a count of the class's own.
    return isinstance(value, kind) and (kind is bool or value != 0)


def lacking(suite: Suite, text: str) -> bool:
    """Whether a text calls a method that is no tool because it has no docstring."""
    if not isinstance(suite, PlainSuite):
        return False
    return any(re.search(rf"\b{name}\b", text) for name in undocumented(suite.cls))


def not_seen(suite: Suite, task: Task, first: str) -> str | None:
    """What is wrong if memory looks a task up by a text that the agent does not see.

    Args:
        suite: its suite; of a plain class, otherwise nothing is known of its fields.
        task: the task.
        first: the first observation.
    """
    if not isinstance(suite, PlainSuite) or task.prompt == task.family:
        return None
    if _stands_in(task.prompt, first):
        return None
    seen = [name for name, value in task.data.items()
            if isinstance(value, str) and value and _stands_in(value, first)]  # fmt: skip
    better = max(seen, key=lambda name: len(str(task.data[name])), default="family")
    return (
        f"memory looks tasks up by the field {suite.prompt_field!r}, which the agent does not see "
        f"in the first observation: set `prompt = {better!r}` in the class."
    )


def _stands_in(text: str, first: str) -> bool:
    words, where = (" ".join(one.split()).casefold() for one in (text, first))
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", where) is not None
