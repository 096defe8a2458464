"""What is particular to bubblewrap; what holds for all is in ``test_sandbox_backends``."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import environments
from environments.sandbox import bubblewrap, launch, make_sandbox
from environments.sandbox.base import (
    ExecResult,
    Limits,
    SandboxFailure,
    SandboxUnavailable,
)
from environments.sandbox.bubblewrap import BubblewrapSandbox
from environments.sandbox.launch import Launcher
from environments.sandbox.workspace import sweep

Python = Callable[..., ExecResult]


def errno_of(python: Python, call: str) -> str:
    """Name of the errno that a call through the C library fails with, or what it returned."""
    result = python(
        "import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"r = libc.{call}\nprint(errno.errorcode[ctypes.get_errno()] if r == -1 else r)"
    )
    assert result.outcome == "ok", result
    return result.stdout.strip()


# What a program is told and what its caller is told


def test_the_interpreter_is_isolated(python: Python, sandbox: BubblewrapSandbox) -> None:
    sandbox.write("json.py", b"raise SystemExit('planted module')")
    sandbox.write("sitecustomize.py", b"raise SystemExit('planted module')")
    result = python("import json, sys; print(sys.flags.isolated, sys.flags.no_site, sys.path)")
    assert result.outcome == "ok" and result.stdout.startswith("1 1 ")
    assert "-packages" not in result.stdout and "/work" not in result.stdout


@pytest.mark.parametrize("argv", [[], ["/bin/echo", "a\0b"]])
def test_argv_that_cannot_be_run(sandbox: BubblewrapSandbox, argv: list[str]) -> None:
    with pytest.raises(ValueError, match="argv"):
        sandbox.exec(argv)


def test_argv_is_no_option_of_the_sandbox(sandbox: BubblewrapSandbox) -> None:
    result = sandbox.exec(["--version"])
    assert (result.outcome, result.exit_code) == ("error", 127)


# Limits


def test_what_was_printed_before_the_time_was_up_is_kept(python: Python) -> None:
    result = python("print('so far', flush=True)\nwhile True: pass", wall_s=0.5)
    assert (result.outcome, result.stdout) == ("timeout", "so far\n")


def test_long_output_keeps_both_ends(python: Python) -> None:
    code = "import sys\nsys.stdout.write('begin' + 'é' * 2000 + 'end')"
    result = python(code, output_bytes=1000)
    assert (result.outcome, result.truncated) == ("ok", True)
    assert result.stdout.startswith("begin") and result.stdout.endswith("end")
    assert "[... 3008 bytes cut ...]" in result.stdout


def test_output_of_just_the_limit_is_whole(python: Python) -> None:
    result = python("print('x' * 999)", output_bytes=1000)
    assert (len(result.stdout), result.truncated) == (1000, False)


FORK_BOMB = (
    "import os, time\nn = 0\n"
    "try:\n"
    "    while n < 200:\n"
    "        if not os.fork(): time.sleep(60)\n"
    "        n += 1\n"
    "except BlockingIOError: print(n)"
)


def test_process_limits_of_sandboxes_at_a_time_are_their_own() -> None:
    gate = threading.Barrier(8)

    def bomb(_: int) -> int:
        sandbox = BubblewrapSandbox()
        try:
            argv = [*sandbox.python_argv(), "-c", FORK_BOMB + "; time.sleep(0.3)"]
            gate.wait()
            result = sandbox.exec(argv, limits=Limits(processes=20, wall_s=20, cpu_s=20))
            return int(result.stdout)
        finally:
            sandbox.close()

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(bomb, range(8)))
    assert min(made) >= 15 and max(made) <= 20


def test_file_size(python: Python, sandbox: BubblewrapSandbox) -> None:
    result = python("open('big', 'wb').write(bytes(3 << 20))", file_mb=1)
    assert result.outcome == "error" and "File too large" in result.stderr
    result = python("import os; os.truncate(os.open('sparse', 65), 1 << 40)", file_mb=1)
    assert result.outcome == "error"
    assert len(sandbox.read("big")) <= 1 << 20


def test_workspace_size(python: Python, sandbox: BubblewrapSandbox) -> None:
    sandbox.write("mine", b"x")
    code = "for i in range(10): open(str(i), 'wb').write(bytes(1 << 20))"
    assert python(code, workspace_mb=20).outcome == "ok" and len(sandbox.list()) == 11
    result = python(code, workspace_mb=5)
    assert (result.outcome, result.exit_code) == ("error", None)
    assert "the workspace was emptied (more than 5 MiB)" in result.stderr
    assert sandbox.list() == []
    with pytest.raises(ValueError, match="64 MiB"):
        sandbox.write("huge", bytes((64 << 20) + 1))


def test_tmp_is_bounded_and_the_rest_read_only(python: Python) -> None:
    code = (
        "import itertools\n"
        "for i in itertools.count(): open(f'/dev/shm/{i}', 'wb').write(bytes(1 << 20))"
    )
    result = python(code, workspace_mb=10)
    assert "No space left on device" in result.stderr
    for path in ("/x", "/dev/x", "/usr/x", "/usr/local/x", "/lib/x", "/proc/sys/kernel/hostname"):
        assert python(f"open({path!r}, 'w').write('x')").outcome == "error", path
    assert (
        python("open('/dev/null', 'w').write('x'); open('/dev/urandom', 'rb').read(9)").stdout == ""
    )


# Nothing survives


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not (done := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return done


def test_harness_killed_while_a_program_runs(
    nothing_leaks: Path, processes: Callable[[], list[int]]
) -> None:
    code = (
        "import tempfile, threading\n"
        f"tempfile.tempdir = {str(nothing_leaks)!r}\n"
        "from environments.sandbox import make_sandbox\n"
        "s = make_sandbox()\n"
        "s.exec([*s.python_argv(), '-c', 'open(\"up\", \"w\"); import time; time.sleep(60)'])\n"
    )
    root = Path(environments.__file__).parents[1]
    harness = subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=subprocess.PIPE)
    with harness:
        assert wait_until(lambda: bool(list(nothing_leaks.glob("*/work/up"))), 20)
        sweep(age_s=0)
        assert list(nothing_leaks.glob("*/work/up")), "a workspace in use was swept"
        assert processes()
        harness.kill()
    assert wait_until(lambda: not processes(), 5)
    sweep(age_s=0)
    assert list(nothing_leaks.iterdir()) == []


def test_harness_killed_while_bubblewrap_sets_up(
    nothing_leaks: Path, processes: Callable[[], list[int]], gone: Callable[..., bool]
) -> None:
    """Before its limits are set nothing may run, least of all with nobody there to end it."""
    code = (
        "import os, tempfile\n"
        f"tempfile.tempdir = {str(nothing_leaks)!r}\n"
        "from environments.sandbox import make_sandbox\n"
        "from environments.sandbox.launch import Launcher\n"
        "s = make_sandbox()\n"
        "Launcher.limit = lambda *_: os.kill(os.getpid(), 9)\n"
        "s.exec(['/bin/sh', '-c', 'echo > up; sleep 7777'])\n"
    )
    root = Path(environments.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert gone("sleep 7777") and not processes()
    (left,) = nothing_leaks.iterdir()
    assert not list(left.glob("work/*"))
    sweep(age_s=0)


# What starts bubblewrap


def own(sandbox: BubblewrapSandbox) -> Launcher:
    return launch.launcher(sandbox._host.prefix, sandbox._host.python)


def test_a_lost_launcher_is_replaced(sandbox: BubblewrapSandbox) -> None:
    """With it go the programs that it started; the sandbox can be used again."""
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(sandbox.exec, ["/bin/sh", "-c", "echo > up; sleep 60"])
        assert wait_until(lambda: "up" in sandbox.list(), 20)
        before = own(sandbox)
        before._process.kill()
        with pytest.raises(SandboxFailure):
            running.result()
    assert sandbox.exec(["/bin/echo", "again"]).stdout == "again\n"
    assert own(sandbox) is not before


def test_what_the_launcher_cannot_do_is_told(sandbox: BubblewrapSandbox) -> None:
    own(sandbox).limit(2**22 + 1, {"core": (0, 0)})  # no process has that id any more
    with pytest.raises(SandboxFailure, match=r"launcher: .*too long"):
        sandbox.exec(["/bin/echo", "x" * 3_000_000])
    if os.getuid() == 0:  # it has the programs' user, and may limit nobody else's process
        with pytest.raises(SandboxFailure, match="not permitted"):
            own(sandbox).limit(os.getpid(), {"core": (0, 0)})
    assert sandbox.exec(["/bin/echo", "up"]).stdout == "up\n"


def test_a_fork_has_a_launcher_of_its_own(sandbox: BubblewrapSandbox) -> None:
    before = own(sandbox)
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            worked = sandbox.exec(["/bin/true"]).outcome == "ok"
            code = int(not worked or own(sandbox) is before)
        launch._end()
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert own(sandbox) is before and sandbox.exec(["/bin/true"]).outcome == "ok"


# The host is out of reach


def test_host_files(python: Python, nothing_leaks: Path) -> None:
    secret = nothing_leaks / "secret"
    secret.write_text("secret")
    secret.chmod(0o644)
    source = Path(environments.__file__).resolve()
    for path in (secret, source, "/etc/passwd", "/etc/shadow", "/root", "/home", "/var", "/run"):
        result = python(f"import os; os.stat({str(path)!r})")
        assert "FileNotFoundError" in result.stderr, path
    listing = python("import os; print(*sorted(os.listdir('/'))); print(os.listdir('/usr/local'))")
    top, local = listing.stdout.splitlines()
    assert set(top.split()) <= {"bin", "dev", "lib", "lib32", "lib64", "libx32", "proc", "sbin",
                                "tmp", "usr", "work"}  # fmt: skip
    assert local == "[]"
    secret.unlink()


def test_environment(python: Python, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "s3cr3t")
    result = python(
        "import glob, os\nfor f in glob.glob('/proc/[0-9]*/*'):\n"
        "    if f.endswith(('environ', 'cmdline')): print(open(f).read())\n"
        "print(sorted(os.environ))"
    )
    assert result.outcome == "ok" and "s3cr3t" not in result.stdout
    assert "instar" not in result.stdout and "bwrap" not in result.stdout
    assert result.stdout.splitlines()[-1] == "['HOME', 'LANG', 'PATH', 'PWD']"


def test_system_calls(python: Python) -> None:
    assert errno_of(python, "ptrace(16, 1, 0, 0)") == "EPERM"
    assert errno_of(python, "unshare(0x10000000)") == "EPERM"
    assert errno_of(python, "unshare(0x00020000)") == "EPERM"
    assert errno_of(python, "mount(b'x', b'/tmp', b'tmpfs', 0, 0)") == "EPERM"
    assert python("import os; print(os.listdir('/proc/1'))").stdout == "[]\n"


# The host's side of the workspace


def test_files_are_shared_with_programs(python: Python, sandbox: BubblewrapSandbox) -> None:
    sandbox.write("in/put", b"\x00\xff")
    python("open('out', 'wb').write(open('in/put', 'rb').read() + b'!'); open('in/put', 'a')")
    assert sandbox.read("out") == b"\x00\xff!"
    assert sandbox.list() == ["in/put", "out"]
    sandbox.write("out", b"")
    assert python("print(open('out').read())").stdout == "\n"
    with pytest.raises(FileNotFoundError):
        sandbox.read("nothing")


@pytest.mark.parametrize(
    "path", ["link", "folder/passwd", "loop", "pipe", "dir", "", ".", "..", "../x", "/etc/passwd",
             "dir/../../x", "file/x", "a\0b", "socket"],
)  # fmt: skip
def test_paths_that_are_refused(python: Python, sandbox: BubblewrapSandbox, path: str) -> None:
    made = python(
        "import os, socket\nos.symlink('/etc/passwd', 'link'); os.symlink('/etc', 'folder')\n"
        "os.symlink('loop', 'loop'); os.mkfifo('pipe'); os.mkdir('dir'); open('file', 'w')\n"
        "socket.socket(1).bind('socket')"
    )
    assert made.outcome == "ok"
    with pytest.raises(ValueError, match="path"):
        sandbox.read(path)
    with pytest.raises(ValueError, match="path"):
        sandbox.write(path, b"x")
    assert sandbox.list() == ["file"]


def test_a_folder_swapped_for_a_link_while_the_host_reads(
    sandbox: BubblewrapSandbox, nothing_leaks: Path
) -> None:
    """A program trades a folder for a link to another one, over and over; none is followed."""
    outside = nothing_leaks / "outside"
    outside.mkdir()
    (outside / "x").write_text("secret")
    code = (
        "import os\nos.mkdir('real'); open('real/x', 'w').write('own')\n"
        f"os.symlink({str(outside)!r}, 'link')\n"
        "while True:\n"
        "    os.rename('real', 'spot'); os.rename('spot', 'real')\n"
        "    os.rename('link', 'spot'); os.rename('spot', 'link')\n"
    )
    argv = [*sandbox.python_argv(), "-c", code]
    program = threading.Thread(target=lambda: sandbox.exec(argv, limits=Limits(wall_s=0.7)))
    program.start()
    refused = 0
    read = set()
    while program.is_alive():
        try:
            read.add(sandbox.read("spot/x"))
        except FileNotFoundError:
            continue
        except ValueError:
            refused += 1
    (outside / "x").unlink()
    outside.rmdir()
    assert refused and read == {b"own"}


def test_close_removes_what_is_hard_to_remove(nothing_leaks: Path) -> None:
    sandbox = BubblewrapSandbox(Limits(wall_s=10))
    code = (
        "import os\nopen(b'\\xff', 'w').close(); os.mkfifo('p'); os.symlink('/', 's')\n"
        "os.makedirs('.instar-removed-0/x'); os.makedirs('d/.instar-removed-0/y')\n"
        "open('d/f', 'w').close(); os.chmod('d/f', 0); os.chmod('d/.instar-removed-0', 0)"
    )
    assert sandbox.exec([*sandbox.python_argv(), "-c", code]).outcome in ("ok", "error")
    sandbox.close()
    sandbox.close()
    assert list(nothing_leaks.iterdir()) == []
    with pytest.raises(ValueError, match="closed"):
        sandbox.exec(["/bin/true"])


# Many at a time, and machines where it does not work


def test_dozens_at_a_time() -> None:
    def episode(n: int) -> list[str]:
        sandbox = BubblewrapSandbox(Limits(wall_s=30, cpu_s=30))
        try:
            sandbox.write("n", str(n).encode())
            argv = [*sandbox.python_argv(), "-c", "print(open('n').read(), end='')"]
            return [sandbox.exec(argv).stdout for _ in range(2)]
        finally:
            sandbox.close()

    with ThreadPoolExecutor(48) as pool:
        assert list(pool.map(episode, range(96))) == [[str(n)] * 2 for n in range(96)]


def test_unknown_sandbox() -> None:
    with pytest.raises(SandboxUnavailable, match=r"unknown sandbox 'dokcer'.*bubblewrap"):
        make_sandbox("dokcer")


def test_missing_program(monkeypatch: pytest.MonkeyPatch, nothing_leaks: Path) -> None:
    monkeypatch.chdir(nothing_leaks)
    monkeypatch.setenv("PATH", str(nothing_leaks))
    with pytest.raises(SandboxUnavailable, match=r"bwrap is missing.*apt-get install bubblewrap"):
        BubblewrapSandbox()
    monkeypatch.setenv("INSTAR_BWRAP", str(nothing_leaks / "nothing"))
    with pytest.raises(SandboxUnavailable, match=r"INSTAR_BWRAP=.*is not a program"):
        BubblewrapSandbox()


def test_program_that_does_not_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTAR_BWRAP", "/bin/true")
    with pytest.raises(SandboxUnavailable, match="does not work here"):
        BubblewrapSandbox()


def test_program_in_the_project_folder(
    monkeypatch: pytest.MonkeyPatch, nothing_leaks: Path
) -> None:
    found = bubblewrap._find_bwrap()
    local = nothing_leaks / ".cache/sandbox/usr/bin/bwrap"
    local.parent.mkdir(parents=True)
    for folder in local.parents[:4]:
        folder.chmod(0o755)
    local.write_bytes(Path(found).read_bytes())
    local.chmod(0o755)
    monkeypatch.chdir(nothing_leaks)
    monkeypatch.setenv("PATH", str(nothing_leaks))
    monkeypatch.delenv("INSTAR_BWRAP", raising=False)
    assert bubblewrap._find_bwrap() == str(local)
    sandbox = BubblewrapSandbox()
    assert sandbox.exec(["/bin/echo", "up"]).stdout == "up\n"
    sandbox.close()
    for path in sorted((nothing_leaks / ".cache").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (nothing_leaks / ".cache").rmdir()


def test_no_python_to_run(monkeypatch: pytest.MonkeyPatch, nothing_leaks: Path) -> None:
    monkeypatch.setattr(bubblewrap, "SYSTEM_PYTHON", str(nothing_leaks / "none"))
    monkeypatch.setattr(sys, "base_prefix", str(nothing_leaks))
    with pytest.raises(SandboxUnavailable, match="must be able to read"):
        BubblewrapSandbox()


def test_failure_of_the_sandbox_is_not_the_programs() -> None:
    sandbox = BubblewrapSandbox()
    (sandbox._workspace.work).rmdir()
    with pytest.raises(SandboxFailure, match="bubblewrap could not start the program"):
        sandbox.exec(["/bin/true"])
    sandbox.close()


def test_temporary_folder_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    with pytest.raises(SandboxUnavailable, match="temporary folder"):
        BubblewrapSandbox()
