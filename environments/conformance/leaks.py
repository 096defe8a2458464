"""What this process holds at a moment: to find out what an environment left behind."""

from __future__ import annotations

import functools
import gc
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

_made: list[str] = []  # temporary files and folders, as they are made
_watching = 0


class Held(NamedTuple):
    """Child processes by pid, threads and descriptors by name, temporary files."""

    processes: dict[int, str]
    threads: Counter[str]
    descriptors: Counter[str]
    files: frozenset[str]


class Leaks:
    """Compares what is held now with what was held when it was made.

    Where the system has no ``/proc``, only threads and temporary files are seen. Temporary files
    are those that Python's ``tempfile`` made in this process.
    """

    def __init__(self) -> None:
        global _watching
        _hook()
        _watching += 1
        gc.collect()
        self._before = held()

    def found(self, patience: float = 2.0) -> list[str]:
        """What is held that was not, in sentences.

        Args:
            patience: seconds to wait for what is about to end.
        """
        deadline = time.monotonic() + patience
        problems = self._compare()
        while problems and time.monotonic() < deadline:
            time.sleep(0.02)
            gc.collect()
            problems = self._compare()
        return problems

    def close(self) -> None:
        """Stop looking."""
        global _watching
        _watching -= 1
        if not _watching:
            _made.clear()

    def _compare(self) -> list[str]:
        now, before = held(), self._before
        problems = []
        if left := [name for pid, name in now.processes.items() if pid not in before.processes]:
            problems.append(f"a process it started is still there ({left[0]})")
        if threads := now.threads - before.threads:
            problems.append(f"a thread it started is still running ({next(iter(threads))})")
        if files := now.files - before.files:
            problems.append(f"a temporary file or folder is left ({Path(min(files)).name})")
        opened = now.descriptors - before.descriptors
        if opened and now.descriptors.total() > before.descriptors.total():
            problems.append(f"a file or connection is still open ({next(iter(opened))})")
        return problems


def held() -> Held:
    """What this process holds now."""
    names = (thread.name for thread in threading.enumerate() if thread.is_alive())
    files = frozenset(path for path in _made if os.path.lexists(path))
    return Held(_children(), Counter(names), _descriptors(), files)


def _descriptors() -> Counter[str]:
    found: Counter[str] = Counter()
    try:
        links = list(Path("/proc/self/fd").iterdir())
    except OSError:
        return found
    for link in links:
        try:
            leads_to = str(link.readlink())
        except OSError:  # the one that the listing itself used
            continue
        found[leads_to.partition(":[")[0]] += 1
    return found


def _children() -> dict[int, str]:
    """Pid and name of every process that descends from this one."""
    parents: dict[int, tuple[int, str]] = {}
    try:
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    except OSError:
        return {}
    for pid in pids:
        try:
            before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        except (OSError, UnicodeDecodeError):
            continue
        parents[pid] = int(after.split()[1]), before.partition("(")[2]
    found: dict[int, str] = {}
    family, grown = {os.getpid()}, True
    while grown:
        new = {pid: name for pid, (parent, name) in parents.items()
               if parent in family and pid not in family}  # fmt: skip
        found |= new
        family |= new.keys()
        grown = bool(new)
    return found


@functools.cache
def _hook() -> None:
    """Have ``tempfile`` tell what it makes; a hook of this kind stays, so it is made once."""

    def told(event: str, arguments: tuple[object, ...]) -> None:
        if _watching and event.startswith("tempfile."):
            _made.append(str(arguments[0]))

    sys.addaudithook(told)
