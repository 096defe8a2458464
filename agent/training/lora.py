"""Training of a LoRA adapter on exact token ids.

LoRA (2106.09685) on all linear layers, with any of the ``objectives``. From the base model, so
that errors of one generation do not pile up in the next, unless an adapter is given to begin
with. Accelerate spreads it over processes, as its launcher is told to (see ``job``).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent.policies.base import PolicyFailure
from agent.training.adapter import save_adapter
from agent.training.checkpoint import discard
from agent.training.loop import Progress, Trainee, loop
from agent.training.packing import Example
from agent.training.settings import LoraSettings
from memory.records import content_hash


def train(
    model_folder: Path,
    examples: Sequence[Example],
    settings: LoraSettings,
    folder: Path,
    *,
    seed: int,
    manifest: dict[str, Any],
    start: Path | None = None,
    progress: Progress = lambda done, total, tokens, loss: None,
    dtype: str = "auto",
    device: str = "auto",
) -> dict[str, Any]:
    """Train an adapter and write it to ``folder`` (whole or not at all).

    Begun again after a crash it goes on from its last checkpoint.

    Args:
        model_folder: the base model.
        examples: what to learn; every example's loss mask has at least one 1.
        settings: how.
        folder: where the adapter goes; replaced if it exists. Written beside it first, then
            renamed, so a folder that exists is complete.
        seed: initialisation and order.
        manifest: lineage to store with the adapter (sources, parent, hashes).
        start: folder of the adapter to begin with, rank and all; None begins at the base.
        progress: called after each optimiser step with steps done, steps in all, tokens of
            the step and its loss.

    Returns:
        the manifest as it is stored: lineage, settings, losses per step, and ``version``.

    Raises:
        ValueError: no examples.
        ModelError: the base model cannot be loaded.
        FloatingPointError: training diverged; nothing is written.
        PolicyFailure: torch failed, for want of memory mostly; or an example is longer than
            what the model can read.
    """
    if not examples:
        raise ValueError("no examples to train on")
    if elsewhere := _elsewhere(settings):
        return elsewhere(
            model_folder,
            examples,
            settings,
            folder,
            seed=seed,
            manifest=manifest,
            start=start,
            dtype=dtype,
            device=device,
        )
    trainee = _trainee(model_folder, settings, seed, start, dtype, device)
    check_lengths(examples, trainee.network.config)
    described = describe(manifest, examples, settings, seed)
    losses, tokens = loop(trainee, examples, settings, seed, folder, described, progress)
    described |= {"tokens": tokens, "losses": [round(loss, 5) for loss in losses]}
    made = save(trainee.network, folder, described, trainee)
    if trainee.accelerator.is_main_process:
        discard(folder)  # not before: a disk that was full, say, costs no training
    return made


def _elsewhere(settings: LoraSettings) -> Callable[..., dict[str, Any]] | None:
    """What trains instead of the loop below, if the settings name it."""
    if settings.launch:
        from agent.training.job import launch

        return launch
    if settings.backend == "trl":
        from agent.training.trl_backend import train_with_trl

        return train_with_trl
    return None


def describe(
    manifest: dict[str, Any], examples: Sequence[Example], settings: LoraSettings, seed: int
) -> dict[str, Any]:
    """The manifest, less what only training can tell."""
    return {
        **manifest,
        "data": content_hash([list(e.token_ids) + list(e.loss_mask) for e in examples])[:16],
        "examples": len(examples),
        "sources": [e.source for e in examples],
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "loss_tokens": settings.epochs * sum(sum(e.loss_mask) for e in examples),
    }


def check_lengths(examples: Sequence[Example], config: Any) -> None:
    """Nothing is ever cut: what the model cannot read is named.

    Raises:
        PolicyFailure: an example is longer than the model's positions, or than its layers see.
    """
    from agent.policies.transformers import window

    limits = (getattr(config, "max_position_embeddings", None), window(config))
    limit = min((limit for limit in limits if limit is not None), default=None)
    longest = max(examples, key=lambda e: len(e.token_ids))
    if limit is not None and len(longest.token_ids) > limit:
        raise PolicyFailure(
            f"{longest.source} has {len(longest.token_ids)} tokens, the model reads {limit}: "
            "nothing is cut, so lower policy.context or agent.turns, or take another model"
        )


def lora_config(settings: LoraSettings) -> Any:
    """PEFT's configuration for the settings."""
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _trainee(
    model_folder: Path,
    settings: LoraSettings,
    seed: int,
    start: Path | None,
    dtype: str,
    device: str,
) -> Trainee:
    import torch
    from accelerate import Accelerator
    from peft import get_peft_model

    from agent.policies.transformers import load_model, with_adapter
    from agent.training.objectives import Scorer

    accelerator = Accelerator(cpu=device == "cpu")
    if accelerator.num_processes > 1:
        device = str(accelerator.device)
    torch.manual_seed(seed)
    _, base = load_model(model_folder, dtype=dtype, device=device)
    base_dtype, base_device = base.dtype, base.device
    if start is not None:
        network = with_adapter(base, start, is_trainable=True)
    else:
        with warnings.catch_warnings():  # peft uses what transformers will rename
            warnings.simplefilter("ignore", FutureWarning)
            network = get_peft_model(base, lora_config(settings))
    network.train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=settings.peak, weight_decay=0.0)
    # Placed already, on the device that the configuration names.
    scorer, prepared = accelerator.prepare(
        Scorer(network), optimiser, device_placement=[False, False]
    )
    held = [p for group in prepared.param_groups for p in group["params"]]  # FSDP made new ones
    return Trainee(accelerator, network, scorer, prepared, held, base_dtype, base_device)


def save(
    network: Any, folder: Path, described: dict[str, Any], trainee: Trainee | None = None
) -> dict[str, Any]:
    """Write a trained adapter; the manifest with its version.

    Args:
        network: the PEFT model.
        folder: where the adapter goes.
        described: the manifest.
        trainee: where several processes may hold parts of it; one of them writes.
    """
    state = None
    if trainee is not None and trainee.accelerator.num_processes > 1:
        whole = trainee.accelerator.get_state_dict(trainee.scorer)
        state = {name.removeprefix("model."): value for name, value in whole.items()}

    def write(target: Path) -> None:
        network.save_pretrained(str(target), state_dict=state)
        (target / "README.md").unlink(missing_ok=True)  # a template that says nothing
        # The same weights must have the same hash everywhere: no path, no order of a set.
        config = json.loads((target / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = ""
        config["target_modules"] = sorted(config["target_modules"])
        (target / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True))

    if trainee is not None and not trainee.accelerator.is_main_process:
        return described
    return {**described, "version": save_adapter(folder, write, described)}
