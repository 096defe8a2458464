"""The Docker sandbox: a hardened container per episode, programs run by a keeper in it.

The container has no network, a read-only root, no capabilities and no new privileges; memory
and processes are limited by its control group; Docker's system-call filter and this package's
own both apply. Its only mount from the host is the workspace. ``docker exec`` is not used: it
takes longer than a program, and leaves behind what a program left. Process 1 is the keeper
(``keeper.py``); when the harness dies its standard input ends, it exits, and the engine removes
the container.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from environments.sandbox.base import (
    DEFAULT_LIMITS,
    ExecResult,
    Limits,
    SandboxFailure,
    SandboxUnavailable,
)
from environments.sandbox.cell import BOOT, PYTHON_FLAGS, Cell, is_python
from environments.sandbox.pool import Pool
from environments.sandbox.results import MIB, START_S
from environments.sandbox.seccomp import seccomp_filter
from environments.sandbox.workspace import Workspace, sweep

IMAGE = "instar-sandbox:1"
PYTHON = "/usr/bin/python3"
LABEL = "instar.sandbox"
NOBODY = 65534
_INSTALL = (
    "install Docker and start it (Debian, Ubuntu: apt-get install docker.io, then service docker "
    "start or dockerd &), and let this user reach it (group docker)"
)
_KEEPER_MB = 64  # for the keeper itself, and pages of files that it holds for programs


class FixedLimits(SandboxFailure):
    """The runtime (gVisor's, say) cannot change the limits of a running container."""


class DockerSandbox:
    """A workspace, and programs run in a container of its own.

    Args:
        limits: what each execution may use, unless it is given its own.
        image: the image; it needs Python 3.9 or newer at ``/usr/bin/python3``.
        runtime: the engine's runtime, such as ``runsc`` (gVisor); None: its default.
        pool: how many containers are made ahead, in the background, for the next sandboxes
            with the same arguments.
        warm: the Python of ``python_argv`` is forked from a running one instead of started.

    Raises:
        SandboxUnavailable: no package, no engine, no image, or no container; says what to do.
    """

    def __init__(
        self,
        limits: Limits = DEFAULT_LIMITS,
        *,
        image: str = IMAGE,
        runtime: str | None = None,
        pool: int = 0,
        warm: bool = False,
    ) -> None:
        self._limits, self._warm = limits, warm
        self._kind = (limits, image, runtime)
        _prove(image, runtime)
        self._box = _pool(limits, image, runtime, pool).take() if pool else Container(*self._kind)
        self._workspace = self._box.workspace
        self._closed = False

    def python_argv(self) -> list[str]:
        """The Python inside, isolated and without site packages; add ``-`` or ``-c CODE``."""
        return [PYTHON, *PYTHON_FLAGS]

    def exec(
        self, argv: Sequence[str], *, stdin: str = "", limits: Limits | None = None
    ) -> ExecResult:
        """Run a program in the workspace; its whole process tree is gone on return.

        Args:
            argv: program (found on ``/usr/bin:/bin``) and arguments.
            stdin: its whole standard input, as UTF-8.
            limits: in place of the sandbox's own.

        Raises:
            SandboxFailure: the container or the engine broke.
            ValueError: the sandbox is closed, or argv is empty or has NUL characters.
        """
        if self._closed:
            raise ValueError("the sandbox is closed")
        given = limits or self._limits
        warm = self._warm and is_python(argv, self.python_argv())
        if self._box.cell.broken:
            self._replace(self._limits)
        try:
            return self._box.cell.run(argv, stdin, given, self._workspace, warm)
        except FixedLimits:
            self._replace(given)
            return self._box.cell.run(argv, stdin, given, self._workspace, warm)

    def _replace(self, limits: Limits) -> None:
        self._box.release()
        self._box = Container(limits, *self._kind[1:], self._workspace)

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
        """Remove the container and the workspace; safe to call twice."""
        self._closed = True
        self._box.close()


def package() -> Any:
    """The package ``docker``, which is not needed by other backends."""
    try:
        return import_module("docker")
    except ImportError:
        raise SandboxUnavailable(
            "the Docker sandbox needs the package docker: pip install docker"
        ) from None


def connect() -> Any:
    """A client of the local engine.

    Raises:
        SandboxUnavailable: no package, no engine, or one on another machine.
    """
    docker = package()
    host = os.environ.get("DOCKER_HOST", "")
    if host and not host.startswith("unix://"):
        raise SandboxUnavailable(
            f"DOCKER_HOST={host}: the Docker sandbox shares its workspace with the engine, so it "
            "needs a local one (unix://...)"
        )
    try:
        return docker.from_env(timeout=60)
    except (docker.errors.DockerException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise SandboxUnavailable(
            f"the Docker engine does not answer ({reason}): {_INSTALL}"
        ) from None


class Container:
    """One container with its keeper, its workspace, and the way in."""

    def __init__(
        self, limits: Limits, image: str, runtime: str | None, workspace: Workspace | None = None
    ) -> None:
        self._client, self._limits = connect(), limits
        self._id, self._buffer = "", b""
        self._socket: Any = None
        root = os.getuid() == 0
        try:
            self.workspace = workspace or Workspace(NOBODY if root else None)
        except OSError as error:
            raise SandboxUnavailable(
                f"cannot make a workspace in the temporary folder ({error}): free some space or "
                "set TMPDIR to a folder that can be written"
            ) from error
        try:
            self._start(
                image, runtime, f"{NOBODY}:{NOBODY}" if root else f"{os.getuid()}:{os.getgid()}"
            )
            denied = seccomp_filter(os.uname().machine)
            self.cell = Cell(self, denied, None, limits.workspace_mb)
        except BaseException:
            self.close()
            raise

    def _start(self, image: str, runtime: str | None, user: str) -> None:
        errors = package().errors
        api = self._client.api
        limits = self._limits
        tmp = f"rw,nosuid,nodev,mode=1777,size={limits.workspace_mb}m"
        try:
            self._id = api.create_container(
                image,
                [PYTHON, *PYTHON_FLAGS, "-c", BOOT],
                user=user,
                hostname="sandbox",
                working_dir="/work",
                stdin_open=True,
                environment={"PATH": "/usr/bin:/bin", "HOME": "/work", "LANG": "C.UTF-8",
                             "PWD": "/work"},
                labels=owner_labels(),
                entrypoint=[],
                host_config=api.create_host_config(
                    auto_remove=True,
                    binds={str(self.workspace.work): {"bind": "/work", "mode": "rw"}},
                    cap_drop=["ALL"],
                    ipc_mode="private",
                    log_config={"Type": "none", "Config": {}},
                    network_mode="none",
                    read_only=True,
                    runtime=runtime,
                    security_opt=["no-new-privileges:true"],
                    shm_size=limits.workspace_mb * MIB,
                    tmpfs={"/tmp": tmp},
                    **_group(limits, "mem_limit", "memswap_limit", "pids_limit"),
                ),
            )["Id"]  # fmt: skip
            self._socket = api.attach_socket(
                self._id, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            )
            self.inside = self.outside = self._socket.fileno()
            api.start(self._id)
        except errors.ImageNotFound:
            raise SandboxUnavailable(
                f"there is no Docker image {image}: make it with "
                "python -m environments.sandbox.image"
            ) from None
        except (errors.DockerException, OSError) as error:
            raise SandboxFailure(f"Docker cannot start a container: {_first(error)}") from error

    def decode(self, data: bytes) -> bytes:
        """Standard output, of the stream of frames that Docker makes of both outputs."""
        self._buffer += data
        found = []
        while len(self._buffer) >= 8:
            end = 8 + int.from_bytes(self._buffer[4:8], "big")
            if len(self._buffer) < end:
                break
            if self._buffer[0] == 1:
                found.append(self._buffer[8:end])
            self._buffer = self._buffer[end:]
        return b"".join(found)

    def root_pid(self) -> int:
        """No process: the container's control group limits memory."""
        return 0

    def fit(self, limits: Limits) -> None:
        """Give the container's control group the limits of the next program."""
        if _group(limits, "m", "s", "p") == _group(self._limits, "m", "s", "p"):
            return
        api = self._client.api
        url = f"{api.base_url}/v{api.api_version}/containers/{self._id}/update"
        answer = api.post(url, json=_group(limits, "Memory", "MemorySwap", "PidsLimit"), timeout=60)
        if not answer.ok:
            raise FixedLimits(f"Docker cannot change a container's limits: {answer.text[:200]}")
        self._limits = limits

    def destroy(self) -> str:
        """Remove the container, and every process in it; safe to call twice."""
        errors = package().errors
        if self._socket is not None:
            if (answer := getattr(self._socket, "_response", None)) is not None:
                answer.close()  # it holds the connection, and refers back to the socket
            self._socket.close()
            self._socket = None
        name, self._id = self._id, ""
        end = time.monotonic() + START_S
        while name:
            try:
                self._client.api.remove_container(name, force=True, v=True)
            except errors.NotFound:
                break
            except (errors.DockerException, OSError) as error:  # it is being removed already
                if time.monotonic() > end:
                    raise SandboxFailure(
                        f"Docker cannot remove a container: {_first(error)}"
                    ) from error
                time.sleep(0.02)
        return ""

    def release(self) -> None:
        """Remove the container, but not its workspace."""
        self.destroy()
        self._client.close()

    def close(self) -> None:
        """Remove the container and its workspace; safe to call twice."""
        try:
            self.release()
        finally:
            self.workspace.close()


def owner_labels() -> dict[str, str]:
    """What a container says about the process that it belongs to."""
    return {LABEL: f"{_machine()} {os.getpid()} {_started(os.getpid())}"}


def sweep_containers(client: Any) -> None:
    """Remove containers whose process on this machine has died."""
    errors = package().errors
    for entry in client.api.containers(all=True, filters={"label": LABEL}):
        machine, pid, started = entry["Labels"][LABEL].split()
        if machine == _machine() and _started(int(pid)) != started:
            with contextlib.suppress(errors.DockerException):
                client.api.remove_container(entry["Id"], force=True, v=True)


def _machine() -> str:
    """This boot of this machine, and this process namespace in it."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return f"{file.read().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot; "" if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _group(limits: Limits, memory: str, swap: str, processes: str) -> dict[str, int]:
    """The control group's limits, under the given names. /tmp and /dev/shm count as memory."""
    most = (2 * limits.memory_mb + 2 * limits.workspace_mb + _KEEPER_MB) * MIB
    return {memory: most, swap: most, processes: limits.processes + 1}


@functools.lru_cache(maxsize=16)
def _pool(limits: Limits, image: str, runtime: str | None, size: int) -> Pool[Container]:
    return Pool(lambda: Container(limits, image, runtime), Container.close, size)


@functools.lru_cache(maxsize=8)
def _prove(image: str, runtime: str | None) -> None:
    """A trial run, once per process: the engine must see the workspace that we see."""
    client = connect()
    try:
        sweep()
        sweep_containers(client)
    finally:
        client.close()
    try:
        container = Container(Limits(wall_s=START_S, cpu_s=30), image, runtime)
    except SandboxFailure as error:
        raise SandboxUnavailable(f"the Docker sandbox does not work here: {error}") from error
    try:
        container.workspace.write("seen", b"x")
        argv = [PYTHON, *PYTHON_FLAGS, "-c", "print(open('seen').read() * 2)"]
        result = container.cell.run(argv, "", Limits(wall_s=START_S), container.workspace, False)
        said = (result.stdout or result.stderr).strip() or result.outcome
    except SandboxFailure as error:
        said = str(error)
    finally:
        container.close()
    if said != "xx":
        said = said.splitlines()[-1]
        raise SandboxUnavailable(
            f"the Docker sandbox does not work here: {said} (the engine must see this machine's "
            "temporary folder, and the image must have /usr/bin/python3)"
        )


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
