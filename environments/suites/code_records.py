"""Records of HumanEval, MBPP and their "plus" versions as prompts and problems."""

from __future__ import annotations

import ast
import contextlib
import doctest
import itertools
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from environments.grading.grader import Problem, Test
from environments.grading.values import encode

# The first family with a word that the task's text has is its family.
FAMILIES: dict[str, tuple[str, ...]] = {
    "dictionaries": ("dictionar",),
    "tuples": ("tuple",),
    "matrices": ("matrix", "matrices", "2d ", "grid", "nested list", "list of lists",
                 "lists of lists", "sublist"),
    "strings": ("string", "word", "character", "letter", "regex", "sentence", "text", "vowel"),
    "lists": ("list", "array", "heap", "sequence", "sort"),
    "geometry": ("triangle", "circle", "area", "volume", "cube", "cone", "cylinder", "rectang",
                 "perimeter", "square of side", "sphere", "angle", "polygon", "prism"),
    "numbers": ("number", "integer", "sum", "digit", "prime", "divisor", "factor", "binary",
                "bit", "power", "product", "fibonacci", "polynomial"),
}  # fmt: skip
_SHOWN = "\nYour code should pass this test:\n"
_ARROW = re.compile(r"\s*(?:==+>?|=>|->|-->|➞|➡|→|=|#\s*=>|returns|should return)\s*(.+)")


def family_of(text: str) -> str:
    """The kind of data that a task is about: one of ``FAMILIES``, or ``other``."""
    lowered = text.lower()
    for family, signs in FAMILIES.items():
        if any(sign in lowered for sign in signs):
            return family
    return "other"


def from_record(record: Mapping[str, Any]) -> tuple[str, str, Problem]:
    """A record's prompt, family and problem, by the fields it has.

    Raises:
        ValueError: it has not the fields of any known form, or they do not fit together.
        SyntaxError: its code is no Python.
    """
    for fields, make in _FORMS:
        if all(field in record for field in fields):
            with warnings.catch_warnings():  # published code has escapes that Python warns of
                warnings.simplefilter("ignore")
                return make(record)
    known = "; or ".join(", ".join(fields) for fields, _ in _FORMS)
    raise ValueError(f"a record needs the fields {known}")


def _human_eval(record: Mapping[str, Any]) -> tuple[str, str, Problem]:
    """The form of HumanEval: a stub to complete and a function ``check(candidate)``."""
    prompt, entry = str(record["prompt"]), str(record["entry_point"])
    before, document = _split_stub(prompt, entry)
    problem = Problem(
        entry=entry,
        before=before,
        solution=prompt + str(record["canonical_solution"]),
        public=examples(document, entry),
        hidden=[Test(source=f"{record['test']}\n\ncheck({entry})\n")],
    )
    return prompt, family_of(document), problem


def _human_eval_plus(record: Mapping[str, Any]) -> tuple[str, str, Problem]:
    """The form of HumanEval+: a stub, and inputs for the published solution and the agent's."""
    prompt, entry = str(record["prompt"]), str(record["entry_point"])
    before, document = _split_stub(prompt, entry)
    problem = Problem(
        entry=entry,
        before=before,
        solution=prompt + str(record["canonical_solution"]),
        public=examples(document, entry),
        hidden=_calls([*record["base_input"], *record["plus_input"]], None),
        atol=float(record.get("atol", 0)),
    )
    return prompt, family_of(document), problem


def _mbpp(record: Mapping[str, Any]) -> tuple[str, str, Problem]:
    """The form of MBPP: a sentence and assertions, of which the first is shown."""
    text = str(record.get("text", record.get("prompt"))).strip()
    code = str(record["code"]).replace("\r\n", "\n")
    tests = [str(test) for test in record["test_list"]]
    if not tests:
        raise ValueError("its test_list is empty")
    setup = "\n".join([str(record.get("test_setup_code", "")), *record.get("test_imports", [])])
    problem = Problem(
        entry=_entry(code, tests[0]),
        solution=f"{code}\n{setup}".replace("\r\n", "\n").strip() + "\n",
        public=[Test(source=tests[0])],
        hidden=[Test(source=test) for test in tests[1:] or tests],
    )
    return _mbpp_prompt(text, tests[:1]), family_of(text), problem


def _mbpp_plus(record: Mapping[str, Any]) -> tuple[str, str, Problem]:
    """The form of MBPP+: a docstring with one assertion, and inputs."""
    document, entry = str(record["prompt"]).strip().strip('"'), str(record["entry_point"])
    lines = [line.strip() for line in document.splitlines() if line.strip()]
    shown = [line for line in lines if line.startswith("assert ")]
    text = " ".join(line for line in lines if line not in shown)
    kinds = _argument_kinds(str(record["assertion"]), entry, record["base_input"])
    problem = Problem(
        entry=entry,
        solution=str(record["canonical_solution"]),
        public=[Test(source=line) for line in shown],
        hidden=_calls([*record["base_input"], *record["plus_input"]], kinds),
        atol=float(record.get("atol", 0)),
    )
    return _mbpp_prompt(text, shown), family_of(text), problem


_FORMS: tuple[
    tuple[tuple[str, ...], Callable[[Mapping[str, Any]], tuple[str, str, Problem]]], ...
] = (
    (("prompt", "entry_point", "canonical_solution", "test"), _human_eval),
    (("prompt", "entry_point", "canonical_solution", "assertion", "base_input", "plus_input"),
     _mbpp_plus),
    (("prompt", "entry_point", "canonical_solution", "base_input", "plus_input"),
     _human_eval_plus),
    (("text", "code", "test_list"), _mbpp),
    (("prompt", "code", "test_list"), _mbpp),
)  # fmt: skip


