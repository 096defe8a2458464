"""The embedded sandbox: bubblewrap's namespaces, seccomp and resource limits; no daemon.

What a program meets inside: its own user, mount, process, network and IPC namespaces; a
read-only ``/usr``; a bounded ``/tmp``; its workspace at ``/work``; no network, no ``/etc``,
no environment of the host. ``README.md`` in this folder lists what is *not* covered.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import socket
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from environments.sandbox import mapped
from environments.sandbox.base import (
    DEFAULT_LIMITS,
    ExecResult,
    Limits,
    SandboxFailure,
    SandboxUnavailable,
)
from environments.sandbox.cell import BOOT, PYTHON_FLAGS, is_python
from environments.sandbox.launch import launcher
from environments.sandbox.pool import Pool
from environments.sandbox.results import MIB, OPEN_FILES, START_S
from environments.sandbox.seccomp import seccomp_filter
from environments.sandbox.supervise import Run
from environments.sandbox.worker import Worker
from environments.sandbox.workspace import Workspace, sweep

NOBODY = 65534
SYSTEM_PYTHON = "/usr/bin/python3"
_INSTALL = (
    "install bubblewrap 0.8 or newer (Debian, Ubuntu: apt-get install bubblewrap; Fedora: "
    "dnf install bubblewrap), or name the program in INSTAR_BWRAP"
)
_HINTS = (
    # (what bubblewrap or its helpers say, what to do about it)
    ("Unknown option", _INSTALL),
    (
        "uid map: Permission denied",
        "this host lets no ordinary program use user namespaces (Ubuntu: sysctl "
        "kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for bwrap)",
    ),
    (
        "No permissions to create",
        "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1; in a container: "
        "start it with --security-opt seccomp=unconfined)",
    ),
    (
        "Operation not permitted",
        "in a container, start it with --security-opt seccomp=unconfined and "
        "--security-opt systempaths=unconfined, or --privileged",
    ),
)


class BubblewrapSandbox:
    """A workspace, and programs run in it under bubblewrap.

    Started by root, programs run as uid 65534 (resource limits do not bind root). Safe to use
    from many threads, one sandbox per episode.

    Args:
        limits: what each execution may use, unless it is given its own.
        root: programs are root inside a user namespace (``mapped.py``) and may change every
            file but those of ``/usr``; the changes last. Needs root outside as well.
        warm: the Python of ``python_argv`` is forked from a running one instead of started
            (``worker.py``). Not together with ``root``.
        pool: how many warm workers wait for another sandbox of this process.

    Raises:
        SandboxUnavailable: bubblewrap is missing or a trial run failed; says what to do.
    """

    def __init__(
        self,
        limits: Limits = DEFAULT_LIMITS,
        *,
        root: bool = False,
        warm: bool = False,
        pool: int = 0,
    ) -> None:
        if root:
            mapped.check_possible()
        if root and warm:
            raise SandboxUnavailable("a sandbox is warm or has root inside, not both")
        self._host = _proven_host(root)
        self._limits = limits
        self._closed = False
        self._worker: Worker | None = None
        if warm:
            self._pool = _pool(self._host, limits.workspace_mb, pool)
            self._worker = self._pool.take()
            self._workspace = self._worker.workspace
        else:
            self._workspace = _new_workspace(root)

    def python_argv(self) -> list[str]:
        """The Python inside, isolated and without site packages; add ``-`` or ``-c CODE``."""
        return [self._host.python, *PYTHON_FLAGS]

    def exec(
        self, argv: Sequence[str], *, stdin: str = "", limits: Limits | None = None
    ) -> ExecResult:
        """Run a program in the workspace; its whole process tree is gone on return.

        Args:
            argv: program (found on ``/usr/bin:/bin``) and arguments.
            stdin: its whole standard input, as UTF-8.
            limits: in place of the sandbox's own.

        Raises:
            SandboxFailure: the sandbox did not start, or a process outlived it.
            ValueError: the sandbox is closed, or argv is empty or has NUL characters.
        """
        if self._closed:
            raise ValueError("the sandbox is closed")
        if self._worker is not None:
            if self._worker.cell.broken:
                size = self._limits.workspace_mb
                self._worker = _worker(self._host, size, self._workspace)
            warm = is_python(argv, self.python_argv())
            given = limits or self._limits
            return self._worker.cell.run(argv, stdin, given, self._workspace, warm)
        return _execute(self._host, self._workspace, argv, stdin, limits or self._limits)

    def read(self, path: str) -> bytes:
        """A regular file of the workspace; links are refused (ValueError)."""
        return self._workspace.read(path)

    def write(self, path: str, data: bytes) -> None:
        """Write a file of the workspace; paths that leave it are refused (ValueError)."""
        self._workspace.write(path, data, self._limits.workspace_mb)

    def list(self) -> list[str]:
        """Relative paths of the workspace's regular files, sorted."""
        return self._workspace.list()

    def snapshot(self) -> dict[str, bytes]:
        """Path and content of the workspace's regular files, sorted by path."""
        return self._workspace.snapshot()

    def close(self) -> None:
        """Remove the workspace; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._worker is None:
            self._workspace.close()
        elif not (self._worker.reset() and self._pool.give(self._worker)):
            self._worker.close()


@dataclass(frozen=True)
class _Host:
    """What this machine offers: the program, its user, the mounts, the Python inside."""

    bwrap: str
    owner: int | None
    mapped: bool  # programs are root of a user namespace with a range of ids
    python: str
    system: tuple[str, ...]
    masked: tuple[str, ...]
    prefix: tuple[str, ...]
    seccomp: bytes


def _find_bwrap() -> str:
    named = os.environ.get("INSTAR_BWRAP")
    if named:
        if not os.access(named, os.X_OK):
            raise SandboxUnavailable(f"INSTAR_BWRAP={named} is not a program; {_INSTALL}")
        return os.path.abspath(named)
    found = shutil.which("bwrap")
    local = Path(".cache/sandbox/usr/bin/bwrap").absolute()
    if found is None and os.access(local, os.X_OK):
        found = str(local)
    if found is None:
        raise SandboxUnavailable(f"the program bwrap is missing: {_INSTALL}")
    return found


def _host(inner_root: bool) -> _Host:
    bwrap, machine, root = _find_bwrap(), os.uname().machine, os.getuid() == 0
    try:
        seccomp = seccomp_filter(machine)
    except KeyError:
        raise SandboxUnavailable(
            f"the bubblewrap sandbox has no system-call filter for {machine} processors "
            "(x86_64 and aarch64 only)"
        ) from None
    helpers = [name for name, used in (("setpriv", root), ("prlimit", inner_root)) if used]
    for helper in (f"/usr/bin/{name}" for name in helpers):
        if not os.access(helper, os.X_OK):
            raise SandboxUnavailable(f"the program {helper} is missing: install util-linux")
    system = ["--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"):
        if os.path.islink(name) and not inner_root:  # root inside could replace a link
            system += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            system += ["--ro-bind", name, name]
    # What the host has installed beside the bare system is nobody's business, and may hold
    # the answers: the packages that grade the tasks, say.
    masked = ["/usr/src", "/usr/lib/python3/dist-packages"]
    if not inner_root:  # which has a writable one of its own there
        masked.append("/usr/local")
    python = SYSTEM_PYTHON
    if not os.path.exists(python):
        if inner_root:  # what lies elsewhere would be mounted below folders that it may change
            raise SandboxUnavailable(
                f"a sandbox with root inside needs {SYSTEM_PYTHON}: install the system's Python "
                "(Debian, Ubuntu: apt-get install python3)"
            )
        base = sys.base_prefix
        python = f"{base}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        if not Path(base).is_relative_to("/usr"):
            system += ["--ro-bind", base, base]
        paths = {"base": base, "platbase": base}
        masked = [m for m in masked if not Path(base).is_relative_to(m)]
        masked += {sysconfig.get_path(name, vars=paths) for name in ("purelib", "platlib")}
        masked += [f"{base}/lib/python3/dist-packages"]
    prefix = ["/usr/bin/setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
              "--inh-caps=-all", "--"]  # fmt: skip
    return _Host(
        bwrap=bwrap,
        owner=mapped.FIRST if inner_root else NOBODY if root else None,
        mapped=inner_root,
        python=python,
        system=tuple(system),
        masked=tuple(path for path in masked if os.path.isdir(path)),
        prefix=tuple(prefix) if root and not inner_root else (),
        seccomp=seccomp,
    )


def _new_workspace(inner_root: bool) -> Workspace:
    try:
        if inner_root:
            return Workspace(mapped.FIRST, mapped.make_system)
        return Workspace(NOBODY if os.getuid() == 0 else None)
    except OSError as error:
        raise SandboxUnavailable(
            f"cannot make a workspace in the temporary folder ({error}): free some space or "
            "set TMPDIR to a folder that can be written"
        ) from error


def _proven_host(inner_root: bool) -> _Host:
    """The host's means, after a trial run of a real program (once per process and setting)."""
    return _prove(_find_bwrap(), os.getuid(), SYSTEM_PYTHON, inner_root)


