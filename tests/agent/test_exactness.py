"""The ids that are generated are the ids that are trained on; shown on the real default model.

In float32, where the engine, plain transformers and the trainer must agree to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from agent.evolution.refine import Solution
from agent.evolution.update.weights import examples as make_examples
from agent.formats import format_of
from agent.loop import Assignment, run_episode
from agent.policies.base import Completion, Message, Request
from agent.policies.engine import Engine
from agent.policies.models import resolve_model
from agent.policies.sampling import draw
from agent.policies.transformers import TransformersPolicy, load_model
from agent.prompt import AgentSettings, frame, opening
from agent.rollout import rollout
from agent.training.adapter import COMPLETE, AdapterError, check_adapter, read_manifest
from agent.training.lora import LoraSettings, train
from agent.training.packing import IGNORE, Example, build, common_prefix, pack
from environments.kinds.python import PYTHON, PYTHON_BRIEFING
from environments.sandbox import make_sandbox
from environments.sandbox.base import Limits
from memory.records import Step, StopReason, Trajectory
from tests.agent.sequences import row_loss
from tests.toy import ToySuite

CLOSE = 2e-3  # of log-probabilities, between two orders of the same float32 sums
SETTINGS = AgentSettings(max_new_tokens=20)
FRAME = frame(SETTINGS, PYTHON_BRIEFING, format_of([PYTHON]))
QUESTIONS = (
    "Double the number 12.",
    "Square the number 5.",
    "Which number follows 41? Think of the numbers one after the other, then answer.",
)


@pytest.fixture(scope="module")
def policy() -> TransformersPolicy:
    return TransformersPolicy(resolve_model("default"), dtype="float32", slots=4, context=512)


@pytest.fixture(scope="module")
def prompts(policy: TransformersPolicy) -> list[tuple[int, ...]]:
    """Of different lengths; some share a long beginning, one shares nothing with any."""
    asked = [policy.encode(opening(FRAME, question)) for question in QUESTIONS]
    alone: list[Message] = [{"role": "user", "content": "Name three colours."}]
    first = policy.encode(alone)
    said = tuple(policy.tokenizer.encode("Red.", add_special_tokens=False))
    return [*asked, first, policy.extend(first + said, "Two more.", "")]


class Asked(NamedTuple):
    request: Request
    completion: Completion


def generate(
    policy: TransformersPolicy, requests: Sequence[Request], slots: int = 4
) -> list[Completion]:
    """Through an engine of its own, so that nothing is left from before."""
    return serve(Engine(policy.engine.model, policy.tokenizer, slots=slots, context=512), requests)


def serve(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    """All at once; the answers in order."""
    for ticket, request in enumerate(requests):
        engine.submit(ticket, request)
    done: dict[Hashable, Completion] = {}
    while engine.busy:
        done |= dict(engine.step())
    return [done[ticket] for ticket in range(len(requests))]


def plain_logprobs(model: Any, prompt: tuple[int, ...], produced: tuple[int, ...]) -> list[float]:
    """What plain transformers gives the produced ids, in one forward pass."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + produced])).logits[0].float()
    table = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return table[torch.arange(len(produced)), torch.tensor(produced)].tolist()


# --- generation ---


@pytest.fixture(scope="module")
def greedy(policy: TransformersPolicy, prompts: list[tuple[int, ...]]) -> list[Completion]:
    return generate(policy, [Request(prompt_ids=p, max_new_tokens=12) for p in prompts])


def test_greedy_output_is_that_of_transformers(
    policy: TransformersPolicy, prompts: list[tuple[int, ...]], greedy: list[Completion]
) -> None:
    for prompt, own in zip(prompts, greedy, strict=True):
        with torch.inference_mode():
            ids = policy.engine.model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                do_sample=False,
                max_new_tokens=12,
            )[0, len(prompt) :].tolist()
        assert list(own.token_ids) == ids
        assert own.text == policy.tokenizer.decode(ids, skip_special_tokens=True)


