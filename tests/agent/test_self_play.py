"""Proposer and solver are one policy: Absolute Zero, and the suite of its tasks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from agent.config import ConfigError, load_config
from agent.evolution import cycle
from agent.evolution.acquire import absolute_zero
from agent.evolution.acquire.absolute_zero import learnability, proposals
from agent.evolution.cycle import evolve
from agent.evolution.solutions.base import Stage
from agent.run import Run
from agent.run_folder import BASE
from environments.base import Task
from environments.checks import check_suite
from environments.sandbox import make_sandbox
from environments.suites.triplets import KINDS, Pair, Triplets, made, outputs
from memory.records import Note
from tests.agent.methods import Evolved, Row, Run_, needs_its_mechanism, runs
from tests.agent.test_mechanisms import every

SETTINGS = (
    "suite={name: triplets, options: {}, tasks: {train: 6, gate: 2, retention: 1, test: 1}}",
    "policy.model=tests.agent.solvers:proposer",
    "generations=1",
    "acquire.first_tasks=6",
    "acquire.samples=6",
    "acquire.generate.drafts=36",
    "update_weights.min_examples=1",
)


def proposed(run: Evolved) -> list[str]:
    """The kinds of the proposals that were learnt from."""
    notes = [note for _, note in run.ledger.all(Note, "adapter/")]
    slots = notes[-1].data["sources"] if notes else []
    assert isinstance(slots, list)
    return [KINDS[int(str(s).rsplit("/", 1)[1]) % 3] for s in slots if str(s).startswith("said/")]


def dropped(run: Evolved) -> set[str]:
    told = run.generations[1].details["generated"]
    assert isinstance(told, dict) and isinstance(told["dropped"], dict)
    return set(told["dropped"])


UNSOUND = {"does not return the same twice", "imports something", "returns no value"}
ROWS = [
    Row(
        "absolute-zero", "the proposer is trained", SETTINGS,
        (cycle, "proposals", lambda run, n, weights: []),
        lambda run: every(proposed(run), lambda kind: kind in KINDS),
    ),
    Row(
        "absolute-zero", "what all tries solve earns nothing", SETTINGS,
        (absolute_zero, "learnability", lambda solved, tries: 1.0),
        lambda run: set(proposed(run)) == {"deduction"},  # abduction is always solved
    ),
    Row(
        "absolute-zero", "a proposal has to run, and return the same twice", SETTINGS,
        (absolute_zero, "_run", lambda *asked, run=absolute_zero._run: run(*asked[:3], 1)),
        lambda run: dropped(run) >= UNSOUND,
    ),
]  # fmt: skip

run = pytest.fixture(scope="module")(runs)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.mechanism)
def test_without_its_mechanism_it_is_another_method(
    row: Row, run: Run_, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_its_mechanism(row, run, monkeypatch)


def test_nothing_of_a_void_batch_is_proposed_again(
    toy_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config([toy_yaml, "absolute-zero"], SETTINGS)
    with Run(tmp_path / "run", config, quiet=True) as opened:
        evolve(opened)
        assert proposals(opened, 1, BASE)
        assert any(t.slot.startswith("1/") for t in Stage(opened, 2, BASE, ()).earlier())
        opened.ledger.append("void/1", Note(data={"why": "a canary was solved"}))
        assert not proposals(opened, 1, BASE)
        assert not Stage(opened, 2, BASE, ()).earlier()


def test_what_a_proposal_earns() -> None:
    """Eq. 4 of the paper: 1 - p, and nothing where p is 0 or 1."""
    assert [learnability(k, 4) for k in range(5)] == [0.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize(
    ("setting", "needs"),
    [("objective=sft", r"objective=weighted or grpo"), ("adapters=per-group", "adapters=one")],
)
def test_a_proposal_needs_weights_that_learn_it(
    setting: str, needs: str, toy_yaml: Path, tmp_path: Path
) -> None:
    config = load_config([toy_yaml, "absolute-zero"], [*SETTINGS, f"update_weights.{setting}"])
    with (
        Run(tmp_path / "run", config, quiet=True) as opened,
        pytest.raises(ConfigError, match=rf"needs update_weights\.{needs}"),
    ):
        evolve(opened)


# --- the suite ---


def test_the_suite_is_sound() -> None:
    assert not check_suite(Triplets(sandbox=make_sandbox), limit=6)


def played(task: Task, text: str) -> float:
    from environments.calls import read_action

    world = Triplets(sandbox=make_sandbox).environment(task)
    world.start()
    return world.step(read_action(text, world.tools)).reward


def test_each_question_has_its_answers() -> None:
    program = "def f(x):\n    return x % 10"
    ask: Callable[..., Task] = partial(made, program=program)
    deduction = ask("deduction", pairs=[Pair("13", "3")])
    assert "return 3" not in deduction.prompt and played(deduction, "3\n") == 1.0
    assert played(deduction, "13\n") == 0.0
    abduction = ask("abduction", pairs=[Pair("13", "3")])
    assert "13" not in abduction.prompt.rsplit("\n", 1)[1]
    assert played(abduction, "103\n") == 1.0  # any that gives it
    assert played(abduction, "14\n") == 0.0
    assert played(abduction, "__import__('os').getpid()\n") == 0.0
    pairs = [Pair(str(x), str(x % 10)) for x in (1, 2, 13, 25)]
    induction = ask("induction", pairs=pairs)
    assert "f(13)" not in induction.prompt and "%" not in induction.prompt
    assert played(induction, f"```python\n{program}\n```\n") == 1.0
    assert played(induction, "```python\ndef f(x):\n    return x\n```\n") == 0.0  # as far as shown


def test_programs_that_are_no_use_return_nothing() -> None:
    run_ = partial(outputs, make_sandbox)
    assert run_("def f(x):\n    return x + 1", ["1", "(2,)"]) == ["2", "3"]
    assert run_("def f(x):\n    return lambda: 1", ["1"]) == [None]
    assert run_("def f(x):\n    raise ValueError", ["1"]) == [None]
    assert run_("import os\nos._exit(0)", ["1"]) == [None]
    assert run_("def f(x):\n    return x", ["open('/etc/passwd')"]) == [None]


def test_a_suite_takes_what_it_makes() -> None:
    suite = Triplets(sandbox=make_sandbox)
    for task in suite.tasks()[:6]:
        assert suite.spawn(suite.fields(task)) == task
    fields = suite.fields(suite.tasks()[0])
    assert suite.spawn(fields | {"outputs": "[]"}) is None
    assert suite.spawn(fields | {"inputs": "no JSON"}) is None
