"""SIGKILL anywhere, Ctrl-C, full and read-only disks, damage, two processes: nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import load_config
from agent.run import Run
from agent.run_folder import open_ledger
from agent.verify import verify
from memory.records import Generation, MemoryItem, MemorySnapshot, Note, Trajectory

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("crash_driver.py")
Instar = Callable[..., "subprocess.CompletedProcess[str]"]
Child = Callable[..., dict[str, Any]]

# Smaller than the other toy runs, and yet every phase has work: generation 1 learns one family,
# generation 2 the others, and the first one's retention is checked.
SMALLER = (
    "suite.tasks={train: 6, gate: 5, retention: 1, test: 2}",
    "gate.alpha=0.6",
    "test.best_of_max=2",
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, toy_yaml: Path) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    settings = load_config(toy_yaml, SMALLER).model_dump(mode="json")
    path.write_text(yaml.safe_dump(settings))
    return path


@contextmanager
def driven() -> Iterator[Child]:
    """Evolve folders in a process of its own, killed at a point if one is given."""
    driver = subprocess.Popen(
        [sys.executable, str(DRIVER)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdin is not None and driver.stdout is not None

    def go(config: Path, folder: Path, kill: dict[str, Any] | None = None) -> dict[str, Any]:
        request = {"config": str(config), "folder": str(folder), "kill": kill}
        print(json.dumps(request), file=driver.stdin, flush=True)
        answer: dict[str, Any] = json.loads(driver.stdout.readline())
        return answer

    yield go
    driver.stdin.close()
    driver.wait(timeout=60)


@pytest.fixture(scope="module")
def child(config: Path) -> Iterator[Child]:
    """Evolve a folder, with the small configuration unless another is given."""
    with driven() as go:
        small = config
        yield lambda folder, kill=None, config=small: go(config, folder, kill)


def contents(folder: Path) -> dict[str, Any]:
    """All that a run found out: everything but times."""
    with open_ledger(folder) as ledger:
        generations = [g for _, g in ledger.all(Generation)]
        return {
            "trajectories": {slot: t.id for slot, t in ledger.all(Trajectory)},
            "items": {key: item.id for key, item in ledger.all(MemoryItem)},
            "snapshots": {key: snapshot.id for key, snapshot in ledger.all(MemorySnapshot)},
            "notes": {k: n.id for k, n in ledger.all(Note) if not k.startswith(("time/", "date/"))},
            "generations": [g.model_copy(update={"seconds": {}}).id for g in generations],
        }


def results(folder: Path) -> dict[str, Any]:
    summary = json.loads((folder / "summary.json").read_text())
    return {key: summary[key] for key in ("test", "families", "differences", "tokens")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, child: Child) -> Path:
    """The run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert child(folder) == {"signal": None, "error": ""}
    return folder


def check_same(folder: Path, whole: Path) -> None:
    assert verify(folder)[1] == []
    assert contents(folder) == contents(whole)
    assert results(folder) == results(whole)
    assert (folder / "report.html").is_file()
    assert not list(folder.rglob("*.partial"))


def test_the_uninterrupted_run_has_all_phases(whole: Path) -> None:
    with open_ledger(whole) as ledger:
        phases = {t.phase for _, t in ledger.all(Trajectory)}
        assert phases == {"acquire", "probe", "gate", "retention", "test"}
        assert [g.decision for _, g in ledger.all(Generation)] == ["start", "promoted", "promoted"]
        assert ledger.count(Note, "said/1/reflection/") and ledger.count(Note, "adapter/") == 2
    check_same(whole, whole)


def at(where: str, nth: int = 1, when: str = "before", match: str = "") -> dict[str, Any]:
    return {"at": where, "nth": nth, "when": when, "match": match}


def episodes(count: int, slots: str = "") -> dict[str, Any]:
    """When so many episodes are stored under slots that begin so."""
    return {"at": "memory.ledger:Ledger.append_many", "records": count, "slots": slots}


