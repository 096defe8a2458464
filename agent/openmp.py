"""How OpenMP's threads wait for their next piece of work. Set before torch is loaded."""

from __future__ import annotations

import os


def share_cores() -> None:
    """Let waiting threads sleep at once, so that sandboxes and other processes get the cores.

    Threads that spin first are quicker to wake, but two processes of them on two cores take
    several times as long as two that sleep. What the environment says already stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
