"""Gymnasium worlds with discrete or text actions, played in text.

Needs the package ``gymnasium`` (MIT), https://gymnasium.farama.org. The world runs in this
process: it is code that the user chose, and what the agent sends to it is one of its actions.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import JsonValue

from environments.adapters.starts import tasks_by_start
from environments.adapters.toy_text import Score, World, world_of
from environments.adapters.wire import OBSERVATION_CHARS, scaled
from environments.base import (
    Action,
    Briefing,
    Environment,
    EnvironmentFailure,
    StepResult,
    SuiteError,
    Task,
    Tool,
)
from environments.calls import cut

T = TypeVar("T")
ACT = "act"
_COLOUR = re.compile(r"\x1b\[([\d;]*)m(.*?)\x1b\[0?m", re.DOTALL)
_ESCAPE = re.compile(r"\x1b\[[\d;]*[A-Za-z]")


class Gymnasium:
    """Tasks are seeds of one world; those that look the same at the start are one task.

    An episode's reward is given when the world ends it (terminated, or truncated by the world's
    own limit): ``(score - fail) / (success - fail)``, cut to 0 … 1, where the score is the last
    reward or the sum of all. Before that, and where ``max_steps`` ends it, the reward is 0.

    Args:
        id: the world's registered name (``Taxi-v4``), or ``module:name`` to import first.
        kwargs: arguments of its constructor.
        seeds: how many seeds to make tasks of, from 0.
        max_steps: most actions of an episode.
        actions: names of its discrete actions, by number.
        score: ``last`` reward or ``sum``; these and the names have defaults for toy-text worlds.
        success: score that is worth the full reward, 1.
        fail: score that is worth 0.
        rules: told to the agent at the beginning.
        timeout_s: most seconds that one step may take; see ``environments.watch.Watched``.

    Raises:
        SuiteError: no such world, or one whose actions cannot be written as text.
    """

    name = "gymnasium"
    description = "a Gymnasium world with discrete or text actions, as text"

    def __init__(
        self,
        id: str = "FrozenLake-v1",
        kwargs: dict[str, JsonValue] | None = None,
        seeds: int = 200,
        max_steps: int | None = None,
        actions: list[str] | None = None,
        score: Score | None = None,
        success: float | None = None,
        fail: float | None = None,
        rules: str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self._id, self._kwargs, self._seeds, self._timeout_s = id, kwargs or {}, seeds, timeout_s
        if seeds < 1 or timeout_s <= 0 or (max_steps is not None and max_steps < 1):
            raise SuiteError(f"{self.name}: seeds, max_steps and timeout_s must be positive")
        known = world_of(id)
        given: dict[str, Any] = {
            "score": score, "success": success, "fail": fail, "rules": rules,
            "actions": actions, "max_steps": max_steps,
        }  # fmt: skip
        self._world = known._replace(**{k: v for k, v in given.items() if v is not None})
        if not self._world.success > self._world.fail:
            raise SuiteError(
                f"{self.name}: success={self._world.success:g} must be more than "
                f"fail={self._world.fail:g}"
            )
        env = self._make(self._arguments(0))
        try:
            self._tool, names = _tool(env.action_space, self._world.actions)
        finally:
            env.close()
        self._world = self._world._replace(actions=names)
        how = f"Reply with one action: {', '.join(names)}." if names else "Reply with one line."
        self.briefing = Briefing(
            text=f"{self._world.rules} {how}".strip(),
            turns=self._world.max_steps,
            max_new_tokens=16 if names else 48,
        )

    def tasks(self) -> Sequence[Task]:
        """One task a seed, without those whose first observation was there before."""
        return self._tasks

    @functools.cached_property
    def _tasks(self) -> tuple[Task, ...]:
        resets = (
            (self._id, {"id": self._id, "kwargs": self._arguments(seed), "seed": seed})
            for seed in range(self._seeds)
        )
        return tasks_by_start(self, resets)

    def environment(self, task: Task) -> Environment:
        """A fresh world for one task's seed."""
        arguments, seed = task.data.get("kwargs"), task.data.get("seed")
        if not isinstance(arguments, dict) or not isinstance(seed, int):
            raise SuiteError(f"{self.name}: task {task.id} has no kwargs and seed")
        return GymnasiumEnvironment(
            lambda: self._make(arguments), seed, self._tool, self._world, self._timeout_s
        )

    def _arguments(self, seed: int) -> dict[str, JsonValue]:
        varied = self._world.vary(seed, self._kwargs) if self._world.vary else {}
        return {**self._kwargs, **varied}

    def _make(self, arguments: dict[str, Any]) -> Any:
        try:
            import gymnasium
        except ImportError as error:
            raise SuiteError(
                f"the suite {self.name} needs the package gymnasium ({error}): "
                "pip install gymnasium"
            ) from error
        try:
            env = gymnasium.make(self._id, disable_env_checker=True, **arguments)
            if self._world.describe is None and "ansi" in env.metadata.get("render_modes", ()):
                env.close()
                env = gymnasium.make(
                    self._id, disable_env_checker=True, render_mode="ansi", **arguments
                )
        except Exception as error:  # an import, a constructor: anything
            message = " ".join(str(error).split())
            raise SuiteError(
                f"{self.name}: {self._id} cannot be made: {type(error).__name__}: {message}"
            ) from error
        return env


