"""Things that take long to make: made ahead in the background, or used again."""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Pool(Generic[T]):
    """Keeps up to ``size`` ready things, from the first ``take`` on until the process ends.

    Args:
        make: makes one.
        discard: gives one back that nobody took.
        size: how many to keep ready; 0: each is made when it is asked for.
        ahead: whether they are made ahead; otherwise only those that were given back wait.
    """

    def __init__(
        self, make: Callable[[], T], discard: Callable[[T], None], size: int, ahead: bool = True
    ) -> None:
        self._make, self._discard, self._size, self._ahead = make, discard, size, ahead
        self._ready: list[T] = []
        self._lock = threading.Lock()
        self._closed = False
        self._maker: threading.Thread | None = None
        if size:
            atexit.register(self.close)

    def take(self) -> T:
        """A ready one, or a new one; what making it raises is raised here."""
        with self._lock:
            taken = self._ready.pop(0) if self._ready else None
            idle = self._maker is None or not self._maker.is_alive()
            if self._ahead and self._size and idle and not self._closed:
                self._maker = threading.Thread(target=self._fill, name="sandbox-pool", daemon=True)
                self._maker.start()
        return self._make() if taken is None else taken

    def give(self, thing: T) -> bool:
        """Keep one for the next ``take``; False if there are enough."""
        with self._lock:
            if self._closed or len(self._ready) >= self._size:
                return False
            self._ready.append(thing)
            return True

    def close(self) -> None:
        """Give back all that nobody took; later ones are made when asked for."""
        with self._lock:
            self._closed = True
        if self._maker is not None:
            self._maker.join()
        while self._ready:
            self._discard(self._ready.pop())

    def _fill(self) -> None:
        with contextlib.suppress(Exception):  # the next take meets the same, and raises it
            while not self._closed and len(self._ready) < self._size:
                thing = self._make()
                if not self.give(thing):
                    self._discard(thing)
