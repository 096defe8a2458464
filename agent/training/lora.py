"""Training of a LoRA adapter on exact token ids.

LoRA (2106.09685) on all linear layers, with any of the ``objectives``. Always from the base
model, so that errors of one generation do not pile up in the next. The vocabulary head is
computed only where there is loss: over prompt tokens it would be the largest avoidable cost.
Accelerate spreads it over processes, as its launcher is told to (see ``job``).
"""

from __future__ import annotations

import json
import math
import random
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from agent.policies.base import PolicyFailure, engine_errors
from agent.training.adapter import save_adapter
from agent.training.checkpoint import Checkpoint
from agent.training.packing import Example, Unit, build, common_prefix, pack_units, units
from agent.training.settings import LoraSettings
from memory.records import content_hash

ADVICE = "if memory ran out, lower update_weights.row_tokens"
Progress = Callable[[int, int, int, float], None]


class Trainee(NamedTuple):
    """The model in training, as this process holds it.

    Args:
        accelerator: accelerate's; it knows of other processes.
        network: the PEFT model.
        scorer: gives a row's log-probabilities; what ``accelerator`` prepared.
        optimiser: of ``parameters``, the adapter's.
        dtype, device: of the base model.
    """

    accelerator: Any
    network: Any
    scorer: Any
    optimiser: Any
    parameters: list[Any]
    dtype: Any
    device: Any

    def autocast(self) -> AbstractContextManager[Any]:
        """The adapter is kept in float32; it meets a smaller base in the base's precision."""
        import torch

        mixed = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype, enabled=mixed)


