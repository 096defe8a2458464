"""Calls as an agent writes them."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from environments.base import Tool
from environments.calls import parse_call, read_action, write_action, write_call
from environments.tools import PythonCode, tools_of

ROOT = Path(__file__).resolve().parents[2]


class Shop:
    def search(self, query: str, limit: int = 5) -> str:
        """Search."""
        return query

    def buy(self, item_id: int) -> str:
        """Buy."""
        return str(item_id)


TOOLS = tools_of(Shop)


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ('search(query="red shoes")', ("search", {"query": "red shoes"})),
        ("search( query = 'it\\'s (x', limit=-1 )", ("search", {"query": "it's (x", "limit": -1})),
        ('I think: search(query="a").\nThen buy(item_id=3)', ("search", {"query": "a"})),
        ("```python\nbuy(item_id=3)\n```", ("buy", {"item_id": 3})),
        ("Note (a: b) and f(x), then buy(item_id=3)", ("buy", {"item_id": 3})),
        ("f(a=[1, (2.5,), {'k': None}], b=true)", ("f", {"a": [1, [2.5], {"k": None}], "b": True})),
        ('f(a="""x "y" z""", b=\'\', c="")', ("f", {"a": 'x "y" z', "b": "", "c": ""})),
        ("f(a=\n  1,\n)", ("f", {"a": 1})),
        (r'f(a="\d \ud800 \n é")', ("f", {"a": "\\d ? \n é"})),
        ('{"name": "buy", "arguments": {"item_id": 3}}', ("buy", {"item_id": 3})),
        ('<tool_call>\n{"name": "buy", "parameters": {}}\n</tool_call>', ("buy", {})),
        ('{"function": {"name": "buy", "arguments": "{\\"x\\": 2}"}}', ("buy", {"x": 2})),
        ('f(a={"name": "buy", "arguments": {}})', ("f", {"a": {"name": "buy", "arguments": {}}})),
        ("look()", ("look", {})),
        ('search(query: "a: b", limit: -1)', ("search", {"query": "a: b", "limit": -1})),
        ("f(a: {'k': [1]}, b: true,)", ("f", {"a": {"k": [1]}, "b": True})),
        ('f("a": 1)', None),
        ("f(a: 1, a: 2)", None),
        ("f(a: 1, b=2)", None),
        ("f(a: str)", None),
        ("f(**{'a': 1}, b: 1)", None),
        ("", None),
        ("search", None),
        ("search(query=", None),
        ("buy(3)", None),
        ("f(a=b)", None),
        ("f(a=1+1)", None),
        ("f(a=__import__('os'))", None),
        ("f(a=f'{x}')", None),
        ("f(**{'a': 1})", None),
        ("f(a=1, a=2)", None),
        ("f(a=1e999)", None),
        ("f(a=b'x')", None),
        ("f(a=1j)", None),
        ("f(a={1: 2})", None),
        ('{"name": "buy", "arguments": {"x": NaN}}', None),
        ('{"name": 3, "arguments": {}}', None),
        ("f(a=" + "1" * 5000 + ")", None),
    ],
)  # fmt: skip
def test_calls_are_read(text: str, call: tuple[str, dict[str, Any]] | None) -> None:
    assert parse_call(text) == call


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("buy(3)", ("buy", {"item_id": 3})),
        ('search("a", limit=2)', ("search", {"query": "a", "limit": 2})),
        ("buy(3, item_id=4)", None),
        ("buy(3, 4)", None),
        ('print("x"); buy(item_id=3)', ("buy", {"item_id": 3})),
        ('look(at="x")', ("look", {"at": "x"})),
    ],
)
def test_tools_name_what_is_not_named(text: str, call: tuple[str, dict[str, Any]] | None) -> None:
    assert parse_call(text, TOOLS) == call


@pytest.mark.parametrize(
    "text",
    [
        "f(" + "-" * 19_000 + "1)",
        "f(" + "1+" * 9_000 + "1)",
        "f(" + "not " * 4_000 + "1)",
        "f(" + "a." * 9_000 + "a)",
        "f(" * 9_000,
        "f(a=" * 4_000 + "1" + ")" * 4_000,
        "{" * 19_000,
        '{"a":' * 4_000,
        "[" * 9_000 + "]" * 9_000,
        'f("' * 6_000,
        "x" * 1_000_000,
        "\x00\ud800(" * 5_000,
    ],
)
def test_hostile_texts_are_no_calls(text: str) -> None:
    assert parse_call(text, TOOLS) is None


def test_noise_never_raises() -> None:
    chance = random.Random(0)
    pieces = [
        "buy",
        "(",
        ")",
        "{",
        "}",
        '"',
        "'",
        "\\",
        "=",
        ",",
        "name",
        "arguments",
        ":",
        "1",
        "\n",
    ]
    for _ in range(3000):
        parse_call("".join(chance.choices(pieces, k=chance.randrange(20))), TOOLS)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"a": 'x"\n\\d é'}, {"a": [1, {"k": None, "l": [True, -1.5]}], "b": ""}],
)
def test_what_is_written_is_read(arguments: dict[str, Any]) -> None:
    assert parse_call(write_call("f", arguments)) == ("f", arguments)


def test_a_lone_text_is_the_argument() -> None:
    text = {"type": "object", "properties": {"command": {"type": "string"}}}
    command = Tool(name="act", description="Act.", parameters=text)  # type: ignore[arg-type]
    assert read_action(" go east\nand more", [command]).arguments == {"command": "go east"}
    assert read_action('act(command="go (up)")', [command]).arguments == {"command": "go (up)"}
    assert read_action(" \n ", [command]).tool is None
    essay = Tool.model_validate_json(
        command.model_dump_json().replace('"string"', '"string", "contentMediaType": "text/plain"')
    )
    assert read_action(" one\ntwo\n", [essay]).arguments == {"command": "one\ntwo"}

    class Runner:
        def run(self, code: PythonCode) -> str:
            """Run it."""
            return code

    tools = tools_of(Runner)
    assert read_action("So:\n```py\nprint(1)\n```", tools).arguments == {"code": "print(1)"}
    assert read_action("print(1)", tools).tool is None
    assert read_action("```sql\nselect 1\n```", tools).tool is None
    action = read_action("I cannot.", TOOLS)
    assert action.tool is None and action.text == "I cannot."
    assert read_action("look(at=1)", TOOLS).tool == "look"


@pytest.mark.parametrize(
    ("media", "argument", "text"),
    [
        ("", "go east", "go east"),
        ("text/plain", "one\ntwo", "one\ntwo"),
        ("text/x-python", "print(1)\nprint(2)", "```python\nprint(1)\nprint(2)\n```"),
        ("application/sql", "SELECT 1", "```sql\nSELECT 1\n```"),
        ("text/x-shellscript", "ls", "```bash\nls\n```"),
        ("text/x-rust", "fn main() {}", "```\nfn main() {}\n```"),
    ],
)
def test_what_is_written_for_a_lone_text_is_read(media: str, argument: str, text: str) -> None:
    parameter = {"type": "string"} | ({"contentMediaType": media} if media else {})
    tool = Tool(name="do", description="Do.", parameters={"properties": {"what": parameter}})
    action = write_action(tool, argument)
    assert (action.text, action.tool, action.arguments) == (text, "do", {"what": argument})
    assert read_action(text, [tool]) == action


def test_other_tools_take_no_lone_text() -> None:
    with pytest.raises(ValueError, match="search"):
        write_action(TOOLS[0], "red")


CROWD = """
import gc, sys, threading
from environments.calls import parse_call

class Finalised:
    def __init__(self):
        self.cycle = self

    def __del__(self):
        for _ in range(50):  # long enough for another thread to take its turn
            pass

def read(depth):
    text = "f(a=" + "[" * depth + "]" * depth + ")"
    for _ in range(3000):
        Finalised()
        assert parse_call(text), text

sys.setswitchinterval(1e-6)
gc.set_threshold(5)
failed = []
threading.excepthook = lambda told: failed.append(told.exc_value)
threads = [threading.Thread(target=read, args=(depth,)) for depth in (1, 5, 20, 30)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit(str(failed[0]) if failed else 0)
"""


def test_calls_are_read_in_several_threads() -> None:
    """CPython 3.11 takes the depth of one thread's tree for another's."""
    done = subprocess.run([sys.executable, "-c", CROWD], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
