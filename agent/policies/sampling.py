"""Drawing the next token: from the whole vocabulary, or from what choices allow.

Choices are token sequences that end with the model's end of turn, so none is the beginning of
another. They are read side by side: what may follow is what any of those still possible goes
on with. Once one is left, the rest of it is certain and need not be generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def draw(
    logits: Tensor, temperatures: Sequence[float], top_ks: Sequence[int], uniforms: Sequence[float]
) -> tuple[list[int], list[float]]:
    """Next token of each row, by inverse transform among the top k (greedy at temperature 0).

    Args:
        logits: (rows, vocabulary).
        temperatures, top_ks: per row.
        uniforms: per row, a number in [0, 1) that decides the draw.

    Returns:
        token ids, and their log-probabilities at temperature 1 over the whole vocabulary.
    """
    every = logits.log_softmax(dim=-1, dtype=torch.float32)
    k = min(max(top_ks) if any(temperatures) else 1, logits.shape[-1])
    top, index = every.topk(k, dim=-1)  # sorted, the likeliest first
    heat = torch.tensor([t or 1.0 for t in temperatures], device=logits.device)
    allowed = torch.tensor(
        [1 if t == 0 else min(n, k) for t, n in zip(temperatures, top_ks, strict=True)],
        device=logits.device,
    )
    scaled = top / heat[:, None]
    scaled[torch.arange(k, device=logits.device)[None, :] >= allowed[:, None]] = -torch.inf
    cumulative = scaled.softmax(dim=-1).cumsum(dim=-1)
    u = torch.tensor(uniforms, dtype=cumulative.dtype, device=logits.device)
    chosen = (cumulative <= u[:, None]).sum(dim=-1).clamp(max=allowed - 1)[:, None]
    tokens = index.gather(1, chosen)[:, 0]
    return tokens.tolist(), top.gather(1, chosen)[:, 0].tolist()


class Choice:
    """One choice in the making.

    Args:
        options: token ids, the end of turn included, and the text that they stand for.
    """

    def __init__(self, options: Mapping[tuple[int, ...], str]):
        self.left = options
        self.done = 0

    @property
    def allowed(self) -> list[int]:
        """Tokens that may come next, each once, sorted."""
        return sorted({ids[self.done] for ids in self.left})

    def take(self, token: int) -> None:
        """Go on with one of the allowed tokens."""
        self.left = {ids: text for ids, text in self.left.items() if ids[self.done] == token}
        self.done += 1

    @property
    def rest(self) -> tuple[int, ...] | None:
        """The tokens that remain, once it is certain which option it is."""
        return next(iter(self.left))[self.done :] if len(self.left) == 1 else None

    @property
    def text(self) -> str | None:
        """The option's text, once it is certain which one it is."""
        return next(iter(self.left.values())) if len(self.left) == 1 else None


def draw_allowed(
    logits: Tensor,
    allowed: Sequence[Sequence[int]],
    temperatures: Sequence[float],
    uniforms: Sequence[float],
) -> tuple[list[int], list[float]]:
    """Next token of each row among its allowed ones (the likeliest at temperature 0).

    Args:
        logits: (rows, vocabulary).
        allowed: per row, token ids.
        temperatures: per row.
        uniforms: per row, a number in [0, 1) that decides the draw.

    Returns:
        token ids, and their log-probabilities at temperature 1 among the allowed ones.
    """
    width = max(map(len, allowed))
    padded = torch.tensor([[*own, *[own[0]] * (width - len(own))] for own in allowed])
    outside = torch.arange(width)[None, :] >= torch.tensor([[len(own)] for own in allowed])
    scores = logits.gather(1, padded.to(logits.device)).float().cpu()
    scores.masked_fill_(outside, -torch.inf)
    logprobs = scores.log_softmax(dim=-1)
    heat = torch.tensor([[t or 1.0] for t in temperatures])
    cumulative = (scores / heat).softmax(dim=-1).double().cumsum(dim=-1)
    drawn = (cumulative <= torch.tensor(uniforms, dtype=torch.double)[:, None]).sum(dim=-1)
    last = torch.tensor([len(own) - 1 for own in allowed])
    greedy = torch.tensor([t == 0 for t in temperatures])
    chosen = torch.where(greedy, scores.argmax(dim=-1), torch.minimum(drawn, last))[:, None]
    return padded.gather(1, chosen)[:, 0].tolist(), logprobs.gather(1, chosen)[:, 0].tolist()
