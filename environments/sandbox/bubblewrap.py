"""The embedded sandbox: bubblewrap's namespaces, seccomp and resource limits; no daemon.

What a program meets inside: its own user, mount, process, network and IPC namespaces; a
read-only ``/usr``; a bounded ``/tmp``; its workspace at ``/work``; no network, no ``/etc``,
no environment of the host. ``README.md`` in this folder lists what is *not* covered.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from environments.sandbox.base import (
    DEFAULT_LIMITS,
    ExecResult,
    Limits,
    Outcome,
    SandboxFailure,
    SandboxUnavailable,
)
from environments.sandbox.seccomp import seccomp_filter
from environments.sandbox.workspace import Workspace, WorkspaceError, sweep

NOBODY = 65534
SYSTEM_PYTHON = "/usr/bin/python3"
PYTHON_FLAGS = ("-I", "-S", "-B", "-X", "utf8")
_MIB = 1 << 20
_OPEN_FILES = 64
_START_S = 30.0  # for bubblewrap itself to set up, on a machine that is very busy
_WATCH_S = 0.1  # how often a running program's workspace and memory are measured
_FLOOD = 8  # a stream of more than this many times the kept bytes ends the program
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

    Raises:
        SandboxUnavailable: bubblewrap is missing or a trial run failed; says what to do.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._host = _proven_host()
        self._limits = limits
        self._workspace = _new_workspace()
        self._closed = False

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
        return _execute(self._host, self._workspace, argv, stdin, limits or self._limits)

    def read(self, path: str) -> bytes:
        """A regular file of the workspace; links are refused (ValueError)."""
        return self._workspace.read(path)

    def write(self, path: str, data: bytes) -> None:
        """Write a file of the workspace; paths that leave it are refused (ValueError)."""
        if len(data) > self._limits.workspace_mb * _MIB:
            raise ValueError(
                f"{path}: {len(data)} bytes are more than the workspace's "
                f"{self._limits.workspace_mb} MiB"
            )
        self._workspace.write(path, data)

    def list(self) -> list[str]:
        """Relative paths of the workspace's regular files, sorted."""
        return self._workspace.list()

    def close(self) -> None:
        """Remove the workspace; safe to call twice."""
        self._closed = True
        self._workspace.close()


@dataclass(frozen=True)
class _Host:
    """What this machine offers: the program, its user, the mounts, the Python inside."""

    bwrap: str
    owner: int | None
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


def _host() -> _Host:
    bwrap, machine, root = _find_bwrap(), os.uname().machine, os.getuid() == 0
    try:
        seccomp = seccomp_filter(machine)
    except KeyError:
        raise SandboxUnavailable(
            f"the bubblewrap sandbox has no system-call filter for {machine} processors "
            "(x86_64 and aarch64 only)"
        ) from None
    for helper in ("/usr/bin/prlimit", *(["/usr/bin/setpriv"] if root else [])):
        if not os.access(helper, os.X_OK):
            raise SandboxUnavailable(f"the program {helper} is missing: install util-linux")
    system = ["--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"):
        if os.path.islink(name):
            system += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            system += ["--ro-bind", name, name]
    # What the host has installed beside the bare system is nobody's business, and may hold
    # the answers: the packages that grade the tasks, say.
    masked = ["/usr/local", "/usr/src", "/usr/lib/python3/dist-packages"]
    python = SYSTEM_PYTHON
    if not os.path.exists(python):
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
        owner=NOBODY if root else None,
        python=python,
        system=tuple(system),
        masked=tuple(path for path in masked if os.path.isdir(path)),
        prefix=tuple(prefix) if root else (),
        seccomp=seccomp,
    )


def _new_workspace() -> Workspace:
    try:
        return Workspace(NOBODY if os.getuid() == 0 else None)
    except OSError as error:
        raise SandboxUnavailable(
            f"cannot make a workspace in the temporary folder ({error}): free some space or "
            "set TMPDIR to a folder that can be written"
        ) from error


def _proven_host() -> _Host:
    """The host's means, after a trial run of a real program (once per process and setting)."""
    return _prove(_find_bwrap(), os.getuid(), SYSTEM_PYTHON)


