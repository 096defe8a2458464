"""In-context update: what was experienced becomes a candidate memory.

Writers turn episodes into items and edits, consolidation decides what of all that memory should
hold. What comes of it is a snapshot beside the incumbent's; the gate decides between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict

from agent.evolution.acquire import TRY
from agent.evolution.refine import Solution, refine
from agent.evolution.update.provenance import believed, hearsay
from agent.evolution.update.writers import WriteSettings, write
from agent.evolution.update.writers.base import Edit, Situation, Written
from memory import history
from memory.consolidation.consolidate import ConsolidationSettings, consolidate
from memory.consolidation.draft import LIVING, Draft
from memory.consolidation.edit import combine, downvote, revise, upvote
from memory.credit import evidence
from memory.embed import Vectors
from memory.records import (
    Generation,
    MemoryChange,
    MemoryItem,
    MemorySnapshot,
    Status,
    Trajectory,
)

if TYPE_CHECKING:
    from agent.run import Run


class MemoryUpdateSettings(BaseModel):
    """What enters memory and what of it stays.

    Args:
        enabled: off leaves memory empty (weights-only evolution).
        write: what is written from a generation's episodes.
        consolidation: what memory keeps, and how much.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    write: WriteSettings = WriteSettings()
    consolidation: ConsolidationSettings = ConsolidationSettings()


class Proposal(NamedTuple):
    """Two snapshots: what the gate is to decide on, and what needs no gate.

    Args:
        memory: the candidate.
        trial: the incumbent's memory with items on trial brought up to date, which no agent
            sees when it counts, and without what did harm; it goes live either way.
    """

    memory: str
    trial: str


def written(
    run: Run,
    n: int,
    incumbent: Generation,
    experience: Sequence[Trajectory],
    solutions: Sequence[Solution],
) -> Written:
    """What the writers make of a generation's episodes, asking the incumbent's policy.

    Args:
        run: the run.
        n: the generation.
        incumbent: whose policy is asked.
        experience: all episodes.
        solutions: what is worth learning of those that are vouched for. What strangers bring is
            written from apart, so that it takes the place of nothing else.
    """
    from agent.evolution.feedback.verdicts import stored

    settings = run.config.update_memory
    if not settings.enabled:
        return Written([], [])
    recent = [t for t in experience if t.slot.startswith(f"{n}/") and t.failure is None]
    situation = Situation(
        run=run,
        generation=n,
        weights=incumbent.weights,
        recent=[t for t in recent if run.vouched(t.task)],
        solutions=solutions,
        keys={task.id: task.prompt for task in run.tasks("train")},
        known=history.items(run.ledger, incumbent.memory, LIVING),
    )
    own = write(situation, settings.write)
    own = believed(own, lambda slot: stored(run, slot) is not None)
    strange = [t for t in experience if not run.vouched(t.task)]
    if not strange:
        return own
    theirs = situation._replace(
        recent=[t for t in recent if not run.vouched(t.task)],
        solutions=refine(strange, run.config.refine),
    )
    return Written([*own.items, *hearsay(write(theirs, settings.write))], own.edits)


def proposed(
    run: Run,
    n: int,
    incumbent: Generation,
    weights: str,
    new: Written,
    experience: Sequence[Trajectory],
) -> Proposal:
    """The candidate memory; the incumbent's where nothing changes."""
    if not run.config.update_memory.enabled:
        return Proposal(incumbent.memory, incumbent.memory)
    settings = run.config.update_memory.consolidation
    state = history.state(run.ledger, incumbent.memory)
    known = {i.id: i for i in history.items(run.ledger, incumbent.memory, tuple(Status))}
    draft = Draft.begin(n, known, state, _vectors(run, known, new.items))
    trial = settings.admit is None or settings.admit.trial
    draft = edited(draft, new.edits, {t.slot: t.task for t in experience}, trial=trial)
    proof = evidence(
        # What a further try did, it did with notes that others had not.
        [t for t in experience if TRY not in t.slot and run.vouched(t.task)],
        {i: change.worth for i, change in draft.state.items()},
        draft.items.values(),
        settings.credit,
    )
    count = run.memory.counter(weights)
    draft = consolidate(draft, new.items, proof, settings, count)
    run.memory.add(draft.new_items())
    ungated = remembered(run, n, incumbent.memory, draft.ungated())
    memory = remembered(run, n, incumbent.memory, draft.changes())
    return Proposal(memory, ungated)


def edited(
    draft: Draft, edits: Sequence[Edit], task_of: Mapping[str, str], *, trial: bool = True
) -> Draft:
    """A draft with the policy's votes and revisions; an item that is gone is passed over.

    Args:
        draft: the memory.
        edits: in order.
        task_of: by slot, the tasks of the episodes behind them.
        trial: whether new words begin on trial; else they stand as what they replace stood.
    """
    for edit in edits:
        items = [edit.item, *edit.others]
        if any(draft.state[i].status not in LIVING for i in items):
            continue  # voted out or revised by an earlier edit
        status = None if trial else draft.state[edit.item].status
        if edit.does == "agree":
            draft = upvote(draft, edit.item, edit.because)
        elif edit.does == "disagree":
            draft = downvote(draft, edit.item, edit.because)
        elif edit.does == "combine":
            draft = combine(draft, items, edit.text, content=edit.content, status=status)
        else:
            tasks = [task_of[slot] for slot in edit.because]
            draft = revise(
                draft, edit.item, edit.text, sources=edit.because, tasks=tasks, status=status
            )
    return draft


def remembered(run: Run, n: int, parent: str, changes: Sequence[MemoryChange]) -> str:
    """Id of the snapshot with these changes; the parent's where there are none."""
    if not changes:
        return parent
    snapshot = MemorySnapshot(parent=parent, generation=n, changes=tuple(changes))
    run.ledger.append(snapshot.id, snapshot)
    return snapshot.id


def _vectors(
    run: Run, known: dict[str, MemoryItem], new: Sequence[MemoryItem]
) -> dict[str, Vectors]:
    """The keys' vectors of the items that are there and of the new ones."""
    vectors: dict[str, Vectors] = {}
    if known:
        vectors |= zip(known, run.memory.index.vectors(list(known)), strict=True)
    if new:
        embedded = run.memory.embedder.embed([item.key for item in new])
        vectors |= zip((item.id for item in new), embedded, strict=True)
    return vectors
