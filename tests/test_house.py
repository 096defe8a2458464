"""The rules of the house that a program can check."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("agent", "environments", "memory")
README = ROOT / "README.md"
MAX_LINES = 450

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "environments/README.md",
    "agent/evolution/README.md",
)

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def tracked_files() -> list[Path]:
    """Files that git tracks or would track; without git, every file outside dot-folders."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [p for p in ROOT.rglob("*") if p.relative_to(ROOT).parts[0] not in SCRATCH]
    return [p for p in paths if p.is_file()]


SCRATCH = {".git", ".venv", ".cache", "runs", "build", "dist"}


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.split(".")[0]


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("environments", {"agent", "memory"}), ("memory", {"agent", "environments"})],
)
def test_imports_run_one_way(package: str, forbidden: set[str]) -> None:
    assert modules(package)
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(package)
        for line, name in imported(path)
        if name in forbidden
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_stay_inside_their_package() -> None:
    """A relative import never climbs out of a top-level package."""
    for package in PACKAGES:
        for path in modules(package):
            depth = len(path.relative_to(ROOT).parts) - 1
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom):
                    assert node.level <= depth, f"{path}:{node.lineno}"


@pytest.mark.parametrize("name", [*PACKAGES, "agent.cli", "environments.suites"])
def test_importing_does_nothing_else(name: str, tmp_path: Path) -> None:
    """No heavy library is loaded, nothing is printed, no file or thread is made."""
    program = (
        "import sys, threading\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"import {name}\n"
        "heavy = {'torch', 'transformers', 'peft', 'chromadb', 'sentence_transformers', "
        "'reasoning_gym', 'fastapi', 'uvicorn', 'ray'}\n"
        "assert not heavy & set(sys.modules), sorted(heavy & set(sys.modules))\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def test_no_file_grows_too_long() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for package in PACKAGES
        for path in modules(package)
        if (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert not long, f"more than {MAX_LINES} lines, so it does two jobs: {long}"


# Spelt in parts, so that this file does not contain what it looks for.
HOSTS = [
    ("pypi", "org"),
    ("pythonhosted", "org"),
    ("npmjs", "org"),
    ("pytorch", "org/whl"),
    ("anaconda", "org"),
    ("crates", "io"),
    ("deb.debian", "org"),
    ("archive.ubuntu", "com"),
    ("hub.docker", "com"),
    ("ghcr", "io"),
    ("quay", "io"),
]
PATHS = [
    ("work", "main"),
    ("work", "shared"),
    ("root", r"\."),
    ("home", r"[a-z][\w.-]*/"),
    ("Users", r"[A-Za-z][\w.-]*/"),
    ("opt", "wheels"),
    ("opt", "pypi"),
    ("tmp", "w/"),
]
FORBIDDEN = re.compile(
    "|".join(
        [rf"\b{re.escape(host)}\.{re.escape(rest)}" for host, rest in HOSTS]
        + [rf"(?<![\w.~-])/{top}/{rest}" for top, rest in PATHS]
    )
)


def test_nothing_names_a_registry_or_a_path_of_one_machine() -> None:
    files = tracked_files()
    assert ROOT / "pyproject.toml" in files
    wrong = []
    for path in files:
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if found := FORBIDDEN.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number} names {found.group()}")
    assert not wrong, "\n".join(wrong)


def test_the_search_for_hosts_and_paths_finds_them() -> None:
    for host, rest in HOSTS:
        assert FORBIDDEN.search(f"see https://files.{host}.{rest}/x")
    for parts in (("work", "main"), ("home", "me", "x"), ("root", ".cache"), ("opt", "wheels")):
        assert FORBIDDEN.search("'/" + "/".join(parts) + "'")
    assert not FORBIDDEN.search("https://github.com/owner/name /usr/bin/python3 /tmp ~/.cache")


def python_blocks() -> list[tuple[str, str]]:
    """Every ```python block of the documents that users read: where it stands, and its text."""
    return [
        (f"{name}-{number}", body)
        for name in DOCUMENTS
        if (ROOT / name).is_file()
        for number, (language, body) in enumerate(FENCE.findall((ROOT / name).read_text()), 1)
        if language == "python"
    ]


def test_readme_has_examples() -> None:
    assert README.is_file(), "README.md is missing"
    assert any(name.startswith("README.md") for name, _ in python_blocks()), "no ```python block"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("block", [pytest.param(text, id=name) for name, text in python_blocks()])
def test_documented_python_runs(block: str, tmp_path: Path) -> None:
    """Each block is a whole program: it runs alone, in an empty folder."""
    (tmp_path / "example.py").write_text(block)
    program = f"import sys; sys.path[:0] = [{str(ROOT)!r}, '.']; import runpy; "
    program += "runpy.run_path('example.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_tables_of_the_documents_come_from_the_results() -> None:
    done = subprocess.run(
        [sys.executable, "-B", "benchmarks/tables.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def tree_paths(block: str) -> list[str]:
    """Paths that an annotated tree lists.

    A line is an indentation (spaces or box-drawing lines), one or several names, and after two
    spaces or a ``#`` what they are for. A name that ends in ``/`` holds the deeper lines below.
    """
    paths: list[str] = []
    open_folders: list[tuple[int, str]] = []
    for line in block.splitlines():
        bare = re.sub(r"[│├└─]", " ", line)
        entry = bare.strip()
        if not entry or entry.startswith("#"):
            continue
        indent = len(bare) - len(bare.lstrip())
        names = re.split(r"\s{2,}|\s#", entry, maxsplit=1)[0].split()
        while open_folders and open_folders[-1][0] >= indent:
            open_folders.pop()
        parent = "".join(folder for _, folder in open_folders)
        for name in names:
            if name not in {"…", "...", "·", ","}:
                paths.append(parent + name.rstrip(","))
        if names[-1].endswith("/"):
            open_folders.append((indent, names[-1]))
    return paths


def readme_tree() -> list[str]:
    """README's tree: the fenced block that opens a folder for each package."""
    assert README.is_file(), "README.md is missing"
    for _, body in FENCE.findall(README.read_text()):
        if all(re.search(rf"^[\s│├└─]*{package}/", body, re.MULTILINE) for package in PACKAGES):
            return [path.removeprefix("instar/") for path in tree_paths(body) if path != "instar/"]
    pytest.fail("README.md has no fenced block that lists " + ", ".join(PACKAGES))


def test_tree_is_read_right() -> None:
    drawn = (
        "instar/\n├── agent/    acts\n│   ├── a.py b.py  two\n│   └── sub/  # deep\n└── Makefile\n"
    )
    assert tree_paths(drawn) == [
        "instar/",
        "instar/agent/",
        "instar/agent/a.py",
        "instar/agent/b.py",
        "instar/agent/sub/",
        "instar/Makefile",
    ]
    indented = "agent/   acts\n  a.py · b.py …   two\n  sub/\n    c.py\nmemory/\n"
    assert tree_paths(indented) == [
        "agent/",
        "agent/a.py",
        "agent/b.py",
        "agent/sub/",
        "agent/sub/c.py",
        "memory/",
    ]


def test_everything_in_the_readme_tree_exists() -> None:
    missing = [
        path
        for path in readme_tree()
        if not ((ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file())
    ]
    assert not missing, f"README's tree lists what is not there: {missing}"


def test_every_module_is_in_the_readme_tree() -> None:
    listed = {path.rstrip("/") for path in readme_tree()}
    kept = {path.relative_to(ROOT).parts[:2] for path in tracked_files()}
    there = {
        "/".join(parts)
        for parts in kept
        if parts[0] in PACKAGES
        and len(parts) == 2
        and parts[1] != "__init__.py"
        and ((ROOT / "/".join(parts)).is_dir() or parts[1].endswith(".py"))
    }
    assert there, "the packages are empty"
    assert not there - listed, f"README's tree leaves out {sorted(there - listed)}"
