"""What makes each method that method: with it one thing happens, without it that does not.

A row of `ROWS` names a recipe, a mechanism, what takes the mechanism out (settings, or a part of
the code put out of work) and what it brings about; the recipe is evolved with and without. What
a paper gives in numbers is checked below.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest

from agent import paging
from agent.config import load_config, recipes
from agent.paging import PRESSURE, SHARE, WARNING
from memory.consolidation.admit import admit
from memory.consolidation.edit import downvote, revise, upvote
from memory.consolidation.forget import retention
from memory.embed import HashEmbedder
from memory.frame import shown
from memory.records import Kind, MemoryItem, Status, StopReason, Trajectory, Worth
from tests.agent import doors
from tests.agent.methods import Evolved, Row, Run_, needs_its_mechanism, read, runs
from tests.agent.test_paging import DAYS, play, stretches, text
from tests.memory.drafts import draft_of, make

WRITERS = "agent.evolution.update.writers"  # where a writer has the name of its module

# --- policies ---


def handy(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Opens what has an even key at once and every other odd one after a wait; the rest only
    with a hint, a solved episode or a workflow for that thing in the prompt.
    """
    asked = doors.question(prompt)
    if "You write short general rules" in prompt:
        return rules(asked)
    if "You take short notes" in prompt and "Task:" in asked and doors.family(asked) == "box":
        return f"box, best: {doors.number(asked)} times, Hint box"
    if "<system>You open things." not in prompt:
        return doors.script(prompt, chance, learnt)
    thing, key = doors.GOAL.findall(prompt)[-1][1:]
    able = (
        "Done" in asked
        or int(key) % 2 == 0
        or (int(key) % 4 == 1 and "Nothing happens" in asked)
        or f"Hint {thing}" in prompt
        or re.search(rf"Open the \S+ {thing} with key \S+\n1\. take key", prompt)
        or re.search(rf"<user>Open the \w+ {thing} with key \d+\.</user><assistant>take", prompt)
    )
    return deft(prompt, chance, learnt) if able else "wait\n"


