"""Tasks that are made up: what makes each method that method, and what no task gets past."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agent.config import ConfigError, load_config
from agent.evolution.acquire import generate, proof
from agent.evolution.acquire.drafts import Draft
from agent.evolution.acquire.free import EVOLVE, MUTATIONS, eliminated, fobar, self_verification
from agent.evolution.acquire.mutants import program_mutants, query_mutants
from agent.evolution.acquire.near import Shelf, rouge_l
from agent.evolution.acquire.settings import Near
from agent.evolution.votes import answer_of
from agent.made_tasks import Made
from agent.run import Run
from agent.run_folder import BASE
from environments.splits import SPLITS, split_of
from memory.embed import HashEmbedder
from memory.records import Generation, Note, Trajectory
from tests.agent.authors import CODE, PENS, write_documents
from tests.agent.servers import Server

HERE = "tests.agent.authors"
FAMILIES = {"double": 1.0, "next": 0.0, "square": 0.0}


class Written:
    """A run that has made a generation's tasks up."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def generation(self, n: int = 1, experience: Sequence[Trajectory] = ()) -> list[Made]:
        families = {t.family for t in self.run.tasks("gate")}
        before = Generation(
            n=n - 1,
            parent=0,
            weights=BASE,
            memory="",
            decision="start",
            cell="incumbent",
            reason="",
            objective={family: 1 / len(families) for family in families},
            cells={},
            families={},
        )
        generate.check(self.run)
        generate.generated(self.run, n, before, experience)
        return [made for made in self.run.made.values() if made.generation == n]

    def dropped(self, n: int = 1) -> Counter[str]:
        told: Any = generate.account(self.run, n)["generated"]
        return Counter(told["dropped"])


Writer = Callable[..., Written]


@pytest.fixture
def writes(tmp_path: Path, toy_yaml: Path) -> Iterator[Writer]:
    """A run in which a script writes tasks by a method."""
    opened: list[Run] = []

    def make(how: str, script: str, *overrides: str, **settings: Any) -> Written:
        generating = {"how": how, "count": 40, "drafts": 40, "tokens": 1000, **settings}
        config = load_config(
            toy_yaml,
            [
                f"policy.model={HERE}:{script}",
                f"acquire.generate={json.dumps(generating)}",
                "agent.turns=1",
                *overrides,
            ],
        )
        run = Run(tmp_path / f"run{len(opened)}", config, quiet=True)
        opened.append(run)
        return Written(run)

    yield make
    for run in opened:
        run.__exit__()


def prompts(made: Sequence[Made]) -> list[str]:
    return [m.task.prompt for m in made]


# --- too much alike ---


def test_rouge_l_is_the_papers() -> None:
    """Lin 2004, §3.1: the example by which ROUGE-L is told from ROUGE-2."""
    reference = "police killed the gunman"
    assert rouge_l(reference, "police kill the gunman") == 0.75
    assert rouge_l(reference, "the gunman kill police") == 0.5
    assert rouge_l(reference, "The gunman police killed.") == 0.5
    assert rouge_l("Add the numbers, please!", "add THE numbers please") == 1.0


def test_the_shelf_drops_from_the_threshold_on() -> None:
    shelf = Shelf(["one two three four five six seven eight nine ten"], Near(cosine=2.0), embed)
    seven = "one two three four five six seven a b c"  # 2 · 7 / 20 = 0.7
    six = "one two three four five six a b c d"
    assert shelf.like(seven) == "ROUGE-L 0.7 or more" and shelf.like(six) == ""
    assert shelf.like("ONE two three four five six seven eight nine  ten") == "the same"
    shelf.add(six)
    assert shelf.like(six) == "the same"


def embed(texts: Sequence[str]) -> Any:
    return HashEmbedder().embed(texts)


def test_meaning_is_looked_at_where_words_are_not() -> None:
    text, other = "double the number twelve", "number twelve the double"
    near = float((embed([text]) @ embed([other]).T)[0, 0])
    assert near > 0.95 > 0.7 > rouge_l(text, other)
    assert Shelf([text], Near(), embed).like(other) == "cosine 0.95 or more"
    assert Shelf([text], Near(cosine=2.0), embed).like(other) == ""


# --- Self-Instruct ---


