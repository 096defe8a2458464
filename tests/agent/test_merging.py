"""Merging on hand-made changes of a tiny real model: what each way of merging does to weights."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agent.policies.models import model_identity
from agent.policies.transformers import TransformersPolicy, load_model, merged_model
from agent.training.adapter import AdapterError, check_adapter, read_manifest
from agent.training.lora import lora_config, save
from agent.training.merging import MergeSettings, Recipe, merge, recipe
from agent.training.search import evolve, greedy, of_mean
from agent.training.settings import LoraSettings
from agent.training.verifier import average, load_verifier, train_verifier
from tests.agent.sequences import sequence
from tests.tiny import tiny_model

RANK = 4
NARROW = 16  # the smallest side of a layer of the tiny model

Change = Callable[[str, Any, Any], None]
Make = Callable[[str, Change], Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def make(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """An adapter whose layers are filled by a function of name, A (rank, in) and B (out, rank)."""
    from peft import get_peft_model

    root = tmp_path_factory.mktemp("adapters")

    def go(name: str, change: Change) -> Path:
        if (root / name).exists():
            return root / name
        _, base = load_model(model, dtype="float32")
        network = get_peft_model(base, lora_config(LoraSettings(rank=RANK, alpha=2 * RANK)))
        with torch.no_grad():
            for layer, module in network.named_modules():
                if hasattr(module, "lora_A"):
                    change(layer, module.lora_A.default.weight, module.lora_B.default.weight)
        told = {"sources": [f"1/acquire/{name}/0", "1/acquire/both/0"], "data": name}
        save(network, root / name, told | {"model": model_identity(model)})
        return root / name

    return go


def noise(seed: int, sign: float = 1.0) -> Change:
    def change(layer: str, a: Any, b: Any) -> None:
        chance = torch.Generator().manual_seed(sum(map(ord, layer)) + 1000 * seed)
        a.copy_(torch.randn(a.shape, generator=chance) / 8)
        b.copy_(sign * torch.randn(b.shape, generator=chance) / 8)

    return change


def first_column(value: float, rest: float = 0.0) -> Change:
    """The layer's change is this value in its first column, and another in the next three."""

    def change(layer: str, a: Any, b: Any) -> None:
        a.copy_(torch.eye(*a.shape))
        b.fill_(rest / 2)  # alpha is twice the rank
        b[:, 0] = value / 2

    return change


def level(value: float) -> Change:
    """The same number everywhere."""

    def change(layer: str, a: Any, b: Any) -> None:
        a.fill_(1.0)
        b.fill_(value / RANK / 2)

    return change


def changes(model: Path, adapter: Path) -> dict[str, Any]:
    """What an adapter adds to each layer's weights."""
    _, plain = load_model(model, dtype="float32")
    _, merged = merged_model(model, adapter, dtype="float32")
    before = dict(plain.named_parameters())
    return {
        name: (value - before[name]).detach()
        for name, value in merged.named_parameters()
        if "proj" in name
    }


def merged(model: Path, parents: list[Path], how: Recipe, folder: Path) -> dict[str, Any]:
    return merge(model, parents, how, folder, manifest={}, dtype="float32")


def soup(n: int, **fields: Any) -> Recipe:
    return Recipe(how="soup", weights=(1 / n,) * n, **fields)


def test_a_soup_is_the_mean_of_the_changes(model: Path, make: Make, tmp_path: Path) -> None:
    """Not of their factors: the product of averages is not the average of products."""
    parents = [make("a", noise(1)), make("b", noise(2))]
    done = merged(model, parents, soup(2), tmp_path / "m")
    a, b, mean = (changes(model, folder) for folder in (*parents, tmp_path / "m"))
    for name in mean:
        assert torch.allclose(mean[name], (a[name] + b[name]) / 2, atol=1e-6)
    config = json.loads((tmp_path / "m" / "adapter_config.json").read_text())
    assert config["r"] == 2 * RANK and config["peft_type"] == "LORA"
    assert not (config["rank_pattern"] or config["use_dora"] or config["modules_to_save"])
    assert check_adapter(tmp_path / "m") == done["version"]


def test_opposites_cancel(model: Path, make: Make, tmp_path: Path) -> None:
    parents = [make("a", noise(1)), make("-a", noise(1, -1.0))]
    merged(model, parents, soup(2), tmp_path / "m")
    assert max(float(c.abs().max()) for c in changes(model, tmp_path / "m").values()) < 1e-6


def test_a_soup_of_less_rank_is_the_nearest_one(model: Path, make: Make, tmp_path: Path) -> None:
    parents = [make("a", noise(1)), make("b", noise(2))]
    merged(model, parents, soup(2, rank=RANK), tmp_path / "m")
    a, b, found = (changes(model, folder) for folder in (*parents, tmp_path / "m"))
    for name in found:
        u, s, v = torch.linalg.svd((a[name] + b[name]) / 2, full_matrices=False)
        nearest = u[:, :RANK] @ torch.diag(s[:RANK]) @ v[:RANK]
        assert torch.allclose(found[name], nearest, atol=1e-5)