APPEND = "memory.ledger:Ledger.append"
POINTS: dict[str, list[dict[str, Any]]] = {
    # the beginning
    "the ledger is a draft": [at("memory.sqlite:sync")],
    "the configuration is half-written": [at("os:replace", match="config.yaml")],
    "generation 0: first episodes": [episodes(3)],
    "generation 0: inside a transaction": [at("memory.chain:link", nth=9)],
    "generation 0: measured": [at("agent.run:Run.conclude")],
    "generation 0: in the ledger, not in the folder": [at("agent.run:write_text", nth=2)],
    # acquire and refine
    "acquire: some": [episodes(4, "1/acquire/")],
    "acquire: all": [at("agent.evolution.cycle:refine")],
    "refine: done": [at("agent.evolution.cycle:refine", when="after")],
    # update
    "reflection: asked": [at("agent.run:Run.say")],
    "reflection: answered": [at("agent.run:Run.say", when="after")],
    "training: the partial folder is empty": [at("agent.policies.scripted:write_learnt")],
    "training: the adapter is half-written": [
        at("agent.policies.scripted:write_learnt", when="after")
    ],
    "training: the adapter is whole": [at("os:replace", match="adapter.partial")],
    "training: the adapter is renamed, not in the ledger": [
        at("os:replace", match="adapter.partial", when="after")
    ],
    "training: the adapter is in the ledger": [at("agent.evolution.update.memory:proposed")],
    "memory: items in the ledger, no index yet": [at("memory.index.opening:_fill")],
    "memory: the index is filled, not current": [at("memory.index.opening:write")],
    "memory: the index is current": [at("memory.index.stores:Folders.sweep")],
    "memory: in the index, in no snapshot": [
        at("memory.index:ChromaIndex.add", nth=2, when="after")
    ],
    "memory: the snapshot is not stored": [at(APPEND, match="MemorySnapshot(")],
    "memory: the snapshot is stored": [at(APPEND, match="MemorySnapshot(", when="after")],
    "what was absorbed: being probed": [episodes(3, "1/probe/")],
    # evaluate
    "gate: within the first cell": [episodes(20, "gate/")],
    "gate: within the last cell": [episodes(55, "gate/")],
    "gate: decided, not stored": [at("agent.run:Run.conclude", nth=2)],
    "gate: stored, not in the folder": [at("agent.run:write_text", match="generations/001")],
    "generation.json is half-written": [at("os:replace", match="generation.json", nth=2)],
    # the second time round
    "generation 2: acquire, with memory": [episodes(4, "2/acquire/")],
    "generation 2: trained": [at("agent.evolution.update.memory:proposed", nth=2)],
    "generation 2: items in the ledger, not in the index": [
        at("memory.index:ChromaIndex.add", nth=3)
    ],
    "generation 2: retention": [at("agent.evolution.cycle:retention", nth=2)],
    # the end
    "test: some": [episodes(3, "test/")],
    "test: best of n": [episodes(2, "best_of/")],
    "the summary is half-written": [at("os:replace", match="summary.json")],
    "the report is not written": [at("agent.report.html:write_report")],
    # not once only
    "twice: while the index is being opened again": [
        episodes(18, "gate/"),
        at("memory.index.opening:_reopen"),
    ],
    "thrice: in each generation and the test": [
        episodes(5),
        episodes(4, "2/acquire/"),
        episodes(3, "test/"),
    ],
}


@pytest.mark.parametrize("point", POINTS)
def test_sigkill(tmp_path: Path, child: Child, whole: Path, point: str) -> None:
    folder = tmp_path / "run"
    kept: dict[str, str] = {}
    for kill in POINTS[point]:
        assert child(folder, kill) == {"signal": signal.SIGKILL, "error": ""}
        if (folder / "ledger.sqlite").exists():
            finished = contents(folder)["trajectories"]
            assert kept.items() <= finished.items()
            kept = finished
    assert child(folder) == {"signal": None, "error": ""}
    assert kept.items() <= contents(folder)["trajectories"].items()
    check_same(folder, whole)


# --- a merge of generations, searched for ---


