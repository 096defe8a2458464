"""The whole cycle on the toy suite: what it does, leaves behind, refuses and goes on with."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import ConfigError, StoreSettings, load_config, with_overrides
from agent.evolution import cycle
from agent.evolution.canaries import acquired
from agent.evolution.play import arm
from agent.evolution.refine import instructive_failures
from agent.evolution.update import merge
from agent.run import Run
from agent.run_folder import BASE, config_hash, earlier_hashes, open_ledger
from agent.training.adapter import check_adapter, read_manifest
from agent.verify import verify
from environments.splits import SPLITS
from memory import history
from memory.embed import load_embedder
from memory.index import open_index
from memory.ledger import Ledger
from memory.recall import MemoryView
from memory.records import (
    Generation,
    Kind,
    MemoryItem,
    MemorySnapshot,
    Note,
    Record,
    StopReason,
    Trajectory,
)

Evolve = Callable[..., dict[str, Any]]
STORE = StoreSettings()
CELLS = {"incumbent", "memory", "weights", "both"}
UNTESTED = "test.run=false"


@pytest.fixture(scope="module")
def summary(evolved: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((evolved / "summary.json").read_text())
    return parsed


@pytest.fixture(scope="module")
def ledger(evolved: Path) -> Iterator[Ledger]:
    with open_ledger(evolved) as opened:
        yield opened


@pytest.fixture(scope="module")
def generations(ledger: Ledger) -> list[Generation]:
    return [generation for _, generation in ledger.all(Generation)]


def ids(folder: Path, prefix: str = "") -> dict[str, str]:
    """Slot → content hash of every trajectory."""
    with open_ledger(folder) as ledger:
        return {slot: t.id for slot, t in ledger.all(Trajectory, prefix)}


def counts(folder: Path) -> dict[str, int]:
    kinds: tuple[type[Record], ...] = (Trajectory, MemoryItem, MemorySnapshot, Generation, Note)
    with open_ledger(folder) as ledger:
        return {kind.__name__: ledger.count(kind) for kind in kinds}


# --- what it does ---


def test_the_agent_gets_better_and_the_gate_says_so(generations: list[Generation]) -> None:
    start, first, second = generations
    assert (start.decision, start.weights, start.memory) == ("start", BASE, "")
    assert start.cells["incumbent"].mean == 0
    assert first.decision == second.decision == "promoted"
    assert first.cell == second.cell == "both"
    assert first.weights != BASE and first.memory
    assert second.weights != first.weights and second.memory != first.memory
    assert second.cells["both"].mean == 1
    assert [g.n for g in generations] == [0, 1, 2] and [g.parent for g in generations] == [0, 0, 1]


def test_each_gate_is_a_two_by_two(generations: list[Generation], evolved: Path) -> None:
    with open_ledger(evolved) as ledger:
        for g in generations[1:]:
            assert set(g.cells) == CELLS
            for score in g.cells.values():
                assert score.n == 30 and 0 <= score.low <= score.mean <= score.high <= 1
            assert {c["cell"] for c in g.details["comparisons"]} == CELLS - {"incumbent"}
            candidate = g.details["candidate"]
            before = generations[g.parent]
            for cell, memory, weights in (
                ("incumbent", before.memory, before.weights),
                ("memory", candidate["memory"], before.weights),
                ("weights", before.memory, candidate["weights"]),
                ("both", candidate["memory"], candidate["weights"]),
            ):
                place = f"gate/{arm(ledger, STORE, memory, weights)}/"
                found = [t for _, t in ledger.all(Trajectory, place)]
                assert len(found) == 30 and all(t.policy == weights for t in found)
                assert sum(t.success for t in found) / 30 == pytest.approx(g.cells[cell].mean)


def test_the_reason_names_the_numbers(generations: list[Generation]) -> None:
    assert "20 won, 0 lost" in generations[1].reason and "≥ 20" in generations[1].reason
    assert "nothing mastered yet" in generations[1].reason
    assert "retention" in generations[2].reason and "4 tasks" in generations[2].reason


def test_what_was_mastered_is_checked_on_tasks_of_its_own(
    ledger: Ledger, generations: list[Generation]
) -> None:
    mastered = {f for f, rate in generations[1].families.items() if rate >= 0.8}
    checked = [t for _, t in ledger.all(Trajectory, "retention/")]
    assert len(mastered) == 2
    assert Counter(t.family for t in checked) == dict.fromkeys(mastered, 4)  # 2 tasks, 2 agents


def test_the_objective_favours_the_weak_family(
    ledger: Ledger, generations: list[Generation]
) -> None:
    first = generations[1]
    (weak,) = (family for family, rate in first.families.items() if rate == 0)
    assert first.objective[weak] > 0.8
    assert sum(first.objective.values()) == pytest.approx(1)
    practised = Counter(t.family for _, t in ledger.all(Trajectory, "1/acquire/"))
    assert len(practised) == 3 and set(practised.values()) == {3}
    practised = Counter(t.family for _, t in ledger.all(Trajectory, "2/acquire/"))
    assert practised[weak] > sum(practised.values()) / 2


def test_the_base_model_explores_where_the_incumbent_is_weak(
    ledger: Ledger, generations: list[Generation]
) -> None:
    first = generations[1]
    second = [t for _, t in ledger.all(Trajectory, "2/acquire/")]
    assert {t.policy for t in second} == {first.weights, BASE}
    for t in second:
        if t.policy == BASE:
            assert first.families[t.family] < 0.5


def test_reflections_on_instructive_failures(ledger: Ledger) -> None:
    experience = [t for _, t in ledger.all(Trajectory, "1/acquire/")]
    failures = {failed.slot: solved for failed, solved in instructive_failures(experience, 1)}
    items = [item for _, item in ledger.all(MemoryItem) if item.born == 1]
    reflections = [item for item in items if item.kind is Kind.REFLECTION]
    assert {item.sources[0] for item in reflections} == set(failures) != set()
    for item in reflections:
        failed = ledger.get(Trajectory, item.sources[0])
        assert failed is not None
        assert item.tasks == (failed.task,) and item.key == failed.prompt
        assert item.trust == "judged" and item.text == "It printed the wrong thing."
        assert item.content["failed"] == failed.steps[0].text.strip()
        assert item.content["observation"] == failed.steps[0].observation
        mended = failures[failed.slot].steps[-1].text.strip()
        assert item.content["mended"] == mended
        assert ledger.get(Note, f"said/1/reflection/{failed.slot}") is not None


def test_exemplars_are_verified_solutions(ledger: Ledger) -> None:
    exemplars = [item for _, item in ledger.all(MemoryItem) if item.kind is Kind.EXEMPLAR]
    assert len({item.family for item in exemplars}) == 3
    for item in exemplars:
        (source,) = item.sources
        t = ledger.get(Trajectory, source)
        assert t is not None and t.success and t.split == "train" and t.phase == "acquire"
        assert item.content == {
            "prompt": t.prompt,
            "turns": [[t.steps[-1].text.strip(), t.steps[-1].observation]],
        }
        assert (item.tasks, item.trust) == ((t.task,), "verified")


def test_memory_is_absorbed_by_the_weights_that_do_without(
    evolved: Path, ledger: Ledger, generations: list[Generation]
) -> None:
    first = generations[1]
    state = history.state(ledger, first.memory)
    absorbed = {item for item, change in state.items() if first.weights in change.absorbed_by}
    probes = [t for _, t in ledger.all(Trajectory, "1/probe/")]
    assert absorbed and {t.split for t in probes} == {"train"}
    bare = {t.task: t.success for t in probes if not t.memory}
    aided = [t for t in probes if t.memory]
    assert {t.task for t in aided} == set(bare)
    tried = {t.task for _, t in ledger.all(Trajectory, "1/acquire/")}
    assert len(set(bare) - tried) > len(set(bare) & tried)  # what was practised says little
    for item in history.items(ledger, first.memory):
        with_it = [t for t in aided if item.id in t.recalled]
        alike = [t for t in aided if t.recalled and t.family == item.family]
        earned = sum(t.success - bare[t.task] for t in with_it or alike)
        assert (item.id in absorbed) == (earned <= 0)
    embedder = load_embedder("hash")
    items = ((key, item.key) for key, item in ledger.all(MemoryItem))
    index = open_index(evolved / "index", embedder, items, "exact")
    with_them = MemoryView(ledger, index, embedder, first.memory, first.weights).ids()
    without = MemoryView(ledger, index, embedder, first.memory, BASE).ids()
    assert set(without) - set(with_them) == absorbed
    # So the new weights never read them, at the gate or later.
    place = f"gate/{arm(ledger, STORE, first.memory, first.weights)}/"
    both = [t for _, t in ledger.all(Trajectory, place)]
    assert both and not absorbed & {item for t in both for item in t.recalled}


def test_every_phase_is_accounted_for(generations: list[Generation], ledger: Ledger) -> None:
    for g in generations[1:]:
        assert set(g.seconds) == {"acquire", "refine", "update", "evaluate"}
        spent = sum(t.produced_tokens for _, t in ledger.all(Trajectory, f"{g.n}/acquire/"))
        assert g.tokens["acquire"] == spent > 0
        probed = sum(t.produced_tokens for _, t in ledger.all(Trajectory, f"{g.n}/probe/"))
        said = sum(n.data["tokens"] for _, n in ledger.all(Note, f"said/{g.n}/"))
        trained = ledger.get(Note, f"adapter/{g.details['candidate']['weights']}")
        assert g.tokens["update"] == probed + said + trained.data["tokens"] > probed > 0
    measured = [t for p in ("gate/", "retention/") for _, t in ledger.all(Trajectory, p)]
    spent = sum(t.produced_tokens for t in measured)
    assert sum(g.tokens["evaluate"] for g in generations) == spent  # each once


def test_best_of_n_may_spend_what_evolution_produced(
    ledger: Ledger, summary: dict[str, Any]
) -> None:
    episodes = [t for _, t in ledger.all(Trajectory) if t.phase != "test"]
    said = [note.data["tokens"] for _, note in ledger.all(Note, "said/")]
    assert all(said) and said
    budget = sum(t.produced_tokens for t in episodes) + sum(said)
    assert summary["test"]["best_of_n"]["budget"] == budget


def test_every_episode_has_one_end(ledger: Ledger) -> None:
    for _, t in ledger.all(Trajectory):
        assert t.failure is None and t.steps
        if t.stop is StopReason.TURNS:
            assert len(t.steps) == 2 and not t.success
        else:
            assert t.stop is StopReason.TERMINATED
        assert t.reward == t.steps[-1].reward and t.success == (t.reward == 1)


# --- what it leaves ---


def test_summary_has_the_documented_shape(summary: dict[str, Any]) -> None:
    for name in ("base", "memory", "weights", "both", "best_of_n"):
        score = summary["test"][name]
        assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1 and score["n"] == 12
    assert set(summary["families"]) == {"double", "next", "square"}
    assert all(0 <= v <= 1 for own in summary["families"].values() for v in own.values())
    assert [g["n"] for g in summary["generations"]] == [0, 1, 2]
    for g in summary["generations"]:
        assert g["decision"] in ("start", "promoted", "kept") and g["reason"]
        for score in g["cells"].values():
            assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
    assert summary["tokens"]["total"] == sum(
        n for phase, n in summary["tokens"].items() if phase != "total"
    )
    assert summary["seconds"]["total"] > 0


def test_the_test_split_shows_the_learning(summary: dict[str, Any]) -> None:
    test = summary["test"]
    assert test["base"]["mean"] == 0
    assert test["memory"]["mean"] == test["weights"]["mean"] == test["both"]["mean"] == 1
    assert test["best_of_n"]["mean"] < 1
    assert 1 <= test["best_of_n"]["samples"] <= 4


def test_the_files_of_a_run(evolved: Path, generations: list[Generation]) -> None:
    for name in ("config.yaml", "ledger.sqlite", "summary.json", "report.html", "index"):
        assert (evolved / name).exists()
    page = (evolved / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>") and "tests.toy:ToySuite" in page
    for g in generations:
        folder = evolved / "generations" / f"{g.n:03d}"
        assert Generation.model_validate_json((folder / "generation.json").read_text()) == g
        if g.n:
            assert check_adapter(folder / "adapter") == g.weights
            assert read_manifest(folder / "adapter")["generation"] == g.n
    assert not list(evolved.rglob("*.partial"))
    config = yaml.safe_load((evolved / "config.yaml").read_text())
    assert config["seed"] == 1 and config["agent"]["constrain"] is True  # defaults are written out


def test_verify_finds_nothing(evolved: Path) -> None:
    checked, problems = verify(evolved)
    assert problems == []
    assert checked["trajectories"] > 300 and checked["generations"] == 3
    assert checked["memory items"] and checked["memory snapshots"] == 6  # what is on trial,
    # the candidate, and what the new weights do without, in each of two generations


# --- going on ---


def test_a_finished_run_has_nothing_to_do(copied: Path, evolve_toy: Evolve) -> None:
    before, page = counts(copied), json.loads((copied / "summary.json").read_text())
    again = evolve_toy(copied)
    assert counts(copied) == before
    assert {**page, "run": ""} == {**again, "run": ""}


def test_more_generations_continue(copied: Path, evolve_toy: Evolve) -> None:
    before = ids(copied)
    summary = evolve_toy(copied, "generations=3", "acquire.tasks=3")
    assert [g["n"] for g in summary["generations"]] == [0, 1, 2, 3]
    after = ids(copied)
    assert before.items() <= after.items()
    assert {slot.split("/")[0] for slot in after.keys() - before.keys()} >= {"3"}
    assert yaml.safe_load((copied / "config.yaml").read_text())["generations"] == 3
    assert verify(copied)[1] == []


def test_a_generation_begins_if_half_of_it_fits_into_the_token_budget(
    tmp_path: Path, evolve_toy: Evolve
) -> None:
    """What practice and updates take counts, the gate's episodes do not; more budget goes on."""
    folder = tmp_path / "run"
    first = evolve_toy(folder, "generations=3", "token_budget=1", UNTESTED)["generations"]
    assert [g["n"] for g in first] == [0, 1]
    with open_ledger(folder) as opened:
        tokens = dict(opened.last(Generation)[1].tokens)  # type: ignore[index]
    assert tokens.pop("evaluate") > 0
    spent = sum(tokens.values())
    for budget, expected in ((int(spent * 1.5), [0, 1]), (int(spent * 1.5) + 1, [0, 1, 2])):
        told = evolve_toy(folder, "generations=3", f"token_budget={budget}", UNTESTED)
        assert [g["n"] for g in told["generations"]] == expected
    with Run(folder, quiet=True) as run:
        spent, last = cycle.learning_tokens(run)
        run.roll_back(1)  # takes nothing, and tells nothing of what the next one takes
        assert 0 < last < spent and cycle.learning_tokens(run) == (spent, last)
    assert verify(folder)[1] == []


