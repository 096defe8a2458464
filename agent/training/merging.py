"""Several adapters become one: soups, TIES, DARE, their evolved mix, and averaging with the base.

PEFT does the arithmetic, over the layers' whole changes, never over their two factors apart: the
product of averages is not the average of products. Where the sum of the factors' ranks is allowed,
its ``add_weighted_adapter`` puts them side by side, and nothing is lost. Else its functions
combine the changes, and each becomes two factors again by a randomised SVD: that PEFT decomposes
every layer in full (``ties_svd``, …) grows with the cube of its width. What comes out is a plain
LoRA adapter again, so it acts, is served and is merged on like any other.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.training.adapter import AdapterError, check_adapter, read_manifest
from agent.training.adapter_set import refuse_set
from memory.records import content_hash

How = Literal["soup", "ties", "dare", "evolve", "ama"]
_OVERSAMPLED = 16  # directions that the randomised SVD looks at beyond those that are kept
_PASSES = 4
_LAYER = re.compile(r"\.layers?\.(\d+)\.|\.h\.(\d+)\.")


class MergeSettings(BaseModel):
    """What of several trainings goes before the gate as one candidate.

    Args:
        how: ``none``; ``soup``, the mean (2203.05482); ``ties``, the large changes on whose sign
            most agree (2306.01708); ``dare``, changes dropped by chance and the rest enlarged
            (2311.03099); ``evolve``, TIES over DARE with weights and density found by CMA-ES
            (2403.13187, merging in parameter space); ``ama``, between base and trained, each
            group of layers as far as suits it (2309.06256).
        of: ``generations``, this generation's adapter and those of earlier ones that went live;
            ``seeds``, several trainings of this generation that differ in their seeds.
        members: adapters merged, at most; ``ama`` takes one.
        greedy: ``soup``: members are added best first, and stay only where train tasks are
            solved as well with them.
        density: ``ties`` and ``dare``: the share of a change that is kept.
        scale: ``ties`` and ``dare``: what the merged change is multiplied with.
        groups, mean: ``ama``: groups of layers, and how far they go from the base on the mean.
        tasks: greedy soups, ``evolve`` and ``ama``: train tasks of each family that tell a good
            merge from a bad one.
        budget: ``evolve`` and ``ama``: merges tried.
        rank: of the merged adapter, at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    how: Literal["none", "soup", "ties", "dare", "evolve", "ama"] = "none"
    of: Literal["generations", "seeds"] = "generations"
    members: int = Field(3, ge=2)
    greedy: bool = False
    density: float = Field(0.5, gt=0, le=1)
    scale: float = Field(1.0, gt=0)
    groups: int = Field(3, ge=1)
    mean: float = Field(0.8, gt=0, le=1)
    tasks: int = Field(4, ge=1)
    budget: int = Field(16, ge=1)
    rank: int = Field(64, ge=1)


