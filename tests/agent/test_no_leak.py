"""Nothing that decides or tests reaches what is learnt, and the audit finds it if it does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.evolution.canaries import acquired
from agent.evolution.refine import refine
from agent.evolution.update.weights import examples
from agent.prompt import opening
from agent.run import Run
from agent.run_folder import CONFIG, open_ledger
from agent.training.adapter import COMPLETE, MANIFEST, read_manifest
from agent.verify import verify
from environments.base import SuiteError
from environments.splits import SPLITS, split_of
from memory import history
from memory.embed import load_embedder
from memory.index import open_index
from memory.ledger import Ledger
from memory.recall import MemoryView, Query, RecallSettings
from memory.records import (
    Failure,
    Generation,
    Kind,
    MemoryChange,
    MemoryItem,
    MemorySnapshot,
    Note,
    Record,
    Status,
    Trajectory,
)

Evolve = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def practised(tmp_path_factory: pytest.TempPathFactory, evolve_toy: Evolve) -> Path:
    """A run that meets the same few train tasks again, with a memory made from them."""
    folder = tmp_path_factory.mktemp("runs") / "practised"
    evolve_toy(
        folder,
        "update_weights.enabled=false",
        "suite.tasks.train=3",
        "acquire.tasks=9",
        "acquire.first_tasks=9",
        "acquire.samples=4",
        "suite.tasks.gate=5",
        "test.run=false",
    )
    return folder


@pytest.fixture(scope="module", params=["evolved", "practised"])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    with open_ledger(request.getfixturevalue(request.param)) as opened:
        yield opened


# --- what a run does ---


def test_splits_are_disjoint(evolved: Path) -> None:
    with Run(evolved, quiet=True) as run:
        used = {name: {task.id for task in run.tasks(name)} for name in SPLITS}
    for name, tasks in used.items():
        assert tasks and all(split_of(task) == name for task in tasks)
        assert not any(tasks & used[other] for other in SPLITS if other != name)


def test_an_unseen_family_is_tested_and_nothing_else(
    tmp_path: Path, evolve_toy: Evolve, copied: Path
) -> None:
    summary = evolve_toy(tmp_path / "run", "suite.unseen=[square]", "generations=1")
    with open_ledger(tmp_path / "run") as ledger:
        met = {(t.family, t.split) for _, t in ledger.all(Trajectory)}
        assert {split for family, split in met if family == "square"} == {"test"}
        assert {split for family, split in met if family == "double"} >= {"train", "gate", "test"}
        assert not any("square" in g.objective for _, g in ledger.all(Generation))
    assert summary["families"]["square"]["both"] == 0  # nothing that was learnt solves it
    assert verify(tmp_path / "run")[1] == []
    with pytest.raises(SuiteError, match="no family cube; it has: double, next, square"):
        evolve_toy(tmp_path / "other", "suite.unseen=[cube]")
    config = copied / CONFIG  # a run that did meet it does not pass the audit
    config.write_text(config.read_text().replace("unseen: []", "unseen: [square]"))
    problems = verify(copied)[1]  # its adapters tell of the changed configuration, too
    met_it = [p for p in problems if "another configuration" not in p]
    assert met_it and all("the unseen family square was met" in p for p in met_it)


def test_every_episode_used_a_task_of_its_phase(ledger: Ledger) -> None:
    for _, t in ledger.all(Trajectory):
        assert split_of(t.task) == t.split
        assert t.split == ("train" if t.phase in ("acquire", "probe") else t.phase)


def test_memory_holds_train_tasks_only(ledger: Ledger) -> None:
    items = [item for _, item in ledger.all(MemoryItem)]
    assert items
    for item in items:
        assert {split_of(task) for task in item.tasks} == {"train"}
        sources = [ledger.get(Trajectory, slot) for slot in item.sources]
        assert {t.task for t in sources if t} == set(item.tasks)
        assert all(t is not None and t.phase == "acquire" for t in sources)


def test_memory_quotes_no_measured_task(evolved: Path) -> None:
    with Run(evolved, quiet=True) as run:
        measured = [t.prompt for name in SPLITS[1:] for t in run.tasks(name)]
        told = [
            "\n".join([item.text, item.key, *map(str, item.content.values())])
            for _, item in run.ledger.all(MemoryItem)
        ]
    assert not [prompt for prompt in measured if any(prompt in text for text in told)]


def test_adapters_come_from_train_episodes(evolved: Path) -> None:
    with open_ledger(evolved) as ledger:
        adapters = [note for _, note in ledger.all(Note, "adapter/")]
        assert len(adapters) == 2
        for note in adapters:
            manifest = read_manifest(evolved / str(note.data["folder"]))
            assert sorted(set(manifest["sources"])) == note.data["sources"] != []
            for slot in manifest["sources"]:
                source = ledger.get(Trajectory, slot)
                assert source is not None and source.phase == "acquire" and source.success
                assert split_of(source.task) == "train"


def test_no_task_sees_memory_made_from_itself(practised: Path) -> None:
    with open_ledger(practised) as ledger:
        items = dict(ledger.all(MemoryItem))
        aided = [t for _, t in ledger.all(Trajectory) if t.phase == "acquire" and t.recalled]
        tempted = 0
        for t in aided:
            assert not any(t.task in items[item].tasks for item in t.recalled)
            active = history.items(ledger, t.memory)
            tempted += any(t.task in item.tasks for item in active)
    assert tempted > 10  # there was something to leave out


def test_what_is_left_out_would_have_come_first(practised: Path) -> None:
    """Without the rule, a task's own solution is what memory answers with."""
    with open_ledger(practised) as ledger:
        (_, last) = ledger.last(Generation) or (None, None)
        assert last is not None
        items = [(key, item.key) for key, item in ledger.all(MemoryItem)]
        embedder = load_embedder("hash")
        index = open_index(practised / "index", embedder, items, "exact")
        view = MemoryView(ledger, index, embedder, last.memory, last.weights)
        active = history.items(ledger, last.memory)
        own = next(item for item in active if item.kind is Kind.EXEMPLAR)
        settings = RecallSettings(tokens=4000)
        free, ruled = view.recall(
            [
                Query(own.key, own.tasks[0], leave_out=False),
                Query(own.key, own.tasks[0], leave_out=True),
            ],
            settings,
            len,
        )
    assert free.items[0].tasks == own.tasks
    assert ruled.items and not any(set(own.tasks) & set(item.tasks) for item in ruled.items)


