"""The Sandbox protocol: where code that a model wrote runs, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

Outcome = Literal["ok", "error", "timeout", "memory", "output"]


class SandboxUnavailable(RuntimeError):
    """The backend cannot work on this machine; the message says what to install."""


class SandboxFailure(RuntimeError):
    """The sandbox itself broke while running a command (not the command's own failure)."""


class Limits(BaseModel):
    """Hard limits of one execution.

    Args:
        wall_s: seconds of real time.
        cpu_s: seconds of processor time per process.
        memory_mb: address space per process, MiB.
        processes: processes and threads at a time.
        file_mb: largest file that may be written, MiB.
        workspace_mb: the whole workspace, MiB.
        output_bytes: bytes kept of stdout and of stderr, each; the rest is cut with a marker.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    wall_s: float = Field(5.0, gt=0)
    cpu_s: int = Field(5, ge=1)
    memory_mb: int = Field(512, ge=16)
    processes: int = Field(32, ge=1)
    file_mb: int = Field(16, ge=0)
    workspace_mb: int = Field(64, ge=1)
    output_bytes: int = Field(16_384, ge=1)


DEFAULT_LIMITS = Limits()


class ExecResult(BaseModel):
    """What one execution did.

    Args:
        outcome: ok (exit 0), error (any other exit or a signal), or the limit that ended it.
        exit_code: the exit status; negative for a signal, None where a limit ended it.
        stdout, stderr: text, undecodable bytes replaced, cut at the output limit.
        truncated: whether either stream was cut.
        seconds: real time it took.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    outcome: Outcome
    exit_code: int | None
    stdout: str
    stderr: str
    truncated: bool
    seconds: float


@runtime_checkable
class Sandbox(Protocol):
    """A workspace and a way to run programs in it. Make one per episode; close it after.

    Raises:
        SandboxUnavailable: at construction, when the backend cannot work here.
        SandboxFailure: when the backend (not the program) failed.
    """

    def exec(
        self, argv: Sequence[str], *, stdin: str = "", limits: Limits | None = None
    ) -> ExecResult:
        """Run a program in the workspace; its whole process tree is gone on return."""
        ...

    def python_argv(self) -> Sequence[str]:
        """The Python inside, isolated and without site packages; add ``-`` or ``-c CODE``."""
        ...

    def read(self, path: str) -> bytes:
        """A regular file of the workspace; links are refused (ValueError)."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Write a file of the workspace; paths that leave it are refused (ValueError)."""
        ...

    def list(self) -> Sequence[str]:
        """Relative paths of the workspace's regular files, sorted."""
        ...

    def snapshot(self) -> Mapping[str, bytes]:
        """The workspace's regular files: path and content, sorted by path.

        Writing them to another sandbox gives a grader what a program left and nothing else: no
        link, no process. Modes and empty folders are not kept.
        """
        ...

    def close(self) -> None:
        """Remove the workspace; safe to call twice."""
        ...
