"""Questions answered with a few words: one tool, one text parameter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from environments.base import Action, EnvironmentFailure, StepResult, Tool
from environments.kinds.answer import RECEIVED, as_reward


def answer_tool(description: str, parameter: str = "answer") -> Tool:
    """The tool ``answer``, with one text parameter."""
    return Tool(
        name="answer",
        description=description,
        parameters={
            "type": "object",
            "properties": {parameter: {"type": "string"}},
            "required": [parameter],
        },
    )


class TextAnswer:
    """One question; the first readable answer ends the episode.

    Args:
        prompt: the question, which is the first observation.
        tool: from `answer_tool`.
        read: makes an answer out of the argument and the agent's whole text, or None where
            there is none in it.
        grade: reward (0 to 1) of an answer.
        unreadable: what the agent is told when ``read`` found no answer.
        valid_actions: all answers there are; empty where they cannot be listed.
    """

    def __init__(
        self,
        prompt: str,
        tool: Tool,
        *,
        read: Callable[[str, str], str | None],
        grade: Callable[[str], float],
        unreadable: str,
        valid_actions: Sequence[str] = (),
    ) -> None:
        self._prompt, self._tool = prompt, tool
        self._read, self._grade, self._unreadable = read, grade, unreadable
        self.valid_actions: Sequence[str] = tuple(valid_actions)
        self._over = False

    @property
    def tools(self) -> Sequence[Tool]:
        """The one tool, ``answer``."""
        return (self._tool,)

    def start(self) -> str:
        """The question."""
        return self._prompt

    def step(self, action: Action) -> StepResult:
        """Grade the action's answer.

        Raises:
            EnvironmentFailure: the episode is over.
        """
        if self._over:
            raise EnvironmentFailure("the episode is over: make a new environment")
        if action.tool is None:
            return StepResult(observation=self._unreadable, error="no call")
        if action.tool != self._tool.name:
            return StepResult(observation="The only tool is answer.", error="unknown tool")
        given = list(action.arguments.values())
        if len(given) != 1 or not isinstance(given[0], str):
            return StepResult(
                observation="The tool answer takes one argument, which is a string.",
                error="bad arguments",
            )
        answer = self._read(given[0], action.text)
        if answer is None:
            return StepResult(observation=self._unreadable, error="no answer")
        self._over = True
        return StepResult(
            observation=RECEIVED,
            reward=as_reward(self._grade(answer)),
            terminated=True,
        )

    def close(self) -> None:
        """Nothing to release; safe to call twice."""
        self._over = True
