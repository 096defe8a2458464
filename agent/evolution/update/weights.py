"""In-weight update: refined solutions become a candidate adapter.

Context distillation: the solutions were found with memory, retries and several samples; the
adapter is trained to give them from the bare prompt. The ids that are trained on are the ids
that were generated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from pydantic import Field

from agent.evolution.refine import Solution
from agent.policies.base import Message
from agent.prompt import AgentSettings, opening
from agent.training.lora import LoraSettings
from agent.training.packing import Example


class WeightsUpdateSettings(LoraSettings):
    """LoRA's settings and when to train at all.

    Args:
        enabled: off leaves the weights alone (memory-only evolution).
        min_examples: fewer solutions than this train nothing; the reason is printed.
        min_per_family: a family with fewer solutions has them repeated up to this often, so
            that a rare first success is heard.
    """

    enabled: bool = True
    min_examples: int = Field(8, ge=1)
    min_per_family: int = Field(12, ge=1)


def examples(
    solutions: Sequence[Solution],
    agent: AgentSettings,
    encode: Callable[[Sequence[Message]], tuple[int, ...]],
    min_per_family: int,
) -> list[Example]:
    """Training examples: the bare prompt, then the produced ids of the solving turn.

    Args:
        solutions: from ``refine``.
        agent: gives the prompt.
        encode: messages to ids.
        min_per_family: see ``WeightsUpdateSettings``.
    """
    made: dict[str, list[Example]] = {}
    for solution in solutions:
        trajectory = solution.trajectory
        prompt = encode(opening(agent, trajectory.prompt, None))
        produced = trajectory.steps[-1].produced_ids
        made.setdefault(trajectory.family, []).append(
            Example(
                token_ids=prompt + produced,
                loss_mask=(0,) * len(prompt) + (1,) * len(produced),
                weight=1.0,
                source=trajectory.slot,
            )
        )
    balanced: list[Example] = []
    for own in made.values():
        copies = -(-min_per_family // len(own)) if len(own) < min_per_family else 1
        balanced += (own * copies)[: max(len(own), min_per_family)]
    return balanced


def composition(chosen: Sequence[Solution]) -> dict[str, int]:
    """How many solutions each family has."""
    return dict(Counter(s.trajectory.family for s in chosen))
