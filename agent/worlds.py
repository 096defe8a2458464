"""The configured suite and sandbox."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from environments.base import Suite
from environments.sandbox import make_sandbox
from environments.sandbox.base import Sandbox
from environments.suites import load_suite

if TYPE_CHECKING:
    from agent.config import Config


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
