"""Keeping a run's digest up to date while pages are open."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memory.embed import Embedder, EmbedderError, HashEmbedder
from memory.inspector.digest import Digest
from memory.inspector.place import place
from memory.ledger import Ledger, LedgerError


class Followed:
    """One run as pages see it: its ledger, its digest, and a thread that keeps that up to date.

    The ledger is opened for reading only; another process may write it meanwhile.

    Args:
        name: what the run is called.
        path: its ledger.
        embedder: makes the embedder for the map when it is first needed; where it cannot be
            loaded, keys are compared by their words.
        summary: the run's ``summary.json``, if it has such a thing.
        folder: where the digest goes (see `Digest`).

    Raises:
        LedgerError: the ledger or the digest cannot be read.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        embedder: Callable[[], Embedder] = HashEmbedder,
        summary: Path | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name, self.path, self.summary = name, path, summary
        self.ledger = Ledger(path, read_only=True)
        self.digest = Digest(path, folder)
        self._make_embedder = embedder
        self._embedder: Embedder | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._work: dict[str, Any] = {"what": "", "done": 0, "of": 0}
        self.warning = self.note = ""

    def start(self, every_s: float = 1.0) -> None:
        """Begin to follow, in a thread of its own."""

        def run() -> None:
            while not self._stop.is_set():
                self.catch_up()
                self._stop.wait(every_s)

        self._thread = threading.Thread(target=run, name=f"follow {self.name}", daemon=True)
        self._thread.start()

    def catch_up(self) -> None:
        """Bring the digest and the map up to date once; what goes wrong becomes `warning`."""
        try:
            self.digest.update(self._progress("reading the ledger"), self._stop.is_set)
            if self._embedder is None and self.digest.state()["items"]:
                self._embedder = self._load()
            if self._embedder is not None:
                place(
                    self.digest, self._embedder, self._progress("placing items"), self._stop.is_set
                )
            self.warning = ""
        except (LedgerError, EmbedderError) as error:
            self.warning = str(error)
        finally:
            self._work = {"what": "", "done": 0, "of": 0}

    def state(self) -> dict[str, Any]:
        """How far the digest is, what is being done, and what went wrong."""
        return {
            **self.digest.state(),
            "work": self._work,
            "warning": self.warning,
            "note": self.note,
        }

    def close(self) -> None:
        """Stop following; safe to call twice."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.ledger.close()

    def _progress(self, what: str) -> Callable[[int, int], None]:
        def tell(done: int, of: int) -> None:
            self._work = {"what": what, "done": done, "of": of}

        return tell

    def _load(self) -> Embedder:
        self._work = {"what": "loading the embedder", "done": 0, "of": 0}
        try:
            embedder = self._make_embedder()
            embedder.embed(["a word"])
            return embedder
        except EmbedderError as error:
            self.note = f"the embedder cannot be loaded: {error}"
            return HashEmbedder()
