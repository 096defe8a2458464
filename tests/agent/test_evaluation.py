"""What is told beside the gate: win rates, debates, the account. Nothing learns from it."""

from __future__ import annotations

import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.config import Config, ConfigError, load_config
from agent.evolution.cycle import evolve
from agent.evolution.evaluate import debate, preference
from agent.evolution.evaluate.account import LINKS, account, cited
from agent.evolution.evaluate.debate import majority
from agent.evolution.evaluate.judges import question
from agent.evolution.feedback.base import attempt
from agent.report import accounted
from agent.report.html import page
from agent.report.terminal import two_by_two
from agent.run import Run
from agent.run_folder import BASE, open_ledger
from agent.stats import paired_difference, rate
from agent.training.adapter import read_manifest
from agent.verify import verify
from memory.records import Generation, MemoryItem, Note, Trajectory
from tests import toy
from tests.agent import doors, pupils
from tests.agent.methods import Evolved
from tests.agent.test_feedback import Judge
from tests.agent.test_report import shown

HERE = "tests.agent.test_evaluation"
SECRET = "xyzzy"  # what judges say and nothing else does
Words = Sequence[tuple[str, str]]


def wrong(attempted: str) -> bool:
    """Whether an attempt is one of the toy policy's mistakes."""
    return "print(0)" in attempted or "NameError" in attempted


def better(asked: str) -> str:
    """Prefers what is no mistake; where neither or both are, what stands first."""
    first, second = asked.split("\n\nB. ")
    return "B" if wrong(first) and not wrong(second) else "A"


def judging(prompt: str, chance: random.Random, learnt: Words) -> str:
    """The toy policy; as a judge it knows its mistakes."""
    if "You judge attempts" in prompt:
        asked = doors.question(prompt)
        return better(asked) if "Write the letter" in asked else f"{SECRET} it is."
    if "You write the account" in prompt:
        return f"It learnt a family [e1]. {SECRET} can fly. Others it learnt too. [e2, e999]"
    return toy.script(prompt, chance, learnt)


def partial(prompt: str, chance: random.Random, learnt: Words) -> str:
    """As a judge it prefers whatever stands first."""
    return "A" if "You judge attempts" in prompt else toy.script(prompt, chance, learnt)


def persuaded(prompt: str, chance: random.Random, learnt: Words) -> str:
    """The critic sees what is wrong and says so; the others only listen to the critic."""
    if "You judge attempts" not in prompt:
        return toy.script(prompt, chance, learnt)
    asked = doors.question(prompt)
    attempts = asked.split("What the judges said so far:")[0]
    if "Say in a sentence" in asked:
        return (
            f"I find {better(attempts)} better." if "judges: a critic" in asked else "Hard to say."
        )
    heard = re.findall(r"a critic: I find ([AB]) better", asked)
    return heard[-1] if heard else "A"


def listening(prompt: str, chance: random.Random, learnt: Words) -> str:
    """Says how much it has heard."""
    if "You judge attempts" not in prompt:
        return toy.script(prompt, chance, learnt)
    asked = doors.question(prompt)
    heard = asked.partition("What the judges said so far:")[2]
    lines = [line for line in heard.splitlines() if line.startswith("| ")]
    if "Sum up" in asked:
        return f"Summary of {len(lines)}."
    if "Say in a sentence" in asked:
        return f"Heard {len(lines)}."
    return "A" if not lines or "Summary" not in heard else "B"


Evolve = Callable[..., Evolved]


@pytest.fixture
def run(toy_yaml: Path, tmp_path: Path) -> Iterator[Evolve]:
    done: list[Evolved] = []

    def go(script: str, *settings: str, name: str = "run") -> Evolved:
        config = load_config(
            toy_yaml, [f"policy.model={HERE}:{script}", "generations=1", *settings]
        )
        with Run(tmp_path / name, config, quiet=True) as opened:
            evolve(opened)
        done.append(Evolved(tmp_path / name, open_ledger(tmp_path / name)))
        return done[-1]

    yield go
    for each in done:
        each.ledger.close()


