"""What each objective's loss does: its gradient, its mask, its weights, its clip."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from agent.config import ConfigError
from agent.policies.transformers import load_model
from agent.training import objectives
from agent.training.objectives import (
    Batch,
    Tokens,
    batch_of,
    loss_of,
    mismatched,
    needs_reference,
    token_logprobs,
    tokens_of,
)
from agent.training.packing import (
    Example,
    Unit,
    build,
    common_prefix,
    pack_units,
    units,
)
from agent.training.settings import LoraSettings
from tests.agent.sequences import observations, sequence
from tests.tiny import tiny_model

OBJECTIVES = ("sft", "weighted", "dpo", "kto", "grpo")


def settings(objective: str, **own: Any) -> LoraSettings:
    tree: dict[str, Any] = {"objective": objective}
    return LoraSettings.model_validate(tree | ({objective: own} if own else {}))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(tiny_model(tmp_path_factory.mktemp("tiny")), dtype="float32")[1]


@pytest.fixture(scope="module")
def pair() -> list[Example]:
    better, worse = sequence(1, task="t"), sequence(2, task="t")
    return [
        better._replace(advantage=1.0, unit="pair"),
        worse._replace(advantage=-1.0, unit="pair"),
    ]


# --- over tokens alone ---


def tokens(
    logprobs: Sequence[float],
    reference: Sequence[float] | None = None,
    *,
    generation: Sequence[float] | None = None,
    example: Sequence[int] = (),
    unit: Sequence[int] = (),
    weight: Sequence[float] = (),
    advantage: Sequence[float] = (),
) -> Tokens:
    """Each token an example and a unit of its own, if nothing else is said."""
    own = torch.tensor(logprobs, requires_grad=True)
    count = len(set(example)) or len(own)
    old = torch.tensor(reference) if reference is not None else own.detach().clone()
    return Tokens(
        own,
        old,
        torch.tensor(generation) if generation is not None else old,
        torch.tensor(list(example) or range(len(own))),
        torch.tensor(list(unit) or range(count)),
        torch.tensor(list(weight) or [1.0] * count, dtype=torch.float32),
        torch.tensor(list(advantage) or [0.0] * count, dtype=torch.float32),
    )


def gradient(t: Tokens, how: LoraSettings, batch: Batch | None = None, kl: float = 0.0) -> Tensor:
    if batch is None:
        count, weight = len(t.logprobs), float(t.weight[t.example].sum())
        batch = Batch(len(t.unit.unique()), count, max(1, count), weight)
    found = loss_of(how)(t, batch, kl)
    found.backward()
    assert t.logprobs.grad is not None
    return t.logprobs.grad


def test_weights_scale_gradients() -> None:
    plain = gradient(tokens([-1.0, -2.0]), settings("weighted"))
    double = gradient(tokens([-1.0, -2.0], weight=[2.0, 1.0]), settings("weighted"))
    assert double.tolist() == [2 * plain[0], plain[1]]  # nobody else's is changed
    assert plain.tolist() == [-0.5, -0.5]


def test_swapping_a_pair_moves_the_margin_the_other_way() -> None:
    how = settings("dpo", nll=0.0)
    values: dict[str, Any] = {"example": [0, 0, 1], "unit": [0, 0]}
    one = gradient(tokens([-1.0, -2.0, -3.0], **values, advantage=[1, -1]), how)
    other = gradient(tokens([-1.0, -2.0, -3.0], **values, advantage=[-1, 1]), how)
    assert one.tolist() == [-x for x in other.tolist()]
    assert one[0] < 0 < one[2]  # descent makes the better likelier
    assert float(one[0]) == pytest.approx(-0.1 / 2)  # beta times sigmoid(0)


def test_a_pair_pulls_as_much_as_it_weighs() -> None:
    values: dict[str, Any] = {"unit": [0, 0, 1, 1], "advantage": [1, -1, 1, -1]}
    weight = [1.0, 1.0, 0.25, 0.25]
    grad = gradient(tokens([-1.0] * 4, **values, weight=weight), settings("dpo", nll=1.0))
    assert grad[2:].tolist() == pytest.approx([0.25 * float(x) for x in grad[:2]])


def test_dpo_pulls_less_where_the_margin_is_there_already() -> None:
    how = settings("dpo", nll=0.0)
    values: dict[str, Any] = {"unit": [0, 0], "advantage": [1, -1]}
    near = gradient(tokens([-1.0, -1.0], [-1.0, -1.0], **values), how)
    far = gradient(tokens([-1.0, -60.0], [-30.0, -1.0], **values), how)
    assert abs(far[0]) < abs(near[0]) / 10


def test_dpo_keeps_the_better_likely() -> None:
    """With NLL, the better half's tokens gain even where the margin is wide."""
    values: dict[str, Any] = {"unit": [0, 0], "advantage": [1, -1]}
    t = tokens([-5.0, -900.0], [-5.0, -1.0], **values)
    grad = gradient(t, settings("dpo", nll=1.0), Batch(1, 2, 1, 2.0))
    assert grad.tolist() == pytest.approx([-1.0, 0.0], abs=1e-6)


