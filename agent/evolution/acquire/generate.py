"""Tasks that a run makes up: written, held against all others, proved, noted, practised.

They are train tasks and nothing else: an id of the train split is chosen for each, and what is
too much like a task of any other split is dropped, as is what is too much like a train task.
Nothing is written from a task that the suite does not vouch for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agent.choices import found
from agent.config import ConfigError
from agent.evolution.acquire import free, knowledge
from agent.evolution.acquire.absolute_zero import absolute_zero
from agent.evolution.acquire.drafts import PLACE, Author, Draft, note_of
from agent.evolution.acquire.near import Shelf, like_any, measured
from agent.evolution.acquire.proof import proved
from agent.evolution.acquire.select import tally
from agent.evolution.acquire.tuned import TRAINED, ada_instruct
from agent.made_tasks import MADE, Made, notes_of
from agent.run import Run
from environments.base import Task
from environments.splits import split_of
from memory.records import Generation, Note, Trajectory

WRITERS: dict[str, Callable[[Author], list[Draft]]] = {
    "self-instruct": free.self_instruct,
    "evol-instruct": free.evol_instruct,
    "metamath": free.metamath,
    "code-llama": free.code_llama,
    "backtranslation": free.backtranslation,
    "ada-instruct": ada_instruct,
    "promptbreeder": free.promptbreeder,
    "documents": knowledge.documents,
    "tools": knowledge.tools,
    "schema": knowledge.schema,
    "absolute-zero": absolute_zero,
}
NEEDS: dict[str, frozenset[str]] = {  # what a suite's tasks have to be graded by
    "metamath": frozenset({"answer"}),
    "code-llama": frozenset({"tests", "solution"}),
    "documents": frozenset({"answer"}),
    "schema": frozenset({"database", "schema", "query"}),
    "absolute-zero": frozenset({"program", "inputs", "outputs"}),
}


def check(run: Run) -> None:
    """Whether the suite takes such tasks as are to be made up.

    Raises:
        ConfigError: it does not; or there is nothing to make them from.
    """
    settings, name = run.config.acquire.generate, run.config.suite.name
    if settings.how == "none":
        return
    how = f"acquire.generate.how={settings.how}"
    _writer(run)
    if not (hasattr(run.suite, "spawn") and hasattr(run.suite, "fields")):
        raise ConfigError(
            f"{how}: the suite {name} takes no tasks that are made up; give it the methods "
            "fields(task) and spawn(fields), or set acquire.generate.how=none"
        )
    author = _author(run, 0, "", {}, [])
    if not author.seeds:
        raise ConfigError(f"{how}: the suite {name} vouches for none of its train tasks")
    needed = NEEDS.get(settings.how, author.form)
    if needed != author.form:
        raise ConfigError(
            f"{how}: it makes tasks that are graded by {_and(needed)}; those of the suite {name} "
            f"are graded by {_and(author.form)}"
        )
    learns = run.config.update_weights
    if settings.how == "ada-instruct" and not (learns.enabled and learns.objective == "sft"):
        raise ConfigError(
            f"{how}: it trains a writer, which needs update_weights.enabled=true and "
            "update_weights.objective=sft"
        )
    if settings.how == "absolute-zero" and learns.objective not in ("weighted", "grpo"):
        raise ConfigError(
            f"{how}: a proposal is learnt by its reward, which needs update_weights.objective="
            "weighted or grpo"
        )
    if settings.how == "absolute-zero" and learns.adapters == "per-group":
        raise ConfigError(
            f"{how}: a proposal belongs to no group of tasks, so it needs "
            "update_weights.adapters=one"
        )
    if settings.how == "documents":
        folder, kinds = Path(settings.documents), ", ".join(knowledge.KINDS)
        if settings.documents and not folder.is_dir():
            raise ConfigError(f"acquire.generate.documents={folder}: there is no such folder")
        if not settings.documents:
            raise ConfigError(f"{how}: set acquire.generate.documents=FOLDER, a folder of {kinds}")
        if not knowledge.passages(folder, settings.passage):
            raise ConfigError(
                f"acquire.generate.documents={folder}: there are no texts ({kinds}) in it"
            )


def generated(run: Run, n: int, incumbent: Generation, experience: Sequence[Trajectory]) -> None:
    """Make a generation's tasks up, once; ``run.made`` has them then.

    Args:
        run: the run.
        n: the generation.
        incumbent: whose weights write and try.
        experience: all tries so far.
    """
    settings = run.config.acquire.generate
    if settings.how == "none" or run.ledger.get(Note, f"{MADE}{n}") is not None:
        return
    author = _author(run, n, incumbent.weights, incumbent.objective, experience)
    written = _writer(run)(author)
    fresh, dropped = _fresh(author, written)
    taken: list[Made] = []
    while fresh and len(taken) < settings.count:
        some, fresh = fresh[: settings.count], fresh[settings.count :]
        for draft, proof in zip(some, proved(author, some), strict=True):
            why = proof.told if proof.task is None else ""
            if proof.task is not None and proof.task.family in run.config.suite.unseen:
                why = "is of a family that only the test meets"
            if why or len(taken) == settings.count:
                dropped[why or "one more than wanted"] += 1
                continue
            assert proof.task is not None
            key = note_of(n, *draft.key.partition("/")[::2])
            vouched = settings.how != "documents" or settings.vouched
            taken.append(
                Made(
                    proof.task, draft.how, n, draft.parents, draft.source,
                    key if run.ledger.get(Note, key) else "", vouched, proof.told, draft.told,
                )
            )  # fmt: skip
    dropped["not looked at, enough were sound"] += len(fresh)
    account: dict[str, Any] = {
        "how": settings.how,
        "drafts": len(written),
        "dropped": {why: count for why, count in sorted(dropped.items()) if count},
        "taken": len(taken),
    }
    run.ledger.append_many(notes_of(n, account, taken))


def _writer(run: Run) -> Callable[[Author], list[Draft]]:
    return found(run.config.acquire.generate.how, WRITERS, "acquire.generate.how", list[Draft])


def account(run: Run, n: int) -> dict[str, Any]:
    """What a generation made up, as its details tell it; {} where nothing was to be."""
    note = run.ledger.get(Note, f"{MADE}{n}")
    if note is None:
        return {}
    tried = [t for _, t in run.ledger.all(Trajectory, f"{n}/acquire/") if t.task in run.made]
    tries = {"tries": len(tried), "solved": sum(t.success for t in tried)}
    return {"generated": dict(note.data) | tries}


class Tokens(NamedTuple):
    """What making tasks up cost.

    Args:
        said: what was written.
        all: that, the tries of the new tasks, and what a writer's training read.
    """

    said: int
    all: int


def tokens(run: Run, n: int) -> Tokens:
    """Tokens that it took to make a generation's tasks up."""
    notes = run.ledger.all(Note, f"said/{n}/{PLACE}/")
    said = sum(int(str(note.data["tokens"])) for _, note in notes)
    trained = run.ledger.get(Note, TRAINED.format(n=n))
    read = int(str(trained.data["tokens"])) if trained else 0
    return Tokens(said, said + run.tokens(f"{n}/made/") + read)


