"""A reason is given after an action was taken, and put before it (A³T)."""

from __future__ import annotations

from agent.evolution.feedback.base import UNDECIDED, quoted
from agent.evolution.solutions.base import (
    Stage,
    again,
    first_slot,
    label,
    one_line,
    transcript,
    usable,
)
from agent.evolution.solutions.compose import Composition, composed, same_actions, with_reason
from memory.records import Trajectory

QUESTION = "In one sentence: why is this the right thing to do next?"


def solve(stage: Stage) -> list[Trajectory]:
    """Each action with the reason that the policy gives for it afterwards.

    A³T, arXiv 2403.14589, §3.1: ActRe explains an arbitrary action; the reason is put before the
    action, and the trajectory is as if it had been reasoned first. Solved and failed ones alike:
    which of them to learn is the objective's affair (§3.2: policy gradient, binary rewards).
    The tries as they were, without reasons, are not learnt from.
    """
    slots = {a.slot: a for a in stage.planned}
    tries = stage.play(stage.planned)
    asked = stage.settings.question or QUESTION
    questions = {}
    for t in filter(usable, tries):
        for i, step in enumerate(t.turns):
            before = transcript(t.turns[:i])
            so_far = (
                f"\nSo far:\n{quoted(before)}\n{quoted(t.turns[i - 1].observation)}" if i else ""
            )
            questions[f"{t.slot}/{i}"] = (
                f"Task:\n{quoted(t.prompt)}{so_far}\nAction:\n{quoted(step.text.strip())}\n\n{asked}"
            )
    said = {key: one_line(text) for key, text in stage.ask("explain", questions).items()}
    made = []
    for t in filter(usable, tries):
        keys = [f"{t.slot}/{i}" for i in range(len(t.turns))]
        if all(said[key] for key in keys):
            turns = [with_reason(said[k], s.text) for k, s in zip(keys, t.turns, strict=True)]
            sources = (t.slot, *(stage.said("explain", key) for key in keys))
            made.append(Composition(again(slots[first_slot(t)], "explain"), turns, sources))
    label(stage.run, {t.slot: UNDECIDED for t in tries})
    reasoned = composed(stage, made)
    taken = {t.slot: t for t in tries}
    spoilt = {
        t.slot: UNDECIDED
        for t, each in zip(reasoned, made, strict=True)
        if not same_actions(t, taken[each.sources[0]].turns)
    }
    label(stage.run, spoilt)  # no reason can stand before a bare command
    if reasoned and len(spoilt) == len(reasoned):
        stage.run.print(
            f"generation {stage.n}: with a reason before it no action is what it was (these are "
            "bare commands), so nothing is learnt: take another acquire.solve.how for this suite"
        )
    return [*tries, *reasoned]