def test_kto_desirable_and_undesirable() -> None:
    how = settings("kto")
    good, bad = gradient(tokens([-1.0, -1.0], advantage=[1, -1]), how)
    assert good < 0 < bad and float(good) == pytest.approx(-float(bad))
    assert float(good) == pytest.approx(-0.1 * 0.25 / 2)  # beta, slope of the sigmoid, mean
    weighed = gradient(tokens([-1.0, -1.0], advantage=[1, -1], weight=[1.0, 3.0]), how)
    assert float(weighed[1]) == pytest.approx(3 * float(bad))
    # What is as far as the weights have moved anyway is no gain: the slope is steepest there.
    moved = tokens([-1.0], [-31.0], advantage=[1])
    at = gradient(moved, how, kl=30.0)
    beyond = gradient(tokens([-1.0], [-31.0], advantage=[1]), how, kl=0.0)
    assert abs(at[0]) > abs(beyond[0])


def test_grpo_without_differences_has_no_gradient() -> None:
    assert not gradient(tokens([-1.0, -2.0], advantage=[0, 0]), settings("grpo")).any()


def test_grpo_follows_advantages() -> None:
    grad = gradient(tokens([-1.0, -2.0], advantage=[1.5, -0.5]), settings("grpo"))
    assert grad.tolist() == pytest.approx([-0.75, 0.25])


@pytest.mark.parametrize(
    ("moved", "advantage", "clipped"),
    [(0.1, 1, False), (0.3, 1, True), (-0.3, 1, False), (-0.3, -1, True), (0.3, -1, False)],
)
def test_clip_stops_what_has_gone_far_enough(moved: float, advantage: int, clipped: bool) -> None:
    t = tokens([-1.0 + moved], [-1.0], advantage=[advantage])
    grad = gradient(t, settings("grpo", clip_high=0.2))
    assert bool(grad[0] == 0) == clipped
    wide = settings("grpo", clip_low=0.5, clip_high=0.5)
    assert gradient(tokens([-1.0 + moved], [-1.0], advantage=[advantage]), wide).any()


@pytest.mark.parametrize(("times", "clipped"), [(9.0, False), (11.0, True)])
def test_a_success_can_become_ten_times_as_likely(times: float, clipped: bool) -> None:
    moved = tokens([-3.0 + math.log(times)], [-3.0], advantage=[1])
    assert bool(gradient(moved, settings("grpo"))[0] == 0) == clipped


def test_ratios_to_generation_or_to_the_start() -> None:
    values: dict[str, Any] = {"generation": [-2.0], "advantage": [-1]}
    recomputed = gradient(tokens([-1.0], [-1.0], **values), settings("grpo"))
    noted = settings("grpo", old_logprobs="generation")
    assert recomputed.tolist() == [1.0]
    assert gradient(tokens([-1.0], [-1.0], **values), noted).tolist() == pytest.approx([math.e])


def test_truncated_importance_sampling() -> None:
    values: dict[str, Any] = {"generation": [-0.5, -3.0], "advantage": [1, 1]}
    grad = gradient(tokens([-1.0, -1.0], **values), settings("grpo", truncate=2.0))
    assert grad.tolist() == pytest.approx([-0.5 * math.exp(-0.5), -0.5 * 2.0])


