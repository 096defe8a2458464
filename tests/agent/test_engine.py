"""What makes the embedded engine quick and small changes nothing of what it answers."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import Linear, Sequential
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from agent.policies.base import Completion, Request
from agent.policies.engine import BLOCK, KEPT, Engine
from agent.policies.kernels import (
    ATTENTION,
    PackedLinear,
    attention,
    best_dtype,
    blocks,
    pack,
    quicken,
)
from agent.policies.transformers import load_model
from agent.training.objectives import Scorer, _blocks_of, token_logprobs
from agent.training.packing import Example, build, common_prefix
from tests.tiny import tiny_model

CONTEXT = 1024


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Tokeniser and plain model."""
    return load_model(tiny_model(tmp_path_factory.mktemp("tiny"), context=CONTEXT), dtype="float32")


def engine_of(loaded: tuple[Any, Any], slots: int = 4) -> Engine:
    return Engine(loaded[1], loaded[0], slots=slots, context=CONTEXT)


def serve(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    for ticket, request in enumerate(requests):
        engine.submit(ticket, request)
    done: dict[Hashable, Completion] = {}
    while engine.busy:
        done |= dict(engine.step())
    return [done[ticket] for ticket in range(len(requests))]


def prompt(n: int, length: int) -> tuple[int, ...]:
    return tuple((n * 31 + i * i) % 250 for i in range(length))


def plainly(model: Any, asked: Request, made: Completion) -> list[float]:
    """Log-probabilities from one forward pass over everything."""
    with torch.inference_mode():
        logits = model(torch.tensor([asked.prompt_ids + made.token_ids])).logits[0]
    table = logits.log_softmax(-1)[len(asked.prompt_ids) - 1 : -1]
    return table[torch.arange(len(made.token_ids)), torch.tensor(made.token_ids)].tolist()


# --- memory ---


def test_the_cache_is_as_long_as_its_longest_row_and_the_answers_stay(
    loaded: tuple[Any, Any],
) -> None:
    """It grows in the middle of short rows and shrinks in the middle of others."""
    lengths = (20, 30, 700, 25, 40, 35)
    asked = [
        Request(prompt_ids=prompt(i, n), max_new_tokens=4 if n == 700 else 90, seed=i)
        for i, n in enumerate(lengths)
    ]
    engine = engine_of(loaded, slots=2)
    engine.ends = set()
    for ticket, request in enumerate(asked):
        engine.submit(ticket, request)
    done: dict[Hashable, Completion] = {}
    seen = []
    while engine.busy:
        done |= dict(engine.step())
        seen.append(engine.cache.length)
        assert all(row.position <= engine.cache.length for row in engine.rows)
    assert max(seen[:5]) <= 2 * BLOCK < 700 <= max(seen)  # short, long, and short again
    assert seen[-1] <= 40 + 90 + 3 * BLOCK
    for ticket, request in enumerate(asked):
        expected = plainly(loaded[1], request, done[ticket])
        assert done[ticket].logprobs == pytest.approx(expected, abs=1e-3)


def test_a_prompt_met_again_takes_nothing_from_longer_rows(loaded: tuple[Any, Any]) -> None:
    """Known but for its last token, it starts with a pass as narrow as one that all rows share."""
    short = Request(prompt_ids=prompt(1, 30), max_new_tokens=4, keep=True)
    long = Request(prompt_ids=prompt(2, 400), max_new_tokens=40)
    engine = engine_of(loaded)
    engine.ends = set()
    serve(engine, [short])  # it is kept
    engine.submit("long", long)
    engine.step()
    engine.submit("short", short)
    done: dict[Hashable, Completion] = {}
    while engine.busy:
        done |= dict(engine.step())
        assert all(row.position <= engine.cache.length for row in engine.rows)
    for ticket, asked in (("long", long), ("short", short)):
        expected = plainly(loaded[1], asked, done[ticket])
        assert done[ticket].logprobs == pytest.approx(expected, abs=1e-3)
        assert done[ticket].token_ids == serve(engine_of(loaded), [asked])[0].token_ids


@pytest.mark.parametrize("seed", range(8))
def test_whatever_comes_when_each_answer_is_its_own(loaded: tuple[Any, Any], seed: int) -> None:
    """New prompts, repeated ones, conversations that go on, in any order, at any time."""
    chance = random.Random(seed)
    engine = engine_of(loaded, slots=chance.choice((2, 3, 5)))
    engine.ends = set()
    shared = prompt(99, 40)
    open_: dict[Hashable, Request] = {}
    ended: list[tuple[Request, Completion]] = []

    def another() -> tuple[int, ...]:
        """Ids of a prompt: of its own, or with a beginning that is known already."""
        kind = chance.choice(("new", "shared", "again", "cut", "on", "running"))
        if kind == "running" and open_:
            return chance.choice(list(open_.values())).prompt_ids
        if kind in ("again", "cut", "on") and ended:
            asked, made = chance.choice(ended)
            if kind == "again":
                return asked.prompt_ids
            if kind == "cut":
                return asked.prompt_ids[: chance.randint(1, len(asked.prompt_ids))]
            going = asked.prompt_ids + made.token_ids
            if len(going) < CONTEXT - 80:
                return going + prompt(chance.randrange(250), chance.choice((1, 2, 30)))
        own = prompt(chance.randrange(250), chance.choice((1, 2, 17, 70, 200, 500)))
        return shared + own if kind == "shared" else own

    for ticket in range(60):
        choices = ("yes", "no", "yes and no") if chance.random() < 0.2 else ()
        request = open_[ticket] = Request(
            prompt_ids=another(), max_new_tokens=chance.choice((1, 2, 9, 70)), choices=choices,
            temperature=chance.choice((0.0, 0.7, 1.3)), hot_tokens=chance.choice((0, 2)), heat=2.0,
            keep=chance.random() < 0.6, seed=ticket,
        )  # fmt: skip
        engine.submit(ticket, request)
        for _ in range(chance.choice((0, 0, 1, 5, 40)) if ticket < 59 else 10**6):
            for other, made in engine.step():
                ended.append((open_.pop(other), made))
            assert all(row.position <= engine.cache.length for row in engine.rows)
            if not engine.busy:
                break
    assert not open_ and len(ended) == 60
    for asked, made in ended:
        if asked.choices:  # what is drawn is one of those allowed: only company could change it
            assert made.token_ids == serve(engine_of(loaded), [asked])[0].token_ids
        else:
            assert made.logprobs == pytest.approx(plainly(loaded[1], asked, made), abs=1e-3)


def test_kept_turns_are_bounded_in_tokens_and_the_oldest_go_first(
    loaded: tuple[Any, Any],
) -> None:
    engine = engine_of(loaded)
    most = int(KEPT * 4 * CONTEXT)
    asked = [Request(prompt_ids=prompt(i, 600), max_new_tokens=3, keep=True) for i in range(7)]
    first = serve(engine, asked)
    held = sum(known.values.shape[3] for known in engine.kept.values())
    assert 0 < held <= most < 7 * 600
    assert list(engine.kept) == list(range(7 - len(engine.kept), 7))
    # One that is still held goes on from there, one that is gone is read again: both right.
    more = [
        Request(prompt_ids=asked[i].prompt_ids + first[i].token_ids + (5, 6), max_new_tokens=5)
        for i in (0, 6)
    ]
    for request, made in zip(more, serve(engine, more), strict=True):
        assert made.logprobs == pytest.approx(plainly(loaded[1], request, made), abs=1e-3)
    assert 6 not in engine.kept


# --- kernels ---


def test_packed_layers_give_what_plain_ones_give() -> None:
    torch.manual_seed(0)
    for dtype, close in ((torch.float32, 1e-4), (torch.bfloat16, 2e-2)):
        plain = Sequential(Linear(64, 96, dtype=dtype), Linear(96, 32, bias=False, dtype=dtype))
        x = torch.randn(2, 5, 64, dtype=dtype)
        with torch.inference_mode():
            expected = plain(x)
            pack(plain)
            assert all(type(layer) is PackedLinear for layer in plain)
            assert torch.allclose(plain(x), expected, atol=close, rtol=close)


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2), (9, 3)])
def test_decode_attention_is_plain_attention(heads: int, key_heads: int) -> None:
    torch.manual_seed(1)
    rows, dim, length = 5, 16, 40
    store = torch.randn(2, rows + 2, key_heads, length, dim)
    keys, values = store[:, :rows]
    query = torch.randn(rows, heads, 1, dim)
    ends = torch.tensor([1, 7, 40, 23, 39])
    mask = torch.zeros(rows, 1, 1, length)
    mask.masked_fill_(torch.arange(length) >= ends[:, None, None, None], -torch.inf)
    module: Any = SimpleNamespace(num_key_value_groups=heads // key_heads)
    made, _ = attention(module, query, keys, values, mask, scaling=0.3)
    blocked, _ = sdpa_attention_forward(module, query, keys, values, mask, scaling=0.3)
    assert made.shape == blocked.shape and torch.allclose(made, blocked, atol=1e-5)
    for row, end in enumerate(ends.tolist()):
        each = heads // key_heads
        for head in range(heads):
            scores = 0.3 * query[row, head, 0] @ keys[row, head // each, :end].T
            expected = scores.softmax(-1) @ values[row, head // each, :end]
            assert torch.allclose(made[row, 0, head], expected, atol=1e-5)


def test_a_quickened_model_answers_as_the_plain_one(tmp_path: Path) -> None:
    """Whole prompts and single tokens, through the engine, with real packed layers."""
    tokenizer, quick = load_model(tiny_model(tmp_path, context=CONTEXT), dtype="float32")
    plain = load_model(tmp_path, dtype="float32")[1]
    quick = quicken(quick)
    assert any(type(m) is PackedLinear for m in quick.modules())
    assert quick.config._attn_implementation == ATTENTION
    asked = [
        Request(prompt_ids=prompt(i, 9 + 7 * i), max_new_tokens=12, temperature=1.0, seed=i)
        for i in range(5)
    ]
    one = serve(Engine(quick, tokenizer, slots=3, context=CONTEXT), asked)
    two = serve(Engine(plain, tokenizer, slots=3, context=CONTEXT), asked)
    assert [c.token_ids for c in one] == [c.token_ids for c in two]
    for request, made in zip(asked, one, strict=True):
        assert made.logprobs == pytest.approx(plainly(plain, request, made), abs=1e-3)


def test_auto_is_bfloat16_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for bf16, amx in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=bf16: has)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=amx: has)
        expected = torch.bfloat16 if bf16 or amx else torch.float32
        assert best_dtype("cpu") is expected
        assert best_dtype("cuda") is torch.bfloat16


@pytest.mark.parametrize("lengths", [(0, 3, 20, 2), (5, 3, 2, 1, 9, 4), (12, 30), (9, 8, 8)])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_blocks_leave_out_nothing_that_can_be_seen(lengths: tuple[int, ...], size: int) -> None:
    found = blocks(lengths, size)
    owner = [n for n, length in enumerate(lengths) for _ in range(length)]
    assert [i for block in found for i in range(block.begin, block.end)] == list(range(len(owner)))
    for begin, end, first, shared in found:
        assert end - begin <= size
        seen = {*range(shared), *range(first, end)}
        for i in range(begin, end):
            assert {j for j in range(i + 1) if owner[j] in (0, owner[i])} <= seen
    looked = sum((b.end - b.begin) * (b.end - b.first) for b in found)
    assert size > 4 or looked < len(owner) ** 2


@pytest.mark.parametrize("lengths", [(0, 9, 14), (6, 5, 17, 2)])
@pytest.mark.parametrize("most", [0, 1 << 24])
def test_a_row_in_blocks_is_the_whole_row(
    lengths: tuple[int, ...], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the scores are too many to be held, and torch goes over the whole row."""
    torch.manual_seed(2)
    owner = torch.tensor([n for n, length in enumerate(lengths) for _ in range(length)])
    visible = (owner == 0) | (owner == owner[:, None])
    mask = torch.zeros(visible.shape).masked_fill_(~visible.tril(), -torch.inf)[None, None]
    query, key, value = (torch.randn(1, heads, len(owner), 8) for heads in (6, 2, 2))
    module: Any = SimpleNamespace(num_key_value_groups=3)
    monkeypatch.setattr("agent.policies.kernels.DENSE", most)
    made, _ = attention(module, query, key, value, mask, blocks=blocks(lengths, 4))
    whole, _ = sdpa_attention_forward(module, query, key, value, mask)
    assert made.shape == whole.shape and torch.allclose(made, whole, atol=1e-5)


@pytest.mark.parametrize("length", [30, 300])
def test_training_attends_and_learns_as_the_plain_model(tmp_path: Path, length: int) -> None:
    """Log-probabilities and gradients of a packed row: through a Scorer, and without one."""
    from peft import LoraConfig, get_peft_model

    folder = tiny_model(tmp_path, context=2 * length)
    begin = prompt(9, 40)
    mask = (0,) * (length + 20) + (1,) * 20
    records = [Example(begin + prompt(i, length), mask, 1.0, str(i)) for i in range(4)]
    for dtype, close in (("float32", 1e-4), ("bfloat16", 5e-2)):
        row = build(records, common_prefix(records), getattr(torch, dtype), "cpu")
        found = []
        for quick in (False, True):
            torch.manual_seed(0)
            config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
            network = get_peft_model(load_model(folder, dtype=dtype)[1], config)
            scorer = Scorer(network) if quick else None
            plain = network.get_base_model().config._attn_implementation
            assert plain == (ATTENTION if quick else "sdpa")
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                logprobs = scorer(*row) if scorer else token_logprobs(network, row)
            logprobs.mean().backward()
            gradients = [p.grad for p in network.parameters() if p.grad is not None]
            found.append((logprobs.detach(), torch.cat([g.flatten() for g in gradients])))
            uncast = [m.cast_input_dtype_enabled for m in scorer.adapted] if scorer else []
            assert all(enabled == (dtype == "float32") for enabled in uncast)
            if scorer:
                asked = _blocks_of(network.get_base_model(), row)["blocks"]
                assert len(asked) == (2 if length == 30 else 9)  # the beginning, then the examples
                with torch.no_grad():  # and where nothing is cast, as the verifier scores
                    assert torch.isfinite(scorer(*row)).all()
        (expected, slope), (made, own) = found
        assert slope.numel() and slope.norm() > 0
        assert torch.allclose(made, expected, atol=close * expected.abs().max())
        assert (own - slope).norm() <= 2 * close * slope.norm()
