"""The memory's index: adding, opening and recalling, beside raw Chroma and mem0.

The same vectors go into our index, into Chroma with the same graph, into Chroma as it comes, and
into mem0. Texts are made from templates; the first few thousand are embedded by the default
embedder (all-MiniLM-L6-v2, 384 numbers), the vectors of all others are random mixtures of two of
those with a little noise. Queries are texts that were not stored, and are embedded as they are
asked; ours is a whole recall (`MemoryView.recall`), embedding included. Systems take turns, query
by query and build by build (of three builds the median counts; of a million items there is one).
Each build and each opening has a process of its own, so that its memory is its own.

mem0 is given the same vectors (its adds and searches are timed without the embedder), runs on
Chroma and calls no language model (``infer=False``). It adds one at a time; only the first few
hundred adds are timed, the rest go into its store in bulk.

    python benchmarks/memory.py --json benchmarks/results/memory.json
    python benchmarks/memory.py --sizes 1000 10000
    python benchmarks/memory.py --quick

mem0 lives in an environment of its own:

    python -m venv ~/mem0 && ~/mem0/bin/pip install mem0ai chromadb
    python benchmarks/memory.py --mem0 ~/mem0/bin/python
"""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _common import MEMORY_BARS, circumstances, parser, save
from _memory_data import Stored, make_vectors, store, texts
from _memory_mem0 import mem0
from rich.console import Console
from rich.table import Table

from memory.embed import Vectors, load_embedder
from memory.index import BruteForceIndex, LedgerKeys, open_index
from memory.index.base import write
from memory.index.chroma import graph
from memory.index.stores import Folders, fresh_name
from memory.ledger import Ledger
from memory.recall import MemoryView, Query, RecallSettings
from memory.records import Kind

SIZES = (1_000, 10_000, 100_000, 1_000_000)
K = 10
RAW_BATCH = 5000  # Chroma's quickest: it refuses more than 5,461
RAW = {"Chroma, same graph": graph(0), "Chroma as it comes": {"space": "cosine"}}
OURS = "ours"
PAIR = "embedding, then Chroma"
LABELS = {
    "embedding": "embedding alone",
    "recall": "recall, embedding included",
    "index": "our index alone",
}
SETTINGS = RecallSettings(tokens=256, quotas={Kind.EXEMPLAR: 3, Kind.INSIGHT: 3})

# What each process does. It is given the size's folder and returns figures.


def build(folder: Path, name: str) -> dict[str, Any]:
    """Add everything to one system in bulk."""
    embedder = Stored(folder)
    ids = json.loads((folder / "ids.json").read_text())
    vectors = embedder.rows
    place = folder / name
    place.mkdir()
    if name == OURS:
        store_name = fresh_name()
        index = Folders(place, served=False, lock=None).open(store_name, embedder, len(ids))
        add, chunk = index.add, 10_000
    else:
        collection = raw(place, name, make=True)
        add, chunk = lambda ids, rows: collection.upsert(ids=ids, embeddings=rows), RAW_BATCH
    before = peak = rss_mb()
    seconds = 0.0
    for start in range(0, len(ids), chunk):
        part = np.array(vectors[start : start + chunk])
        began = time.perf_counter()
        add(ids[start : start + chunk], part)
        seconds += time.perf_counter() - began
        peak = max(peak, rss_mb())
    if name == OURS:
        write(place / "current", store_name)
        index.close()
    return {
        "add_per_second": len(ids) / seconds,
        "rss_mb": peak - before,
        "disk_mb": disk_mb(place),
    }


def reopen(folder: Path) -> dict[str, Any]:
    """Open our index as a run does, and look at the memory."""
    embedder = Stored(folder)
    embedder.embed(["warm"])
    snapshot = (folder / "snapshot").read_text()
    with Ledger(folder / "ledger.db") as ledger:
        before = rss_mb()
        began = time.perf_counter()
        index = open_index(folder / OURS, embedder, LedgerKeys(ledger))
        opened = time.perf_counter()
        index_mb = rss_mb() - before
        view = MemoryView(ledger, index, embedder, snapshot, "base")
        viewed = time.perf_counter()
        view.recall([Query("warm", "none")], SETTINGS, words_of)
        figures = {
            "open_s": opened - began,
            "view_s": viewed - opened,
            "index_mb": index_mb,
            "all_mb": rss_mb() - before,
        }
        index.close()
    return figures


