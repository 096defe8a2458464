"""The records everything else is made of: frozen, JSON-able, identified by their content.

Names are the field's: a *trajectory* is one episode of *steps*; a *memory item* is what
was kept of some; a *generation* is one set of memory and weights with the proof that it
was worth keeping. Nothing here is ever changed: a new state is a new record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator


def content_hash(value: Any) -> str:
    """SHA-256 (64 hex digits) of a JSON-able value in canonical form."""
    body = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(body.encode()).hexdigest()


class Record(BaseModel):
    """A frozen record; ``id`` is the first 16 hex digits of its content hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @cached_property
    def id(self) -> str:
        return content_hash(self.model_dump(mode="json"))[:16]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("id", None)  # that of the original
        return copied


CANARY = "canary"  # the phase of episodes with a task that nobody can solve; none is learnt from
REWRITE = "rewrite"  # that of episodes with a solution of their very task in view
COMPOSED = "composed"  # that of episodes whose turns were put together, not sampled in one go
CORRECTION = "correction"  # of composed ones whose prompt has the wrong try that they correct

MEMBER_OF = ":"  # stands between the version of an adapter set and that of its member that acts


class StopReason(StrEnum):
    """Why an episode ended; each trajectory has exactly one."""

    TERMINATED = "terminated"  # the task's own end
    TRUNCATED = "truncated"  # the environment's budget ran out
    TURNS = "turns"  # the agent's turn budget ran out
    CONTEXT = "context"  # the prompt outgrew the context window
    FAILED = "failed"  # something broke; see Failure
    ERASED = "erased"  # what was said is erased (see memory.erase); what it scored stays


class Failure(Record):
    """What broke an episode, and whose fault it was. Such an episode is never trained on."""

    source: Literal["agent", "environment", "sandbox", "policy"]
    message: str


class Frame(Record):
    """What stands around a task in the prompt, memory left aside.

    Args:
        system: the system prompt.
        example: the worked example, (task, answer).
        begin: what every turn of the policy begins with.
    """

    system: str = ""
    example: tuple[str, str] | None = None
    begin: str = ""


class Step(Record):
    """One turn: what was put before the policy, what it wrote, what the world answered.

    Args:
        token_ids: ids that the turn added to the conversation: first what the policy had not
            read yet (the opening, or the world's answer to the turn before), then what it
            generated; exactly as they went through the model, never re-tokenised. One step's
            ids after the other's are the whole conversation, unless one begins it anew.
        loss_mask: as long as ``token_ids``; 1 where the policy produced the token.
        logprobs: natural log-probability of each produced token, in order; as many as
            ``loss_mask`` has ones. Under the policy at temperature 1: over its vocabulary, or,
            where it chose among ``choices``, over the tokens with which one of them goes on.
            Empty where the engine does not say them (such a step is never trained on), and in
            turns that were put together.
        choices: the texts that the policy chose among; empty where it wrote freely.
        notes: ids of the memory items that were put before the world's last answer, if memory
            was read again during the episode.
        anew: where the conversation outgrew the context and begins anew with this step: how
            many of the turns before it still stand there. The step's ids are then all of it.
        policy: version of the weights that produced it.
        text: the policy's turn as text: what it was given to begin with, then the produced
            tokens.
        action: the parsed action, as JSON.
        observation: the world's answer.
        reward: reward of this step.
        error: short name of the tool's error, if there was one.
    """

    token_ids: tuple[int, ...]
    loss_mask: tuple[int, ...]
    logprobs: tuple[float, ...]
    choices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    anew: int | None = None
    policy: str
    text: str
    action: dict[str, JsonValue]
    observation: str
    reward: float = 0.0
    error: str | None = None

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        if len(self.token_ids) != len(self.loss_mask):
            raise ValueError("loss_mask must be as long as token_ids")
        if self.logprobs and sum(self.loss_mask) != len(self.logprobs):
            raise ValueError("logprobs must have one entry per produced token")
        return self

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return tuple(t for t, m in zip(self.token_ids, self.loss_mask, strict=True) if not m)

    @property
    def produced_ids(self) -> tuple[int, ...]:
        return tuple(t for t, m in zip(self.token_ids, self.loss_mask, strict=True) if m)


