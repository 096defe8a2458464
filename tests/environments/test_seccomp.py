"""The system-call filter, run by the kernel and (for both processors) by a small interpreter."""

import errno
import os
import struct
from collections.abc import Callable
from typing import Any

import pytest

from environments.sandbox.base import ExecResult
from environments.sandbox.seccomp import DENIED, OWN, seccomp_filter

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE = {"x86_64": 56, "aarch64": 220}
ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
NEWUSER = 0x10000000


def verdict(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    """What the filter returns for one call."""
    program: list[Any] = list(struct.iter_unpack("<HBBI", seccomp_filter(machine)))
    data = struct.pack("<IIQ6Q", number, arch or ARCH[machine], 0, *(*arguments, *[0] * 6)[:6])
    at = value = 0
    while True:
        code, yes, no, k = program[at]
        if code == 0x06:
            return int(k)
        if code == 0x20:
            value = struct.unpack_from("<I", data, k)[0]
            yes = no = 0
        taken = {0x20: True, 0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code]
        at += 1 + (yes if taken else no)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_verdicts(machine: str) -> None:
    denied = {numbers[machine == "aarch64"] for numbers in DENIED.values()}
    assert len(denied) == len(DENIED)
    own = {numbers[machine == "aarch64"]: numbers[2] for numbers in OWN.values()}
    for number, wanted in own.items():
        given = [0] * 6
        for index, value in wanted:
            given[index] = value
        assert verdict(machine, number, *given) == ALLOW
        for index, value in wanted:
            other = [*given[:index], value + 1, *given[index + 1 :]]
            assert verdict(machine, number, *other) == EPERM
    for number in set(range(600)) - set(own):
        expected = EPERM if number in denied else ENOSYS if number == 435 else ALLOW
        assert verdict(machine, number) == expected, number
    clone = CLONE[machine]
    assert verdict(machine, clone, 0x00010F00) == ALLOW
    assert verdict(machine, clone, NEWUSER | 17) == EPERM
    other = ARCH["aarch64" if machine == "x86_64" else "x86_64"]
    assert verdict(machine, 1, arch=other) == EPERM
    assert verdict(machine, 0x40000001) == EPERM


def test_other_processors_have_no_filter() -> None:
    with pytest.raises(KeyError):
        seccomp_filter("riscv64")


def test_a_program_may_limit_itself_only(python: Callable[..., ExecResult]) -> None:
    code = (
        "import os, resource\nos.nice(1); resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))\n"
        "for call in (lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0)),\n"
        "             lambda: os.setpriority(os.PRIO_PROCESS, 1, 19),\n"
        "             lambda: os.setpriority(os.PRIO_USER, 0, 19),\n"
        "             lambda: os.sched_setaffinity(1, {0})):\n"
        "    try: call()\n    except PermissionError: print('no')\n"
    )
    assert python(code).stdout == "no\n" * 4


def test_the_kernel_denies_them(python: Callable[..., ExecResult]) -> None:
    column = ["x86_64", "aarch64"].index(os.uname().machine)
    numbers = {name: pair[column] for name, pair in DENIED.items()}
    numbers |= {"clone3": 435, "clone NEWUSER": CLONE[os.uname().machine]}
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"for name, number in {numbers}.items():\n"
        f"    r = libc.syscall(number, ctypes.c_long({NEWUSER} | 17), 0, 0, 0, 0, 0)\n"
        "    print(name, ctypes.get_errno() if r == -1 else 'allowed', sep=':')\n"
    )
    result = python(code)
    assert result.outcome == "ok", result
    found = dict(line.split(":") for line in result.stdout.splitlines())
    assert found == {name: str(errno.EPERM) for name in numbers} | {"clone3": str(errno.ENOSYS)}


def test_ordinary_programs_are_not_disturbed(python: Callable[..., ExecResult]) -> None:
    code = (
        "import subprocess, threading, multiprocessing as m\n"
        "threading.Thread(target=print, args=('thread',)).start()\n"
        "print(subprocess.run(['/bin/echo', 'child'], capture_output=True, text=True).stdout)\n"
        "with m.get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, -2]))\n"
    )
    result = python(code)
    assert result.outcome == "ok", result
    assert result.stdout.split() == ["thread", "child", "[1,", "2]"]
