"""Adapters of a run: their lineage, merged candidates, export, prune, and the learned verifier."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from agent import adapters
from agent.config import ConfigError, load_config
from agent.evolution import cycle, final
from agent.evolution.canaries import acquired
from agent.evolution.refine import refine
from agent.evolution.update import judge, merge
from agent.policies.transformers import TransformersPolicy
from agent.run import Run
from agent.run_folder import BASE, RunError, adapter_notes, open_ledger
from agent.training import export as exporting
from agent.training.adapter import AdapterError, check_adapter, read_manifest
from agent.training.merging import MergeSettings
from agent.verify import verify
from memory.ledger import Ledger
from memory.records import Generation, Note, Trajectory
from tests.tiny import tiny_model

Evolve = Callable[..., dict[str, Any]]
UNTESTED = "test.run=false"


# --- lineage ---


def test_every_adapter_is_told_with_its_lineage(
    evolved: Path, instar_json: Callable[..., Any]
) -> None:
    rows = instar_json("adapters", "list", "--run", evolved)
    assert [row["generation"] for row in rows] == [1, 2] and rows[1]["state"] == "live"
    assert rows[0]["parents"] == [BASE] and rows[0]["objective"] == "sft" and rows[0]["bytes"]
    told = instar_json("adapters", "show", rows[1]["version"][:6], "--run", evolved)
    with open_ledger(evolved) as ledger:
        for slot in told["sources"]:
            source = ledger.get(Trajectory, slot)
            assert source is not None and source.split == "train" and source.success
        (_, g) = ledger.last(Generation) or (None, None)
    assert g is not None and told["gate"][-1]["cells"][g.cell]["mean"] == g.cells[g.cell].mean
    assert told["gate"][-1]["comparisons"] and told["config"] and told["families"]


def test_the_ledger_is_read_once_for_all_rows(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many adapters there are."""
    every, reads = Ledger.all, [0]

    def counted(self: Ledger, *asked: Any, **named: Any) -> Any:
        reads[0] += 1
        return every(self, *asked, **named)

    monkeypatch.setattr(Ledger, "all", counted)
    counts = []
    for more in (0, 1):
        if more:
            names = [row["version"] for row in adapters.listing(copied)]
            adapters.merge(copied, names, {"how": "ties"})
        reads[0] = 0
        assert len(adapters.listing(copied)) == 2 + more
        counts.append(reads[0])
    assert counts[0] == counts[1]


def test_unknown_adapters_are_named(evolved: Path) -> None:
    with pytest.raises(ConfigError, match=r"no adapter 'zz'; it has a\w+, a\w+$"):
        adapters.detail(evolved, "zz")
    with pytest.raises(ConfigError, match="the beginning of several adapters"):
        adapters.detail(evolved, "a")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 12345}, "the manifest differs from the ledger (seed)"),
        ({"parents": ["a0"]}, "the manifest differs from the ledger (parents)"),
    ],
)
def test_a_manifest_that_was_changed(copied: Path, change: dict[str, Any], says: str) -> None:
    file = copied / "generations" / "001" / "adapter" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    (problem,) = verify(copied)[1]
    assert says in problem


def test_a_configuration_that_was_changed(copied: Path) -> None:
    file = copied / "config.yaml"
    tree = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(tree | {"generations": 9}))
    assert verify(copied)[1] == []  # a run may go on for longer
    tree["update_weights"]["epochs"] = 7
    file.write_text(yaml.safe_dump(tree))
    problems = verify(copied)[1]
    assert len(problems) == 2 and all("with another configuration" in p for p in problems)


# --- merging in a run ---


def test_the_candidate_is_a_merge_of_generations(tmp_path: Path, evolve_toy: Evolve) -> None:
    folder = tmp_path / "run"
    evolve_toy(folder, "update_weights.merge.how=soup", UNTESTED)
    assert verify(folder)[1] == []
    rows = {row["version"]: row for row in adapters.listing(folder)}
    with open_ledger(folder) as ledger:
        first, second = (ledger.get(Note, f"trained/{n}") for n in (1, 2))
        last = ledger.last(Generation)
    assert first and second and last
    assert first.data["version"] == first.data["member"], "nothing to merge with yet"
    row = rows[str(second.data["version"])]
    assert row["objective"] == "soup"
    assert row["parents"] == [second.data["member"], first.data["member"]]
    told = adapters.detail(folder, row["version"])
    parents = [set(adapters.detail(folder, p)["sources"]) for p in row["parents"]]
    assert set(told["sources"]) == parents[0] | parents[1]
    assert last[1].details["candidate"]["weights"] == row["version"]  # type: ignore[index, call-overload]


