"""Sandboxes: the only place where code that a model wrote is run."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from environments.sandbox.base import DEFAULT_LIMITS, Limits, Sandbox, SandboxUnavailable

SANDBOXES: dict[str, str] = {
    "bubblewrap": "environments.sandbox.bubblewrap:BubblewrapSandbox",
    "docker": "environments.sandbox.docker:DockerSandbox",
    "none": "environments.sandbox.none:NoSandbox",
}


def make_sandbox(
    name: str = "bubblewrap",
    limits: Limits = DEFAULT_LIMITS,
    *,
    root: bool = False,
    unsafe: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Sandbox:
    """A fresh sandbox of the named backend.

    Args:
        name: one of ``SANDBOXES``.
        limits: what each execution may use, unless it is given its own.
        root: programs are root inside, and may change a system of their own that lasts.
        unsafe: must be True for the backend ``none``, which isolates nothing.
        options: further keyword arguments of the backend.

    Raises:
        SandboxUnavailable: for an unknown name or option, or a value of the wrong type; when the
            backend cannot work here or has no root inside; or for ``none`` without ``unsafe``.
    """
    if name not in SANDBOXES:
        raise SandboxUnavailable(
            f"unknown sandbox {name!r}; choose one of: {', '.join(sorted(SANDBOXES))}"
        )
    if name == "none" and not unsafe:
        raise SandboxUnavailable(
            "the sandbox 'none' runs what a model wrote with all your rights on this machine; "
            "it must be allowed each time (--i-know-this-is-unsafe; unsafe=True from Python)"
        )
    module, _, attribute = SANDBOXES[name].partition(":")
    backend = getattr(import_module(module), attribute)
    given = dict(options or {}) | ({"root": True} if root else {})
    known = set(inspect.signature(backend).parameters) - {"limits"}
    if root and "root" not in known:
        raise SandboxUnavailable(f"the sandbox {name} has no root inside: use bubblewrap")
    if unknown := sorted(set(given) - known):
        raise SandboxUnavailable(
            f"the sandbox {name} has no option {unknown[0]!r}; "
            f"its options: {', '.join(sorted(known)) or 'none'}"
        )
    kinds = typing.get_type_hints(backend.__init__) if given else {}
    for option, value in given.items():
        try:
            TypeAdapter(kinds[option]).validate_python(value, strict=True)
        except ValidationError as error:
            raise SandboxUnavailable(
                f"the sandbox {name}: option {option} is {value!r:.60}: {error.errors()[0]['msg']}"
            ) from None
    return cast(Sandbox, backend(limits, **given))
