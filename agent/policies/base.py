"""The Policy protocol: token ids in, token ids and their log-probabilities out.

Rollouts and training speak ids, not text, so that what was generated is what is trained on.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

Message = Mapping[str, str]
"""A chat message: ``{"role": "system" | "user" | "assistant", "content": text}``."""


class PolicyFailure(RuntimeError):
    """The engine could not answer or learn; one line that says what to do."""


@contextmanager
def engine_errors(advice: str) -> Iterator[None]:
    """Turn what torch raises, out of memory above all, into one line that ends with advice.

    Raises:
        PolicyFailure: instead of a RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PolicyFailure(f"the engine failed: {reason}; {advice}") from error


class Request(BaseModel):
    """One thing to generate.

    Args:
        prompt_ids: the prompt, as ids of the policy's own tokeniser.
        max_new_tokens: most tokens to produce.
        temperature: 0 is greedy.
        hot_tokens, heat: the first so many tokens are drawn at so many times the temperature.
        top_k: sample among the k likeliest tokens only.
        seed: with the prompt, decides every draw; a request is reproducible on its own.
        stop: generation ends after the token that completes one of these strings.
        keep: a prompt that continues this one may follow; the engine may prepare for it.
        choices: if there are any, the policy writes one of these texts and ends its turn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    temperature: float = 0.0
    hot_tokens: int = 0
    heat: float = 1.0
    top_k: int = 40
    seed: int = 0
    stop: tuple[str, ...] = ()
    keep: bool = False
    choices: tuple[str, ...] = ()


class Completion(NamedTuple):
    """What was produced.

    ``logprobs`` are natural logarithms under the model at temperature 1, one per token of
    ``token_ids``: over the whole vocabulary, or over the tokens that the choices allow there.
    None at all where the engine does not say them.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finished: bool


def split_begin(messages: Sequence[Message]) -> tuple[Sequence[Message], str]:
    """A conversation, and the beginning of the assistant's next turn where it ends with one."""
    if messages and messages[-1]["role"] == "assistant":
        return messages[:-1], messages[-1]["content"]
    return messages, ""


class Reader(Protocol):
    """How a language model reads, at one version of its weights; all that an episode knows of it.

    Attributes:
        version: name of the weights.
        context: longest prompt plus completion, in tokens.
    """

    version: str
    context: int

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Ids of a conversation, ready for the next assistant turn.

        A last message of the assistant's is the beginning of that turn, to be continued.
        """
        ...

    def extend(self, token_ids: tuple[int, ...], observation: str, begin: str) -> tuple[int, ...]:
        """Ids of a conversation that goes on: the world's answer, and the next turn's beginning.

        Args:
            token_ids: the conversation so far, up to the last token that was generated. They
                are kept as they are: what was generated is what is read again.
            observation: the world's answer.
            begin: what the next turn begins with.
        """
        ...

    def count(self, text: str) -> int:
        """Number of tokens of a text."""
        ...


class Policy(Reader, Protocol):
    """A language model at one version of its weights.

    ``submit`` may be called from any thread; ``step`` from one. That split lets environments
    work while the engine generates.
    """

    def submit(self, ticket: Hashable, request: Request) -> None:
        """Queue a request under a ticket."""
        ...

    def step(self) -> list[tuple[Hashable, Completion]]:
        """Advance generation a little; returns what has finished since."""
        ...

    @property
    def busy(self) -> bool:
        """Whether anything is queued or running."""
        ...

    def close(self) -> None:
        """Release the model's memory."""
        ...
