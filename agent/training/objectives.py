"""The objectives' losses, over the loss tokens of one packed row.

Pure functions of log-probabilities. All are means over the batch of one optimiser step, however
that is cut into rows or spread over processes; the ``Batch`` says what to divide by. Only
supervised training keeps a mean within each row. TRL's losses are the same numbers on the same
batch (a test holds that), except that here observations bear no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from agent import choices
from agent.policies.kernels import ATTENTION, Block, blocks, quicken_attention
from agent.training.packing import IGNORE, Example, Row, Unit, build, common_prefix, pack
from agent.training.settings import DpoSettings, GrpoSettings, KtoSettings, LoraSettings

LIKELIEST = 32  # tokens at each place that the divergence from the start tells apart


class Tokens(NamedTuple):
    """What a loss sees of a row.

    Args:
        logprobs: of the loss tokens, under the weights in training.
        reference: of the same, under the weights that training began with.
        generation: of the same, when they were generated; the reference's where unknown.
        example: (tokens) which example a token belongs to.
        unit: (examples) which unit an example belongs to.
        weight, advantage: (examples) the examples' own.
    """

    logprobs: Tensor
    reference: Tensor
    generation: Tensor
    example: Tensor
    unit: Tensor
    weight: Tensor
    advantage: Tensor


class Batch(NamedTuple):
    """What one optimiser step is the mean over: units, loss tokens, loss tokens of the better
    halves of pairs, and loss tokens as much as their examples weigh.
    """

    units: int
    tokens: int
    chosen: int
    weight: float


Loss = Callable[[Tokens, Batch], Tensor]


def batch_of(rows: Sequence[Sequence[Unit]]) -> Batch:
    """The counts of an optimiser step's rows."""
    found = [unit for row in rows for unit in row]
    every = [example for unit in found for example in unit]
    return Batch(
        units=len(found),
        tokens=sum(sum(e.loss_mask) for e in every),
        chosen=max(1, sum(sum(e.loss_mask) for e in every if e.advantage > 0)),
        weight=max(1e-8, sum(e.weight * sum(e.loss_mask) for e in every)),
    )


def token_logits(model: torch.nn.Module, row: Row) -> Tensor:
    """Logits (tokens, vocabulary) at a row's loss tokens; the head is computed only there.

    Over prompt tokens it would be the largest avoidable cost.

    Args:
        model: a causal language model (PEFT-wrapped or not) with an ``lm_head``.
        row: from ``packing.build``.
    """
    causal: torch.nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    hidden = causal.model(  # type: ignore[operator]
        input_ids=row.ids,
        position_ids=row.positions,
        attention_mask=row.mask,
        use_cache=False,
        **_blocks_of(causal, row),
    ).last_hidden_state
    where = row.labels[0] != IGNORE
    logits: Tensor = causal.lm_head(hidden[0, where])  # type: ignore[operator]
    return logits.float()


def _blocks_of(causal: Any, row: Row) -> dict[str, list[Block]]:
    """What of a packed row can be left out by an attention that asks for it."""
    if causal.config._attn_implementation != ATTENTION or not _takes_more(causal.model):
        return {}
    # The common beginning is nobody's, -1, and comes first.
    return {"blocks": blocks(torch.bincount(row.owner[0] + 1).tolist())}


def _takes_more(model: torch.nn.Module) -> bool:
    """Whether a model hands on to its attention what it does not know."""
    kinds = {p.kind for p in signature(model.forward).parameters.values()}
    return Parameter.VAR_KEYWORD in kinds


def token_logprobs(model: torch.nn.Module, row: Row) -> Tensor:
    """Log-probabilities of a row's loss tokens."""
    return _of_labels(token_logits(model, row), row)


def _of_labels(logits: Tensor, row: Row) -> Tensor:
    return -F.cross_entropy(logits, row.labels[0][row.labels[0] != IGNORE], reduction="none")


def logprobs_of(
    score: Callable[..., Tensor],
    examples: Sequence[Example],
    row_tokens: int,
    dtype: torch.dtype,
    device: str,
) -> list[Tensor]:
    """Log-probabilities of each example's loss tokens, without gradients.

    Args:
        score: takes a row's tensors, as a ``Scorer`` does.
        examples: any.
        row_tokens: tokens of one packed row.
        dtype, device: of the model.
    """
    shared = common_prefix(examples)
    found: list[Tensor] = []
    with torch.no_grad():
        for packed in pack(examples, row_tokens, shared):
            own = score(*build(packed, shared, dtype, device))
            found += torch.split(own, [sum(e.loss_mask) for e in packed])
    return found


