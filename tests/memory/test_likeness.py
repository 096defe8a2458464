"""Items that say the same are found, and only those; many are searched in seconds."""

from __future__ import annotations

import random

import numpy as np
import pytest

from memory.consolidation.likeness import NEAREST, Likeness, twins
from memory.embed import HashEmbedder, Vectors
from memory.records import Kind, MemoryItem
from memory.texts import near_identical
from tests.memory.drafts import make


def vectors_of(items: list[MemoryItem]) -> dict[str, Vectors]:
    embedded = HashEmbedder().embed([item.key for item in items])
    return {item.id: vector for item, vector in zip(items, embedded, strict=True)}


@pytest.mark.parametrize(
    "other",
    [
        {"kind": Kind.REFLECTION},
        {"family": "lcm"},
        {"key": "an entirely different question"},
        {"text": "use Euclid's algorithm by hand instead"},
        {"content": {"subject": "gcd", "value": 4}},
    ],
)
def test_what_differs_is_no_twin(other: dict[str, object]) -> None:
    fields: dict[str, object] = {
        "text": "print(gcd(a, b))",
        "key": "gcd of 3 and 6",
        "content": {"subject": "gcd", "value": 3},
    }
    a, same = make(**fields), make(**fields, task="t2")  # type: ignore[arg-type]
    b = make(**(fields | other), task="t3")  # type: ignore[arg-type]
    assert twins([a, same, b], vectors_of([a, same, b]), Likeness()) == {same.id: a.id}


def test_a_twin_is_nobodys_twin_and_the_first_are_taken_as_they_are() -> None:
    text = "x" * 100
    chain = [make(text[: 100 - 3 * i] + "y" * 3 * i, key="k", task=f"t{i}") for i in range(3)]
    a, b, c = chain  # each 97 % like the next, the first and the last 94 %
    assert near_identical(a.text, b.text) and near_identical(b.text, c.text)
    assert not near_identical(a.text, c.text)
    vectors = vectors_of(chain)
    assert twins(chain, vectors, Likeness()) == {b.id: a.id}
    assert twins(chain, vectors, Likeness(), first=2) == {c.id: b.id}


def slow_twins(items: list[MemoryItem], settings: Likeness) -> dict[str, str]:
    vectors, found = vectors_of(items), dict[str, str]()
    for n, item in enumerate(items):
        for other in items[:n]:
            if (
                other.id not in found
                and float(vectors[item.id] @ vectors[other.id]) >= settings.similarity - 1e-6
                and near_identical(item.text, other.text, settings.text)
            ):
                found[item.id] = other.id
                break
    return found


@pytest.mark.parametrize("seed", range(6))
def test_the_quick_search_finds_what_the_slow_one_finds(seed: int) -> None:
    """Texts that differ in some letters, of all lengths, around the threshold."""
    chance = random.Random(seed)
    items = []
    for i in range(16 * 9):
        text = ["print(gcd(a, b)) # by Euclid ", "the gcd is even "][i % 2] * chance.choice([1, 5])
        letters = list(text)
        for _ in range(chance.randrange(0, 9)):
            letters[chance.randrange(len(letters))] = chance.choice(["", "q", "qu"])
        items.append(make("".join(letters), key=f"k{i % 9}", task=f"t{i}"))
    settings = Likeness(text=chance.choice([0.9, 0.95, 0.99]))
    found = twins(items, vectors_of(items), settings)
    assert found == slow_twins(items, settings)
    assert 1 < len(found) < 140


def test_of_very_many_like_keys_the_nearest_and_the_equal_are_compared() -> None:
    fill = [make(chr(0x4E00 + i) * 60, key="k", task=f"t{i}") for i in range(2 * NEAREST)]
    same = make(fill[-1].text, key="k", task="same")
    vectors = vectors_of([*fill, same])
    vectors[same.id] = np.array([0.0, 1.0], np.float32)
    for n, item in enumerate(fill):  # the last is the least like it
        angle = np.pi / 2 - 0.001 * (n + 1)
        vectors[item.id] = np.array([np.cos(angle), np.sin(angle)], np.float32)
    assert twins([*fill, same], vectors, Likeness()) == {same.id: fill[-1].id}


def test_similar_keys_are_compared_in_blocks() -> None:
    """Twins further apart than a block of the similarity matrix are found."""
    items = [make(f"{i} " * 9, key=f"question {i}", task=f"t{i}") for i in range(1100)]
    items.append(make("3 " * 9, key="question 3", task="again"))
    vectors = vectors_of(items)
    assert twins(items, vectors, Likeness()) == {items[-1].id: items[3].id}
    assert np.isclose(np.linalg.norm(vectors[items[0].id]), 1)
