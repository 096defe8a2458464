"""TRL as the numeric oracle: the same loss on the same batch, in float32.

On data without observations where TRL trains on them (DPO, KTO). TRL's trainers are real; only
their loss is asked, on a batch that their own collator made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from agent.policies.transformers import load_model
from agent.training.adapter import check_adapter, read_manifest
from agent.training.loop import _Step
from agent.training.lora import LoraSettings, _trainee, lora_config, train
from agent.training.objectives import (
    batch_of,
    loss_of,
    mismatched,
    token_logprobs,
    tokens_of,
)
from agent.training.packing import IGNORE, Example, Unit, build, common_prefix, units
from tests.agent.sequences import row_loss, sequence
from tests.tiny import tiny_model

CLOSE = 1e-4
QUIET: dict[str, Any] = {
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "disable_tqdm": True,
    "per_device_train_batch_size": 6,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


def fresh(folder: Path) -> Any:
    """A model with an adapter that changes nothing yet."""
    from peft import get_peft_model

    torch.manual_seed(5)
    _, base = load_model(folder, dtype="float32")
    return get_peft_model(base, lora_config(LoraSettings(rank=4, alpha=8))).eval()


def move(network: Any) -> Any:
    """Train it, as it were; after TRL's trainer has taken the reference."""
    chance = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".default." in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=chance))
    return network.eval()


def ours(network: Any, made: Sequence[Unit], how: LoraSettings) -> float:
    """All units in one packed row."""
    others = mismatched(made) if how.objective == "kto" else []
    flat = [e for unit in made for e in unit]

    def logprobs(examples: Sequence[Example]) -> torch.Tensor:
        row = build(examples, common_prefix(examples), torch.float32, "cpu")
        return token_logprobs(network, row)

    with torch.no_grad():
        row = build(flat, common_prefix(flat), torch.float32, "cpu")
        with network.disable_adapter():
            reference = logprobs(flat)
        kl = 0.0
        if others:
            with network.disable_adapter():
                before = logprobs(others)
            kl = max(0.0, float((logprobs(others) - before).sum()) / len(others))
        return float(
            loss_of(how)(tokens_of(made, row, logprobs(flat), reference), batch_of([made]), kl)
        )


def in_training(folder: Path, rows: Sequence[Sequence[Example]], how: LoraSettings) -> float:
    """The loss of one optimiser step of the loop, of weights that have moved."""
    examples = [e for row in rows for e in row]
    small = how.model_copy(update={"rank": 4, "alpha": 8})
    trainee = _trainee(folder, small, 5, None, "float32", "cpu")
    step = _Step(trainee, examples, small, common_prefix(examples))
    move(trainee.network)
    return step([units(row) for row in rows])[0]


def parts(example: Example) -> tuple[list[int], list[int]]:
    at = example.loss_mask.index(1)
    return list(example.token_ids[:at]), list(example.token_ids[at:])


def test_sft(folder: Path, tmp_path: Path) -> None:
    """With observations: TRL takes labels as they are."""
    from trl import SFTConfig, SFTTrainer

    examples = [sequence(i) for i in range(6)]
    data = [
        {
            "input_ids": list(e.token_ids),
            "labels": [t if m else IGNORE for t, m in zip(e.token_ids, e.loss_mask, strict=True)],
        }
        for e in examples
    ]
    network = fresh(folder)
    tokenizer, _ = load_model(folder, dtype="float32")
    trainer = SFTTrainer(
        model=network,
        args=SFTConfig(output_dir=str(tmp_path), max_length=None, **QUIET),
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
    )
    move(network)
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(network, batch).item()
    assert ours(network, units(examples), LoraSettings()) == pytest.approx(theirs, abs=CLOSE)
    shared = common_prefix(examples)
    packed = row_loss(network, build(examples, shared, torch.float32, "cpu"))
    assert packed.item() == pytest.approx(theirs, abs=CLOSE)
    # In two rows of different length: the mean over the step's tokens, not over its rows.
    assert in_training(folder, [examples[:1], examples[1:]], LoraSettings()) == pytest.approx(
        theirs, abs=CLOSE
    )


