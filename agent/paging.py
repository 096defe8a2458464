"""Paging: an episode goes on when its conversation outgrows the context (MemGPT).

MemGPT (arXiv 2310.08560, §2) treats the context as an operating system treats main memory: the
agent is warned when it fills up, so that it can note what it needs, and when it is full the
oldest turns are paged out; a short digest of them and the notes stay, and the agent looks for the
rest by calling functions. The digest is made mechanically here: no model writes what it would
have to be trusted for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from math import log
from typing import Any

from agent.policies.base import Message, Reader
from agent.prompt import opening
from environments.base import Action, Environment, StepResult, Tool
from environments.calls import cut, sole_text_parameter
from memory.frame import inert
from memory.records import Frame, MemoryItem, Step

PRESSURE = 0.7  # of the room for a prompt; from there the agent is warned (the paper's share) …
SHARE = 0.5  # … and so much of the context is kept at most when it is full (the paper's too)
DIGEST_CHARACTERS = 600
LINE_CHARACTERS = 90
NOTES = 4  # that the agent took, the last ones
NOTE_CHARACTERS = 200
FOUND = 3  # of the paged-out turns, and as many characters of each as …
FOUND_CHARACTERS = 400

_TEXT = {"type": "string"}
SEARCH = Tool(
    name="memory_search",
    description="Searches earlier turns that are no longer shown, and memory.",
    parameters={"type": "object", "properties": {"query": _TEXT}, "required": ["query"]},
)
NOTE = Tool(
    name="memory_note",
    description="Writes a short note that stays in sight.",
    parameters={"type": "object", "properties": {"text": _TEXT}, "required": ["text"]},
)
WARNING = (
    "Memory pressure: the oldest turns will soon be out of sight. "
    "Note what you need with memory_note."
)


def lone(tools: Sequence[Tool]) -> bool:
    """Whether an action is a single line or code block, so that no other tool can be called."""
    return len(tools) == 1 and sole_text_parameter(tools[0]) is not None


class Paged:
    """An environment with tools for what is out of sight, and a warning before turns leave.

    They are offered beside the environment's own tools where those are written as calls; beside
    a single line or code block there is no room for another tool.

    Args:
        world: the environment.
        look: what memory holds for a query; None: nothing beside the paged-out turns.
    """

    def __init__(
        self, world: Environment, look: Callable[[str], Sequence[MemoryItem]] | None = None
    ) -> None:
        self._world, self._look = world, look
        self._out: Sequence[Step] = ()
        self._reward = 0.0
        self._filled, self._warned = 0.0, False

    @property
    def tools(self) -> Sequence[Tool]:
        """The environment's tools, and the two for memory."""
        own = list(self._world.tools)
        taken = {tool.name for tool in own}
        return own if lone(own) else [*own, *(t for t in (SEARCH, NOTE) if t.name not in taken)]

    @property
    def valid_actions(self) -> Sequence[str]:
        """The environment's."""
        return tuple(getattr(self._world, "valid_actions", None) or ())

    def start(self) -> str:
        """Begin the episode."""
        return self._world.start()

    def step(self, action: Action) -> StepResult:
        """Carry out an action: one of memory's here, any other in the environment.

        What is done with memory changes no reward. Once before turns are paged out, the answer
        ends with a warning, where a note can be taken.
        """
        result = self._step(action)
        if self._filled < PRESSURE or self._warned or NOTE not in self.tools:
            return result
        self._warned = True
        return result.model_copy(update={"observation": f"{result.observation}\n{WARNING}"})

    def _step(self, action: Action) -> StepResult:
        name = action.tool
        if name not in (SEARCH.name, NOTE.name) or name in {t.name for t in self._world.tools}:
            result = self._world.step(action)
            self._reward = result.reward
            return result
        key = "query" if name == SEARCH.name else "text"
        text = action.arguments.get(key)
        if not isinstance(text, str) or not text.strip():
            return StepResult(
                observation=f'Write {name}({key}="...").', reward=self._reward, error="no text"
            )
        said = self.search(text) if name == SEARCH.name else "Noted."
        return StepResult(observation=said, reward=self._reward)

    def search(self, query: str) -> str:
        """What is found out of sight, as an observation."""
        turns = [f"{step.text.strip()} -> {step.observation}" for step in self._out]
        items = [item.text for item in self._look(query)] if self._look else []
        found = [_line(text, FOUND_CHARACTERS) for text in (*_best(query, turns), *items)]
        return "\n".join(f"- {text}" for text in found) or "Nothing was found."

    def fill(self, share: float) -> None:
        """So much of the room for a prompt is taken."""
        self._filled = share

    def page_out(self, steps: Sequence[Step]) -> None:
        """From now on these turns are out of sight."""
        self._out = tuple(steps)
        self._warned = False

    def close(self) -> None:
        """Close the environment."""
        self._world.close()


