"""How the policy writes an action: chosen by what tools an environment offers.

* one tool that takes one text in a language: a fenced code block;
* one tool that takes one text: a line (or all of the text, where the parameter's
  ``contentMediaType`` is ``text/plain``);
* anything else: a call, ``search(query="red shoes")``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from environments.base import Action, Tool
from environments.tools import parse_call

LANGUAGES = {  # by media type: how fences name it, how people do
    "text/x-python": ("python", "Python"),
    "application/sql": ("sql", "SQL"),
    "text/x-shellscript": ("bash", "Bash"),
    "text/javascript": ("javascript", "JavaScript"),
}
_FENCE = re.compile(r"```[\w+-]*[ \t]*\n(.*?)(?:\n?```|\Z)", re.DOTALL)


class Format(NamedTuple):
    """One way to write actions.

    Args:
        tools: what the agent is told about its tools.
        begin: what every turn begins with; given, not generated, so it bears no loss: the tool
            is always called, no turn is lost to prose.
        stop: texts that end a turn.
        parse: the action in a turn's whole text.
    """

    tools: str
    begin: str
    stop: tuple[str, ...]
    parse: Callable[[str], Action]


def format_of(tools: Sequence[Tool]) -> Format:
    """The format for an environment's tools."""
    single = _text_parameter(tools[0]) if len(tools) == 1 else None
    if single is None:
        return _calls(tools)
    name, media = single
    if media in LANGUAGES:
        return _code(tools[0], name, *LANGUAGES[media])
    return _text(tools[0], name, whole=media == "text/plain")


def _text_parameter(tool: Tool) -> tuple[str, str] | None:
    """Name and media type of a tool's only parameter, where that is a text."""
    properties = tool.parameters.get("properties")
    if not isinstance(properties, dict) or len(properties) != 1:
        return None
    ((name, schema),) = properties.items()
    if not isinstance(schema, dict) or schema.get("type") != "string" or "enum" in schema:
        return None
    return name, str(schema.get("contentMediaType", ""))


def _code(tool: Tool, parameter: str, fence: str, language: str) -> Format:
    def parse(text: str) -> Action:
        match = _FENCE.search(text)
        if match is None or not match.group(1).strip():
            return Action(text=text)
        return Action(text=text, tool=tool.name, arguments={parameter: match.group(1)})

    return Format(
        tools=f"You have a {language} tool. Reply only with a code block:\n"
        f"```{fence}\n...\n```\n{tool.description}",
        begin=f"```{fence}\n",
        stop=("\n```\n",),
        parse=parse,
    )


def _text(tool: Tool, parameter: str, *, whole: bool) -> Format:
    def parse(text: str) -> Action:
        words = text.strip() if whole else next(iter(text.strip().splitlines()), "").strip()
        if not words:
            return Action(text=text)
        return Action(text=text, tool=tool.name, arguments={parameter: words})

    return Format(tools=tool.description, begin="", stop=() if whole else ("\n",), parse=parse)


def _calls(tools: Sequence[Tool]) -> Format:
    def parse(text: str) -> Action:
        call = parse_call(text)
        if call is None:
            return Action(text=text)
        return Action(text=text, tool=call[0], arguments=call[1])

    described = "\n".join(map(describe_tool, tools))
    return Format(
        tools=f"Reply only with a call of one of these tools:\n{described}",
        begin="",
        stop=("\n",),
        parse=parse,
    )


def describe_tool(tool: Tool) -> str:
    """One line: the call with its parameters' types, and what it does."""
    properties = tool.parameters.get("properties")
    required = tool.parameters.get("required")
    optional = set(properties or ()) - set(required or ()) if isinstance(required, list) else set()
    parameters = [
        f"{name}: {_type(schema)}{' = …' if name in optional else ''}"
        for name, schema in (properties.items() if isinstance(properties, dict) else ())
    ]
    summary = " ".join(tool.description.split())
    return f"{tool.name}({', '.join(parameters)}): {summary}"


def _type(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "any"
    if "enum" in schema:
        return " | ".join(map(repr, schema["enum"]))
    names = {"string": "str", "integer": "int", "number": "float", "boolean": "bool",
             "array": "list", "object": "dict", "null": "None"}  # fmt: skip
    if "anyOf" in schema:
        return " | ".join(map(_type, schema["anyOf"]))
    return names.get(str(schema.get("type")), "any")
