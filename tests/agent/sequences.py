"""Random training records for tests, with turns, observations and a common beginning."""

from __future__ import annotations

import random

import torch

from agent.training.objectives import token_logprobs
from agent.training.packing import IGNORE, Example, Row

BEGINNING = 24


def sequence(number: int, *, observed: bool = True, task: str = "") -> Example:
    """A prompt, a turn, and (if observed) the world's answer and another turn."""
    chance = random.Random(number)
    shared = random.Random(0).choices(range(256), k=BEGINNING)

    def some(low: int, high: int) -> list[int]:
        return chance.choices(range(256), k=chance.randint(low, high))

    prompt, turn = some(4, 12), some(5, 12)
    ids = shared + prompt + turn
    mask = [0] * (BEGINNING + len(prompt)) + [1] * len(turn)
    if observed:
        seen, more = some(3, 8), some(3, 8)
        ids += seen + more
        mask += [0] * len(seen) + [1] * len(more)
    return Example(tuple(ids), tuple(mask), 1.0, f"slot {number}", task=task or f"task {number}")


def observations(example: Example) -> list[int]:
    """Places of what the world said after the first turn."""
    first = example.loss_mask.index(1)
    return [i for i, m in enumerate(example.loss_mask) if i > first and not m]


def row_loss(model: torch.nn.Module, row: Row) -> torch.Tensor:
    """The weighted mean negative log-likelihood of a row's loss tokens, written out."""
    weights = row.weights[0, row.labels[0] != IGNORE]
    return (-token_logprobs(model, row) * weights).sum() / weights.sum().clamp(min=1e-8)