def examples(document: str, entry: str) -> list[Test]:
    """The examples in a docstring that can be read as a call and its value.

    Doctests, and lines such as ``add(2, 3) ➞ 5``. Not every one is right; a grader leaves out
    those that the published solution fails.
    """
    found = []
    try:
        shown = [(e.source.strip(), e.want.strip())
                 for e in doctest.DocTestParser().get_examples(document)]  # fmt: skip
    except ValueError:
        shown = []
    for line in document.splitlines():
        begin = line.find(f"{entry}(")
        for end in [i + 1 for i, c in enumerate(line) if c == ")" and i > begin >= 0]:
            if match := _ARROW.fullmatch(line[end:]):
                shown.append((line[begin:end], match[1].strip().rstrip(".,")))
    for source, want in shown:
        try:
            call = ast.parse(source, mode="eval").body
            ast.literal_eval(want)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == entry:
            found.append(Test(source=f"assert {source} == {want}"))
    return list(dict.fromkeys(found))


def _split_stub(prompt: str, entry: str) -> tuple[str, str]:
    """What stands before the function in a prompt, and the function's docstring."""
    for node in ast.parse(prompt).body:
        if isinstance(node, ast.FunctionDef) and node.name == entry:
            before = "".join(prompt.splitlines(keepends=True)[: node.lineno - 1])
            return before, ast.get_docstring(node) or ""
    raise ValueError(f"its prompt has no function {entry}")


def _entry(code: str, test: str) -> str:
    """The function of the code that a test calls."""
    defined = {n.name for n in ast.walk(ast.parse(code)) if isinstance(n, ast.FunctionDef)}
    for node in ast.walk(ast.parse(test)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and (
            node.func.id in defined
        ):  # fmt: skip
            return node.func.id
    raise ValueError("its first test calls no function of its code")


def without_test(prompt: str) -> str:
    """What is to be written, without the test that is shown beside it."""
    return prompt.partition(_SHOWN)[0]


def _mbpp_prompt(text: str, shown: Sequence[str]) -> str:
    tests = "\n".join(shown)
    return f"{text}{_SHOWN}{tests}" if shown else text


def _calls(inputs: Sequence[Sequence[Any]], kinds: list[Any] | None) -> list[Test]:
    made = []
    for args in inputs:
        given = list(args)
        if kinds is not None and len(kinds) == len(given):
            given = [_argument(value, kind) for value, kind in zip(given, kinds, strict=True)]
        made.append(Test(call=encode([given, {}])))
    return made


# MBPP+ keeps its inputs as JSON, which has no tuples, sets, complex numbers or number keys. Its
# assertions make the same base calls in Python: what a value is there says what its like are.
# A kind maps the JSON type of a value to (Python type, kind of its items).


def _argument_kinds(
    assertion: str, entry: str, inputs: Sequence[Sequence[Any]]
) -> list[Any] | None:
    calls = [n for n in ast.walk(ast.parse(assertion))
             if isinstance(n, ast.Call) and getattr(n.func, "id", "") == entry]  # fmt: skip
    calls.sort(key=lambda node: (node.lineno, node.col_offset))
    if len(calls) != len(inputs):
        return None
    kinds: list[Any] = []
    for call, args in zip(calls, inputs, strict=True):
        for index, (node, value) in enumerate(zip(call.args, args, strict=False)):
            if index == len(kinds):
                kinds.append({})
            try:
                _learn(kinds[index], value, ast.literal_eval(node))
            except ValueError:  # an expression: the other calls must do
                continue
    return kinds


def _learn(kind: dict[str, Any], value: Any, real: Any) -> None:
    name = type(value).__name__
    known, items = kind.get(name, (None, {}))
    if isinstance(real, str):
        known = str  # what is text once is text always
    elif known is None or (real and known is not str):  # an empty one says the least
        known = type(real)
    kind[name] = (known, items)
    if isinstance(value, list) and isinstance(real, list | tuple):
        for item, real_item in zip(value, real, strict=False):
            _learn(items, item, real_item)
    elif isinstance(value, dict) and isinstance(real, dict):
        for (key, item), (real_key, real_item) in itertools.zip_longest(
            value.items(), real.items(), fillvalue=("", "")
        ):
            _learn(items.setdefault("key", {}), key, real_key)
            _learn(items.setdefault("value", {}), item, real_item)


def _argument(value: Any, kind: dict[str, Any]) -> Any:
    """A whole argument; text in the place of numbers is a complex one."""
    if isinstance(value, str) and "int" in kind and "str" not in kind:
        with contextlib.suppress(ValueError):
            return complex(value)
    return _as_kind(value, kind)


def _as_kind(value: Any, kind: dict[str, Any]) -> Any:
    made, items = kind.get(type(value).__name__, (type(value), {}))
    if isinstance(value, list):
        if made is tuple:  # and so are those that lie deeper than any that was seen
            items = {"list": (tuple, {}), **items}
        held = [_as_kind(item, items) for item in value]
        if made is set:
            return set(held) if held else {}
        return tuple(held) if made is tuple else held
    if isinstance(value, dict):
        return {
            _as_kind(key, items.get("key", {})): _as_kind(item, items.get("value", {}))
            for key, item in value.items()
        }
    if isinstance(value, str):
        return complex(value) if made is complex else float(value) if made is not str else value
    return value
