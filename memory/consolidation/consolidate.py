"""All operators, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from memory.consolidation.admit import AdmitSettings, admit
from memory.consolidation.draft import Draft
from memory.consolidation.fit import FitSettings, fit
from memory.consolidation.forget import ForgetSettings, forget
from memory.consolidation.judge import (
    PromoteSettings,
    QuarantineSettings,
    RetireSettings,
    promote,
    quarantine,
    retire,
)
from memory.consolidation.likeness import Likeness
from memory.consolidation.merge import merge
from memory.consolidation.resolve import ResolveSettings, resolve
from memory.consolidation.split import SplitSettings, split
from memory.credit import CreditSettings, Evidence
from memory.records import MemoryItem


class ConsolidationSettings(BaseModel):
    """What memory keeps; each operator has its settings here, and null turns it off.

    Instead of a tree, a name of `PRESETS` can be given: ``consolidation: add-all``. With
    ``preset: add-all`` in a tree, what the tree does not name is as in the preset.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    credit: CreditSettings = CreditSettings()
    quarantine: QuarantineSettings | None = QuarantineSettings()
    admit: AdmitSettings | None = AdmitSettings()
    resolve: ResolveSettings | None = ResolveSettings()
    merge: Likeness | None = Likeness()
    split: SplitSettings | None = SplitSettings()
    retire: RetireSettings | None = RetireSettings()
    forget: ForgetSettings | None = None
    promote: PromoteSettings | None = PromoteSettings()
    fit: FitSettings | None = FitSettings()

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        tree = {"preset": value} if isinstance(value, str) else value
        if not isinstance(tree, Mapping) or "preset" not in tree:
            return value
        name = tree["preset"]
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; presets: {', '.join(PRESETS)}")
        return PRESETS[name] | {key: own for key, own in tree.items() if key != "preset"}


# The baseline of "experience following" (arXiv 2505.16067): all that is new is taken, shown at
# once and never removed.
PRESETS: dict[str, dict[str, Any]] = {
    "add-all": {
        "quarantine": None,
        "admit": {"trial": False, "distinct": None},
        "resolve": None,
        "merge": None,
        "split": None,
        "retire": None,
        "promote": None,
        "fit": None,
    }
}
ADD_ALL = ConsolidationSettings.model_validate("add-all")


def weigh(draft: Draft, evidence: Evidence) -> Draft:
    """Note what items have been worth; their votes are the draft's."""
    return draft.apply(
        draft.state[i].model_copy(
            update={"worth": worth.model_copy(update={"votes": draft.worth(i).votes})}
        )
        for i, worth in sorted(evidence.worths.items())
        if i in draft.state
    )


def consolidate(
    draft: Draft,
    new: Sequence[MemoryItem],
    evidence: Evidence,
    settings: ConsolidationSettings,
    length: Callable[[str], int] = len,
) -> Draft:
    """What memory should hold after a generation.

    The order: first what was measured is noted, since all else goes by it. What did harm is set
    aside before anything new is looked at, so that nothing new from there is let in. What is
    new enters before contradictions and duplicates are looked for, so that it is compared as
    well; contradictions first, since two facts may differ in one letter and yet not say the
    same. Splitting comes before judging, so that an item which only hurts elsewhere is kept
    where it helps. What does not help leaves before trials end well, so that nothing is
    promoted that would leave at once; and budgets come last, since they hold for the outcome.

    Args:
        draft: the memory, with the vectors of the new items' keys. Votes and revisions
            (`memory.consolidation.edit`) go before.
        new: items that want in.
        evidence: what episodes say about the present ones (see `memory.credit.evidence`).
        settings: the operators'.
        length: of a text, in tokens, for the budget of tokens.
    """
    draft = weigh(draft, evidence)
    draft = quarantine(draft, settings.quarantine)
    draft = admit(draft, settings.admit, new)
    draft = resolve(draft, settings.resolve)
    draft = merge(draft, settings.merge)
    draft = split(draft, settings.split, evidence)
    draft = retire(draft, settings.retire, evidence)
    draft = forget(draft, settings.forget)
    draft = promote(draft, settings.promote, evidence)
    return fit(draft, settings.fit, length)
