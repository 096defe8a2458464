"""A program beside a Ray of a run's own: when the run is over, nothing of that Ray is left.

Ray's processes look after one another, but some of them only notice after a minute or two that
a killed driver is gone. Run as ``python -I -S guard.py MARK``, with a pipe as standard input: it
waits until the other end is closed, which the death of its owner does as well, and kills all
processes whose environment holds MARK (``NAME=value``). Needs Linux.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

_KILL_S = 20.0  # a process that SIGKILL does not end in this time is stuck in the kernel
_PATIENCE_S = 2.0  # one that is just being started cannot be told for a moment


def marked(mark: str) -> list[int]:
    """Pids of the processes whose environment holds a mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
            # Not split: Ray's agents write their title over the beginning of their environment.
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def main(mark: str) -> None:
    """Wait for the end of standard input, then kill until nothing with the mark is left."""
    sys.stdin.buffer.read()
    deadline = time.monotonic() + _KILL_S
    last = time.monotonic()
    while (now := time.monotonic()) < min(deadline, last + _PATIENCE_S):
        for pid in marked(mark):
            last = now
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


if __name__ == "__main__":
    main(sys.argv[1])
