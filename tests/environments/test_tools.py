"""Methods as tools: schema, validated arguments, errors as observations."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from environments.base import EnvironmentFailure, SuiteError
from environments.sandbox.base import SandboxFailure
from environments.tools import PythonCode, ToolError, call, tools_of, undocumented, usage


class Item(BaseModel):
    id: int
    name: str


class Base:
    def look(self) -> str:
        """Look around."""
        return "a shelf"


class Shop(Base):
    """A shop."""

    def __init__(self) -> None:
        self.raises: Exception | None = None

    def search(
        self, query: str, limit: int = 5, kind: Literal["shoe", "hat"] = "shoe"
    ) -> list[Item]:
        """Search the catalogue.

        Every word counts.

        Args:
            query: words to look
                for
            limit (int): most results

        Returns:
            What was found.
        """
        return [Item(id=limit, name=f"{query}/{kind}")]

    def buy(self, item_id: int, price: Annotated[float, Field(description="€", ge=0)] = 0.0) -> Any:
        """Buy one item.

        :param item_id: which
        """
        if self.raises:
            raise self.raises
        return {1: None, 2: "", 3: True, 4: {"a": (1, "é")}, 5: "x" * 9999, 6: "\ud800"}[item_id]

    def reward(self) -> float:
        """Reserved."""
        return 0.0

    def helper(self) -> None:
        pass

    def _hidden(self) -> None:
        """Hidden."""

    @property
    def size(self) -> int:
        """No method."""
        return 3


def test_schema_and_descriptions() -> None:
    look, search, buy = tools_of(Shop)
    assert [look.name, search.name, buy.name] == ["look", "search", "buy"]
    assert tools_of(Shop()) == [look, search, buy]
    assert look.parameters["properties"] == {}
    assert search.description == "Search the catalogue. Every word counts."
    assert search.parameters == {
        "type": "object",
        "additionalProperties": False,
        "required": ["query"],
        "properties": {
            "query": {"type": "string", "description": "words to look for"},
            "limit": {"type": "integer", "description": "most results", "default": 5},
            "kind": {"type": "string", "enum": ["shoe", "hat"], "default": "shoe"},
        },
    }
    assert buy.description == "Buy one item."
    properties: Any = buy.parameters["properties"]
    assert properties["item_id"] == {"type": "integer", "description": "which"}
    assert properties["price"] == {
        "type": "number", "minimum": 0, "description": "€", "default": 0.0
    }  # fmt: skip
    assert (
        usage(search) == 'search(query: string, limit: integer = 5, kind: "shoe" | "hat" = "shoe")'
    )
    assert undocumented(Shop) == ["helper"]


class Teller:
    """Its methods are documented where they are first defined."""

    @staticmethod
    def add(numbers: list[int]) -> int:
        """Add numbers."""
        return sum(numbers)

    @classmethod
    def whoami(cls, polite: bool | None = None) -> str:
        """Tell the name."""
        return f"{cls.__name__} {polite}"

    @staticmethod
    def bare() -> None:
        pass

    def greet(self) -> str:
        """Greet."""
        return "hello"


def test_static_and_class_methods_and_inherited_docstrings() -> None:
    class Loud(Teller, dict):  # type: ignore[type-arg]
        def greet(self) -> str:
            return "HELLO"

    tools = {tool.name: tool for tool in tools_of(Loud)}
    assert set(tools) == {"add", "whoami", "greet"} and undocumented(Loud) == ["bare"]
    assert tools["greet"].description == "Greet."
    assert usage(tools["add"]) == "add(numbers: array)"
    assert call(Loud(), "add", {"numbers": [1, 2]}).text == "3"
    assert "is [1, True], not a valid" in call(Loud(), "add", {"numbers": [1, True]}).text
    assert call(Loud(), "whoami", {"polite": True}).text == "Loud True"
    assert call(Loud(), "greet", {}).text == "HELLO"


def test_code_says_its_language() -> None:
    class Runner:
        def run(self, code: PythonCode) -> str:
            """Run it."""
            return code

    assert tools_of(Runner)[0].parameters["properties"] == {
        "code": {"type": "string", "contentMediaType": "text/x-python"}
    }


@pytest.mark.parametrize(
    ("tool", "arguments", "text", "error"),
    [
        ("look", {}, "a shelf", None),
        ("search", {"query": 7, "limit": "3"}, '[{"id": 3, "name": "7/shoe"}]', None),
        ("search", {}, "argument query is missing. Usage: search(query: string", "bad arguments"),
        ("search", {"query": "a", "limit": "x"}, "argument limit is 'x', not a valid integer",
         "bad arguments"),
        ("search", {"query": "a", "kind": "c"}, "not 'shoe' or 'hat'", "bad arguments"),
        ("search", {"query": "a", "colour": 1}, "unknown argument 'colour'", "bad arguments"),
        ("search", {"query": [1] * 999}, "argument query is [1, 1,", "bad arguments"),
        ("buy", {"item_id": 1.5}, "argument item_id is 1.5, not a valid integer", "bad arguments"),
        ("buy", {"item_id": 1, "price": "nan"}, "not a finite number", "bad arguments"),
        ("buy", {"item_id": True}, "argument item_id is True, not a valid number. Usage: buy(",
         "bad arguments"),
        ("buy", {"item_id": 1, "price": False}, "price is False, not a valid", "bad arguments"),
        ("buy", {"item_id": 1}, "Done.", None),
        ("buy", {"item_id": 2}, "(empty)", None),
        ("buy", {"item_id": 3}, "True", None),
        ("buy", {"item_id": 4}, '{"a": [1, "é"]}', None),
        ("buy", {"item_id": 6}, "?", None),
        ("buy", {"item_id": 9}, "Error: KeyError: 9", "KeyError"),
        ("helper", {}, "Unknown tool 'helper'. Tools: look(), search(", "unknown tool"),
        ("reward", {}, "Unknown tool", "unknown tool"),
        ("_hidden", {}, "Unknown tool", "unknown tool"),
        ("\ud800", {}, "Unknown tool '?'", "unknown tool"),
    ],
)  # fmt: skip
def test_calls(tool: str, arguments: dict[str, Any], text: str, error: str | None) -> None:
    called = call(Shop(), tool, arguments)
    assert text in called.text and called.error == error
    assert (called.text == text) or error
    assert len(called.text) < 500 and "\n" not in called.text
    called.text.encode()


def test_long_observations_are_cut() -> None:
    assert len(call(Shop(), "buy", {"item_id": 5}).text) == 4000


def test_whose_mistake_an_exception_is() -> None:
    shop = Shop()
    shop.raises = ToolError("only one each")
    assert call(shop, "buy", {"item_id": 1}) == ("Error: only one each", "ToolError", None)
    for unexpected in (ValueError("x"), RuntimeError("x"), FileNotFoundError("x")):
        shop.raises = unexpected
        called = call(shop, "buy", {"item_id": 1})
        assert called.error == type(unexpected).__name__ and called.unexpected is unexpected
    for broken in (OSError(28, "disk full"), ConnectionError("down"), MemoryError()):
        shop.raises = broken
        with pytest.raises(EnvironmentFailure, match="buy"):
            call(shop, "buy", {"item_id": 1})
    for passed in (EnvironmentFailure("world"), SandboxFailure("box")):
        shop.raises = passed
        with pytest.raises(type(passed), match=str(passed)):
            call(shop, "buy", {"item_id": 1})


def untyped(self: Any, x) -> None:  # type: ignore[no-untyped-def]
    """Has no type."""


def starred(self: Any, *x: int) -> None:
    """Cannot be named."""


def odd(self: Any, x: Shop) -> None:
    """Cannot be JSON."""


def missing(self: Any, x: "NoSuchType") -> None:  # type: ignore[name-defined] # noqa: F821
    """Cannot be read."""


async def later(self: Any) -> None:
    """Is async."""


later_too = staticmethod(later)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (untyped, r"World\.tool: parameter x has no type"),
        (starred, r"World\.tool: parameter \*x: int cannot be given by name"),
        (odd, r"World\.tool: a parameter has a type JSON cannot hold"),
        (missing, r"World\.tool: its types cannot be read: name 'NoSuchType'"),
        (later, r"World\.tool is async"),
        (later_too, r"World\.tool is async"),
    ],
)
def test_methods_that_cannot_be_tools(method: Any, says: str) -> None:
    with pytest.raises(SuiteError, match=says) as error:
        tools_of(type("World", (), {"tool": method}))
    assert "\n" not in str(error.value)