@pytest.mark.parametrize(
    ("change", "named"),
    [("seed=2", "seed"), ("acquire.tasks=4", "acquire"), ("gate.enabled=false", "gate")],
)
def test_another_configuration_is_refused(
    copied: Path, evolve_toy: Evolve, change: str, named: str
) -> None:
    before = counts(copied)
    with pytest.raises(ConfigError, match=rf"another configuration \({named} differ\)"):
        evolve_toy(copied, change)
    assert counts(copied) == before


def test_a_run_goes_on_where_there_is_less_room(copied: Path, evolve_toy: Evolve) -> None:
    """What a message of too little memory advises, and another place of the server."""
    before = config_hash(copied)
    there = "policy.endpoint.url=http://there:1/v1"
    evolve_toy(copied, "update_weights.row_tokens=128", "policy.slots=2", there)
    stored = yaml.safe_load((copied / "config.yaml").read_text())
    assert stored["update_weights"]["row_tokens"] == 128 and stored["policy"]["slots"] == 2
    assert config_hash(copied) == before and verify(copied)[1] == []
    with pytest.raises(ConfigError, match=r"another configuration \(policy differ\)"):
        evolve_toy(copied, "policy.endpoint.model=another")


OPERATION = (
    "policy.threads=1",
    "policy.endpoint={key_variable: MY_KEY, timeout_s: 900}",
    "policy.vllm={arguments: {gpu_memory_utilization: 0.5}, environment: {A: b}, restarts: 9, "
    "start_s: 1200, timeout_s: 900, training: stop}",
    "memory.index_url=http://there:1",
)


