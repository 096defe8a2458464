"""A program between us and a server: when either ends, all that the server started ends too.

Run as ``python -I -S supervisor.py PARENT FOLDER PROGRAM ARGUMENT…``: it runs the program with
the standard streams it was given, and lives as long as the program and the process PARENT do.
Then it kills every descendant, also those that left the process group or whose parent died
(it is their reaper), deletes FOLDER unless that is empty, and ends with the program's status.
So nothing is left even where PARENT was killed with SIGKILL. Needs Linux.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
_CHECK_S = 0.5  # how soon a dead parent is noticed where there is no pidfd
_KILL_S = 5.0  # a process that SIGKILL does not end in this time is stuck in the kernel


def children() -> list[int]:
    """Pids of this process's children, also the adopted and the dead ones."""
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(stat.parent.name))
    return found


def kill_descendants() -> None:
    """Kill and reap all descendants of this process."""
    deadline = time.monotonic() + _KILL_S
    while time.monotonic() < deadline:
        pending = children()
        if not pending:
            return
        for pid in pending:  # their own children become ours, and are next
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.002)


def main(parent: int, folder: str, command: list[str]) -> int:
    """Run a command until it ends, this process is told to, or the parent is gone."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    told, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    ending: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: ending.append(received))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    watched = [told]
    with contextlib.suppress(OSError):
        watched.append(os.pidfd_open(parent))
    pid = os.fork()
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            libc.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os.execvp(command[0], command)  # noqa: S606
        except OSError as error:
            os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(127)
    status = None
    while status is None and not ending and os.getppid() == parent:
        with contextlib.suppress(ChildProcessError):
            while status is None and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == pid:  # the others are adopted ones
                    status = os.waitstatus_to_exitcode(ended[1])
        if status is not None:
            break
        ready, _, _ = select.select(watched, [], [], _CHECK_S)
        if told in ready:
            os.read(told, 1000)
        elif ready:
            break  # the parent's pidfd
    kill_descendants()
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    if status is None:
        status = -signal.SIGTERM
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
