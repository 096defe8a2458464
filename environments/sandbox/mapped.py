"""Root inside, nobody outside: for programs that add users and change owners.

A user namespace maps the ids 0 to 65535 to a range that nothing else on the host uses. Inside,
uid 0 holds seven capabilities over files and processes of that range and none over the host.
It sees a small Debian-like file system of its own that lasts as long as the sandbox; ``/usr``
(and with it ``/bin``, ``/sbin``, ``/lib``) is the host's, read-only.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from pathlib import Path

from environments.sandbox.base import SandboxFailure, SandboxUnavailable

FIRST = 100_000  # the host's id of uid 0 inside
COUNT = 65_536
CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_FOWNER",
    "CAP_DAC_OVERRIDE",
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_FSETID",
    "CAP_KILL",
)
_OWNERS = range(0x70000000, 0x78000000)

_USERS = (
    ("root", 0, 0, "/root", "/bin/bash"),
    ("daemon", 1, 1, "/usr/sbin", ""),
    ("bin", 2, 2, "/bin", ""),
    ("sys", 3, 3, "/dev", ""),
    ("sync", 4, 65534, "/bin", "/bin/sync"),
    ("games", 5, 60, "/usr/games", ""),
    ("man", 6, 12, "/var/cache/man", ""),
    ("lp", 7, 7, "/var/spool/lpd", ""),
    ("mail", 8, 8, "/var/mail", ""),
    ("news", 9, 9, "/var/spool/news", ""),
    ("uucp", 10, 10, "/var/spool/uucp", ""),
    ("proxy", 13, 13, "/bin", ""),
    ("www-data", 33, 33, "/var/www", ""),
    ("backup", 34, 34, "/var/backups", ""),
    ("list", 38, 38, "/var/list", ""),
    ("irc", 39, 39, "/run/ircd", ""),
    ("_apt", 42, 65534, "/nonexistent", ""),
    ("nobody", 65534, 65534, "/nonexistent", ""),
)
_GROUPS = {
    "root": 0, "daemon": 1, "bin": 2, "sys": 3, "adm": 4, "tty": 5, "disk": 6, "lp": 7, "mail": 8,
    "news": 9, "uucp": 10, "man": 12, "proxy": 13, "kmem": 15, "dialout": 20, "fax": 21,
    "voice": 22, "cdrom": 24, "floppy": 25, "tape": 26, "sudo": 27, "audio": 29, "dip": 30,
    "www-data": 33, "backup": 34, "operator": 37, "list": 38, "irc": 39, "src": 40, "shadow": 42,
    "utmp": 43, "video": 44, "sasl": 45, "plugdev": 46, "staff": 50, "games": 60, "users": 100,
    "nogroup": 65534,
}  # fmt: skip
_SHADOW = 42
_FOLDERS = (
    *(f"etc/{name}" for name in ("alternatives", "cron.d", "cron.daily", "default", "init.d",
                                 "logrotate.d", "opt", "pam.d", "profile.d", "security", "skel",
                                 "sudoers.d")),
    *("bin", "boot", "dev", "home", "lib", "lib32", "lib64", "libx32", "media", "mnt", "opt"),
    *("proc", "root", "run", "sbin", "srv", "sys", "usr", "work"),
    *(f"var/{name}" for name in ("backups", "cache", "lib/misc", "local", "log", "mail", "opt",
                                 "spool/cron", "www")),
)  # fmt: skip
_LINKS = {
    "etc/mtab": "../proc/self/mounts",
    "etc/os-release": "../usr/lib/os-release",
    "var/run": "/run",
    "var/lock": "/run/lock",
}
_STICKY = ("tmp", "var/tmp", "run/lock")
_PROFILE = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nexport PATH\n"
    'for i in /etc/profile.d/*.sh; do [ -r "$i" ] && . "$i"; done; unset i\n'
)
_FILES = {
    "etc/hostname": "sandbox\n",
    "etc/hosts": "127.0.0.1\tlocalhost\n127.0.1.1\tsandbox\n",
    "etc/nsswitch.conf": "".join(
        f"{name}: files\n"
        for name in ("passwd", "group", "shadow", "gshadow", "hosts", "services", "protocols")
    ),
    "etc/resolv.conf": "",
    "etc/environment": "",
    "etc/motd": "",
    "etc/issue": "Sandbox \\n \\l\n",
    "etc/fstab": "",
    "etc/crontab": "SHELL=/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n",
    "etc/subuid": "",
    "etc/subgid": "",
    "etc/security/opasswd": "",
    "etc/shells": "/bin/sh\n/bin/bash\n/usr/bin/bash\n/bin/dash\n/usr/bin/dash\n",
    "etc/profile": _PROFILE,
    "etc/bash.bashrc": "",
    "etc/skel/.bashrc": "",
    "etc/skel/.bash_logout": "",
    "etc/skel/.profile": "",
    "root/.bashrc": "",
    "root/.profile": "",
    "etc/default/useradd": "SHELL=/bin/sh\n",
    "etc/login.defs": (
        "MAIL_DIR /var/mail\nUMASK 022\nHOME_MODE 0755\nPASS_MAX_DAYS 99999\nPASS_MIN_DAYS 0\n"
        "PASS_WARN_AGE 7\nUID_MIN 1000\nUID_MAX 60000\nSYS_UID_MIN 100\nSYS_UID_MAX 999\n"
        "GID_MIN 1000\nGID_MAX 60000\nSYS_GID_MIN 100\nSYS_GID_MAX 999\nSUB_UID_COUNT 0\n"
        "SUB_GID_COUNT 0\nLOGIN_RETRIES 5\nLOGIN_TIMEOUT 60\nUSERGROUPS_ENAB yes\n"
        "ENCRYPT_METHOD SHA512\n"
        "ENV_SUPATH PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        "ENV_PATH PATH=/usr/local/bin:/usr/bin:/bin\n"
    ),
    "etc/pam.d/other": (
        "auth sufficient pam_rootok.so\nauth required pam_unix.so\naccount required pam_unix.so\n"
        "password required pam_unix.so sha512\nsession required pam_unix.so\n"
    ),
    "var/log/syslog": "",
    "var/log/auth.log": "",
}


def check_possible() -> None:
    """Whether this process may map a range of ids.

    Raises:
        SandboxUnavailable: it is not root.
    """
    if os.getuid() != 0:
        raise SandboxUnavailable(
            "a sandbox with root inside needs root outside too, to map a range of user ids: "
            "run as root (sudo, or in a container), or make the sandbox without root=True"
        )
    if not os.access("/usr/bin/nsenter", os.X_OK) or not os.access("/usr/bin/unshare", os.X_OK):
        raise SandboxUnavailable("the programs unshare and nsenter are missing: install util-linux")


def user_namespace(processes: int) -> int:
    """An open descriptor of a new user namespace with ids 0 to 65535 mapped.

    All processes in it, whatever their ids, are at most ``processes``: the kernel holds a
    namespace to the limit that its maker had, over the maker's namespaces. So each is made by a
    user id of its own, which owns nothing.

    Raises:
        SandboxFailure: the kernel refused; the message says what it said.
    """
    owner = random.choice(_OWNERS)
    maker = subprocess.Popen(
        ["/usr/bin/setpriv", f"--reuid={owner}", f"--regid={owner}", "--clear-groups", "--",
         "/usr/bin/prlimit", f"--nproc={processes}", "--",
         "/usr/bin/unshare", "--user", "--", "/usr/bin/head", "-c1"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={}, cwd="/", bufsize=0,
    )  # fmt: skip
    with maker:
        assert maker.stdin and maker.stdout and maker.stderr
        try:
            own = os.readlink("/proc/self/ns/user")
            while os.readlink(f"/proc/{maker.pid}/ns/user") == own:
                if maker.poll() is not None:
                    raise OSError(maker.stderr.read().decode(errors="replace").strip())
                time.sleep(0.0005)
            for name in ("uid_map", "gid_map"):
                with open(f"/proc/{maker.pid}/{name}", "wb", buffering=0) as file:
                    file.write(f"0 {FIRST} {COUNT}".encode())
            return os.open(f"/proc/{maker.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SandboxFailure(f"cannot make a user namespace with a range: {error}") from error
        finally:
            maker.kill()


def enter(namespace: int) -> list[str]:
    """The command prefix that becomes root of an open user namespace."""
    path = f"/proc/{os.getpid()}/fd/{namespace}"
    return ["/usr/bin/nsenter", f"--user={path}", "--setuid=0", "--setgid=0", "--"]


def make_system(box: Path) -> None:
    """Fill an empty folder with ``system``, what root finds at ``/``, and ``local``, for
    ``/usr/local``.

    Both are mounted from folders that programs cannot replace by links.
    """
    local = box / "local"
    for name in ("bin", "sbin", "lib", "share", "etc"):
        (local / name).mkdir(parents=True)
        os.chown(local / name, FIRST, FIRST)
    os.chown(local, FIRST, FIRST)
    root = box / "system"
    root.mkdir()
    made: list[tuple[str, int, int]] = []  # path, mode, group

    def add(path: str, mode: int, group: int = 0) -> None:
        made.append((path, mode, group))

    for path in sorted({*_FOLDERS, *_STICKY}):
        (root / path).mkdir(parents=True, exist_ok=True)
        add(path, 0o1777 if path in _STICKY else 0o700 if path == "root" else 0o755)
    texts = dict(_FILES)
    nologin = "/usr/sbin/nologin"
    texts["etc/passwd"] = "".join(
        f"{name}:x:{uid}:{gid}:{name}:{home}:{shell or nologin}\n"
        for name, uid, gid, home, shell in _USERS
    )
    texts["etc/group"] = "".join(f"{name}:x:{gid}:\n" for name, gid in _GROUPS.items())
    texts["etc/shadow"] = "".join(f"{user[0]}:*:19000:0:99999:7:::\n" for user in _USERS)
    texts["etc/gshadow"] = "".join(f"{name}:*::\n" for name in _GROUPS)
    for path, text in texts.items():
        (root / path).write_text(text)
        secret = path in ("etc/shadow", "etc/gshadow")
        add(path, 0o640 if secret else 0o644, _SHADOW if secret else 0)
    for path, target in _LINKS.items():
        (root / path).symlink_to(target)
    with contextlib.suppress(OSError):  # awk, editor …: links into /usr, without which some fail
        for link in Path("/etc/alternatives").iterdir():
            if link.is_symlink() and os.readlink(link).startswith("/usr/"):
                (root / "etc/alternatives" / link.name).symlink_to(os.readlink(link))
    for path, mode, group in made:
        os.chown(root / path, FIRST, FIRST + group)
        os.chmod(root / path, mode)
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            if os.lstat(path).st_uid == 0:
                os.chown(path, FIRST, FIRST, follow_symlinks=False)
    os.chown(root, FIRST, FIRST)
    os.chmod(root, 0o755)  # noqa: S103 - the top of a file system
