"""What is particular to Docker: the container, its engine, its image."""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from environments.sandbox import docker as backend
from environments.sandbox import image, make_sandbox
from environments.sandbox.base import Limits, SandboxFailure, SandboxUnavailable
from environments.sandbox.docker import LABEL, DockerSandbox, connect, sweep_containers
from environments.sandbox.image import ensure_image

LIMITS = Limits(wall_s=10.0, cpu_s=10)
pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def box() -> Iterator[DockerSandbox]:
    sandbox = DockerSandbox(LIMITS)
    yield sandbox
    sandbox.close()


def run(sandbox: DockerSandbox, code: str, limits: Limits = LIMITS) -> str:
    argv = [*sandbox.python_argv(), "-c", code]
    return sandbox.exec(argv, limits=limits).stdout


def test_the_container_is_hardened(box: DockerSandbox) -> None:
    client = connect()
    about = client.api.inspect_container(box._box._id)
    client.close()
    host = about["HostConfig"]
    assert about["Config"]["User"] == (f"{os.getuid()}:{os.getgid()}" if os.getuid() else
                                       "65534:65534")  # fmt: skip
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["Privileged"]) == (
        "none",
        True,
        False,
    )
    assert host["CapDrop"] == ["ALL"] and not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]  # and so Docker's own seccomp profile
    assert host["PidsLimit"] == LIMITS.processes + 1
    assert 0 < host["Memory"] == host["MemorySwap"] < 2 << 30
    assert [mount["Destination"] for mount in about["Mounts"]] == ["/work"]
    assert host["AutoRemove"] and host["IpcMode"] == "private"
    assert "Seccomp_filters:\t2" in run(box, "print(open('/proc/self/status').read())")
    # at the limits of the control group, beyond those of each process
    hog = "import os, time\nfor _ in range(8):\n    if not os.fork(): break\nx = b'x' * (200 << 20)"
    result = box.exec([*box.python_argv(), "-c", hog + "\ntime.sleep(60)"],
                      limits=LIMITS.model_copy(update={"memory_mb": 300}))  # fmt: skip
    assert (result.outcome, result.exit_code) == ("memory", None)
    assert run(box, "print(1)") == "1\n"


def test_a_killed_container_is_replaced(box: DockerSandbox) -> None:
    box.write("kept", b"x")
    client = connect()
    client.api.kill(box._box._id)
    client.close()
    with pytest.raises(SandboxFailure, match="keeper"):
        box.exec(["/bin/true"])
    assert run(box, "print(open('kept').read())") == "x\n"


def test_containers_of_dead_processes_are_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    label = f"{backend._machine()} {dead.pid} 1"
    made = client.api.create_container(backend.IMAGE, ["/bin/true"], labels={LABEL: label})["Id"]
    elsewhere = client.api.create_container(
        backend.IMAGE, ["/bin/true"], labels={LABEL: f"other/1 {dead.pid} 1"}
    )["Id"]
    mine = DockerSandbox(LIMITS)
    sweep_containers(client)
    left = {entry["Id"] for entry in client.api.containers(all=True, filters={"label": LABEL})}
    assert made not in left and {elsewhere, mine._box._id} <= left
    client.api.remove_container(elsewhere)
    mine.close()
    client.close()


def test_a_pool_makes_containers_ahead() -> None:
    first = DockerSandbox(LIMITS, pool=1)
    pool = backend._pool(LIMITS, backend.IMAGE, None, 1)
    end = time.monotonic() + 30
    while not pool._ready and time.monotonic() < end:
        time.sleep(0.05)
    (ready,) = pool._ready
    second = DockerSandbox(LIMITS, pool=1)
    assert second._box is ready and run(second, "print(1)") == "1\n"
    first.close()
    second.close()
    pool.close()
    pool.close()
    backend._pool.cache_clear()


def test_warm_python_in_a_container() -> None:
    sandbox = DockerSandbox(LIMITS, warm=True)
    assert run(sandbox, "import sys; sys.modules['x'] = sys; print(1)") == "1\n"
    assert run(sandbox, "import sys; print('x' in sys.modules)") == "False\n"
    sandbox.close()


def test_the_image_is_made_once_and_of_the_host(nothing_leaks: Path) -> None:
    assert ensure_image() == f"{backend.IMAGE} is there"
    name = "instar-sandbox-test:1"
    client = connect()
    try:
        assert ensure_image(name, "host") == f"{name} was imported from the host"
        sandbox = DockerSandbox(LIMITS, image=name)
        code = "import ssl, sqlite3, decimal, json, zlib, lzma, ctypes, multiprocessing; print(1)"
        assert run(sandbox, code) == "1\n"
        seen = run(sandbox, "import os; print(os.listdir('/etc'), os.listdir('/usr/local'))")
        assert "shadow" not in seen and "ssh" not in seen
        sandbox.close()
    finally:
        client.images.remove(name, force=True)
        client.close()


# Stands in for Debian's base image: without what the Dockerfile makes, and with an installer that
# notes what it is asked for, since the test has no network.
BASE = f"""
FROM {backend.IMAGE}
USER 0:0
RUN rm -rf /work && printf '#!/bin/sh\\necho "$@" >> /usr/asked\\n' > /usr/bin/apt-get \\
    && chmod 755 /usr/bin/apt-get
"""


def test_the_dockerfile_makes_an_image_that_works(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, name = "instar-sandbox-base:test", "instar-sandbox-built:test"
    file = folder / "Dockerfile"
    written = image.DOCKERFILE.read_text()
    monkeypatch.setattr(image, "DOCKERFILE", file)
    client = connect()
    try:
        file.write_text(BASE)
        assert ensure_image(base, "registry") == f"{base} was built from Dockerfile"
        lines = [f"FROM {base}" if line.startswith("FROM ") else line
                 for line in written.splitlines()]  # fmt: skip
        file.write_text("\n".join(lines))
        assert ensure_image(name) == f"{name} was built from Dockerfile"
        config = client.api.inspect_image(name)["Config"]
        assert (config["User"], config["WorkingDir"]) == ("65534:65534", "/work")
        sandbox = DockerSandbox(LIMITS, image=name)
        asked = run(sandbox, "print(open('/usr/asked').read())").split()
        sandbox.write("left", b"x")
        code = "import os; print(os.getuid(), os.getcwd(), os.listdir())"
        assert run(sandbox, code) == "65534 /work ['left']\n"
        sandbox.close()
        assert asked == ["update", "install", "-y", "--no-install-recommends", "python3"]
        file.write_text("FROM no-such-registry.invalid/image:1\n")
        with pytest.raises(SandboxUnavailable, match=r"cannot be built .*--from host"):
            ensure_image(f"{name}-2", "registry")
    finally:
        for made in (name, base):
            if client.images.list(made):
                client.images.remove(made, force=True)
        client.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"image": "instar-no-such:1"}, "make it with python -m environments.sandbox.image"),
        ({"runtime": "no-such-runtime"}, "no-such-runtime"),
    ],
)
def test_what_is_missing_is_told(options: dict[str, str], says: str) -> None:
    with pytest.raises(SandboxUnavailable, match=says):
        make_sandbox("docker", options=options)


def test_engine_or_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(SandboxUnavailable, match=r"does not answer.*apt-get install docker.io"):
        connect()
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with pytest.raises(SandboxUnavailable, match="local one"):
        connect()
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(SandboxUnavailable, match="pip install docker"):
        connect()
    with pytest.raises(SandboxUnavailable, match="pip install docker"):
        ensure_image()
    gc.collect()  # the sockets of attempts that failed hang on their exceptions
