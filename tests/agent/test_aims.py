"""Objectives: which families are practised, by what measure, proposed how, and how many at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.config import ConfigError, load_config
from agent.evolution.cycle import evolve, first_generation
from agent.evolution.objective import (
    FLOOR,
    ObjectiveSettings,
    Tally,
    learnability,
    regret,
    shared,
    weakest,
)
from agent.evolution.scores import MEASURES, propose_objective
from agent.report import aimed
from agent.report.html import page
from agent.run import Run
from agent.run_folder import BASE, RunError, open_ledger
from environments.abilities import ABILITIES, abilities_of, tagged
from environments.base import Action, Environment, StepResult, SuiteError, Task, Tool
from environments.plain import PlainSuite
from environments.sandbox import make_sandbox
from environments.splits import split_of
from environments.suites import suite_names
from environments.suites.reasoning_gym import FAMILIES
from environments.suites.textworld_express import LEVELS
from memory.records import Generation, Trajectory
from tests.agent.methods import LIVE, Evolved
from tests.episodes import episode, step
from tests.toy import ToySuite

HERE = "tests.agent.test_aims"


class Tagged(ToySuite):
    """The toy suite, which says what its families ask for."""

    abilities = {"double": ["maths"], "next": ["maths", "planning"], "square": ["coding"]}  # noqa: RUF012


class _Watched:
    """An environment that also tells how harmless an episode was: squares never are."""

    def __init__(self, inner: Environment, family: str) -> None:
        self.inner, self.harmless = inner, {"square": 0.0, "next": 0.5}.get(family, 1.0)

    @property
    def tools(self) -> Sequence[Tool]:
        return self.inner.tools

    def start(self) -> str:
        return self.inner.start()

    def step(self, action: Action) -> StepResult:
        told = {"harmless": self.harmless, "kilos": 80.0}
        return self.inner.step(action).model_copy(update={"metrics": told})

    def close(self) -> None:
        self.inner.close()


class Watched(ToySuite):
    """The toy suite in a world that tells more than the reward."""

    def environment(self, task: Task) -> Environment:
        return _Watched(super().environment(task), task.family)


class Rare(Tagged):
    """One more family, of so few tasks that none is in the gate split."""

    abilities = {**Tagged.abilities, "rare": ["maths"]}  # noqa: RUF012

    def tasks(self) -> Sequence[Task]:
        every = super().tasks()
        more = [
            Task(suite=self.name, family="rare", prompt=t.prompt, data=t.data)
            for t in every
            if t.family == "next"
        ]
        return [*every, *[t for t in more if split_of(t.id) == "train"][:2]]


Evolve = Callable[..., Evolved]


@pytest.fixture
def run(toy_yaml: Path, tmp_path: Path) -> Evolve:
    def go(*settings: str, suite: str = "Tagged") -> Evolved:
        config = load_config(toy_yaml, [*LIVE, f"suite.name={HERE}:{suite}", *settings])
        with Run(tmp_path / "run", config, quiet=True) as opened:
            evolve(opened)
        return Evolved(tmp_path / "run", open_ledger(tmp_path / "run"))

    return go


def practised(run: Evolved, n: int) -> Counter[str]:
    """Tasks of each family that a generation tried."""
    return Counter({t.task: t.family for t in run.episodes(f"{n}/acquire/")}.values())


# --- where to practise ---


def test_each_proposal_prefers_what_it_is_named_after() -> None:
    now = {
        "never": Tally(0, 20),
        "seldom": Tally(2, 20),
        "half": Tally(10, 20),
        "always": Tally(20, 20),
        "fell": Tally(14, 20),
    }
    best = {"never": 0.0, "seldom": 0.1, "half": 0.5, "always": 1.0, "fell": 1.0}
    assert max(now, key=weakest(now, best).get) == "seldom"  # type: ignore[arg-type]
    p = learnability(now, best)
    assert max(now, key=p.get) == "half"  # type: ignore[arg-type]
    assert p["half"] == pytest.approx(0.25 + FLOOR) and p["seldom"] == pytest.approx(0.09 + FLOOR)
    assert p["never"] == p["always"] == FLOOR
    lost = regret(now, best)
    assert lost["fell"] == pytest.approx(0.3 + FLOOR)
    assert {f for f, weight in lost.items() if weight > FLOOR} == {"fell"}
    for proposal in (weakest, learnability, regret):  # no family is ever dropped
        assert min(proposal(now, best).values()) >= FLOOR
        assert sum(shared(proposal(now, best)).values()) == pytest.approx(1)
    unknown = {"new": Tally(0, 0), "always": Tally(20, 20)}
    assert weakest(unknown, {})["new"] == 0.5 and learnability(unknown, {})["new"] == 0.25 + FLOOR


def test_several_are_followed_together_or_in_turn() -> None:
    several = [{"weight": 3}, {"propose": "regret"}]
    together = ObjectiveSettings.model_validate({"follow": several})
    assert together.shares(0) == together.shares(7) == [0.75, 0.25]
    turns = ObjectiveSettings.model_validate({"follow": several, "order": "in-turn"})
    assert [turns.shares(n) for n in range(3)] == [[1, 0], [0, 1], [1, 0]]


def test_abilities_choose_the_families_that_are_practised(run: Evolve) -> None:
    found = run("objective.follow=[{abilities: [coding]}]", "generations=1")
    assert practised(found, 1) == {"square": 3}
    assert {t.family for t in found.episodes("gate/")} == {"double", "next", "square"}
    for g in found.generations:  # measured everywhere, practised where it is asked for
        assert g.objective == {"double": 0.0, "next": 0.0, "square": 1.0}
        told: Any = g.details["objective"]
        (own,) = told["followed"]
        assert own["abilities"] == ["coding"] and set(own["now"]) == {"square"}
    line = aimed(found.generations[1])
    assert line.startswith("next: performance in coding, weakest first: square 100%")
    assert line in page({}, found.generations, [])


def test_what_is_chosen_without_weights_stays_within_the_objective(run: Evolve) -> None:
    """DiverseEvol looks at no family; it chooses among those of the objective all the same."""
    found = run("objective.follow=[{families: [next]}]", "acquire.select=k-centre", "generations=1")
    assert practised(found, 1) == {"next": 3}


def test_a_family_that_no_gate_measures_is_practised_where_all_are(run: Evolve) -> None:
    found = run("acquire.first_tasks=4", "acquire.tasks=8", suite="Rare")
    assert practised(found, 1) == {"double": 1, "next": 1, "rare": 1, "square": 1}
    assert "rare" not in {t.family for t in found.episodes("gate/")}
    for g in found.generations:
        told: Any = g.details["objective"]
        (own,) = told["followed"]
        assert g.objective["rare"] == pytest.approx(1 / 4) and "rare" not in own["now"]
    # It has two tasks: what more its weight says goes to the others.
    assert practised(found, 2)["rare"] == 2 and practised(found, 2).total() == 8


def test_a_family_that_no_gate_measures_is_left_out_by_narrow_objectives(run: Evolve) -> None:
    found = run("objective.follow=[{families: [next]}]", "acquire.first_tasks=4", suite="Rare")
    assert practised(found, 1) == {"next": 4}
    assert found.generations[0].objective["rare"] == 0.0


def test_objectives_take_turns(run: Evolve) -> None:
    several = "objective={order: in-turn, follow: [{families: [double]}, {abilities: [coding]}]}"
    found = run(several)
    assert practised(found, 1) == {"double": 3} and practised(found, 2) == {"square": 3}


def test_objectives_share_a_generation(run: Evolve) -> None:
    several = "objective.follow=[{families: [double], weight: 3}, {abilities: [coding]}]"
    found = run(several, "generations=1", "acquire.first_tasks=8")
    assert practised(found, 1) == {"double": 6, "square": 2}
    assert found.generations[0].objective == {"double": 0.75, "next": 0.0, "square": 0.25}
    assert "(75%)" in aimed(found.generations[0]) and "(25%)" in aimed(found.generations[0])


def test_regret_remembers_what_was_once_better(toy_yaml: Path, tmp_path: Path) -> None:
    """Generation 1 is made to have been good at two families; the base is good at none."""
    config = load_config(toy_yaml, ["objective.follow=[{propose: regret}]"])
    with Run(tmp_path / "run", config, quiet=True) as opened:
        start = first_generation(opened)
        even = propose_objective(opened, 1, "", BASE).weights
        assert even == pytest.approx(dict.fromkeys(even, 1 / 3))  # nothing is forgotten yet
        told: Any = start.details["objective"]
        now = {"double": 1.0, "next": 0.5, "square": 0.0}
        was = {"order": "together", "followed": [told["followed"][0] | {"now": now}]}
        opened.conclude(start.model_copy(update={"n": 1, "details": {"objective": was}}))
        lost = propose_objective(opened, 2, "", BASE).weights
    assert lost["double"] > lost["next"] > lost["square"] > 0
    assert lost["double"] == pytest.approx((1 + FLOOR) / (1.5 + 3 * FLOOR))


# --- what is measured ---


def test_adaptation_is_success_after_a_turn_that_went_wrong() -> None:
    good, slip = step("print(1)"), step("print(x)", error="NameError")
    played = [
        episode("1/gate/a", good, family="double"),  # nothing went wrong
        episode("1/gate/b", slip, good, family="double"),
        episode("1/gate/c", slip, slip, family="double", success=False),
        episode("1/gate/d", good, family="next"),
        episode("1/gate/e", slip, family="square", success=False),
    ]
    families = ["double", "next", "square"]
    run: Any = None
    found = MEASURES["adaptation"](run, 1, ObjectiveSettings().follow[0], families, played)
    assert found == {"double": Tally(1, 2), "next": Tally(1, 1), "square": Tally(0, 1)}


def test_knowledge_is_the_share_of_train_tasks_that_were_ever_solved(run: Evolve) -> None:
    found = run("objective.follow=[{direction: knowledge}]", "acquire.samples=6")
    for n, g in enumerate(found.generations):
        told: Any = g.details["objective"]
        solved = {
            (t.family, t.task)
            for m in range(1, n + 1)
            for t in found.episodes(f"{m}/acquire/")
            if t.success
        }
        counts = Counter(family for family, _ in solved)
        assert told["followed"][0]["now"] == {
            f: counts[f] / 12 for f in ("double", "next", "square")
        }
    assert sum(told["followed"][0]["now"].values()) > 0


def test_safety_goes_by_what_the_environment_tells(run: Evolve) -> None:
    objective = "objective.follow=[{direction: safety, metric: harmless}]"
    found = run(objective, "generations=1", suite="Watched")
    told: Any = found.generations[1].details["objective"]
    assert told["followed"][0]["now"] == {"double": 1.0, "next": 0.5, "square": 0.0}
    weights = found.generations[1].objective
    assert weights["square"] > weights["next"] > weights["double"]
    assert "safety by harmless" in aimed(found.generations[1])


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ("helpful", "no gate episode tells the metric helpful; they tell: harmless, kilos"),
        ("kilos", r"metric kilos of episode gate/.* is 80; an objective goes by numbers from 0 to"),
    ],
)
def test_a_metric_that_cannot_be_used_stops_the_run(run: Evolve, metric: str, says: str) -> None:
    with pytest.raises(RunError, match=says):
        run(f"objective.follow=[{{metric: {metric}}}]", suite="Watched")


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        ("{abilities: [magic]}", "'magic' is no ability; abilities: instruction-following"),
        ("{direction: safety}", "direction safety needs metric"),
        ("{direction: knowledge, metric: x}", "has a measure of its own"),
        ("{abilities: [role-play]}", "no family of suite .* asks for role-play .double: maths"),
        ("{families: [cube]}", "has no family cube in its gate split; it has: double, next"),
    ],
)
def test_objectives_that_cannot_be_followed(run: Evolve, objective: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(f"objective.follow=[{objective}]")


def test_the_default_is_one_objective_over_all_families(evolved: Path) -> None:
    with open_ledger(evolved) as ledger:
        every = [g for _, g in ledger.all(Generation)]
        train = {t.family for _, t in ledger.all(Trajectory, "1/acquire/")}
    assert train == {"double", "next", "square"}
    assert every[0].objective == dict.fromkeys(sorted(train), pytest.approx(1 / 3))
    for g in every[1:]:
        told: Any = g.details["objective"]
        (own,) = told["followed"]
        assert (own["direction"], own["propose"], own["share"]) == ("performance", "weakest", 1.0)
        counts = {f: Tally(round(rate * 10), 10) for f, rate in own["now"].items()}
        assert g.objective == pytest.approx(shared(weakest(counts, {})))


# --- abilities ---


class Shop:
    """You buy things."""

    tasks = [{"goal": "Buy it."}]  # noqa: RUF012
    abilities = ("planning", "tool-use")

    def reset(self, goal: str) -> str:
        return goal

    def buy(self, item: int) -> str:
        """Buy an item."""
        return "Thank you."

    def reward(self) -> float:
        return 1.0


def test_a_plain_class_says_what_it_asks_for() -> None:
    suite = PlainSuite(Shop, sandbox=make_sandbox)
    assert abilities_of("x:Shop", suite, ["Shop"]) == {"Shop": {"planning", "tool-use"}}
    suite.abilities = ("magic",)
    with pytest.raises(SuiteError, match="'magic' is no ability"):
        abilities_of("x:Shop", suite, ["Shop"])
    for wrong in (3, {"Shop": 3}, [3], {"else": [None]}):
        suite.abilities = wrong
        with pytest.raises(SuiteError, match="abilities are names, or names by family, not"):
            abilities_of("x:Shop", suite, ["Shop"])


def test_the_shipped_suites_are_tagged_with_abilities() -> None:
    tags = tagged()
    assert tags.keys() <= set(suite_names())
    assert {"gymnasium", "openenv", "verifiers"} == set(suite_names()) - tags.keys()
    for own in tags.values():
        for named in own.values() if isinstance(own, dict) else [own]:
            assert named and set(named) <= ABILITIES.keys()
    assert set(FAMILIES) <= tags["reasoning-gym"].keys()
    assert tags["textworld-express"].keys() - {"else"} <= LEVELS.keys()