def test_logprobs_are_those_of_a_plain_forward_pass(
    policy: TransformersPolicy, prompts: list[tuple[int, ...]], greedy: list[Completion]
) -> None:
    for prompt, own in zip(prompts, greedy, strict=True):
        assert own.logprobs == pytest.approx(
            plain_logprobs(policy.engine.model, prompt, own.token_ids), abs=CLOSE
        )


@pytest.mark.parametrize("slots", [2, 16])
def test_slots_and_company_do_not_matter(
    policy: TransformersPolicy,
    prompts: list[tuple[int, ...]],
    greedy: list[Completion],
    slots: int,
) -> None:
    """More requests than rows, some of them the same prompt, of different lengths."""
    order = [4, 0, 0, 2, 1, 3, 0, 2]
    lengths = [12, 3, 12, 7, 12, 1, 9, 12]
    requests = [
        Request(prompt_ids=prompts[i], max_new_tokens=n)
        for i, n in zip(order, lengths, strict=True)
    ]
    for own, i, n in zip(generate(policy, requests, slots), order, lengths, strict=True):
        whole = greedy[i]
        assert own.token_ids == whole.token_ids[:n]
        assert own.logprobs == pytest.approx(whole.logprobs[:n], abs=CLOSE)
        assert own.finished == (whole.finished and n >= len(whole.token_ids))


def test_sampling_depends_on_the_request_alone(
    policy: TransformersPolicy, prompts: list[tuple[int, ...]]
) -> None:
    requests = [
        Request(prompt_ids=prompts[i % 3], max_new_tokens=7, temperature=0.9, seed=i)
        for i in range(6)
    ]
    together = generate(policy, requests, slots=6)
    few = generate(policy, requests[::-1], slots=2)[::-1]
    assert [c.token_ids for c in few] == [c.token_ids for c in together]
    assert together[0].token_ids != together[3].token_ids  # same prompt, another seed
    for request, own in zip(requests, together, strict=True):
        expected = plain_logprobs(policy.engine.model, request.prompt_ids, own.token_ids)
        assert own.logprobs == pytest.approx(expected, abs=CLOSE)  # at temperature 1


def test_only_the_first_tokens_are_hot(
    policy: TransformersPolicy, prompts: list[tuple[int, ...]], greedy: list[Completion]
) -> None:
    """Greedy behind a hot beginning: draws differ in the first tokens and nowhere else."""
    cold = {"prompt_ids": prompts[0], "max_new_tokens": 6, "temperature": 1e-4}
    seeds = range(12)
    hot = [Request(**cold, hot_tokens=2, heat=2e4, seed=seed) for seed in seeds]
    plain = generate(policy, [Request(**cold, seed=seed) for seed in seeds])
    assert {c.token_ids for c in plain} == {greedy[0].token_ids[:6]}
    drawn = {c.token_ids for c in generate(policy, hot)}
    assert len({ids[:2] for ids in drawn}) > 1
    assert len({ids[:2] for ids in drawn}) == len(drawn)  # the rest follows from the beginning


def test_greedy_rows_stay_greedy_among_sampled_ones(
    policy: TransformersPolicy, prompts: list[tuple[int, ...]], greedy: list[Completion]
) -> None:
    hot = Request(prompt_ids=prompts[1], max_new_tokens=8, temperature=1.5, seed=3)
    cold = Request(prompt_ids=prompts[0], max_new_tokens=8)
    one = Request(prompt_ids=prompts[2], max_new_tokens=8, temperature=1.5, top_k=1, seed=4)
    _, second, third = generate(policy, [hot, cold, one])
    assert second.token_ids == greedy[0].token_ids[:8]
    assert third.token_ids == greedy[2].token_ids[:8]


