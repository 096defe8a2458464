"""A plain class as a suite."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from environments.base import Action, EnvironmentFailure, Suite, SuiteError, Task
from environments.plain import PlainEnvironment, PlainSuite
from environments.sandbox import make_sandbox
from environments.sandbox.base import Sandbox
from environments.splits import split_tasks
from environments.suites import load_suite
from environments.tools import ToolError


class Shop:
    """Buy what the customer asked for.

    Look before you buy.
    """

    turns, seconds, max_new_tokens = 4, 5, 32
    example = ("Buy a pen.", "buy(item_id=1)")
    STOCK: ClassVar = {1: "red mug", 2: "blue mug", 3: "red hat"}

    def __init__(self, refund: float = 0.0) -> None:
        self.refund, self.closed = refund, 0

    @staticmethod
    def tasks() -> Iterator[dict[str, Any]]:
        for number, name in Shop.STOCK.items():
            yield {"goal": f"Buy a {name}.", "wanted": number, "family": name.split()[1]}

    def reset(self, goal: str, wanted: int, seed: int) -> str:
        self.wanted, self.bought, self.done, self.seed = wanted, 0, False, seed
        return goal

    def search(self, query: str) -> dict[int, str]:
        """Search the catalogue."""
        return {number: name for number, name in self.STOCK.items() if query in name}

    def buy(self, item_id: int) -> str:
        """Buy one item; ends the episode."""
        if item_id < 0:
            raise ToolError("an item's number is above 0")
        self.bought, self.done = item_id, True
        return f"You bought a {self.STOCK[item_id]}."

    def reward(self) -> float:
        return float(self.bought == self.wanted) or self.refund

    def metrics(self) -> dict[str, float]:
        return {"bought": self.bought}

    def valid_actions(self) -> list[str]:
        return [f"buy(item_id={number})" for number in self.STOCK]

    def gold(self) -> list[str]:
        return ['search(query="mug")', f"buy({self.wanted})"]

    def state(self) -> dict[str, Any]:
        return {"bought": self.bought}

    def close(self) -> None:
        self.closed += 1


def suite_of(cls: type[Any], **options: Any) -> PlainSuite:
    return PlainSuite(cls, sandbox=make_sandbox, options=options)


def variant(**attributes: Any) -> PlainSuite:
    return suite_of(type("Variant", (Shop,), attributes))


def act(environment: Any, tool: str | None, **arguments: Any) -> Any:
    return environment.step(Action(text="x", tool=tool, arguments=arguments))


def started(suite: PlainSuite, number: int = 0) -> PlainEnvironment:
    environment = suite.environment(suite.tasks()[number])
    environment.start()
    assert isinstance(environment, PlainEnvironment)
    return environment


def test_a_class_is_a_suite() -> None:
    suite = suite_of(Shop)
    assert isinstance(suite, Suite)
    assert (suite.name, suite.description) == ("Shop", "Buy what the customer asked for.")
    assert suite.briefing.text == "Buy what the customer asked for.\n\nLook before you buy."
    assert suite.briefing.example == ("Buy a pen.", "buy(item_id=1)")
    assert (suite.briefing.turns, suite.briefing.max_new_tokens, suite.seconds) == (4, 32, 5)
    first = suite.tasks()[0]
    assert first == Task(
        suite="Shop", family="mug", prompt="Buy a red mug.",
        data={"goal": "Buy a red mug.", "wanted": 1},
    )  # fmt: skip
    assert [task.family for task in suite.tasks()] == ["mug", "mug", "hat"]
    assert suite.tasks() == suite_of(Shop).tasks()


def test_an_episode() -> None:
    suite = suite_of(Shop)
    task = suite.tasks()[1]
    environment = suite.environment(task)
    assert [tool.name for tool in environment.tools] == ["search", "buy"]
    assert environment.start() == "Buy a blue mug."
    assert environment.valid_actions[2] == "buy(item_id=3)"  # type: ignore[attr-defined]
    assert "buy(item_id: integer)" not in act(environment, None).observation
    found = act(environment, "search", query="blue")
    assert (found.observation, found.reward, found.error) == ('{"2": "blue mug"}', 0.0, None)
    refused = act(environment, "buy", item_id=-1)
    assert (refused.observation, refused.error) == (
        "Error: an item's number is above 0", "ToolError"
    )  # fmt: skip
    assert refused.metrics == {"bought": 0.0}
    bought = act(environment, "buy", item_id="2")
    assert (bought.observation, bought.reward, bought.terminated, bought.truncated) == (
        "You bought a blue mug.", 1.0, True, False
    )  # fmt: skip
    assert bought.metrics == {"bought": 2.0} and environment.state() == {"bought": 2}  # type: ignore[attr-defined]
    with pytest.raises(EnvironmentFailure, match="not running"):
        act(environment, "search", query="x")
    environment.close()
    environment.close()


def test_what_the_agent_gets_wrong_is_told() -> None:
    environment = started(suite_of(Shop))
    for tool, arguments, text, error in (
        (None, {}, "No call found. Write one such as search(query: string)", "no call"),
        ("sell", {}, "Unknown tool 'sell'. Tools: search(query: string), buy(", "unknown tool"),
        ("buy", {"item_id": "x"}, "argument item_id is 'x', not a valid integer", "bad arguments"),
    ):
        result = act(environment, tool, **arguments)
        assert text in result.observation and result.error == error and not result.terminated
    # An exception not foreseen is told as well, and counted.
    result = act(environment, "buy", item_id=9)
    assert (result.observation, result.error) == ("Error: KeyError: 9", "KeyError")
    assert result.metrics["tool_exceptions"] == 1
    environment.close()


def test_the_step_limit_ends_the_episode() -> None:
    environment = started(suite_of(Shop))
    results = [act(environment, "search", query="x") for _ in range(4)]
    assert [result.truncated for result in results] == [False, False, False, True]
    with pytest.raises(EnvironmentFailure, match="not running"):
        act(environment, "search", query="x")
    environment.close()


def test_instances_are_used_once_and_closed() -> None:
    made: list[Shop] = []

    def init(self: Any) -> None:
        Shop.__init__(self)
        made.append(self)

    suite = variant(__init__=init)
    environment = started(suite)
    with pytest.raises(EnvironmentFailure, match="used once"):
        environment.start()
    environment.close()
    environment.close()
    started(suite).close()
    suite.environment(suite.tasks()[0]).close()  # never started: nothing was made
    assert [world.closed for world in made] == [1, 1] and made[0] is not made[1]
    with pytest.raises(EnvironmentFailure, match="used once"):
        environment.start()


def test_seeds_and_options() -> None:
    suite = suite_of(Shop, refund=0.5)
    seeds = set()
    for number in range(3):
        environments = [started(suite, number) for _ in range(2)]
        assert len({environment._world.seed for environment in environments}) == 1
        seeds.add(environments[0]._world.seed)
        assert act(environments[0], "search", query="x").reward == 0.5
        for environment in environments:
            environment.close()
    assert len(seeds) == 3


def test_gold() -> None:
    suite = suite_of(Shop)
    for task in suite.tasks():
        environment = suite.environment(task)
        environment.start()
        gold = suite.gold(task)
        assert gold is not None
        results = [environment.step(action) for action in gold]
        assert results[-1].reward == 1 and results[-1].terminated
        environment.close()
    for gold, says in (
        (["buy it"], r"returned 'buy it', which is no call such as search\(query: string\)"),
        ("buy(1)", "gold returned 'buy"),
        ([], None),
    ):
        wrong = variant(gold=lambda self, gold=gold: gold)
        if says is None:
            assert wrong.gold(wrong.tasks()[0]) == []
            continue
        with pytest.raises(SuiteError, match=says):
            wrong.gold(wrong.tasks()[0])
    without = type("Without", (), {k: v for k, v in vars(Shop).items() if k not in ("gold", "__dict__", "__weakref__")})  # fmt: skip # noqa: E501
    assert suite_of(without).gold(suite.tasks()[0]) is None


def test_a_sandbox_of_its_own(nothing_leaks: Path) -> None:
    class Coder:
        """Write a file."""

        tasks = [{"name": "a"}]  # noqa: RUF012
        prompt = "name"

        def reset(self, name: str, sandbox: Sandbox) -> None:
            self.name, self.sandbox = name, sandbox

        def run(self, code: str) -> str:
            """Run Python."""
            done = self.sandbox.exec([*self.sandbox.python_argv(), "-c", code])
            return done.stdout or done.stderr

        def reward(self) -> bool:
            return self.name in self.sandbox.list()

    suite = suite_of(Coder)
    first, second = suite.environment(suite.tasks()[0]), suite.environment(suite.tasks()[0])
    assert first.start() == "a"  # reset returned None: the task's text
    second.start()
    assert act(first, "run", code="open('a', 'w').close(); print(1)").reward == 1
    assert act(second, "run", code="print(2)").reward == 0
    first.close()
    second.close()
    assert not list(nothing_leaks.iterdir())


@pytest.mark.parametrize(
    ("reward", "kept"), [(sum([1 / 9] * 9) + 2e-16, 1.0), (1 + 5e-7, 1.0), (-5e-7, 0.0)]
)
def test_rewards_are_rounded_to_0_and_1(reward: float, kept: float) -> None:
    environment = started(variant(reward=lambda self: reward))
    assert reward != kept and act(environment, "search", query="x").reward == kept
    environment.close()


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"reward": lambda self: 1 + 2e-6}, "reward returned 1.000002, not a number from 0 to 1"),
        ({"reward": lambda self: 2}, "reward returned 2, not a number from 0 to 1"),
        ({"reward": lambda self: float("nan")}, "reward returned nan"),
        ({"reward": lambda self: "x"}, "reward returned 'x'"),
        ({"reward": lambda self: 1 / 0}, "reward raised ZeroDivisionError: division by zero"),
        ({"metrics": lambda self: {"a": "b"}}, r"metrics returned \{'a': 'b'\}"),
        ({"metrics": lambda self: {}["a"]}, "metrics raised KeyError: 'a'"),
    ],
)
def test_a_broken_world_is_a_failure(attributes: dict[str, Any], says: str) -> None:
    suite = variant(**attributes)
    environment = suite.environment(suite.tasks()[0])
    with pytest.raises(EnvironmentFailure, match=says):
        environment.start()
        act(environment, "search", query="x")
    environment.close()


@pytest.mark.parametrize(
    ("reset", "says"),
    [
        (lambda self, goal, wanted: 3, "reset returned 3, not the first observation"),
        (lambda self, goal, wanted: "", "reset returned ''"),
        (lambda self, goal, wanted: {}["x"], "reset raised KeyError: 'x'"),
    ],
)
def test_a_broken_reset(reset: Callable[..., Any], says: str) -> None:
    reset.__annotations__ = {"goal": str, "wanted": int}
    suite = variant(reset=reset)
    environment = suite.environment(suite.tasks()[0])
    with pytest.raises(EnvironmentFailure, match=says):
        environment.start()
    environment.close()


def no_tasks(self: Any) -> list[Any]:
    return []


def failing(self: Any) -> list[Any]:
    raise KeyError("x")


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"tasks": no_tasks}, "Variant: tasks holds no tasks"),
        ({"tasks": failing}, "Variant: tasks raised KeyError: 'x'"),
        ({"tasks": 3}, "tasks is a int; make it a task file's path, a list of dicts"),
        ({"tasks": ["a"]}, "Variant task 1: 'a' is no dict of reset's parameters"),
        ({"tasks": [{"goal": "a", "wanted": 1}, {"goal": "b"}]}, "task 2: field wanted is missing"),
        ({"tasks": [{"goal": "a", "wanted": "x"}]}, "1: field wanted is 'x', not a valid"),
        ({"tasks": [{"goal": "a", "wanted": True}]}, "1: field wanted is True, not a number"),
        ({"tasks": [{"goal": "a", "wanted": 1, "b": 2}]}, "field 'b'; reset takes: goal, wanted$"),
        ({"tasks": [{"goal": "a", "wanted": 1, "family": 2}]}, "field family is 2, not a text"),
        ({"tasks": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"turns": 0}, "Variant.turns is 0; it must be above 0"),
        ({"turns": "x"}, "Variant.turns is 'x': Input should be a valid integer"),
        ({"seconds": -1}, "Variant.seconds is -1"),
        ({"example": "buy"}, "Variant.example is 'buy'"),
        ({"prompt": "gaol"}, "Variant.prompt is 'gaol', not a parameter of reset"),
        ({"search": None, "buy": None}, "Variant has no tools; give its public methods docstrings"),
    ],
)  # fmt: skip
def test_mistakes_in_a_class(attributes: dict[str, Any], says: str) -> None:
    with pytest.raises(SuiteError, match=says) as error:
        variant(**attributes).tasks()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("lacks", ["tasks", "reset", "reward"])
def test_what_a_class_needs(lacks: str) -> None:
    kept = {k: v for k, v in vars(Shop).items() if k not in (lacks, "__dict__", "__weakref__")}
    with pytest.raises(SuiteError, match=f"Partial has no {lacks}; a class needs tasks, reset"):
        suite_of(type("Partial", (), kept))


def test_prompts() -> None:
    def reset(self: Any, number: int, hint: str = "none", **rest: Any) -> None:
        pass

    tasks = [{"number": 1, "other": "o"}, {"number": 2, "hint": "h", "family": "f"}]

    def prompts(**attributes: Any) -> list[str]:
        return [t.prompt for t in variant(**{"reset": reset, "tasks": tasks} | attributes).tasks()]

    assert prompts() == ["Variant", "h"]  # never the other fields: they may hold the answer
    assert prompts(prompt="other") == ["o", "f"]
    assert prompts(prompt="number") == ["1", "2"]
    assert prompts(prompt="family") == ["Variant", "f"]
    rows = [{"prompt": "p", "answer": "a"}]
    assert prompts(tasks=rows, reset=lambda self, **rows: None) == ["p"]


def test_a_task_that_is_its_own_first_observation() -> None:
    def reset(self: Any, answer: str) -> None:
        pass

    suite = variant(reset=reset, tasks=[{"answer": "42"}])
    environment = suite.environment(suite.tasks()[0])
    with pytest.raises(EnvironmentFailure, match=r"reset returned None, not the first .*prompt ="):
        environment.start()  # it would show the answer
    environment.close()
    suite = variant(reset=reset, tasks=[{"answer": "42"}], prompt="answer")
    assert started(suite)._task.prompt == "42"


MODULE = '''
class Shop:
    """Buy."""
    tasks = "tasks.{kind}"
    def __init__(self, refund: float = 0.0, seed: int = 7): self.refund = refund
    def reset(self, goal: str, budget: float = 9.5) -> str: return goal
    def buy(self) -> str:
        """Buy."""
    def reward(self) -> float: return self.refund
'''


def test_by_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tasks from each kind of file have the same ids; mistakes name the line."""
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for kind, text in (("jsonl", '{"goal": "a", "budget": 3}\n{"goal": "b"}'),
                       ("csv", "goal,budget\na,3\nb,\n")):  # fmt: skip
        module = f"shop_{kind}"
        (tmp_path / f"{module}.py").write_text(MODULE.format(kind=kind))
        (tmp_path / f"tasks.{kind}").write_text(text)
        options: dict[str, Any] = {"refund": 1}
        suite = load_suite(f"{module}:Shop", sandbox=make_sandbox, options=options)
        assert isinstance(suite, PlainSuite)
        assert [task.data for task in suite.tasks()] == [
            {"goal": "a", "budget": 3.0},
            {"goal": "b"},
        ]
        found.append([task.id for task in suite.tasks()])
    assert found[0] == found[1]
    with pytest.raises(SuiteError, match="unknown option 'seed'; options: refund"):
        load_suite("shop_csv:Shop", sandbox=make_sandbox, options={"seed": 1})
    with pytest.raises(SuiteError, match='option refund is "x"'):
        load_suite("shop_csv:Shop", sandbox=make_sandbox, options={"refund": "x"})
    (tmp_path / "tasks.csv").write_text("goal,budget\na,3\nb,cheap\n")
    suite = load_suite("shop_csv:Shop", sandbox=make_sandbox)
    with pytest.raises(
        SuiteError, match=r"^tasks.csv line 3: field budget is 'cheap', not a valid"
    ):
        suite.tasks()
    (tmp_path / "broken.py").write_text("x = (\n")
    with pytest.raises(SuiteError, match=r"cannot import 'broken': SyntaxError: .*line 1"):
        load_suite("broken:Shop", sandbox=make_sandbox)
    sys.modules.pop("shop_jsonl"), sys.modules.pop("shop_csv")


def test_tasks_are_data() -> None:
    for task in suite_of(Shop).tasks():
        assert Task.model_validate_json(task.model_dump_json()) == task
        assert "family" not in json.dumps(task.data)
    assert sum(map(len, split_tasks(suite_of(Shop).tasks()).values())) == 3
