"""What went wrong is explained and corrected, and both are learnt (LEMA)."""

from __future__ import annotations

from agent.evolution.feedback.base import quoted
from agent.evolution.solutions.base import (
    Stage,
    again,
    attempt,
    by_task,
    draft,
    first_slot,
    note,
    one_line,
    transcript,
)
from agent.evolution.solutions.compose import Composition, composed, with_reason
from memory.records import CORRECTION, Trajectory

QUESTION = "In one or two sentences: which step of this attempt is wrong, and why?"
MEND = "This attempt is wrong. Say what is wrong with it, and correct it."


def solve(stage: Stage) -> list[Trajectory]:
    """Wrong tries, explained by the policy and tried again; corrections are learnt as such.

    LEMA, arXiv 2310.20689, §2: question and wrong solution are the prompt, the mistaken step, its
    explanation and the corrected solution what is learnt, beside usual solutions. There GPT-4
    corrects; here the policy does, and what is not right then is no correction.
    """
    slots = {a.slot: a for a in stage.planned}
    tries = stage.play(stage.planned)
    own = by_task(stage.judged(tries)).values()
    failed = {t.slot: t for each in own if (t := _wrong(each)) is not None}
    asked = stage.settings.question or QUESTION
    questions = {
        slot: f"Task:\n{quoted(t.prompt)}\n{attempt(t)}\n\n{asked}" for slot, t in failed.items()
    }
    said = {slot: one_line(text) for slot, text in stage.ask("mistakes", questions).items()}
    further = {}
    for slot, t in failed.items():
        if said[slot]:
            a = slots[first_slot(t)]
            shown = draft(stage, a.task, transcript(t.turns), t)
            why = note(stage, a.task, f"What is wrong with it: {said[slot]}", t)
            further[slot] = again(a, "mended", shown, why)
    mended = stage.play(list(further.values()), "correct mistakes")
    right = {t.slot for t in stage.judged(mended) if t.success}
    made = []
    for t, slot in zip(mended, further, strict=True):
        if t.slot in right:
            old = failed[slot]
            a = slots[first_slot(old)]
            shown = draft(stage, a.task, transcript(old.turns), old)
            first, *more = [step.text for step in t.turns]
            turns = [with_reason(said[slot], first), *more]
            sources = (old.slot, t.slot, stage.said("mistakes", slot))
            prompt = again(a, "correction", shown, note(stage, a.task, MEND, old))
            made.append(Composition(prompt, turns, sources, phase=CORRECTION))
    return [*tries, *mended, *composed(stage, made)]


def _wrong(own: list[Trajectory]) -> Trajectory | None:
    """A task's first wrong try."""
    return next((t for t in own if not t.success), None)