def test_kl_pulls_back() -> None:
    grad = gradient(tokens([-0.5], [-1.0], advantage=[0]), settings("grpo", kl=0.1))
    assert float(grad[0]) == pytest.approx(0.1 * 0.5 * math.exp(0.5))  # ratio times log-ratio


def test_long_trajectories_count_by_token_or_by_trajectory() -> None:
    values: dict[str, Any] = {"example": [0, 0, 0, 1], "advantage": [1, 1]}
    by_token = gradient(tokens([-1.0] * 4, **values), settings("grpo"))
    each = gradient(tokens([-1.0] * 4, **values), settings("grpo", aggregate="sequence"))
    assert by_token.tolist() == [-0.25] * 4
    assert each.tolist() == pytest.approx([-1 / 6] * 3 + [-1 / 2])


# --- through the model ---


def row_of(
    model: Any, made: Sequence[Unit], how: LoraSettings, embedded: Callable[[Tensor], None]
) -> Tensor:
    flat = [e for unit in made for e in unit]
    row = build(flat, 0, torch.float32, "cpu")
    hook = model.model.embed_tokens.register_forward_hook(lambda _m, _i, out: embedded(out))
    try:
        logprobs = token_logprobs(model, row)
    finally:
        hook.remove()
    reference = logprobs.detach() - 0.1 if needs_reference(how) else None
    return loss_of(how)(tokens_of(made, row, logprobs, reference), batch_of([made]), 0.0)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_observations_bear_no_loss(model: Any, pair: list[Example], objective: str) -> None:
    """Another observation behind the last turn, and what it predicts, change nothing."""
    how = settings(objective)
    with_end = [
        e._replace(token_ids=(*e.token_ids, 7, 8, 9), loss_mask=(*e.loss_mask, 0, 0, 0))
        for e in pair
    ]
    held: list[Tensor] = []

    def hold(out: Tensor) -> None:
        out.retain_grad()
        held.append(out)

    plain = row_of(model, units(pair), how, hold)
    ended = row_of(model, units(with_end), how, hold)
    assert plain.item() == pytest.approx(ended.item(), abs=1e-6)
    ended.backward()
    grads = held[1].grad
    assert grads is not None
    at = 0
    for e in with_end:
        places = grads[0, at : at + len(e.token_ids)].abs().sum(-1)
        assert not places[-4:].any(), "nothing is learnt from the last observation"
        assert places[observations(e)[0]] > 0, "an earlier one is read by the next turn"
        at += len(e.token_ids)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_logits_that_predict_observations_get_no_gradient(
    model: Any, pair: list[Example], objective: str
) -> None:
    """Of the logits of all places, only those have a gradient that predict a turn's token."""
    how = settings(objective)
    row = build(pair, 0, torch.float32, "cpu")
    hidden = model.model(
        input_ids=row.ids, position_ids=row.positions, attention_mask=row.mask
    ).last_hidden_state
    logits = model.lm_head(hidden)[0].detach().requires_grad_()
    places = torch.cat([torch.tensor([*e.loss_mask[1:], 0], dtype=torch.bool) for e in pair])
    table = logits.log_softmax(-1)
    targets = row.ids[0].roll(-1)
    logprobs = table[torch.arange(len(targets)), targets][places]
    assert logprobs.tolist() == pytest.approx(token_logprobs(model, row).tolist(), abs=1e-4)
    reference = logprobs.detach() - 0.1 if needs_reference(how) else None
    made = units(pair)
    loss_of(how)(tokens_of(made, row, logprobs, reference), batch_of([made]), 0.0).backward()
    assert logits.grad is not None
    rows = logits.grad.abs().sum(-1) > 0
    assert rows.tolist() == places.tolist()


