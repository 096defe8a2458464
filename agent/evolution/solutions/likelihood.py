"""How likely the policy finds what it wrote, under one prompt and under the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.evolution.solutions.base import Stage
from agent.training.packing import Example
from memory.records import Note, Trajectory

if TYPE_CHECKING:
    from agent.run import Run

Pair = tuple[Trajectory, Trajectory]


def preferred(stage: Stage, pairs: Sequence[Pair]) -> dict[str, float]:
    """How sure the policy is that the first of each pair is the better one, by the first's slot.

    DLMA's self-rewarding score, arXiv 2402.11907, §3.2: with a from the better prompt p+ and b
    from the worse p-, R = log π(a|p+)/π(a|p-) - log π(b|p+)/π(b|p-). Here it becomes a
    probability, 1/(1 + exp(-R)); there it is a margin in the loss, cut on both sides.
    """
    examples: dict[str, dict[str, Example]] = {}
    for a, b in pairs:
        of_weights = examples.setdefault(a.policy, {})  # of an adapter set the member that acted
        for t, own, other in ((a, a, b), (b, b, a)):
            of_weights[f"{t.slot} own"] = under(t, own)
            of_weights[f"{t.slot} other"] = under(t, other)
    found: dict[str, float] = {}
    for weights, of_weights in examples.items():
        found |= _scored(stage.run, stage.n, weights, of_weights)
    scores = {}
    for a, b in pairs:
        first = found[f"{a.slot} own"] - found[f"{a.slot} other"]
        second = found[f"{b.slot} other"] - found[f"{b.slot} own"]
        scores[a.slot] = 1 / (1 + math.exp(-max(-30.0, min(30.0, first - second))))
    return scores


def under(t: Trajectory, prompt: Trajectory) -> Example:
    """A try's ids behind the opening of another one of its task, or of its own."""
    ids, mask = list[int](), list[int]()
    for number, step in enumerate(t.steps):
        read = (prompt.steps[0] if not number else step).prompt_ids
        ids += [*read, *step.produced_ids]
        mask += [0] * len(read) + [1] * len(step.produced_ids)
    return Example(tuple(ids), tuple(mask), 1.0, t.slot)


def _scored(run: Run, n: int, weights: str, examples: dict[str, Example]) -> dict[str, float]:
    """Log-likelihoods by name, each computed once."""
    keys = {name: f"likelihood/{n}/{name}" for name in examples}
    notes = run.ledger.get_many(Note, list(keys.values()))
    missing = [name for name, key in keys.items() if key not in notes]
    if missing:
        values = likelihoods(run, weights, [examples[name] for name in missing])
        found = dict(zip(missing, values, strict=True))
        run.ledger.append_many((keys[k], Note(data={"score": v})) for k, v in found.items())
        notes = run.ledger.get_many(Note, list(keys.values()))
    return {name: float(str(notes[key].data["score"])) for name, key in keys.items()}


def likelihoods(run: Run, weights: str, examples: Sequence[Example]) -> list[float]:
    """The log-likelihood of each example's loss tokens, under a version of the weights."""
    from agent.policies.models import resolve_model
    from agent.policies.transformers import load_model, with_adapter
    from agent.training.objectives import Scorer, logprobs_of

    settings, adapter = run.config.policy, run.adapter(weights)
    _, network = load_model(
        resolve_model(settings.model), dtype=settings.dtype, device=settings.device
    )
    dtype, device = network.dtype, network.device
    if adapter is not None:
        network = with_adapter(network, adapter).eval()
    rows = run.config.update_weights.row_tokens
    found = logprobs_of(Scorer(network), examples, rows, dtype, str(device))
    return [float(own.sum()) for own in found]
