"""What benchmarks/memory.py stores: texts from templates, their vectors, records of them."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from memory.embed import Embedder, Vectors, load_embedder
from memory.ledger import Ledger
from memory.records import Kind, MemoryChange, MemoryItem, MemorySnapshot, Status

TEMPLATES = (
    "What is the greatest common divisor of {n} and {m}?",
    "{name} has {n} {thing} and gives {m} of them to {other}. How many are left?",
    "Put a clean {thing} on the table in the {room}.",
    "Find two {thing} and bring them to the {room}.",
    "In which year did {name} move from {city} to {town}?",
    "Book a train from {city} to {town} for {n} people after {m} o'clock.",
    "My card ending in {n} was declined in {city}; what should I do?",
    "How do I change the address of my account to {city}?",
    "SELECT the names of all customers in {city} who bought more than {n} {thing}.",
    "Delete every order of {name} that is older than {n} days.",
    "Write a function that returns the {n} largest numbers of a list.",
    "Sort {n} {thing} by price and buy the cheapest below {m} dollars.",
    "If {name} is taller than {other} and {other} is taller than {third}, who is the shortest?",
    "The {room} is cold. Turn the heating up by {n} degrees and close the window.",
    "Translate the sentence '{name} sold {n} {thing} in {town}' into French.",
    "A train leaves {city} at {n} km/h and another leaves {town} at {m} km/h. When do they meet?",
)
WORDS = {
    "name": "Ada Boris Clara Dmitri Elena Farid Greta Hugo Ines Jamal Keiko Luis Mara Nils",
    "other": "Olga Pablo Quinn Rosa Sven Tara Umar Vera Wes Xenia Yusuf Zoe",
    "third": "Anton Bea Carl Dora Emil Frida Gus Hanna",
    "thing": "apples books lamps plates pencils chairs mugs keys candles towels bottles hats",
    "room": "kitchen bedroom bathroom hall cellar office garage garden",
    "city": "Paris Lagos Lima Oslo Kyoto Cairo Quito Dublin Riga Hanoi",
    "town": "Bath Pisa Ghent Cusco Nara Fez Bergen Galway Split Hue",
}


def texts(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    words = {name: line.split() for name, line in WORDS.items()}
    return [
        chance.choice(TEMPLATES).format(
            n=chance.randrange(2, 9999),
            m=chance.randrange(2, 9999),
            **{name: chance.choice(some) for name, some in words.items()},
        )
        for _ in range(count)
    ]


def make_vectors(path: Path, seeds: Vectors, count: int) -> None:
    """The seeds, then mixtures of two of them with noise; written to a file."""
    chance = np.random.default_rng(0)
    out = np.lib.format.open_memmap(path, "w+", np.float32, (count, seeds.shape[1]))
    out[: len(seeds)] = seeds[:count]
    for start in range(len(seeds), count, 10_000):
        size = min(10_000, count - start)
        share = chance.uniform(0.5, 1, (size, 1))
        rows = share * seeds[chance.integers(len(seeds), size=size)]
        rows += (1 - share) * seeds[chance.integers(len(seeds), size=size)]
        rows += chance.normal(scale=0.3 / seeds.shape[1] ** 0.5, size=rows.shape)
        out[start : start + size] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    out.flush()


class Stored:
    """The default embedder, but the vector of a stored item (its key ends in ``#row``) is given."""

    def __init__(self, folder: Path) -> None:
        self.real: Embedder = load_embedder("default")
        self.rows = np.load(folder / "vectors.npy", mmap_mode="r")
        self.identity = self.real.identity
        self.dimension = int(self.rows.shape[1])

    def embed(self, texts: Sequence[str]) -> Vectors:
        given = [re.search(r"#(\d+)$", text) for text in texts]
        if texts and all(given):
            return np.stack([self.rows[int(match[1])] for match in given if match])
        return self.real.embed(texts)


def make_item(row: int, text: str) -> MemoryItem:
    return MemoryItem(
        kind=Kind.INSIGHT if row % 3 else Kind.EXEMPLAR,
        text=f"{text} The answer was {row}.",
        key=f"{text} #{row}",
        sources=(f"1/acquire/{row}/0",),
        tasks=(f"task{row}",),
        family=f"family{row % 16}",
        born=1,
    )


def store(ledger: Ledger, own: Sequence[str], snapshots: int) -> tuple[list[str], str]:
    """All items in a ledger, spread over so many generations; their ids and the last snapshot."""
    ids: list[str] = []
    parent = ""
    bounds = np.linspace(0, len(own), snapshots + 1).astype(int).tolist()
    for generation, (start, end) in enumerate(pairwise(bounds), 1):
        for low in range(start, end, 10_000):
            part = [make_item(row, own[row]) for row in range(low, min(low + 10_000, end))]
            ledger.append_many([(item.id, item) for item in part])
            ids += [item.id for item in part]
        changes = tuple(
            MemoryChange(item=id_, status=Status.ACTIVE, generation=generation)
            for id_ in ids[start:end]
        )
        snapshot = MemorySnapshot(parent=parent, generation=generation, changes=changes)
        ledger.append(snapshot.id, snapshot)
        parent = snapshot.id
    return ids, parent
