"""The ledger stores once, finds again, and proves that nothing was changed."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from memory.ledger import Ledger, LedgerError
from memory.records import MemoryChange, Note, Status, Step, Trajectory, content_hash


def note(value: object) -> Note:
    return Note.model_validate({"data": {"value": value}})


def trajectory(slot: str) -> Trajectory:
    step = Step(
        token_ids=(1, 2, 3),
        loss_mask=(0, 1, 1),
        logprobs=(-0.1, -1e-17),
        policy="base",
        text='print("zü\\n\x00\u2028")',
        action={"tool": "python", "arguments": {"b": 1, "a": [None, 2.5]}},
        observation="6\n",
        reward=1.0,
    )
    return Trajectory(
        slot=slot,
        task="t",
        suite="s",
        family="f",
        split="train",
        phase="acquire",
        policy="base",
        steps=(step,),
        reward=1.0,
        success=True,
    )


def raw(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path)
    for trigger in ("records_no_update", "records_no_delete", "records_no_replace"):
        db.execute(f"DROP TRIGGER {trigger}")
    return db


def test_round_trip_survives_reopening(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "ledger.db"
    before = time.time()
    with Ledger(path) as ledger:
        assert ledger.append("0/a", trajectory("0/a"))
    with Ledger(path) as ledger:
        assert ledger.get(Trajectory, "0/a") == trajectory("0/a")
        assert ledger.get(Trajectory, "0/b") is None
        assert ledger.get(Note, "0/a") is None  # kinds are apart
        created = ledger.created(Trajectory, "0/a")
        assert created is not None and before - 1 <= created <= time.time() + 1
        assert ledger.created(Trajectory, "0/b") is None
        assert ledger.verify() == []


def test_stored_id_is_the_content_hash(ledger: Ledger) -> None:
    ledger.append("x", trajectory("x"))
    row = sqlite3.connect(ledger.path).execute("SELECT id, kind FROM records").fetchone()
    assert row == (content_hash(trajectory("x").model_dump(mode="json")), "Trajectory")
    assert row[0].startswith(trajectory("x").id)


def test_same_record_again_is_a_no_op(ledger: Ledger) -> None:
    assert ledger.append("k", note(1)) is True
    assert ledger.append("k", note(1)) is False
    assert ledger.append_many([("k", note(1)), ("l", note(2)), ("l", note(2))]) == 1
    assert ledger.keys(Note) == ["k", "l"]


def test_other_record_under_the_same_key_is_refused_and_rolls_back(ledger: Ledger) -> None:
    ledger.append("k", note(1))
    with pytest.raises(LedgerError, match=f"Note 'k'.*{note(1).id}.*{note(2).id}"):
        ledger.append_many([("new", note(0)), ("k", note(2)), ("newer", note(3))])
    assert ledger.keys(Note) == ["k"]
    assert ledger.get(Note, "k") == note(1)
    assert ledger.append("new", note(0))  # and goes on working
    assert ledger.verify() == []


def test_queries_are_ordered_by_arrival(ledger: Ledger) -> None:
    ledger.append_many([(f"2/{i}", note(i)) for i in (5, 3, 4)])
    ledger.append_many([("1/9", note(9)), ("2/0", note(0))])
    assert [key for key, _ in ledger.all(Note)] == ["2/5", "2/3", "2/4", "1/9", "2/0"]
    assert list(ledger.all(Note, "2/")) == [(f"2/{i}", note(i)) for i in (5, 3, 4, 0)]
    assert ledger.keys(Note, "2/") == ["2/5", "2/3", "2/4", "2/0"]
    assert (ledger.count(Note), ledger.count(Note, "2/"), ledger.count(Note, "3")) == (5, 4, 0)
    assert ledger.last(Note) == ("2/0", note(0))
    assert ledger.last(Note, "1/") == ("1/9", note(9))
    assert ledger.last(Note, "7/") is None
    assert ledger.last(Trajectory) is None


def test_all_reads_in_chunks_and_ignores_later_appends(ledger: Ledger) -> None:
    ledger.append_many([(f"{i:04}", note(i)) for i in range(450)])
    seen = []
    for key, _ in ledger.all(Note):
        if not seen:
            ledger.append("later", note(-1))
        seen.append(key)
    assert seen == [f"{i:04}" for i in range(450)]


@pytest.mark.parametrize(
    "prefix",
    [
        "%",
        "_",
        "a%",
        "a_",
        "'",
        "\\",
        "[a",
        "*",
        "ü",
        "\ud7ff",
        "\U0010ffff",
        "a\U0010ffff",
        "\x00",
    ],
)
def test_prefixes_are_taken_literally(ledger: Ledger, prefix: str) -> None:
    keys = ["a", "a%b", "a_b", "axb", "%", "_x", "'", "\\", "[ab", "*", "ü1", "v", "\ud7ffz"]
    keys += ["\ue000", "\U0010ffff", "\U0010ffffb", "a\U0010ffff", "b", "\x00", "\x01", "A%"]
    ledger.append_many([(key, note(key)) for key in keys])
    expected = [key for key in keys if key.startswith(prefix)]
    assert ledger.keys(Note, prefix) == expected
    assert [key for key, _ in ledger.all(Note, prefix)] == expected
    assert ledger.count(Note, prefix) == len(expected) > 0


def test_prefix_query_uses_the_index(ledger: Ledger) -> None:
    assert ledger._db is not None
    said: list[str] = []
    ledger._db.set_trace_callback(said.append)
    ledger.append_many([(f"{i}/{j}", note(j)) for i in range(9) for j in range(9)])
    said.clear()
    assert len(list(ledger.all(Note, "3/"))) == ledger.count(Note, "3/") == 9
    ledger.keys(Note, "3/")
    ledger.last(Note, "3/")
    ledger._db.set_trace_callback(None)
    ranges = [statement for statement in said if "key >=" in statement]
    assert len(ranges) == 4
    for statement in ranges:
        plan = ledger._db.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
        text = " ".join(row[3] for row in plan)
        assert "COVERING INDEX" in text and "key>? AND key<?" in text


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET body = '{}'",
        "UPDATE records SET created = 0",
        "DELETE FROM records",
        "REPLACE INTO records SELECT * FROM records",
        "INSERT OR REPLACE INTO records (kind, key, id, body, chain, created) "
        "VALUES ('Note', 'k', '', '', '', 0)",
    ],
)
def test_sql_cannot_change_what_is_stored(ledger: Ledger, statement: str) -> None:
    ledger.append("k", note(1))
    other = sqlite3.connect(ledger.path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        other.execute(statement)
    other.close()
    assert ledger.get(Note, "k") == note(1)
    assert ledger.verify() == []


def test_commits_are_synced(ledger: Ledger) -> None:
    assert ledger._db is not None
    assert ledger._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert ledger._db.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_threads_share_one_ledger(ledger: Ledger) -> None:
    faults: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for i in range(25):
                ledger.append_many([(f"{worker}/{i}", note(i)), (f"shared/{i}", note(i))])
                assert ledger.get(Note, f"{worker}/{i}") == note(i)
                assert len(list(ledger.all(Note, f"{worker}/"))) == i + 1
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert ledger.count(Note) == 6 * 25 + 25
    assert ledger.verify() == []


def test_two_connections_keep_one_chain(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db") as a, Ledger(tmp_path / "l.db") as b:
        for i in range(10):
            a.append(f"a{i}", note(i))
            b.append(f"b{i}", note(i))
        assert b.keys(Note) == [f"{who}{i}" for i in range(10) for who in "ab"]
        assert a.verify() == []


def test_reader_beside_a_writer(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db") as writer:
        writer.append("a", note(1))
        with Ledger(tmp_path / "l.db", read_only=True) as reader:
            assert reader.get(Note, "a") == note(1)
            writer.append("b", note(2))
            assert reader.keys(Note) == ["a", "b"]
            with pytest.raises(LedgerError, match="read-only"):
                reader.append("c", note(3))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE records SET body = replace(body, '3', '4') WHERE seq = 3", "3.*content hash"),
        ("UPDATE records SET key = 'other' WHERE seq = 3", r"3 \(Note 'other'\).*chain"),
        ("UPDATE records SET kind = 'Trajectory' WHERE seq = 3", "3 .*chain"),
        ("DELETE FROM records WHERE seq = 3", "4 .*1 records before it are gone"),
        ("DELETE FROM records WHERE seq >= 4", "2 records after record 3 are gone"),
        ("DELETE FROM records", "5 records after record 0 are gone"),
    ],
)
def test_verify_names_what_was_tampered_with(tmp_path: Path, change: str, said: str) -> None:
    path = tmp_path / "l.db"
    with Ledger(path) as ledger:
        ledger.append_many([(f"n{i}", note(i)) for i in range(1, 6)])
        assert ledger.verify() == []
    with raw(path) as db:
        db.execute(change)
    db.close()
    with Ledger(path) as ledger:
        faults = ledger.verify()
    assert faults and all(str(path) in fault for fault in faults)
    assert any(re.search(f"record.*{said}|{said}", fault) for fault in faults), faults


def test_consistent_forgery_breaks_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger(path) as ledger:
        ledger.append_many([(f"n{i}", note(i)) for i in range(1, 6)])
    forged = '{"data":{"value":99}}'
    with raw(path) as db:
        values = (forged, content_hash({"data": {"value": 99}}))
        db.execute("UPDATE records SET body = ?, id = ? WHERE seq = 2", values)
    db.close()
    with Ledger(path) as ledger:
        assert ledger.get(Note, "n2") == note(99)  # its own hash is right …
        assert ["chain is broken" in fault for fault in ledger.verify()] == [True]


def test_reading_a_changed_body_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger(path) as ledger:
        ledger.append("k", note(1))
    with raw(path) as db:
        db.execute("UPDATE records SET body = '{\"data\":{}}'")
    db.close()
    with Ledger(path) as ledger:
        with pytest.raises(LedgerError, match=r"Note 'k'.*content hash"):
            ledger.get(Note, "k")
        with pytest.raises(LedgerError, match=r"Note 'k'.*content hash"):
            list(ledger.all(Note))


def test_verify_finds_a_body_that_is_no_such_record(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger(path) as ledger:
        ledger.append("k", MemoryChange(item="i", status=Status.ACTIVE, generation=1))
    with raw(path) as db:
        body = '{"item":3}'
        db.execute("UPDATE records SET body = ?, id = ?", (body, content_hash({"item": 3})))
    db.close()
    with Ledger(path) as ledger:
        assert any("no valid MemoryChange: item" in fault for fault in ledger.verify())
        with pytest.raises(LedgerError, match="no valid MemoryChange"):
            ledger.get(MemoryChange, "k")


def test_closed_ledger_says_so(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db")
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="closed"):
        ledger.get(Note, "k")


# --- erasing ---


def test_erased_record_keeps_its_place_and_its_identity(ledger: Ledger) -> None:
    ledger.append_many([(f"n{i}", note(f"canary {i}")) for i in range(4)])
    before = note("canary 2").id
    ledger.erase([("n2", note("gone"))])
    left = ledger.get(Note, "n2")
    assert left is not None and left.data == {"value": "gone"} and left.id == before
    assert ledger.erased(Note) == {"n2"} and ledger.erased(Trajectory) == set()
    assert [key for key, _ in ledger.all(Note, "n")] == ["n0", "n1", "n2", "n3"]
    assert ledger.append("n2", note("canary 2")) is False  # it was there, and stays erased
    assert ledger.get(Note, "n2") == left and ledger.verify() == []
    with pytest.raises(LedgerError, match="cannot become"):
        ledger.append("n2", note("gone"))
    ledger.append("n9", note(9))  # it goes on
    ledger.erase([("n2", note("twice")), ("n3", note("gone"))])
    assert ledger.erased(Note) == {"n2", "n3"} and ledger.verify() == []


def test_erasure_leaves_no_trace_in_any_file(tmp_path: Path) -> None:
    canary = "zanzibar über\n\u2028"
    path = tmp_path / "l.db"
    with Ledger(path) as ledger:
        ledger.append_many([(f"n{i}", note("filler " * 900)) for i in range(30)])
        ledger.append("short", note(canary))
        ledger.append("long", note(canary * 4000))  # pages of its own
        ledger.append_many([(f"m{i}", note("filler " * 900)) for i in range(30)])
    assert b"zanzibar" in path.read_bytes()
    with Ledger(path) as ledger:
        ledger.append("log", note(canary))  # only in the write-ahead log as yet
        assert b"zanzibar" in path.with_name("l.db-wal").read_bytes()
        ledger.erase([(key, note("")) for key in ("short", "long", "log")])
        for file in tmp_path.iterdir():
            assert b"zanzibar" not in file.read_bytes(), file
        assert ledger.count(Note, "n") == 30 and ledger.verify() == []


def test_all_or_nothing_is_erased(ledger: Ledger) -> None:
    ledger.append("a", note(1))
    with pytest.raises(LedgerError, match="no Note 'b' to erase"):
        ledger.erase([("a", note(0)), ("b", note(0))])
    assert ledger.get(Note, "a") == note(1) and ledger.erased(Note) == set()
    ledger.erase([])
    assert ledger.count(Note) == 1 and ledger.verify() == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET body = '{}' WHERE key = 'b'",
        "UPDATE records SET body = '{}', redacted = 'x' WHERE key = 'b'",
        "UPDATE records SET redacted = NULL WHERE key = 'a'",
        "UPDATE records SET key = 'c', redacted = (SELECT redacted FROM records WHERE key = 'a') "
        "WHERE key = 'b'",
        "UPDATE records SET body = '{}', redacted = id WHERE kind = 'Erasure'",
        "DELETE FROM records WHERE key = 'a'",
    ],
)
def test_only_an_announced_erasure_passes(ledger: Ledger, statement: str) -> None:
    ledger.append_many([("a", note(1)), ("b", note(2))])
    ledger.erase([("a", note(0))])
    other = sqlite3.connect(ledger.path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        other.execute(statement)
    other.close()
    assert ledger.verify() == []


def test_verify_tells_an_erasure_from_a_forgery(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger(path) as ledger:
        ledger.append_many([("a", note(1)), ("b", note(2))])
        ledger.erase([("a", note(0))])
    forged = '{"data":{"value":99}}'
    with raw(path) as db:
        values = (forged, content_hash({"data": {"value": 99}}))
        db.execute("UPDATE records SET body = ?, redacted = ? WHERE key = 'b'", values)
    db.close()
    with Ledger(path) as ledger:
        (fault,) = ledger.verify()
        assert "'b'" in fault and "not by an erasure" in fault


def test_a_reader_in_the_way_is_named_and_the_next_opening_wipes(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger(path) as ledger:
        ledger.append("a", note("zanzibar"))
        reader = sqlite3.connect(path)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM records").fetchall()
        with pytest.raises(LedgerError, match=r"another process reads the file"):
            ledger.erase([("a", note(""))])
        assert ledger.erased(Note) == {"a"}  # it is erased; only old pages are left
        reader.close()
    with Ledger(path) as ledger:
        assert ledger.erased(Note) == {"a"} and ledger.verify() == []
        for file in tmp_path.iterdir():
            assert b"zanzibar" not in file.read_bytes(), file


KILLED = """
import sys
from pathlib import Path
from memory.ledger import Ledger
from memory.records import Note

with Ledger(Path(sys.argv[1])) as ledger:
    print("go", flush=True)
    ledger.erase([(f"n{i}", Note(data={})) for i in range(400)])
"""


def test_killed_while_erasing_leaves_the_old_or_the_new(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    whole = tmp_path / "whole.db"
    with Ledger(whole) as ledger:
        ledger.append_many([(f"n{i}", note("zanzibar " * 300)) for i in range(400)])
    seen = set()
    for attempt, delay in enumerate((0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.3, None)):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        path = folder / "l.db"
        shutil.copy(whole, path)
        process = start(KILLED, path)
        assert process.stdout is not None and process.stdout.readline() == "go\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        process.kill()
        process.wait()
        with Ledger(path) as ledger:
            erased = len(ledger.erased(Note))
            assert erased in (0, 400) and ledger.verify() == []
            seen.add(erased)
            if erased:  # opening it has wiped what the kill left
                for file in folder.iterdir():
                    assert b"zanzibar" not in file.read_bytes(), file
    assert 400 in seen  # the last was let finish