class Recipe(BaseModel):
    """One merge, in all that decides it besides the parents.

    Args:
        how: see ``MergeSettings``.
        weights: of each parent; a soup's sum to 1, those of TIES are the scale each.
        density: the share of a change that is kept.
        ratios: ``ama``: of each group of layers, the first layers first, how far it goes from
            the base.
        rank: of the result, at most.
        seed: ``dare`` and ``evolve``: which changes are dropped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    how: How
    weights: tuple[float, ...]
    density: float = 1.0
    ratios: tuple[float, ...] = ()
    rank: int = 64
    seed: int = 0


def recipe(settings: MergeSettings, parents: int, seed: int) -> Recipe:
    """The recipe that settings say, where nothing is to be searched for.

    Args:
        settings: their ``how`` is not ``none``.
        parents: how many adapters there are.
        seed: the run's.
    """
    assert settings.how != "none"
    weight = 1 / parents
    ratios: tuple[float, ...] = ()
    if settings.how in ("ties", "evolve"):  # a mean over those that agree already
        weight = settings.scale
    elif settings.how == "dare":
        weight = settings.scale / parents
    elif settings.how == "ama":
        ratios = (settings.mean,) * settings.groups
    return Recipe(
        how=settings.how,
        weights=(weight,) * parents,
        density=settings.density if settings.how in ("ties", "dare", "evolve") else 1.0,
        ratios=ratios,
        rank=settings.rank,
        seed=seed,
    )


def lineage(parents: Sequence[Path], how: Recipe) -> dict[str, Any]:
    """What the manifest of a merged adapter says about where it comes from.

    Returns:
        the parents' versions; the recipe; the union of their sources; hash of their data.

    Raises:
        AdapterError: a parent is incomplete or a set, or they are of different base models.
    """
    for folder in parents:
        refuse_set(folder, "merged")
    versions = [check_adapter(folder) for folder in parents]
    manifests = [read_manifest(folder) for folder in parents]
    models = {str(manifest["model"]) for manifest in manifests if "model" in manifest}
    if len(models) > 1:
        raise AdapterError(
            f"{' and '.join(versions)} are adapters of different base models "
            f"({', '.join(sorted(models))}) and cannot be merged"
        )
    sources = sorted({str(slot) for manifest in manifests for slot in manifest.get("sources", ())})
    return {
        "parents": versions,
        "merge": how.model_dump(mode="json"),
        "sources": sources,
        "data": content_hash([manifest.get("data", "") for manifest in manifests])[:16],
        "tokens": 0,
        **({"model": models.pop()} if models else {}),
    }


def merge(
    model_folder: Path,
    parents: Sequence[Path],
    how: Recipe,
    folder: Path,
    *,
    manifest: dict[str, Any],
    dtype: str = "auto",
    device: str = "auto",
) -> dict[str, Any]:
    """Merge adapters and write the result to ``folder`` (whole or not at all).

    The same parents and recipe give the same files, and so the same version.

    Args:
        model_folder: the base model of all of them.
        parents: their folders.
        how: the recipe.
        folder: where the merged adapter goes; replaced if it exists.
        manifest: what its manifest says besides ``lineage``.
        dtype, device: of the base model, which gives the layers their places.

    Returns:
        the manifest as it is stored, with ``version``.

    Raises:
        ValueError: the recipe does not fit the parents.
        AdapterError: a parent cannot be read, or they do not go together.
        ModelError: the base model cannot be loaded.
    """
    import torch
    from peft import PeftModel

    from agent.policies.transformers import load_model
    from agent.training.lora import save

    described = {**manifest, **lineage(parents, how)}
    if len(how.weights) != len(parents):
        raise ValueError(f"{len(how.weights)} weights for {len(parents)} adapters")
    if how.how == "ama" and len(parents) > 1:
        raise ValueError("ama is between the base and one adapter")
    _, base = load_model(model_folder, dtype=dtype, device=device)
    names = [f"parent{number}" for number in range(len(parents))]
    with warnings.catch_warnings(), torch.random.fork_rng(), torch.no_grad():
        warnings.simplefilter("ignore")  # peft on densities of 1, and on several adapters
        torch.manual_seed(how.seed)
        try:
            network: Any = PeftModel.from_pretrained(base, str(parents[0]), names[0])
            for name, parent in zip(names[1:], parents[1:], strict=True):
                network.load_adapter(str(parent), name)
            _combine(network, names, how)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            told = ", ".join(described["parents"])
            raise AdapterError(f"{told} cannot be merged: {reason}") from error
        network.set_adapter("default")
        for name in names:
            network.delete_adapter(name)
        return save(network, folder, described)


def _combine(network: Any, names: Sequence[str], how: Recipe) -> None:
    """Adds the adapter ``default``: what the recipe makes of the named ones."""
    ranks = [network.peft_config[name].r for name in names]
    if how.how == "ama" or (how.how == "soup" and sum(ranks) <= how.rank):
        # The factors side by side are the sum of the products: nothing is lost.
        network.add_weighted_adapter(
            list(names), list(how.weights), "default", combination_type="cat"
        )
        if how.how == "ama":
            _interpolate(network, how.ratios)
        return
    from dataclasses import replace

    layers = [m for m in network.modules() if hasattr(m, "lora_A") and names[0] in m.lora_A]
    smallest = min(min(layer.get_delta_weight(names[0]).shape) for layer in layers)
    rank = min(how.rank, smallest)
    plain = {"alpha_pattern": {}, "rank_pattern": {}, "use_rslora": False}
    config = replace(network.peft_config[names[0]], r=rank, lora_alpha=rank, **plain)
    network.add_adapter("default", config)
    for layer in layers:
        change = _combined([layer.get_delta_weight(name).float() for name in names], how)
        a, b = _factors(change, rank)
        layer.lora_A["default"].weight.copy_(a)
        layer.lora_B["default"].weight.copy_(b)


def _combined(changes: list[Any], how: Recipe) -> Any:
    """One layer's change from those of the parents."""
    import torch
    from peft.utils import merge_utils

    weights = torch.tensor(how.weights, device=changes[0].device)
    if how.how == "soup":
        return merge_utils.task_arithmetic(changes, weights)
    if how.how == "ties":
        return merge_utils.ties(changes, weights, how.density)
    if how.how == "dare":
        return merge_utils.dare_linear(changes, weights, how.density)
    return merge_utils.dare_ties(changes, weights, how.density)


def _factors(change: Any, rank: int) -> tuple[Any, Any]:
    """A (rank, in) and B (out, rank), whose product is the nearest of this rank to a change."""
    import torch

    look = rank + _OVERSAMPLED
    if 2 * look < min(change.shape):
        u, s, v = torch.svd_lowrank(change, q=look, niter=_PASSES)
        u, s, vh = u[:, :rank], s[:rank], v[:, :rank].T
    else:
        u, s, vh = torch.linalg.svd(change, full_matrices=False)
        u, s, vh = u[:, :rank], s[:rank], vh[:rank]
    root = s.sqrt()
    return root[:, None] * vh, u * root


def _interpolate(network: Any, ratios: Sequence[float]) -> None:
    """Scale each group of layers by its ratio: base + ratio · change (2309.06256, eq. 3)."""
    places = {
        name: int(next(filter(None, found.groups())))
        for name, module in network.named_modules()
        if hasattr(module, "lora_B") and (found := _LAYER.search(f"{name}."))
    }
    depth = max(places.values(), default=0) + 1
    for name, module in network.named_modules():
        if hasattr(module, "lora_B") and "default" in module.lora_B:
            group = places.get(name, 0) * len(ratios) // depth
            module.lora_B["default"].weight.mul_(ratios[group])
