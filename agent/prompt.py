"""From records to chat messages, and from the policy's text to an action.

The prompt has one fixed order, so that its beginning can be shared between requests: system
prompt, the worked example, recalled exemplars, the task with recalled notes, and what the
policy's turn begins with. Leaving memory out (``recall=None``) gives exactly the prompt that
weights are trained on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from agent.policies.base import Message, split_begin
from environments.base import Action
from memory.recall import Recall
from memory.records import Kind

CODE_STOP = ("\n```\n",)
_CODE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:\n?```|\Z)", re.DOTALL)


class AgentSettings(BaseModel):
    """How the agent is asked, and how long it may try.

    Args:
        system: the system prompt; describes the tool and nothing else.
        example: one worked example, a task that belongs to no family that is evaluated.
        begin: what every turn of the policy begins with. It is given, not generated, and so
            bears no loss: the tool is always called, no turn is lost to prose.
        turns: how many times the agent may act in an episode.
        max_new_tokens: most tokens of one turn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str = (
        "You have a Python tool. Reply only with a code block:\n```python\n...\n```\n"
        "It is run, and what it prints is your answer."
    )
    example: tuple[str, str] | None = (
        "Sort these words alphabetically: pear, fig, apple",
        '```python\nwords = ["pear", "fig", "apple"]\nprint(", ".join(sorted(words)))\n```',
    )
    begin: str = "```python\n"
    turns: int = Field(2, ge=1)
    max_new_tokens: int = Field(64, ge=1)


def opening(settings: AgentSettings, observation: str, recall: Recall | None) -> list[Message]:
    """The messages before the policy's first turn."""
    items = recall.items if recall else ()
    notes = [f"Note: {item.text}" for item in items if item.kind is not Kind.EXEMPLAR]
    examples = [
        (str(item.content["prompt"]), str(item.content["answer"]))
        for item in items
        if item.kind is Kind.EXEMPLAR
    ]
    if settings.example is not None:  # first, so that all prompts share this beginning
        examples.insert(0, settings.example)
    return [
        {"role": "system", "content": settings.system},
        *(message for example in examples for message in _exchange(*example)),
        {"role": "user", "content": "\n".join([*notes, observation])},
        *_begin(settings),
    ]


def after(
    settings: AgentSettings, messages: Sequence[Message], text: str, observation: str
) -> list[Message]:
    """The messages after one more turn: its whole text, and what was observed."""
    before, _ = split_begin(messages)
    return [*before, *reversed(_exchange(observation, text)), *_begin(settings)]


def parse(text: str) -> Action:
    """The first fenced block of Python in a text, as a call of the tool ``python``."""
    match = _CODE.search(text)
    if match is None or not match.group(1).strip():
        return Action(text=text)
    return Action(text=text, tool="python", arguments={"code": match.group(1)})


def _begin(settings: AgentSettings) -> list[Message]:
    return [{"role": "assistant", "content": settings.begin}] if settings.begin else []


def _exchange(user: str, assistant: str) -> list[Message]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
