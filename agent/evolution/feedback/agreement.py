"""No judge at all: tries are held against each other, and against their own task."""

from __future__ import annotations

import re

from agent.evolution.feedback.base import UNDECIDED, Bench, Verdict, ask, quoted
from agent.evolution.feedback.judges import ROOM, yes_or_no
from agent.evolution.votes import answer_of, vote
from memory.records import content_hash

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"  # with the commas of thousands, if any
_NUMBER = re.compile(rf"(?<![\w.]){_DIGITS}(?![\w.]*\d)")


def consistent(bench: Bench) -> dict[str, Verdict]:
    """The answer that most of a task's tries gave (LMSI, arXiv 2210.11610, §3.1).

    A try's reward is the share of its task's tries that gave its answer (the paper's confidence);
    the most frequent answer's are solutions, if it has the share ``agreement`` of more than one.
    Nothing is said of a try that is its task's only one.
    """
    found: dict[str, Verdict] = {}
    for own in bench.by_task().values():
        if len(own) == 1:
            found[own[0].slot] = UNDECIDED
            continue
        shares, winner = vote([answer_of(t) for t in own], bench.run.config.feedback.agreement)
        for t, share in zip(own, shares, strict=True):
            found[t.slot] = Verdict(share, winner is not None and answer_of(t) == winner)
    return found


def self_verified(bench: Bench) -> dict[str, Verdict]:
    """The answer from which the task's own conditions can be told (arXiv 2212.09561, §3.2).

    Backward verification: a number of the task is masked, the answer is stated as the conclusion,
    and the policy predicts the masked number, several times. The score is how many predictions
    are right; of a task's answers those with the highest score are solutions. Where a task has
    no number, the policy is asked whether the answer fits it (the paper's true-false items). The
    paper has the conclusion rewritten by the model; here it is stated as it is.
    """
    settings = bench.run.config.feedback
    questions: dict[str, str] = {}
    right: dict[str, str] = {}  # what is to be predicted, by question
    of: dict[tuple[str, str], list[str]] = {}  # the questions of a task's answer
    for task, own in bench.by_task().items():
        for answer in sorted({a for t in own if (a := answer_of(t)) is not None}):
            asked = backward(own[0].prompt, answer, settings.conditions)
            for number, (question, hidden) in enumerate(asked):
                for sample in range(settings.samples):
                    name = f"backward/{task}/{content_hash(answer)[:12]}/{number}/{sample}"
                    questions[name], right[name] = question, hidden
                    of.setdefault((task, answer), []).append(name)
    predicted = ask(bench, questions, 2 * ROOM, temperature=settings.temperature)
    score = {
        key: sum(_same(predicted[name], right[name]) for name in names) / len(names)
        for key, names in of.items()
    }
    found: dict[str, Verdict] = {}
    for task, own in bench.by_task().items():
        best = max((share for (asked_of, _), share in score.items() if asked_of == task), default=0)
        for t in own:
            given = answer_of(t)
            share = 0.0 if given is None else score[task, given]
            found[t.slot] = Verdict(share, share == best > 0)
    return found


def backward(prompt: str, answer: str, most: int) -> list[tuple[str, str]]:
    """Questions that an answer has to pass, each with what is to be predicted.

    Args:
        prompt: the task.
        answer: what was answered.
        most: numbers of the task that are masked, one in each question.
    """
    found = [
        (
            f"Task:\n{quoted(f'{prompt[: m.start()]}X{prompt[m.end() :]}')}\n"
            f"The answer is:\n{quoted(answer)}\n\n"
            "What is the unknown X? Write the number alone.",
            m[0],
        )
        for m in list(_NUMBER.finditer(prompt))[:most]
    ]
    whole = (
        f"Task:\n{quoted(prompt)}\nThe answer is:\n{quoted(answer)}\n\n"
        "Does this answer fit all that the task says? Write yes or no."
    )
    return found or [(whole, "yes")]


def _same(said: str, hidden: str) -> bool:
    if hidden == "yes":
        return yes_or_no(said) == "yes"
    numbers = re.findall(_DIGITS, said)
    return bool(numbers) and _value(numbers[-1]) == _value(hidden)


def _value(digits: str) -> float:
    return float(digits.replace(",", ""))
