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
from environments.calls import LANGUAGES, WHOLE, sole_text_parameter


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
        language, fence = LANGUAGES[media].name, LANGUAGES[media].fences[0]
        return Format(
            f"You have a {language} tool. Reply only with a code block:\n"
            f"```{fence}\n...\n```\n{description}",
            begin=f"```{fence}\n",
            stop=("\n```\n",),
        )
    return Format(description, stop=() if media == WHOLE else ("\n",))


def describe_tool(tool: Tool) -> str:
    """One line: the call with its parameters' types and defaults, what it and they do."""
    required = tool.parameters.get("required")
    needed = required if isinstance(required, list) else []
    parameters, told = [], [" ".join(tool.description.split())]
    for name, schema in tool.properties.items():
        default = ""
        if name not in needed:
            value = schema.get("default") if isinstance(schema, dict) else None
            default = f" = {value!r}"
        parameters.append(f"{name}: {_type(schema, tool.parameters)}{default}")
        if isinstance(schema, dict) and (about := str(schema.get("description", "")).strip()):
            told.append(f"{name}: {' '.join(about.split())}")
    return f"{tool.name}({', '.join(parameters)}): {' '.join(told)}"


def _type(schema: Any, root: Any, depth: int = 0) -> str:
    """A JSON schema in Python's words."""
    if not isinstance(schema, dict) or depth > 4:
        return "any"
    if "enum" in schema or "const" in schema:
        return " | ".join(map(repr, schema.get("enum", [schema.get("const")])))
    if "anyOf" in schema:
        return " | ".join(_type(part, root, depth + 1) for part in schema["anyOf"])
    if isinstance(schema.get("$ref"), str):  # "#/$defs/Name"
        own = root.get("$defs", {}).get(schema["$ref"].rpartition("/")[2])
        return _type(own, root, depth + 1)
    if schema.get("type") == "array" and "items" in schema:
        return f"list[{_type(schema['items'], root, depth + 1)}]"
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        inner = (f"{k!r}: {_type(v, root, depth + 1)}" for k, v in schema["properties"].items())
        return f"{{{', '.join(inner)}}}"
    names = {"string": "str", "integer": "int", "number": "float", "boolean": "bool",
             "array": "list", "object": "dict", "null": "None"}  # fmt: skip
    return names.get(str(schema.get("type")), "any")
