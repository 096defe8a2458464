"""Continuous batching around a transformers model: the embedded engine.

A row that finishes is replaced at once instead of waiting for the slowest of its batch. Four
things make it several times faster than ``generate`` on a CPU, each answering a large row of
the profile (``benchmarks/rollout.py --profile``):

* keys and values live in one preallocated tensor per layer, written in place (``generate``
  copies the whole cache at every token);
* the prompt's shared beginning (system prompt and worked example) is computed once, and
  samples of one task share the whole prompt;
* drawing happens among the top k, not over the whole vocabulary;
* the vocabulary head sees only the positions that are sampled from.

The model's own forward pass is untouched: the cache below is handed to it in place of
transformers' own, with explicit positions and a 4-D mask, so any decoder that takes those works.
"""

from __future__ import annotations

import queue
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agent.policies.base import Completion, Request

PREFIX_MIN = 16  # shorter shared beginnings are not worth a pass of their own
PREFILL_TOKENS = 1024  # padded tokens of one prefill pass; bounds padding, memory and the pause
BLOCK = 64  # attention reads the cache up to a multiple of this


class SlotCache:
    """Keys and values of all running rows, (slots, heads, length, dim) per layer.

    transformers calls ``update`` once per layer with the new keys and values and attends to
    what it returns. Running rows are kept in slots 0..n-1, so that is a view, not a copy.
    """

    def __init__(self, config: Any, slots: int, context: int, dtype: torch.dtype, device: Any):
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.context, self.layers = context, config.num_hidden_layers
        self.shape = (slots, heads, 0, dim)
        self.options: dict[str, Any] = {"dtype": dtype, "device": device}
        self.keys = [torch.empty(self.shape, **self.options) for _ in range(self.layers)]
        self.values = [torch.empty(self.shape, **self.options) for _ in range(self.layers)]
        self.rows = torch.arange(slots, device=device)
        self.positions = torch.zeros(0, dtype=torch.long, device=device)
        self.upto = 0

    def reserve(self, length: int) -> None:
        """Grow to hold ``length`` positions, in steps, so short runs stay small."""
        have = self.keys[0].shape[2]
        if length <= have:
            return
        size = min(self.context + BLOCK, max(length, have + have // 2, 256) + BLOCK)
        for store in (self.keys, self.values):
            for layer, old in enumerate(store):
                new = torch.zeros((*self.shape[:2], size, self.shape[3]), **self.options)
                new[:, :, :have] = old
                store[layer] = new

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> Any:
        """Write one new position per row; return all rows' keys and values up to ``upto``."""
        n = key.shape[0]
        keys, values = self.keys[layer], self.values[layer]
        keys[self.rows[:n], :, self.positions] = key[:, :, 0]
        values[self.rows[:n], :, self.positions] = value[:, :, 0]
        return keys[:n, :, : self.upto], values[:n, :, : self.upto]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy one row over another."""
        for store in (self.keys, self.values):
            for tensor in store:
                tensor[target, :, :length] = tensor[source, :, :length]

    def get_seq_length(self, *_: Any) -> int:
        return self.upto


class PrefillCache:
    """Collects a prompt's keys and values behind an optional shared prefix (one row)."""

    def __init__(self, prefix: Sequence[tuple[Tensor, Tensor]] | None):
        self.prefix = prefix
        self.new: list[tuple[Tensor, Tensor]] = []

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> Any:
        self.new.append((key, value))
        if self.prefix is None:
            return key, value
        n = key.shape[0]
        past_key, past_value = self.prefix[layer]
        return (
            torch.cat([past_key.expand(n, -1, -1, -1), key], dim=2),
            torch.cat([past_value.expand(n, -1, -1, -1), value], dim=2),
        )

    def get_seq_length(self, *_: Any) -> int:
        return 0 if self.prefix is None else self.prefix[0][0].shape[2]


@dataclass
class Row:
    """A request in the making."""

    ticket: Hashable
    request: Request
    draws: Any  # one uniform number per token to come
    position: int  # where the next token's key and value go
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""


class Engine:
    """Generates for many requests at a time.

    Args:
        model: a decoder-only transformers model, on its device, in its dtype.
        tokenizer: its tokeniser.
        slots: rows generated at a time.
        context: longest prompt plus completion, in tokens.
    """

    def __init__(self, model: Any, tokenizer: Any, *, slots: int = 64, context: int = 2048):
        self.model, self.tokenizer, self.slots, self.context = model, tokenizer, slots, context
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        self.cache = SlotCache(model.config, slots, context, self.dtype, self.device)
        self.waiting: queue.SimpleQueue[tuple[Hashable, Request]] = queue.SimpleQueue()
        self.rows: list[Row] = []
        self.prefix: tuple[tuple[int, ...], list[tuple[Tensor, Tensor]]] = ((), [])
        ends = model.generation_config.eos_token_id
        self.ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        self.pieces: dict[int, str] = {}

    @property
    def busy(self) -> bool:
        return bool(self.rows) or not self.waiting.empty()

    def submit(self, ticket: Hashable, request: Request) -> None:
        """Queue a request; thread-safe."""
        self.waiting.put((ticket, request))

    @torch.inference_mode()
    def step(self) -> list[tuple[Hashable, Completion]]:
        """Admit what fits, produce one token for every row, return the finished."""
        done = self._admit()
        if self.rows:
            done += self._decode()
        return done

    # --- admission: prompts become rows ---

    def _admit(self) -> list[tuple[Hashable, Completion]]:
        free = self.slots - len(self.rows)
        # A prefill pauses every running row, so wait until a fair number can start together.
        if self.rows and min(free, self.waiting.qsize()) < max(1, self.slots // 8):
            return []
        admitted: list[tuple[Hashable, Request]] = []
        while len(admitted) < free and not self.waiting.empty():
            admitted.append(self.waiting.get())
        if not admitted:
            return []
        groups: dict[tuple[int, ...], list[tuple[Hashable, Request]]] = {}
        for ticket, request in admitted:
            groups.setdefault(request.prompt_ids, []).append((ticket, request))
        done: list[tuple[Hashable, Completion]] = []
        shared = self._shared_prefix(list(groups))
        batch: list[tuple[int, ...]] = []
        for prompt in sorted(groups, key=len):
            if batch and (len(prompt) - shared) * (len(batch) + 1) > PREFILL_TOKENS:
                done += self._prefill(batch, groups, shared)
                batch = []
            batch.append(prompt)
        return done + self._prefill(batch, groups, shared)

    def _shared_prefix(self, prompts: list[tuple[int, ...]]) -> int:
        """Length of the prompts' common beginning whose keys and values are at hand."""
        common = _common_prefix(prompts)
        common = min(common, min(map(len, prompts)) - 1)
        cached = _common_prefix([self.prefix[0], prompts[0]])
        if len(prompts) > 1 and common >= max(PREFIX_MIN, cached + PREFIX_MIN):
            ids = torch.tensor([prompts[0][:common]], device=self.device)
            positions = torch.arange(common, device=self.device)
            cache = PrefillCache(None)
            self._forward(ids, positions[None], self._mask(positions, common, 2), cache)
            self.prefix = (prompts[0][:common], cache.new)
            return common
        return min(common, cached) if min(common, cached) >= PREFIX_MIN else 0

    def _prefill(
        self,
        prompts: list[tuple[int, ...]],
        groups: dict[tuple[int, ...], list[tuple[Hashable, Request]]],
        shared: int,
    ) -> list[tuple[Hashable, Completion]]:
        lengths = [len(p) - shared for p in prompts]
        width = max(lengths)
        ids = torch.zeros((len(prompts), width), dtype=torch.long)
        for i, prompt in enumerate(prompts):  # padded on the right: a causal mask hides it
            ids[i, : lengths[i]] = torch.tensor(prompt[shared:])
        positions = torch.arange(shared, shared + width, device=self.device)
        past = [(k[:, :, :shared], v[:, :, :shared]) for k, v in self.prefix[1]] if shared else None
        cache = PrefillCache(past)
        hidden = self._forward(
            ids.to(self.device),
            positions[None].expand(len(prompts), -1),
            self._mask(positions, shared + width, 2),
            cache,
        )
        last = hidden[torch.arange(len(prompts)), torch.tensor(lengths) - 1]
        logits = self.model.lm_head(last)

        self.cache.reserve(shared + width + 1)
        source: list[int] = []
        first = len(self.rows)
        for i, prompt in enumerate(prompts):
            for ticket, request in groups[prompt]:
                draws = np.random.default_rng(request.seed).random(request.max_new_tokens)
                self.rows.append(Row(ticket, request, draws, len(prompt)))
                source.append(i)
        slots = slice(first, len(self.rows))
        index = torch.tensor(source, device=self.device)
        for layer, (key, value) in enumerate(cache.new):
            if past is not None:
                self.cache.keys[layer][slots, :, :shared] = past[layer][0]
                self.cache.values[layer][slots, :, :shared] = past[layer][1]
            self.cache.keys[layer][slots, :, shared : shared + width] = key[index]
            self.cache.values[layer][slots, :, shared : shared + width] = value[index]
        return self._take(logits[index], first)

    # --- decoding: one token per row ---

    def _decode(self) -> list[tuple[Hashable, Completion]]:
        positions = torch.tensor([row.position for row in self.rows], device=self.device)
        longest = int(positions.max()) + 1
        self.cache.reserve(longest)
        upto = min(-(-longest // BLOCK) * BLOCK, self.cache.keys[0].shape[2])
        self.cache.positions, self.cache.upto = positions, upto
        ids = torch.tensor([[row.token_ids[-1]] for row in self.rows], device=self.device)
        hidden = self._forward(ids, positions[:, None], self._mask(positions, upto), self.cache)
        for row in self.rows:
            row.position += 1
        return self._take(self.model.lm_head(hidden[:, -1]), 0)

    def _mask(self, positions: Tensor, length: int, axis: int = 0) -> Tensor:
        """Additive mask that hides keys behind each query's position.

        ``positions`` runs over rows (axis 0, one query each) or over queries (axis 2).
        """
        hidden = torch.arange(length, device=self.device)[None, :] > positions[:, None]
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
        mask.masked_fill_(hidden, -torch.inf)
        return mask[:, None, None] if axis == 0 else mask[None, None]

    def _forward(self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Any) -> Tensor:
        hidden: Tensor = self.model.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden

    def _take(self, logits: Tensor, first: int) -> list[tuple[Hashable, Completion]]:
        """Draw the next token of rows[first:]; remove and return those that are finished."""
        rows = self.rows[first:]
        tokens, logprobs = draw(
            logits,
            [row.request.temperature for row in rows],
            [row.request.top_k for row in rows],
            [row.draws[len(row.token_ids)] for row in rows],
        )
        done: list[tuple[Hashable, Completion]] = []
        finished: list[int] = []
        for i, (row, token, logprob) in enumerate(zip(rows, tokens, logprobs, strict=True)):
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            if stopped := self._stopped(row, token):
                finished.append(first + i)
            elif (
                len(row.token_ids) >= row.request.max_new_tokens
                or row.position + 1 >= self.context
            ):
                finished.append(first + i)
            else:
                continue
            text = self.tokenizer.decode(row.token_ids, skip_special_tokens=True)
            completion = Completion(tuple(row.token_ids), tuple(row.logprobs), text, stopped)
            done.append((row.ticket, completion))
        for slot in reversed(finished):  # the last running row moves into the gap
            last = self.rows.pop()
            if slot < len(self.rows):
                self.cache.move(len(self.rows), slot, last.position)
                self.rows[slot] = last
        return done

    def _stopped(self, row: Row, token: int) -> bool:
        if token in self.ends:
            return True
        piece = self.pieces.get(token)
        if piece is None:
            piece = self.pieces[token] = self.tokenizer.decode([token])
        row.text += piece
        reach = len(piece)
        return any(s in row.text[-(reach + len(s)) :] for s in row.request.stop)


def draw(
    logits: Tensor, temperatures: Sequence[float], top_ks: Sequence[int], uniforms: Sequence[float]
) -> tuple[list[int], list[float]]:
    """Next token of each row, by inverse transform among the top k (greedy at temperature 0).

    Args:
        logits: (rows, vocabulary).
        temperatures, top_ks: per row.
        uniforms: per row, a number in [0, 1) that decides the draw.

    Returns:
        token ids, and their log-probabilities at temperature 1 over the whole vocabulary.
    """
    logits = logits.float()
    normaliser = torch.logsumexp(logits, dim=-1)
    k = min(max(top_ks) if any(temperatures) else 1, logits.shape[-1])
    top, index = logits.topk(k, dim=-1)  # sorted, the likeliest first
    heat = torch.tensor([t or 1.0 for t in temperatures], device=logits.device)
    allowed = torch.tensor(
        [1 if t == 0 else min(n, k) for t, n in zip(temperatures, top_ks, strict=True)],
        device=logits.device,
    )
    scaled = top / heat[:, None]
    scaled[torch.arange(k, device=logits.device)[None, :] >= allowed[:, None]] = -torch.inf
    cumulative = scaled.softmax(dim=-1).cumsum(dim=-1)
    u = torch.tensor(uniforms, dtype=cumulative.dtype, device=logits.device)
    chosen = (cumulative <= u[:, None]).sum(dim=-1).clamp(max=allowed - 1)[:, None]
    tokens = index.gather(1, chosen)[:, 0]
    logprobs = top.gather(1, chosen)[:, 0] - normaliser
    return tokens.tolist(), logprobs.tolist()


def _common_prefix(sequences: Sequence[tuple[int, ...]]) -> int:
    shortest, longest = min(sequences), max(sequences)
    for i, (a, b) in enumerate(zip(shortest, longest, strict=False)):
        if a != b:
            return i
    return min(len(shortest), len(longest))
