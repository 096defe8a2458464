"""What a policy may do to an environment: what the types suggest, and what nobody should."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from environments.base import Action, Tool
from environments.calls import PYTHON_MEDIA, write_call

# What a weak or hostile policy may send to any environment.
GARBAGE = (
    Action(text=""),
    Action(text="no call here \x00\ud800 \U0001f40d" * 100),
    Action(text="x", tool="no such tool", arguments={"a": 1}),
    Action(text="x", tool=""),
)
WRONG: tuple[Any, ...] = (None, -1, 10**30, 1.5, [], {}, "", "x" * 5000, "\x00\ud800")


def misuse(tools: Sequence[Tool]) -> Iterator[Action]:
    """Every tool with no arguments, and with wrong ones: all of them, and one by one."""
    for tool in tools:
        properties = tool.properties
        yield Action(text="x", tool=tool.name)
        for value in WRONG:
            yield Action(text="x", tool=tool.name, arguments=dict.fromkeys(properties, value))
        if len(properties) < 2:
            continue
        right = {name: plausible(schema, "x") for name, schema in properties.items()}
        for name in properties:
            for value in (-1, 10**30, ""):
                yield Action(text="x", tool=tool.name, arguments=right | {name: value})


def likely(tool: Tool, word: str, known: Mapping[str, Any] = {}) -> Action:
    """A call of a tool with values of the right types.

    Args:
        tool: the tool.
        word: what to give for a text.
        known: values by the parameter's name, where something better is known.
    """
    arguments = {
        name: known.get(name, plausible(schema, word)) for name, schema in tool.properties.items()
    }
    return Action(text=write_call(tool.name, arguments), tool=tool.name, arguments=arguments)


def plausible(schema: Any, word: str) -> Any:
    """A value of the type that a schema names."""
    if not isinstance(schema, dict):
        return word
    if "default" in schema:
        return schema["default"]
    if isinstance(options := schema.get("enum"), list) and options:
        return options[0]
    if isinstance(options := schema.get("anyOf"), list) and options:
        return plausible(options[0], word)
    code = {PYTHON_MEDIA: "print(1)", "application/sql": "select 1",
            "text/x-shellscript": "echo 1"}  # fmt: skip
    values = {"integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}, "null": None}
    word = code.get(str(schema.get("contentMediaType")), word)
    return values.get(str(schema.get("type")), word)
