"""One index for several processes: a Chroma server, of our own or somebody's."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from memory.embed import HashEmbedder
from memory.index import (
    BruteForceIndex,
    ChromaIndex,
    Index,
    VectorIndexError,
    join_index,
    open_index,
)
from memory.index import server as server_module
from memory.index.server import ChromaServer

Start = Callable[..., "subprocess.Popen[str]"]

ITEMS = {f"item{i:03}": f"problem {i} of family {i % 7}: {i * i} plus {i}" for i in range(120)}
EMBEDDER = HashEmbedder(64)


def served(folder: Path, items: dict[str, str] = ITEMS, url: str | None = None) -> ChromaIndex:
    index = open_index(folder, EMBEDDER, items, "chroma-server", url)
    assert isinstance(index, ChromaIndex)
    return index


def group_of(folder: Path) -> int:
    """The process group of the server that has a store under ``folder`` open, or 0."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if b"chromadb_rust" in command and str(folder).encode() in command:
                return os.getpgid(int(process.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return 0


def assert_complete(index: Index, items: dict[str, str] = ITEMS) -> None:
    assert index.ids() == items.keys()
    oracle = BruteForceIndex(EMBEDDER.dimension)
    oracle.add(list(items), EMBEDDER.embed(list(items.values())))
    queries = EMBEDDER.embed(list(items.values())[::10])
    for found, right in zip(index.query(queries, 5), oracle.query(queries, 5), strict=True):
        assert np.allclose([s for _, s in found], [s for _, s in right], atol=1e-4)


@pytest.fixture(scope="module")
def somebodys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("somebody")
    with closing(ChromaServer(folder, folder.with_suffix(".log"))) as server:
        yield f"http://127.0.0.1:{server.port}"


def test_own_server_shares_its_store_with_the_other_backend(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(served(tmp_path)) as index:
        assert_complete(index)
        assert group_of(tmp_path) > 0
        with pytest.raises(VectorIndexError, match="lacks 1 items, 'z'"):
            index.vectors(["item001", "z"])
    index.close()
    assert group_of(tmp_path) == 0
    before = list(tmp_path.glob("chroma-*"))
    with closing(open_index(tmp_path, EMBEDDER, ITEMS)) as local:
        assert_complete(local)
    with closing(served(tmp_path)) as index:
        assert_complete(index)
    assert list(tmp_path.glob("chroma-*")) == before
    assert not caplog.records


def test_damage_behind_the_server_is_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served(tmp_path).close()
    (store,) = tmp_path.glob("chroma-*")
    (tmp_path / f"seal-{store.name}").unlink()  # it was not closed in order
    (store / "chroma.sqlite3").write_bytes(os.urandom(20_000))
    with closing(served(tmp_path)) as index:
        assert_complete(index)
    assert "the Chroma server died (status" in caplog.text
    assert group_of(tmp_path) == 0


WORKER = """
import sys
from memory.embed import HashEmbedder
from memory.index import VectorIndexError, join_index
address, name = sys.argv[1:]
embedder = HashEmbedder(64)
index = join_index(address, embedder)
try:
    for i in range(1_000_000):
        batch = {f"{name}-{i}-{j}": f"{name} says {i} and {j * j}" for j in range(5)}
        if name == "reader":
            assert len(index.query(embedder.embed(list(batch.values())), 10)) == 5
            print(i, flush=True)
        else:
            index.add(list(batch), embedder.embed(list(batch.values())))
            print("\\n".join(batch), flush=True)  # acknowledged
except VectorIndexError as error:
    print("refused:", error)
"""


def test_processes_add_and_query_until_the_server_is_killed(
    tmp_path: Path, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    owner = served(tmp_path, {})
    workers = {name: start(WORKER, owner.place, name) for name in ("a", "b", "reader")}
    heard = {name: _lines(worker, 60) for name, worker in workers.items()}
    os.killpg(group_of(tmp_path), signal.SIGKILL)
    acknowledged: dict[str, str] = {}
    for name, worker in workers.items():
        assert worker.stdout is not None and worker.stderr is not None
        *said, last = (heard[name] + worker.stdout.read()).splitlines()
        assert (worker.wait(), worker.stderr.read()) == (0, "")
        assert last.startswith(f"refused: {owner.place}: Chroma: ")
        if name != "reader":
            acknowledged |= {id_: _text(id_) for id_ in said}
    with pytest.raises(VectorIndexError) as error:
        owner.ids()
    assert "the Chroma server died (signal 9); its log ends: " in str(error.value)
    assert "\n" not in str(error.value)
    owner.close()

    (store,) = tmp_path.glob("chroma-*")
    # As they were left, before anything could be added again.
    with closing(ChromaIndex(store, EMBEDDER.identity, 64)) as left:
        stored = left.ids()
        vectors = EMBEDDER.embed(list(acknowledged.values()))
        found = left.query(vectors, 10)
    assert acknowledged.keys() <= stored
    assert len(stored - acknowledged.keys()) <= 10  # one batch each may be stored, yet unsaid
    for id_, hits in zip(acknowledged, found, strict=True):
        assert id_ in dict(hits) or hits[-1][1] > 0.999
    again = {id_: _text(id_) for id_ in stored}  # the ledger has them all
    with closing(served(tmp_path, again)) as index:
        assert_complete(index, again)
    assert not caplog.records


def _lines(process: subprocess.Popen[str], count: int) -> str:
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(count)]
    assert all(lines), ([line for line in lines if line][-1:], process.communicate()[1])
    return "".join(lines)


def _text(id_: str) -> str:
    name, i, j = id_.split("-")
    return f"{name} says {i} and {int(j) ** 2}"


OWNER = """
import os, sys
from pathlib import Path
from memory.embed import HashEmbedder
from memory.index import VectorIndexError, open_index
folder, items, end = Path(sys.argv[1]), dict(eval(sys.argv[2])), sys.argv[3]
try:
    index = open_index(folder, HashEmbedder(64), items, "chroma-server")
except VectorIndexError as error:
    print("refused:", error)
    sys.exit()
print(index.place, flush=True)
if end == "killed":
    os.kill(os.getpid(), 9)
sys.stdin.read()
"""


def test_server_dies_with_its_owner(tmp_path: Path, start: Start) -> None:
    items = json.dumps(ITEMS)
    owner = start(OWNER, tmp_path, items, "killed")
    address = owner.communicate(timeout=60)[0].strip()
    assert owner.returncode == -signal.SIGKILL
    with closing(served(tmp_path)) as index:  # waits for the other server's end, no longer
        assert_complete(index)
    with pytest.raises(VectorIndexError, match="Could not connect"):
        join_index(address, EMBEDDER)


def test_second_owner_is_refused(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memory.index.stores._WAIT_S", 0.1)
    owner = start(OWNER, tmp_path, json.dumps(ITEMS), "waits")
    assert owner.stdout is not None
    assert "http://" in (told := owner.stdout.readline()), told
    for backend in ("chroma", "chroma-server"):
        with pytest.raises(VectorIndexError, match=f"in use by process {owner.pid}"):
            open_index(tmp_path, EMBEDDER, ITEMS, backend)  # type: ignore[arg-type]
    owner.kill()
    owner.wait()
    monkeypatch.undo()
    with closing(open_index(tmp_path, EMBEDDER, ITEMS)) as index:
        assert_complete(index)


def test_proxy_is_not_asked_for_the_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with closing(served(tmp_path)) as index:
        assert_complete(index)
    assert "no_proxy" not in os.environ


def test_port_that_is_taken_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [taken.getsockname()[1], server_module._free_port()]
        monkeypatch.setattr(server_module, "_free_port", lambda: ports.pop(0))
        with closing(served(tmp_path)) as index:
            assert_complete(index)
    assert ports == []


def test_server_that_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "chroma.sqlite3").write_bytes(b"nonsense" * 1000)
    with pytest.raises(VectorIndexError) as error:
        ChromaServer(tmp_path / "store", tmp_path / "log")
    assert "the Chroma server died" in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).rstrip(".").split("its log ends: ")[1]
    assert group_of(tmp_path) == 0


def test_server_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "START_S", 0.5)
    monkeypatch.setattr(
        server_module, "_CLI", "import time; print('hm', flush=True); time.sleep(999)"
    )
    with pytest.raises(VectorIndexError, match="did not answer within"):
        ChromaServer(tmp_path, tmp_path / "log")


def test_query_while_the_first_addition_is_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chroma has no graph for a moment; rare, so what it then says is said here on purpose."""
    from chromadb.errors import InternalError

    with closing(served(tmp_path)) as index:
        collection = index._collection
        query, left = collection.query, [3]

        def early(**arguments: object) -> object:
            if left[0]:
                left[0] -= 1
                raise InternalError("Error creating hnsw segment reader: Nothing found on disk")
            return query(**arguments)

        monkeypatch.setattr(collection, "query", early)
        assert_complete(index)
        left[0] = 10**9
        monkeypatch.setattr("memory.index.chroma._TRIES", 2)
        with pytest.raises(VectorIndexError, match="Nothing found on disk"):
            index.query(EMBEDDER.embed(["x"]), 1)


def test_joining_is_refused(somebodys: str, tmp_path: Path) -> None:
    with closing(served(tmp_path)) as index:
        address = str(index.place)
        with closing(join_index(address, EMBEDDER)) as joined:
            joined.add(["new"], EMBEDDER.embed(["new"]))
            assert "new" in index.ids()
        with pytest.raises(VectorIndexError, match="made by another embedder"):
            join_index(address, HashEmbedder(32))
        with pytest.raises(VectorIndexError, match="NotFoundError"):
            join_index(f"{somebodys}/nothing", EMBEDDER)
    for nonsense in ("chroma", "http://host", "ftp://host:1/x"):
        with pytest.raises(VectorIndexError, match="no address of the form"):
            join_index(nonsense, EMBEDDER)


def test_server_by_url(somebodys: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(served(tmp_path / "a", ITEMS, somebodys)) as index:
        first = index.place
        assert_complete(index)
    some = dict(list(ITEMS.items())[:50])
    with closing(served(tmp_path / "b", some, somebodys)) as index:
        assert_complete(index, some)
    with closing(served(tmp_path / "a", ITEMS, somebodys)) as index:
        assert index.place == first
        assert_complete(index)
    assert not caplog.records
    with closing(served(tmp_path / "a", some, somebodys)) as index:  # the others are unknown
        assert index.place != first
        assert_complete(index, some)
    assert "70 items that the ledger does not" in caplog.text
    with pytest.raises(VectorIndexError, match="NotFoundError"):
        join_index(str(first), EMBEDDER)  # removed
    with closing(served(tmp_path / "b", some, somebodys)) as index:
        assert_complete(index, some)


def test_url_where_nobody_answers(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{server_module._free_port()}"
    with pytest.raises(VectorIndexError, match="Could not connect") as error:
        served(tmp_path, ITEMS, nobody)
    assert "\n" not in str(error.value) and nobody in str(error.value)
