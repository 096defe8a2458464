"""Near-identical means what the plain definition says, however it is computed."""

from __future__ import annotations

import random

import pytest

from memory.texts import near_identical


def in_common(a: str, b: str) -> float:
    """Twice the longest common subsequence by both lengths, by the textbook."""
    above = [0] * (len(b) + 1)
    for x in a:
        row = [0]
        for j, y in enumerate(b):
            row.append(above[j] + 1 if x == y else max(above[j + 1], row[j]))
        above = row
    return 2 * above[-1] / (len(a) + len(b)) if a or b else 1.0


@pytest.mark.parametrize("ratio", [0.8, 0.95])
def test_against_the_definition(ratio: float) -> None:
    rng = random.Random(5)
    yes = 0
    for _ in range(400):
        a = [rng.choice("abcdeé ") for _ in range(rng.randint(0, 80))]
        b = list(a)
        for _ in range(rng.randint(0, 8)):
            i = rng.randint(0, len(b))
            b[i : i + rng.randint(0, 1)] = rng.choice(["", "x", "ab"])
        one, other = " ".join("".join(a).split()), " ".join("".join(b).split())
        expected = in_common(one, other) >= ratio
        assert near_identical("".join(a), "".join(b), ratio) is expected
        assert near_identical("".join(b), "".join(a), ratio) is expected
        yes += expected
    assert 50 < yes < 350


def test_case_and_white_space_do_not_matter() -> None:
    assert near_identical("Two  words\n", " two WORDS")
    assert near_identical("", " \n")
    assert not near_identical("", "a")
    assert not near_identical("ab", "ba")
    assert near_identical("\ud800 half", "\ud800  HALF")
