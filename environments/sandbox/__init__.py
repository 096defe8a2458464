"""Sandboxes: the only place where code that a model wrote is run."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import cast

from environments.sandbox.base import DEFAULT_LIMITS, Limits, Sandbox, SandboxUnavailable

SANDBOXES: dict[str, str] = {
    "bubblewrap": "environments.sandbox.bubblewrap:BubblewrapSandbox",
}


def make_sandbox(
    name: str = "bubblewrap", limits: Limits = DEFAULT_LIMITS, *, root: bool = False
) -> Sandbox:
    """A fresh sandbox of the named backend.

    Args:
        name: one of ``SANDBOXES``.
        limits: what each execution may use, unless it is given its own.
        root: programs are root inside, and may change a system of their own that lasts.

    Raises:
        SandboxUnavailable: for an unknown name, or when the backend has no root inside or cannot
            work here.
    """
    if name not in SANDBOXES:
        raise SandboxUnavailable(
            f"unknown sandbox {name!r}; choose one of: {', '.join(sorted(SANDBOXES))}"
        )
    module, _, attribute = SANDBOXES[name].partition(":")
    make = getattr(import_module(module), attribute)
    if not root:
        return cast(Sandbox, make(limits))
    if "root" not in inspect.signature(make).parameters:
        raise SandboxUnavailable(f"the sandbox {name} has no root inside: use bubblewrap")
    return cast(Sandbox, make(limits, root=True))
