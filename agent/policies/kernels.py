"""What a CPU does better than by transformers' own means, for a model that only acts.

The profile of a decode step (``benchmarks/rollout.py --profile``) has two large rows. Matrix
products read their weights in an order that oneDNN first has to change, at every call: ``pack``
changes it once. Attention of one new token per row spends most of its time on preparing keys
for blocks of queries that are not there: ``attention`` is two batched products and a softmax.
Both give what they replace to within rounding (a test holds that).
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn

ATTENTION = "instar_decode"  # its name among transformers' attention functions
X86 = ("x86_64", "AMD64")


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
    if model.config._attn_implementation == "sdpa":
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask

        AttentionInterface.register(ATTENTION, attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        model.set_attn_implementation(ATTENTION)
    return model


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
    **further: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it, quick where each row has one new token.

    Args:
        module: the layer.
        query: (rows, heads, new tokens, dim).
        key, value: (rows, key heads, length, dim).
        attention_mask: additive, (rows, 1, new tokens, length).
        scaling: of the scores; None is 1 / √dim.

    Returns:
        (rows, new tokens, heads, dim), and no weights.
    """
    if query.shape[2] != 1 or attention_mask is None or attention_mask.dtype == torch.bool:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        made: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **further
        )
        return made
    rows, heads, _, dim = query.shape
    scaling = dim**-0.5 if scaling is None else scaling
    grouped = (query * scaling).reshape(rows * key.shape[1], -1, dim)  # queries that share keys
    scores = torch.bmm(grouped, key.flatten(0, 1).transpose(1, 2)).view(rows, heads, -1)
    weights = (scores + attention_mask[:, 0]).softmax(dim=-1, dtype=torch.float32)
    mixed = weights.to(value.dtype).view(*grouped.shape[:2], -1)
    return torch.bmm(mixed, value.flatten(0, 1)).view(rows, 1, heads, dim), None
