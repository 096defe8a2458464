"""What each objective learns from: pairs, verdicts, groups; and the cycle that trains on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.evolution.canaries import acquired
from agent.evolution.refine import Corrupt, RefineSettings, earned, refine, solves
from agent.evolution.update.lessons import by_worth, evenly, extremes, groups, pairs, verdicts
from agent.evolution.update.weights import WeightsUpdateSettings, conversations, lessons
from agent.policies.scripted import ScriptedPolicy
from agent.run import Run
from agent.run_folder import open_ledger
from agent.training.adapter import read_manifest
from agent.training.lora import train
from agent.training.packing import Example
from agent.training.settings import DpoSettings, GrpoSettings, KtoSettings, WeightedSettings
from agent.verify import verify
from memory.records import Frame, Generation, Note, Step, Trajectory
from tests.tiny import tiny_model

Evolve = Callable[..., dict[str, Any]]


def policy() -> ScriptedPolicy:
    return ScriptedPolicy("tests.toy:script", context=10_000)


def tried(
    task: str, number: int, reward: float, *, error: bool = False, memory: str = "", text: str = ""
) -> Trajectory:
    """An episode of one or two turns; with an error the first one is a mistake."""
    own = policy()
    prompt = f"Task {task}."
    opened = own.encode(
        [{"role": "system", "content": ""}, {"role": "user", "content": memory + prompt}]
    )
    steps: list[Step] = []
    ids = opened
    for turn in range(2 if error else 1):
        said = f"turn {turn}{text or number}"
        produced = tuple(map(ord, said))
        last = turn == error
        steps.append(
            Step(
                token_ids=ids + produced,
                loss_mask=(0,) * len(ids) + (1,) * len(produced),
                logprobs=tuple(-0.5 for _ in produced),
                policy="base",
                text=said,
                action={"tool": "answer", "arguments": {}},
                observation="seen",
                reward=reward if last else 0.0,
                error=None if last else "no call",
            )
        )
        ids = own.extend(opened + produced, "seen", "")[len(opened + produced) :]
    return Trajectory(
        slot=f"1/acquire/{task}/{number}",
        task=task,
        suite="s",
        family="f",
        split="train",
        phase="acquire",
        policy="base",
        frame=Frame(),
        prompt=prompt,
        steps=tuple(steps),
        reward=reward,
        success=reward >= 1,
    )


def sequences(trajectory: Trajectory, *, whole: bool) -> list[Example]:
    return conversations(trajectory, policy(), whole=whole)


def rewards(found: list[Trajectory]) -> dict[str, float]:
    return {t.slot: t.reward for t in found}


def said(example: Example) -> str:
    marked = zip(example.token_ids, example.loss_mask, strict=True)
    return "".join(chr(t) for t, m in marked if m)


# --- the record ---


def test_the_record_is_the_trajectory(tmp_path: Path) -> None:
    plain = tried("a", 0, 1.0)
    (example,) = conversations(plain, policy())
    (step,) = plain.steps
    assert (example.token_ids, example.loss_mask) == (step.token_ids, step.loss_mask)
    assert example.logprobs == step.logprobs
    assert (example.task, example.source, example.policy) == ("a", plain.slot, "base")


def test_noted_logprobs_hold_for_the_ids_that_were_read() -> None:
    """With memory in the prompt, or a turn left out, they are of something else."""
    aided = tried("a", 0, 1.0, memory="Remember! ")
    (bare,) = conversations(aided, policy())
    (acting,) = conversations(aided, policy(), prompt="acting")
    assert bare.logprobs == () and acting.logprobs == aided.steps[0].logprobs
    assert acting.token_ids == aided.steps[0].token_ids != bare.token_ids
    assert said(bare) == said(acting)
    mended = tried("a", 0, 1.0, error=True)
    (short,) = conversations(mended, policy())
    (all_,) = conversations(mended, policy(), whole=True)
    assert said(short) == "turn 10" and short.logprobs == ()
    assert said(all_) == "turn 00turn 10" and len(all_.logprobs) == len("turn 00turn 10")
    chosen = mended.model_copy(
        update={"steps": tuple(s.model_copy(update={"choices": ("x",)}) for s in mended.steps)}
    )
    assert conversations(chosen, policy(), whole=True)[0].logprobs == ()


# --- pairs, verdicts, groups ---


def test_pairs_are_of_one_task() -> None:
    solved = [tried("a", 0, 1.0), tried("a", 1, 1.0), tried("right", 0, 1.0)]
    failed = [tried("a", 2, 0.0, error=True), tried("a", 3, 0.5), tried("wrong", 0, 0.0)]
    made = pairs(solved, failed, sequences, DpoSettings(pairs_per_task=3))
    assert made.total == 3 and made.silent == {"all right": ["right"], "all wrong": ["wrong"]}
    by_unit: dict[str, list[Example]] = {}
    for e in made.examples:
        by_unit.setdefault(e.unit, []).append(e)
    assert len(by_unit) == 3
    for better, worse in by_unit.values():
        assert (better.advantage, worse.advantage, better.task, worse.task) == (1, -1, "a", "a")
    assert {said(worse) for _, worse in by_unit.values()} == {"turn 02turn 12", "turn 03"}
    assert "1 all right, 1 all wrong" in made.told()


def test_pairs_weigh_what_their_rewards_differ() -> None:
    solved = [tried("a", 0, 0.9), tried("b", 0, 0.2)]
    failed = [tried("a", 1, 0.1), tried("b", 1, 0.3)]
    made = pairs(solved, failed, sequences, DpoSettings(weigh=True))
    assert {(e.task, round(e.weight, 6)) for e in made.examples} == {("a", 0.8)}
    assert made.total == 1 and made.silent == {"no preference": ["b"]}
    assert {e.weight for e in pairs(solved, failed, sequences, DpoSettings()).examples} == {1.0}


def test_the_same_failure_is_one() -> None:
    failed = [tried("a", n, 0.0, text="same") for n in range(1, 4)]
    made = pairs([tried("a", 0, 1.0)], failed, sequences, DpoSettings())
    assert made.total == 1
    other = tried("a", 2, 0.0, text="other")
    made = pairs([tried("a", 0, 1.0)], [failed[0], other, failed[2]], sequences, DpoSettings())
    worse = [e.source for e in made.examples if e.advantage < 0]
    assert worse == [failed[2].slot, other.slot]  # the newest first


def test_verdicts_need_no_partner_and_weigh_the_same() -> None:
    solved = [tried("a", 0, 1.0), tried("b", 0, 1.0)]
    failed = [tried("c", n, 0.0) for n in range(6)]
    made = verdicts(solved, failed, sequences, KtoSettings(per_task=5))
    signs = [e.advantage for e in made.examples]
    assert (signs.count(1), signs.count(-1), made.total) == (2, 5, 7)
    sums = [sum(e.weight for e in made.examples if e.advantage == s) for s in (1, -1)]
    assert sums[0] == pytest.approx(sums[1])
    assert verdicts([], failed, sequences, KtoSettings()).silent == {"all wrong": ["c"]}


def test_groups_without_differences_are_named() -> None:
    found = [
        *(tried("right", n, 1.0) for n in range(2)),
        *(tried("wrong", n, 0.0) for n in range(3)),
        *(tried("half", n, 0.5) for n in range(2)),
        tried("once", 0, 1.0),
        *(tried("mixed", n, float(n == 0)) for n in range(4)),
    ]
    made = groups(found, rewards(found), sequences, GrpoSettings())
    assert made.silent == {
        "all right": ["right"],
        "all wrong": ["wrong"],
        "all alike": ["half"],
        "tried once": ["once"],
    }
    assert {e.task for e in made.examples} == {"mixed"} and made.total == 4
    assert sum(e.advantage for e in made.examples) == pytest.approx(0, abs=1e-6)
    assert made.examples[0].advantage == pytest.approx(0.75 / (0.5 + 1e-4))
    plain = groups(found, rewards(found), sequences, GrpoSettings(scale="none"))
    assert [e.advantage for e in plain.examples] == [0.75, -0.25, -0.25, -0.25]


def test_groups_are_capped_evenly() -> None:
    found = [tried("a", n, float(n < 2)) for n in range(8)]
    kept = evenly(found, rewards(found), 4)
    assert [t.slot[-1] for t in kept] == ["0", "1", "6", "7"]


def test_worth() -> None:
    found = [tried("a", 0, 1.0), tried("a", 1, 0.5), tried("a", 2, 0.0)]
    by_reward = by_worth(found, rewards(found), sequences, WeightedSettings())
    assert [e.weight for e in by_reward.examples] == pytest.approx([4 / 3, 2 / 3])
    how = WeightedSettings(by="advantage", temperature=0.1, max_weight=20)
    made = by_worth(found, rewards(found), sequences, how)
    hopeless = [tried("b", 0, 0.0), tried("b", 1, 0.0)]  # none of it is better than the rest
    beside = by_worth(found + hopeless, rewards(found + hopeless), sequences, how)
    assert [e.weight for e in beside.examples] == [e.weight for e in made.examples]
    assert beside.silent == {"all wrong": ["b"]}
    first, second, third = (e.weight for e in made.examples)
    assert first / second == pytest.approx(20) and third < second / 100


def test_the_best_above_the_worst() -> None:
    """By grade, also where a task's tries are all good or all bad; one pair a task."""
    found = [tried("a", 0, 0.8), tried("a", 1, 1.0), tried("a", 2, 0.9), tried("b", 0, 0.2),
             tried("b", 1, 0.0), tried("c", 0, 1.0), tried("c", 1, 1.0)]  # fmt: skip
    made = extremes(found, rewards(found), sequences, DpoSettings())
    halves = {(e.source, e.advantage) for e in made.examples}
    assert halves == {(found[1].slot, 1.0), (found[0].slot, -1.0),
                      (found[3].slot, 1.0), (found[4].slot, -1.0)}  # fmt: skip
    assert made.total == 2 and made.silent == {"all right": ["c"]}
    assert {(e.unit, e.weight) for e in made.examples} == {("pair a", 1.0), ("pair b", 1.0)}
    how = WeightsUpdateSettings.model_validate(
        {"objective": "dpo", "dpo": {"pair": "extremes", "weigh": True}}
    )
    made = lessons(how, RefineSettings(), 1, [], found, policy())
    weights = [(e.task, round(e.weight, 6)) for e in made.examples]
    assert weights == [("a", 0.2), ("a", 0.2), ("b", 0.2), ("b", 0.2)]