@pytest.mark.parametrize("setting", OPERATION)
def test_a_run_goes_on_as_messages_about_its_server_advise(
    copied: Path, evolve_toy: Evolve, setting: str
) -> None:
    before = config_hash(copied), counts(copied)
    evolve_toy(copied, setting)
    assert (config_hash(copied), counts(copied)) == before and verify(copied)[1] == []
    stored = load_config(copied / "config.yaml")
    assert with_overrides(stored, [setting]) == stored


@pytest.mark.parametrize("earlier", [0, 1])
def test_adapters_of_runs_begun_before_places_could_change_are_theirs(
    tmp_path: Path, evolve_toy: Evolve, monkeypatch: pytest.MonkeyPatch, earlier: int
) -> None:
    with monkeypatch.context() as then:
        then.setattr("agent.engines.config_hash", lambda folder: earlier_hashes(folder)[earlier])
        evolve_toy(tmp_path / "run", "generations=1", UNTESTED)
    with open_ledger(tmp_path / "run") as ledger:
        (note,) = [n for _, n in ledger.all(Note, "adapter/")]
    hashes = earlier_hashes(tmp_path / "run")[earlier], config_hash(tmp_path / "run")
    assert note.data["manifest"]["config"] == hashes[0] != hashes[1]
    assert verify(tmp_path / "run")[1] == []
    for setting in ("policy.slots=2", "policy.threads=1"):  # and stay so when these do change
        evolve_toy(tmp_path / "run", "generations=1", UNTESTED, setting)
        assert verify(tmp_path / "run")[1] == []
    assert hashes[0] not in earlier_hashes(tmp_path / "run")


