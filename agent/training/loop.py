"""The optimiser's loop: steps over packed rows, with checkpoints, for any of the ``objectives``.

Weights that training begins with are the reference of every objective that has one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from agent.policies.base import engine_errors
from agent.training.averages import Averages
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


def loop(
    trainee: Trainee,
    examples: Sequence[Example],
    settings: LoraSettings,
    seed: int,
    folder: Path,
    described: dict[str, Any],
    progress: Progress,
) -> tuple[list[float], int]:
    """All optimiser steps; the losses of each, and the tokens of all.

    The checkpoint stays: it is the caller's to remove, once the adapter is written.
    """
    import torch

    accelerator, optimiser = trainee.accelerator, trainee.optimiser
    shared = common_prefix(examples)
    steps = plan(examples, settings, seed, shared)
    step_of = _Step(trainee, examples, settings, shared)
    split = str(accelerator.distributed_type).endswith(("FSDP", "DEEPSPEED"))
    every = None if split else settings.checkpoint_seconds  # no process holds the whole state
    checkpoint = Checkpoint(folder, _key(examples, described), every)
    averages = None
    if settings.regularise.ema is not None:
        averages = Averages(trainee.parameters, settings.regularise)
    losses: list[float] = []
    tokens = 0
    # One of another launch, by a process that held all of it, is of no use to parts.
    if not split and (state := checkpoint.load()) is not None:
        losses, tokens = state["losses"], state["tokens"]
        _restore(trainee, state)
        if averages is not None:
            averages.restore(state["average"])
    for number, rows in enumerate(steps[len(losses) :], start=len(losses)):
        for group in optimiser.param_groups:
            group["lr"] = settings.peak * _schedule(number, len(steps), settings.warmup)
        # Dropout's draws: other ones in each process, and the same ones when it is resumed.
        torch.manual_seed(int(content_hash([seed, number, accelerator.process_index])[:12], 16))
        step_loss, step_tokens = step_of(rows)
        # All of them, for FSDP's sake; what is frozen has no gradient.
        norm = accelerator.clip_grad_norm_(trainee.scorer.parameters(), settings.max_grad_norm)
        if norm is not None and not math.isfinite(float(norm)):
            step_loss = math.nan  # no further loss would tell, if this is the last step
        with engine_errors(ADVICE):
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if averages is not None:
            averages.after(number + 1)
        losses.append(step_loss)
        tokens += step_tokens
        if not math.isfinite(step_loss):
            break
        if checkpoint.due and accelerator.is_main_process and number + 1 < len(steps):
            average = averages.mean if averages is not None else []
            told = {"average": average, "losses": losses, "tokens": tokens}
            checkpoint.save({**_state(trainee), **told})
        progress(number + 1, len(steps), step_tokens, step_loss)
    if averages is not None:
        averages.finish()
    if not math.isfinite(losses[-1]) and accelerator.is_main_process:
        checkpoint.remove()  # it would diverge again
    check_finite(losses)
    return losses, tokens


class _Step:
    """Gradients of one optimiser step after the other.

    What the weights that training begins with say is computed once, here: before the first step
    they are what is in training, so no second model is in memory.
    """

    def __init__(
        self, trainee: Trainee, examples: Sequence[Example], settings: LoraSettings, shared: int
    ):
        from agent.training.objectives import likeliest_of, loss_of, mismatched, needs_reference

        self.trainee, self.settings, self.shared = trainee, settings, shared
        self.loss = loss_of(settings)
        grouped = units(examples)
        # A loss of one's own asks for no reference point.
        pairs = settings.objective == "kto" and settings.loss is None and len(grouped) > 1
        others = mismatched(grouped) if pairs else []
        self.other = {id(unit[0]): o for unit, o in zip(grouped, others, strict=False)}
        self.reference: dict[int, Any] = {}
        if needs_reference(settings):
            every = {id(e): e for e in (*examples, *others)}
            trainee.network.eval()
            found = self._logprobs(list(every.values()))
            trainee.network.train()
            self.reference = dict(zip(every, found, strict=True))
        self.start: dict[int, tuple[Any, Any]] = {}
        if settings.regularise.kl:
            different = {id(e): e for e in examples}
            trainee.network.eval()
            likeliest = self._ask(likeliest_of, list(different.values()))
            trainee.network.train()
            self.start = dict(zip(different, likeliest, strict=True))

    def __call__(self, rows: Sequence[Sequence[Unit]]) -> tuple[float, int]:
        """Adds up the gradients of a step's rows; its loss and its tokens."""
        import torch

        from agent.training.objectives import Batch, batch_of, divergence, tokens_of

        trainee, accelerator = self.trainee, self.trainee.accelerator
        processes = accelerator.num_processes
        batch: Batch = batch_of(rows)
        own = list(rows[accelerator.process_index :: processes])
        idle = -(-len(rows) // processes) - len(own)  # others have a row more: keep in step
        kl = self._kl(rows) if self.other else 0.0
        step_loss, step_tokens = 0.0, 0
        for number, packed in enumerate(own + [rows[0]] * idle):
            flat = [example for unit in packed for example in unit]
            row = build(flat, self.shared, trainee.dtype, trainee.device)
            with engine_errors(ADVICE):
                with trainee.autocast():
                    away: Any = 0.0
                    if self.start:
                        among, before = (
                            torch.cat(parts)
                            for parts in zip(*(self.start[id(e)] for e in flat), strict=True)
                        )
                        logprobs, now = trainee.scorer(*row, among=among)
                        away = divergence(before, now).sum() / batch.tokens
                    else:
                        logprobs = trainee.scorer(*row)
                    reference = None
                    if self.reference:
                        reference = torch.cat([self.reference[id(e)] for e in flat])
                    found = self.loss(tokens_of(packed, row, logprobs, reference), batch, kl)
                    found = found + self.settings.regularise.kl * away
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

        return self._ask(logprobs_of, examples)

    def _ask(self, asked: Callable[..., list[Any]], examples: Sequence[Example]) -> list[Any]:
        trainee = self.trainee
        with engine_errors(ADVICE), trainee.autocast():
            return asked(
                trainee.scorer, examples, self.settings.row_tokens, trainee.dtype, trainee.device
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


def _key(examples: Sequence[Example], described: dict[str, Any]) -> str:
    """Hash of all that decides a training."""
    import torch

    decides = ("model", "parent", "settings", "seed")
    return content_hash(
        [examples, {name: described.get(name) for name in decides}, torch.__version__]
    )


def _state(trainee: Trainee) -> dict[str, Any]:
    """All that the next steps depend on, but for what follows from the seed."""
    return {
        "weights": [p.detach() for p in trainee.parameters],
        "optimiser": trainee.optimiser.state_dict(),
    }


def _restore(trainee: Trainee, state: dict[str, Any]) -> None:
    import torch

    with torch.no_grad():
        for parameter, stored in zip(trainee.parameters, state["weights"], strict=True):
            parameter.copy_(stored)
    trainee.optimiser.load_state_dict(state["optimiser"])


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then cosine to a tenth."""
    ramp = max(1, round(warmup * steps))
    if step < ramp:
        return (step + 1) / ramp
    progress = (step - ramp) / max(1, steps - ramp)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))
