"""What weights begin with and what they are trained on: all experience, or what is new."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from agent.adapters import detail
from agent.evolution.refine import RefineSettings, refine
from agent.evolution.update import merge
from agent.evolution.update.rehearsal import central, rehearsed
from agent.evolution.update.weights import WeightsUpdateSettings
from agent.run_folder import BASE, open_ledger
from agent.training.adapter import read_manifest
from agent.verify import verify
from environments.splits import split_of
from memory.credit import generation_of
from memory.records import REWRITE, Generation, Note, Trajectory
from tests import toy
from tests.agent.test_canaries import contents
from tests.agent.test_lessons import tried

Evolve = Callable[..., dict[str, Any]]


def past_and_new() -> list[Trajectory]:
    """Six tasks solved in generation 1 (of two families), two in generation 2."""
    made = []
    for n, tasks in ((1, "abcdef"), (2, "gh")):
        for number, task in enumerate(tasks):
            for reward in (1.0, 0.0):
                t = tried(task, int(reward), reward)
                slot = f"{n}/acquire/{task}/{int(reward)}"
                family = "even" if number % 2 == 0 else "odd"
                made.append(t.model_copy(update={"slot": slot, "family": family}))
    return made


def chosen(**settings: Any) -> tuple[set[str], set[str]]:
    """Tasks of the solutions and of the experience that generation 2 trains on."""
    judged, experience = RefineSettings(), past_and_new()
    how = WeightsUpdateSettings.model_validate(settings)
    solutions = refine(experience, judged, 2)
    own, seen = rehearsed(how, judged, 2, 0, solutions, experience)
    assert {s.trajectory.slot for s in own} <= {t.slot for t in seen}
    return {s.trajectory.task for s in own}, {t.task for t in seen}


def test_all_experience_is_the_default() -> None:
    assert chosen() == (set("abcdefgh"), set("abcdefgh"))


def test_new_data_alone_forgets_the_past() -> None:
    assert chosen(data="new") == (set("gh"), set("gh"))


def test_replay_brings_past_tasks_back_of_all_families() -> None:
    solved, seen = chosen(data="new", replay={"past": 1.0})
    assert solved == seen and solved > set("gh") and len(solved) == 4
    past = {t.task: t.family for t in past_and_new()}
    assert {past[task] for task in solved - set("gh")} == {"even", "odd"}
    assert chosen(data="new", replay={"past": 1.0}) == (solved, seen)  # the same on every machine
    assert chosen(data="new", replay={"past": 9.0})[0] == set("abcdefgh")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"replay": {"past": 0.5}}, "replay.past is for data: new"),
        ({"replay": {"synthesised": 2}, "objective": "dpo"}, "has no rewards"),
        ({"replay": {"rounds": 1}, "adapters": "per-group"}, "are for adapters: one"),
        ({"begin": "incumbent", "backend": "trl"}, "trl begins at the base"),
        ({"begin": "incumbent", "adapters": "per-group"}, "per-group trains a group's adapter"),
    ],
)
def test_what_does_not_go_together_is_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        WeightsUpdateSettings.model_validate(settings)


def test_weights_go_on_from_the_incumbents(evolve_toy: Evolve, tmp_path: Path) -> None:
    """The lineage names what training began with, and what was learnt there is still there."""
    run = tmp_path / "run"
    evolve_toy(
        run,
        "update_weights.begin=incumbent",
        "update_weights.data=new",
        "update_weights.min_examples=1",
        "update_memory.enabled=false",
        "gate.enabled=false",
        "test.run=false",
    )
    with open_ledger(run) as ledger:
        generations = [g for _, g in ledger.all(Generation)]
    first, second = (read_manifest(run / f"generations/{n:03d}/adapter") for n in (1, 2))
    assert first["parent"] == BASE and generations[1].weights == first["version"]
    assert second["parent"] == first["version"]
    for n, manifest in ((1, first), (2, second)):
        assert {generation_of(slot) for slot in manifest["sources"]} == {n}
    learnt = [
        json.loads((run / f"generations/{n:03d}/adapter/learnt.json").read_text()) for n in (1, 2)
    ]
    assert learnt[1][: len(learnt[0])] == learnt[0] and len(learnt[1]) > len(learnt[0])
    assert [p["version"] for p in detail(run, second["version"])["made_of"]] == [first["version"]]
    assert verify(run)[1] == []


def test_of_each_cluster_the_central_one_is_kept() -> None:
    angles = np.radians([0, 10, 20, 90, 100, 110])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert central(vectors, 2) == [1, 4]
    assert central(vectors[:0], 2) == [] and central(vectors[[0, 0]], 2) == [0]


# --- whole cycles: made-up tasks, own words, what a student gets wrong ---

SEEN = "Square the number 20."  # a task of the suite


def script(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """As the toy's; makes up tasks, and says a solution in view otherwise, right or wrong."""
    question = prompt.rsplit("<user>", 1)[1].split("</user>")[0]
    if "Write one more such task." in question:
        number = chance.randrange(1000)
        return SEEN if number % 3 == 0 else f"Double the number {1000 + number}."
    said = toy.script(prompt, chance, learnt)
    if "This is right." in prompt:
        code = re.findall(r"print\(\d+ [^)]*\)", prompt)[-1]
        return f"x = 0\n{code}\n```\n" if sum(map(ord, code)) % 2 else "print('no')\n```\n"
    return said


