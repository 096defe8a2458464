"""Corrections by critique: something is said of a try, and it is tried again with that in mind."""

from __future__ import annotations

from collections.abc import Sequence

from agent.evolution.correct.base import asked, attempted, drafted, note
from agent.evolution.correct.execution import evidence
from agent.evolution.feedback.base import quoted
from agent.evolution.update.writers.base import Situation
from agent.loop import seed_of
from memory.records import MemoryItem, Trajectory

Notes = dict[str, list[MemoryItem]]
STOP = "STOP"


def self_refine(situation: Situation, tries: Sequence[Trajectory], round_: int) -> Notes:
    """The policy's own feedback on its try, until it says that nothing is left to improve.

    Source: Self-Refine, arXiv 2303.17651, §2 (feedback, refine, stop; earlier rounds stay in
    sight, see ``refine.carried``). Nobody tells it what was wrong.
    """
    question = (
        "Say what should be improved in this attempt, and how. If nothing should, "
        f"write {STOP} alone."
    )
    said = asked(situation, round_, _about(tries, question), _tokens(situation))
    said = {slot: text for slot, text in said.items() if not text.startswith(STOP)}
    return drafted(situation, tries, said, "To improve:")


def constitutional(situation: Situation, tries: Sequence[Trajectory], round_: int) -> Notes:
    """A critique by one principle, and a revision that keeps it.

    Source: Constitutional AI, arXiv 2212.08073, §3.1 (a principle drawn anew in each round).
    """
    run = situation.run
    principles = run.config.feedback.principles
    drawn = {
        t.slot: principles[seed_of(run.config.seed, t.task, round_) % len(principles)]
        for t in tries
    }
    questions = {
        t.slot: f"{attempted(t)}\n\nPrinciple: {drawn[t.slot]}\n"
        "Say where the attempt goes against this principle."
        for t in tries
    }
    said = asked(situation, round_, questions, _tokens(situation))
    notes = drafted(situation, tries, said, "Critique:")
    for t in tries:
        if t.slot in notes:
            notes[t.slot].append(note(situation, t, f"Revise it so that: {drawn[t.slot]}"))
    return notes


def rci(situation: Situation, tries: Sequence[Trajectory], round_: int) -> Notes:
    """Recursively criticise and improve (RCI, arXiv 2303.17491, §2.1): the paper's two prompts."""
    question = "Review your previous attempt and find problems with it."
    said = asked(situation, round_, _about(tries, question), _tokens(situation))
    lead = "Based on these problems, improve your attempt:"
    return drafted(situation, tries, said, lead)


def critic(situation: Situation, tries: Sequence[Trajectory], round_: int) -> Notes:
    """A critique that goes by what a tool returns (CRITIC, arXiv 2305.11738, §3).

    The tool is the sandbox for programs (they are run, and what they print and raise is shown),
    else the world's answers.
    """
    found = {t.slot: evidence(situation.run, t) for t in tries}
    questions = {
        t.slot: f"{attempted(t)}\nThe tool returned:\n{quoted(found[t.slot])}\n\n"
        "Going by what the tool returned, say what is wrong with the attempt."
        for t in tries
    }
    said = asked(situation, round_, questions, _tokens(situation))
    said = {slot: f"{text} The tool returned: {found[slot]}" for slot, text in said.items() if text}
    return drafted(situation, tries, said, "Critique:")


def _about(tries: Sequence[Trajectory], question: str) -> dict[str, str]:
    return {t.slot: f"{attempted(t)}\n\n{question}" for t in tries}


def _tokens(situation: Situation) -> int:
    return situation.run.config.refine.critique_tokens
