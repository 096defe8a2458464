"""Who says how good a try was, where it is learnt from."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from agent.choices import OneOf
from agent.policies.endpoint import EndpointSettings

By = Literal[
    "environment",
    "self-judge",
    "judge",
    "pairwise",
    "consistency",
    "self-verification",
    "tests",
    "constitution",
    "usefulness",
]

PRINCIPLES = (
    "It does what the task asks, all of it and nothing else.",
    "It claims nothing that the task or what was seen does not support.",
    "It does no harm to anyone and helps nobody to do harm.",
)


class FeedbackSettings(BaseModel):
    """What the reward is that is learnt from. The gate and the test always use the environment's.

    Args:
        by: ``environment``: its own reward. ``self-judge``: the policy rates each try; ``judge``:
            a model behind an endpoint does. ``pairwise``: a task's tries are compared two by two.
            ``consistency``: the answer that most tries gave. ``self-verification``: the answer
            from which the task's own numbers can be told. ``tests``: programs and generated tests
            that agree (CodeT). ``constitution``: whether principles are kept. ``usefulness``:
            whether what a try teaches helps with other tasks (LSX). Or a function of your own,
            ``package.module:function``. README.md tells more.
        judge: the endpoint of ``judge``; if it is set, ``pairwise`` and ``constitution`` ask it
            too, else the policy.
        scale: ratings go from 0 to this.
        passes: least share of the scale with which a try counts as a solution.
        opponents: ``pairwise``: each try is compared with so many that follow it, in a ring.
        agreement: ``consistency``: least share of a task's tries that gave the answer.
        conditions: ``self-verification``: most numbers of a task that are masked, one at a time.
        samples: ``self-verification``: predictions of each; ``tests``: times tests are asked for.
        temperature: of these samples.
        tests: most tests taken from one answer.
        principles: ``constitution``, and what ``refine.correct=constitutional`` revises by.
        probes: ``usefulness``: other tasks of the family on which it is tried.
        tokens: most tokens of a written answer (tests, explanations; a judge's verdict).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Annotated[str, OneOf(get_args(By))] = "environment"
    judge: EndpointSettings = EndpointSettings()
    scale: int = Field(5, ge=1, le=100)
    passes: float = Field(0.8, gt=0, le=1)
    opponents: int = Field(3, ge=1)
    agreement: float = Field(0.5, ge=0, le=1)
    conditions: int = Field(3, ge=1)
    samples: int = Field(4, ge=1)
    temperature: float = Field(0.8, ge=0)
    tests: int = Field(5, ge=1)
    principles: tuple[str, ...] = Field(PRINCIPLES, min_length=1)
    probes: int = Field(3, ge=1)
    tokens: int = Field(160, ge=1)
