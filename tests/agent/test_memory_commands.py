"""``instar memory``: what it tells of a run, as of any generation, and what it changes by hand."""

from __future__ import annotations

import html
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent.cli import main
from agent.report.memory import words
from agent.run import Run
from agent.run_folder import open_ledger
from agent.verify import verify
from memory import history
from memory.ledger import Ledger
from memory.lock import RunLock
from memory.records import Generation, Kind, MemoryItem, Note, Status, Trajectory
from tests.agent import remembered as run_of

COMMANDS = (
    "list", "show", "search", "why", "history", "timeline", "diff", "stats", "export", "import",
    "rebuild", "erase",
)  # fmt: skip


class Said(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory, toy_yaml: Path) -> Path:
    return run_of.write_run(tmp_path_factory.mktemp("written") / "run", toy_yaml)


@pytest.fixture
def mine(written: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return shutil.copytree(written, tmp_path / "mine")


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(sys, "path", [*sys.path])

    def go(*arguments: object) -> Said:
        group = [] if arguments[0] == "episodes" else ["memory"]
        monkeypatch.setattr(sys, "argv", ["instar", *group, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Said(ended.value.code if isinstance(ended.value.code, int) else 0, *said)

    return go


@pytest.fixture
def ask(call: Callable[..., Said]) -> Callable[..., Any]:
    def go(*arguments: object) -> Any:
        said = call(*arguments, "--json")
        assert (said.status, said.err) == (0, ""), said
        return json.loads(said.out)

    return go


# --- looking ---


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(call: Callable[..., Said], command: str) -> None:
    said = call(command, "--help")
    assert said.status == 0 and f"Example: instar memory {command}" in said.out


def test_list_is_as_the_generation_saw_it(ask: Callable[..., Any], written: Path) -> None:
    def statuses(*options: object) -> dict[str, str]:
        rows = ask("list", "--run", written, "--status", "all", *options)
        return {r["id"]: r["status"] for r in rows}

    assert statuses("--generation", 0) == {}
    first, now = statuses("--generation", 1), statuses()
    assert first[run_of.SQUARE.id] == "active" and now[run_of.SQUARE.id] == "absorbed"
    assert first[run_of.BAD.id] == "shadow" and now[run_of.BAD.id] == "quarantined"
    assert len(first) == 6 and len(now) == 9
    # Worth as measured until then, not as it is known today.
    for g, uses in ((1, 0), (2, 4)):
        (row,) = ask("list", "--run", written, "--generation", g, "--text", "NUMBER 12")
        assert (row["id"], row["uses"]) == (run_of.SQUARE.id, uses)
    assert (row["utility"], row["low"], row["high"]) == (0.31, 0.05, 0.57)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), ["SQUARE", "MERGED", "REVISED", "SKILL"]),
        (("--kind", "exemplar"), ["SQUARE"]),
        (("--kind", "exemplar", "--status", "all"), ["SQUARE", "DOUBLE"]),
        (("--status", "absorbed"), ["SQUARE"]),
        (("--status", "retired"), ["DOUBLE", "RULE_A", "RULE_B", "REFLECTION"]),
        (("--status", "active", "--kind", "skill"), ["SKILL"]),
        (("--family", "double", "--status", "all"), ["DOUBLE"]),
        (("--trust", "untrusted", "--status", "quarantined"), ["BAD"]),
        (("--born", "2"), ["MERGED", "REVISED", "SKILL"]),
        (("--min-uses", "1"), ["SQUARE"]),
        (("--text", "ignore the TASK", "--status", "all"), ["BAD"]),
        (("--text", "nowhere said"), []),
    ],
)
def test_filters(
    ask: Callable[..., Any], written: Path, options: tuple[str, ...], found: list[str]
) -> None:
    rows = ask("list", "--run", written, *options)
    assert {r["id"] for r in rows} == {getattr(run_of, name).id for name in found}