def answer_of(item: MemoryItem, otherwise: str) -> str:
    turns: Any = item.content.get("turns")
    return str(turns[0][0]) if turns else otherwise


def test_examples_have_bare_prompts_and_produced_ids(practised: Path) -> None:
    """Whatever stood in the prompt when a solution was found, none of it is trained on."""
    with Run(practised, quiet=True) as run:
        policy = run.policy("base")
        solutions = refine(acquired(run, 3), run.config.refine.model_copy(update={"per_task": 9}))
        made = examples(solutions, policy, 1)
        found = {t.slot: t for _, t in run.ledger.all(Trajectory)}
        items = dict(run.ledger.all(MemoryItem))
    assert any(found[e.source].recalled for e in made)
    for example in made:
        t = found[example.source]
        mask = example.loss_mask
        prompt = tuple(i for i, m in zip(example.token_ids, mask, strict=True) if not m)
        produced = tuple(i for i, m in zip(example.token_ids, mask, strict=True) if m)
        assert prompt == policy.encode(opening(t.frame, t.prompt))
        assert produced == t.steps[-1].produced_ids
        text = "".join(map(chr, prompt))
        for item in t.recalled:
            assert items[item].key not in text
            assert answer_of(items[item], "\0") not in text
        acted_on = "".join(map(chr, t.steps[0].prompt_ids))
        for item in t.recalled:  # it did stand there when the solution was found
            assert answer_of(items[item], items[item].text) in acted_on


# --- what the audit finds ---


def plant(folder: Path, *records: tuple[str, Record]) -> list[str]:
    """Append records, then audit; the index is brought up to date, so that only they are off."""
    with Run(folder, quiet=True) as run:
        run.ledger.append_many(records)
        _ = run.memory.index
    return verify(folder)[1]


def episode(folder: Path, prefix: str) -> Trajectory:
    with open_ledger(folder) as ledger:
        return next(t for _, t in ledger.all(Trajectory, prefix))


