"""A sandbox's workspace as the host sees it: a folder whose content is hostile.

Programs own what is in it and may leave links, pipes, unreadable folders or thousands of
nested ones. So every path is opened one component at a time, relative to an open folder and
without following links, and nothing but regular files is ever read or written.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

PREFIX = "instar-sandbox-"
MAX_DEPTH = 64
MAX_ENTRIES = 20_000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class WorkspaceError(Exception):
    """The workspace's content cannot be accounted for; the message says why."""


class Workspace:
    """A temporary folder ``root`` with the workspace ``work`` in it; locked while in use.

    Args:
        owner: uid and gid that programs run with, or None for the caller's own.
        fill: fills the empty folder ``box``, whose content programs may change as well; None:
            no such folder.
    """

    def __init__(
        self, owner: int | None = None, fill: Callable[[Path], None] | None = None
    ) -> None:
        self._owner = owner
        self._fill = fill
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = os.open(self.root, _FOLDER)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.work = self.root / "work"
        self.empty = self.root / "empty"
        self.work.mkdir(mode=0o700)
        self.empty.mkdir(mode=0o755)
        if owner is not None:
            self.root.chmod(0o711)
            os.chown(self.work, owner, owner)
        self._fd = os.open(self.work, _FOLDER)
        self.box = self.root / "box"
        self._box_fd = -1
        if fill is not None:
            self.box.mkdir(mode=0o700)  # nobody else reaches set-user-id programs in it
            if owner is not None:
                os.chown(self.box, owner, owner)
            self._box_fd = os.open(self.box, _FOLDER)
            fill(self.box)

    def read(self, path: str) -> bytes:
        """A regular file. ValueError for anything else, FileNotFoundError if it is missing."""
        with self._parent(path) as (folder, name):
            fd = _open_regular(name, os.O_RDONLY, folder, path)
        with os.fdopen(fd, "rb") as file:
            return file.read()

    def write(self, path: str, data: bytes, most_mb: int | None = None) -> None:
        """Write a regular file, making its folders.

        Raises:
            ValueError: the path leads out, or the data are more than ``most_mb`` MiB.
        """
        if most_mb is not None and len(data) > most_mb << 20:
            raise ValueError(
                f"{path}: {len(data)} bytes are more than the workspace's {most_mb} MiB"
            )
        with self._parent(path, make=True) as (folder, name):
            fd = _open_regular(name, os.O_WRONLY | os.O_CREAT, folder, path)
        with os.fdopen(fd, "wb") as file:
            self._give(fd)
            file.truncate(0)
            file.write(data)

    def list(self) -> list[str]:
        """Relative paths of the regular files, sorted; undecodable bytes as backslash escapes."""
        return sorted(
            _shown(path) for path, entry in _walk(self._fd) if stat.S_ISREG(entry.st_mode)
        )

    def snapshot(self) -> dict[str, bytes]:
        """Path and content of the regular files, sorted by path as ``list`` gives it."""
        found = {}
        for path, entry in list(_walk(self._fd)):
            if stat.S_ISREG(entry.st_mode):
                with contextlib.suppress(ValueError, FileNotFoundError):  # it has just changed
                    found[_shown(path)] = self.read(path)
        return dict(sorted(found.items()))

    def usage(self) -> int:
        """Bytes in use (the larger of apparent and allocated size of each entry).

        Raises:
            WorkspaceError: too many or too deeply nested entries, or a folder that cannot
                be looked into.
        """
        total = 0
        folders = [fd for fd in (self._fd, self._box_fd) if fd >= 0]
        entries = itertools.chain.from_iterable(map(_walk, folders))
        for count, (_, entry) in enumerate(entries):
            if count >= MAX_ENTRIES:
                raise WorkspaceError(f"more than {MAX_ENTRIES} files")
            total += max(entry.st_size, entry.st_blocks * 512)
        return total

    def clear(self) -> None:
        """Empty the workspace; no program may be running in it."""
        _remove_content(self.work)
        if self._fill is not None:
            _remove_content(self.box)
            self._fill(self.box)

    def close(self) -> None:
        """Remove everything; safe to call twice."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        if self._box_fd >= 0:
            os.close(self._box_fd)
        remove_tree(self.root)
        os.close(self._lock)

    @contextlib.contextmanager
    def _parent(self, path: str, make: bool = False) -> Iterator[tuple[int, str]]:
        parts = PurePosixPath(path).parts
        if not parts or parts[0] == "/" or ".." in parts or "\0" in path:
            raise ValueError(f"path {path!r} is not a relative path inside the workspace")
        folder = os.dup(self._fd)
        try:
            for name in parts[:-1]:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o755, dir_fd=folder)
                below = _open(name, os.O_DIRECTORY, folder, path)
                os.close(folder)
                folder = below
                if make:
                    self._give(folder)
            yield folder, parts[-1]
        finally:
            os.close(folder)

    def _give(self, fd: int) -> None:
        if self._owner is not None:
            os.fchown(fd, self._owner, self._owner)


def _shown(path: str) -> str:
    """A path with undecodable bytes as backslash escapes."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def remove_tree(root: Path) -> None:
    """Remove a folder with whatever hostile programs left in it."""
    _remove_content(root)
    with contextlib.suppress(FileNotFoundError):
        root.rmdir()