SELF = "evaluate.judge=self"
DEBATE = (SELF, "evaluate.how=debate")


def told(run: Evolved, opponent: str = "incumbent") -> dict[str, Any]:
    found: Any = run.generations[-1].details["preference"]
    against: dict[str, Any] = found["against"][opponent]
    return against


def pairs(run: Evolved) -> list[tuple[Trajectory, Trajectory]]:
    """The candidate's gate episodes of generation 1, each beside the base's."""
    (g,) = run.generations[1:]
    base = {t.task: t for t in run.episodes(f"gate/none+{BASE}/")}
    mine = [t for t in run.episodes("gate/") if t.policy == g.weights and t.memory == g.memory]
    return [(t, base[t.task]) for t in mine if "/none+" not in t.slot]


# --- win rates ---


def test_the_win_rate_is_counted_over_both_orders(run: Evolve) -> None:
    found = run("judging", SELF)
    assert found.generations[1].cell == "both"
    both = pairs(found)
    assert len(both) == 30
    points: list[float] = []
    for mine, other in both:
        found_out = wrong(attempt(mine)), wrong(attempt(other))
        points.append({(False, True): 1.0, (True, False): 0.0}.get(found_out, 0.5))
    same = sum(attempt(a) == attempt(b) for a, b in both)
    own = told(found)
    assert own["win_rate"]["mean"] == pytest.approx(sum(points) / 30) and own["win_rate"]["n"] == 30
    assert own["win_rate"]["low"] < own["win_rate"]["mean"] < own["win_rate"]["high"]
    assert (own["wins"], own["losses"]) == (points.count(1.0), points.count(0.0))
    assert own["wins"] > 0 and own["ties"] == points.count(0.5) and own["same"] == same
    # Each pair was asked about twice, and those that are the same not at all.
    asked = found.ledger.count(Note, "said/1/evaluate/better/")
    assert asked == 2 * (30 - same) > 0
    assert told(found, "base") == own  # in the first generation the incumbent is the base
    # The verifier tells one from the other where one of both solved the task.
    agree = [
        won if mine.success else 1 - won
        for (mine, other), won in zip(both, points, strict=True)
        if mine.success != other.success
    ]
    assert own["agreement"]["mean"] == pytest.approx(rate(agree).mean) and agree
    assert own["agreement"]["n"] == len(agree)


def test_who_prefers_what_stands_first_prefers_nothing(run: Evolve) -> None:
    own = told(run("partial", SELF))
    assert (own["wins"], own["losses"], own["steady"]) == (0, 0, 0.0)
    assert own["win_rate"]["mean"] == own["agreement"]["mean"] == 0.5


def test_with_one_order_the_place_would_win(run: Evolve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preference, "points_of", lambda there, back: float(there == "A"))
    assert told(run("partial", SELF))["win_rate"]["mean"] > 0.5


def test_a_sample_of_the_gate_is_of_all_families(run: Evolve) -> None:
    found = run("judging", SELF, "evaluate.tasks=6", "evaluate.against=[incumbent]")
    assert told(found)["win_rate"]["n"] == 6
    found_: Any = found.generations[1].details["preference"]
    assert set(found_["against"]) == {"incumbent"}
    asked = [key for key, _ in found.ledger.all(Note, "said/1/evaluate/better/")]
    assert asked
    tasks = {t.task for t, _ in pairs(found) if any(t.slot in key for key in asked)}
    families = Counter(t.family for t, _ in pairs(found) if t.task in tasks)
    assert max(families.values()) <= 2  # of each family as many, but for those that are the same


