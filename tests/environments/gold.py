"""What every suite's tests need: the small data in the repository, and replaying gold."""

from pathlib import Path
from typing import Any

from environments.base import StepResult, Suite, Task
from environments.sandbox import make_sandbox
from environments.suites import load_suite

DATA = Path(__file__).resolve().parents[1] / "data"


def load(name: str, **options: Any) -> Suite:
    """A shipped suite, by default on the few records in ``tests/data``."""
    return load_suite(name, sandbox=make_sandbox, options=options)


def replay(suite: Suite, task: Task) -> StepResult:
    """The last result of a task's gold actions; the task has been stored and read again."""
    task = Task.model_validate_json(task.model_dump_json())
    environment = suite.environment(task)
    try:
        assert environment.start()
        actions = suite.gold(task)  # type: ignore[attr-defined]
        assert actions
        for action in actions:
            result = environment.step(action)
        return result
    finally:
        environment.close()


def failures(suite: Suite, step: int = 1) -> list[Task]:
    """Tasks (every ``step``-th) whose gold actions do not earn the full reward."""
    return [
        task
        for task in suite.tasks()[::step]
        if ((result := replay(suite, task)).reward, result.terminated) != (1.0, True)
    ]