def test_a_run_that_never_began_takes_the_corrected_configuration(
    tmp_path: Path, toy_yaml: Path
) -> None:
    Run(tmp_path / "run", load_config(toy_yaml, ["suite.name=typo"])).__exit__()
    with Run(tmp_path / "run", load_config(toy_yaml), quiet=True) as run:
        assert run.tasks("train")
    assert "ToySuite" in (tmp_path / "run" / "config.yaml").read_text()


def test_rollback(copied: Path, evolve_toy: Evolve) -> None:
    with Run(copied, quiet=True) as run:
        back = run.roll_back(1)
        first, second = run.generations()[1:3]
    assert (back.n, back.decision, back.parent) == (3, "rollback", 1)
    assert (back.weights, back.memory) == (first.weights, first.memory)
    assert second.weights != back.weights  # and is still there
    assert verify(copied)[1] == []
    with Run(copied, quiet=True) as run, pytest.raises(ConfigError, match="no generation 9"):
        run.roll_back(9)
    summary = evolve_toy(copied, "generations=4", "acquire.tasks=3")
    assert summary["generations"][-1]["n"] == 4
    with open_ledger(copied) as ledger:
        acquired_then = [t for _, t in ledger.all(Trajectory, "4/acquire/")]
        # on a family it fails, the base model explores beside it
        assert {t.policy for t in acquired_then} - {BASE} == {first.weights}
    assert verify(copied)[1] == []