def test_ties_elects_signs(model: Path, make: Make, tmp_path: Path) -> None:
    """+3 and +2 outweigh -4: the mean of those that agree, not of all."""
    parents = [make(f"c{v}", first_column(v)) for v in (3.0, 2.0, -4.0)]
    how = Recipe(how="ties", weights=(1.0,) * 3, density=1.0)
    merged(model, parents, how, tmp_path / "up")
    for change in changes(model, tmp_path / "up").values():
        assert torch.allclose(change[:, 0], torch.tensor(2.5), atol=1e-4)
        assert float(change[:, 1:].abs().max()) < 1e-4
    parents[2] = make("c-6", first_column(-6.0))
    merged(model, parents, how, tmp_path / "down")
    for change in changes(model, tmp_path / "down").values():
        assert torch.allclose(change[:, 0], torch.tensor(-6.0), atol=1e-4)


def test_ties_trims_what_is_small(model: Path, make: Make, tmp_path: Path) -> None:
    """With the density of one column of 32, of each parent only its largest column is left."""
    parents = [make(f"t{v}", first_column(v, rest=0.5)) for v in (3.0, 2.0)]
    how = Recipe(how="ties", weights=(1.0,) * 2, density=1 / 32)
    merged(model, parents, how, tmp_path / "m")
    found = changes(model, tmp_path / "m")
    for name, change in found.items():
        if change.shape[1] == 32:
            assert torch.allclose(change[:, 0], torch.tensor(2.5), atol=1e-4), name
            assert float(change[:, 1:].abs().max()) < 1e-4


def test_dare_drops_and_keeps_the_expectation(model: Path, make: Make, tmp_path: Path) -> None:
    parents = [make("l1", level(1.0)), make("l2", level(2.0))]
    how = recipe(MergeSettings(how="dare", density=0.25), 2, seed=5)
    merged(model, parents, how, tmp_path / "m")
    narrow = [c for n, c in changes(model, tmp_path / "m").items() if c.shape[0] == NARROW]
    values = torch.cat([c.flatten() for c in narrow])  # of full rank, so nothing is cut off
    assert float(values.mean()) == pytest.approx(1.5, abs=0.15)
    # Each parent's half is dropped, or four times as large: 0, 2, 4, or both.
    steps = torch.tensor([0.0, 2.0, 4.0, 6.0])
    assert float((values[:, None] - steps).abs().min(1).values.max()) < 1e-3
    assert float((values.abs() < 1e-3).float().mean()) == pytest.approx(0.75**2, abs=0.05)


def test_the_same_merge_has_the_same_version(model: Path, make: Make, tmp_path: Path) -> None:
    parents = [make("a", noise(1)), make("b", noise(2))]
    how = Recipe(how="dare", weights=(0.5, 0.5), density=0.5, seed=1)
    one = merged(model, parents, how, tmp_path / "one")
    torch.manual_seed(99)
    two = merged(model, parents, how, tmp_path / "two")
    other = merged(model, parents, how.model_copy(update={"seed": 2}), tmp_path / "three")
    assert one["version"] == two["version"] != other["version"]


def test_ama_goes_from_the_base_as_far_as_each_group_says(
    model: Path, make: Make, tmp_path: Path
) -> None:
    parent = make("a", noise(1))
    merged(model, [parent], Recipe(how="ama", weights=(1.0,), ratios=(0.0, 0.5)), tmp_path / "m")
    whole, part = changes(model, parent), changes(model, tmp_path / "m")
    for name, change in part.items():
        ratio = 0.0 if ".layers.0." in name else 0.5
        assert torch.allclose(change, ratio * whole[name], atol=1e-6), name


def test_a_merge_names_where_it_comes_from(model: Path, make: Make, tmp_path: Path) -> None:
    parents = [make("a", noise(1)), make("b", noise(2))]
    merged(model, parents, soup(2), tmp_path / "m")
    told = read_manifest(tmp_path / "m")
    assert told["parents"] == [check_adapter(p) for p in parents]
    assert told["sources"] == ["1/acquire/a/0", "1/acquire/b/0", "1/acquire/both/0"]
    assert told["merge"]["how"] == "soup" and told["model"] == model_identity(model)
    merged(model, [tmp_path / "m", make("-a", noise(1, -1.0))], soup(2), tmp_path / "again")
    assert "1/acquire/b/0" in read_manifest(tmp_path / "again")["sources"]


