"""Published methods: each recipe runs, and does what makes it that method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import exp
from pathlib import Path

import pytest

from agent.config import load_config, recipes
from agent.evolution.update.weights import conversations
from agent.policies.scripted import ScriptedPolicy
from agent.run_folder import BASE
from agent.verify import verify
from memory.consolidation.forget import forget, retention
from memory.frame import shown
from memory.records import (
    Kind,
    MemoryItem,
    Note,
    Status,
    Trajectory,
    Trust,
    Worth,
)
from tests.agent.methods import Evolved, evolved, read
from tests.memory.drafts import draft_of, make, summary

METHODS = (
    *("ace", "awm", "expel", "ice", "iml", "memgpt", "memorybank"),
    *("mot", "reasoningbank", "reflexion", "tim", "tran", "voyager"),
)
SCRIPTS = {"mot": "agreed", "voyager": "programs"}
STEPS = ("ace", "awm", "ice")  # on the world of several steps
GENERATIONS = {"ace": 10, "memorybank": 3, "tim": 3}


Method = Callable[[str], Evolved]


@pytest.fixture(scope="module")
def method(toy_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Method]:
    """A recipe's run, evolved once; what it proposes goes live, so that memory grows."""
    done: dict[str, Evolved] = {}

    def run(name: str) -> Evolved:
        if name not in done:
            overrides = [
                f"generations={GENERATIONS.get(name, 2)}",
                f"policy.model=tests.agent.doors:{SCRIPTS.get(name, 'script')}",
                "acquire.tasks=9",
                "acquire.first_tasks=9",
            ]
            if name in ("expel", "iml"):
                overrides.append("update_memory.write.insights.batch=2")  # there are few tasks
            write = load_config(name).update_memory.write  # a script's tokens are characters
            kinds = {"insights": write.insights, "facts": write.facts}
            overrides += [f"update_memory.write.{k}.tokens=2000" for k, on in kinds.items() if on]
            # Those that show all of something have a budget in which it just fits.
            room = {"ace": 1000, "expel": 150}.get(name, 20_000)
            overrides += [f"memory.recall.tokens={room}", f"acquire.recall.tokens={room}"]
            if name == "mot":
                overrides.append("memory.recall.quotas={exemplar: 2}")
            if name in STEPS:
                overrides += ["suite.name=tests.agent.doors:Doors", "suite.options={}"]
            done[name] = evolved(tmp_path_factory.mktemp(name) / "run", toy_yaml, name, overrides)
        return done[name]

    yield run
    for each in done.values():
        each.ledger.close()


def test_every_method_has_its_recipe() -> None:
    assert set(METHODS) <= set(recipes())


@pytest.mark.parametrize("name", METHODS)
def test_recipes_evolve_with_frozen_weights(method: Method, name: str) -> None:
    run = method(name)
    assert [g.n for g in run.generations] == list(range(GENERATIONS.get(name, 2) + 1))
    assert {g.weights for g in run.generations} == {BASE}
    assert verify(run.folder)[1] == []
    assert bool(run.items(-1, Status.ACTIVE, Status.SHADOW)) is (name != "reflexion")
    # What has no trial is shown at once.
    assert not run.items(-1, Status.SHADOW)


# --- working memory ---


def test_reflexion_carries_its_notes_from_try_to_try(method: Method) -> None:
    run = method("reflexion")
    notes = {i: item for i, item in run.ledger.all(MemoryItem) if item.kind is Kind.WORKING}
    tries = [t for t in run.episodes("1/acquire/") if "/try" in t.slot]
    assert tries and notes
    for t in tries:
        own = [i for i, item in notes.items() if item.tasks == (t.task,)]
        assert t.recalled and set(t.recalled) <= set(own) and len(t.recalled) <= 3
        assert all(notes[i].text in read(t) for i in t.recalled)
    assert any(t.success for t in tries)  # the note is of use
    others = [t for _, t in run.ledger.all(Trajectory) if "/try" not in t.slot]
    assert not [t.slot for t in others if t.recalled or "Hint" in read(t)]
    # What is learnt from a try is the episode without the note.
    policy = ScriptedPolicy("tests.agent.doors:script", context=10**6)
    (example,) = conversations(next(t for t in tries if t.success), policy)
    assert "Hint" not in "".join(map(chr, example.token_ids))


# --- rules ---


