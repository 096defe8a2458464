"""What makes each way of solving that way: without its mechanism, it is another."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from agent.evolution.correct import blocks, execution
from agent.evolution.solutions.methods import contrast, debate, explain
from agent.evolution.update import lessons
from agent.evolution.votes import answer_of
from agent.policies.scripted import LEARNT
from agent.run_folder import BASE
from agent.training.settings import DpoSettings
from agent.verify import verify
from memory.records import COMPOSED, Trajectory
from tests.agent.methods import Evolved, Row, Run_, less, runs
from tests.agent.test_mechanisms import every
from tests.agent.test_refinement import KNOWN, LEARNS, SCORED, TOY, families, sources, tries

HERE = "tests.agent.solvers"


def by(script: str) -> str:
    return f"policy.model={HERE}:{script}"


EXPLORES = (*LEARNS, by("explorer"), "acquire.samples=6", "acquire.first_tasks=6")
PROMPTED = (*LEARNS, by("by_prompt"), "acquire.samples=1")


def learnt(run: Evolved, n: int = 1) -> list[tuple[str, str]]:
    """What the weights of a generation were trained to say, (prompt, answer)."""
    files = list(run.folder.glob(f"generations/{n:03d}/adapter/{LEARNT}"))
    return [tuple(pair) for file in files for pair in json.loads(file.read_text())]


def answers(run: Evolved) -> list[str]:
    return [answer for _, answer in learnt(run)]


def prompts(run: Evolved) -> list[str]:
    return [prompt for prompt, _ in learnt(run)]


def better(run: Evolved, n: int = 1) -> list[Trajectory]:
    return [t for t in run.episodes(f"{n}/acquire/") if "/try-" not in t.slot]


def agreed(run: Evolved) -> bool:
    """All of a task's last answers are the same."""
    said: dict[str, set[str | None]] = {}
    for t in tries(run):
        if t.slot.endswith("debate-2"):
            said.setdefault(t.task, set()).add(answer_of(t))
    return every(list(said.values()), lambda own: len(own) == 1)


def swapped(
    solved: Sequence[Trajectory],
    failed: Sequence[Trajectory],
    sequences: lessons.Sequences,
    settings: DpoSettings,
    pairs=lessons.pairs,  # type: ignore[no-untyped-def]
) -> lessons.Lessons:
    found: lessons.Lessons = pairs(failed, solved, sequences, settings)
    return found


ROWS = [
    Row(
        "a3t", "the reason stands before the action", EXPLORES,
        (explain, "with_reason", lambda reason, turn: turn),
        lambda run: every(answers(run), lambda a: a.startswith("# Because it takes sums.\nprint")),
    ),
    Row(
        "a3t", "what was not reasoned is not learnt", EXPLORES,
        (explain, "label", lambda run, verdicts: None),
        lambda run: every(sources(run), lambda t: t.phase == COMPOSED),
    ),
    Row(
        "eto", "failures stand against what solved their task", EXPLORES,
        ("update_weights.objective=sft",),
        lambda run: {t.success for t in sources(run)} == {True, False},
    ),
    Row(
        "eto", "the failure is the worse one", EXPLORES, (lessons, "pairs", swapped),
        lambda run: every(answers(run), lambda a: "undefined" not in a),
    ),
    Row(
        "spin", "the reference is better than even a right own try", (*EXPLORES, KNOWN),
        ("acquire.solve.how=sample",),
        lambda run: every(answers(run), lambda a: a[6:-5].removesuffix(")").isdecimal())
        and any(t.success and t.phase != COMPOSED for t in sources(run)),
    ),
    Row(
        "rlcd", "the prompt is the label, whatever came out", PROMPTED,
        (contrast, "label", lambda run, verdicts: None),
        lambda run: every(answers(run), lambda a: "good" in a),
    ),
    Row(
        "rlcd", "two prompts", PROMPTED, ("acquire.solve.worse=You are an expert.",),
        lambda run: every(answers(run), lambda a: "good" in a),
    ),
    Row(
        "grath", "the false one stays the base's", (*PROMPTED, "generations=2"),
        ("acquire.solve.worse_by=incumbent",),
        lambda run: {t.policy for t in tries(run) if "2/" in t.slot[:2]} <= {BASE}
        and every(better(run, 2), lambda t: t.policy != BASE)
        and every([t for t in run.episodes("2/acquire/") if "/try-" in t.slot],
                  lambda t: t.policy == BASE),
    ),
    Row(
        "ditto", "another role's profile makes the worse one", (*LEARNS, by("actor")),
        (contrast, "role_of", lambda stage, task: ("Socrates", "Socrates")),
        lambda run: every(learnt(run), lambda pair: _role(pair[0]) in pair[1]),
    ),
    Row(
        "debate", "the others' answers are in sight", (*LEARNS, by("debater"), "acquire.samples=3"),
        (debate, "draft", lambda stage, task, text, *of: debate.note(stage, task, "One.", *of)),
        agreed,
    ),
    Row(
        "debate", "the majority is right", (*LEARNS, by("debater"), "acquire.samples=3"),
        (debate, "label", lambda run, verdicts: None),
        lambda run: every(sources(run), lambda t: t.slot.endswith("debate-2") and not t.success),
    ),
    Row(
        "self-evolve", "knowledge comes first", (*TOY, by("student")),
        ("acquire.solve.how=sample",),
        lambda run: every([t for t in better(run) if t.family == "double"], lambda t: t.success),
    ),
    Row(
        "self-evolve", "the interpreter's word is in the next try", (*TOY, by("student")),
        (execution, "evidence", lambda run, t: "Exception"),
        lambda run: families([t for t in tries(run) if t.success]) == {"next"},
    ),
    Row(
        "ldb", "the values after each block are seen", (*TOY, by("debugger")),
        (blocks, "values_of", lambda execution: "as before"),
        lambda run: families([t for t in tries(run) if t.success]) == {"double", "next", "square"},
    ),
    Row(
        "self-align", "principles are in view while acting", (*LEARNS, by("aligned")),
        ("acquire.solve.tell=[]",),
        lambda run: every(sources(run), lambda t: t.success),
    ),
    Row(
        "self-align", "thoughts come first", (*LEARNS, by("aligned")),
        ("acquire.solve.question=''",),
        lambda run: every(sources(run), lambda t: t.success),
    ),
    Row(
        "auto-act", "the plan is learnt with the actions", EXPLORES, ("acquire.solve.keep=false",),
        lambda run: every(answers(run), lambda a: a.startswith("# Plan it well.\nprint")),
    ),
    Row(
        "auto-act", "full reward alone",
        (*SCORED, "refine.thresholds=[0.7]", "acquire.samples=1"), ("refine.filters=[]",),
        lambda run: families(sources(run)) == {"double"},
    ),
]  # fmt: skip


def _role(prompt: str) -> str:
    """The beginning of the profile of the role that a prompt names."""
    found = {"Ada Lovelace": "a mathematician", "Sherlock Holmes": "a detective",
             "Socrates": "a philosopher"}  # fmt: skip
    return next(said for name, said in found.items() if f"You are {name}." in prompt)


run = pytest.fixture(scope="module")(runs)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.recipe}: {row.mechanism}")
def test_without_its_mechanism_it_is_another_method(
    row: Row, run: Run_, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(row.recipe, row.settings, "whole")
    assert row.outcome(whole)
    assert verify(whole.folder)[1] == []
    assert not row.outcome(less(row, run, monkeypatch))