@functools.lru_cache(maxsize=8)
def _prove(bwrap: str, uid: int, python: str) -> _Host:
    host = _host()
    sweep()
    workspace = _new_workspace()
    try:
        result = _execute(host, workspace, [host.python, *PYTHON_FLAGS, "-c", "print(6 * 7)"],
                          "", Limits(wall_s=_START_S, cpu_s=30))  # fmt: skip
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
    host: _Host, workspace: Workspace, argv: Sequence[str], limits: Limits, fds: tuple[int, int]
) -> list[str]:
    """The whole command line. Order matters: mounts are made left to right."""
    masks = [part for path in host.masked for part in ("--ro-bind", str(workspace.empty), path)]
    devices = [part for name in ("null", "zero", "full", "random", "urandom")
               for part in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")]  # fmt: skip
    return [
        *host.prefix,
        host.bwrap,
        *("--unshare-user", "--disable-userns", "--unshare-all"),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "sandbox"),
        *("--seccomp", str(fds[0]), "--json-status-fd", str(fds[1])),
        *host.system,
        *masks,
        # Process 1 is bubblewrap's own: outside the limits, started with paths of the host.
        *("--proc", "/proc", "--ro-bind", str(workspace.empty), "/proc/1"),
        *devices,
        *("--symlink", "/proc/self/fd", "/dev/fd", "--symlink", "/tmp", "/dev/shm"),
        *("--size", str(limits.workspace_mb * _MIB), "--tmpfs", "/tmp"),
        *("--bind", str(workspace.work), "/work", "--chdir", "/work"),
        *("--remount-ro", "/"),
        *("--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/work"),
        *("--setenv", "LANG", "C.UTF-8"),
        "--",
        # Inside, because the process limit then counts this sandbox's processes alone: those
        # in its user namespace, of which one is bubblewrap's own.
        "/usr/bin/prlimit",
        f"--nproc={limits.processes + 1}",
        f"--as={limits.memory_mb * _MIB}",
        f"--cpu={limits.cpu_s}:{limits.cpu_s + 1}",
        f"--fsize={limits.file_mb * _MIB}",
        f"--nofile={_OPEN_FILES}",
        "--core=0",
        "--",
        *argv,
    ]


def _execute(
    host: _Host, workspace: Workspace, argv: Sequence[str], stdin: str, limits: Limits
) -> ExecResult:
    if not argv or any("\0" in part for part in argv):
        raise ValueError("argv must name a program and have no NUL characters")
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        seccomp = _readable(stack, host.seccomp)
        status, told = os.pipe()
        stack.callback(os.close, status)
        with os.fdopen(told, "wb"):
            try:
                process = subprocess.Popen(
                    _command(host, workspace, argv, limits, (seccomp, told)),
                    stdin=_readable(stack, stdin.encode(errors="replace")),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env={},  # bubblewrap's own environment could be read inside
                    cwd="/",
                    pass_fds=(seccomp, told),
                )
            except OSError as error:
                raise SandboxFailure(f"cannot start {host.bwrap}: {error}") from error
        stack.enter_context(process)
        run = _Run(process, status, workspace, limits)
        try:
            run.watch()
        finally:
            run.end()
        run.drain()
        return run.result(time.monotonic() - began)


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


