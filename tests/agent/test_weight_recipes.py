"""Recipes that train otherwise: rehearsal, regularisation, merges, groups, verifiers, objectives.

Each evolves with and without its mechanism. What is seen of data is seen with a script for a
policy; what is seen of weights, with a real model of a few thousand parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from agent.evolution.final import best_of_n, both_of_n
from agent.evolution.update.judge import latest
from agent.run import Run
from agent.run_folder import BASE
from memory.records import COMPOSED, Note, Trajectory
from tests.agent.methods import Evolved, Row, Run_, needs_its_mechanism, runs
from tests.agent.test_mechanisms import every
from tests.agent.test_merging import NARROW, changes
from tests.tiny import tiny_model

Told = dict[str, Any]


# --- what is seen of a run ---


def adapter(run: Evolved, version: str) -> tuple[Path, Told]:
    """Folder and manifest of an adapter."""
    note = run.ledger.get(Note, f"adapter/{version}")
    assert note is not None
    told: Any = note.data["manifest"]
    return run.folder / str(note.data["folder"]), told


def last(run: Evolved) -> Told:
    """The manifest of the weights that the last generation proposed."""
    candidate: Any = run.generations[-1].details["candidate"]
    return adapter(run, candidate["weights"])[1]


def sources(run: Evolved) -> list[Trajectory]:
    found = (run.ledger.get(Trajectory, slot) for slot in last(run)["sources"])
    return [t for t in found if t is not None]


def own_words(run: Evolved) -> bool:
    """Each solution that the model could say in its own words is learnt in these."""
    played = run.episodes("1/probe/rewrite/")
    right = {t.slot for t in played if t.success}
    told = {t.slot.split("/rewrite/")[1] for t in played if t.success}
    used = set(last(run)["sources"])
    return bool(right) and right <= used and not told & used


def what_was_wrong(run: Evolved) -> bool:
    """The student's own new tries of what it got wrong are learnt from, on top of the rest."""
    note = run.ledger.get(Note, "trained/1/student1")
    if note is None:
        return False
    student = adapter(run, str(note.data["version"]))[1]
    new = set(last(run)["sources"]) - set(student["sources"])
    again = [t for t in run.episodes("1/probe/student1/again/") if t.slot in new]
    return every(again, lambda t: t.success and t.policy == student["version"])


def by_the_base(
    run: Run, label: str, asked: Any, version: str, *more: Any, say: Any = Run.say, **named: Any
) -> dict[str, str]:
    """What `Run.say` gives, but what is rehearsed is the base's."""
    own = BASE if label.endswith("made-up tasks, answered") else version
    told: dict[str, str] = say(run, label, asked, own, *more, **named)
    return told


def taught(run: Evolved) -> dict[str, dict[str, int]]:
    """How many examples of each family a group's adapter has learnt, by group."""
    told = last(run)
    place = adapter(run, told["version"])[0] / "members"
    named = {"double": "Double", "next": "Which", "square": "Square"}
    found = {}
    for group, version in told.get("members", {}).items():
        text = (place / version / "learnt.json").read_text()
        found[group] = {family: text.count(f"<user>{word}") for family, word in named.items()}
    return found


def groups_apart(run: Evolved) -> bool:
    """Each adapter has learnt mostly its own group's tasks."""
    found = list(taught(run).items())
    return len(found) > 1 and every(found, lambda own: own[1][own[0]] > sum(own[1].values()) / 2)


def rehearses(run: Evolved) -> bool:
    """Each adapter has learnt some of another group's tasks."""
    return every(list(taught(run).values()), lambda counts: sum(map(bool, counts.values())) > 1)


def layers(run: Evolved, version: str) -> dict[str, torch.Tensor]:
    """What an adapter changes, layer by layer."""
    with Run(run.folder, quiet=True) as opened:
        model = Path(opened.config.policy.model)
    return changes(model, adapter(run, version)[0])


def merged_so(
    how: Callable[[list[torch.Tensor]], Callable[[torch.Tensor], bool]], narrow: bool = False
) -> Callable[[Evolved], bool]:
    """Whether each layer of the candidate is what a rule makes of its parents' layers.

    Where a merge has to be of less rank than it would need, only narrow layers are exact.
    """

    def seen(run: Evolved) -> bool:
        told = last(run)
        if len(told.get("parents", ())) < 2:
            return False
        whole = layers(run, told["version"])
        parents = [layers(run, version) for version in told["parents"]]
        names = [n for n, c in whole.items() if not narrow or min(c.shape) == NARROW]
        return every(names, lambda n: how([p[n] for p in parents])(whole[n]))

    return seen


