"""The documented example: one file and one YAML are a method that does what it says."""

from __future__ import annotations

import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.config import ConfigError, load_config
from agent.evolution.acquire.drafts import Author, Draft
from agent.evolution.acquire.select import Choice
from agent.evolution.correct.base import note
from agent.evolution.cycle import evolve
from agent.evolution.update.writers.base import Situation, Written, about
from agent.evolution.update.writers.skills import passes
from agent.made_tasks import MadeTasks
from agent.recipe_parts import recipe
from agent.run import Run
from agent.run_folder import open_ledger
from agent.training.adapter import read_manifest
from agent.verify import verify
from environments.base import SuiteError, Task
from memory.ledger import Ledger
from memory.records import Kind, MemoryItem, Note, Trajectory
from tests.agent import pupils
from tests.agent.authors import PENS
from tests.agent.doors import question
from tests.agent.methods import LIVE
from tests.agent.test_feedback import PUPIL
from tests.agent.test_task_recipes import ONE, policy

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```\w+ (\S+\.\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def wordy(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Right half of the time, in as many words as chance will have it."""
    code = pupils.code_for(question(prompt)) if chance.random() < 0.5 else "print(undefined)"
    return f"{code}  # {'so ' * chance.randrange(1, 9)}\n```\n"


def mended(
    situation: Situation, tries: Sequence[Trajectory], round_: int
) -> dict[str, list[MemoryItem]]:
    """A correction of one's own: it tells the pupil to mend doubles, and nothing else."""
    return {
        t.slot: [note(situation, t, f"MEND it, round {round_}.")]
        for t in tries
        if t.family == "double"
    }


def largest(choice: Choice) -> list[Task]:
    """A selection of one's own: the tasks with the largest numbers."""
    numbered = sorted(choice.pool, key=lambda t: -int("".join(filter(str.isdigit, t.prompt))))
    return numbered[: choice.wanted]


def remembered(situation: Situation) -> Written:
    """A writer of one's own: an item for each solved task that doubles, and no other."""
    found = {s.trajectory.task: s.trajectory for s in situation.solutions}
    items = [
        about(t, Kind.INSIGHT, f"To double is to add: {t.prompt}", situation.generation)
        for t in found.values()
        if t.family == "double"
    ]
    return Written(items, [])


def boxes(author: Author) -> list[Draft]:
    """Tasks of one's own making, for the scripts of ``tests.agent.authors``."""
    parents = author.some(0, 1)
    return [
        Draft(f"pens/{x}", PENS.format(x=x), parents[0].family, "pens", (parents[0].id,))
        for x in (11, 13, 17)
    ]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example's files, as a reader would save them, in a folder that Python finds."""
    for name, body in BLOCK.findall((ROOT / "agent/evolution/README.md").read_text()):
        (tmp_path / name).write_text(body)
    assert {p.name for p in tmp_path.iterdir()} == {"brevity.py", "brevity.yaml"}
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def trained_on(folder: Path) -> set[str]:
    return set(read_manifest(folder / "generations" / "001" / "adapter")["sources"])


def right(ledger: Ledger) -> list[Trajectory]:
    return [t for _, t in ledger.all(Trajectory, "1/acquire/") if t.success]


def test_the_documented_method_learns_from_the_shortest(example: Path, toy_yaml: Path) -> None:
    settings = [*LIVE, *PUPIL, "policy.model=tests.agent.test_added_method:wordy"]
    for name, layers in (
        ("with", [toy_yaml, example / "brevity.yaml"]),
        ("without", [toy_yaml]),
    ):
        config = load_config(layers, [*settings, "acquire.samples=6"])
        with Run(example / name, config, quiet=True) as opened:
            evolve(opened)
    with open_ledger(example / "with") as ledger:
        tries = right(ledger)
        least = {t.task: min(o.produced_tokens for o in tries if o.task == t.task) for t in tries}
        assert any(count > 1 for count in Counter(t.task for t in tries).values())
        learnt = [t for t in tries if t.slot in trained_on(example / "with")]
        assert learnt and all(t.produced_tokens == least[t.task] for t in learnt)
        assert ledger.count(Note, "verdict/1/") == 36
    with open_ledger(example / "without") as ledger:
        learnt = [t for t in right(ledger) if t.slot in trained_on(example / "without")]
        assert any(t.produced_tokens > least[t.task] for t in learnt)