def test_show_and_history(
    ask: Callable[..., Any], call: Callable[..., Said], written: Path
) -> None:
    told = ask("show", run_of.MERGED.id[:6], "--run", written)
    assert told["parents"] == list(run_of.MERGED.parents) and told["status"] == "active"
    assert ask("show", run_of.SQUARE.id, "--run", written, "-g", 1)["status"] == "active"
    told = ask("history", run_of.SQUARE.id, "--run", written)
    assert [(c["generation"], c["status"]) for c in told["changes"]] == [
        (1, "active"), (2, "absorbed"),
    ]  # fmt: skip
    assert told["changes"][1]["because"] == [run_of.SAW.slot]
    assert told["adapters"] == ["a1"]
    assert [(u["episode"], u["success"]) for u in told["uses"]] == [(run_of.SAW.slot, True)]
    told = ask("history", run_of.RULE_A.id, "--run", written)
    assert [d["id"] for d in told["descendants"]] == [run_of.MERGED.id]
    told = ask("history", run_of.MERGED.id, "--run", written)
    assert [d["id"] for d in told["ancestors"]] == [run_of.RULE_A.id, run_of.RULE_B.id]
    page = call("history", run_of.SQUARE.id, "--run", written).out
    assert "the weights a1 do as well without it" in page and run_of.SAW.slot in page
    assert "+0.31 [+0.05, +0.57]" in call("show", run_of.SQUARE.id, "--run", written).out


def test_what_no_memory_holds_is_not_said_to_be_unused(
    ask: Callable[..., Any], call: Callable[..., Said], mine: Path
) -> None:
    hint = run_of.rule("Raise it to the second power.", 2, run_of.E[2], kind=Kind.DRAFT)
    slot = f"2/acquire/{run_of.TASKS[2]}/again"
    with Ledger(mine / "ledger.sqlite") as ledger:
        ledger.append(hint.id, hint)
        ledger.append(slot, run_of.episode(slot, "print(144)", recalled=(hint.id,)))
    told = ask("show", hint.id, "--run", mine)
    assert (told["status"], told["uses"], told["utility"]) == ("unknown", None, None)
    assert "this generation's memory has it not" in call("show", hint.id, "--run", mine).out
    assert "in 1 episode, 1 successful" in call("history", hint.id, "--run", mine).out
    assert ask("show", run_of.SQUARE.id, "--run", mine)["uses"] == run_of.WORTH.uses
    page = call("show", run_of.SQUARE.id, "--run", mine).out
    assert "shown in 4 episodes, 3 successful; utility" in page


def test_an_empty_list_says_what_there_is(call: Callable[..., Said], written: Path) -> None:
    def said(*options: object) -> str:
        return call("list", "--run", written, *options).out.strip()

    elsewhere = f"items stored that this generation's memory has not: {len(run_of.ITEMS)}"
    assert said("-g", 0) == f"the memory is empty; {elsewhere}"
    assert said("-g", 0, "--status", "all") == f"nothing passes; {elsewhere}"
    gone = "nothing passes; --status all looks at what is gone as well"
    assert said("--family", "double") == gone
    assert said("--text", "nowhere") == "nothing passes"


def test_why(ask: Callable[..., Any], call: Callable[..., Said], written: Path) -> None:
    told = ask("why", run_of.SAW.slot, "--run", written)
    (look,) = told["looks"]
    assert look["query"] == run_of.LOOK.query
    assert [(c["item"], c["verdict"]) for c in look["candidates"]] == [
        (run_of.SQUARE.id, "shown"), (run_of.DOUBLE.id, "tokens"),
    ]  # fmt: skip
    page = call("why", run_of.SAW.slot[:15], "--run", written).out
    assert run_of.SQUARE.text.splitlines()[1] in page and run_of.E[0].slot in page
    assert "0.81" in page and "tokens" in page
    assert "no look into memory is recorded" in call("why", run_of.E[0].slot, "--run", written).out


