"""Sandboxes: the only place where code that a model wrote is run."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from environments.sandbox.base import DEFAULT_LIMITS, Limits, Sandbox, SandboxUnavailable

SANDBOXES: dict[str, str] = {
    "bubblewrap": "environments.sandbox.bubblewrap:BubblewrapSandbox",
}


def make_sandbox(name: str = "bubblewrap", limits: Limits = DEFAULT_LIMITS) -> Sandbox:
    """A fresh sandbox of the named backend.

    Args:
        name: one of ``SANDBOXES``.
        limits: what each execution may use, unless it is given its own.

    Raises:
        SandboxUnavailable: for an unknown name, or when the backend cannot work here.
    """
    if name not in SANDBOXES:
        raise SandboxUnavailable(
            f"unknown sandbox {name!r}; choose one of: {', '.join(sorted(SANDBOXES))}"
        )
    module, _, attribute = SANDBOXES[name].partition(":")
    return cast(Sandbox, getattr(import_module(module), attribute)(limits))
