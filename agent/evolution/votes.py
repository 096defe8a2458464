"""What a task's tries answered, and which answer most of them gave (arXiv 2203.11171)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from environments.kinds.answer import SILENT
from memory.records import Trajectory

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def answer_of(t: Trajectory) -> str | None:
    """What a try answered: what its last turn brought about; None where it did nothing.

    Where the world does not say it (a written answer, a function to be tested), it is the last
    number of what was written, or all of it.
    """
    last = t.turns[-1]
    if not last.action.get("tool") or last.error:
        return None
    if last.observation not in SILENT:
        return last.observation.strip()
    arguments = last.action.get("arguments")
    given = arguments if isinstance(arguments, dict) else {}
    said = str(next(iter(given.values()), "")).strip()
    numbers = [] if "code" in given else _NUMBER.findall(said)
    return numbers[-1].replace(",", "") if numbers else said


def vote(answers: Sequence[str | None], least: float) -> tuple[list[float], str | None]:
    """The confidence of each answer, and the one that is elected, if any.

    Args:
        answers: of one task's tries; None: no answer, which counts among the votes cast.
        least: least share of the votes; one vote alone elects nothing. Of several with as many
            votes none is elected.
    """
    votes = Counter(a for a in answers if a is not None)
    shares = [0.0 if a is None else votes[a] / len(answers) for a in answers]
    ranked = votes.most_common(2)
    if not ranked or len(answers) < 2 or ranked[0][1] / len(answers) < least - 1e-9:
        return shares, None
    if len(ranked) > 1 and ranked[1][1] == ranked[0][1]:
        return shares, None
    return shares, ranked[0][0]


def plurality(answers: Iterable[str | None]) -> str | None:
    """The answer that most gave, however few; of several the greatest, so that it is always one."""
    votes = Counter(a for a in answers if a is not None)
    return max(votes, key=lambda answer: (votes[answer], answer), default=None)


def elected(tries: Iterable[Trajectory], least: float) -> set[str]:
    """Slots of the tries whose answer their task's tries elect."""
    by_task: dict[str, list[Trajectory]] = {}
    for t in tries:
        by_task.setdefault(t.task, []).append(t)
    found: set[str] = set()
    for own in by_task.values():
        winner = vote([answer_of(t) for t in own], least)[1]
        found |= {t.slot for t in own if winner is not None and answer_of(t) == winner}
    return found
