"""Conformance checks for suites, for whoever writes one (sandboxes: `sandbox.checks`).

Each check returns its findings as plain sentences; an empty list means that all is well. What
environments must stand is in ``environments.conformance``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from environments.base import Briefing, Suite, Task
from environments.conformance import examine
from environments.plain import PlainSuite
from environments.splits import split_tasks
from environments.tools import undocumented


class Report(BaseModel):
    """What was found out about a suite.

    Args:
        problems: what is wrong, in sentences.
        checked: what was looked at, and how much of it.
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
        problems.append("The suite has no tasks.")
    if not tasks or not isinstance(getattr(suite, "briefing", None), Briefing):
        return Report(problems=tuple(problems), checked={})
    problems += _check_tasks(suite, tasks)
    counts: Counter[str] = Counter()
    found: dict[str, list[Task]] = {}
    chosen = tasks[:: max(1, len(tasks) // limit)][:limit]
    for task in chosen:
        findings = examine(suite, task)
        counts += findings.counts
        for sentence in findings.problems:
            found.setdefault(sentence, []).append(task)
        if any("took longer than" in sentence for sentence in findings.problems):
            break  # every other task may take as long
    for sentence, own in found.items():
        others = f" and {len(own) - 1} more" if len(own) > 1 else ""
        problems.append(f"Task {own[0].id} ({own[0].family}){others}: {sentence}")
    return Report(problems=tuple(problems), checked=_checked(suite, tasks, len(chosen), counts))


def _check_about(suite: Suite) -> Iterator[str]:
    for attribute in ("name", "description"):
        if not isinstance(value := getattr(suite, attribute, None), str) or not value:
            yield f"The suite's {attribute} is not a non-empty string."
    if not isinstance(getattr(suite, "briefing", None), Briefing):
        yield "The suite's briefing is not a Briefing (environments.base)."
    if isinstance(suite, PlainSuite):
        if not suite.briefing.text:
            yield f"{suite.name} has no docstring; it is what the agent is told about its task."
        for name in undocumented(suite.cls):
            yield (
                f"{suite.name}.{name} has no docstring, so it is no tool; give it one, or a name "
                f"that begins with an underscore (_{name})."
            )


def _check_tasks(suite: Suite, tasks: list[Task]) -> Iterator[str]:
    if [task.id for task in tasks] != [task.id for task in suite.tasks()]:
        yield "tasks() returned other tasks, or another order, at the second call."
    if len({task.id for task in tasks}) < len(tasks):
        yield "Some tasks have the same content, and so the same id."
    for task in tasks:
        if Task.model_validate_json(task.model_dump_json()) != task:
            yield f"Task {task.id} changes when it is stored as JSON and read again."
        if not task.family:
            yield f"Task {task.id} has no family."
        if task.suite != suite.name:
            yield f"Task {task.id} names the suite {task.suite!r}, not {suite.name!r}."
    example = suite.briefing.example if isinstance(suite, PlainSuite) else None
    if example and example[0] in {task.prompt for task in tasks}:
        yield f"The example {example[0]!r:.60} is one of the tasks, so its answer is given away."


def _checked(suite: Suite, tasks: list[Task], played: int, counts: Counter[str]) -> dict[str, str]:
    families = len({task.family for task in tasks})
    empty = [name for name, own in split_tasks(tasks).items() if not own]
    missing = f"; none in {', '.join(empty)}: evolving needs about 20 a family" if empty else ""
    limits = _many(suite.briefing.turns, "turn")
    if isinstance(suite, PlainSuite):
        limits += f" and {suite.seconds:g} s a call, held by the environment"
    gold = counts["gold"]
    return {
        "tasks": f"{_many(len(tasks), 'task')} in {_many(families, 'family', 'families')}, "
        f"{played} of them played{missing}",
        "tools": f"{_many(counts['tools'] // max(1, played), 'tool')}: descriptions and types",
        "determinism": f"{_many(counts['steps'], 'step')} repeated, alone and in company",
        "gold": f"{_many(gold, 'solution')} replayed"
        if gold
        else "there is none, so none was replayed",
        "garbage": f"{_many(counts['garbage'], 'wrong or senseless action')}",
        "rewards": "0 to 1 at every step, none for garbage",
        "JSON": "tasks, state and metrics can be stored",
        "clean-up": "no process, thread, temporary file or descriptor left after close()",
        "limits": limits,
    }


def _many(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
