"""Recipes that make tasks up or choose them: each runs a whole cycle, and has its mechanism."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from agent.evolution.acquire import free, knowledge, tuned
from agent.evolution.acquire.near import rouge_l
from agent.evolution.acquire.select import Choice, easy_to_hard, k_centre, tally
from agent.made_tasks import Made, MadeTasks
from agent.run import Run
from agent.run_folder import BASE
from agent.verify import verify
from memory.embed import HashEmbedder
from memory.records import Note, Trajectory
from tests.agent.authors import CODE, write_documents
from tests.agent.methods import Evolved, evolved
from tests.agent.test_mechanisms import Row, every

HERE = "tests.agent.authors"
MADE = ("acquire.generate.tokens=1000", "acquire.generate.drafts=24", "agent.turns=1")
ANY = "acquire.generate.apart={rouge: 2.0, cosine: 2.0}"  # the toy's tasks are all alike
ALL = "acquire.generate.novel={rouge: 2.0, cosine: 2.0}"
CYCLE = ("acquire.first_tasks=6", "acquire.tasks=6", "update_weights.min_examples=1")
ONE = (*MADE, *CYCLE, ANY, "generations=1")
TWO = (*MADE, *CYCLE, ANY, "generations=2")


def policy(script: str) -> str:
    return f"policy.model={HERE}:{script}"


def made(run: Evolved, n: int = 0) -> list[Made]:
    return [m for m in MadeTasks(run.ledger).values() if n in (0, m.generation)]


def texts(run: Evolved, n: int = 0) -> list[str]:
    return [m.task.prompt for m in made(run, n)]


def near_copies(run: Evolved) -> int:
    return sum(rouge_l(a, b) >= 0.7 for a, b in combinations(texts(run), 2))


def same_answers(run: Evolved) -> bool:
    """Rephrased questions have the answers of those that they were made from."""
    own = [m for m in made(run) if m.how == "metamath/rephrase"]
    return every(own, lambda m: int(str(m.task.data["answer"])) % 2 == 0)


def graded(run: Evolved) -> bool:
    grades = {
        key.rsplit("/", 1)[1]: int(str(note.data["text"]))
        for key, note in run.ledger.all(Note, "said/2/generate/curation/")
    }
    return every(made(run, 2), lambda m: grades[m.key.rsplit("/", 1)[1]] >= 4)


def bred(run: Evolved) -> bool:
    note = run.ledger.get(Note, "mutations/2")
    return note is not None and "Better: " in str(note.data["text"])


def quoted_answers(run: Evolved) -> bool:
    def stands(m: Made) -> bool:
        passage = m.task.prompt.rsplit("\n\n", 1)[0]
        return str(m.task.data["answer"]) in passage

    return every(made(run), stands)


def harder(run: Evolved) -> bool:
    """Of what was made from a task that had been tried, less is solved than of that."""
    before = tally(run.episodes("1/acquire/"))
    own = [m for m in made(run, 2) if m.parents[0] in before]

    def less(m: Made) -> bool:
        solved, _, tries = m.proof.split()[:3]
        parent = before[m.parents[0]]
        return int(solved) / int(tries) < parent.solved / parent.tries

    return all(map(less, own))


def chosen_by(rule: Callable[[Choice], Any], n: int, generations: int) -> Callable[..., bool]:
    """Whether the tasks of a generation are those that a rule takes of its pool."""

    def asked(run: Evolved) -> bool:
        tried = tally([t for g in range(1, n) for t in run.episodes(f"{g}/acquire/")])
        with Run(run.folder, quiet=True) as opened:
            pool, seed = opened.tasks("train"), opened.config.seed + n
            choice = Choice(pool, 6, {}, tried, seed, n / generations, HashEmbedder().embed)
            wanted = {task.id for task in rule(choice)}
        return {t.task for t in run.episodes(f"{n}/acquire/")} == wanted

    return asked


ROWS = [
    Row(
        "self-instruct", "near copies are dropped by ROUGE-L", (*ONE, policy("author")), (ALL,),
        lambda run: bool(made(run)) and near_copies(run) == 0,
    ),
    Row(
        "self-instruct", "two of what is shown were made up before", (*TWO, policy("author"), ALL),
        (free, "_shown", lambda author, count: {str(i): author.some(i, count) for i in range(24)}),
        lambda run: max(len({m.task.id for m in made(run, 1)} & {*m.parents})
                        for m in made(run, 2)) == 2,
    ),
    Row(
        "evol-instruct", "failed evolutions are eliminated", (*ONE, policy("evolver")),
        (free, "eliminated", lambda evolved, same: ""),
        lambda run: every(texts(run), lambda text: not text.endswith(", please.")),
    ),
    Row(
        "selective-reflection-tuning", "what is no harder is not taken",
        (*TWO, policy("evolver"), "gate.enabled=false"), ("acquire.generate.harder=false",),
        harder,
    ),
    Row(
        "metamath", "questions are turned round",
        (*ONE, policy("teacher_of_maths"), f"suite={{name: '{HERE}:Pens'}}"),
        (free, "fobar", lambda *_: ("", "")),
        lambda run: any(m.how == "metamath/fobar" for m in made(run)),
    ),
    Row(
        "metamath", "tries confirm the answer",
        (*ONE, policy("teacher_of_maths"), f"suite={{name: '{HERE}:Pens'}}"),
        ("agent.evolution.acquire.proof", "_replayed", lambda *_: True),
        same_answers,
    ),
    Row(
        "code-llama", "mutants have to fail",
        (*ONE, policy("interviewer"), "acquire.generate.drafts=6", "suite=CODE"),
        ("acquire.generate.kill=0.01",),
        lambda run: every(texts(run), lambda text: "square" not in text),
    ),
    Row(
        "backtranslation", "self-curation",
        (*TWO, policy("translator"), ALL, "acquire.first_tasks=30"), ("acquire.generate.grade=1",),
        graded,
    ),
    Row(
        "ada-instruct", "the writer is trained", (*ONE, policy("taught"), ALL),
        (tuned, "_writer", lambda author, taught: BASE),
        lambda run: len(made(run)) > 1,
    ),
    Row(
        "promptbreeder", "mutations are mutated", (*TWO, policy("breeder"), ALL),
        (free, "_population", lambda author: list(free.MUTATIONS)),
        bred,
    ),
    Row(
        "sciglm", "an answer stands in its passage",
        (*ONE, policy("reader"), f"suite={{name: '{HERE}:Quiz'}}",
         "acquire.generate.documents=TEXTS", "acquire.generate.passage=90"),
        (knowledge, "within", lambda part, text: "was built in" in text),
        quoted_answers,
    ),
    Row(
        "ste", "who imagines remembers what was imagined, and how it went",
        (*TWO, policy("imaginer"), f"suite={{name: '{HERE}:Shop', options: {{}}}}", ALL),
        (knowledge, "_asked_before", lambda author, tool: ""),
        lambda run: every(texts(run, 2), lambda text: text.startswith("Now")),
    ),
    Row(
        "diverse-evol", "the farthest first", (*CYCLE, "generations=1"),
        ("acquire.select=weights",), chosen_by(k_centre, 1, 1),
    ),
    Row(
        "soft", "the easy first", (*CYCLE, "generations=2"), ("acquire.select=weights",),
        chosen_by(easy_to_hard, 2, 2),
    ),
]  # fmt: skip

Run_ = Callable[[str, tuple[str, ...], str], Evolved]


@pytest.fixture(scope="module")
def run(toy_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run_]:
    """A recipe's run with some settings; asked again (under one name) it is not run again."""
    done: dict[tuple[str, tuple[str, ...], str], Evolved] = {}
    place = tmp_path_factory.mktemp("knowledge")
    file = place / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, CODE)) + "\n")
    library = write_documents(place / "texts")
    suite = f"suite={{name: '{HERE}:OwnCode', options: {{data: '{file}'}}}}"

    def one(recipe: str, settings: tuple[str, ...], name: str) -> Evolved:
        key = recipe, settings, name
        if key not in done:
            told = [s.replace("suite=CODE", suite).replace("TEXTS", str(library)) for s in settings]
            done[key] = evolved(tmp_path_factory.mktemp(recipe) / "run", toy_yaml, recipe, told)
        return done[key]

    yield one
    for each in done.values():
        each.ledger.close()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.recipe}: {row.mechanism}")
def test_without_its_mechanism_it_is_another_method(
    row: Row, run: Run_, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(row.recipe, row.settings, "whole")
    assert row.outcome(whole)
    assert verify(whole.folder)[1] == []
    if isinstance(row.without[0], str) and "=" in row.without[0]:
        less = run(row.recipe, (*row.settings, *map(str, row.without)), "whole")
    else:
        place, name, instead = row.without
        target = f"{place}.{name}" if isinstance(place, str) else None
        if target:
            monkeypatch.setattr(target, instead)
        else:
            monkeypatch.setattr(place, str(name), instead)
        less = run(row.recipe, row.settings, row.mechanism)
    assert not row.outcome(less)


def test_what_is_made_up_is_practised_by_every_recipe(run: Run_) -> None:
    """And what solved it is trained on, where somebody solved it."""
    for row in ROWS:
        if row.recipe in ("diverse-evol", "soft"):
            continue
        found = run(row.recipe, row.settings, "whole")
        own = {m.task.id for m in made(found)}
        tried = [t for _, t in found.ledger.all(Trajectory) if t.phase == "acquire"]
        assert {t.task for t in tried} & own or row.recipe == "selective-reflection-tuning"
