"""The warm worker: nothing passes from one program or episode to the next, nothing looks new."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from environments.sandbox import bubblewrap, make_sandbox
from environments.sandbox.base import ExecResult, Limits, SandboxUnavailable
from environments.sandbox.bubblewrap import BubblewrapSandbox

LIMITS = Limits(wall_s=10.0, cpu_s=10)


@pytest.fixture(autouse=True)
def no_pool_is_left() -> Iterator[None]:
    yield
    for size in (1, 2):
        host = bubblewrap._proven_host(False)
        bubblewrap._pool(host, LIMITS.workspace_mb, size).close()
    bubblewrap._pool.cache_clear()


def worker(pool: int = 1) -> BubblewrapSandbox:
    return BubblewrapSandbox(LIMITS, warm=True, pool=pool)


def run(sandbox: BubblewrapSandbox, code: str) -> ExecResult:
    return sandbox.exec([*sandbox.python_argv(), "-"], stdin=code)


# What each program would leave, and how the next one would see it. Every channel that a process
# has is here; what would outlive the process is named again below, under episodes.
CHANNELS = {
    "variables of __main__": ("x = 1", "print('x' in globals())", "False"),
    "modules": (
        "import json, sys; sys.modules['planted'] = json; json.planted = 1",
        "import sys; print('planted' in sys.modules, 'json' in sys.modules);"
        "import json; print(hasattr(json, 'planted'))",
        "False False\nFalse",
    ),
    "builtins": (
        "import builtins; builtins.len = None; builtins.planted = 1",
        "import builtins; print(len('ab'), hasattr(builtins, 'planted'))",
        "2 False",
    ),
    "import hooks and path": (
        "import sys; sys.path.append('/work'); sys.meta_path.clear(); sys.path_hooks.clear()",
        "import sys, json; print('/work' in sys.path, len(sys.meta_path), len(sys.path_hooks))",
        "False 3 2",
    ),
    "interpreter settings": (
        "import sys, gc; sys.setrecursionlimit(99); gc.disable(); sys.setswitchinterval(1);"
        "sys.excepthook = None; sys.tracebacklimit = 0; sys.set_int_max_str_digits(0)",
        "import sys, gc; print(sys.getrecursionlimit(), gc.isenabled(), sys.getswitchinterval(),"
        "sys.excepthook is sys.__excepthook__, hasattr(sys, 'tracebacklimit'),"
        "sys.get_int_max_str_digits())",
        "1000 True 0.005 True False 4300",
    ),
    "environment": (
        "import os; os.environ['PLANTED'] = '1'; os.environ.pop('HOME'); os.putenv('P', '1')",
        "import os; print(sorted(os.environ)); print(os.popen('env | sort | cut -d= -f1').read())",
        "['HOME', 'LANG', 'PATH', 'PWD']\nHOME\nLANG\nPATH\nPWD",
    ),
    "current folder, root and umask": (
        "import os; os.chdir('/'); os.umask(0o777)",
        "import os; print(os.getcwd(), oct(os.umask(0)))",
        "/work 0o22",
    ),
    "standard streams": (
        "import os, sys; os.dup2(2, 1); os.set_blocking(0, False); sys.stdout = None",
        "import os, sys; print(os.get_blocking(0), os.get_blocking(1), sys.stdout is None)",
        "True True False",
    ),
    "descriptors": (
        "import os; [os.dup2(1, fd) for fd in range(3, 60)]",
        "import os; print(os.listdir('/proc/self/fd'))",
        "['0', '1', '2', '3']",
    ),
    "limits": (
        "import resource as r\n"
        "for n in (r.RLIMIT_NOFILE, r.RLIMIT_STACK, r.RLIMIT_AS, r.RLIMIT_CPU):\n"
        "    soft, hard = r.getrlimit(n); r.setrlimit(n, (soft // 2, soft // 2))",
        "import resource as r; print(r.getrlimit(r.RLIMIT_NOFILE), r.getrlimit(r.RLIMIT_CPU),"
        "r.getrlimit(r.RLIMIT_AS)[0] >> 20, r.getrlimit(r.RLIMIT_STACK)[0] >> 20)",
        "(64, 64) (10, 11) 512 8",
    ),
    "priority, affinity, scheduler": (
        "import os; os.nice(9); os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))",
        "import os; print(os.nice(0), os.sched_getaffinity(0) == {*range(os.cpu_count())},"
        "os.sched_getscheduler(0))",
        None,  # as in a cold sandbox
    ),
    "signal handlers and masks": (
        "import signal\nfor s in (1, 2, 13, 15): signal.signal(s, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {10, 12}); signal.alarm(1)",
        "import signal; print([str(signal.getsignal(s)) for s in (1, 13, 15)],"
        "signal.getsignal(2) is signal.default_int_handler,"
        "signal.pthread_sigmask(0, []), signal.alarm(0))",
        None,
    ),
    "processes": (
        "import os, time\nfor _ in range(3):\n    if not os.fork(): os.setsid(); time.sleep(60)",
        "import os; print(sorted(int(n) for n in os.listdir('/proc') if n.isdigit())[:-1])",
        "[1]",
    ),
    "threads": (
        "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True)"
        ".start()",
        "import os; print(os.listdir('/proc/self/task') == [str(os.getpid())])",
        "True",
    ),
    "exit handlers": (
        "import atexit, weakref\nclass X: pass\nx = X()\natexit.register(print, 'late')\n"
        "weakref.finalize(x, print, 'later')",
        "print('clean')",
        "clean",
    ),
    "temporary files": (
        "import os\nos.makedirs('/tmp/a/b'); open('/tmp/a/b/c', 'w'); os.chmod('/tmp/a', 0)\n"
        "os.symlink('/', '/dev/shm/x'); os.mkfifo('/tmp/p'); open('/tmp/.hidden', 'w')",
        "import os; print(os.listdir('/tmp'), os.listdir('/dev/shm'))",
        "[] []",
    ),
    "the folders themselves": (
        "import os; os.chmod('/tmp', 0o700); os.setxattr('/tmp', 'user.planted', b'1')",
        "import os; print(oct(os.stat('/tmp').st_mode), os.listxattr('/tmp'))",
        None,
    ),
    "IPC": (
        "import ctypes, os\nlibc = ctypes.CDLL(None)\n"
        "print(libc.shmget(1, 9, 0o1600), libc.semget(1, 1, 0o1600), libc.msgget(1, 0o1600))\n"
        "if os.fork() == 0:\n"
        "    import socket; s = socket.socket(1); s.bind('\\0planted'); s.listen(); input()",
        "import socket; print(open('/proc/sysvipc/shm').read().count('\\n'))\n"
        "try: socket.socket(1).connect('\\0planted')\nexcept OSError as e: print(e.strerror)",
        "1\nConnection refused",
    ),
    "the input": (
        "import os, fcntl; os.lseek(0, 0, 0); fcntl.flock(0, 2)",
        "import sys; print(repr(sys.stdin.read()))",
        "''",
    ),
}


@pytest.mark.parametrize("channel", CHANNELS)
def test_no_channel_between_programs_or_episodes(channel: str) -> None:
    plant, look, seen = CHANNELS[channel]
    cold = BubblewrapSandbox(LIMITS)
    fresh = run(cold, look)
    cold.close()
    if seen is not None:
        assert fresh.stdout.strip() == seen
    first = worker()
    run(first, plant)
    assert run(first, look) == fresh.model_copy(update={"seconds": pytest.approx(0, abs=99)})
    first.close()
    second = worker()
    assert run(second, look).stdout == fresh.stdout
    second.close()


def test_a_clean_worker_is_used_again() -> None:
    first = worker()
    first.write("left", b"x")
    run(first, "open('more', 'w'); open('/tmp/x', 'w')")
    inner = first._worker
    first.close()
    second = worker()
    assert second._worker is inner and second.list() == []
    assert run(second, "import os; print(os.listdir('/work'), os.listdir('/tmp'))").stdout == (
        "[] []\n"
    )
    second.close()


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.chmod('/work', 0o755)",
        "import os; os.setxattr('/work', 'user.x', b'1')",
        "import fcntl, os; fcntl.ioctl(os.open('/work', 0), 0x40086602, b'\\x40' + bytes(7))",
        "import os; os.setxattr('/tmp', 'user.x', b'1')",
        "import os, sys\nos.chdir('/tmp')\nfor _ in range(40): os.mkdir('d'); os.chdir('d')",
        "import socket\ns = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(s.getsockname())",
    ],
    ids=["mode", "attribute", "flags", "attribute of tmp", "deep tmp", "network"],
)
def test_a_marked_worker_is_thrown_away(code: str) -> None:
    first = worker()
    inner = first._worker
    assert run(first, code).outcome == "ok"
    assert run(first, "print(1)").stdout == "1\n"
    first.close()
    second = worker()
    assert second._worker is not inner
    second.close()


def test_a_worker_made_in_the_middle_is_not_used_again() -> None:
    """It would take the marks that it finds on the workspace for the workspace's own."""
    first = worker()
    run(first, "import os\nfor n in ('/work', '/tmp'): os.setxattr(n, 'user.x', b'1')")
    assert run(first, "print(1)").stdout == "1\n"
    inner = first._worker
    first.close()
    second = worker()
    assert second._worker is not inner
    assert run(second, "import os; print(os.listxattr('/work'))").stdout == "[]\n"
    second.close()


