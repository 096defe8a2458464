"""From records to chat messages.

The prompt has one fixed order, so that its beginning can be shared between requests: system
prompt, the worked example, recalled episodes, the task with recalled notes, and what the
policy's turn begins with. Leaving memory out (no items) gives exactly the prompt that weights
are trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.formats import Format
from agent.policies.base import Message
from environments.base import Briefing
from memory.frame import block, shown
from memory.kinds import BEFORE_TASK, KINDS
from memory.records import Frame, MemoryItem


class AgentSettings(BaseModel):
    """How the agent is asked, and how long it may try. Null takes what suits the suite.

    Args:
        system: the system prompt; null takes the suite's briefing and its tools' description.
        example: one worked example, (task, what to write), of no family that is evaluated;
            or ``none``; or ``suite``, the suite's own.
        begin: what every turn of the policy begins with; null takes the tools' format's.
        turns: how many times the agent may act in an episode.
        max_new_tokens: most tokens of one turn.
        constrain: whether the policy chooses among the valid actions where the environment
            tells them, instead of writing freely.
        overflow: what happens when the conversation outgrows the context: the episode stops,
            or its oldest turns are paged out (see `agent.paging`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str | None = None
    example: tuple[str, str] | Literal["suite", "none"] = "suite"
    begin: str | None = None
    turns: int | None = Field(None, ge=1)
    max_new_tokens: int | None = Field(None, ge=1)
    constrain: bool = True
    overflow: Literal["stop", "page"] = "stop"

    def settled(self, briefing: Briefing) -> tuple[int, int]:
        """Turns and tokens of a turn."""
        return self.turns or briefing.turns, self.max_new_tokens or briefing.max_new_tokens


def frame(settings: AgentSettings, briefing: Briefing, format_: Format) -> Frame:
    """What stands around a task: the same for all tasks of an environment's kind."""
    said = "\n".join(part for part in (briefing.text.strip(), format_.tools.strip()) if part)
    example: Any = settings.example
    if example == "suite":
        example = briefing.example
    return Frame(
        system=said if settings.system is None else settings.system,
        example=None if example == "none" else example,
        begin=format_.begin if settings.begin is None else settings.begin,
    )


def opening(frame: Frame, observation: str, items: Sequence[MemoryItem] = ()) -> list[Message]:
    """The messages before the policy's first turn.

    Args:
        frame: what stands around the task.
        observation: the task.
        items: what memory adds, in order.
    """
    told = [shown(item) for item in items if KINDS[item.kind].shown == "system"]
    system = "\n".join([*filter(None, [frame.system]), *told])
    messages: list[Message] = [{"role": "system", "content": system}]
    if frame.example is not None:  # first, so that all prompts share this beginning
        messages += _exchange(*frame.example)
    for item in items:
        if KINDS[item.kind].shown == "episode":
            messages += _episode(item)
    messages.append({"role": "user", "content": with_notes(items, observation)})
    if frame.begin:
        messages.append({"role": "assistant", "content": frame.begin})
    return messages


def with_notes(items: Sequence[MemoryItem], observation: str) -> str:
    """What the world says, after the notes and code that memory adds."""
    notes = [item for item in items if KINDS[item.kind].shown in BEFORE_TASK]
    return f"{block(notes)}\n{observation}" if notes else observation


def _episode(item: MemoryItem) -> list[Message]:
    """A solved episode as it went: what was seen, what was done, turn by turn."""
    seen = str(item.content["prompt"])
    messages: list[Message] = []
    turns: Any = item.content["turns"]
    for done, then in turns:
        messages += _exchange(seen, done)
        seen = then
    return messages


def _exchange(user: str, assistant: str) -> Sequence[Message]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
