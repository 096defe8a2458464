"""A learned verifier: tells solved from failed trajectories, and ranks samples (V-STaR).

V-STaR (arXiv 2402.06457, §3.2) trains the generator's own weights with DPO on pairs of a right
and a wrong solution, and ranks samples by what these weights give them. Nothing that acts is
changed: the verifier is an adapter of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.training.packing import Example
from agent.training.settings import LoraSettings
from memory.records import Trajectory


class VerifierSettings(BaseModel):
    """A verifier that is trained in each generation, beside the policy.

    Args:
        enabled: whether there is one; the embedded engine only.
        members: trainings with other seeds and orders whose weights are averaged (WARM,
            2401.12187, §3): the mean is harder to fool than one of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = False
    members: int = Field(3, ge=1)


def train_verifier(
    model_folder: Path,
    pairs: Sequence[Example],
    settings: LoraSettings,
    folder: Path,
    *,
    seed: int,
    manifest: dict[str, Any],
    dtype: str = "auto",
    device: str = "auto",
) -> dict[str, Any]:
    """Train a verifier and write it to ``folder``; its manifest.

    Args:
        pairs: from ``lessons.pairs``.
        settings: LoRA's and DPO's; whatever they name, the objective is DPO, without NLL: a
            verifier need not write.
        model_folder, folder, seed, manifest, dtype, device: as in ``lora.train``.
    """
    from agent.training.lora import train

    dpo = settings.dpo.model_copy(update={"nll": 0.0})
    return train(
        model_folder,
        pairs,
        settings.model_copy(
            update={"objective": "dpo", "loss": None, "backend": "own", "dpo": dpo}
        ),
        folder,
        seed=seed,
        manifest={**manifest, "role": "verifier"},
        dtype=dtype,
        device=device,
    )


def average(
    model_folder: Path,
    members: Sequence[Path],
    folder: Path,
    *,
    manifest: dict[str, Any],
    dtype: str = "auto",
    device: str = "auto",
) -> dict[str, Any]:
    """One verifier with the mean of several ones' weights (WARM, 2401.12187, eq. 2).

    Args:
        members: folders of verifiers that were trained on the same pairs.
        model_folder, folder, manifest, dtype, device: as in ``merging.merge``.
    """
    from agent.training.adapter import read_manifest
    from agent.training.merging import Recipe, merge

    ranks = [int(read_manifest(member)["settings"]["rank"]) for member in members]
    mean = Recipe(how="soup", weights=(1 / len(members),) * len(members), rank=sum(ranks))
    described = {**manifest, "role": "verifier"}
    return merge(
        model_folder, members, mean, folder, manifest=described, dtype=dtype, device=device
    )


def load_verifier(
    model_folder: Path,
    verifier: Path,
    *,
    by: Literal["ratio", "likelihood"] = "ratio",
    row_tokens: int = 512,
    dtype: str = "auto",
    device: str = "auto",
) -> Callable[[Sequence[Example]], dict[str, float]]:
    """A judge of trajectories: sequences (`conversations` with ``whole``) to scores by slot.

    Args:
        model_folder: the base model.
        verifier: folder of the trained verifier.
        by: log-likelihood against the base's (DPO's implicit reward, without its beta), or alone
            as in the paper, which favours what is short and usual.
        row_tokens, dtype, device: as in training.
    """
    from agent.policies.transformers import load_model, with_adapter
    from agent.training.adapter import check_adapter
    from agent.training.objectives import Scorer, logprobs_of

    check_adapter(verifier)
    _, base = load_model(model_folder, dtype=dtype, device=device)
    network = with_adapter(base, verifier).eval()
    score = Scorer(network)

    def judge(examples: Sequence[Example]) -> dict[str, float]:
        found = logprobs_of(score, examples, row_tokens, base.dtype, base.device)
        values = [float(own.sum()) for own in found]
        if by == "ratio":
            with network.disable_adapter():
                usual = logprobs_of(score, examples, row_tokens, base.dtype, base.device)
            values = [value - float(own.sum()) for value, own in zip(values, usual, strict=True)]
        totals: dict[str, float] = {}
        for example, value in zip(examples, values, strict=True):
            totals[example.source] = totals.get(example.source, 0.0) + value
        return totals

    return judge


def best_of_n(samples: Sequence[Trajectory], scored: Mapping[str, float]) -> dict[str, Trajectory]:
    """Of each task the sample that a verifier ranks first.

    Args:
        samples: several trajectories of each task.
        scored: from a judge; what is missing there ranks last.
    """
    best: dict[str, Trajectory] = {}
    for sample in samples:
        held = best.get(sample.task)
        worst = float("-inf")
        if held is None or scored.get(sample.slot, worst) > scored.get(held.slot, worst):
            best[sample.task] = sample
    return best
