"""Root inside a user namespace with a range of ids, and nobody outside."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from environments.sandbox import bubblewrap, mapped
from environments.sandbox.base import ExecResult, Limits, SandboxUnavailable
from environments.sandbox.bubblewrap import BubblewrapSandbox

LIMITS = Limits(wall_s=10.0, cpu_s=10)


@pytest.fixture
def root() -> Iterator[BubblewrapSandbox]:
    sandbox = BubblewrapSandbox(LIMITS, root=True)
    yield sandbox
    sandbox.close()


def sh(sandbox: BubblewrapSandbox, script: str, limits: Limits = LIMITS) -> ExecResult:
    return sandbox.exec(["/bin/bash", "-c", script], limits=limits)


def test_users_and_owners_last(root: BubblewrapSandbox) -> None:
    made = sh(
        root,
        "set -e; groupadd dev; useradd -m -s /bin/bash -G dev ann; echo ann:secret | chpasswd\n"
        "mkdir -p /data; touch /data/x; chown ann:dev /data/x; chmod 4750 /data/x\n"
        "chage -M 30 ann; passwd -l ann",
    )
    assert made.outcome == "ok", made
    sh(root, "printf '#!/bin/sh\\necho own' > /usr/local/bin/own; chmod +x /usr/local/bin/own")
    assert sh(root, "own").stdout == "own\n"
    seen = sh(root, "stat -c '%U %G %a' /data/x; id -nG ann; ls -d /home/ann; passwd -S ann")
    user, groups, home, status = seen.stdout.splitlines()
    assert (user, groups, home) == ("ann dev 4750", "ann dev", "/home/ann")
    assert status.startswith("ann L ")
    as_ann = sh(root, "su ann -c 'id -un; cat /etc/shadow'")
    assert as_ann.stdout == "ann\n" and "Permission denied" in as_ann.stderr
    assert root.list() == []
    other = BubblewrapSandbox(LIMITS, root=True)
    assert sh(other, "id ann || ls /data").outcome == "error"
    other.close()


def test_root_is_nobody_outside(root: BubblewrapSandbox, nothing_leaks: Path) -> None:
    assert sh(root, "id -u; cat /proc/self/uid_map").stdout.split() == [
        "0", "0", str(mapped.FIRST), str(mapped.COUNT)]  # fmt: skip
    sh(root, "touch /work/mine /kept")
    for path in nothing_leaks.rglob("mine"):
        assert path.stat().st_uid == mapped.FIRST
    (box,) = nothing_leaks.glob("*/box")
    assert box.stat().st_mode & 0o777 == 0o700  # no one else reaches set-user-id programs
    assert (box / "system/kept").exists()
    status = dict(
        line.split(":\t", 1)
        for line in sh(root, "cat /proc/self/status").stdout.splitlines()
        if ":\t" in line
    )
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0xFB
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@pytest.mark.parametrize(
    "script",
    [
        "touch /usr/x",
        "touch /bin/x",
        "mv /usr /other",
        "rmdir /work",
        "umount /usr",
        "mount -t tmpfs x /mnt",
        "mount -o remount,rw /usr",
        "mknod /disk b 8 0",
        "chroot / true",
        "unshare -U true",
        "nsenter -t 1 -m true",
        "echo x > /proc/sys/kernel/core_pattern",
        "cp /bin/true /t && setcap cap_sys_admin+ep /t && /t",
        "setpriv --reuid=70000 true",
        "ulimit -Hu 1000",
        "ulimit -Hv unlimited",
        "python3 -c 'import socket; socket.create_connection((\"1.1.1.1\", 53), 1)'",
        "test -e /etc/machine-id",
        "ls /proc/1/root/",
    ],
)
def test_refused(root: BubblewrapSandbox, script: str) -> None:
    assert sh(root, script).outcome == "error"


def test_all_its_users_share_the_process_limit(root: BubblewrapSandbox) -> None:
    code = (
        "import os, time\nn = 0\n"
        "while n < 200:\n"
        "    read, write = os.pipe()\n"
        "    try: child = os.fork()\n"
        "    except BlockingIOError: break\n"
        "    if not child: os.setuid(2000 + n); os.write(write, b'x'); time.sleep(60)\n"
        "    os.read(read, 1); os.close(read); os.close(write); n += 1\n"
        "print(n)"
    )
    argv = [*root.python_argv(), "-c", code]
    made = int(root.exec(argv, limits=Limits(processes=20, wall_s=10)).stdout)
    assert 15 <= made <= 20
    assert sh(root, "id -u").stdout == "0\n"


def test_a_poisoned_system_harms_only_itself(root: BubblewrapSandbox) -> None:
    """Preloaded libraries, links in the place of folders: the limits still hold."""
    sh(root, "echo /work/evil.so > /etc/ld.so.preload; rm -rf /etc/alternatives; "
             "rm -rf /lib32 /srv; ln -s / /lib32; ln -s /etc /srv")  # fmt: skip
    assert sh(root, "while :; do :; done", Limits(wall_s=0.3)).outcome == "timeout"
    assert sh(root, "ulimit -u").stdout == f"{LIMITS.processes + 2}\n"


def test_system_counts_as_workspace(root: BubblewrapSandbox) -> None:
    script = "useradd ann; for i in 1 2 3; do head -c 9M /dev/zero > /var/log/$i; done"
    result = sh(root, script, Limits(wall_s=10, workspace_mb=20))
    assert result.outcome == "error" and "the workspace was emptied" in result.stderr
    assert sh(root, "ls /var/log; id ann").stdout == "auth.log\nsyslog\n"
    assert sh(root, "useradd bob && id -u bob").stdout == "1000\n"


def test_needs_root_and_the_systems_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "SYSTEM_PYTHON", "/nothing")
    with pytest.raises(SandboxUnavailable, match="needs /nothing"):
        BubblewrapSandbox(root=True)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    with pytest.raises(SandboxUnavailable, match="needs root outside too"):
        BubblewrapSandbox(root=True)