@pytest.mark.parametrize("nll", [0.0, 1.0])
def test_dpo(folder: Path, tmp_path: Path, nll: float) -> None:
    from trl import DPOConfig, DPOTrainer

    data, made = [], []
    for i in range(6):
        better = sequence(2 * i, observed=False)
        prompt, chosen = parts(better)
        _, rejected = parts(sequence(2 * i + 1, observed=False))
        worse = Example(
            (*prompt, *rejected), (0,) * len(prompt) + (1,) * len(rejected), 1.0, f"worse {i}"
        )
        made.append([better._replace(advantage=1.0), worse._replace(advantage=-1.0)])
        data.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    network = fresh(folder)
    tokenizer, _ = load_model(folder, dtype="float32")
    losses: dict[str, Any] = {"loss_type": ["sigmoid"]}
    if nll:
        losses = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, nll]}
    trainer = DPOTrainer(
        model=network,
        args=DPOConfig(output_dir=str(tmp_path), beta=0.3, max_length=None, **losses, **QUIET),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=tokenizer,
    )
    move(network)
    batch = trainer.data_collator(data)
    theirs = float(trainer.compute_loss(network, batch))
    how = LoraSettings.model_validate({"objective": "dpo", "dpo": {"beta": 0.3, "nll": nll}})
    assert theirs != pytest.approx(0.693, abs=0.01), "the model must have moved"
    assert ours(network, made, how) == pytest.approx(theirs, abs=CLOSE)


def test_kto(folder: Path, tmp_path: Path) -> None:
    from trl import KTOConfig, KTOTrainer

    examples = [
        sequence(i, observed=False)._replace(
            advantage=1.0 if i % 3 else -1.0, weight=1.0 if i % 3 else 1.7
        )
        for i in range(6)
    ]
    data = [
        {
            "prompt_ids": parts(e)[0],
            "completion_ids": parts(e)[1],
            "KL_completion_ids": parts(examples[i - 1])[1],  # as TRL cycles them in a batch
            "label": e.advantage > 0,
        }
        for i, e in enumerate(examples)
    ]
    texts = [{"prompt": "a", "completion": c, "label": c == "b"} for c in "bc"]
    network = fresh(folder)
    tokenizer, _ = load_model(folder, dtype="float32")
    trainer = KTOTrainer(
        model=network,
        args=KTOConfig(
            output_dir=str(tmp_path), beta=0.3, undesirable_weight=1.7, max_length=None, **QUIET
        ),
        train_dataset=Dataset.from_list(texts),
        processing_class=tokenizer,
    )
    move(network)
    batch = trainer.data_collator(data)
    assert "KL_input_ids" in batch and trainer.calculate_KL
    theirs = float(trainer.compute_loss(network, batch))
    how = LoraSettings.model_validate({"objective": "kto", "kto": {"beta": 0.3}})
    assert ours(network, units(examples), how) == pytest.approx(theirs, abs=CLOSE)
    assert in_training(folder, [examples], how) == pytest.approx(theirs, abs=CLOSE)


