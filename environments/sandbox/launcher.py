"""Starts bubblewrap, as the user that it is to run as, and limits what it starts.

To change the user, and then to limit the program, takes a program each, which together cost as
much as half a sandbox. This process has changed its user once (``launch.py`` starts it), so what
it starts has that user, and it may limit what belongs to it. It ends when its host does, and with
it all that it started, by bubblewrap's ``--die-with-parent``.

This file is sent as text and uses nothing but the standard library. A request on descriptor 0 is

- ``start`` with six descriptors: the arguments, separated by NUL, and those that the program gets
  as 0 to 4. The answer is its process id, with a descriptor of the process;
- ``limit``, a process id, and name, soft and hard value of each limit. The answer is empty.

An answer that begins with ``!`` says what went wrong.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import sys

GIVEN = 5  # descriptors that a program gets
ROOM = 1 << 16  # longest message, bytes


def serve(host: int) -> None:
    """Answer requests until the host, by its process id, is gone."""
    control = socket.socket(fileno=0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who has ended is gone at once
    while os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC) < GIVEN:
        pass  # what comes with a request has higher numbers than what a program gets
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(os.pidfd_open(host), select.POLLIN)  # its forks may hold the other end
    while all(fd == control.fileno() for fd, _ in poller.poll()):
        request, fds = receive(control, 1 + GIVEN)
        if not request:
            break
        try:
            answer, made = _start(fds) if request == b"start" else _limit(request.split()[1:])
        except (OSError, ValueError) as error:
            answer, made = f"!{error}".encode(), []
        finally:
            for fd in fds:
                os.close(fd)
        socket.send_fds(control, [answer], made)
        for fd in made:
            os.close(fd)


def receive(end: socket.socket, most: int) -> tuple[bytes, list[int]]:
    """A message and its descriptors, which no program inherits (as those of ``recv_fds`` are)."""
    room = socket.CMSG_SPACE(most * 4)
    data, about, _, _ = end.recvmsg(ROOM, room, socket.MSG_CMSG_CLOEXEC)
    fds = b"".join(part[: len(part) // 4 * 4] for _, _, part in about)
    return data, [int.from_bytes(fds[i : i + 4], sys.byteorder) for i in range(0, len(fds), 4)]


def _start(fds: list[int]) -> tuple[bytes, list[int]]:
    with open(fds[0], "rb", closefd=False) as file:
        argv = file.read().split(b"\0")
    pid = os.posix_spawn(
        argv[0],
        argv,
        {},
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(fds[1:])],
        setsigdef=[signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ],  # ignored here
    )
    return str(pid).encode(), [os.pidfd_open(pid)]


def _limit(words: list[bytes]) -> tuple[bytes, list[int]]:
    pid, *bounds = words
    for name, soft, hard in zip(bounds[::3], bounds[1::3], bounds[2::3], strict=True):
        number = getattr(resource, f"RLIMIT_{name.decode().upper()}")
        try:
            resource.prlimit(int(pid), number, (int(soft), int(hard)))
        except ProcessLookupError:  # it has ended, and its parent says why
            break
    return b".", []


if __name__ == "__main__":
    serve(int(sys.argv[1]))
