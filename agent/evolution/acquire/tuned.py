"""Tasks by a writer that was trained to write them (Ada-Instruct, arXiv 2310.04484, §3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from agent.engines import train_adapter
from agent.evolution.acquire.drafts import SYSTEM, Author, Draft, ask, first_task, note_of
from agent.evolution.update.merge import each_once
from agent.policies.base import Message
from agent.run_folder import BASE
from agent.training.packing import Example
from environments.base import Task
from memory.records import Note

ROLE = "writer"
WHAT = "ada-instruct"
TRAINED = f"member/{{n}}/{ROLE}/0"  # the note of its training
PASSES = 16  # over the few tasks that it learns from
HOT = 1.0  # a trained writer needs no demonstrations, and would write like ones greedily


def ada_instruct(author: Author) -> list[Draft]:
    """More tasks, by an adapter that was trained on a few instead of being shown them.

    Source: Ada-Instruct, §3: ten tasks are enough to train on, and what a trained model writes is
    longer and more like real tasks than what a prompted one writes. It is trained from the base,
    once a generation, on a few tasks of each family, and is asked for tasks of a family.
    """
    of_family: dict[str, list[Task]] = {}
    for task in author.seeds:
        of_family.setdefault(task.family, []).append(task)
    few = {
        family: author.chance("taught", family).sample(
            own, min(len(own), author.settings.demonstrations)
        )
        for family, own in sorted(of_family.items())
    }
    version = _writer(author, [task for own in few.values() for task in own])
    families = {str(i): author.some(i, 1)[0].family for i in range(author.settings.drafts)}
    questions = {key: _asked(family) for key, family in families.items()}
    said = ask(author, WHAT, questions, temperature=HOT, version=version)
    return [
        Draft(
            key=f"{WHAT}/{key}",
            prompt=first_task(text),
            family=families[key],
            how=WHAT,
            parents=tuple(task.id for task in few[families[key]]),
        )
        for key, text in said.items()
    ]


def _writer(author: Author, taught: Sequence[Task]) -> str:
    """Version of an adapter that writes such tasks; trained once."""
    run, n = author.run, author.n

    def train(taught: Sequence[Task], folder: Path, again: str, repeat: int) -> Mapping[str, Any]:
        lessons = [_lesson(author, i, task) for i, task in enumerate(taught)]
        described = {"generation": n, "parent": BASE, "role": ROLE, "objective": "sft"}
        label = f"generation {n} · train a writer on {len(lessons)} tasks{again}"
        return train_adapter(run, lessons * PASSES, folder, described, label, repeat)

    (version,), _ = each_once(run, n, ROLE, 1, partial(train, taught))
    return version


def _lesson(author: Author, number: int, task: Task) -> Example:
    """A task as what is written when one of its family is asked for; noted, for the lineage."""
    policy = author.run.policy(author.weights)
    source, text = note_of(author.n, f"{WHAT}-taught", str(number)), author.fields(task)["prompt"]
    if author.run.ledger.get(Note, source) is None:
        author.run.ledger.append(source, Note(data={"text": text, "tokens": 0, "task": task.id}))
    opened: list[Message] = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": _asked(task.family)},
    ]
    prompt = policy.encode(opened)
    whole = policy.encode([*opened, {"role": "assistant", "content": text}])
    whole = (*whole, policy.extend(whole, ".", "")[len(whole)])  # and there it ends
    mask = (0,) * len(prompt) + (1,) * (len(whole) - len(prompt))
    return Example(whole, mask, 1.0, source, policy=BASE, task=task.id)


def _asked(family: str) -> str:
    return f"Write a task ({family})."