CHOICES: dict[str, dict[str, Any]] = {
    "synthesised": {"synthesised": 3},
    "rewrite": {"rewrite": True},
    "rounds": {"rounds": 1},
}


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, evolve_toy: Evolve
) -> Callable[[str], tuple[Path, Path]]:
    """Of a choice a whole run, and one that was stopped in its second training and went on."""
    known: dict[str, tuple[Path, Path]] = {}

    def go(name: str) -> tuple[Path, Path]:
        if name in known:
            return known[name]
        folder = tmp_path_factory.mktemp("replay")
        chosen = json.dumps({"min_examples": 1, "replay": CHOICES[name]})
        overrides = (
            f"update_weights={chosen}",
            "policy.model=tests.agent.test_rehearsal:script",
            "update_memory.enabled=false",
            "test.run=false",
        )
        evolve_toy(folder / "whole", *overrides)
        real, count = merge.train_adapter, [0]

        def stopping(*given: Any, **named: Any) -> Any:
            count[0] += 1
            if count[0] == 2:
                raise KeyboardInterrupt
            return real(*given, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(merge, "train_adapter", stopping)
            with pytest.raises(KeyboardInterrupt):
                evolve_toy(folder / "stopped", *overrides)
        evolve_toy(folder / "stopped", *overrides)
        known[name] = folder / "whole", folder / "stopped"
        return known[name]

    return go


def manifest(run: Path, n: int) -> dict[str, Any]:
    return read_manifest(run / f"generations/{n:03d}/adapter")


@pytest.mark.parametrize("name", CHOICES)
def test_stopped_in_training_it_ends_the_same(
    made: Callable[[str], tuple[Path, Path]], name: str
) -> None:
    whole, stopped = made(name)
    assert verify(whole)[1] == verify(stopped)[1] == []
    assert contents(whole) == contents(stopped)
    assert [manifest(r, 2)["version"] for r in (whole, stopped)] == [
        manifest(whole, 2)["version"]
    ] * 2


def test_made_up_tasks_are_rehearsed_and_none_is_the_suites(
    made: Callable[[str], tuple[Path, Path]],
) -> None:
    run, _ = made("synthesised")
    assert not [s for s in manifest(run, 1)["sources"] if s.startswith("said/")]  # no past yet
    rehearsed_ = [s for s in manifest(run, 2)["sources"] if s.startswith("said/")]
    with open_ledger(run) as ledger:
        asked = {k: str(note.data["text"]) for k, note in ledger.all(Note, "said/2/synthesised/")}
    assert len(rehearsed_) in (1, 2, 3) and SEEN in asked.values()
    assert all(asked[key.removesuffix("/answer")] != SEEN for key in rehearsed_)
    learnt = json.loads((run / "generations/002/adapter/learnt.json").read_text())
    texts = [asked[key.removesuffix("/answer")] for key in rehearsed_]
    assert all(any(text in prompt for prompt, _ in learnt) for text in texts)


def test_own_words_are_trained_on_only_where_they_are_right(
    made: Callable[[str], tuple[Path, Path]],
) -> None:
    run, _ = made("rewrite")
    with open_ledger(run) as ledger:
        played = [t for n in (1, 2) for _, t in ledger.all(Trajectory, f"{n}/probe/rewrite/")]
    right, wrong = ({t.slot for t in played if t.success == is_} for is_ in (True, False))
    used = {s for n in (1, 2) for s in manifest(run, n)["sources"]}
    assert right and wrong and right <= used and not wrong & used
    assert {slot.split("rewrite/")[1] for slot in wrong} & used  # there the original stays
    text = (run / "generations/001/adapter/learnt.json").read_text()
    assert "x = 0" in text and "This is right" not in text  # the hint is stripped
    assert all(t.phase == REWRITE and split_of(t.task) == "train" for t in played)


def test_what_a_student_gets_wrong_is_practised(
    made: Callable[[str], tuple[Path, Path]],
) -> None:
    run, _ = made("rounds")
    with open_ledger(run) as ledger:
        played = [t for _, t in ledger.all(Trajectory, "1/probe/student1/")]
        student = ledger.get(Note, "trained/1/student1")
    students = [t for t in played if "/again/" not in t.slot]
    again = [t for t in played if "/again/" in t.slot]
    wrong = {t.task for t in students if not t.success}
    assert student is not None and {t.policy for t in students} == {student.data["version"]}
    assert wrong and wrong < {t.task for t in again}  # and tasks like them, never tried before
    fresh = {t.task for t in again} - {t.task for t in students}
    assert {t.family for t in again if t.task in fresh} <= {
        t.family for t in students if t.task in wrong
    }
    assert all(split_of(t.task) == "train" for t in played)
    solved = {t.slot for t in again if t.success}
    assert solved & set(manifest(run, 1)["sources"])