def ask(folder: Path) -> dict[str, Any]:
    """Query all systems in turns; times and what each of them found."""
    embedder = Stored(folder)
    queries = json.loads((folder / "queries.json").read_text())
    snapshot = (folder / "snapshot").read_text()
    limits = tenth(embedder.rows, np.load(folder / "asked.npy")) - 1e-4
    limit_of = dict(zip(queries, limits.tolist(), strict=True))
    collections = {name: raw(folder / name, name) for name in RAW}
    same = next(iter(RAW))
    names = ("embedding", PAIR, "recall", "index", *RAW)
    times: dict[str, list[float]] = {name: [] for name in names}
    hits = dict.fromkeys((OURS, *RAW), 0)

    def timed(name: str, run: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = run()
        times[name].append(time.perf_counter() - began)
        return result

    with Ledger(folder / "ledger.db") as ledger:
        index = open_index(folder / OURS, embedder, LedgerKeys(ledger))
        view = MemoryView(ledger, index, embedder, snapshot, "base")
        gc.freeze()  # what a million records cost the collector is not the query's
        for number, text in enumerate([*queries[:5], *queries]):
            if number == 5:  # the caches are warm
                for own in times.values():
                    own.clear()
                hits = dict.fromkeys(hits, 0)
            limit = limit_of[text]
            vector = timed("embedding", lambda t=text: embedder.embed([t]))
            # What a recall is compared with has the caches that an embedding leaves behind as well.
            timed(
                PAIR,
                lambda t=text: collections[same].query(
                    query_embeddings=embedder.embed([t]), n_results=K, include=["distances"]
                ),
            )
            timed("recall", lambda t=text: view.recall([Query(t, "none")], SETTINGS, words_of))
            found = timed("index", lambda v=vector: index.query(v, K))
            hits[OURS] += sum(score >= limit for _, score in found[0])
            for name, collection in collections.items():
                got = timed(
                    name,
                    lambda c=collection, v=vector: c.query(
                        query_embeddings=v, n_results=K, include=["distances"]
                    ),
                )
                hits[name] += sum(1 - distance >= limit for distance in got["distances"][0])
        index.close()
    asked = K * len(queries)
    return {
        "times": {name: summary(own) for name, own in times.items()},
        "recall_at_10": {name: count / asked for name, count in hits.items()},
    }


def generations(folder: Path) -> dict[str, Any]:
    """The same items, come in one generation or in many: what a view and a query cost."""
    embedder = Stored(folder)
    queries = json.loads((folder / "queries.json").read_text())
    own = json.loads((folder / "texts.json").read_text())
    embedder.embed(["warm"])
    views: dict[str, MemoryView] = {}
    figures: dict[str, Any] = {}
    index = BruteForceIndex(embedder.dimension)
    times: dict[str, list[float]] = {}
    with ExitStack() as open_ledgers:
        for snapshots in (1, 10, 100):
            ledger = open_ledgers.enter_context(Ledger(folder / f"generations{snapshots}.db"))
            ids, last = store(ledger, own, snapshots)
            index.add(ids, embedder.rows)
            began = time.perf_counter()
            views[str(snapshots)] = MemoryView(ledger, index, embedder, last, "base")
            figures[str(snapshots)] = {"view_s": time.perf_counter() - began}
            times[str(snapshots)] = []
        for text in queries:
            for name, view in views.items():
                began = time.perf_counter()
                view.recall([Query(text, "none")], SETTINGS, words_of)
                times[name].append(time.perf_counter() - began)
    for name, own_times in times.items():
        figures[name] |= summary(own_times)
    return figures


def raw(place: Path, name: str, make: bool = False) -> Any:
    import chromadb
    from chromadb.config import Settings

    client = chromadb.PersistentClient(str(place), settings=Settings(anonymized_telemetry=False))
    if not make:
        return client.get_collection("bench", embedding_function=None)
    return client.create_collection(
        "bench", embedding_function=None, configuration={"hnsw": RAW[name]}
    )


def tenth(rows: Vectors, asked: Vectors) -> Vectors:
    """Per query the similarity of its true tenth; from a matrix that need not fit into memory.

    What is as near as that counts as found: which of several equals is listed is chance.
    """
    best = np.full((len(asked), K), -2, np.float32)
    for start in range(0, len(rows), 50_000):
        scores = np.concatenate([best, asked @ rows[start : start + 50_000].T], axis=1)
        best = -np.sort(-scores, axis=1)[:, :K]
    return np.asarray(best[:, -1])


def words_of(text: str) -> int:
    return len(text.split())


def rss_mb() -> float:
    """This process's memory, without pages of mapped files (which the system may drop)."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def disk_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def summary(times: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "runs": len(ordered),
        "p50_ms": round(median(ordered) * 1000, 3),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000, 3),
    }


# The main process


def child(job: str, *arguments: str | Path) -> Any:
    done = subprocess.run(
        [sys.executable, __file__, "--child", job, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def one_size(
    size: int, seeds: Vectors, asked: list[str], options: Any
) -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-memory-") as name:
        folder = Path(name)
        make_vectors(folder / "vectors.npy", seeds, size)
        own = texts(size, seed=0)
        with Ledger(folder / "ledger.db") as ledger:
            began = time.perf_counter()
            ids, snapshot = store(ledger, own, 1)
            yield (
                "ledger",
                {
                    "add_per_second": size / (time.perf_counter() - began),
                    "disk_mb": disk_mb(folder) - seeds.nbytes / len(seeds) * size / 2**20,
                },
            )
        (folder / "snapshot").write_text(snapshot)
        for name, content in (("ids", ids), ("texts", own), ("queries", asked)):
            (folder / f"{name}.json").write_text(json.dumps(content))
        np.save(folder / "asked.npy", load_embedder("default").embed(asked))
        for system in (OURS, *RAW):
            yield system, child("build", folder, system)
        yield "opened", child("reopen", folder)
        yield "asked", child("ask", folder)
        if size <= 10_000:
            yield "generations", child("generations", folder)
        if options.mem0:
            got = mem0(options.mem0, folder, options.mem0_adds, K)
            if isinstance(got, dict):
                got |= summary(got.pop("times")) | {"disk_mb": disk_mb(folder / "mem0" / "store")}
            yield "mem0", got


def bars_of(sizes: dict[str, Any], largest_with_bar: str) -> dict[str, float]:
    """The figures that the bars are about."""
    here = sizes[largest_with_bar]
    times = here["asked"]["times"]
    same = next(iter(RAW))
    bars = {
        "recall p50 / (embedding + raw Chroma)": times["recall"]["p50_ms"] / times[PAIR]["p50_ms"],
        "recall@10": min(size["asked"]["recall_at_10"][OURS] for size in sizes.values()),
        "bulk add / raw Chroma": here[OURS]["add_per_second"] / here[same]["add_per_second"],
    }
    spread = [size["generations"] for size in sizes.values() if "generations" in size]
    if spread:
        bars["recall p50, 100 generations / 1"] = (
            spread[-1]["100"]["p50_ms"] / spread[-1]["1"]["p50_ms"]
        )
    return bars


def show(figures: dict[str, Any], out: Console) -> None:
    table = Table(title="adding", box=None, header_style="bold", title_justify="left")
    for column in ("items", "", "per second", "memory MiB", "disk MiB"):
        table.add_column(column, justify="right" if column else "left")
    for size, own in figures["sizes"].items():
        for name in ("ledger", OURS, *RAW, "mem0"):
            got = own.get(name)
            if isinstance(got, dict):
                memory = f"{got['rss_mb']:.0f}" if "rss_mb" in got else "–"
                table.add_row(f"{int(size):,}", name, f"{got['add_per_second']:,.0f}", memory,
                              f"{got['disk_mb']:,.1f}")  # fmt: skip
    out.print(table)
    table = Table(title="asking", box=None, header_style="bold", title_justify="left")
    for column in ("items", "", "p50 ms", "p99 ms", "recall@10"):
        table.add_column(column, justify="right" if column else "left")
    for size, own in figures["sizes"].items():
        asked, other = own["asked"], own.get("mem0")
        rows = dict(asked["times"])
        if isinstance(other, dict):
            rows["mem0, without embedding"] = other
        for name, got in rows.items():
            share = asked["recall_at_10"].get(OURS if name == "index" else name)
            found = "" if share is None else f"{share:.4f}"
            table.add_row(f"{int(size):,}", LABELS.get(name, name), f"{got['p50_ms']:.2f}",
                          f"{got['p99_ms']:.2f}", found)  # fmt: skip
    out.print(table)
    for size, own in figures["sizes"].items():
        got = own["opened"]
        out.print(f"{int(size):,} items: opened and checked in {got['open_s']:.1f} s "
                  f"({got['index_mb']:.0f} MiB), seen in {got['view_s']:.1f} s "
                  f"({got['all_mb']:.0f} MiB with it)")  # fmt: skip
        for count, spread in own.get("generations", {}).items():
            out.print(f"  come in {count} generations: seen in {spread['view_s']:.2f} s, "
                      f"recall p50 {spread['p50_ms']:.2f} ms")  # fmt: skip
    for name, reason in figures["missing"].items():
        out.print(f"{name}: not measured ({reason})")
    for name, (side, bar) in MEMORY_BARS.items():
        got = figures["bars"].get(name)
        if got is not None:
            good = got <= bar if side == "at most" else got >= bar
            out.print(f"{name}: {got:.3f} (bar: {side} {bar}) {'✓' if good else '✗'}")


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        job, folder, *rest = sys.argv[2:]
        jobs = {"build": build, "reopen": reopen, "ask": ask, "generations": generations}
        print(json.dumps(jobs[job](Path(folder), *rest)))
        return
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of items")
    options.add_argument("--queries", type=int, default=200)
    options.add_argument("--seeds", type=int, default=5000, help="texts that are really embedded")
    options.add_argument("--mem0", metavar="PYTHON", help="a Python that has mem0ai and chromadb")
    options.add_argument("--mem0-adds", type=int, default=300, help="adds of mem0 that are timed")
    options.add_argument("--folder", type=Path, help="where stores are made (1M items: 20 GB)")
    arguments = options.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.queries, arguments.seeds = [1000], 50, 500
        arguments.mem0_adds = 50
    out = Console(highlight=False)
    embedder = load_embedder("default")
    own = texts(min(arguments.seeds, max(arguments.sizes)), seed=0)
    began = time.perf_counter()
    seeds = embedder.embed(own)
    embedded = len(own) / (time.perf_counter() - began)
    asked = list(dict.fromkeys(texts(arguments.queries, seed=1)))
    sizes: dict[str, Any] = {}
    missing: dict[str, str] = {}
    if not arguments.mem0:
        missing["mem0"] = "no --mem0 PYTHON was given"
    for size in arguments.sizes:
        sizes[str(size)] = {}
        for name, got in one_size(size, seeds[:size], asked, arguments):
            if isinstance(got, str):
                missing[f"{name}, {size:,} items"] = got
            else:
                sizes[str(size)][name] = got
                out.print(f"[dim]{size:,}: {name}: {json.dumps(got)[:150]}[/dim]")
    with_bar = 100_000 if 100_000 in arguments.sizes else max(arguments.sizes)
    figures = circumstances("memory") | {
        "quick": arguments.quick,
        "embedded_per_second": embedded,
        "sizes": sizes,
        "missing": missing,
        "bars": bars_of(sizes, str(with_bar)),
    }
    show(figures, out)
    save(arguments.json, figures)


if __name__ == "__main__":
    main()
