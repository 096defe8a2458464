"""The training loop: the plain loop's weights, every objective, crashes, what does not fit."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from agent.policies.base import PolicyFailure
from agent.policies.transformers import load_model
from agent.training import lora
from agent.training.adapter import check_adapter, read_manifest
from agent.training.checkpoint import SUFFIX, Checkpoint
from agent.training.job import check
from agent.training.loop import _schedule, plan
from agent.training.lora import LoraSettings, lora_config, save, train
from agent.training.objectives import Batch, Tokens, dpo, token_logprobs
from agent.training.packing import IGNORE, Example, build, common_prefix
from agent.training.settings import DpoSettings
from agent.training.verifier import best_of_n, load_verifier, train_verifier
from memory.records import Trajectory
from tests.agent.sequences import sequence
from tests.tiny import tiny_model

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {"rank": 4, "alpha": 8, "row_tokens": 128, "batch_rows": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Pairs, so that every objective can learn from them; desirable ones also count alone."""
    made = []
    for i in range(12):
        sign = 1.0 if i % 2 else -1.0
        made.append(
            sequence(i, task=f"{i // 2}")._replace(
                advantage=sign, unit=f"{i // 2}", weight=1.0 + i % 3
            )
        )
    return made


def of(objective: str, examples: list[Example]) -> list[Example]:
    if objective == "dpo":
        return examples
    return [e._replace(unit=e.source) for e in examples]


