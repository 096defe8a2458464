"""Masked supervised fine-tuning of a LoRA adapter on exact token ids.

Rejection-sampling fine-tuning (RFT, arXiv 2308.01825; ReST-EM, 2312.06585) with LoRA
(2106.09685) on all linear layers. Always from the base model, so that errors of one
generation do not pile up in the next. The vocabulary head is computed only where there is
loss: over prompt tokens it would be the largest avoidable cost.
"""

from __future__ import annotations

import json
import math
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agent.policies.base import engine_errors
from agent.training.adapter import save_adapter
from agent.training.packing import IGNORE, Example, Row, build, common_prefix, pack
from memory.records import content_hash


class LoraSettings(BaseModel):
    """How to train.

    Args:
        rank, alpha, dropout: LoRA's; on all linear layers.
        learning_rate: peak, reached after ``warmup`` of the steps, then cosine to a tenth.
        epochs: passes over the examples.
        row_tokens: tokens of one packed row.
        batch_rows: rows per optimiser step.
        max_grad_norm: gradient clipping.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    learning_rate: float = Field(8e-4, gt=0)
    warmup: float = Field(0.1, ge=0, le=1)
    epochs: int = Field(3, ge=1)
    row_tokens: int = Field(512, ge=1)
    batch_rows: int = Field(1, ge=1)
    max_grad_norm: float = Field(1.0, gt=0)


def row_loss(model: Any, row: Row) -> Any:
    """Weighted mean negative log-likelihood over the row's loss tokens.

    Args:
        model: a causal language model (PEFT-wrapped or not) with an ``lm_head``.
        row: from ``packing.build``.
    """
    import torch.nn.functional as F

    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = causal.model(
        input_ids=row.ids,
        position_ids=row.positions,
        attention_mask=row.mask,
        use_cache=False,
    ).last_hidden_state
    where = row.labels[0] != IGNORE
    logits = causal.lm_head(hidden[0, where])
    losses = F.cross_entropy(logits.float(), row.labels[0, where], reduction="none")
    weights = row.weights[0, where]
    return (losses * weights).sum() / weights.sum().clamp(min=1e-8)


def train(
    model_folder: Path,
    examples: Sequence[Example],
    settings: LoraSettings,
    folder: Path,
    *,
    seed: int,
    manifest: dict[str, Any],
    progress: Callable[[int, int, int, float], None] = lambda done, total, tokens, loss: None,
    dtype: str = "auto",
    device: str = "auto",
) -> dict[str, Any]:
    """Train an adapter and write it to ``folder`` (whole or not at all).

    Args:
        model_folder: the base model.
        examples: what to learn; every example's loss mask has at least one 1.
        settings: how.
        folder: where the adapter goes; replaced if it exists. Written beside it first, then
            renamed, so a folder that exists is complete.
        seed: initialisation and order.
        manifest: lineage to store with the adapter (sources, parent, hashes).
        progress: called after each optimiser step with steps done, steps in all, tokens of
            the step and its loss.

    Returns:
        the manifest as it is stored: lineage, settings, losses per step, and ``version``.

    Raises:
        ValueError: no examples.
        ModelError: the base model cannot be loaded.
        FloatingPointError: training diverged; nothing is written.
        PolicyFailure: torch failed, for want of memory mostly.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    from agent.policies.transformers import load_model

    if not examples:
        raise ValueError("no examples to train on")
    torch.manual_seed(seed)
    _, base = load_model(model_folder, dtype=dtype, device=device)
    base_dtype, base_device = base.dtype, base.device
    mixed = base_dtype != torch.float32  # the adapter itself is kept in float32
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():  # peft uses what transformers will rename
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(base, lora).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0)

    shared = common_prefix(examples)
    order = random.Random(seed)
    batches: list[list[list[Example]]] = []
    for _ in range(settings.epochs):
        shuffled = list(examples)
        order.shuffle(shuffled)
        rows = pack(shuffled, settings.row_tokens, shared)
        batches += [
            rows[i : i + settings.batch_rows] for i in range(0, len(rows), settings.batch_rows)
        ]
    losses: list[float] = []
    tokens = 0
    for number, batch in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * _schedule(number, len(batches), settings.warmup)
        step_tokens, step_loss = 0, 0.0
        for packed in batch:
            row = build(packed, shared, base_dtype, base_device)
            with engine_errors("if memory ran out, lower update_weights.lora.row_tokens"):
                with torch.autocast(base_device.type, base_dtype, enabled=mixed):
                    loss = row_loss(model, row) / len(batch)
                loss.backward()
            step_loss += float(loss.detach())
            step_tokens += row.ids.shape[1]
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(step_loss)
        tokens += step_tokens
        progress(number + 1, len(batches), step_tokens, step_loss)
    if not math.isfinite(losses[-1]):
        raise FloatingPointError(
            f"training diverged (loss {losses[-1]} after {len(losses)} steps): another run "
            "with a lower learning rate may do better"
        )
    data = content_hash([list(e.token_ids) + list(e.loss_mask) for e in examples])[:16]
    loss_tokens = settings.epochs * sum(sum(e.loss_mask) for e in examples)
    described = {
        **manifest,
        "data": data,
        "examples": len(examples),
        "sources": [e.source for e in examples],
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "tokens": tokens,
        "loss_tokens": loss_tokens,
        "losses": [round(loss, 5) for loss in losses],
    }

    def write(target: Path) -> None:
        model.save_pretrained(str(target))
        (target / "README.md").unlink(missing_ok=True)  # a template that says nothing
        # The same weights must have the same hash everywhere: no path, no order of a set.
        config = json.loads((target / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = ""
        config["target_modules"] = sorted(config["target_modules"])
        (target / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True))

    return {**described, "version": save_adapter(folder, write, described)}


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then cosine to a tenth."""
    ramp = max(1, round(warmup * steps))
    if step < ramp:
        return (step + 1) / ramp
    progress = (step - ramp) / max(1, steps - ramp)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))
