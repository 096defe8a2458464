"""The tries of a generation, by the configured method."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from agent import choices
from agent.config import ConfigError
from agent.evolution.solutions.base import Solver, Stage
from agent.evolution.solutions.settings import SAMPLE
from agent.loop import Assignment
from agent.run import Run
from memory.records import CANARY, Generation, Trajectory


def solved(
    run: Run, n: int, incumbent: Generation, label: str, planned: Sequence[Assignment]
) -> list[Trajectory]:
    """A generation's tries, canaries among them: these are tried without any method.

    Args:
        run: the run.
        n: the generation.
        incumbent: whose weights act.
        label: of the progress line.
        planned: the tries that are planned.
    """
    how = run.config.acquire.solve.how
    if how == SAMPLE:
        return run.episodes(label, planned, incumbent.weights)
    canaries = [a for a in planned if a.phase == CANARY]
    tasks = [a for a in planned if a.phase != CANARY]
    tries = _method(how)(Stage(run, n, incumbent.weights, tasks))
    return [*run.episodes(label, canaries, incumbent.weights), *tries]


def check(run: Run) -> None:
    """Whether the configured method can be had with the run's suite and policy.

    Raises:
        ConfigError: it cannot; one line.
    """
    settings = run.config.acquire
    if settings.solve.how == SAMPLE:
        return
    for name in ("retries", *(["further_samples"] if settings.explore else [])):
        if getattr(settings, name):
            raise ConfigError(
                f"acquire.solve.how={settings.solve.how} says itself how often a task is tried: "
                f"set acquire.{name}=0"
            )
    module = _method(settings.solve.how).__module__
    if not hasattr(import_module(module), "needs"):
        return
    if why := choices.own(f"{module}:needs", "acquire.solve.how")(run):
        raise ConfigError(f"acquire.solve.how={settings.solve.how}: {why}")


def _method(how: str) -> Solver:
    """The method of that name, or of that import path."""
    if ":" in how:
        own: Solver = choices.own(how, "acquire.solve.how", list[Trajectory])
        return own
    name = how.replace("-", "_")
    shipped: Solver = import_module(f"agent.evolution.solutions.methods.{name}").solve
    return shipped
