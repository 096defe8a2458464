"""The real thing, small: the 135M model acts in the real sandbox, learns, and is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.config import load_config
from agent.evolution import final
from agent.evolution.cycle import evolve
from agent.run import Run
from agent.run_folder import BASE, open_ledger
from agent.training.adapter import read_manifest
from agent.verify import verify
from memory.records import Generation, MemoryItem, Note, Trajectory

SMALL = (
    "generations=1",
    "suite.options={families: [chain_sum, products], per_family: 40}",
    "suite.tasks={train: 6, gate: 4, retention: 1, test: 2}",
    "acquire.first_tasks=8",
    "acquire.samples=6",
    "agent.turns=1",
    "update_weights.min_examples=2",
    "update_weights.epochs=1",
    "test.best_of_max=2",
)


@pytest.fixture(scope="module")
def evolved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("true") / "run"
    with Run(folder, load_config("quickstart", SMALL), quiet=True) as run:
        evolve(run)
        final.test(run)
    return folder


def test_every_phase_worked(evolved: Path) -> None:
    with open_ledger(evolved) as ledger:
        acquired = [t for _, t in ledger.all(Trajectory, "1/acquire/")]
        assert len(acquired) == 8 * 6 and any(t.success for t in acquired)
        assert {t.temperature for t in acquired} > {0.3, 0.7} and {t.hot_tokens for t in acquired}
        items = [item for _, item in ledger.all(MemoryItem)]
        assert {item.kind for item in items} >= {"exemplar"}
        ((key, _),) = ledger.all(Note, "adapter/")
        (_, generation) = list(ledger.all(Generation))[1]
        assert set(generation.cells) == {"incumbent", "memory", "weights", "both"}
        assert generation.decision in ("promoted", "kept") and generation.reason
        assert all(generation.tokens[phase] for phase in ("acquire", "update", "evaluate"))
        trained = {t.policy for _, t in ledger.all(Trajectory, "gate/")} - {BASE}
        assert trained == {key.removeprefix("adapter/")}
        manifest = read_manifest(evolved / "generations" / "001" / "adapter")
        won = {t.slot for t in acquired if t.success}
        assert set(manifest["sources"]) <= won and len(manifest["losses"]) >= 1


def test_it_is_told_and_passes_the_audit(evolved: Path) -> None:
    summary: dict[str, Any] = json.loads((evolved / "summary.json").read_text())
    for arm in ("base", "memory", "weights", "both", "best_of_n"):
        score = summary["test"][arm]
        assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1 and score["n"] == 4
    assert summary["test"]["best_of_n"]["capped"] in (True, False)
    assert summary["tokens"]["total"] > 0 and summary["seconds"]["total"] > 0
    assert (evolved / "report.html").stat().st_size > 10_000
    assert verify(evolved)[1] == []