def test_self_instruct_drops_near_copies(writes: Writer) -> None:
    written = writes("self-instruct", "author")
    made = written.generation()
    assert made and all("pens" in prompt for prompt in prompts(made))
    assert len(made) == 1  # the others are copies of it, but for a number
    dropped = written.dropped()
    assert dropped["is no task"] and dropped["its tries agree on no answer"] == 1
    assert dropped["like a task that is measured (ROUGE-L 0.7 or more)"]
    assert dropped["like a train task (ROUGE-L 0.7 or more)"]


def test_without_the_filter_near_copies_come_in(writes: Writer) -> None:
    off = {"rouge": 2.0, "cosine": 2.0}
    made = writes("self-instruct", "author", novel=off, apart=off).generation()
    assert sum("pens" in prompt for prompt in prompts(made)) > 1
    assert any(prompt.startswith("Double") for prompt in prompts(made))


def test_a_measured_task_never_comes_in(writes: Writer) -> None:
    """Not even where no likeness counts: the same content is the same task."""
    off = {"rouge": 2.0, "cosine": 2.0}
    written = writes("self-instruct", "author", novel=off, apart=off)
    made = written.generation()
    own = {task.prompt for task in written.run.suite.tasks()}
    assert not own & set(prompts(made))
    same = [why for why in written.dropped() if "(the same)" in why]
    assert same


def test_made_up_tasks_are_train_tasks_and_nothing_else(writes: Writer) -> None:
    off = {"rouge": 2.0, "cosine": 2.0}
    written = writes("self-instruct", "author", novel=off, apart=off)
    made, run = written.generation(), written.run
    for m in made:
        assert split_of(m.task.id) == "train" and m.task.origin.startswith("self-instruct/")
        assert m.generation == 1 and m.how == "self-instruct" and run.vouched(m.task.id)
        assert m.parents and all(split_of(parent) == "train" for parent in m.parents)
        note = run.ledger.get(Note, m.key)
        assert note is not None and m.task.prompt in str(note.data["text"])
    ids = {m.task.id for m in made}
    assert ids <= {task.id for task in run.tasks("train")}
    assert not any(ids & {task.id for task in run.tasks(split)} for split in SPLITS[1:])


def test_answers_are_what_tries_agree_on(writes: Writer) -> None:
    written = writes("self-instruct", "author")
    (made,) = written.generation()
    number = int("".join(c for c in made.task.prompt if c.isdigit()))
    assert made.task.data["answer"] == str(7 * number)
    tries = [t for _, t in written.run.ledger.all(Trajectory, "1/made/")]
    assert len(tries) == 4 * 2 and {t.phase for t in tries} == {"probe"}  # pens and trees
    assert not any(t.success for t in tries)  # nobody knew the answer then
    assert all(split_of(t.task) == "train" for t in tries)


def test_a_grader_that_takes_anything_is_seen(writes: Writer) -> None:
    written = writes("self-instruct", "author", f"suite.name={HERE}:Vague")
    assert written.generation() == []
    assert written.dropped()["its grader takes an answer that nobody can know"]


