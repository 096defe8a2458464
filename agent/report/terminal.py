"""What a run prints: live progress, the 2×2 of a generation, the final tables."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import Progress, ProgressColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agent.report import (
    Rate,
    accounted,
    arm_label,
    arms_in_order,
    beside,
    in_order,
    mapping,
    number,
    phase_costs,
    rate_of,
    write_count,
    write_interval,
    write_number,
    write_seconds,
)
from memory.records import Generation

DECISION_STYLE = {"promoted": "green", "kept": "yellow", "rollback": "magenta"}
EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal."""
BLOCKS = " ▏▎▍▌▋▊▉█"


def two_by_two(generation: Generation) -> Panel:
    """A generation's 2×2 with intervals, the decision and its reason, and what it cost."""
    style = DECISION_STYLE.get(generation.decision, "cyan")
    grid = Table(box=box.SIMPLE, pad_edge=False)
    grid.add_column("gate split", style="dim")
    grid.add_column("weights old", justify="center")
    grid.add_column("weights new", justify="center")
    rows = {"memory old": ("incumbent", "weights"), "memory new": ("memory", "both")}
    for label, cells in rows.items():
        grid.add_row(Text(label), *(_cell(generation, name) for name in cells))
    body: list[Any] = [grid]
    if sizes := {score.n for score in generation.cells.values()}:
        tasks = "–".join(str(n) for n in sorted({min(sizes), max(sizes)}))
        note = f"success [95 % interval] on {tasks} tasks; ● is the agent that goes on"
        body.append(Text(note, "dim"))
    decision = Text.assemble((generation.decision, f"bold {style}"))
    if generation.decision == "promoted":
        decision.append(f" {arm_label(generation.cell)}")
    if generation.reason:
        decision.append(f": {generation.reason}")
    body.append(decision)
    body.extend(Text(said, "dim") for said in beside(generation))
    if costs := phase_costs([generation]):
        body.append(_costs(costs))
    return Panel(
        Group(*body),
        title=Text(f"generation {generation.n}"),
        title_align="left",
        border_style=style,
        expand=False,
    )


def account_page(generation: Generation) -> Text:
    """What a generation learnt and lost, each sentence above the episodes that show it."""
    made = Text()
    for text, episodes in accounted(generation):
        made.append(f"{_harmless(text)}\n")
        made.append("".join(f"    {_harmless(slot)}\n" for slot in episodes), "dim")
    return made or Text("nothing is told of this generation", "dim")


def _cell(generation: Generation, name: str) -> Text:
    score = rate_of(generation.cells.get(name))
    if score is None:
        return Text("not tried", "dim")
    lives_on = name == generation.cell
    style = f"bold {DECISION_STYLE.get(generation.decision, 'cyan')}" if lives_on else ""
    text = Text("● " if lives_on else "", style)
    text.append(write_number(score.mean), style or "bold")
    return text.append(f" {write_interval(score)}", "" if lives_on else "dim")