def test_a_false_parent_is_found(tmp_path: Path, evolve_toy: Evolve) -> None:
    folder = tmp_path / "run"
    evolve_toy(folder, "update_weights.merge.how=soup", UNTESTED)
    with Run(folder, quiet=True) as run:
        merged = next(r for r in adapters.listing(folder) if r["objective"] == "soup")
        note = run.ledger.get(Note, f"adapter/{merged['version']}")
        assert note is not None
        told = dict(note.data["manifest"]) | {"version": "afalse", "parents": merged["parents"][1:]}  # type: ignore[arg-type]
        run.ledger.append("adapter/afalse", Note(data=note.data | {"manifest": told}))
        told = told | {"version": "alost", "parents": ["anone"]}
        run.ledger.append("adapter/alost", Note(data=note.data | {"manifest": told}))
    problems = verify(folder)[1]
    assert any("afalse names other sources than the adapters" in p for p in problems)
    assert any("alost is merged from anone, which is not in the ledger" in p for p in problems)


class Killed(BaseException):
    pass


def test_a_search_for_a_merge_goes_on_where_it_was(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted within a try: what was played is not played again, and the end is the same."""
    settings = MergeSettings(how="evolve", budget=4, tasks=2)
    other = shutil.copytree(copied, tmp_path / "other")

    def search(folder: Path) -> tuple[merge.Merged, dict[str, Any]]:
        with Run(folder, quiet=True) as run:
            parents = [row["version"] for row in adapters.listing(folder)]
            found = merge.choose(run, 2, parents, settings, set())
            notes = {k: note.data for k, note in run.ledger.all(Note, "merge/")}
            probes = run.ledger.all(Trajectory, "2/probe/")
            assert all(t.split == "train" and t.phase == "probe" for _, t in probes)
            assert not run.trials and not list(folder.rglob("merges"))
            return found, notes

    whole, noted = search(other)
    assert len(noted) == whole.tries == 4 and whole.fitness is not None
    tries: list[str] = []
    measured = merge.Fitness._solved

    def killed(self: merge.Fitness, label: str, version: str) -> float:
        tries.append(version)
        if len(tries) == 3:
            measured(self, label, version)
            raise Killed
        return measured(self, label, version)

    monkeypatch.setattr(merge.Fitness, "_solved", killed)
    with pytest.raises(Killed):
        search(copied)
    monkeypatch.setattr(merge.Fitness, "_solved", measured)
    plays: list[str] = []
    solved = merge.Fitness._solved

    def told(self: merge.Fitness, label: str, version: str) -> float:
        plays.append(version)
        return solved(self, label, version)

    monkeypatch.setattr(merge.Fitness, "_solved", told)
    assert search(copied) == (whole, noted) and len(plays) == 2


def test_a_greedy_soup_leaves_out_what_harms(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what was measured on train tasks; one that is alone the best goes on as it is."""
    settings = MergeSettings(how="soup", greedy=True)
    with Run(copied, quiet=True) as run:
        parents = [row["version"] for row in adapters.listing(copied)]
        worth = {parents[0]: 0.2, parents[1]: 0.9}
        monkeypatch.setattr(
            merge.Fitness, "_solved", lambda self, label, version: worth.get(version, 0.5)
        )
        found = merge.choose(run, 2, parents, settings, set())
        assert found.parents == (parents[1],) and found.fitness == 0.9


def test_several_trainings_are_merged(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is done once and noted; one that diverges is left out."""
    calls: list[int] = []

    def train(folder: Path, again: str, repeat: int) -> dict[str, Any]:
        calls.append(repeat)
        if repeat == 1:
            raise FloatingPointError("diverged")
        shutil.copytree(copied / "generations" / "001" / "adapter", folder)
        (folder / "COMPLETE").write_text(f"a{repeat}")
        told = read_manifest(folder) | {"version": f"a{repeat}"}
        (folder / "manifest.json").write_text(json.dumps(told))
        return told

    with Run(copied, quiet=True) as run:
        versions, _ = merge.each_once(run, 3, "adapter", 3, train)
        assert versions == ["a0", "a2"] and calls == [0, 1, 2]
        assert merge.each_once(run, 3, "adapter", 3, train)[0] == versions and len(calls) == 3


def test_merging_by_hand(
    copied: Path, instar: Callable[..., Any], instar_json: Callable[..., Any]
) -> None:
    a, b = (row["version"] for row in adapters.listing(copied))
    told = instar_json("adapters", "merge", a, b, "--how", "ties", "--run", copied)
    assert told["parents"] == [a, b] and told["merge"]["how"] == "ties"
    assert told["state"] == "candidate" and told["folder"].startswith("adapters/")
    again = instar_json("adapters", "merge", a, b, "--how", "ties", "--run", copied)
    assert again["version"] == told["version"]
    assert verify(copied)[1] == []
    for arguments, says in (
        ((a, "--how", "ties"), "name two or more"),
        ((a, b, "--how", "ama"), "name one"),
        ((a, b, "--how", "stew"), "--how stew: must be one of soup"),
        ((a, b, "--how", "none"), "--how none: must be one of soup"),
        ((a, b, "--density", "7"), "--density"),
    ):
        done = instar("adapters", "merge", *arguments, "--run", copied)
        assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1


# --- prune ---


def test_prune_keeps_what_is_needed(copied: Path, instar: Callable[..., Any]) -> None:
    first, live = adapters.listing(copied)
    told = adapters.prune(copied)
    assert told["would_prune"] == [] and {k["for"] for k in told["kept"]} == {"rollback", "live"}
    with pytest.raises(ConfigError, match=f"{live['version']} is live: it cannot be pruned"):
        adapters.prune(copied, [live["version"]], sure=True)
    told = adapters.prune(copied, every=True)
    assert told["would_prune"] == [first["version"]] and told["bytes"] == first["bytes"]
    assert (copied / first["folder"]).is_dir(), "it was only told"
    told = adapters.prune(copied, every=True, sure=True)
    assert told["pruned"] == [first["version"]] and not (copied / first["folder"]).exists()
    assert verify(copied)[1] == []
    shown = adapters.detail(copied, first["version"])
    assert shown["state"] == "pruned" and shown["sources"] and not shown["bytes"]
    done = instar("rollback", "1", "--run", copied)
    assert done.returncode == 1 and f"{first['version']} was pruned" in done.stderr
    assert adapters.prune(copied, every=True, sure=True)["pruned"] == []
    # A folder that is merely gone is another matter.
    shutil.rmtree(copied / live["folder"])
    assert "incomplete" in verify(copied)[1][0]


def test_what_is_missing_is_not_pruned(copied: Path, instar: Callable[..., Any]) -> None:
    """Nothing is noted: else a folder that was lost would be told as pruned."""
    first, live = adapters.listing(copied)
    other = adapters.merge(copied, [first["version"], live["version"]], {"how": "ties"})
    shutil.rmtree(copied / first["folder"])
    done = instar("adapters", "prune", other, first["version"], "--yes", "--run", copied)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"{copied / first['folder']} is missing, so {first['version']} cannot" in done.stderr
    states = {row["version"]: row["state"] for row in adapters.listing(copied)}
    assert "pruned" not in states.values() and (copied / "adapters").is_dir()
    (problem,) = verify(copied)[1]
    assert "incomplete" in problem
    assert adapters.prune(copied, [other], sure=True)["pruned"] == [other]


def test_what_was_pruned_can_be_made_again(copied: Path) -> None:
    first, _ = adapters.listing(copied)
    kept = shutil.copytree(copied / first["folder"], copied / "generations" / "009" / "adapter")
    adapters.prune(copied, [first["version"]], sure=True)
    with Run(copied, quiet=True) as run:
        assert adapter_notes(copied, run.ledger, kept) == []
        assert run.adapter(first["version"]) == copied / first["folder"]
    assert verify(copied)[1] == [] and not kept.exists()


# --- export and the verifier, with a real model ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"), context=8192)


@pytest.fixture(scope="module")
def real(evolved: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a real tiny model that has the toy run's episodes, and trained on them."""
    folder = tmp_path_factory.mktemp("real") / "run"
    settings = [
        "policy.engine=transformers", f"policy.model={model}", "policy.context=8192",
        "policy.dtype=float32", "update_weights.rank=4", "update_weights.epochs=1",
        "update_weights.row_tokens=4000", "update_weights.min_examples=1",
        "update_weights.merge={how: soup, of: seeds, members: 2}",
        "update_weights.verifier={enabled: true, members: 2}", "test.best_of_pick=verifier",
    ]  # fmt: skip
    config = load_config(evolved / "config.yaml", settings)
    with Run(folder, config, quiet=True) as run, open_ledger(evolved) as ledger:
        run.ledger.append_many(
            (slot, t.model_copy(update={"recalled": (), "memory": ""}))
            for slot, t in ledger.all(Trajectory)
            if slot.startswith(("1/acquire/", "best_of/"))
        )
        found = acquired(run, before=2)
        solutions = refine(found, config.refine)
        from agent.evolution.update import weights as update_weights

        made = update_weights.lessons(
            config.update_weights, config.refine, 1, solutions, found, run.policy(BASE)
        )
        own, _ = merge.members(run, 1, made.examples[:8], {"generation": 1, "parent": BASE})
        assert len(own) == 2
        version, told = merge.candidate(run, 1, own, set())
        assert told == f"soup of {own[0]}, {own[1]}"
        run.ledger.append("trained/1", Note(data={"version": version, "member": own[0]}))
    return folder


@pytest.fixture
def merged(real: Path) -> str:
    return next(row["version"] for row in adapters.listing(real) if row["objective"] == "soup")


def test_a_peft_export_is_the_same_adapter(
    real: Path, merged: str, model: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    told = adapters.write(real, merged, tmp_path / "out", "peft", False)
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= set(told["files"])
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    network = PeftModel.from_pretrained(base, str(tmp_path / "out"))
    ids = torch.tensor([list(range(40, 80))])
    with Run(real, quiet=True) as run, torch.inference_mode():
        policy = run.policy(merged)
        assert isinstance(policy, TransformersPolicy)
        expected = policy.engine.model(ids).logits
        assert torch.allclose(network(ids).logits, expected, atol=1e-4)
        with network.disable_adapter():
            assert not torch.allclose(network(ids).logits, expected, atol=1e-2)


def test_a_merged_export_is_what_acts(real: Path, merged: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapters.write(real, merged, tmp_path / "out", "merged", False)
    assert len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    with Run(real, quiet=True) as run, torch.inference_mode():
        policy = run.policy(merged)
        assert isinstance(policy, TransformersPolicy)
        ids = policy.encode([{"role": "user", "content": "Double the number 12."}])
        text = "<user>Double the number 12.</user><assistant>"
        assert tuple(tokenizer(text)["input_ids"]) == ids and tokenizer.padding_side == "left"
        expected = policy.engine.model(torch.tensor([ids])).logits
        assert torch.equal(network(torch.tensor([ids])).logits, expected)


def test_an_export_has_a_card(real: Path, merged: str, model: Path, tmp_path: Path) -> None:
    adapters.write(real, merged, tmp_path / "out", "peft", False)
    _, head, text = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(head)
    assert told["base_model"] == model.name and told["library_name"] == "peft"
    assert told["base_model_relation"] == "adapter" and "license" not in told
    for part in ("## Method", "## Data", "## Gate", "## Lineage", "## Licence", "## How to load"):
        assert part in text
    lineage = json.loads((tmp_path / "out" / "lineage.json").read_text())
    assert lineage["sources"] and len(lineage["made_of"]) == 2 and merged in text
    assert str(model) not in text


def test_the_card_tells_what_the_gate_measured(evolved: Path) -> None:
    told = adapters.detail(evolved, adapters.listing(evolved)[1]["version"])
    text = exporting.model_card(told, "merged")
    test = told["gate"][0]
    score = test["cells"][test["cell"]]
    assert f"| {score['mean']:.3f} | [{score['low']:.3f}, {score['high']:.3f}] |" in text
    assert "against the incumbent, paired: +" in text and "e-value" in text


def test_the_card_says_who_judged(copied: Path) -> None:
    version = adapters.listing(copied)[0]["version"]
    own = exporting.model_card(adapters.detail(copied, version), "merged")
    assert "own verified experience" in own and "which the suite's own grader judged" in own
    tree = yaml.safe_load((copied / "config.yaml").read_text())
    (copied / "config.yaml").write_text(yaml.safe_dump(tree | {"feedback": {"by": "consistency"}}))
    voted = exporting.model_card(adapters.detail(copied, version), "merged")
    assert "which `feedback.by=consistency` and not the suite's grader judged" in voted
    assert "verified" not in voted


def test_an_export_is_whole_or_not_there(
    real: Path, merged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    adapters.write(real, merged, out, "peft", False)
    before = sorted(p.read_bytes() for p in out.iterdir())
    with pytest.raises(AdapterError, match="exists already"):
        adapters.write(real, merged, out, "peft", False)
    (tmp_path / "mine").mkdir()
    with pytest.raises(AdapterError, match="is no export"):
        adapters.write(real, merged, tmp_path / "mine", "peft", True)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting.shutil, "copyfile", full)
    for place in (out, tmp_path / "new"):
        with pytest.raises(OSError, match="No space left"):
            adapters.write(real, merged, place, "merged", True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "out"]
    assert sorted(p.read_bytes() for p in out.iterdir()) == before
    monkeypatch.undo()
    adapters.write(real, merged, out, "merged", True)
    assert (out / "model.safetensors").is_file()
    assert check_adapter(real / "generations" / "001" / "merged") == merged


def test_an_export_leaves_what_lies_beside_it(real: Path, merged: str, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "notes").write_text("mine")
    for force in (False, True):
        adapters.write(real, merged, tmp_path / "out", "peft", force)
    assert (tmp_path / "out.partial" / "notes").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.partial"]
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_verifier_is_trained_and_picks(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members once each, their mean in the ledger, every sample scored once."""
    folder = shutil.copytree(real, tmp_path / "run")
    with Run(folder, quiet=True) as run:
        found = acquired(run, before=2)
        solutions = refine(found, run.config.refine)
        trained = judge.train_verifier
        calls: list[int] = []

        def dies(*arguments: Any, **named: Any) -> dict[str, Any]:
            calls.append(named["seed"])
            if len(calls) == 2:
                raise Killed
            return trained(*arguments, **named)

        monkeypatch.setattr(judge, "train_verifier", dies)
        with pytest.raises(Killed):
            judge.new_verifier(run, 1, BASE, solutions, found)
        assert judge.latest(run.ledger) == ""
        assert judge.new_verifier(run, 1, BASE, solutions, found) == ""
        assert len(calls) == 3 and calls[1] == calls[2] != calls[0]
        assert judge.new_verifier(run, 1, BASE, solutions, found) == "" and len(calls) == 3
        version = judge.latest(run.ledger)
        told = adapters.detail(folder, version)
        assert told["role"] == "verifier" and told["state"] == "live" and len(told["parents"]) == 2
        assert verify_adapters(folder) == []
        groups: dict[str, list[Trajectory]] = {}
        for _, t in run.ledger.all(Trajectory, "best_of/"):
            groups.setdefault(t.task, []).append(t)
        used, picked = judge.by_verifier(run, groups)
        assert used == version and set(picked) == set(groups)
        scored = {
            key.removeprefix(f"score/{version}/"): float(str(note.data["score"]))
            for key, note in run.ledger.all(Note, "score/")
        }
        assert len(set(scored.values())) > 1
        for task, own in groups.items():
            ended = [t for t in own if t.slot in scored]
            if ended:
                best = max(ended, key=lambda t: scored[t.slot])
                assert picked[task] == float(best.success)
        monkeypatch.setattr(judge, "load_verifier", None)  # whoever asks again, looks it up
        assert judge.by_verifier(run, groups) == (used, picked)
        vote, _, cost = final.best_of_n(run)
        assert cost["pick"] == "verifier" and cost["verifier"] == version
        n = cost["samples"]
        few = {task: [t for t in own if int(t.slot[-1]) < n] for task, own in groups.items()}
        assert vote == judge.by_verifier(run, few)[1]


def test_a_generation_trains_it_on_what_it_tried(
    tmp_path: Path, evolve_toy: Evolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cycle asks for it before new weights, and says why there is none."""
    asked: list[Any] = []

    def few(run: Run, n: int, weights: str, solutions: Any, experience: Any) -> str:
        asked.append((n, weights, len(solutions), run.ledger.count(Note, "trained/")))
        assert {t.slot for t in experience} >= {s.trajectory.slot for s in solutions}
        return "no verifier: too few"

    monkeypatch.setattr(cycle, "new_verifier", few)
    evolve_toy(tmp_path / "run", "generations=1", UNTESTED)
    (found,) = asked
    assert found[:2] == (1, BASE) and found[2] and found[3] == 0
    with open_ledger(tmp_path / "run") as ledger:
        (_, g) = ledger.last(Generation) or (None, None)
    assert g is not None and "no verifier: too few" in g.reason


def verify_adapters(folder: Path) -> list[str]:
    from agent.verify import _adapters

    with open_ledger(folder) as ledger:
        return list(_adapters(ledger, folder))


def test_who_cannot_have_a_verifier_is_told_at_once() -> None:
    on = "update_weights.verifier.enabled=true"
    with pytest.raises(ConfigError, match=r"update_weights\.verifier needs policy\.engine=transf"):
        load_config("quickstart", [on, "policy.engine=vllm"])
    with pytest.raises(ConfigError, match=r"test\.best_of_pick=verifier needs one"):
        load_config("quickstart", ["test.best_of_pick=verifier"])
    assert load_config("quickstart", [on, "test.best_of_pick=verifier"])


def test_no_verifier_no_pick(real: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(real, tmp_path / "run")
    with Run(folder, quiet=True) as run, pytest.raises(RunError, match="was never trained"):
        judge.by_verifier(run, {})
