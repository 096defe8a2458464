"""Where an index's stores lie: each a whole Chroma database or collection, one of them current."""

from __future__ import annotations

import re
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol

from memory.embed import Embedder
from memory.index.base import VectorIndexError, write
from memory.index.chroma import ChromaIndex, connect
from memory.index.seal import is_sealed, seal, unseal
from memory.index.server import ChromaServer
from memory.lock import LockError, RunLock

_NAME = re.compile(r"chroma-[0-9a-f]{12}")
_WAIT_S = 10.0


class Stores(Protocol):
    """Several stores by name; an unfinished or outdated one goes with `sweep`."""

    def has(self, name: str) -> bool: ...

    def open(self, name: str, embedder: Embedder, size: int) -> ChromaIndex: ...

    def closed_in_order(self, name: str) -> bool: ...

    def sweep(self, keep: str) -> None: ...

    def bytes(self, name: str) -> int: ...


class Folders:
    """Each store is a folder, opened in this process or, if ``served``, by a server of its own."""

    def __init__(self, folder: Path, *, served: bool, lock: int | None) -> None:
        self.folder = folder
        self.served = served
        self.lock = lock

    def has(self, name: str) -> bool:
        return (self.folder / name).is_dir()

    def open(self, name: str, embedder: Embedder, size: int) -> ChromaIndex:
        store = self.folder / name
        store.mkdir(exist_ok=True)
        unseal(store)
        place: Path | str = store
        died: Callable[[], str] = str
        with ExitStack() as resources:
            if self.served:
                server = ChromaServer(store, self.folder / "server.log", self.lock)
                resources.callback(server.close)
                place, died = server.address, server.died
            index = ChromaIndex(place, embedder.identity, embedder.dimension, size=size, died=died)
            index.keep(resources.pop_all())
        end = ExitStack()
        end.callback(_seal, store, index)
        index.keep(end)
        return index

    def closed_in_order(self, name: str) -> bool:
        return is_sealed(self.folder / name)

    def sweep(self, keep: str) -> None:
        for path in self.folder.iterdir():
            name = path.name.removeprefix("seal-")
            if name != keep and _NAME.fullmatch(name):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()  # a seal

    def bytes(self, name: str) -> int:
        found = (self.folder / name).rglob("*")
        sizes = 0
        for path in found:
            with suppress(FileNotFoundError):  # Chroma's journal comes and goes
                sizes += path.stat().st_size
        return sizes


class Collections:
    """Each store is a collection on somebody's server; which ones are ours is noted in a file."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url.rstrip("/")
        self.noted = folder / "collections"

    def has(self, name: str) -> bool:
        return name in self._names()

    def open(self, name: str, embedder: Embedder, size: int) -> ChromaIndex:
        names = self._names()
        if name not in names:
            write(self.noted, "\n".join([*names, name]))
        return ChromaIndex(f"{self.url}/{name}", embedder.identity, embedder.dimension, size=size)

    def closed_in_order(self, name: str) -> bool:
        return True  # it is not ours to watch, nor its size

    def sweep(self, keep: str) -> None:
        from chromadb.errors import ChromaError, NotFoundError

        client, _ = connect(f"{self.url}/{keep}")
        left = [keep]
        try:
            for name in self._names():
                if name != keep:
                    try:
                        client.delete_collection(name)
                    except NotFoundError:
                        pass
                    except ChromaError:
                        left.append(name)
        finally:
            client.close()
        write(self.noted, "\n".join(left))

    def bytes(self, name: str) -> int:
        return 0

    def _names(self) -> list[str]:
        try:
            return _NAME.findall(self.noted.read_text(errors="replace"))
        except FileNotFoundError:
            return []


def _seal(store: Path, index: ChromaIndex) -> None:
    if not index.failed:
        with suppress(OSError):  # a full disk: without a seal more is checked, no less
            seal(store)


def fresh_name() -> str:
    """Never used before: Chroma caches what it knows of a path."""
    return f"chroma-{uuid.uuid4().hex[:12]}"


def current(folder: Path, has: Callable[[str], bool]) -> str | None:
    """The name of the last store that was completed, or None."""
    try:
        name = (folder / "current").read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    return name if _NAME.fullmatch(name) and has(name) else None


def lock(folder: Path) -> RunLock:
    """Take exclusive use of an index's folder, down to the last process of a server of ours.

    Beside the lock of the whole run this one keeps out a server whose owner was just killed. That
    one ends by itself, so it is waited for.

    Raises:
        VectorIndexError: another process keeps it.
    """
    held = RunLock(folder)
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            return held.__enter__()
        except LockError as error:
            if time.monotonic() > deadline:
                raise VectorIndexError(str(error)) from error
            time.sleep(0.05)