def test_a_conversation_goes_on_from_what_is_kept(
    policy: TransformersPolicy, prompts: list[tuple[int, ...]], greedy: list[Completion]
) -> None:
    engine = Engine(policy.engine.model, policy.tokenizer, slots=4, context=512)

    first = serve(engine, [Request(prompt_ids=p, max_new_tokens=6, keep=True) for p in prompts[:2]])
    assert [c.token_ids for c in first] == [c.token_ids[:6] for c in greedy[:2]]
    assert len(engine.kept) == 2
    more = tuple(policy.tokenizer.encode("\nTry again.\n"))
    longer = [p + c.token_ids + more for p, c in zip(prompts[:2], first, strict=True)]
    again = [*(Request(prompt_ids=p, max_new_tokens=6) for p in (longer[1], longer[0]))]
    second = serve(engine, again)
    assert not engine.kept  # both went on
    fresh = generate(policy, again)
    assert [c.token_ids for c in second] == [c.token_ids for c in fresh]
    for request, own in zip(again, second, strict=True):
        expected = plain_logprobs(policy.engine.model, request.prompt_ids, own.token_ids)
        assert own.logprobs == pytest.approx(expected, abs=CLOSE)


def test_generation_ends_with_the_token_that_completes_a_stop_string(
    policy: TransformersPolicy, prompts: list[tuple[int, ...]], greedy: list[Completion]
) -> None:
    decode: Callable[..., str] = policy.tokenizer.decode
    ids = greedy[0].token_ids
    stop = decode(ids[6:9])[1:]  # begins within a token, spans several
    expected = next(n for n in range(len(ids)) if stop in decode(ids[:n]))
    (own,) = generate(
        policy, [Request(prompt_ids=prompts[0], max_new_tokens=20, stop=("no such", stop))]
    )
    assert own.token_ids == ids[:expected] and own.finished
    assert stop in own.text


def test_generation_ends_with_the_end_of_turn(policy: TransformersPolicy) -> None:
    chat: list[Message] = [{"role": "user", "content": "Reply with the one word: yes"}]
    (own,) = generate(policy, [Request(prompt_ids=policy.encode(chat), max_new_tokens=60)])
    assert own.finished and len(own.token_ids) < 60
    assert own.token_ids[-1] == policy.tokenizer.eos_token_id
    assert policy.tokenizer.eos_token not in own.text


def test_generation_ends_where_the_context_does(
    policy: TransformersPolicy, prompts: list[tuple[int, ...]], greedy: list[Completion]
) -> None:
    context = len(prompts[0]) + 5
    engine = Engine(policy.engine.model, policy.tokenizer, slots=2, context=context)
    engine.submit("x", Request(prompt_ids=prompts[0], max_new_tokens=20))
    done: list[tuple[Hashable, Completion]] = []
    while engine.busy:
        done += engine.step()
    ((_, own),) = done
    assert not own.finished and len(prompts[0]) + len(own.token_ids) <= context
    assert own.token_ids == greedy[0].token_ids[: len(own.token_ids)] != ()


# --- episodes ---


class Recording:
    """A policy that writes down what it is asked and answers."""

    def __init__(self, policy: TransformersPolicy):
        self.policy, self.version, self.context = policy, policy.version, policy.context
        self.encode, self.extend = policy.encode, policy.extend
        self.requests: dict[Hashable, Request] = {}
        self.asked: list[Asked] = []

    def submit(self, ticket: Hashable, request: Request) -> None:
        self.requests[ticket] = request
        self.policy.submit(ticket, request)

    def step(self) -> list[tuple[Hashable, Completion]]:
        done = self.policy.step()
        self.asked += [Asked(self.requests[ticket], completion) for ticket, completion in done]
        return done

    @property
    def busy(self) -> bool:
        return self.policy.busy


@pytest.fixture(scope="module")
def toy() -> ToySuite:
    return ToySuite(sandbox=lambda: make_sandbox("bubblewrap", Limits(wall_s=60)))


