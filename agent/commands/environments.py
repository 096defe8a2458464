"""The commands for an environment of one's own: ``instar check``, ``instar new-env``."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from environments.base import Suite

# Options that all commands share.
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Unsafe = Annotated[
    bool,
    typer.Option(
        "--i-know-this-is-unsafe",
        help="Allow sandbox.backend=none: what the agent writes runs as you, on this machine.",
    ),
]
UNSAFE = "[bold red]no sandbox: what the model writes runs on this machine, as you[/bold red]"


def check(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="pkg.mod:Class [key=value ...]",
            help="An environment of your own (or a shipped suite's name), then its options "
            "(size=3) and where it runs code (sandbox.backend=docker).",
        ),
    ],
    limit: Annotated[int, typer.Option(min=1, help="How many tasks to play.")] = 20,
    unsafe: Unsafe = False,
    as_json: AsJson = False,
) -> None:
    """Check an environment: what is wrong with it, each in a sentence; status 1 if anything is.

    Example: instar check my_shop:MyShop --limit 5
    """
    from environments.checks import examine_suite

    with _stdout_to_stderr():  # what the environment prints is no part of the report
        suite, backend = _load(what, unsafe)
        report = examine_suite(suite, limit)
    if as_json:
        found = {"ok": not report.problems, "sandbox": backend, **report.model_dump(mode="json")}
        typer.echo(json.dumps(found, indent=1))
    else:
        out = Console(highlight=False, soft_wrap=True)
        out.print(Text(f"{suite.name}: {suite.description}", style="bold"))
        for problem in report.problems:
            out.print(Text(f"PROBLEM {problem}", style="red"))
        for name, told in report.checked.items():
            out.print(Text(f"{name}: {told}"))
        if backend == "none":
            out.print(UNSAFE)
        number = len(report.problems)
        out.print(
            f"{number} problem{'s' * (number > 1)}" if number else "[green]all is well[/green]"
        )
    if report.problems:
        raise typer.Exit(1)


def _load(what: list[str], unsafe: bool) -> tuple[Suite, str]:
    """The suite that the words name, with its options and its sandbox, and that one's backend."""
    import yaml

    from agent.config import ConfigError, load_config
    from environments.sandbox import make_sandbox
    from environments.suites import load_suite

    options: dict[str, Any] = {}
    for word in (word for word in what[1:] if not word.startswith("sandbox.")):
        key, equals, value = word.removeprefix("suite.options.").partition("=")
        if not equals:
            raise ConfigError(f"{word!r} is no option of the suite; write key=value")
        try:
            options[key] = yaml.safe_load(value)
        except (yaml.YAMLError, RecursionError):
            raise ConfigError(f"{word!r}: the value cannot be read as YAML") from None
    words = [word for word in what[1:] if word.startswith("sandbox.")]
    settings = load_config(None, words).sandbox
    sandbox = partial(
        make_sandbox, settings.backend, settings.limits, unsafe=unsafe, options=settings.options
    )
    if words:
        sandbox().close()  # missing or unsafe? say so now
    return load_suite(what[0], sandbox=sandbox, options=options), settings.backend


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Until it ends, all that is printed, by whatever means, goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def new_env(
    name: Annotated[str, typer.Argument(help="The module's name, such as my_shop.")],
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where to.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Write an environment of your own to begin with: a class, its tasks and its test.

    Example: instar new-env my_shop
    """
    from environments.template import class_name, write_template

    written = [str(path) for path in write_template(name, folder)]
    path = f"{name}:{class_name(name)}"
    if as_json:
        typer.echo(json.dumps({"files": written, "path": path}, indent=1))
        return
    out = Console(highlight=False, soft_wrap=True)
    out.print(f"wrote {', '.join(written)}")
    at = "" if folder == Path() else f"cd {folder}; "
    for what in (f"instar check {path}", f"instar evolve --env {path} --run runs/{name}"):
        out.print(f"  {at}{what}")


def suite_setting(words: list[str], env: str | None, suite: str | None) -> list[str]:
    """``--env`` and ``--suite`` as the setting that they stand for."""
    from agent.config import ConfigError

    given = {"--env": env, "--suite": suite}
    given |= {w: w for w in words if w.startswith("suite.name=")}
    named = [option for option, value in given.items() if value is not None]
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named)} both say which suite; give one of them")
    if env is not None and ":" not in env:
        raise ConfigError(f"--env {env}: give an import path, package.module:Class")
    return [f"suite.name={env or suite}"] if env or suite else []
