"""The configured suite and sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from environments.base import Suite, SuiteError, Task
from environments.calls import PYTHON_MEDIA
from environments.sandbox import make_sandbox
from environments.sandbox.base import Sandbox, SandboxUnavailable
from environments.suites import load_suite
from environments.watch import Watched, started

if TYPE_CHECKING:
    from agent.config import Config
    from agent.run import Run


def configured_suite(config: Config, *, unsafe: bool = False) -> Suite:
    """The suite that a configuration names.

    Args:
        config: which suite, which sandbox.
        unsafe: whether the sandbox may be ``none``.

    Raises:
        SuiteError, SandboxUnavailable: it cannot be used here; one line.
    """
    sandbox = partial(configured_sandbox, config, unsafe=unsafe)
    sandbox().close()  # missing? say so now
    return load_suite(config.suite.name, sandbox=sandbox, options=config.suite.options)


def configured_sandbox(config: Config, *, unsafe: bool = False, root: bool = False) -> Sandbox:
    """A fresh sandbox; close it.

    Args:
        config: which.
        unsafe: whether it may be ``none``.
        root: programs are root inside (see `make_sandbox`).

    Raises:
        SandboxUnavailable: there is none on this machine.
    """
    own = config.sandbox
    return make_sandbox(own.backend, own.limits, root=root, unsafe=unsafe, options=own.options)


def refuse_unsafe(config: Config, unsafe: bool) -> None:
    """Without a sandbox nothing is run unless that is allowed, each time.

    Raises:
        SandboxUnavailable: it is not.
    """
    if config.sandbox.backend == "none" and not unsafe:
        make_sandbox("none")


@contextmanager
def first_world(run: Run, task: Task | None = None) -> Iterator[Watched]:
    """The world of a train task, begun: what has to be seen there before it is played.

    Args:
        run: the run.
        task: of another task than the first.

    Raises:
        SuiteError: it cannot be begun, or breaks.
    """
    task = task or run.tasks("train")[0]
    try:
        with started(run.suite, task, run.config.suite.seconds) as world:
            yield world
    except (SuiteError, SandboxUnavailable):
        raise
    except Exception as error:
        raise SuiteError(
            f"suite {run.config.suite.name}: the world of task {task.id} broke when it was looked "
            f"at: {type(error).__name__}: {error}"
        ) from error


def require_programs(run: Run, setting: str) -> None:
    """What a setting does is done with Python programs that the agent wrote.

    Args:
        run: the run.
        setting: with its value, for the error.

    Raises:
        ConfigError: in the run's suite the agent writes none.
    """
    from agent.config import ConfigError

    with first_world(run) as world:
        forms = [tool.properties.get("code") for tool in world.tools]
    if not any(
        isinstance(form, dict) and form.get("contentMediaType") == PYTHON_MEDIA for form in forms
    ):
        raise ConfigError(
            f"{setting}: it is for suites whose agent writes Python programs, as mbpp and "
            f"reasoning-gym; in the suite {run.config.suite.name} it writes none"
        )