@pytest.fixture(scope="module")
def played(policy: TransformersPolicy, toy: ToySuite) -> tuple[list[Trajectory], list[Asked]]:
    """Real episodes, several at a time, in the real sandbox."""
    recording = Recording(policy)
    tasks = list(toy.tasks())[::25]
    assignments = [
        Assignment(f"1/acquire/{task.id}/{i}", task, "train", "acquire", 0.7)
        for i, task in enumerate(tasks)
    ]
    batches = rollout(assignments, recording, toy, SETTINGS, seed=5, in_flight=4)  # type: ignore[arg-type]
    trajectories = [t for batch in batches for t in batch]
    assert len(trajectories) == len(tasks) and all(t.failure is None for t in trajectories)
    return trajectories, recording.asked


def conversation(t: Trajectory) -> list[tuple[tuple[int, ...], Step]]:
    """Each step with all that the policy had read before it wrote."""
    ids: tuple[int, ...] = ()
    found = []
    for step in t.steps:
        found.append((ids + step.prompt_ids, step))
        ids += step.token_ids
    return found


def test_steps_hold_the_ids_that_went_through_the_model(
    played: tuple[list[Trajectory], list[Asked]],
) -> None:
    trajectories, asked = played
    steps = [step for t in trajectories for step in t.steps]
    stored = {
        (read, s.produced_ids, s.logprobs, s.text)
        for t in trajectories
        for read, s in conversation(t)
    }
    made = {
        (
            a.request.prompt_ids,
            a.completion.token_ids,
            a.completion.logprobs,
            FRAME.begin + a.completion.text,
        )
        for a in asked
    }
    assert stored == made and len(steps) == len(asked) > len(trajectories)  # some took two turns
    for step in steps:
        n = len(step.logprobs)
        assert step.token_ids == step.prompt_ids + step.produced_ids
        assert step.loss_mask == (0,) * (len(step.token_ids) - n) + (1,) * n


def test_stored_logprobs_are_those_of_a_plain_forward_pass(
    policy: TransformersPolicy, played: tuple[list[Trajectory], list[Asked]]
) -> None:
    for t in played[0][:4]:
        for read, step in conversation(t):
            expected = plain_logprobs(policy.engine.model, read, step.produced_ids)
            assert step.logprobs == pytest.approx(expected, abs=CLOSE)


def test_an_episode_is_the_same_whatever_runs_beside_it(
    policy: TransformersPolicy, toy: ToySuite, played: tuple[list[Trajectory], list[Asked]]
) -> None:
    t = played[0][0]
    task = next(task for task in toy.tasks() if task.id == t.task)
    assignment = Assignment(t.slot, task, "train", "acquire", 0.7)
    ((alone,),) = rollout([assignment], policy, toy, SETTINGS, seed=5)
    assert [s.token_ids for s in alone.steps] == [s.token_ids for s in t.steps]


