"""Averages of the weights while they are trained: EMA and Elastic Reset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.training.settings import RegulariseSettings


class Averages:
    """An exponential moving average of weights in training, which ends or interrupts it.

    By itself the average is what training ends with. With resets (Elastic Reset, 2312.07551,
    §3) training goes on from the average every so many steps, and the average begins again at
    the start: the weights keep what they gained and lose how far they drifted. What is averaged
    are LoRA's factors, as an optimiser sees them.

    Args:
        parameters: tensors in training, as they are before the first step.
        settings: ``ema`` is set.
    """

    def __init__(self, parameters: Sequence[Any], settings: RegulariseSettings):
        assert settings.ema is not None
        self.parameters, self.decay, self.every = parameters, settings.ema, settings.reset_every
        self.start = [p.detach().clone() for p in parameters]
        self.mean = [p.detach().clone() for p in parameters]

    def after(self, step: int) -> None:
        """Take in the weights after a step; steps count from 1."""
        for mean, parameter in zip(self.mean, self.parameters, strict=True):
            mean.lerp_(parameter.detach(), 1 - self.decay)
        if self.every is not None and step % self.every == 0:
            self._put(self.parameters, self.mean)
            self._put(self.mean, self.start)

    def finish(self) -> None:
        """The last step was done: without resets the average is what is kept."""
        if self.every is None:
            self._put(self.parameters, self.mean)

    def restore(self, mean: Sequence[Any]) -> None:
        """Go on from a stored average."""
        self._put(self.mean, mean)

    @staticmethod
    def _put(targets: Sequence[Any], values: Sequence[Any]) -> None:
        import torch

        with torch.no_grad():
            for target, value in zip(targets, values, strict=True):
                target.copy_(value)