@functools.lru_cache(maxsize=8)
def _prove(bwrap: str, uid: int, python: str, inner_root: bool) -> _Host:
    host = _host(inner_root)
    sweep()
    workspace = _new_workspace(inner_root)
    try:
        result = _execute(host, workspace, [host.python, *PYTHON_FLAGS, "-c", "print(6 * 7)"],
                          "", Limits(wall_s=START_S, cpu_s=30))  # fmt: skip
        said = result.stdout.strip() or result.stderr.strip() or result.outcome
    except SandboxFailure as error:
        said = str(error)
    finally:
        workspace.close()
    if said == "42":
        return host
    advice = next((advice for sign, advice in _HINTS if sign in said), "")
    if not advice and not os.path.exists(SYSTEM_PYTHON):
        advice = (
            f"it used the Python at {host.python}, which uid {host.owner or uid} must be able to "
            f"read; or install a system Python at {SYSTEM_PYTHON}"
        )
    elif not advice:
        advice = f"try it by hand: {bwrap} --unshare-all --ro-bind / / true"
    raise SandboxUnavailable(f"bubblewrap does not work here: {said.splitlines()[-1]}; {advice}")


def _command(
    host: _Host,
    workspace: Workspace,
    argv: Sequence[str],
    limits: Limits,
    fds: tuple[int, int],
    keeper: bool = False,
) -> list[str]:
    """The command line. Order matters: mounts are made left to right.

    A keeper is process 1.
    """
    masks = [part for path in host.masked for part in ("--ro-bind", str(workspace.empty), path)]
    devices = [part for name in ("null", "zero", "full", "random", "urandom")
               for part in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")]  # fmt: skip
    size = ("--size", str(limits.workspace_mb * MIB))
    if host.mapped:
        # Root inside cannot remove what is mounted on, so these mount points stay folders.
        spaces = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts",
                  "--unshare-cgroup-try", "--cap-drop", "ALL"]  # fmt: skip
        spaces += [part for name in mapped.CAPABILITIES for part in ("--cap-add", name)]
        below = ["--bind", str(workspace.box / "system"), "/", *size, "--tmpfs", "/dev"]
        above = ["--remount-ro", "/dev", "--bind", str(workspace.box / "local"), "/usr/local"]
        home = "/root"
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    else:
        spaces = ["--unshare-user", "--disable-userns", "--unshare-all", "--cap-drop", "ALL"]
        below, above, home = [*size, "--tmpfs", "/tmp"], ["--remount-ro", "/"], "/work"
        path = "/usr/bin:/bin"
    return [
        host.bwrap,
        *spaces,
        # A keeper sees by itself that its host has died; the other is for one thread's death.
        "--as-pid-1" if keeper else "--die-with-parent",
        *("--new-session", "--hostname", "sandbox"),
        *("--seccomp", str(fds[0]), "--json-status-fd", str(fds[1])),
        *below,
        *host.system,
        *masks,
        # Process 1 is bubblewrap's own, started with paths of the host.
        *("--proc", "/proc", "--ro-bind", str(workspace.empty), "/proc/1"),
        *devices,
        *("--symlink", "/proc/self/fd", "/dev/fd", "--symlink", "/tmp", "/dev/shm"),
        *("--bind", str(workspace.work), "/work", "--chdir", "/work"),
        *above,
        *("--setenv", "PATH", path, "--setenv", "HOME", home, "--setenv", "LANG", "C.UTF-8"),
        "--",
        *argv,
    ]