def _author(
    run: Run,
    n: int,
    weights: str,
    objective: dict[str, float],
    experience: Sequence[Trajectory],
) -> Author:
    seeds = [t for t in run.tasks("train") if t.id not in run.made and run.vouched(t.id)]
    own = {task.id for task in seeds} | run.made.keys()
    tries = [t for t in experience if t.task in own]
    return Author(run, n, weights, objective, seeds, list(run.made.values()), tries, tally(tries))


def _fresh(author: Author, drafts: Sequence[Draft]) -> tuple[list[Draft], Counter[str]]:
    """Drafts that are like no other task and no other draft; how many were dropped, and why."""
    run = author.run

    def said(task: Task) -> str:
        return author.fields(task)["prompt"]

    texts = [said(task) for task in run.suite.tasks() if split_of(task.id) == "train"]
    texts += [made.told or made.task.prompt for made in author.made]
    novel = Shelf(texts, author.settings.novel, run.memory.embedder.embed)
    shelves = {"a task that is measured": measured(run, said), "a train task": [novel]}
    dropped: Counter[str] = Counter()
    fresh = []
    for draft in drafts:
        told = draft.told or draft.prompt
        why = draft.lost or ("" if draft.prompt else "is no task")
        for other, own in shelves.items():
            like = "" if why else like_any(told, own)
            why = why or (f"like {other} ({like})" if like else "")
        if why:
            dropped[why] += 1
        else:
            novel.add(told)
            fresh.append(draft)
    return fresh, dropped


def _and(names: frozenset[str]) -> str:
    return " and ".join(sorted(names)) or "nothing that can be written"
