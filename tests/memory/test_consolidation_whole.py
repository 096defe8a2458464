"""All operators together: budgets hold, order does not matter, everything can be turned off."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from pydantic import ValidationError

from memory.consolidation import likeness
from memory.consolidation.consolidate import ADD_ALL, ConsolidationSettings, consolidate, weigh
from memory.consolidation.draft import Draft
from memory.consolidation.edit import upvote
from memory.consolidation.fit import Budget, FitSettings, fit
from memory.credit import Evidence, credit
from memory.kinds import KINDS
from memory.records import Kind, MemoryItem, Status, Trust, Worth
from tests.memory.drafts import draft_of, episode, make, reason, summary

SHADOW, ACTIVE, RETIRED, QUARANTINED = Status
DISTINCT = ["alpha", "bravo bravo", "charlie", "delta x", "echo 12", "foxtrot?", "golf", "hotel!"]
NOTHING = Evidence()


def budget(**fields: int) -> FitSettings:
    return FitSettings(active=Budget.model_validate(fields), shadow=Budget())


# --- fit ---


def test_the_budget_retires_what_is_worth_least() -> None:
    good, poor, rare, fresh = (make(text, task=text) for text in DISTINCT[:4])
    worths = {
        good.id: Worth(uses=20, wins=18),
        poor.id: Worth(uses=20, wins=1),
        rare.id: Worth(uses=1, wins=0),
    }
    draft = draft_of([good, poor, rare, fresh], worths=worths)
    after = fit(draft, budget(items=3), len)
    assert summary(after) == {poor.id: "retired"}
    assert reason(after, poor) == "over the budget of 3 active items: 1 of 20 uses succeeded"
    # One failure says little: a rarely used item outlives a proven failure.
    assert summary(fit(draft, budget(items=2), len)).keys() == {poor.id, rare.id}
    assert fit(draft, None, len).changes() == []


def test_measured_utility_comes_first_and_what_was_never_compared_is_a_mean_item() -> None:
    helps, hurts, unknown = (make(text) for text in DISTINCT[:3])
    worths = {
        helps.id: Worth(uses=9, wins=1, pairs=5, utility=0.3),
        hurts.id: Worth(uses=9, wins=9, pairs=5, utility=-0.1),
        unknown.id: Worth(uses=9, wins=5),
    }
    draft = draft_of([helps, hurts, unknown], worths=worths)
    assert summary(fit(draft, budget(items=2), len)).keys() == {hurts.id}
    assert summary(fit(draft, budget(items=1), len)).keys() == {hurts.id, unknown.id}
    worths[hurts.id] = worths[hurts.id].model_copy(update={"utility": 0.1})
    draft = draft_of([helps, hurts, unknown], worths=worths)  # 0.1 is less than the mean, 0.2
    assert summary(fit(draft, budget(items=2), len)).keys() == {hurts.id}


def test_votes_decide_between_equals_then_age() -> None:
    old = [make(text, born=i) for i, text in enumerate(DISTINCT[:3])]
    draft = draft_of(old, worths={old[2].id: Worth(votes=2)})
    assert summary(fit(draft, budget(items=2), len)).keys() == {old[1].id}
    assert summary(fit(draft, budget(items=1), len)).keys() == {old[0].id, old[1].id}


def test_budget_per_family() -> None:
    a = [make(text, family="a", born=i) for i, text in enumerate(DISTINCT[:4])]
    b = [make(text, family="b", born=9) for text in DISTINCT[4:6]]
    after = fit(draft_of([*a, *b]), budget(per_family=2), len)
    assert summary(after).keys() == {a[2].id, a[3].id}
    assert "2 active items in family a" in reason(after, a[3])
    after = fit(draft_of([*a, *b]), budget(per_family=2, items=3), len)
    assert len(summary(after)) == 3 and len({b[0].id, b[1].id} & summary(after).keys()) == 1


def test_budget_of_tokens() -> None:
    long, short = make("x" * 50, born=1), [make(c * 20, born=2 + i) for i, c in enumerate("abc")]
    draft = draft_of([long, *short])
    after = fit(draft, budget(tokens=90), len)
    assert summary(after).keys() == {short[2].id}
    assert "90 tokens of active items, of which it has 20" in reason(after, short[2])
    # What is too long for the whole budget does not push out the rest.
    assert summary(fit(draft, budget(tokens=45), len)).keys() == {long.id, short[2].id}
    assert summary(fit(draft, budget(tokens=0), len)).keys() == {long.id, *(i.id for i in short)}


def test_trials_do_not_push_out_what_is_proved() -> None:
    proved, trials = make("alpha"), [make(text) for text in DISTINCT[1:5]]
    worths = {i.id: Worth(uses=9, wins=9, pairs=9, utility=0.9) for i in trials}
    status = {i.id: SHADOW for i in trials}
    settings = FitSettings(active=Budget(items=1), shadow=Budget(items=2))
    after = fit(draft_of([proved, *trials], worths=worths, status=status), settings, len)
    assert len(summary(after)) == 2 and proved.id not in summary(after)


# --- together ---


def test_what_was_measured_is_noted_and_votes_stay() -> None:
    item = make("alpha")
    draft = upvote(draft_of([item], worths={item.id: Worth(votes=2)}), item.id)
    worth = Worth(uses=3, pairs=1, utility=0.1)
    draft = weigh(draft, Evidence({item.id: worth, "unknown": worth}))
    assert draft.worth(item.id) == worth.model_copy(update={"votes": 3})
    # Nothing but the number: the change keeps its reason; a drift alone is none.
    known = draft_of([item], worths={item.id: worth})
    more = weigh(known, Evidence({item.id: worth.model_copy(update={"uses": 4})}))
    (change,) = more.changes()
    assert (change.status, change.generation, change.worth.uses) == (ACTIVE, 1, 4)
    drifted = weigh(known, Evidence({item.id: worth.model_copy(update={"utility": 0.11})}))
    assert drifted.changes() == [] and drifted.worth(item.id).utility == 0.11


def test_a_new_item_that_does_not_stay_is_no_change() -> None:
    old, new = make("alpha", born=1), make("bravo", born=3)
    settings = ConsolidationSettings(fit=budget(items=1))
    draft = consolidate(draft_of([old], new=[new]), [new], NOTHING, settings)
    assert draft.changes() == draft.new_items() == []


def test_two_new_items_that_say_the_same_are_one() -> None:
    a, b = (make("alpha", "k", task, sources=(f"3/acquire/{task}/0",)) for task in "ab")
    draft = consolidate(draft_of(new=[a, b]), [a, b], NOTHING, ConsolidationSettings())
    assert summary(draft) == {min(a.id, b.id): "active"}


def test_harm_is_found_before_anything_new_from_there_is_let_in() -> None:
    bad = make("bad", task="t1")
    new = make("new", task="t1")  # from the same episode
    evidence = Evidence({bad.id: Worth(pairs=9, utility=-0.5, low=-0.7, high=-0.3)})
    draft = draft_of([bad], new=[new])
    after = consolidate(draft, [new], evidence, ConsolidationSettings())
    assert summary(after) == {bad.id: "quarantined"}
    settings = ConsolidationSettings(quarantine=None)
    assert summary(consolidate(draft, [new], evidence, settings))[new.id] == "active"


def test_contradicting_facts_are_not_taken_for_duplicates() -> None:
    def fact(value: int) -> MemoryItem:
        text = f"The key to the big wooden door at the end of the hall is in drawer {value}."
        content = {"subject": "key", "value": value}
        return make(text, "key", f"t{value}", kind=Kind.FACT, content=content, born=value)

    old, new = fact(2), fact(3)
    draft = draft_of([old], new=[new])
    after = consolidate(draft, [new], NOTHING, ConsolidationSettings())
    assert summary(after) == {old.id: "retired", new.id: "active"}
    assert reason(after, old).startswith("superseded by")


def test_a_trial_from_birth_to_promotion() -> None:
    """Words come in on trial, solve other tasks, and are active from then on."""
    item = make("Use gcd.", kind=Kind.REFLECTION, trust=Trust.JUDGED, task="t0", born=1)
    settings = ConsolidationSettings()
    draft = consolidate(draft_of(new=[item], generation=1), [item], NOTHING, settings)
    assert summary(draft) == {item.id: "shadow"}
    played = [
        t
        for task in ("t1", "t2", "t3")
        for t in (
            episode(task, 0, True, item.id, generation=2),
            episode(task, 1, False, generation=2),
        )
    ]
    worths = credit(played)
    draft = Draft.begin(2, draft.items, draft.state, draft.vectors)
    draft = consolidate(draft, [], Evidence(worths), settings)
    assert summary(draft) == {item.id: "active"}
    assert reason(draft, item).startswith("3 other tasks solved with it; utility 1.00 [")
    # And an item that never helps leaves.
    idle = [
        t
        for task in range(20)
        for t in (
            episode(f"t{task}", 0, True, item.id, generation=3),
            episode(f"t{task}", 1, True, generation=3),
        )
    ]
    draft = Draft.begin(3, draft.items, draft.state, draft.vectors)
    draft = consolidate(draft, [], Evidence(credit(idle)), settings)
    assert summary(draft) == {item.id: "retired"}
    assert reason(draft, item).startswith("no help in 20 paired tasks: 0.00 [")


def crowd(chance: random.Random, size: int) -> list[MemoryItem]:
    """Items of all kinds, families and trusts, many of them near-duplicates and contradictions."""
    return [
        make(
            " ".join(chance.choice(DISTINCT) for _ in range(chance.randrange(1, 5))) * 3,
            key=chance.choice(DISTINCT),
            task=f"t{chance.randrange(20)}",
            kind=chance.choice([k for k in Kind if KINDS[k].stored]),
            family=chance.choice(["a", "b", ""]),
            trust=chance.choice(list(Trust)),
            born=chance.randrange(1, 4),
            content=chance.choice([{}, {"subject": "s", "value": chance.randrange(3)}]),
            sources=(f"{chance.randrange(1, 4)}/acquire/t{chance.randrange(40)}/0",),
        )
        for _ in range(size)
    ]


def random_worth(chance: random.Random) -> Worth:
    utility = round(chance.uniform(-0.5, 0.5), 3)
    uses = chance.randrange(0, 40)
    return Worth(
        uses=uses,
        wins=chance.randrange(0, uses + 1),
        solved=tuple(f"t{i}" for i in range(chance.randrange(6))),
        pairs=chance.randrange(0, 20),
        utility=utility,
        low=utility - 0.2,
        high=utility + 0.2,
        votes=chance.randrange(4),
        used=chance.randrange(4),
    )


def random_case(
    seed: int,
) -> tuple[list[MemoryItem], list[MemoryItem], Evidence, dict[str, Status]]:
    chance = random.Random(seed)
    items = list({i.id: i for i in crowd(chance, 60)}.values())
    old, new = items[:35], items[35:]
    worths = {i.id: random_worth(chance) for i in old if chance.random() < 0.8}
    families = {i: {f: random_worth(chance) for f in "ab"} for i in worths}
    status = {i.id: chance.choice([ACTIVE, ACTIVE, SHADOW, SHADOW, RETIRED]) for i in old}
    return old, new, Evidence(worths, families), status


def run(
    old: Sequence[MemoryItem],
    new: Sequence[MemoryItem],
    evidence: Evidence,
    status: dict[str, Status],
    settings: ConsolidationSettings,
) -> Draft:
    return consolidate(draft_of(old, new=new, status=status), new, evidence, settings, len)


@pytest.mark.parametrize("seed", range(12))
def test_budgets_hold_whatever_comes(seed: int) -> None:
    chance = random.Random(1000 + seed)
    active, shadow = (
        Budget(
            items=chance.choice([None, 0, 3, 10]),
            per_family=chance.choice([None, 0, 2, 4]),
            tokens=chance.choice([None, 0, 100, 300]),
        )
        for _ in range(2)
    )
    settings = ConsolidationSettings(fit=FitSettings(active=active, shadow=shadow))
    draft = run(*random_case(seed), settings)
    for kept, limit in ((draft.having(ACTIVE), active), (draft.having(SHADOW), shadow)):
        families = Counter(item.family for item in kept)
        assert limit.items is None or len(kept) <= limit.items
        assert limit.per_family is None or max(families.values(), default=0) <= limit.per_family
        assert limit.tokens is None or sum(len(item.text) for item in kept) <= limit.tokens


@pytest.mark.parametrize("seed", range(12))
def test_order_does_not_matter_and_twice_gives_the_same(seed: int) -> None:
    old, new, evidence, status = random_case(seed)
    settings = ConsolidationSettings()
    expected = run(old, new, evidence, status, settings)
    assert len(expected.changes()) > 10
    chance = random.Random(seed)
    for _ in range(3):
        chance.shuffle(old)
        chance.shuffle(new)
        shuffled = dict(sorted(evidence.worths.items(), key=lambda _: chance.random()))
        again = run(old, new, evidence._replace(worths=shuffled), status, settings)
        assert again.changes() == expected.changes()
        assert again.new_items() == expected.new_items()


@pytest.mark.parametrize("seed", range(6))
def test_what_is_there_is_settled(seed: int) -> None:
    """A second look in the same generation at the same evidence finds little to do, the third
    nothing: nothing oscillates."""
    old, new, evidence, status = random_case(seed)
    settings = ConsolidationSettings()
    draft = run(old, new, evidence, status, settings)
    for _ in range(4):
        again = Draft.begin(3, draft.items, draft.state, draft.vectors)
        last = consolidate(again, new, Evidence(), settings, len)
        draft = last
    moved = [c for c in last.changes() if c.status is not last.start[c.item].status]
    assert moved == [] and last.new_items() == []


@pytest.mark.parametrize("seed", range(4))
def test_add_all_takes_everything_and_removes_nothing(seed: int) -> None:
    old, new, evidence, status = random_case(seed)
    status = dict.fromkeys(status, ACTIVE)
    draft = run(old, new, evidence, status, ADD_ALL)
    assert {item.id for item in draft.having(ACTIVE)} == {item.id for item in [*old, *new]}


def test_add_all_is_a_line_of_configuration() -> None:
    assert ConsolidationSettings.model_validate("add-all") == ADD_ALL
    assert ConsolidationSettings.model_validate(ADD_ALL.model_dump(mode="json")) == ADD_ALL
    with pytest.raises(ValidationError, match="unknown preset 'all'; presets: add-all"):
        ConsolidationSettings.model_validate("all")


def test_every_operator_can_be_turned_off() -> None:
    off = {name: None for name in ConsolidationSettings.model_fields if name != "credit"}
    old, new, evidence, status = random_case(1)
    draft = run(old, new, evidence, status, ConsolidationSettings.model_validate(off))
    assert draft.new_items() == []
    assert all(draft.state[i].status is status[i] for i in status)


def test_few_texts_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where keys are alike, and only the nearest."""
    compared = []

    def note(a: str, b: str, ratio: float = 0.95) -> bool:
        compared.append((a, b))
        return False

    monkeypatch.setattr(likeness, "near_identical", note)
    apart = [make("the same answer " * 5 + str(i), key=f"{i * i} times {i}") for i in range(300)]
    likeness.twins(apart, draft_of(apart).vectors, likeness.Likeness())
    assert len(compared) < 600  # of 44,850 pairs
    compared.clear()
    alike = [make("the same answer " * 5 + str(i), "k", f"t{i}") for i in range(300)]
    likeness.twins(alike, draft_of(alike).vectors, likeness.Likeness())
    assert 300 < len(compared) <= 300 * (likeness.NEAREST + 1)


