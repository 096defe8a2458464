"""Canaries: an honest batch passes, one whose rewards cannot be believed teaches nothing."""

from __future__ import annotations

import functools
import io
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from agent.config import ConfigError, load_config
from agent.evolution import cycle
from agent.evolution.canaries import SOLVED, verdict
from agent.evolution.refine import RefineSettings
from agent.run import Run
from agent.run_folder import BASE, open_ledger
from agent.verify import verify
from environments.base import Environment, Task
from environments.kinds.python import PythonAnswer
from environments.sandbox import make_sandbox
from environments.suites import load_suite
from memory.credit import generation_of
from memory.kinds import KINDS
from memory.ledger import Ledger
from memory.records import Generation, MemoryItem, MemorySnapshot, Note, Trajectory
from memory.transfer import export
from tests.real import data_folder
from tests.toy import ToySuite

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("crash_driver.py")
PLANTED = ("acquire.canaries=2", "test.run=false")
LEAKY = "suite.name=tests.agent.test_canaries:Leaky"
Evolve = Callable[..., dict[str, Any]]


class Leaky(ToySuite):
    """Its grader takes any answer, as long as a file is there (always, where none is named)."""

    def __init__(self, sandbox: Any, per_family: int = 60, leaks_while: str = ""):
        super().__init__(sandbox, per_family)
        self.leaks_while = leaks_while

    def environment(self, task: Task) -> Environment:
        if self.leaks_while and not Path(self.leaks_while).exists():
            return super().environment(task)
        return PythonAnswer(task.prompt, grade=lambda text: 1.0, sandbox=self.sandbox)


class Without(ToySuite):
    """Has no canaries."""

    canary = property()  # type: ignore[assignment]  # reading it is an AttributeError


def learnt_from(ledger: Ledger) -> set[str]:
    """Slots of all episodes that trained something or were written down to stay."""
    slots: set[str] = set()
    for _, item in ledger.all(MemoryItem):
        if KINDS[item.kind].stored:
            slots |= set(item.sources)
    for _, note in ledger.all(Note, "adapter/"):
        slots |= set(map(str, note.data["sources"]))  # type: ignore[arg-type]
    return slots


def test_an_honest_batch_passes(tmp_path: Path, evolve_toy: Evolve) -> None:
    folder = tmp_path / "run"
    evolve_toy(folder, *PLANTED)
    with open_ledger(folder) as ledger:
        canaries = [t for _, t in ledger.all(Trajectory) if t.phase == "canary"]
        practised = [t for _, t in ledger.all(Trajectory) if t.phase == "acquire"]
        assert len(canaries) == 2 * 2 * 3  # generations, canaries, samples
        assert all(t.slot.split("/")[1] == t.phase for t in canaries + practised)
        assert not any(t.success for t in canaries)
        assert {t.family for t in canaries} <= {t.family for t in practised}
        assert {t.temperature for t in canaries} == {t.temperature for t in practised}
        assert any(t.policy != BASE for t in canaries) and any(t.recalled for t in canaries)
        with Run(tmp_path / "other", load_config_of(folder), quiet=True) as run:
            own = {task.id: task for task in run.tasks("train")}
            prompts = {task.prompt for task in own.values()}
        assert not {t.task for t in canaries} & own.keys()
        assert {t.prompt for t in canaries} <= prompts
        assert not ledger.count(Note, "void/")
        assert learnt_from(ledger) and not any("/canary/" in s for s in learnt_from(ledger))
        generations = [g for _, g in ledger.all(Generation)]
        assert [g.decision for g in generations] == ["start", "promoted", "promoted"]
        spent = sum(t.produced_tokens for t in canaries + practised if t.slot.startswith("1/"))
        assert generations[1].tokens["acquire"] == spent
        export(ledger, tmp_path / "out", generations, failures=True)
        rows = [json.loads(r) for r in (tmp_path / "out" / "chat.jsonl").read_text().splitlines()]
        assert rows and not any("/canary/" in row["episode"] for row in rows)
    assert verify(folder)[1] == []


def load_config_of(folder: Path) -> Any:
    return load_config(folder / "config.yaml")