class Scorer(torch.nn.Module):
    """``token_logprobs`` as a module: what several processes wrap and keep in step.

    Given ``among``, (tokens, k) of the vocabulary, it returns the log-probabilities of these too.
    Given a number, it returns so many of the likeliest, and their log-probabilities.

    It also leaves out what only costs: on a CPU torch's blocked attention, and under autocast
    PEFT's change of each layer's input to the adapter's float32, which would be changed back.
    """

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model
        quicken_attention(model.get_base_model() if hasattr(model, "get_base_model") else model)  # type: ignore[operator]
        self.adapted: list[Any] = [
            module for module in model.modules() if hasattr(module, "cast_input_dtype_enabled")
        ]

    def forward(self, *tensors: Tensor, among: Tensor | int | None = None) -> Any:
        row = Row(*tensors)
        autocast = torch.is_autocast_enabled(row.ids.device.type)
        for module in self.adapted:
            module.cast_input_dtype_enabled = not autocast
        if among is None:
            return token_logprobs(self.model, row)
        logits = token_logits(self.model, row)
        if isinstance(among, int):
            found, ids = logits.log_softmax(-1).topk(min(among, logits.shape[-1]))
            return ids, found
        # As in log_softmax, without a second tensor of the vocabulary's size for the gradient.
        return _of_labels(logits, row), logits.gather(1, among) - logits.logsumexp(1, keepdim=True)


def likeliest_of(
    score: Callable[..., tuple[Tensor, Tensor]],
    examples: Sequence[Example],
    row_tokens: int,
    dtype: torch.dtype,
    device: str,
) -> list[tuple[Tensor, Tensor]]:
    """The ``LIKELIEST`` tokens at each example's loss tokens, and their log-probabilities.

    Args:
        score, examples, row_tokens, dtype, device: see ``logprobs_of``.
    """
    shared = common_prefix(examples)
    found: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for packed in pack(examples, row_tokens, shared):
            ids, own = score(*build(packed, shared, dtype, device), among=LIKELIEST)
            lengths = [sum(e.loss_mask) for e in packed]
            found += zip(torch.split(ids, lengths), torch.split(own, lengths), strict=True)
    return found


def divergence(start: Tensor, now: Tensor) -> Tensor:
    """KL(start ‖ now) of the next token at each place, over the start's likeliest and the rest.

    The rest counts as one event, so this is at most the divergence over the whole vocabulary,
    and close to it: the likeliest hold nearly all of the start's probability.

    Args:
        start, now: (tokens, k) log-probabilities of the same k tokens.
    """
    chances = start.exp()
    rest, rest_now = (1 - some.exp().sum(1) for some in (start, now))
    rest, rest_now = rest.clamp(min=1e-7), rest_now.clamp(min=1e-7)
    return (chances * (start - now)).sum(1) + rest * (rest.log() - rest_now.log())


def tokens_of(
    units: Sequence[Unit], row: Row, logprobs: Tensor, reference: Tensor | None
) -> Tokens:
    """A row's log-probabilities with what the loss needs to know of their examples.

    Args:
        units: the row's.
        row: built from them.
        logprobs: from ``token_logprobs``.
        reference: those of the reference; None where the objective has none.
    """
    device = logprobs.device
    every = [example for unit in units for example in unit]
    reference = logprobs.detach() if reference is None else reference
    example = row.owner[0, row.labels[0] != IGNORE]
    known = [e.logprobs or (torch.nan,) * sum(e.loss_mask) for e in every]
    noted = torch.tensor([p for own in known for p in own], device=device)
    generation = torch.where(noted.isnan(), reference, noted)
    owners = [number for number, unit in enumerate(units) for _ in unit]
    return Tokens(
        logprobs,
        reference,
        generation,
        example,
        torch.tensor(owners, device=device),
        torch.tensor([float(e.weight) for e in every], device=device),
        torch.tensor([float(e.advantage) for e in every], device=device),
    )


def loss_of(settings: LoraSettings) -> Callable[[Tokens, Batch, float], Tensor]:
    """The configured loss: a row's share of it; a step's is the sum of its rows'.

    It takes the row's tokens, the batch of the optimiser step, and KTO's reference point (see
    ``mismatched``).

    Args:
        settings: which objective, and its settings.

    Raises:
        ConfigError: a loss of the user's own cannot be imported; called, it fails, or is not one
            number.
    """
    if settings.loss is not None:
        return _own(settings.loss)
    return {
        "sft": lambda tokens, batch, kl: sft(tokens, batch),
        "weighted": lambda tokens, batch, kl: weighted(tokens, batch),
        "dpo": lambda tokens, batch, kl: dpo(tokens, settings.dpo, batch),
        "kto": lambda tokens, batch, kl: kto(tokens, settings.kto, batch, kl),
        "grpo": lambda tokens, batch, kl: grpo(tokens, settings.grpo, batch),
    }[settings.objective]


