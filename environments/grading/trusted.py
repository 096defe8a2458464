"""The program that runs a task's own solution and tests: in a sandbox, after `values`.

No code of the agent ever runs here; what its function returned comes as plain values.
"""

from __future__ import annotations

import ast
import builtins
import json
import math
import random
import sys
from collections.abc import Callable
from typing import Any

from environments.grading.values import close, decode, encode

# Where one right answer is as good as another, as EvalPlus has it (github.com/evalplus/evalplus,
# evalplus/eval/_special_oracle.py, Apache-2.0).
SAME_SET = {"similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly",
            "larg_nnum", "intersection_array", "find_dissimilar", "Diff"}  # fmt: skip
NOT_NONE = {"check_str", "text_match_three", "text_starta_endb"}


class Mismatch(Exception):
    """A test called the function otherwise than it did with the published solution."""


class _Counting(ast.NodeTransformer):
    """Makes a test count its assertions that held."""

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        return [node, *ast.parse("__held__()").body]


def main() -> None:
    """Record (the calls of each test, with the published solution) or judge (recorded calls)."""
    job = json.load(sys.stdin)
    names: dict[str, Any] = {"__name__": "solution"}
    exec(compile(job["solution"], "<solution>", "exec"), names)  # noqa: S102
    outputs = iter(job["outputs"] or ())
    report, room = [], job["most"]
    for test in job["tests"]:
        if job["outputs"] is None:
            found = _record(test, names, job["entry"])
            size = len(json.dumps(found["calls"]))
            if test["source"] is None and size > min(room, job["most"] // 8):
                found = {"passed": False, "held": 0, "calls": [], "too_large": True}
            else:
                room -= size
            report.append(found)
        else:
            report.append(_judge(test, names, job["entry"], outputs, job["atol"]))
    with open(job["result"], "w") as file:  # noqa: PTH123
        json.dump(report, file)


def _record(test: dict[str, Any], names: dict[str, Any], entry: str) -> dict[str, Any]:
    """The calls that a test makes, what they return, and whether it passes."""
    calls: list[Any] = []

    def recorder(*args: Any, **kwargs: Any) -> Any:
        call = encode([list(args), kwargs])
        try:
            output = {"value": encode(names[entry](*args, **kwargs))}
        except Exception as error:
            output = {"error": [type(error).__name__, str(error)]}
        calls.append([call, output])
        return _replay(output)  # as the agent's will be: an iterator is used up, say

    if test["source"] is None:
        args, kwargs = decode(test["call"])
        try:
            recorder(*args, **kwargs)
            return {"passed": True, "held": 1, "calls": calls}
        except Exception as error:
            return {"passed": False, "held": 0, "calls": [], "why": f"{error!r}"[:300]}
    return {**_run(test["source"], names, entry, recorder), "calls": calls}


def _judge(
    test: dict[str, Any], names: dict[str, Any], entry: str, outputs: Any, atol: float
) -> dict[str, Any]:
    """Whether a test passes when its calls return what the agent's function returned."""
    calls = iter([(call, value, next(outputs)) for call, value in test["calls"]])
    if test["source"] is None:
        ((call, expected, output),) = calls
        try:
            right = _right(entry, decode(call)[0], _replay(expected), _replay(output), atol)
        except Exception:
            right = False
        return {"passed": right, "held": int(right)}

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        call, _, output = next(calls, (None, None, {}))
        if call is None or call != encode([list(args), kwargs]):
            raise Mismatch
        return _replay(output)

    return _run(test["source"], names, entry, stand_in)


def _run(
    source: str, names: dict[str, Any], entry: str, function: Callable[..., Any]
) -> dict[str, Any]:
    held = []
    tree = ast.fix_missing_locations(_Counting().visit(ast.parse(source)))
    scope = {**names, entry: function, "candidate": function, "__held__": lambda: held.append(1)}
    random.seed(0)  # tests may draw their arguments: the same ones every time
    try:
        exec(compile(tree, "<test>", "exec"), scope)  # noqa: S102
    except BaseException as error:  # sys.exit in a test ends the test, not the verdict
        return {"passed": False, "held": len(held), "why": f"{error!r}"[:300]}
    return {"passed": True, "held": len(held)}


def _replay(output: dict[str, Any]) -> Any:
    if "error" in output:
        name, text = output["error"]
        kind = getattr(builtins, str(name), Exception)
        raise (kind if isinstance(kind, type) and issubclass(kind, Exception) else Exception)(text)
    return decode(output["value"])


def _right(entry: str, args: list[Any], expected: Any, got: Any, atol: float) -> bool:
    if entry == "find_zero":  # any root of the polynomial
        return bool(abs(sum(c * math.pow(got, i) for i, c in enumerate(args[0]))) <= atol)
    if entry in SAME_SET:
        return set(got) == set(expected)
    if entry in NOT_NONE and not isinstance(got, bool):
        return bool(expected) == (got is not None)
    return close(expected, got, atol) or (entry == "sum_div" and bool(got == 0))
