"""What holds weights near those that training began with, on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from agent.training.averages import Averages
from agent.training.lora import LoraSettings, train
from agent.training.objectives import divergence
from agent.training.packing import Example
from agent.training.settings import RegulariseSettings
from agent.training.verifier import load_verifier
from tests.agent.sequences import sequence
from tests.tiny import tiny_model

SMALL: dict[str, Any] = {
    "rank": 4, "alpha": 8, "row_tokens": 128, "epochs": 4, "learning_rate": 4e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return [sequence(i, task=str(i)) for i in range(8)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def trained(model: Path, examples: list[Example], folder: Path, **how: Any) -> dict[str, Any]:
    """Train with these settings; the manifest."""
    start = how.pop("start", None)
    settings = LoraSettings.model_validate(SMALL | how)
    return train(
        model, examples, settings, folder, seed=0, manifest={}, start=start, dtype="float32"
    )


def far(folder: Path) -> float:
    """How far an adapter changes its layers, in all: its second factors begin at zero."""
    return sum(float(v.abs().sum()) for k, v in weights(folder).items() if "lora_B" in k)


def moved(model: Path, folder: Path, examples: list[Example]) -> float:
    """How much likelier or less likely the examples became, on the mean."""
    found = load_verifier(model, folder, dtype="float32")(examples)
    return sum(map(abs, found.values())) / len(found)


# --- KL to the start ---


def test_divergence_is_the_textbooks_where_nothing_is_left_out() -> None:
    torch.manual_seed(0)
    start, now = torch.randn(5, 12).log_softmax(1), torch.randn(5, 12).log_softmax(1)
    whole = torch.nn.functional.kl_div(now, start, log_target=True, reduction="none").sum(1)
    torch.testing.assert_close(divergence(start, now), whole, atol=1e-4, rtol=1e-4)
    assert divergence(start, start).abs().max() < 1e-5
    part = divergence(start[:, :4], now[:, :4])  # the rest as one event: never more
    assert bool((part >= -1e-6).all()) and bool((part <= whole + 1e-5).all())


def test_the_rest_counts() -> None:
    """Probability that moves out of the likeliest tokens is seen by the rest's own term."""
    start = torch.tensor([[0.5, 0.4]]).log()
    now = torch.tensor([[0.25, 0.2]]).log()
    by_hand = 0.9 * torch.log(torch.tensor(2.0)) + 0.1 * torch.log(torch.tensor(0.1 / 0.55))
    torch.testing.assert_close(divergence(start, now)[0], by_hand)


def test_kl_holds_the_weights_near_the_start(
    model: Path, examples: list[Example], tmp_path: Path
) -> None:
    free = trained(model, examples, tmp_path / "free")
    held = trained(model, examples, tmp_path / "held", regularise={"kl": 20.0})
    own = [moved(model, tmp_path / name, examples) for name in ("free", "held")]
    assert own[1] < 0.5 * own[0]
    assert held["losses"][0] == pytest.approx(free["losses"][0], abs=1e-4)  # no way gone yet
    assert held["losses"][-1] > free["losses"][-1] + 0.1


@pytest.mark.parametrize("objective", ["weighted", "dpo", "kto", "grpo"])
def test_kl_goes_with_every_objective(
    model: Path, examples: list[Example], tmp_path: Path, objective: str
) -> None:
    signs = [1.0 if i % 2 else -1.0 for i in range(len(examples))]
    made = [
        e._replace(advantage=sign, unit=str(i // 2) if objective == "dpo" else str(i))
        for i, (e, sign) in enumerate(zip(examples, signs, strict=True))
    ]
    trained(model, made, tmp_path / "free", objective=objective)
    trained(model, made, tmp_path / "held", objective=objective, regularise={"kl": 50.0})
    own = [moved(model, tmp_path / name, examples) for name in ("free", "held")]
    assert own[1] < 0.8 * own[0]


# --- averages ---


def test_elastic_reset_by_hand() -> None:
    """Online weights go back to the average, the average to the start (2312.07551, §3)."""
    online = torch.tensor([0.0])
    averages = Averages([online], RegulariseSettings(ema=0.5, reset_every=2))
    online += 4.0
    averages.after(1)
    assert (float(online), float(averages.mean[0])) == (4.0, 2.0)
    online += 4.0
    averages.after(2)  # the average is 5: training goes on from there
    assert (float(online), float(averages.mean[0])) == (5.0, 0.0)
    online += 1.0
    averages.after(3)
    averages.finish()
    assert float(online) == 6.0  # with resets training ends where it is


def test_without_resets_training_ends_with_the_average() -> None:
    online = torch.tensor([0.0])
    averages = Averages([online], RegulariseSettings(ema=0.5))
    for step in (1, 2):
        online += 4.0
        averages.after(step)
    averages.finish()
    assert float(online) == 5.0


def test_a_slow_average_stays_at_the_start_and_a_fast_one_is_plain_training(
    model: Path, examples: list[Example], tmp_path: Path
) -> None:
    plain = trained(model, examples, tmp_path / "plain")
    trained(model, examples, tmp_path / "slow", regularise={"ema": 0.9999999})
    assert far(tmp_path / "slow") < 1e-4 * far(tmp_path / "plain")
    trained(model, examples, tmp_path / "fast", regularise={"ema": 1e-9})
    own = weights(tmp_path / "fast")
    for name, value in weights(tmp_path / "plain").items():
        torch.testing.assert_close(own[name], value)
    steps = len(plain["losses"])
    trained(
        model, examples, tmp_path / "reset", regularise={"ema": 0.9999999, "reset_every": steps}
    )
    assert far(tmp_path / "reset") < 1e-4 * far(tmp_path / "plain")


def test_a_reset_needs_an_average() -> None:
    with pytest.raises(ValidationError, match="reset_every needs ema"):
        RegulariseSettings(reset_every=3)


def test_trl_does_not_regularise() -> None:
    with pytest.raises(ValidationError, match="trl does not regularise"):
        LoraSettings.model_validate({"backend": "trl", "regularise": {"ema": 0.9}})


# --- beginning with an adapter ---


def test_training_begins_with_the_adapter_that_is_given(
    model: Path, examples: list[Example], tmp_path: Path
) -> None:
    first = trained(model, examples, tmp_path / "first", learning_rate=1e-2)
    more = trained(model, examples, tmp_path / "more", rank=8, start=tmp_path / "first")
    assert more["losses"][0] < 0.8 * first["losses"][0]
    assert {v.shape for v in weights(tmp_path / "more").values()} == {
        v.shape for v in weights(tmp_path / "first").values()
    }  # its rank is the given adapter's


def test_the_reference_is_what_training_began_with(
    model: Path, examples: list[Example], tmp_path: Path
) -> None:
    """DPO's first loss is log 2 wherever it begins: nothing has moved against the reference."""
    made = [
        e._replace(advantage=1.0 if i % 2 else -1.0, unit=str(i // 2))
        for i, e in enumerate(examples)
    ]
    trained(model, examples, tmp_path / "first", learning_rate=1e-2)
    how = {"objective": "dpo", "dpo": {"nll": 0}}
    for start in (None, tmp_path / "first"):
        told = trained(model, made, tmp_path / "a", start=start, **how)
        assert told["losses"][0] == pytest.approx(0.6931, abs=1e-3)
