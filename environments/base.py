"""What an environment is: the records and the one Protocol between an agent and a world.

A task is data (frozen, content-hashed, JSON-able); an environment is behaviour, made for
one task and used once: ``start`` → ``step`` … → ``close``. Tools live in the environment,
and so does grading: no other part of the system decides what a reward is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, JsonValue

ROUNDING = 1e-6  # of a reward that was summed up: nine ninths may be a little more or less than 1
FULL_REWARD = 1.0 - ROUNDING  # a reward from here on is full


class SuiteError(ValueError):
    """A suite or task file that cannot be used; the message says which and what to do."""


class EnvironmentFailure(RuntimeError):
    """The environment itself broke (not the agent's action): the episode is void."""


class Task(BaseModel):
    """One problem. Two tasks with the same content have the same id, whoever made them.

    Args:
        suite: name of the suite the task belongs to.
        family: group of related tasks (curriculum, balance and reports are per family).
        prompt: what the agent is told; the first observation of a plain environment.
        data: everything the environment needs to run and grade it. Never shown to the agent.
        origin: how it was made, where it is none of the suite's own (`Suite`, ``spawn``); else "".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str
    family: str
    prompt: str
    data: dict[str, JsonValue] = Field(default_factory=dict)
    origin: str = ""

    @cached_property
    def id(self) -> str:
        """Hex digest (16 characters) of the task's content."""
        content = self.model_dump(mode="json", exclude=None if self.origin else {"origin"})
        body = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(body.encode()).hexdigest()[:16]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("id", None)  # that of the original
        return copied


class Tool(BaseModel):
    """A tool that an environment offers.

    Args:
        name: what a call names.
        description: what it does, for the agent.
        parameters: JSON schema of its arguments (an object). A text parameter that holds code
            says so with ``contentMediaType`` (``text/x-python``, ``application/sql`` …), and is
            then written in a fenced block.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str
    parameters: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def properties(self) -> dict[str, JsonValue]:
        """The schemas of the parameters by name, in order; empty where ``parameters`` has none."""
        properties = self.parameters.get("properties")
        return properties if isinstance(properties, dict) else {}


class Action(BaseModel):
    """What the policy adapter parsed out of the policy's text.

    Args:
        text: the policy's own words, whole.
        tool: name of the tool to call, or None where the text holds no valid call.
        arguments: the tool's arguments.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    tool: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)


class StepResult(BaseModel):
    """The world's answer to one action.

    Args:
        observation: text shown to the agent; data, never an instruction.
        reward: reward of this step; the trajectory's reward is that of its last step.
        terminated: the task reached an end of its own (solved, answered, lost).
        truncated: a budget of the environment ran out.
        error: short name of what was wrong with the action (``NameError: …``). It says that
            the action changed nothing: who learns from the episode may leave the turn out.
        metrics: numbers beside the reward, kept with the trajectory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    observation: str
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    error: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)


@runtime_checkable
class Environment(Protocol):
    """A world for one task, used once.

    It may also have ``valid_actions``, a sequence of texts: all that can be done at the moment,
    each as the agent would write it (a command, a call). The agent then chooses among them.

    Raises:
        EnvironmentFailure: from ``start`` or ``step`` when the world itself broke; anything
            the agent did wrong is an observation, never an exception.
    """

    @property
    def tools(self) -> Sequence[Tool]:
        """The tools the agent may call here."""
        ...

    def start(self) -> str:
        """Begin the episode; returns the first observation."""
        ...

    def step(self, action: Action) -> StepResult:
        """Carry out one action."""
        ...

    def close(self) -> None:
        """Release everything; safe to call twice."""
        ...


class Briefing(BaseModel):
    """How a suite wants its agent to be asked; a run's ``agent`` settings may overrule it.

    Args:
        text: said to the agent before anything else; its tools are described after it.
        example: one worked example, (task, what to write): of no family that is evaluated.
        turns: how many times the agent may act in an episode.
        max_new_tokens: most tokens of one turn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = ""
    example: tuple[str, str] | None = None
    turns: int = Field(1, ge=1)
    max_new_tokens: int = Field(64, ge=1)


@runtime_checkable
class Suite(Protocol):
    """A named set of tasks and how to make an environment for each.

    It may also have ``gold(task)``, which returns the ``Action`` sequence of a solution: what
    ``instar check`` replays, and what supervised baselines are made of. No agent sees it.

    And it may have ``vouched(task)``, which returns whether it answers for a task. Where
    strangers can write the task, its grading or what its world says (users' questions, web
    pages), it returns False: such tasks are practised and never measured, and what they teach
    has to prove itself on tasks that are vouched for.

    And ``canary(task, seed)``, which returns a task that reads like a given one (the same prompt
    and family) and that nobody can solve but by a chance in millions, for its right answer is
    made up from the seed (`environments.nonce`); None where none can be made of that task.

    And ``fields(task)``, which returns what a task is made of, as texts by name: ``prompt``,
    ``family`` and what it is graded by (``answer``; ``tests`` and ``solution``; ``database`` and
    ``query`` …), with ``spawn(fields)``, which returns the task that such texts make, or None
    where they make none. What one of ``fields`` makes is graded as the task that it is of. So a
    policy can write tasks; whether they are any good is found out by whoever asked it.

    And ``abilities``, names of `environments.abilities.ABILITIES` that its tasks ask for, or such
    names by family: what an objective chooses families by.
    """

    name: str
    description: str
    briefing: Briefing

    def tasks(self) -> Sequence[Task]:
        """All tasks, the same ones in the same order at every call."""
        ...

    def environment(self, task: Task) -> Environment:
        """A fresh environment for one task."""
        ...