def train(
    model_folder: Path,
    examples: Sequence[Example],
    settings: LoraSettings,
    folder: Path,
    *,
    seed: int,
    manifest: dict[str, Any],
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
            dtype=dtype,
            device=device,
        )
    trainee = _trainee(model_folder, settings, seed, dtype, device)
    check_lengths(examples, trainee.network.config)
    described = describe(manifest, examples, settings, seed)
    losses, tokens = _loop(trainee, examples, settings, seed, folder, described, progress)
    described |= {"tokens": tokens, "losses": [round(loss, 5) for loss in losses]}
    return save(trainee.network, folder, described, trainee)


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
        PolicyFailure: an example is longer than the model's positions.
    """
    limit = getattr(config, "max_position_embeddings", None)
    longest = max(examples, key=lambda e: len(e.token_ids))
    if limit is not None and len(longest.token_ids) > limit:
        raise PolicyFailure(
            f"{longest.source} has {len(longest.token_ids)} tokens, the model reads {limit}: "
            "nothing is cut, so lower policy.context or agent.turns, or take another model"
        )


def check_finite(losses: Sequence[float]) -> None:
    """Whether training arrived anywhere.

    Raises:
        FloatingPointError: it diverged.
    """
    if not math.isfinite(losses[-1]):
        raise FloatingPointError(
            f"training diverged (loss {losses[-1]} after {len(losses)} steps): another run "
            "with a lower learning rate may do better"
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
    model_folder: Path, settings: LoraSettings, seed: int, dtype: str, device: str
) -> Trainee:
    import torch
    from accelerate import Accelerator
    from peft import get_peft_model

    from agent.policies.transformers import load_model
    from agent.training.objectives import Scorer

    accelerator = Accelerator(cpu=device == "cpu")
    if accelerator.num_processes > 1:
        device = str(accelerator.device)
    torch.manual_seed(seed)
    _, base = load_model(model_folder, dtype=dtype, device=device)
    base_dtype, base_device = base.dtype, base.device
    with warnings.catch_warnings():  # peft uses what transformers will rename
        warnings.simplefilter("ignore", FutureWarning)
        network = get_peft_model(base, lora_config(settings)).train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=settings.peak, weight_decay=0.0)
    # Placed already, on the device that the configuration names.
    scorer, prepared = accelerator.prepare(
        Scorer(network), optimiser, device_placement=[False, False]
    )
    return Trainee(accelerator, network, scorer, prepared, parameters, base_dtype, base_device)


def plan(
    examples: Sequence[Example], settings: LoraSettings, seed: int, shared: int
) -> list[list[list[Unit]]]:
    """The optimiser steps: of each the rows, of each row the units."""
    order = random.Random(seed)
    steps: list[list[list[Unit]]] = []
    grouped = units(examples)
    for _ in range(settings.epochs):
        shuffled = list(grouped)
        order.shuffle(shuffled)
        rows = pack_units(shuffled, settings.row_tokens, shared)
        steps += [
            rows[i : i + settings.batch_rows] for i in range(0, len(rows), settings.batch_rows)
        ]
    return steps


def _loop(
    trainee: Trainee,
    examples: Sequence[Example],
    settings: LoraSettings,
    seed: int,
    folder: Path,
    described: dict[str, Any],
    progress: Progress,
) -> tuple[list[float], int]:
    """All optimiser steps; the losses of each, and the tokens of all."""
    accelerator, optimiser = trainee.accelerator, trainee.optimiser
    shared = common_prefix(examples)
    steps = plan(examples, settings, seed, shared)
    step_of = _Step(trainee, examples, settings, shared)
    split = str(accelerator.distributed_type).endswith(("FSDP", "DEEPSPEED"))
    every = None if split else settings.checkpoint_seconds  # no process holds the whole state
    checkpoint = Checkpoint(folder, _key(examples, described), every)
    losses: list[float] = []
    tokens = 0
    if (state := checkpoint.load()) is not None:
        losses, tokens = state["losses"], state["tokens"]
        _restore(trainee, state)
    for number, rows in enumerate(steps[len(losses) :], start=len(losses)):
        for group in optimiser.param_groups:
            group["lr"] = settings.peak * _schedule(number, len(steps), settings.warmup)
        step_loss, step_tokens = step_of(rows)
        accelerator.clip_grad_norm_(trainee.parameters, settings.max_grad_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(step_loss)
        tokens += step_tokens
        if not math.isfinite(step_loss):
            break
        if checkpoint.due and accelerator.is_main_process and number + 1 < len(steps):
            checkpoint.save({**_state(trainee), "losses": losses, "tokens": tokens})
        progress(number + 1, len(steps), step_tokens, step_loss)
    if accelerator.is_main_process:
        checkpoint.remove()
    check_finite(losses)
    return losses, tokens


class _Step:
    """Gradients of one optimiser step after the other.

    Log-probabilities under the reference (the base: the same model, its adapter switched off)
    are computed once, here.
    """

    def __init__(
        self, trainee: Trainee, examples: Sequence[Example], settings: LoraSettings, shared: int
    ):
        from agent.training.objectives import mismatched, needs_reference

        self.trainee, self.settings, self.shared = trainee, settings, shared
        grouped = units(examples)
        pairs = settings.objective == "kto" and len(grouped) > 1
        others = mismatched(grouped) if pairs else []
        self.other = {id(unit[0]): o for unit, o in zip(grouped, others, strict=False)}
        self.reference: dict[int, Any] = {}
        if needs_reference(settings):
            every = {id(e): e for e in (*examples, *others)}
            trainee.network.eval()
            with trainee.network.disable_adapter():
                found = self._logprobs(list(every.values()))
            trainee.network.train()
            self.reference = dict(zip(every, found, strict=True))

    def __call__(self, rows: Sequence[Sequence[Unit]]) -> tuple[float, int]:
        """Adds up the gradients of a step's rows; its loss and its tokens."""
        import torch

        from agent.training.objectives import Batch, batch_of, loss, tokens_of

        trainee, accelerator = self.trainee, self.trainee.accelerator
        processes = accelerator.num_processes
        batch: Batch = batch_of(rows)
        mean = self.settings.objective == "sft"  # of the rows' means, as long as there is one
        own = list(rows[accelerator.process_index :: processes])
        idle = -(-len(rows) // processes) - len(own)  # others have a row more: keep in step
        kl = self._kl(rows) if self.other else 0.0
        step_loss, step_tokens = 0.0, 0
        for number, packed in enumerate(own + [rows[0]] * idle):
            flat = [example for unit in packed for example in unit]
            row = build(flat, self.shared, trainee.dtype, trainee.device)
            with engine_errors(ADVICE):
                with trainee.autocast():
                    logprobs = trainee.scorer(*row)
                    reference = None
                    if self.reference:
                        reference = torch.cat([self.reference[id(e)] for e in flat])
                    found = loss(
                        tokens_of(packed, row, logprobs, reference), self.settings, batch, kl
                    )
                    found = found / len(rows) if mean else found
                    found = found * 0 if number >= len(own) else found
                # Several processes' gradients are averaged, where their sum is wanted.
                accelerator.backward(found * processes if processes > 1 else found)
            step_loss += float(found.detach())
            step_tokens += row.ids.shape[1] if number < len(own) else 0
        if processes > 1:
            told = torch.tensor([step_loss, step_tokens], device=trainee.device)
            told = accelerator.reduce(told, reduction="sum")
            step_loss, step_tokens = float(told[0]), int(told[1])
        return step_loss, step_tokens

    def _kl(self, rows: Sequence[Sequence[Unit]]) -> float:
        """KTO's reference point of a step: how far the weights have moved, at least 0."""
        others = [self.other[id(unit[0])] for row in rows for unit in row]
        moved = self._logprobs(others)
        sums = [
            float((a - self.reference[id(o)]).sum()) for a, o in zip(moved, others, strict=True)
        ]
        return max(0.0, sum(sums) / len(sums))

    def _logprobs(self, examples: Sequence[Example]) -> list[Any]:
        from agent.training.objectives import logprobs_of

        trainee = self.trainee
        with engine_errors(ADVICE), trainee.autocast():
            return logprobs_of(
                trainee.scorer, examples, self.settings.row_tokens, trainee.dtype, trainee.device
            )


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


def _key(examples: Sequence[Example], described: dict[str, Any]) -> str:
    """Hash of all that decides a training."""
    import torch

    decides = ("model", "settings", "seed")
    return content_hash(
        [examples, {name: described.get(name) for name in decides}, torch.__version__]
    )


def _state(trainee: Trainee) -> dict[str, Any]:
    """All that the next steps depend on, but for what follows from the seed."""
    import torch

    return {
        "weights": [p.detach() for p in trainee.parameters],
        "optimiser": trainee.optimiser.state_dict(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore(trainee: Trainee, state: dict[str, Any]) -> None:
    import torch

    with torch.no_grad():
        for parameter, stored in zip(trainee.parameters, state["weights"], strict=True):
            parameter.copy_(stored)
    trainee.optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["random"])
    if state["random_cuda"]:
        torch.cuda.set_rng_state_all(state["random_cuda"])


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then cosine to a tenth."""
    ramp = max(1, round(warmup * steps))
    if step < ramp:
        return (step + 1) / ramp
    progress = (step - ramp) / max(1, steps - ramp)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))
