"""LifelongAgentBench's database tasks: one table, one statement, a stream of growing skills.

Data: LifelongAgentBench (Zheng et al. 2025, arXiv 2505.11942), as carried by MemTensor/MemRL
(MIT). It was made for MySQL; here the tables are SQLite's, and the expected answers are what the
published statements give on them (six SELECTs with LIMIT but no order differ from MySQL's). Five
published statements are MySQL's own (UPDATE or DELETE with JOIN, STDDEV): they are left out.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from environments.base import Action, Briefing, Environment, SuiteError, Task
from environments.calls import write_action
from environments.kinds.sql import (
    SQL,
    Database,
    Result,
    SqlAnswer,
    has_order,
    made_up_rows,
    run_trusted,
    same_rows,
)
from environments.sandbox.base import Sandbox
from environments.suites.data import data_files, data_path, read_records

SOURCE = "github.com/MemTensor/MemRL (folder data/llb)"
FILES = ("db_bench_data.jsonl",)
# A SELECT's family is the first of these that one of its skills begins with.
CLAUSES = ("subquery", "having", "group_by", "order_by", "limit", "where")


class LifelongDb:
    """Single-table questions and changes in the order of the data: a stream.

    Args:
        data: folder with db_bench_data.jsonl, or one such file.
        sandbox: makes the sandbox that an episode's SQL runs in.

    Raises:
        SuiteError: the data is missing or unusable.
    """

    name = "lifelong-db"
    description = "single-table SQL tasks in a stream of growing skills (LifelongAgentBench)"
    briefing = Briefing(
        text="Write one SQLite statement that does what is asked.",
        example=(
            "What are the names of the boats that are longer than 10 metres?\n"
            "Table: boats(boat_id INT, name TEXT, length_m INT)",
            "```sql\nSELECT name FROM boats WHERE length_m > 10;\n```",
        ),
        turns=3,
        max_new_tokens=192,
    )

    def __init__(self, data: str | None = None, *, sandbox: Callable[[], Sandbox]) -> None:
        self._path = data_path(self.name, data, "lifelong_agentbench", SOURCE)
        self._sandbox = sandbox

    def tasks(self) -> Sequence[Task]:
        """The tasks whose published statement runs on SQLite, in the order of the data."""
        return self._tasks

    @functools.cached_property
    def _tasks(self) -> tuple[Task, ...]:
        fields = ("instruction", "answer_info", "table_info", "skill_list")
        files = data_files(self.name, self._path, FILES)
        found = {
            task.id: task
            for where, record in read_records(self.name, files, fields)
            if (task := self._task(where, record)) is not None
        }
        return tuple(found.values())

    def _task(self, where: str, record: dict[str, Any]) -> Task | None:
        try:
            table, sql = record["table_info"], str(record["answer_info"]["sql"])
            columns = [(str(c["name"]), str(c["type"])) for c in table["column_info_list"]]
            name, rows, skills = str(table["name"]), table["row_list"], record["skill_list"]
            database = _database(name, columns, rows)
            run_trusted(database, "SELECT 1")
        except (KeyError, TypeError, ValueError, sqlite3.Error) as error:
            raise SuiteError(
                f"suite {self.name}: {where} has no usable table or statement: "
                f"{type(error).__name__}: {error}"
            ) from None
        try:
            gold = run_trusted(database, sql)
        except sqlite3.Error:  # MySQL's own syntax
            return None
        if not gold.rows and same_rows(rows, gold.state, ordered=False):
            return None  # finds nothing and changes nothing: so would many wrong statements
        shown = ", ".join(f"{column} {kind}" for column, kind in columns)
        return Task(
            suite=self.name,
            family=family_of(sql, skills),
            prompt=f"{str(record['instruction']).strip()}\nTable: {name}({shown})",
            data={"table": name, "columns": [list(c) for c in columns], "rows": rows, "sql": sql},
        )

    def environment(self, task: Task) -> Environment:
        """The table and the question of one task."""
        data: Any = task.data
        database, sql = _database(data["table"], data["columns"], data["rows"]), data["sql"]
        query = family_of(sql, []).startswith("select")

        def grade(result: Result) -> bool:
            right = data["right"] if "right" in data else _right(database, sql)
            if query:
                return same_rows(right, result.rows, ordered=has_order(sql))
            return same_rows(right, result.state, ordered=False)

        return SqlAnswer(task.prompt, database, "rows" if query else "state", grade, self._sandbox)

    def canary(self, task: Task, seed: int) -> Task | None:
        """The same question; in what is right (rows, or the table's) a value is made up."""
        data: Any = task.data
        database = _database(data["table"], data["columns"], data["rows"])
        right = made_up_rows(_right(database, data["sql"]), seed)
        if right is None:
            return None
        return task.model_copy(update={"data": {**data, "right": right}})

    def gold(self, task: Task) -> Sequence[Action]:
        """The published statement."""
        return [write_action(SQL, str(task.data["sql"]))]


def family_of(sql: str, skills: Sequence[str]) -> str:
    """``insert``, ``update``, ``delete``, or ``select`` with its most advanced clause."""
    verb = sql.split(None, 1)[0].lower() if sql.strip() else ""
    if verb in ("insert", "update", "delete"):
        return verb
    clause = next((c for c in CLAUSES for skill in skills if skill.startswith(c)), "")
    return f"select {clause.replace('_', ' ')}".strip()


def _right(database: Database, sql: str) -> list[list[Any]]:
    """What the published statement finds, or the table's rows after it."""
    gold = run_trusted(database, sql)
    return gold.rows if family_of(sql, []).startswith("select") else gold.state


def _database(name: str, columns: Sequence[Sequence[str]], rows: list[list[Any]]) -> Database:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    make = ", ".join(f"{quoted(column)} {quoted(kind)}" for column, kind in columns)
    marks = ", ".join("?" * len(columns))
    setup: list[tuple[str, list[list[Any]]]] = [(f"CREATE TABLE {quoted(name)} ({make})", [])]
    if rows:
        setup.append((f"INSERT INTO {quoted(name)} VALUES ({marks})", rows))  # noqa: S608
    return Database(setup=setup, table=name)
