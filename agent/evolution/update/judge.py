"""The learned verifier of a run: trained beside the policy, asked in the final test.

Its training is V-STaR's (arXiv 2402.06457), and its weights are WARM's mean (2401.12187).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from agent.engines import SEED_APART
from agent.evolution.refine import Solution, solves
from agent.evolution.update.lessons import pairs
from agent.evolution.update.merge import each_once
from agent.evolution.update.weights import conversations
from agent.report.terminal import phase
from agent.run import Run
from agent.run_folder import BASE, RunError, adapter_notes, config_hash, pruned
from agent.training.verifier import average, best_of_n, load_verifier, train_verifier
from memory.ledger import Ledger
from memory.records import Note, StopReason, Trajectory

ROLE = "verifier"


def new_verifier(
    run: Run,
    n: int,
    weights: str,
    solutions: Sequence[Solution],
    experience: Sequence[Trajectory],
) -> str:
    """A generation's verifier, trained once; why there is none, in a sentence, or "".

    Args:
        run, n: the run and the generation.
        weights: version of who acted in it; its tokeniser is used.
        solutions: what is worth learning; none by strangers.
        experience: all trajectories so far, failures included; none by strangers.
    """
    settings = run.config.update_weights
    if not settings.verifier.enabled:
        return ""
    if (note := run.ledger.get(Note, f"verifier/{n}")) is not None:
        return str(note.data.get("why", ""))
    tried = [t for t in experience if t.failure is None and t.steps and t.split == "train"]
    failed = [t for t in tried if not solves(t, run.config.refine, n)]
    policy = run.policy(weights)
    sequences = partial(conversations, policy=policy, prompt="bare")
    lessons = pairs([s.trajectory for s in solutions], failed, sequences, settings.dpo)
    if lessons.total < settings.min_examples:
        return (
            f"no verifier: {lessons.total} pairs of a solved and a failed try, "
            f"update_weights.min_examples is {settings.min_examples}"
        )
    from agent.policies.models import model_identity, resolve_model

    model = resolve_model(run.config.policy.model)
    dtype, device = run.config.policy.dtype, run.config.policy.device
    described = {
        "generation": n, "parent": BASE, "role": ROLE, "objective": "dpo",
        "model": model_identity(model), "config": config_hash(run.folder),
    }  # fmt: skip

    def train(folder: Path, again: str, repeat: int) -> Mapping[str, Any]:
        label = f"generation {n} · train the verifier on {lessons.total} pairs{again}"
        with phase(run.console, label, None, quiet=run.quiet) as meter:
            made = train_verifier(
                model, lessons.examples, settings, folder,
                seed=run.config.seed + SEED_APART * repeat,
                manifest=described, dtype=dtype, device=device,
            )  # fmt: skip
            meter.advance(1, int(made["tokens"]))
        return made

    try:
        versions, tokens = each_once(run, n, ROLE, settings.verifier.members, train)
    except FloatingPointError as error:
        run.ledger.append(f"verifier/{n}", Note(data={"version": "", "why": str(error)}))
        return str(error)
    version = versions[0]
    if len(versions) > 1:
        folders = list(filter(None, map(run.adapter, versions)))
        target = run.generation_folder(n) / f"{ROLE}-mean"
        made = average(model, folders, target, manifest=described, dtype=dtype, device=device)
        run.ledger.append_many(adapter_notes(run.folder, run.ledger, target))
        version = str(made["version"])
    run.ledger.append(f"verifier/{n}", Note(data={"version": version, "tokens": tokens}))
    return ""


def latest(ledger: Ledger) -> str:
    """Version of the newest verifier that there is; "" for none."""
    found = [
        (int(key.split("/")[1]), str(note.data["version"]))
        for key, note in ledger.all(Note, "verifier/")
    ]
    return max((pair for pair in found if pair[1]), default=(0, ""))[1]


def by_verifier(
    run: Run, groups: Mapping[str, Sequence[Trajectory]]
) -> tuple[str, dict[str, float]]:
    """The verifier's version, and of each task whether the sample that it picks is right.

    What a sample is given is noted, task by task, so it is asked once.

    Args:
        run: whose verifier.
        groups: samples by task.

    Raises:
        RunError: the run has no verifier.
    """
    version = latest(run.ledger)
    if not version or pruned(run.folder, run.ledger, version):
        why = "was pruned" if version else "was never trained (too few pairs, see generations)"
        raise RunError(
            f"test.best_of_pick=verifier: the verifier {why}; test in a run with "
            "test.best_of_pick=majority"
        )
    scored: dict[str, float] = {}
    missing: dict[str, list[Trajectory]] = {}
    answers = {
        task: [t for t in own if t.failure is None and t.stop is StopReason.TERMINATED]
        for task, own in groups.items()
    }
    for task, own in answers.items():
        keys = {f"score/{version}/{t.slot}": t.slot for t in own}
        notes = run.ledger.get_many(Note, keys)
        scored |= {keys[key]: float(str(note.data["score"])) for key, note in notes.items()}
        if len(notes) < len(keys):
            missing[task] = [t for t in own if t.slot not in scored]
    scored |= _rank(run, version, missing) if missing else {}
    best = best_of_n([t for own in answers.values() for t in own], scored)
    return version, {task: float(task in best and best[task].success) for task in groups}


def _rank(run: Run, version: str, groups: Mapping[str, Sequence[Trajectory]]) -> dict[str, float]:
    """What the verifier gives trajectories, by slot; stored task by task."""
    from agent.policies.models import resolve_model

    policy, settings = run.policy(BASE), run.config.policy
    folder = run.adapter(version)
    assert folder is not None
    given: dict[str, float] = {}
    with phase(run.console, "test · the verifier ranks", len(groups), quiet=run.quiet) as meter:
        judge = load_verifier(
            resolve_model(settings.model),
            folder,
            row_tokens=run.config.update_weights.row_tokens,
            dtype=settings.dtype,
            device=settings.device,
        )
        for own in groups.values():
            found = judge([e for t in own for e in conversations(t, policy, whole=True)])
            run.ledger.append_many(
                (f"score/{version}/{slot}", Note(data={"score": value}))
                for slot, value in found.items()
            )
            given |= found
            meter.advance(1, 0)
    return given