# Programs whose result would differ if the interpreter were not as a fresh one.
SAME = [
    "import sys; print(sorted(sys.modules), sys.flags, sys.argv, sys.orig_argv, sys.path)",
    "print(list(globals()), __name__, __loader__, __spec__, __doc__, __annotations__)",
    "import sys; print(sys.stdin, sys.stdout, sys.stderr, sys.warnoptions, sys._xoptions)",
    "import signal; print([(s.name, str(signal.getsignal(s))) for s in signal.Signals])",
    "import resource as r; print([r.getrlimit(getattr(r, n)) for n in dir(r)"
    " if n.startswith('RLIMIT_') and n != 'RLIMIT_MSGQUEUE'])",
    "import os; print(os.getcwd(), dict(os.environ), os.getppid(), os.getpgrp(), os.getsid(0))",
    "raise SystemExit('text')",
    "raise SystemExit(256)",
    "raise KeyboardInterrupt",
    "def f():\n    raise ValueError('x\\ny')\nf()",
    "x = 1\n  y = 2",
    "# -*- coding: latin-1 -*-\nprint('é')",
    "'''unfinished",
    "import nothing",
    "\x00",
    "raise ExceptionGroup('a', [ValueError(1), TypeError(2)])",
    "try: 1 / 0\nexcept Exception as e: raise KeyError('k') from e",
    "import warnings; warnings.warn('w')",
    "import threading; threading.Thread(target=lambda: print('t')).start()",
    "import atexit; atexit.register(print, 'bye'); print('hi')",
    "class A:\n    def __del__(self): print('del')\na = A()\nraise SystemExit(4)",
    "class A:\n    def __del__(self): print('del')\na = A()",
    "import os; os.write(1, b'raw '); print('x', end='')",
    "import sys; sys.stdout.close()",
    "class C: pass\nimport pickle; print(type(pickle.loads(pickle.dumps(C()))))",
    "import asyncio; asyncio.run(asyncio.sleep(0)); print('a')",
    "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p: print(p.map(abs, [-1]))",
    "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'print(5)']).returncode)",
    "import ctypes, select, resource, struct, functools, enum, fcntl, gc; print(gc.garbage)",
    "import random, decimal, json, re, collections, dataclasses, typing, unittest; print('ok')",
    "import sys; sys._getframe(0); print(sys.getrefcount(None) > 0, sys.getrecursionlimit())",
]