def test_episodes(ask: Callable[..., Any], call: Callable[..., Said], mine: Path) -> None:
    def slots(*options: object) -> list[str]:
        return [row["slot"] for row in ask("episodes", "--run", mine, *options)["rows"]]

    every = [t.slot for t in run_of.EPISODES]
    assert slots() == every[::-1]
    assert slots("--generation", 2, "--phase", "acquire") == [run_of.COPIED.slot, run_of.SAW.slot]
    assert slots("--split", "gate") == [run_of.MEASURED.slot]
    assert slots("--outcome", "wrong") == [run_of.E[2].slot]
    assert slots("--task", run_of.TASKS[0]) == [run_of.E[3].slot, run_of.E[0].slot]
    assert slots("--item", run_of.SQUARE.id[:6]) == [run_of.SAW.slot]
    assert slots("--family", "double", "--text", "number 9") == [run_of.COPIED.slot]
    out = call("episodes", "--run", mine, "--limit", 2).out.splitlines()
    assert len(out) == 3 and f"✓ {run_of.COPIED.slot}" in out[1]
    assert out[-1] == f"{len(every)} episodes, {len(every) - 1} successful; 2 shown (--limit)"
    for option, value, told in (
        ("--generation", 9, "0, 1, 2"),
        ("--family", "x", "double, square"),
    ):
        (line,) = call("episodes", "--run", mine, option, value).err.splitlines()
        assert f"{option} {value}: {mine} has no such episode" in line and told in line
    (line,) = call("episodes", "--run", mine, "--outcome", "odd").err.splitlines()
    assert "--outcome odd: must be one of success, wrong, error, broken" in line
    assert (
        "--phase odd: must be one of acquire, canary, probe, rewrite, composed, correction, gate, "
        "retention, test" in call("episodes", "--run", mine, "--phase", "odd").err
    )
    assert "must be one of train, gate" in call("episodes", "--run", mine, "--split", "odd").err
    assert "see `instar episodes`" in call("why", "nowhere", "--run", mine).err


def test_search(ask: Callable[..., Any], written: Path) -> None:
    rows = ask("search", "Square the number 12.", "--run", written, "--limit", 2)
    assert rows[0]["id"] == run_of.SQUARE.id and rows[0]["similarity"] > rows[1]["similarity"]
    rows = ask("search", "Square the number 12.", "--run", written, "--kind", "insight")
    assert rows and {r["kind"] for r in rows} == {"insight"}
    assert len(ask("search", "x", "--run", written, "-g", 1)) == 6
    assert not (written / "index").exists()  # looking builds nothing


def test_timeline(ask: Callable[..., Any], call: Callable[..., Said], written: Path) -> None:
    told = ask("timeline", "--run", written)
    assert [g["changes"] for g in told] == [
        {},
        {"added": 6},
        {
            "added": 1, "merged": 1, "revised": 1, "absorbed": 1, "retired": 1,
            "quarantined": 1, "replaced": 3,
        },
    ]  # fmt: skip
    assert told[2]["items"]["insight"] == {"retired": 2, "quarantined": 1, "active": 1}
    out = call("timeline", "--run", written).out
    assert "█" in out and "6 added" in out


def test_diff(ask: Callable[..., Any], call: Callable[..., Said], written: Path) -> None:
    told = ask("diff", 1, 2, "--run", written)
    groups = {e["id"]: e["group"] for e in told["entries"]}
    assert groups[run_of.MERGED.id] == "merged" and groups[run_of.RULE_A.id] == "replaced"
    out = call("diff", 1, 2, "--run", written).out
    lines = [line.strip() for line in out.splitlines()]
    assert f"~ {run_of.MERGED.id[:8]} insight · any family" in lines
    assert "It printed {+0 instead of+} the [-wrong thing.-]{+square.+}" in lines
    assert "+ print(square(12))" in lines and "- print(7 * 2)" in lines
    assert f"because of {run_of.SAW.slot}" in lines and "tasks failed with it" in lines
    last = "1 added, 1 merged, 1 revised, 1 absorbed, 1 retired, 1 quarantined, 3 replaced"
    assert lines[-1] == last
    assert lines.count(last) == 1 and out.count(run_of.REFLECTION.text) == 0  # its diff is shown
    assert not [line for line in out.splitlines() if line != line.rstrip()]  # for programs
    assert "nothing changed" in call("diff", 2, 2, "--run", written).out
    # The later one first: told forwards all the same, and said so.
    said, *back = call("diff", 2, 1, "--run", written).out.splitlines()
    assert said == "1 came before 2, so this is told from 1 to 2" and back == out.splitlines()
    assert ask("diff", 2, 1, "--run", written) == told


