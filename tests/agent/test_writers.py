"""Writers: what becomes a memory item, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import ConfigError, load_config
from agent.evolution.update.writers.base import sentence
from agent.evolution.update.writers.exemplars import _agreed
from agent.evolution.update.writers.facts import FactSettings
from agent.evolution.update.writers.insights import (
    TITLED,
    InsightSettings,
    _how,
    operations,
    strategies,
)
from agent.evolution.update.writers.skills import lift
from agent.evolution.update.writers.workflows import generalise
from memory.records import Step, Trajectory


def trajectory(slot: str, answer: str, task: str = "t") -> Trajectory:
    step = Step(
        token_ids=(), loss_mask=(), logprobs=(), policy="base", text=answer,
        action={"tool": "answer", "arguments": {"text": answer}}, observation=answer,
    )  # fmt: skip
    return Trajectory(
        slot=slot, task=task, suite="s", family="f", split="train", phase="acquire",
        policy="base", steps=(step,),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("ADD: Read the question twice.", [("ADD", 0, "Read the question twice.")]),
        ("add 3: Read the question twice", [("ADD", 0, "Read the question twice")]),
        ("ADD: 2 numbers must be added.", [("ADD", 0, "2 numbers must be added.")]),
        ("EDIT 1: 2 numbers must be added.", [("EDIT", 1, "2 numbers must be added.")]),
        ("EDIT 2: Count every letter.", [("EDIT", 2, "Count every letter.")]),
        ("- AGREE 1\n* REMOVE 2", [("AGREE", 1, ""), ("REMOVE", 2, "")]),
        ("AGREE 1: Count every letter.", [("AGREE", 1, "Count every letter.")]),
        ("Count every letter. And more.", [("ADD", 0, "Count every letter.")]),
        ("ok", [("ADD", 0, "")]),
        ("", [("ADD", 0, "")]),
    ],
)
def test_operations_on_rules(answer: str, found: list[tuple[str, int, str]]) -> None:
    assert list(operations(answer)) == found


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Convert all units. Then add.", "Convert all units."),
        ("1. Convert all units before you add them.\n2. Add.",
         "Convert all units before you add them."),
        ("2) Convert all units", "Convert all units"),
        ("Convert units, e.g. metres, first. Then add.", "Convert units, e.g. metres, first."),
        ("E.g. metres are converted first. Then add.", "E.g. metres are converted first."),
        ("2.5 metres are 250 centimetres. So?", "2.5 metres are 250 centimetres."),
        ("Well. Convert all units. Then add.", "Well. Convert all units."),
        ("1. Add.", ""), ("", ""),
    ],
)  # fmt: skip
def test_the_first_sentence(answer: str, said: str) -> None:
    assert sentence(answer) == said


@pytest.mark.parametrize("subject", ["about {task}", "about {}", "{family", "{family.no}"])
def test_a_subject_names_what_is_there(toy_yaml: Path, subject: str) -> None:
    settings = f"update_memory.write.facts={{subject: '{subject}'}}"
    with pytest.raises(ConfigError, match=r"facts\.subject.*may name \{family\} and \{generation"):
        load_config(toy_yaml, [settings])
    known = FactSettings(subject="{family}, day {generation}")
    assert known.subject.format(family="gcd", generation=2) == "gcd, day 2"


def test_a_program_becomes_a_function_of_its_tasks_values() -> None:
    prompt = "What is the greatest common divisor of 12 and 18?"
    lifted = lift("import math\nprint(math.gcd(12, 18) + 0)", prompt)
    assert lifted is not None
    assert lifted.definition == ("def skill(a, b):\n    import math\n    print(math.gcd(a, b) + 0)")
    assert lifted.call == "skill(12, 18)"


@pytest.mark.parametrize(
    ("code", "prompt", "call"),
    [
        ("print(len('banana'))", "Letters of banana?", "skill('banana')"),
        ("x = [3, 1, 2]\nprint(sorted(x))", "Sort 3, 1, 2.", "skill([3, 1, 2])"),
        ("print(7 * 7)", "The square of 7?", "skill(7)"),
        ("a = 5\nb = 6\nprint(a * b)", "5 times 6?", "skill(5, 6)"),
        ("print(f'{12:>5}')", "Pad 12 to 5 places", "skill(12)"),
        ("print(2.5 * 2)", "Twice 2.5?", "skill(2.5)"),
    ],
)
def test_what_is_lifted(code: str, prompt: str, call: str) -> None:
    lifted = lift(code, prompt)
    assert lifted is not None and lifted.call == call
    # It is the same program: run for its own task, it prints the same.
    printed: list[list[object]] = []
    for text in (code, f"{lifted.definition}\n{lifted.call}"):
        said: list[object] = []
        exec(text, {"print": said.append})
        printed.append(said)
    assert printed[0] == printed[1] != []


@pytest.mark.parametrize(
    ("code", "prompt"),
    [
        ("print(42)", "What is six times seven?"),  # the answer alone is no skill
        ("print(12)", "The number after 112?"),  # a part of a number is not the number
        ("print(True)", "Is it True?"),
        ("print('a')", "Is a a vowel?"),
        ("print(", "12"),
        ("\x00", "12"),
    ],
)
def test_what_shares_no_value_is_no_skill(code: str, prompt: str) -> None:
    assert lift(code, prompt) is None


def test_workflows_leave_open_what_differs() -> None:
    found = generalise(
        [
            ["put a mug on the desk", "take mug 1", "go to desk 2", "put mug 1 on desk 2"],
            ["put a pan on the stove", "take pan 3", "go to stove 2", "put pan 3 on stove 2"],
        ]
    )
    assert found == [
        "put a {1} on the {2}", "take {1} {3}", "go to {2} 2", "put {1} {3} on {2} 2",
    ]  # fmt: skip
    assert generalise([["a b", "c"], ["a", "c"]]) == ["{1}", "c"]


def test_without_a_verifier_the_agreed_answer_is_taken() -> None:
    tries = [trajectory(f"1/acquire/t/{i}", answer) for i, answer in enumerate("abbbc")]
    tries += [trajectory("1/acquire/u/0", "x", "u"), trajectory("1/acquire/u/1", "y", "u")]
    tries += [trajectory("1/acquire/v/0", "z", "v")]  # one answer agrees with nobody
    assert [t.slot for t in _agreed(tries, 0.6)] == ["1/acquire/t/1"]
    assert [t.slot for t in _agreed(tries, 0.5)] == ["1/acquire/t/1"]  # of a tie neither
    assert list(_agreed(tries, 0.7)) == []


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Title: Look first\nDescription: Look before you leap. Twice.",
         [("Look first", "Look before you leap.")]),
        ("1. **Title:** A b\n   **Description:** Count every letter.\n2. Title: C d\n"
         "Description: Sort them first.",
         [("A b", "Count every letter."), ("C d", "Sort them first.")]),
        ("Title: Look first. Description: Look before you leap.",
         [("Look first", "Look before you leap.")]),
        ("Title: Look first\nDescription: Look before you leap.\nContent: Go near, then stop.\n"
         "**Title:** C d\n- **Description:** Sort them first.\n- **Content:** Use sorted. Or not.",
         [("Look first", "Look before you leap.", "Go near, then stop."),
          ("C d", "Sort them first.", "Use sorted.")]),
        ("Title: Look first. Description: Look before you leap. Content: Go near, then stop.",
         [("Look first", "Look before you leap.", "Go near, then stop.")]),
        ("Title: Look first\nBe quick.", []),
        ("Title: Look first\nDescription: so", []),
        ("", []),
    ],
)  # fmt: skip
def test_strategies_have_a_title_a_description_and_a_content(
    answer: str, found: list[tuple[str, ...]]
) -> None:
    said = strategies(answer)
    assert [tuple(one.values()) for one in said] == found
    assert {tuple(one) for one in said} <= {
        ("title", "description"), ("title", "description", "content"),
    }  # fmt: skip


def test_an_answer_without_an_operation_is_the_first_one() -> None:
    assert list(operations("Count every letter.", "EDIT")) == [("EDIT", 1, "Count every letter.")]


@pytest.mark.parametrize(
    ("settings", "rules", "said"),
    [
        ({}, True, "Answer with one line. Write ADD: and a new rule, EDIT n: and a better rule n, "
                   "AGREE n, or REMOVE n."),
        ({"operations": ["EDIT"]}, True,
         "Answer with one line. Write EDIT n: and a better rule n."),
        ({"operations": ["EDIT"]}, False, "One sentence."),
        ({"edit": False}, False, "One sentence."),
        ({"operations": ["ADD", "REMOVE"], "lines": 3}, False,
         "Answer with at most 3 lines. Write ADD: and a new rule, or REMOVE n."),
        ({"titled": True}, False, TITLED),
    ],
)  # fmt: skip
def test_how_an_answer_is_to_be_written(
    settings: dict[str, object], rules: bool, said: str
) -> None:
    assert _how(InsightSettings.model_validate(settings), rules) == said