@pytest.mark.parametrize("objective", ["dpo", "grpo", "weighted"])
def test_of_what_a_judge_passes_the_better_grade_counts_more(objective: str) -> None:
    found = [
        tried("a", n, grade).model_copy(update={"success": True})
        for n, grade in enumerate((1, 0.8))
    ]
    how = WeightsUpdateSettings.model_validate(
        {"objective": objective, "dpo": {"pair": "extremes"}}
    )
    made = lessons(how, RefineSettings(), 1, [], found, policy()).examples
    better, worse = (e.weight if objective == "weighted" else e.advantage for e in made)
    assert better > worse and made[0].source == found[0].slot


def test_thresholds_rise() -> None:
    found = [tried("a", 0, 0.6), tried("b", 0, 0.9), tried("c", 0, 1.0)]
    how = RefineSettings(thresholds=(0.5, 0.8, 1.0))
    kept = [[s.trajectory.task for s in refine(found, how, n)] for n in (1, 2, 3, 4)]
    assert kept == [["c", "b", "a"], ["c", "b"], ["c"], ["c"]]  # the best rewarded first
    assert [solves(t, how) for t in found] == [False, False, True]  # for memory
    flipped = RefineSettings(corrupt="flip")
    assert [earned(t, flipped) for t in found] == pytest.approx([0.4, 0.1, 0.0])


