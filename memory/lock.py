"""One process per run folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from memory.ledger import LedgerError


class LockError(LedgerError):
    """Another process uses the run folder, or the folder cannot be locked."""


class RunLock:
    """Exclusive use of a run folder, for as long as the context lasts or the process lives.

    The lock is the kernel's (``flock``), so it goes with the process however that dies; the
    file ``.lock`` stays and only tells others whose it is.

    Args:
        folder: the run folder; made if it is missing.

    Raises:
        LockError: on entering, when another process holds it or the folder is not writable.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int | None:
        """Of the lock file while it is held: a child that inherits it holds the lock as well."""
        return self._descriptor

    def __enter__(self) -> Self:
        if self.folder.is_file():
            raise LockError(f"{self.folder} is a file, and a run is a folder: give another name")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise LockError(
                f"{self.folder}: cannot be locked ({error.strerror}); "
                "check the folder, its permissions and its disk"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "?"
            os.close(descriptor)
            raise LockError(
                f"{self.folder} is in use by process {holder}; wait for it or stop it"
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise LockError(
                f"{self.folder}: its file system has no locks ({error.strerror}); use a local disk"
            ) from error
        self._descriptor = descriptor
        # A forked child shares the lock and would hold it after its parent's death.
        os.register_at_fork(after_in_child=self._close)
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError:  # a full disk: the lock holds all the same, only its owner is unnamed
            pass
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
