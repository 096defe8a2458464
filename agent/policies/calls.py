"""From a request to what an engine outside is asked, and from its answers to a completion.

An outside engine (vLLM) generates ids and says their log-probabilities, or those of given tokens
at the next place. It knows neither our hot first tokens nor our choices, so a request may take
several calls. ``answer`` is a generator that yields the calls one after the other and is sent
the replies; whoever drives it decides how they travel (HTTP, or an engine in this process).

Choices are drawn here, not by the engine's structured outputs: vLLM 0.32 lets a choice be spelt
with any tokens (``inventory`` came as five, where the tokeniser makes one) and reports
log-probabilities over all those spellings. Our records hold the tokeniser's own ids and
log-probabilities over what the choices allow; so the engine is asked for the log-probabilities
of just the allowed tokens (``logprob_token_ids``), and the draw is the embedded engine's own.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import NamedTuple

from agent.policies.base import Completion, PolicyFailure, Request
from agent.policies.chat import Chat, option_ids

MOST_SCORED = 128  # tokens that vLLM scores in one request (MAX_LOGPROB_TOKEN_IDS)
MOST_LIKELY = 64  # the likeliest tokens that a server of ours tells (--max-logprobs)
HOTTEST = 2.0  # the highest temperature that vLLM takes
IMPOSSIBLE = -9999.0  # how vLLM writes minus infinity
_AGAIN = 8


class Call(NamedTuple):
    """One thing that an engine is asked.

    Args:
        prompt_ids: the prompt.
        max_tokens: most tokens to produce.
        temperature, top_k, seed, stop: as in ``Request``.
        scored: tokens whose log-probabilities at the first place are wanted.
        likeliest: of so many, the likeliest, they are wanted too.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    scored: tuple[int, ...] = ()
    likeliest: int = 0


class Reply(NamedTuple):
    """What an engine answers.

    Args:
        token_ids: what it produced.
        logprobs: of these, natural, at temperature 1 over the whole vocabulary.
        stopped: whether it ended by itself, not at ``max_tokens``.
        scores: the log-probabilities that were wanted, by token.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    scores: Mapping[int, float] = {}


Answer = Generator[Call, Reply, Completion]


def answer(request: Request, chat: Chat, ends: frozenset[int]) -> Answer:
    """Calls that fulfil a request, in order.

    Args:
        request: what is wanted.
        chat: the model's tokeniser.
        ends: tokens that end a turn.

    Raises:
        PolicyFailure: a reply cannot be used.
    """
    return _chosen(request, chat) if request.choices else _written(request, chat, ends)


def _written(request: Request, chat: Chat, ends: frozenset[int]) -> Answer:
    """Free text: the hot tokens first, where there are any, and the rest behind them."""
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finished = False
    hot = min(request.hot_tokens, request.max_new_tokens) if request.temperature else 0
    parts = [(hot, request.heat)] if hot and request.heat != 1 else []
    parts.append((request.max_new_tokens, 1.0))
    for number, (upto, heat) in enumerate(parts):
        while not finished and len(ids) < upto:
            call = Call(
                prompt_ids=request.prompt_ids + ids,
                max_tokens=upto - len(ids),
                temperature=request.temperature * heat,
                top_k=request.top_k,
                seed=request.seed ^ (number << 48),  # the same stream twice would not be random
                stop=request.stop,
            )
            if heat != 1 and call.temperature > HOTTEST:
                reply = yield from _drawn(call, len(ids))
            else:
                reply = yield call
            ids, logprobs = ids + reply.token_ids, logprobs + reply.logprobs
            end = _end(ids, request.stop, chat, ends)
            finished = end is not None or reply.stopped
            ids, logprobs = ids[:end], logprobs[:end]
    return Completion(ids, logprobs, chat.text(ids), finished)


def _drawn(call: Call, place: int) -> Generator[Call, Reply, Reply]:
    """One token, drawn here among the likeliest: at a temperature that the engine refuses."""
    import numpy as np
    import torch

    from agent.policies.sampling import draw

    likely: list[tuple[int, float]] = []
    for _ in range(_AGAIN):  # in one batch with requests that have tokens scored, vLLM tells none
        reply = yield Call(call.prompt_ids, max_tokens=1, likeliest=call.top_k)
        found = [(token, score) for token, score in reply.scores.items() if score > IMPOSSIBLE]
        likely = sorted(found, key=lambda item: -item[1])[: call.top_k]
        if len(likely) == call.top_k:
            break
    else:
        raise PolicyFailure(
            f"the engine told {len(likely)} of the {call.top_k} likeliest tokens: start vLLM with "
            f"--max-logprobs {MOST_LIKELY}, or lower the temperatures"
        )
    uniform = np.random.default_rng(call.seed).random(place + 1)[place]
    logits = torch.tensor([[logprob for _, logprob in likely]])
    (at,), _ = draw(logits, [call.temperature], [call.top_k], [uniform])
    return Reply((likely[at][0],), (likely[at][1],), stopped=False)


def _end(ids: Sequence[int], stop: Sequence[str], chat: Chat, ends: frozenset[int]) -> int | None:
    """How many ids there are up to the one that ends the turn; None if none does."""
    text = ""
    for i, token in enumerate(ids):
        if token in ends:
            return i + 1
        piece = chat.piece(token)
        text += piece
        if any(s in text[-(len(piece) + len(s)) :] for s in stop):
            return i + 1
    return None


def _chosen(request: Request, chat: Chat) -> Answer:
    """One of the choices, drawn token by token among what they allow."""
    import numpy as np
    import torch

    from agent.policies.sampling import Choice, draw_allowed

    # Of texts with the same ids the first counts.
    options = {option_ids(chat.tokenizer, text): text for text in reversed(request.choices)}
    choice = Choice(options)
    draws = np.random.default_rng(request.seed).random(max(map(len, options)))
    ids: list[int] = []
    logprobs: list[float] = []
    while choice.rest is None:
        allowed = choice.allowed
        scores = [0.0]
        if len(allowed) > 1:
            scores = yield from _scores(request.prompt_ids + tuple(ids), allowed)
        heat = request.heat if len(ids) < request.hot_tokens else 1.0
        (at,), (logprob,) = draw_allowed(
            torch.tensor([scores]),
            [range(len(allowed))],
            [request.temperature * heat],
            [draws[len(ids)]],
        )
        ids.append(allowed[at])
        logprobs.append(logprob)
        choice.take(allowed[at])
    rest = choice.rest  # certain, so nothing is drawn any more
    return Completion(
        (*ids, *rest), (*logprobs, *[0.0] * len(rest)), choice.text or "", finished=True
    )


def _scores(
    prompt_ids: tuple[int, ...], tokens: Sequence[int]
) -> Generator[Call, Reply, list[float]]:
    """Log-probabilities of tokens at the next place, over the whole vocabulary."""
    found: dict[int, float] = {}
    for first in range(0, len(tokens), MOST_SCORED):
        scored = tuple(tokens[first : first + MOST_SCORED])
        reply = yield Call(prompt_ids, max_tokens=1, scored=scored)
        found.update(reply.scores)
    missing = [token for token in tokens if token not in found]
    if missing:
        raise PolicyFailure(
            f"the engine did not say the log-probabilities of {len(missing)} of {len(tokens)} "
            "tokens (logprob_token_ids), so it cannot choose: set agent.constrain=false, or use "
            "vLLM 0.32 or newer"
        )
    return [found[token] for token in tokens]