def advised(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Says what is easily missed, and is right where that stands before the task."""
    asked = question(prompt)
    if "What is easily missed?" in asked:
        return "Mind the sign."
    return (pupils.code_for(asked) if "Mind the sign." in asked else "print(undefined)") + "\n```\n"


def test_the_documented_way_of_solving_shows_a_second_opinion(
    toy_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((name, body),) = BLOCK.findall((ROOT / "agent/evolution/solutions/README.md").read_text())
    (tmp_path / name).write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    own = ("policy.model=tests.agent.test_added_method:advised", "agent.turns=1")
    for how, right_ in (("opinion:solve", 24), ("sample", 0)):
        config = load_config(toy_yaml, [*LIVE, *PUPIL, *own, f"acquire.solve.how={how}"])
        folder = tmp_path / how.partition(":")[0]
        with Run(folder, config, quiet=True) as run:
            evolve(run)
            tries = run.ledger.all(Trajectory, "1/acquire/")
            assert sum(t.success for _, t in tries) == right_
            assert run.ledger.count(Note, "said/1/solve/second-opinion/") == right_ // 4
        assert verify(folder)[1] == []


def test_a_correction_of_ones_own_corrects(toy_yaml: Path, tmp_path: Path) -> None:
    own = ("policy.model=tests.agent.pupils:pupil", "acquire.samples=1", "agent.turns=1")
    correct = "refine.correct=tests.agent.test_added_method:mended"
    with Run(
        tmp_path / "run", load_config(toy_yaml, [*LIVE, *PUPIL, *own, correct]), quiet=True
    ) as r:
        evolve(r)
    with open_ledger(tmp_path / "run") as ledger:
        again = {s: t for s, t in ledger.all(Trajectory, "1/acquire/") if "/try-" in s}
        assert again and {t.family for t in again.values()} == {"double"}
        assert all(t.success and "test_added_method:mended-1" in s for s, t in again.items())
        assert trained_on(tmp_path / "run") == set(again)
    assert verify(tmp_path / "run")[1] == []


def test_a_selection_of_ones_own_selects(toy_yaml: Path, tmp_path: Path) -> None:
    select = "acquire.select=tests.agent.test_added_method:largest"
    with Run(tmp_path / "run", load_config(toy_yaml, [*LIVE, *PUPIL, select]), quiet=True) as run:
        evolve(run)
        numbers = [int("".join(filter(str.isdigit, t.prompt))) for t in run.tasks("train")]
        tries = {t.task: t.prompt for _, t in run.ledger.all(Trajectory, "1/acquire/")}
    chosen = [int("".join(filter(str.isdigit, prompt))) for prompt in tries.values()]
    assert sorted(chosen) == sorted(numbers)[-6:]


def test_a_writer_of_ones_own_writes(toy_yaml: Path, tmp_path: Path) -> None:
    write = (
        "update_memory={enabled: true, write: {exemplars: null, reflections: null, "
        "own: ['tests.agent.test_added_method:remembered']}}"
    )
    own = [*LIVE, *PUPIL, write, "memory.index=exact"]
    with Run(tmp_path / "run", load_config(toy_yaml, own), quiet=True) as run:
        evolve(run)
        items = [item for _, item in run.ledger.all(MemoryItem)]
        solved = {
            t.task for _, t in run.ledger.all(Trajectory, "1/acquire/")
            if t.success and t.family == "double"
        }  # fmt: skip
    assert solved and {item.tasks[0] for item in items} == solved
    assert all(item.text.startswith("To double") for item in items)
    assert verify(tmp_path / "run")[1] == []


def test_tasks_of_ones_own_making_are_proved_and_practised(toy_yaml: Path, tmp_path: Path) -> None:
    how = "acquire.generate={how: 'tests.agent.test_added_method:boxes', share: 1.0}"
    config = load_config(toy_yaml, [*ONE, policy("author"), how])
    with Run(tmp_path / "run", config, quiet=True) as run:
        evolve(run)
        own = list(MadeTasks(run.ledger).values())
        tried = {t.task for _, t in run.ledger.all(Trajectory, "1/acquire/")}
    assert own and {m.how for m in own} == {"pens"}
    assert all(m.task.prompt.startswith("A box holds 1") for m in own)
    assert {m.task.id for m in own} & tried
    assert verify(tmp_path / "run")[1] == []


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("acquire.generate.how=nowhere:a", "acquire.generate.how=nowhere:a: cannot be imported"),
        ("update_memory.write.own=[nowhere:a]", "write.own=nowhere:a: cannot be imported"),
        ("update_weights.loss=nowhere:a", "update_weights.loss=nowhere:a: cannot be imported"),
    ],
)
def test_what_cannot_be_imported_is_told_at_once(
    toy_yaml: Path, tmp_path: Path, setting: str, says: str
) -> None:
    with (
        Run(tmp_path / "run", load_config(toy_yaml, [setting]), quiet=True) as run,
        pytest.raises(ConfigError, match=says),
    ):
        evolve(run)


BROKEN = """
from agent.evolution.feedback.base import Verdict
from agent.evolution.update.writers.base import Edit, Written

def fails(*given):
    raise KeyError("gone")

def nothing(*given):
    return None

def words(bench):
    return {t.slot: "good" for t in bench.tries}

def endless(bench):
    return {t.slot: Verdict(float("nan"), True) for t in bench.tries}

def silent(bench):
    return {}

def twice(choice):
    return [*choice.pool[:1], *choice.pool[:1]]

def votes(situation):
    return Written([], [Edit("agree", "nobody", "", ())])
"""

WRITES = "update_memory={enabled: true, write: {own: ['broken:%s']}}"


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module with functions that do not do what is asked of them."""
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    return tmp_path / "broken.py"


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("feedback.by=broken:fails", "by=broken:fails: fails at broken.py, line 6: KeyError: 'g"),
        ("feedback.by=broken:nothing", r"has to return dict\[str, .*Verdict\], not None"),
        ("feedback.by=broken:words", "Verdict.*, not 'good' at 1/acquire/"),
        ("feedback.by=broken:endless", "not nan at 1/acquire/.*reward"),
        ("feedback.by=broken:silent", "gives no verdict on 24 of 24 tries"),
        ("acquire.select=broken:fails", "acquire.select=broken:fails: fails at broken.py, line 6"),
        ("acquire.select=broken:nothing", r"has to return list\[.*Task\], not None"),
        ("acquire.select=broken:twice", "at most 6 tasks of Choice.pool, each once"),
        ("acquire.solve.how=broken:fails", "acquire.solve.how=broken:fails: fails at broken.py"),
        ("acquire.solve.how=broken:nothing", r"has to return list\[.*Trajectory\], not None"),
        ("acquire.generate.how=broken:fails", "generate.how=broken:fails: fails at broken.py"),
        ("acquire.generate.how=broken:nothing", r"has to return list\[.*Draft\], not None"),
        ("refine.correct=broken:fails", "refine.correct=broken:fails: fails at broken.py"),
        ("refine.correct=broken:nothing", r"has to return dict\[str, list\[.*MemoryItem\]\]"),
        (WRITES % "fails", "update_memory.write.own=broken:fails: fails at broken.py, line 6"),
        (WRITES % "nothing", "write.own=broken:nothing: has to return Written, not None"),
        (WRITES % "votes", r"an edit \(agree\) names nobody, which is no item"),
    ],
)
def test_a_function_that_breaks_is_told_in_a_line(
    toy_yaml: Path, tmp_path: Path, broken: Path, setting: str, says: str
) -> None:
    config = load_config(toy_yaml, [*LIVE, *PUPIL, "agent.turns=1", setting])
    with (
        Run(tmp_path / "run", config, quiet=True) as run,
        pytest.raises(ConfigError, match=says),
    ):
        evolve(run)