def test_a_preset_can_be_built_upon() -> None:
    tree = {"preset": "add-all", "forget": {}, "admit": {"trial": False}}
    settings = ConsolidationSettings.model_validate(tree)
    assert settings.forget is not None and settings.merge is None and settings.fit is None
    assert settings.admit is not None and settings.admit.distinct is not None
    with pytest.raises(ValidationError, match="unknown preset 'all'"):
        ConsolidationSettings.model_validate({"preset": "all"})
    with pytest.raises(ValidationError, match="mrege"):
        ConsolidationSettings.model_validate({"preset": "add-all", "mrege": None})


def test_a_budget_of_one_kind_and_of_what_is_shown() -> None:
    rules = [make(text, task=text, kind=Kind.INSIGHT) for text in DISTINCT[:3]]
    episodes = [make(text, task=text) for text in DISTINCT[3:6]]
    worths = {item.id: Worth(uses=9, wins=i) for i, item in enumerate(rules)}
    draft = draft_of([*rules, *episodes], worths=worths)
    settings = FitSettings(active=Budget(kinds={Kind.INSIGHT: 1}), shadow=Budget())
    after = fit(draft, settings, len)
    assert summary(after).keys() == {rules[0].id, rules[1].id}
    assert reason(after, rules[0]).startswith("over the budget of 1 active insight: ")
    size = len("- alpha")  # as it is shown
    for tokens, fits in ((size, True), (size - 1, False)):
        after = fit(draft_of(rules[:1]), budget(tokens=tokens), len)
        assert (after.changes() == []) is fits