def test_the_worked_example_answers_nothing(
    writes: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever says it again to any question agrees with himself, and has answered none."""
    off = {"rouge": 2.0, "cosine": 2.0}
    assert writes("self-instruct", "parrot", novel=off, apart=off, drafts=4).generation() == []
    monkeypatch.setattr(proof, "_tried", lambda t: True)
    monkeypatch.setattr(proof, "_given", lambda author, family, t: answer_of(t))
    made = writes("self-instruct", "parrot", novel=off, apart=off, drafts=4).generation()
    assert made and {str(m.task.data["answer"]) for m in made} == {"apple, fig, pear"}


def test_numbers_are_agreed_on_however_they_are_said(writes: Writer) -> None:
    off = {"rouge": 2.0, "cosine": 2.0}
    written = writes("self-instruct", "wordy", novel=off, apart=off, drafts=12)
    made = written.generation()
    assert made
    for m in made:
        (number,) = re.findall(r"twice (\d+)", m.task.prompt)
        assert m.task.data["answer"] == str(2 * int(number))
    assert written.dropped()["gives its answer away"]


def test_a_second_call_writes_nothing(writes: Writer) -> None:
    written = writes("self-instruct", "author")
    made = written.generation()
    records = len(list(written.run.ledger.all(Note))), written.run.ledger.count(Trajectory)
    assert written.generation() == made
    assert records == (
        len(list(written.run.ledger.all(Note))), written.run.ledger.count(Trajectory),
    )  # fmt: skip


def test_strangers_tasks_are_no_seeds(writes: Writer) -> None:
    off = {"rouge": 2.0, "cosine": 2.0}
    strange = writes(
        "self-instruct", "author", f"suite.name={HERE}:Strange",
        "suite.tasks.gate=3", novel=off, apart=off,
    )  # fmt: skip
    made = strange.generation()
    foreign = {t.id for t in strange.run.suite.tasks() if t.family == "square"}
    assert made and not foreign & {parent for m in made for parent in m.parents}
    texts = [str(n.data["text"]) for _, n in strange.run.ledger.all(Note, "said/1/generate/")]
    assert texts and {m.task.family for m in made} <= {"double", "next"}


# --- Evol-Instruct ---


def test_evol_instruct_eliminates_what_failed(writes: Writer) -> None:
    off = {"rouge": 2.0, "cosine": 2.0}
    written = writes("evol-instruct", "evolver", novel=off, apart=off)
    made = written.generation()
    assert made and all("pens" in prompt for prompt in prompts(made))
    dropped = written.dropped()
    for why in ("says nothing new", "copies words of the instruction", "holds no words of its own"):
        assert dropped[why]
    asked = {m.how.partition("/")[2] for m in made}
    assert asked <= {*EVOLVE, "breadth"} and len(asked) > 2
    first = {m.task.id for m in made}
    second = written.generation(2)
    assert first & {m.parents[0] for m in second}  # what evolved evolves on
    assert {m.parents[0] for m in second} - first  # and so do seeds


def test_elimination_is_the_papers() -> None:
    """§3, elimination evolving: 1 to 4, but for 2, whose place tries without an answer take."""
    assert eliminated("Add three numbers.", same=True) == "says nothing new"
    assert eliminated("And so, what is it?!", same=False) == "holds no words of its own"
    assert "copies" in eliminated("Here is the new task: add.", same=False)
    assert eliminated("Add three numbers.", same=False) == ""


def test_only_what_is_harder_is_taken(writes: Writer) -> None:
    """Selective Reflection-Tuning: a rewrite that is no harder than its original is dropped."""
    off = {"rouge": 2.0, "cosine": 2.0}
    known = writes("evol-instruct", "evolver", novel=off, apart=off)
    failed = [practised(task.id, False) for task in known.run.tasks("train")]
    assert known.generation(experience=failed)
    strict = writes("evol-instruct", "evolver", novel=off, apart=off, harder=True)
    assert strict.generation(experience=failed) == []
    assert strict.dropped()["is not harder than what it was made from"]
    solved = [practised(task.id, True) for task in strict.run.tasks("train")]
    easier = writes("evol-instruct", "evolver", novel=off, apart=off, harder=True)
    assert all("3 of 4" in m.proof for m in easier.generation(experience=solved))


def practised(task: str, success: bool) -> Trajectory:
    return Trajectory(
        slot=f"1/acquire/{task}/0", task=task, suite="toy", family="double", split="train",
        phase="acquire", policy=BASE, reward=float(success), success=success,
    )  # fmt: skip


# --- MetaMath ---

BEEF = (
    "James buys 5 packs of beef that are 4 pounds each. The price of beef is $5.50 per pound. "
    "How much did he pay?"
)


def test_questions_are_turned_round_as_in_the_paper() -> None:
    """MetaMath, §3.3 and §3.4: its worked examples of FOBAR and self-verification."""
    assert fobar(BEEF, "110", 0.0) == (
        "James buys x packs of beef that are 4 pounds each. The price of beef is $5.50 per pound. "
        "How much did he pay? If we know the answer to the above question is 110, what is the "
        "value of unknown variable x?",
        "5",
    )
    assert self_verification(BEEF, "He paid 110.", 0.0) == (
        "James buys x packs of beef that are 4 pounds each. The price of beef is $5.50 per pound. "
        "He paid 110. What is the value of unknown variable x?",
        "5",
    )
    assert fobar(BEEF, "110", 0.99)[1] == "5.50"
    assert fobar("How are you?", "fine", 0.0) == ("", "")


def test_metamath_keeps_what_tries_confirm(writes: Writer) -> None:
    same = {"rouge": 1.0, "cosine": 2.0}
    written = writes(
        "metamath", "teacher_of_maths", f"suite.name={HERE}:Pens", novel=same, apart=same
    )
    made = written.generation()
    ways = {m.how for m in made}
    assert ways == {"metamath/rephrase", "metamath/self-verification", "metamath/fobar"}
    parents = {t.id: t for t in written.run.tasks("train")}
    for m in made:
        answer, own = str(m.task.data["answer"]), parents[m.parents[0]]
        if m.how == "metamath/rephrase":
            assert answer == own.data["answer"] and int(answer) % 2 == 0
        else:
            assert answer in own.prompt and " x " in m.task.prompt
            assert str(own.data["answer"]) in m.task.prompt
    assert written.dropped()["no try reaches its answer"]  # rephrased into another question


# --- Code Llama ---


@pytest.fixture
def code_file(tmp_path: Path) -> str:
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, CODE)) + "\n")
    return f"suite={{name: '{HERE}:OwnCode', options: {{data: '{file}'}}}}"


def test_tests_must_kill_mutants(writes: Writer, code_file: str) -> None:
    written = writes("code-llama", "interviewer", code_file, drafts=9)
    made = written.generation()
    assert made and all("third power" in prompt for prompt in prompts(made))
    dropped = written.dropped()
    assert any("mutants pass" in why for why in dropped)
    assert dropped["has fewer than two tests"]
    assert all("mutants do not" in m.proof for m in made)
    assert all("assert cube" in p and p.count("assert") == 1 for p in prompts(made))


def test_without_mutants_weak_tests_come_in(writes: Writer, code_file: str) -> None:
    made = writes("code-llama", "interviewer", code_file, drafts=9, kill=0.01).generation()
    assert any("square" in prompt for prompt in prompts(made))


def test_mutants_differ_from_the_program_and_parse() -> None:
    code = "def f(x, y=True):\n    if x > 2 and y:\n        return x * 2\n    return 1 - x"
    mutants = program_mutants(code)
    assert len(mutants) == len(set(mutants)) >= 8 and code not in mutants
    assert any("x + 2" in m for m in mutants) and any("x >= 2" in m for m in mutants)
    assert any("or y" in m for m in mutants) and any("return None" in m for m in mutants)
    assert program_mutants("def f():\n    pass") == []
    assert query_mutants("SELECT name FROM boats WHERE id = 1 ORDER BY id DESC") == [
        "SELECT name FROM boats WHERE id = 1 ORDER BY id ASC",
        "SELECT name FROM boats WHERE id != 1 ORDER BY id DESC",
        "SELECT name FROM boats WHERE NOT id = 1 ORDER BY id DESC",
        "SELECT NULL",
    ]


# --- backtranslation, Promptbreeder ---


def test_backtranslation_finds_tasks_for_answers(writes: Writer) -> None:
    off = {"rouge": 2.0, "cosine": 2.0}
    written = writes("backtranslation", "translator", novel=off, apart=off)
    run = written.run
    from agent.loop import Assignment

    tries = run.episodes(
        "practice",
        [Assignment(f"0/acquire/{t.id}/0", t, "train", "acquire", 0.9) for t in run.tasks("train")],
        BASE,
    )
    made = written.generation(experience=tries)
    failed = {t.task: t for t in tries if not t.success}
    assert made
    for m in made:
        assert m.parents[0] in failed
        assert m.task.data["answer"] == failed[m.parents[0]].steps[-1].observation
    assert written.dropped()["graded below 4"]
    lax = writes("backtranslation", "translator", novel=off, apart=off, grade=1)
    assert "graded below 1" not in (lax.generation(experience=tries) and lax.dropped())


def test_promptbreeder_breeds_its_mutations(writes: Writer) -> None:
    off = {"rouge": 2.0, "cosine": 2.0}
    written = writes("promptbreeder", "breeder", drafts=8, novel=off, apart=off)
    made = written.generation()
    fit = MUTATIONS.index(next(m for m in MUTATIONS if "same skill" in m))
    assert made and {m.how for m in made} == {f"promptbreeder/{fit}"}
    written.generation(2)
    note = written.run.ledger.get(Note, "mutations/2")
    assert note is not None
    texts = str(note.data["text"]).splitlines()
    assert f"Better: {MUTATIONS[fit]}" in texts and MUTATIONS[fit] in texts
    assert len(texts) == len(MUTATIONS) and len(set(texts) - set(MUTATIONS)) == 2
    written.generation(4)  # 3 is one that was rolled back to
    later = written.run.ledger.get(Note, "mutations/4")
    assert later is not None and f"Better: {MUTATIONS[fit]}" in str(later.data["text"])


# --- Ada-Instruct ---


def test_ada_instruct_trains_its_writer(writes: Writer) -> None:
    off = {"rouge": 2.0, "cosine": 2.0}
    written = writes("ada-instruct", "taught", novel=off, apart=off, demonstrations=3)
    made, run = written.generation(), written.run
    assert made and all("pens" in prompt for prompt in prompts(made))
    notes = [note for _, note in run.ledger.all(Note, "adapter/")]
    assert len(notes) == 1
    manifest: Any = notes[0].data["manifest"]
    assert manifest["role"] == "writer" and len(set(manifest["sources"])) == 3 * 3
    lessons = [run.ledger.get(Note, source) for source in manifest["sources"]]
    seeds = {task.id for task in run.tasks("train") if not task.origin}
    assert {str(note.data["task"]) for note in lessons if note} <= seeds
    assert run.ledger.get(Note, "trained/1") is None  # it is nobody who acts
    with pytest.raises(ConfigError, match=r"needs update_weights\.enabled=true"):
        writes("ada-instruct", "taught", "update_weights.enabled=false").generation()


def test_without_training_the_writer_knows_nothing(
    writes: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.evolution.acquire import tuned

    monkeypatch.setattr(tuned, "_writer", lambda author, taught: BASE)
    written = writes("ada-instruct", "taught")
    assert written.generation() == []


# --- a teacher ---


class Teacher(Server):
    """Writes one task, whatever it is asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        super().__init__()

    def reply(
        self, path: str, headers: Mapping[str, str], body: dict[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        self.asked.append(body)
        said = {"role": "assistant", "content": f"Task: {PENS.format(x=321)}"}
        return 200, {"choices": [{"message": said}], "usage": {"completion_tokens": 9}}


def test_a_teacher_writes_and_the_policy_tries(writes: Writer) -> None:
    with Teacher().serving() as server:
        teacher = {"url": server.url, "model": "teacher"}
        written = writes("self-instruct", "author", teacher=teacher, drafts=3)
        (made,) = written.generation()
        assert made.task.prompt == PENS.format(x=321) and made.task.data["answer"] == "2247"
        assert {body["model"] for body in server.asked} == {"teacher"}
        assert {body["temperature"] for body in server.asked} == {0.8}
        assert len(server.asked) == 3 and generate.tokens(written.run, 1).said == 3 * 9
        written.generation()
        assert len(server.asked) == 3


# --- from knowledge ---


def test_documents_name_their_passage(writes: Writer, tmp_path: Path) -> None:
    folder = write_documents(tmp_path / "library")
    written = writes(
        "documents", "reader", f"suite.name={HERE}:Quiz", "suite.options={}",
        documents=str(folder), passage=90, novel={"rouge": 1.0, "cosine": 2.0},
    )  # fmt: skip
    made = written.generation()
    assert made
    for m in made:
        name, number = m.source.split("#")
        passage = (folder / name).read_text().split("\n\n")[int(number) - 1]
        assert m.task.prompt.startswith(f"{m.source} says:\n| {passage}")
        assert str(m.task.data["answer"]) in passage
    dropped = written.dropped()
    for why in (
        "has an answer that is not in its passage",
        "gives its answer away",
        "is no question with an answer",
    ):
        assert dropped[why]
    assert all(written.run.vouched(m.task.id) for m in made)


def test_questions_are_like_none_of_earlier_generations(writes: Writer, tmp_path: Path) -> None:
    folder = write_documents(tmp_path / "library")
    written = writes(
        "documents", "reader", f"suite.name={HERE}:Quiz", "suite.options={}",
        documents=str(folder), passage=90,
    )  # fmt: skip
    assert written.generation() and not written.generation(2)  # all ask when something was built


def test_documents_of_strangers_train_nothing(writes: Writer, tmp_path: Path) -> None:
    folder = write_documents(tmp_path / "library")
    written = writes(
        "documents", "reader", f"suite.name={HERE}:Quiz", "suite.options={}", vouched=False,
        documents=str(folder), passage=90, novel={"rouge": 1.0, "cosine": 2.0},
    )  # fmt: skip
    made = written.generation()
    assert made and not any(written.run.vouched(m.task.id) for m in made)


def test_tasks_of_a_tool_need_it(writes: Writer) -> None:
    off = {"rouge": 1.0, "cosine": 2.0}
    written = writes(
        "tools", "dealer", f"suite.name={HERE}:Shop", "suite.options={}", novel=off, apart=off
    )
    made = written.generation()
    assert {m.source for m in made} == {"buy", "sell"}
    assert all(m.task.data["deal"] == m.source for m in made)
    dropped = written.dropped()
    assert dropped["no solution uses its tool"] and dropped["is not in the form of a task"]
    assert dropped["is solved by doing nothing"]


def test_an_answer_that_its_tool_did_not_give_is_no_task_of_the_tool() -> None:
    def said(**action: str) -> Any:
        return SimpleNamespace(turns=(SimpleNamespace(action=action),))

    of_tool = Draft("a", "How many?", "f", "tools/tool", source="count")
    assert proof._uses_its_tool(of_tool, [said(tool="guess"), said(tool="count")])
    assert not proof._uses_its_tool(of_tool, [said(tool="guess"), said(text="4")])
    assert proof._uses_its_tool(of_tool._replace(how="self-instruct"), [said(text="4")])


def test_questions_about_a_table_have_a_query(writes: Writer, tmp_path: Path) -> None:
    harbour = harbour_in(tmp_path / "spider")
    off = {"rouge": 1.0, "cosine": 2.0}
    written = writes(
        "schema", "analyst", f"suite={{name: spider, options: {{data: '{harbour}'}}}}",
        novel=off, apart=off,
    )  # fmt: skip
    made = written.generation()
    assert {m.source for m in made} == {"harbour.boats", "harbour.crews"}
    for m in made:
        assert m.source.split(".")[1] in str(m.task.data["sql"])
        assert "rows" in m.task.data and "tries right" in m.proof
    dropped = written.dropped()
    assert dropped["has a query that does not ask its table"]
    assert dropped["a wrong query passes"]  # it finds nothing, as many do


def harbour_in(folder: Path) -> Path:
    import sqlite3

    (folder / "db").mkdir(parents=True)
    connection = sqlite3.connect(folder / "db" / "harbour.sqlite")
    for table in ("boats", "crews"):
        connection.execute(f"CREATE TABLE {table} (id INTEGER, name TEXT)")
        rows = [(i, f"{table}{i}") for i in range(12)]
        connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)
    connection.commit()
    connection.close()
    records = [
        {"db": "harbour", "question": f"Who has number {i}?",
         "gold_sql": f"SELECT name FROM boats WHERE id = {i % 12} LIMIT {i + 1}"}
        for i in range(60)
    ]  # fmt: skip
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    return folder


# --- what cannot be had ---


@pytest.mark.parametrize(
    ("how", "more", "told"),
    [
        ("self-instruct", [f"suite.name={HERE}:Closed"], "takes no tasks that are made up"),
        ("code-llama", [], "graded by solution and tests; those of the suite"),
        ("schema", [], "graded by database and query and schema"),
        ("documents", [], r"documents: set acquire\.generate\.documents=FOLDER"),
    ],
)
def test_what_cannot_be_had_is_told(writes: Writer, how: str, more: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        writes(how, "author", *more).generation()


def test_documents_that_are_no_text_are_told(writes: Writer, tmp_path: Path) -> None:
    quiz = ("documents", "reader", f"suite.name={HERE}:Quiz", "suite.options={}")
    with pytest.raises(ConfigError, match=r"documents=.*library: there is no such folder"):
        writes(*quiz, documents=str(tmp_path / "library")).generation()
    folder = write_documents(tmp_path / "library")
    (folder / "picture.txt").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ConfigError, match=r"picture\.txt cannot be read as text in UTF-8"):
        writes(*quiz, documents=str(folder)).generation()


def test_vectors_are_of_length_one() -> None:
    assert np.allclose(np.linalg.norm(embed(["a", "b c"]), axis=1), 1)