# --- other configurations ---


def test_corrupted_training_data_changes_nothing(tmp_path: Path, evolve_toy: Evolve) -> None:
    summary = evolve_toy(tmp_path / "run", "refine.corrupt=flip", "generations=3")
    with open_ledger(tmp_path / "run") as ledger:
        start, *later = [g for _, g in ledger.all(Generation)]
        assert ledger.count(Note, "adapter/") == 3 and ledger.count(MemoryItem) > 0
    for g in later:  # each time there was something to reject, and it was rejected
        assert set(g.cells) == CELLS
        assert (g.decision, g.cell, g.weights) == ("kept", "incumbent", BASE)
        with open_ledger(tmp_path / "run") as ledger:  # what is on trial is seen by nobody
            assert not history.items(ledger, g.memory)
        assert g.cells["incumbent"] == start.cells["incumbent"]
        assert g.reason.startswith("no candidate passed")
    assert summary["test"]["both"] == summary["test"]["base"]
    assert verify(tmp_path / "run")[1] == []


def test_without_the_gate_anything_is_promoted(tmp_path: Path, evolve_toy: Evolve) -> None:
    evolve_toy(tmp_path / "run", "refine.corrupt=flip", "gate.enabled=false", UNTESTED)
    with open_ledger(tmp_path / "run") as ledger:
        later = [g for _, g in ledger.all(Generation)][1:]
    assert [g.decision for g in later] == ["promoted", "promoted"]
    assert all(g.weights != BASE and g.cells[g.cell].mean == 0 for g in later)
    assert all("gate.enabled=false: it goes on whatever the test says" in g.reason for g in later)


