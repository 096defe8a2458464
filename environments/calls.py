"""Calls as an agent writes them: ``search(query="red shoes")``, or the same as JSON.

What is read comes from a model, so nothing is evaluated: arguments are literals, and anything
else is no call.
"""

from __future__ import annotations

import ast
import json
import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from environments.base import Action, Tool

MAX_CHARS = 20_000  # longest text that is searched for a call
MAX_TRIES = 64  # places in it where a call may begin
MAX_DEPTH = 40  # brackets within brackets
_BEGIN = re.compile(r"(?<!\w)([A-Za-z_]\w*)[ \t]*\(|\{")
_TOKEN = re.compile(r"'''|\"\"\"|['\"]|[()\[\]{}]|\\.", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_FENCE = re.compile(r"```(\w*)[ \t]*\n(.*?)(?:\n?```|\Z)", re.DOTALL)
_Found = tuple[int, str, list[Any], dict[str, Any]]  # where it ends, name, arguments
_CLOSES = {"(": ")", "[": "]", "{": "}"}
_JSON_NAMES = {"true": True, "false": False, "null": None}
WHOLE = "text/plain"  # a parameter that is all of what the agent writes
_PARSING = threading.Lock()


class Language(NamedTuple):
    """A language that a parameter's code may be in.

    Args:
        name: as people say it.
        fences: what its fenced blocks may be called; the first is what is written.
    """

    name: str
    fences: tuple[str, ...]


PYTHON_MEDIA = "text/x-python"
LANGUAGES = {  # by contentMediaType
    PYTHON_MEDIA: Language("Python", ("python", "py", "")),
    "application/sql": Language("SQL", ("sql", "")),
    "text/x-shellscript": Language("Bash", ("bash", "sh", "shell", "")),
}


def parse_call(text: str, tools: Sequence[Tool] = ()) -> tuple[str, dict[str, Any]] | None:
    """The first call in a text: the tool's name and the arguments by name.

    Understood are ``name(key=literal, …)`` with Python's literals (JSON's ``true``, ``false`` and
    ``null`` too), the same with colons, as tools are described, and ``{"name": …, "arguments":
    {…}}``; around it may stand prose or a fence.

    Args:
        text: what the agent wrote.
        tools: what it may call. With them, arguments without a name are named in the tool's
            order, and a call of one of them is preferred to a call of something else.

    Returns:
        None where the text holds no call.
    """
    orders = {tool.name: list(tool.properties) for tool in tools}
    other = None
    for name, positional, arguments in _calls(text[:MAX_CHARS]):
        order = orders.get(name, [])
        if len(positional) > len(order):
            continue
        named = dict(zip(order, positional, strict=False))
        if named.keys() & arguments.keys():
            continue
        found = (name, named | arguments)
        if name in orders or not tools:
            return found
        other = other or found
    return other


def write_call(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as an agent writes it; ``parse_call`` reads it back."""
    written = ", ".join(f"{key}={_literal(value)}" for key, value in arguments.items())
    return f"{name}({written})"


def read_action(text: str, tools: Sequence[Tool]) -> Action:
    """The action that a text stands for, among the tools of an environment.

    With one tool of one text parameter the text is the argument: the first fenced block where
    the parameter holds code (``contentMediaType``), all of it where that is ``text/plain``, else
    its first line. A call of a tool is understood as well, and with other tools nothing else is.
    """
    parameter = sole_text_parameter(tools[0]) if len(tools) == 1 else None
    media = parameter[1] if parameter else ""
    argument: str | None = None
    if media:
        argument = text.strip() if media == WHOLE else _fenced(text, media)
    call = parse_call(text, tools) if not (argument and argument.strip()) else None
    if call is not None and any(tool.name == call[0] for tool in tools):
        return Action(text=text, tool=call[0], arguments=call[1])
    if parameter is not None:
        if not media:
            argument = next(iter(text.strip().splitlines()), "").strip()
        if argument and argument.strip():
            return Action(text=text, tool=tools[0].name, arguments={parameter[0]: clean(argument)})
        return Action(text=text)
    if call is not None:
        return Action(text=text, tool=call[0], arguments=call[1])
    return Action(text=text)


def write_action(tool: Tool, argument: str) -> Action:
    """The action that gives a tool its only argument, as an agent writes it.

    What `read_action` reads from its text, where that tool is the only one: code stands in a
    fenced block, anything else alone.

    Raises:
        ValueError: the tool has other parameters than one text.
    """
    parameter = sole_text_parameter(tool)
    if parameter is None:
        raise ValueError(f"the tool {tool.name} does not take one text")
    name, media = parameter
    text = argument
    if media and media != WHOLE:
        fence = LANGUAGES[media].fences[0] if media in LANGUAGES else ""
        text = f"```{fence}\n{argument}\n```"
    return Action(text=text, tool=tool.name, arguments={name: argument})


def sole_text_parameter(tool: Tool) -> tuple[str, str] | None:
    """Name and ``contentMediaType`` (or "") of a tool's only parameter, if that is a text."""
    if len(tool.properties) != 1:
        return None
    ((name, schema),) = tool.properties.items()
    if not isinstance(schema, dict) or schema.get("type") != "string" or "enum" in schema:
        return None
    return name, str(schema.get("contentMediaType", ""))


def clean(text: str) -> str:
    """A text without lone surrogates, which neither a file nor a tokenizer can take."""
    return text.encode("utf-8", "replace").decode("utf-8")


def cut(text: str, length: int) -> str:
    """A text, shortened if it has more characters than ``length``; its end then says so."""
    return text if len(text) <= length else text[: length - 4] + " ..."


def _fenced(text: str, media: str) -> str | None:
    wanted = LANGUAGES.get(media)
    for name, body in _FENCE.findall(text):
        if wanted is None or name.lower() in wanted.fences:
            return str(body)
    return None


def _calls(text: str) -> Iterator[tuple[str, list[Any], dict[str, Any]]]:
    end = tries = 0
    for match in _BEGIN.finditer(text):
        if match.start() < end:
            continue
        tries += 1
        if tries > MAX_TRIES:
            return
        found = _json_call(text, match.start()) if match[1] is None else _python_call(text, match)
        if found is not None:
            end = found[0]
            yield found[1:]


def _json_call(text: str, start: int) -> _Found | None:
    if _end_of(text, start) is None:  # also bounds the depth
        return None
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
        if isinstance(inner := value.get("function"), dict):
            value = inner
        name, arguments = value.get("name"), value.get("arguments", value.get("parameters"))
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return None
        return end, name, [], {clean(key): _plain(item) for key, item in arguments.items()}
    except (ValueError, RecursionError):
        return None


def expression(text: str) -> ast.expr:
    """The tree of one expression, from any thread; raises as ``ast.parse``.

    One at a time: CPython 3.11 counts the depth of all trees that are being made together, and
    where a finalizer lets another thread make one in between, both end with a SystemError.
    """
    with _PARSING:
        return ast.parse(text, mode="eval").body


def _python_call(text: str, match: re.Match[str]) -> _Found | None:
    end = _end_of(text, match.end() - 1)
    if end is None:
        return None
    inner = _ESCAPE.sub(_escaped, text[match.end() : end - 1])
    for begin, close in (("f(", ")"), ("{", "}")):  # key=value, or else key: value
        try:
            node = expression(f"{begin}{inner}{close}")
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        try:
            return end, match[1], *_arguments(node)
        except (ValueError, RecursionError):
            return None
    return None


def _arguments(node: ast.expr) -> tuple[list[Any], dict[str, Any]]:
    """Arguments without and with a name, of a call or of ``{key: value}``.

    Raises:
        ValueError: something in it is no literal, or a name stands there twice.
    """
    if isinstance(node, ast.Call):
        pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
        positional = [_value(argument) for argument in node.args]
    elif isinstance(node, ast.Dict):
        names = [key.id if isinstance(key, ast.Name) else None for key in node.keys]
        pairs, positional = list(zip(names, node.values, strict=True)), []
    else:
        raise ValueError("no call")
    named = {name: _value(value) for name, value in pairs if name is not None}
    if len(named) < len(pairs):  # **mapping, or twice the same
        raise ValueError("arguments without a name of their own")
    return positional, named


def _escaped(match: re.Match[str]) -> str:
    """An escape that Python does not know stands for itself; Python would warn about it."""
    return match[0] if match[1] in "\\'\"abfnrtv01234567xNuU\n" else "\\" + match[0]


def _end_of(text: str, start: int) -> int | None:
    """Just behind the bracket that closes the one at ``start``; None if none does."""
    expected: list[str] = []
    quote = ""
    for match in _TOKEN.finditer(text, start):
        token = match[0]
        if quote:
            if token == quote:
                quote = ""
            elif token[0] in "'\"" and len(token) == 3 and quote == token[0]:
                quote = ""  # a text's end beside the quotes of another, "x""" for one
            continue
        if token[0] in "'\"":
            quote = token
        elif token in _CLOSES:
            expected.append(_CLOSES[token])
            if len(expected) > MAX_DEPTH:
                return None
        elif token[0] != "\\":
            if token != expected.pop():
                return None
            if not expected:
                return match.end()
    return None


def _value(node: ast.expr) -> Any:
    """The value of a literal, as JSON has it.

    Raises:
        ValueError: for anything that is no such literal.
    """
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return _plain(value)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=value)):
            if isinstance(value, int | float) and not isinstance(value, bool):
                return _plain(-value if isinstance(sign, ast.USub) else value)
        case ast.Name(id=name) if name in _JSON_NAMES:
            return _JSON_NAMES[name]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            read = [_value(key) if key is not None else None for key in keys]
            if all(isinstance(key, str) for key in read):
                return dict(zip(read, map(_value, values), strict=True))
    raise ValueError("not a literal")


def _plain(value: Any) -> Any:
    """JSON's own values, or ValueError: no NaN, no infinity, no lone surrogates."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not a finite number")
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): _plain(item) for key, item in value.items()}
    return value


def _literal(value: Any) -> str:
    match value:
        case str():
            return json.dumps(value, ensure_ascii=False)
        case list() | tuple():
            return f"[{', '.join(map(_literal, value))}]"
        case dict():
            return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    return repr(value)
