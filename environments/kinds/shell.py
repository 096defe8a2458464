"""Tasks of a system's administrator: a shell script does the work, a check says whether it did.

The script runs as root of a sandbox whose file system lasts (``make_sandbox(root=True)``). The
check runs after it, when none of its processes is left, with programs of the read-only ``/usr``
and an environment of its own. What the script could still use to change those programs (libraries
loaded into every program, links in ``/etc/alternatives``) is looked at first, from outside or
with a program that loads no library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from environments.base import Action, EnvironmentFailure, StepResult, Tool
from environments.calls import clean
from environments.kinds.answer import code_of
from environments.sandbox.base import ExecResult, Limits, Sandbox

MOST_CHARS = 64_000  # of a script
SHOWN_CHARS = 400
SCRIPT_LIMITS = Limits(
    wall_s=30.0, cpu_s=10, processes=64
)  # some tasks ask for a script that waits
# The task's own scripts may take their time: a busy machine must not turn it into a failure.
TRUSTED_LIMITS = Limits(wall_s=60.0, cpu_s=60, processes=64)
SHELL = Tool(
    name="shell",
    description="A bash script, run by root. The first one that exits with 0 is your answer; "
    "what a failed one did is undone.",
    parameters={
        "type": "object",
        "properties": {"script": {"type": "string", "contentMediaType": "text/x-shellscript"}},
        "required": ["script"],
    },
)
_BASH = ("/usr/bin/env", "-i", "-C", "/", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
         "LANG=C.UTF-8", "USER=root", "/bin/bash", "--norc", "--noprofile", "-c")  # fmt: skip
# A file that makes every program load libraries. ldconfig is linked statically: it loads none.
_LOADS = ("/etc/ld.so.preload", "/etc/ld.so.cache")
_LOOK = ("/usr/sbin/ldconfig", "-p", "-C")
_LINKS = "/usr/bin/find /etc/alternatives -printf '%p %y %l\\n' | /usr/bin/sort"


class ShellAnswer:
    """One task; the first script that exits with 0 is checked.

    Args:
        prompt: the task, which is the first observation.
        before: script that makes the system as the task wants it.
        check: script that exits with 0 when the task is done.
        sandbox: makes a sandbox, given ``root=True``.
    """

    def __init__(
        self, prompt: str, before: str, check: str, sandbox: Callable[..., Sandbox]
    ) -> None:
        self._prompt, self._before, self._check = prompt, before, check
        self._make_sandbox = sandbox
        self._sandbox: Sandbox | None = None
        self._links = ""
        self._over = False

    @property
    def tools(self) -> Sequence[Tool]:
        """The one tool, ``shell``."""
        return (SHELL,)

    def start(self) -> str:
        """The task."""
        return self._prompt

    def step(self, action: Action) -> StepResult:
        """Run the action's script.

        Raises:
            SandboxFailure, SandboxUnavailable: the sandbox broke or cannot be made.
            EnvironmentFailure: the episode is over, or the system cannot be made ready.
        """
        if self._over:
            raise EnvironmentFailure("the episode is over: make a new environment")
        script = code_of(action, SHELL)
        if isinstance(script, StepResult):
            return script
        if not script.strip() or "\0" in script or len(script) > MOST_CHARS:
            return StepResult(
                observation="The script is empty, too long, or has NUL characters.",
                error="bad script",
            )
        sandbox = self._ready()
        result = _run(sandbox, clean(script), SCRIPT_LIMITS)
        if result.outcome != "ok":
            self._drop()
            return StepResult(observation=_failure(result), error="script failed")
        self._over = True
        done = self._untouched(sandbox) and (
            _run(sandbox, self._check, TRUSTED_LIMITS).outcome == "ok"
        )
        return StepResult(
            observation=_shown("Done.", result.stdout), reward=float(done), terminated=True
        )

    def close(self) -> None:
        """Close the sandbox; safe to call twice."""
        self._over = True
        self._drop()

    def _drop(self) -> None:
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None

    def _ready(self) -> Sandbox:
        """A fresh system in which nothing but the task's own script has run."""
        if self._sandbox is None:
            self._sandbox = self._make_sandbox(root=True)
            self._links = _run(self._sandbox, _LINKS, TRUSTED_LIMITS).stdout
            made = _run(self._sandbox, self._before or "true", TRUSTED_LIMITS)
            if made.outcome != "ok":
                said = (made.stderr.strip().splitlines() or [made.outcome])[-1]
                raise EnvironmentFailure(f"the task's first script failed: {said}")
        return self._sandbox

    def _untouched(self, sandbox: Sandbox) -> bool:
        """Whether the programs that check the system are still the system's own."""
        for path in _LOADS:
            said = sandbox.exec([*_LOOK, path], limits=TRUSTED_LIMITS)
            if said.outcome == "ok" or "No such file or directory" not in said.stderr:
                return False
        return _run(sandbox, _LINKS, TRUSTED_LIMITS).stdout == self._links


def _run(sandbox: Sandbox, script: str, limits: Limits) -> ExecResult:
    return sandbox.exec([*_BASH, script], limits=limits)


def _failure(result: ExecResult) -> str:
    if result.outcome == "timeout":
        return "Error: the script took too long and was stopped; what it did is undone."
    if result.exit_code is None:
        return f"Error: the script was stopped ({result.outcome}); what it did is undone."
    said = result.stderr.strip() or result.stdout.strip()
    return _shown(f"Error: exit status {result.exit_code}; what it did is undone.", said)


def _shown(first: str, text: str) -> str:
    text = text.strip()
    text = text if len(text) <= SHOWN_CHARS else "... " + text[4 - SHOWN_CHARS :]
    return f"{first}\n{text}" if text else first
