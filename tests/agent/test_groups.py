"""An adapter per task group: who learns, who acts, and that the set is one version of weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from agent import adapters
from agent.act import act
from agent.config import load_config
from agent.evolution.update.groups import grouped
from agent.run import Run
from agent.run_folder import BASE, RunError, open_ledger
from agent.training.adapter import AdapterError, check_adapter, read_manifest
from agent.training.adapter_set import AdapterSet, read_set, save_set
from agent.training.export import export
from agent.training.selector import cross_validated, fit
from agent.verify import verify
from environments.splits import split_tasks
from environments.suites.reasoning_gym import ReasoningGym
from memory.embed import load_embedder
from memory.records import Generation, Note, Trajectory
from tests.agent.test_canaries import contents, driven
from tests.toy import CODE

Evolve = Callable[..., dict[str, Any]]
# Memory is off: what is seen is the weights' doing alone.
GROUPS = ("update_weights.adapters=per-group", "update_memory.enabled=false", "test.best_of_max=1")


# --- the selector ---


@pytest.mark.parametrize("name", ["hash", "default"])
def test_it_finds_the_group_of_prompts_that_it_has_not_seen(name: str) -> None:
    suite = ReasoningGym(per_family=24, sandbox=lambda: None)  # type: ignore[arg-type, return-value]
    splits = split_tasks(suite.tasks())
    train, unseen = splits["train"], splits["gate"] + splits["test"]
    embedder = load_embedder(name)
    families = [task.family for task in train]
    vectors = embedder.embed([task.prompt for task in train])
    groups = {family: family for family in families}
    selector = fit(families, vectors, groups, 0.05, embedder.identity)
    chosen = selector.choose(embedder.embed([task.prompt for task in unseen]))
    assert len(unseen) > 60 and {t.family for t in unseen} == set(families)
    right = [c == task.family for c, task in zip(chosen, unseen, strict=True)]
    assert sum(right) / len(right) >= 0.97
    judged = cross_validated(families, vectors, groups, 0.05)
    assert judged.tasks == len(train) and judged.accuracy >= 0.97
    shuffled = dict(zip(groups, [*list(groups)[1:], families[0]], strict=True))
    wrong = fit(families, vectors, shuffled, 0.05, "")
    assert not any(c == t.family for c, t in zip(wrong.choose(vectors), train, strict=True))
    # What lies between two groups is of neither; where any will do, it gets one all the same.
    means = np.array([c.vector for c in selector.centroids])
    between = (means[:1] + means[1:2]) / np.linalg.norm(means[:1] + means[1:2])
    assert selector.choose(between) == [""]
    assert selector.model_copy(update={"margin": 0.0}).choose(between) != [""]


def test_accuracy_is_of_prompts_left_out() -> None:
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(60, 32)).astype(np.float32)  # says nothing of the family
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    families = ["a", "b", "c"] * 20
    groups = {f: f for f in families}
    seen = fit(families, vectors, groups, 0.0, "").choose(vectors)
    assert np.mean([c == f for c, f in zip(seen, families, strict=True)]) > 0.6  # by heart
    assert cross_validated(families, vectors, groups, 0.0).accuracy < 0.5
    clear = cross_validated(families, vectors, groups, 2.0)
    assert (clear.accuracy, clear.abstained) == (0.0, 1.0)


def test_of_many_families_those_alike_share_a_group() -> None:
    prompts = {
        "apples": "How many apples are in the basket?",
        "pears": "How many pears are in the basket?",
        "north": "You stand in the kitchen. Go north to the hall.",
        "south": "You stand in the kitchen. Go south to the hall.",
    }
    vectors = load_embedder("hash").embed(list(prompts.values()))
    assert grouped(list(prompts), vectors, 4) == {family: family for family in prompts}
    two = grouped(list(prompts), vectors, 2)
    assert two["apples"] == two["pears"] == "apples + pears"
    assert two["north"] == two["south"] == "north + south"
    assert set(grouped(list(prompts), vectors, 1).values()) == {"apples + north + pears + south"}


# --- the set on disk ---


def test_a_set_is_whole_or_not_at_all(tmp_path: Path) -> None:
    from agent.training.adapter import save_adapter

    member = tmp_path / "member"
    version = save_adapter(member, lambda to: (to / "w").write_text("1") and None, {})
    vectors = np.eye(2, dtype=np.float32)
    selector = fit(["a", "b"], vectors, {"a": "a", "b": "b"}, 0.1, "hash")
    described = AdapterSet(selector=selector, members={"a": version})
    whole = save_set(tmp_path / "set", described, {version: member}, {"sources": []})
    assert check_adapter(tmp_path / "set") == whole and read_set(tmp_path / "set") == described
    assert read_set(member) is None
    other = described.model_copy(update={"selector": selector.model_copy(update={"margin": 0.2})})
    assert save_set(tmp_path / "other", other, {version: member}, {}) != whole
    file = tmp_path / "set" / "members" / version / "w"
    file.unlink()
    file.write_text("2")
    with pytest.raises(AdapterError, match="changed or cut"):
        check_adapter(tmp_path / "set")


def test_a_set_is_not_exported_as_one(tmp_path: Path) -> None:
    from agent.training.adapter import save_adapter

    version = save_adapter(tmp_path / "m", lambda to: (to / "w").write_text("1") and None, {})
    selector = fit(["a"], np.ones((1, 1), dtype=np.float32), {"a": "a"}, 0.1, "hash")
    described = AdapterSet(selector=selector, members={"a": version})
    save_set(tmp_path / "set", described, {version: tmp_path / "m"}, {"sources": []})
    named: dict[str, Any] = {"model": tmp_path, "base": "b", "card": "", "lineage": {}}
    for form in ("peft", "merged"):
        with pytest.raises(AdapterError, match=rf"cannot be exported as one.*{version} \(a\)$"):
            export(tmp_path / "set", tmp_path / "out" / "x", form=form, **named)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


# --- the cycle ---


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, evolve_toy: Evolve) -> Path:
    """A finished run: generation 1 learns two families, generation 2 the third."""
    folder = tmp_path_factory.mktemp("sets") / "run"
    evolve_toy(folder, *GROUPS)
    return folder


def weights_of(folder: Path) -> list[str]:
    with open_ledger(folder) as ledger:
        return [g.weights for _, g in ledger.all(Generation)]


def test_each_group_has_its_own_adapter_and_only_those_who_learnt_have_a_new_one(
    sets: Path,
) -> None:
    _, first, second = weights_of(sets)
    manifests = [read_manifest(sets / f"generations/{n:03d}/adapter") for n in (1, 2)]
    assert [m["version"] for m in manifests] == [first, second]
    early, late = (m["members"] for m in manifests)
    assert len(early) == 2 and set(early) < set(late) == set(CODE)
    (new,) = set(late) - set(early)
    trained = {group for group, n in manifests[1]["trained"].items() if n == 2}
    assert new in trained and trained != set(late)
    for group in set(early):
        same = (early[group] == late[group]) and (
            (sets / f"generations/001/adapter/members/{early[group]}/learnt.json").read_bytes()
            == (sets / f"generations/002/adapter/members/{late[group]}/learnt.json").read_bytes()
        )
        assert same == (group not in trained)
    with open_ledger(sets) as ledger:
        families = {slot: t.family for slot, t in ledger.all(Trajectory)}
    for n, manifest in zip((1, 2), manifests, strict=True):
        assert manifest["selector"]["accuracy"] == 1 and manifest["selector"]["tasks"] == 36
        assert manifest["groups"] == {family: family for family in CODE}
        place = sets / f"generations/{n:03d}/adapter/members"
        for group, version in manifest["members"].items():
            own = read_manifest(place / version)
            assert set(own["sources"]) <= set(manifest["sources"])
            assert {families[slot] for slot in own["solutions"]} == {group}
            others = [slot for slot in own["sources"] if families[slot] != group]
            mine = [slot for slot in own["sources"] if families[slot] == group]
            assert len(others) <= round(0.25 * len(mine))
            assert set(own["rehearsed"]) == set(others)
        assert not (place.parent.parent / "members").exists()
    late_own = read_manifest(sets / f"generations/002/adapter/members/{late[new]}")
    assert late_own["rehearsed"]  # others had something to rehearse


def test_the_same_solution_in_other_words_is_nothing_new(
    tmp_path: Path, evolve_toy: Evolve
) -> None:
    rewrite = (
        "policy.model=tests.agent.test_rehearsal:script",
        "update_weights.replay.rewrite=true",
    )
    evolve_toy(tmp_path, *GROUPS, *rewrite, "test.run=false")
    early, late = (read_manifest(tmp_path / f"generations/{n:03d}/adapter") for n in (1, 2))
    carried = {group for group, n in late["trained"].items() if n == 1}
    assert carried and all(early["members"][group] == late["members"][group] for group in carried)
    with open_ledger(tmp_path) as ledger:
        again = [t for _, t in ledger.all(Trajectory, "2/probe/rewrite/1/")]
    assert carried & {t.family for t in again if t.success}
    assert verify(tmp_path)[1] == []


def test_the_member_that_acts_follows_from_the_prompt(sets: Path) -> None:
    _, first, second = weights_of(sets)
    with open_ledger(sets) as ledger:
        for version in (first, second):
            note = ledger.get(Note, f"adapter/{version}")
            assert note is not None
            members: dict[str, Any] = note.data["members"]  # type: ignore[assignment]
            acted = [t for _, t in ledger.all(Trajectory) if t.weights == version]
            phases = {"gate", "acquire"} if version == first else {"gate"}
            assert {t.phase for t in acted} >= phases
            for t in acted:
                assert t.policy == f"{version}:{members.get(t.family, BASE)}"
                assert all(step.policy == t.policy for step in t.steps)
        assert any(t.policy == f"{first}:base" for _, t in ledger.all(Trajectory))
        gate = [g for _, g in ledger.all(Generation)]
        assert [g.decision for g in gate] == ["start", "promoted", "promoted"]
        assert gate[2].cells["weights"].mean == 1
    assert verify(sets)[1] == []


def test_the_selector_never_reads_the_family(sets: Path) -> None:
    from agent.loop import Assignment
    from agent.members import cast

    _, _, second = weights_of(sets)
    with Run(sets, quiet=True) as run:
        tasks = run.tasks("test")
        members = read_manifest(sets / "generations/002/adapter")["members"]
        for label in ("double", "anything"):
            relabelled = [t.model_copy(update={"family": label, "data": {}}) for t in tasks]
            own = [Assignment(t.id, t, "test", "test") for t in relabelled]
            family = {t.prompt: t.family for t in tasks}
            for version, part in cast(run, own, second):
                for assignment in part:
                    right = members[family[assignment.task.prompt]]
                    assert version == f"{second}:{right}"
        odd = tasks[0].model_copy(update={"prompt": "Hope is a thing"})
        assert cast(run, [Assignment("x", odd, "test", "test")], second)[0][0] == f"{second}:base"
        assert [v for v, _ in cast(run, own, BASE)] == [BASE]


def test_a_set_acts_for_others_is_rolled_back_to_and_is_audited(tmp_path: Path, sets: Path) -> None:
    folder = shutil.copytree(sets, tmp_path / "run")
    _, first, second = weights_of(folder)
    told = act(None, folder, limit=3, quiet=True)
    assert told["weights"] == second and told["success"]["mean"] == 1
    assert act(None, folder, generation=0, limit=3, quiet=True)["success"]["mean"] < 1
    with Run(folder, quiet=True) as run:
        assert run.roll_back(1).weights == first
    assert verify(folder)[1] == []
    member = next((folder / "generations/002/adapter/members").iterdir())
    body = (member / "learnt.json").read_bytes()
    (member / "learnt.json").write_bytes(body[:-5])
    problems = verify(folder)[1]
    assert problems and all("changed or cut" in p for p in problems)


def test_the_commands_know_sets(tmp_path: Path, sets: Path) -> None:
    folder = shutil.copytree(sets, tmp_path / "run")
    _, first, second = weights_of(folder)
    rows = {row["version"]: row for row in adapters.listing(folder)}
    members = list((folder / "generations/002/adapter/members").rglob("learnt.json"))
    assert len(members) > 2 and rows[second]["bytes"] > sum(f.stat().st_size for f in members)
    with pytest.raises(AdapterError, match="cannot be merged as one") as caught:
        adapters.merge(folder, [first, second], {})
    own = read_manifest(folder / "generations/001/adapter")["members"]
    assert all(f"{version} ({group})" in str(caught.value) for group, version in own.items())


def test_another_embedder_is_refused(tmp_path: Path, sets: Path) -> None:
    folder = shutil.copytree(sets, tmp_path / "run")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["memory"]["embedder"] = "default"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(RunError, match=r"memory.embedder is sentence.*set it back"):
        act(None, folder, limit=1, quiet=True)


# --- crashes ---


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, toy_yaml: Path) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    sizes = "suite.tasks={train: 6, gate: 5, retention: 1, test: 1}"
    settings = load_config(toy_yaml, (*GROUPS, sizes, "gate.alpha=0.6"))
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, small: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert driven(small, folder) == {"signal": None, "error": ""}
    found = contents(folder)
    assert sum(key.startswith("adapter/") for key in found["notes"]) == 2
    return found


@pytest.mark.parametrize(
    "kill",
    [
        {"at": "agent.policies.scripted:write_learnt", "nth": 2},  # one member is whole
        {"at": "agent.training.adapter_set:_link", "nth": 3},  # half of the set is written
        {"at": "agent.evolution.update.groups:save_set", "when": "after"},  # not in the ledger
        {"at": "memory.ledger:Ledger.append_many", "records": 2, "slots": "gate/none+a"},
    ],
)
def test_killed_and_resumed(
    tmp_path: Path, small: Path, whole: dict[str, Any], kill: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    assert driven(small, folder, kill)["signal"] == 9
    assert driven(small, folder) == {"signal": None, "error": ""}
    assert contents(folder) == whole
    assert verify(folder)[1] == []
    assert not list(folder.rglob("*.partial")) and not list(folder.glob("generations/*/members"))
