"""How tasks are tried: by which method, and in what words."""

from __future__ import annotations

from importlib import resources
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.choices import OneOf

SAMPLE = "sample"  # several samples, and nothing else


def methods() -> list[str]:
    """Names of the methods: those of the files in ``methods/``."""
    folder = resources.files("agent.evolution.solutions") / "methods"
    names = (path.name.removesuffix(".py") for path in folder.iterdir() if ".py" in path.name)
    return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))


class SolveSettings(BaseModel):
    """How a generation's tasks are tried (README.md of this folder tells the methods).

    Args:
        how: ``sample``, a method, or one of your own (``package.module:function``).
        tell: ``prepare``: what the system prompt says while acting, line by line; it is not
            trained on.
        question: ``prepare``: what the policy is asked about a task before it is tried;
            ``explain``: about an action after it was taken; "" for nothing.
        lead: what stands before its answer.
        keep: ``prepare``: the answer is trained on, before the action.
        better, worse: ``contrast``: what the system prompt says in the preferred and in the
            other try, and nowhere else. ``{role}`` and ``{profile}`` stand for a role's.
        roles: profiles by name; each task has one of them. Only the name is trained on, and in
            the other try of ``contrast`` another role's profile stands in its place.
        worse_by: who makes the other try: the ``incumbent``, or the ``base`` (GRATH).
        weigh: ``contrast``: pairs count as much as the policy itself prefers them (DLMA).
        rounds: ``debate``: how often answers are revised; ``dialogue``: most turns of the agent;
            ``trials``: tries of a task.
        views: ``perspectives``: how many a task is looked at from.
        agreement: ``debate``: least share of the last answers that elects one.
        follows: ``rules``: by the first word of an action, the first words of those that may come
            next ("" is before the first); empty: what earlier tries have shown.
        tokens, temperature: of what is said besides acting.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    how: Annotated[str, OneOf((SAMPLE, *methods()))] = SAMPLE
    tell: tuple[str, ...] = ()
    question: str = ""
    lead: str = ""
    keep: bool = False
    better: str = ""
    worse: str = ""
    roles: dict[str, str] = Field(default_factory=dict)
    worse_by: Literal["incumbent", "base"] = "incumbent"
    weigh: bool = False
    rounds: int = Field(2, ge=1)
    views: int = Field(3, ge=2)
    agreement: float = Field(0.5, ge=0, le=1)
    follows: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    tokens: int = Field(96, ge=8)
    temperature: float = Field(0.0, ge=0)
