"""What holds for every sandbox: results, limits, files, many at a time, nothing left."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import environments
from environments.sandbox import SANDBOXES, make_sandbox
from environments.sandbox.base import ExecResult, Limits, Sandbox, SandboxUnavailable
from environments.sandbox.checks import check_sandbox

Make = Callable[..., Sandbox]
LONG = Limits(wall_s=10.0, cpu_s=10)


@pytest.fixture
def box(make: Make) -> Iterator[Sandbox]:
    sandbox = make(LONG)
    yield sandbox
    sandbox.close()


def python(sandbox: Sandbox, code: str, stdin: str = "", **limits: float) -> ExecResult:
    given = LONG.model_copy(update=limits)
    return sandbox.exec([*sandbox.python_argv(), "-c", code], stdin=stdin, limits=given)


def test_passes_the_shipped_checks(make: Make) -> None:
    assert check_sandbox(make) == []


def test_exits(box: Sandbox) -> None:
    for code, outcome, exit_code in (
        ("pass", "ok", 0),
        ("raise SystemExit(0)", "ok", 0),
        ("raise SystemExit(7)", "error", 7),
        ("raise SystemExit('no')", "error", 1),
        ("import os; os._exit(255)", "error", 255),
        ("1 / 0", "error", 1),
        ("import os; os.kill(os.getpid(), 9)", "error", -signal.SIGKILL),
        ("raise KeyboardInterrupt", "error", -signal.SIGINT),
    ):
        result = python(box, code)
        assert (result.outcome, result.exit_code) == (outcome, exit_code), code
        assert 0 < result.seconds < 10


def test_programs_that_are_not_python(box: Sandbox) -> None:
    assert box.exec(["/bin/sh", "-c", "echo $HOME; cat"], stdin="in").stdout == "/work\nin"
    missing = box.exec(["no-such-program"])
    assert (missing.outcome, missing.exit_code) == ("error", 127)
    assert "no-such-program" in missing.stderr
    assert box.exec(["--version"]).exit_code == 127
    for argv in ([], ["/bin/echo", "a\0b"]):
        with pytest.raises(ValueError, match="argv"):
            box.exec(argv)


def test_input_is_given_whole_and_then_ends(box: Sandbox) -> None:
    text = "grüße\n" * 100_000
    assert python(box, "import sys; print(len(sys.stdin.read()))", text).stdout == "600000\n"
    assert python(box, "print(input()); input()", "one").stdout == "one\n"
    assert python(box, "import time", "\ud800 never read" * 100_000).outcome == "ok"
    result = box.exec([*box.python_argv(), "-"], stdin="import sys\nprint(sys.argv)\n1/0\n")
    assert result.stdout == "['-']\n" and 'File "<stdin>", line 3' in result.stderr


def test_output_is_cut_in_the_middle(box: Sandbox) -> None:
    code = "import sys\nsys.stdout.write('begin' + 'é' * 2000 + 'end')"
    result = python(box, code, output_bytes=1000)
    assert (result.outcome, result.truncated) == ("ok", True)
    assert result.stdout.startswith("begin") and result.stdout.endswith("end")
    assert "[... 3008 bytes cut ...]" in result.stdout
    result = python(box, "print('x' * 999)", output_bytes=1000)
    assert (len(result.stdout), result.truncated) == (1000, False)


def test_limits_may_change_from_program_to_program(box: Sandbox) -> None:
    count = (
        "import os, time\nn = 0\n"
        "try:\n"
        "    while n < 100:\n        if not os.fork(): time.sleep(60)\n        n += 1\n"
        "except BlockingIOError: pass\n"
        "print(n)"
    )
    for processes in (10, 50, 20):
        made = int(python(box, count, processes=processes).stdout)
        assert processes - 3 <= made <= processes
    grab = "x = bytearray(200 << 20); print(len(x) >> 20)"
    assert python(box, grab, memory_mb=100).outcome == "memory"
    assert python(box, grab, memory_mb=400).stdout == "200\n"


def test_a_snapshot_takes_what_was_left_to_another_sandbox(make: Make, box: Sandbox) -> None:
    python(
        box,
        "import os\nos.makedirs('a/b'); open('a/b/c', 'w').write('deep'); open('e', 'w')\n"
        "os.symlink('/etc/passwd', 'link'); os.mkfifo('pipe'); open(b'\\xff', 'w').write('odd')\n"
        "os.truncate(os.open('sparse', 65), 1 << 20)",
    )
    taken = box.snapshot()
    assert list(taken) == sorted(taken) == ["\\xff", "a/b/c", "e", "sparse"]
    assert (
        taken["a/b/c"] == b"deep" and taken["\\xff"] == b"odd" and len(taken["sparse"]) == 1 << 20
    )
    grader = make(LONG)
    for path, data in taken.items():
        grader.write(path, data)
    assert grader.snapshot() == taken
    grader.close()


def test_close_is_final_and_leaves_nothing(make: Make, nothing_leaks: Path) -> None:
    sandbox = make(LONG)
    python(sandbox, "import os\nos.makedirs('a/b'); os.chmod('a', 0); os.mkfifo('p')")
    sandbox.close()
    sandbox.close()
    assert list(nothing_leaks.iterdir()) == []
    with pytest.raises(ValueError, match="closed"):
        sandbox.exec(["/bin/true"])


def test_many_at_a_time(make: Make) -> None:
    def episode(n: int) -> list[str]:
        sandbox = make(Limits(wall_s=30, cpu_s=30))
        try:
            sandbox.write("n", str(n).encode())
            return [python(sandbox, "print(open('n').read(), end='')").stdout for _ in range(2)]
        finally:
            sandbox.close()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(episode, range(16))) == [[str(n)] * 2 for n in range(16)]


def test_a_sandbox_outlives_the_thread_that_made_it(make: Make) -> None:
    with ThreadPoolExecutor(1) as pool:
        sandbox = pool.submit(make, LONG).result()
    assert python(sandbox, "print(1)").stdout == "1\n"
    sandbox.close()


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not (done := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return done


def test_a_killed_harness_leaves_no_process(
    make: Make, nothing_leaks: Path, processes: Callable[[], list[int]]
) -> None:
    backend, options = make.backend  # type: ignore[attr-defined]
    code = (
        f"import tempfile\ntempfile.tempdir = {str(nothing_leaks)!r}\n"
        "from environments.sandbox import make_sandbox\n"
        f"s = make_sandbox({backend!r}, options={options!r})\n"
        "s.exec([*s.python_argv(), '-c', 'open(\"up\", \"w\"); import time; time.sleep(60)'])\n"
    )
    root = Path(environments.__file__).parents[1]
    harness = subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=subprocess.PIPE)
    with harness:
        assert wait_until(lambda: bool(list(nothing_leaks.glob("*/work/up"))), 30)
        assert processes()
        harness.kill()
    assert wait_until(lambda: not processes(), 10)
    from environments.sandbox.workspace import sweep

    sweep(age_s=0)
    assert list(nothing_leaks.iterdir()) == []


def test_no_sandbox_only_by_an_explicit_flag() -> None:
    with pytest.raises(SandboxUnavailable, match="i-know-this-is-unsafe"):
        make_sandbox("none")
    assert "none" in SANDBOXES


def test_no_sandbox(nothing_leaks: Path) -> None:
    sandbox = make_sandbox("none", LONG, unsafe=True)
    assert python(sandbox, "print(input())", "in").stdout == "in\n"
    assert python(sandbox, "raise SystemExit(3)").exit_code == 3
    assert sandbox.exec(["no-such-program"]).exit_code == 127
    assert python(sandbox, "while True: pass", wall_s=0.3).outcome == "timeout"
    assert python(sandbox, "while True: print('x' * 99)", output_bytes=1000).outcome == "output"
    assert python(sandbox, "x = bytearray(1 << 30)", memory_mb=128).outcome == "memory"
    full = "for i in range(9): open(str(i), 'wb').write(bytes(1 << 20))"
    assert "emptied" in python(sandbox, full, workspace_mb=5).stderr
    assert python(sandbox, "import os; print(sorted(os.environ))").stdout.count("'") == 6
    python(sandbox, "import os, time\nif not os.fork(): time.sleep(0.3); open('alive', 'w')")
    time.sleep(0.5)
    sandbox.write("a", b"1")
    assert sandbox.snapshot() == {"a": b"1"} and sandbox.list() == ["a"]
    sandbox.close()
    with pytest.raises(ValueError, match="closed"):
        sandbox.exec(["/bin/true"])
    assert list(nothing_leaks.iterdir()) == []


def test_unknown_sandbox_or_option() -> None:
    with pytest.raises(SandboxUnavailable, match=r"unknown sandbox 'dokcer'.*bubblewrap, docker"):
        make_sandbox("dokcer")
    with pytest.raises(SandboxUnavailable, match=r"no option 'imgae'; its options: image, pool"):
        make_sandbox("docker", options={"imgae": "x"})
