"""How fast our rollouts are next to plain ``generate`` and to vLLM, on this machine.

In one run, with the same model and prompts: (a) real episodes (``agent.rollout``: threads,
environments, sandboxes, graders) on the embedded engine; (b) transformers' ``generate``, sampled,
batch after batch; (c) vLLM's ``LLM.generate``, as it comes and asked for what we need as well
(a seed for each request, log-probabilities); (d) real episodes on a vLLM server as a run starts
it. The first round's episodes on the embedded engine say which requests (b) and (c) get: all at
once, with nothing to wait for. Each contestant is a process of its own that sleeps while another
is timed; caches are emptied before each timing; the order of the rounds alternates. Only tokens
up to a row's end count. No request has a hot beginning, and no adapter is loaded.

    python benchmarks/engine.py --json benchmarks/results/engine.json
    python benchmarks/engine.py --quick
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from _common import ENGINE_BARS, ROOT, circumstances, parser, save
from _engine_workers import VLLM
from rich.console import Console
from rich.table import Table
from training import matmul_rates, sizes

from agent.config import Config
from agent.policies.models import resolve_model
from agent.policies.vllm_server import default_python, on_cpu, whole_prompts

LABELS = {
    "rollouts": "our rollouts, embedded engine",
    "generate": "`generate`, same prompts",
    "offline": "vLLM offline, same prompts",
    "offline-alike": "vLLM offline, with seeds and log-probabilities",
    "server": "our rollouts, vLLM server",
}
KV_GIB = "2"


class Worker:
    """A contestant's process.

    Raises:
        SystemExit: it died; with the last lines that it wrote.
    """

    def __init__(self, command: list[str], log: Path, environment: dict[str, str]):
        self.log = log
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("ab"),
            text=True,
            env={**os.environ, **environment},
        )
        self.told = self._answer()

    def time(self, way: str = "", part: int = 0) -> dict[str, Any]:
        """Have it run once; the tokens that it produced and the seconds that it took."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"way": way, "part": part}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("@@"):
                told: dict[str, Any] = json.loads(line[2:])
                return told
        lines = self.log.read_text(errors="replace").strip().splitlines()
        raise SystemExit("a contestant died: " + " | ".join(lines[-4:]))

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def starters(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """For each process that is asked for, what starts it."""
    python = Path(arguments.vllm or default_python()).expanduser()
    rows = arguments.vllm_rows or arguments.rows
    cores = str(arguments.threads)
    base = {
        "policy": {"dtype": arguments.dtype, "slots": arguments.rows, "threads": arguments.threads},
        "update_weights": {"enabled": False},  # so no engine makes room for adapters
    }
    vllm_environment = {"VLLM_CPU_KVCACHE_SPACE": KV_GIB, "VLLM_SERVER_DEV_MODE": "1"}
    server = base | {
        "policy": {
            "engine": "vllm",
            "dtype": arguments.dtype,
            "slots": rows,
            "vllm": {"python": str(python), "environment": vllm_environment},
        }
    }
    context = Config().policy.context
    cpu = on_cpu(python)
    options = {
        "model": str(resolve_model("default")),
        "dtype": arguments.dtype,
        "max_model_len": context,
        "max_num_seqs": rows,
        "generation_config": "vllm",
        "disable_log_stats": True,
        **(whole_prompts(context) if cpu else {}),
    }
    shared = {"requests": str(folder / "requests.json"), "log": str(folder / "vllm-server.log")}
    counts = {"tasks": arguments.tasks, "samples": arguments.samples}
    config = Config.model_validate(base).model_dump(mode="json")
    jobs: dict[str, dict[str, Any]] = {
        "rollouts": shared | counts | {"config": config},
        "generate": shared | {"config": config},
        "server": shared
        | counts
        | {"config": Config.model_validate(server).model_dump(mode="json")},
        "offline": shared
        | {
            "options": options,
            "package": "vllm-cpu" if cpu else "vllm",
            "environment": {
                "VLLM_CPU_KVCACHE_SPACE": KV_GIB,
                "VLLM_NO_USAGE_STATS": "1",
                "HF_HUB_OFFLINE": "1",
            },
        },
    }
    (folder / "contestant.py").write_text(VLLM)
    found = {}
    for name, job in jobs.items():
        file = folder / f"{name}.json"
        file.write_text(json.dumps(job))
        script = [str(ROOT / "benchmarks" / "_engine_workers.py")]
        script.append("generate" if name == "generate" else "rollouts")
        command = [sys.executable, *script, str(file)]
        environment = {"OMP_NUM_THREADS": cores} if name in ("rollouts", "generate") else {}
        if name == "offline":
            command = [str(python), str(folder / "contestant.py"), str(file)]
        if name in ("offline", "server") and not python.is_file():
            continue
        found[name] = (command, folder / f"{name}.log", environment)
    return found


def measure(arguments: argparse.Namespace, out: Console, folder: Path) -> dict[str, Any]:
    """All figures of one call."""
    ready = starters(arguments, folder)
    missing = [LABELS[name] for name in ("offline", "server") if name not in ready]
    if missing:
        out.print(f"no vLLM here (`make vllm`), so not measured: {', '.join(missing)}")
    ways = {"offline-alike": ("offline", "alike")}
    order = [n for n in LABELS if ways.get(n, (n, ""))[0] in ready and n not in arguments.without]
    workers: dict[str, Worker] = {}
    timings: dict[str, list[dict[str, Any]]] = {name: [] for name in order}
    try:
        for number in range(arguments.repeats):
            for name in order if number % 2 == 0 else reversed(order):
                process, way = ways.get(name, (name, ""))
                if process not in workers:
                    with out.status(f"{LABELS[name]} starts"):
                        workers[process] = Worker(*ready[process])
                        workers[process].time(way, part=max(4, arguments.tasks))  # warm
                told = workers[process].time(way)
                timings[name].append(told)
                rate = told["tokens"] / told["seconds"]
                out.print(f"round {number + 1}: {LABELS[name]}: {rate:.0f} tokens/s")
    finally:
        for worker in workers.values():
            worker.end()
    rates = {n: [t["tokens"] / t["seconds"] for t in own] for n, own in timings.items()}
    told = {
        name: {
            "tokens_per_second": round(median(rates[name]), 1),
            "all": [round(rate, 1) for rate in rates[name]],
            "tokens": round(median(t["tokens"] for t in own)),
            "seconds": round(median(t["seconds"] for t in own), 2),
            "dtype": workers[ways.get(name, (name, ""))[0]].told["dtype"],
            **({"peak_mib": round(own[-1]["peak_mib"])} if "peak_mib" in own[-1] else {}),
        }
        for name, own in timings.items()
    }
    pairs = {
        "rollouts / generate": ("rollouts", "generate"),
        "rollouts / vLLM offline": ("rollouts", "offline"),
        "rollouts on vLLM / vLLM offline": ("server", "offline"),
        "rollouts on vLLM / vLLM offline alike": ("server", "offline-alike"),
    }
    ratios = {
        name: [a / b for a, b in zip(rates[above], rates[below], strict=True)]
        for name, (above, below) in pairs.items()
        if above in rates and below in rates
    }
    first = timings["rollouts"][0]
    # What the produced tokens alone need: linear layers and the head, no prompts, no attention.
    own = sizes(resolve_model("default"), 0)
    flops = 2 * (own["linear"] + own["head"]) * told["rollouts"]["tokens_per_second"]
    matmul = matmul_rates()
    return {
        "matmul_gflops": matmul,
        "share": round(flops / 1e9 / matmul[told["rollouts"]["dtype"]], 4),
        "settings": {
            "tasks": arguments.tasks,
            "samples": arguments.samples,
            "episodes": first["episodes"],
            "requests": first["requests"],
            "rows": arguments.rows,
            "vllm_rows": arguments.vllm_rows or arguments.rows,
            "threads": arguments.threads,
            "repeats": arguments.repeats,
            "dtype": arguments.dtype,
            "vllm": workers["offline"].told["version"] if "offline" in workers else "missing",
        },
        "contestants": told,
        "ratios": {
            name: {"all": [round(r, 3) for r in own], "median": round(median(own), 3)}
            for name, own in ratios.items()
        },
        "bars": {name: round(median(own), 3) for name, own in ratios.items()},
    }


def show(figures: dict[str, Any], out: Console) -> None:
    """The figures as a table."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("what")
    for column in ("dtype", "tokens/s", "lowest", "highest", "tokens", "seconds", "peak, MiB"):
        table.add_column(column, justify="right")
    for name, own in figures["contestants"].items():
        table.add_row(
            LABELS[name],
            own["dtype"],
            f"[bold]{own['tokens_per_second']:.0f}[/bold]",
            f"{min(own['all']):.0f}",
            f"{max(own['all']):.0f}",
            f"{own['tokens']}",
            f"{own['seconds']:.1f}",
            f"{own.get('peak_mib', '')}",
        )
    out.print(table)
    for name, value in figures["bars"].items():
        bar = ENGINE_BARS.get(name)
        verdict = ""
        if bar:
            verdict = f" (bar {bar[1]}: {'reached' if value >= bar[1] else 'missed'})"
        out.print(f"{name}: [bold]{value:.2f}[/bold]{verdict}")
    out.print(f"{figures['share']:.2%} of the matmul rate")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--tasks", type=int, default=20, help="tasks, spread over the families")
    options.add_argument("--samples", type=int, default=8, help="episodes per task")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--rows", type=int, default=Config().policy.slots, help="rows at a time")
    options.add_argument("--vllm-rows", type=int, metavar="N", help="as --rows, for vLLM alone")
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    options.add_argument("--vllm", metavar="PYTHON", help="of vLLM's environment")
    options.add_argument(
        "--without", nargs="+", default=[], choices=[n for n in LABELS if n != "rollouts"]
    )
    arguments = options.parse_args()
    if arguments.quick:
        arguments.tasks, arguments.samples = min(arguments.tasks, 4), min(arguments.samples, 2)
        arguments.repeats = 1
    if min(arguments.tasks, arguments.samples, arguments.repeats, arguments.rows) < 1:
        options.error("--tasks, --samples, --repeats and --rows must be at least 1")
    out = Console(highlight=False)
    told = circumstances("engine") | {"quick": arguments.quick}
    with tempfile.TemporaryDirectory(prefix="instar-engine-") as folder:
        figures = told | measure(arguments, out, Path(folder))
    show(figures, out)
    save(arguments.json, figures)


if __name__ == "__main__":
    main()
