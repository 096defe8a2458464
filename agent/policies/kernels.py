"""What a CPU does better than by transformers' own means.

Two rows of the profiles are large (``benchmarks/rollout.py --profile``). Matrix products read
their weights in an order that oneDNN first has to change, at every call: ``pack`` changes it
once, for a model that only acts. torch's attention goes block by block to save memory, and at
the sizes here, one new token for each of many rows or a packed row of some hundred tokens, it
spends most of its time on anything but products: three quarters of it while acting, and a
quarter of a training step. ``attention`` is two batched products and a softmax, and of a packed
row it computes what its examples can see, and not all of the row's square. Both give what they
replace to within rounding (a test holds that).
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

ATTENTION = "instar"  # its name among transformers' attention functions
DENSE = 1 << 24  # most scores of one layer that are held at a time; beyond, block by block
BLOCK = 256  # queries of a packed row that attend together
X86 = ("x86_64", "AMD64")


class Block(NamedTuple):
    """Queries of a packed row, and the keys that they can see.

    Queries ``begin`` to ``end`` see the keys up to ``shared`` (0 in the common beginning itself),
    and those from ``first`` to ``end``, as far as the row's mask lets them.
    """

    begin: int
    end: int
    first: int
    shared: int


def blocks(lengths: Sequence[int], size: int = BLOCK) -> list[Block]:
    """A packed row in blocks: short examples side by side, a long one in parts.

    Args:
        lengths: tokens of the common beginning (0 without one), then each example's own.
        size: queries of a block at most.
    """
    found: list[Block] = []
    begin = 0
    for number, length in enumerate(lengths):
        first, end = begin, begin + length
        last = found[-1] if found else None
        if number > 1 and last and end - last.first <= size:
            found[-1] = last._replace(end=end)
        else:
            shared = lengths[0] if number else 0
            found += [
                Block(at, min(at + size, end), first, shared) for at in range(first, end, size)
            ]
        begin = end
    return found


def best_dtype(device: str) -> torch.dtype:
    """What ``dtype: auto`` stands for: bfloat16, but float32 on a CPU that would emulate it.

    On CPUs with bfloat16 instructions a product takes half of float32's time; without them
    it takes several times as long.
    """
    if not device.startswith("cpu") or platform.machine() not in X86:
        return torch.bfloat16
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def quicken(model: Any) -> Any:
    """Make a model on a CPU act faster, in place; any other is left as it is.

    Its linear layers lose their ``weight``: it can no longer be trained or saved.
    """
    parameter = next(model.parameters())
    packs = torch._C._has_mkldnn and platform.machine() in X86
    if parameter.device.type != "cpu" or not packs:
        return model
    if parameter.dtype in (torch.bfloat16, torch.float32):
        pack(model)
    quicken_attention(model)
    return model


def quicken_attention(model: Any) -> None:
    """Have a model on a CPU attend by ``attention``, in training too; others stay as they are."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    if not on_cpu or model.config._attn_implementation != "sdpa":
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)


class PackedLinear(nn.Module):
    """A linear layer whose weight lies in the order in which oneDNN reads it."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return made


def pack(model: nn.Module) -> None:
    """Replace all linear layers by packed ones; each old weight is freed before the next."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child))


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    blocks: Sequence[Block] | None = None,
    **further: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it: two batched products, and a softmax between them.

    Args:
        module: the layer.
        query: (rows, heads, new tokens, dim).
        key, value: (rows, key heads, length, dim).
        attention_mask: additive, (rows, 1, new tokens, length).
        scaling: of the scores; None is 1 / √dim.
        blocks: of a packed row; outside them the mask hides everything.

    Returns:
        (rows, new tokens, heads, dim), and no weights.
    """
    rows, heads, new, dim = query.shape
    scores = new * key.shape[2]
    if blocks:
        scores = sum((b.end - b.begin) * (b.shared + b.end - b.first) for b in blocks)
    dense = rows * heads * scores <= DENSE
    if not dense or attention_mask is None or attention_mask.dtype == torch.bool:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        made: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **further
        )
        return made
    query = query * (dim**-0.5 if scaling is None else scaling)
    with torch.autocast("cpu", enabled=False):
        if not blocks:
            return _mixed(query, key, value, attention_mask).transpose(1, 2), None
        parts = []
        for begin, end, first, shared in blocks:
            seen = slice(shared), slice(first, end)
            own = attention_mask[:, :, begin:end]
            parts.append(
                _mixed(
                    query[:, :, begin:end],
                    torch.cat([key[:, :, some] for some in seen], dim=2),
                    torch.cat([value[:, :, some] for some in seen], dim=2),
                    torch.cat([own[..., some] for some in seen], dim=3),
                )
            )
        return torch.cat(parts, dim=2).transpose(1, 2), None


def _mixed(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """What scaled queries take from the values, (rows, heads, new tokens, dim)."""
    rows, heads, new, dim = query.shape
    # Queries that share keys stand side by side, so that no key is repeated.
    grouped = query.reshape(rows * key.shape[1], -1, dim)
    scores = torch.bmm(grouped, key.flatten(0, 1).transpose(1, 2))
    scores = scores.view(rows, heads, new, -1) + mask
    weights = scores.softmax(dim=-1).view(*grouped.shape[:2], -1)  # in float32 inside
    return torch.bmm(weights, value.flatten(0, 1)).view(rows, heads, new, dim)
