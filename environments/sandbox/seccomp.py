"""The system calls that sandboxed programs are denied, as a seccomp filter.

A deny-list on top of the namespaces, after Flatpak's: what attaches to other processes,
changes mounts or namespaces, outlives its process (System V IPC, message queues), is memory
that no process is charged with, or opens large, rarely used parts of the kernel. Denied calls
fail with EPERM; ``clone3`` fails with ENOSYS, because its flags cannot be inspected and the C
library then falls back to ``clone``. A process may change its own limits and priorities, not
those of others.
"""

from __future__ import annotations

import errno
import struct

# name: (number on x86-64, number on aarch64), from the kernel's unistd tables.
DENIED: dict[str, tuple[int, int]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "unshare": (272, 97),
    "setns": (308, 268),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "syslog": (103, 116),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
}
# The same, for calls that are allowed where each named argument has the value beside it: the
# calling process itself.
OWN: dict[str, tuple[int, int, tuple[tuple[int, int], ...]]] = {
    "prlimit64": (302, 261, ((0, 0),)),
    "setpriority": (141, 140, ((0, 0), (1, 0))),
    "sched_setparam": (142, 118, ((0, 0),)),
    "sched_setscheduler": (144, 119, ((0, 0),)),
    "sched_setaffinity": (203, 122, ((0, 0),)),
    "sched_setattr": (314, 274, ((0, 0),)),
    "ioprio_set": (251, 30, ((0, 1), (1, 0))),
}
_ARCHITECTURES = {"x86_64": (0, 0xC000003E, 56), "aarch64": (1, 0xC00000B7, 220)}
_CLONE3 = 435
_X32 = 0x40000000
_CLONE_NEWUSER = 0x10000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO


def seccomp_filter(machine: str) -> bytes:
    """The filter as BPF bytes.

    Args:
        machine: processor as ``os.uname().machine`` names it.

    Raises:
        KeyError: for a processor other than x86_64 and aarch64.
    """
    column, arch, clone = _ARCHITECTURES[machine]
    denied = [numbers[column] for numbers in DENIED.values()]
    # Blocks that jumps end in, after the list of comparisons.
    allow, deny, missing, flags = 0, 1, 2, 3
    own: list[tuple[int, int, int | None, int | None]] = []
    for first, second, arguments in OWN.values():
        own.append(
            (_EQUAL, (first, second)[column], None, -1 - 2 * len(arguments))
        )  # or skip these:
        for index, value in arguments:
            own += [(_LOAD, 16 + 8 * index, None, None), (_EQUAL, value, None, deny)]
        own.append((_RETURN, _ALLOW, None, None))
    tests: list[tuple[int, int, int | None, int | None]] = [
        (_LOAD, 4, None, None),  # architecture
        (_EQUAL, arch, None, deny),
        (_LOAD, 0, None, None),  # call number
        (_AT_LEAST, _X32, deny, None),
        *((_EQUAL, number, deny, None) for number in denied),
        *own,
        (_EQUAL, _CLONE3, missing, None),
        (_EQUAL, clone, flags, allow),
    ]

    def offset(line: int, block: int | None) -> int:
        if block is None or block < 0:
            return -(block or 0)
        return len(tests) + block - line - 1

    code = [(op, offset(i, yes), offset(i, no), k) for i, (op, k, yes, no) in enumerate(tests)]
    code += [
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
        (_RETURN, 0, 0, _FAIL | errno.ENOSYS),
        (_LOAD, 0, 0, 16),  # low half of clone's first argument
        (_ANY_BIT, 0, 1, _CLONE_NEWUSER),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("<HBBI", *line) for line in code)
