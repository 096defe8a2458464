"""Tasks of worlds that show what they are about only once they are reset."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from environments.base import EnvironmentFailure, Suite, SuiteError, Task
from environments.calls import cut


def tasks_by_start(
    suite: Suite, resets: Iterable[tuple[str, Mapping[str, Any]]]
) -> tuple[Task, ...]:
    """A task for each reset, without those whose first observation was there before.

    Args:
        suite: starts an environment for each, to see what it begins with.
        resets: the family and the data of each task.

    Raises:
        SuiteError: a world cannot be reset.
    """
    found: dict[str, Task] = {}
    for family, data in resets:
        task = Task(suite=suite.name, family=family, prompt="-", data=dict(data))
        environment = suite.environment(task)
        try:
            prompt = environment.start()
        except EnvironmentFailure as error:
            told = cut(json.dumps(data), 200)
            raise SuiteError(f"{suite.name}: {told} cannot be begun: {error}") from error
        finally:
            environment.close()
        found.setdefault(prompt, task.model_copy(update={"prompt": prompt}))
    return tuple(found.values())
