"""Python values as JSON and back. Also runs inside sandboxes, before `trusted` and `untrusted`."""

from __future__ import annotations

import builtins
import collections
import math
from collections.abc import Callable
from typing import Any

MOST_ITEMS = 100_000  # taken from an iterator


class Opaque:
    """Stands for a value that cannot be written: equal to nothing but itself."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind, self.text = kind, text

    def __repr__(self) -> str:
        return self.text


def encode(value: Any) -> Any:
    """A value as JSON: tagged objects for what JSON lacks, ``{"?": …}`` for what cannot go."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else {"i": hex(value)}
    if isinstance(value, float):
        return {"f": float.__repr__(value)}
    if isinstance(value, complex):
        return {"c": [repr(value.real), repr(value.imag)]}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return {"b": value.hex()}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple | collections.deque):
        return {"t" if isinstance(value, tuple) else "q": [encode(item) for item in value]}
    if isinstance(value, set | frozenset):
        items = sorted((encode(item) for item in value), key=repr)
        return {"s" if isinstance(value, set) else "z": items}
    if isinstance(value, dict):
        counter, ordered = collections.Counter, collections.OrderedDict
        tag = "C" if isinstance(value, counter) else "o" if isinstance(value, ordered) else "d"
        return {tag: [[encode(key), encode(held)] for key, held in value.items()]}
    if isinstance(value, range):
        return {"r": [value.start, value.stop, value.step]}
    if isinstance(value, type):
        name = value.__name__
        known = getattr(builtins, name, None) is value
        return {"T": name} if known else {"?": ["type", name]}
    name = type(value).__name__
    if name in ("dict_keys", "dict_values", "dict_items") or hasattr(type(value), "__next__"):
        items = []
        for item in value:
            items.append(encode(item))
            if len(items) > MOST_ITEMS:
                return {"?": [name, "endless"]}
        return {"n": items}
    return {"?": [name, repr(value)[:200]]}


def decode(said: Any) -> Any:
    """The value that was written; iterators come back as iterators.

    Raises:
        ValueError, TypeError and such: it was not written by `encode`.
    """
    if said is None or isinstance(said, bool | int | str):
        return said
    if isinstance(said, list):
        return [decode(item) for item in said]
    ((tag, held),) = said.items()
    simple: dict[str, Callable[[], Any]] = {
        "i": lambda: int(held, 16),
        "f": lambda: float(held),
        "c": lambda: complex(float(held[0]), float(held[1])),
        "b": lambda: bytes.fromhex(held),
        "r": lambda: range(*held),
        "T": lambda: _builtin_type(held),
        "?": lambda: Opaque(str(held[0]), str(held[1])),
    }
    if tag in simple:
        return simple[tag]()
    if tag in ("d", "C", "o"):
        pairs = [(decode(key), decode(value)) for key, value in held]
        if tag == "C":
            return collections.Counter(dict(pairs))
        return dict(pairs) if tag == "d" else collections.OrderedDict(pairs)
    makers: dict[str, Callable[[list[Any]], Any]] = {
        "t": tuple, "q": collections.deque, "s": set, "z": frozenset, "n": iter
    }  # fmt: skip
    return makers[tag]([decode(item) for item in held])


def _builtin_type(name: Any) -> type:
    found = getattr(builtins, name)
    if not isinstance(found, type):
        raise ValueError(f"{name} is no type")
    return found


def is_plain(said: Any) -> bool:
    """Whether all of a written value can be read back."""
    if isinstance(said, list):
        return all(is_plain(item) for item in said)
    return not isinstance(said, dict) or ("?" not in said and all(map(is_plain, said.values())))


def close(expected: Any, got: Any, atol: float) -> bool:
    """Whether a value is as expected, as EvalPlus decides it.

    Equal; or, for floats and flat lists and tuples of them, within ``atol`` (1e-6 where it is 0)
    plus one part in ten million.
    """
    if bool(expected == got):
        return True
    flat = expected if isinstance(expected, list | tuple) else [expected]
    if atol == 0 and not (flat and all(isinstance(item, float) for item in flat)):
        return False
    if type(expected) is not type(got):
        return False
    if isinstance(expected, list | tuple):
        return len(expected) == len(got) and all(
            _near(e, g, atol or 1e-6) for e, g in zip(expected, got, strict=True)
        )
    return _near(expected, got, atol or 1e-6)


def _near(expected: Any, got: Any, atol: float) -> bool:
    if isinstance(expected, list | tuple):
        return isinstance(got, list | tuple) and close(list(expected), list(got), atol)
    if not (isinstance(expected, int | float) and isinstance(got, int | float)):
        return bool(expected == got)
    return bool(
        expected == got
        or (math.isfinite(expected) and abs(expected - got) <= atol + 1e-7 * abs(expected))
    )
