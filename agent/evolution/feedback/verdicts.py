"""Experience as the configured feedback sees it; each try is judged once in a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from agent.choices import found
from agent.config import ConfigError
from agent.evolution.feedback.agreement import consistent, self_verified
from agent.evolution.feedback.base import Bench, Verdict
from agent.evolution.feedback.codet import agreeing
from agent.evolution.feedback.judges import by_principles, compared, rated_by_judge, rated_by_self
from agent.evolution.feedback.usefulness import useful
from agent.run import Run
from agent.worlds import require_programs
from memory.credit import generation_of
from memory.records import Note, Trajectory

JUDGES: dict[str, Callable[[Bench], dict[str, Verdict]]] = {
    "self-judge": rated_by_self,
    "judge": rated_by_judge,
    "pairwise": compared,
    "consistency": consistent,
    "self-verification": self_verified,
    "tests": agreeing,
    "constitution": by_principles,
    "usefulness": useful,
}


def check(run: Run) -> None:
    """Whether the configured feedback can be had.

    Raises:
        ConfigError: it is no such function, or runs programs where there are none.
    """
    if run.config.feedback.by != "environment":
        _judge(run)
    if run.config.feedback.by == "tests":
        require_programs(run, "feedback.by=tests")


def _judge(run: Run) -> Callable[[Bench], dict[str, Verdict]]:
    return found(run.config.feedback.by, JUDGES, "feedback.by", dict[str, Verdict])


def seen(run: Run, weights: str, experience: Sequence[Trajectory]) -> list[Trajectory]:
    """Tries with the reward and success that are learnt from, instead of the environment's.

    Those that broke stay as they are; those of which nothing could be said are left out. What a
    method of solving says of its own tries (``label``) holds whoever gives feedback.

    Args:
        run: the run; verdicts that it does not hold yet are made and stored.
        weights: version of the weights that judge, where the policy does.
        experience: tries of any generations; those of a task in one generation are judged
            together, where they are held against each other, beside those that were practised and
            judged in it before.
    """
    if run.config.feedback.by == "environment":
        if not run.ledger.count(Note, "verdict/"):
            return list(experience)
        return [t for each in experience if (t := _as_judged(run, each)) is not None]
    judged = [t for t in experience if t.failure is None and t.steps]
    for generation in sorted({generation_of(t.slot) for t in judged}):
        own = [t for t in judged if generation_of(t.slot) == generation]
        new = [t.slot for t in own if stored(run, t.slot) is None]
        if not new:
            continue
        beside = _practised(run, generation, {t.slot for t in own})
        verdicts = _judge(run)(Bench(run, generation, weights, [*beside, *own]))
        if left := [slot for slot in new if slot not in verdicts]:
            raise ConfigError(
                f"feedback.by={run.config.feedback.by}: gives no verdict on {len(left)} of "
                f"{len(new)} tries, {left[0]} among them; Verdict(None) is one that says nothing"
            )
        label(run, {slot: verdicts[slot] for slot in new})
    return [t for each in experience if (t := _as_judged(run, each)) is not None]


def _practised(run: Run, generation: int, but: Collection[str]) -> list[Trajectory]:
    """The other tries of a generation's practice that hold a verdict, as they were judged."""
    keys = run.ledger.keys(Note, f"verdict/{generation}/acquire/")
    slots = (key.removeprefix("verdict/") for key in keys)
    return [t for slot in slots if slot not in but and (t := run.done(slot)) is not None]


def label(run: Run, verdicts: Mapping[str, Verdict]) -> None:
    """Note what is said of tries, by slot; nothing else will judge them.

    What was said first holds: an episode that broke and is mended when a run is continued may have
    a method see the others in another light.
    """
    new = {slot: v for slot, v in verdicts.items() if stored(run, slot) is None}
    run.ledger.append_many([(f"verdict/{slot}", _note(v)) for slot, v in new.items()])


def stored(run: Run, slot: str) -> Verdict | None:
    """The verdict on a try; None if there is none yet."""
    note = run.ledger.get(Note, f"verdict/{slot}")
    if note is None:
        return None
    reward = note.data["reward"]
    return Verdict(None if reward is None else float(str(reward)), bool(note.data["success"]))


def _note(verdict: Verdict) -> Note:
    return Note(data={"reward": verdict.reward, "success": verdict.success})


def _as_judged(run: Run, t: Trajectory) -> Trajectory | None:
    verdict = stored(run, t.slot)
    if verdict is None:  # it broke, or nothing was done
        return t
    if verdict.reward is None:
        return None
    return t.model_copy(update={"reward": verdict.reward, "success": verdict.success})
