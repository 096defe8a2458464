"""What a run remembers: the embedder, the index and the views that episodes look through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from environments.base import Task
from memory.embed import Embedder, load_embedder
from memory.index import Index, LedgerKeys, open_index
from memory.ledger import Ledger
from memory.recall import MemoryView, Query, Recall, RecallSettings
from memory.records import MemoryItem

if TYPE_CHECKING:
    from agent.config import StoreSettings

RECALLED_AT_ONCE = 16  # tasks; a batch that is worth the embedder's while
VIEWS = 4  # kept open; one over 100,000 items takes tens of megabytes

Look = Callable[[Sequence[Query]], list[Recall]]
Again = Callable[[str, frozenset[str]], Recall]


class RunMemory:
    """The memory of one run.

    Args:
        folder: where the index lives.
        settings: embedder, and how much is recalled.
        ledger: the run's; looks are recorded there.
        counter: for a version of the weights, what counts a text's tokens.
    """

    def __init__(
        self,
        folder: Path,
        settings: StoreSettings,
        ledger: Ledger,
        counter: Callable[[str], Callable[[str], int]],
    ):
        self.folder, self.settings, self.ledger = folder, settings, ledger
        self.counter = counter
        self._source = ledger
        self._embedder: Embedder | None = None
        self._index: Index | None = None
        self._views: dict[tuple[str, str], MemoryView] = {}
        self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recall")

    @property
    def embedder(self) -> Embedder:
        if self._embedder is None:
            self._embedder = load_embedder(self.settings.embedder)
        return self._embedder

    @property
    def index(self) -> Index:
        """The vector index over all memory items, checked against the ledger when opened."""
        if self._index is None:
            borrowed = self._source is not self.ledger
            self._index = open_index(
                self.folder,
                self.embedder,
                LedgerKeys(self._source),
                "exact" if borrowed else self.settings.index,
                self.settings.index_url,
            )
        return self._index

    def check(self) -> None:
        """Check what memory stands on, and mend what can be, before anything is built on it."""
        _ = self.embedder  # unknown? say so now
        if self.ledger.count(MemoryItem):
            _ = self.index  # damaged or gone? it is rebuilt from the ledger

    def borrow(self, other: Ledger) -> None:
        """Read another run's memory instead; looks are still recorded in this one's ledger."""
        self._source = other

    def add(self, items: Sequence[MemoryItem]) -> None:
        """Store new items: first in the ledger, then in the index."""
        if items:
            self.ledger.append_many([(item.id, item) for item in items])
            self.index.add(
                [item.id for item in items], self.embedder.embed([item.key for item in items])
            )

    def recall(
        self,
        tasks: Sequence[Task],
        snapshot: str,
        version: str,
        settings: RecallSettings | None = None,
        *,
        learning: bool = False,
    ) -> dict[str, Callable[[], Recall]]:
        """What a memory snapshot holds for tasks, as a version of the weights sees it.

        It is looked up in the background, some tasks at a time in their order, while the first
        episodes already generate; who calls an entry waits for it.

        Args:
            tasks: what to recall for; nothing made from a task itself is recalled for it.
            snapshot: the snapshot's id, "" for none.
            version: the weights that will read it.
            settings: quotas and budget; None takes the configured ones.
            learning: whether items on trial are shown, and those that these weights have
                absorbed: no use for their own tasks, but a pattern for others.
        """
        if not snapshot:
            return {}
        look = self._look(snapshot, version, settings or self.settings.recall, learning)
        recalls: dict[str, Callable[[], Recall]] = {}
        for start in range(0, len(tasks), RECALLED_AT_ONCE):
            some = tasks[start : start + RECALLED_AT_ONCE]
            queries = [Query(task.prompt, task.id, family=task.family) for task in some]
            found = self._background.submit(look, queries)
            for i, task in enumerate(some):
                recalls[task.id] = partial(lambda found, i: found.result()[i], found, i)
        return recalls

    def again(
        self, task: Task, snapshot: str, version: str, *, learning: bool = False
    ) -> Again | None:
        """Reads memory during a task's episode, where that is configured.

        Args:
            task: whose episode; nothing made from it is recalled.
            snapshot: the snapshot's id, "" for none.
            version: the weights that will read it.
            learning: as of `recall`.
        """
        return self._reader(self.settings.each_step, task, snapshot, version, learning)

    def search(
        self, task: Task, snapshot: str, version: str, *, learning: bool = False
    ) -> Again | None:
        """What a search of the agent finds in memory; arguments as of `again`."""
        return self._reader(self.settings.search, task, snapshot, version, learning)

    def _reader(
        self,
        settings: RecallSettings | None,
        task: Task,
        snapshot: str,
        version: str,
        learning: bool,
    ) -> Again | None:
        if not snapshot or settings is None:
            return None
        look = self._look(snapshot, version, settings, learning)

        def again(observation: str, shown: frozenset[str]) -> Recall:
            return look([Query(observation, task.id, shown=shown, family=task.family)])[0]

        return again

    def _look(self, snapshot: str, version: str, settings: RecallSettings, learning: bool) -> Look:
        """Looks into a snapshot as a version of the weights sees it; each look is recorded."""
        reader = "" if learning else version
        view = self._views.get((snapshot, reader))
        if view is None:
            view = MemoryView(self._source, self.index, self.embedder, snapshot, reader)
            for oldest in list(self._views)[: len(self._views) - VIEWS + 1]:
                del self._views[oldest]
            self._views[snapshot, reader] = view
        count = self.counter(version)

        def look(queries: Sequence[Query]) -> list[Recall]:
            found = view.recall(queries, settings, count, shadow=learning)
            records = [recall.recollection for recall in found if recall.recollection]
            self.ledger.append_many([(record.id, record) for record in records])
            return found

        return look

    def close(self) -> None:
        self._background.shutdown(cancel_futures=True)
        if self._index is not None:
            self._index.close()
        if self._source is not self.ledger:
            self._source.close()
