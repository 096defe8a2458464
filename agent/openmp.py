"""How OpenMP's threads wait for their next piece of work. Set before torch is loaded."""

from __future__ import annotations

import os

SPINS = 20_000  # well under a millisecond


def share_cores() -> None:
    """Let waiting threads sleep, so that the sandboxes get the cores, but not at once.

    A decode step is some thousand small operators: threads that sleep between two of them cost
    a quarter of the speed on two cores, and threads that never sleep starve the sandboxes. What
    the environment says already stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