def test_expel_shows_all_rules_and_votes_on_them(method: Method) -> None:
    run = method("expel")
    rules = {i.text.split()[1]: i for i in run.items(1) if i.kind is Kind.INSIGHT}
    assert set(rules) == {"double", "next", "square"}  # one list for all families
    assert {rule.family for rule in rules.values()} == {""}
    seen = [t for t in run.episodes("2/acquire/") if t.steps and "/try" not in t.slot]
    assert seen
    for t in seen:  # all of them, whatever the family, but for those of its own task
        assert {r.id for r in rules.values() if t.task not in r.tasks} <= set(t.recalled)
    assert all(run.state(1)[rule.id].worth.votes >= 2 for rule in rules.values())
    after = run.state(2)
    assert after[rules["next"].id].worth.votes == 0  # two REMOVEs
    assert after[rules["next"].id].status is Status.RETIRED
    votes = {f: (run.state(1)[r.id].worth.votes, after[r.id].worth.votes) for f, r in rules.items()}
    agreed = {f for f, (then, now) in votes.items() if now > then}
    assert agreed == {"double", "square"}
    assert any("/try" in t.slot for t in run.episodes("1/acquire/"))  # gathered by Reflexion
    assert any(i.kind is Kind.EXEMPLAR for i in run.items(1))


def test_tran_takes_the_rules_that_mend(method: Method) -> None:
    run = method("tran")
    assert {i.family for i in run.items(1)} == {"double", "square"}  # "be careful" mends nothing
    trials = run.episodes("1/probe/rule/")
    assert {t.family for t in trials if not t.success} == {"next"}
    assert all(t.phase == "probe" and t.split == "train" for t in trials)
    failed = {t.slot for t in run.episodes("1/acquire/") if not t.success}
    assert all(set(i.sources) <= failed for i in run.items(1))


def test_iml_revises_its_notes(method: Method) -> None:
    run = method("iml")
    before, after = run.items(1), run.items(2)
    revised = [i for i in after if i.made == "revised"]
    assert revised and {p for i in revised for p in i.parents} <= {i.id for i in before}
    assert {i.family for i in after} >= {i.family for i in before}
    for item in revised:  # it takes the place of the old one, and is shown
        assert run.state(2)[item.parents[0]].status is Status.RETIRED
    for family in {i.family for i in after}:
        assert len([i for i in after if i.family == family]) <= 2
    shown_ = [t for t in run.episodes("2/acquire/") if t.recalled]
    assert all({i.id for i in before if t.task not in i.tasks} <= set(t.recalled) for t in shown_)


def test_reasoningbank_learns_from_both_and_shows_one(method: Method) -> None:
    run = method("reasoningbank")
    items = run.items(1)
    solved = {t.slot: t.success for t in run.episodes("1/acquire/")}
    of = {item.id: {solved[slot] for slot in item.sources} for item in items}
    assert {frozenset(s) for s in of.values()} == {frozenset({True}), frozenset({False})}
    for item in items:
        lead = "Keep" if of[item.id] == {True} else "Mind"
        assert str(item.content["title"]).startswith(lead)
        assert item.text == "{title}: {description} {content}".format_map(item.content)
    per_source = {slot: sum(slot in i.sources for i in items) for slot in solved}
    assert max(per_source.values()) == 3  # of five that were said
    later = [t for t in run.episodes("2/acquire/") if t.steps]
    assert later and {len(t.recalled) for t in later} == {1}


def test_ace_keeps_its_budget(method: Method) -> None:
    run = method("ace")
    budget = load_config("ace").update_memory.consolidation.fit
    assert budget is not None and budget.active.tokens == 1000  # characters, to a script
    sizes = [sum(len(shown(i)) for i in run.items(g.n)) for g in run.generations]
    assert max(sizes) <= 1000 and min(sizes[3:]) > 700  # full, and never over
    votes = [change.worth.votes for change in run.state().values()]
    assert max(votes) > 1  # some were found helpful
    said = [str(n.data["text"]) for _, n in run.ledger.all(Note, "said/")]
    proposed = {line for text in said for line in text.splitlines() if line.startswith("ADD")}
    assert sum(map(len, proposed)) > 1500  # more than fits was said
    assert any(c.reason.startswith("voted out") for c in run.state().values())
    assert all(i.made in ("added", "merged") for _, i in run.ledger.all(MemoryItem))  # deltas only
    playbook = run.items(-2)
    for t in run.episodes("10/acquire/"):  # the whole of it, in every prompt
        assert {i.id for i in playbook if t.task not in i.tasks} == set(t.recalled)
        assert sum(len(shown(i)) for i in playbook if i.id in t.recalled) <= 1000


# --- thoughts and episodes ---