@pytest.fixture(scope="module")
def merging(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Path:
    path = tmp_path_factory.mktemp("config") / "merging.yaml"
    how = "update_weights.merge={how: evolve, budget: 3, tasks: 1}"
    path.write_text(yaml.safe_dump(load_config(config, [how]).model_dump(mode="json")))
    return path


@pytest.fixture(scope="module")
def whole_merge(tmp_path_factory: pytest.TempPathFactory, child: Child, merging: Path) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "merged"
    assert child(folder, config=merging) == {"signal": None, "error": ""}
    with open_ledger(folder) as ledger:
        assert ledger.count(Note, "merge/2/") == 3 and ledger.count(Note, "adapter/") == 3
    return folder


MERGE = "agent.evolution.update.merge:"
MERGES = {
    "trained, not merged": at(MERGE + "candidate", nth=2),
    "a try is not made": at(MERGE + "merge_adapters", nth=2),
    "a try is half played": episodes(2, "2/probe/"),
    "a try is played, not noted": at(APPEND, match="merge/2/"),
    "chosen, not made": at(MERGE + "store"),
    "made, not in the ledger": at(MERGE + "adapter_notes", match="002/merged"),
    "in the ledger, not a candidate": at(APPEND, match="trained/2"),
}


@pytest.mark.parametrize("point", MERGES)
def test_sigkill_while_merging(
    tmp_path: Path, child: Child, whole_merge: Path, merging: Path, point: str
) -> None:
    folder = tmp_path / "run"
    assert child(folder, MERGES[point], merging) == {"signal": signal.SIGKILL, "error": ""}
    assert child(folder, config=merging) == {"signal": None, "error": ""}
    check_same(folder, whole_merge)
    assert not list(folder.rglob("merges"))


def test_enough_points() -> None:
    assert len(POINTS) >= 20


# --- Ctrl-C and a second process ---


# The command, which sends itself a Ctrl-C at a point: one from outside might come too late.
INTERRUPTED = """
import json, signal, sys
from crash_driver import arm
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever was inherited
arm(**json.loads(sys.argv.pop(1)), number=signal.SIGINT)
from agent.cli import main
main()
"""


@pytest.mark.parametrize("point", ["acquire: some", "training: the adapter is half-written"])
def test_ctrl_c(tmp_path: Path, config: Path, child: Child, whole: Path, point: str) -> None:
    folder = tmp_path / "run"
    (interrupt,) = POINTS[point]
    path = os.pathsep.join([str(DRIVER.parent), str(ROOT), *sys.path])
    command = ["evolve", str(config), "--run", str(folder)]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, json.dumps(interrupt), *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=250,
    )
    assert done.returncode == 130
    assert done.stderr.splitlines() == [
        "interrupted; nothing is lost: the same command goes on where it stopped"
    ]
    kept = contents(folder)["trajectories"]
    assert 15 < len(kept) < len(contents(whole)["trajectories"]) / 2
    assert child(folder)["error"] == ""
    assert kept.items() <= contents(folder)["trajectories"].items()
    check_same(folder, whole)


def test_a_second_process_is_told_who_is_there(tmp_path: Path, whole: Path, instar: Instar) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    with Run(folder, quiet=True):
        for command in (
            ("evolve", "--run", folder),
            ("rollback", 0, "--run", folder),
            ("verify", folder),
        ):
            refused = instar(*command)
            assert refused.returncode == 1
            (line,) = refused.stderr.splitlines()
            assert f"in use by process {os.getpid()}" in line and str(folder) in line
        assert instar("generations", "--run", folder).returncode == 0  # reading is free
    assert verify(folder)[1] == []


# --- disks ---


def bubblewrap(*options: object) -> tuple[str, ...]:
    wrap = ("bwrap", "--bind", "/", "/", "--dev-bind", "/dev", "/dev")
    wrap = (*wrap, *map(str, options))
    if shutil.which("bwrap") is None or subprocess.run([*wrap, "true"]).returncode:
        pytest.skip("needs bubblewrap to mount a small or read-only disk")
    return wrap