@pytest.mark.parametrize("cheat", [LEAKY, "refine.corrupt=flip"])
def test_a_batch_that_cannot_be_believed_teaches_nothing(
    tmp_path: Path, toy_yaml: Path, cheat: str
) -> None:
    folder, said = tmp_path / "run", Console(record=True, width=2000, file=io.StringIO())
    config = load_config(toy_yaml, (*PLANTED, cheat))
    with Run(folder, config, console=said) as run:
        cycle.evolve(run)
        from agent.evolution.final import summarise

        summarise(run)
        generations = run.generations()
        assert run.ledger.count(Note, "void/") == 2
        assert run.ledger.count(MemoryItem) == 0 and run.ledger.count(MemorySnapshot) == 0
        assert run.ledger.count(Note, "adapter/") == 0
        for g in generations[1:]:
            assert (g.weights, g.memory, g.decision) == (BASE, "", "kept")
            assert "batch void: 6 of 6 episodes of canaries" in g.reason
            assert f"{g.n}/canary/" in g.reason
            assert ("refine.corrupt is flip" in g.reason) == ("flip" in cheat)
    printed = said.export_text()
    assert "generation 1: batch void" in printed and "generation 2: batch void" in printed
    assert "batch void: 6 of 6 episodes" in (folder / "report.html").read_text()
    counts, problems = verify(folder)
    assert problems == []
    assert counts["episodes of generation 1, void by its canaries"] == 9 + 6
    with open_ledger(folder) as ledger:
        export(ledger, tmp_path / "out", generations, failures=True)
    assert (tmp_path / "out" / "chat.jsonl").read_text() == ""


def test_without_canaries_the_same_lies_are_learnt(tmp_path: Path, evolve_toy: Evolve) -> None:
    folder = tmp_path / "run"
    evolve_toy(folder, LEAKY, "test.run=false", "generations=1")
    with open_ledger(folder) as ledger:
        assert learnt_from(ledger)


def test_a_void_batch_is_not_learnt_later(tmp_path: Path, evolve_toy: Evolve) -> None:
    folder, leak = tmp_path / "run", tmp_path / "leak"
    leak.touch()
    settings = (*PLANTED, LEAKY, f"suite.options={{per_family: 90, leaks_while: {leak}}}")
    evolve_toy(folder, *settings, "generations=1")
    leak.unlink()
    evolve_toy(folder, *settings, "generations=3")
    with open_ledger(folder) as ledger:
        assert [key for key, _ in ledger.all(Note, "void/")] == ["void/1"]
        used = {generation_of(slot) for slot in learnt_from(ledger)}
        assert used and 1 not in used
    assert verify(folder)[1] == []


def test_verify_sees_what_was_learnt_in_spite_of_it(tmp_path: Path, evolve_toy: Evolve) -> None:
    folder = tmp_path / "run"
    evolve_toy(folder, *PLANTED, "generations=1")
    with Ledger(folder / "ledger.sqlite") as ledger:
        ledger.append("void/1", Note(data={"why": "said so"}))
    problems = verify(folder)[1]
    assert any("its batch is void, and its canaries say otherwise" in p for p in problems)
    assert any("memory item" in p and "of a batch that is void" in p for p in problems)
    assert any("adapter" in p and "of a batch that is void" in p for p in problems)


