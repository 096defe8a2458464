"""What recipes choose, where they come from, what they need; the list and the picture."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from rich.console import Console, RenderableType

from agent.config import Config, ConfigError, load_config, recipes
from agent.evolution.acquire.settings import How, Select
from agent.evolution.feedback.settings import By
from agent.evolution.objective import Direction, Propose
from agent.evolution.refine import Correct
from agent.recipe_parts import (
    DEFAULT,
    IDLE,
    LABELS,
    NEEDS,
    PHASES,
    SUITES,
    enabled,
    needs,
    parts,
    recipe,
)
from agent.report.picture import CHOSEN, OPEN, OTHER, picture
from agent.training.settings import Objective


def shown(renderable: RenderableType, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), no_color=True)
    console.print(renderable)
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


def drawn(name: str) -> str:
    config = load_config(name)
    off = [phase for phase in PHASES if not enabled(config, phase)]
    return shown(picture(recipe(name), parts(config), parts(Config()), off))


@pytest.mark.parametrize(
    ("name", "phase", "source", "needed"),
    [
        ("star", "refine", "2203.14465", {"verifier", "gold"}),
        ("sciglm", "acquire", "2401.07950", {"verifier", "documents"}),
        ("self-rewarding", "feedback", "2401.10020", {"judge"}),
        ("lmsi", "feedback", "2210.11610", set()),
        ("expel", "update memory", "2308.10144", {"verifier"}),
        ("voyager", "update memory", "2305.16291", {"verifier", "programs"}),
        ("rest-em", "update weights", "2312.06585", {"verifier"}),
        ("self-debug", "refine", "2304.05128", {"verifier", "programs"}),
        ("diverse-evol", "acquire", "2311.08182", {"verifier"}),
        ("reflexion", "acquire", "2303.11366", {"verifier"}),
        ("spin", "acquire", "2401.01335", {"gold"}),
        ("rlcd", "acquire", "2307.12950", set()),
        ("ldb", "refine", "2402.16906", {"verifier", "programs"}),
        ("chateval", "evaluate", "2308.07201", {"verifier", "judge"}),
        ("rft", "update weights", "2308.01825", {"verifier"}),
        ("v-star", "update weights", "2402.06457", {"verifier"}),
        ("quickstart", SUITES, "", {"verifier"}),
    ],
)
def test_a_recipe_says_where_it_stands(
    name: str, phase: str, source: str, needed: set[str]
) -> None:
    found = recipe(name)
    assert (found.phase, set(found.needs)) == (phase, needed)
    assert (found.sources[0] if found.sources else "") == source


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_has_a_place_a_source_and_a_line(name: str) -> None:
    found = recipe(name)
    assert found.description.endswith((".", ")")) and found.phase in (SUITES, DEFAULT, *PHASES)
    assert (found.phase == DEFAULT) == (name == "instar")
    assert bool(found.sources) != (found.phase == SUITES)  # a method has a paper
    text = drawn(name)
    assert max(map(len, text.splitlines())) <= 80
    assert all(phase.upper() in text for phase in PHASES)


def test_a_method_differs_from_the_default_where_it_says_so() -> None:
    assert recipe("star").choices["refine.correct"] == ["rationalise"]
    assert recipe("lmsi").choices["feedback.by"] == ["consistency"]
    assert recipe("quickstart").choices == {"acquire": ["explore", "further_samples"]}
    assert recipe("soft").choices["acquire.select"] == ["easy-to-hard"]
    assert recipe("rest").choices["refine"] == ["thresholds"]
    assert recipe("reflexion").choices["acquire"] == ["retries"]


def test_all_that_can_be_chosen_is_there() -> None:
    every = {part.path: part for own in parts(Config()).values() for part in own}
    for path, names in {
        "objective.follow.direction": Direction,
        "objective.follow.propose": Propose,
        "acquire.select": Select,
        "acquire.generate.how": How,
        "feedback.by": By,
        "refine.correct": Correct,
        "update_weights.objective": Objective,
    }.items():
        assert every[path].options == get_args(names)
    assert {"exemplars", "insights", "skills"} <= set(every["update_memory.write"].options)
    assert every["update_memory.write"].chosen == ("exemplars", "reflections")
    assert every["update_weights.replay"].chosen == every["update_weights.regularise"].chosen == ()
    # What is said of choices is said of choices that there are.
    for path, known in NEEDS.items():
        assert known.keys() <= set(every[path].options)
    for path, labelling in LABELS.items():
        assert labelling <= set(every[path].options)
    for path, (other, value) in IDLE.items():
        assert path in every and value in every[other].options


def test_what_is_needed_follows_from_the_settings() -> None:
    assert needs(Config()) == ("verifier",)
    own = load_config("star", ["acquire.generate.teacher={url: 'http://x/v1', model: m}"])
    assert needs(own) == ("verifier", "gold", "teacher")
    judged = ["evaluate.judge=endpoint", "evaluate.endpoint={url: 'http://x/v1', model: m}"]
    assert "judge" in needs(load_config(None, judged))


def test_the_picture_marks_what_is_chosen() -> None:
    text = drawn("star")
    assert text.count(f"{CHOSEN} rationalise") == 1 and f"{OPEN} rationalise" not in text
    assert f"{CHOSEN} environment" in text and f"{OPEN} self-judge" in text
    assert f"{OTHER}  {OPEN} off: nothing is remembered" in text and f"{OPEN} exemplars" not in text
    (label,) = [line for line in text.splitlines() if " correct " in line]
    assert OTHER in label and OTHER not in next(x for x in text.splitlines() if " by " in x)
    order = [text.index(phase.upper()) for phase in PHASES]
    assert order == sorted(order)
    assert text.count(CHOSEN) < drawn("quickstart").count(CHOSEN)  # a memory beside


def test_what_a_run_follows_is_marked_together() -> None:
    several = "objective.follow=[{propose: regret}, {direction: knowledge}]"
    every = {p.path: p for p in parts(load_config(None, [several]))["objective"]}
    assert every["objective.follow.propose"].chosen == ("regret", "weakest")
    assert every["objective.follow.direction"].chosen == ("performance", "knowledge")


def test_a_choice_of_ones_own_is_a_choice(tmp_path: Path) -> None:
    own = load_config(None, ["feedback.by=my_pkg.judges:brief"])
    (by,) = parts(own)["feedback"]
    assert by.chosen == ("my_pkg.judges:brief",) and by.options[-1] == by.chosen[0]
    with pytest.raises(ConfigError, match=r"feedback.by: .*did you mean self-judge"):
        load_config(None, ["feedback.by=self-jugde"])
    with pytest.raises(ConfigError, match=r"refine.correct: .*nor package.module:function"):
        load_config(None, ["refine.correct=magic"])


def test_the_list_is_told_phase_by_phase(
    instar: Callable[..., Any], instar_json: Callable[..., Any]
) -> None:
    said = instar("recipes").stdout
    assert said.index("SUITES") < said.index("ACQUIRE") < said.index("REFINE")
    at = said.index("UPDATE WEIGHTS")
    assert said.index("REFINE") < said.index("\nstar ") < at < said.index("\nrest-em ")
    listed = {entry["name"]: entry for entry in instar_json("recipes")}
    assert listed["star"] == json.loads(json.dumps(recipe("star")._asdict()))
    seen = instar("recipes", "show", "star", "--picture").stdout
    assert f"{CHOSEN} rationalise" in seen and "arXiv 2203.14465" in seen


def test_the_readme_names_every_method() -> None:
    page = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    named = "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    methods = [name for name in recipes() if recipe(name).phase != SUITES]
    assert [name for name in methods if f"`{name}`" not in named] == []
