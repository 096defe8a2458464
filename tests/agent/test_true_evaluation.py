"""The real thing, small: the 135M model judges, debates and puts an account into words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.config import load_config
from agent.evolution.cycle import evolve
from agent.run import Run
from agent.verify import verify
from memory.records import Note, Trajectory
from tests.agent.test_true_cycle import SMALL


def test_a_generation_is_judged_and_told(tmp_path: Path) -> None:
    settings = (
        *SMALL,
        "objective.follow=[{abilities: [maths], propose: learnability}]",
        "evaluate={judge: self, how: debate, rounds: 1, tokens: 24, tasks: 4, account: policy}",
        "evaluate.account_tokens=48",
        "test.run=false",
    )
    with Run(tmp_path / "run", load_config("quickstart", settings), quiet=True) as run:
        evolve(run)
        told: Any = run.generations()[1].details
        if told["candidate"]["weights"] != "base" or told["candidate"]["memory"]:
            asked = run.ledger.all(Note, "said/1/evaluate/vote/")
            votes = {str(note.data["text"]) for _, note in asked}
            assert votes <= {"A", "B", "C"}
            own = told["preference"]["against"]["base"]
            assert 0 <= own["win_rate"]["mean"] <= 1 and own["win_rate"]["n"] == 4
            assert len(list(run.ledger.all(Note, "said/1/evaluate/vote/"))) in range(0, 25, 6)
        account = told["account"]
        assert account["by"] in ("data", "policy") and account["sentences"]
        for sentence in account["sentences"]:
            assert all(run.ledger.get(Trajectory, slot) for slot in sentence["episodes"])
        assert told["objective"]["followed"][0]["abilities"] == ["maths"]
    assert verify(tmp_path / "run")[1] == []
