"""Makes the Docker sandbox's image, if there is none yet: python -m environments.sandbox.image

It is built from the Dockerfile beside this file. Where no registry can be reached, it is made of
the host's own files instead (Python, its standard library, a shell, the usual small programs and
the libraries that they load) and imported; or of Debian packages with ``--from debootstrap``.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from environments.sandbox.base import SandboxUnavailable
from environments.sandbox.docker import IMAGE, PYTHON, connect, package

DOCKERFILE = Path(__file__).with_name("Dockerfile")
ROUTES = ("auto", "registry", "host", "debootstrap")
PROGRAMS = (
    "awk basename bash cat chmod cp cut date dash dd df dirname du echo env expr false find grep "
    "gzip head id kill ln ls mkdir mkfifo mktemp mv nice printf ps pwd readlink realpath rm rmdir "
    "sed seq sh sha256sum sleep sort stat tail tar tee test timeout touch tr true uname uniq wc "
    "which whoami xargs yes"
)
_FOLDERS = {"work": 0o755, "tmp": 0o1777, "root": 0o700, "proc": 0o755, "sys": 0o755,
            "dev": 0o755, "run": 0o755, "var": 0o755, "home": 0o755}  # fmt: skip
_FILES = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n"
    ),
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}
_SKIPPED = {"dist-packages", "site-packages", "test", "tests", "idlelib", "ensurepip",
            "turtledemo", "lib2to3"}  # fmt: skip


def ensure_image(name: str = IMAGE, route: str = "auto", again: bool = False) -> str:
    """Make the image if there is none; what was done, in a line.

    Args:
        name: the image's name and tag.
        route: one of ``ROUTES``; auto: the registry, then the host's files.
        again: make it even if there is one.

    Raises:
        SandboxUnavailable: there is no engine, or the route failed; says what to do.
    """
    client = connect()
    errors = package().errors
    try:
        if not again and client.images.list(name):
            return f"{name} is there"
        if route in ("auto", "registry"):
            try:
                client.images.build(path=str(DOCKERFILE.parent), tag=name, rm=True, forcerm=True)
                return f"{name} was built from {DOCKERFILE.name}"
            except (errors.DockerException, OSError) as error:
                if route == "registry":
                    raise SandboxUnavailable(
                        f"the image cannot be built ({_first(error)}): is a registry reachable? "
                        "--from host makes it of this machine's files"
                    ) from error
        with tempfile.TemporaryFile() as archive:
            (_debootstrap if route == "debootstrap" else _host_files)(archive)
            archive.seek(0)
            _import(client, archive, name)
        return f"{name} was imported from {'packages' if route == 'debootstrap' else 'the host'}"
    except errors.DockerException as error:
        raise SandboxUnavailable(f"the image cannot be made: {_first(error)}") from error
    finally:
        client.close()


def _import(client: Any, archive: IO[bytes], name: str) -> None:
    repository, _, tag = name.partition(":")
    answer = client.api.import_image_from_data(archive, repository=repository, tag=tag or "latest")
    if '"error"' in answer:
        raise SandboxUnavailable(f"the image cannot be imported: {answer.strip()[-300:]}")


def _host_files(archive: IO[bytes]) -> None:
    """A root file system of the host's own programs, none of its settings or data."""
    if not os.path.exists(PYTHON):
        raise SandboxUnavailable(
            f"the image is made around {PYTHON}: install the system's Python "
            "(Debian, Ubuntu: apt-get install python3)"
        )
    where = subprocess.run(
        [PYTHON, "-I", "-S", "-c",
         "import sysconfig; print(sysconfig.get_path('stdlib'), sysconfig.get_path('platstdlib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    found = [PYTHON, *(f"/usr/bin/{name}" for name in PROGRAMS.split())]
    files = {path for path in found if os.path.exists(path)}
    for folder in where:
        for top, folders, names in os.walk(folder):
            folders[:] = sorted(set(folders) - _SKIPPED)
            files |= {os.path.join(top, name) for name in names}
    binaries = [path for path in files if _is_binary(path)]
    files |= _libraries(binaries)
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for folder, mode in _FOLDERS.items():
            _add(tar, folder, b"", tarfile.DIRTYPE, mode)
        for path, text in _FILES.items():
            _add(tar, path, text.encode(), tarfile.REGTYPE, 0o644)
        for name in ("bin", "sbin", "lib", "lib64"):
            if os.path.islink(f"/{name}"):
                _add(tar, name, b"", tarfile.SYMTYPE, 0o777, os.readlink(f"/{name}"))
        done: set[str] = set()
        for path in sorted(files):
            _add_file(tar, path, done)


def _is_binary(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def _libraries(binaries: Iterable[str]) -> set[str]:
    """The shared libraries that programs and modules load, by ``ldd``."""
    done = subprocess.run(["ldd", *binaries], capture_output=True, text=True)  # fails for some
    return set(re.findall(r"(/\S+) \(0x", done.stdout))


def _add_file(tar: tarfile.TarFile, path: str, done: set[str]) -> None:
    """A file at its place; through links, so that each name holds the content."""
    folder, name = os.path.split(path)
    path = os.path.join(os.path.realpath(folder), name)
    if path in done:
        return
    done.add(path)
    if os.path.islink(path):
        target = os.path.realpath(path)
        if target.startswith("/usr/"):
            _add(tar, path[1:], b"", tarfile.SYMTYPE, 0o777, target)
            _add_file(tar, target, done)
        return
    with open(path, "rb") as file:
        mode = 0o755 if os.access(path, os.X_OK) else 0o644
        # With its time, by which Python tells whether compiled code is current.
        when = int(os.fstat(file.fileno()).st_mtime)
        _add(tar, path[1:], file.read(), tarfile.REGTYPE, mode, when=when)


def _add(
    tar: tarfile.TarFile,
    name: str,
    data: bytes,
    kind: bytes,
    mode: int,
    target: str = "",
    when: int = 0,
) -> None:
    about = tarfile.TarInfo(name)
    about.mtime = when
    about.type, about.mode, about.size, about.linkname = kind, mode, len(data), target
    tar.addfile(about, io.BytesIO(data))


def _debootstrap(archive: IO[bytes]) -> None:
    """A minimal Debian of packages, from the mirror that apt uses."""
    policy = subprocess.run(["apt-cache", "policy"], capture_output=True, text=True).stdout
    mirror = re.search(r"\d+ (https?://\S+) ", policy)
    if os.getuid() or mirror is None or not os.path.exists("/usr/sbin/debootstrap"):
        raise SandboxUnavailable(
            "this route needs root, a mirror that apt uses, and apt-get install debootstrap"
        )
    with tempfile.TemporaryDirectory(prefix="instar-image-") as folder:
        root = os.path.join(folder, "root")
        done = subprocess.run(
            ["/usr/sbin/debootstrap", "--variant=minbase", "--include=python3", "bookworm", root,
             mirror[1]],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise SandboxUnavailable(f"debootstrap failed: {done.stdout.strip()[-300:]}")
        os.makedirs(os.path.join(root, "work"), exist_ok=True)
        subprocess.run(
            ["tar", "-C", root, "--exclude=./dev/*", "--exclude=./var/cache/*",
             "--exclude=./var/lib/apt/lists/*", "--exclude=./var/log/*", "-c", "."],
            stdout=archive, check=True,
        )  # fmt: skip


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m environments.sandbox.image", description="Make the Docker sandbox's image."
    )
    parser.add_argument("--name", default=IMAGE, help=f"name and tag (default: {IMAGE})")
    parser.add_argument("--from", dest="route", choices=ROUTES, default="auto")
    parser.add_argument("--again", action="store_true", help="make it even if there is one")
    options = parser.parse_args()
    try:
        print(ensure_image(options.name, options.route, options.again))  # noqa: T201
    except SandboxUnavailable as error:
        sys.exit(f"image: {error}")


if __name__ == "__main__":
    main()
