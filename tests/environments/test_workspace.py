"""Cleaning up after programs, as seen from the host."""

import os
import tempfile
from pathlib import Path

from environments.sandbox.workspace import Workspace, remove_tree, sweep


def test_deep_and_odd_trees_are_removed(nothing_leaks: Path) -> None:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # some disks take 3 ms a folder
    root = Path(tempfile.mkdtemp(dir=memory))
    (root / ".instar-removed-0").mkdir()
    (root / ".instar-removed-1").write_text("")
    folder = os.open(root, os.O_RDONLY)
    for depth in range(4000):
        os.mkdir("d" * 200, dir_fd=folder)
        if depth % 1000 == 0:
            os.mkdir(b"\xff\n-rf", dir_fd=folder)
            os.symlink("/etc", "link", dir_fd=folder)
            os.mkfifo("pipe", dir_fd=folder)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    remove_tree(root)
    assert not root.exists()
    remove_tree(root)


def test_folders_without_permissions_are_removed(nothing_leaks: Path) -> None:
    root = nothing_leaks / "tree"
    (root / "a/b/c").mkdir(parents=True)
    (root / "a/b/c/file").write_text("")
    for path in ("a/b/c/file", "a/b/c", "a/b", "a"):
        (root / path).chmod(0)
    remove_tree(root)
    assert not root.exists()


def test_links_are_removed_not_followed(nothing_leaks: Path) -> None:
    kept = nothing_leaks / "kept"
    kept.mkdir()
    (kept / "file").write_text("kept")
    root = nothing_leaks / "tree"
    root.mkdir()
    (root / "link").symlink_to(kept)
    remove_tree(root)
    assert (kept / "file").read_text() == "kept"
    (kept / "file").unlink()
    kept.rmdir()


def test_sweep_leaves_what_is_new_or_in_use(nothing_leaks: Path) -> None:
    used, dead = Workspace(), Workspace()
    os.close(dead._lock)
    os.close(dead._fd)
    other = nothing_leaks / "other"
    other.mkdir()
    sweep()
    assert used.root.exists() and dead.root.exists()
    sweep(age_s=0)
    assert used.root.exists() and not dead.root.exists() and other.exists()
    used.close()
    other.rmdir()
