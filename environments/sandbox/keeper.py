"""Process 1 of a warm sandbox: starts programs, passes their output on, kills what they leave.

It runs inside, as the user that programs run as. They cannot reach it: process 1 gets no signal
from its own process namespace that it does not handle, cannot be traced or read (undumpable;
and the system-call filter), and its descriptors are closed in every program. What it says is
still not trusted: the host counts bytes and seconds itself, and throws the sandbox away when
anything is odd.

This file is sent into the sandbox as text and uses nothing but the standard library. Requests
come on descriptor 0 and are: the lengths of two parts (4 bytes each), a header (fields separated
by NUL: mode, five limits, the output limit, the arguments), the program's standard input. Answers
go to descriptor 1 and are: one letter, a length (4 bytes), that many bytes. A request can be cut
short by one byte, ``K``: kill the program.
"""

from __future__ import annotations

# Few modules, and these by their inner names: what is imported here is copied for every program.
import _ctypes
import _signal  # type: ignore[import-not-found]
import builtins
import fcntl
import gc
import os
import posix
import resource
import select
import sys
from _frozen_importlib import BuiltinImporter

CODE_READY, CODE_OUT, CODE_ERR, CODE_END = b"r", b"o", b"e", b"x"  # as in cell.py
_DUMPABLE, _NO_NEW_PRIVS, _SECCOMP = 4, 38, 22
_MSGQUEUE, _IGNORE_COOKIE = 12, 0x0800
_SIGINT, _SIGKILL, _SIGPIPE, _SIGXFSZ = 2, 9, 13, 25
_TICK_MS = 50
_SCRATCH = ("/tmp",) if os.path.islink("/dev/shm") else ("/tmp", "/dev/shm")
_GET_FLAGS = 0x80086601  # FS_IOC_GETFLAGS
_ENVIRONMENT = frozenset({b"PATH", b"HOME", b"LANG", b"PWD"})
_OOM_FILES = (  # of the container's own control group, version 2 and 1
    "/sys/fs/cgroup/memory.events",
    "/sys/fs/cgroup/memory/memory.oom_control",
)


def serve(modules: frozenset[str], filter_bytes: bytes) -> None:
    """Run programs until the host hangs up.

    Args:
        modules: names in ``sys.modules`` when the interpreter had just started.
        filter_bytes: a seccomp filter to install, or nothing.
    """
    _call("prctl", _DUMPABLE, 0, 0, 0, 0)
    _signal.signal(_SIGINT, _signal.SIG_DFL)  # ignored: process 1 has no default actions
    for name in {bytes(key) for key in posix.environ} - _ENVIRONMENT:  # HOSTNAME, by Docker
        del posix.environ[name]
        os.unsetenv(name)
    if filter_bytes:
        _install(filter_bytes)
    control, answers = os.dup(0), os.dup(1)
    before = {path: _state(path) for path in ("/work", *_SCRATCH)}
    network = _network()
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    gc.collect()
    gc.freeze()  # programs then neither see nor traverse (and so copy) the keeper's objects
    _answer(answers, CODE_READY, b"")
    while True:
        lengths = _receive(control, 8)
        header = _receive(control, int.from_bytes(lengths[:4], "big"))
        data = _receive(control, int.from_bytes(lengths[4:], "big"))
        if header == b"reset":
            same = all(_state(path) == before[path] for path in before) and not os.listdir("/work")
            _answer(answers, CODE_END, b"0 - clean" if same and network == _network() else b"0 - -")
            continue
        end = _run(control, answers, header, data, modules)
        clean = all(_empty(path) and _state(path) == before[path] for path in _SCRATCH)
        _answer(answers, CODE_END, f"{end} {'clean' if clean else '-'}".encode())