class Trajectory(Record):
    """One episode.

    Args:
        slot: where it stands in the run (``3/acquire/<task>/2``); unique, so an episode is
            run and counted once however often the process dies.
        task, suite, family, split: the task's id and where it belongs.
        phase: acquire, composed, canary, probe, gate, retention, test …
        policy: version of the weights it began and ended with; of an adapter set also the
            member that acted, ``SET:MEMBER``.
        memory: id of the memory snapshot it could read ("" for none).
        recalled: ids of the memory items that stood in its prompts.
        recollections: ids of the `Recollection` records behind them, one per look, in order.
        frame: what stood around the task in its prompt.
        temperature, hot_tokens, heat, seed: how it was sampled (temperature 0: greedy; the
            first ``hot_tokens`` of a turn at ``heat`` times the temperature).
        prompt: the first observation, without memory.
        reward: reward of the last step; ``success`` is whether it reached full reward.
    """

    slot: str
    task: str
    suite: str
    family: str
    split: str
    phase: str
    policy: str
    memory: str = ""
    recalled: tuple[str, ...] = ()
    recollections: tuple[str, ...] = ()
    frame: Frame = Frame()
    temperature: float = 0.0
    hot_tokens: int = 0
    heat: float = 1.0
    seed: int = 0
    prompt: str = ""
    steps: tuple[Step, ...] = ()
    reward: float = 0.0
    success: bool = False
    stop: StopReason = StopReason.TERMINATED
    failure: Failure | None = None
    metrics: dict[str, float] = Field(default_factory=dict)

    @property
    def weights(self) -> str:
        """The version that a generation knows these weights by: a set's, not its member's."""
        return self.policy.partition(MEMBER_OF)[0]

    @property
    def produced_tokens(self) -> int:
        """Tokens that the policy wrote, those since erased included.

        What was put together counts where it was written.
        """
        if self.phase in (COMPOSED, CORRECTION):
            return 0
        return sum(sum(s.loss_mask) for s in self.steps) + int(self.metrics.get("erased_tokens", 0))

    @property
    def turns(self) -> tuple[Step, ...]:
        """The steps that did something: all without an error (the last one if there is none).

        An action with an error changed nothing in the world, so without it the episode would
        have gone the same way.
        """
        return tuple(step for step in self.steps if step.error is None) or self.steps[-1:]


class Kind(StrEnum):
    """Kinds of memory item; what each is and how it is shown stands in ``memory.kinds``."""

    EXEMPLAR = "exemplar"
    REFLECTION = "reflection"
    INSIGHT = "insight"
    SKILL = "skill"
    FACT = "fact"
    WORKING = "working"
    DRAFT = "draft"
    INSTRUCTION = "instruction"


class Status(StrEnum):
    """Where a memory item stands in a snapshot.

    What the weights have absorbed is no status of its own: it depends on the weights that read
    (see `MemoryChange.absorbed_by` and `standing`).
    """

    SHADOW = "shadow"  # on trial: shown while learning, never when it counts
    ACTIVE = "active"
    RETIRED = "retired"  # did not earn its place; its text may come again with new evidence
    QUARANTINED = "quarantined"  # did harm or comes from what did; never shown, never taken again


class Trust(StrEnum):
    """How sure it is that an item is right, by where it comes from; most trusted first."""

    VERIFIED = "verified"  # an environment graded the episode
    JUDGED = "judged"  # the policy's own words
    UNTRUSTED = "untrusted"  # text of a tool, a web page, an import


def least(trusts: Iterable[Trust]) -> Trust:
    """What may be trusted of something made from several: the least of its parents' trust."""
    order = list(Trust)
    return max(trusts, key=order.index, default=Trust.UNTRUSTED)


class MemoryItem(Record):
    """Something worth remembering.

    Args:
        kind: what sort of thing it is.
        text: what it says, as shown in a prompt.
        key: the text whose embedding finds it again (the task's prompt, say).
        content: the parts that prompts and tools need, by name.
        sources: slots of the trajectories it was made from.
        tasks: ids of the tasks it was made from; never recalled for those while learning.
        family: the family of those tasks; "" for what holds in any.
        trust: the minimum of its parents'.
        born: the generation that made it.
        made: how it came to be.
        parents: ids of the items it was made from.
    """

    kind: Kind
    text: str
    key: str
    content: dict[str, JsonValue] = Field(default_factory=dict)
    sources: tuple[str, ...]
    tasks: tuple[str, ...]
    family: str
    trust: Trust = Trust.VERIFIED
    born: int
    made: Literal["added", "merged", "revised", "split", "imported"] = "added"
    parents: tuple[str, ...] = ()


