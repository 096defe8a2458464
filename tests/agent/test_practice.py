"""How a generation's tasks are tried: further samples where nothing was solved."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.run_folder import open_ledger
from memory.records import Trajectory

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