def test_words() -> None:
    assert words("a b c", "a x c").plain == "a [-b-]{+x+} c"
    assert words("", "new").plain == "{+new+}" and words("same", "same").plain == "same"


def test_stats(ask: Callable[..., Any], call: Callable[..., Said], written: Path) -> None:
    told = ask("stats", "--run", written)
    # What lives, as the list and the pages count it; by status alone all that is known.
    assert told["items"] == len(ask("list", "--run", written)) == 4
    assert told["uses"] == 4 and told["never_used"] == 3 / 4
    assert told["status"] == {
        "retired": 4, "active": 2, "absorbed": 1, "shadow": 1, "quarantined": 1,
    }  # fmt: skip
    assert told["by"]["trust"] == {"judged": 2, "verified": 2}
    assert [row["id"] for row in told["best"]] == [run_of.SQUARE.id]
    assert told["characters"] == sum(len(row["text"]) for row in ask("list", "--run", written))
    assert told["disk"]["ledger.sqlite"] > 0 and told["index"].startswith("none")
    out = call("stats", "--run", written).out
    # With so few there is no best and worst, only what was measured.
    assert (
        "4 living items" in out
        and "75% of the items never" in out
        and "measured" in out
        and "best" not in out
    )
    empty = call("stats", "--run", written, "-g", 0).out
    assert "0 living items" in empty and "used" not in empty and "kind" not in empty


@pytest.mark.parametrize("width", [80, 160])
def test_tables_keep_to_the_width(
    call: Callable[..., Said], written: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    for command in ("list", "timeline", "stats"):
        out = call(command, "--run", written).out
        assert out and "\x1b" not in out
        assert max(map(len, out.splitlines())) <= width, command


def test_colours(call: Callable[..., Said], written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    out = call("diff", 1, 2, "--run", written).out
    assert "\x1b[32m" in out and "\x1b[31m" in out and "\x1b[33m" in out


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("list", "--generation", 9), "no generation 9; it has 0 to 2"),
        (("list", "--kind", "poem"), "--kind poem: must be one of exemplar"),
        (("list", "--status", "gone"), "--status gone: must be one of living, shadow"),
        (("list", "--trust", "full"), "--trust full: must be one of verified"),
        (("show", "zzz"), "no such item"),
        (("show", ""), "no such item"),
        (("search", " "), "give a text to look for"),
        (("why", "9/acquire"), "no such episode"),
        (("why", "1/acquire"), "4 episodes begin so"),
        (("diff", 1, 9), "no generation 9"),
        (("export", "OUT", "--what", "all"), "--what all: must be one of items"),
        (("export", "OUT", "--split", "all"), "--split all: must be one of train"),
        (("export", "OUT", "--format", "csv"), "--format csv: must be one of jsonl"),
        (("import", "OUT"), "no such file"),
        (("erase",), "name an item or an episode"),
        (("erase", "zzz"), "no such item"),
    ],
)
def test_mistakes_are_one_line(
    call: Callable[..., Said], mine: Path, tmp_path: Path, command: tuple[Any, ...], says: str
) -> None:
    words_ = (tmp_path / "out" if word == "OUT" else word for word in command)
    said = call(*words_, "--run", mine)
    (line,) = said.err.splitlines()
    assert said.status == 2 and line.startswith("instar: ") and says in line


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ("import",)])
def test_folders_that_are_no_runs(call: Callable[..., Said], tmp_path: Path, command: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "diff": (0, 1), "show": ("a",), "search": ("a",), "why": ("a",), "history": ("a",),
        "export": (tmp_path / "out",), "erase": ("a",),
    }  # fmt: skip
    said = call(command, *arguments.get(command, ()), "--run", tmp_path / "nowhere")
    assert said.status == 2 and "is no run folder" in said.err, said
    assert list(tmp_path.iterdir()) == []