# Runs on a small disk of its own: fills it but for some bytes, evolves, makes room, evolves.
FULL = """
import subprocess, sys
from pathlib import Path
disk, config, left = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
command = [sys.executable, "-m", "agent.cli", "evolve", config, "--run", str(disk / "run")]
ballast = disk / "ballast"
import os
free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
with ballast.open("wb") as file:
    file.write(bytes(free - left))
first = subprocess.run(command, capture_output=True, text=True)
print(first.returncode, first.stderr.strip().replace(chr(10), "|"))
ballast.unlink()
again = subprocess.run(command, capture_output=True, text=True)
print(again.returncode, again.stderr.strip())
import shutil
shutil.copytree(disk / "run", sys.argv[4])
"""


@pytest.mark.parametrize("left", [0, 40_000, 400_000, 700_000])
def test_full_disk(tmp_path: Path, config: Path, whole: Path, left: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script = tmp_path / "full.py"
    script.write_text(FULL)
    done = subprocess.run(
        [
            *bubblewrap("--size", 40_000_000, "--tmpfs", disk),
            *(sys.executable, str(script), str(disk), str(config), str(left)),
            str(tmp_path / "run"),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, again = done.stdout.splitlines()
    status, message = first.split(" ", 1)
    assert status == "1" and "|" not in message
    assert "disk" in message or "space" in message
    assert again == "0 "
    check_same(tmp_path / "run", whole)


def test_read_only_folder(tmp_path: Path, whole: Path, config: Path, instar: Instar) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    wrap = bubblewrap("--ro-bind", folder, folder)
    for command in (("evolve", config, "--run", folder), ("rollback", 0, "--run", folder)):
        refused = instar(*command, wrap=wrap)
        assert refused.returncode == 1
        (line,) = refused.stderr.splitlines()
        assert str(folder) in line and "Read-only" in line
    for command in (("generations", "--run", folder), ("memory", "list", "--run", folder)):
        assert instar(*command, wrap=wrap).returncode == 0
    check_same(folder, whole)


def test_no_place_for_a_new_run(tmp_path: Path, config: Path, instar: Instar) -> None:
    refused = instar(
        "evolve",
        config,
        "--run",
        tmp_path / "run",
        wrap=bubblewrap("--ro-bind", tmp_path, tmp_path),
    )
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert str(tmp_path / "run") in line and "Read-only" in line


# --- damage ---


@pytest.mark.parametrize("keep", [0.0, 0.7])
def test_truncated_ledger(tmp_path: Path, whole: Path, instar: Instar, keep: float) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    file = folder / "ledger.sqlite"
    body = file.read_bytes()
    file.write_bytes(body[: int(len(body) * keep)])
    refused = instar("evolve", "--run", folder)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert str(file) in line and "truncated" in line and "restore" in line
    audit = instar("verify", folder, "--json")
    assert audit.returncode == 1
    assert "truncated" in json.loads(audit.stdout)["problems"][0]
    assert file.stat().st_size == int(len(body) * keep)  # it is left as it is
    file.write_bytes(body)
    assert verify(folder)[1] == []


def test_truncated_adapter(tmp_path: Path, whole: Path, config: Path, instar: Instar) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    file = folder / "generations" / "002" / "adapter" / "learnt.json"
    body = file.read_bytes()
    file.write_bytes(body[:-20])
    refused = instar("evolve", "generations=3", "--run", folder)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert str(file.parent) in line and "changed or cut" in line and "roll back" in line
    assert len(verify(folder)[1]) == 1
    assert instar("rollback", 1, "--run", folder).returncode == 0  # as the message says
    file.write_bytes(body)
    assert instar("evolve", "generations=4", "--run", folder).returncode == 0
    assert verify(folder)[1] == []


def test_an_index_that_is_gone_is_rebuilt(tmp_path: Path, whole: Path, child: Child) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(folder / "index")
    assert child(folder) == {"signal": None, "error": ""}
    check_same(folder, whole)