def item_from(t: Trajectory) -> MemoryItem:
    return MemoryItem(
        kind=Kind.EXEMPLAR,
        text=f"planted {t.slot}",
        key=t.prompt,
        sources=(t.slot,),
        tasks=(t.task,),
        family=t.family,
        born=1,
    )


def test_a_clean_run_is_clean(copied: Path) -> None:
    assert plant(copied) == []


@pytest.mark.parametrize("split", ["gate", "retention", "test"])
def test_a_measured_task_used_for_learning(copied: Path, split: str) -> None:
    t = episode(copied, f"{split}/")
    planted = t.model_copy(update={"slot": f"1/acquire/{t.task}/7", "phase": "acquire"})
    (problem,) = plant(copied, (planted.slot, planted))
    assert planted.slot in problem and f"a {split} task was used for learning" in problem


def test_a_measured_task_passed_off_as_train(copied: Path) -> None:
    t = episode(copied, "test/")
    planted = t.model_copy(
        update={"slot": f"1/acquire/{t.task}/7", "phase": "acquire", "split": "train"}
    )
    (problem,) = plant(copied, (planted.slot, planted))
    assert planted.slot in problem and "belongs to test, not train" in problem


def test_a_train_task_used_for_measuring(copied: Path) -> None:
    t = episode(copied, "1/acquire/")
    planted = t.model_copy(update={"slot": f"gate/none+base/{t.task}", "phase": "gate"})
    (problem,) = plant(copied, (planted.slot, planted))
    assert planted.slot in problem and "a train task was used for measuring" in problem


@pytest.mark.parametrize("split", ["gate", "retention", "test"])
def test_memory_from_a_measured_task(copied: Path, split: str) -> None:
    planted = item_from(episode(copied, f"{split}/"))
    (problem,) = plant(copied, (planted.id, planted))
    assert planted.id in problem and f"which is a {split} episode" in problem


def test_memory_that_hides_its_task(copied: Path) -> None:
    t = episode(copied, "1/acquire/")
    planted = item_from(t).model_copy(update={"tasks": ()})
    (problem,) = plant(copied, (planted.id, planted))
    assert planted.id in problem and f"does not name the task {t.task}" in problem


def test_memory_from_nowhere(copied: Path) -> None:
    planted = item_from(episode(copied, "1/acquire/")).model_copy(
        update={"sources": ("1/acquire/x/0",)}
    )
    (problem,) = plant(copied, (planted.id, planted))
    assert planted.id in problem and "not in the ledger" in problem


def test_memory_from_a_broken_episode(copied: Path) -> None:
    t = episode(copied, "1/acquire/").model_copy(
        update={
            "slot": "1/acquire/broken/0",
            "failure": Failure(source="sandbox", message="it fell over"),
            "success": False,
        }
    )
    planted = item_from(t)
    (problem,) = plant(copied, (t.slot, t), (planted.id, planted))
    assert planted.id in problem and "which is a broken episode" in problem


def test_an_episode_that_saw_its_own_solution(copied: Path) -> None:
    t = episode(copied, "1/acquire/")
    own = item_from(t)
    planted = t.model_copy(update={"slot": f"2/acquire/{t.task}/7", "recalled": (own.id,)})
    (problem,) = plant(copied, (own.id, own), (planted.slot, planted))
    assert planted.slot in problem and "memory made from its own task" in problem


def test_an_episode_that_saw_unknown_memory(copied: Path) -> None:
    t = episode(copied, "1/acquire/")
    planted = t.model_copy(update={"slot": f"2/acquire/{t.task}/7", "recalled": ("beef",)})
    (problem,) = plant(copied, (planted.slot, planted))
    assert planted.slot in problem and "unknown memory item beef" in problem


def test_an_episode_under_another_slot(copied: Path) -> None:
    t = episode(copied, "1/acquire/")
    (problem,) = plant(copied, ("1/acquire/elsewhere/0", t))
    assert "1/acquire/elsewhere/0" in problem and t.slot in problem


def test_an_episode_of_two_policies(copied: Path) -> None:
    t = episode(copied, "1/acquire/")
    planted = t.model_copy(update={"slot": f"1/acquire/{t.task}/7", "policy": "aaa"})
    problems = plant(copied, (planted.slot, planted))
    assert problems and all("a step by base in an episode of aaa" in p for p in problems)