def test_remembered_text_does_not_steer_the_terminal(
    call: Callable[..., Said], ask: Callable[..., Any], mine: Path, tmp_path: Path
) -> None:
    file = tmp_path / "evil.jsonl"
    text = "\x1b]0;owned\x07\x1b[2Jgone \x9b31m[bold]x[/bold]"
    file.write_text(json.dumps({"kind": "fact", "text": text}))
    (id_,) = ask("import", file, "--run", mine)["imported"]
    commands = (("list",), ("show", id_), ("history", id_), ("diff", 2, 3), ("search", "gone"))
    for command in commands:
        out = call(*command, "--run", mine).out
        assert "gone" in out and not {"\x1b", "\x07", "\x9b"} & set(out), command
        assert "[bold]" in out  # nor is it read as markup
    assert ask("show", id_, "--run", mine)["text"] == text


# --- changing ---


def test_rebuild(call: Callable[..., Said], ask: Callable[..., Any], mine: Path) -> None:
    assert ask("rebuild", "--run", mine)["items"] == 9
    (first,) = (mine / "index").glob("chroma-*")
    assert ask("rebuild", "--run", mine)["items"] == 9
    (second,) = (mine / "index").glob("chroma-*")
    assert first.name != second.name
    _, problems = verify(mine)
    assert not [p for p in problems if "index" in p]
    with RunLock(mine):
        said = call("rebuild", "--run", mine)
    assert said.status == 1 and "in use by process" in said.err


def test_export_says_what_it_leaves_out(
    call: Callable[..., Said], mine: Path, tmp_path: Path
) -> None:
    said = call("export", tmp_path / "out", "--run", mine)
    assert "left out" in said.out and "1 of gate" in said.out
    chat = (tmp_path / "out" / "chat.jsonl").read_text()
    assert chat.count("\n") == 5 and run_of.GATE[0] not in chat
    said = call("export", tmp_path / "gate", "--run", mine, "--split", "gate")
    assert "of train (--split NAME); only train" in said.out
    said = call("export", tmp_path / "out", "--run", mine, "--split", "gate", "--split", "train")
    assert "training on them voids the measure" in said.out
    assert run_of.GATE[0] in (tmp_path / "out" / "chat.jsonl").read_text()


def test_import_enters_on_trial(
    ask: Callable[..., Any], call: Callable[..., Said], mine: Path, tmp_path: Path
) -> None:
    file = tmp_path / "rules.jsonl"
    rule = {"kind": "insight", "text": "Read the task twice.", "trust": "verified"}
    poison = {"kind": "insight", "text": run_of.BAD.text}
    file.write_text("\n".join(map(json.dumps, (rule, poison))))
    told = ask("import", file, "--run", mine)
    assert (told["read"], told["known"], told["generation"]) == (2, 1, 3)
    (id_,) = told["imported"]  # what was quarantined does not come in by this door
    assert told["trust"] == {id_: "untrusted"}
    (row,) = ask("list", "--run", mine, "--text", "twice")
    assert (row["status"], row["made"], row["born"]) == ("shadow", "imported", 3)
    with open_ledger(mine) as ledger:
        last = ledger.last(Generation)
        assert last is not None and last[1].decision == "import"
        assert (last[1].parent, last[1].weights) == (2, "a1")
        note = ledger.get(Note, "import/3")
        assert note is not None and set(note.data["items"]) == {id_}  # type: ignore[arg-type]
        active = {i.id for i in history.items(ledger, last[1].memory)}
        assert active == {i.id for i in history.items(ledger, run_of.S2.id)}
    _, problems = verify(mine)
    assert not [p for p in problems if "adapter" not in p and "index" not in p], problems
    assert ask("import", file, "--run", mine)["imported"] == []  # nothing new, nothing done
    assert "0 of 2 items imported, 2 known" in call("import", file, "--run", mine).out
    assert [g["decision"] for g in ask("timeline", "--run", mine)][-1] == "import"


