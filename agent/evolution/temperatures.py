"""Temperatures that an engine outside would refuse in the middle of a run, refused before it.

Hot first tokens and choices are drawn here, at any temperature (``agent.policies.calls``); all
other text is sampled by the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.config import ConfigError
from agent.evolution.solutions.settings import SAMPLE
from agent.formats import format_of
from agent.policies.calls import HOTTEST
from environments.watch import started

if TYPE_CHECKING:
    from agent.run import Run

OUTSIDE = ("vllm", "vllm-offline", "openai")


def check(run: Run) -> None:
    """Whether the configured engine samples at the configured temperatures.

    Raises:
        ConfigError: it does not; one line.
    """
    config = run.config
    engine, generate = config.policy.engine, config.acquire.generate
    if engine not in OUTSIDE:
        return
    acting = {
        "acquire.temperatures": max(config.acquire.temperatures),
        "test.best_of_temperature": config.test.best_of_temperature,
    }
    saying: dict[str, float] = {}
    if generate.how != "none" and not generate.teacher.url:
        saying["acquire.generate.temperature"] = generate.temperature
    if config.acquire.solve.how != SAMPLE:
        saying["acquire.solve.temperature"] = config.acquire.solve.temperature
    if config.feedback.by in ("self-verification", "tests"):
        saying["feedback.temperature"] = config.feedback.temperature
    too_hot = {name: own for name, own in saying.items() if own > HOTTEST}
    hot_acting = {name: own for name, own in acting.items() if own > HOTTEST}
    if hot_acting and not _chooses(run):
        too_hot |= hot_acting
    if too_hot:
        told = ", ".join(f"{name} {own:g}" for name, own in too_hot.items())
        raise ConfigError(
            f"policy.engine={engine} samples at temperatures up to {HOTTEST:g} ({told}): lower "
            "that, or set policy.engine=transformers"
        )


def _chooses(run: Run) -> bool:
    """Whether the agent chooses among valid actions, so that the draw is made here."""
    config = run.config
    spoken = config.policy.engine == "openai" and not config.policy.endpoint.token_ids
    if spoken or not config.agent.constrain:
        return False
    begin = config.agent.begin
    try:
        with started(run.suite, run.tasks("train")[0], config.suite.seconds) as world:
            begun = format_of(world.tools).begin if begin is None else begin
            return bool(world.valid_actions) and not begun
    except Exception:  # a broken world is told by its episodes
        return True
