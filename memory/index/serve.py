"""Run a program for as long as standard input stays open, then stop it.

    python serve.py PROGRAM ARGUMENTS...

Whoever starts this and dies, however that may be, closes the pipe; so the program never outlives
its owner. Standard library only: it runs as a file of its own.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

GRACE_S = 5.0


def die_with_parent() -> None:
    """Between fork and exec: the kernel kills this process when the thread that made it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> None:
    child = subprocess.Popen(
        sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=die_with_parent, close_fds=False
    )

    def follow() -> None:
        code = child.wait()
        os._exit(code if code >= 0 else 128 - code)

    threading.Thread(target=follow, daemon=True).start()
    sys.stdin.read()
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_S)
    child.kill()
    child.wait()


if __name__ == "__main__":
    main()