def test_import_takes_all_or_nothing(call: Callable[..., Said], mine: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.jsonl"
    held_out = {"kind": "insight", "text": "x", "tasks": [run_of.GATE[0]]}
    file.write_text(json.dumps({"kind": "insight", "text": "y"}) + "\n" + json.dumps(held_out))
    said = call("import", file, "--run", mine)
    assert said.status == 2 and "line 2: tasks:" in said.err and "held out" in said.err
    with open_ledger(mine) as ledger:
        assert ledger.count(MemoryItem) == 9 and ledger.count(Generation) == 3


def test_what_one_run_exports_another_takes_in(
    ask: Callable[..., Any], mine: Path, tmp_path: Path, toy_yaml: Path
) -> None:
    ask("export", tmp_path / "out", "--run", mine)
    other = tmp_path / "other"
    shutil.copytree(mine, other)
    with Ledger(other / "new.sqlite") as ledger:  # the same run, but nothing learnt yet
        start = run_of.GENERATIONS[0]
        ledger.append("000000", start)
    for old in other.glob("ledger.sqlite*"):
        old.unlink()
    (other / "new.sqlite").rename(other / "ledger.sqlite")
    told = ask("import", tmp_path / "out", "--run", other, "--vouch")
    trust = sorted(told["trust"].values())
    assert len(told["imported"]) == 9 and trust.count("verified") == 3
    with open_ledger(other) as ledger:
        for _, item in ledger.all(MemoryItem):
            assert item.tasks and not item.sources  # never recalled for its own task


# --- erasing ---


def holding(folder: Path, text: str) -> list[Path]:
    """Files of a folder that hold a text, as it is or escaped for JSON or HTML."""
    forms = {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    forms |= {html.escape(form) for form in forms}
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and any(form.encode() in path.read_bytes() for form in forms)
    ]


def test_erase_shows_first(call: Callable[..., Said], ask: Callable[..., Any], mine: Path) -> None:
    before = {p: p.read_bytes() for p in mine.rglob("*") if p.is_file() and p.name != ".lock"}
    told = ask("erase", run_of.DOUBLE.id, "--run", mine)
    assert told["erased"] is False and told["items"] == [run_of.DOUBLE.id]
    assert set(told["episodes"]) == {run_of.E[1].slot, run_of.COPIED.slot}
    assert told["adapters"] == ["a1"]
    said = call("erase", run_of.DOUBLE.id, "--run", mine)
    assert "nothing is erased yet" in said.out and "cannot forget them: a1" in said.out
    said = call("erase", "--text", "nowhere said", "--run", mine)
    assert said.out == "nothing says this, so there is nothing to erase\n"
    assert run_of.SQUARE.id in ask("erase", run_of.SQUARE.id, "--run", mine)["items"]
    # It is absorbed: no prompt loses it.
    assert run_of.SQUARE.id not in ask("erase", run_of.SQUARE.id, "--run", mine)["active"]
    now = {p: p.read_bytes() for p in before}
    assert now == before


def test_erased_text_is_in_no_file(ask: Callable[..., Any], mine: Path) -> None:
    canary = "zanzibar"
    ask("rebuild", "--run", mine)
    (mine / "report.html").write_text(f"<p>{canary}</p>")
    (mine / "summary.json").write_text(json.dumps({"x": canary}))
    assert holding(mine, canary)
    (old,) = (mine / "index").glob("chroma-*")
    told = ask("erase", run_of.DOUBLE.id, "--run", mine, "--yes")
    assert told["erased"] and sorted(told["files"]) == ["report.html", "summary.json"]
    assert holding(mine, canary) == [] and holding(mine, run_of.DOUBLE.text) == []
    assert not old.exists() and len(list((mine / "index").glob("chroma-*"))) == 1
    counts, problems = verify(mine)
    assert counts["records erased"] >= 3
    assert not [p for p in problems if "adapter" not in p], problems
    # Every reader goes on.
    (row,) = [
        r for r in ask("list", "--status", "all", "--run", mine) if r["id"] == run_of.DOUBLE.id
    ]
    assert (row["status"], row["text"]) == ("retired", "erased")
    (row,) = [
        r
        for r in ask("list", "--status", "all", "--run", mine, "-g", 1)
        if r["id"] == run_of.DOUBLE.id
    ]
    assert row["status"] == "retired"
    assert ask("stats", "--run", mine)["stored"]["erased_items"] == 1
    for command in (("timeline",), ("diff", 0, 2), ("history", run_of.DOUBLE.id)):
        ask(*command, "--run", mine)
    assert ask("why", run_of.COPIED.slot, "--run", mine)["end"] == "erased"


@pytest.mark.parametrize("canary", ['say "zanzibär"', "tab\tzanzibär & <b>", "line\nzanzibär"])
def test_by_text_in_every_form(
    ask: Callable[..., Any], written: Path, tmp_path: Path, canary: str
) -> None:
    folder = shutil.copytree(written, tmp_path / "own")
    with Ledger(folder / "ledger.sqlite") as ledger:
        told = run_of.episode(f"3/acquire/{run_of.TASKS[5]}/0", f"# {canary}", "x")
        item = run_of.exemplar(told, 3)
        ledger.append_many([(told.slot, told), (item.id, item)])
    (folder / "summary.json").write_text(json.dumps({"said": canary}))
    (folder / "report.html").write_text(html.escape(canary))
    assert len(holding(folder, canary)) >= 3
    shown = ask("erase", "--text", canary, "--run", folder, "--yes")
    assert shown["items"] == [item.id] and shown["episodes"] == [told.slot]
    assert holding(folder, canary) == [] and shown["left"] == []


def test_a_real_run_goes_on_after_an_erasure(
    copied: Path, evolve_toy: Callable[..., dict[str, Any]], ask: Callable[..., Any]
) -> None:
    before = evolve_toy(copied)
    with open_ledger(copied) as ledger:
        last = ledger.last(Generation)
        assert last is not None
        item = history.items(ledger, last[1].memory)[0]
    told = ask("erase", item.id, "--run", copied, "--yes")
    assert item.id in told["items"]
    assert holding(copied, item.text) == []
    counts, problems = verify(copied)
    assert problems == [] and counts["records erased"] > 0
    after = evolve_toy(copied)  # a finished run tells the same again
    assert after["test"] == before["test"] and after["tokens"] == before["tokens"]
    evolve_toy(copied, "generations=3")
    with open_ledger(copied) as ledger:
        last = ledger.last(Generation)
        assert last is not None and last[1].n == 3
        state = history.state(ledger, last[1].memory)
        assert state[item.id].status is Status.RETIRED
        erased = ledger.erased(Trajectory)
        assert erased and all(ledger.get(Trajectory, slot) is not None for slot in erased)
    assert verify(copied)[1] == []


def test_run_opens_after_an_import(mine: Path, ask: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "rules.jsonl"
    file.write_text('{"kind": "fact", "text": "So it is."}\n')
    (id_,) = ask("import", file, "--run", mine)["imported"]
    with Run(mine, quiet=True) as run:
        assert id_ in run.memory.index.ids()
        assert run.roll_back(0).n == 4