def test_mot_remembers_what_it_is_sure_of(method: Method) -> None:
    run = method("mot")
    items = run.items(1)
    # Nothing of what it is unsure of; and nobody told it that it is wrong.
    assert {i.family for i in items} == {"double", "next"}
    assert {i.trust for i in items} == {Trust.JUDGED}
    assert not [t for t in run.episodes("1/acquire/") if t.success and t.family == "double"]
    assert not [t for t in run.episodes("2/acquire/") if t.recalled]  # thought of without memory
    gate = [t for t in run.episodes("gate/") if t.memory == run.generations[1].memory]
    assert load_config("mot").memory.recall.spread == (Kind.EXEMPLAR,)
    assert gate and all(len({i.family for i in items if i.id in t.recalled}) == 2 for t in gate)


def test_memorybank_sums_up_and_forgets(method: Method) -> None:
    run = method("memorybank")
    facts = [i for i in run.items(-1) if i.kind is Kind.FACT]
    days = {str(i.content["subject"]) for i in facts}
    assert {"double, day 1", "double, day 2"} & days
    assert all("were met" in i.text for i in facts)
    # R = exp(−t/S): S is 1 at birth and 1 more at each recall, which sets t back to 0.
    item = facts[0].model_copy(update={"born": 1})
    for uses, used, now, expected in (
        (0, 0, 2, exp(-1)),
        (0, 0, 4, exp(-3)),
        (2, 3, 5, exp(-2 / 3)),
    ):
        assert retention(item, Worth(uses=uses, used=used), now) == pytest.approx(expected)
    settings = load_config("memorybank").update_memory.consolidation.forget
    assert settings is not None and exp(-2) > settings.threshold > exp(-3)
    old, used = make("an old day", born=1), make("a day told again", born=1)
    draft = draft_of([old, used], worths={used.id: Worth(uses=2, used=2)}, generation=4)
    assert summary(forget(draft, settings)) == {old.id: "retired"}


def test_tim_inserts_forgets_and_merges(method: Method) -> None:
    run = method("tim")
    changes = {c.item: c for g in run.generations for c in run.state(g.n).values()}
    merged = [
        i for _, i in run.ledger.all(MemoryItem) if i.made == "merged" and "put together" in i.text
    ]
    assert merged and all(len(i.parents) >= 3 for i in merged)
    for item in merged:
        assert {i.partition(",")[0] for i in _heads(run, item)} == {item.content["subject"]}
        assert all(changes[p].status is Status.RETIRED for p in item.parents)
        assert item.trust is Trust.JUDGED
    gone = [c for c in changes.values() if c.reason.startswith("superseded")]
    assert gone  # "best" was said anew with another value
    living = [i for i in run.items() if str(i.content["subject"]).endswith(", best")]
    subjects = [i.content["subject"] for i in living]
    assert len(subjects) == len(set(subjects))  # nothing contradicts anything


def _heads(run: Evolved, item: MemoryItem) -> list[str]:
    parents = [run.ledger.get(MemoryItem, p) for p in item.parents]
    return [str(p.content["subject"]) for p in parents if p is not None]


# --- skills ---


def test_voyager_keeps_what_passes_again(method: Method) -> None:
    run = method("voyager")
    solved = {t.family for t in run.episodes("1/acquire/") if t.success}
    assert solved == {"double", "next", "square"}
    # Programs on squares solve their task, but not as a function.
    assert {i.family for i in run.items(1)} == {"double", "next"}
    assert all(str(i.content["definition"]).startswith("def skill(") for i in run.items(1))
    later = [t for t in run.episodes("2/acquire/") if t.recalled]
    assert later and all("def skill(" in read(t) for t in later)


def test_awm_needs_several_tasks_and_ice_one(method: Method) -> None:
    awm, ice = method("awm"), method("ice")
    assert awm.items(1) and ice.items(1)
    assert all(len(i.tasks) >= 2 for i in awm.items(1))
    for item in awm.items(1):  # values are open
        assert len(item.content["steps"]) == 3 and "{1}" in item.text  # type: ignore[arg-type]
    wrong = [t for t in ice.episodes("1/acquire/") if t.success and any(s.error for s in t.steps)]
    assert wrong  # what failed on the way is not part of the plan
    assert all("wait" not in i.text for i in ice.items(1))
    for t in awm.episodes("2/acquire/"):  # the whole workflow memory
        assert {i.id for i in awm.items(1) if t.task not in i.tasks} <= set(t.recalled)
    assert load_config("awm").update_memory.write.workflows.support == 2  # type: ignore[union-attr]
    assert load_config("ice").update_memory.write.workflows.support == 1  # type: ignore[union-attr]
