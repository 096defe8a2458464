"""The chain of a ledger's records: how they are hashed and linked, and what an audit finds.

Each link is the hash of the one before and of a record's kind, key and content hash. So a
body can be erased, and that something stood there, when and between what, can still be proved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from memory.records import Record, content_hash


class Erasure(Record):
    """Announces, in the chain, whose bodies were replaced and by what.

    Args:
        records: (number in the file, content hash of what stands there now).
    """

    records: tuple[tuple[int, str], ...]


class Row(NamedTuple):
    """A record as it lies in the file; ``redacted`` as in `Erasure`, if it was erased."""

    seq: int
    kind: str
    key: str
    id: str
    body: str
    chain: str
    redacted: str | None


def digest(body: str) -> str:
    """The content hash of a record whose canonical JSON is ``body`` (see `content_hash`)."""
    return hashlib.sha256(body.encode()).hexdigest()


def link(previous: str, kind: str, key: str, id_: str) -> str:
    """A record's link, from the link before it."""
    return content_hash([previous, kind, key, id_])


def audit(path: Path, rows: Iterable[Row], newest: int) -> Iterator[str]:
    """One line per fault: content hashes, links, gaps, erasures, bodies that are no records.

    Args:
        path: how the file is called.
        rows: all of them, oldest first.
        newest: number of the last row that was ever written.
    """
    models = {model.__name__: model for model in _kinds()}
    previous, seq = "", 0
    announced: dict[int, str] = {}
    erased: dict[int, tuple[str, str]] = {}
    for row in rows:
        where = f"{path}: record {row.seq} ({row.kind} {row.key!r})"
        if row.seq != seq + 1:
            yield f"{where}: {row.seq - seq - 1} records before it are gone"
        seq = row.seq
        if row.redacted is not None:
            erased[seq] = (where, row.redacted)
        if digest(row.body) != (row.redacted or row.id):
            yield f"{where}: the body does not match its content hash"
        elif row.kind in models:
            try:
                record = models[row.kind].model_validate_json(row.body)
            except ValidationError as error:
                yield f"{where}: no valid {row.kind}: {first(error)}"
            else:
                announced.update(record.records if isinstance(record, Erasure) else ())
        if link(previous, row.kind, row.key, row.id) != row.chain:
            yield f"{where}: the hash chain is broken here"
        previous = row.chain
    for number, (where, stand_in) in erased.items():
        if announced.get(number) != stand_in:
            yield f"{where}: its body was replaced, but not by an erasure"
    if newest > seq:
        yield f"{path}: {newest - seq} records after record {seq} are gone"


def first(error: ValidationError) -> str:
    """The first thing that is wrong with a record: field and fault."""
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"


def _kinds(base: type[Record] = Record) -> Iterator[type[Record]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)
