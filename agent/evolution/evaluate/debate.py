"""ChatEval: judges with roles of their own discuss which is better, then vote (arXiv 2308.07201).

The paper's debater agents (§2.1), diverse roles (§2.2) and communication strategies (§2.3):
one-by-one, simultaneous-talk, and simultaneous-talk with a summariser, whose summary stands for
what was said. The vote is the majority's. Roles differ, since the paper finds that one role for
all does not help.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from agent.evolution.evaluate.judges import TIE, ask
from agent.evolution.feedback.base import quoted
from agent.evolution.feedback.judges import ROOM, preferred

if TYPE_CHECKING:
    from agent.run import Run


def debated(run: Run, n: int, comparisons: Mapping[str, str]) -> dict[str, str | None]:
    """By comparison, what most of the judges vote for: "A", "B" or TIE; None where none leads.

    Args:
        run: its ``evaluate`` settings say who debates, and for how long.
        n: the generation.
        comparisons: by key, two attempts and the question.
    """
    settings = run.config.evaluate
    said: dict[str, list[str]] = {key: [] for key in comparisons}
    told = said
    for round_ in range(settings.rounds):
        before = {key: tuple(lines) for key, lines in told.items()}
        for number, role in enumerate(settings.roles):
            heard = said if settings.talk == "one-by-one" else before
            answers = ask(
                run,
                n,
                {
                    f"debate/{round_}/{number}/{key}": _turn(text, role, heard[key])
                    for key, text in comparisons.items()
                },
                settings.tokens,
            )
            for key in comparisons:
                words = " ".join(answers[f"debate/{round_}/{number}/{key}"].split())
                said[key].append(f"{_name(role)}: {words}")
        if settings.talk == "summarised":
            summaries = ask(
                run,
                n,
                {
                    f"summary/{round_}/{key}": _to_sum_up(text, said[key])
                    for key, text in comparisons.items()
                },
                settings.tokens,
            )
            told = {
                key: [" ".join(summaries[f"summary/{round_}/{key}"].split())] for key in comparisons
            }
    ballots: dict[str, list[str | None]] = {key: [] for key in comparisons}
    for number, role in enumerate(settings.roles):
        answers = ask(
            run,
            n,
            {
                f"vote/{number}/{key}": _ballot(text, role, told[key])
                for key, text in comparisons.items()
            },
            settings.tokens if settings.judge == "endpoint" else ROOM,
            vote=True,
        )
        for key in comparisons:
            ballots[key].append(preferred(answers[f"vote/{number}/{key}"], ("A", "B", TIE)))
    return {key: majority(votes) for key, votes in ballots.items()}


def majority(votes: Sequence[str | None]) -> str | None:
    """What has most votes; None where nothing was said, or two have as many."""
    ranked = Counter(vote for vote in votes if vote is not None).most_common(2)
    if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def _turn(comparison: str, role: str, said: Sequence[str]) -> str:
    attempts = comparison.rpartition("\n\n")[0]
    return (
        f"{attempts}\n\n{_discussion(said)}You are one of several judges: {role}. "
        "Say in a sentence or two which attempt is better, A or B, and why; answer the others."
    )


def _to_sum_up(comparison: str, said: Sequence[str]) -> str:
    attempts = comparison.rpartition("\n\n")[0]
    return (
        f"{attempts}\n\n{_discussion(said)}Sum up in a few sentences what the judges said, who is "
        "for which attempt and why. Add nothing of your own."
    )


def _ballot(comparison: str, role: str, said: Sequence[str]) -> str:
    attempts, _, asked = comparison.rpartition("\n\n")
    return f"{attempts}\n\n{_discussion(said)}You are one of several judges: {role}. {asked}"


def _discussion(said: Sequence[str]) -> str:
    lines = "\n".join(map(quoted, said))  # it may repeat what stands in an attempt: data as well
    return f"What the judges said so far:\n{lines}\n\n" if said else ""


def _name(role: str) -> str:
    return role.partition(":")[0]
