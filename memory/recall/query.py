"""What is asked of memory, and how much it may answer."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from memory.kinds import KINDS
from memory.records import Kind, Trust


class RecallSettings(BaseModel):
    """How much is recalled, and of what.

    Args:
        tokens: budget for the shown texts together; an item that does not fit is skipped whole.
        quotas: at most so many of each kind; a kind that is not named is not recalled.
        min_similarity: least cosine of query and key.
        candidates: how many nearest items are looked at. More are where filtering leaves too
            few of a kind, but not to use up what is left of the budget.
        diversity: 0 chooses by score alone; the nearer to 1, the more a choice is held against
            its likeness to those of its kind already chosen (maximal marginal relevance, with
            lambda = 1 - diversity).
        recency: weight of an item's recency in its score, beside 1 for the similarity (the sum
            of Generative Agents, arXiv 2304.03442, with measured utility in place of a model's
            rating of importance).
        half_life: generations in which the recency of an item that is neither shown nor changed
            halves.
        first: kinds that are chosen, in this order, before others compete for the budget.
        spread: kinds of which no two are chosen from one cluster, in as many clusters as the
            quota (see `clusters`).
        utility: weight of an item's measured utility (see `Worth`) in its score.
        trust: the least trust that is shown. Untrusted items teach while the agent practises
            (see ``acquire.recall``): what it solves with them is then its own and verified. A
            rule that is right but for a trigger nobody practised would pass any trial.

    In a kind of more than `nearest.EXACT` items recency and utility decide among the ``candidates``
    nearest only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int = Field(256, ge=0)
    quotas: dict[Kind, NonNegativeInt] = Field({Kind.EXEMPLAR: 2, Kind.REFLECTION: 1})
    min_similarity: float = Field(0.3, ge=-1, le=1)
    candidates: int = Field(64, ge=1)
    diversity: float = Field(0.3, ge=0, le=1)
    recency: float = Field(0.0, ge=0)
    half_life: float = Field(4.0, gt=0)
    first: tuple[Kind, ...] = ()
    spread: tuple[Kind, ...] = ()
    utility: float = Field(0.0, ge=0)
    trust: Trust = Trust.JUDGED

    @model_validator(mode="after")
    def _storable(self) -> Self:
        if any(not KINDS[kind].stored for kind in self.quotas):
            raise ValueError("working memory is carried within a task, not recalled")
        return self


class Query(NamedTuple):
    """One question to the memory.

    Args:
        text: compared with the items' keys (the task's prompt, or the newest observation).
        task: the task's id.
        leave_out: never recall what was made from this very task (while learning).
        shown: ids of items that stand in the prompt already: neither they nor what says nearly
            the same is shown again.
        family: the task's; what was split off for another family is not recalled.
    """

    text: str
    task: str
    leave_out: bool = True
    shown: Collection[str] = frozenset()
    family: str = ""
