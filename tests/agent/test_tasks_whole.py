"""Whole cycles with tasks that are made up: practised, learnt from, told of, never measured."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import load_config
from agent.evolution.acquire import generate
from agent.made_tasks import Made, MadeTasks, notes_of
from agent.run import Run
from agent.run_folder import open_ledger
from agent.verify import verify
from environments.base import Task
from environments.splits import SPLITS, split_of
from memory.ledger import Ledger
from memory.records import Generation, MemoryItem, Note, Trajectory
from tests.agent.test_canaries import contents, driven, learnt_from

Evolve = Callable[..., dict[str, Any]]
HERE = "tests.agent.authors"
MADE_UP = (
    f"policy.model={HERE}:author",
    'acquire.generate={"how": "self-instruct", "count": 4, "drafts": 24, "tokens": 1000, '
    '"share": 0.6, "apart": {"rouge": 2.0, "cosine": 2.0}, "novel": {"rouge": 0.95, "cosine": 2}}',
    "acquire.first_tasks=5",
    "acquire.tasks=5",
    "test.best_of_max=1",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, evolve_toy: Evolve) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    evolve_toy(folder, *MADE_UP)
    return folder


def made_in(folder: Path) -> dict[str, Made]:
    with open_ledger(folder) as ledger:
        return dict(MadeTasks(ledger))


def test_made_up_tasks_are_practised_and_learnt_from(run: Path) -> None:
    made = made_in(run)
    assert {m.generation for m in made.values()} == {1, 2} and len(made) == 8
    with open_ledger(run) as ledger:
        tried = [t for _, t in ledger.all(Trajectory) if t.phase == "acquire"]
        own = [t for t in tried if t.task in made]
        assert 0 < len({t.task for t in own}) <= 2 * round(0.6 * 5)
        assert len({t.task for t in tried}) > len({t.task for t in own})  # and the suite's
        solved = {t.slot for t in own if t.success}
        assert solved & learnt_from(ledger)


def test_nothing_that_was_made_up_is_measured(run: Path) -> None:
    made = made_in(run)
    with open_ledger(run) as ledger:
        for _, t in ledger.all(Trajectory):
            if t.task in made:
                assert t.split == "train" and t.phase in ("acquire", "probe")
    with Run(run, quiet=True) as opened:
        for split in SPLITS[1:]:
            measured = opened.tasks(split)
            assert not made.keys() & {task.id for task in measured}
            assert not {m.task.prompt for m in made.values()} & {t.prompt for t in measured}
            assert not any(task.origin for task in measured)
        assert made.keys() <= {task.id for task in opened.tasks("train")}


def test_no_measured_task_is_written_from(run: Path) -> None:
    with Run(run, quiet=True) as opened:
        train = {t.id for t in opened.suite.tasks() if split_of(t.id) == "train"}
        made = dict(opened.made)
        assert {p for m in made.values() for p in m.parents} <= train | made.keys()


def test_the_audit_knows_them(run: Path) -> None:
    counts, problems = verify(run)
    assert problems == [] and counts["tasks made up"] == 8


def test_what_was_made_up_is_told(run: Path, instar_json: Callable[..., Any]) -> None:
    made = made_in(run)
    with open_ledger(run) as ledger:
        generations = [g for _, g in ledger.all(Generation)]
    for g in generations[1:]:
        told: Any = g.details["generated"]
        assert told["how"] == "self-instruct" and told["taken"] == 4 and told["drafts"] == 24
        assert sum(told["dropped"].values()) == 20 and told["tries"] >= told["solved"] > 0
    page = (run / "report.html").read_text()
    assert re.search(r"tasks by self-instruct: 4 of 24 drafts are sound \(\d+ × \w", page)
    rows = instar_json("episodes", "--run", run, "--phase", "acquire", "--limit", 500)["rows"]
    told_so = {row["task"] for row in rows if row["made"] == "self-instruct"}
    assert told_so and told_so <= made.keys()
    assert all((row["task"] in made) == bool(row["made"]) for row in rows)


def test_their_tokens_are_counted(run: Path) -> None:
    with Run(run, quiet=True) as opened:
        for g in opened.generations()[1:]:
            cost = generate.tokens(opened, g.n)
            practice = opened.tokens(f"{g.n}/acquire/")
            assert 0 < cost.said < cost.all and g.tokens["acquire"] == practice + cost.all


def test_what_was_made_up_can_be_erased(run: Path, tmp_path: Path, instar: Any) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    gone, *others = made_in(copy).values()
    text = gone.task.prompt
    done = instar("memory", "erase", "--text", text, "--run", copy, "--yes")
    assert done.returncode == 0, done.stderr
    left = made_in(copy)
    assert gone.task.id not in left and len(left) == len(others)
    with open_ledger(copy) as ledger:
        assert not any(text in str(note.data) for _, note in ledger.all(Note))
    assert not [p for p in verify(copy)[1] if "made-up" in p]


# --- killed, and planted lies ---


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, toy_yaml: Path) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    sizes = "suite.tasks={train: 6, gate: 5, retention: 1, test: 1}"
    settings = load_config(toy_yaml, (*MADE_UP, "generations=1", sizes))
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, small: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert driven(small, folder) == {"signal": None, "error": ""}
    return contents(folder)


@pytest.mark.parametrize(
    "kill",
    [
        {"at": "memory.ledger:Ledger.append", "match": "said/1/generate", "nth": 5},
        {"at": "memory.ledger:Ledger.append_many", "records": 3, "slots": "1/made/"},
        {"at": "memory.ledger:Ledger.append_many", "match": "made/1"},
        {"at": "memory.ledger:Ledger.append_many", "match": "made/1", "when": "after"},
    ],
)
def test_killed_and_resumed(
    tmp_path: Path, small: Path, whole: dict[str, Any], kill: dict[str, Any]
) -> None:
    assert driven(small, tmp_path / "run", kill)["signal"] == 9
    assert driven(small, tmp_path / "run") == {"signal": None, "error": ""}
    assert contents(tmp_path / "run") == whole
    assert verify(tmp_path / "run")[1] == []


def test_the_audit_sees_made_up_tasks_that_are_wrong(tmp_path: Path, evolve_toy: Evolve) -> None:
    folder = tmp_path / "run"
    evolve_toy(folder, *MADE_UP, "generations=1", "test.run=false")
    task = Task(suite="toy", family="double", prompt="?", origin="self-instruct/0")
    for salt in range(100):
        task = task.model_copy(update={"origin": f"self-instruct/{salt}"})
        if split_of(task.id) == "gate":
            break
    with open_ledger(folder) as ledger:
        measured = next(t.task for _, t in ledger.all(Trajectory) if t.split == "gate")
    planted = Made(task, "other", 9, (measured,), key="said/9/generate/x/0")
    with Ledger(folder / "ledger.sqlite") as ledger:
        ledger.append_many(notes_of(9, {"how": "other"}, [planted]))
    problems = verify(folder)[1]
    for told in (
        f"{task.id} belongs to gate, not train",
        "does not say how it was made",
        f"was made from {measured}, a gate task",
        "which is not in the ledger",
    ):
        assert any(told in problem for problem in problems)


@pytest.mark.parametrize("vouched", [True, False])
def test_tasks_of_strangers_train_nothing(
    tmp_path: Path, evolve_toy: Evolve, vouched: bool
) -> None:
    """Documents that nobody answers for: practised, and no solution of them trains weights."""
    from tests.agent.authors import write_documents

    settings = json.dumps(
        {"how": "documents", "documents": str(write_documents(tmp_path / "library")),
         "passage": 90, "vouched": vouched, "count": 6, "drafts": 12, "tokens": 1000, "share": 0.6,
         "novel": {"rouge": 1.0, "cosine": 2.0}}
    )  # fmt: skip
    folder = tmp_path / "run"
    evolve_toy(
        folder, f"policy.model={HERE}:reader", f"suite={{name: '{HERE}:Quiz'}}",
        f"acquire.generate={settings}", "acquire.first_tasks=6", "generations=1", "test.run=false",
    )  # fmt: skip
    made = made_in(folder)
    with open_ledger(folder) as ledger:
        tried = [t for _, t in ledger.all(Trajectory, "1/acquire/") if t.task in made]
        assert tried and any(t.success for t in tried)
        adapters = {str(s) for _, note in ledger.all(Note, "adapter/")
                    for s in note.data["sources"]}  # type: ignore[union-attr]  # fmt: skip
        assert bool({t.slot for t in tried} & adapters) == vouched
        items = [i for _, i in ledger.all(MemoryItem) if set(i.tasks) & made.keys()]
        assert items and all((i.trust.value != "untrusted") == vouched for i in items)
    assert verify(folder)[1] == []
