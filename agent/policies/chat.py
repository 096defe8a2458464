"""A chat model's text as token ids: the one place where the chat template is applied.

Every engine that speaks ids uses it, so that a conversation has the same ids whichever acts.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.policies.base import Message, split_begin
from agent.policies.models import ModelError

# Whether control tokens count is a state of the tokeniser, which episodes' threads share.
_ENCODING = threading.Lock()
_MARK = "\u241e"  # stands for a turn of the assistant's while the template is rendered


class Chat:
    """Conversations, turns and choices as ids of one tokeniser.

    Args:
        tokenizer: of transformers, with a chat template.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        self._controls = tuple(token.content for token in added if token.special)
        self._pieces: dict[int, str] = {}

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """See ``Policy.encode``."""
        messages, begin = split_begin(messages)
        return (*self.ids(self._render(messages)), *self.ids(begin))

    def extend(self, token_ids: tuple[int, ...], observation: str, begin: str) -> tuple[int, ...]:
        """See ``Policy.extend``."""
        turn: list[Message] = [
            {"role": "user", "content": "."},
            {"role": "assistant", "content": _MARK},
            {"role": "user", "content": observation},
        ]
        more = self.ids(self._render(turn).partition(_MARK)[2])
        if token_ids[-1] == more[0]:  # the policy has ended its turn itself
            more = more[1:]
        return (*token_ids, *more, *self.ids(begin))

    def count(self, text: str) -> int:
        """Number of tokens of a text."""
        return len(self.ids(text))

    def ids(self, text: str) -> tuple[int, ...]:
        """Ids of a text in which control tokens count as such."""
        with _ENCODING:
            return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def text(self, token_ids: Sequence[int]) -> str:
        """What produced ids say."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def piece(self, token: int) -> str:
        """One token's text."""
        found = self._pieces.get(token)
        if found is None:
            found = self._pieces[token] = str(self.tokenizer.decode([token]))
        return found

    def _render(self, messages: Sequence[Message]) -> str:
        told = [{**m, "content": self._harmless(m["content"])} for m in messages]
        rendered = self.tokenizer.apply_chat_template(
            told, add_generation_prompt=True, tokenize=False
        )
        return str(rendered)

    def _harmless(self, text: str) -> str:
        """A text without the model's control tokens: text from a world cannot end its turn."""
        for control in self._controls:
            if control in text:
                text = text.replace(control, f"{control[0]}\u200b{control[1:]}")
        return text


def option_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Ids of a text that is a whole turn, its end included.

    Control tokens in it are mere text: a world cannot have the policy say one.
    """
    with _ENCODING:
        encoded = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return (*encoded, tokenizer.eos_token_id)


def end_ids(tokenizer: Any, generation: Any) -> frozenset[int]:
    """Tokens that end a turn: the tokeniser's and the generation config's."""
    ends = getattr(generation, "eos_token_id", None)
    found = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    return frozenset(token for token in found if token is not None)


def load_chat(folder: Path) -> tuple[Chat, frozenset[int]]:
    """The chat side of a model folder, and the tokens that end a turn; no weights are read.

    Raises:
        ModelError: one line that names the folder and what is wrong with it.
    """
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
        generation = None
        if (folder / "generation_config.json").is_file():
            generation = transformers.GenerationConfig.from_pretrained(str(folder))
    except Exception as error:  # whatever a damaged file leads the library to
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"the tokeniser in {folder} cannot be loaded: {reason}") from error
    return Chat(tokenizer), end_ids(tokenizer, generation)
