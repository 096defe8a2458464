"""Answers that nobody can know: what a task's canary is graded by (see `Suite`)."""

from __future__ import annotations

import random
import string

LEAST = 12  # random characters; by chance an answer is hit once in 10**12 tries


def nonce(like: str, seed: int) -> str | None:
    """A random text that looks like an answer: digits for digits, letters for letters.

    Args:
        like: the answer; what is neither digit nor letter stays. It is made longer until it has
            ``LEAST`` random characters.
        seed: decides the text, together with ``like``.

    Returns:
        the text, or None where the answer has no digit and no letter.
    """
    alike = [c for c in like if c.isalnum()]
    if not alike:
        return None
    chance = random.Random(f"{seed}/{like}")
    end = max(i for i, c in enumerate(like) if c.isalnum()) + 1
    longer = like[:end] + alike[-1] * max(0, LEAST - len(alike)) + like[end:]
    first = True
    made = []
    for c in longer:
        if c.isdigit():
            made.append(chance.choice("123456789" if first else string.digits))
        elif c.isalpha():
            letter = chance.choice(string.ascii_lowercase)
            made.append(letter.upper() if c.isupper() else letter)
        else:
            made.append(c)
        first = first and not c.isalnum()
    return "".join(made)