@pytest.fixture
def judge() -> Iterator[Judge]:
    server = Judge()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_an_endpoint_judges_and_is_told(
    run: Evolve, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pupils, "judge", better)
    endpoint = f"evaluate.endpoint={{url: '{judge.url}', model: grader}}"
    found = run("judging", "evaluate.judge=endpoint", endpoint)
    assert len(judge.seen) == found.ledger.count(Note, "said/1/evaluate/better/") > 0
    assert told(found)["wins"] > 0
    g = found.generations[1]
    line = "both against base, by judge grader (alone): wins"
    assert line in shown(two_by_two(g), 200) and line in page({}, found.generations, [])
    assert "agrees with the environment on" in shown(two_by_two(g), 400)
    # What judges say is paid for by the evaluation.
    episodes = sum(t.produced_tokens for t in found.episodes("gate/")) - sum(
        t.produced_tokens for t in found.episodes(f"gate/none+{BASE}/")
    )
    assert g.tokens["evaluate"] == episodes + 11 * len(judge.seen)
    with pytest.raises(ConfigError, match=r"needs evaluate\.endpoint\.url and evaluate\.endpoint"):
        load_config(None, ["evaluate.judge=endpoint"])


def test_attempts_are_compared_without_their_scores(run: Evolve) -> None:
    mine, other = pairs(run("judging"))[0]
    asked = question(mine, other)
    assert mine.prompt in asked and "reward" not in asked and "success" not in asked
    assert all(line.startswith("| ") for line in asked.splitlines() if "print" in line)


# --- debates ---


