"""Turns that were put together: a reason before an action, a known solution, a dialogue.

They are carried out in the task's world like those of any episode, so what the world answers and
whether it is right is no matter of trust. Their token ids are the tokeniser's, since nobody sampled
them in one go; a note says what they are made of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from agent.evolution.solutions.base import Stage
from agent.loop import Assignment, run_episode
from agent.policies.base import Completion, Message, Reader, Request
from environments.base import Environment
from environments.watch import Watched
from memory.records import COMPOSED, Note, Step, Trajectory

_FENCE = "\n```\n"  # ends a turn that is a block of code
_CALL = re.compile(r"\w+\(")
_COMMENTS = {"python": "# ", "py": "# ", "sql": "-- ", "bash": "# ", "sh": "# "}  # by its language


class Composition(NamedTuple):
    """An episode whose turns are known.

    Args:
        assignment: task, slot and what stands before the task; memory is not read.
        turns: the turns, whole.
        sources: slots of the episodes and names of the notes that they are made of.
        world: its environment, if not the suite's own.
        phase: ``composed``, or ``correction`` where what stands before the task is trained on too.
    """

    assignment: Assignment
    turns: Sequence[str]
    sources: tuple[str, ...]
    world: Callable[[], Environment] | None = None
    phase: str = COMPOSED


def composed(stage: Stage, made: Sequence[Composition]) -> list[Trajectory]:
    """The episodes, each stored with what it is made of."""
    found = []
    for each in made:
        a = each.assignment
        t = stage.run.ledger.get(Trajectory, a.slot)
        if t is None:
            stage.run.memory.add(a.carried)
            t = _played(stage, each)
            note = Note(data={"sources": list(each.sources)})
            stage.run.ledger.append_many([(f"composed/{a.slot}", note), (a.slot, t)])
        found.append(t)
    return found


def _played(stage: Stage, each: Composition) -> Trajectory:
    run = stage.run
    policy = run.policy(stage.weights)
    left = list(each.turns)

    def query(request: Request) -> Completion:
        text = closed(left.pop(0), request.stop)
        begin = run.config.agent.begin
        if begin is None:  # the tools' format: a fence, or nothing
            begin = text.partition("\n")[0] + "\n" if _FENCE in request.stop else ""
        text = text.removeprefix(begin)
        return Completion(written(policy, text, bool(request.stop)), (), text, True)

    return run_episode(
        each.assignment._replace(
            phase=each.phase, memory="", recall=None, look_again=None, search=None
        ),
        lambda: Watched(
            each.world or (lambda: run.suite.environment(each.assignment.task)),
            run.config.suite.seconds,
        ),
        query,
        policy,
        run.config.agent.model_copy(update={"turns": len(each.turns), "constrain": False}),
        run.suite.briefing,
        seed=run.config.seed,
    )


def written(policy: Reader, text: str, stopped: bool) -> tuple[int, ...]:
    """The ids of a turn that was not sampled.

    Args:
        policy: whose ids.
        text: the turn, without what it was given to begin with.
        stopped: whether its text ends it; else the token that ends a turn follows.
    """
    asked: list[Message] = [{"role": "user", "content": "."}]
    before = policy.encode(asked)
    ids = policy.encode([*asked, {"role": "assistant", "content": text}])[len(before) :]
    if stopped or not ids:
        return ids
    return (*ids, policy.extend(ids, ".", "")[len(ids)])


def closed(text: str, stops: Sequence[str]) -> str:
    """A turn that ends with what ends turns."""
    if not stops:
        return text.strip()
    (stop, *_), body = stops, text.rstrip()
    if end := stop.strip():
        body = body.removesuffix(end).rstrip()
    return body + stop


def with_reason(reason: str, turn: str) -> str:
    """A turn with a reason before its action: a comment where that is code, else words.

    Whether the action is still read as it was is seen when it is carried out.
    """
    fence, newline, rest = turn.partition("\n")
    reason = reason.replace("```", "'")  # it must not end the block
    if fence.startswith("```") and newline:
        return f"{fence}\n{_COMMENTS.get(fence[3:].strip(), '# ')}{reason}\n{rest}"
    return f"{reason} {turn}" if _CALL.match(turn.strip()) else f"{reason}\n{turn}"


def same_actions(t: Trajectory, turns: Sequence[Step]) -> bool:
    """Whether an episode's actions are those of other turns, but for words before them."""
    return len(t.steps) == len(turns) and all(map(_same, t.steps, turns))


def _same(a: Step, b: Step) -> bool:
    mine, other = a.action.get("arguments"), b.action.get("arguments")
    if a.action.get("tool") != b.action.get("tool"):
        return False
    if not (isinstance(mine, dict) and isinstance(other, dict)):
        return mine == other
    return mine.keys() == other.keys() and all(
        str(mine[name]).endswith(str(value)) for name, value in other.items()
    )