def test_once_it_is_mended_the_run_goes_on(
    toy_yaml: Path, tmp_path: Path, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(toy_yaml, [*LIVE, *PUPIL, "feedback.by=broken:fails"])
    with Run(tmp_path / "run", config, quiet=True) as run, pytest.raises(ConfigError):
        evolve(run)
    with open_ledger(tmp_path / "run") as ledger:
        tried = dict(ledger.all(Trajectory, "1/acquire/"))
    assert tried
    monkeypatch.delitem(sys.modules, "broken")
    mended = "return {t.slot: Verdict(t.reward, t.success) for t in given[0].tries}  # now it does"
    broken.write_text(BROKEN.replace('raise KeyError("gone")', mended))
    with Run(tmp_path / "run", config, quiet=True) as run:
        evolve(run)
        assert dict(run.ledger.all(Trajectory, "1/acquire/")) == tried
    assert verify(tmp_path / "run")[1] == []


@pytest.mark.parametrize(
    "setting",
    [
        "refine.correct=self-debug",
        "refine.correct=interpreter",
        "refine.correct=blocks",
        "feedback.by=tests",
        "update_memory.write={skills: {}, exemplars: null, reflections: null}",
    ],
)
def test_what_runs_programs_is_refused_where_there_are_none(
    toy_yaml: Path, tmp_path: Path, setting: str
) -> None:
    doors = ["suite.name=tests.agent.doors:Doors", "suite.options={}"]
    which = re.escape(setting.partition("={")[0])
    with (
        Run(tmp_path / "run", load_config(toy_yaml, [*doors, setting]), quiet=True) as run,
        pytest.raises(ConfigError, match=rf"{which}.*writes Python programs.*suite .*oors"),
    ):
        evolve(run)
    assert not (tmp_path / "run" / "generations").exists()


@pytest.mark.parametrize("setting", ["refine.correct=blocks", "feedback.by=tests"])
def test_a_world_that_breaks_when_it_is_looked_at_is_told_in_a_line(
    toy_yaml: Path, tmp_path: Path, setting: str
) -> None:
    breaks = "suite.options={crash: number}"
    with (
        Run(tmp_path / "run", load_config(toy_yaml, [breaks, setting]), quiet=True) as run,
        pytest.raises(SuiteError, match=r"the world of task \w+ broke .*the toy world fell over"),
    ):
        evolve(run)


def test_a_world_that_breaks_over_a_skill_proves_nothing(toy_yaml: Path, tmp_path: Path) -> None:
    config = load_config(toy_yaml, ["suite.options={crash: Square}"])
    with Run(tmp_path / "run", config, quiet=True) as run:
        found = {
            task.family: passes(run, task, "def skill(a):\n    print(a)", f"skill({answer!r})")
            for task in run.tasks("train")
            if (answer := str(task.data["answer"]))
        }
    assert found == {"double": True, "next": True, "square": False}


def test_a_path_that_is_none_is_told() -> None:
    with pytest.raises(ConfigError, match=r"'tidy' is no import path, package.module:function"):
        load_config("quickstart", ["update_memory.write.own=[tidy]"])


def test_the_documented_recipe_is_one_like_others(example: Path, toy_yaml: Path) -> None:
    found = recipe(str(example / "brevity.yaml"))
    assert found.phase == "feedback" and found.choices["feedback.by"] == ["brevity:brief"]
    assert found.description == "Brevity: of a task's right tries only the shortest is learnt from."
    shutil.rmtree(example / "__pycache__", ignore_errors=True)
    for by, says in (
        ("brevity:long", "feedback.by=brevity:long: cannot be imported: .*no attribute 'long'"),
        ("brevity:__doc__", "feedback.by=brevity:__doc__: is not a function"),
        ("nowhere:brief", "feedback.by=nowhere:brief: cannot be imported: No module named"),
    ):
        config = load_config(toy_yaml, [f"feedback.by={by}"])
        with (
            Run(example / "wrong", config, quiet=True) as opened,
            pytest.raises(ConfigError, match=says),
        ):
            evolve(opened)
        assert not (example / "wrong" / "generations").exists()  # said before anything is done
        shutil.rmtree(example / "wrong")
