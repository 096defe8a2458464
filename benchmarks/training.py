"""How fast our trainer is next to TRL's SFTTrainer and to a plain peft loop, on this machine.

Two kinds of trajectories, as token ids and masks: the quickstart's (one turn of Python behind the
suite's briefing and example, written here from the known answer) and household tasks played as
their known solutions do (some ten turns; only the commands are learnt). A step takes what fits
into a row as it is shipped, which of the household trajectories is one; they are also trained in
rows of four, since a batch is what others are used to; ``--rows`` sets other lengths. Every
contestant is a process of its own and trains the same adapter on the same examples in the same
steps with the same optimiser (``_training_workers.py``). Tokens are the trajectories' own, so
neither padding nor what packing saves counts; the first step, which prepares things, is not timed.
The matmul rate is measured before and after; our share of it counts the products that a packed
row cannot do without (linear layers forward and backward, the adapter's, the head at loss tokens),
attention and everything else being overhead.

    python benchmarks/training.py --json benchmarks/results/training.json
    python benchmarks/training.py --quick
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

from _common import ROOT, TRAINING_BARS, TRAINING_GOAL, circumstances, parser, save
from _training_workers import WORKERS, examples_of, steps_of
from rich.console import Console
from rich.table import Table

from agent.config import Config
from agent.formats import format_of
from agent.policies.chat import Chat, load_chat
from agent.policies.models import resolve_model
from agent.prompt import AgentSettings, frame, opening
from agent.training.packing import common_prefix
from environments.base import Suite, Task
from environments.sandbox import make_sandbox
from environments.splits import families_in_turn, split_tasks
from environments.suites import load_suite

# What is compared: whose trajectories, and tokens of a row (2,048: four of them, or five).
AS_SHIPPED = Config().update_weights.row_tokens
KINDS = {
    "quickstart": ("quickstart", AS_SHIPPED),
    "household": ("household", AS_SHIPPED),
    "household, by fours": ("household", 2048),
}
LABELS = {"own": "ours", "trl": "TRL's SFTTrainer", "plain": "a plain peft loop"}
Record = tuple[list[int], list[int]]


def household(chat: Chat, count: int) -> list[Record]:
    """Known solutions, played; the observations are the world's."""
    suite: Any = load_suite("household", sandbox=make_sandbox)
    return [played(chat, suite, task, suite.gold(task)) for task in _tasks(suite, count)]


def played(chat: Chat, suite: Suite, task: Task, actions: Any) -> Record:
    """One trajectory as the agent's loop writes it down."""
    environment = suite.environment(task)
    try:
        seen = environment.start()
        asked = frame(AgentSettings(), suite.briefing, format_of(environment.tools))
        ids = list(chat.encode(opening(asked, seen)))
        mask = [0] * len(ids)
        for number, action in enumerate(actions):
            if number:
                more = chat.extend(tuple(ids), seen, asked.begin)
                mask += [0] * (len(more) - len(ids))
                ids = list(more)
            said = [*chat.ids(action.text), chat.tokenizer.eos_token_id]
            ids += said
            mask += [1] * len(said)
            seen = environment.step(action).observation
    finally:
        environment.close()
    return ids, mask


def quickstart(chat: Chat, count: int) -> list[Record]:
    """A task of the quickstart and a program that prints its answer."""
    suite = load_suite(Config().suite.name, sandbox=make_sandbox)
    found = []
    for task in _tasks(suite, count):
        environment = suite.environment(task)
        try:
            seen = environment.start()
            asked = frame(AgentSettings(), suite.briefing, format_of(environment.tools))
        finally:
            environment.close()
        prompt = list(chat.encode(opening(asked, seen)))
        entry: Any = task.data["entry"]
        answer = str(entry["answer"])
        program = f"\nresult = {answer!r}\nprint(result)\n```"
        said = [*chat.ids(program), chat.tokenizer.eos_token_id]
        found.append((prompt + said, [0] * len(prompt) + [1] * len(said)))
    return found


def _tasks(suite: Suite, count: int) -> list[Task]:
    return list(families_in_turn(split_tasks(suite.tasks())["train"], count))