def _own(path: str) -> Callable[[Tokens, Batch, float], Tensor]:
    from agent.config import ConfigError

    own: Loss = choices.own(path, "update_weights.loss", Tensor)

    def checked(tokens: Tokens, batch: Batch, kl: float) -> Tensor:
        found = own(tokens, batch)
        if found.ndim:
            shape = tuple(found.shape)
            raise ConfigError(f"update_weights.loss={path}: is {shape}, not one number")
        return found

    return checked


def needs_reference(settings: LoraSettings) -> bool:
    """Whether the loss compares with the weights that training began with (one's own may)."""
    return settings.objective in ("dpo", "kto", "grpo") or settings.loss is not None


def sft(tokens: Tokens, batch: Batch) -> Tensor:
    """Weighted mean negative log-likelihood over the loss tokens of the step."""
    return (-tokens.logprobs * tokens.weight[tokens.example]).sum() / batch.weight


def weighted(tokens: Tokens, batch: Batch) -> Tensor:
    """Negative log-likelihood times weight; a weight changes its own example's gradient alone."""
    return (-tokens.logprobs * tokens.weight[tokens.example]).sum() / batch.tokens


def dpo(tokens: Tokens, settings: DpoSettings, batch: Batch) -> Tensor:
    """Direct preference optimisation over whole trajectories (2305.18290, eq. 7), and NLL.

    Both count as much as the pair does.
    """
    sign, own = tokens.advantage[tokens.example], tokens.weight[tokens.example]
    margin = per_unit(tokens, (tokens.logprobs - tokens.reference) * sign)
    weight = torch.zeros_like(margin)
    weight[tokens.unit] = tokens.weight
    found = -(weight * F.logsigmoid(settings.beta * margin)).sum() / batch.units
    if settings.nll:
        found = found - settings.nll * (tokens.logprobs * own)[sign > 0].sum() / batch.chosen
    return found


def kto(tokens: Tokens, settings: KtoSettings, batch: Batch, kl: float) -> Tensor:
    """Kahneman-Tversky optimisation (2402.01306, eq. 7): the gain or loss against ``kl``."""
    ratio = per_unit(tokens, tokens.logprobs - tokens.reference)
    sign, weight = (torch.zeros_like(ratio) for _ in range(2))
    sign[tokens.unit], weight[tokens.unit] = tokens.advantage, tokens.weight
    value = torch.sigmoid(settings.beta * sign * (ratio - kl))
    return (weight * (1 - value)).sum() / batch.units


def grpo(tokens: Tokens, settings: GrpoSettings, batch: Batch) -> Tensor:
    """Clipped policy gradient (2402.03300, eq. 3) with the examples' advantages."""
    old = tokens.generation if settings.old_logprobs == "generation" else tokens.reference
    advantage = tokens.advantage[tokens.example]
    ratio = torch.exp(tokens.logprobs - old)
    clipped = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    found = -torch.min(ratio * advantage, clipped * advantage)
    if settings.truncate is not None:
        behaviour = torch.exp(tokens.reference - tokens.generation)
        found = found * behaviour.clamp(max=settings.truncate)
    if settings.kl:
        away = tokens.reference - tokens.logprobs
        # Times the ratio: else the gradient is not the divergence's (DeepSeek-V3.2, 2512.02556).
        found = found + settings.kl * ratio * (torch.exp(away) - away - 1)
    if settings.aggregate == "token":
        return found.sum() / batch.tokens
    lengths = per_unit(tokens, torch.ones_like(found))
    return (per_unit(tokens, found) / lengths.clamp(min=1)).sum() / batch.units


def per_unit(tokens: Tokens, values: Tensor) -> Tensor:
    """Sums of the tokens' values over each unit."""
    count = int(tokens.unit[-1]) + 1
    return values.new_zeros(count).index_add(0, tokens.unit[tokens.example], values)


def mismatched(units: Sequence[Unit]) -> list[Example]:
    """For each unit its prompt with another's continuation, for KTO's reference point.

    The mean of their log-ratios estimates how far the weights have moved in all (2402.01306,
    §4.1). The other is the one before, as in TRL, or the nearest before that of another task.
    """
    found: list[Example] = []
    for number, unit in enumerate(units):
        earlier = [units[number - back][0] for back in range(1, len(units))] or [unit[0]]
        other = next((e for e in earlier if e.task != unit[0].task), earlier[0])
        own, its = unit[0].loss_mask.index(1), other.loss_mask.index(1)
        found.append(
            Example(
                unit[0].token_ids[:own] + other.token_ids[its:],
                (0,) * own + other.loss_mask[its:],
                weight=1.0,
                source=unit[0].source,
            )
        )
    return found
