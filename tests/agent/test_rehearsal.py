"""What weights begin with and what they are trained on: all experience, or what is new."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent.adapters import detail
from agent.evolution.refine import RefineSettings, refine
from agent.evolution.update.rehearsal import rehearsed
from agent.evolution.update.weights import WeightsUpdateSettings
from agent.run_folder import BASE, open_ledger
from agent.training.adapter import read_manifest
from agent.verify import verify
from memory.credit import generation_of
from memory.records import Generation, Trajectory
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
    solved, seen = chosen(data="new", replay=1.0)
    assert solved == seen and solved > set("gh") and len(solved) == 4
    past = {t.task: t.family for t in past_and_new()}
    assert {past[task] for task in solved - set("gh")} == {"even", "odd"}
    assert chosen(data="new", replay=1.0) == (solved, seen)  # the same on every machine
    assert chosen(data="new", replay=9.0)[0] == set("abcdefgh")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"replay": 0.5}, "replay is for data: new"),
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
