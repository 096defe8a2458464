"""SQL of an agent: run in the sandbox, compared outside."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from environments.base import Action, EnvironmentFailure, StepResult
from environments.kinds.sql import (
    Database,
    Result,
    SqlAnswer,
    has_order,
    run_in_sandbox,
    run_trusted,
    same_rows,
)
from environments.sandbox import make_sandbox
from environments.sandbox.base import Limits, Sandbox
from environments.sandbox.bubblewrap import BubblewrapSandbox

TABLE = Database(
    setup=[
        ("CREATE TABLE t (a INT, b TEXT)", []),
        ("INSERT INTO t VALUES (?, ?)", [[1, "x"], [2, "y"], [3, "\u00e9"]]),
    ],
    table="t",
)


def ask(query: Any, kind: Any = "rows", database: Database = TABLE, **limits: Any) -> StepResult:
    environment = SqlAnswer(
        "?", database, kind, lambda result: True, lambda: make_sandbox(limits=Limits(**limits))
    )
    try:
        return environment.step(Action(text="", tool="sql", arguments={"query": query}))
    finally:
        environment.close()
        environment.close()


def test_the_first_query_that_runs_answers() -> None:
    result = ask("SELECT b, a FROM t WHERE a > 1;")
    assert (result.reward, result.terminated, result.error) == (1.0, True, None)
    assert result.observation == "b | a\ny | 2\n\u00e9 | 3"


def test_both_sides_see_the_same() -> None:
    sandbox = make_sandbox()
    try:
        for query in (
            "SELECT *, 1.5, NULL, x'00ff', 'a' || char(10) FROM t ORDER BY a DESC",
            "UPDATE t SET b = 'z' WHERE a <> 2",
            "INSERT INTO t VALUES (4, NULL)",
            "DELETE FROM t",
        ):
            assert run_in_sandbox(sandbox, TABLE, query) == run_trusted(TABLE, query), query
    finally:
        sandbox.close()


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELEC 1", 'near "SELEC": syntax error'),
        ("SELECT c FROM t", "no such column: c"),
        ("SELECT 1; DROP TABLE t", "one statement at a time"),
        ("  ;\n", "empty"),
        ("SELECT load_extension('x')", "not authorized|no such function"),
        ("SELECT '\ud800", "unrecognized token"),
        ("DROP TABLE t", "no such table"),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
            "more than 5000 rows",
        ),
        ("SELECT hex(zeroblob(900000000))", "too much memory|too large|too big"),
    ],
)
def test_what_goes_wrong_is_told_and_may_be_tried_again(query: str, says: str) -> None:
    result = ask(query)
    assert (result.reward, result.terminated) == (0.0, False) and result.error
    import re

    assert re.search(says, result.observation), result.observation


def test_endless_sql_is_stopped() -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    assert "took too long" in ask(endless, wall_s=0.5).observation


def test_sql_cannot_leave_the_sandbox(tmp_path: Any) -> None:
    secret = tmp_path / "secret.sqlite"
    secret.touch()
    for query in (f"ATTACH '{secret}' AS x", "ATTACH '/usr/x.sqlite' AS x",
                  f"VACUUM INTO '{tmp_path}/copy.sqlite'"):  # fmt: skip
        assert ask(query).error == "sql error"
    assert [path.name for path in tmp_path.iterdir()] == ["secret.sqlite"]


def test_a_change_is_graded_by_the_table_and_looking_is_free() -> None:
    seen: list[Result] = []
    environment = SqlAnswer("?", TABLE, "state", lambda r: bool(seen.append(r)), make_sandbox)
    look = environment.step(Action(text="", tool="sql", arguments={"query": "SELECT b FROM t"}))
    assert (look.terminated, look.error, look.observation) == (False, None, "b\nx\ny\n\u00e9")
    done = environment.step(Action(text="", tool="sql", arguments={"query": "DELETE FROM t"}))
    assert (done.terminated, done.observation) == (True, "3 rows changed.")
    assert [result.state for result in seen] == [[]]
    with pytest.raises(EnvironmentFailure, match="over"):
        environment.step(Action(text=""))
    environment.close()


def test_a_database_file_cannot_be_changed() -> None:
    import sqlite3

    connection = sqlite3.connect(":memory:")
    connection.executescript("CREATE TABLE t (a INT); INSERT INTO t VALUES (7)")
    file = Database(file=connection.serialize())
    connection.close()
    assert ask("SELECT a FROM t", database=file).observation == "a\n7"
    assert "readonly" in ask("DELETE FROM t", database=file).observation
    with pytest.raises(EnvironmentFailure, match="cannot be made"):
        ask("SELECT 1", database=Database(file=b"no database" * 100))


def test_the_same_query_has_the_same_result() -> None:
    assert ask("SELECT random(), a FROM t ORDER BY random()") == ask(
        "SELECT random(), a FROM t ORDER BY random()"
    )


def test_nothing_but_the_question_goes_into_the_sandbox() -> None:
    """The expected rows are nowhere in what the sandbox is given."""
    given: list[str] = []

    class Watched(BubblewrapSandbox):
        def exec(self, argv: Any, *, stdin: str = "", limits: Any = None) -> Any:
            given.append(" ".join(argv) + stdin)
            return super().exec(argv, stdin=stdin, limits=limits)

    expected = [[424242]]
    environment = SqlAnswer(
        "?",
        TABLE,
        "rows",
        lambda result: same_rows(expected, result.rows, ordered=False),
        lambda: Watched(),
    )
    environment.step(Action(text="", tool="sql", arguments={"query": "SELECT 1"}))
    environment.close()
    assert len(given) == 1 and "424242" not in given[0]


@pytest.fixture
def hidden_python(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Sandbox]]:
    class NoSqlite(BubblewrapSandbox):
        def exec(self, argv: Any, *, stdin: str = "", limits: Any = None) -> Any:
            code = argv[-1].replace("import sqlite3", "raise ImportError('no _sqlite3')")
            return super().exec([*argv[:-1], code], stdin=stdin, limits=limits)

    yield NoSqlite


def test_a_python_without_sqlite_is_named(hidden_python: type[Sandbox]) -> None:
    from environments.sandbox.base import SandboxUnavailable

    environment = SqlAnswer("?", TABLE, "rows", lambda result: True, hidden_python)
    with pytest.raises(SandboxUnavailable, match="libpython3-stdlib"):
        environment.step(Action(text="", tool="sql", arguments={"query": "SELECT 1"}))
    environment.close()


def test_rows_are_compared_as_a_multiset_or_in_order() -> None:
    rows = [[1, "a"], [2, "b"], [2, "b"]]
    for other in itertools.permutations(rows):
        assert same_rows(rows, other, ordered=False)
        assert same_rows(rows, other, ordered=True) == (list(other) == rows)
    assert not same_rows(rows, rows[:2], ordered=False)
    assert not same_rows(rows, [[1, "a"], [1, "a"], [2, "b"]], ordered=False)
    assert not same_rows([["a", 1]], [[1, "a"]], ordered=False)
    assert not same_rows([[1]], [["1"]], ordered=False)
    assert not same_rows([[None]], [[0]], ordered=False)
    assert same_rows([[0.1 + 0.2, 2]], [[0.3, 2.0]], ordered=True)
    assert not same_rows([[0.3]], [[0.31]], ordered=True)
    assert same_rows([[float("inf")]], json.loads("[[Infinity]]"), ordered=True)


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("SELECT a FROM t ORDER BY a LIMIT 1", True),
        ("select a from t order\n  by a", True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a)", False),
        ("SELECT ' ORDER BY ' FROM t", False),
        ("SELECT count(a) FROM t GROUP BY b ORDER BY count(a)", True),
        ("SELECT a FROM t", False),
    ],
)
def test_whether_the_order_counts(query: str, ordered: bool) -> None:
    assert has_order(query) is ordered