def _receive(control: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.read(control, min(count, 1 << 20))
        if not part:
            _clear()
            os._exit(0)
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _answer(answers: int, code: bytes, data: bytes) -> None:
    view = memoryview(code + len(data).to_bytes(4, "big") + data)
    while view:
        view = view[os.write(answers, view) :]


def _run(
    control: int,
    answers: int,
    header: bytes,
    data: bytes,
    modules: frozenset[str],
) -> str:
    """Run a program; its status and the limit that ended it, or "-"."""
    mode, *numbers = header.split(b"\0")[:7]
    argv = [os.fsdecode(part) for part in header.split(b"\0")[7:]]
    *limits, flood = map(int, numbers)
    stdin = _input(data)
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    killed = _oom_kills()
    try:
        pid = os.fork()
    except OSError as error:
        return f"0 fork:{error.errno}"
    if not pid:
        _become((stdin, out_end, err_end), mode, argv, limits, modules)
    for fd in (stdin, out_end, err_end):
        os.close(fd)
    left = {out: flood, err: flood}
    codes = {out: CODE_OUT, err: CODE_ERR}
    for fd in left:
        os.set_blocking(fd, False)

    def take(fd: int) -> bool:
        try:
            part = os.read(fd, 65_536)
        except BlockingIOError:
            return False
        if part and left[fd] > 0:
            _answer(answers, codes[fd], part[: left[fd]])
        left[fd] -= len(part)
        return bool(part)

    cause = ""
    try:
        ended, tick = os.pidfd_open(pid), _TICK_MS
    except OSError:  # gVisor has none
        ended, tick = -1, 2
    poller = select.poll()
    for fd in (out, err, control, *([ended] if ended >= 0 else [])):
        poller.register(fd, select.POLLIN)
    while not cause:
        ready = [fd for fd, _ in poller.poll(tick)]
        for fd in ready:
            if fd in left and not take(fd):
                poller.unregister(fd)
        if control in ready:
            _receive(control, 1)
            cause = "killed"
        elif min(left.values()) < 0:
            cause = "output"
        elif killed != _oom_kills():
            cause = "memory"
        elif ended in ready or (ended < 0 and _over(pid)):
            break
    if cause:
        os.kill(pid, _SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    _clear()
    if not cause and killed != _oom_kills():
        cause = "memory"
    for fd in left:
        while take(fd):
            pass
    for fd in (out, err, *([ended] if ended >= 0 else [])):
        os.close(fd)
    if min(left.values()) < 0:
        cause = cause or "output"
    return f"{status} {cause or '-'}"


def _over(pid: int) -> bool:
    """Whether a child has ended; it is left to be waited for."""
    return bool(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))


def _input(data: bytes) -> int:
    """A file without a name that holds a program's input: some read theirs by position."""
    path = "/tmp/input"  # nobody else is there
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        return os.open(path, os.O_RDONLY)
    finally:
        os.close(fd)
        os.unlink(path)


def _clear() -> None:
    """Kill every other process of the namespace, and wait until they are gone.

    ``kill(-1)`` is one step for the kernel: no fork escapes it.
    """
    while True:
        try:  # noqa: SIM105
            os.kill(-1, _SIGKILL)
        except ProcessLookupError:
            pass
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _empty(folder: str, depth: int = 0) -> bool:
    """Remove what a program left in a folder; False where that is not simple."""
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                if number > 1000 or depth > 20:
                    return False
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                os.chmod(entry.path, 0o700)
                if not _empty(entry.path, depth + 1):
                    return False
                os.rmdir(entry.path)
    except OSError:
        return False
    return True


def _state(folder: str) -> tuple[object, ...]:
    """What a program could have left on a folder itself."""
    about = os.stat(folder)
    flags = bytearray(8)
    try:
        fd = os.open(folder, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _GET_FLAGS, flags)
        finally:
            os.close(fd)
        attributes = os.listxattr(folder)
    except OSError as error:
        attributes = [str(error.errno)]
    return about.st_mode, about.st_uid, about.st_gid, attributes, bytes(flags)


def _network() -> bytes:
    """What the network namespace has counted, and holds open: more, if a program used it.

    Read by a child, since process 1 may have no folder in /proc.
    """
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            for name in ("dev", "snmp", "snmp6", "netstat", "tcp", "tcp6", "udp", "udp6"):
                try:
                    with open(f"/proc/self/net/{name}", "rb") as file:
                        os.write(write, file.read(8000))
                except OSError:
                    continue
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        found = file.read()
    os.waitpid(pid, 0)
    return found


def _oom_kills() -> int:
    """How many processes the kernel has killed for want of memory in this container."""
    for path in _OOM_FILES:
        try:
            with open(path) as file:
                for line in file:
                    name, _, count = line.partition(" ")
                    if name == "oom_kill":
                        return int(count)
        except OSError:
            continue
    return 0


def _become(
    streams: tuple[int, int, int],
    mode: bytes,
    argv: list[str],
    limits: list[int],
    modules: frozenset[str],
) -> None:
    """In the child: become the program. Never returns."""
    try:
        for target, fd in enumerate(streams):
            os.dup2(fd, target)
        os.closerange(3, 1 << 20)
        _call("prctl", _DUMPABLE, 1, 0, 0, 0)
        if any(map(os.path.exists, _OOM_FILES)):
            _raise_oom_score()
        _limit(*limits)
        if mode == b"warm":
            _python(argv, modules)
        for number in (_SIGPIPE, _SIGXFSZ):  # Python ignores them; programs expect not
            _signal.signal(number, _signal.SIG_DFL)
        try:
            os.execvpe(argv[0], argv, posix.environ)  # noqa: S606
        except OSError as error:
            os.write(2, f"sandbox: {argv[0]}: {error.strerror}\n".encode(errors="replace"))
            os._exit(127 if isinstance(error, FileNotFoundError) else 126)
    except BaseException as error:
        os.write(2, f"sandbox: {error!r}\n".encode(errors="replace"))
    finally:
        os._exit(125)


def _limit(memory: int, cpu: int, file: int, files: int, processes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:  # noqa: SIM105
        resource.setrlimit(_MSGQUEUE, (0, 0))  # message queues outlive their makers
    except (OSError, ValueError):  # gVisor has none
        pass
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file, file))
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if processes:
        resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _raise_oom_score() -> None:
    """Where the container's memory ends, programs are killed rather than their keeper."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass


def _python(argv: list[str], modules: frozenset[str]) -> None:
    """Run a program with this interpreter as a fresh one would: same C functions, same names."""
    given = argv.index("-c") if "-c" in argv else len(argv) - 1
    sys.argv = argv[given:] if argv[given] == "-" else ["-c", *argv[given + 2 :]]
    sys.orig_argv = argv
    # The module that started the keeper is still being run, and would outlive the program.
    sys.modules["__main__"] = main = type(sys)("__main__")
    main.__loader__ = BuiltinImporter
    main.__annotations__ = {}
    main.__dict__["__builtins__"] = builtins
    del main
    _signal.signal(_SIGINT, _signal.default_int_handler)
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    if argv[given] == "-":
        file = _Pointer.from_address(_ctypes.dlsym(_PROGRAM, "stdin"))
        failed = _call_python("PyRun_AnyFileExFlags", file, b"<stdin>", 0, None)
    else:
        flags = b"".join(n.to_bytes(4, "little") for n in (_IGNORE_COOKIE, sys.version_info.minor))
        code = argv[given + 1].encode(errors="replace")
        failed = _call_python("PyRun_SimpleStringFlags", code, flags)
    if failed and getattr(sys, "last_type", None) is KeyboardInterrupt:
        # Python then dies of the signal, when all else is done.
        _call("signal", _SIGINT, None)
        _call("on_exit", _Pointer(_ctypes.dlsym(_PROGRAM, "raise")), None)
        _call_python("Py_Exit", _SIGINT)
    _call_python("Py_Exit", 1 if failed else 0)


def _install(filter_bytes: bytes) -> None:
    """Deny system calls, in this process and all that it will start."""
    address = id(filter_bytes) + bytes.__basicsize__ - 1  # where CPython keeps the bytes
    program = (len(filter_bytes) // 8).to_bytes(8, "little") + address.to_bytes(8, "little")
    _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    if _call("prctl", _SECCOMP, 2, program, 0, 0):
        raise OSError("the system-call filter cannot be installed")


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "i"


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class _Pointer(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "P"


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL
    _restype_ = _Int


class _PythonFunction(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_PYTHONAPI
    _restype_ = _Int


# This program and all that it has loaded.
_PROGRAM = _ctypes.dlopen(None, 2)  # type: ignore[arg-type]


def _call(name: str, *arguments: object) -> int:
    """A function of the C library; numbers are long."""
    given = [_Long(value) if isinstance(value, int) else value for value in arguments]
    return int(_Function(_ctypes.dlsym(_PROGRAM, name))(*given))


def _call_python(name: str, *arguments: object) -> int:
    """A function of the interpreter."""
    return int(_PythonFunction(_ctypes.dlsym(_PROGRAM, name))(*arguments))
