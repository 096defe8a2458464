"""How a generation's tasks are tried: further samples where nothing was solved."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.config import Config, load_config, recipes
from agent.evolution.acquire import AcquireSettings, plan
from agent.recipe_parts import SUITES, recipe
from agent.run_folder import open_ledger
from memory.records import Trajectory
from tests.toy import ToySuite

SAMPLES, FURTHER = 2, 3


def practice(folder: Path) -> dict[str, Trajectory]:
    with open_ledger(folder) as ledger:
        return dict(ledger.all(Trajectory, "1/acquire/"))


def test_what_was_not_found_is_looked_for_longer(
    evolve_toy: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """A family without a solution gets further samples of each of its tasks, others none."""
    settings = ("generations=1", "test.run=false", f"acquire.samples={SAMPLES}")
    longer = (*settings, f"acquire.further_samples={FURTHER}")
    evolve_toy(tmp_path / "plain", *settings)
    evolve_toy(tmp_path / "run", *longer)
    plain, tried = practice(tmp_path / "plain"), practice(tmp_path / "run")
    assert plain.items() <= tried.items()  # the first samples are the same
    solved = {t.family for t in plain.values() if t.success}
    samples = Counter(t.task for t in tried.values())
    by_family: dict[str, set[int]] = defaultdict(set)
    for t in tried.values():
        by_family[t.family].add(samples[t.task])
    assert solved and set(by_family) - solved, by_family  # there are both
    for family, counts in by_family.items():
        assert counts == {SAMPLES if family in solved else SAMPLES + FURTHER}, family
    before = {slot: t.id for slot, t in tried.items()}
    evolve_toy(tmp_path / "run", *longer)  # continued, it has nothing to do
    assert {slot: t.id for slot, t in practice(tmp_path / "run").items()} == before


@pytest.mark.parametrize("explore", [True, False])
def test_help_where_the_agent_is_weak_can_be_switched_off(
    evolve_toy: Callable[..., dict[str, Any]], tmp_path: Path, explore: bool
) -> None:
    tasks = list(ToySuite(lambda: None, per_family=2).tasks())  # type: ignore[arg-type, return-value]
    families = {t.family for t in tasks}
    settings = AcquireSettings(samples=4, explore=explore)
    planned = plan(tasks, {}, settings, samples=range(4), generation=2, weak=families)
    assert len(planned.base) == (2 * len(tasks) if explore else 0)
    assert len(planned.incumbent) + len(planned.base) == 4 * len(tasks)
    assert any(a.hot_tokens for a in planned.incumbent) == explore
    how = (f"acquire.explore={explore}", f"acquire.samples={SAMPLES}", "generations=1")
    evolve_toy(tmp_path / "run", *how, "acquire.further_samples=3", "test.run=false")
    tried = Counter(t.task for t in practice(tmp_path / "run").values())
    assert (max(tried.values()) > SAMPLES) == explore


def test_published_methods_do_without_our_help() -> None:
    """What is tried is theirs to say; A³T's heat stands for the paper's external sampler."""
    helped = {name for name in recipes() if load_config(name).acquire.explore}
    suites = {name for name in recipes() if recipe(name).phase == SUITES}
    assert helped - suites == {"instar", "a3t", "chateval"} and Config().acquire.explore