def matmul_rates() -> dict[str, float]:
    """Best GFLOP/s of a large product, by number type; on a GPU where there is one."""
    import torch

    gpu = torch.cuda.is_available()
    size, device = (8192, "cuda") if gpu else (2048, "cpu")
    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
        best = float("inf")
        for _ in range(8):
            begin = time.perf_counter()
            a @ b
            if gpu:
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - begin)
        found[str(dtype).split(".")[-1]] = round(2 * size**3 / best / 1e9, 1)
    return found


def sizes(model: Path, rank: int) -> dict[str, int]:
    """Weights of the linear layers, of their adapters, and of the head."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(model))
    hidden, inner = config.hidden_size, config.intermediate_size
    dim = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    q, kv = config.num_attention_heads * dim, config.num_key_value_heads * dim
    shapes = [(hidden, q), (hidden, kv), (hidden, kv), (q, hidden)]
    shapes += [(hidden, inner), (hidden, inner), (inner, hidden)]
    layers = config.num_hidden_layers
    return {
        "linear": layers * sum(a * b for a, b in shapes),
        "adapter": layers * rank * sum(a + b for a, b in shapes),
        "head": hidden * config.vocab_size,
    }


def run(name: str, job: Path, environment: dict[str, str]) -> dict[str, Any]:
    """One contestant, to its end.

    Raises:
        SystemExit: it failed; with the last lines that it wrote.
    """
    script = ROOT / "benchmarks" / "_training_workers.py"
    done = subprocess.run(
        [sys.executable, str(script), name, str(job)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("@@")]
    if done.returncode or not told:
        raise SystemExit(f"{name} failed: " + " | ".join(done.stderr.strip().splitlines()[-4:]))
    found: dict[str, Any] = json.loads(told[-1][2:])
    return found


def compare(
    arguments: argparse.Namespace, kind: str, data: list[Record], row_tokens: int, folder: Path,
    out: Console,
) -> dict[str, Any]:  # fmt: skip
    """All contestants on one kind of trajectories."""
    how = {"epochs": arguments.epochs, "row_tokens": row_tokens, "checkpoint_seconds": None}
    settings = Config().update_weights.model_copy(update=how)
    names = set(type(settings).__mro__[1].model_fields)  # those of training alone
    job = {
        "model": str(resolve_model("default")),
        "data": data,
        "settings": {k: v for k, v in settings.model_dump(mode="json").items() if k in names},
        "seed": 0,
        "dtype": arguments.dtype,
    }
    file = folder / f"{kind}.json"
    file.write_text(json.dumps(job))
    steps = steps_of(job)
    tokens = [sum(len(data[n][0]) for n in step) for step in steps]
    learnt = [sum(sum(data[n][1]) for n in step) for step in steps]
    threads = {"OMP_NUM_THREADS": str(arguments.threads)}
    found = {}
    for name in WORKERS:
        told = run(name, file, threads)
        (begin, begin_cpu), (end, end_cpu) = told["ends"][0], told["ends"][-1]
        seconds = end - begin
        found[name] = {
            "tokens_per_second": round(sum(tokens[1:]) / seconds, 1),
            "seconds": round(seconds, 2),
            "processor_seconds": round(end_cpu - begin_cpu, 2),
            "peak_mib": round(told["peak_mib"]),
            "losses": [round(loss, 4) for loss in told["losses"]],
        }
        if name == "own":
            weights = sizes(Path(job["model"]), settings.rank)
            computed = sum(told["computed"][1:])
            needed = computed * (4 * weights["linear"] + 6 * weights["adapter"])
            needed += 4 * weights["head"] * sum(learnt[1:])
            found[name] |= {
                "computed_tokens": computed,
                "gflops": round(needed / seconds / 1e9, 1),
            }
        rate, peak = found[name]["tokens_per_second"], found[name]["peak_mib"]
        out.print(
            f"{kind}: {LABELS[name]}: {rate:.0f} tokens/s, {peak:.0f} MiB, "
            f"{end_cpu - begin_cpu:.0f} s of processor time"
        )
    ours = found["own"]["losses"]
    for own in found.values():
        own["away"] = round(mean(abs(a - b) for a, b in zip(ours, own["losses"], strict=True)), 4)
    best = max(own["tokens_per_second"] for name, own in found.items() if name != "own")
    lengths = sorted(len(ids) for ids, _ in data)
    return {
        "examples": len(data),
        "row_tokens": row_tokens,
        "lengths": [lengths[0], lengths[len(lengths) // 2], lengths[-1]],
        "shared": common_prefix(examples_of(job)),
        "steps": len(steps),
        "tokens": sum(tokens),
        "loss_tokens": sum(learnt),
        "contestants": found,
        "ratio": round(found["own"]["tokens_per_second"] / best, 3),
    }


def measure(arguments: argparse.Namespace, out: Console, folder: Path) -> dict[str, Any]:
    """All figures of one call."""
    import torch

    torch.set_num_threads(arguments.threads)
    chat, _ = load_chat(resolve_model("default"))
    write = {"quickstart": quickstart, "household": household}
    # Eight household trajectories are two rows at least: the first step is not timed.
    counts = {"quickstart": arguments.examples, "household": max(8, arguments.examples // 4)}
    data = {source: write[source](chat, counts[source]) for source in arguments.data}
    before = matmul_rates()
    kinds = KINDS
    if arguments.rows:
        kinds = {f"{s}, rows of {rows}": (s, rows) for s in data for rows in arguments.rows}
    told = {
        kind: compare(arguments, kind, data[source], row_tokens, folder, out)
        for kind, (source, row_tokens) in kinds.items()
        if source in data
    }
    after = matmul_rates()
    rates = {name: max(before[name], after[name]) for name in before}
    for own in told.values():
        own["share"] = round(own["contestants"]["own"]["gflops"] / rates[arguments.dtype], 3)
    return {
        "settings": {
            "epochs": arguments.epochs,
            "threads": arguments.threads,
            "dtype": arguments.dtype,
            "rank": Config().update_weights.rank,
        },
        "matmul_gflops": rates,
        "kinds": told,
    }


def show(figures: dict[str, Any], out: Console) -> None:
    """The figures as tables."""
    for kind, told in figures["kinds"].items():
        table = Table(box=None, header_style="bold", pad_edge=False, title=kind)
        table.add_column("what")
        for column in ("tokens/s", "seconds", "peak, MiB", "first loss", "last loss", "away"):
            table.add_column(column, justify="right")
        for name, own in told["contestants"].items():
            table.add_row(
                LABELS[name],
                f"[bold]{own['tokens_per_second']:.0f}[/bold]",
                f"{own['seconds']:.1f}",
                f"{own['peak_mib']}",
                f"{own['losses'][0]:.3f}",
                f"{own['losses'][-1]:.3f}",
                f"{own['away']:.4f}",
            )
        out.print(table)
        ((name, (_, bar)),) = TRAINING_BARS.items()
        verdict = "reached" if told["ratio"] >= bar else "missed"
        out.print(f"{name}: [bold]{told['ratio']:.2f}[/bold] (bar {bar}: {verdict})")
        verdict = "reached" if told["share"] >= TRAINING_GOAL else "missed"
        out.print(
            f"{told['contestants']['own']['gflops']:.0f} GFLOP/s, {told['share']:.0%} of the "
            f"matmul rate (goal {TRAINING_GOAL:.0%}: {verdict})"
        )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--examples", type=int, default=64, help="a quarter of it for household")
    options.add_argument("--epochs", type=int, default=2)
    options.add_argument("--rows", type=int, nargs="+", metavar="TOKENS", help="lengths of a row")
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    options.add_argument("--data", nargs="+", choices=("quickstart", "household"), default=None)
    arguments = options.parse_args()
    if arguments.quick:
        arguments.examples, arguments.epochs = min(arguments.examples, 12), 1
    if arguments.data is None:
        arguments.data = ["quickstart"]
        if os.environ.get("INSTAR_DATA"):
            arguments.data.append("household")
        else:
            print("household tasks need INSTAR_DATA: the quickstart's alone")
    if arguments.examples < 8 or arguments.epochs < 1:
        options.error("--examples must be at least 8, --epochs at least 1")
    out = Console(highlight=False)
    told = circumstances("training") | {"quick": arguments.quick}
    with tempfile.TemporaryDirectory(prefix="instar-training-") as folder:
        figures = told | measure(arguments, out, Path(folder))
    show(figures, out)
    save(arguments.json, figures)


if __name__ == "__main__":
    main()
