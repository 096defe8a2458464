"""Task files: what is read, and what is said of bad ones."""

import datetime
import importlib.util
from pathlib import Path

import pytest

from environments.base import SuiteError
from environments.task_files import read_tasks


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_jsonl(tmp_path: Path) -> None:
    path = write(tmp_path, "t.jsonl", '\ufeff{"goal": "é", "n": [1, 2.5, null]}\r\n\n{"goal": "b"}')
    rows = read_tasks(path)
    assert [row.fields for row in rows] == [{"goal": "é", "n": [1, 2.5, None]}, {"goal": "b"}]
    assert [row.where for row in rows] == ["t.jsonl line 1", "t.jsonl line 3"]
    assert read_tasks("t.jsonl", tmp_path) == rows


def test_csv(tmp_path: Path) -> None:
    path = write(tmp_path, "t.CSV", 'goal, n\n"a, ""b""\nc",3\n\nd,\n')
    rows = read_tasks(path)
    assert [row.fields for row in rows] == [{"goal": 'a, "b"\nc', "n": "3"}, {"goal": "d"}]
    assert [row.where for row in rows] == ["t.CSV line 2", "t.CSV line 5"]


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    fields = [{"goal": "a", "n": 1, "tags": ["x"]}, {"goal": "b", "n": None, "tags": []}]
    parquet.write_table(pyarrow.Table.from_pylist(fields), tmp_path / "t.parquet")
    rows = read_tasks(tmp_path / "t.parquet")
    assert [row.fields for row in rows] == fields
    assert rows[1].where == "t.parquet row 2"
    dated = pyarrow.Table.from_pylist([{"day": datetime.date(2026, 1, 2)}])
    parquet.write_table(dated, tmp_path / "d.parquet")
    with pytest.raises(SuiteError, match=r"d\.parquet row 1: field day is a date that JSON cannot"):
        read_tasks(tmp_path / "d.parquet")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.jsonl", '{"a": 1}\n{"a": 1,}\n', r"t\.jsonl line 2, column 9: no JSON: "),
        ("t.jsonl", "[1]\n", r"line 1: a list, not an object with a task's fields"),
        ("t.jsonl", "3\n", "line 1: a number, not an object"),
        ("t.jsonl", '{"a": 1, "a": 2}', "line 1: field a stands there twice"),
        ("t.jsonl", '{"a": NaN}', "line 1: NaN is no JSON value"),
        ("t.jsonl", '{"a": 1e999}', "line 1: field a is a number that JSON cannot hold"),
        ("t.jsonl", '{"a": "\\ud800"}', "line 1: field a holds half a character"),
        ("t.jsonl", '{"a": 1}\n\n{"a": 1}\n', r"line 3: the same task as t\.jsonl line 1"),
        ("t.jsonl", b'{"a": "\xff"}', r"line 1: not UTF-8 \(byte 8\)"),
        ("t.jsonl", "[" * 100_000, "line 1"),
        ("t.jsonl", "\n \n", r"t\.jsonl: holds no tasks"),
        ("t.csv", "", r"t\.csv: holds no tasks"),
        ("t.csv", "a,b\n", r"t\.csv: holds no tasks"),
        ("t.csv", "a,a\n1,2\n", "line 1: the header needs a different name per column"),
        ("t.csv", "a,\n1,2\n", "line 1: the header needs a different name"),
        ("t.csv", "a,b\n1,2\n1,2,3\n", "line 3: 3 cells, but the header has 2"),
        ("t.csv", 'a\n1\n"x\n', "line 3: no CSV: "),
        ("t.csv", "a\n1\n2\n1\n", r"line 4: the same task as t\.csv line 2"),
        ("t.parquet", "no parquet", r"t\.parquet: cannot be read as Parquet: "),
        ("t.txt", "x", r"t\.txt: unknown kind of task file; it may be \.jsonl"),
        ("t", "x", "unknown kind of task file"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_line(
    tmp_path: Path, name: str, content: str | bytes, says: str
) -> None:
    with pytest.raises(SuiteError, match=says) as error:
        read_tasks(write(tmp_path, name, content))
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.csv", "missing.parquet", "."])
def test_missing_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(SuiteError, match=r"no such file|unknown kind"):
        read_tasks(tmp_path / name)


def test_datasets(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dataset's folder is read as the hub's would be; a missing package is named."""
    tmp_path = tmp_path_factory.mktemp("hub")  # "test" in a path would name a split
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SuiteError, match="write hf:owner/name"):
        read_tasks("hf:")
    write(tmp_path, "train.jsonl", '{"goal": "a"}\n{"goal": "b"}\n{"goal": "a"}\n')
    if importlib.util.find_spec("datasets") is None:
        with pytest.raises(SuiteError, match=r"needs the package datasets .*pip install datasets"):
            read_tasks("hf:.", tmp_path)
        return
    assert [row.fields for row in read_tasks("hf:.", tmp_path)] == [{"goal": "a"}, {"goal": "b"}]
    assert len(read_tasks("hf:.:train[:1]", tmp_path)) == 1
    with pytest.raises(SuiteError, match=r"hf:\.:nowhere: "):
        read_tasks("hf:.:nowhere", tmp_path)