def reopened(
    frame: Frame,
    prompt: str,
    steps: Sequence[Step],
    kept: int,
    items: Sequence[MemoryItem] = (),
    seen: str | None = None,
) -> list[Message]:
    """The messages of a conversation that begins anew.

    Args:
        frame: what stands around the task.
        prompt: the first observation.
        steps: all turns so far, at least one.
        kept: how many of them, the last ones, still stand in the conversation; at least one.
        items: what memory adds.
        seen: the world's last answer with what memory adds to it; None: the answer alone.
    """
    out, last = steps[: len(steps) - kept], steps[len(steps) - kept :]
    asked = frame.model_copy(update={"begin": ""})
    messages = opening(asked, f"{prompt}\n\n{out_of_sight(out, steps)}", items)
    for step in last:
        answer = step.observation if step is not last[-1] or seen is None else seen
        messages.append({"role": "assistant", "content": step.text.strip()})
        messages.append({"role": "user", "content": answer})
    if frame.begin:
        messages.append({"role": "assistant", "content": frame.begin})
    return messages


def begin_anew(
    policy: Reader,
    room: int,
    frame: Frame,
    prompt: str,
    steps: Sequence[Step],
    items: Sequence[MemoryItem],
    seen: str,
) -> tuple[tuple[int, ...], int] | None:
    """The ids of a conversation that begins anew, and how many of the last turns it holds.

    As many as fit into a share of the context, so that there is room for a while; if need be
    one, however long.

    Args:
        policy: turns text into ids.
        room: most tokens that the prompt may have.
        frame, prompt, steps, items, seen: as of `reopened`.

    Returns:
        None where not even the last turn fits.
    """
    best: tuple[tuple[int, ...], int] | None = None
    for kept in range(1, len(steps)):
        ids = policy.encode(reopened(frame, prompt, steps, kept, items, seen))
        if len(ids) > (room if kept == 1 else min(room, SHARE * policy.context)):
            break
        best = ids, kept
    return best


def out_of_sight(out: Sequence[Step], steps: Sequence[Step]) -> str:
    """What is said of the turns that are not shown, and the notes that the agent took."""
    lines: list[str] = []
    left = DIGEST_CHARACTERS
    for step in reversed(out):  # the last ones are told
        line = _line(f"{step.text.strip()} -> {step.observation}", LINE_CHARACTERS)
        left -= len(line)
        if left < 0:
            break
        lines.insert(0, f"- {line}")
    said = [f"{len(out)} earlier turns are out of sight. The last of them:", *lines]
    notes = [note for step in steps if (note := _noted(step))][-NOTES:]
    return "\n".join([*said, *(["Your notes:"] if notes else []), *(f"- {n}" for n in notes)])


def _noted(step: Step) -> str:
    arguments: Any = step.action.get("arguments")
    if step.action.get("tool") != NOTE.name or step.error or not isinstance(arguments, dict):
        return ""
    return _line(str(arguments.get("text", "")), NOTE_CHARACTERS)


def _line(text: str, length: int) -> str:
    return cut(" ".join(inert(text).split()), length)


def _best(query: str, texts: Sequence[str]) -> list[str]:
    """The texts that share most with the query, by words weighted with their rarity."""
    bags = [set(re.findall(r"\w+", text.lower())) for text in texts]
    often = Counter(word for bag in bags for word in bag)
    asked = set(re.findall(r"\w+", query.lower()))
    scores = [sum(log(1 + len(bags) / often[w]) for w in asked & bag) for bag in bags]
    order = sorted(range(len(texts)), key=lambda i: (-round(scores[i], 6), -i))
    return [texts[i] for i in order[:FOUND] if scores[i] > 0]
