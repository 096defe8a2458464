"""Spider and sets in its form: questions about SQLite databases, answered with a query.

Data: a folder with the tasks (``tasks.jsonl`` with db, question, gold_sql; or Spider's own
``dev.json`` with db_id, question, query) and the databases (``db/NAME.sqlite``, or Spider's
``database/NAME/NAME.sqlite``). Spider is CC-BY-SA-4.0 (Yu et al. 2018, arXiv 1809.08887).

An answer is right when its rows are those of the gold query: as a multiset, or in order where
the gold query has an ORDER BY; columns in the order asked for. Tasks whose gold query finds
nothing are left out: every wrong query that finds nothing would pass.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
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
    run_in_sandbox,
    run_trusted,
    same_rows,
)
from environments.sandbox.base import Sandbox
from environments.suites.data import data_path, read_jsonl

SOURCE = (
    "Spider (yale-lily.github.io/spider), or rebuild it from github.com/princeton-nlp/intercode "
    "(data/sql/spider)"
)
MOST_SPAWNED = 200  # rows of the answer to a question that a policy wrote
CLAUSES = ("nested", "join", "group", "order", "plain")
MOST_MIB = 16  # of one database, which is copied into the sandbox for every episode


class Spider:
    """Questions about several databases; the schema stands in the prompt.

    Args:
        data: folder with the tasks and the databases.
        sandbox: makes the sandbox that an episode's SQL runs in.

    Raises:
        SuiteError: the data is missing or unusable.
    """

    name = "spider"
    description = "questions about SQLite databases (Spider and sets in its form), answered in SQL"
    briefing = Briefing(
        text="Write one SQLite query that answers the question.",
        example=(
            "How many boats are longer than 10 metres?\n"
            "CREATE TABLE boats (boat_id INTEGER, name TEXT, length_m INTEGER)",
            "```sql\nSELECT count(*) FROM boats WHERE length_m > 10\n```",
        ),
        turns=3,
        max_new_tokens=192,
    )

    def __init__(self, data: str | None = None, *, sandbox: Callable[[], Sandbox]) -> None:
        self._path = data_path(self.name, data, "spider_sqlite", SOURCE)
        self._sandbox = sandbox
        self._databases: dict[str, tuple[Database, str, str]] = {}

    def tasks(self) -> Sequence[Task]:
        """The tasks whose gold query finds something, in the order of the data."""
        return self._tasks

    @functools.cached_property
    def _tasks(self) -> tuple[Task, ...]:
        found = {}
        for number, (name, question, sql, hardness) in enumerate(self._records(), 1):
            database, content, schema = self._database(name)
            try:
                rows = run_trusted(database, sql).rows
            except sqlite3.Error as error:
                raise SuiteError(
                    f"suite {self.name}: {self._path}: the gold query of task {number} does not "
                    f"run on {name}: {error}"
                ) from None
            if not rows:
                continue
            task = Task(
                suite=self.name,
                family=hardness or clause_of(sql),
                prompt=f"{question.strip()}\n{schema}",
                data={"database": name, "content": content, "sql": sql},
            )
            found[task.id] = task
        return tuple(found.values())

    def environment(self, task: Task) -> Environment:
        """The question and the database of one task."""
        database, content, _ = self._database(str(task.data["database"]))
        if content != task.data["content"]:
            raise SuiteError(
                f"suite {self.name}: {self._path}: the database {task.data['database']} is not "
                f"the one that task {task.id} was made from"
            )
        sql = str(task.data["sql"])

        # Of a query that a policy wrote (it runs in the sandbox), or made up.
        found = task.data.get("rows")

        def grade(result: Result) -> bool:
            rows: Any = run_trusted(database, sql).rows if found is None else found
            return same_rows(rows, result.rows, ordered=has_order(sql))

        return SqlAnswer(task.prompt, database, "rows", grade, self._sandbox)

    def gold(self, task: Task) -> Sequence[Action]:
        """The gold query."""
        return [write_action(SQL, str(task.data["sql"]))]

    def canary(self, task: Task, seed: int) -> Task | None:
        """The same question, whose answer has a value that is made up."""
        database, _, _ = self._database(str(task.data["database"]))
        rows = made_up_rows(run_trusted(database, str(task.data["sql"])).rows, seed)
        if rows is None:
            return None
        return task.model_copy(update={"data": {**task.data, "rows": rows}})

    def fields(self, task: Task) -> dict[str, str]:
        """The question, its database with the schema, and the gold query."""
        question, _, schema = task.prompt.partition("\n")
        return {
            "prompt": question,
            "family": task.family,
            "database": str(task.data["database"]),
            "schema": schema,
            "query": str(task.data["sql"]),
        }

    def spawn(self, fields: Mapping[str, str]) -> Task | None:
        """A question whose answer is what a query finds in the sandbox; None if that is nothing.

        Raises:
            SandboxFailure, SandboxUnavailable: the sandbox broke, cannot be made or lacks SQLite.
        """
        name, sql = fields["database"], fields["query"].strip()
        question = " ".join(fields["prompt"].split())
        if not question or not sql or name not in self._named:
            return None
        database, content, schema = self._database(name)
        sandbox = self._sandbox()
        try:
            sandbox.write("database.sqlite", database.file or b"")
            result = run_in_sandbox(sandbox, database, sql)
        finally:
            sandbox.close()
        if result.error is not None or not result.rows or len(result.rows) > MOST_SPAWNED:
            return None
        return Task(
            suite=self.name,
            family=clause_of(sql) if fields["family"] in CLAUSES else fields["family"],
            prompt=f"{question}\n{schema}",
            data={"database": name, "content": content, "sql": sql, "rows": result.rows},
        )

    @functools.cached_property
    def _named(self) -> frozenset[str]:
        return frozenset(record[0] for record in self._records())

    def _records(self) -> list[tuple[str, str, str, str | None]]:
        """(database, question, gold query, hardness) of every task in the files."""
        if (file := self._path / "tasks.jsonl").is_file():
            names = ("db", "question", "gold_sql")
            records = read_jsonl(self.name, file, names)
        elif (file := self._path / "dev.json").is_file():
            names = ("db_id", "question", "query")
            try:
                records = json.loads(file.read_text(encoding="utf-8"))
                if not all(name in record for record in records for name in names):
                    raise ValueError(f"a record lacks one of {', '.join(names)}")
            except (OSError, ValueError, TypeError) as error:
                raise SuiteError(f"suite {self.name}: {file} cannot be used: {error}") from None
        else:
            raise SuiteError(f"suite {self.name}: {self._path} has no tasks.jsonl or dev.json")
        return [(*(str(record[n]) for n in names), record.get("hardness")) for record in records]  # type: ignore[misc]

    def _database(self, name: str) -> tuple[Database, str, str]:
        """A database, the hash of what it holds, and its schema as text."""
        if name not in self._databases:
            self._databases[name] = self._read(name)
        return self._databases[name]

    def _read(self, name: str) -> tuple[Database, str, str]:
        places = (f"db/{name}.sqlite", f"database/{name}/{name}.sqlite")
        path = next((p for place in places if (p := self._path / place).is_file()), None)
        if path is None or Path(name).name != name:
            raise SuiteError(f"suite {self.name}: {self._path} has neither {' nor '.join(places)}")
        if path.stat().st_size > MOST_MIB << 20:
            raise SuiteError(f"suite {self.name}: {path} is larger than {MOST_MIB} MiB")
        try:
            file = path.read_bytes()
            connection = sqlite3.connect(":memory:")
            try:
                connection.deserialize(file)
                connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
                content = "\n".join(connection.iterdump())
                made: list[Any] = connection.execute(
                    "SELECT sql FROM sqlite_master WHERE type = 'table' AND sql IS NOT NULL"
                ).fetchall()
            finally:
                connection.close()
        except (OSError, sqlite3.Error) as error:
            raise SuiteError(f"suite {self.name}: {path} cannot be read: {error}") from None
        digest = hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()[:16]
        return Database(file=file), digest, "\n".join(_compact(sql) for (sql,) in made)


def clause_of(sql: str) -> str:
    """A family for a query without a given hardness: its most advanced part."""
    text = f" {' '.join(sql.lower().split())} "
    for family, signs in (
        ("nested", ("(select", "( select", " union ", " intersect ", " except ")),
        ("join", (" join ",)),
        ("group", (" group by ",)),
        ("order", (" order by ",)),
    ):
        if any(sign in text for sign in signs):
            return family
    return "plain"


def _compact(sql: str) -> str:
    """A CREATE statement on one line, without quotation marks around plain names."""
    return re.sub(r'["`]([A-Za-z_]\w*)["`]', r"\1", " ".join(sql.split()))
