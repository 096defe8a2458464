"""The real thing, small: the 135M model writes tasks, tries them, and trains a writer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.config import load_config
from agent.evolution.cycle import evolve
from agent.made_tasks import MadeTasks
from agent.run import Run
from agent.run_folder import BASE
from agent.verify import verify
from environments.splits import split_of
from memory.records import Generation, Note, Trajectory
from tests.agent.test_true_cycle import SMALL

WRITES = {
    "drafts": 12, "count": 4, "tokens": 40, "tries": 3, "demonstrations": 4,
    "novel": {"rouge": 0.95, "cosine": 2.0}, "apart": {"rouge": 0.95, "cosine": 2.0},
}  # fmt: skip


@pytest.mark.parametrize("how", ["self-instruct", "ada-instruct"])
def test_tasks_are_written_and_tried(tmp_path: Path, how: str) -> None:
    settings = (
        *SMALL,
        f"acquire.generate={json.dumps(WRITES | {'how': how})}",
        "acquire.first_tasks=3",
        "acquire.samples=2",
        "update_weights.min_examples=1000",  # nothing but the writer is trained
        "update_memory.enabled=false",
        "test.run=false",
    )
    with Run(tmp_path / "run", load_config("quickstart", settings), quiet=True) as run:
        evolve(run)
        (_, generation) = list(run.ledger.all(Generation))[1]
        told: Any = generation.details["generated"]
        assert told["drafts"] == 12 == told["taken"] + sum(told["dropped"].values())
        written = [n for key, n in run.ledger.all(Note, f"said/1/generate/{how}/")]
        assert len(written) == 12 and any(str(note.data["text"]).strip() for note in written)
        tried = [t for _, t in run.ledger.all(Trajectory, "1/made/")]
        assert tried and {t.policy for t in tried} == {BASE} and not any(t.success for t in tried)
        for made in MadeTasks(run.ledger).values():
            assert split_of(made.task.id) == "train" and made.proof
        adapters = [note.data["manifest"] for _, note in run.ledger.all(Note, "adapter/")]
        roles = [manifest["role"] for manifest in adapters if isinstance(manifest, dict)]
        assert roles == (["writer"] if how == "ada-instruct" else [])
    assert verify(tmp_path / "run")[1] == []