class Worth(Record):
    """What an item has been worth so far (see ``memory.credit``).

    Args:
        uses: episodes in whose prompt it stood.
        wins: how many of those reached full reward.
        solved: tasks that were solved with it in the prompt, at most the last few.
        pairs: tasks that were tried both with and without it.
        utility: success rate with it minus without it on those tasks, shrunk to the mean item's.
        low, high: 95 % interval of ``utility``.
        votes: for minus against, where the policy judges items by reading them (ExpeL).
        used: the last generation that showed it.
    """

    uses: int = 0
    wins: int = 0
    solved: tuple[str, ...] = ()
    pairs: int = 0
    utility: float = 0.0
    low: float = -1.0
    high: float = 1.0
    votes: int = 0
    used: int = 0


class MemoryChange(Record):
    """One item's change between a snapshot and its parent; replaces what was known of it.

    Args:
        item: the item's id.
        status: its status from this snapshot on.
        generation: that made the change.
        absorbed_by: versions of weights that do as well without it; a policy of such a
            version is not shown the item.
        worth: what it has been worth until then.
        reason: one line for the reader of a diff.
        because: slots of the episodes that led to it.
    """

    item: str
    status: Status
    generation: int
    absorbed_by: tuple[str, ...] = ()
    worth: Worth = Worth()
    reason: str = ""
    because: tuple[str, ...] = ()


def standing(change: MemoryChange, weights: str) -> str:
    """An item's status for a version of the weights: that of the change, or "absorbed"."""
    absorbed = change.status is Status.ACTIVE and weights in change.absorbed_by
    return "absorbed" if absorbed else change.status.value


class MemorySnapshot(Record):
    """A state of the memory, as the difference from its parent ("" for the empty memory)."""

    parent: str = ""
    generation: int
    changes: tuple[MemoryChange, ...] = ()


class Candidate(Record):
    """An item that was considered in a recall.

    Args:
        item: its id.
        similarity: cosine of the query and the item's key.
        recency: 1 for what was used or changed in this generation, 0.5 a half-life ago.
        utility: the item's measured utility.
        score: their weighted sum, by which items compete.
        verdict: "shown", or why not: "absorbed", "tokens", "quota", "alike", "trust". An episode
            may still withhold what is to be shown (see `history.looks`).
    """

    item: str
    similarity: float
    recency: float
    utility: float
    score: float
    verdict: str


class Recollection(Record):
    """One look into memory: what was asked, considered and shown, so that "why was this here"
    has an answer.

    Args:
        query: the text that keys were compared with.
        task: the task's id.
        memory: the snapshot that was read.
        reader: the version of the weights that read it.
        candidates: best first; what was shown in the order in which it was chosen.
        tokens: length of what was shown.
    """

    query: str
    task: str
    memory: str
    reader: str
    candidates: tuple[Candidate, ...] = ()
    tokens: int = 0


class Score(Record):
    """A rate with its interval (95 %), and how many tasks it rests on."""

    mean: float
    low: float
    high: float
    n: int


class Generation(Record):
    """One generation: the incumbent after its gate, and why.

    Args:
        n: its number; 0 is the agent before any evolution.
        parent: number of the incumbent it was bred from.
        weights: version of the promoted weights ("base" for none).
        memory: id of the promoted memory snapshot ("" for the empty memory).
        decision: ``start``, ``promoted`` or ``kept``; by hand ``rollback`` or ``import``.
        cell: the promoted cell of the 2×2, or "incumbent".
        cells: score of each cell on the gate split.
        families: per family, the promoted agent's success rate on the gate split.
        objective: per family, the weight that the next generation's tasks are drawn with.
        tokens, seconds: what each phase cost: tokens produced, in the update also those read in
            training.
        details: numbers behind the decision: e-values, discordant pairs, retention, data.
    """

    n: int
    parent: int
    weights: str
    memory: str
    decision: Literal["start", "promoted", "kept", "rollback", "import"]
    cell: str
    reason: str
    cells: dict[str, Score] = Field(default_factory=dict)
    families: dict[str, float] = Field(default_factory=dict)
    objective: dict[str, float] = Field(default_factory=dict)
    tokens: dict[str, int] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    details: dict[str, JsonValue] = Field(default_factory=dict)


class Note(Record):
    """A fact about the run that is no other record: a plan, a phase's cost, a text written."""

    data: dict[str, JsonValue]
