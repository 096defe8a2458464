"""A checksum over a closed store's files, so that what changed meanwhile is noticed.

Canaries find a torn graph, but not one flipped vector among a million. A store is sealed when it
is closed in order and the seal is broken when it is opened; after a crash there is none.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from memory.index.base import VectorIndexError, write

_BLOCK = 1 << 22


def seal(store: Path) -> None:
    """Note the checksums of a store's files beside it."""
    write(_seal_of(store), json.dumps(dict(_sums(store))))


def is_sealed(store: Path) -> bool:
    """Whether a store was closed in order and not opened since."""
    return _seal_of(store).exists()


def unseal(store: Path) -> None:
    """Compare a store with its seal, if it has one, and remove that.

    Raises:
        VectorIndexError: a file differs; the seal stays.
    """
    path = _seal_of(store)
    try:
        noted = json.loads(path.read_text())
    except FileNotFoundError:
        return
    except ValueError as error:
        raise VectorIndexError(f"{path}: damaged") from error
    found = dict(_sums(store))
    for name in sorted(noted.keys() | found.keys()):
        if noted.get(name) != found.get(name):
            raise VectorIndexError(f"{store / name}: differs from what was written")
    path.unlink()


def _seal_of(store: Path) -> Path:
    return store.with_name(f"seal-{store.name}")


def _sums(store: Path) -> Iterator[tuple[str, list[int]]]:
    for path in sorted(store.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                size, sum_ = 0, 0
                while block := file.read(_BLOCK):
                    size, sum_ = size + len(block), zlib.crc32(block, sum_)
            yield path.relative_to(store).as_posix(), [size, sum_]