@pytest.mark.parametrize("objective", ["weighted", "dpo", "kto", "grpo"])
def test_rows_do_not_change_the_loss(model: Any, objective: str) -> None:
    """However a step's units are packed, the sum over its rows is the same."""
    how = settings(objective)
    made = [
        [
            sequence(2 * i, task=f"{i}")._replace(advantage=1.0, unit=f"{i}", weight=0.5 + i),
            sequence(2 * i + 1, task=f"{i}")._replace(advantage=-1.0, unit=f"{i}", weight=0.5 + i),
        ]
        for i in range(4)
    ]
    totals = []
    begin = common_prefix([e for unit in made for e in unit])
    for row_tokens, shared in ((1, 0), (200, 0), (10_000, begin)):
        rows = pack_units(made, row_tokens, shared)
        total = 0.0
        for packed in rows:
            row = build([e for unit in packed for e in unit], shared, torch.float32, "cpu")
            with torch.no_grad():
                logprobs = token_logprobs(model, row)
            reference = logprobs * 0.9
            total += float(
                loss_of(how)(tokens_of(packed, row, logprobs, reference), batch_of(rows), 0.2)
            )
        totals.append(total)
    assert len(rows) == 1
    assert totals == pytest.approx([totals[0]] * 3, abs=1e-5)


def test_a_loss_of_ones_own_goes_no_farther_than_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documented example: IPO pulls a margin to 1/(2β), from either side; DPO only widens."""
    page = (Path(objectives.__file__).parent / "README.md").read_text()
    (code,) = re.findall(r"^```python losses.py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "losses.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    ipo = LoraSettings(objective="dpo", loss="losses:ipo")
    assert needs_reference(ipo)
    values: dict[str, Any] = {"unit": [0, 0], "advantage": [1, -1]}
    for margin, pull in ((3.0, -1), (5.0, 0), (9.0, 1)):
        grad = gradient(tokens([-1.0, -1.0 - margin], [-1.0, -1.0], **values), ipo)
        assert grad.sign().tolist() == [pull, -pull]
        assert float(grad[0]) == pytest.approx(2 * (margin - 5.0))
        wider = gradient(
            tokens([-1.0, -1.0 - margin], [-1.0, -1.0], **values), settings("dpo", nll=0.0)
        )
        assert wider[0] < 0 < wider[1]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("tokens.logprobs", r"update_weights.loss=own_loss:loss: is \(2,\), not one number"),
        ("None", "has to return Tensor, not None"),
        ("1 / 0", "fails at own_loss.py, line 2: ZeroDivisionError"),
    ],
)
def test_a_loss_of_ones_own_that_is_none_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, says: str
) -> None:
    (tmp_path / "own_loss.py").write_text(f"def loss(tokens, batch):\n    return {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_loss", raising=False)
    with pytest.raises(ConfigError, match=says):
        gradient(tokens([-1.0, -2.0], [-1.0, -1.0]), LoraSettings(loss="own_loss:loss"))


def test_a_unit_is_never_split_or_cut() -> None:
    made = [[sequence(i), sequence(i + 50)] for i in range(6)]
    for row_tokens in (1, 100, 300):
        rows = pack_units(made, row_tokens, 0)
        assert [unit for row in rows for unit in row] == made
        assert all(
            len(row) == 1 or sum(len(e.token_ids) for u in row for e in u) <= row_tokens
            for row in rows
        )


def test_mismatched_takes_another_tasks_continuation() -> None:
    made = [[sequence(1, task="a")], [sequence(2, task="a")], [sequence(3, task="b")]]
    found = mismatched(made)
    for (own,), other, source in zip(made, found, (3, 3, 2), strict=True):
        prompt, rest = own.loss_mask.index(1), sequence(source)
        assert other.token_ids[:prompt] == own.token_ids[:prompt]
        assert other.token_ids[prompt:] == rest.token_ids[rest.loss_mask.index(1) :]
        assert sum(other.loss_mask) == sum(rest.loss_mask)


# --- settings ---


def test_what_trl_cannot_do_is_refused() -> None:
    with pytest.raises(ValidationError, match="backend: trl does objective: sft only, not dpo"):
        LoraSettings.model_validate({"objective": "dpo", "backend": "trl"})
    with pytest.raises(ValidationError, match="backend: trl takes no loss of your own"):
        LoraSettings(backend="trl", loss="losses:ipo")
    with pytest.raises(ValidationError, match="'ipo' is no import path"):
        LoraSettings(loss="ipo")
    with pytest.raises(ValidationError, match="truncate needs old_logprobs: recomputed"):
        settings("grpo", truncate=2.0, old_logprobs="generation")


def test_learning_rates() -> None:
    assert LoraSettings(objective="dpo").peak < LoraSettings().peak
    assert LoraSettings(objective="dpo", learning_rate=1e-3).peak == 1e-3