def test_memory_only(tmp_path: Path, evolve_toy: Evolve) -> None:
    summary = evolve_toy(tmp_path / "run", "update_weights.enabled=false")
    with open_ledger(tmp_path / "run") as ledger:
        later = [g for _, g in ledger.all(Generation)][1:]
        assert ledger.count(Note, "adapter/") == ledger.count(Trajectory, "1/probe/") == 0
        first, second = ([t for _, t in ledger.all(Trajectory, f"{n}/acquire/")] for n in (1, 2))
    assert not any(t.memory for t in first)
    aided = [t for t in second if t.memory == later[0].memory]
    assert any(t.recalled for t in aided) and any(not t.memory for t in second)
    assert [(g.decision, g.cell, g.weights) for g in later] == [("promoted", "memory", BASE)] * 2
    assert all(set(g.cells) == {"incumbent", "memory"} for g in later)
    assert summary["test"]["weights"]["mean"] == 0
    assert summary["test"]["memory"]["mean"] == summary["test"]["both"]["mean"] == 1
    assert verify(tmp_path / "run")[1] == []


def test_weights_only(tmp_path: Path, evolve_toy: Evolve) -> None:
    summary = evolve_toy(tmp_path / "run", "update_memory.enabled=false")
    with open_ledger(tmp_path / "run") as ledger:
        later = [g for _, g in ledger.all(Generation)][1:]
        assert ledger.count(MemoryItem) == ledger.count(MemorySnapshot) == 0
        assert not any(t.recalled for _, t in ledger.all(Trajectory))
    assert [(g.decision, g.cell, g.memory) for g in later] == [("promoted", "weights", "")] * 2
    assert summary["test"]["memory"]["mean"] == 0
    assert summary["test"]["weights"]["mean"] == summary["test"]["both"]["mean"] == 1
    assert verify(tmp_path / "run")[1] == []


def test_too_little_to_train_on_is_said(tmp_path: Path, evolve_toy: Evolve) -> None:
    evolve_toy(tmp_path / "run", "update_weights.min_examples=99", "generations=1", UNTESTED)
    with open_ledger(tmp_path / "run") as ledger:
        (_, g) = ledger.last(Generation) or (None, None)
    assert g is not None and g.weights == BASE
    assert "no training: 2 verified solutions, update_weights.min_examples is 99" in g.reason


def test_training_that_diverges_is_said_and_not_tried_again(
    tmp_path: Path, evolve_toy: Evolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def diverge(*arguments: object) -> None:
        tries.append(arguments)
        raise FloatingPointError("training diverged (loss nan after 3 steps)")

    monkeypatch.setattr(merge, "train_adapter", diverge)
    monkeypatch.setattr(cycle, "evaluate", stop)
    with pytest.raises(Stop):
        evolve_toy(tmp_path / "run", "generations=1", UNTESTED)
    monkeypatch.undo()
    evolve_toy(tmp_path / "run", "generations=1", UNTESTED)
    with open_ledger(tmp_path / "run") as ledger:
        (_, g) = ledger.last(Generation) or (None, None)
    assert g is not None and g.weights == BASE and "weights" not in g.cells
    assert "training diverged (loss nan after 3 steps)" in g.reason
    assert len(tries) == 1
    assert verify(tmp_path / "run")[1] == []


class Stop(Exception):
    """Ends a run where a test wants it to end."""


def stop(*_: object) -> None:
    raise Stop


# --- the same again ---


def test_the_same_seed_gives_the_same_run(
    tmp_path: Path, evolved: Path, evolve_toy: Evolve
) -> None:
    """Trajectory by trajectory, by content, and however many are in flight."""
    evolve_toy(tmp_path / "run", "policy.slots=2")
    assert ids(tmp_path / "run") == ids(evolved)
    for kind in (MemoryItem, MemorySnapshot):
        with open_ledger(evolved) as one, open_ledger(tmp_path / "run") as other:
            assert set(one.keys(kind)) == set(other.keys(kind)) != set()


def test_another_seed_gives_another_run(tmp_path: Path, evolved: Path, evolve_toy: Evolve) -> None:
    evolve_toy(tmp_path / "run", "seed=4", "generations=1", UNTESTED)
    mine, theirs = ids(tmp_path / "run", "1/acquire/"), ids(evolved, "1/acquire/")
    assert mine and mine != theirs


def test_tasks_are_split_four_ways(evolved: Path) -> None:
    with Run(evolved, quiet=True) as run:
        split = {name: [task.id for task in run.tasks(name)] for name in SPLITS}
        assert {name: len(own) for name, own in split.items()} == {
            "train": 36, "gate": 30, "retention": 6, "test": 12,
        }  # fmt: skip
        assert len({task for own in split.values() for task in own}) == 84
        assert len(acquired(run, 3)) == 18