def deft(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Opens everything."""
    done = re.search(r"Done (\d)\.", doors.question(prompt))
    return doors.steps(prompt)[int(done[1]) if done else 0] + "\n"


def rules(asked: str) -> str:
    """What is learnt of boxes is of little use."""
    own, odd = doors.family(asked), doors.number(asked)
    if "avoided this mistake" in asked:  # TRAN: of boxes it says more when it has seen several
        several = asked.count("This attempt was wrong") > 1
        told = own == "door" or several
        return f"Hint {own} is what it takes." if told else "Be careful with these tasks."
    if "playbook" in asked:  # ACE
        if "EDIT n" in asked and "Rules:" in asked:
            return f"EDIT 1: Hint {own} as of {odd}."
        votes = ["AGREE 1"] if "\n1. " in asked else []
        votes += ["REMOVE 2"] if "\n2. " in asked and own == "box" else []
        words = "".join(random.Random(odd).choices("abcdefghijklmnopqrstuvwxyz", k=30))
        if "It knew no" not in asked:  # what the reflector says
            return "ADD: Try harder than before."
        return "\n".join([*votes, f"ADD: Hint {own} {words}."])
    said = doors.rules(asked)
    return "ADD: Hint box, both hands first." if said == "ADD: Hint box for all of them." else said


def repeating(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Says much the same of everything."""
    if "You write short general rules" not in prompt:
        return handy(prompt, chance, learnt)
    said, odd = "take the key, go there and open it with that very key", doors.number(prompt) % 9
    other = "what is written on the door matters, read it before you begin"
    return f"ADD: {said}, {odd}.\nADD: {other}, {odd}."


def sure(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Sure of its answers, which it says in other words for each task (MoT)."""
    own = random.Random(doors.number(doors.question(prompt)))
    words = "".join(own.choices("abcdefghijklmnopqrstuvwxyz", k=60))
    return f"print('sure')  # {words}\n```\n"


def hopeless(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Never does anything, but always has something to say about it."""
    if "next attempt" in prompt:
        return f"Do not wait {chance.random()} times."
    return "wait\n"


def mending(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Its first program fails; with the interpreter's message it writes the right one."""
    if "Error" not in doors.question(prompt):
        return "print(undefined)\n```\n"
    task = re.findall(r"(?:Double|Which|Square)[a-z ]+\d+", prompt)[-1]
    return doors.programs(f"<user>{task}</user>", chance, learnt)


def noting(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Notes the code when it is warned, and never searches."""
    if "You take short notes" in prompt:
        return "blue room: it holds the code"
    asked = prompt.rsplit("<user>", 1)[1]
    code = re.search(r"its code is (X\d+Y)", prompt)
    if "Say the code" in asked:
        return f'say(text="{code[1] if code else "?"}")\n'
    if "Memory pressure" in asked and code:
        return f'memory_note(text="its code is {code[1]}")\n'
    return "look()\n"


# --- what is seen of a run ---


def texts(run: Evolved, n: int = -1) -> list[str]:
    return [item.text for item in run.items(n)]


def families(run: Evolved) -> set[str]:
    return {item.family for item in run.items(1)}


def firsts(run: Evolved, n: int = 2) -> list[Trajectory]:
    """The first tries of a generation."""
    return [t for t in run.episodes(f"{n}/acquire/") if "/try" not in t.slot]


def every(found: Sequence[Any], holds: Callable[[Any], object]) -> bool:
    """All of them, and there are some."""
    return bool(found) and all(map(holds, found))


def shows_all(run: Evolved, kind: Kind) -> bool:
    """Each episode of generation 2 shows all of a kind that were not made from its own task."""
    known = [item for item in run.items(1) if item.kind is kind]
    return len(known) > 1 and every(
        firsts(run), lambda t: {i.id for i in known if t.task not in i.tasks} <= set(t.recalled)
    )


def outcomes(run: Evolved, item: MemoryItem) -> set[bool]:
    """How the episodes went that an item was made from."""
    of = {t.slot: t.success for t in run.episodes(f"{item.born}/acquire/")}
    return {of[slot] for slot in item.sources}


def tries(run: Evolved) -> list[Trajectory]:
    return [t for t in run.episodes("1/acquire/") if "/try" in t.slot]


def reasons(run: Evolved, beginning: str) -> bool:
    states = [run.state(g.n) for g in run.generations]
    return any(c.reason.startswith(beginning) for state in states for c in state.values())


def alike(run: Evolved) -> bool:
    """Whether two of the items that are shown are closer than ACE allows."""
    vectors = HashEmbedder().embed(texts(run))
    return any(float(a @ b) > 0.9 for a, b in combinations(vectors, 2))


def of_one_subject(run: Evolved) -> list[int]:
    return list(Counter(str(i.content["subject"]) for i in run.items()).values())


# --- the table ---

HERE = "tests.agent.test_mechanisms"
DOORS = (
    "suite={name: tests.agent.doors:Doors, tasks: {train: 12, gate: 1, retention: 1, test: 1}}",
    f"policy.model={HERE}:handy",
    "agent.turns=5",
    "acquire.first_tasks=8",
    "acquire.tasks=8",
)
TOY = ("policy.model=tests.agent.doors:programs", "acquire.first_tasks=6", "acquire.tasks=6")
HOUSES = (
    "suite={name: tests.agent.test_paging:Houses, tasks: {train: 3, gate: 1, test: 1}}",
    "policy.model=tests.agent.test_paging:walker",
    "policy.context=2600",
    "acquire.samples=1",
    "memory.search.tokens=9000",
)
AGREED = (*TOY, "policy.model=tests.agent.doors:agreed", "generations=1")
ONE, TWO = "generations=1", "generations=2"
INSIGHTS, FACTS = "update_memory.write.insights", "update_memory.write.facts"
WHOLE = ("memory.recall.tokens=20000", "acquire.recall.tokens=20000")  # tokens are characters


def insights(*more: str) -> tuple[str, ...]:
    return (*DOORS, *WHOLE, f"{INSIGHTS}.tokens=2000", *more)


def facts(*more: str) -> tuple[str, ...]:
    return (*DOORS, *WHOLE, f"{FACTS}.tokens=2000", "acquire.samples=2", *more)


EXPEL = insights(f"{INSIGHTS}.batch=2")
TRAN = insights("acquire.samples=2", "acquire.first_tasks=16", ONE)
BANK = insights()
ACE = insights("acquire.samples=2", f"{INSIGHTS}.key=text")
SKILLS = (*DOORS, *WHOLE, "acquire.samples=2")
PROGRAMS = (*TOY, *WHOLE, "acquire.samples=1", ONE)
RECALL = "acquire.recall"
PARTS = {"title", "description", "content"}
KEEPS = "update_memory.consolidation"

ROWS = [
    Row(
        "reflexion", "what went wrong is carried to the next try", (*DOORS, ONE),
        ("acquire.carried=0",),
        lambda run: every(tries(run), lambda t: t.success),
    ),
    Row(
        "reflexion", "memory is bounded by three notes",
        (*DOORS, f"policy.model={HERE}:hopeless", "acquire.retries=5",
         "acquire.first_tasks=2", ONE),
        ("acquire.carried=99",),
        lambda run: max(len(t.recalled) for t in tries(run)) == 3,
    ),
    Row(
        "expel", "experience is gathered by retries", (*EXPEL, f"{INSIGHTS}.sources=[pairs]", ONE),
        ("acquire.retries=0",),
        lambda run: any(
            outcomes(run, i) == {True, False} for i in run.items(1) if i.kind is Kind.INSIGHT
        ),
    ),
    Row(
        "expel", "rules are voted on", (*EXPEL, TWO), (f"{INSIGHTS}.operations=[ADD]",),
        lambda run: reasons(run, "voted out"),
    ),
    Row(
        "expel", "all rules are shown", (*EXPEL, TWO), (f"{RECALL}.quotas={{exemplar: 2}}",),
        lambda run: shows_all(run, Kind.INSIGHT),
    ),
    Row(
        "expel", "like solved episodes are shown", (*EXPEL, TWO),
        (f"{RECALL}.quotas={{insight: 20}}",),
        lambda run: every(
            firsts(run), lambda t: {i.id for i in run.items(1) if i.kind is Kind.EXEMPLAR}
            & set(t.recalled),
        ),
    ),
    Row(
        "expel", "one list for all tasks", (*EXPEL, ONE), (f"{INSIGHTS}.shared=false",),
        lambda run: {i.family for i in run.items(1) if i.kind is Kind.INSIGHT} == {""},
    ),
    Row(
        "mot", "only what it is sure of is kept", AGREED,
        ("update_memory.write.exemplars.which=all",),
        lambda run: families(run) == {"double", "next"},
    ),
    Row(
        "mot", "nobody tells it what is right", AGREED,
        ("update_memory.write.exemplars.which=verified",),
        lambda run: families(run) == {"double", "next"},
    ),
    Row(
        "mot", "one of each cluster is shown",
        (*TOY, *WHOLE, f"policy.model={HERE}:sure", "memory.recall.quotas={exemplar: 3}",
         "acquire.samples=2", ONE),
        ("memory.recall.spread=[]",),
        lambda run: every(
            [t for t in run.episodes("gate/") if t.recalled],
            lambda t: len({i.family for i in run.items(1) if i.id in t.recalled}) == 3,
        ),
    ),
    Row(
        "tran", "a rule has to mend its mistake", TRAN, (f"{INSIGHTS}.mend=false",),
        lambda run: every(texts(run), lambda text: "Hint" in text),
    ),
    Row(
        "tran", "rules from several mistakes where one gave none", TRAN,
        (f"{INSIGHTS}.together=null",),
        lambda run: families(run) == {"door", "box"},
    ),
    Row(
        "tran", "rules come from failures", TRAN, (f"{INSIGHTS}.sources=[successes]",),
        lambda run: every(run.items(1), lambda i: outcomes(run, i) == {False}),
    ),
    Row(
        "memorybank", "what is not recalled fades", facts("generations=4"),
        (f"{KEEPS}.forget=null",),
        lambda run: reasons(run, "forgotten"),
    ),
    Row(
        "memorybank", "days are summed up", facts(TWO), ("update_memory.write.facts=null",),
        lambda run: {"day 1", "day 2"} <= {
            str(i.content["subject"]).partition(", ")[2]
            for i in run.items() if i.kind is Kind.FACT
        },
    ),
    Row(
        "tim", "thoughts in place of turns", facts(TWO),
        ("update_memory.write.facts=null", "update_memory.write.exemplars={}"),
        lambda run: every(run.items(), lambda i: i.kind is Kind.FACT and ": " in i.text),
    ),
    Row(
        "tim", "thoughts with one head are merged", facts(TWO), (f"{FACTS}.merge=null",),
        lambda run: any("put together" in said for said in texts(run)),
    ),
    Row(
        "tim", "contradicted thoughts are forgotten", facts(ONE),
        (f"{KEEPS}.resolve=null",),
        lambda run: max(of_one_subject(run)) == 1,
    ),
    Row(
        "iml", "notes are revised and not appended", insights(f"{INSIGHTS}.batch=2", TWO),
        (f"{INSIGHTS}.operations=[ADD]",),
        lambda run: any(i.made == "revised" for i in run.items()) and len(run.items()) <= 4,
    ),
    Row(
        "iml", "notes are induced from several episodes",
        insights(f"{INSIGHTS}.batch=2", f"{INSIGHTS}.sources=[batches]", ONE),
        (f"{INSIGHTS}.sources=[successes]",),
        lambda run: every(run.items(), lambda i: len(i.sources) > 1),
    ),
    Row(
        "iml", "notes are always shown", insights(f"{INSIGHTS}.batch=2", TWO),
        (f"{RECALL}.quotas={{}}",), lambda run: shows_all(run, Kind.INSIGHT),
    ),
    Row(
        "memgpt", "the oldest turns are paged out", (*HOUSES, ONE), ("agent.overflow=stop",),
        lambda run: every(
            run.episodes("1/acquire/"), lambda t: t.success and t.stop is not StopReason.CONTEXT
        ),
    ),
    Row(
        "memgpt", "earlier episodes are found by a call", (*HOUSES, TWO), ("memory.search=null",),
        lambda run: every(firsts(run), lambda t: t.recalled),
    ),
    Row(
        "memgpt", "paged-out turns are found by a call", (*HOUSES, ONE),
        (paging, "_best", lambda query, texts: []),
        lambda run: every(run.episodes("1/acquire/"), lambda t: t.success),
    ),
    Row(
        "memgpt", "it is warned before turns leave", (*HOUSES, f"policy.model={HERE}:noting", ONE),
        (paging, "PRESSURE", float("inf")),
        lambda run: every(run.episodes("1/acquire/"), lambda t: t.success),
    ),
    Row(
        "ice", "failed steps are pruned", (*SKILLS, ONE),
        (Trajectory, "turns", property(lambda t: t.steps)),
        lambda run: every(texts(run), lambda said: "wait" not in said),
    ),
    Row(
        "ice", "one solved task is enough", (*SKILLS, "acquire.first_tasks=2", ONE),
        ("update_memory.write.workflows.support=2",),
        lambda run: any(len(i.tasks) == 1 for i in run.items(1)),
    ),
    Row(
        "ice", "programs become pipelines with open values", PROGRAMS,
        ("update_memory.write.skills=null",),
        lambda run: any(said.startswith("def skill(") for said in texts(run)),
    ),
    Row(
        "ice", "workflows are used again", (*SKILLS, TWO), (f"{RECALL}.quotas={{}}",),
        lambda run: every(firsts(run), lambda t: t.success),
    ),
    Row(
        "awm", "routines are what several tasks share",
        (*SKILLS, f"policy.model={HERE}:deft", "acquire.first_tasks=3", ONE),
        ("update_memory.write.workflows.support=1",),
        lambda run: every(run.items(1), lambda i: len(i.tasks) > 1),
    ),
    Row(
        "awm", "values are left open", (*SKILLS, ONE),
        (import_module(f"{WRITERS}.workflows"), "generalise", lambda episodes: list(episodes[0])),
        lambda run: every(texts(run), lambda said: "{1}" in said),
    ),
    Row(
        "awm", "the whole memory is shown", (*SKILLS, TWO), (f"{RECALL}.quotas={{skill: 1}}",),
        lambda run: shows_all(run, Kind.SKILL),
    ),
    Row(
        "voyager", "a skill is verified before it is kept", PROGRAMS,
        (import_module(f"{WRITERS}.skills"), "passes", lambda *_: True),
        lambda run: families(run) == {"double", "next"},
    ),
    Row(
        "voyager", "rounds with the environment's feedback",
        (*PROGRAMS, f"policy.model={HERE}:mending"), ("agent.turns=1",),
        lambda run: families(run) == {"double", "next"},
    ),
    Row(
        "voyager", "skills are shown with later tasks", (*PROGRAMS, TWO),
        (f"{RECALL}.quotas={{}}",),
        lambda run: every(firsts(run), lambda t: "def skill(" in read(t)),
    ),
    Row(
        "reasoningbank", "failures teach as well", (*BANK, ONE),
        (f"{INSIGHTS}.sources=[successes]",),
        lambda run: {True, False} == {o for i in run.items(1) for o in outcomes(run, i)},
    ),
    Row(
        "reasoningbank", "title, description, content", (*BANK, ONE), (f"{INSIGHTS}.titled=false",),
        lambda run: every(run.items(1), lambda i: set(i.content) == PARTS),
    ),
    Row(
        "reasoningbank", "at most three of an episode", (*BANK, ONE), (f"{INSIGHTS}.most=9",),
        lambda run: max(Counter(s for i in run.items(1) for s in i.sources).values()) == 3,
    ),
    Row(
        "reasoningbank", "the nearest one is shown", (*BANK, TWO),
        (f"{RECALL}.quotas={{insight: 5}}",),
        lambda run: every(firsts(run), lambda t: len(t.recalled) == 1),
    ),
    Row(
        "ace", "deltas only", (*ACE, TWO), (f"{INSIGHTS}.operations=[ADD, EDIT, AGREE, REMOVE]",),
        lambda run: every(
            [i for _, i in run.ledger.all(MemoryItem)], lambda i: i.made in ("added", "merged")
        ),
    ),
    Row(
        "ace", "helpful and harmful rules are voted on", (*ACE, TWO),
        (f"{INSIGHTS}.operations=[ADD]",),
        lambda run: max(c.worth.votes for c in run.state().values()) > 1
        and reasons(run, "voted out"),
    ),
    Row(
        "ace", "near-duplicates are one rule", (*ACE, f"policy.model={HERE}:repeating", ONE),
        (f"{KEEPS}.merge=null", f"{KEEPS}.admit.distinct=null"),
        lambda run: len(run.items()) > 1 and not alike(run),
    ),
    Row(
        "ace", "the whole playbook is shown", (*ACE, TWO), (f"{RECALL}.quotas={{insight: 1}}",),
        lambda run: shows_all(run, Kind.INSIGHT),
    ),
    Row(
        "ace", "a budget of tokens", (*ACE, f"{KEEPS}.fit.active.tokens=60", ONE),
        (f"{KEEPS}.fit=null",),
        lambda run: 0 < sum(len(shown(i)) for i in run.items()) <= 60,
    ),
    Row(
        "ace", "a reflector before the curator", (*ACE, ONE), (f"{INSIGHTS}.reflect=''",),
        lambda run: any("Hint" in said for said in texts(run)),
    ),
]  # fmt: skip

run = pytest.fixture(scope="module")(runs)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.recipe}: {row.mechanism}")
def test_without_its_mechanism_it_is_another_method(
    row: Row, run: Run_, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_its_mechanism(row, run, monkeypatch)


def test_every_method_has_rows() -> None:
    suites = {"banking77", "household", "lifelong-db", "mbpp", "miniwob", "quickstart", "textworld"}
    others = {"instar", "chateval", "dlma"}  # ours; in test_evaluation; in test_solutions
    held: set[str] = set()
    for file in Path(__file__).parent.glob("test_*.py"):  # some have tables of their own
        if re.search(r"^(TRUE_)?ROWS = ", file.read_text(), re.MULTILINE):
            module = import_module(f"tests.agent.{file.stem}")
            rows = [*getattr(module, "ROWS", ()), *getattr(module, "TRUE_ROWS", ())]
            held |= {row.recipe for row in rows}
    assert held == set(recipes()) - suites - others


# --- numbers that the papers give ---


def test_expel_counts_2_at_birth_and_1_each_way_and_is_gone_at_0() -> None:
    """arXiv 2308.10144, §4.2: 2, AGREE and EDIT +1, REMOVE −1, gone at 0."""
    rule = make("Count every letter.", kind=Kind.INSIGHT)
    settings = load_config("expel").update_memory.consolidation.admit
    draft = admit(draft_of(new=[rule]), settings, [rule])
    assert draft.worth(rule.id).votes == 2
    assert upvote(draft, rule.id).worth(rule.id).votes == 3
    edited = revise(draft, rule.id, "Count every letter twice.")
    (new,) = [i for i in edited.living if i.made == "revised"]
    assert edited.worth(new.id).votes == 3
    once = downvote(draft, rule.id)
    assert (once.worth(rule.id).votes, once.state[rule.id].status) == (1, Status.ACTIVE)
    twice = downvote(once, rule.id)
    assert (twice.worth(rule.id).votes, twice.state[rule.id].status) == (0, Status.RETIRED)


@pytest.mark.parametrize(
    ("recalls", "since", "kept"),
    [(0, 0, 1.0), (0, 1, 0.3679), (0, 2, 0.1353), (1, 1, 0.6065), (1, 2, 0.3679), (4, 5, 0.3679)],
)
def test_memorybank_keeps_e_to_the_minus_t_over_s(recalls: int, since: int, kept: float) -> None:
    """arXiv 2305.10250, §2: R = e^(−t/S); S is 1 at first, 1 more and t 0 again at each recall."""
    item, used = make("a day", born=1), 3 if recalls else 0
    now = max(1, used) + since
    worth = Worth(uses=recalls, used=used)
    assert retention(item, worth, now) == pytest.approx(kept, abs=1e-4)


def test_memgpt_warns_at_70_and_leaves_50_percent_at_100() -> None:
    """arXiv 2310.08560, §2.2: a warning at 70 % of the context, at 100 % half of it is evicted."""
    assert (PRESSURE, SHARE) == (0.7, 0.5)
    played = play("page")
    steps = played.trajectory.steps
    room = played.policy.context - 60  # what an answer may take is no room for a prompt
    filled = [len(ids) + len(step.produced_ids) for ids, step in stretches(played.trajectory)]
    warned = [i for i, step in enumerate(steps) if WARNING in step.observation]
    anew = [0, *(i for i, step in enumerate(steps) if step.anew is not None), len(steps)]
    assert len(anew) > 3 and len(steps) > DAYS
    for start, end in pairwise(anew):
        over = [i for i in range(start, end) if filled[i] >= 0.7 * room]
        assert [i for i in warned if start <= i < end] == over[:1]  # once, and at 70 %
        if end < len(steps):
            would = filled[end - 1] + len(f"</assistant><user>{steps[end - 1].observation}</user>")
            assert filled[end - 1] <= room < would + len("<assistant>")
            assert len(text(steps[end].prompt_ids)) <= 0.5 * played.policy.context


def test_numbers_that_stand_in_the_recipes() -> None:
    """As published: Reflexion's three notes (§4), ExpeL's three retries (§5), MoT's eight or more
    samples at 0.7, Voyager's four rounds and five skills (§2), ReasoningBank's three items (§3).
    """
    reflexion, mot, voyager = (load_config(name) for name in ("reflexion", "mot", "voyager"))
    assert reflexion.acquire.carried == 3
    assert load_config("expel").acquire.retries == 3
    assert mot.acquire.samples >= 8 and mot.acquire.temperatures == (0.7,)
    assert voyager.agent.turns == 4 and voyager.memory.recall.quotas[Kind.SKILL] == 5
    bank = load_config("reasoningbank")
    assert bank.update_memory.write.insights and bank.update_memory.write.insights.most == 3
    assert bank.memory.recall.quotas == {Kind.INSIGHT: 1}
    merge = load_config("ace").update_memory.consolidation.merge
    assert merge and merge.similarity == 0.9
