"""The contestants of benchmarks/training.py: each trains the same adapter in its own process.

    python benchmarks/_training_workers.py NAME JOB.json

All are given the same examples in the same steps, start from the same adapter, and use the same
optimiser, learning rates, clipping and number types (a bfloat16 base, its adapter in float32,
autocast). The last line that a worker prints holds its losses and when each step ended.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Told = dict[str, Any]
Moment = tuple[float, float]


def now() -> Moment:
    """Wall time, and processor time of this process; what a GPU was given is done by then."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def examples_of(job: dict[str, Any]) -> list[Any]:
    """The records that are trained on."""
    from agent.training.packing import Example

    return [
        Example(tuple(ids), tuple(mask), 1.0, str(i)) for i, (ids, mask) in enumerate(job["data"])
    ]


def steps_of(job: dict[str, Any]) -> list[list[int]]:
    """The examples of each step, as our trainer packs them: what all are given."""
    from agent.training.packing import common_prefix, pack_units, units

    found = examples_of(job)
    shared, order, steps = common_prefix(found), random.Random(job["seed"]), []
    for _ in range(job["settings"]["epochs"]):
        shuffled = units(found)
        order.shuffle(shuffled)
        rows = pack_units(shuffled, job["settings"]["row_tokens"], shared)
        steps += [[int(example.source) for unit in row for example in unit] for row in rows]
    return steps


def own(job: dict[str, Any]) -> Told:
    """``agent.training``, as a generation calls it."""
    from agent.training.lora import train
    from agent.training.settings import LoraSettings

    losses: list[float] = []
    ends: list[Moment] = []
    computed: list[int] = []

    def progress(done: int, total: int, tokens: int, loss: float) -> None:
        ends.append(now())
        losses.append(loss)
        computed.append(tokens)

    with tempfile.TemporaryDirectory() as folder:
        train(
            Path(job["model"]),
            examples_of(job),
            LoraSettings.model_validate(job["settings"]),
            Path(folder) / "adapter",
            seed=job["seed"],
            manifest={},
            progress=progress,
            dtype=job["dtype"],
        )
    return {"losses": losses, "ends": ends, "computed": computed}


def _network(job: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Tokeniser, PEFT model, optimiser and schedule, the same as our trainer's."""
    import math

    import torch
    from peft import get_peft_model

    from agent.policies.transformers import load_model
    from agent.training.lora import lora_config
    from agent.training.settings import LoraSettings

    settings = LoraSettings.model_validate(job["settings"])
    torch.manual_seed(job["seed"])
    tokenizer, base = load_model(Path(job["model"]), dtype=job["dtype"])
    network = get_peft_model(base, lora_config(settings)).train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=settings.peak, weight_decay=0.0)
    steps = len(steps_of(job))
    ramp = max(1, round(settings.warmup * steps))

    def share(step: int) -> float:
        if step < ramp:
            return (step + 1) / ramp
        return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp)))

    return tokenizer, network, optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, share)


def plain(job: dict[str, Any]) -> Told:
    """A loop as anyone writes it with peft: padded to each batch's longest, labels masked."""
    import torch

    tokenizer, network, optimiser, schedule = _network(job)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    losses: list[float] = []
    ends: list[Moment] = []
    for numbers in steps_of(job):
        batch = [job["data"][n] for n in numbers]
        width = max(len(ids) for ids, _ in batch)
        pad = tokenizer.pad_token_id

        def padded(row: Sequence[int], filler: int, width: int = width) -> list[int]:
            return [*row, *[filler] * (width - len(row))]

        device = network.device
        ids = torch.tensor([padded(ids, pad) for ids, _ in batch], device=device)
        mask = torch.tensor([padded([1] * len(ids), 0) for ids, _ in batch], device=device)
        rows = [padded(_labels(ids, loss), -100) for ids, loss in batch]
        labels = torch.tensor(rows, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=job["dtype"] == "bfloat16"):
            loss = network(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, job["settings"]["max_grad_norm"])
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        ends.append(now())
    return {"losses": losses, "ends": ends}


def trl(job: dict[str, Any]) -> Told:
    """TRL's SFTTrainer on ids and labels; its own collator, no checkpointing of activations."""
    from datasets import Dataset
    from torch.utils.data import DataLoader
    from transformers import PrinterCallback, TrainerCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    steps = steps_of(job)
    ends: list[Moment] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(now())

    class Ordered(SFTTrainer):  # type: ignore[misc]
        """In our order: its own sampler would make other batches."""

        def get_train_dataloader(self) -> Any:
            loader = DataLoader(
                self.train_dataset, batch_sampler=steps, collate_fn=self.data_collator
            )
            return self.accelerator.prepare(loader)

    tokenizer, network, optimiser, schedule = _network(job)
    rows = [{"input_ids": ids, "labels": _labels(ids, loss)} for ids, loss in job["data"]]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Ordered(
            model=network,
            args=SFTConfig(
                output_dir=folder,
                max_length=None,
                max_steps=len(steps),
                max_grad_norm=job["settings"]["max_grad_norm"],
                bf16=job["dtype"] == "bfloat16",
                gradient_checkpointing=False,
                use_cpu=network.device.type == "cpu",
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            optimizers=(optimiser, schedule),
            callbacks=[Clock()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    losses = [float(told["loss"]) for told in trainer.state.log_history if "loss" in told]
    return {"losses": losses, "ends": ends}


def _labels(ids: Sequence[int], mask: Sequence[int]) -> list[int]:
    return [token if learnt else -100 for token, learnt in zip(ids, mask, strict=True)]


WORKERS: dict[str, Callable[[dict[str, Any]], Told]] = {"own": own, "trl": trl, "plain": plain}


if __name__ == "__main__":
    import _common  # noqa: F401 (finds the project, and says how threads wait)
    from _engine_workers import peak_mib

    found = WORKERS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))
    found["peak_mib"] = peak_mib()
    print("@@" + json.dumps(found), flush=True)
