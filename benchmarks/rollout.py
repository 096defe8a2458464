"""How fast episodes are, next to the same engine without episodes.

Real rollouts (``agent.rollout``: episode threads, environments, bubblewrap, graders) are timed
as a first generation's acquire phase makes them (no memory yet): several samples of each train
task. Then every request that they made is given to a fresh engine at once: no environments, no
sandboxes, nothing to wait for. Both count the tokens produced per second of wall time, cold caches
included; their order alternates, so that a machine that warms up or slows down favours neither.
For reference the first turns alone, by the engine and by transformers' ``generate``.

    python benchmarks/rollout.py --json benchmarks/results/rollout.json --profile
    python benchmarks/rollout.py --quick
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Hashable, Sequence
from statistics import median
from typing import Any, NamedTuple

from _common import circumstances, parser, save
from rich.console import Console
from rich.table import Table

from agent.config import Config
from agent.evolution.acquire import plan
from agent.loop import Assignment
from agent.policies.base import Completion, Message, Policy, Request
from agent.policies.chat import end_ids
from agent.policies.models import resolve_model
from agent.policies.transformers import TransformersPolicy, load_model
from agent.rollout import rollout
from environments.base import Suite
from environments.sandbox import make_sandbox
from environments.splits import families_in_turn, split_tasks
from environments.suites import load_suite

TARGET = 0.85
GENERATE_ROWS = 64  # transformers' generate takes a batch at a time


class Timing(NamedTuple):
    """One measurement: tokens produced, wall seconds, and how many of them the engine worked."""

    tokens: int
    seconds: float
    engine_seconds: float

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


class Recorder:
    """A policy that passes everything on, keeps the requests and times the engine."""

    def __init__(self, policy: Policy):
        self.policy, self.version, self.context = policy, policy.version, policy.context
        self.requests: dict[Hashable, Request] = {}
        self.completions: dict[Hashable, Completion] = {}
        self.engine_seconds = 0.0

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return self.policy.encode(messages)

    def extend(self, token_ids: tuple[int, ...], observation: str, begin: str) -> tuple[int, ...]:
        return self.policy.extend(token_ids, observation, begin)

    def count(self, text: str) -> int:
        return self.policy.count(text)

    def submit(self, ticket: Hashable, request: Request) -> None:
        self.requests[ticket] = request
        self.policy.submit(ticket, request)

    def step(self) -> list[tuple[Hashable, Completion]]:
        begin = time.perf_counter()
        done = self.policy.step()
        self.engine_seconds += time.perf_counter() - begin
        self.completions.update(done)
        return done

    @property
    def busy(self) -> bool:
        return self.policy.busy

    def close(self) -> None:
        pass


def fresh(policy: TransformersPolicy) -> Recorder:
    """The policy with a new engine (empty caches) around the same model."""
    from agent.policies.engine import Engine

    old = policy.engine
    policy.engine = Engine(old.model, old.tokenizer, slots=old.slots, context=old.context)
    return Recorder(policy)


def assignments(
    config: Config, suite: Suite, tasks: int, samples: int, **acquire: Any
) -> list[Assignment]:
    """The episodes of a first generation's acquire phase, and settings of it."""
    chosen = families_in_turn(split_tasks(suite.tasks())["train"], tasks)
    settings = config.acquire.model_copy(update={"samples": samples, **acquire})
    families = {task.family for task in chosen}
    made = plan(chosen, {}, settings, generation=1, weak=families, evolved=False)
    return list(made.incumbent)


def time_rollout(
    recorder: Recorder, suite: Suite, episodes: Sequence[Assignment], config: Config
) -> Timing:
    """Run the episodes as a run would; the recorder holds what was asked and answered."""
    in_flight = config.policy.slots * 3 // 2  # as Run.episodes
    begin = time.perf_counter()
    done = [
        trajectory
        for batch in rollout(
            episodes, recorder, suite, config.agent, seed=config.seed, in_flight=in_flight
        )
        for trajectory in batch
    ]
    seconds = time.perf_counter() - begin
    broken = [t.failure for t in done if t.failure is not None]
    if broken:
        raise SystemExit(f"{len(broken)} of {len(done)} episodes broke: {broken[0].message}")
    tokens = sum(t.produced_tokens for t in done)
    return Timing(tokens, seconds, recorder.engine_seconds)


