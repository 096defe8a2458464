"""What makes each method of feedback and refinement that method: without it, it is another."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from agent.config import ConfigError, load_config
from agent.evolution import refine
from agent.evolution.correct import base, critiques, execution, uncritical
from agent.evolution.cycle import evolve
from agent.evolution.feedback import agreement, codet
from agent.evolution.votes import answer_of
from agent.loop import seed_of
from agent.policies.scripted import LEARNT
from agent.run import Run
from environments.base import Action, Task
from memory.records import Kind, MemoryItem, Note, Trajectory
from memory.transfer import export
from tests.agent.methods import Evolved, Row, Run_, evolved, needs_its_mechanism, read, runs
from tests.agent.test_mechanisms import every
from tests.real import data_folder

HERE = "tests.agent.pupils"
TOY = (
    f"policy.model={HERE}:pupil",
    "acquire.first_tasks=3",
    "acquire.samples=1",
    "agent.turns=1",
    "generations=1",
)
TRAINS = ("update_weights.min_examples=1",)
LEARNS = (*TOY, *TRAINS)
DOORS = (
    "suite={name: tests.agent.doors:Doors, tasks: {train: 12, gate: 1, retention: 1, test: 1}}",
    f"policy.model={HERE}:planner",
    "agent.turns=3",
    "acquire.first_tasks=4",
    "generations=1",
)
HALF = (*LEARNS, f"policy.model={HERE}:half", "acquire.samples=8", "acquire.first_tasks=6")
KNOWN = "suite={name: tests.agent.pupils:Known, options: {per_family: 90}}"
SCORED = (
    *LEARNS,
    "suite={name: tests.agent.pupils:Scored, options: {per_family: 90}}",
    f"policy.model={HERE}:middling",
    "acquire.first_tasks=6",
)
FUNCTIONS = (
    "suite={name: tests.agent.pupils:Functions, options: {}}",
    f"policy.model={HERE}:coder",
    "acquire.samples=9",
    "acquire.first_tasks=3",
    "generations=1",
    *TRAINS,
)


def tries(run: Evolved) -> list[Trajectory]:
    """The corrected ones."""
    return [t for t in run.episodes("1/acquire/") if "/try-" in t.slot]


def asked(t: Trajectory) -> str:
    """What the policy read before its first turn."""
    return "".join(map(chr, t.steps[0].prompt_ids))


def solved(run: Evolved) -> bool:
    return every(tries(run), lambda t: t.success)


def sources(run: Evolved) -> list[Trajectory]:
    """What the last weights were trained on."""
    notes = [note for _, note in run.ledger.all(Note, "adapter/")]
    slots = notes[-1].data["sources"] if notes else []
    assert isinstance(slots, list)
    found = [run.ledger.get(Trajectory, str(slot)) for slot in slots]
    return [t for t in found if t is not None]


def families(found: list[Trajectory]) -> set[str]:
    return {t.family for t in found}


def most_of_a_task(run: Evolved) -> int:
    return max(Counter(t.task for t in sources(run)).values())


def principles(run: Evolved) -> dict[str, set[str]]:
    """By which principles each task's tries were revised."""
    found: dict[str, set[str]] = {}
    for t in tries(run):
        told = re.findall(r"Revise it so that: ([^\n<]+)", asked(t))
        found.setdefault(t.task, set()).update(told)
    return found


REDRAFT = ("refine.correct=redraft",)

