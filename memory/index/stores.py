"""Where an index's stores lie: each a whole Chroma database or collection, one of them current."""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol

from memory.embed import Embedder
from memory.index.base import VectorIndexError
from memory.index.chroma import ChromaIndex, connect
from memory.index.server import ChromaServer
from memory.lock import LockError, RunLock

_NAME = re.compile(r"chroma-[0-9a-f]{12}")
_WAIT_S = 10.0


class Stores(Protocol):
    """Several stores by name; an unfinished or outdated one goes with `sweep`."""

    def has(self, name: str) -> bool: ...

    def open(self, name: str, embedder: Embedder, size: int) -> ChromaIndex: ...

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
        if not self.served:
            return ChromaIndex(store, embedder.identity, embedder.dimension, size=size)
        store.mkdir(exist_ok=True)
        with ExitStack() as resources:
            server = ChromaServer(store, self.folder / "server.log", self.lock)
            resources.callback(server.close)
            index = ChromaIndex(
                server.address, embedder.identity, embedder.dimension, size=size, died=server.died
            )
            index.keep(resources.pop_all())
            return index

    def sweep(self, keep: str) -> None:
        for path in self.folder.glob("chroma-*"):
            if path.name != keep and _NAME.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)

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
        return 0  # it is not ours to watch

    def _names(self) -> list[str]:
        try:
            return _NAME.findall(self.noted.read_text(errors="replace"))
        except FileNotFoundError:
            return []


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


def write(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".new")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


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
