"""What weights begin with and what they are trained on: all experience, or what is new."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console

from agent.adapters import detail
from agent.config import load_config
from agent.evolution.cycle import evolve
from agent.evolution.refine import RefineSettings, refine
from agent.evolution.update.rehearsal import central, rehearsed
from agent.evolution.update.weights import WeightsUpdateSettings
from agent.run import Run
from agent.run_folder import BASE, open_ledger
from agent.training.adapter import read_manifest
from agent.verify import verify
from environments.splits import split_of
from memory.credit import generation_of
from memory.ledger import Ledger
from memory.records import REWRITE, Generation, Kind, MemoryItem, Note, Trajectory
from memory.transfer import export
from tests import toy
from tests.agent.test_canaries import LEAKY, PLANTED
from tests.agent.test_lessons import tried
from tests.toy import ToySuite

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
        ({"merge": {"how": "soup"}, "adapters": "per-group"}, "merge is for adapters: one"),
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

SUITE = ToySuite(lambda: None, per_family=90)  # type: ignore[arg-type, return-value]
SEEN = "Square the number 20."  # a task of the suite
MEASURED = next(task.prompt for task in SUITE.tasks() if split_of(task.id) == "gate")
NEAR = f"{MEASURED} Please."


def script(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """As the toy's; makes up tasks, and says a solution in view otherwise, right or wrong."""
    question = prompt.rsplit("<user>", 1)[1].split("</user>")[0]
    if "Write one more such task." in question:
        number = chance.randrange(1000)
        return (f"Double the number {1000 + number}.", SEEN, NEAR)[number % 3]
    said = toy.script(prompt, chance, learnt)
    if "This is right." in prompt:
        code = re.findall(r"print\(\d+ [^)]*\)", prompt)[-1]
        return f"x = 0\n{code}\n```\n" if sum(map(ord, code)) % 2 else "print('no')\n```\n"
    return said


