"""What the kinds of answer share."""

from __future__ import annotations

import math

from environments.base import Action, StepResult, Tool
from environments.calls import LANGUAGES, sole_text_parameter

RECEIVED = "Answer received."
SUBMITTED = "Submitted."
SILENT = frozenset({RECEIVED, SUBMITTED})  # what is observed says nothing of what was answered


def code_of(action: Action, tool: Tool) -> str | StepResult:
    """The code in an action, or what to answer where it holds none.

    Args:
        action: what the agent did.
        tool: the only one, whose only parameter is code in one of ``calls.LANGUAGES``.
    """
    parameter = sole_text_parameter(tool)
    assert parameter is not None
    name, media = parameter
    if action.tool is None:
        observation = f"No {LANGUAGES[media].name} code block found."
        return StepResult(observation=observation, error="no code")
    if action.tool != tool.name:
        return unknown_tool(action.tool, tool)
    code = action.arguments.get(name)
    if not isinstance(code, str):
        observation = f"The tool {tool.name} takes one argument, {name}, which is a string."
        return StepResult(observation=observation, error="bad arguments")
    return code


def unknown_tool(name: str, tool: Tool) -> StepResult:
    """What to answer a call of a tool that is not the only one there is."""
    observation = f"Unknown tool {name[:50]!r}. The only tool is {tool.name}."
    return StepResult(observation=observation, error="unknown tool")


def as_reward(grade: float) -> float:
    """A grade cut to 0 … 1; one that is no finite number is 0."""
    reward = float(grade)  # graders return numbers of many types
    return min(1.0, max(0.0, reward)) if math.isfinite(reward) else 0.0
