"""The kinds of memory item: what each is, how it is shown, and how it enters memory."""

from __future__ import annotations

from typing import Literal, NamedTuple

from memory.records import Kind, Status, Trust


class KindOf(NamedTuple):
    """What is true of all items of a kind.

    Args:
        says: what it is, in a few words.
        shown: how it stands in a prompt: as an ``episode`` (turns of the conversation), as a
            ``note`` (one line before the task), as ``code`` (a block before the task), or in the
            ``system`` prompt.
        unit: what an item of it is about: one ``task``, or what many tasks have in common.
        stored: whether it is kept beyond its task.
    """

    says: str
    shown: Literal["episode", "note", "code", "system"]
    unit: Literal["task", "many"]
    stored: bool = True


KINDS: dict[Kind, KindOf] = {
    Kind.EXEMPLAR: KindOf("a verified episode, stored whole", "episode", "task"),
    Kind.REFLECTION: KindOf("what went wrong in a failed episode, and why", "note", "task"),
    Kind.INSIGHT: KindOf("a rule, with its evidence for and against", "note", "many"),
    Kind.SKILL: KindOf("code or a workflow that passed in the sandbox", "code", "many"),
    Kind.FACT: KindOf("what is so, until something supersedes it", "note", "many"),
    Kind.WORKING: KindOf("what to mind in the next try of one task", "note", "task", stored=False),
    Kind.DRAFT: KindOf("an earlier try of the task at hand", "code", "task", stored=False),
    Kind.INSTRUCTION: KindOf(
        "what the configuration says in one try of a task", "system", "task", stored=False
    ),
}


BEFORE_TASK = ("note", "code")  # how those are shown that stand before the task


def status_at_birth(kind: Kind, trust: Trust) -> Status:
    """Where a new item begins.

    What an environment verified speaks for itself: an episode that was graded, code that
    passed. Words are on trial until tasks were solved with them.
    """
    proved = KINDS[kind].shown != "note" and trust is Trust.VERIFIED
    return Status.ACTIVE if proved else Status.SHADOW
