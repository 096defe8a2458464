"""What a process takes of its machine: cores and memory."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress


def share_cores() -> None:
    """Let waiting threads sleep at once, so that sandboxes and other processes get the cores.

    Threads that spin first are quicker to wake, but two processes of them on two cores take
    several times as long as two that sleep. To be called before torch is loaded; what the
    environment says already stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def give_back_memory() -> None:
    """Give the system what was freed.

    glibc keeps freed tensors of up to 32 MB in its heap: 1.7 GB of 3.2 when a small quickstart's
    policy had ended. Elsewhere there is nothing to do.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