def test_a_snapshot_of_unknown_items_or_parents(copied: Path) -> None:
    lost = MemorySnapshot(
        generation=9, changes=(MemoryChange(item="x", status=Status.ACTIVE, generation=9),)
    )
    orphan = MemorySnapshot(generation=9, parent="nowhere")
    problems = plant(copied, (lost.id, lost), (orphan.id, orphan))
    assert len(problems) == 2
    assert lost.id in problems[0] and "unknown item x" in problems[0]
    assert orphan.id in problems[1] and "nowhere" in problems[1]


def test_an_adapter_trained_on_a_test_task(copied: Path) -> None:
    t = episode(copied, "test/")
    adapter = copied / "generations" / "002" / "adapter"
    version = (adapter / COMPLETE).read_text()
    note = Note(data={"folder": "generations/002/adapter", "sources": [t.slot], "tokens": 0})
    # The ledger's own note cannot be changed, so the lie needs an adapter of its own.
    other = copied / "generations" / "009" / "adapter"
    shutil.copytree(adapter, other)
    (other / "extra").write_text("changed")
    problems = plant(copied, ("adapter/aother", note))
    assert any("holds another adapter than aother" in p for p in problems)
    assert any("names other sources than the ledger" in p for p in problems)
    assert any(f"{t.slot}, which is a test episode" in p for p in problems)
    assert not any(version in p for p in problems)  # the real one is as it was


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("learnt.json", "changed or cut"),
        (COMPLETE, "incomplete"),
        (MANIFEST, "manifest cannot be read"),
    ],
)
def test_a_damaged_adapter(copied: Path, name: str, says: str) -> None:
    file = copied / "generations" / "001" / "adapter" / name
    if name == "learnt.json":
        file.write_text(file.read_text() + " ")
    else:
        file.unlink()
    (problem,) = verify(copied)[1]
    assert str(file.parent) in problem and says in problem


def test_other_sources_in_the_manifest(copied: Path) -> None:
    file = copied / "generations" / "001" / "adapter" / MANIFEST
    file.write_text(file.read_text().replace("1/acquire", "7/acquire"))
    (problem,) = verify(copied)[1]
    assert str(file.parent) in problem and "other sources" in problem


def test_a_missing_or_changed_generation_file(copied: Path) -> None:
    missing, changed = (copied / "generations" / n / "generation.json" for n in ("001", "002"))
    missing.unlink()
    changed.write_text(changed.read_text().replace("promoted", "kept"))
    problems = verify(copied)[1]
    assert len(problems) == 2
    assert str(missing) in problems[0]
    assert str(changed) in problems[1] and "differs from the ledger" in problems[1]


def test_a_generation_of_unknown_parts(copied: Path) -> None:
    with open_ledger(copied) as ledger:
        (_, last) = ledger.last(Generation) or (None, None)
    assert last is not None
    planted = last.model_copy(update={"n": 4, "weights": "a0", "memory": "m0"})
    problems = plant(copied, ("000004", planted))
    for says in (
        "generation 4 stands where 3 is due",
        "generation 4 has the unknown weights a0",
        "generation 4 has the unknown memory m0",
    ):
        assert says in problems


def test_an_index_out_of_step(copied: Path) -> None:
    with Run(copied, quiet=True) as run:
        planted = item_from(episode(copied, "1/acquire/"))
        run.ledger.append(planted.id, planted)  # and not to the index
    problems = verify(copied)[1]
    assert problems and any(planted.id in p or "index" in p for p in problems)
    with Run(copied, quiet=True) as run:
        _ = run.memory.index  # opening it brings it up to date
    assert verify(copied)[1] == []


@pytest.mark.parametrize(
    ("content", "says"), [(b"generations: many\n", "generations"), (b"seed: \xff\n", "utf-8")]
)
def test_a_damaged_configuration(copied: Path, content: bytes, says: str) -> None:
    (copied / "config.yaml").write_bytes(content)
    problems = verify(copied)[1]
    assert len(problems) == 1 and problems[0].startswith("config.yaml: ")
    assert says in problems[0]