def sweep(age_s: float = 60.0) -> None:
    """Remove workspaces whose process died before it could (they are no longer locked)."""
    for root in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            lock = os.open(root, _FOLDER)
        except OSError:
            continue
        try:
            about = os.fstat(lock)
            if about.st_uid == os.getuid() and time.time() - about.st_mtime > age_s:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(root)
        except OSError:
            pass
        finally:
            os.close(lock)


def _open(name: str, flags: int, folder: int, path: str) -> int:
    """Open ``name`` in an open folder without following a link or waiting for a pipe."""
    try:
        return os.open(name, flags | _FILE, 0o644, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:  # ELOOP, ENOTDIR, EISDIR, ENXIO, EACCES …
        raise ValueError(
            f"path {path!r} does not lead to a regular file through folders of the workspace "
            f"({error.strerror}; links are refused)"
        ) from None


def _open_regular(name: str, flags: int, folder: int, path: str) -> int:
    fd = _open(name, flags, folder, path)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError(f"path {path!r} is not a regular file")
    return fd


def _walk(folder: int, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, os.stat_result]]:
    """Every entry below an open folder; entries that vanish meanwhile are left out."""
    if depth > MAX_DEPTH:
        raise WorkspaceError(f"folders nested more than {MAX_DEPTH} deep")
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                about = entry.stat(follow_symlinks=False)
                yield prefix + entry.name, about
                if not stat.S_ISDIR(about.st_mode):
                    continue
                below = os.open(entry.name, _FOLDER, dir_fd=folder)
            except PermissionError:
                raise WorkspaceError("a folder that the host cannot look into") from None
            except OSError:
                continue
            try:
                yield from _walk(below, f"{prefix}{entry.name}/", depth + 1)
            finally:
                os.close(below)


def _remove_content(root: Path) -> None:
    """Empty a folder: subfolders are first moved up into it, so no depth is too deep."""
    with contextlib.suppress(FileNotFoundError):
        top = os.open(root, _FOLDER)
        fresh = (f".instar-removed-{n}" for n in itertools.count())
        try:
            while folders := _flatten(top, top, fresh):
                for name in folders:
                    os.chmod(name, 0o700, dir_fd=top)
                    folder = os.open(name, _FOLDER, dir_fd=top)
                    try:
                        _flatten(folder, top, fresh)
                    finally:
                        os.close(folder)
                    os.rmdir(name, dir_fd=top)
        finally:
            os.close(top)


def _flatten(folder: int, top: int, fresh: Iterator[str]) -> list[str]:
    """Delete an open folder's files and move its subfolders to ``top``; returns their names."""
    moved = []
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        if not is_folder:
            os.unlink(name, dir_fd=folder)
        elif folder == top:
            moved.append(name)
        else:
            os.chmod(name, 0o700, dir_fd=folder)
            target = next(fresh)
            while os.path.lexists(f"/proc/self/fd/{top}/{target}"):
                target = next(fresh)
            os.rename(name, target, src_dir_fd=folder, dst_dir_fd=top)
            moved.append(target)
    return moved
