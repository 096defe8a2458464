"""Conformance checks for sandboxes, for whoever writes one.

``check_sandbox`` returns its findings as plain sentences; an empty list means that all is well.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from environments.sandbox.base import ExecResult, Limits, Sandbox

_LIBC = "import ctypes\nlibc = ctypes.CDLL(None)\n"


def check_sandbox(make: Callable[[], Sandbox]) -> list[str]:
    """Problems of a sandbox: what it should do, and what programs must not get away with.

    Args:
        make: makes a fresh sandbox.
    """
    problems: list[str] = []
    sandbox = make()
    try:
        problems += _check_use(sandbox)
        problems += _check_limits(sandbox)
        problems += _check_isolation(sandbox)
        problems += _check_files(sandbox)
        other = make()
        try:
            if other.list():
                problems.append("A fresh sandbox sees files of another one.")
        finally:
            other.close()
    finally:
        sandbox.close()
    try:
        sandbox.close()
    except Exception as error:
        problems.append(f"Closing it twice raised {type(error).__name__}: {error}")
    return problems


def _python(
    sandbox: Sandbox, code: str, stdin: str = "", limits: Limits | None = None
) -> ExecResult:
    return sandbox.exec([*sandbox.python_argv(), "-c", code], stdin=stdin, limits=limits)


def _check_use(sandbox: Sandbox) -> Iterator[str]:
    result = _python(sandbox, "print('\u00e9\\0', end='')")
    if (result.outcome, result.exit_code, result.stdout) != ("ok", 0, "\u00e9\0"):
        yield f"A program that prints ended as {result}."
    result = _python(sandbox, "import sys; sys.stderr.write('no'); sys.exit(3)")
    if (result.outcome, result.exit_code, result.stderr) != ("error", 3, "no"):
        yield f"A program that exits with status 3 ended as {result}."
    result = _python(sandbox, "import os; os.kill(os.getpid(), 9)")
    if (result.outcome, result.exit_code) != ("error", -9):
        yield f"A program killed by signal 9 ended as {result}."
    result = _python(sandbox, "import sys; print(len(sys.stdin.read()))", "x" * 300_000)
    if result.stdout != "300000\n":
        yield f"A program did not get its whole standard input: {result}."
    result = _python(sandbox, "import sys; sys.stdout.buffer.write(bytes(range(256)))")
    if result.outcome != "ok" or "\ufffd" not in result.stdout:
        yield f"Output that is not UTF-8 was not replaced: {result}."
    result = sandbox.exec(["no-such-program"])
    if result.outcome != "error" or result.exit_code == 0:
        yield f"A program that does not exist ended as {result}."


def _check_limits(sandbox: Sandbox) -> Iterator[str]:
    short = Limits(wall_s=0.5, output_bytes=1000, memory_mb=128, processes=16)
    endless = "while True: "
    cases = {
        "runs for ever": (endless + "pass", "timeout"),
        "sleeps": ("import time; time.sleep(60)", "timeout"),
        "closes its output and sleeps": (
            "import os, time; os.close(1); os.close(2); time.sleep(60)",
            "timeout",
        ),
        "floods its output": (endless + "print('x' * 1000)", "output"),
        "takes all memory": ("x = bytearray(1 << 30)", "memory"),
    }
    for what, (code, outcome) in cases.items():
        began = time.monotonic()
        result = _python(sandbox, code, limits=short)
        if result.outcome != outcome or result.exit_code is not None:
            yield f"A program that {what} ended as {result.outcome!r}, not {outcome!r}."
        if time.monotonic() - began > short.wall_s + 2:
            yield f"A program that {what} held its caller for {time.monotonic() - began:.1f} s."
    result = _python(sandbox, "print('x' * 3000)", limits=short)
    if not result.truncated or not 900 < len(result.stdout) < 1200:
        yield f"Output beyond the limit was not cut: {len(result.stdout)} characters."
    result = _python(
        sandbox,
        "import os, time\nn = 0\ntry:\n"
        "    while n < 64:\n        if not os.fork(): time.sleep(60)\n        n += 1\n"
        "finally: print(n, flush=True)",
        limits=short,
    )
    if not result.stdout or int(result.stdout) >= 2 * short.processes:
        yield f"A fork bomb made {result.stdout.strip() or 'many'} processes of {short.processes}."
    marker = "kept-alive"
    began = time.monotonic()
    _python(
        sandbox,
        "import os, time\nif not os.fork():\n    os.setsid()\n    time.sleep(1)\n"
        f"    open('{marker}', 'w').close()\n    os._exit(0)",
    )
    if time.monotonic() - began > 0.9:
        yield "A detached child held its caller up."
    time.sleep(max(0.0, began + 1.5 - time.monotonic()))
    if marker in sandbox.list():
        yield "A detached child outlived its program."


def _check_isolation(sandbox: Sandbox) -> Iterator[str]:
    with socket.socket() as server, tempfile.NamedTemporaryFile("w") as secret:
        server.bind(("127.0.0.1", 0))
        server.listen()
        Path(secret.name).chmod(0o644)
        connect = "import socket; socket.create_connection({}, 1)"
        reaches = {
            "reach the host's network": connect.format(server.getsockname()),
            "reach another network": connect.format(("1.1.1.1", 53)),
            "read /etc/shadow": "open('/etc/shadow').read()",
            "read a file of the host": f"open({secret.name!r}).read()",
            "read the harness's source": f"open({__file__!r}).read()",
            "read the host's /root": "import os; os.listdir('/root')",
        }
        found = [f"A program could {what}." for what, code in reaches.items()
                 if _python(sandbox, code).outcome == "ok"]  # fmt: skip
    yield from found
    if found:
        yield "So nothing that would change the host was tried."
        return
    changes = {
        "write into /usr": "open('/usr/x', 'w')",
        "write into /": "open('/x', 'w')",
        "attach to another process": f"{_LIBC}if libc.ptrace(16, 1, 0, 0): raise OSError",
        "make a user namespace": f"{_LIBC}if libc.unshare(0x10000000): raise OSError",
        "mount a file system": (
            f"{_LIBC}if libc.mount(b'x', b'/tmp', b'tmpfs', 0, 0): raise OSError"
        ),
    }
    for what, code in changes.items():
        if _python(sandbox, code).outcome == "ok":
            yield f"A program could {what}."
    code = (
        "import glob\n"
        "for name in glob.glob('/proc/[0-9]*/environ'):\n"
        "    print(open(name, 'rb').read())"
    )
    allowed = {"PATH", "HOME", "LANG", "PWD", "TMPDIR", "LC_CTYPE", "SHLVL", "_", "HOSTNAME"}
    seen = _python(sandbox, code).stdout
    names = {part.split("=")[0] for line in seen.splitlines()
             for part in line.removeprefix("b'").removesuffix("'").split("\\x00")}  # fmt: skip
    if names - allowed - {""}:
        yield f"A program sees environment variables: {', '.join(sorted(names - allowed))}."


def _check_files(sandbox: Sandbox) -> Iterator[str]:
    sandbox.write("a/b.bin", b"\x00\xff")
    _python(sandbox, "open('c.txt', 'w').write('c'); open('a/b.bin', 'ab').write(b'!')")
    if _python(sandbox, "print(open('c.txt').read())").stdout != "c\n":
        yield "A file did not last from one program to the next."
    if sandbox.read("a/b.bin") != b"\x00\xff!" or not {"a/b.bin", "c.txt"} <= set(sandbox.list()):
        yield "Files written by the host and by programs are not the same for both."
    if dict(sandbox.snapshot()) != {"a/b.bin": b"\x00\xff!", "c.txt": b"c"}:
        yield f"The snapshot is not what was written: {sandbox.snapshot()!r}."
    with tempfile.TemporaryDirectory() as outside:
        Path(outside, "x").write_text("secret")
        _python(
            sandbox,
            f"import os\nos.symlink({outside + '/x'!r}, 'link')\n"
            f"os.symlink({outside!r}, 'folder')\n"
            "os.mkfifo('pipe')",
        )
        paths = ("link", "folder/x", "pipe", "../x", "a/../../x", "", ".", "a", outside + "/x")
        for path in paths:
            for what, access in (
                ("read", lambda path=path: sandbox.read(path)),
                ("write", lambda path=path: sandbox.write(path, b"x")),
            ):
                try:
                    access()
                except (ValueError, FileNotFoundError):
                    continue
                yield f"The host could {what} {path!r} through the sandbox."
    if {"link", "folder/x", "pipe"} & set(sandbox.list()):
        yield "Links or pipes are listed as files."
    if {"link", "folder/x", "pipe"} & set(sandbox.snapshot()):
        yield "Links or pipes are in the snapshot."