def mean_of(parents: list[torch.Tensor]) -> Callable[[torch.Tensor], bool]:
    return lambda merged: torch.allclose(merged, torch.stack(parents).mean(0), atol=1e-5)


def ties_of(parents: list[torch.Tensor]) -> Callable[[torch.Tensor], bool]:
    """The largest 20 % of each; of those that have the sign of their sum, the mean."""
    kept = []
    for change in parents:
        least = change.abs().flatten().topk(int(0.2 * change.numel())).values[-1]
        kept.append(torch.where(change.abs() >= least, change, 0.0))
    stacked = torch.stack(kept)
    agrees = (stacked.sign() == stacked.sum(0).sign()) & (stacked != 0)
    mean = (stacked * agrees).sum(0) / agrees.sum(0).clamp(min=1)
    return lambda merged: torch.allclose(merged, mean, atol=1e-4)


def dare_of(parents: list[torch.Tensor]) -> Callable[[torch.Tensor], bool]:
    """Of each a tenth is left, ten times as large, then the mean."""
    a, b = (5 * change for change in parents)
    ways = torch.stack([torch.zeros_like(a), a, b, a + b])

    def seen(merged: torch.Tensor) -> bool:
        dropped = (merged.abs() < 1e-5).float().mean()
        return bool((ways - merged).abs().min(0).values.max() < 1e-3) and 0.7 < dropped < 0.9

    return seen


def tries(run: Evolved) -> list[float]:
    """How good each merge was that was tried."""
    found = run.ledger.all(Note, f"merge/{run.generations[-1].n}/")
    return [float(str(note.data["fitness"])) for _, note in found]


def searched(run: Evolved) -> bool:
    """Four merges were tried, and the best one is the candidate."""
    told = last(run)
    return len(tries(run)) == told.get("tries") == 4 and told["fitness"] == max(tries(run))


def greedy(run: Evolved) -> bool:
    """Each was tried alone, then with the best; what is taken is no worse than the best alone."""
    told, tried = last(run), tries(run)
    return len(tried) == 5 and told.get("fitness", max(tried[:3])) >= max(tried[:3])


def as_far_as_it_suits(run: Evolved) -> bool:
    """Each half of the layers goes its share of the way from the base, 0.8 on the mean."""
    told = last(run)
    if "merge" not in told:
        return False
    (parent,) = told["parents"]
    whole, part = layers(run, parent), layers(run, told["version"])
    shares: dict[str, set[float]] = {}
    for name, change in whole.items():
        share = float((part[name] * change).sum() / change.square().sum())
        assert torch.allclose(part[name], share * change, atol=1e-4)
        shares.setdefault(name.split(".layers.")[1][0], set()).add(round(share, 3))
    each = [share for own in shares.values() for share in own]
    return len(each) == len(shares) == 2 and abs(sum(each) / 2 - 0.8) < 0.01


def goes_back(run: Evolved) -> bool:
    """The loss on the same data rises again somewhere: training went back."""
    return any(after > before for before, after in pairwise(last(run)["losses"]))


def mean_verifier(run: Evolved) -> bool:
    """The verifier has the mean of the weights of several."""
    told = adapter(run, latest(run.ledger))[1]
    if len(told.get("parents", ())) < 2:
        return False
    whole = layers(run, told["version"])
    parents = [layers(run, version) for version in told["parents"]]
    return every(list(whole), lambda n: mean_of([p[n] for p in parents])(whole[n]))


def verifier_picks(run: Evolved) -> bool:
    """A verifier that learnt from right and wrong tries says which of several is taken."""
    with Run(run.folder, quiet=True) as opened:
        picked, _, cost = best_of_n(opened)
        learnt = adapter(run, latest(opened.ledger))[1]["sources"]
        of = {bool(t.success) for s in learnt if (t := opened.ledger.get(Trajectory, s))}
        scores = {
            key.split("/", 2)[2]: float(str(note.data["score"]))
            for key, note in opened.ledger.all(Note, "score/")
        }
        tried: dict[str, list[Trajectory]] = {}
        for _, t in opened.ledger.all(Trajectory, "best_of/"):
            tried.setdefault(t.task, []).append(t)
    if cost["pick"] != "verifier":
        return False
    best = {task: max(own, key=lambda t: scores[t.slot]) for task, own in tried.items()}
    assert len(set(scores.values())) > 1 and cost["samples"] > 1
    return of == {True, False} and picked == {task: t.success for task, t in best.items()}


