"""A model judges: by rating, by comparing two, by principles.

The policy itself, or one behind an endpoint (``feedback.judge``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from agent.evolution.feedback.base import (
    UNDECIDED,
    Bench,
    Verdict,
    ask,
    attempt,
    presented,
    quoted,
)
from memory.records import Trajectory

ROOM = 8  # tokens of an answer that is one of few words
_YES_NO = ("yes", "no")


def rated_by_self(bench: Bench) -> dict[str, Verdict]:
    """The policy rates its own tries (Self-Rewarding, arXiv 2401.10020, §2.2)."""
    return _rated(bench, outside=False)


def rated_by_judge(bench: Bench) -> dict[str, Verdict]:
    """A judge's model rates them (LLM-as-a-judge, arXiv 2306.05685, §3.1: single answers)."""
    return _rated(bench, outside=True)


def _rated(bench: Bench, *, outside: bool) -> dict[str, Verdict]:
    settings = bench.run.config.feedback
    grades = tuple(map(str, range(settings.scale + 1)))
    question = (
        f"Is the attempt right and complete? Grade it from 0 (wrong) to {settings.scale} "
        "(right). Write the grade alone."
    )
    questions = {f"rated/{t.slot}": f"{presented(t)}\n\n{question}" for t in bench.tries}
    tokens = settings.tokens if outside else ROOM
    answers = ask(bench, questions, tokens, grades, outside=outside)
    found: dict[str, Verdict] = {}
    for t in bench.tries:
        grade = _grade(answers[f"rated/{t.slot}"], settings.scale)
        share = None if grade is None else grade / settings.scale
        found[t.slot] = (
            UNDECIDED if share is None else Verdict(share, share >= settings.passes - 1e-9)
        )
    return found


def _grade(said: str, scale: int) -> int | None:
    """The last whole number of a verdict, if it is on the scale."""
    numbers = re.findall(r"(?<![\d.])\d+(?![\d.]*\d)(?!/)", said.replace(f"/{scale}", ""))
    grade = int(numbers[-1]) if numbers else None
    return grade if grade is not None and grade <= scale else None


def compared(bench: Bench) -> dict[str, Verdict]:
    """A task's tries two by two, each pair in both orders (MT-Bench, arXiv 2306.05685, §3.4).

    Judges prefer what stands first (or last), so a pair is won only by the try that wins in both
    orders; else it is a tie. The reward is the share of comparisons won, a tie being half; the
    tries that win more than they lose, and none more, are the solutions. Each try meets the
    ``opponents`` that follow it. A task with one try is left undecided.
    """
    settings = bench.run.config.feedback
    pairs = [pair for own in bench.by_task().values() for pair in matches(own, settings.opponents)]
    orders = [order for a, b in pairs for order in ((a, b), (b, a))]
    questions = {_match(*order): _comparison(*order) for order in orders}
    outside = bool(settings.judge.url)
    tokens = settings.tokens if outside else ROOM
    answers = ask(bench, questions, tokens, ("A", "B"), outside=outside)
    points: Counter[str] = Counter()
    played: Counter[str] = Counter()
    for a, b in pairs:
        there, back = preferred(answers[_match(a, b)]), preferred(answers[_match(b, a)])
        first = points_of(there, back)
        for t, won in ((a, first), (b, 1 - first)):
            points[t.slot] += won  # type: ignore[assignment]  # halves count too
            played[t.slot] += 1
    found: dict[str, Verdict] = {}
    for own in bench.by_task().values():
        shares = {t.slot: points[t.slot] / played[t.slot] for t in own if played[t.slot]}
        best = max(shares.values(), default=0.0)
        for t in own:
            share = shares.get(t.slot)
            found[t.slot] = (
                UNDECIDED if share is None else Verdict(share, share == best and share > 0.5)
            )
    return found


def points_of(there: str | None, back: str | None) -> float:
    """What the first of a pair gets: 1 if it is preferred in both orders, 0 if the other is.

    Args:
        there: what was preferred, "A" or "B", when the first stood first; None where unclear.
        back: when it stood second.
    """
    return {("A", "B"): 1.0, ("B", "A"): 0.0}.get((there or "", back or ""), 0.5)


def matches(tries: list[Trajectory], opponents: int) -> list[tuple[Trajectory, Trajectory]]:
    """Pairs of one task's tries: each meets those that follow it, round in a ring."""
    n = len(tries)
    met = {
        tuple(sorted((i, (i + step) % n)))
        for i in range(n)
        for step in range(1, min(opponents, n - 1) + 1)
    }
    return [(tries[i], tries[j]) for i, j in sorted(met)]


def _match(a: Trajectory, b: Trajectory) -> str:
    return f"compared/{a.slot} {b.slot}"


def _comparison(a: Trajectory, b: Trajectory) -> str:
    return f"{both(a, b)}\n\nWhich attempt is better, A or B? Write the letter alone."


def both(a: Trajectory, b: Trajectory) -> str:
    """A task and two attempts at it, without their scores."""
    return f"Task:\n{quoted(a.prompt)}\n\nA. {attempt(a)}\n\nB. {attempt(b)}"


def preferred(said: str, letters: Sequence[str] = ("A", "B")) -> str | None:
    """The last of the letters that stands alone in an answer."""
    found = re.findall(rf"\b[{''.join(letters)}]\b", said)
    return str(found[-1]) if found else None


def by_principles(bench: Bench) -> dict[str, Verdict]:
    """Whether a try keeps each principle (Constitutional AI, arXiv 2212.08073, §4.1).

    The reward is the share of principles kept; what keeps all is a solution. The paper compares
    two answers per principle; here each answer is asked about by itself.
    """
    settings = bench.run.config.feedback
    questions = {
        f"principle/{number}/{t.slot}": f"{presented(t)}\n\nDoes the attempt keep this principle: "
        f"{principle} Write yes or no."
        for t in bench.tries
        for number, principle in enumerate(settings.principles)
    }
    outside = bool(settings.judge.url)
    tokens = settings.tokens if outside else ROOM
    answers = ask(bench, questions, tokens, _YES_NO, outside=outside)
    found: dict[str, Verdict] = {}
    for t in bench.tries:
        said = [
            yes_or_no(answers[f"principle/{number}/{t.slot}"])
            for number in range(len(settings.principles))
        ]
        kept = [word == "yes" for word in said]
        found[t.slot] = UNDECIDED if None in said else Verdict(sum(kept) / len(kept), all(kept))
    return found


def yes_or_no(said: str) -> str | None:
    """The last yes or no of an answer, in small letters."""
    words = re.findall(r"\b(yes|no)\b", said.lower())
    return words[-1] if words else None
