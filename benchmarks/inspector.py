"""How quick `instar view` is on a large run, in a real headless Chromium.

A made run is written, digested (once; later only what is new), and served by the command itself.
Of each page: from asking for it until what it is about is on the screen, the browser's cache
empty; for the memory page also until the map is drawn. Scrubbing: from a key until the counts,
the list and the map show the next generation.

    python benchmarks/inspector.py --json benchmarks/results/inspector.json
    python benchmarks/inspector.py --quick
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

from _common import INSPECTOR_BARS, ROOT, circumstances, parser, save
from rich.console import Console
from rich.table import Table

from memory.embed import HashEmbedder
from memory.inspector import queries
from memory.inspector.digest import Digest, discard
from memory.inspector.place import place
from memory.inspector.queries import Episodes, Items
from memory.ledger import Ledger
from memory.records import Trajectory
from tests.made_run import Made, write_run
from tests.memory.inspector_pages import open_chromium

GENERATIONS = 20
PROMPT_TOKENS = 1500  # a trajectory of some 20 kB
# The time when a selector first matches, since the page was asked for.
WHEN = """
const [selector, done] = arguments;
const look = () => document.querySelector(selector)
  ? requestAnimationFrame(() => setTimeout(() => done(performance.now()))) : setTimeout(look, 4);
look();
"""
SCRUB = """
const [key, done] = arguments;
const list = document.querySelector('#items');
const before = list.dataset.generation;
const began = performance.now();
const look = () => list.dataset.generation !== before
  ? requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)))
  : setTimeout(look, 2);
document.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
look();
"""


@contextmanager
def command(folder: Path) -> Iterator[str]:
    """`instar view` on a free port; yields the address."""
    argv = [sys.executable, "-m", "agent.cli", "view", "--run", str(folder), "--port", "0"]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[0]
    finally:
        process.terminate()
        process.wait()


def prepared(folder: Path, items: int, episodes: int) -> dict[str, float]:
    """Seconds to write the run, digest it, place its items, and keep up with a generation."""
    seconds = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - began, 3)

    path = folder / "ledger.sqlite"
    if not path.exists():
        with timed("write the run"):
            write_run(folder, items, episodes, GENERATIONS, prompt_tokens=PROMPT_TOKENS)
    discard(path)
    digest = Digest(path)
    with timed("digest"):
        digest.update()
    with timed("place the items"):
        place(digest, HashEmbedder())
    with Ledger(path) as ledger:
        made = Made(random.Random(1), GENERATIONS, PROMPT_TOKENS, "")
        made.episodes = ledger.count(Trajectory)  # slots of their own
        made.new_slots = []
        ledger.append_many(made.play(GENERATIONS, 100))
    with timed("keep up with 100 episodes"):
        digest.update()
    seconds["ledger, MiB"] = round(path.stat().st_size / 2**20, 1)
    seconds["digest, MiB"] = round(digest.path.stat().st_size / 2**20, 1)
    return seconds


def paints(driver: Any, address: str, digest: Digest, times: int) -> dict[str, list[float]]:
    """Milliseconds until each page is shown, several times."""
    item = queries.items(digest, Items(generation=GENERATIONS, sort="uses"))["rows"][0]["id"]
    slot = queries.episodes(digest, Episodes(generation=str(GENERATIONS)))["rows"][0]["slot"]
    pages = {
        "overview": ("overview", "main a.mark"),
        "memory": ("memory", "#items .rowlink"),
        "memory, with its map": ("memory", ".mapbox[data-ready]"),
        "map": ("map", ".mapbox[data-ready]"),
        "item": (f"item/{item}", "main pre.text"),
        "episodes": ("episodes", "#episodes .rowlink"),
        "episodes, found by text": ("episodes?text=juniper", "#episodes .rowlink"),
        "episode": (f"episode/{quote(slot, safe='')}", ".talk .turn"),
        "generation": (f"generation/{GENERATIONS}", "main .two"),
        "items, found by text": ("memory?text=juniper", "#items .rowlink"),
        "items, by utility": ("memory?sort=utility", "#items .rowlink"),
    }
    found: dict[str, list[float]] = {name: [] for name in pages}
    for _ in range(times):
        for name, (route, selector) in pages.items():
            driver.execute_cdp_cmd("Network.clearBrowserCache", {})
            driver.get("about:blank")
            driver.get(f"{address}#/{route}")
            found[name].append(driver.execute_async_script(WHEN, selector))
    return found


def scrubs(driver: Any, address: str, route: str) -> list[float]:
    """Milliseconds from each key to its generation, through all generations and back."""
    driver.get("about:blank")
    driver.get(f"{address}#/{route}")
    driver.execute_async_script(WHEN, ".mapbox[data-ready]")
    keys = ["ArrowLeft"] * GENERATIONS + ["ArrowRight"] * GENERATIONS + ["Home", "End"] * 3
    return [driver.execute_async_script(SCRUB, key) for key in keys]


def summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "times": len(ordered),
        "p50_ms": round(median(ordered), 1),
        "p95_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))], 1),
        "worst_ms": round(ordered[-1], 1),
    }


def show(figures: dict[str, Any], out: Console) -> None:
    for key, title in (("pages", "a page is shown"), ("scrub", "scrubbing")):
        table = Table(title=title, box=None, header_style="bold", title_justify="left")
        for column in ("", "p50 ms", "p95 ms", "worst ms"):
            table.add_column(column, justify="right" if column else "left")
        for name, own in figures[key].items():
            table.add_row(name, *(f"{own[k]:.0f}" for k in ("p50_ms", "p95_ms", "worst_ms")))
        out.print(table)
    for name, value in figures["prepared"].items():
        out.print(f"{name}: {value}")
    for name, (side, bar) in INSPECTOR_BARS.items():
        got = figures["bars"][name]
        out.print(f"{name}: {got:.0f} (bar: {side} {bar:.0f}) {'✓' if got <= bar else '✗'}")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--items", type=int, default=100_000)
    options.add_argument("--episodes", type=int, default=50_000)
    options.add_argument("--keep", type=Path, metavar="DIR", help="write the run here, or use it")
    options.add_argument("--times", type=int, default=5, help="how often each page is opened")
    arguments = options.parse_args()
    items, episodes = arguments.items, arguments.episodes
    if arguments.quick:
        items, episodes = min(items, 10_000), min(episodes, 5_000)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary) / "run"
        seconds = prepared(folder, items, episodes)
        driver = open_chromium()
        try:
            driver.set_script_timeout(120)
            driver.set_window_size(1280, 900)
            with command(folder) as address:
                pages = paints(driver, address, Digest(folder / "ledger.sqlite"), arguments.times)
                scrub = {
                    route: scrubs(driver, address, route)
                    for route in ("memory", "memory?colour=utility", "memory?family=gcd")
                }
        finally:
            driver.quit()
    first = [
        pages[name] for name in ("overview", "memory", "item", "episodes", "episode", "generation")
    ]
    figures = circumstances("inspector") | {
        "quick": arguments.quick,
        "items": items,
        "episodes": episodes,
        "generations": GENERATIONS,
        "prepared": seconds,
        "pages": {name: summary(times) for name, times in pages.items()},
        "scrub": {name: summary(times) for name, times in scrub.items()},
        "bars": {
            "first paint, ms": max(median(times) for times in first),
            "scrub p95, ms": max(summary(times)["p95_ms"] for times in scrub.values()),
        },
    }
    show(figures, Console(highlight=False))
    save(arguments.json, figures)


if __name__ == "__main__":
    main()