def test_what_cannot_be_merged_is_said(model: Path, make: Make, tmp_path: Path) -> None:
    a = make("a", noise(1))
    other = tmp_path / "other"
    save_with = json.loads((a / "manifest.json").read_text()) | {"model": "another"}
    other.mkdir()
    for path in a.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "manifest.json").write_text(json.dumps(save_with))
    with pytest.raises(AdapterError, match="different base models"):
        merged(model, [a, other], soup(2), tmp_path / "m")
    weights = (a / "adapter_model.safetensors").read_bytes()
    (other / "adapter_model.safetensors").write_bytes(weights[:-8])
    with pytest.raises(AdapterError, match="changed or cut"):
        merged(model, [a, other], soup(2), tmp_path / "m")
    with pytest.raises(ValueError, match="3 weights for 1"):
        merged(model, [a], soup(3), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_merged_adapter_acts(model: Path, make: Make, tmp_path: Path) -> None:
    """In the embedded engine, with the logits that base and mean change give."""
    parents = [make("a", noise(1)), make("b", noise(2))]
    merged(model, parents, soup(2), tmp_path / "m")
    ids = torch.tensor([list(range(40, 60))])
    _, base = load_model(model, dtype="float32")
    added = [changes(model, p) for p in parents]
    with torch.no_grad():
        for name, value in base.named_parameters():
            if name in added[0]:
                value.add_((added[0][name] + added[1][name]) / 2)
        expected = base(ids).logits
        policy = TransformersPolicy(model, tmp_path / "m", dtype="float32")
        assert torch.allclose(policy.engine.model(ids).logits, expected, atol=1e-4)


# --- searches ---


def test_greedy_drops_what_harms() -> None:
    """Members 0 and 2 are good together, 1 is the best but one alone and spoils every soup."""
    alone, tries = {0: 0.5, 1: 0.4, 2: 0.3}, []

    def fitness(members: tuple[int, ...]) -> float:
        tries.append(members)
        if len(members) == 1:
            return alone[members[0]]
        return 0.2 if 1 in members else 0.6

    assert greedy(3, fitness) == ((0, 2), 0.6)
    assert tries == [(0,), (1,), (2,), (0, 1), (0, 2)]


def test_evolve_finds_the_better_mix() -> None:
    best = (1.2, 0.2, 0.7)
    tries: list[tuple[float, ...]] = []

    def fitness(point: tuple[float, ...]) -> float:
        tries.append(point)
        return -sum((a - b) ** 2 for a, b in zip(point, best, strict=True))

    bounds = [(0.0, 1.5), (0.0, 1.5), (0.1, 1.0)]
    found = evolve(fitness, (0.5, 0.5, 0.5), bounds, budget=150, seed=1)
    assert tries[0] == (0.5, 0.5, 0.5) and len(tries) == found.tries == 150
    assert found.fitness > -0.01 > fitness(tries[0])
    tries.pop()
    assert all(low <= v <= high for t in tries for v, (low, high) in zip(t, bounds, strict=True))
    first = list(tries)
    tries.clear()
    assert evolve(fitness, (0.5, 0.5, 0.5), bounds, budget=150, seed=1) == found
    assert tries == first  # so that a search that was interrupted goes on
    tries.clear()
    assert evolve(lambda p: 0.0, (0.5, 0.5, 0.5), bounds, budget=3, seed=1).point == (0.5,) * 3
    # A start that the bounds leave out, as a setting may be, is tried as well.
    outside = (2.0, 0.5, 0.05)
    assert evolve(lambda p: 0.0, outside, bounds, budget=20, seed=1).point == outside
    assert evolve(fitness, outside, bounds, budget=150, seed=1).fitness > fitness(outside)


def test_ratios_of_a_fixed_mean() -> None:
    chance = random.Random(0)
    for _ in range(50):
        values = [chance.uniform(-1, 2) for _ in range(4)]
        mean = chance.uniform(0.05, 0.95)
        found = of_mean(values, mean)
        assert sum(found) / 4 == pytest.approx(mean, abs=1e-3)
        assert all(0 <= v <= 1 for v in found)
        assert sorted(found) == [v for _, v in sorted(zip(values, found, strict=True))]
    assert of_mean((0.8, 0.8, 0.8), 0.8) == (0.8, 0.8, 0.8)


# --- the mean of verifiers ---


def test_a_mean_of_verifiers_has_the_mean_of_their_weights(model: Path, tmp_path: Path) -> None:
    pairs = []
    for number in range(8):
        for sign in (1.0, -1.0):
            one = sequence(2 * number + (sign > 0), task=str(number))
            pairs.append(one._replace(advantage=sign, unit=str(number)))
    how = LoraSettings(rank=RANK, alpha=8, row_tokens=128, epochs=1, learning_rate=2e-3)
    members = [tmp_path / f"v{seed}" for seed in range(3)]
    for seed, folder in enumerate(members):
        train_verifier(model, pairs, how, folder, seed=seed, manifest={}, dtype="float32")
    average(model, members, tmp_path / "mean", manifest={}, dtype="float32")
    assert read_manifest(tmp_path / "mean")["role"] == "verifier"
    own = [changes(model, folder) for folder in members]
    for name, change in changes(model, tmp_path / "mean").items():
        assert torch.allclose(change, sum(c[name] for c in own) / 3, atol=1e-6)
    judged = load_verifier(model, tmp_path / "mean", dtype="float32")(pairs)
    better = [judged[p.source] for p in pairs if p.advantage > 0]
    worse = [judged[p.source] for p in pairs if p.advantage < 0]
    assert sum(better) > sum(worse)