def _bounds(limits: Limits, own: int) -> dict[str, tuple[int, int]]:
    """The kernel's limits by name, soft and hard; ``own`` processes are not the program's."""
    most = {
        "nproc": limits.processes + own,
        "as": limits.memory_mb * MIB,
        "fsize": limits.file_mb * MIB,
        "nofile": OPEN_FILES,
        "core": 0,
    }
    return {name: (n, n) for name, n in most.items()} | {"cpu": (limits.cpu_s, limits.cpu_s + 1)}


def _as_root_inside(limits: Limits, stack: contextlib.ExitStack) -> list[str]:
    """The command prefix that becomes root of a user namespace, made for this one program.

    It limits the program already: two processes of bubblewrap's are counted in the namespace.
    """
    namespace = mapped.user_namespace(limits.processes + 2)
    stack.callback(os.close, namespace)
    given = (f"--{name}={soft}:{hard}" for name, (soft, hard) in _bounds(limits, 2).items())
    return ["/usr/bin/prlimit", *given, "--", *mapped.enter(namespace)]


@functools.lru_cache(maxsize=16)
def _pool(host: _Host, workspace_mb: int, size: int) -> Pool[Worker]:
    return Pool(lambda: _worker(host, workspace_mb), Worker.close, size, ahead=False)


