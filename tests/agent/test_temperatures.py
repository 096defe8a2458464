"""Temperatures that engines outside refuse: told before the run, not in the middle of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.config import ConfigError, load_config
from agent.evolution.cycle import evolve
from agent.evolution.temperatures import check
from agent.run import Run
from memory.records import Trajectory
from tests.agent.test_choices import Maze

OPENAI = "policy={engine: openai, endpoint: {url: 'http://127.0.0.1:9/v1', model: m}}"
SPOKEN = (
    "policy={engine: openai, endpoint: {url: 'http://127.0.0.1:9/v1', model: m, token_ids: false}}",
    "update_weights.enabled=false",
)
HOT = "acquire.temperatures=[0.5, 2.5]"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ((OPENAI, HOT), "acquire.temperatures 2.5"),
        (("policy={engine: vllm}", HOT), "acquire.temperatures 2.5"),
        (("policy={engine: vllm-offline}", "test.best_of_temperature=3"),
         "test.best_of_temperature 3"),
        ((*SPOKEN, "test.best_of_temperature=3"), "test.best_of_temperature 3"),
        ((OPENAI, HOT, "acquire.generate={how: backtranslation, temperature: 2.1}"),
         "acquire.generate.temperature 2.1, acquire.temperatures 2.5"),
        ((OPENAI, "acquire.solve={how: debate, temperature: 4}"), "acquire.solve.temperature 4"),
        ((OPENAI, "feedback={by: tests, temperature: 4}"), "feedback.temperature 4"),
    ],
)  # fmt: skip
def test_they_are_told_before_the_run(
    settings: tuple[str, ...], told: str, toy_yaml: Path, tmp_path: Path
) -> None:
    with (
        Run(tmp_path / "run", load_config(toy_yaml, settings), quiet=True) as run,
        pytest.raises(ConfigError, match=rf"up to 2 \({told}\): lower that, or set policy"),
    ):
        check(run)


def test_a_run_does_not_begin_with_them(toy_yaml: Path, tmp_path: Path) -> None:
    with Run(tmp_path / "run", load_config(toy_yaml, [OPENAI, HOT]), quiet=True) as run:
        with pytest.raises(ConfigError, match=r"^policy\.engine=openai samples at temperatures"):
            evolve(run)
        assert run.ledger.count(Trajectory) == 0


@pytest.mark.parametrize(
    "settings",
    [
        (HOT,),  # drawn in this process
        (OPENAI, "acquire={temperatures: [2.0], hot_tokens: 3, heat: 9}"),  # hot tokens are, too
        (OPENAI, "acquire.generate.temperature=3", "feedback.temperature=3"),  # not used
    ],
)
def test_what_is_not_asked_of_an_engine(
    settings: tuple[str, ...], toy_yaml: Path, tmp_path: Path
) -> None:
    with Run(tmp_path / "run", load_config(toy_yaml, settings), quiet=True) as run:
        check(run)


@pytest.mark.parametrize(
    ("settings", "takes"),
    [
        ((OPENAI,), True),
        (SPOKEN, False),  # such an endpoint chooses by itself
        ((OPENAI, "agent.constrain=false"), False),
        ((OPENAI, "agent.begin='go '"), False),  # then it is written, not chosen
    ],
)
def test_choices_are_drawn_here_at_any(
    settings: tuple[str, ...],
    takes: bool,
    toy_yaml: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Run(tmp_path / "run", load_config(toy_yaml, [*settings, HOT]), quiet=True) as run:
        monkeypatch.setattr(run.suite, "environment", lambda task: Maze())
        if takes:
            check(run)
            return
        with pytest.raises(ConfigError, match=r"acquire\.temperatures 2\.5"):
            check(run)


def test_a_world_that_breaks_is_told_by_its_episodes(
    toy_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(task: Any) -> Any:
        raise ValueError("no such room")

    with Run(tmp_path / "run", load_config(toy_yaml, [OPENAI, HOT]), quiet=True) as run:
        monkeypatch.setattr(run.suite, "environment", broken)
        check(run)