def picks_for_the_evolved(run: Evolved) -> bool:
    """The evolved agent's answers, several a task, are what the verifier picks among."""
    with Run(run.folder, quiet=True) as opened:
        if not opened.config.test.evolved_samples:
            return False
        agent = opened.incumbent()
        assert agent is not None
        picked, cost = both_of_n(opened, agent)
        tried: dict[str, list[Trajectory]] = {}
        for _, t in opened.ledger.all(Trajectory, "both_of/"):
            tried.setdefault(t.task, []).append(t)
        played = {t.policy for own in tried.values() for t in own}
        scores = {
            key.split("/", 2)[2]: float(str(note.data["score"]))
            for key, note in opened.ledger.all(Note, "score/")
        }
    assert played == {agent.weights} and cost["samples"] == 3
    assert {len(own) for own in tried.values()} == {3}
    best = {task: max(own, key=lambda t: scores[t.slot]) for task, own in tried.items()}
    return cost["pick"] == "verifier" and picked == {k: t.success for k, t in best.items()}


# --- the table ---

HERE = "tests.agent.test_rehearsal"
ONE, TWO = "generations=1", "generations=2"
TOY = ("update_weights.min_examples=1", "acquire.first_tasks=6", "acquire.tasks=6",
       "agent.turns=1")  # fmt: skip
SMALL = ("acquire.first_tasks=8", "acquire.tasks=8", "acquire.temperatures=[1.5]",
         "acquire.samples=6")  # fmt: skip
MERGE = "update_weights.merge"
REPLAY = "update_weights.replay"

ROWS = [
    Row(
        "ssr", "made-up tasks are rehearsed",
        (*TOY, TWO, f"policy.model={HERE}:script",
         "acquire.generate.apart={rouge: 0.8, cosine: 2.0}"),
        (f"{REPLAY}.synthesised=0",),
        lambda run: any(slot.startswith("said/") for slot in last(run)["sources"]),
    ),
    Row(
        "ssr", "the newest weights answer what is rehearsed",
        (*TOY, TWO, f"policy.model={HERE}:script",
         "acquire.generate.apart={rouge: 0.8, cosine: 2.0}"),
        (Run, "say", by_the_base),
        lambda run: every(
            [n for key, n in run.ledger.all(Note, "said/2/synthesised/") if "/answer" in key],
            lambda note: "* 2" in note.data["text"],
        ),
    ),
    Row(
        "sdft", "solutions in its own words", (*TOY, ONE, f"policy.model={HERE}:script"),
        (f"{REPLAY}.rewrite=false",), own_words,
    ),
    Row(
        "llm2llm", "more of what the student gets wrong",
        (*TOY, ONE, f"policy.model={HERE}:forgetful", f"{REPLAY}.rounds=1"),
        (f"{REPLAY}.rounds=0",), what_was_wrong,
    ),
    Row(
        "conpet", "an adapter for each group", (*TOY, ONE), ("update_weights.adapters=one",),
        groups_apart,
    ),
    Row(
        "elastic-reset", "a policy gradient: what failed counts as well",
        (*TOY, ONE, "policy.model=tests.agent.pupils:half"), ("update_weights.objective=sft",),
        lambda run: {t.success for t in sources(run)} == {True, False},
    ),
    Row(
        "conpet", "a few of the others' examples are replayed", (*TOY, ONE),
        ("update_weights.groups.rehearsal=0",), rehearses,
    ),
    Row(
        "agentevol", "each trajectory as much as it earned",
        (*TOY, ONE, "suite.name=tests.agent.pupils:Scored",
         "policy.model=tests.agent.pupils:middling", "acquire.samples=2"),
        ("update_weights.objective=sft",),
        lambda run: {t.reward for t in sources(run)} == {0.75, 1.0},
    ),
    Row(
        "eto", "what solved a task against what failed at it",
        (*TOY, ONE, "policy.model=tests.agent.pupils:half"), ("update_weights.objective=sft",),
        lambda run: every(
            sources(run),
            lambda t: {o.success for o in sources(run) if o.task == t.task} == {True, False},
        ),
    ),
    Row(
        "eto", "it goes on from the last weights",
        (*TOY, TWO, "policy.model=tests.agent.pupils:half"), ("update_weights.begin=base",),
        lambda run: last(run)["parent"] == run.generations[1].weights,
    ),
    Row(
        "spin", "start and opponent are the last iteration's policy",
        (*TOY, TWO, "policy.model=tests.agent.pupils:half", "suite.name=tests.agent.pupils:Known"),
        ("update_weights.begin=base",),
        lambda run: last(run)["parent"] == run.generations[1].weights
        and {t.policy for t in sources(run) if t.phase != COMPOSED} == {last(run)["parent"]},
    ),
]  # fmt: skip

