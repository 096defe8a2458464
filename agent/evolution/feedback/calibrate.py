"""Whether a judge can be believed: what it says beside what the verifier says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from agent.evolution.feedback.verdicts import stored
from agent.run import Run
from agent.stats import rate
from memory.records import Trajectory


def calibration(run: Run, generation: int) -> dict[str, object]:
    """A judge's agreement with the environment on a generation's train tries; {} without judge.

    Returns:
        ``by``; ``tries`` judged and ``undecided``; ``agreement``, the share of tries of which
        both say the same, with a 95 % interval over tasks (tries of one task are alike); Cohen's
        ``kappa``, agreement beyond chance (doi:10.1177/001316446002000104), None where either
        says the same of all; ``believed`` and ``verified``, the shares called solutions.
    """
    by = run.config.feedback.by
    if by == "environment":
        return {}
    said: list[tuple[str, bool, bool]] = []
    undecided = 0
    for _, t in run.ledger.all(Trajectory, f"{generation}/acquire/"):
        verdict = stored(run, t.slot)
        if t.failure is not None or verdict is None or not run.vouched(t.task):
            continue
        if verdict.reward is None:
            undecided += 1
        else:
            said.append((t.task, verdict.success, t.success))
    told: dict[str, object] = {"by": by, "tries": len(said), "undecided": undecided}
    if not said:
        return {"feedback": told}
    tasks = sorted({task for task, _, _ in said})
    same = [fmean(float(a == b) for task, a, b in said if task == own) for own in tasks]
    agreement = rate(same)
    return {
        "feedback": told
        | {
            "agreement": agreement.model_dump(mode="json"),
            "kappa": kappa([(a, b) for _, a, b in said]),
            "believed": fmean(float(a) for _, a, _ in said),
            "verified": fmean(float(b) for _, _, b in said),
        }
    }


def apart(run: Run, generation: int, tokens: Mapping[str, int]) -> dict[str, int]:
    """Tokens per phase, what feedback and corrections were asked told apart from the update."""
    asked = sum(run.said_tokens(f"{generation}/{what}/") for what in ("feedback", "correct"))
    if not asked:
        return dict(tokens)
    first = {"acquire": tokens["acquire"], "refine": asked}
    return first | dict(tokens) | {"update": tokens["update"] - asked}


def kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Cohen's kappa of two raters; None where chance alone would have them agree always."""
    n = len(pairs)
    first, second = sum(a for a, _ in pairs) / n, sum(b for _, b in pairs) / n
    observed = sum(a == b for a, b in pairs) / n
    expected = first * second + (1 - first) * (1 - second)
    return None if expected == 1 else (observed - expected) / (1 - expected)
