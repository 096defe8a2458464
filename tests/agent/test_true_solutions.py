"""The real thing, small: the 135M model weighs pairs by prompt, explains what it did, debates."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import load_config
from agent.evolution.cycle import evolve
from agent.policies.transformers import TransformersPolicy
from agent.run import Run
from agent.run_folder import BASE
from agent.training.adapter import read_manifest
from agent.verify import verify
from memory.records import COMPOSED, Note, Trajectory
from tests.agent.test_true_cycle import SMALL

TINY = (*SMALL, "acquire.samples=2", "acquire.first_tasks=4", "test.run=false")
SUITE = ("agent.max_new_tokens=48", "suite.tasks={train: 6, gate: 1, retention: 1, test: 1}")

UNTRAINED = ("acquire.first_tasks=2", "update_weights.enabled=false")


def test_pairs_are_weighed_by_own_probabilities(tmp_path: Path) -> None:
    settings = (*TINY, *SUITE, "update_weights.min_examples=1")
    with Run(tmp_path / "run", load_config(["quickstart", "dlma"], settings), quiet=True) as run:
        evolve(run)
        tries = dict(run.ledger.all(Trajectory, "1/acquire/"))
        assert len(tries) == 2 * 2 * 4
        scored = dict(run.ledger.all(Note, "likelihood/1/"))
        assert scored
        for key, note in scored.items():
            slot, _, whose = key.removeprefix("likelihood/1/").partition(" ")
            if whose == "own":  # what was noted while acting says the same, but for rounding
                noted = sum(sum(step.logprobs) for step in tries[slot].steps)
                assert float(str(note.data["score"])) == pytest.approx(noted, rel=0.05, abs=1.0)
        verdicts = {k: n for k, n in run.ledger.all(Note, "verdict/1/") if n.data["reward"]}
        counts = {k for k, n in verdicts.items() if n.data["success"]
                  and float(str(n.data["reward"])) > 0.5}  # fmt: skip
        assert counts  # some pairs are not turned round
        manifest = read_manifest(tmp_path / "run" / "generations" / "001" / "adapter")
        assert manifest["objective"] == "dpo" and manifest["losses"]
        won = {s for s in manifest["sources"] if "/try-" not in s}
        assert {f"verdict/{s}" for s in won} <= counts
    assert verify(tmp_path / "run")[1] == []


def test_reasons_are_put_before_what_was_done(tmp_path: Path) -> None:
    settings = (*TINY, *SUITE, "acquire.solve.tokens=24", *UNTRAINED)
    with Run(tmp_path / "run", load_config(["quickstart", "a3t"], settings), quiet=True) as run:
        evolve(run)
        tries = [t for _, t in run.ledger.all(Trajectory, "1/acquire/")]
        made = [t for t in tries if t.phase == COMPOSED]
        assert len(made) >= 2
        policy = run.policy(BASE)
        assert isinstance(policy, TransformersPolicy)
        for t in made:
            (first, *_), (step, *_) = t.steps, t.steps
            said = policy.chat.text(step.produced_ids)
            assert said.startswith("# ") and step.text == f"{t.frame.begin}{said}"
            assert first.prompt_ids == policy.encode(
                [
                    {"role": "system", "content": t.frame.system},
                    {"role": "user", "content": t.frame.example[0]},  # type: ignore[index]
                    {"role": "assistant", "content": t.frame.example[1]},  # type: ignore[index]
                    {"role": "user", "content": t.prompt},
                    {"role": "assistant", "content": t.frame.begin},
                ]
            )
            old = next(o for o in tries if o.slot == t.slot.removesuffix("/try-explain"))
            if len(old.steps) == 1:  # the same program with a comment more
                assert (t.reward, t.steps[-1].error) == (old.reward, old.steps[-1].error)
    assert verify(tmp_path / "run")[1] == []


def test_samples_debate(tmp_path: Path) -> None:
    settings = (*TINY, *SUITE, "acquire.solve.rounds=1", *UNTRAINED)
    with Run(tmp_path / "run", load_config(["quickstart", "debate"], settings), quiet=True) as run:
        evolve(run)
        revised = [t for s, t in run.ledger.all(Trajectory, "1/acquire/") if "/try-debate-1" in s]
        assert revised and all(len(t.recalled) >= 5 for t in revised)
        verdicts = dict(run.ledger.all(Note, "verdict/1/"))
        assert all(verdicts[f"verdict/{t.slot}"].data["reward"] in (0.0, 1.0) for t in revised)
    assert verify(tmp_path / "run")[1] == []