@pytest.mark.parametrize(
    "kill",
    [
        {"at": "memory.ledger:Ledger.append_many", "records": 2, "slots": "1/canary/"},
        {"at": "agent.evolution.canaries:verdict"},
        {"at": "memory.ledger:Ledger.append", "match": "void/1", "when": "after"},
    ],
)
def test_killed_and_resumed(
    tmp_path: Path, small: Path, whole: dict[str, Any], kill: dict[str, Any]
) -> None:
    config = small
    assert driven(config, tmp_path / "run", kill)["signal"] == 9
    assert driven(config, tmp_path / "run") == {"signal": None, "error": ""}
    assert contents(tmp_path / "run") == whole
    assert verify(tmp_path / "run")[1] == []


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, toy_yaml: Path) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    sizes = "suite.tasks={train: 6, gate: 5, retention: 1, test: 1}"
    once = ("generations=1", "test.best_of_max=1", sizes)
    settings = load_config(toy_yaml, (*PLANTED, LEAKY, *once))
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, small: Path) -> dict[str, Any]:
    """What is in the run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert driven(small, folder) == {"signal": None, "error": ""}
    return contents(folder)


def driven(config: Path, folder: Path, kill: dict[str, Any] | None = None) -> dict[str, Any]:
    """Evolve a folder in a process of its own, killed at a point if one is given."""
    done = subprocess.run(
        [sys.executable, str(DRIVER)],
        input=json.dumps({"config": str(config), "folder": str(folder), "kill": kill}) + "\n",
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=250,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def contents(folder: Path) -> dict[str, Any]:
    """All that a run found out: everything but times."""
    with open_ledger(folder) as ledger:
        return {
            "episodes": {slot: t.id for slot, t in ledger.all(Trajectory)},
            "notes": {k: n.id for k, n in ledger.all(Note) if not k.startswith(("time/", "date/"))},
            "generations": [
                g.model_copy(update={"seconds": {}}).id for _, g in ledger.all(Generation)
            ],
        }


# --- suites with data ---

KNOWN = {"mbpp": "mbpp", "spider": "spider_sqlite", "lifelong-db": "lifelong_agentbench",
         "lifelong-os": "lifelong_agentbench"}  # fmt: skip


@functools.cache
def solutions() -> dict[str, str]:
    """Of every task of these suites, by its prompt, the published solution as it is written."""
    found = {}
    for name, folder in KNOWN.items():
        options = {"data": str(data_folder() / folder)}
        suite: Any = load_suite(name, sandbox=make_sandbox, options=options)
        found |= {task.prompt: suite.gold(task)[0].text for task in suite.tasks()}
    return found


def knows(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """The published solution of any task."""
    question = prompt.rsplit("<user>", 1)[1].rsplit("</user>", 1)[0]
    return re.sub(r"^```\w+\n|\n```\s*$", "", solutions().get(question, "?")) + "\n```\n"


@pytest.mark.parametrize("name", KNOWN)
def test_who_solves_all_that_can_be_solved_solves_no_canary(tmp_path: Path, name: str) -> None:
    suite = {
        "name": name, "options": {"data": str(data_folder() / KNOWN[name])},
        "tasks": {"train": 4, "gate": 1, "retention": 1, "test": 1},
    }  # fmt: skip
    settings = [
        f"suite={json.dumps(suite)}", "generations=1", "acquire.canaries=2",
        "acquire.first_tasks=3", "acquire.samples=1", "memory.embedder=hash",
        "update_weights.min_examples=1",
        "policy={engine: scripted, context: 1000000, model: 'tests.agent.test_canaries:knows'}",
        "agent.max_new_tokens=100000", "sandbox={limits: {wall_s: 60}}",
        "memory.recall.tokens=0", "acquire.memory_share=0",
    ]  # fmt: skip
    with Run(tmp_path / "run", load_config(None, settings), quiet=True) as run:
        cycle.evolve(run)
        canaries = [t for _, t in run.ledger.all(Trajectory, "1/canary/")]
        practised = [t for _, t in run.ledger.all(Trajectory, "1/acquire/")]
        assert len(canaries) == 2 and len(practised) == 3
        assert all(t.success for t in practised)
        assert not [t.failure for t in canaries if t.failure]
        assert {t.reward for t in canaries} == {0.0}
        assert not run.ledger.count(Note, "void/") and run.ledger.count(Note, "adapter/")
    assert verify(tmp_path / "run")[1] == []


# --- the rule, and what is refused ---


def played(reward: float, **changes: Any) -> Trajectory:
    return Trajectory(
        slot="1/canary/x/0",
        task="x",
        suite="toy",
        family="double",
        split="train",
        phase="canary",
        policy=BASE,
        reward=reward,
        success=reward == 1,
        **changes,
    )


def test_the_rule() -> None:
    honest, flipped = RefineSettings(), RefineSettings(corrupt="flip")
    assert verdict([], honest) == "" and verdict([played(0.0)], honest) == ""
    assert verdict([played(0.4)], honest) == ""  # credit for a likeness
    assert "1 of 2" in verdict([played(0.0), played(SOLVED)], honest)
    assert verdict([played(0.4)], flipped) and verdict([played(0.0)], flipped)
    broken = played(0.0, failure={"source": "sandbox", "message": "gone"})
    assert verdict([broken, played(0.0)], honest) == ""
    assert "none of 1 episodes of canaries came to an end (gone)" in verdict([broken], honest)


def test_what_cannot_be_had_is_said_before_anything_is_played(
    tmp_path: Path, toy_yaml: Path
) -> None:
    without = load_config(toy_yaml, ("suite.name=tests.agent.test_canaries:Without", *PLANTED))
    with (
        Run(tmp_path / "none", without, quiet=True) as run,
        pytest.raises(ConfigError, match=r"acquire.canaries: the suite .*Without has none"),
    ):
        cycle.evolve(run)
    many = load_config(toy_yaml, ("acquire.canaries=1000",))
    with (
        Run(tmp_path / "many", many, quiet=True) as run,
        pytest.raises(ConfigError, match=r"acquire.canaries=1000: .* made \d+ of"),
    ):
        cycle.evolve(run)
