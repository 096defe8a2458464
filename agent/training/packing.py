"""Packing: many short examples in one row, their common beginning computed once.

Every example of a suite starts with the same system prompt and worked example. A row holds
that beginning once, followed by the examples' own tokens; a mask lets each example see the
beginning and itself only, and positions restart behind the beginning, so the loss equals
that of the examples one by one (a test holds that) at about half the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # the commands that only read a run start without it
    import torch
    from torch import Tensor

IGNORE = -100


class Example(NamedTuple):
    """The training record: one sequence, and all that any objective asks of it.

    Args:
        token_ids: the prompt of training, then turns and observations.
        loss_mask: as long; 1 where the policy produced the token. Nothing else is learnt.
        weight: how much it counts.
        source: slot of its trajectory; one that was begun anew gives several sequences.
        logprobs: of the produced tokens when they were generated, in order; empty where they
            were generated from other ids than these, or chosen among given texts.
        reward: what the trajectory earned.
        advantage: that against its group; in pairs and in KTO +1 for the better, -1 for the
            worse; 0 where the objective has none.
        policy: version of the weights that generated it.
        task: its task's id, which is its group.
        unit: sequences of one unit enter the loss together (a pair, all of a trajectory) and
            are never split between rows; "" stands alone.
    """

    token_ids: tuple[int, ...]
    loss_mask: tuple[int, ...]
    weight: float
    source: str
    logprobs: tuple[float, ...] = ()
    reward: float = 1.0
    advantage: float = 0.0
    policy: str = ""
    task: str = ""
    unit: str = ""


Unit = Sequence[Example]


class Row(NamedTuple):
    """One packed row.

    ``ids``, ``positions``, ``labels``, ``weights``: (1, length); a label stands where its
    token is predicted *from*, i.e. one place to the left of it. ``mask``: additive,
    (1, 1, length, length). ``owner``: (1, length), the number of the example that a place
    belongs to; -1 in the common beginning.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    weights: Tensor
    mask: Tensor
    owner: Tensor


def common_prefix(examples: Sequence[Example]) -> int:
    """Length of the beginning that all examples share and none bears loss in."""
    low, high = min(e.token_ids for e in examples), max(e.token_ids for e in examples)
    shared = 0
    for a, b in zip(low, high, strict=False):
        if a != b:
            break
        shared += 1
    # A shared token predicts each example's own next one, so the last one stays with them.
    first_loss = min(e.loss_mask.index(1) for e in examples)
    return max(0, min(shared, first_loss) - 1)


def units(examples: Sequence[Example]) -> list[Unit]:
    """Examples that enter the loss together, in order of their first."""
    found: dict[object, list[Example]] = {}
    for number, example in enumerate(examples):
        found.setdefault(example.unit or number, []).append(example)
    return list(found.values())


def pack_units(units: Sequence[Unit], row_tokens: int, shared: int) -> list[list[Unit]]:
    """Group units, in order, into rows of at most ``row_tokens`` tokens.

    A unit longer than that gets a row of its own: nothing is ever cut.
    """
    rows: list[list[Unit]] = []
    room = 0
    for unit in units:
        need = sum(len(example.token_ids) - shared for example in unit)
        if not rows or need > room:
            rows.append([])
            room = row_tokens - shared
        rows[-1].append(unit)
        room -= need
    return rows


def pack(examples: Sequence[Example], row_tokens: int, shared: int) -> list[list[Example]]:
    """As ``pack_units``, for examples that each stand alone."""
    rows = pack_units([(example,) for example in examples], row_tokens, shared)
    return [[unit[0] for unit in row] for row in rows]


def build(examples: Sequence[Example], shared: int, dtype: torch.dtype, device: str) -> Row:
    """Tensors of one row."""
    import torch

    ids = list(examples[0].token_ids[:shared])
    positions = list(range(shared))
    segments = [0] * shared
    labels = [IGNORE] * shared
    weights = [0.0] * shared
    for number, example in enumerate(examples, start=1):
        own = example.token_ids[shared:]
        mask = example.loss_mask[shared:]
        ids += own
        positions += range(shared, shared + len(own))
        segments += [number] * len(own)
        labels += [t if m else IGNORE for t, m in zip(own[1:], mask[1:], strict=True)] + [IGNORE]
        weights += [example.weight] * len(own)
    segment = torch.tensor(segments)
    length = len(ids)
    visible = (segment[None, :] == 0) | (segment[None, :] == segment[:, None])
    visible &= torch.ones(length, length, dtype=torch.bool).tril()
    mask_ = torch.zeros(length, length, dtype=dtype).masked_fill_(~visible, -torch.inf)
    return Row(
        ids=torch.tensor([ids], device=device),
        positions=torch.tensor([positions], device=device),
        labels=torch.tensor([labels], device=device),
        weights=torch.tensor([weights], device=device),
        mask=mask_[None, None].to(device),
        owner=(segment - 1)[None].to(device),
    )