def time_engine(
    policy: TransformersPolicy, requests: Sequence[Request]
) -> tuple[Timing, dict[Hashable, Completion]]:
    """Give the engine all requests at once and wait for the answers."""
    recorder = fresh(policy)
    begin = time.perf_counter()
    for ticket, request in enumerate(requests):
        recorder.submit(ticket, request)
    while recorder.busy:
        recorder.step()
    seconds = time.perf_counter() - begin
    tokens = sum(len(c.token_ids) for c in recorder.completions.values())
    return Timing(tokens, seconds, recorder.engine_seconds), recorder.completions


def time_generate(
    model: Any, tokenizer: Any, requests: Sequence[Request], rows: int = GENERATE_ROWS
) -> Timing:
    """transformers' own ``generate`` on the same prompts, sampled, batch after batch.

    Only tokens up to each row's end count: what it pads until the batch's slowest row is done
    is not output. It has one temperature per call, so a batch holds requests of one.
    """
    import torch

    tokens, ends = 0, end_ids(tokenizer, model.generation_config)
    begin = time.perf_counter()
    for batch in _batches(requests, rows):
        width = max(len(r.prompt_ids) for r in batch)
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(r.prompt_ids)) + [*r.prompt_ids] for r in batch])
        mask = torch.tensor(
            [[0] * (width - len(r.prompt_ids)) + [1] * len(r.prompt_ids) for r in batch]
        )
        first = batch[0]
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                do_sample=True,
                temperature=first.temperature,
                top_k=first.top_k,
                top_p=1.0,
                max_new_tokens=first.max_new_tokens,
                stop_strings=list(first.stop),
                tokenizer=tokenizer,
                pad_token_id=pad,
            )
        tokens += sum(_produced(row, ends, pad) for row in out[:, width:].tolist())
    seconds = time.perf_counter() - begin
    return Timing(tokens, seconds, seconds)


def _batches(requests: Sequence[Request], rows: int) -> list[list[Request]]:
    by_temperature: dict[float, list[Request]] = {}
    for request in requests:
        by_temperature.setdefault(request.temperature, []).append(request)
    return [own[i : i + rows] for own in by_temperature.values() for i in range(0, len(own), rows)]


def _produced(row: list[int], ends: frozenset[int], pad: int) -> int:
    """Tokens of a row up to its end token or its padding."""
    for i, token in enumerate(row):
        if token in ends:
            return i + 1
        if token == pad:
            return i
    return len(row)


def profile(policy: TransformersPolicy, requests: Sequence[Request], steps: int) -> dict[str, Any]:
    """Where a decode step's time goes, with every row busy: operators by their own time."""
    import torch
    from torch.profiler import ProfilerActivity

    recorder = fresh(policy)
    policy.engine.ends = frozenset()  # no row ends while it is watched
    slots = policy.engine.slots
    endless = [
        r.model_copy(update={"max_new_tokens": 2 * steps + 8, "stop": (), "seed": i})
        for i, r in enumerate((list(requests) * slots)[:slots])
    ]
    for ticket, request in enumerate(endless):
        recorder.submit(ticket, request)
    for _ in range(4):  # the first admits the rows
        recorder.step()
    rows = len(policy.engine.rows)
    times = []
    for _ in range(steps):
        begin = time.perf_counter()
        recorder.step()
        times.append(time.perf_counter() - begin)
    cuda = policy.engine.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(steps):
            recorder.step()
    averages = profiler.key_averages()
    own = "self_device_time_total" if cuda else "self_cpu_time_total"
    total = sum(getattr(row, own) for row in averages)
    top = sorted(averages, key=lambda row: -getattr(row, own))[:12]
    return {
        "rows": rows,
        "steps": steps,
        "ms_per_step": round(1e3 * median(times), 2),
        "ms_per_step_profiled": round(total / steps / 1e3, 2),
        "operators": [
            {
                "name": row.key,
                "share": round(getattr(row, own) / total, 4),
                "ms_per_step": round(getattr(row, own) / steps / 1e3, 3),
                "calls_per_step": round(row.count / steps, 1),
            }
            for row in top
        ],
    }


