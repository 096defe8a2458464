"""Conformance checks for suites, for whoever writes one.

Each check returns its findings as plain sentences; an empty list means that all is well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from environments.base import Action, Suite, Task

# What a weak or hostile policy may send to any environment.
GARBAGE = (
    Action(text=""),
    Action(text="no call here \x00\ud800 \U0001f40d" * 100),
    Action(text="x", tool="no such tool", arguments={"a": 1}),
    Action(text="x", tool=""),
)


def check_suite(suite: Suite, limit: int = 20) -> list[str]:
    """Problems of a suite and of its environments.

    Args:
        suite: the suite.
        limit: tasks to make environments for, spread over the suite.
    """
    problems = [
        f"The suite's {attribute} is not a non-empty string."
        for attribute in ("name", "description")
        if not isinstance(value := getattr(suite, attribute, None), str) or not value
    ]
    tasks = list(suite.tasks())
    if not tasks:
        return [*problems, "The suite has no tasks."]
    if [task.id for task in tasks] != [task.id for task in suite.tasks()]:
        problems.append("tasks() returned other tasks, or another order, at the second call.")
    if len({task.id for task in tasks}) < len(tasks):
        problems.append("Some tasks have the same content, and so the same id.")
    for task in tasks:
        if Task.model_validate_json(task.model_dump_json()) != task:
            problems.append(f"Task {task.id} changes when it is stored as JSON and read again.")
        if not task.family:
            problems.append(f"Task {task.id} has no family.")
        if task.suite != suite.name:
            problems.append(f"Task {task.id} names the suite {task.suite!r}, not {suite.name!r}.")
    for task in tasks[:: max(1, len(tasks) // limit)][:limit]:
        problems += [f"Task {task.id} ({task.family}): {p}" for p in _check_episode(suite, task)]
    return problems


def _check_episode(suite: Suite, task: Task) -> Iterator[str]:
    for action in (*GARBAGE, *_misuse(suite, task)):
        environment = suite.environment(task)
        try:
            first = environment.start()
            if not isinstance(first, str) or not first:
                yield f"start() returned {first!r}, not a non-empty string."
            if not environment.tools:
                yield "it offers no tools."
            result = environment.step(action)
            if not (math.isfinite(result.reward) and 0 <= result.reward <= 1):
                yield f"the reward {result.reward} is not between 0 and 1."
            if result.reward == 1:
                yield f"the action {action.arguments or action.tool!r} earned the full reward."
        except Exception as error:
            yield f"the action {action.tool!r} raised {type(error).__name__}: {error}"
        finally:
            try:
                environment.close()
                environment.close()
            except Exception as error:
                yield f"closing it twice raised {type(error).__name__}: {error}"


def _misuse(suite: Suite, task: Task) -> list[Action]:
    """Every tool with no arguments, and with arguments of the wrong types."""
    environment = suite.environment(task)
    try:
        actions = []
        for tool in environment.tools:
            properties = tool.parameters.get("properties")
            names = list(properties) if isinstance(properties, dict) else []
            actions.append(Action(text="x", tool=tool.name))
            wrong: tuple[Any, ...] = (None, -1, [], "\x00\ud800")
            actions += [
                Action(text="x", tool=tool.name, arguments=dict.fromkeys(names, value))
                for value in wrong
            ]
        return actions
    finally:
        environment.close()