def test_corrupted_solutions() -> None:
    found = [tried(task, n, 1.0) for task in ("a", "b") for n in (0, 1)]
    others = [t.model_copy(update={"family": "other"}) for t in found]

    def kept(how: Corrupt) -> list[tuple[str, str, int]]:
        solutions = refine([*found, *others], RefineSettings(corrupt=how))
        return [(s.trajectory.family, s.trajectory.task, len(solutions)) for s in solutions]

    whole = kept("none")
    assert len(set(whole)) == 4 and len(whole) == 8
    best = {family: next(k for k in whole if k[0] == family) for family, *_ in whole}
    assert kept("duplicate") == [best[family] for family, *_ in whole]
    one = min(best)
    assert kept("one-family") == [(f, task, 4) for f, task, _ in whole if f == one]


# --- the cycle ---

ONE = ("generations=1", "test.run=false")


@pytest.mark.parametrize("objective", ["weighted", "dpo", "kto", "grpo"])
def test_a_generation_learns_by_it(tmp_path: Path, evolve_toy: Evolve, objective: str) -> None:
    folder = tmp_path / "run"
    evolve_toy(folder, f"update_weights.objective={objective}", *ONE)
    with open_ledger(folder) as ledger:
        (_, g) = ledger.last(Generation) or (None, None)
        tried_ = dict(ledger.all(Trajectory, "1/acquire/"))
        (note,) = [note for _, note in ledger.all(Note, "adapter/")]
    assert g is not None and g.decision == "promoted"
    assert {"weights", "both"} & set(g.cells)
    manifest = read_manifest(folder / "generations" / "001" / "adapter")
    sources = set(manifest["sources"])
    assert sorted(sources) == note.data["sources"]
    failed = {slot for slot in sources if not tried_[slot].success}
    assert bool(failed) == (objective != "weighted"), "what failed teaches too"
    assert sources - failed
    if objective in ("dpo", "grpo"):
        named = {task for tasks in manifest["silent"].values() for task in tasks}
        trained = {tried_[slot].task for slot in sources}
        assert named and not named & trained
        assert named | trained == {t.task for t in tried_.values()}
        assert "tasks without a signal to train on" in g.reason
    assert verify(folder)[1] == []


