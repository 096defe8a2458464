"""MCP servers as environments: a real server, over its standard streams and over HTTP."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import environments
from environments.adapters.mcp import Mcp, matches
from environments.adapters.processes import Server, free_port
from environments.base import Action, EnvironmentFailure, Suite, SuiteError, Task
from environments.checks import check_suite

SERVER = '''
"""A note book that can also break."""
import os, subprocess, sys, time
from mcp.server.mcpserver import Image, MCPServer

server = MCPServer("notes", log_level="ERROR")
notes = {}

@server.tool()
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b

@server.tool()
def write(name: str, text: str) -> str:
    """Write a note."""
    notes[name] = text
    return f"Wrote {name}."

@server.tool()
def read(name: str) -> str:
    """Read a note."""
    return notes[name]

@server.tool()
def picture() -> Image:
    """Draw."""
    return Image(data=b"x", format="png")

@server.tool()
def hidden(secret: str) -> str:
    """Not for the agent."""
    return secret + os.environ.get("NOTES_KEY", "")

@server.tool()
def breaks(how: str) -> str:
    """Break."""
    subprocess.Popen(["sleep", "7777"], start_new_session=True)
    if how == "exit":
        sys.stderr.write("out of ink\\n")
        sys.stderr.flush()
        os._exit(3)
    if how == "hang":
        time.sleep(1000)
    os.write(1, b"\\xff\\x00 this is no message\\n{}\\n" * 50)
    return "still here"

if sys.argv[1:]:
    server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
else:
    server.run()
'''
TASKS: list[dict[str, Any]] = [
    {
        "prompt": "What is 20 + 22?",
        "family": "sums",
        "answer": "42",
        "match": "number",
        "gold": [{"tool": "add", "arguments": {"a": 20, "b": 22}}],
    },
    {
        "prompt": "Copy the note a to b.",
        "family": "notes",
        "setup": [{"tool": "write", "arguments": {"name": "a", "text": "Buy milk."}}],
        "check": {"tool": "read", "arguments": {"name": "b"}, "expect": "buy milk"},
        "gold": [
            {"tool": "read", "arguments": {"name": "a"}},
            {"tool": "write", "arguments": {"name": "b", "text": "Buy milk."}},
        ],
    },
    {"prompt": "Say hello.", "answer": "hello", "match": "contains"},
]


def call(tool: str, **arguments: Any) -> Action:
    return Action(text=tool, tool=tool, arguments=arguments)


@pytest.fixture
def program(folder: Path, gone: Callable[..., bool]) -> Iterator[Path]:
    file = folder / "notes_server.py"
    file.write_text(SERVER)
    yield file
    assert gone(file) and gone("sleep 7777")


@pytest.fixture
def load(program: Path, folder: Path) -> Callable[..., Mcp]:
    def load(tasks: list[dict[str, Any]] = TASKS, **options: Any) -> Mcp:
        file = folder / "tasks.jsonl"
        file.write_text("".join(json.dumps(task) + "\n" for task in tasks))
        if "url" not in options:
            options.setdefault("command", [sys.executable, str(program)])
        return Mcp(str(file), **options)

    return load


@pytest.fixture
def address(program: Path) -> Iterator[str]:
    port = free_port()
    server = Server([sys.executable, str(program), str(port)])

    def answers() -> bool:
        listening = Path("/proc/net/tcp").read_text()
        return f"0100007F:{port:04X} 00000000:0000 0A" in listening

    server.wait_until(answers, 30)
    yield f"http://127.0.0.1:{port}/mcp"
    server.close()


def replay(suite: Suite) -> None:
    """Gold solutions earn the full reward, their last action alone with another text none."""
    for stored in suite.tasks():
        task = Task.model_validate_json(stored.model_dump_json())
        environment = suite.environment(task)
        assert environment.start() == task.prompt
        gold = suite.gold(task)  # type: ignore[attr-defined]
        results = [environment.step(action) for action in gold]
        assert (results[-1].reward, results[-1].terminated) == (1.0, True), results
        assert not any(result.error or result.reward for result in results[:-1])
        environment.close()


def test_gold_solutions_are_worth_the_full_reward(load: Callable[..., Mcp]) -> None:
    suite = load(TASKS[:2])
    assert isinstance(suite, Suite)
    assert [task.family for task in suite.tasks()] == ["sums", "notes"]
    assert suite.gold(suite.tasks()[0])[0].text == "add(a=20, b=22)"
    replay(suite)


def test_over_stdio_it_conforms(load: Callable[..., Mcp]) -> None:
    """On servers of their own episodes cannot meet, even those that leave notes."""
    assert check_suite(load(TASKS[1:2], tools=["read", "write"])) == []


def test_over_http(load: Callable[..., Mcp], address: str) -> None:
    suite = load(url=address, tools=["add", "read", "write"])
    assert check_suite(suite, limit=1) == []  # the others leave notes on the shared server
    replay(suite := load(url=address))
    environment = suite.environment(suite.tasks()[1])
    environment.start()
    assert environment.step(call("write", name="b", text="Sell milk.")).error is None
    result = environment.step(call("finish"))
    assert (result.reward, result.terminated) == (0.0, True)
    environment.close()


def test_tools_and_their_results(load: Callable[..., Mcp], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTES_KEY", "k1")
    monkeypatch.setenv("OTHER_KEY", "k2")
    suite = load(environ=["NOTES_KEY"])
    environment = suite.environment(suite.tasks()[0])
    tools = {tool.name: tool for tool in environment.tools}
    assert list(tools) == ["add", "write", "read", "picture", "hidden", "breaks", "answer"]
    assert tools["add"].description == "Add two whole numbers."
    assert tools["add"].parameters["required"] == ["a", "b"]
    assert tools["add"].parameters["properties"] == {
        "a": {"title": "A", "type": "integer"},
        "b": {"title": "B", "type": "integer"},
    }
    environment.start()
    assert environment.step(call("add", a=1, b=2)).observation == "3"
    assert environment.step(call("hidden", secret="s")).observation == "sk1"
    assert environment.step(call("picture")).observation == "[image: image/png]"
    assert len(environment.step(call("hidden", secret="x" * 9000)).observation) == 2000
    wrong = environment.step(call("add", a="one", b=2))
    assert wrong.error == "tool error" and "valid integer" in wrong.observation
    assert environment.step(call("read", name="none")).error == "tool error"
    for arguments in ({"a": "\ud800"}, {"a": float("nan")}, {"a": {1}}, {"a": "x" * 200_000}):
        assert environment.step(call("add", **arguments)).error == "bad arguments"
    unknown = environment.step(call("erase"))
    assert unknown.error == "unknown tool" and "Tools: add, write" in unknown.observation
    assert environment.step(Action(text="hello")).error == "no call"
    assert environment.step(call("breaks", how="noise")).observation == "still here"
    assert environment.step(call("answer")).error == "bad arguments"
    assert environment.step(call("answer", text=" 42.0 ")).reward == 1.0
    with pytest.raises(EnvironmentFailure, match="over"):
        environment.step(call("add", a=1, b=2))
    environment.close()
    environment.close()


def test_each_episode_has_a_server_of_its_own(load: Callable[..., Mcp]) -> None:
    suite = load()
    first, second = (suite.environment(suite.tasks()[0]) for _ in range(2))
    first.start()
    second.start()
    first.step(call("write", name="a", text="mine"))
    assert second.step(call("read", name="a")).error == "tool error"
    assert first.step(call("read", name="a")).observation == "mine"
    first.close()
    second.close()


def test_a_lost_server_is_the_environments_failure(
    load: Callable[..., Mcp], program: Path, gone: Callable[..., bool]
) -> None:
    suite = load(timeout_s=4.0)
    for how, says in (("exit", "out of ink"), ("hang", "did not answer")):
        environment = suite.environment(suite.tasks()[0])
        environment.start()
        with pytest.raises(EnvironmentFailure, match=says) as error:
            environment.step(call("breaks", how=how))
        assert "\n" not in str(error.value)
        environment.close()
        assert gone(program, 1) and gone("sleep 7777", 1)
    following = suite.environment(suite.tasks()[0])
    following.start()
    assert following.step(call("add", a=1, b=1)).observation == "2"
    following.close()


def test_a_lost_http_server(load: Callable[..., Mcp], address: str, program: Path) -> None:
    suite = load(url=address, timeout_s=4.0)
    environment = suite.environment(suite.tasks()[0])
    environment.start()
    with pytest.raises(EnvironmentFailure, match="calling breaks"):
        environment.step(call("breaks", how="exit"))
    environment.close()
    with pytest.raises(EnvironmentFailure, match="no MCP session with http"):
        suite.environment(suite.tasks()[0]).start()


def test_no_server_outlives_a_killed_process(program: Path, gone: Callable[..., bool]) -> None:
    tasks = program.parent / "tasks.jsonl"
    tasks.write_text(json.dumps(TASKS[0]))
    code = (
        "import os, signal, sys\n"
        "from environments.adapters.mcp import Mcp\n"
        "from environments.base import Action\n"
        f"suite = Mcp({str(tasks)!r}, [sys.executable, {str(program)!r}])\n"
        "environment = suite.environment(suite.tasks()[0])\n"
        "environment.start()\n"
        "environment.step(Action(text='', tool='breaks', arguments={'how': 'noise'}))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(environments.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert gone(program) and gone("sleep 7777")


def test_answers_are_compared() -> None:
    assert matches("exact", "New  York", "new york.") and not matches("exact", "York", "New York")
    assert matches("contains", "york", "in New York") and not matches("contains", "york", "")
    assert matches("number", "1000", " $1,000.0 ") and not matches("number", "1", "1.01")
    assert not matches("number", "1", "one") and not matches("number", "1", "nan")


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ({"prompt": "p"}, "line 1: a task needs answer or check"),
        ({"prompt": "p", "answer": 3}, "line 1: answer: Input should be a valid string"),
        ({"prompt": "p", "answer": "a", "x": 1}, "line 1: x: Extra inputs"),
        ({"prompt": "p", "answer": "a", "match": "like"}, "line 1: match: "),
        ([], "line 1: a list, not an object"),
    ],
)
def test_a_line_that_is_no_task(load: Callable[..., Mcp], task: Any, says: str) -> None:
    with pytest.raises(SuiteError, match=says) as error:
        load([task], command=["true"])
    assert "\n" not in str(error.value)


def test_errors_say_what_is_wrong(load: Callable[..., Mcp]) -> None:
    for options, says in (
        ({"command": None}, "either command"),
        ({"url": "http://x", "command": ["x"]}, "either command"),
        ({"command": ["no-such-program"]}, "no-such-program: No such file"),
        ({"command": ["sleep", "7777"], "timeout_s": 0.5}, "no answer within 0.5 s"),
        ({"url": f"http://127.0.0.1:{free_port()}/mcp"}, "no MCP session with http"),
        ({"tools": ["erase"]}, "has no tool 'erase'; it has: add, write"),
        ({"environ": ["NOT_SET_ANYWHERE"]}, "NOT_SET_ANYWHERE is not set"),
        ({"headers_environ": "PATH"}, "PATH must hold a JSON object"),
        ({"turns": 0}, "must be positive"),
    ):
        with pytest.raises(SuiteError, match=says) as error:
            load(**options)
        assert "\n" not in str(error.value)
    with pytest.raises(SuiteError, match="holds no tasks"):
        load([])
