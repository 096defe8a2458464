"""Continuous batching around a transformers model: the embedded engine.

A row that finishes is replaced at once instead of waiting for the slowest of its batch. Four
things make it several times faster than ``generate`` on a CPU, each answering a large row of
the profile (``benchmarks/rollout.py --profile``):

* keys and values live in one preallocated tensor per layer, written in place (``generate``
  copies the whole cache at every token);
* the prompt's shared beginning (system prompt and worked example) is computed once, samples
  of one task share the whole prompt, and a retry continues where its first turn ended;
* drawing happens among the top k, not over the whole vocabulary;
* the vocabulary head sees only the positions that are sampled from.

The model's own forward pass is untouched: the cache below is handed to it in place of
transformers' own, with explicit positions and a 4-D mask, so any decoder that takes those works.
"""

from __future__ import annotations

import queue
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agent.policies.base import Completion, Request
from agent.policies.chat import end_ids, option_ids
from agent.policies.sampling import Choice, draw, draw_allowed

PREFIX_MIN = 16  # shorter shared beginnings are not worth a pass of their own
PREFILL_TOKENS = 1024  # padded tokens of one prefill pass; bounds padding, memory and the pause
PASS_TOKENS = (
    64  # what a further prefill pass costs, in tokens; more padding than that is worth one
)
OPTIONS = 100_000  # texts of choices whose ids are remembered
BLOCK = 64  # attention reads the cache up to a multiple of this