def _costs(costs: list[tuple[str, int, float]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("phase")
    for header in ("tokens", "time", "tok/s"):
        table.add_column(header, justify="right")
    rows = costs
    if len(costs) > 1:
        rows = [*costs, ("total", sum(c[1] for c in costs), sum(c[2] for c in costs))]
    for phase, tokens, seconds in rows:
        speed = write_count(tokens / seconds) if tokens and seconds else "–"
        table.add_row(
            Text(phase),
            write_count(tokens) if tokens else "–",
            write_seconds(seconds),
            speed,
            style="bold" if phase == "total" else "",
        )
    return table


def test_table(summary: Mapping[str, Any]) -> Table:
    """The final test split: one row per arm, with its interval and difference from base.

    Args:
        summary: the run's summary; reads ``test`` and, where given, ``differences``: per arm,
            the paired difference from base with its interval.
    """
    arms = mapping(summary.get("test"))
    differences = mapping(summary.get("differences"))
    base = rate_of(arms.get("base"))
    tokens = any(number(mapping(arm).get("tokens")) is not None for arm in arms.values())
    table = Table(title="test split", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm")
    table.add_column("success", justify="right")
    table.add_column("95 % interval")
    table.add_column("n", justify="right")
    table.add_column("against base")
    if tokens:
        table.add_column("tokens", justify="right")
    means = {name: score.mean for name in arms if (score := rate_of(arms[name]))}
    best = max(means.values(), default=0.0)
    for name in arms_in_order(arms):
        score = rate_of(arms[name])
        if score is None:
            continue
        row = [
            Text(arm_label(name, arms[name])),
            Text(write_number(score.mean), "bold green" if score.mean == best > 0 else "bold"),
            Text(write_interval(score)),
            Text("–" if score.n is None else str(score.n)),
            Text("" if name == "base" else _difference(score, base, differences.get(name))),
        ]
        if tokens:
            spent = number(mapping(arms[name]).get("tokens"))
            row.append(Text("–" if spent is None else write_count(spent)))
        table.add_row(*row)
    return table


test_table.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test


def _difference(score: Rate, base: Rate | None, paired: Any) -> str:
    if (difference := rate_of(paired)) is not None:
        return f"{write_number(difference.mean, signed=True)} {write_interval(difference)}".strip()
    return "" if base is None else write_number(score.mean - base.mean, signed=True)


def family_table(families: Mapping[str, Mapping[str, Any]], width: int = 3) -> Table:
    """Success rate of each arm in each family, as small bars.

    Args:
        families: per family, per arm, a rate (a number, or a mapping with ``mean``).
        width: length of a full bar, in characters.
    """
    arms = arms_in_order(in_order(mapping(f) for f in families.values()))
    table = Table(title="families", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("family", no_wrap=True)
    for arm in arms:
        table.add_column(Text(arm_label(arm)), no_wrap=True)
    for family, rates in families.items():
        scores = (rate_of(mapping(rates).get(arm)) for arm in arms)
        table.add_row(Text(family), *(_bar(score, width) for score in scores))
    return table


def _bar(score: Rate | None, width: int) -> Text:
    if score is None:
        return Text("–", "dim")
    eighths = round(min(1.0, max(0.0, score.mean)) * width * 8)
    bar = "█" * (eighths // 8) + (BLOCKS[eighths % 8] if eighths % 8 else "")
    return Text.assemble((bar.ljust(width), "cyan"), f" {write_number(score.mean)}")


class Meter:
    """Counts what a phase has done; what ``phase`` hands out.

    Args:
        label: the phase, in a word or two.
        total: how many units there are to do; None where nobody knows.
    """

    def __init__(self, label: str, total: int | None = None) -> None:
        self.label, self.total = label, total
        self.done = self.tokens = 0
        self.successes: int | None = None
        self._begin, self._end = time.monotonic(), 0.0
        self._lock = threading.Lock()

    def advance(self, done: int = 1, tokens: int = 0, successes: int | None = None) -> None:
        """Add what was done since the last call. Safe to call from several threads.

        Args:
            done: units finished (episodes, steps).
            tokens: tokens produced by them.
            successes: how many of them succeeded; leave out where there is no such thing.
        """
        with self._lock:
            self.done += done
            self.tokens += tokens
            if successes is not None:
                self.successes = (self.successes or 0) + successes

    def stop(self) -> None:
        """The phase is over: stop the clock."""
        self._end = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the phase has taken."""
        return (self._end or time.monotonic()) - self._begin

    @property
    def speed(self) -> float:
        """Tokens per second, over the whole phase."""
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def remaining(self) -> float | None:
        """Estimated seconds to the end; None while there is nothing to judge by."""
        if self.total is None or not self.done:
            return None
        return self.seconds * max(0, self.total - self.done) / self.done

    @property
    def success(self) -> float | None:
        """Success rate so far; None where nothing was graded."""
        return None if self.successes is None or not self.done else self.successes / self.done

    def state(self) -> str:
        """Where the phase stands, in one plain line."""
        parts = [str(self.done) if self.total is None else f"{self.done}/{self.total}"]
        if self.success is not None:
            parts.append(f"success {self.success:.2f}")
        if self.tokens:
            parts.append(f"{write_count(self.speed)} tok/s")
        if self._end:
            parts.append(write_seconds(self.seconds))
        elif self.remaining is not None:
            parts.append(f"{write_seconds(self.remaining)} left")
        return " · ".join(parts)


@contextmanager
def phase(
    console: Console, label: str, total: int | None = None, *, quiet: bool = False
) -> Iterator[Meter]:
    """Show the progress of one phase while the block runs.

    On a terminal a live line: phase, bar, done/total, success rate so far, tokens/s, time left.
    Elsewhere (a pipe, a log) a plain line every ``EVERY`` seconds and one at the end, without
    control codes.

    Args:
        console: where to; give one on standard error to keep standard output clean.
        label: the phase, in a word or two.
        total: how many units there are to do, if known.
        quiet: print nothing (``--json``).
    """
    meter = Meter(label, total)
    if quiet:
        yield meter
    elif console.is_terminal and not console.is_dumb_terminal:
        with _live(console, meter):
            yield meter
    else:
        with _plain(console, meter):
            yield meter


class _Bar(ProgressColumn):
    """A bar that reads the meter at each refresh, so that ``advance`` stays cheap."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter

    def render(self, task: Task) -> ProgressBar:
        done = self.meter.done
        return ProgressBar(
            total=self.meter.total, completed=done, width=20, pulse=self.meter.total is None
        )


class _State(ProgressColumn):
    """The meter's line, read at each refresh: the clock runs between two ``advance``."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter

    def render(self, task: Task) -> Text:
        return Text(self.meter.state(), no_wrap=True, overflow="ellipsis")


@contextmanager
def _live(console: Console, meter: Meter) -> Iterator[None]:
    label = TextColumn("{task.description:<10}", markup=False)
    with Progress(
        label, _Bar(meter), _State(meter), console=console, refresh_per_second=4
    ) as progress:
        progress.add_task(meter.label, total=meter.total)
        try:
            yield
        finally:
            meter.stop()


@contextmanager
def _plain(console: Console, meter: Meter) -> Iterator[None]:
    def say() -> None:
        line = f"{meter.label} {meter.state()}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    over = threading.Event()

    def talk() -> None:
        while not over.wait(EVERY):
            say()

    thread = threading.Thread(target=talk, name=f"progress of {meter.label}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        meter.stop()
        say()


def episode_text(episode: Mapping[str, Any]) -> Text:
    """An episode turn by turn, from ``agent.act.told``; nothing in it can steer the terminal."""
    made = Text()
    made.append(f"{episode['family']} · {episode['task']}\n", "bold")
    made.append(f"{_harmless(episode['seen'])}\n", "dim")
    for turn in episode["turns"]:
        made.append(f"› {_harmless(turn['done'])}\n", "cyan")
        seen = f"{turn['seen']}" + (f"  ({turn['error']})" if turn["error"] else "")
        made.append(f"{_harmless(seen)}\n", "dim")
    if episode["failure"]:
        made.append(f"broke: {_harmless(episode['failure'])}\n", "red")
    end = f"reward {write_number(episode['reward'])} · {episode['end']}\n"
    made.append(end, "green" if episode["reward"] == 1 else "yellow")
    return made


def _harmless(text: str) -> str:
    """Control characters, but for line ends, as escapes."""
    shown = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode()
             for c in text.rstrip())  # fmt: skip
    return "".join(shown)