@pytest.mark.parametrize("objective", ["dpo", "grpo"])
def test_what_a_run_tried_trains_a_real_model(
    evolved: Path, tmp_path: Path, objective: str
) -> None:
    """The toy run's own trajectories, whose ids a byte model reads, through the real loop."""
    how = WeightsUpdateSettings.model_validate(
        {"objective": objective, "rank": 4, "epochs": 1, "row_tokens": 2000}
    )
    with Run(evolved, quiet=True) as run:
        found = acquired(run, before=3)
        solutions = refine(found, run.config.refine)
        made = lessons(how, run.config.refine, 2, solutions, found, policy())
    assert made.total and len({e.advantage > 0 for e in made.examples}) == 2
    model = tiny_model(tmp_path / "model", context=8192)
    done = train(model, made.examples, how, tmp_path / "a", seed=0, manifest={}, dtype="float32")
    assert done["losses"] and done["loss_tokens"] > 0


@pytest.mark.parametrize("objective", ["dpo", "grpo"])
def test_too_little_for_an_objective_is_said(
    tmp_path: Path, evolve_toy: Evolve, objective: str
) -> None:
    folder = tmp_path / "run"
    evolve_toy(
        folder, f"update_weights.objective={objective}", "update_weights.min_examples=999", *ONE
    )
    with open_ledger(folder) as ledger:
        (_, g) = ledger.last(Generation) or (None, None)
        assert not ledger.count(Note, "adapter/")
    kind = "pairs" if objective == "dpo" else "trajectories"
    assert (
        g is not None and f" {kind} for {objective}, update_weights.min_examples is 999" in g.reason
    )