ROWS = [
    Row("self-refine", "its own feedback stands in the next try", TOY, REDRAFT, solved),
    Row(
        "self-refine", "it stops when it has nothing to say", (*TOY, "feedback.by=environment"),
        (critiques, "STOP", "∅"),
        lambda run: families(tries(run)) == {"double", "next"},
    ),
    Row(
        "self-refine", "earlier rounds stay in sight",
        (*TOY, f"policy.model={HERE}:stubborn"), ("refine.carried=1",),
        lambda run: max(len(t.recalled) for t in tries(run)) == 6,
    ),
    Row("rci", "the policy finds the problems itself", TOY, REDRAFT, solved),
    Row(
        "critic", "the critique goes by what the tool returns", TOY,
        (critiques, "evidence", lambda run, t: ""), solved,
    ),
    Row(
        "self-debug", "it sees the trace of its program", TOY,
        (execution, "trace", lambda run, t: ""), solved,
    ),
    Row(
        "isr-llm", "the validator names the step that fails", DOORS,
        (execution, "invalid", lambda t: "It is wrong."), solved,
    ),
    Row(
        "iterative-refinement", "the last draft is in sight", TOY,
        (uncritical, "draft", lambda situation, t: base.note(situation, t, "A draft.")),
        lambda run: every(tries(run), lambda t: "print(undefined)" in asked(t)),
    ),
    Row(
        "clinical-verification", "one pass after the other", TOY, ("refine.rounds=1",),
        lambda run: any(t.success for t in tries(run)),
    ),
    Row(
        "constitutional-ai", "what breaks a principle is revised by it", LEARNS, REDRAFT,
        lambda run: families([t for t in sources(run) if "/try-" in t.slot]) == {"double", "next"},
    ),
    Row(
        "constitutional-ai", "the principles say what is learnt", LEARNS,
        ("feedback.by=environment",),
        lambda run: any(not t.success for t in sources(run)),  # squares, which it lets pass
    ),
    Row(
        "constitutional-ai", "a principle is drawn in each round",
        (*LEARNS, f"policy.model={HERE}:stubborn"),
        (critiques, "seed_of", lambda seed, task, round_: seed_of(seed, task)),
        lambda run: every(list(principles(run).values()), lambda drawn: len(drawn) > 1),
    ),
    Row(
        "salmon", "principles are what is rewarded", HALF, ("feedback.by=environment",),
        # Squares keep them whatever comes of them, so that no try is better than another.
        lambda run: families(sources(run)) == {"double", "next"},
    ),
    Row(
        "star", "where nothing reached the answer, it is given as a hint", (*LEARNS, KNOWN),
        ("refine.correct=none",),
        lambda run: every(sources(run), lambda t: "/try-rationalise" in t.slot and t.success),
    ),
    Row(
        "lmsi", "nobody tells it what is right",
        (*LEARNS, "policy.model=tests.agent.doors:agreed", "acquire.samples=4"),
        ("feedback.by=environment",),
        lambda run: families(sources(run)) == {"double", "next"},  # agreed on, and wrong
    ),
    Row(
        "lmsi", "what most tries say is learnt, and nothing else",
        (*LEARNS, "policy.model=tests.agent.doors:wavering", "acquire.samples=8"),
        (agreement, "answer_of", lambda t: "any"),
        lambda run: every(sources(run), lambda t: answer_of(t) == "sure"),
    ),
    Row(
        "rest", "the threshold rises", (*SCORED, "generations=2", "refine.thresholds=[0.7, 0.9]"),
        ("refine.thresholds=[0.7]",),
        lambda run: families(sources(run)) == {"double"}
        and "next" in {t.family for t in first_trained_on(run)},
    ),
    Row(
        "rest-em", "a cut-off for each task", (*HALF, "refine.per_task=2"),
        ("refine.per_task=99",), lambda run: most_of_a_task(run) == 2,
    ),
    Row(
        "rft", "all distinct solutions of many samples", HALF, ("refine.per_task=1",),
        lambda run: most_of_a_task(run) > 2,
    ),
    Row(
        "rft", "what says the same is learnt once",
        (*HALF, "policy.model=tests.agent.test_feedback:reckoner"),
        (refine, "wording", lambda trajectory: trajectory.slot),
        lambda run: most_of_a_task(run) == 1,
    ),
    Row(
        "codet", "programs and tests have to agree", FUNCTIONS,
        (codet, "consensus", lambda passes: dict.fromkeys(passes, 1)),
        lambda run: every(sources(run), lambda t: t.success),
    ),
    Row(
        "self-verification", "the task's numbers have to be told from the answer",
        (*LEARNS, "policy.model=tests.agent.test_feedback:reckoner", "acquire.first_tasks=6"),
        (agreement, "backward", lambda prompt, answer, most: [("Is it?", "yes")]),
        lambda run: every(sources(run), lambda t: t.success),
    ),
    Row(
        "self-verification", "the answer that most predictions confirm wins",
        (*LEARNS, f"policy.model={HERE}:unsure", "acquire.samples=8"),
        ("feedback.samples=1",),  # then a wrong one is confirmed as often
        lambda run: every(sources(run), lambda t: t.success),
    ),
    Row(
        "self-rewarding", "its own judge ranks what it prefers", HALF, ("feedback.by=environment",),
        # Squares it thinks right whatever comes of them, so that there is nothing to prefer.
        lambda run: families(sources(run)) == {"double", "next"},
    ),
    Row(
        "lsx", "what is explained has to help", (*LEARNS, f"policy.model={HERE}:teacher"),
        ("feedback.by=environment",),
        lambda run: families(sources(run)) == {"double"},
    ),
]  # fmt: skip


def test_no_hint_on_a_task_that_the_suite_does_not_vouch_for() -> None:
    """Whoever wrote such a task wrote its answer too."""
    tasks = [Task(suite="s", family="f", prompt=name) for name in ("own", "strange")]
    run: Any = SimpleNamespace(
        suite=SimpleNamespace(gold=lambda task: [Action(text=task.prompt)]),
        tasks=lambda split: tasks,
        vouched=lambda task: task == tasks[0].id,
    )
    situation: Any = SimpleNamespace(run=run)
    tries: Any = [SimpleNamespace(task=t.id, slot=t.id, family="f") for t in tasks]
    with patch.object(uncritical, "note", lambda situation, t, text: text):
        notes = uncritical.rationalise(situation, tries, 1)
    assert notes == {tasks[0].id: ["Hint, this is right: own"]}


