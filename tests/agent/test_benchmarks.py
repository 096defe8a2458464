"""What benchmarks of evolution compute: comparisons, the gold arm, and the gate's experiment."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agent.config import load_config
from agent.evolution.update.weights import conversations
from agent.policies.scripted import ScriptedPolicy
from agent.prompt import opening
from agent.run import Run
from agent.run_folder import open_ledger
from agent.training.loop import plan
from agent.training.packing import common_prefix
from agent.verify import verify
from environments.sandbox import make_sandbox
from environments.suites import load_suite
from memory.records import Generation, Trajectory

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import _gold
import collapse
import evolution
import methods
import suites
import tables
from _common import standing
from _evolved import Seed, aggregate, correct
from evolution import held, lend

Evolve = Callable[..., dict[str, Any]]
TASKS = [f"{family}{n}" for family in "xyz" for n in range(20)]


def seed(number: int, solved: Mapping[str, int]) -> Seed:
    """A run whose arms solve the first so many tasks of each family; z is never practised."""
    arms = {a: {t: float(int(t[1:]) < n) for t in TASKS} for a, n in solved.items()}
    generations = [{"n": 0, "decision": "start", "cell": "incumbent", "reason": "",
                    "cells": {"incumbent": {"mean": 0.1}}}]  # fmt: skip
    summary = {"config": {"suite": {"unseen": ["z"]}}, "seconds": {"total": 60}, "tokens": {},
               "generations": generations}  # fmt: skip
    return Seed(f"s{number}", number, summary, arms, {t: t[0] for t in TASKS})


# --- comparisons ---


def test_practised_and_unseen_families_are_told_apart() -> None:
    one = seed(0, {"base": 4, "memory": 4, "weights": 12, "both": 12, "gold": 14})
    wrong_on_z = {t: v * (t[0] != "z") for t, v in one.arms["weights"].items()}
    figures = aggregate([one._replace(arms={**one.arms, "weights": wrong_on_z})])
    practised, unseen = (figures["groups"][g] for g in ("practised", "unseen"))
    assert practised["arms"]["weights"]["n"] == 40 and unseen["arms"]["weights"]["n"] == 20
    assert practised["arms"]["weights"]["mean"] == 0.6 and unseen["arms"]["weights"]["mean"] == 0
    assert figures["arms"]["weights"]["mean"] == pytest.approx(0.4)
    assert unseen["contrasts"]["weights - base"]["mean"] == pytest.approx(-0.2)
    assert "weights - gold" in figures["contrasts"]


def test_every_comparison_of_a_file_counts_for_holm() -> None:
    cells = [aggregate([seed(0, {"base": 4, "weights": 12})]) for _ in range(2)]
    parts = [p for c in cells for p in (c, *c["groups"].values())]
    contrasts = [c for p in parts for c in p["contrasts"].values()]
    alone = contrasts[0]["p_holm"]
    correct(cells)
    assert len(contrasts) == 6
    least = min(c["p"] for c in contrasts)
    assert min(c["p_holm"] for c in contrasts) == pytest.approx(6 * least, abs=1e-4)
    assert all(c["p_holm"] >= c["p"] - 1e-5 for c in contrasts) and contrasts[0]["p_holm"] > alone


def test_own_successes_against_gold() -> None:
    near = held([seed(0, {"weights": 18, "gold": 20})])
    assert near["all"]["ratio"] == 0.9 and near["practised"]["ratio"] == 0.9
    assert near["all"]["margin"]["mean"] == pytest.approx(0.9 - 0.85)
    assert held([seed(0, {"weights": 10, "gold": 20})])["unseen"]["margin"]["high"] < 0
    assert held([seed(0, {"weights": 10})]) == {}


# --- suites ---


def line(solved: int) -> dict[str, Any]:
    """What the unevolved agent does on a suite."""
    return {"tasks": 4, "samples": 2, "greedy": solved, "sampled": solved, "seconds": 1.0,
            "families": {"f": solved / 8}}  # fmt: skip


def test_only_the_named_suites_rows_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "base.json"
    asked: list[tuple[str, list[str]]] = []

    def base(name: str, settings: list[str], quick: bool) -> dict[str, Any]:
        asked.append((name, settings))
        if name == "miniwob":
            raise KeyboardInterrupt
        return line(len(asked))

    def run(*arguments: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["suites.py", "--base", *arguments, "--json", str(file)])
        suites.main()
        found: dict[str, Any] = json.loads(file.read_text())["suites"]
        return found

    monkeypatch.setattr(suites, "base", base)
    first = run("mbpp", "household")
    figures = json.loads(file.read_text())
    for own in figures["suites"].values():  # as they were before rows had a commit of their own
        del own["commit"]
    file.write_text(json.dumps(figures | {"note": "slow", "commit": "abc"}))
    second = run("household", "suite.options.steps=3", "acquire.samples=2")
    assert asked[-1] == ("household", ["suite.options.steps=3", "acquire.samples=2"])
    assert list(second) == ["mbpp", "household"]
    assert (second["mbpp"]["sampled"], second["household"]["sampled"]) == (1, 3)
    assert second["mbpp"] == first["mbpp"] | {"note": "slow", "commit": "abc"}
    assert second["household"]["settings"] == asked[-1][1] and "note" not in second["household"]
    shown = tables.suites_base(json.loads(file.read_text()))
    assert "`abc`" in shown and "`mbpp`: slow." in shown
    with pytest.raises(KeyboardInterrupt):  # stopped half-way: what is done stays
        run("lifelong-db", "miniwob", "banking77")
    assert list(json.loads(file.read_text())["suites"]) == ["mbpp", "household", "lifelong-db"]
    with pytest.raises(SystemExit, match="holds figures of a full run"):
        run("mbpp", "--quick")
    file.write_text("[]")
    with pytest.raises(SystemExit, match="no figures of suites"):
        run("mbpp")


def test_settings_of_ones_own_have_runs_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    solved = seed(0, dict.fromkeys(("base", "memory", "weights", "both"), 4))

    def evolve(folder: Path, settings: list[str], recipe: str) -> None:
        asked.append((folder.name, settings, recipe))

    monkeypatch.setattr(suites, "evolve", evolve)
    monkeypatch.setattr(suites, "read", lambda folder, number: solved)
    file = tmp_path / "suites.json"
    arguments = ["textworld", "suite.options.steps=30", "--seeds", "1", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["suites.py", *arguments])
    with pytest.raises(SystemExit):
        suites.main()
    assert "give --name" in capsys.readouterr().err and not asked
    monkeypatch.setattr(sys, "argv", ["suites.py", *arguments, "--name", "far"])
    suites.main()
    settings = ["suite.options.steps=30", "seed=0"]
    assert asked == [("bench-suite-far-textworld-s0", settings, "textworld")]
    figures = json.loads(file.read_text())
    assert figures["suites"]["textworld"]["settings"] == settings[:1]
    rows = tables.suites_families(figures).splitlines()
    assert rows[2:] == [f"| `textworld` | {f} | 0.20 | 0.20 | 0.20 | 0.20 |" for f in "xyz"]


# --- gold ---


def test_what_is_lent_is_what_the_run_would_have_done(
    evolve_toy: Evolve, toy_yaml: Path, tmp_path: Path
) -> None:
    other = ("update_weights.objective=weighted", "update_weights.weighted.per_task=1")
    evolve_toy(tmp_path / "sft")
    alone = evolve_toy(tmp_path / "alone", *other)
    with (
        Run(tmp_path / "lent", load_config(toy_yaml, other), quiet=True) as run,
        open_ledger(tmp_path / "sft") as source,
    ):
        lend(source, run.ledger)
        lent = {slot for slot, _ in run.ledger.all(Trajectory)}
    assert {slot.partition("/")[0] for slot in lent} >= {"1", "gate", "test", "best_of"}
    together = evolve_toy(tmp_path / "lent", *other)
    untold = ("run", "seconds", "date")
    assert {k: v for k, v in together.items() if k not in untold} == {
        k: v for k, v in alone.items() if k not in untold
    }
    played = []
    for name in ("lent", "alone"):
        with open_ledger(tmp_path / name) as ledger:
            played.append({s: [step.token_ids for step in t.steps]
                           for s, t in ledger.all(Trajectory)})  # fmt: skip
    assert played[0] == played[1]
    assert verify(tmp_path / "lent")[1] == []


def test_gold_is_replayed_in_the_agents_prompt() -> None:
    families = list(_gold.PROGRAMS)
    suite = load_suite(
        "reasoning-gym", sandbox=make_sandbox, options={"families": families, "per_family": 3}
    )
    config = load_config("quickstart")
    policy = ScriptedPolicy("tests.toy:script", context=10_000)

    def spell(text: str, chosen: bool) -> tuple[int, ...]:
        assert not chosen
        return tuple(map(ord, text))

    tasks = list(suite.tasks())
    episodes = _gold.replay(suite, tasks, config, policy, spell)
    assert [t.task for t in episodes] == [t.id for t in tasks]
    assert [t.family for t in episodes if not t.success] == []
    for task, episode in zip(tasks, episodes, strict=True):
        (example,) = conversations(episode, policy)
        learnt = [i for i, m in zip(example.token_ids, example.loss_mask, strict=True) if m]
        assert "".join(map(chr, learnt)) == _gold.PROGRAMS[task.family](task) + "\n```\n"
        prompt = policy.encode(opening(episode.frame, task.prompt))
        assert example.token_ids[: len(prompt)] == prompt
        assert not any(example.loss_mask[: len(prompt)])
    for steps in (9, 40):
        chosen, made = _gold.fitted(episodes, config, policy, steps)
        settings = config.update_weights
        assert made == len(plan(chosen, settings, config.seed, common_prefix(chosen)))
        assert abs(made - steps) <= settings.epochs


def test_gold_that_is_chosen_among_valid_actions() -> None:
    suite = load_suite(
        "textworld-express", sandbox=make_sandbox, options={"games": ["twc"], "per_game": 4}
    )
    policy = ScriptedPolicy("tests.toy:script", context=100_000)
    spelt: list[tuple[str, bool]] = []

    def spell(text: str, chosen: bool) -> tuple[int, ...]:
        spelt.append((text, chosen))
        return tuple(map(ord, text))

    tasks = suite.tasks()[:2]
    episodes = _gold.replay(suite, tasks, load_config("textworld"), policy, spell)
    assert all(t.success for t in episodes)
    gold = [action.text for task in tasks for action in suite.gold(task)]  # type: ignore[attr-defined]
    assert spelt == [(text, True) for text in gold]


# --- pieces of a campaign ---


def test_what_was_measured_elsewhere_is_read_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept(number: int, objective: str, *extra: str) -> None:
        settled = evolution.settled("reasoning-gym", objective, 5, extra, False, number)
        one = seed(number, {"base": 4, "memory": 4, "weights": 12, "both": 12})
        summary = one.summary | {"config": settled.model_dump(mode="json"), "tokens": {"total": 9}}
        summary["generations"] = [*summary["generations"], {
            "n": 1, "decision": "kept", "cell": "incumbent", "reason": "",
            "cells": {"incumbent": {"mean": 0.1}}}]  # fmt: skip
        families = {t: {"x": "gcd", "y": "chain_sum", "z": "lcm"}[t[0]] for t in TASKS}
        gold = {"success": dict.fromkeys(TASKS, 1.0), "steps": 9, "own_steps": 9}
        file = tmp_path / "objectives" / f"reasoning-gym-{objective}-s{number}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(
            json.dumps(
                {
                    "date": "2026-11-28",
                    "commit": f"c{number}",
                    "gold": gold,
                    "config": settled.model_dump(mode="json"),
                    "seed": one._replace(summary=summary, families=families)._asdict(),
                }
            )
        )

    def run(*_: object) -> None:
        raise AssertionError("was measured already")

    def go(*objectives: str) -> dict[str, Any]:
        out, json_file = Console(quiet=True), tmp_path / "objectives.json"
        evolution.campaign(["reasoning-gym"], objectives, 2, 5, (), "", False, json_file, out)
        found: dict[str, Any] = json.loads(json_file.read_text())["cells"]
        return found

    monkeypatch.setattr(evolution, "run_once", run)
    for number in (0, 1):
        kept(number, "sft")
    cell = go("sft")["reasoning-gym-sft"]
    assert (cell["seeds"], cell["arms"]["weights"]["mean"]) == (2, 0.6)
    assert cell["commit"] == "c0, c1", "where they were measured, not where they are put together"
    assert cell["bar"]["all"]["ratio"] == 0.6 and cell["gold"][1]["steps"] == 9
    with pytest.raises(AssertionError, match="measured already"):
        go("dpo")
    kept(0, "dpo", "acquire.samples=3")
    with pytest.raises(SystemExit, match=r"reasoning-gym-dpo-s0\.json: measured with other"):
        go("dpo")


# --- does the gate hold? ---


def test_conditions_go_on_from_the_same_agent(
    tmp_path: Path, evolve_toy: Evolve, toy_yaml: Path
) -> None:
    begun, weights_only = tmp_path / "begun", ["update_memory.enabled=false", "test.run=false"]
    evolve_toy(begun, *weights_only)
    courses = {}
    for gate in collapse.GATE:
        condition = collapse.Condition(gate, "flip")
        further = [*weights_only, *condition.settings(), "generations=3"]
        config = load_config(toy_yaml, further)
        folder = tmp_path / gate
        collapse.fork(begun, folder, config)
        collapse.fork(begun, folder, config)  # what is there is kept
        courses[gate] = collapse.course(folder, config, Console(quiet=True))
        assert verify(folder)[1] == []
    with open_ledger(begun) as ledger:  # the source is as it was
        assert [g.n for _, g in ledger.all(Generation)] == [0, 1, 2]
    on, off = (collapse.added_up([courses[gate]]) for gate in collapse.GATE)
    assert on["curve"]["retention"][2]["mean"] == off["curve"]["retention"][2]["mean"] == 1
    assert on["curve"]["retention"][3]["mean"] == 1 and off["curve"]["retention"][3]["mean"] == 0
    assert (on["worse"], on["promoted"], off["worse"], off["promoted"]) == (0, [0], 1, [1])
    assert off["largest_fall"] == 1 and off["lost"]["probe"]["mean"] == -1
    assert on["lost"]["probe"]["mean"] == 0


def test_a_course_over_several_seeds() -> None:
    def run(*solved: int) -> dict[str, Any]:
        scores = [{t: float(int(t[1:]) < n) for t in TASKS} for n in solved]
        return {
            "generations": [
                {"n": n, "decision": "kept", "cell": "", "reason": "",
                 "scores": dict.fromkeys(collapse.SPLITS, own)}
                for n, own in enumerate(scores)
            ],
            "families": {t: t[0] for t in TASKS},
            "minutes": 1.0,
        }  # fmt: skip

    told = collapse.added_up([run(2, 5, 10, 16, 4), run(2, 5, 10, 16, 8)])
    means = [point["mean"] for point in told["curve"]["gate"]]
    assert means == pytest.approx([0.1, 0.25, 0.5, 0.8, 0.3])
    assert (told["generations"], told["worse"], len(told["steps"])) == (2, 1, 2)
    assert told["largest_fall"] == pytest.approx(0.5)
    assert told["lost"]["retention"]["mean"] == pytest.approx(-0.5)
    assert told["against_prefix"]["mean"] == pytest.approx(-0.2)


# --- recipes on the same budget ---


@pytest.mark.parametrize("suite", list(methods.SUITES))
def test_every_method_gets_tasks_for_its_budget(suite: str) -> None:
    every, bench = methods.methods(), methods.SUITES[suite]
    budget = bench.budget
    assert every[0] == "instar" and not {"quickstart", "banking77"} & set(every)
    for name in every:
        config = methods.configured(suite, name, 1, budget, quick=False)
        assert (config.token_budget, config.seed, config.gate.enabled) == (budget, 1, True)
        assert config.acquire.tasks == config.acquire.first_tasks
        assert methods.LEAST_TASKS <= config.acquire.tasks <= bench.most
        assert methods.outlives(config), f"{name}: nothing outlives its task"
    few, many = (methods.configured(suite, n, 0, budget, False) for n in ("rft", "star"))
    assert few.acquire.samples > many.acquire.samples and few.acquire.tasks < many.acquire.tasks


def test_methods_are_compared_task_by_task() -> None:
    costs = {"tokens": 10, "gate_tokens": 4, "seconds": 1.0, "items": 2, "characters": 9,
             "promoted": 1, "generations": 2}  # fmt: skip
    families = {t: t[0] for t in TASKS}

    def solves(n: int) -> dict[str, float]:
        return {t: float(int(t[1:]) < n) for t in TASKS}

    def ran(success: Mapping[str, float]) -> list[dict[str, Any]]:
        return [costs | {"success": success}]

    base = [{"success": solves(4), "best_of_n": solves(5), "samples": 3, "families": families}]
    forgets = {t: float(int(t[1:]) >= 2 and int(t[1:]) < 14) for t in TASKS}
    cells = {"instar": ran(solves(12)), "rft": ran(forgets), "star": [{"why": "no gold"}]}
    figures = methods.told(base, cells)
    assert figures["missing"] == {"star": "no gold"} and "star" not in figures["arms"]
    assert figures["arms"]["instar"]["mean"] == 0.6 and figures["arms"]["instar"]["lost"] == 0
    assert figures["arms"]["rft"]["lost"] == 0.5
    assert figures["contrasts"]["base"]["mean"] == pytest.approx(0.4)
    assert figures["contrasts"]["base"]["p_holm"] < 0.05
    assert standing(figures) == "tied for first with rft"  # other tasks, as many of them
    assert standing(methods.told(base, cells | {"rft": ran(solves(8))})) == "first"
    better = methods.told(base, cells | {"rft": ran(solves(18))})
    assert standing(better) == "behind rft"
    assert standing(methods.told(base, cells | {"rft": ran(solves(13))})).startswith("tied")