def forgetful(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """As the toy's, but greedily it gets odd numbers wrong, whatever it has learnt."""
    greedy = chance.getstate() == random.Random(0).getstate()
    question = prompt.rsplit("<user>", 1)[1].split("</user>")[0]
    if "This is right." in prompt:
        return re.findall(r"print\(\d+ [^)]*\)", prompt)[-1] + "  # again\n```\n"
    if greedy and int((re.findall(r"\d+", question) or "0")[-1]) % 2:
        return "print('no')\n```\n"
    return toy.script(prompt, chance, learnt)


APART = "acquire.generate.apart={rouge: 0.8, cosine: 2.0}"
CHOICES: dict[str, tuple[str, ...]] = {
    "synthesised": ("replay={synthesised: 12, drafts: 1}", APART),
    "near copies too": (
        "replay={synthesised: 12, drafts: 1}", "acquire.generate.apart={rouge: 2, cosine: 2}",
    ),
    "rewrite": ("replay={rewrite: true}",),
    "rounds": (
        "replay={rounds: 1, tasks: 4}", "refine.per_task=1", "acquire.first_tasks=6",
        "policy.model=tests.agent.test_rehearsal:forgetful",
    ),
}  # fmt: skip


def chosen_so(name: str) -> list[str]:
    """Settings of a run with this choice."""
    own = [f"update_weights.{s}" if s.startswith("replay") else s for s in CHOICES[name]]
    return [
        "policy.model=tests.agent.test_rehearsal:script",
        "update_weights.min_examples=1",
        "update_memory.enabled=false",
        *own,
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, evolve_toy: Evolve) -> Callable[[str], Path]:
    """A whole run with a choice."""
    known: dict[str, Path] = {}

    def go(name: str) -> Path:
        if name not in known:
            folder = tmp_path_factory.mktemp("replay") / "run"
            evolve_toy(folder, *chosen_so(name), "test.run=false")
            assert verify(folder)[1] == []
            known[name] = folder
        return known[name]

    return go


def manifest(run: Path, n: int, folder: str = "adapter") -> dict[str, Any]:
    return read_manifest(run / f"generations/{n:03d}/{folder}")


def test_made_up_tasks_are_rehearsed(made: Callable[[str], Path]) -> None:
    run = made("synthesised")
    assert not [s for s in manifest(run, 1)["sources"] if s.startswith("said/")]  # no past yet
    texts = rehearsed_in(run)
    assert texts and len(texts) < 12
    learnt = json.loads((run / "generations/002/adapter/learnt.json").read_text())
    assert all(any(text in prompt for prompt, _ in learnt) for text in texts)
    told = detail(run, manifest(run, 2)["version"])
    kinds = {kind: len(slots) for kind, slots in told["kinds"].items()}
    assert kinds["made-up prompts"] == len(texts) and kinds["episodes"] and not kinds["rewrites"]
    assert sum(kinds.values()) == len(told["sources"])


def rehearsed_in(run: Path) -> list[str]:
    """The made-up tasks that generation 2 was trained on; SEEN and NEAR were written as well."""
    sources = [s for s in manifest(run, 2)["sources"] if s.startswith("said/")]
    with open_ledger(run) as ledger:
        asked = {k: str(note.data["text"]) for k, note in ledger.all(Note, "said/2/synthesised/")}
    assert {SEEN, NEAR} <= set(asked.values())
    return [asked[key.removesuffix("/answer")] for key in sources]


def test_no_made_up_task_is_like_one_that_is_measured(made: Callable[[str], Path]) -> None:
    assert not {SEEN, NEAR} & set(rehearsed_in(made("synthesised")))
    loose = rehearsed_in(made("near copies too"))  # where thresholds let all pass but the same
    assert NEAR in loose and SEEN not in loose


def test_where_no_made_up_task_is_left_it_is_said(tmp_path: Path, toy_yaml: Path) -> None:
    said = Console(record=True, width=300, file=io.StringIO())
    strict = "acquire.generate.apart={rouge: 0.1, cosine: 2.0}"
    config = load_config(toy_yaml, [*chosen_so("synthesised"), strict])
    with Run(tmp_path / "run", config, console=said) as run:
        evolve(run)
    assert "none of 12 made-up tasks is rehearsed: too much like a task" in said.export_text()


def test_what_is_no_answer_to_a_made_up_task_is_no_source(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    """Any other note is none, nor is one of a void generation, nor any for a memory item."""
    folder = shutil.copytree(made("synthesised"), tmp_path / "run")
    key = next(s for s in manifest(folder, 2)["sources"] if s.startswith("said/"))
    with Ledger(folder / "ledger.sqlite") as ledger:
        note = ledger.get(Note, f"adapter/{manifest(folder, 2)['version']}")
        assert note is not None
        ledger.append("said/2/synthesised/99/answer", Note(data={"text": "", "tokens": 0}))
        taught = "said/2/generate/ada-instruct-taught/0"  # what a writer of tasks learnt
        held_out = next(task.id for task in SUITE.tasks() if task.prompt == MEASURED)
        ledger.append(taught, Note(data={"text": MEASURED, "tokens": 0, "task": held_out}))
        prompt = key.removesuffix("/answer")
        for source in (prompt, "said/2/synthesised/99/answer", "said/2/x", taught):
            told = {"sources": [source], "folder": note.data["folder"]}
            ledger.append(f"adapter/a{source[-9:]}", Note(data=told))
        item = MemoryItem(
            kind=Kind.FACT, text="so", key="so", sources=(key,), tasks=(), family="", born=2
        )
        ledger.append(item.id, item)
    problems = verify(folder)[1]
    assert any("comes from said/2/x, which is not in the ledger" in p for p in problems)
    assert any(f"comes from {taught}, a gate task" in p for p in problems)
    assert any(f"comes from {prompt}, which is not in the ledger" in p for p in problems)
    assert any("99/answer, where nothing was said" in p for p in problems)
    assert any(p.startswith("memory item") and f"{key}, which is not in" in p for p in problems)
    assert not any("of a batch that is void" in p and key in p for p in problems)
    with Ledger(folder / "ledger.sqlite") as ledger:
        ledger.append("void/2", Note(data={"why": "said so"}))
    assert any(f"{key}, of a batch that is void" in p for p in verify(folder)[1])


def test_own_words_are_trained_on_only_where_they_are_right(made: Callable[[str], Path]) -> None:
    run = made("rewrite")
    with open_ledger(run) as ledger:
        played = [t for n in (1, 2) for _, t in ledger.all(Trajectory, f"{n}/probe/rewrite/")]
        export(ledger, run / "out", [g for _, g in ledger.all(Generation)], failures=True)
    right, wrong = ({t.slot for t in played if t.success == is_} for is_ in (True, False))
    used = {s for n in (1, 2) for s in manifest(run, n)["sources"]}
    assert right and wrong and right <= used and not wrong & used
    assert {slot.split("rewrite/")[1] for slot in wrong} & used  # there the original stays
    text = (run / "generations/001/adapter/learnt.json").read_text()
    assert "x = 0" in text and "This is right" not in text  # the hint is stripped
    assert all(t.phase == REWRITE and split_of(t.task) == "train" for t in played)
    told = detail(run, manifest(run, 1)["version"])
    assert set(told["kinds"]["rewrites"]) == {s for s in right if s in told["sources"]} != set()
    # Who reads the export has no solution in view, and neither has what it holds.
    rows = [json.loads(row) for row in (run / "out" / "chat.jsonl").read_text().splitlines()]
    assert rows and not {row["episode"] for row in rows} & (right | wrong)


def test_what_a_student_gets_wrong_it_practises(made: Callable[[str], Path]) -> None:
    run = made("rounds")
    with open_ledger(run) as ledger:
        played = [t for _, t in ledger.all(Trajectory, "1/probe/student1/")]
        first = {t.task for _, t in ledger.all(Trajectory, "1/acquire/")}
    again = [t for t in played if "/again/" in t.slot]
    student = manifest(run, 1, "adapter-student1")
    assert {t.policy for t in played} == {student["version"]}
    asked = {t.task: t.success for t in played if t not in again}
    wrong = {task for task, solved in asked.items() if not solved}
    assert len(asked) == 4 < len(first) and set(asked) <= first  # so many of what was practised
    fresh = {t.task for t in again} - wrong
    assert wrong and fresh and not fresh & first  # and tasks like them, never tried before
    families = {t.task: t.family for t in played}
    assert {families[task] for task in fresh} <= {families[task] for task in wrong}
    assert all(split_of(t.task) == "train" for t in played)
    # A solution stands in view where one is known, and it is trained on without.
    taught = {s.split("/")[2] for s in student["sources"]}
    assert {t.task for t in again if t.phase == REWRITE} == wrong & taught != set()
    # All that the student learnt from, and on top what it found of what it got wrong.
    whole, solved = set(manifest(run, 1)["sources"]), {t.slot for t in again if t.success}
    assert set(student["sources"]) < whole and whole - set(student["sources"]) <= solved
    (task, *_) = wrong & taught
    assert sum(f"/{task}/" in slot for slot in whole) == 2  # though one is kept of a task


@pytest.mark.parametrize("name", ["synthesised", "rewrite", "rounds"])
def test_where_the_batch_is_void_nothing_else_is_made(
    evolve_toy: Evolve, tmp_path: Path, name: str
) -> None:
    """Rewards that cannot be believed are none of what is played again either."""
    folder, leak = tmp_path / "run", tmp_path / "leak"
    settings = (
        *chosen_so(name), *PLANTED, LEAKY,
        f"suite.options={{per_family: 90, leaks_while: {leak}}}",
    )  # fmt: skip
    evolve_toy(folder, *settings, "generations=1")
    leak.touch()
    evolve_toy(folder, *settings, "generations=2")
    with open_ledger(folder) as ledger:
        assert [key for key, _ in ledger.all(Note, "void/")] == ["void/2"]
        assert ledger.count(Note, "trained/2") and not ledger.count(Note, "said/2/synthesised/")
        for place in ("rewrite", "student1"):
            assert not ledger.count(Trajectory, f"2/probe/{place}/")
    assert verify(folder)[1] == []