class GymnasiumEnvironment:
    """One episode of a world.

    Where its actions are discrete, ``valid_actions`` are the names of those that change
    something (all, unless the world offers an ``action_mask``).

    Args:
        make: makes the world.
        seed: of the world.
        tool: the one tool.
        world: how it is told and scored.
        seconds: most that one step may take.
    """

    def __init__(self, make: Any, seed: int, tool: Tool, world: World, seconds: float) -> None:
        self._make, self._seed, self._tool, self._world = make, seed, tool, world
        self.seconds = seconds
        self._env: Any = None
        self._score, self._steps, self._over = 0.0, 0, False
        if world.actions:
            self.valid_actions: Sequence[str] = tuple(world.actions)

    @property
    def tools(self) -> Sequence[Tool]:
        """The one tool, ``act``."""
        return (self._tool,)

    def start(self) -> str:
        """Make the world and reset it with the task's seed."""

        def reset() -> str:
            self._env = self._make()
            observation, info = self._env.reset(seed=self._seed)
            self._mask(info)
            return self._text(observation)

        return self._guarded("reset", reset)

    def step(self, action: Action) -> StepResult:
        """Take one action in the world.

        Raises:
            EnvironmentFailure: the world raised, hung or gave a reward that is no number.
        """
        if self._over or self._env is None:
            raise EnvironmentFailure("the episode is over or not begun: make a new environment")
        if action.tool != ACT:
            return StepResult(observation=self._usage(), error="no call")
        given = action.arguments.get("action")
        taken = self._parsed(given)
        if taken is None:
            return StepResult(observation=self._usage(), error="unknown action")

        def take() -> tuple[str, float, bool, bool]:
            observation, reward, terminated, truncated, info = self._env.step(taken)
            self._mask(info)
            return self._text(observation), float(reward), bool(terminated), bool(truncated)

        text, reward, terminated, truncated = self._guarded("step", take)
        if not math.isfinite(reward):
            self._over = True
            raise EnvironmentFailure(f"the world gave the reward {reward}")
        self._steps += 1
        self._score = reward if self._world.score == "last" else self._score + reward
        ended = terminated or truncated
        spent = not ended and self._steps >= self._world.max_steps
        self._over = ended or spent
        return StepResult(
            observation=text,
            reward=scaled(self._score, self._world.fail, self._world.success) if ended else 0.0,
            terminated=terminated,
            truncated=(truncated and not terminated) or spent,
            metrics={"score": self._score},
        )

    def close(self) -> None:
        """Close the world; safe to call twice."""
        self._over = True
        env, self._env = self._env, None
        if env is not None:
            env.close()

    def _guarded(self, what: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except Exception as error:
            self._over = True
            raise EnvironmentFailure(f"{what} raised {type(error).__name__}: {error}") from error

    def _mask(self, info: Any) -> None:
        names, mask = self._world.actions, info.get("action_mask")
        if names and mask is not None and len(mask) == len(names):
            self.valid_actions = [n for n, ok in zip(names, mask, strict=True) if ok] or names

    def _parsed(self, given: object) -> Any:
        if not isinstance(given, str):
            return None
        if self._world.actions:
            names = [name.casefold() for name in self._world.actions]
            wanted = given.strip().rstrip(".").casefold()
            if wanted not in names:
                return None
            return int(self._env.action_space.start) + names.index(wanted)
        return given if self._env.action_space.contains(given) else None

    def _usage(self) -> str:
        if self._world.actions:
            return f"Not an action. Actions: {', '.join(self.valid_actions)}."
        space = self._env.action_space
        return (
            f"Not an action. Write {space.min_length} to {space.max_length} characters of: "
            f"{''.join(sorted(space.character_set))}"
        )

    def _text(self, observation: Any) -> str:
        env = self._env
        if self._world.describe is not None:
            text = self._world.describe(env.unwrapped)
        elif env.render_mode == "ansi":
            text = plain(str(env.render()))
        else:
            text = (
                observation if isinstance(observation, str) else json.dumps(jsonable(observation))
            )
        return cut(text, OBSERVATION_CHARS) or "(nothing to see)"


def plain(rendered: str) -> str:
    """A rendering without terminal colours; what was highlighted stands in brackets.

    The line that names the last action, such as ``  (Right)``, is left out.
    """

    def unpainted(match: re.Match[str]) -> str:
        codes = [int(code) for code in match[1].split(";") if code]
        highlighted = any(40 <= code <= 47 or 100 <= code <= 107 for code in codes)
        return f"[{match[2]}]" if highlighted else match[2]

    text = _ESCAPE.sub("", _COLOUR.sub(unpainted, rendered))
    lines = [line.rstrip() for line in text.splitlines()]
    return "\n".join(line for line in lines if line and not re.fullmatch(r" +\(.*\)", line))


def jsonable(observation: Any) -> Any:
    """An observation of any Gymnasium space as JSON data, numbers cut to four digits."""
    if isinstance(observation, dict):
        return {str(key): jsonable(value) for key, value in observation.items()}
    if hasattr(observation, "tolist"):
        observation = observation.tolist()
    if isinstance(observation, list | tuple):
        return [jsonable(value) for value in observation]
    if isinstance(observation, float):
        return float(f"{observation:.4g}")
    return observation if isinstance(observation, str | int | None) else str(observation)


def _tool(space: Any, names: Sequence[str]) -> tuple[Tool, tuple[str, ...]]:
    """The tool for an action space, and the names of its discrete actions."""
    kind = type(space).__name__
    schema: dict[str, JsonValue] = {"type": "string"}
    if kind == "Discrete":
        found = tuple(names) or tuple(str(int(space.start) + i) for i in range(int(space.n)))
        if len(found) != int(space.n) or len({name.casefold() for name in found}) != len(found):
            raise SuiteError(
                f"gymnasium: the world has {int(space.n)} actions, and actions={list(found)} "
                "does not give each of them a name of its own"
            )
        described = f"Takes one action: {', '.join(found)}."
    elif kind == "Text":
        found = ()
        described = "Sends one line of text."
        schema["minLength"], schema["maxLength"] = int(space.min_length), int(space.max_length)
    else:
        raise SuiteError(
            f"gymnasium: the world's actions are {space}; only Discrete and Text spaces can be "
            "written as text"
        )
    parameters: dict[str, JsonValue] = {
        "type": "object",
        "properties": {"action": schema},
        "required": ["action"],
    }
    return Tool(name=ACT, description=described, parameters=parameters), found
