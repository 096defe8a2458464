"""Each operator on memory does what it says, and says with numbers why."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
from pydantic import ValidationError

from memory.consolidation.admit import AdmitSettings, admit
from memory.consolidation.draft import Draft
from memory.consolidation.edit import combine, downvote, remove, revise, upvote
from memory.consolidation.forget import ForgetSettings, forget, retention
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
from memory.credit import Evidence
from memory.records import Kind, MemoryChange, MemoryItem, Status, Trust, Worth
from tests.memory.drafts import draft_of, make, reason, summary

SHADOW, ACTIVE, RETIRED, QUARANTINED = Status
LONG = "Compute the greatest common divisor with math.gcd and print it, and nothing else at all."


def insight(text: str, task: str = "t", **fields: object) -> MemoryItem:
    given: dict[str, object] = {"kind": Kind.INSIGHT, "trust": Trust.JUDGED, "key": "gcd"}
    return make(text, task=task, **given | fields)


def fact(subject: str, value: str, task: str = "t", **fields: object) -> MemoryItem:
    given: dict[str, object] = {
        "kind": Kind.FACT,
        "trust": Trust.JUDGED,
        "content": {"subject": subject, "value": value},
    }
    return make(f"{subject} is {value}", task=task, **given | fields)


# --- the draft ---


def test_a_draft_that_nothing_changed_has_no_changes() -> None:
    draft = draft_of([make("alpha")])
    assert draft.changes() == draft.new_items() == draft.ungated() == []
    same = draft.apply([draft.state[make("alpha").id]])
    assert same.changes() == []


def test_one_change_per_item_the_last_one() -> None:
    item = make("alpha")
    draft = draft_of([item])
    draft = draft.apply([draft.change(item.id, "one", status=SHADOW)])
    draft = draft.apply([draft.change(item.id, "two")])
    assert summary(draft) == {item.id: "shadow"} and reason(draft, item) == "two"


def test_a_change_keeps_what_it_does_not_name() -> None:
    item, worth = make("alpha"), Worth(uses=3, votes=2)
    known = MemoryChange(
        item=item.id, status=ACTIVE, generation=1, absorbed_by=("w1",), worth=worth
    )
    vectors = {item.id: np.ones(1, np.float32)}
    draft = Draft.begin(3, {item.id: item}, {item.id: known}, vectors)
    for after in (
        remove(draft, item.id, "why"),
        upvote(draft, item.id),
        forget(draft.apply([], []), ForgetSettings(threshold=0.9)),
        quarantine(
            draft.apply([known.model_copy(update={"worth": Worth(pairs=9, high=-0.5)})]),
            QuarantineSettings(),
        ),
    ):
        (change,) = after.changes()
        assert change.absorbed_by == ("w1",) and change.generation == 3


def test_missing_vector_or_record_is_named() -> None:
    item = make("alpha")
    state = {item.id: MemoryChange(item=item.id, status=ACTIVE, generation=1)}
    with pytest.raises(ValueError, match=item.id):
        Draft.begin(1, {item.id: item}, state, {})
    with pytest.raises(ValueError, match=item.id):
        Draft.begin(1, {}, state, {item.id: np.ones(1, np.float32)})
    with pytest.raises(ValueError, match=item.id):
        admit(draft_of(), AdmitSettings(), [item])
    with pytest.raises(ValueError, match=item.id):
        draft_of().apply([], [item])


def test_an_erased_item_that_does_not_live_is_no_trouble() -> None:
    state = {"gone": MemoryChange(item="gone", status=RETIRED, generation=1)}
    assert admit(Draft.begin(2, {}, state, {}), AdmitSettings(), []).changes() == []


def test_what_nobody_sees_when_it_counts_needs_no_gate() -> None:
    shown, trial, over, fresh = make("a"), make("b"), make("c"), insight("d")
    draft = draft_of([shown, trial, over], new=[fresh], status={trial.id: SHADOW, over.id: SHADOW})
    draft = admit(draft, AdmitSettings(), [fresh])
    draft = remove(remove(draft, shown.id, "x"), over.id, "x")
    draft = draft.apply([draft.change(trial.id, "up", status=ACTIVE)])
    assert set(summary(draft)) == {shown.id, trial.id, over.id, fresh.id}
    assert {c.item for c in draft.ungated()} == {over.id, fresh.id}


def test_what_a_living_item_was_made_from_is_kept_with_it() -> None:
    old = make("a", kind=Kind.INSIGHT)
    draft = revise(draft_of([old]), old.id, "b")
    (first,) = draft.new_items()
    draft = revise(draft, first.id, "c")
    assert {item.text for item in draft.new_items()} == {"b", "c"}
    assert draft.state[first.id].status is RETIRED and first.id in summary(draft)
    (second,) = [item for item in draft.new_items() if item.text == "c"]
    assert remove(draft, second.id, "why").new_items() == []


# --- admit ---


def test_new_items_begin_as_their_kind_and_trust_allow() -> None:
    proved, words = make("alpha"), insight("bravo")
    told, code = make("charlie", trust=Trust.UNTRUSTED), make("delta x", kind=Kind.SKILL)
    new = [proved, words, told, code]
    draft = admit(draft_of(new=new), AdmitSettings(), new)
    assert summary(draft) == {
        proved.id: "active",
        words.id: "shadow",
        told.id: "shadow",
        code.id: "active",
    }
    assert {i.id for i in draft.new_items()} == {i.id for i in new}
    assert reason(draft, proved) == "new exemplar of gcd"
    assert reason(draft, words) == "new insight of gcd, on trial"
    assert draft.state[proved.id].because == proved.sources
    assert draft.worth(words.id).votes == 2 and draft.worth(proved.id).votes == 0
    everything = admit(draft_of(new=new), AdmitSettings(trial=False), new)
    assert set(summary(everything).values()) == {"active"}


def test_what_is_known_is_not_new_and_twice_is_once() -> None:
    old, new = make("alpha"), make("bravo")
    draft = admit(draft_of([old], new=[new]), AdmitSettings(), [old, new, new])
    assert summary(draft) == {new.id: "active"}
    assert admit(draft_of(new=[new]), None, [new]).changes() == []


@pytest.mark.parametrize("status", Status)
def test_the_same_words_of_the_same_episodes_are_one_item(status: Status) -> None:
    old, again = make("alpha", born=1), make("alpha", born=3)
    other = make("alpha", born=3, sources=("3/acquire/task/1",))
    draft = draft_of([old], new=[again, other], status=status)
    taken = admit(draft, AdmitSettings(distinct=None), [again, other])
    assert summary(taken) == {other.id: "active"}


def test_of_new_items_that_say_the_same_the_more_trusted_is_taken() -> None:
    told = make(LONG, "k", "t1", trust=Trust.UNTRUSTED)
    verified = make(LONG, "k", "t2")
    draft = admit(draft_of(new=[told, verified]), AdmitSettings(), [told, verified])
    assert summary(draft) == {verified.id: "active"}


def test_working_memory_is_not_stored() -> None:
    item = make("alpha", kind=Kind.WORKING)
    assert admit(draft_of(new=[item]), AdmitSettings(), [item]).changes() == []


def test_what_is_said_again_is_evidence_for_the_present_item() -> None:
    old = insight(LONG, "t1", born=1)
    again = insight(LONG.upper(), "t2", born=3, sources=("3/acquire/t2/0",))
    draft = draft_of([old], new=[again], worths={old.id: Worth(votes=2)})
    after = admit(draft, AdmitSettings(), [again])
    (change,) = after.changes()
    assert (change.item, change.status, change.worth.votes) == (old.id, ACTIVE, 3)
    assert change.because == ("3/acquire/t2/0",) and change.reason == "told again by 1 new"
    assert not after.new_items()
    # The same episode speaks once: it is of an earlier generation in the next.
    stale = again.model_validate(again.model_dump() | {"sources": ("2/acquire/t2/0",)})
    assert admit(draft_of([old], new=[stale]), AdmitSettings(), [stale]).changes() == []
    apart = admit(draft, AdmitSettings(distinct=None), [again])
    assert summary(apart) == {again.id: "shadow"}
    # Nor is what nobody trusts evidence for anything, not even for its like.
    told = again.model_validate(again.model_dump() | {"trust": Trust.UNTRUSTED})
    for trust in (Trust.JUDGED, Trust.UNTRUSTED):
        present = old.model_validate(old.model_dump() | {"trust": trust})
        assert not admit(draft_of([present], new=[told]), AdmitSettings(), [told]).changes()


def test_a_more_trusted_copy_is_taken_in() -> None:
    doubtful = make(LONG, "k", "t1", trust=Trust.UNTRUSTED)
    verified = make(LONG, "k", "t2", sources=("3/acquire/t2/0",))
    draft = draft_of([doubtful], new=[verified], status=SHADOW)
    draft = admit(draft, AdmitSettings(), [verified])
    assert summary(draft) == {verified.id: "active"}
    assert summary(merge(draft, Likeness())) == {verified.id: "active", doubtful.id: "retired"}


def test_what_was_quarantined_is_not_taken_again() -> None:
    bad = make(LONG, "k", "t1", sources=("1/acquire/t1/0",))
    copied = make(LONG + ".", "k", "t2", family="lcm", sources=("3/acquire/t2/0",))
    child = make("b", task="t3", parents=(bad.id,), sources=("3/acquire/t3/0",))
    sibling = make("c", task="t4", sources=("3/acquire/t4/0", "1/acquire/t1/0"))
    fine = make("d", task="t5", sources=("3/acquire/t5/0",))
    new = [copied, child, sibling, fine, bad]
    draft = admit(draft_of([bad], new=new, status=QUARANTINED), AdmitSettings(), new)
    assert summary(draft) == {fine.id: "active"}
    retired = admit(draft_of([bad], new=new, status=RETIRED), AdmitSettings(), new)
    assert {copied.id, child.id, sibling.id} <= summary(retired).keys()


def test_a_more_trusted_item_is_not_doubted_for_a_bad_rule_from_its_episode() -> None:
    bad = insight("harmful", "t1", sources=("1/acquire/t1/0",))
    verified = make("right", task="t1", sources=("1/acquire/t1/0",))
    words = insight("other", "t1", sources=("1/acquire/t1/0",))
    new = [verified, words]
    draft = admit(draft_of([bad], new=new, status=QUARANTINED), AdmitSettings(), new)
    assert summary(draft) == {verified.id: "active"}


def test_what_was_retired_comes_again_only_with_new_evidence_and_on_trial() -> None:
    old = make(LONG, "k", "t1")
    same = make(LONG, "k", "t1", born=3, sources=("3/acquire/t1/0",))
    other = make(LONG, "k", "t2", born=3, sources=("3/acquire/t2/0",))
    draft = draft_of([old], new=[same, other], status=RETIRED)
    assert admit(draft, AdmitSettings(), [same]).changes() == []
    draft = admit(draft, AdmitSettings(), [same, other])
    assert summary(draft) == {other.id: "shadow"}
    assert "retired before" in reason(draft, other)


def test_trust_is_the_least_of_the_parents() -> None:
    low, high = make("a", trust=Trust.UNTRUSTED), make("b")
    of_both = make("c", task="t2", parents=(low.id, high.id))
    of_high = make("d", task="t3", parents=(high.id,))
    orphan = make("e", task="t4", parents=("unknown",))
    new = [of_both, of_high, orphan]
    draft = admit(draft_of([low, high], new=new), AdmitSettings(), new)
    found = {i.text: i for i in draft.new_items()}
    assert {t: i.trust.value for t, i in found.items()} == {
        "c": "untrusted",
        "d": "verified",
        "e": "untrusted",
    }
    assert of_high.id in draft.state and of_both.id not in draft.state
    assert found["c"].id == MemoryItem.model_validate(found["c"].model_dump()).id


def test_new_items_may_be_made_from_new_items() -> None:
    web = make("a", trust=Trust.UNTRUSTED, sources=("3/acquire/t1/0",))
    rule = insight("b", "t2", parents=(web.id,), sources=("3/acquire/t2/0",))
    of_rule = insight("c", "t3", parents=(rule.id,), sources=("3/acquire/t3/0",))
    new = [of_rule, rule, web]
    draft = admit(draft_of(new=new), AdmitSettings(), new)
    assert {i.text: i.trust.value for i in draft.new_items()} == dict.fromkeys("abc", "untrusted")
    bad = make("bad", task="t1", trust=Trust.UNTRUSTED, sources=("3/acquire/t1/0",))
    draft = admit(draft_of([bad], new=new, status=QUARANTINED), AdmitSettings(), new)
    assert draft.new_items() == []  # all of it comes from the episode of what was quarantined


# --- edit ---


def test_votes() -> None:
    item = insight("rule", "t1")
    draft = draft_of([item], worths={item.id: Worth(votes=2)})
    up = upvote(draft, item.id, ("3/acquire/x/0",))
    assert up.worth(item.id).votes == 3 and up.state[item.id].status is ACTIVE
    assert up.state[item.id].because == ("3/acquire/x/0",)
    down = downvote(draft, item.id)
    assert summary(down) == {item.id: "active"} and down.worth(item.id).votes == 1
    gone = downvote(down, item.id)
    assert summary(gone) == {item.id: "retired"} and gone.worth(item.id).votes == 0
    assert reason(gone, item) == "voted out: −1 by who read it, 0 votes"
    with pytest.raises(ValueError, match=item.id):
        upvote(gone, item.id)


def test_a_revision_takes_the_old_ones_place_and_proves_itself() -> None:
    old = insight("rule", "t1", family="", trust=Trust.VERIFIED)
    draft = draft_of([old], worths={old.id: Worth(votes=2, uses=9, wins=9)})
    draft = revise(draft, old.id, "better rule", sources=("3/acquire/t2/0",), tasks=("t2", "t1"))
    (new,) = draft.new_items()
    assert (new.text, new.key, new.made, new.parents) == (
        "better rule",
        "gcd",
        "revised",
        (old.id,),
    )
    assert new.sources == (*old.sources, "3/acquire/t2/0") and new.tasks == ("t1", "t2")
    assert new.trust is Trust.JUDGED and new.born == 3
    assert summary(draft) == {new.id: "shadow", old.id: "retired"}
    assert reason(draft, old) == f"revised into {new.id}"
    assert (draft.worth(new.id).votes, draft.worth(new.id).uses) == (3, 0)
    shown = revise(draft_of([old]), old.id, "better rule", status=ACTIVE)
    assert set(summary(shown).values()) == {"active", "retired"}
    assert revise(draft_of([old]), old.id, "rule").worth(old.id).votes == 1  # as it was: agreed


def test_code_that_passed_is_shown_at_once() -> None:
    old = make("def f(): ...", kind=Kind.SKILL)
    draft = revise(draft_of([old]), old.id, "def f(): return 1", trust=Trust.VERIFIED)
    assert draft.state[draft.new_items()[0].id].status is ACTIVE
    unchecked = revise(draft_of([old]), old.id, "def f(): return 1")
    assert unchecked.state[unchecked.new_items()[0].id].status is SHADOW


# --- merge ---


def test_duplicates_keep_the_older() -> None:
    old = make("print(gcd(a, b))", key="gcd of 3 and 6", born=1)
    new = make("PRINT(gcd(a,  b))", key="gcd of 3 and 6", born=2, task="t2")
    draft = merge(draft_of([new, old]), Likeness())
    assert summary(draft) == {new.id: "retired"}
    assert reason(draft, new) == f"duplicate of {old.id}; never used"
    assert merge(draft_of([old, new]), None).changes() == []


def test_duplicates_keep_the_one_that_is_worth_more() -> None:
    a, b, c = (make("print(gcd(a, b))", key="gcd", born=i, task=f"t{i}") for i in (1, 2, 3))
    worths = {
        a.id: Worth(uses=9, pairs=4, utility=-0.1),
        b.id: Worth(uses=2, wins=1, pairs=1, utility=0.2),
        c.id: Worth(),
    }
    assert summary(merge(draft_of([a, b, c], worths=worths), Likeness())) == {
        a.id: "retired",
        c.id: "retired",
    }


def test_duplicates_keep_the_trusted_and_the_active_standing() -> None:
    doubtful = make(LONG, "k", "t1", born=1, trust=Trust.UNTRUSTED)
    verified = make(LONG, "k", "t2", born=2)
    draft = merge(draft_of([doubtful, verified], status={verified.id: SHADOW}), Likeness())
    assert summary(draft) == {doubtful.id: "retired", verified.id: "active"}
    equal = make(LONG, "k", "t3", born=1)
    draft = merge(draft_of([equal, verified], status={equal.id: SHADOW}), Likeness())
    assert summary(draft) == {equal.id: "retired"}


def test_words_that_differ_are_merged() -> None:
    a, b = insight(LONG, "t1"), insight(LONG.replace("Compute", "compute the"), "t2", born=2)
    doubtful = insight(LONG + "!", "t3", trust=Trust.UNTRUSTED)
    worths = {i.id: Worth(votes=2) for i in (a, b, doubtful)}
    draft = merge(
        draft_of([a, b, doubtful], worths=worths, status={b.id: SHADOW, doubtful.id: SHADOW}),
        Likeness(),
    )
    (merged,) = draft.new_items()
    assert (merged.text, merged.made, merged.parents) == (LONG, "merged", (a.id, b.id))
    assert merged.sources == a.sources + b.sources and merged.tasks == ("t1", "t2")
    assert merged.trust is Trust.JUDGED and merged.born == 3
    assert draft.worth(merged.id).votes == 4
    assert summary(draft) == {
        merged.id: "active",
        a.id: "retired",
        b.id: "retired",
        doubtful.id: "retired",
    }
    assert reason(draft, a).startswith(f"merged into {merged.id}")
    assert reason(draft, doubtful).startswith(f"duplicate of {merged.id}")
    shouted = insight(LONG.upper(), "t4", born=2)
    assert not merge(draft_of([a, shouted]), Likeness()).new_items()  # nothing to merge
    exemplars = [make(i.text, "gcd", f"e{n}") for n, i in enumerate((a, b))]
    assert not merge(draft_of(exemplars), Likeness()).new_items()  # an episode is what it is


# --- resolve ---


def test_a_newer_fact_supersedes() -> None:
    old, new = fact("the key", "in drawer 12", "t1"), fact("the key", "in drawer 13", "t2", born=2)
    draft = resolve(draft_of([old, new], status={new.id: SHADOW}), ResolveSettings())
    assert summary(draft) == {old.id: "retired", new.id: "active"}
    assert reason(draft, old) == f"superseded by {new.id} from generation 3 on"
    assert draft.state[old.id].because == new.sources
    for off in (None, ResolveSettings(facts=False)):
        assert resolve(draft_of([old, new]), off).changes() == []


def test_a_less_trusted_fact_goes_on_trial() -> None:
    old = fact("the key", "in drawer 12", "t1", trust=Trust.VERIFIED)
    new = fact("The  Key", "in drawer 13", "t2", born=2)
    draft = resolve(draft_of([old, new]), ResolveSettings())
    assert summary(draft) == {new.id: "shadow"} and old.id in reason(draft, new)
    assert resolve(draft_of([old, new], status={new.id: SHADOW}), ResolveSettings()).changes() == []


def test_an_untrusted_fact_supersedes_only_after_its_trial() -> None:
    old = fact("the key", "in drawer 12", "t1", trust=Trust.UNTRUSTED)
    new = fact("the key", "in drawer 13", "t2", born=2, trust=Trust.UNTRUSTED)
    on_trial = draft_of([old, new], status={new.id: SHADOW})
    assert resolve(on_trial, ResolveSettings()).changes() == []
    assert summary(resolve(draft_of([old, new]), ResolveSettings())) == {old.id: "retired"}


def test_the_same_value_is_no_contradiction_nor_another_subject() -> None:
    a, b = fact("the key", "in drawer 12", "t1"), fact("the key", "In drawer  12", "t2", born=2)
    c = fact("the lamp", "in drawer 13", "t3", born=2)
    assert resolve(draft_of([a, b, c]), ResolveSettings()).changes() == []


def test_of_three_facts_the_last_stands() -> None:
    facts = [fact("x", str(n), f"t{n}", born=n) for n in range(3)]
    draft = resolve(draft_of(facts), ResolveSettings())
    assert summary(draft) == {facts[0].id: "retired", facts[1].id: "retired"}


def test_the_better_proved_rule_stays() -> None:
    a = insight("always sort", "t1", content={"subject": "sorting"})
    b = insight("never sort", "t2", content={"subject": "sorting"}, born=2)
    worths = {
        a.id: Worth(pairs=5, utility=0.1, low=-0.1, high=0.3),
        b.id: Worth(pairs=5, utility=0.3, low=0.1, high=0.5),
    }
    draft = resolve(draft_of([a, b], worths=worths), ResolveSettings())
    assert summary(draft) == {a.id: "retired"}
    assert reason(draft, a) == (
        f"contradicts {b.id}: 0.10 [−0.10, 0.30] and 0 votes, against 0.30 [0.10, 0.50] and 0 votes"
    )
    voted = draft_of([a, b], worths={a.id: Worth(votes=3), b.id: Worth(votes=2)})
    assert summary(resolve(voted, ResolveSettings())) == {b.id: "retired"}
    undecided = draft_of([a, b])
    assert resolve(undecided, ResolveSettings()).changes() == []
    challenger = draft_of([a, b], worths=worths, status={a.id: SHADOW})
    assert resolve(challenger, ResolveSettings()).changes() == []
    off = ResolveSettings(insights=False)
    assert resolve(draft_of([a, b], worths=worths), off).changes() == []


def test_opposite_utility_under_one_key_is_a_contradiction() -> None:
    a, b = insight("sort", "t1"), insight("do not sort", "t2")
    other = insight("count", "t3", key="another question")
    worths = {
        a.id: Worth(pairs=5, utility=-0.1, low=-0.3, high=0.1),
        b.id: Worth(pairs=5, utility=0.3, low=0.1, high=0.5),
        other.id: Worth(pairs=5, utility=-0.1, low=-0.3, high=0.1),
    }
    draft = resolve(draft_of([a, b, other], worths=worths), ResolveSettings())
    assert summary(draft) == {a.id: "retired"}


# --- split ---


def test_what_helps_here_and_hurts_there_is_split() -> None:
    item = insight("sort first", family="", task="t1")
    helps = Worth(pairs=6, utility=0.4, low=0.1, high=0.7)
    hurts = Worth(pairs=6, utility=-0.3, low=-0.5, high=-0.1)
    families = {item.id: {"lists": helps, "maps": hurts, "sets": helps}}
    evidence = Evidence(families=families)
    draft = draft_of([item], worths={item.id: Worth(votes=3)})
    after = split(draft, SplitSettings(), evidence)
    parts = after.new_items()
    assert {i.family for i in parts} == {"lists", "sets"}
    assert {(i.text, i.made, i.parents) for i in parts} == {("sort first", "split", (item.id,))}
    assert set(summary(after)) == {item.id, *(i.id for i in parts)}
    assert after.state[item.id].status is RETIRED
    assert reason(after, item) == "split: helps in lists, sets, but −0.30 [−0.50, −0.10] in maps"
    assert all(after.worth(i.id) == helps.model_copy(update={"votes": 3}) for i in parts)
    # A part is not split again, and what is off or not clear enough leaves the item alone.
    again = Evidence(families={i.id: families[item.id] for i in parts})
    assert split(after, SplitSettings(), again).changes() == after.changes()
    assert split(draft, None, evidence).changes() == []
    assert split(draft, SplitSettings(pairs=7), evidence).changes() == []
    unclear = hurts.model_copy(update={"high": 0.2})
    vague = Evidence(families={item.id: {"lists": helps, "maps": unclear}})
    assert split(draft, SplitSettings(), vague).changes() == []


# --- promote, retire, quarantine ---


@pytest.mark.parametrize(
    ("trust", "solved", "worth", "promoted"),
    [
        (Trust.JUDGED, ("a", "b"), {}, True),
        (Trust.JUDGED, ("a",), {}, False),
        (Trust.JUDGED, ("a", "own"), {}, False),
        (Trust.JUDGED, ("a", "b"), {"pairs": 3, "utility": -0.2}, False),
        (Trust.JUDGED, ("a", "b"), {"pairs": 3, "utility": 0.1, "low": -0.4}, True),
        (Trust.UNTRUSTED, ("a", "b"), {"pairs": 3, "low": 0.1}, False),
        (Trust.UNTRUSTED, tuple("abcd"), {"pairs": 3, "low": 0.1}, True),
        (Trust.UNTRUSTED, tuple("abcd"), {"pairs": 3, "low": -0.2}, False),
        (Trust.UNTRUSTED, tuple("abcd"), {}, False),  # never compared
    ],
)
def test_promotion(
    trust: Trust, solved: tuple[str, ...], worth: dict[str, float], promoted: bool
) -> None:
    item = make("words", kind=Kind.REFLECTION, task="own", trust=trust)
    known = Worth.model_validate({"uses": 9, "wins": 5, "solved": solved} | worth)
    draft = draft_of([item], status=SHADOW, worths={item.id: known})
    evidence = Evidence(won={item.id: ("2/acquire/a/0",)})
    after = promote(draft, PromoteSettings(), evidence)
    assert summary(after) == ({item.id: "active"} if promoted else {})
    if promoted:
        assert f"{len(solved)} other tasks solved with it" in reason(after, item)
        assert after.state[item.id].because == ("2/acquire/a/0",)
    assert promote(draft, None, evidence).changes() == []


@pytest.mark.parametrize(
    ("worth", "why"),
    [
        (
            {"pairs": 9, "utility": -0.2, "low": -0.4, "high": -0.01},
            "no help in 9 paired tasks: −0.20 [−0.40, −0.01]",
        ),
        ({"pairs": 3, "utility": -0.2, "low": -0.4, "high": -0.01}, ""),  # too few
        ({"pairs": 9, "utility": -0.02, "low": -0.11, "high": 0.06}, ""),  # not clear
        (
            {"pairs": 16, "utility": 0.01, "low": -0.1, "high": 0.1},
            "no help in 16 paired tasks: 0.01 [−0.10, 0.10]",
        ),
        ({"pairs": 16, "utility": 0.1, "low": -0.1, "high": 0.3}, ""),
        ({"uses": 30, "wins": 0}, "no success in 30 uses"),
        ({"uses": 30, "wins": 1}, ""),
        ({"uses": 29, "wins": 0}, ""),
    ],
)
def test_retirement(worth: dict[str, float], why: str) -> None:
    item = make("alpha")
    known = Worth.model_validate({"uses": 20, "wins": 9} | worth)
    draft = draft_of([item], worths={item.id: known})
    evidence = Evidence(lost={item.id: ("2/acquire/a/0",)})
    after = retire(draft, RetireSettings(), evidence)
    assert summary(after) == ({item.id: "retired"} if why else {})
    if why:
        assert reason(after, item) == why and after.state[item.id].because == ("2/acquire/a/0",)
    assert retire(draft, None, evidence).changes() == []


def test_a_trial_ends_some_day() -> None:
    item = make("alpha", born=1)
    for generation, expected in ((6, {}), (7, {item.id: "retired"})):
        draft = draft_of([item], status=SHADOW, generation=generation)
        assert summary(retire(draft, RetireSettings(), Evidence())) == expected
    forever = RetireSettings(trial=None)
    assert retire(draft, forever, Evidence()).changes() == []
    active = draft_of([item], generation=7)
    assert retire(active, RetireSettings(), Evidence()).changes() == []


def test_harm_is_quarantined_with_what_comes_from_it() -> None:
    bad = make("bad", task="t1", sources=("1/acquire/t1/0",))
    child = make("child", task="t2", parents=(bad.id,), sources=("2/acquire/t2/0",))
    grandchild = make("grand", task="t3", parents=(child.id,), sources=("2/acquire/t3/0",))
    rule = insight("rule", sources=("1/acquire/t1/0", "1/acquire/t9/0"))
    beside = make("beside", task="t9", sources=("1/acquire/t9/0",))
    harm = Worth(pairs=5, utility=-0.4, low=-0.6, high=-0.2)
    every = [grandchild, child, beside, rule, bad]
    draft = quarantine(draft_of(every, worths={bad.id: harm}), QuarantineSettings())
    assert summary(draft) == dict.fromkeys(
        (bad.id, child.id, grandchild.id, rule.id), "quarantined"
    )
    assert reason(draft, bad) == "harm in 5 paired tasks: −0.40 [−0.60, −0.20]"
    assert draft.state[rule.id].because == ("1/acquire/t1/0",)  # its other episode is not doubted
    # The same from an earlier generation, or by hand: descendants follow.
    by_hand = quarantine(draft_of(every, status={bad.id: QUARANTINED}), QuarantineSettings())
    assert {child.id, grandchild.id, rule.id} == summary(by_hand).keys()
    assert quarantine(draft_of(every, worths={bad.id: harm}), None).changes() == []


@pytest.mark.parametrize(
    "worth", [{"pairs": 3, "high": -0.2}, {"pairs": 9, "high": -0.04}, {"pairs": 9, "high": 0.1}]
)
def test_no_quarantine_without_clear_harm(worth: dict[str, float]) -> None:
    item = make("alpha")
    draft = draft_of([item], worths={item.id: Worth.model_validate(worth)})
    assert quarantine(draft, QuarantineSettings()).changes() == []


# --- forget ---


def test_the_forgetting_curve() -> None:
    item = make("alpha", born=1)
    assert retention(item, Worth(), 1) == 1
    assert retention(item, Worth(), 3) == pytest.approx(exp(-2))
    assert retention(item, Worth(uses=1, used=2), 3) == pytest.approx(exp(-1 / 2))
    assert retention(item, Worth(uses=3, used=2), 10) == pytest.approx(exp(-8 / 4))


def test_what_is_not_used_is_forgotten() -> None:
    never, used = make("alpha", born=1), make("bravo", born=1)
    worths = {used.id: Worth(uses=5, used=1)}
    settings = ForgetSettings(threshold=0.1)
    for generation, expected in ((3, {}), (4, {never.id: "retired"})):
        draft = draft_of([never, used], worths=worths, generation=generation)
        assert summary(forget(draft, settings)) == expected
    assert reason(forget(draft, settings), never) == (
        "forgotten: retention 0.05 below 0.1, 3 generations unused after 0 uses"
    )
    assert forget(draft, None).changes() == []


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        (AdmitSettings, {"votes": 0}),
        (PromoteSettings, {"successes": 17}),  # more than a worth remembers
        (RetireSettings, {"pairs": 0}),
        (ForgetSettings, {"threshold": 1}),
        (Likeness, {"text": 0}),
        (SplitSettings, {"pair": 3}),
    ],
)
def test_settings_are_checked(settings: type, fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        settings.model_validate(fields)  # type: ignore[attr-defined]


# --- combine ---


def test_several_items_become_one_text() -> None:
    facts = [fact("double", f"way {i}", f"t{i}") for i in range(3)]
    doubted = fact("double", "a page", "t3", trust=Trust.UNTRUSTED)
    draft = draft_of([*facts, doubted])
    ids = [item.id for item in facts]
    after = combine(draft, ids, "double: all", content={"subject": "double", "value": "all"})
    (new,) = after.new_items()
    assert (new.text, new.made, new.parents) == ("double: all", "merged", tuple(ids))
    assert new.tasks == ("t0", "t1", "t2") and new.trust is Trust.JUDGED
    assert summary(after) == {new.id: "shadow"} | dict.fromkeys(ids, "retired")
    ids.append(doubted.id)
    (new,) = combine(draft, ids, "double: all", status=ACTIVE).new_items()
    assert new.trust is Trust.UNTRUSTED
    with pytest.raises(ValueError, match="no memory item"):
        combine(after, ids, "again")