@dataclass
class _Run:
    """One running program: its streams, its processes, and what ended it."""

    process: subprocess.Popen[bytes]
    status: int
    workspace: Workspace
    limits: Limits
    cause: str = ""
    init: int = -1  # pidfd of the process namespace's first process: it dies, all die
    init_pid: int = 0
    kept: dict[int, bytearray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.process.stdout is not None and self.process.stderr is not None
        self.out, self.err = self.process.stdout.fileno(), self.process.stderr.fileno()
        self.kept = {self.out: bytearray(), self.err: bytearray(), self.status: bytearray()}
        for fd in self.kept:
            os.set_blocking(fd, False)

    def watch(self) -> None:
        """Collect output until the program ends or a limit does (then ``cause`` says which)."""
        ended = os.pidfd_open(self.process.pid)
        try:
            poller = select.poll()
            for fd in (*self.kept, ended):
                poller.register(fd, select.POLLIN)
            now = time.monotonic()
            deadline, check = now + _START_S, now + _WATCH_S
            while not self.cause:
                for fd, _ in poller.poll(max(0.0, min(deadline, check) - now) * 1000):
                    if fd == ended:
                        return
                    if not self._take(fd):
                        poller.unregister(fd)
                now = time.monotonic()
                if self.init < 0 and self._find_init():
                    deadline = now + self.limits.wall_s  # set up: the program's time begins
                if now >= deadline:
                    self.cause = "timeout" if self.init >= 0 else "start"
                elif now >= check and not self.cause:
                    self._measure()
                    check = now + _WATCH_S
        finally:
            os.close(ended)

    def end(self) -> None:
        """Kill what is left and wait until it is gone."""
        try:
            self._find_init()
            if self.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    if self.init >= 0:
                        signal.pidfd_send_signal(self.init, signal.SIGKILL)
                self.process.kill()
            self.process.wait()
            if self.init >= 0:
                gone = select.poll()
                gone.register(self.init, select.POLLIN)
                if not gone.poll(_START_S * 1000):
                    raise SandboxFailure("processes of the sandbox outlived it")
        finally:
            if self.init >= 0:
                os.close(self.init)

    def drain(self) -> None:
        """Take what the pipes still hold; nobody is left to write."""
        for fd in self.kept:
            while self._take(fd):
                pass

    def result(self, seconds: float) -> ExecResult:
        code = self._exit_code()
        note = self._account()
        out, err = bytes(self.kept[self.out]), bytes(self.kept[self.err])
        if self.cause == "start":
            raise SandboxFailure(f"bubblewrap did not start within {_START_S:.0f} s")
        if not self.cause and code is None:
            said = err.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise SandboxFailure(f"bubblewrap could not start the program: {said[-1]}")
        outcome: Outcome = "ok" if code == 0 else "error"
        if self.cause in ("timeout", "output", "memory"):
            outcome = self.cause  # type: ignore[assignment]
        elif code == -signal.SIGXCPU:
            outcome = "timeout"
        elif code and _last_line(err).startswith(b"MemoryError"):
            outcome = "memory"
        if note:
            outcome, code = "error", None
        limit = self.limits.output_bytes
        return ExecResult(
            outcome=outcome,
            exit_code=code if outcome in ("ok", "error") else None,
            stdout=_cut(out, limit),
            stderr=_cut(err, limit) + note,
            truncated=max(len(out), len(err)) > limit,
            seconds=seconds,
        )

    def _take(self, fd: int) -> bool:
        """Read some of a stream; False at its end (or when a drained pipe is empty)."""
        kept = self.kept[fd]
        try:
            data = os.read(fd, 65_536)
        except BlockingIOError:
            return False
        room = _FLOOD * self.limits.output_bytes - len(kept)
        if fd != self.status and len(data) > room:
            self.cause = self.cause or "output"
            data = data[:room]
        kept += data
        return bool(data)

    def _said(self) -> Iterator[dict[str, int]]:
        """What bubblewrap reported: one JSON object a line."""
        for line in bytes(self.kept[self.status]).splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield json.loads(line)

    def _find_init(self) -> bool:
        while self.init < 0 and self._take(self.status):
            pass
        self.init_pid = next((said["child-pid"] for said in self._said() if "child-pid" in said), 0)
        if self.init < 0 and self.init_pid:
            with contextlib.suppress(ProcessLookupError):
                self.init = os.pidfd_open(self.init_pid)
        return self.init >= 0

    def _exit_code(self) -> int | None:
        """The program's status; shells and bubblewrap report a signal as 128 plus its number."""
        code = next((said["exit-code"] for said in self._said() if "exit-code" in said), None)
        if code is not None and 128 < code <= 128 + signal.SIGRTMAX:
            return 128 - code
        return code

    def _measure(self) -> None:
        """End a program whose workspace or whole memory has outgrown the limits."""
        try:
            if self.workspace.usage() > self.limits.workspace_mb * _MIB:
                self.cause = "workspace"
        except WorkspaceError:
            self.cause = "workspace"
        if self.init_pid and _tree_memory(self.init_pid) > 2 * self.limits.memory_mb * _MIB:
            self.cause = "memory"

    def _account(self) -> str:
        """Empty a workspace that has outgrown its limit, and say so."""
        try:
            used = self.workspace.usage()
            if used <= self.limits.workspace_mb * _MIB and self.cause != "workspace":
                return ""
            reason = f"more than {self.limits.workspace_mb} MiB"
        except WorkspaceError as error:
            reason = str(error)
        self.workspace.clear()
        return f"\nsandbox: the workspace was emptied ({reason})\n"


def _tree_memory(root: int) -> int:
    """Bytes that a process and its descendants occupy, shared pages counted once."""
    total, pids = 0, [root]
    while pids:
        folder = Path(f"/proc/{pids.pop()}")
        try:
            for task in os.listdir(folder / "task"):
                pids += map(int, (folder / "task" / task / "children").read_text().split())
            if found := re.search(r"(?m)^Pss:\s+(\d+)", (folder / "smaps_rollup").read_text()):
                total += int(found[1]) * 1024
        except OSError:  # it has just ended
            continue
    return total


def _last_line(stream: bytes) -> bytes:
    return (stream.rstrip().splitlines() or [b""])[-1]


def _cut(stream: bytes, limit: int) -> str:
    """A stream as text: its beginning and its end where it is longer than ``limit`` bytes."""
    if len(stream) <= limit:
        return stream.decode(errors="replace")
    head, tail = stream[: limit - limit // 2], stream[len(stream) - limit // 2 :]
    return (
        f"{head.decode(errors='replace')}\n[... {len(stream) - limit} bytes cut ...]\n"
        f"{tail.decode(errors='replace')}"
    )