@pytest.mark.parametrize("aggregate", ["token", "sequence"])
@pytest.mark.parametrize("truncate", [None, 1.5])
def test_grpo(folder: Path, tmp_path: Path, aggregate: str, truncate: float | None) -> None:
    """With observations, which TRL masks as a tool's, and with the divergence from the base."""
    from trl import GRPOConfig, GRPOTrainer
    from trl.trainer.utils import pad

    network = fresh(folder)
    examples = [sequence(i) for i in range(6)]
    chance = torch.Generator().manual_seed(2)
    noted = [torch.randn(sum(e.loss_mask), generator=chance) - 4 for e in examples]
    advantages = [1.2, -0.4, 0.3, -1.1, 0.5, -0.5]
    examples = [
        e._replace(advantage=a, logprobs=tuple(n.tolist()))
        for e, a, n in zip(examples, advantages, noted, strict=True)
    ]
    tokenizer, _ = load_model(folder, dtype="float32")
    trainer = GRPOTrainer(
        model=network,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=str(tmp_path),
            beta=0.04,
            loss_type="bnpo" if aggregate == "token" else "grpo",
            num_generations=6,
            **QUIET,
        ),
        train_dataset=Dataset.from_list([{"prompt": "a"}]),
        processing_class=tokenizer,
    )
    move(network)
    trainer.current_gradient_accumulation_steps = 1
    with torch.no_grad(), network.disable_adapter():
        starts = [token_logprobs(network, build([e], 0, torch.float32, "cpu")) for e in examples]

    def completions(values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Values of loss tokens at their places in the completions."""
        rows = []
        for e, own in zip(examples, values, strict=True):
            mask = torch.tensor(e.loss_mask[e.loss_mask.index(1) :], dtype=torch.bool)
            row = torch.zeros(len(mask))
            row[mask] = own
            rows.append(row)
        return pad(rows, padding_value=0.0, padding_side="right")

    split = [parts(e) for e in examples]
    prompts, answers = ([torch.tensor(x[i]) for x in split] for i in (0, 1))
    inputs = {
        "prompt_ids": pad(prompts, padding_value=0, padding_side="left"),
        "prompt_mask": pad([torch.ones_like(p) for p in prompts], 0, padding_side="left"),
        "completion_ids": pad(answers, padding_value=0, padding_side="right"),
        "completion_mask": pad([torch.ones_like(a) for a in answers], 0, padding_side="right"),
        "tool_mask": completions([torch.ones(sum(e.loss_mask)) for e in examples]).long(),
        "advantages": torch.tensor(advantages),
        "old_per_token_logps": completions(starts),
        "ref_per_token_logps": completions(starts),
    }
    if truncate is not None:
        trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
        behaviour = [(s - n).exp().clamp(max=truncate) for s, n in zip(starts, noted, strict=True)]
        inputs["importance_sampling_ratio"] = completions(behaviour)
    with torch.no_grad():
        theirs = float(trainer.compute_loss(network, inputs))
    how = LoraSettings.model_validate(
        {
            "objective": "grpo",
            "grpo": {"kl": 0.04, "clip_high": 0.2, "aggregate": aggregate, "truncate": truncate},
        }
    )
    assert ours(network, units(examples), how) == pytest.approx(theirs, abs=CLOSE)


def test_trl_as_backend(folder: Path, tmp_path: Path) -> None:
    """The same data, the same first loss, and an adapter like any other; nothing is cut."""
    examples = [sequence(i) for i in range(6)]
    long = sequence(7)
    # Longer than TRL's own max_length, and learnt at its very end.
    long = long._replace(
        token_ids=long.token_ids[:30] + long.token_ids[-9:] * 120,
        loss_mask=(0,) * 1101 + (1,) * 9,
    )
    for made in (examples, [long]):
        settings = LoraSettings(
            rank=4, alpha=8, epochs=4, row_tokens=10_000, backend="trl", learning_rate=1e-3
        )
        target = tmp_path / str(len(made))
        lineage = {"parent": "base"}
        done = train(folder, made, settings, target, seed=0, manifest=lineage, dtype="float32")
        assert done["version"] == check_adapter(target)
        assert read_manifest(target)["sources"] == [e.source for e in made]
        assert done["losses"][-1] < done["losses"][0]
        own = settings.model_copy(update={"backend": "own"})
        ours_ = train(folder, made, own, tmp_path / "own", seed=0, manifest={}, dtype="float32")
        # Each begins with another order of batches, but a batch is all there is.
        assert done["losses"][0] == pytest.approx(ours_["losses"][0], abs=1e-3)


def test_the_backend_weighs_nothing(folder: Path, tmp_path: Path) -> None:
    from agent.policies.base import PolicyFailure

    made = [sequence(1), sequence(2)._replace(weight=2.0)]
    with pytest.raises(PolicyFailure, match="cannot weigh examples"):
        train(folder, made, LoraSettings(backend="trl"), tmp_path / "a", seed=0, manifest={})
