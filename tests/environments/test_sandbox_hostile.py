"""Every hostile program of ``tests/data/hostile``, in every sandbox, on a host that watches."""

import contextlib
import getpass
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import environments
from environments.sandbox import workspace
from environments.sandbox.base import Limits, Sandbox

FOLDER = Path(__file__).parents[1] / "data" / "hostile"
USUAL = {"wall_s": 5.0, "cpu_s": 5, "output_bytes": 4000}


@dataclass(frozen=True)
class Program:
    """One hostile program, and what must come of it."""

    name: str
    code: str
    said: dict[str, str] = field(default_factory=dict)

    @property
    def limits(self) -> Limits:
        pairs = (part.split("=") for part in self.said.get("limits", "").split())
        return Limits(**USUAL | {name: float(value) for name, value in pairs})


def load(path: Path) -> Program:
    head, _, code = path.read_text().partition("\n\n")
    said = dict(line.removeprefix("# ").partition(":")[::2] for line in head.splitlines())
    return Program(path.stem, code, {key: value.strip() for key, value in said.items()})


PROGRAMS = [load(path) for path in sorted(FOLDER.glob("*.txt"))]
KEYS = {"what", "expect", "exit", "stdout", "stderr", "files", "refused", "limits", "wait", "then",
        "then-stdout"}  # fmt: skip


def test_the_corpus_is_complete() -> None:
    assert len(PROGRAMS) >= 45
    for program in PROGRAMS:
        assert set(program.said) <= KEYS and {"what", "expect"} <= set(program.said), program.name


@dataclass
class Host:
    """What a program could harm, and whether it did."""

    secret: Path
    server: socket.socket
    abstract: socket.socket
    bystander: subprocess.Popen[bytes]

    def fill(self, code: str) -> str:
        for name, value in {
            "SECRET": self.secret,
            "SOURCE": Path(environments.__file__).resolve(),
            "PORT": self.server.getsockname()[1],
            "PID": self.bystander.pid,
            "USER": getpass.getuser() + ":x:0:0:root:/root:/bin/bash\nno such line",
            "ABSTRACT": "instar-hostile",
        }.items():
            code = code.replace(f"@{name}@", str(value).encode("unicode_escape").decode())
        return code

    def unharmed(self) -> None:
        assert self.secret.read_text() == "sesame"
        assert self.bystander.poll() is None
        state = Path(f"/proc/{self.bystander.pid}/stat").read_text().rpartition(")")[2].split()[0]
        assert state == "S", f"the bystander is in state {state}"
        for listener in (self.server, self.abstract):
            with pytest.raises(BlockingIOError):
                listener.accept()
        for path in ("/escaped", "/usr/escaped", "/etc/escaped", "/tmp/escaped"):
            assert not os.path.exists(path)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    folder = Path(tempfile.mkdtemp(prefix="instar-secret-"))
    folder.chmod(0o755)
    secret = folder / "x"
    secret.write_text("sesame")
    secret.chmod(0o644)
    user = 65534 if os.getuid() == 0 else None
    os.environ["INSTAR_CANARY"] = "c4n4ry"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as abstract,
        subprocess.Popen(["/bin/sleep", "600"], user=user) as bystander,
    ):
        abstract.bind("\0instar-hostile")
        abstract.listen()
        server.setblocking(False)
        abstract.setblocking(False)
        yield Host(secret, server, abstract, bystander)
        bystander.kill()
    del os.environ["INSTAR_CANARY"]
    secret.unlink()
    folder.rmdir()


@pytest.fixture(autouse=True)
def nothing_leaks() -> None:
    """Not after each program: the sandbox goes on. ``shared`` looks at the end."""


@pytest.fixture(scope="module")
def shared(make: Callable[[Limits], Sandbox]) -> Iterator[Sandbox]:
    """One sandbox of each backend, which all programs meet one after the other."""
    sandbox = make(Limits(**USUAL))
    folder = sandbox._workspace.root  # type: ignore[attr-defined]
    yield sandbox
    sandbox.close()
    assert not folder.exists()
    assert not processes_using(folder)


def processes_using(folder: Path) -> list[str]:
    """Processes that have a mount from inside a folder."""
    found = []
    for mounts in Path("/proc").glob("[0-9]*/mountinfo"):
        with contextlib.suppress(OSError):
            if folder.name in mounts.read_text(errors="replace"):
                found.append(mounts.parent.name)
    return found


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_contained(
    program: Program, shared: Sandbox, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "MAX_ENTRIES", 2000)  # the true one takes its time
    shared._workspace.clear()  # type: ignore[attr-defined]
    os.chmod(shared._workspace.work, 0o700)  # type: ignore[attr-defined]
    expect = program.said
    result = shared.exec(
        [*shared.python_argv(), "-"], stdin=host.fill(program.code), limits=program.limits
    )
    told = result.stdout + result.stderr
    assert "ESCAPED" not in told, told
    assert "sesame" not in told and "c4n4ry" not in told
    assert result.outcome in expect["expect"].split("|"), result
    assert max(len(result.stdout), len(result.stderr)) < program.limits.output_bytes + 200
    if "exit" in expect:
        assert result.exit_code == int(expect["exit"])
    for stream in ("stdout", "stderr"):
        if stream in expect:
            text = getattr(result, stream).removesuffix("\n")
            assert re.search(expect[stream], text, re.DOTALL), text
    time.sleep(float(expect.get("wait", 0)))
    if "files" in expect:
        assert [name.encode() for name in shared.list()] == _names(expect["files"])
    for path in expect.get("refused", "").split():
        for access in (shared.read, _writer(shared)):
            with pytest.raises((ValueError, FileNotFoundError)):
                access(path)
    if "then" in expect:
        again = shared.exec([*shared.python_argv(), "-"], stdin=expect["then"])
        assert again.outcome == "ok" and "ESCAPED" not in again.stdout + again.stderr, again
        assert re.search(expect["then-stdout"], again.stdout.removesuffix("\n")), again
    shared._workspace.clear()  # type: ignore[attr-defined]
    os.chmod(shared._workspace.work, 0o700)  # type: ignore[attr-defined]
    clean = shared.exec([*shared.python_argv(), "-"], stdin=LOOK_AROUND)
    assert (clean.outcome, clean.stdout) == ("ok", "42 [] []\n"), clean
    host.unharmed()


# The next program finds no other process but its parent and process 1, and nothing in /tmp.
LOOK_AROUND = """\
import os
pids = [int(n) for n in os.listdir("/proc") if n.isdigit()]
others = sorted(set(pids) - {1, os.getpid(), os.getppid()})
print(6 * 7, others, os.listdir("/tmp") + os.listdir("/work"))
"""


def _names(files: str) -> list[bytes]:
    return [word.encode() for word in re.split(r" ", _decoded(files)) if word]


def _decoded(files: str) -> str:
    """``\\n`` and ``\\u202e`` as the characters; ``\\xff`` stays, which is how it is listed."""
    return files.replace("\\n", "\n").replace("\\u202e", "\u202e")


def _writer(sandbox: Sandbox) -> Callable[[str], object]:
    return lambda path: sandbox.write(path, b"x")
