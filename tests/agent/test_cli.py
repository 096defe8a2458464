"""The command: help, mistakes in one line, JSON, and acting without learning."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from agent.cli import main
from agent.config import load_config, recipes
from agent.idle import idle, overruled
from agent.run_folder import open_ledger
from agent.training.adapter import read_manifest
from environments.suites import SUITES
from memory.records import Generation, Kind, MemoryItem, Note, Trajectory

Instar = Callable[..., Any]

COMMANDS = (
    ("evolve",),
    ("run",),
    ("generations",),
    ("episodes",),
    ("rollback",),
    ("verify",),
    ("suites",),
    ("check",),
    ("new-env",),
    ("doctor",),
    ("view",),
    *(("adapters", name) for name in ("list", "show", "merge", "export", "prune")),
    *(
        ("memory", name)
        for name in (
            "list",
            "show",
            "search",
            "why",
            "history",
            "timeline",
            "diff",
            "stats",
            "export",
            "import",
            "rebuild",
            "erase",
        )
    ),
    ("recipes",),
    ("recipes", "show"),
)


class Said(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """The command in this process: quicker than one of its own."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # the command sets it: undone afterwards
    monkeypatch.setattr(sys, "path", [*sys.path])

    def go(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["instar", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        status = ended.value.code
        return Said(status if isinstance(status, int) else 0, captured.out, captured.err)

    return go


def check_line(said: Said, status: int = 2) -> str:
    """One line on standard error, beginning with the program's name."""
    assert said.status == status, said
    (line,) = said.err.splitlines()
    assert line.startswith("instar: ") and "Traceback" not in said.out + said.err
    return line


# --- help ---


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_an_example(call: Callable[..., Said], command: tuple[str, ...]) -> None:
    said = call(*command, "--help")
    assert said.status == 0
    assert f"Example: instar {' '.join(command)}" in said.out


def test_help_lists_every_command(call: Callable[..., Said], instar: Instar) -> None:
    said = instar("--help")  # as users call it
    assert said.returncode == 0 and said.stderr == ""
    for command in COMMANDS:
        assert command[0] in said.stdout
    assert call().status != 0  # no command is no success


# --- mistakes ---


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("acquire.sampels=3", ("unknown key acquire.sampels", "did you mean samples?")),
        ("policies.model=x", ("unknown key policies", "did you mean policy?")),
        ("xyzzy=1", ("unknown key xyzzy", "known keys:", "generations")),
        ("generations=many", ("generations", "integer", "'many'")),
        ("generations=0", ("generations", "greater than or equal to 1", "0")),
        ("suite.tasks.train=-1", ("suite.tasks.train", "greater than or equal to 1")),
        ("policy.engine=vllm9", ("policy.engine", "'transformers'", "'vllm9'")),
        ("objective.follow={propose: regret}", ("must be a list, as [{'propose': 'regret'}]",)),
        ("objective.follow=[{propos: regret}]", ("follow.0.propos (did you mean propose?)",)),
        ("acquire.temperatures=0.3", ("acquire.temperatures: must be a list, as [0.3]",)),
        ("acquire=3", ("acquire is a group of settings, as acquire.",)),
        ("feedback=self-judge", ("feedback is a group of settings, as feedback.by",)),
        ("generations.x=3", ("generations", "not a group of keys")),
        ("=3", ("'=3'", "write key=value")),
        ("nonsense", ("nonsense", "no such file, and no such recipe")),
        ("expell", ("no such recipe (did you mean expel?)",)),
        ("gsm8k", ("no such recipe (it is a suite: --suite gsm8k)",)),
        ("feedback.by=judge", ("toy.yaml: feedback.by=judge needs feedback.judge.url",)),
        ("acquire.generate.teacher.url=http://a", ("needs acquire.generate.teacher.model",)),
        ("seed=[1", ("'seed=[1'", "not valid YAML")),
        ("suite={seconds: 1, seconds: 2}", ("the key seconds stands twice in one group",)),
        (f"seed={'[' * 3000}", ("not valid YAML",)),
        ("suite.name=no-such-suite", ("unknown suite 'no-such-suite'", "reasoning-gym")),
        ("suite.name=tests.toy:Nope", ("tests.toy", "'Nope'", "ToySuite")),
        ("suite.name=no.such.module:X", ("cannot import 'no.such.module'",)),
        ("suite.options.colour=red", ("unknown option 'colour'", "per_family")),
        ("suite.options.per_family=many", ("option per_family", "integer")),
        ("suite.options.per_family=0", ("no tasks in split",)),
        ("policy.model=tests.toy:nope", ("tests.toy:nope", "module:function")),
        ("sandbox.backend=cage", ("unknown sandbox 'cage'", "bubblewrap")),
        ("memory.embedder=nope", ("unknown embedder 'nope'", "hash")),
    ],
)
def test_configurations_that_cannot_be_used(
    call: Callable[..., Said], toy_yaml: Path, tmp_path: Path, override: str, says: tuple[str, ...]
) -> None:
    line = check_line(call("evolve", toy_yaml, override, "--run", tmp_path / "run"))
    assert not [part for part in says if part not in line], line
    assert not (tmp_path / "run").exists()  # nothing was begun


