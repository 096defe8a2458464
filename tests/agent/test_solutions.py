"""What makes each way of solving that way: without its mechanism, it is another."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from io import StringIO
from math import exp
from pathlib import Path

import pytest
from rich.console import Console

from agent.config import ConfigError, load_config
from agent.evolution import cycle
from agent.evolution.correct import blocks, execution
from agent.evolution.cycle import evolve
from agent.evolution.solutions import compose, likelihood
from agent.evolution.solutions.methods import (
    contrast,
    debate,
    dialogue,
    explain,
    mistakes,
    perspectives,
    rules,
    trials,
)
from agent.evolution.solutions.settings import methods
from agent.evolution.update import lessons
from agent.evolution.votes import answer_of
from agent.policies.scripted import LEARNT
from agent.run import Run
from agent.run_folder import BASE, LEDGER, open_ledger
from agent.training.packing import Example
from agent.training.settings import DpoSettings
from agent.verify import verify
from environments.base import Action, StepResult
from environments.kinds.python import PythonAnswer
from memory.erase import extent
from memory.ledger import Ledger
from memory.records import COMPOSED, MEMBER_OF, Kind, MemoryItem, Note, Trajectory, Trust
from tests.agent.methods import LIVE, Evolved, Row, Run_, evolved, needs_its_mechanism, read, runs
from tests.agent.test_mechanisms import every
from tests.agent.test_refinement import KNOWN, LEARNS, SCORED, TOY, families, sources, tries
from tests.real import data_folder

HERE = "tests.agent.solvers"


def by(script: str) -> str:
    return f"policy.model={HERE}:{script}"


EXPLORES = (*LEARNS, by("explorer"), "acquire.samples=6", "acquire.first_tasks=6")
TRIES = (*LEARNS, by("trier"), "acquire.generate.how=none", "acquire.first_tasks=9")
PATHS = (
    *LEARNS,
    by("walker"),
    "suite={name: tests.agent.solvers:Paths, tasks: {train: 12, gate: 2, retention: 1, test: 1}}",
    "agent.turns=3",
    "acquire.first_tasks=9",
    "acquire.samples=4",
)
FOLLOWS = "acquire.solve.follows={'': [take], take: [go], go: [open]}"
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


def both_outcomes(run: Evolved) -> bool:
    return {t.success for t in sources(run)} == {True, False}


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
        "a3t", "failures count as well", EXPLORES, ("update_weights.objective=sft",), both_outcomes,
    ),
    Row(
        "eto", "failures stand against what solved their task", EXPLORES,
        ("update_weights.objective=sft",), both_outcomes,
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
    *[
        Row(recipe, "the better against the worse", settings, ("update_weights.objective=sft",),
            lambda run: {"/try-worse" in t.slot for t in sources(run)} == {True, False})
        for recipe, settings in
        (("rlcd", PROMPTED), ("ditto", (*LEARNS, by("actor"))), ("grath", PROMPTED))
    ],
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
        "debate", "the minority is wrong", (*LEARNS, by("dissenter"), "acquire.samples=3"),
        (debate, "elected", lambda tries, least: {t.slot for t in tries}),
        lambda run: every(sources(run), lambda t: answer_of(t) == "agreed"),
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
    Row(
        "self-contrast", "perspectives differ", (*LEARNS, by("viewer"), "acquire.samples=3"),
        (perspectives, "_turn", lambda sides, number: sides[0]),
        lambda run: every(sources(run), lambda t: t.slot.endswith("revised") and t.success),
    ),
    Row(
        "self-contrast", "the checklist is in sight", (*LEARNS, by("viewer"), "acquire.samples=3"),
        (perspectives, "lines", lambda text: text.splitlines() if "By" in text else ["Look."]),
        lambda run: every(sources(run), lambda t: t.slot.endswith("revised") and t.success),
    ),
    Row(
        "lema", "the wrong try is the prompt, its correction is learnt", (*LEARNS, by("mender")),
        (mistakes, "composed", lambda stage, made: []),
        lambda run: any(
            "print(undefined)" in prompt.rsplit("<user>", 1)[1]
            and answer.startswith("# MEND the name.\nprint(")
            for prompt, answer in learnt(run)
        ),
    ),
    Row(
        "lema", "the mistake is explained", (*LEARNS, by("mender")),
        (mistakes, "one_line", lambda text: "It is wrong."),
        lambda run: every(tries(run), lambda t: t.success),
    ),
    Row(
        "ste", "what the tool returned is in the next trial", (*TRIES, "generations=1"),
        ("acquire.solve.rounds=1",),
        lambda run: "double" in {t.family for t in sources(run)},
    ),
    Row(
        "ste", "earlier tasks are remembered", (*TRIES, "generations=2", "acquire.tasks=9"),
        (trials, "_long_term", lambda stage: {}),
        lambda run: every([t for t in better(run, 2) if t.family == "next"], lambda t: t.success),
    ),
    Row(
        "knowagent", "only what may follow is offered", (*PATHS, "generations=1", FOLLOWS),
        ("acquire.solve.follows={}",),
        lambda run: every(run.episodes("1/acquire/"), lambda t: t.success),
    ),
    Row(
        "knowagent", "earlier tries say what may follow",
        (*PATHS, "generations=2", "agent.turns=6", "acquire.tasks=9"),
        (rules, "known", lambda stage: {}),
        lambda run: every(run.episodes("2/acquire/"), lambda t: not any(s.error for s in t.steps)
                          and "Actions: first: " in read(t)),
    ),
    Row(
        "self-talk", "the agent finds out what the client wants", (*LEARNS, by("talker")),
        (dialogue.Talk, "start", lambda talk: talk.inner.start()),
        lambda run: every(prompts(run), lambda p: "It is" in p and "Double the" not in p
                          and "Which number follows" not in p),
    ),
    Row(
        "self-talk", "sub-goals are reached", (*LEARNS, by("talker")),
        (dialogue, "told_share", lambda wanted, said: 0.0),
        lambda run: families(sources(run)) == {"double", "next"},
    ),
    Row(
        "sotopia-pi", "a judge rates the episodes", (*LEARNS, by("talker")),
        ("feedback.by=environment",),
        lambda run: families(sources(run)) == {"square"},
    ),
    Row(
        "sotopia-pi", "the best of a task is cloned",
        (*LEARNS, by("rated"), "acquire.samples=8"), ("refine.per_task=2",),
        lambda run: every(sources(run), lambda t: "# good" in read(t)),
    ),
    Row(
        "sotopia-pi", "both have roles", (*LEARNS, by("talker")), ("acquire.solve.roles={}",),
        lambda run: every(prompts(run), lambda p: "You are Mara" in p or "You are Noor" in p
                          or "You are Ilan" in p),
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
    needs_its_mechanism(row, run, monkeypatch)


# --- prompts that are not trained on ---


def test_what_a_debate_calls_right_is_not_verified(run: Run_) -> None:
    settings = (by("debater"), "acquire.samples=3", "update_memory.enabled=true")
    items = [i for _, i in run("debate", (*LEARNS, *settings), "whole").ledger.all(MemoryItem)]
    assert {i.trust for i in items if i.kind is Kind.EXEMPLAR} == {Trust.JUDGED}


def test_instructions_are_in_view_while_acting_and_nowhere_else(run: Run_) -> None:
    rlcd = run("rlcd", PROMPTED, "whole")
    for t in rlcd.episodes("1/acquire/"):
        system = read(t).split("</system>")[0]
        assert ("You are an expert" in system) is ("/try-worse" not in t.slot)
        assert ("careless" in system) is ("/try-worse" in t.slot)
    assert every(prompts(rlcd), lambda p: "expert" not in p and "careless" not in p)
    measured = rlcd.episodes("gate/")
    assert every(measured, lambda t: "expert" not in read(t))
    ditto = run("ditto", (*LEARNS, by("actor")), "whole")
    assert every(prompts(ditto), lambda p: "You are " in p and "profile" not in p)
    assert {g.memory for g in rlcd.generations} == {""}  # none of it is kept


def test_what_is_mended_later_changes_no_label(
    toy_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A try that broke, and does not when the run is continued, was half of no pair."""
    config = load_config([toy_yaml, "rlcd"], [*LIVE, *PROMPTED])
    step, broken = PythonAnswer.step, set[str]()

    def breaks(self: PythonAnswer, action: Action) -> StepResult:
        code = str(action.arguments.get("code"))
        worse = "good" not in code and code != "print(0)"  # which is said by no prompt
        if worse and (not broken or code in broken):
            broken.add(code)
            raise RuntimeError("it broke")
        return step(self, action)

    def stopped(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as first:
        first.setattr(PythonAnswer, "step", breaks)
        first.setattr(cycle, "refine", stopped)
        with Run(tmp_path / "run", config, quiet=True) as opened, pytest.raises(KeyboardInterrupt):
            evolve(opened)
    with Run(tmp_path / "run", config, quiet=True) as opened:
        assert evolve(opened).n == 1
        labels = [note.data["success"] for _, note in opened.ledger.all(Note, "verdict/1/")]
    assert broken and labels.count(True) == labels.count(False) - 2 == 2
    assert verify(tmp_path / "run")[1] == []


# --- pairs by the policy's own probabilities ---


def likely(run: Run, weights: str, examples: Sequence[Example]) -> list[float]:
    """The good answer is likelier by the good prompt, the other by the bad one, less clearly."""
    table = {(True, True): -1.0, (True, False): -3.0, (False, True): -5.0, (False, False): -4.0}
    texts = ["".join(map(chr, e.token_ids)) for e in examples]
    return [table["print('good" in text, "You are an expert" in text] for text in texts]


@pytest.mark.parametrize("turned", [False, True])
def test_dlma_weighs_a_pair_by_its_own_probabilities(
    turned: bool, toy_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(run: Run, weights: str, examples: Sequence[Example]) -> list[float]:
        return [-value if turned else value for value in likely(run, weights, examples)]

    monkeypatch.setattr(likelihood, "likelihoods", scores)
    monkeypatch.setattr(contrast, "needs", lambda run: "")
    found = evolved(tmp_path / "run", toy_yaml, "dlma", PROMPTED)
    ratio = 1 / (1 + exp(-3.0))  # R = (-1 + 3) - (-5 + 4)
    for t in found.episodes("1/acquire/"):
        verdict = found.ledger.get(Note, f"verdict/{t.slot}")
        assert verdict is not None
        share = 1 - ratio if "/try-" in t.slot else ratio
        assert verdict.data["reward"] == (None if turned else pytest.approx(share))
        assert verdict.data["success"] is (not turned and "/try-" not in t.slot)
    # A pair that its own probabilities turn round does not count.
    assert bool(answers(found)) is not turned
    found.ledger.close()


def test_of_an_adapter_set_the_member_that_acted_scores(
    toy_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring: set[str] = set()

    def scores(run: Run, weights: str, examples: Sequence[Example]) -> list[float]:
        scoring.add(weights)
        return likely(run, weights, examples)

    monkeypatch.setattr(likelihood, "likelihoods", scores)
    monkeypatch.setattr(contrast, "needs", lambda run: "")
    groups = ("update_weights.adapters=per-group", "generations=2")
    found = evolved(tmp_path / "run", toy_yaml, "dlma", (*PROMPTED, *groups))
    acted = {t.policy for n in (1, 2) for t in better(found, n)}
    assert scoring == acted and any(MEMBER_OF in weights for weights in acted)
    found.ledger.close()


def test_dlma_needs_an_engine_that_scores(toy_yaml: Path, tmp_path: Path) -> None:
    config = load_config([toy_yaml, "dlma"], LEARNS)
    with (
        Run(tmp_path / "run", config, quiet=True) as opened,
        pytest.raises(ConfigError, match=r"weigh needs policy\.engine=transformers"),
    ):
        evolve(opened)


# --- blocks ---


def test_programs_are_cut_where_control_flow_goes_on() -> None:
    code = (
        "def f(x):\n    y = x + 1\n    z = y * 2\n    while z > 3:\n        z -= 1\n"
        "        if z == 7:\n            break\n    else:\n        z = 0\n"
        "    return z\nprint(f(5))\n"
    )
    assert [block.lines for block in blocks.blocks(code)] == [
        (1,), (2, 3, 4), (5, 6), (7,), (9,), (10,), (11,),
    ]  # fmt: skip
    assert blocks.blocks("def f(:") == []


# --- what was put together ---


def test_the_audit_asks_what_it_is_made_of(run: Run_, tmp_path: Path) -> None:
    whole = run("a3t", EXPLORES, "whole")
    made = [t for t in whole.episodes("1/acquire/") if t.phase == COMPOSED]
    assert made and all(t.produced_tokens == 0 for t in made)
    for t in made:
        note = whole.ledger.get(Note, f"composed/{t.slot}")
        assert note is not None
        first, *asked = map(str, note.data["sources"])  # type: ignore[arg-type]
        old = whole.ledger.get(Trajectory, first)
        assert old is not None and (old.task, old.reward) == (t.task, t.reward)
        assert asked and all(whole.ledger.get(Note, key) is not None for key in asked)
    assert whole.generations[1].tokens["acquire"] == sum(
        t.produced_tokens for t in whole.episodes("1/acquire/")
    ) + sum(int(str(n.data["tokens"])) for _, n in whole.ledger.all(Note, "said/1/solve/"))
    old_slots = [t.slot.removesuffix("/try-explain") for t in made]
    forgotten = extent(whole.ledger, episodes=old_slots[:1])
    assert made[0].slot in forgotten.episodes  # what is made of an episode goes with it
    copy = shutil.copytree(whole.folder, tmp_path / "run")
    with Ledger(copy / LEDGER) as ledger:
        slot = f"{made[0].slot}-other"
        ledger.append(slot, made[0].model_copy(update={"slot": slot}))
    assert f"trajectory {slot} was put together, and nothing says from what" in verify(copy)[1]


def test_reasons_stand_before_actions_of_any_form() -> None:
    assert compose.with_reason("so", "```python\nprint(1)\n```") == "```python\n# so\nprint(1)\n```"
    assert compose.with_reason("so", "```sql\nSELECT 1\n```") == "```sql\n-- so\nSELECT 1\n```"
    assert compose.with_reason("so", "go(to=1)\n") == "so go(to=1)\n"
    assert compose.with_reason("so", "it is 3") == "so\nit is 3"
    assert "```python\n# a ' b\n" in compose.with_reason("a ``` b", "```python\nx\n```")
    assert compose.closed("```python\nprint(1)\n```", ("\n```\n",)) == "```python\nprint(1)\n```\n"
    assert compose.closed(" go east ", ("\n",)) == " go east\n"


def test_a_reason_cannot_stand_before_a_bare_command(toy_yaml: Path, tmp_path: Path) -> None:
    """What the reason would change is left out, and nothing is learnt from it."""
    settings = (*LIVE, *PATHS, "agent.constrain=false", by("commander"), "generations=1")
    told = StringIO()
    config = load_config([toy_yaml, "a3t"], settings)
    with Run(tmp_path / "run", config, console=Console(file=told, width=400)) as opened:
        evolve(opened)
    assert "these are bare commands" in told.getvalue()
    found = Evolved(tmp_path / "run", open_ledger(tmp_path / "run"))
    spoilt = [t for t in found.episodes("1/acquire/") if t.phase == COMPOSED]
    verdicts = [found.ledger.get(Note, f"verdict/{t.slot}") for t in spoilt]
    assert spoilt and all(v is not None and v.data["reward"] is None for v in verdicts)
    assert not answers(found)
    found.ledger.close()


# --- settings ---


def test_every_method_has_a_row_in_the_readme() -> None:
    text = (Path(compose.__file__).parent / "README.md").read_text()
    _, *rows = re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(["sample", *methods()])


def test_mistakes_in_settings_are_told_in_a_line(toy_yaml: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"acquire\.solve\.how: .*none of the choices .*sample"):
        load_config(None, ["acquire.solve.how=magic"])
    wrong = {
        ("spin",): "suite tests.toy:ToySuite has no gold solutions",
        ("knowagent",): "does not tell its valid actions",
        ("rlcd", "acquire.solve.better=x", "acquire.solve.worse=x"): "two different prompts",
        ("auto-act", "acquire.solve.question=''"): "keep needs acquire.solve.question",
        ("debate", "acquire.retries=2"): "set acquire.retries=0",
        ("debate", "acquire.explore=true", "acquire.further_samples=2"): "further_samples=0",
        ("self-talk", "suite={name: tests.agent.solvers:Paths}"): "one action ends a dialogue",
    }
    for number, ((name, *settings), told) in enumerate(wrong.items()):
        config = load_config([toy_yaml, name], settings)
        with (
            Run(tmp_path / str(number), config, quiet=True) as opened,
            pytest.raises(ConfigError, match=told),
        ):
            evolve(opened)


# --- a real suite ---


def test_references_of_a_real_suite_are_carried_out(tmp_path: Path) -> None:
    """MBPP's own solutions pass its hidden tests, turn by turn as an agent would write them."""
    settings = [
        f"suite.options={{data: {data_folder() / 'mbpp'}}}",
        "suite.tasks={train: 2, gate: 1, retention: 1, test: 1}",
        "policy={engine: scripted, context: 100000}",
        by("coder"),
        "memory.embedder=hash",
        "acquire.first_tasks=3",
        "generations=1",
        "update_weights.min_examples=1",
    ]
    with Run(tmp_path / "run", load_config(["mbpp", "spin"], settings), quiet=True) as opened:
        evolve(opened)
        played = [t for _, t in opened.ledger.all(Trajectory, "1/acquire/")]
        references = [t for t in played if t.phase == COMPOSED]
        assert len(references) == 3 and all(t.success and len(t.steps) == 1 for t in references)
        gold = {opened.suite.gold(t)[0].arguments["code"] for t in opened.tasks("train")}  # type: ignore[attr-defined]
    (learnt_,) = (tmp_path / "run").glob(f"generations/001/adapter/{LEARNT}")
    said = [answer.removesuffix("\n```\n") for _, answer in json.loads(learnt_.read_text())]
    assert said and all(any(code.strip() == own for code in gold) for own in said)
    assert verify(tmp_path / "run")[1] == []
