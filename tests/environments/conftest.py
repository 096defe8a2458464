"""Every test here leaves nothing behind: no folder, no process, no descriptor, no container."""

import contextlib
import gc
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from environments.sandbox import make_sandbox
from environments.sandbox.base import (
    DEFAULT_LIMITS,
    ExecResult,
    Limits,
    Sandbox,
    SandboxUnavailable,
)
from environments.sandbox.bubblewrap import BubblewrapSandbox
from environments.sandbox.docker import LABEL, connect
from environments.sandbox.image import ensure_image
from tests.real import absent, data_folder

Python = Callable[..., ExecResult]
NEEDS = {  # test module: the program it cannot do without
    "test_textworld_express": "java",
    "test_scienceworld": "java",
    "test_miniwob": "chromedriver",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a program that is not here; in CI it is run, and fails."""
    for item in items:
        program = NEEDS.get(item.path.stem)
        if program and not shutil.which(program) and not os.environ.get("CI"):
            item.add_marker(pytest.mark.skip(reason=f"needs {program} (.ci/services.sh)"))


Make = Callable[..., Sandbox]


def processes_using(folder: Path) -> list[int]:
    """Pids of the processes that have a mount from inside a folder."""
    found = []
    for mounts in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            if folder.name in mounts.read_text(errors="replace"):
                found.append(int(mounts.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="session", autouse=True)
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``tmp_path`` lies: made before any test has a temporary folder of its own."""
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="session", autouse=True)
def launchers(base_folder: Path) -> None:
    """What starts bubblewrap stays: made before any test counts its descriptors."""
    for root in (False, True):
        with contextlib.suppress(SandboxUnavailable):
            BubblewrapSandbox(root=root).close()


@pytest.fixture
def data_root() -> Path:
    """The folder with the full data sets."""
    return data_folder()


@pytest.fixture(autouse=True)
def nothing_leaks(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A temporary folder of the test's own, found empty and unused at its end."""
    tmp_path_factory.getbasetemp()  # made by the first test that asks: not in this folder
    folder = Path(tempfile.mkdtemp(prefix="instar-tests-"))
    folder.chmod(0o711)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    BubblewrapSandbox().close()  # the trial run, once
    gc.collect()  # what earlier tests have left to be collected is not this one's
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    yield folder
    left = [path.name for path in folder.iterdir()]
    running = processes_using(folder)
    shutil.rmtree(folder, ignore_errors=True)
    assert not left, f"folders left behind: {left}"
    assert not running, f"processes left behind: {running}"
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors, "descriptors left open"


def processes_named(marker: str) -> list[int]:
    """Pids of the other processes whose command line mentions something."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if marker in line and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


@pytest.fixture
def gone() -> Callable[..., bool]:
    """Whether all processes that mention something end within some seconds."""

    def gone(marker: object, seconds: float = 3.0) -> bool:
        deadline = time.monotonic() + seconds
        while processes_named(str(marker)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    return gone


@pytest.fixture
def folder(nothing_leaks: Path) -> Iterator[Path]:
    """A folder for a test's own files."""
    made = nothing_leaks / "own files"
    made.mkdir()
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def engine() -> Iterator[None]:
    """A Docker engine with the sandbox's image; started here if none runs and we are root."""
    started = None
    try:
        connect().close()
    except SandboxUnavailable as missing:
        if os.getuid() or not shutil.which("dockerd"):
            absent(f"these tests need Docker: {missing}")
        with tempfile.TemporaryFile("w+") as log:
            started = subprocess.Popen(["dockerd"], stdout=log, stderr=log, start_new_session=True)
            end = time.monotonic() + 60
            while True:
                try:
                    connect().close()
                    break
                except SandboxUnavailable as error:
                    if started.poll() is not None or time.monotonic() > end:
                        log.seek(0)
                        pytest.fail(f"dockerd does not start: {error}\n{log.read()[-2000:]}")
                    time.sleep(0.2)
    ensure_image(route="host")
    make_sandbox("docker").close()  # the trial run, once
    yield
    client = connect()
    left = client.containers.list(all=True, filters={"label": LABEL})
    mine = [c.name for c in left if f" {os.getpid()} " in c.labels[LABEL]]
    client.close()
    if started is not None:
        started.terminate()
        started.wait(30)
    assert not mine, f"containers left behind: {mine}"


# name in tests: backend, options
BACKENDS: dict[str, tuple[str, dict[str, object]]] = {
    "bubblewrap": ("bubblewrap", {}),
    "worker": ("bubblewrap", {"warm": True}),
    "docker": ("docker", {}),
}


@pytest.fixture(params=sorted(BACKENDS), scope="module")
def make(request: pytest.FixtureRequest) -> Make:
    """Makes sandboxes, of each backend in turn."""
    backend, options = BACKENDS[request.param]
    if backend == "docker":
        request.getfixturevalue("engine")

    def made(limits: Limits = DEFAULT_LIMITS) -> Sandbox:
        return make_sandbox(backend, limits, options=options)

    made.backend = (backend, options)  # type: ignore[attr-defined]
    return made


@pytest.fixture
def sandbox() -> Iterator[BubblewrapSandbox]:
    sandbox = BubblewrapSandbox(Limits(wall_s=10.0, cpu_s=10))
    yield sandbox
    sandbox.close()


@pytest.fixture
def python(sandbox: BubblewrapSandbox) -> Python:
    """Run code with the sandbox's Python; limits by keyword."""

    def run(code: str, *, stdin: str = "", **limits: float) -> ExecResult:
        given = Limits(**{"wall_s": 10.0, "cpu_s": 10, **limits})
        return sandbox.exec([*sandbox.python_argv(), "-c", code], stdin=stdin, limits=given)

    return run


@pytest.fixture
def processes(nothing_leaks: Path) -> Callable[[], list[int]]:
    """Pids of the test's sandboxed processes."""
    return lambda: processes_using(nothing_leaks)
