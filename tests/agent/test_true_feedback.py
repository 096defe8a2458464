"""The real thing, small: the 135M model tries, compares its own tries, criticises and corrects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.config import load_config
from agent.evolution.cycle import evolve
from agent.run import Run
from agent.verify import verify
from memory.records import Generation, Note, Trajectory
from tests.agent.test_true_cycle import SMALL


def test_tries_are_compared_and_corrected(tmp_path: Path) -> None:
    settings = (
        *SMALL,
        "acquire.first_tasks=4",
        "acquire.samples=3",
        "feedback.by=pairwise",
        "refine.correct=critic",
        "refine.critique_tokens=24",
        "update_weights.enabled=false",
        "test.run=false",
    )
    with Run(tmp_path / "run", load_config("quickstart", settings), quiet=True) as run:
        evolve(run)
        tries = dict(run.ledger.all(Trajectory, "1/acquire/"))
        compared = [n.data["text"] for key, n in run.ledger.all(Note, "said/1/feedback/compared/")]
        assert len(compared) >= 2 * 4 * 3 and set(compared) <= {"A", "B"}
        assert run.ledger.count(Note, "verdict/1/") == len(tries)
        corrected = [t for slot, t in tries.items() if "/try-critic-1" in slot]
        assert corrected and all(t.recalled for t in corrected)
        (_, generation) = list(run.ledger.all(Generation))[1]
        told: Any = generation.details["feedback"]
        assert told["tries"] == len(tries) and 0 <= told["agreement"]["mean"] <= 1
        assert generation.tokens["refine"] > 0
    assert verify(tmp_path / "run")[1] == []
