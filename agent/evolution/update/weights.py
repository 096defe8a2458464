"""In-weight update: refined solutions become a candidate adapter.

Context distillation: the solutions were found with memory, retries and several samples; the
adapter is trained to give them from the bare prompt. The ids that are trained on are the ids
that were generated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import Field

from agent.evolution.refine import Solution
from agent.paging import reopened
from agent.policies.base import Policy
from agent.prompt import opening
from agent.training.lora import LoraSettings
from agent.training.packing import Example
from memory.records import Trajectory


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
    policy: Policy,
    min_per_family: int,
) -> list[Example]:
    """Training examples: the bare conversations of what was solved.

    Args:
        solutions: from ``refine``.
        policy: turns text into ids.
        min_per_family: see ``WeightsUpdateSettings``.
    """
    made: dict[str, list[Example]] = {}
    for solution in solutions:
        trajectory = solution.trajectory
        made.setdefault(trajectory.family, []).extend(conversations(trajectory, policy))
    balanced: list[Example] = []
    for own in made.values():
        copies = -(-min_per_family // len(own)) if len(own) < min_per_family else 1
        balanced += (own * copies)[: max(len(own), min_per_family)]
    return balanced


def conversations(trajectory: Trajectory, policy: Policy) -> list[Example]:
    """A trajectory as sequences: the opening, then turn by turn what was done and seen.

    It is one sequence, unless the conversation outgrew the context and was begun anew: then one
    for each stretch, which begins with what the policy read there.

    Turns with an error are left out, together with the world's complaint (see
    ``Trajectory.turns``). The ids of each turn and of each answer of the world are those that
    went through the model, but for what memory added to them; loss falls on the turns alone.

    Args:
        trajectory: a solved one.
        policy: turns the texts that memory stood beside into ids.
    """
    steps = trajectory.steps
    starts = [i for i, step in enumerate(steps) if not i or step.anew is not None]
    stretches = zip(starts, [*starts[1:], len(steps)], strict=True)
    found = [_stretch(trajectory, policy, start, end) for start, end in stretches]
    return [example for example in found if any(example.loss_mask)]


def _stretch(trajectory: Trajectory, policy: Policy, start: int, end: int) -> Example:
    """The steps of one conversation, from the one that begins it."""
    ids = list(_beginning(trajectory, policy, start))
    mask = [0] * len(ids)
    kept = [i for i in range(start, end) if any(trajectory.steps[i] is t for t in trajectory.turns)]
    for number in kept:
        step = trajectory.steps[number]
        produced = step.produced_ids
        ids += produced
        mask += [1] * len(produced)
        if number != kept[-1]:  # the world's answer is what the next turn added
            seen = trajectory.steps[number + 1].prompt_ids
            if trajectory.steps[number + 1].notes:
                bare = policy.extend(produced, step.observation, trajectory.frame.begin)
                seen = bare[len(produced) :]
            ids += seen
            mask += [0] * len(seen)
    return Example(tuple(ids), tuple(mask), weight=1.0, source=trajectory.slot)


def _beginning(trajectory: Trajectory, policy: Policy, start: int) -> tuple[int, ...]:
    """What the policy read before the first turn of a conversation, without memory."""
    step, frame, prompt = trajectory.steps[start], trajectory.frame, trajectory.prompt
    if step.anew is None:
        return policy.encode(opening(frame, prompt))
    return policy.encode(reopened(frame, prompt, trajectory.steps[:start], step.anew))


def composition(chosen: Sequence[Solution]) -> dict[str, int]:
    """How many solutions each family has."""
    return dict(Counter(s.trajectory.family for s in chosen))
