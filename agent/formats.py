"""How the policy writes an action: chosen by what tools an environment offers.

* one tool that takes one text in a language: a fenced code block;
* one tool that takes one text: a line (or all of the text, where the parameter's
  ``contentMediaType`` is ``text/plain``);
* anything else: a call, ``search(query="red shoes")``.

``environments.calls.read_action`` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from environments.base import Tool
from environments.calls import WHOLE, sole_text_parameter

LANGUAGES = {  # by media type: how fences name it, how people do
    "text/x-python": ("python", "Python"),
    "application/sql": ("sql", "SQL"),
    "text/x-shellscript": ("bash", "Bash"),
}


class Format(NamedTuple):
    """One way to write actions.

    Args:
        tools: what the agent is told about its tools.
        begin: what every turn begins with; given, not generated, so it bears no loss: the tool
            is always called, no turn is lost to prose.
        stop: texts that end a turn.
    """

    tools: str
    begin: str = ""
    stop: tuple[str, ...] = ()


def format_of(tools: Sequence[Tool]) -> Format:
    """The format for an environment's tools."""
    parameter = sole_text_parameter(tools[0]) if len(tools) == 1 else None
    if parameter is None:
        described = "\n".join(map(describe_tool, tools))
        return Format(f"Reply only with a call of one of these tools:\n{described}", "", ("\n",))
    media, description = parameter[1], tools[0].description
    if media in LANGUAGES:
        fence, language = LANGUAGES[media]
        return Format(
            f"You have a {language} tool. Reply only with a code block:\n"
            f"```{fence}\n...\n```\n{description}",
            begin=f"```{fence}\n",
            stop=("\n```\n",),
        )
    return Format(description, stop=() if media == WHOLE else ("\n",))


def describe_tool(tool: Tool) -> str:
    """One line: the call with its parameters' types, and what it does."""
    properties = tool.parameters.get("properties")
    required = tool.parameters.get("required")
    needed = required if isinstance(required, list) else []
    parameters = [
        f"{name}: {_type(schema)}{' = …' if name not in needed else ''}"
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
