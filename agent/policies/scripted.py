"""A policy without a model: a function writes, and "training" hands it what was learnt.

For tests of everything around the model: the whole cycle runs with it in seconds, through
the same code. Token ids are the text's characters.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from agent.policies.base import Completion, Message, Request, split_begin
from agent.policies.models import ModelError

LEARNT = "learnt.json"
Script = Callable[[str, random.Random, Sequence[tuple[str, str]]], str]
"""(prompt text, source of randomness, learnt (prompt, answer) pairs) → what to write."""


class ScriptedPolicy:
    """Calls a script for every request.

    Args:
        script: import path ``module:function`` of a ``Script``.
        adapter: folder written by ``write_learnt``, or None.
        version: name of these weights in trajectories.
        context: longest prompt plus completion, in characters.
    """

    def __init__(
        self, script: str, adapter: Path | None = None, *, version: str = "base", context: int
    ):
        self.version, self.context = version, context
        self.script = load_script(script)
        self.learnt: list[tuple[str, str]] = []
        if adapter is not None:
            self.learnt = [tuple(p) for p in json.loads((adapter / LEARNT).read_text())]
        self.waiting: deque[tuple[Hashable, Request]] = deque()

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        messages, begin = split_begin(messages)
        turns = (f"<{m['role']}>{m['content']}</{m['role']}>" for m in messages)
        return tuple(map(ord, "".join(turns) + "<assistant>" + begin))

    def extend(self, token_ids: tuple[int, ...], observation: str, begin: str) -> tuple[int, ...]:
        more = f"</assistant><user>{observation}</user><assistant>{begin}"
        return (*token_ids, *map(ord, more))

    def count(self, text: str) -> int:
        return len(text)

    def submit(self, ticket: Hashable, request: Request) -> None:
        self.waiting.append((ticket, request))

    def step(self) -> list[tuple[Hashable, Completion]]:
        done: list[tuple[Hashable, Completion]] = []
        while self.waiting:
            ticket, request = self.waiting.popleft()
            chance = random.Random(request.seed if request.temperature else 0)
            text = self.script("".join(map(chr, request.prompt_ids)), chance, self.learnt)
            if request.choices:
                text = text if text in request.choices else chance.choice(request.choices)
            else:
                text = text[: request.max_new_tokens]
            ids = tuple(map(ord, text))
            done.append((ticket, Completion(ids, (-1.0,) * len(ids), text, True)))
        return done

    @property
    def busy(self) -> bool:
        return bool(self.waiting)

    def close(self) -> None:
        self.waiting.clear()


def load_script(path: str) -> Script:
    """The function behind an import path.

    Raises:
        ModelError: there is none.
    """
    module, _, name = path.partition(":")
    try:
        return cast(Script, getattr(import_module(module), name))
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(
            f"policy.model {path!r} is no script: write module:function ({error})"
        ) from error


def write_learnt(folder: Path, examples: Sequence[Any], start: Path | None = None) -> None:
    """The scripted stand-in for weights: the examples' texts, behind what ``start`` learnt."""
    pairs = json.loads((start / LEARNT).read_text()) if start is not None else []
    pairs += [
        (
            "".join(chr(t) for t, m in zip(e.token_ids, e.loss_mask, strict=True) if not m),
            "".join(chr(t) for t, m in zip(e.token_ids, e.loss_mask, strict=True) if m),
        )
        for e in examples
    ]
    (folder / LEARNT).write_text(json.dumps(pairs))


def merge_learnt(folder: Path, parents: Sequence[Path]) -> None:
    """The scripted stand-in for merged weights: all that any of them learnt."""
    learnt = [
        tuple(pair) for parent in parents for pair in json.loads((parent / LEARNT).read_text())
    ]
    (folder / LEARNT).write_text(json.dumps(list(dict.fromkeys(learnt))))
