"""How an environment's tools decide what the policy writes."""

from __future__ import annotations

import pytest

from agent.formats import describe_tool, format_of
from agent.prompt import AgentSettings, frame, opening
from environments.base import Briefing, Tool
from environments.calls import read_action
from environments.kinds.python import PYTHON, PYTHON_BRIEFING
from memory.records import Kind, MemoryItem


def tool(name: str = "act", **properties: object) -> Tool:
    schema = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    return Tool.model_validate({"name": name, "description": "Does it.", "parameters": schema})


SQL = tool("sql", query={"type": "string", "contentMediaType": "application/sql"})
LINE = tool(command={"type": "string"})
WHOLE = tool("reply", text={"type": "string", "contentMediaType": "text/plain"})
SHOP = [
    tool("search", query={"type": "string"}, limit={"type": "integer"}),
    tool("buy", item={"enum": ["pen", "cup"]}),
]


def test_code_is_written_in_a_fenced_block_that_is_begun_for_the_policy() -> None:
    python, sql = format_of([PYTHON]), format_of([SQL])
    assert (python.begin, sql.begin) == ("```python\n", "```sql\n")
    assert python.tools == (
        "You have a Python tool. Reply only with a code block:\n```python\n...\n```\n"
        "It is run, and what it prints is your answer."
    )
    action = read_action(python.begin + "print(1)\n```\nThat prints 1.", [PYTHON])
    assert (action.tool, action.arguments) == ("python", {"code": "print(1)"})
    assert read_action("```sql\nSELECT 1\n", [SQL]).arguments == {"query": "SELECT 1\n"}
    assert read_action("```python\n\n```", [PYTHON]).tool is None
    assert read_action("no code", [PYTHON]).tool is None


def test_a_text_tool_takes_a_line_or_the_whole_text() -> None:
    assert format_of([LINE]).stop == ("\n",)
    assert read_action(" go east \nthen west", [LINE]).arguments == {"command": "go east"}
    assert format_of([WHOLE]).stop == ()
    assert read_action("one\ntwo\n", [WHOLE]).arguments == {"text": "one\ntwo"}
    for one in (LINE, WHOLE):
        assert read_action(" \n", [one]).tool is None


def test_other_tools_are_called() -> None:
    told = format_of(SHOP).tools
    assert "search(query: str, limit: int = None): Does it." in told
    assert "buy(item: 'pen' | 'cup'): Does it." in told
    action = read_action('search(query="red, or blue", limit=3)', SHOP)
    assert (action.tool, action.arguments) == ("search", {"query": "red, or blue", "limit": 3})
    assert read_action("I would search.", SHOP).tool is None
    typed = tool(
        "go",
        where={"const": "north"},
        stops={"type": "array", "items": {"type": "integer"}, "default": [1]},
        who={"$ref": "#/$defs/Who", "description": "Who\n goes."},
    )
    defs = {"Who": {"type": "object", "properties": {"age": {"type": "integer"}}}}
    typed = typed.model_copy(update={"parameters": typed.parameters | {"$defs": defs}})
    assert describe_tool(typed) == (
        "go(where: 'north', stops: list[int] = [1], who: {'age': int} = None): "
        "Does it. who: Who goes."
    )
    assert describe_tool(Tool(name="look", description="Look\n around.")) == "look(): Look around."


def test_the_suite_briefs_and_the_settings_overrule() -> None:
    briefing = Briefing(text="You are in a shop.", example=("a", "b"), turns=7, max_new_tokens=9)
    own = frame(AgentSettings(), briefing, format_of([LINE]))
    assert own.system == "You are in a shop.\nDoes it." and own.example == ("a", "b")
    assert AgentSettings().settled(briefing) == (7, 9)
    settings = AgentSettings(
        system="S", example="none", begin="> ", turns=1, max_new_tokens=2, constrain=False
    )
    other = frame(settings, briefing, format_of([LINE]))
    assert (other.system, other.example, other.begin) == ("S", None, "> ")
    assert settings.settled(briefing) == (1, 2)
    assert opening(other, "seen")[-1] == {"role": "assistant", "content": "> "}


def test_a_recalled_episode_is_shown_as_it_went() -> None:
    item = MemoryItem(
        kind=Kind.EXEMPLAR,
        text="-",
        key="-",
        content={"prompt": "a room", "turns": [["go east", "a hall"], ["take lamp", "taken"]]},
        sources=("1",),
        tasks=("t",),
        family="f",
        born=1,
    )
    asked = frame(AgentSettings(), PYTHON_BRIEFING.model_copy(update={"example": None}),
                  format_of([LINE]))  # fmt: skip
    messages = opening(asked, "another room", [item])
    assert [m["content"] for m in messages[1:]] == [
        "a room", "go east", "a hall", "take lamp", "another room"
    ]  # fmt: skip
    assert [m["role"] for m in messages[1:]] == ["user", "assistant"] * 2 + ["user"]


@pytest.mark.parametrize("text", ["", "\x00", "```", "{" * 100, "f(" * 100])
def test_no_text_is_an_error(text: str) -> None:
    for tools in ([PYTHON], [LINE], [WHOLE], SHOP):
        read_action(text, tools)