def measure(arguments: argparse.Namespace, out: Console) -> dict[str, Any]:
    """All figures of one call."""
    config = Config()
    suite = load_suite(config.suite.name, sandbox=make_sandbox)
    acquire = config.acquire
    episodes = assignments(config, suite, arguments.tasks, arguments.samples)
    policy = TransformersPolicy(
        resolve_model(config.policy.model), slots=config.policy.slots, context=config.policy.context
    )
    out.print(f"{len(episodes)} episodes on {policy.engine.slots} rows")

    warm_up = episodes[: max(2, len(episodes) // 8)]
    warm = fresh(policy)
    time_rollout(warm, suite, warm_up, config)
    time_engine(policy, list(warm.requests.values()))
    rollouts, plains, same = [], [], 0.0
    recorder = None
    for repeat in range(arguments.repeats):
        if repeat % 2 == 0 or recorder is None:  # order: rollout, plain, plain, rollout, …
            recorder = fresh(policy)
            timing = time_rollout(recorder, suite, episodes, config)
            plain, answers = time_engine(policy, list(recorder.requests.values()))
        else:
            plain, answers = time_engine(policy, list(recorder.requests.values()))
            timing = time_rollout(fresh(policy), suite, episodes, config)
        rollouts.append(timing)
        plains.append(plain)
        asked = list(recorder.requests)
        alike = [
            recorder.completions[t].token_ids == answers[i].token_ids for i, t in enumerate(asked)
        ]
        same = sum(alike) / len(alike)
        out.print(
            f"repeat {repeat + 1}: rollout {timing.rate:.0f}, plain {plain.rate:.0f} tokens/s, "
            f"ratio {timing.rate / plain.rate:.3f}"
        )
    assert recorder is not None
    first_turns = _first_turns(recorder)[: arguments.generate]
    engines, generates = [], []
    tokenizer, plain_model = load_model(resolve_model(config.policy.model))
    if first_turns:
        time_generate(plain_model, tokenizer, first_turns[:1])  # it prepares its stop strings once
    for repeat in range(arguments.repeats if first_turns else 0):
        pair: list[Callable[[], None]] = [
            lambda: engines.append(time_engine(policy, first_turns)[0]),
            lambda: generates.append(time_generate(plain_model, tokenizer, first_turns)),
        ]
        for part in pair if repeat % 2 == 0 else reversed(pair):
            part()
    turns, max_new_tokens = config.agent.settled(suite.briefing)
    figures: dict[str, Any] = {
        "settings": {
            "tasks": len({episode.task.id for episode in episodes}),
            "samples": arguments.samples,
            "temperatures": list(acquire.temperatures),
            "hot_tokens": acquire.hot_tokens,
            "heat": acquire.heat,
            "rows": policy.engine.slots,
            "turns": turns,
            "max_new_tokens": max_new_tokens,
            "repeats": arguments.repeats,
            "generate_prompts": len(first_turns),
            "generate_rows": GENERATE_ROWS,
        },
        "rollout": summary(rollouts),
        "plain": summary(plains),
        "ratio": ratio(rollouts, plains),
        "target": TARGET,
        "requests": len(recorder.requests),
        "same_tokens": round(same, 4),
    }
    if first_turns:
        figures["first_turns"] = {
            "engine": summary(engines),
            "generate": summary(generates),
            "ratio": ratio(engines, generates),
        }
    if arguments.profile:
        figures["profile"] = profile(policy, _first_turns(recorder), arguments.profile_steps)
    return figures


def _first_turns(recorder: Recorder) -> list[Request]:
    """At one temperature each, which is all that ``generate`` can do."""
    every = [r.model_copy(update={"hot_tokens": 0}) for r in recorder.requests.values()]
    shortest = min(len(r.prompt_ids) for r in every)
    seen = [r for r in every if r.keep]  # a last turn keeps nothing
    return seen or [r for r in every if len(r.prompt_ids) < 2 * shortest]


def summary(timings: Sequence[Timing]) -> dict[str, Any]:
    return {
        "tokens_per_second": round(median(t.rate for t in timings), 1),
        "all": [round(t.rate, 1) for t in timings],
        "tokens": round(median(t.tokens for t in timings)),
        "seconds": round(median(t.seconds for t in timings), 2),
        "engine_share": round(median(t.engine_seconds / t.seconds for t in timings), 4),
    }


def ratio(above: Sequence[Timing], below: Sequence[Timing]) -> dict[str, Any]:
    ratios = [a.rate / b.rate for a, b in zip(above, below, strict=True)]
    return {
        "median": round(median(ratios), 4),
        "low": round(min(ratios), 4),
        "high": round(max(ratios), 4),
        "all": [round(r, 4) for r in ratios],
    }


def show(figures: dict[str, Any], out: Console) -> None:
    """The figures as tables."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("what")
    for column in ("tokens/s", "lowest", "highest", "tokens", "seconds", "engine busy"):
        table.add_column(column, justify="right")

    def row(name: str, own: dict[str, Any]) -> None:
        table.add_row(
            name,
            f"[bold]{own['tokens_per_second']:.0f}[/bold]",
            f"{min(own['all']):.0f}",
            f"{max(own['all']):.0f}",
            f"{own['tokens']}",
            f"{own['seconds']:.1f}",
            f"{own['engine_share']:.1%}",
        )

    row("rollouts", figures["rollout"])
    row("the engine alone, same requests", figures["plain"])
    first = figures.get("first_turns")
    if first:
        row("first turns, the engine", first["engine"])
        row("first turns, transformers generate", first["generate"])
    out.print(table)
    r = figures["ratio"]
    out.print(
        f"rollouts / engine alone: [bold]{r['median']:.3f}[/bold] "
        f"[{r['low']:.3f}, {r['high']:.3f}] (target {figures['target']}); "
        f"{figures['same_tokens']:.0%} of the answers have the same tokens in both"
    )
    if first:
        out.print(f"engine / generate on first turns: [bold]{first['ratio']['median']:.2f}[/bold]")
    told = figures.get("profile")
    if told:
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("operator (own time)")
        for column in ("share", "ms a step", "calls a step"):
            table.add_column(column, justify="right")
        for entry in told["operators"]:
            table.add_row(
                entry["name"],
                f"{entry['share']:.1%}",
                f"{entry['ms_per_step']:.2f}",
                f"{entry['calls_per_step']:.0f}",
            )
        out.print(
            f"\na decode step of {told['rows']} rows: {told['ms_per_step']:.1f} ms "
            f"({told['ms_per_step_profiled']:.1f} ms under the profiler)"
        )
        out.print(table)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--tasks", type=int, default=48, help="tasks, spread over the families")
    options.add_argument("--samples", type=int, default=8, help="episodes per task")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument(
        "--generate", type=int, default=128, metavar="N", help="first turns for generate (0: none)"
    )
    options.add_argument("--profile", action="store_true", help="profile a decode step")
    options.add_argument("--profile-steps", type=int, default=20, metavar="N")
    arguments = options.parse_args()
    if arguments.quick:
        arguments.tasks, arguments.samples = min(arguments.tasks, 8), min(arguments.samples, 2)
        arguments.repeats, arguments.generate = (
            min(arguments.repeats, 2),
            min(arguments.generate, 16),
        )
        arguments.profile_steps = 5
    if min(arguments.tasks, arguments.samples, arguments.repeats) < 1:
        options.error("--tasks, --samples and --repeats must be at least 1")
    out = Console(highlight=False)
    told = circumstances("rollout") | {"quick": arguments.quick}
    figures = told | measure(arguments, out)
    show(figures, out)
    save(arguments.json, figures)


if __name__ == "__main__":
    main()
