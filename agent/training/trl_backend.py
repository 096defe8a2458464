"""TRL's SFTTrainer in place of the own loop, for ``objective: sft``.

It gets ids and labels, so nothing is tokenised again, masked otherwise or cut. It pads instead
of packing, and does not go on from a checkpoint after a crash.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.policies.base import PolicyFailure, engine_errors
from agent.policies.models import ModelError
from agent.training.packing import IGNORE, Example
from agent.training.settings import LoraSettings


def train_with_trl(
    model_folder: Path,
    examples: Sequence[Example],
    settings: LoraSettings,
    folder: Path,
    *,
    seed: int,
    manifest: dict[str, Any],
    start: Path | None,
    dtype: str = "auto",
    device: str = "auto",
) -> dict[str, Any]:
    """As ``lora.train``, by TRL.

    Raises:
        ModelError: TRL is not installed.
        PolicyFailure: it cannot do what is asked, or failed.
        FloatingPointError: training diverged; nothing is written.
    """
    if len({e.weight for e in examples}) > 1:
        raise PolicyFailure(
            "update_weights.backend: trl cannot weigh examples; take update_weights.backend: own"
        )
    try:
        from datasets import Dataset
        from transformers import PrinterCallback
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer
    except ImportError as error:
        raise ModelError(
            f"update_weights.backend: trl needs TRL ({error}); pip install 'instar[trl]'"
        ) from error
    from agent.policies.transformers import load_model
    from agent.training.loop import ADVICE, check_finite
    from agent.training.lora import check_lengths, describe, lora_config, save

    tokenizer, base = load_model(model_folder, dtype=dtype, device=device)
    check_lengths(examples, base.config)
    longest = max(len(e.token_ids) for e in examples)
    with tempfile.TemporaryDirectory(prefix="instar-trl-") as scratch:
        config = SFTConfig(
            output_dir=scratch,
            max_length=None,  # its default cuts the end off, where a task is decided
            per_device_train_batch_size=max(1, settings.row_tokens // longest),
            gradient_accumulation_steps=settings.batch_rows,
            num_train_epochs=settings.epochs,
            learning_rate=settings.peak,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": 0.1},
            warmup_steps=min(settings.warmup, 0.999),  # below 1 it is a share
            weight_decay=0.0,
            max_grad_norm=settings.max_grad_norm,
            optim="adamw_torch",
            seed=seed,
            bf16=False,  # the base's own precision
            gradient_checkpointing=False,
            use_cpu=base.device.type == "cpu",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        with engine_errors(ADVICE):
            trainer = SFTTrainer(
                model=base,
                args=config,
                train_dataset=Dataset.from_list([_labelled(e) for e in examples]),
                processing_class=tokenizer,
                peft_config=lora_config(settings),
            )
            trainer.remove_callback(PrinterCallback)  # standard output is ours
            trainer.train()
    losses = [float(told["loss"]) for told in trainer.state.log_history if "loss" in told]
    check_finite(losses)
    described = describe(manifest, examples, settings, seed) | {
        "tokens": settings.epochs * sum(len(e.token_ids) for e in examples),
        "losses": [round(loss, 5) for loss in losses],
    }
    return save(trainer.model, folder, described)


def _labelled(example: Example) -> dict[str, list[int]]:
    marked = zip(example.token_ids, example.loss_mask, strict=True)
    return {
        "input_ids": list(example.token_ids),
        "labels": [token if mask else IGNORE for token, mask in marked],
    }
