"""Evolves toy runs in forked children, and kills them where it is told to (for test_crash).

One JSON request per line on standard input: ``config`` (a file), ``folder``, and ``kill``: null, or
``at`` (``module:attribute``, what is called), ``nth`` (which of the calls), ``when`` (``before``
or ``after`` it), ``match`` (count only calls whose arguments contain this text), ``records``
(instead of ``nth``: when the ledger holds so many episodes). The child sends itself SIGKILL
there: no handler, no ``finally``, no flush. One JSON answer per line: ``signal`` and ``error``.

Forking a process that has everything imported saves a second per run; nothing is opened or
started before the fork.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from functools import wraps
from pathlib import Path
from typing import Any

import chromadb  # noqa: F401

from agent.config import load_config
from agent.evolution import final
from agent.evolution.cycle import evolve
from agent.run import Run
from memory.ledger import Ledger
from memory.records import Trajectory


def arm(
    at: str,
    nth: int = 1,
    when: str = "before",
    match: str = "",
    records: int = 0,
    slots: str = "",
    number: int = signal.SIGKILL,
) -> None:
    """Replace an attribute by one that dies at a call of it, or when episodes are stored.

    The arguments are those of a request's ``kill``, and the ``number`` of the signal.
    """
    name, _, path = at.partition(":")
    owner: Any = importlib.import_module(name)
    *parents, attribute = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    real = getattr(owner, attribute)
    calls = 0

    @wraps(real)
    def armed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        counts = match in str(args)
        calls += counts
        due = counts and (not records) and calls == nth
        if due and when == "before":
            os.kill(os.getpid(), number)
        result = real(*args, **kwargs)
        if records and isinstance(args[0], Ledger):
            due = args[0].count(Trajectory, slots) >= records
        if due:
            os.kill(os.getpid(), number)
        return result

    setattr(owner, attribute, armed)


def child(request: dict[str, Any]) -> None:
    if request["kill"]:
        arm(**request["kill"])
    folder = Path(request["folder"])
    with Run(folder, load_config(request["config"]), quiet=True) as run:
        evolve(run)
        final.test(run)


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            status = 1
            try:
                child(request)
                status = 0
            except BaseException as error:
                os.write(write, f"{type(error).__name__}: {error}".encode()[:4000])
            finally:
                os._exit(status)
        os.close(write)
        with os.fdopen(read) as pipe:
            error = pipe.read()
        _, status = os.waitpid(pid, 0)
        died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        print(json.dumps({"signal": died, "error": error}), flush=True)


if __name__ == "__main__":
    main()
