"""Where each item stands on the map: the first two principal components of its key's embedding.

One basis for a whole run, so that a point stays where it is while generations pass. It is found
once from a sample; only when the memory has outgrown that sample by far is it found anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from memory import sqlite
from memory.embed import Embedder, Vectors
from memory.inspector.digest import Digest, read_bodies

_SAMPLE = 4000
_OUTGROWN = 4  # times
_BATCH = 256
_PAUSE_S = 0.005  # between batches, so that pages are answered meanwhile


def principal_plane(vectors: Vectors) -> tuple[Vectors, Vectors]:
    """Mean and the two directions of largest variance; signs are settled, so it is repeatable.

    Args:
        vectors: one row per item.

    Returns:
        The mean (d), and two orthonormal rows (2 × d).
    """
    mean = vectors.mean(axis=0)
    centred = (vectors - mean).astype(np.float64)
    _, directions = np.linalg.eigh(centred.T @ centred)  # by ascending variance
    plane = directions[:, :-3:-1].T
    if len(plane) < 2:
        plane = np.vstack([plane, np.zeros_like(plane)])
    peaks = plane[np.arange(2), np.abs(plane).argmax(axis=1)]
    return mean.astype(np.float32), (plane * np.where(peaks < 0, -1, 1)[:, None]).astype(np.float32)


def place(
    digest: Digest,
    embedder: Embedder,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Give every item that has no point yet its point.

    Args:
        digest: brought up to date.
        embedder: turns keys into vectors; another one than last time moves all points.
        progress: told (placed, of) after each batch.
        stop: whether to leave off; what is done stays.

    Raises:
        LedgerError: the digest or the ledger cannot be read or written.
        EmbedderError: the embedder cannot be loaded.
    """
    with digest.open() as db:
        (total, placed) = db.execute(
            "SELECT count(*), count(x) FROM items WHERE seq IS NOT NULL"
        ).fetchone()
        stored = dict(db.execute("SELECT key, value FROM meta WHERE key LIKE 'basis%'"))
    same = stored.get("basis_embedder") == embedder.identity
    if not total or (same and placed == total):
        return
    if same and total < _OUTGROWN * int(stored["basis_items"]):
        basis = np.frombuffer(stored["basis"], np.float32).reshape(3, -1)
    else:
        basis = _fit(digest, embedder, total)
    while not stop():
        with digest.open() as db:
            rows = db.execute(
                "SELECT no, seq FROM items WHERE x IS NULL AND seq IS NOT NULL LIMIT ?", (_BATCH,)
            ).fetchall()
            placed = total - len(rows) if len(rows) < _BATCH else placed
        if not rows:
            break
        points = (embedder.embed(_keys(digest, [seq for _, seq in rows])) - basis[0]) @ basis[1:].T
        with digest.open(write=True) as db, sqlite.transaction(db):
            db.executemany(
                "UPDATE items SET x = ?, y = ? WHERE no = ?",
                [(float(x), float(y), no) for (x, y), (no, _) in zip(points, rows, strict=True)],
            )
        placed += len(rows)
        progress(min(placed, total), total)
        time.sleep(_PAUSE_S)


def _fit(digest: Digest, embedder: Embedder, total: int) -> Vectors:
    with digest.open() as db:
        seqs = [seq for (seq,) in db.execute("SELECT seq FROM items WHERE seq IS NOT NULL")]
    sample = seqs[:: max(1, len(seqs) // _SAMPLE)]
    parts = [
        embedder.embed(_keys(digest, sample[start : start + _BATCH]))
        for start in range(0, len(sample), _BATCH)
    ]
    mean, plane = principal_plane(np.concatenate(parts))
    basis = np.vstack([mean, plane])
    # Beyond a full sample more items hardly turn the plane.
    covers = total if len(seqs) <= _SAMPLE else 1 << 40
    with digest.open(write=True) as db, sqlite.transaction(db):
        db.executemany(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)",
            [
                ("basis", basis.astype(np.float32).tobytes()),
                ("basis_embedder", embedder.identity),
                ("basis_items", covers),
            ],
        )
        db.execute("UPDATE items SET x = NULL, y = NULL")
    return basis


def _keys(digest: Digest, seqs: list[int]) -> list[str]:
    bodies = read_bodies(digest.ledger, seqs)
    return [str(bodies.get(seq, {}).get("key", "")) for seq in seqs]
