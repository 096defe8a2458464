"""Continuous batching around a transformers model: the embedded engine.

A row that finishes is replaced at once instead of waiting for the slowest of its batch. Five
things make it several times faster than ``generate`` on a CPU, each answering a large row of
the profile (``benchmarks/rollout.py --profile``):

* keys and values live in one preallocated tensor per layer, written in place (``generate``
  copies the whole cache at every token);
* the prompt's shared beginning (system prompt and worked example) is computed once, samples
  of one task share the whole prompt, and a retry continues where its first turn ended;
* drawing happens among the top k, not over the whole vocabulary;
* the vocabulary head sees only the positions that are sampled from;
* matrix products and the attention of single tokens suit the processor (``kernels``).

Memory is bounded: the cache is as long as the longest row that runs, and turns that may go on
are kept up to ``KEPT`` of what all rows could have; the oldest are forgotten, and read again.

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
BLOCK = 64  # the cache's length is a multiple of this
SPARE = 2 * BLOCK  # it is shortened where so much of it is not needed
KEPT = 0.5  # most tokens of kept turns, as a share of what the running rows may have


class SlotCache:
    """Keys and values of all rows, per layer one tensor: (2, slots, heads, length, dim).

    transformers calls ``update`` once per layer with the new keys and values and attends to
    what it returns. The rows of a pass are in neighbouring slots, so that is a view, not a copy.
    """

    def __init__(self, config: Any, slots: int, dtype: torch.dtype, device: Any):
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (2, slots, heads, 0, dim)
        none = torch.zeros(shape, dtype=dtype, device=device)
        self.layers = [none] * config.num_hidden_layers
        self.slots = torch.arange(slots, device=device)
        self.first, self.positions, self.upto = 0, self.slots[:0, None], 0

    def prepare(self, first: int, positions: Tensor) -> None:
        """Make ready for a pass: rows from slot ``first`` on, positions (rows, new tokens).

        A pass of one new token from the first slot on has all rows, so it also says how long the
        cache has to be; it attends to the whole length, since products of parts of a tensor copy
        them first. One new token elsewhere is a prompt that is known but for its end: longer
        rows run beside it.
        """
        need = -(-(int(positions.max()) + 1) // BLOCK) * BLOCK
        spare = self.length - need
        self.first, self.positions, self.upto = first, positions, need
        every = first == 0 and positions.shape[1] == 1
        if spare < 0 or (every and spare >= SPARE):
            self.resize(need)
        elif every:
            self.upto = self.length

    @property
    def length(self) -> int:
        return self.layers[0].shape[3]

    def resize(self, length: int) -> None:
        """Grow or shrink, one layer after the other: there is never a second whole copy.

        What is not written yet is zero, since what the mask hides must still be a number.
        """
        kept = min(length, self.length)
        for number, store in enumerate(self.layers):
            new = store.new_zeros((*store.shape[:3], length, store.shape[4]))
            new[..., :kept, :] = store[..., :kept, :]
            self.layers[number] = new

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> Any:
        """Write the pass's new positions; return its rows' keys and values up to ``upto``."""
        last = self.first + key.shape[0]
        slots = self.slots[self.first : last, None]
        for store, new in zip(self.layers[layer], (key, value), strict=True):
            store[slots, :, self.positions] = new.transpose(1, 2)
        keys, values = self.layers[layer][:, self.first : last, :, : self.upto]
        return keys, values

    def get_seq_length(self, *_: Any) -> int:
        return self.upto

    def read(self, slot: int, length: int) -> Tensor:
        """A copy of a row's beginning: (layers, 2, heads, length, dim)."""
        return torch.stack([store[:, slot, :, :length] for store in self.layers])

    def write(self, slot: int, beginning: Tensor) -> None:
        """Put a row's beginning, as it was read, into a slot."""
        if beginning.shape[3] > self.length:
            self.resize(-(-beginning.shape[3] // BLOCK) * BLOCK)
        for store, own in zip(self.layers, beginning, strict=True):
            store[:, slot, :, : own.shape[2]] = own

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy a row's beginning from slot to slot."""
        for store in self.layers:
            store[:, target, :, :length] = store[:, source, :, :length]


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
        self.cache = SlotCache(model.config, slots, self.dtype, self.device)
        self.waiting: queue.SimpleQueue[tuple[Hashable, Request]] = queue.SimpleQueue()
        self.rows: list[Row] = []
        self.prefix = Known(np.zeros(0, dtype=int), self.cache.read(0, 0))
        self.kept: OrderedDict[Hashable, Known] = OrderedDict()
        self.most_kept = int(KEPT * slots * context)
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
            ids, free = prompts[0][:common], len(self.rows)  # a row is free: one is to come
            self._forward([ids], free, torch.arange(common)[None])
            self.prefix = Known(np.array(ids), self.cache.read(free, common))

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
            return 0, best.values[..., :0, :]
        return length, best.values[..., :length, :]

    def _prefill(
        self,
        prompts: list[tuple[int, ...]],
        groups: dict[tuple[int, ...], list[tuple[Hashable, Request]]],
        found: dict[tuple[int, ...], tuple[int, Tensor]],
    ) -> list[tuple[Hashable, Completion]]:
        known = [found[prompt][0] for prompt in prompts]
        lengths = [len(prompt) - n for prompt, n in zip(prompts, known, strict=True)]
        first, width = len(self.rows), max(lengths)
        for slot, prompt in enumerate(prompts, start=first):
            self.cache.write(slot, found[prompt][1])
        # Padded on the right: what it computes stands where the row's own tokens will.
        ids = [[*p[n:], *[0] * (width - len(p) + n)] for p, n in zip(prompts, known, strict=True)]
        hidden = self._forward(ids, first, torch.tensor(known)[:, None] + torch.arange(width))
        logits = self.model.lm_head(hidden[range(len(prompts)), [n - 1 for n in lengths]])
        source = list(range(len(prompts)))
        source += [i for i, prompt in enumerate(prompts) for _ in groups[prompt][1:]]
        left = {prompt: iter(groups[prompt]) for prompt in prompts}
        for slot, i in enumerate(source, start=first):
            prompt = prompts[i]
            if slot - first != i:  # a further sample of the same prompt
                self.cache.copy(first + i, slot, len(prompt))
            ticket, request = next(left[prompt])
            # Of texts with the same ids the first counts.
            options = {self._option(text): text for text in reversed(request.choices)}
            longest = max(map(len, options), default=request.max_new_tokens)
            draws = np.random.default_rng(request.seed).random(longest)
            choice = Choice(options) if options else None
            self.rows.append(Row(ticket, request, draws, len(prompt), choice=choice))
        return self._take(logits[torch.tensor(source, device=self.device)], first)

    # --- decoding: one token per row ---

    def _decode(self) -> list[tuple[Hashable, Completion]]:
        ids = [[row.token_ids[-1]] for row in self.rows]
        positions = torch.tensor([[row.position] for row in self.rows])
        hidden = self._forward(ids, 0, positions)
        for row in self.rows:
            row.position += 1
        return self._take(self.model.lm_head(hidden[:, -1]), 0)

    def _forward(self, ids: Sequence[Sequence[int]], first: int, positions: Tensor) -> Tensor:
        """Hidden states of new tokens of the rows from slot ``first`` on; all (rows, tokens)."""
        positions = positions.to(self.device)
        self.cache.prepare(first, positions)
        # Hidden are the keys behind each token's own position.
        keys = torch.arange(self.cache.upto, device=self.device)
        mask = torch.zeros((*positions.shape, len(keys)), dtype=self.dtype, device=self.device)
        mask.masked_fill_(keys > positions[..., None], -torch.inf)
        hidden: Tensor = self.model.model(
            input_ids=torch.tensor(ids, device=self.device),
            position_ids=positions,
            attention_mask=mask[:, None],
            past_key_values=self.cache,
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
                self.cache.copy(len(self.rows), slot, last.position)
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
        values = self.cache.read(slot, len(ids))
        self.kept[row.ticket] = Known(ids, values, len(row.request.prompt_ids))
        while len(self.kept) > 2 * self.slots or self._kept_tokens > self.most_kept:
            self.kept.popitem(last=False)

    @property
    def _kept_tokens(self) -> int:
        return sum(len(known.ids) for known in self.kept.values())

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