def test_programs_see_a_fresh_interpreter() -> None:
    cold, warm = BubblewrapSandbox(LIMITS), worker(2)
    for code in SAME:
        ways = [(["-"], code)] + ([(["-c", code, "a"], "in")] if "\0" not in code else [])
        for given, stdin in ways:
            results = [box.exec([*box.python_argv(), *given], stdin=stdin) for box in (cold, warm)]
            first, second = (r.model_dump(exclude={"seconds"}) for r in results)
            assert first == second, code
    cold.close()
    warm.close()


def test_a_worker_that_dies_is_made_anew() -> None:
    sandbox = worker()
    run(sandbox, "open('kept', 'w').write('x')")
    assert sandbox._worker is not None
    sandbox._worker.destroy()
    sandbox._worker.cell.broken = True
    assert run(sandbox, "print(open('kept').read())").stdout == "x\n"
    sandbox.close()


def test_the_keeper_is_out_of_reach() -> None:
    sandbox = worker()
    code = (
        "import os\nfor s in range(1, 65):\n    try: os.kill(1, s)\n    except OSError: pass\n"
        "print(os.listdir('/proc/1'))"
    )
    inner = sandbox._worker
    assert run(sandbox, code).stdout == "[]\n"
    assert run(sandbox, "print(1)").stdout == "1\n" and sandbox._worker is inner
    sandbox.close()


def test_limits_of_input_and_options(nothing_leaks: Path) -> None:
    sandbox = BubblewrapSandbox(Limits(workspace_mb=1), warm=True)
    with pytest.raises(ValueError, match="more than /tmp holds"):
        run(sandbox, "#" * (2 << 20))
    assert run(sandbox, "print(1)").stdout == "1\n"
    sandbox.close()
    with pytest.raises(SandboxUnavailable, match="not both"):
        make_sandbox(options={"warm": True, "root": True})
    assert list(nothing_leaks.iterdir()) == []