@pytest.mark.parametrize("room", [0, 1])
def test_a_prompt_that_outgrows_the_context_ends_the_episode(
    policy: TransformersPolicy, toy: ToySuite, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``room`` turns fit; the next one is not begun, and the episode counts as it stands."""
    task = toy.tasks()[0]
    settings = SETTINGS.model_copy(update={"max_new_tokens": 4})
    prompt = policy.encode(opening(FRAME, task.prompt))

    monkeypatch.setattr(policy, "context", len(prompt) + 4 - (1 - room))

    def query(request: Request) -> Completion:
        return generate(policy, [request])[0]

    t = run_episode(
        Assignment("act/x", task, "test", "act"),
        lambda: toy.environment(task),
        query,
        policy,
        settings,
        toy.briefing,
        seed=0,
    )
    assert t.stop is StopReason.CONTEXT and t.failure is None
    assert len(t.steps) == room and not t.success


# --- training data ---


@pytest.fixture(scope="module")
def examples(
    policy: TransformersPolicy, played: tuple[list[Trajectory], list[Asked]]
) -> list[Example]:
    solutions = [Solution(t, "", 1.0) for t in played[0]]
    return make_examples(solutions, policy, 1)


def test_examples_hold_the_produced_ids(
    policy: TransformersPolicy,
    played: tuple[list[Trajectory], list[Asked]],
    examples: list[Example],
) -> None:
    by_slot = {t.slot: t for t in played[0]}
    made = {a.completion.token_ids for a in played[1]}
    assert len(examples) == len(by_slot)
    for e in examples:
        t = by_slot[e.source]
        bare = policy.encode(opening(FRAME, t.prompt))
        produced = t.turns[-1].produced_ids
        assert len(t.turns) == 1 and produced in made
        assert e.token_ids == bare + produced
        assert e.loss_mask == (0,) * len(bare) + (1,) * len(produced)


def test_labels_are_the_produced_ids_and_nothing_else(examples: list[Example]) -> None:
    shared = common_prefix(examples)
    assert shared > 50  # system prompt and worked example
    rows = pack(examples, 256, shared)
    assert len(rows) > 1 and [e for row in rows for e in row] == examples
    for packed in rows:
        row = build(packed, shared, torch.float32, "cpu")
        labels, ids, positions = (x[0].tolist() for x in (row.labels, row.ids, row.positions))
        at = shared
        for e in packed:
            own = len(e.token_ids) - shared
            part = slice(at, at + own)
            assert ids[part] == list(e.token_ids[shared:])
            assert positions[part] == list(range(shared, len(e.token_ids)))
            produced = [t for t, m in zip(e.token_ids, e.loss_mask, strict=True) if m]
            assert [label for label in labels[part] if label != IGNORE] == produced
            # A label stands where it is predicted from: just before its token.
            assert all(
                label in (IGNORE, ids[i + 1]) for i, label in enumerate(labels[: at + own - 1])
            )
            at += own
        assert at == len(ids) and set(labels[:shared]) == {IGNORE}


def test_packed_loss_is_the_loss_one_by_one(
    policy: TransformersPolicy, examples: list[Example]
) -> None:
    model = policy.engine.model
    weighted = [
        e._replace(weight=w) for e, w in zip(examples[:4], (1.0, 2.0, 0.5, 1.0), strict=True)
    ]
    shared = common_prefix(weighted)
    with torch.inference_mode():
        packed = float(row_loss(model, build(weighted, shared, torch.float32, "cpu")))
        total = weight = 0.0
        for e in weighted:
            alone = float(row_loss(model, build([e], 0, torch.float32, "cpu")))
            n = sum(e.loss_mask)
            prompt, produced = e.token_ids[:-n], e.token_ids[-n:]
            plain = plain_logprobs(model, prompt, produced)
            assert alone == pytest.approx(-sum(plain) / n, abs=CLOSE)
            total += e.weight * alone * n
            weight += e.weight * n
    assert packed == pytest.approx(total / weight, abs=CLOSE)


# --- training ---


class Adapter(NamedTuple):
    folder: Path
    examples: list[Example]
    losses: tuple[float, ...]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> Adapter:
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    settings = LoraSettings(rank=4, alpha=8, epochs=4, row_tokens=400, learning_rate=2e-3)
    few = examples[:4]
    trained = train(
        resolve_model("default"),
        few,
        settings,
        folder,
        seed=0,
        manifest={"parent": "base"},
        dtype="float32",
    )
    assert trained["version"] == check_adapter(folder)
    assert trained["loss_tokens"] == 4 * sum(sum(e.loss_mask) for e in few)
    return Adapter(folder, few, tuple(trained["losses"]))


def test_training_lowers_the_loss(adapter: Adapter) -> None:
    assert all(map(math.isfinite, adapter.losses))
    assert adapter.losses[-1] < 0.7 * adapter.losses[0]


def test_the_manifest_tells_what_went_in(adapter: Adapter) -> None:
    manifest = read_manifest(adapter.folder)
    assert manifest["sources"] == [e.source for e in adapter.examples]
    assert manifest["version"] == (adapter.folder / COMPLETE).read_text()
    assert manifest["parent"] == "base" and manifest["examples"] == 4
    assert manifest["tokens"] > manifest["loss_tokens"] > 0
    assert manifest["losses"] == list(adapter.losses)


def test_merged_weights_are_base_plus_adapter(policy: TransformersPolicy, adapter: Adapter) -> None:
    from peft import PeftModel

    merged = TransformersPolicy(
        resolve_model("default"), adapter.folder, version="a", dtype="float32", slots=2
    ).engine.model
    _, base = load_model(resolve_model("default"), dtype="float32")
    beside = PeftModel.from_pretrained(base, str(adapter.folder))
    before = after_ = 0.0
    for e in adapter.examples[:2]:
        n = sum(e.loss_mask)
        prompt, produced = e.token_ids[:-n], e.token_ids[-n:]
        one = plain_logprobs(merged, prompt, produced)
        assert one == pytest.approx(plain_logprobs(beside, prompt, produced), abs=CLOSE)
        before += sum(plain_logprobs(policy.engine.model, prompt, produced))
        after_ += sum(one)
    assert after_ > before + 1


def test_a_truncated_adapter_is_refused(adapter: Adapter) -> None:
    file = adapter.folder / "adapter_model.safetensors"
    body = file.read_bytes()
    try:
        file.write_bytes(body[: len(body) // 2])
        with pytest.raises(AdapterError) as caught:
            check_adapter(adapter.folder)
        message = str(caught.value)
        assert str(adapter.folder) in message and "\n" not in message and "cut" in message
        (adapter.folder / COMPLETE).rename(adapter.folder / "gone")
        with pytest.raises(AdapterError, match="incomplete"):
            check_adapter(adapter.folder)
        (adapter.folder / "gone").rename(adapter.folder / COMPLETE)
    finally:
        file.write_bytes(body)
    check_adapter(adapter.folder)


# --- drawing ---


def test_draws_follow_the_distribution() -> None:
    n, k = 40_000, 5
    logits = torch.tensor([2.0, 1.5, 1.0, 0.0, -0.5, -1.0, -9.0])
    for temperature in (0.5, 1.0, 2.0):
        uniforms = np.random.default_rng(7).random(n).tolist()
        tokens, logprobs = draw(logits.expand(n, -1), [temperature] * n, [k] * n, uniforms)
        expected = (logits[:k] / temperature).softmax(-1).numpy()
        seen = np.bincount(tokens, minlength=7) / n
        spread = np.sqrt(expected * (1 - expected) / n)
        assert np.all(np.abs(seen[:k] - expected) < 4 * spread)
        assert not seen[k:].any()  # beyond the top k
        plain = logits.log_softmax(-1)  # of the whole vocabulary, at temperature 1
        assert logprobs == pytest.approx([float(plain[t]) for t in tokens], abs=1e-5)


def test_draws_at_the_edges() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0]] * 6)
    tokens, _ = draw(
        logits,
        [0.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        [3, 3, 3, 1, 2, 99],
        [0.999, 0.0, 0.9999999, 0.9999999, 0.9999999, 0.9999999],
    )
    assert tokens == [1, 1, 0, 1, 2, 0]


def test_each_row_is_drawn_on_its_own() -> None:
    chance = np.random.default_rng(1)
    logits = torch.tensor(chance.normal(size=(64, 50)), dtype=torch.float32)
    temperatures = [0.0, 0.7, 1.3, 0.7] * 16
    top_ks = [40, 3, 50, 1] * 16
    uniforms = chance.random(64).tolist()
    tokens, logprobs = draw(logits, temperatures, top_ks, uniforms)
    for i in range(64):
        token, logprob = draw(logits[i : i + 1], temperatures[i : i + 1], top_ks[i : i + 1],
                              uniforms[i : i + 1])  # fmt: skip
        assert token == [tokens[i]] and logprob == pytest.approx([logprobs[i]], abs=1e-5)