def test_a_debate_is_won_by_who_is_heard(run: Evolve, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = told(run("persuaded", *DEBATE, name="heard"))
    alone = told(run("judging", SELF, name="alone"))
    assert heard["wins"] == alone["wins"] > 0  # all vote as the critic has said
    monkeypatch.setattr(debate, "_discussion", lambda said: "")
    deaf = told(run("persuaded", *DEBATE, name="deaf"))
    assert deaf["wins"] == deaf["losses"] == 0  # each votes for what stands first


@pytest.mark.parametrize(
    ("talk", "heard"),
    [("one-by-one", [0, 1, 2, 3, 4, 5]), ("simultaneous", [0, 0, 0, 3, 3, 3])],
)
def test_judges_hear_each_other(run: Evolve, talk: str, heard: list[int]) -> None:
    found = run("listening", *DEBATE, f"evaluate.talk={talk}", "evaluate.tasks=4")
    for place, lines in enumerate(heard):
        round_, number = divmod(place, 3)
        said = found.ledger.all(Note, f"said/1/evaluate/debate/{round_}/{number}/")
        texts = {str(note.data["text"]) for _, note in said}
        assert texts == {f"Heard {lines}."}
    assert found.ledger.count(Note, "said/1/evaluate/vote/2/") > 0


def test_a_summary_stands_for_what_was_said(run: Evolve) -> None:
    found = run("listening", *DEBATE, "evaluate.talk=summarised", "evaluate.tasks=4")

    def texts(which: str) -> set[str]:
        said = found.ledger.all(Note, f"said/1/evaluate/{which}/")
        return {str(note.data["text"]) for _, note in said}

    assert [texts(f"debate/{round_}/2") for round_ in range(2)] == [{"Heard 0."}, {"Heard 1."}]
    # What it sums up is all that the three judges said in both rounds.
    assert [texts(f"summary/{round_}") for round_ in range(2)] == [
        {"Summary of 3."},
        {"Summary of 6."},
    ]
    assert texts("vote/0") == {"B"}  # who votes has only the summary in view


def test_the_majority_decides() -> None:
    assert majority(["A", "B", "A"]) == "A" and majority(["B", "C", "C"]) == "C"
    assert majority(["A", "B", None]) is None and majority([None, None, None]) is None
    assert majority(["A", None, None]) == "A"


# --- the account ---


def test_the_account_tells_what_the_ledger_holds(run: Evolve) -> None:
    found = run("judging")
    g = found.generations[1]
    told_ = accounted(g)
    text = "\n".join(sentence for sentence, _ in told_)
    for family in ("double", "next", "square"):
        own = [(a.success, b.success) for a, b in pairs(found) if a.family == family]
        won = sum(a and not b for a, b in own)
        if won:
            d = paired_difference([float(a) for a, _ in own], [float(b) for _, b in own])
            line = f"{family}: of 10 gate tasks {won} newly solved ({d.mean:+.2f} [{d.low:+.2f}"
            assert line in text
        else:
            assert f"{family}: of 10 gate" not in text
    solved = {t.task for t in found.episodes("1/acquire/") if t.success}
    assert f"In practice {len(solved)} train task" in text
    items = Counter(item.kind.value for item in found.items(1))
    assert f"Memory: {items['exemplar']} exemplar" in text
    sources = read_manifest(found.folder / "generations" / "001" / "adapter")["sources"]
    assert f"Weights {g.weights} were trained on {len(set(sources))} episode" in text
    wrong = [t for t, _ in pairs(found) if not t.success]
    assert ("Still wrong: " in text) == bool(wrong)
    # Every sentence names episodes, all of them there, none of the test.
    for sentence, slots in told_:
        assert sentence.endswith(".") and 0 < len(slots) <= LINKS
        assert all(found.ledger.get(Trajectory, slot) is not None for slot in slots)
        assert not any(slot.startswith(("test/", "best_of/")) for slot in slots)
    newly = next(slots for sentence, slots in told_ if "newly solved" in sentence)
    assert all(t.success for slot in newly if (t := found.ledger.get(Trajectory, slot)))
    assert all(s in page({}, found.generations, []) for s in newly)
    assert accounted(found.generations[0]) == []
    assert verify(found.folder)[1] == []


def test_what_was_lost_is_told(evolved: Path) -> None:
    """Back from the last generation to the one before, which knew a family less."""
    with Run(evolved, quiet=True) as opened:
        _, first, second = opened.generations()
        agents = {
            "incumbent": (second.memory, second.weights),
            "both": (first.memory, first.weights),
        }
        found = account(opened, second, first, "both", agents)["account"]
        tokens = opened.config.evaluate.account
    assert tokens == "data"
    (lost,) = [s["text"] for s in found["sentences"] if "gate tasks" in s["text"]]
    assert re.search(r"of 10 gate tasks 10 lost \(-1.00 \[-1.00, -0\.\d+\]\)", lost)


def test_a_candidate_that_was_not_taken_is_told_as_such(run: Evolve) -> None:
    found = run("judging", "gate.alpha=1e-11")
    g = found.generations[1]
    assert g.decision == "kept"
    text = "\n".join(sentence for sentence, _ in accounted(g))
    assert re.search(r"The candidate (both|weights|memory), which was not taken: \w+: of 10", text)
    assert ", which were not taken, were trained on" in text


def test_only_sentences_that_name_their_episodes_are_kept() -> None:
    slots = {"e1": "1/acquire/a/0", "e2": "gate/x/b"}
    text = (
        "[e2]\nGcd rose by 0.25 points [e1]. It is a fine agent. Products fell! [e2, e1]\n"
        "Nobody knows this [e9]. See [e2]; it failed (e1). [e1]"
    )
    kept, dropped = cited(text, slots)
    assert [s.text for s in kept] == [
        "Gcd rose by 0.25 points.",
        "Products fell.",
        "See; it failed (e1).",
    ]
    assert [s.episodes for s in kept] == [
        ("1/acquire/a/0",),
        ("gate/x/b", "1/acquire/a/0"),
        ("gate/x/b", "1/acquire/a/0"),
    ]
    assert dropped == 3  # a claim without an episode, one with an unknown one, marks alone
    assert cited("", slots) == ([], 0)


def test_the_policy_may_put_it_into_words(run: Evolve) -> None:
    found = run("judging", "evaluate.account=policy")
    own: Any = found.generations[1].details["account"]
    assert own["by"] == "policy" and own["dropped"] == 1
    assert [s["text"] for s in own["sentences"]] == [
        "It learnt a family.",
        "Others it learnt too.",
    ]
    assert all(found.ledger.get(Trajectory, s["episodes"][0]) for s in own["sentences"])
    silent = run("partial", "evaluate.account=policy", name="silent")  # it cites nothing
    own = silent.generations[1].details["account"]
    assert own["by"] == "data" and own["dropped"] > 0 and own["sentences"]
    none = run("judging", "evaluate.account=none", name="off")
    assert "account" not in none.generations[1].details


def test_the_audit_finds_an_account_of_nothing(copied: Path) -> None:
    with Run(copied, quiet=True) as opened:
        last = opened.generations()[-1]
        wrong = {"sentences": [{"text": "It flew.", "episodes": ["gate/none+base/nowhere"]}]}
        opened.conclude(last.model_copy(update={"n": last.n + 1, "details": {"account": wrong}}))
    assert verify(copied)[1] == [
        "generation 3: its account names gate/none+base/nowhere, which is not in the ledger"
    ]


def test_the_command_shows_a_generation_with_its_account(
    instar: Callable[..., Any], instar_json: Callable[..., Any], evolved: Path
) -> None:
    with open_ledger(evolved) as ledger:
        every = [g for _, g in ledger.all(Generation)]
    said = instar("generations", 1, "--run", evolved).stdout
    for sentence, slots in accounted(every[1]):
        assert sentence in said and all(f"    {slot}\n" in said for slot in slots)
    assert "newly solved" in said and "promoted both" in said
    (told_,) = instar_json("generations", 1, "--run", evolved)
    assert told_ == every[1].model_dump(mode="json")
    wrong = instar("generations", 9, "--run", evolved)
    assert wrong.returncode == 2 and "has no generation 9; it has 0 to 2" in wrong.stderr


# --- nothing of it is learnt from ---


def test_evaluation_decides_nothing_and_flows_nowhere(run: Evolve) -> None:
    """Two generations with all of it and with none of it: the same agents, the same prompts."""
    every = (*DEBATE, "evaluate.account=policy", "generations=2")
    loud = run("judging", *every, name="loud")
    quiet = run("judging", "evaluate.account=none", "generations=2", name="quiet")
    said = [str(note.data["text"]) for _, note in loud.ledger.all(Note, "said/2/evaluate/")]
    assert any(SECRET in text for text in said)
    assert not quiet.ledger.count(Note, "said/1/evaluate/")

    def learnt(found: Evolved) -> list[object]:
        return [
            (g.weights, g.memory, g.decision, g.cell, g.reason, g.objective, g.families)
            for g in found.generations
        ]

    assert learnt(loud) == learnt(quiet)
    # The base is another opponent than the incumbent by now.
    assert told(loud, "base")["wins"] > told(loud)["wins"] > 0
    episodes = {slot: t.id for slot, t in loud.ledger.all(Trajectory)}
    assert episodes == {slot: t.id for slot, t in quiet.ledger.all(Trajectory)}
    assert {i for i, _ in loud.ledger.all(MemoryItem)} == {
        i for i, _ in quiet.ledger.all(MemoryItem)
    }
    # What was said stands in the answers and the account, and nowhere else.
    assert not list(loud.ledger.all(Trajectory, containing=SECRET))
    assert not any(SECRET in json.dumps(i.model_dump(mode="json")) for _, i in
                   loud.ledger.all(MemoryItem))  # fmt: skip
    for file in (loud.folder / "generations").rglob("*"):
        if file.is_file() and file.name != "generation.json":
            assert SECRET.encode() not in file.read_bytes()
    held = [key for key, note in loud.ledger.all(Note) if SECRET in json.dumps(note.data)]
    assert held and all("/evaluate/" in key for key in held)
    assert verify(loud.folder)[1] == []


def test_the_defaults_ask_no_judge() -> None:
    assert Config().evaluate.judge == "none" and Config().evaluate.account == "data"
