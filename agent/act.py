"""Run an agent on a suite without learning from it: base model, or any generation of a run."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from rich.console import Console

from agent.config import Config, ConfigError, with_overrides
from agent.evolution.scores import family_rates, score
from agent.loop import Assignment
from agent.run import Run
from agent.run_folder import BASE, open_ledger, settle_config
from environments.splits import Split, families_in_turn
from memory.records import Generation, Trajectory


def act(
    suite: str | None,
    folder: Path | None,
    *,
    generation: int | None = None,
    memory: str = "on",
    split: str = "test",
    limit: int | None = None,
    overrides: Sequence[str] = (),
    unsafe: bool = False,
    console: Console | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Success of one agent on a split, with interval, per family.

    Args:
        suite: a suite's name or import path; None takes the run's.
        folder: the run whose agent acts; None is the base model without memory.
        generation: which of its generations; None is the incumbent.
        memory: ``on`` or ``off``.
        split: train, gate, retention or test.
        limit: most tasks.
        overrides: ``key=value`` settings, as for ``instar evolve``.
        unsafe: whether the sandbox may be ``none``.

    Raises:
        ConfigError: an unknown split, generation, setting or switch, or nothing to run.
    """
    if memory not in ("on", "off"):
        raise ConfigError(f"--memory {memory}: must be on or off")
    if split not in get_args(Split):
        raise ConfigError(f"--split {split}: must be one of {', '.join(get_args(Split))}")
    if folder is None and suite is None:
        raise ConfigError("name a suite (see `instar suites`), or a run folder with --run")
    if folder is None and generation is not None:
        raise ConfigError("--generation needs the run it belongs to: --run DIR")
    if folder is not None and not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} is no run folder: it has no config.yaml")
    # What is tried here is nobody's experience, so it goes to a folder of its own; the run's
    # own folder is only read.
    with tempfile.TemporaryDirectory(prefix="instar-act-") as scratch:
        config, weights, snapshot = _agent(folder, generation, memory)
        if suite is not None and suite != config.suite.name:
            config = config.model_copy(
                update={"suite": config.suite.model_copy(update={"name": suite, "options": {}})}
            )
        config = with_overrides(config, overrides)
        with Run(Path(scratch), config, console=console, quiet=quiet, unsafe=unsafe) as run:
            tasks = run.tasks(cast(Split, split))
            if limit is not None and limit < len(tasks):
                tasks = families_in_turn(tasks, limit)
            recalls = {}
            if folder is not None:
                run.borrow(folder)
                recalls = run.memory.recall(tasks, snapshot, weights)
            trajectories = run.episodes(
                f"{run.config.suite.name} · {split}",
                [
                    Assignment(
                        slot=f"act/{t.id}",
                        task=t,
                        split=split,
                        phase="act",
                        memory=snapshot,
                        recall=recalls.get(t.id),
                        look_again=run.memory.again(t, snapshot, weights),
                        search=run.memory.search(t, snapshot, weights),
                    )
                    for t in tasks
                ],
                weights,
            )
    # What broke says nothing about the agent.
    whole = [(task, t) for task, t in zip(tasks, trajectories, strict=True) if t.failure is None]
    tasks, successes = [task for task, _ in whole], [float(t.success) for _, t in whole]
    return {
        "suite": config.suite.name,
        "sandbox": config.sandbox.backend,
        "split": split,
        "weights": weights,
        "memory": snapshot,
        "success": score(tasks, successes).model_dump(mode="json"),
        "families": family_rates(tasks, successes),
        "tokens": sum(t.produced_tokens for t in trajectories),
        "broken": sum(t.failure is not None for t in trajectories),
        "episodes": [told(t) for t in trajectories],
    }


def told(trajectory: Trajectory) -> dict[str, Any]:
    """An episode as it went, for people."""
    return {
        "task": trajectory.task,
        "family": trajectory.family,
        "seen": trajectory.prompt,
        "turns": [
            {"done": step.text, "seen": step.observation, "error": step.error}
            for step in trajectory.steps
        ],
        "reward": trajectory.reward,
        "end": trajectory.stop.value,
        "failure": trajectory.failure.message if trajectory.failure else None,
    }


def _agent(folder: Path | None, generation: int | None, memory: str) -> tuple[Config, str, str]:
    """Config, weights and memory snapshot of the agent that is asked for."""
    if folder is None:
        return Config(), BASE, ""
    config = settle_config(folder, None)
    with open_ledger(folder) as ledger:  # only read, so it works while the run goes on
        every = [g for _, g in ledger.all(Generation)]
        if not every:
            raise ConfigError(f"{folder}: no generation yet; run instar evolve first")
        wanted = every[-1].n if generation is None else generation
        chosen = next((g for g in every if g.n == wanted), None)
        if chosen is None:
            raise ConfigError(f"{folder} has no generation {wanted}; it has 0 to {every[-1].n}")
        snapshot = chosen.memory if memory == "on" else ""
        return config, chosen.weights, snapshot
