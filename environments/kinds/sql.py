"""Questions answered by writing SQL for an SQLite database.

The SQL of a model is code of a model: it runs in the sandbox, with the sandbox's own Python and
SQLite, against a copy of the database. Expected results never go there; what comes back is JSON
and is compared here.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from environments.base import Action, EnvironmentFailure, StepResult, Tool
from environments.calls import clean
from environments.kinds.answer import code_of
from environments.nonce import nonce
from environments.sandbox.base import Sandbox, SandboxUnavailable

MOST_ROWS = 5000
MOST_BYTES = 4 << 20  # of a whole result, as JSON
SHOWN_CHARS = 400
SQL = Tool(
    name="sql",
    description="One SQLite statement. The first one that runs is your answer.",
    parameters={
        "type": "object",
        "properties": {"query": {"type": "string", "contentMediaType": "application/sql"}},
        "required": ["query"],
    },
)
# Runs in the sandbox. ``random`` is replaced so that the same query has the same result.
_RUNNER = """
import json, sys
job = json.load(sys.stdin)

def answer():
    try:
        import sqlite3
    except ImportError as error:
        return {"missing": str(error)}
    def rows(cursor):
        found = cursor.fetchmany(job["most"] + 1)
        if len(found) > job["most"]:
            raise sqlite3.Error("the result has more than %d rows" % job["most"])
        return [[{"blob": v.hex()} if isinstance(v, bytes) else v for v in row] for row in found]
    try:
        if job["file"]:
            connection = sqlite3.connect("file:%s?mode=ro&immutable=1" % job["file"], uri=True)
        else:
            connection = sqlite3.connect(":memory:")
        for statement, values in job["setup"]:
            connection.executemany(statement, values) if values else connection.execute(statement)
        connection.commit()
        connection.execute("SELECT count(*) FROM sqlite_master")
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        connection.create_function("random", 0, lambda: 4)
        before = connection.total_changes
    except sqlite3.Error as error:
        return {"broken": str(error)}
    try:
        cursor = connection.execute(job["sql"])
        said = {"columns": [column[0] for column in cursor.description or ()]}
        said["rows"] = rows(cursor)
        said["changed"] = connection.total_changes - before
        if job["table"]:
            said["state"] = rows(connection.execute('SELECT * FROM "%s"' % job["table"]))
        return said
    except MemoryError:
        return {"error": "the statement needs too much memory"}
    except Exception as error:
        return {"error": str(error)}

said = answer()
with open(job["result"], "w") as file:
    json.dump(said, file)
"""


class Database(BaseModel):
    """A database to ask: a file's bytes, or statements that make it in memory.

    Args:
        file: an SQLite file; opened read-only.
        setup: statements, each with the rows of values to run it with (none: run it once).
        table: whose rows are the state that a statement may change; None if none may.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: bytes | None = None
    setup: list[tuple[str, list[list[Any]]]] = Field(default_factory=list)
    table: str | None = None


