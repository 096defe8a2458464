"""Conformance checks for suites and sandboxes, for whoever writes one.

Each check returns its findings as plain sentences; an empty list means that all is well. What
environments must stand is in ``environments.conformance``.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from environments.base import Briefing, Suite, Task
from environments.conformance import examine
from environments.plain import PlainSuite
from environments.sandbox.base import ExecResult, Limits, Sandbox
from environments.splits import split_tasks
from environments.tools import undocumented


class Report(BaseModel):
    """What was found out about a suite.

    Args:
        problems: what is wrong, in sentences.
        checked: what was looked at, and how much of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    problems: tuple[str, ...]
    checked: dict[str, str]


def check_suite(suite: Suite, limit: int = 20) -> list[str]:
    """Problems of a suite and of its environments, as sentences; none if all is well.

    Args:
        suite: the suite.
        limit: tasks to make environments for, spread over the suite.
    """
    return list(examine_suite(suite, limit).problems)


def examine_suite(suite: Suite, limit: int = 20) -> Report:
    """Play a suite's tasks in several ways, and say what is wrong and what was looked at.

    Args:
        suite: the suite.
        limit: tasks to make environments for, spread over the suite.
    """
    problems = list(_check_about(suite))
    tasks = list(suite.tasks())
    if not tasks:
        problems.append("The suite has no tasks.")
    if not tasks or not isinstance(getattr(suite, "briefing", None), Briefing):
        return Report(problems=tuple(problems), checked={})
    problems += _check_tasks(suite, tasks)
    counts: Counter[str] = Counter()
    found: dict[str, list[Task]] = {}
    chosen = tasks[:: max(1, len(tasks) // limit)][:limit]
    for task in chosen:
        findings = examine(suite, task)
        counts += findings.counts
        for sentence in findings.problems:
            found.setdefault(sentence, []).append(task)
        if any("took longer than" in sentence for sentence in findings.problems):
            break  # every other task may take as long
    for sentence, own in found.items():
        others = f" and {len(own) - 1} more" if len(own) > 1 else ""
        problems.append(f"Task {own[0].id} ({own[0].family}){others}: {sentence}")
    return Report(problems=tuple(problems), checked=_checked(suite, tasks, len(chosen), counts))


def _check_about(suite: Suite) -> Iterator[str]:
    for attribute in ("name", "description"):
        if not isinstance(value := getattr(suite, attribute, None), str) or not value:
            yield f"The suite's {attribute} is not a non-empty string."
    if not isinstance(getattr(suite, "briefing", None), Briefing):
        yield "The suite's briefing is not a Briefing (environments.base)."
    if isinstance(suite, PlainSuite):
        if not suite.briefing.text:
            yield f"{suite.name} has no docstring; it is what the agent is told about its task."
        for name in undocumented(suite.cls):
            yield (
                f"{suite.name}.{name} has no docstring, so it is no tool; give it one, or a name "
                f"that begins with an underscore (_{name})."
            )


def _check_tasks(suite: Suite, tasks: list[Task]) -> Iterator[str]:
    if [task.id for task in tasks] != [task.id for task in suite.tasks()]:
        yield "tasks() returned other tasks, or another order, at the second call."
    if len({task.id for task in tasks}) < len(tasks):
        yield "Some tasks have the same content, and so the same id."
    for task in tasks:
        if Task.model_validate_json(task.model_dump_json()) != task:
            yield f"Task {task.id} changes when it is stored as JSON and read again."
        if not task.family:
            yield f"Task {task.id} has no family."
        if task.suite != suite.name:
            yield f"Task {task.id} names the suite {task.suite!r}, not {suite.name!r}."
    example = suite.briefing.example if isinstance(suite, PlainSuite) else None
    if example and example[0] in {task.prompt for task in tasks}:
        yield f"The example {example[0]!r:.60} is one of the tasks, so its answer is given away."


def _checked(suite: Suite, tasks: list[Task], played: int, counts: Counter[str]) -> dict[str, str]:
    families = len({task.family for task in tasks})
    empty = [name for name, own in split_tasks(tasks).items() if not own]
    missing = f"; none in {', '.join(empty)}: evolving needs about 20 a family" if empty else ""
    limits = _many(suite.briefing.turns, "turn")
    if isinstance(suite, PlainSuite):
        limits += f" and {suite.seconds:g} s a call, held by the environment"
    gold = counts["gold"]
    return {
        "tasks": f"{_many(len(tasks), 'task')} in {_many(families, 'family', 'families')}, "
        f"{played} of them played{missing}",
        "tools": f"{_many(counts['tools'] // max(1, played), 'tool')}: descriptions and types",
        "determinism": f"{_many(counts['steps'], 'step')} repeated, alone and in company",
        "gold": f"{_many(gold, 'solution')} replayed"
        if gold
        else "there is none, so none was replayed",
        "garbage": f"{_many(counts['garbage'], 'wrong or senseless action')}",
        "rewards": "0 to 1 at every step, none for garbage",
        "JSON": "tasks, state and metrics can be stored",
        "clean-up": "no process, thread, temporary file or descriptor left after close()",
        "limits": limits,
    }


def _many(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


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
        attempts = {
            "reach the host's network": connect.format(server.getsockname()),
            "reach another network": connect.format(("1.1.1.1", 53)),
            "read the host's /etc/passwd": "open('/etc/passwd').read()",
            "read a file of the host": f"open({secret.name!r}).read()",
            "read the harness's source": f"open({__file__!r}).read()",
            "read the host's /root": "import os; os.listdir('/root')",
            "write into /usr": "open('/usr/x', 'w')",
            "write into /": "open('/x', 'w')",
            "attach to another process": (
                "import ctypes, os\nif ctypes.CDLL(None).ptrace(16, 1, 0, 0): raise OSError"
            ),
            "make a user namespace": (
                "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000): raise OSError"
            ),
            "mount a file system": (
                "import ctypes\nif ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, 0): "
                "raise OSError"
            ),
        }
        for what, code in attempts.items():
            if _python(sandbox, code).outcome == "ok":
                yield f"A program could {what}."
    code = (
        "import glob\n"
        "for name in glob.glob('/proc/[0-9]*/environ'):\n"
        "    print(open(name, 'rb').read())"
    )
    allowed = {"PATH", "HOME", "LANG", "PWD", "TMPDIR", "LC_CTYPE", "SHLVL", "_", "HOSTNAME"}
    found = _python(sandbox, code).stdout
    names = {part.split("=")[0] for line in found.splitlines()
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
    _python(
        sandbox,
        "import os\nos.symlink('/etc/passwd', 'link'); os.symlink('/etc', 'folder')\n"
        "os.mkfifo('pipe')",
    )
    with tempfile.NamedTemporaryFile() as outside:
        paths = ("link", "folder/passwd", "pipe", "../x", "/etc/passwd", "a/../../x", "", ".",
                 "a", outside.name)  # fmt: skip
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
    if {"link", "folder/passwd", "pipe"} & set(sandbox.list()):
        yield "Links or pipes are listed as files."
