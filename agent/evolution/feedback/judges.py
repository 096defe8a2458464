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
    """The whole number that an answer comes to, if it is on the scale."""
    said = re.sub(rf"\s*(?:/|\b(?:out )?of\b)\s*{scale}\b", "", said)
    given = r"\b(?:grade|score|rat(?:e|ing))\b(?:\W+[a-z]+){0,3}?\W+"
    grade = _verdict(said, r"(?<![\d.])\d+(?![\d.]*\d)(?!/)", given)
    return int(grade) if grade is not None and int(grade) <= scale else None


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
    """The letter that an answer comes to, of those that stand alone in it."""
    wins = r" (?:wins\b|is (?!not |no )(?:\w+ ){0,2}?(?:better|best)\b)"
    return _verdict(said, rf"\b[{''.join(letters)}]\b", after=wins)


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
    """The yes or no that an answer comes to, in small letters."""
    return _verdict(said.lower(), r"\b(?:yes|no(?! \w))\b")  # "no mistake" is no verdict


_NAMED = r"(?:(?:attempt|answer|verdict|grade|score|rating|better)\W+)?"
_LEADS = r"\b(?:is|so|be|thus|hence|therefore|choose|prefer|pick|say|give)\W+(?:(?:a|attempt)\W+)?"


def _verdict(said: str, one: str, before: str = "", after: str = "") -> str | None:
    """What an answer that may be written freely comes to; None rather than what it may not mean.

    A last line that is the verdict alone decides. Else it is what the answer opens with or ends
    in; else what it plainly calls the verdict, or the one that it names at all. Where these name
    two, there is none: "A is better than B" ends in the worse.

    Args:
        said: the answer.
        one: a pattern of the verdicts.
        before, after: patterns of what stands around a verdict that is plainly called so.
    """
    lines = [line for line in said.splitlines() if re.search(r"\w", line)] or [""]
    if alone := re.fullmatch(rf"(?:[\w\s*]+:)?\W*({one})\W*", lines[-1]):
        return alone[1]
    clauses = re.split(r"[,;.!?](?=\W*\s|\W*$)|[:\n]", " ".join(lines))
    end = next((c for c in reversed(clauses) if re.search(r"\w", c)), "")
    opens = re.match(rf"(?i:\W*{_NAMED})({one})\W*?(?:[.,;!\n–—]|$)", lines[0])
    ends = re.search(rf"(?:^\W*|{_LEADS})({one})\W*$", end)
    if ends and len(set(re.findall(one, end))) > 1:
        ends = None
    found = {match[1] for match in (opens, ends) if match}
    if not found and (before or after):
        found = set(re.findall(rf"(?i:{before})({one})(?i:{after})", said))
    found = found or set(re.findall(one, said))
    return str(found.pop()) if len(found) == 1 else None