class Result(BaseModel):
    """What a statement did: an error, or its rows, and the table's rows after it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    error: str | None = None
    columns: list[str] = Field(default_factory=list)
    rows: list[list[Any]] = Field(default_factory=list)
    changed: int = 0
    state: list[list[Any]] = Field(default_factory=list)


class SqlAnswer:
    """One question; the first statement that runs without error answers it.

    Until then the agent may try again: each error comes back as the observation. Where the
    answer is a change of the table, a query that changes nothing shows its rows, and the
    episode goes on.

    Args:
        prompt: the question, which is the first observation.
        database: what is asked; every statement meets it as it was at first.
        kind: ``rows`` where a result answers, ``state`` where the changed table does.
        grade: whether a result is right; called outside the sandbox.
        sandbox: makes the sandbox, when SQL is first run.
    """

    def __init__(
        self,
        prompt: str,
        database: Database,
        kind: Literal["rows", "state"],
        grade: Callable[[Result], bool],
        sandbox: Callable[[], Sandbox],
    ) -> None:
        self._prompt, self._database, self._kind = prompt, database, kind
        self._grade, self._make_sandbox = grade, sandbox
        self._sandbox: Sandbox | None = None
        self._over = False

    @property
    def tools(self) -> Sequence[Tool]:
        """The one tool, ``sql``."""
        return (SQL,)

    def start(self) -> str:
        """The question."""
        return self._prompt

    def step(self, action: Action) -> StepResult:
        """Run the action's statement.

        Raises:
            SandboxFailure, SandboxUnavailable: the sandbox broke, cannot be made or lacks SQLite.
            EnvironmentFailure: the episode is over, or the database cannot be made.
        """
        if self._over:
            raise EnvironmentFailure("the episode is over: make a new environment")
        query = code_of(action, SQL)
        if isinstance(query, StepResult):
            return query
        if not query.strip(" \t\r\n;"):
            return StepResult(observation="The statement is empty.", error="no code")
        result = self._run(query)
        if result.error is not None:
            message = " ".join(result.error.split())[:SHOWN_CHARS]
            return StepResult(observation=f"Error: {message}", error="sql error")
        if self._kind == "state" and result.columns and not result.changed:
            return StepResult(observation=_shown(result))
        self._over = True
        observation = _shown(result) if result.columns else f"{result.changed} rows changed."
        return StepResult(
            observation=observation, reward=float(self._grade(result)), terminated=True
        )

    def close(self) -> None:
        """Close the sandbox; safe to call twice."""
        self._over = True
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None

    def _run(self, query: str) -> Result:
        if self._sandbox is None:
            self._sandbox = self._make_sandbox()
            if self._database.file is not None:
                self._sandbox.write("database.sqlite", self._database.file)
        return run_in_sandbox(self._sandbox, self._database, query)


def run_in_sandbox(sandbox: Sandbox, database: Database, query: str) -> Result:
    """Run one statement in the sandbox; a database file is there as ``database.sqlite``.

    Raises:
        SandboxUnavailable: the sandbox's Python has no SQLite; says what to install.
        SandboxFailure: the sandbox broke.
        EnvironmentFailure: the database could not be made.
    """
    job = {
        "file": "database.sqlite" if database.file is not None else None,
        "setup": database.setup,
        "table": database.table.replace('"', '""') if database.table else None,
        "sql": clean(query),
        "most": MOST_ROWS,
        "result": "result.json",
    }
    done = sandbox.exec([*sandbox.python_argv(), "-c", _RUNNER], stdin=json.dumps(job))
    if done.outcome == "timeout":
        return Result(error="the statement took too long and was stopped")
    if done.outcome != "ok":
        return Result(error="the statement was stopped: it needs too much memory or its result "
                      "is too large")  # fmt: skip
    raw = sandbox.read("result.json")
    try:
        said = json.loads(raw) if len(raw) <= MOST_BYTES else {"error": "the result is too large"}
        if "missing" in said:
            raise SandboxUnavailable(
                f"the sandbox's Python has no SQLite ({said['missing']}): apt-get install "
                "libpython3-stdlib"
            )
        if "broken" in said:
            raise EnvironmentFailure(f"the task's database cannot be made: {said['broken']}")
        return Result.model_validate(said)
    except (ValueError, ValidationError, RecursionError) as error:
        return Result(error=f"the result cannot be read: {error}")


def run_trusted(database: Database, query: str) -> Result:
    """Run a task's own statement in this process, on a database that nobody else sees.

    Raises:
        sqlite3.Error: it does not run.
    """
    connection = sqlite3.connect(":memory:")
    try:
        if database.file is not None:
            connection.deserialize(database.file)
        for statement, values in database.setup:
            if values:
                connection.executemany(statement, values)
            else:
                connection.execute(statement)
        connection.commit()
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        before = connection.total_changes
        cursor = connection.execute(query)
        columns = [column[0] for column in cursor.description or ()]
        rows = _plain(cursor.fetchall())
        state = []
        if database.table:
            name = database.table.replace('"', '""')
            state = _plain(connection.execute(f'SELECT * FROM "{name}"').fetchall())  # noqa: S608
        changed = connection.total_changes - before
        return Result(columns=columns, rows=rows, changed=changed, state=state)
    finally:
        connection.close()


def same_rows(expected: Sequence[Sequence[Any]], got: Sequence[Sequence[Any]], *,
              ordered: bool) -> bool:  # fmt: skip
    """Whether two results hold the same rows; numbers are compared to four decimals.

    Args:
        expected, got: rows of JSON values; columns count in their order.
        ordered: whether the order of the rows counts.
    """
    first, second = [_key(row) for row in expected], [_key(row) for row in got]
    return first == second if ordered else Counter(first) == Counter(second)


def made_up_rows(rows: Sequence[Sequence[Any]], seed: int) -> list[list[Any]] | None:
    """A result that nobody can know: one value in it is made up (see ``environments.nonce``).

    Args:
        rows: the right result.
        seed: decides the value.

    Returns:
        the rows, or None where no value is a number or a text.
    """
    made = [list(row) for row in rows]
    for row in made:
        for column, value in enumerate(row):
            if isinstance(value, int | float):
                row[column] = int(str(nonce("1", seed)))  # whole, so that nothing is rounded away
                return made
            if isinstance(value, str) and (text := nonce(value, seed)):
                row[column] = text
                return made
    return None


def has_order(query: str) -> bool:
    """Whether a query as a whole (not one inside parentheses) has an ORDER BY."""
    depth, quote, outside = 0, "", []
    for character in query:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"`":
            quote = character
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif depth == 0:
            outside.append(character)
    return " order by " in f" {' '.join(''.join(outside).lower().split())} "


def _key(row: Sequence[Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(
        ("number", round(float(value), 4) + 0.0)
        if isinstance(value, int | float)
        else (type(value).__name__, json.dumps(value))
        for value in row
    )


def _plain(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [
        [{"blob": value.hex()} if isinstance(value, bytes) else value for value in row]
        for row in rows
    ]


def _shown(result: Result) -> str:
    lines = [" | ".join(result.columns)]
    lines += [" | ".join(str(value) for value in row) for row in result.rows[:20]]
    text = "\n".join(lines)
    more = len(result.rows) > 20 or len(text) > SHOWN_CHARS
    return text[:SHOWN_CHARS] + (f"\n... ({len(result.rows)} rows)" if more else "")