def first_trained_on(run: Evolved) -> list[Trajectory]:
    notes = [note for _, note in run.ledger.all(Note, "adapter/")]
    slots = notes[0].data["sources"]
    assert isinstance(slots, list)
    return [t for slot in slots if (t := run.ledger.get(Trajectory, str(slot)))]


run = pytest.fixture(scope="module")(runs)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.recipe}: {row.mechanism}")
def test_without_its_mechanism_it_is_another_method(
    row: Row, run: Run_, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_its_mechanism(row, run, monkeypatch)


# --- hints ---


def test_the_hint_is_in_the_try_and_not_in_what_is_trained_on(run: Run_) -> None:
    star = run("star", (*LEARNS, KNOWN), "whole")
    assert every(tries(star), lambda t: "Hint, this is right" in read(t))
    (learnt,) = star.folder.glob(f"generations/001/adapter/{LEARNT}")
    assert json.loads(learnt.read_text()) and "Hint" not in learnt.read_text()
    others = [t for _, t in star.ledger.all(Trajectory) if "/try-" not in t.slot]
    assert not [t.slot for t in others if "Hint" in read(t)]


def test_what_was_done_with_the_answer_in_view_leaves_in_no_chat(run: Run_, tmp_path: Path) -> None:
    star = run("star", (*LEARNS, KNOWN), "whole")
    hinted = {t.slot for t in tries(star)}
    export(star.ledger, tmp_path / "out", star.generations, failures=True)
    rows = [json.loads(row) for row in (tmp_path / "out" / "chat.jsonl").read_text().splitlines()]
    assert hinted and rows and not hinted & {row["episode"] for row in rows}
    # Other corrections say what was wrong, not what is right.
    rci = run("rci", TOY, "whole")
    export(rci.ledger, tmp_path / "rci", rci.generations)
    told = (tmp_path / "rci" / "chat.jsonl").read_text()
    assert all(t.slot in told for t in tries(rci))


def test_a_hint_needs_known_answers_and_is_never_trained_on(toy_yaml: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"update_weights.prompt=bare"):
        load_config([toy_yaml, "star"], ["update_weights.prompt=acting"])
    config = load_config([toy_yaml, "star"])
    with (
        Run(tmp_path / "run", config, quiet=True) as opened,
        pytest.raises(ConfigError, match="has no gold solutions to hint at"),
    ):
        evolve(opened)


def test_notes_and_drafts_are_never_kept(run: Run_) -> None:
    found = run("rci", TOY, "whole")
    items = [item for _, item in found.ledger.all(MemoryItem)]
    assert {item.kind for item in items} == {Kind.WORKING, Kind.DRAFT}
    assert {g.memory for g in found.generations} == {""}
    for t in tries(found):
        own = {item.id for item in items if item.tasks == (t.task,)}
        assert t.recalled and set(t.recalled) <= own


def copier(prompt: str, chance: random.Random, learnt: object) -> str:
    """Writes what the hint says, where there is one."""
    shown = re.findall(r"````\n```python\n(.*?)\n```\n````", prompt, re.DOTALL)
    return (shown[-1] if shown else "def f(): pass") + "\n```\n"


def test_the_hint_of_a_program_can_be_read(tmp_path: Path) -> None:
    """Of a real suite, MBPP: what is copied from the hint passes the hidden tests."""
    settings = [
        f"suite.options={{data: {data_folder() / 'mbpp'}}}",
        "suite.tasks={train: 2, gate: 1, retention: 1, test: 1}",
        "policy={engine: scripted, context: 100000}",
        f"policy.model={__name__}:copier",
        "memory.embedder=hash",
        "acquire.first_tasks=3",
        "generations=1",
        "update_weights.min_examples=1",
    ]
    config = load_config(["mbpp", "star"], settings)
    with Run(tmp_path / "run", config, quiet=True) as opened:
        evolve(opened)
        played = [t for _, t in opened.ledger.all(Trajectory, "1/acquire/")]
    again = [t for t in played if "/try-" in t.slot]
    assert again and all(t.success for t in again)
    assert not any(t.success for t in played if "/try-" not in t.slot)


# --- filters ---


def test_sub_goals_the_vote_and_full_reward_filter(toy_yaml: Path, tmp_path: Path) -> None:
    def trained(name: str, *settings: str) -> set[str]:
        found = evolved(tmp_path / name, toy_yaml, "rest", (*SCORED, *settings))
        return families(sources(found))

    assert trained("all", "refine.thresholds=[0.7]") == {"double", "next"}
    assert trained("full", "refine.thresholds=[0.7]", "refine.filters=[full]") == {"double"}
    goals = ("refine.filters=[subgoals]", "refine.subgoal=half")
    assert trained("goals", "refine.thresholds=[1.0]", *goals) == {"next"}
    assert trained(
        "vote", "refine.filters=[vote]", "refine.thresholds=[0.7]", "acquire.samples=2"
    ) == {"double", "next"}
    assert trained("alone", "refine.filters=[vote]", "refine.thresholds=[0.7]") == set()
    with pytest.raises(ConfigError, match=r"refine.subgoal"):
        load_config(None, ["refine.filters=[subgoals]"])
