"""The suites that are answered in SQL: Spider and LifelongAgentBench's database tasks."""

import json
import shutil
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from environments.base import Action, SuiteError
from environments.checks import check_suite
from environments.suites.lifelong_db import family_of
from environments.suites.spider import clause_of
from tests.environments.gold import DATA, failures, load, replay

SPIDER, LIFELONG = str(DATA / "spider"), str(DATA / "lifelong_agentbench")


@pytest.mark.parametrize(
    ("name", "data", "tasks"), [("spider", SPIDER, 18), ("lifelong-db", LIFELONG, 14)]
)
def test_gold_earns_the_full_reward_and_the_suite_conforms(
    name: str, data: str, tasks: int
) -> None:
    suite = load(name, data=data)
    assert len(suite.tasks()) == tasks
    assert failures(suite) == [] == check_suite(suite, limit=2)
    for task in suite.tasks():
        assert str(task.data["sql"]) not in task.prompt


@pytest.mark.parametrize(("name", "data"), [("spider", SPIDER), ("lifelong-db", LIFELONG)])
def test_another_answer_than_gold_earns_nothing(name: str, data: str) -> None:
    suite = load(name, data=data)
    for task in suite.tasks():
        table = task.data.get("table") or ("singer" if "singer" in task.prompt else "people")
        for query in ("SELECT 1", f"SELECT * FROM {table}", f"DELETE FROM {table}"):
            environment = suite.environment(task)
            result = environment.step(Action(text="", tool="sql", arguments={"query": query}))
            environment.close()
            assert result.reward == 0.0, (task.prompt, query)


def test_the_prompt_has_the_schema() -> None:
    (task, *_) = load("spider", data=SPIDER).tasks()
    assert "CREATE TABLE poker_player (Poker_Player_ID INTEGER, " in task.prompt
    (task, *_) = load("lifelong-db", data=LIFELONG).tasks()
    assert task.prompt.endswith(
        "\nTable: membership_payments(payment_id INT, member_id INT, payment_date TEXT, "
        "amount INT, payment_method TEXT)"
    )


def test_a_written_query_may_differ_from_gold() -> None:
    suite = load("spider", data=SPIDER)
    task = next(t for t in suite.tasks() if str(t.data["sql"]).lower().startswith("select count"))
    environment = suite.environment(task)
    query = f"WITH answer AS ({task.data['sql']}) SELECT 1.0 * * FROM answer"
    assert environment.step(Action(text="", tool="sql", arguments={"query": query})).error
    query = f"SELECT * FROM ({task.data['sql']}) AS answer"
    assert environment.step(Action(text="", tool="sql", arguments={"query": query})).reward == 1.0
    environment.close()


def in_the_datas_order(data: Path) -> None:
    """A stream: what is asked later builds on skills that were asked for before."""
    records = map(json.loads, (data / "db_bench_data.jsonl").open())
    asked = [record["instruction"].strip() for record in records]
    places = [
        asked.index(task.prompt.rpartition("\nTable: ")[0])
        for task in load("lifelong-db", data=str(data)).tasks()
    ]
    assert places == sorted(places) and len(places) > 10


def test_the_stream_keeps_the_datas_order() -> None:
    in_the_datas_order(Path(LIFELONG))


def test_ids_depend_on_what_a_database_holds_and_not_on_where_it_lies(tmp_path: Path) -> None:
    shutil.copytree(SPIDER, tmp_path / "moved")
    ids = [task.id for task in load("spider", data=SPIDER).tasks()]
    moved = load("spider", data=str(tmp_path / "moved"))
    assert [task.id for task in moved.tasks()] == ids
    connection = sqlite3.connect(tmp_path / "moved" / "db" / "singer.sqlite")
    connection.execute("UPDATE singer SET Name = 'Nobody' WHERE rowid = 1")
    connection.commit()
    connection.close()
    changed = [task.id for task in load("spider", data=str(tmp_path / "moved")).tasks()]
    assert 0 < len(set(ids) & set(changed)) < len(ids)