class SlotCache:
    """Keys and values of all running rows: (layers, 2, slots, heads, length, dim).

    transformers calls ``update`` once per layer with the new keys and values and attends to
    what it returns. Running rows are kept in slots 0..n-1, so that is a view, not a copy.
    """

    def __init__(self, config: Any, slots: int, context: int, dtype: torch.dtype, device: Any):
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.context = context
        shape = (config.num_hidden_layers, 2, slots, heads, 0, dim)
        self.store = torch.empty(shape, dtype=dtype, device=device)
        self.rows = torch.arange(slots, device=device)
        self.positions = torch.zeros(0, dtype=torch.long, device=device)
        self.upto = 0

    def reserve(self, length: int) -> None:
        """Grow to hold ``length`` positions, in steps, so short runs stay small."""
        have = self.store.shape[4]
        if length <= have:
            return
        size = min(self.context + BLOCK, max(length, have + have // 2, 256) + BLOCK)
        new = self.store.new_zeros((*self.store.shape[:4], size, self.store.shape[5]))
        new[..., :have, :] = self.store
        self.store = new

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> Any:
        """Write one new position per row; return all rows' keys and values up to ``upto``."""
        n = key.shape[0]
        keys, values = self.store[layer]
        keys[self.rows[:n], :, self.positions] = key[:, :, 0]
        values[self.rows[:n], :, self.positions] = value[:, :, 0]
        return keys[:n, :, : self.upto], values[:n, :, : self.upto]

    def get_seq_length(self, *_: Any) -> int:
        return self.upto


class PrefillCache:
    """Collects prompts' new keys and values behind what is known of their beginnings.

    Args:
        past: (layers, 2, rows, heads, length, dim); shorter beginnings are padded behind.
    """

    def __init__(self, past: Tensor):
        self.past = past
        self.new: list[Tensor] = []

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> Any:
        self.new.append(torch.stack([key, value]))
        if self.past.shape[4] == 0:
            return key, value
        past_key, past_value = self.past[layer]
        return torch.cat([past_key, key], dim=2), torch.cat([past_value, value], dim=2)

    def get_seq_length(self, *_: Any) -> int:
        return self.past.shape[4]


class Known(NamedTuple):
    """Ids whose keys and values are at hand: (layers, 2, heads, length, dim)."""

    ids: Any  # numpy array
    values: Tensor
    prompt: int = 0  # how many of the ids are the prompt


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
    choice: Choice | None = None

    @property
    def temperature(self) -> float:
        """Of the next token."""
        hot = len(self.token_ids) < self.request.hot_tokens
        return self.request.temperature * (self.request.heat if hot else 1.0)


class Engine:
    """Generates for many requests at a time.

    Args:
        model: a decoder-only transformers model, on its device, in its dtype.
        tokenizer: its tokeniser.
        slots: rows generated at a time.
        context: longest prompt plus completion, in tokens.
    """

    def __init__(self, model: Any, tokenizer: Any, *, slots: int = 56, context: int = 2048):
        self.model, self.tokenizer, self.slots, self.context = model, tokenizer, slots, context
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        self.cache = SlotCache(model.config, slots, context, self.dtype, self.device)
        self.waiting: queue.SimpleQueue[tuple[Hashable, Request]] = queue.SimpleQueue()
        self.rows: list[Row] = []
        self.nothing = self.cache.store[:, :, :1]
        self.prefix = Known(np.zeros(0, dtype=int), self.nothing[:, :, 0])
        self.kept: OrderedDict[Hashable, Known] = OrderedDict()
        self.ends = end_ids(tokenizer, model.generation_config)
        self.end = tokenizer.eos_token_id
        self.pieces: dict[int, str] = {}
        self.options: dict[str, tuple[int, ...]] = {}

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
        # A prefill pauses every running row, so wait until a fair number can start together:
        # the more are running, the more.
        if self.rows and min(free, self.waiting.qsize()) < max(1, len(self.rows) // 8):
            return []
        groups: dict[tuple[int, ...], list[tuple[Hashable, Request]]] = {}
        while free and not self.waiting.empty():
            ticket, request = self.waiting.get()
            groups.setdefault(request.prompt_ids, []).append((ticket, request))
            free -= 1
        if not groups:
            return []
        self._learn_prefix(list(groups))
        found = {prompt: self._lookup(prompt) for prompt in groups}
        done: list[tuple[Hashable, Completion]] = []
        batch: list[tuple[int, ...]] = []
        longest = 0
        for prompt in sorted(groups, key=lambda p: len(p) - found[p][0]):
            length = len(prompt) - found[prompt][0]
            padding, size = (length - longest) * len(batch), length * (len(batch) + 1)
            if batch and (padding > PASS_TOKENS or size > PREFILL_TOKENS):
                done += self._prefill(batch, groups, found)
                batch = []
            batch.append(prompt)
            longest = length
        return done + self._prefill(batch, groups, found)

    def _learn_prefix(self, prompts: list[tuple[int, ...]]) -> None:
        """Compute what the prompts share once, unless most of it is known already."""
        common = min(_common_prefix(prompts), min(map(len, prompts)) - 1)
        known = common_length(self.prefix.ids, np.array(prompts[0]))
        if len(prompts) > 1 and common >= known + PREFIX_MIN:
            ids = prompts[0][:common]
            positions = torch.arange(common, device=self.device)
            cache = PrefillCache(self.nothing)
            self._forward(
                torch.tensor([ids], device=self.device),
                positions[None],
                self._mask(positions, common, 2),
                cache,
            )
            self.prefix = Known(np.array(ids), torch.stack(cache.new)[:, :, 0])

    def _lookup(self, prompt: tuple[int, ...]) -> tuple[int, Tensor]:
        """Longest known beginning of a prompt: of an earlier turn, or the shared one."""
        ids = np.array(prompt[:-1])  # the last token is always computed: it gives the logits
        best, ticket = self.prefix, None
        length = common_length(best.ids, ids)
        for other, known in self.kept.items():
            if (own := common_length(known.ids, ids)) > length:
                best, length, ticket = known, own, other
        if ticket is not None and length > best.prompt:
            del self.kept[ticket]  # a conversation goes on once
        if length < PREFIX_MIN:
            return 0, self.nothing[:, :, 0]
        return length, best.values[..., :length, :]

    def _prefill(
        self,
        prompts: list[tuple[int, ...]],
        groups: dict[tuple[int, ...], list[tuple[Hashable, Request]]],
        found: dict[tuple[int, ...], tuple[int, Tensor]],
    ) -> list[tuple[Hashable, Completion]]:
        known = torch.tensor([found[p][0] for p in prompts])
        lengths = torch.tensor([len(p) for p in prompts]) - known
        n, past_width, width = len(prompts), int(known.max()), int(lengths.max())
        shape = self.nothing.shape
        past = self.nothing.new_zeros((*shape[:2], n, shape[3], past_width, shape[5]))
        ids = torch.zeros((n, width), dtype=torch.long)
        for i, prompt in enumerate(prompts):  # padded on the right; the mask hides it
            past[:, :, i, :, : known[i]] = found[prompt][1]
            ids[i, : lengths[i]] = torch.tensor(prompt[known[i] :])
        new = torch.arange(width)
        hidden_keys = torch.cat(
            [
                (torch.arange(past_width) >= known[:, None])[:, None].expand(n, width, past_width),
                (new > new[:, None])[None].expand(n, width, width),
            ],
            dim=2,
        )
        mask = torch.zeros(hidden_keys.shape, dtype=self.dtype)
        mask.masked_fill_(hidden_keys, -torch.inf)
        cache = PrefillCache(past)
        hidden = self._forward(
            ids.to(self.device),
            (known[:, None] + new).to(self.device),
            mask[:, None].to(self.device),
            cache,
        )
        logits = self.model.lm_head(hidden[torch.arange(n), lengths - 1])

        self.cache.reserve(past_width + width + 1)
        computed = torch.stack(cache.new)
        source: list[int] = []
        first = len(self.rows)
        for i, prompt in enumerate(prompts):
            for ticket, request in groups[prompt]:
                slot = self.cache.store[:, :, len(self.rows)]
                slot[..., : known[i], :] = past[:, :, i, :, : known[i]]
                slot[..., known[i] : len(prompt), :] = computed[:, :, i, :, : lengths[i]]
                # Of texts with the same ids the first counts.
                options = {self._option(text): text for text in reversed(request.choices)}
                longest = max(map(len, options), default=request.max_new_tokens)
                draws = np.random.default_rng(request.seed).random(longest)
                choice = Choice(options) if options else None
                self.rows.append(Row(ticket, request, draws, len(prompt), choice=choice))
                source.append(i)
        return self._take(logits[torch.tensor(source, device=self.device)], first)

    # --- decoding: one token per row ---

    def _decode(self) -> list[tuple[Hashable, Completion]]:
        positions = torch.tensor([row.position for row in self.rows], device=self.device)
        longest = int(positions.max()) + 1
        self.cache.reserve(longest)
        upto = min(-(-longest // BLOCK) * BLOCK, self.cache.store.shape[4])
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
        tokens, logprobs = self._draw(logits, rows)
        done: list[tuple[Hashable, Completion]] = []
        finished: list[int] = []
        for i, (row, token, logprob) in enumerate(zip(rows, tokens, logprobs, strict=True)):
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            if row.choice is not None:
                row.choice.take(token)
                full, stopped = False, (rest := row.choice.rest) is not None
            else:
                stopped = self._stopped(row, token)
                full = len(row.token_ids) >= row.request.max_new_tokens
            if not (stopped or full or row.position + 1 >= self.context):
                continue
            finished.append(first + i)
            if row.request.keep:
                self._keep(row, first + i)
            if row.choice is not None and rest:  # certain, so nothing is drawn any more
                row.token_ids += rest
                row.logprobs += [0.0] * len(rest)
            text = self._text(row)
            completion = Completion(tuple(row.token_ids), tuple(row.logprobs), text, stopped)
            done.append((row.ticket, completion))
        for slot in reversed(finished):  # the last running row moves into the gap
            last = self.rows.pop()
            if slot < len(self.rows):
                store, length = self.cache.store, last.position
                store[:, :, slot, :, :length] = store[:, :, len(self.rows), :, :length]
                self.rows[slot] = last
        return done

    def _draw(self, logits: Tensor, rows: Sequence[Row]) -> tuple[list[int], list[float]]:
        """The next token of each row: from the vocabulary, or from what its choices allow."""
        tokens, logprobs = [0] * len(rows), [0.0] * len(rows)
        for bound in (False, True):
            at = [i for i, row in enumerate(rows) if (row.choice is not None) == bound]
            if not at:
                continue
            some = [rows[i] for i in at]
            own = logits[at] if len(at) < len(rows) else logits
            temperatures = [row.temperature for row in some]
            uniforms = [row.draws[len(row.token_ids)] for row in some]
            if bound:
                allowed = [row.choice.allowed for row in some if row.choice]
                drawn = draw_allowed(own, allowed, temperatures, uniforms)
            else:
                drawn = draw(own, temperatures, [row.request.top_k for row in some], uniforms)
            for i, token, logprob in zip(at, *drawn, strict=True):
                tokens[i], logprobs[i] = token, logprob
        return tokens, logprobs

    def _option(self, text: str) -> tuple[int, ...]:
        """Token ids of a text that is a whole turn."""
        ids = self.options.get(text)
        if ids is None:
            if len(self.options) >= OPTIONS:
                self.options.clear()
            ids = self.options[text] = option_ids(self.tokenizer, text)
        return ids

    def _text(self, row: Row) -> str:
        chosen = row.choice.text if row.choice is not None else None
        if chosen is not None:
            return chosen
        return str(self.tokenizer.decode(row.token_ids, skip_special_tokens=True))

    def _keep(self, row: Row, slot: int) -> None:
        """Remember a finished turn, in case the conversation goes on; the oldest go first."""
        ids = np.array(row.request.prompt_ids + tuple(row.token_ids[:-1]))
        values = self.cache.store[:, :, slot, :, : len(ids)].clone()
        self.kept[row.ticket] = Known(ids, values, len(row.request.prompt_ids))
        if len(self.kept) > 2 * self.slots:
            self.kept.popitem(last=False)

    def _stopped(self, row: Row, token: int) -> bool:
        if token in self.ends:
            return True
        piece = self.pieces.get(token)
        if piece is None:
            piece = self.pieces[token] = self.tokenizer.decode([token])
        row.text += piece
        reach = len(piece)
        return any(s in row.text[-(reach + len(s)) :] for s in row.request.stop)


def common_length(a: Any, b: Any) -> int:
    """Length of the common beginning of two arrays of ids."""
    n = min(len(a), len(b))
    differ = (a[:n] != b[:n]).nonzero()[0]
    return int(differ[0]) if len(differ) else n


def _common_prefix(sequences: Sequence[tuple[int, ...]]) -> int:
    shortest, longest = min(sequences), max(sequences)
    for i, (a, b) in enumerate(zip(shortest, longest, strict=False)):
        if a != b:
            return i
    return min(len(shortest), len(longest))