TRUE_ROWS = [
    Row(
        "model-soups", "the mean of several trainings", (*SMALL, ONE, f"{MERGE}.greedy=false"),
        (f"{MERGE}.how=none",), merged_so(mean_of),
    ),
    Row(
        "model-soups", "members that harm stay out", (*SMALL, ONE, f"{MERGE}.tasks=1"),
        (f"{MERGE}.greedy=false",), greedy,
    ),
    Row(
        "ties", "the largest changes, one sign for each", (*SMALL, TWO), (f"{MERGE}.how=soup",),
        merged_so(ties_of, narrow=True),
    ),
    Row(
        "dare", "most of a change is dropped, the rest enlarged", (*SMALL, TWO),
        (f"{MERGE}.how=soup",), merged_so(dare_of, narrow=True),
    ),
    Row(
        "evolutionary-merge", "the mixture is searched for",
        (*SMALL, TWO, f"{MERGE}.budget=4", f"{MERGE}.tasks=1"), (f"{MERGE}.how=ties",), searched,
    ),
    Row(
        "ama", "each group of layers goes as far as suits it",
        (*SMALL, ONE, f"{MERGE}.groups=2", f"{MERGE}.budget=4", f"{MERGE}.tasks=1"),
        (f"{MERGE}.how=none",), as_far_as_it_suits,
    ),
    Row(
        "elastic-reset", "training goes back to its average",
        (*SMALL, ONE, "update_weights.objective=sft", "update_weights.batch_rows=999",
         "update_weights.epochs=8", "update_weights.regularise.reset_every=3",
         "update_weights.learning_rate=0.005"),
        ("update_weights.regularise={ema: null, reset_every: null}",), goes_back,
    ),
    Row(
        "warm", "the mean of several verifiers",
        (*SMALL, ONE, "update_weights.verifier.members=2"), ("update_weights.verifier.members=1",),
        mean_verifier,
    ),
    Row(
        "v-star", "a verifier picks among answers", (*SMALL, ONE), ("test.best_of_pick=majority",),
        verifier_picks,
    ),
    Row(
        "v-star", "it picks for the evolved agent", (*SMALL, ONE, "test.evolved_samples=3"),
        ("test.evolved_samples=0",), picks_for_the_evolved,
    ),
]  # fmt: skip

run = pytest.fixture(scope="module")(runs)


@pytest.fixture(scope="module")
def true_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run_]:
    """A recipe's run with a real model, on words to choose."""
    folder = tmp_path_factory.mktemp("true")
    settings: Mapping[str, Any] = {
        "suite": {
            "name": "tests.agent.test_groups_true:Words",
            "tasks": {"train": 8, "gate": 2, "retention": 1, "test": 2},
        },
        "policy": {
            "model": str(tiny_model(folder / "model")), "context": 512, "slots": 8,
            "dtype": "float32", "device": "cpu",
        },
        "memory": {"embedder": "hash"},
        "acquire": {"heat": 1},
        "update_weights": {
            "min_examples": 1, "epochs": 4, "rank": 4, "learning_rate": 0.02,
            "checkpoint_seconds": None,
        },
        "test": {"best_of_max": 3},
    }  # fmt: skip
    (folder / "true.yaml").write_text(yaml.safe_dump(dict(settings)))
    yield from runs(folder / "true.yaml", tmp_path_factory)


def told(row: Row) -> str:
    return f"{row.recipe}: {row.mechanism}"


@pytest.mark.parametrize("row", ROWS, ids=told)
def test_without_its_mechanism_it_is_another_method(
    row: Row, run: Run_, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_its_mechanism(row, run, monkeypatch)


@pytest.mark.parametrize("row", TRUE_ROWS, ids=told)
def test_so_it_is_with_weights(row: Row, true_run: Run_, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_its_mechanism(row, true_run, monkeypatch)