def test_a_database_that_was_changed_since_is_refused(tmp_path: Path) -> None:
    shutil.copytree(SPIDER, tmp_path / "moved")
    task = load("spider", data=SPIDER).tasks()[-1]
    name = task.data["database"]
    connection = sqlite3.connect(tmp_path / "moved" / "db" / f"{name}.sqlite")
    connection.execute("CREATE TABLE more (a INT)")
    connection.close()
    with pytest.raises(SuiteError, match="not the one that task"):
        load("spider", data=str(tmp_path / "moved")).environment(task)


def test_spiders_own_layout(tmp_path: Path) -> None:
    records = [json.loads(line) for line in (DATA / "spider" / "tasks.jsonl").open()]
    own = [
        {"db_id": r["db"], "question": r["question"], "query": r["gold_sql"]}
        for r in records
        if r["db"] == "singer"
    ]
    (tmp_path / "dev.json").write_text(json.dumps(own))
    (tmp_path / "database" / "singer").mkdir(parents=True)
    shutil.copy(DATA / "spider" / "db" / "singer.sqlite", tmp_path / "database" / "singer")
    suite = load("spider", data=str(tmp_path))
    assert len(suite.tasks()) == len(own) and replay(suite, suite.tasks()[0]).reward == 1.0
    assert {task.family for task in suite.tasks()} <= {"nested", "join", "group", "order", "plain"}


def test_families() -> None:
    assert clause_of("SELECT a FROM t WHERE a IN (SELECT b FROM s)") == "nested"
    assert clause_of("SELECT a FROM t JOIN s ORDER BY a") == "join"
    assert clause_of("SELECT a FROM t") == "plain"
    assert family_of("  INSERT INTO t VALUES (1)", ["insert"]) == "insert"
    skills = ["select", "where_single_condition", "group_by_single_column"]
    assert family_of("SELECT 1", skills) == "select group by"
    assert family_of("SELECT 1", []) == "select"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("lifelong-db", {"instruction": "x"}, "x.jsonl:1 has no 'answer_info'"),
        (
            "lifelong-db",
            {"instruction": "x", "answer_info": {}, "table_info": {}, "skill_list": []},
            "record 1 has no usable table or statement: KeyError: 'sql'",
        ),
    ],
)
def test_unusable_data(tmp_path: Path, name: str, content: Any, says: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(content))
    with pytest.raises(SuiteError, match=says) as error:
        load(name, data=str(path)).tasks()
    assert "\n" not in str(error.value)


def test_unusable_spider_data(tmp_path: Path) -> None:
    def says(text: str) -> None:
        with pytest.raises(SuiteError, match=text) as error:
            load("spider", data=str(tmp_path)).tasks()
        assert "\n" not in str(error.value)

    says("has no tasks.jsonl or dev.json")
    (tmp_path / "dev.json").write_text('[{"db_id": "d"}]')
    says("dev.json cannot be used: a record lacks one of db_id, question, query")
    (tmp_path / "tasks.jsonl").write_text('{"db": "d", "question": "?", "gold_sql": "SELECT 1"}')
    says("has neither db/d.sqlite nor database/d/d.sqlite")
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "d.sqlite").write_text("no database" * 100)
    says("d.sqlite cannot be read")
    (tmp_path / "db" / "d.sqlite").unlink()
    connection = sqlite3.connect(tmp_path / "db" / "d.sqlite")
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    (tmp_path / "tasks.jsonl").write_text('{"db": "d", "question": "?", "gold_sql": "SELECT b"}')
    says("the gold query of task 1 does not run on d: no such column: b")


def test_the_full_sets(data_root: Path) -> None:
    spider = load("spider", data=str(data_root / "spider_sqlite"))
    assert len(spider.tasks()) == 943
    assert Counter(task.family for task in spider.tasks()).keys() == {
        "easy", "medium", "hard", "extra"
    }  # fmt: skip
    lifelong = load("lifelong-db", data=str(data_root / "lifelong_agentbench"))
    families = Counter(task.family for task in lifelong.tasks())
    assert len(lifelong.tasks()) == 495 and len(families) == 9
    assert failures(spider, 20) == [] == failures(lifelong, 10)
    in_the_datas_order(data_root / "lifelong_agentbench")