def _worker(host: _Host, workspace_mb: int, workspace: Workspace | None = None) -> Worker:
    """A warm worker; the size of its /tmp is fixed."""
    limits = Limits(workspace_mb=workspace_mb)
    argv = [host.python, *PYTHON_FLAGS, "-c", BOOT]
    return Worker(
        lambda place, denied, told: [
            *host.prefix,
            *_command(host, place, argv, limits, (denied, told), keeper=True),
        ],
        lambda stack: _readable(stack, host.seccomp),
        workspace or functools.partial(_new_workspace, False),
        workspace_mb,
    )


def _execute(
    host: _Host, workspace: Workspace, argv: Sequence[str], stdin: str, limits: Limits
) -> ExecResult:
    if not argv or any("\0" in part for part in argv):
        raise ValueError("argv must name a program and have no NUL characters")
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        (out, out_end), (err, err_end), (status, told) = (_pipe(stack) for _ in range(3))
        ours, theirs = map(stack.enter_context, socket.socketpair())
        command = _command(host, workspace, argv, limits, (3, 4))
        if host.mapped:
            command = _as_root_inside(limits, stack) + command
        starter = launcher(host.prefix, host.python)

        def release(pid: int) -> None:
            """Let the namespace's first process start the program: it reads the filter last.

            It is in the namespace, so that the process limit counts those of this sandbox alone,
            and itself. Without a filter, because we have died, it starts nothing.
            """
            if not host.mapped:
                starter.limit(pid, _bounds(limits, 1))
            with contextlib.suppress(OSError):  # it has failed, and says so
                ours.sendall(host.seccomp)
                ours.shutdown(socket.SHUT_WR)

        given = _readable(stack, stdin.encode(errors="replace"))
        named = _readable(stack, "\0".join(command).encode(errors="surrogateescape"))
        ends = (out_end, err_end, theirs, told)
        bwrap = starter.start(named, (given, *(end.fileno() for end in ends)))
        stack.callback(os.close, bwrap)
        for end in ends:
            end.close()
        run = Run(bwrap, out, err, status, workspace, limits, release)
        try:
            run.watch()
        finally:
            run.end()
        run.drain()
        return run.result(time.monotonic() - began)


def _pipe(stack: contextlib.ExitStack) -> tuple[int, BinaryIO]:
    """A pipe: what to read from, and the end to write to."""
    read, write = os.pipe()
    stack.callback(os.close, read)
    return read, stack.enter_context(os.fdopen(write, "wb"))


def _readable(stack: contextlib.ExitStack, data: bytes) -> int:
    """A descriptor to read ``data`` and then the end from; a sealed file in memory."""
    fd = os.memfd_create("instar", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    stack.callback(os.close, fd)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
