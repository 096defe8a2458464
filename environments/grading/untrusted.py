"""The program that runs an agent's code: in a sandbox of its own, after the text of `values`.

It meets no test and no expected value. It does not defend itself against the code that it runs:
whatever that code makes it say, it can only say what the function returned.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

from environments.grading.values import decode, encode


def main() -> None:
    """Define the function, call it with the arguments given, write what it returned."""
    job = json.load(sys.stdin)
    sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123
    said = open(job["result"], "w", buffering=1)  # noqa: SIM115, PTH123
    names: dict[str, Any] = {"__name__": "solution"}
    exec(compile(job["before"], "<prompt>", "exec"), names)  # noqa: S102
    exec(compile(job["code"], "<stdin>", "exec"), names)  # noqa: S102
    function = names.get(job["entry"])
    if not callable(function):
        raise NameError(f"name {job['entry']!r} is not defined")
    said.write(json.dumps({"ready": True}) + "\n")
    for call in job["calls"]:
        try:
            args, kwargs = decode(call)
            line = {"value": encode(function(*args, **kwargs))}
        except Exception as error:
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                     if frame.filename == "<stdin>"]  # fmt: skip
            where = f" (line {lines[-1]})" if lines else ""
            line = {"error": [type(error).__name__, f"{error}"[:300] + where]}
        said.write(json.dumps(line) + "\n")
