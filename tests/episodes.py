"""Episodes for tests that need some and play none: every field that is not named is plain."""

from __future__ import annotations

from memory.records import Step, Trajectory


def step(answer: str, observation: str = "right", **fields: object) -> Step:
    """One turn in which a program was written and run."""
    values: dict[str, object] = {
        "token_ids": (7, 8, 9, 1, 2),
        "loss_mask": (0, 0, 0, 1, 1),
        "logprobs": (-0.1, -0.2),
        "policy": "base",
        "text": answer,
        "action": {"tool": "python", "arguments": {"code": answer}},
        "observation": observation,
        "reward": 1.0,
    }
    return Step.model_validate(values | fields)


def episode(slot: str, *steps: Step, success: bool = True, **fields: object) -> Trajectory:
    """An episode; its slot names its task: ``3/acquire/<task>/2``."""
    values: dict[str, object] = {
        "slot": slot,
        "task": slot.split("/")[2],
        "suite": "toy",
        "family": "square",
        "split": "train",
        "phase": "acquire",
        "policy": "base",
        "prompt": "Square the number 12.",
        "steps": steps,
        "reward": float(success),
        "success": success,
    }
    return Trajectory.model_validate(values | fields)