def plainly(model: Path, examples: list[Example], how: LoraSettings, folder: Path) -> str:
    """The loop without accelerate, checkpoints and objectives; it attends as training does."""
    from peft import get_peft_model

    from agent.policies.kernels import quicken_attention

    torch.manual_seed(3)
    _, base = load_model(model, dtype="float32")
    quicken_attention(base)
    network = get_peft_model(base, lora_config(how)).train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=how.peak, weight_decay=0.0)
    shared = common_prefix(examples)
    steps = plan(examples, how, 3, shared)
    for number, rows in enumerate(steps):
        optimiser.param_groups[0]["lr"] = how.peak * _schedule(number, len(steps), how.warmup)
        weigh = sum(e.weight * sum(e.loss_mask) for row in rows for unit in row for e in unit)
        for units in rows:
            row = build([e for unit in units for e in unit], shared, torch.float32, "cpu")
            weights = row.weights[0, row.labels[0] != IGNORE]
            ((-token_logprobs(network, row) * weights).sum() / weigh).backward()
        torch.nn.utils.clip_grad_norm_(parameters, how.max_grad_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return str(save(network, folder, {})["version"])


def test_supervised_training_is_the_plain_loop_to_the_bit(
    model: Path, examples: list[Example], tmp_path: Path
) -> None:
    how = LoraSettings(**SMALL, learning_rate=2e-3)
    done = train(model, examples, how, tmp_path / "a", seed=3, manifest={}, dtype="float32")
    assert done["version"] == plainly(model, examples, how, tmp_path / "b")


@pytest.mark.parametrize("objective", ["sft", "weighted", "dpo", "kto", "grpo"])
def test_every_objective_learns(
    model: Path, examples: list[Example], tmp_path: Path, objective: str
) -> None:
    """What is better becomes likelier, against what is worse where there is such a thing."""
    how = LoraSettings.model_validate(
        SMALL | {"objective": objective, "learning_rate": 4e-3, "epochs": 6}
    )
    made = of(objective, examples)
    if objective in ("sft", "weighted"):
        made = [e for e in made if e.advantage > 0]
    done = train(model, made, how, tmp_path / "a", seed=0, manifest={}, dtype="float32")
    assert check_adapter(tmp_path / "a") == done["version"]
    assert read_manifest(tmp_path / "a")["settings"]["objective"] == objective
    moved = load_verifier(model, tmp_path / "a", dtype="float32")(examples)
    better = [moved[e.source] for e in examples if e.advantage > 0]
    worse = [moved[e.source] for e in examples if e.advantage < 0]
    assert sum(better) / len(better) > sum(worse) / len(worse) + 0.5
    if objective in ("sft", "weighted", "dpo"):
        assert min(better) > 0


def as_dpo(tokens: Tokens, batch: Batch) -> Tensor:
    return dpo(tokens, DpoSettings(), batch)


@pytest.mark.parametrize(
    ("objective", "of_others", "loss"),
    [
        ("dpo", "dpo", "tests.agent.test_training:as_dpo"),
        ("weighted", "sft", "agent.training.objectives:weighted"),
    ],
)
def test_a_loss_of_ones_own_takes_its_place(
    model: Path, examples: list[Example], tmp_path: Path, objective: str, of_others: str, loss: str
) -> None:
    made = of(objective, examples)
    versions = []
    for number, own in enumerate(
        ({"objective": objective}, {"objective": of_others, "loss": loss}, {"objective": "sft"})
    ):
        how = LoraSettings.model_validate(SMALL | own | {"learning_rate": 2e-3, "epochs": 1})
        done = train(model, made, how, tmp_path / str(number), seed=3, manifest={}, dtype="float32")
        versions.append(done["version"])
    assert versions[0] == versions[1] != versions[2]


@pytest.mark.parametrize("flipped", [False, True])
def test_bad_signs_are_unlearnt(
    model: Path, examples: list[Example], tmp_path: Path, flipped: bool
) -> None:
    """The same pairs with the halves swapped move the margin the other way."""
    how = LoraSettings.model_validate(
        SMALL | {"objective": "dpo", "dpo": {"nll": 0}, "learning_rate": 2e-3}
    )
    made = [e._replace(advantage=-e.advantage) if flipped else e for e in examples]
    train(model, made, how, tmp_path / "a", seed=0, manifest={}, dtype="float32")
    moved = load_verifier(model, tmp_path / "a", dtype="float32")(examples)
    margin = sum(moved[e.source] * e.advantage for e in examples)
    assert (margin < -1) if flipped else (margin > 1)


def test_what_does_not_fit_is_named(model: Path, tmp_path: Path) -> None:
    long = sequence(1)
    long = long._replace(
        token_ids=long.token_ids + (5,) * 2100, loss_mask=long.loss_mask + (1,) * 2100
    )
    with pytest.raises(PolicyFailure, match=rf"^slot 1 has {len(long.token_ids)} tokens.*2048"):
        train(model, [sequence(2), long], LoraSettings(), tmp_path / "a", seed=0, manifest={})
    assert not (tmp_path / "a").exists()


def test_divergence_leaves_nothing(model: Path, examples: list[Example], tmp_path: Path) -> None:
    how = LoraSettings.model_validate(SMALL | {"learning_rate": 1e30, "checkpoint_seconds": 0})
    with pytest.raises(FloatingPointError, match="training diverged"):
        train(model, examples, how, tmp_path / "a", seed=0, manifest={}, dtype="float32")
    assert not list(tmp_path.iterdir())


def steep(tokens: Tokens, batch: Batch) -> Tensor:
    """A finite loss whose gradient is not."""
    return (tokens.logprobs - tokens.logprobs.detach()).abs().sqrt().sum()


def test_a_gradient_that_is_not_finite_is_told_in_the_last_step_too(
    model: Path, examples: list[Example], tmp_path: Path
) -> None:
    how = LoraSettings.model_validate(SMALL | {"loss": f"{__name__}:steep", "epochs": 1})
    one = examples[:1]
    with pytest.raises(FloatingPointError, match="after 1 steps"):
        train(model, one, how, tmp_path / "a", seed=0, manifest={}, dtype="float32")
    assert not list(tmp_path.iterdir())


# --- crashes ---

# Everything is imported once; each training is a forked child, which kills itself.
DRIVER = """
import json, os, signal, sys
from pathlib import Path
import accelerate, peft, torch, transformers
from agent.policies.transformers import load_model
from agent.training import objectives
from agent.training.lora import LoraSettings, train
from tests.agent.sequences import sequence
from tests.agent.test_training import SMALL, of

made = [sequence(i, task=f"{i // 2}")._replace(
    advantage=1.0 if i % 2 else -1.0, unit=f"{i // 2}") for i in range(12)]

def child(model, folder, objective, kill):
    objective, _, elastic = objective.partition(" ")
    held = {"kl": 0.1, "ema": 0.5, "reset_every": 3} if elastic else {}
    how = LoraSettings.model_validate(SMALL | {"objective": objective, "checkpoint_seconds": 0,
        "dropout": 0.1, "learning_rate": 2e-3, "epochs": 9, "regularise": held})
    begun, saved = [], []
    def progress(done, total, tokens, loss):
        begun.append(done)
        if kill == len(begun):
            os.kill(os.getpid(), signal.SIGKILL)
    def fsync(number, real=os.fsync):
        saved.append(number)
        if -kill == len(saved):
            os.kill(os.getpid(), signal.SIGKILL)
        real(number)
    os.fsync = fsync
    done = train(Path(model), of(objective, made), how, Path(folder), seed=0, manifest={},
        progress=progress, dtype="float32")
    return [done["version"], begun[0], begun[-1]]

for line in sys.stdin:
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            said = child(*json.loads(line))
        except BaseException as error:
            said = [repr(error)]
        os.write(write, json.dumps(said).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    print(said or "null", flush=True)
"""


@pytest.fixture(scope="module")
def driven() -> Iterator[Callable[..., Any]]:
    """Train in a process of its own; what it said.

    It is killed after so many steps; below 0: in the middle of writing that checkpoint; 0: never.
    """
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdin is not None and driver.stdout is not None

    def go(model: Path, folder: Path, objective: str, kill: int) -> Any:
        print(json.dumps([str(model), str(folder), objective, kill]), file=driver.stdin, flush=True)
        return json.loads(driver.stdout.readline())

    yield go
    driver.stdin.close()
    driver.wait(timeout=60)


@pytest.mark.parametrize("objective", ["sft", "dpo", "sft elastic"])
def test_killed_training_ends_with_the_same_weights(
    model: Path, tmp_path: Path, driven: Callable[..., Any], objective: str
) -> None:
    """SIGKILL at random, several times in one training; dropout draws at random too."""
    version, first, last = driven(model, tmp_path / "whole", objective, 0)
    assert first == 1 and last > 14
    assert not (tmp_path / f"whole{SUFFIX}").exists()
    chance = random.Random()
    done = 0
    folder = tmp_path / "killed"
    for when in ("step", "save", "step", "save"):
        steps = chance.randint(1, 3)
        assert driven(model, folder, objective, steps if when == "step" else -steps) is None
        done += steps if when == "step" else steps - 1
        assert (tmp_path / f"killed{SUFFIX}").exists() and not folder.exists()
    assert driven(model, folder, objective, 0) == [version, done + 1, last]
    assert check_adapter(folder) == version
    assert {p.name for p in tmp_path.iterdir()} == {"whole", "killed"}
    assert read_manifest(folder)["losses"] == read_manifest(tmp_path / "whole")["losses"]


def test_dropout_draws_by_step_and_not_by_what_was_drawn_before(
    model: Path, examples: list[Example], tmp_path: Path
) -> None:
    """So that a training that goes on in several processes needs the state of none."""
    how = LoraSettings.model_validate(SMALL | {"dropout": 0.3, "epochs": 2})
    values: dict[str, Any] = {"seed": 0, "manifest": {}, "dtype": "float32", "device": "cpu"}
    own = of("sft", examples)
    plain = train(model, own, how, tmp_path / "a", **values)["version"]
    drawn = train(model, own, how, tmp_path / "b", progress=lambda *_: torch.rand(7), **values)
    assert drawn["version"] == plain
    more = how.model_copy(update={"dropout": 0.2})
    assert train(model, own, more, tmp_path / "c", **values)["version"] != plain


def test_an_adapter_that_cannot_be_written_costs_no_training(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when training ends: the same call goes on from its last checkpoint."""
    how = LoraSettings.model_validate(SMALL | {"checkpoint_seconds": 0})
    values: dict[str, Any] = {"seed": 0, "manifest": {}, "dtype": "float32", "device": "cpu"}
    examples = [sequence(i) for i in range(8)]

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(lora, "save_adapter", full)
        train(model, examples, how, tmp_path / "a", **values)
    assert (tmp_path / f"a{SUFFIX}").exists()
    steps: list[int] = []
    train(model, examples, how, tmp_path / "a", progress=lambda n, *_: steps.append(n), **values)
    assert len(steps) == 1 and steps[0] > 1, "the last step alone, which no checkpoint holds"
    assert not (tmp_path / f"a{SUFFIX}").exists()


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_not_used(tmp_path: Path) -> None:
    mine = Checkpoint(tmp_path / "a", "mine", 0)
    assert mine.load() is None and mine.due
    mine.save({"losses": [1.0]})
    assert mine.load() == {"losses": [1.0], "key": "mine"}
    assert Checkpoint(tmp_path / "a", "other", 0).load() is None
    assert not Checkpoint(tmp_path / "a", "mine", None).due
    body = mine.path.read_bytes()
    mine.path.write_bytes(body[: len(body) // 2])
    with pytest.warns(UserWarning, match="cannot be read.*begins anew"):
        assert mine.load() is None
    mine.remove()
    assert not list(tmp_path.iterdir())


# --- several processes ---


ACCELERATE = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
    *("--num_cpu_threads_per_process", "1"),
)
FSDP = (sys.executable, str(Path(__file__).with_name("fsdp_driver.py")))
AVERAGED: dict[str, Any] = {"regularise": {"ema": 0.5}}


@pytest.mark.parametrize(
    ("launcher", "objective", "further", "dtype"),
    [
        (ACCELERATE, "sft", {}, "float32"),
        (ACCELERATE, "dpo", {}, "float32"),
        (FSDP, "sft", AVERAGED, "float32"),
        (FSDP, "dpo", {}, "float32"),
        (FSDP, "sft", {}, "bfloat16"),
    ],
    ids=["ddp-sft", "ddp-dpo", "fsdp-sft-ema", "fsdp-dpo", "fsdp-sft-bfloat16"],
)
def test_two_processes_train_what_one_does(
    model: Path,
    examples: list[Example],
    tmp_path: Path,
    launcher: tuple[str, ...],
    objective: str,
    further: dict[str, Any],
    dtype: str,
) -> None:
    """A launcher spreads the rows of a step; the sum of gradients is the same, and so clipped."""
    settings = SMALL | {"objective": objective, "epochs": 2, "max_grad_norm": 0.05} | further
    how = LoraSettings.model_validate(settings)
    two = how.model_copy(update={"launch": launcher})
    found, weights = [], []
    for number, own in enumerate((how, two), start=1):
        folder = tmp_path / str(number)
        values: dict[str, Any] = {"seed": 0, "manifest": {"parent": "base"}, "device": "cpu"}
        done = train(model, of(objective, examples), own, folder, dtype=dtype, **values)
        assert done["version"] == check_adapter(folder) and done["parent"] == "base"
        found.append(done)
        weights.append(load_file(folder / "adapter_model.safetensors"))
    near = 1e-4 if dtype == "float32" else 2e-2
    assert found[1]["losses"] == pytest.approx(found[0]["losses"], abs=near)
    assert found[1]["tokens"] == found[0]["tokens"] and len(found[0]["losses"]) > 3
    assert weights[0].keys() == weights[1].keys()
    for name, one in weights[0].items():
        assert torch.allclose(one, weights[1][name], atol=1e-5 if dtype == "float32" else 1e-3)


def test_what_a_launcher_started_ends_with_us(model: Path, tmp_path: Path) -> None:
    """Killed with SIGKILL: else it would train on beside the one that is started again."""
    noted = tmp_path / "pid"
    program = (
        "from pathlib import Path; from agent.training.lora import train;"
        "from agent.training.settings import LoraSettings;"
        "from tests.agent.sequences import sequence;"
        f"how = LoraSettings(launch=('sh', '-c', 'echo $$ > {noted}; sleep 600'));"
        f"train(Path({str(model)!r}), [sequence(0)], how, Path({str(tmp_path / 'a')!r}),"
        " seed=0, manifest={})"
    )
    ours = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    until(lambda: noted.is_file() and bool(noted.read_text().strip()))
    started = Path("/proc") / noted.read_text().strip()
    assert started.exists()
    ours.kill()
    ours.wait()
    until(lambda: not started.exists())


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def test_a_launcher_that_fails_is_told(
    model: Path, examples: list[Example], tmp_path: Path
) -> None:
    missing = LoraSettings(launch=("no-such-launcher",))
    with pytest.raises(PolicyFailure, match="there is no program no-such-launcher"):
        check(missing.launch)
    with pytest.raises(PolicyFailure, match=r"update_weights\.launch cannot be run"):
        train(model, examples, missing, tmp_path / "a", seed=0, manifest={})
    fails = LoraSettings(launch=("sh", "-c", "echo no device >&2; exit 3"))
    with pytest.raises(PolicyFailure, match=r"failed \(3\): no device"):
        train(model, examples, fails, tmp_path / "a", seed=0, manifest={})


# --- verifier ---


def test_a_verifier_ranks_samples(model: Path, tmp_path: Path) -> None:
    """Right answers repeat a byte of the task, wrong ones do not; tasks it has not seen."""
    chance = random.Random(0)

    def answer(task: int, right: bool, number: int) -> Example:
        own = random.Random(task)
        prompt = [9] * 4 + own.choices(range(64, 96), k=4) + [10]
        body = [200, 201] * 3 if right else chance.choices(range(100, 120), k=6)
        ids, mask = prompt + body, [0] * len(prompt) + [1] * len(body)
        return Example(tuple(ids), tuple(mask), 1.0, f"{task}/{number}", task=str(task))

    pairs = []
    for task in range(16):
        for right in (True, False):
            sign = 1.0 if right else -1.0
            pairs.append(answer(task, right, right)._replace(advantage=sign, unit=str(task)))
    own = {"learning_rate": 4e-3, "epochs": 4, "loss": "no_such.module:loss"}  # the policy's
    how = LoraSettings.model_validate(SMALL | own)
    made = train_verifier(model, pairs, how, tmp_path / "v", seed=0, manifest={}, dtype="float32")
    assert read_manifest(tmp_path / "v")["role"] == "verifier"
    assert made["settings"]["dpo"]["nll"] == 0
    new = {task: chance.randrange(4) for task in range(100, 110)}
    samples = [answer(task, n == at, n) for task, at in new.items() for n in range(4)]
    scored = load_verifier(model, tmp_path / "v", dtype="float32")(samples)
    assert set(scored) == {s.source for s in samples}
    told = [
        Trajectory(slot=s.source, task=s.task, suite="s", family="f", split="train",
                   phase="acquire", policy="base")
        for s in samples
    ]  # fmt: skip
    best = best_of_n(told, scored)
    assert [best[str(task)].slot for task in new] == [f"{task}/{at}" for task, at in new.items()]
    likely = load_verifier(model, tmp_path / "v", by="likelihood", dtype="float32")(samples)
    assert all(value < 0 for value in likely.values()) and likely != scored