def test_all_mistakes_are_told_at_once(
    call: Callable[..., Said], toy_yaml: Path, tmp_path: Path
) -> None:
    said = call("evolve", toy_yaml, "sed=1", "generations=0", "--run", tmp_path / "run")
    line = check_line(said)
    assert "did you mean seed?" in line and "generations" in line
    assert not (tmp_path / "run").exists()  # nothing was begun


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (None, "no such recipe (the recipes are listed by: instar recipes)"),
        ("a: [1", "is not valid YAML: line 1: expected ',' or ']'"),
        ("seed: 1\nseed: 2", "line 2: the key seed stands twice in one group"),
        ("suite: {name: mbpp}\nseed: 1\nsuite: {seconds: 3}", "line 3: the key suite stands twice"),
        ("? [a, b]\n: 1", "is not valid YAML: line 1: found unhashable key"),
        (f"a: {'[' * 3000}", "is not valid YAML"),
        ("- 1\n- 2\n", "must hold keys and values"),
        ("", "must hold keys and values"),
        ("generations: 2\nsede: 1\n", "did you mean seed?"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_files_that_cannot_be_used(
    call: Callable[..., Said], tmp_path: Path, body: str | bytes | None, says: str
) -> None:
    file = tmp_path / "mine.yaml"
    if body is not None:
        file.write_bytes(body if isinstance(body, bytes) else body.encode())
    line = check_line(call("evolve", file, "--run", tmp_path / "run"))
    assert str(file) in line and says in line


@pytest.fixture
def wordy_model(tmp_path: Path) -> Path:
    """A whole model folder, but of a model that completes text and does not chat."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    head = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (folder / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + b"\0" * 4)
    return folder


def test_models_that_cannot_be_used(
    call: Callable[..., Said], toy_yaml: Path, tmp_path: Path, wordy_model: Path
) -> None:
    for model, says in (
        (tmp_path / "nowhere", "there is no model"),
        (wordy_model, "is no chat model: its tokenizer has no chat template"),
        (toy_yaml, "is a file"),
    ):
        overrides = ("policy.engine=transformers", f"policy.model={model}")
        line = check_line(call("evolve", toy_yaml, *overrides, "--run", tmp_path / "run"))
        assert str(model) in line and says in line
        assert not (tmp_path / "run").exists()
    # Nor does a mistake use up a folder that was there: the corrected command works in it.
    (tmp_path / "run").mkdir()
    said = call("evolve", toy_yaml, "sandbox.backend=cage", "--run", tmp_path / "run")
    assert "cage" in check_line(said)


def test_a_server_that_cannot_start_leaves_its_log(
    call: Callable[..., Said], toy_yaml: Path, tmp_path: Path
) -> None:
    """The error names it; a folder without one is taken back."""
    server, folder = tmp_path / "bin" / "python", tmp_path / "run"
    server.parent.mkdir()
    vllm = ("policy.engine=vllm", "policy.model=default", f"policy.vllm.python={server}")
    for says in ("", "there is no room"):
        server.write_text(f"#!/bin/sh\n{says and f'echo {says}'}\nexit 1\n")
        server.chmod(0o755)
        said = call("evolve", toy_yaml, *vllm, "--run", folder)
        assert said.status == 1 and f"(log: {folder / 'engine.log'})" in said.err
        assert folder.exists() == bool(says)
    assert "there is no room" in (folder / "engine.log").read_text()
    call("evolve", toy_yaml, "generations=1", "test.run=false", "--run", folder)
    assert (folder / "summary.json").is_file()  # and the corrected command works in it


@pytest.mark.parametrize("how", ["named", "absent"])
def test_missing_sandbox_program(
    call: Callable[..., Said],
    toy_yaml: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    if how == "named":
        monkeypatch.setenv("INSTAR_BWRAP", "/no/where/bwrap")
    else:
        monkeypatch.delenv("INSTAR_BWRAP", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.chdir(tmp_path)  # nor where `make setup` puts it
    line = check_line(call("evolve", toy_yaml, "--run", tmp_path / "run"))
    assert "bwrap" in line and "install" in line


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("run", "--generation", 9, "--run", "RUN"), "no generation 9; it has 0 to 2"),
        (("rollback", 9, "--run", "RUN"), "no generation 9; it has 0 to 2"),
        (("memory", "list", "--generation", 9, "--run", "RUN"), "no generation 9; it has 0 to 2"),
        (("memory", "list", "--kind", "poem", "--run", "RUN"), "must be one of exemplar"),
        (("memory", "show", "zzz", "--run", "RUN"), "no such item"),
        (("memory", "show", "", "--run", "RUN"), "no such item"),
        (("run", "--memory", "maybe", "--run", "RUN"), "must be on or off"),
        (("run", "--split", "all", "--run", "RUN"), "must be one of train, gate, retention, test"),
        (("run", "no-such-suite", "--run", "RUN"), "unknown suite 'no-such-suite'"),
        (("run",), "name a suite"),
        (("run", "reasoning-gym", "--generation", 1), "--generation needs the run"),
        (("evolve", "seed=7", "--run", "RUN"), "begun with another configuration (seed differ)"),
        (("evolve", "generations=many", "--run", "RUN"), "generations"),
    ],
)
def test_questions_that_have_no_answer(
    call: Callable[..., Said], evolved: Path, command: tuple[Any, ...], says: str
) -> None:
    assert says in check_line(call(*(evolved if word == "RUN" else word for word in command)))


@pytest.mark.parametrize(
    "command",
    [
        ("run", "--run"),
        ("generations", "--run"),
        ("episodes", "--run"),
        ("rollback", 1, "--run"),
        ("verify",),
        ("memory", "list", "--run"),
        ("memory", "show", "a", "--run"),
        ("memory", "search", "a", "--run"),
    ],
)
def test_folders_that_are_no_runs(
    call: Callable[..., Said], tmp_path: Path, command: tuple[Any, ...]
) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        line = check_line(call(*command, folder))
        assert f"{folder} is no run folder" in line
    assert list(tmp_path.iterdir()) == []  # asking makes nothing


def test_options_of_the_wrong_type(call: Callable[..., Said]) -> None:
    for command in (("run", "--limit", "0"), ("rollback", "one"), ("evolve", "--nope")):
        said = call(*command)
        assert said.status == 2 and "Traceback" not in said.err and said.err


def test_mistakes_look_the_same_from_a_shell(
    instar: Instar, toy_yaml: Path, tmp_path: Path
) -> None:
    done = instar("evolve", toy_yaml, "generations=0", "--run", tmp_path / "run")
    assert "generations" in check_line(Said(done.returncode, done.stdout, done.stderr))


# --- JSON ---


@pytest.fixture
def call_json(call: Callable[..., Said]) -> Callable[..., Any]:
    def go(*arguments: object) -> Any:
        said = call(*arguments, "--json")
        assert (said.status, said.err) == (0, "")
        return json.loads(said.out)

    return go


def test_evolve_json(instar_json: Callable[..., Any], toy_yaml: Path, copied: Path) -> None:
    """From a shell, in a process of its own; a finished run tells its summary again."""
    summary = instar_json("evolve", toy_yaml, "--run", copied)
    assert summary == json.loads((copied / "summary.json").read_text())
    assert summary["test"]["both"]["mean"] == 1


def test_generations_json(call_json: Callable[..., Any], evolved: Path) -> None:
    told = call_json("generations", "--run", evolved)
    with open_ledger(evolved) as ledger:
        assert [Generation.model_validate(g) for g in told] == [
            g for _, g in ledger.all(Generation)
        ]


def test_rollback_json(call_json: Callable[..., Any], copied: Path) -> None:
    told = call_json("rollback", 0, "--run", copied)
    assert (told["n"], told["decision"], told["weights"], told["memory"]) == (
        3, "rollback", "base", "",
    )  # fmt: skip
    assert [g["n"] for g in call_json("generations", "--run", copied)] == [0, 1, 2, 3]


def test_verify_json(call: Callable[..., Said], copied: Path) -> None:
    good = call("verify", copied, "--json")
    assert good.status == 0 and json.loads(good.out)["ok"] is True
    (copied / "generations" / "001" / "generation.json").unlink()
    bad = call("verify", copied, "--json")
    told = json.loads(bad.out)
    assert bad.status == 1 and told["ok"] is False and len(told["problems"]) == 1
    assert "PROBLEM" in call("verify", copied).out


def test_suites_and_doctor_json(call_json: Callable[..., Any]) -> None:
    assert "reasoning-gym" in [suite["name"] for suite in call_json("suites")]
    findings = call_json("doctor")
    assert {"bubblewrap", "torch", "default model"} <= {finding["name"] for finding in findings}


# --- memory ---


def test_memory_list(
    call_json: Callable[..., Any], call: Callable[..., Said], evolved: Path
) -> None:
    rows = call_json("memory", "list", "--run", evolved)
    with open_ledger(evolved) as ledger:
        assert {row["id"] for row in rows} == set(ledger.keys(MemoryItem))
    assert {row["status"] for row in rows} <= {"shadow", "active", "absorbed", "retired"}
    first = call_json("memory", "list", "--run", evolved, "--generation", 1)
    assert 0 < len(first) < len(rows) and all(row["born"] == 1 for row in first)
    assert call_json("memory", "list", "--run", evolved, "--generation", 0) == []
    some = call_json("memory", "list", "--run", evolved, "--kind", "reflection")
    assert {row["kind"] for row in some} == {"reflection"}
    some = call_json("memory", "list", "--run", evolved, "--family", "square")
    assert {row["family"] for row in some} == {"square"}
    shown = call("memory", "list", "--run", evolved).out
    assert all(row["id"][:8] in shown for row in rows)
    assert "empty" in call("memory", "list", "--run", evolved, "--generation", 0).out


def test_memory_show(
    call_json: Callable[..., Any], call: Callable[..., Said], evolved: Path
) -> None:
    (item, *_) = call_json("memory", "list", "--run", evolved, "--kind", "exemplar")
    told = call_json("memory", "show", item["id"][:6], "--run", evolved)
    assert told["id"] == item["id"] and told["trust"] == "verified"
    assert told["sources"] and told["tasks"] and told["content"]["turns"]
    assert [entry["generation"] for entry in told["history"]] == [1, 2]
    shown = call("memory", "show", item["id"], "--run", evolved).out
    assert item["id"] in shown and told["sources"][0] in shown


def test_memory_search(
    call_json: Callable[..., Any], call: Callable[..., Said], evolved: Path
) -> None:
    rows = call_json("memory", "search", "Square the number 33.", "--run", evolved, "--limit", 3)
    assert len(rows) == 3 and rows[0]["family"] == "square"
    likeness = [row["similarity"] for row in rows]
    assert likeness == sorted(likeness, reverse=True) and likeness[0] > 0.5
    assert "square" in call("memory", "search", "Square the number 33.", "--run", evolved).out


# --- acting ---


def test_run_acts_without_learning(call_json: Callable[..., Any], evolved: Path) -> None:
    with open_ledger(evolved) as ledger:
        before = [ledger.count(kind) for kind in (Trajectory, MemoryItem, Generation, Note)]
    best = call_json("run", "--run", evolved)
    assert best["success"]["mean"] == 1 and best["success"]["n"] == 12 and best["broken"] == 0
    assert best["suite"] == "tests.toy:ToySuite" and best["weights"] != "base" and best["memory"]
    assert best["families"] == {"double": 1, "next": 1, "square": 1} and best["tokens"] > 0
    first = call_json("run", "tests.toy:ToySuite", "--run", evolved, "--generation", 1)
    assert sorted(first["families"].values()) == [0, 1, 1]
    start = call_json("run", "--run", evolved, "--generation", 0, "--split", "gate")
    assert start["success"]["mean"] == 0 and start["weights"] == "base"
    bare = call_json("run", "--run", evolved, "--memory", "off", "--limit", 4)
    assert bare["memory"] == "" and bare["success"]["n"] == 4
    assert len(bare["families"]) == 3  # taken from all families in turn
    with open_ledger(evolved) as ledger:
        after = [ledger.count(kind) for kind in (Trajectory, MemoryItem, Generation, Note)]
    assert after == before


def test_run_prints_a_table(call: Callable[..., Said], evolved: Path) -> None:
    said = call("run", "--run", evolved, "--limit", 3)
    assert said.status == 0 and "on 3 tasks" in said.out and "square" in said.out


def test_evolve_prints_what_happens(
    call: Callable[..., Said], toy_yaml: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    said = call("evolve", toy_yaml, "generations=1", "update_weights.kto.beta=9", "--run", folder)
    assert (said.status, said.err) == (0, "")
    for part in ("generation 1", "weights new", "promoted", "best of", "report.html", "acquire"):
        assert part in said.out
    spoken = next(line for line in said.out.splitlines() if "reflection" in line)
    assert "success" not in spoken, "what is said is no try"
    assert "update_weights.kto.beta has no effect: update_weights.objective is sft" in said.out
    # Given again with more to do, and nothing but that, it goes on with what is stored.
    more = call("evolve", "generations=2", "--run", folder)
    assert more.status == 0 and "generation 2" in more.out
    assert yaml.safe_load((folder / "config.yaml").read_text())["generations"] == 2
    assert call("generations", "--run", folder).out.count("promoted") == 2


@pytest.mark.parametrize(
    ("settings", "without"),
    [
        (["update_weights.dpo.beta=0.3"], "dpo.beta"),
        (["update_weights.dpo={beta: 0.3}"], "dpo has"),
        (["update_weights.dpo.beta=0.3", "update_weights.objective=dpo"], ""),
        (["update_weights.dpo.beta=0.3", "update_weights.verifier.enabled=true"], ""),
        (["update_weights.enabled=false"], ""),
        (["update_weights={enabled: false}"], ""),
        (["update_weights.enabled=false", "update_weights.rank=4"], "rank"),
        (["update_memory.enabled=false", "update_memory.write.skills={}"], "skills"),
        (["policy.vllm.restarts=1"], "restarts"),
        (["policy.engine=vllm-offline", "policy.vllm.adapters=3"], ""),
        (["acquire.explore=false", "acquire.hot_tokens=2"], "hot_tokens"),
        (["acquire.hot_tokens=2"], ""),
        (["acquire.generate.documents=texts"], "acquire.generate.how is none"),
        (["acquire.generate.how=tools", "acquire.generate.passage=90"], "passage"),
        (["acquire.generate.how=my:own", "acquire.generate.passage=90"], ""),
        (["acquire.generate={how: none, count: 3}"], ""),
        (["acquire.generate.apart.rouge=0.9"], ""),
        (["acquire.solve.views=4"], "acquire.solve.how is sample"),
        (["acquire.solve.how=debate", "acquire.solve.rounds=4"], ""),
        (["acquire.carried=1"], "acquire.retries is 0"),
        (["acquire.carried=1", "acquire.retries=2"], ""),
        (["feedback.passes=0.5"], "feedback.by is environment"),
        (["feedback.passes=0.5", "feedback.by=self-judge"], ""),
        (["refine.rounds=2"], "refine.correct is none"),
        (["refine.correct=none"], ""),
        (["evaluate.tasks=3"], "evaluate.judge is none"),
        (["evaluate.judge=self", "evaluate.rounds=3"], "evaluate.how is alone"),
        (["rollouts.workers=3"], "rollouts.runner is local"),
        (["rollouts={runner: local, workers: 3}"], ""),
        (["test.run=false", "test.best_of_max=3"], "test.run is false"),
        (["generations=2"], ""),
    ],
)
def test_what_does_nothing_is_told(settings: list[str], without: str) -> None:
    told = idle(load_config("quickstart", settings), settings)
    assert [without in line for line in told] == ([True] if without else [])


@pytest.mark.parametrize(
    ("recipes", "settings", "told"),
    [
        (["expel", "rest-em"], [], [("expel", "update_memory"), ("rest-em", "update_weights")]),
        (["rest-em", "expel"], ["update_memory.enabled=true"], [("rest-em", "update_weights")]),
        (["banking77", "rft"], [], []),  # a suite's recipe suits any method
        (["star", "warm"], [], []),
    ],
)
def test_methods_that_switch_each_other_off_are_told(
    recipes: list[str], settings: list[str], told: list[tuple[str, str]]
) -> None:
    lines = overruled(load_config(recipes, settings), recipes)
    assert len(lines) == len(told)
    for line, (recipe, group) in zip(lines, told, strict=True):
        assert line.startswith(f"what {recipe} sets for {group} has no effect")
        assert f"{group}.enabled=true" in line


def test_a_configuration_that_is_gone(call: Callable[..., Said], copied: Path) -> None:
    (copied / "config.yaml").unlink()
    line = check_line(call("evolve", "quickstart", "--run", copied))
    assert "config.yaml is gone" in line and "restore it" in line
    assert not (copied / "config.yaml").exists()


def test_prompts_that_do_not_fit(call: Callable[..., Said], toy_yaml: Path, tmp_path: Path) -> None:
    said = call("evolve", toy_yaml, "policy.context=410", "--run", tmp_path / "run")
    line = check_line(said, status=1)
    assert "30 of 30 prompts leave no room" in line and "policy.context=410" in line


# --- broken worlds ---


def test_a_world_that_always_breaks_stops_the_run(
    call: Callable[..., Said], toy_yaml: Path, tmp_path: Path
) -> None:
    crash = "suite.options={per_family: 90, crash: number}"
    line = check_line(call("evolve", toy_yaml, crash, "--run", tmp_path / "run"), status=1)
    assert "30 of 30 episodes broke" in line and "the environment" in line
    assert "the toy world fell over" in line and "run the same command again" in line
    with open_ledger(tmp_path / "run") as ledger:
        broken = [t for _, t in ledger.all(Trajectory)]
        assert len(broken) == 30 and all(t.failure and not t.success for t in broken)
        assert ledger.count(Generation) == 0


def test_broken_episodes_are_data_and_teach_nothing(
    call: Callable[..., Said], toy_yaml: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    crash = "suite.options={per_family: 90, crash: Double}"
    said = call("evolve", toy_yaml, crash, "acquire.samples=6", "--run", folder, "generations=1")
    assert (said.status, said.err) == (0, "")
    with open_ledger(folder) as ledger:
        every = [t for _, t in ledger.all(Trajectory)]
        broken = {t.slot for t in every if t.failure}
        assert broken == {t.slot for t in every if t.family == "double"}
        assert any(slot.startswith("1/acquire/") for slot in broken)
        for t in every:
            if t.failure:
                assert t.failure.source == "environment" and t.stop == "failed"
                assert "fell over" in t.failure.message and not t.success and not t.steps
        items = [item for _, item in ledger.all(MemoryItem)]
        assert items and not broken & {slot for item in items for slot in item.sources}
        (_, last) = ledger.last(Generation) or (None, None)
        assert (
            last is not None and last.decision == "promoted" and "double" not in last.families
        )  # nothing is known of it
        assert "10 gate tasks left out because an episode broke" in last.reason
        assert last.objective["double"] > 0
    manifest = read_manifest(folder / "generations" / "001" / "adapter")
    assert manifest["sources"] and not broken & set(manifest["sources"])
    assert call("verify", folder).status == 0


def test_what_broke_is_tried_again_when_the_run_goes_on(
    call: Callable[..., Said], toy_yaml: Path, tmp_path: Path
) -> None:
    """The world is mended between two calls; no first try is lost or counted twice."""
    folder, switch = tmp_path / "run", tmp_path / "broken"
    switch.touch()
    crash = f"suite.options={{per_family: 90, crash: number, while_exists: {switch}}}"
    check_line(call("evolve", toy_yaml, crash, "--run", folder), status=1)
    switch.unlink()
    assert call("evolve", toy_yaml, crash, "--run", folder).status == 0
    with open_ledger(folder) as ledger:
        (_, first) = next(iter(ledger.all(Generation)))
        assert first.cells["incumbent"].n == 30
        slots = [t.slot for _, t in ledger.all(Trajectory, "gate/none+base/")]
        assert len(slots) == 60 and sum(slot.endswith("/again") for slot in slots) == 30
        assert sum(bool(t.failure) for _, t in ledger.all(Trajectory)) == 30
    assert call("verify", folder).status == 0


# --- without a sandbox ---


def test_no_sandbox_needs_a_flag_and_every_report_says_so(
    call: Callable[..., Said], evolved: Path
) -> None:
    act = ("run", "--run", evolved, "--limit", 2, "sandbox.backend=none")
    line = check_line(call(*act))
    assert "--i-know-this-is-unsafe" in line
    said = call(*act, "--i-know-this-is-unsafe")
    assert said.status == 0 and "no sandbox: what the model writes runs on this" in said.out


def test_a_run_without_a_sandbox_is_marked(
    call: Callable[..., Said], toy_yaml: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ("evolve", toy_yaml, "sandbox.backend=none", "generations=1", "--run", run)
    assert "--i-know-this-is-unsafe" in check_line(call(*words))
    said = call(*words, "--i-know-this-is-unsafe")
    assert said.status == 0 and said.out.count("no sandbox: what the model writes runs") == 2
    summary = json.loads((run / "summary.json").read_text())
    assert summary["unsafe"] is True and summary["sandbox"] == "none"
    assert "Unsafe run." in (run / "report.html").read_text()
    assert "--i-know-this-is-unsafe" in check_line(call("evolve", "--run", run, "generations=2"))


def test_a_sandbox_takes_its_options(call: Callable[..., Said], evolved: Path) -> None:
    act = ("run", "--run", evolved, "--limit", 2)
    assert call(*act, "sandbox.options={warm: true}").status == 0
    assert "has no option 'wram'" in check_line(call(*act, "sandbox.options={wram: true}"))


@pytest.mark.parametrize("name", recipes())
def test_recipes_are_whole_configurations(name: str) -> None:
    config = load_config(name)
    assert config.suite.name in SUITES


@pytest.fixture
def layers(tmp_path: Path) -> list[Path]:
    """A suite's recipe and a method's."""
    suite, method = tmp_path / "suite.yaml", tmp_path / "method.yaml"
    suite.write_text(
        "suite: {name: mbpp, options: {a: 1}, tasks: {train: 7}}\n"
        "acquire: {samples: 8, recall: {quotas: {exemplar: 3}, tokens: 99}}\n"
        "update_memory: {write: {exemplars: {per_family: 9}}}\n"
    )
    method.write_text(
        "suite: {options: {b: 2}}\n"
        "acquire: {recall: {quotas: {insight: 5}}}\n"
        "update_memory: {write: {exemplars: null}, consolidation: add-all}\n"
    )
    return [suite, method]


def test_recipes_are_laid_one_over_the_other(layers: list[Path]) -> None:
    config = load_config(layers, ["acquire.samples=2"])
    assert (config.suite.name, config.suite.tasks.train, config.acquire.samples) == ("mbpp", 7, 2)
    # Groups of settings are merged; a value that is a mapping is one choice.
    assert config.suite.options == {"b": 2}
    assert config.acquire.recall.quotas == {Kind.INSIGHT: 5} and config.acquire.recall.tokens == 99
    assert config.update_memory.write.exemplars is None
    assert config.update_memory.consolidation.merge is None
    under = load_config(layers[::-1])
    assert under.update_memory.write.exemplars is not None
    assert under.acquire.recall.quotas == {Kind.EXEMPLAR: 3}


def test_a_mistake_is_told_with_its_file(
    call: Callable[..., Said], layers: list[Path], tmp_path: Path
) -> None:
    layers[1].write_text("acquire: {sampels: 3}\n")
    line = check_line(call("evolve", *layers, "--run", tmp_path / "run"))
    assert str(layers[1]) in line and str(layers[0]) not in line and "mean samples?" in line
    line = check_line(call("evolve", *layers, "nope", "--run", tmp_path / "run"))
    assert "nope: no such file, and no such recipe" in line
    line = check_line(call("evolve", layers[0], "seed=1", layers[1], "--run", tmp_path / "run"))
    assert "is no override" in line


def test_recipes_are_listed_and_shown(instar: Callable[..., Any]) -> None:
    listed = json.loads(instar("recipes", "--json").stdout)
    assert [entry["name"] for entry in listed] == recipes()
    assert all(entry["description"] for entry in listed)
    said = instar("recipes").stdout
    assert all(name in said for name in recipes())
    assert instar("recipes", "show", "mbpp").stdout.startswith("# Short Python functions")
    whole = json.loads(instar("recipes", "show", "mbpp", "--json").stdout)
    assert whole["suite"]["name"] == "mbpp" and whole["gate"]["enabled"] is True
    assert "no such recipe" in instar("recipes", "show", "nope").stderr
    mixed = ("mbpp", "star", "feedback.by=tests")
    settings = yaml.safe_load(instar("recipes", "show", *mixed).stdout)
    alone = instar("recipes", "show", "feedback.by=tests", "refine.rounds=3")
    assert yaml.safe_load(alone.stdout) == {"feedback": {"by": "tests"}, "refine": {"rounds": 3}}
    assert "refine.rounds has no effect: refine.correct is none" in alone.stderr
    assert settings["refine"]["correct"] == "rationalise" and settings["suite"]["name"] == "mbpp"
    assert settings["feedback"] == {"by": "tests"} and "gate" not in settings
    drawn = instar("recipes", "show", *mixed, "--picture").stdout
    assert "mbpp star feedback.by=tests" in drawn and "● rationalise" in drawn
    assert "did you mean samples?" in instar("recipes", "show", "star", "acquire.sampels=1").stderr
