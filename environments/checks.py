"""Conformance checks for suites, for whoever writes one (sandboxes: `sandbox.checks`).

Each check returns its findings as plain sentences; an empty list means that all is well. What
environments must stand is in ``environments.conformance``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from environments.abilities import abilities_of
from environments.base import Briefing, Suite, SuiteError, Task
from environments.conformance import examine
from environments.conformance.player import Finding
from environments.conformance.slips import misspelt
from environments.plain import PlainSuite
from environments.splits import split_tasks
from environments.tools import undocumented


class Report(BaseModel):
    """What was found out about a suite.

    Args:
        problems: what is wrong, in sentences.
        checked: what was looked at, and how much of it; "see above" where there are problems,
            "not examined" where they kept it from being reached.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    problems: tuple[str, ...]
    checked: dict[str, str]


def check_suite(suite: Suite, limit: int = 20) -> list[str]:
    """Problems of a suite and of its environments, as sentences; none if all is well.

    Args:
        suite: the suite.
        limit: tasks to make environments for, spread over the suite.
    """
    return list(examine_suite(suite, limit).problems)


def examine_suite(suite: Suite, limit: int = 20) -> Report:
    """Play a suite's tasks in several ways, and say what is wrong and what was looked at.

    Args:
        suite: the suite.
        limit: tasks to make environments for, spread over the suite.
    """
    problems = list(_check_about(suite))
    tasks = list(suite.tasks())
    if not tasks:
        problems.append(Finding("The suite has no tasks.", "tasks"))
    if not tasks or not isinstance(getattr(suite, "briefing", None), Briefing):
        return Report(problems=_lines(problems), checked={})
    problems += _check_tasks(suite, tasks)
    problems += _check_more(suite, tasks)
    counts: Counter[str] = Counter()
    found: dict[object, tuple[Finding, list[Task]]] = {}
    chosen = tasks[:: max(1, len(tasks) // limit)][:limit]
    played = 0
    for task in chosen:
        findings = examine(suite, task)
        played += 1
        counts += findings.counts
        for kind, finding in findings.problems.items():
            found.setdefault(kind, (finding, []))[1].append(task)
        if any(finding.part == "limits" for finding in findings.problems.values()):
            break  # every other task may take as long
    for finding, own in found.values():
        others = f", and in {_many(len(own) - 1, 'more task')}" if len(own) > 1 else ""
        sentence = f"Task {own[0].id} ({own[0].family}){others}: {finding.sentence}"
        problems.append(Finding(sentence, finding.part))
    bad = {problem.part for problem in problems}
    return Report(
        problems=_lines(problems),
        checked=_checked(suite, tasks, played, counts, bad),
    )


def _lines(problems: list[Finding]) -> tuple[str, ...]:
    """Each problem in one line, whatever an exception's message looks like."""
    return tuple(" ".join(problem.sentence.split()) for problem in problems)


def _check_about(suite: Suite) -> Iterator[Finding]:
    for attribute in ("name", "description"):
        if not isinstance(value := getattr(suite, attribute, None), str) or not value:
            yield Finding(f"The suite's {attribute} is not a non-empty string.", "suite")
    if not isinstance(getattr(suite, "briefing", None), Briefing):
        yield Finding("The suite's briefing is not a Briefing (environments.base).", "suite")
    if isinstance(suite, PlainSuite):
        if not suite.briefing.text:
            told = "has no docstring; it is what the agent is told about its task."
            yield Finding(f"{suite.name} {told}", "suite")
        slips = dict(misspelt(suite.cls))
        for name in undocumented(suite.cls):
            if name not in slips:
                yield Finding(
                    f"{suite.name}.{name} has no docstring, so it is no tool; give it one, or a "
                    f"name that begins with an underscore (_{name}).",
                    "tools",
                )
        for name, meant in slips.items():
            yield Finding(
                f"{suite.name}.{name} is nothing that Instar knows: did you mean {meant}? If not, "
                f"give it a name that begins with an underscore (_{name}).",
                "suite",
            )


def _check_tasks(suite: Suite, tasks: list[Task]) -> Iterator[Finding]:
    if [task.id for task in tasks] != [task.id for task in suite.tasks()]:
        told = "tasks() returned other tasks, or another order, at the second call."
        yield Finding(told, "determinism")
    if len({task.id for task in tasks}) < len(tasks):
        yield Finding("Some tasks have the same content, and so the same id.", "tasks")
    wrong: dict[str, list[Task]] = {}
    if hasattr(suite, "spawn") and (lost := _lost_fields(suite, tasks[0])):
        yield Finding(lost, "tasks")
    for task in tasks:
        if Task.model_validate_json(task.model_dump_json()) != task:
            wrong.setdefault("changes when it is stored as JSON and read again.", []).append(task)
        if not task.family:
            wrong.setdefault("has no family.", []).append(task)
        if task.suite != suite.name:
            told = f"names the suite {task.suite!r}, not {suite.name!r}."
            wrong.setdefault(told, []).append(task)
    for sentence, own in wrong.items():
        others = f" (and {_many(len(own) - 1, 'more task')})" if len(own) > 1 else ""
        part = "JSON" if "JSON" in sentence else "tasks"
        yield Finding(f"Task {own[0].id}{others} {sentence}", part)
    example = suite.briefing.example if isinstance(suite, PlainSuite) else None
    if example and example[0] in {task.prompt for task in tasks}:
        told = f"The example {example[0]!r:.60} is one of the tasks, so its answer is given away."
        yield Finding(told, "suite")


def _check_more(suite: Any, tasks: list[Task]) -> Iterator[Finding]:
    """What a suite may have beside its tasks: abilities, vouched(), canary()."""
    try:
        abilities_of(suite.name, suite, {task.family for task in tasks})
    except SuiteError as error:
        yield Finding(f"{error}.", "suite")
    for task in tasks if hasattr(suite, "vouched") else ():
        given, wrong = _asked("vouched()", suite.vouched, task)
        if wrong or not isinstance(given, bool):
            told = wrong or f"vouched() returned {given!r:.60}, not True or False."
            yield Finding(f"Task {task.id}: {told}", "tasks")
            break
    if hasattr(suite, "canary"):
        made, wrong = _asked("canary()", suite.canary, tasks[0], 0)
        alike = isinstance(made, Task) and (made.suite, made.family, made.prompt) == (
            tasks[0].suite, tasks[0].family, tasks[0].prompt)  # fmt: skip
        if wrong or not (made is None or alike):
            told = wrong or "canary() returned no Task with the same prompt and family."
            yield Finding(f"Task {tasks[0].id}: {told}", "tasks")


def _asked(what: str, ask: Callable[..., Any], *arguments: object) -> tuple[Any, str]:
    """What a method returned, or a sentence about what it raised."""
    try:
        return ask(*arguments), ""
    except Exception as error:
        return None, f"{what} raised {type(error).__name__}: {error}"


def _lost_fields(suite: Any, task: Task) -> str:
    """What is wrong with a suite's ``fields`` and ``spawn``, or ""."""
    try:
        fields = suite.fields(task) if hasattr(suite, "fields") else None
        if not isinstance(fields, dict) or not {"prompt", "family"} <= fields.keys():
            return (
                "spawn() needs fields() beside it, which returns texts by name (prompt, family …)."
            )
        made = suite.spawn(fields)
    except Exception as error:
        return f"fields() and spawn() raised {type(error).__name__}: {error}"
    if made is not None and not (isinstance(made, Task) and made.suite == suite.name):
        return f"spawn() returned {type(made).__name__}, no Task of the suite {suite.name!r}."
    return ""


def _checked(
    suite: Suite, tasks: list[Task], played: int, counts: Counter[str], bad: set[str]
) -> dict[str, str]:
    """What was looked at; of a part that has problems, or was not reached, only that."""

    def told(part: str, examined: int, text: str) -> str:
        return "see above" if part in bad else text if examined else "not examined"

    families = len({task.family for task in tasks})
    empty = [name for name, own in split_tasks(tasks).items() if not own]
    missing = f"; none in {', '.join(empty)}: evolving needs about 20 a family" if empty else ""
    limits = _many(suite.briefing.turns, "turn")
    if isinstance(suite, PlainSuite):
        limits += f" and {suite.seconds:g} s a call, held by the environment"
    gold, steps, garbage = counts["gold"], counts["steps"], counts["garbage"]
    solutions = f"{_many(gold, 'solution')} replayed" if gold else "there is none"
    checked = {
        "tasks": f"{_many(len(tasks), 'task')} in {_many(families, 'family', 'families')}, "
        f"{played} of them played{missing}",
        "tools": told(
            "tools",
            counts["tools"],
            f"{_many(-(-counts['tools'] // max(1, played)), 'tool')}: descriptions and types",
        ),
        "determinism": told(
            "determinism", steps, f"{_many(steps, 'step')} repeated, alone and in company"
        ),
        "gold": told("gold", gold or counts["no gold"] == played, solutions),
        "garbage": told("garbage", garbage, _many(garbage, "wrong or senseless action")),
        "rewards": told("rewards", garbage, "0 to 1 at every step, none for garbage"),
        "JSON": told("JSON", steps, "tasks, state and metrics can be stored"),
        "clean-up": told(
            "clean-up",
            counts["clean-up"],
            "no process, thread, temporary file or descriptor left after close()",
        ),
        "limits": told("limits", True, limits),
    }
    if isinstance(suite, PlainSuite):
        by = f"the field {suite.prompt_field!r}, which the agent sees"
        if all(task.prompt == task.family for task in tasks):
            by = "their family"
        checked["memory"] = told("memory", counts["tools"], f"looks tasks up by {by}")
    return checked


def _many(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
