"""The command ``instar``.

Every mistake a user can make ends in one line on standard error and exit status 2; what the
machine or another process did ends in one line and status 1; Ctrl-C in status 130.
"""

from __future__ import annotations

import json
import sys
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from agent.commands.adapters import adapters_app
from agent.commands.environments import UNSAFE, AsJson, Unsafe, check, new_env, suite_setting
from agent.commands.memory import episodes, memory_app
from agent.commands.recipes import recipes_app
from agent.commands.view import view
from agent.machine import share_cores

app = typer.Typer(
    name="instar",
    help="Evolve an LLM agent in memory and in weights, behind one gate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(memory_app, name="memory")
app.add_typer(adapters_app, name="adapters")
app.add_typer(recipes_app, name="recipes")

RunFolder = Annotated[Path, typer.Option("--run", metavar="DIR", help="The run folder.")]
INTERRUPTED = 130  # what Typer makes of Ctrl-C as well


def main() -> None:
    """Entry point: commands, and errors as one line."""
    share_cores()
    sys.path.insert(0, "")  # suites by import path are found in the current folder
    err = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        status = app(standalone_mode=False) or 0
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Exception as error:
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
            typer.echo(context.get_help())
            sys.exit(2)
        message = str(error)
        if hasattr(error, "format_message"):  # a mistake in the command line, found by Typer
            path = context.command_path if context is not None else "instar"
            message = f"{error.format_message().rstrip('.')}; see {path} --help"
            status = 2
        elif (known := _status(error)) is not None:
            status = known
        else:
            raise
        err.print(Text(f"instar: {' '.join(message.split())}"), style="red")
    if status == INTERRUPTED:
        goes_on = "; nothing is lost: the same command goes on where it stopped"
        err.print(f"interrupted{goes_on if sys.argv[1:2] == ['evolve'] else ''}")
    sys.exit(status)


def _status(error: BaseException) -> int | None:
    """Exit status of an error that is told in one line; None for a defect of ours."""
    from agent.config import ConfigError
    from agent.policies.base import PolicyFailure
    from agent.policies.models import ModelError
    from agent.run_folder import RunError
    from agent.training.adapter import AdapterError
    from environments.base import SuiteError
    from environments.sandbox.base import SandboxFailure, SandboxUnavailable
    from memory.embed import EmbedderError
    from memory.index import VectorIndexError
    from memory.ledger import LedgerError
    from memory.lock import LockError
    from memory.transfer import TransferError

    if isinstance(error, LockError):
        return 1
    if isinstance(
        error,
        ConfigError | ModelError | SuiteError | SandboxUnavailable | EmbedderError | TransferError,
    ):
        return 2
    if isinstance(
        error,
        RunError | LedgerError | VectorIndexError | AdapterError | SandboxFailure | PolicyFailure,
    ):
        return 1
    return 1 if isinstance(error, OSError | MemoryError | FloatingPointError) else None


@app.command()
def evolve(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE|FILE.yaml ...] [key=value ...]",
            help="Recipes (see `instar recipes`) or YAML files, each laid over those before it, "
            "then settings that override them.",
        ),
    ] = None,
    run: RunFolder = Path("runs/default"),
    env: Annotated[
        str | None,
        typer.Option(metavar="pkg.mod:Class", help="Your own environment; sets suite.name."),
    ] = None,
    suite: Annotated[str | None, typer.Option(help="A shipped suite; sets suite.name.")] = None,
    recipe: Annotated[
        list[str] | None, typer.Option(help="A recipe, as if it stood first; may be repeated.")
    ] = None,
    unsafe: Unsafe = False,
    as_json: AsJson = False,
) -> None:
    """Evolve an agent; continues the run if its folder exists.

    Example: instar evolve quickstart generations=5 --run runs/long
    Example: instar evolve banking77 expel --run runs/banking77-expel
    """
    from agent.config import load_config
    from agent.evolution.cycle import evolve as evolve_run
    from agent.evolution.final import summarise, test
    from agent.idle import idle, overruled
    from agent.report.terminal import family_table, test_table
    from agent.run import Run

    words = [*(recipe or []), *(what or []), *suite_setting(what or [], env, suite)]
    sources = list(takewhile(lambda word: "=" not in word, words))
    overrides = words[len(sources) :]
    stored = run / "config.yaml"
    if not sources and overrides and stored.is_file():
        sources = [str(stored)]
    config = load_config(sources, overrides) if words or not stored.exists() else None
    with Run(run, config, console=_console(as_json), quiet=as_json, unsafe=unsafe) as opened:
        opened.print(f"[bold]instar[/bold] · {opened.config.suite.name} · {run}")
        if opened.config.sandbox.backend == "none":
            opened.print(UNSAFE)
        for told in [*overruled(opened.config, sources), *idle(opened.config, overrides)]:
            opened.print(f"[yellow]{escape(told)}[/yellow]")
        evolve_run(opened)
        summary = test(opened) if opened.config.test.run else summarise(opened)
        if "test" in summary:
            opened.print(test_table(summary))
            opened.print(family_table(summary["families"]))
        if summary["unsafe"]:
            opened.print(UNSAFE)
        opened.print(f"[dim]{run / 'report.html'} · {run / 'summary.json'}[/dim]")
    if as_json:
        _print_json(summary)


@app.command("run")
def run_suite(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SUITE] [key=value ...]",
            help="A suite's name or import path, then settings, as for evolve.",
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="DIR", help="The run whose agent acts; none: base model."),
    ] = None,
    generation: Annotated[
        int | None, typer.Option(help="Which generation acts; default: the incumbent.")
    ] = None,
    memory: Annotated[str, typer.Option(help="on or off: whether it sees its memory.")] = "on",
    split: Annotated[str, typer.Option(help="train, gate, retention or test.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Most tasks to run.")] = None,
    show: Annotated[int, typer.Option(min=0, help="How many episodes to print.")] = 0,
    unsafe: Unsafe = False,
    as_json: AsJson = False,
) -> None:
    """Run an agent on a suite, without learning from it.

    Example: instar run reasoning-gym --run runs/quickstart --generation 2 --memory off --limit 20
    """
    from agent.act import act
    from agent.report.terminal import episode_text, family_table

    words = what or []
    suite = words[0] if words and "=" not in words[0] else None
    result = act(
        suite,
        run,
        overrides=words[1:] if suite else words,
        unsafe=unsafe,
        generation=generation,
        memory=memory,
        split=split,
        limit=limit,
        console=_console(as_json),
        quiet=as_json,
    )
    if as_json:
        _print_json(result)
        return
    out = Console()
    for episode in result["episodes"][:show]:
        out.print(episode_text(episode))
    s = result["success"]
    out.print(
        f"{result['suite']} · {result['split']} · weights {result['weights']} · "
        f"memory {result['memory'] or 'none'}: "
        f"[bold]{s['mean']:.3f}[/bold] [{s['low']:.3f}, {s['high']:.3f}] on {s['n']} tasks, "
        f"{result['tokens']} tokens, {result['broken']} broken episodes"
    )
    if result["sandbox"] == "none":
        out.print(UNSAFE)
    out.print(family_table({f: {"success": v} for f, v in result["families"].items()}))


@app.command()
def generations(
    n: Annotated[
        int | None, typer.Argument(metavar="[GEN]", help="Only this one, with its account.")
    ] = None,
    run: RunFolder = Path("runs/default"),
    as_json: AsJson = False,
) -> None:
    """List a run's generations and decisions; of one, also what was learnt and lost.

    Example: instar generations 2 --run runs/quickstart
    """
    from agent.config import ConfigError
    from agent.report.terminal import account_page, two_by_two
    from agent.run_folder import open_ledger
    from memory.records import Generation

    with open_ledger(run) as ledger:
        every = [generation for _, generation in ledger.all(Generation)]
    if n is not None:
        known = f"0 to {every[-1].n}" if every else "none yet"
        every = [generation for generation in every if generation.n == n]
        if not every:
            raise ConfigError(f"{run} has no generation {n}; it has {known}")
    if as_json:
        _print_json([generation.model_dump(mode="json") for generation in every])
        return
    out = Console(highlight=False)
    if n is not None:
        out.print(two_by_two(every[0]))
        out.print(account_page(every[0]), soft_wrap=True)
        return
    for g in every:
        score = g.cells.get(g.cell)
        shown = f"{score.mean:.2f} [{score.low:.2f}, {score.high:.2f}]" if score else "–"
        style = {"promoted": "green", "kept": "yellow", "rollback": "magenta"}.get(g.decision, "")
        line = Text.assemble(
            (f"{g.n:3} ", "bold"), (f"{g.decision:9}", style), f"gate {shown}  weights {g.weights}"
        )
        out.print(line.append(f"  memory {g.memory[:8] or 'none'}"))
        out.print(Padding(Text(g.reason, "dim"), (0, 0, 0, 4)))


app.command()(episodes)


@app.command()
def rollback(
    n: Annotated[int, typer.Argument(help="The generation to go back to.")],
    run: RunFolder = Path("runs/default"),
    as_json: AsJson = False,
) -> None:
    """Make an earlier generation the incumbent again; nothing is deleted.

    Example: instar rollback 1 --run runs/quickstart
    """
    from agent.run import Run

    with Run(run, quiet=as_json) as opened:
        generation = opened.roll_back(n)
    if as_json:
        _print_json(generation.model_dump(mode="json"))
    else:
        Console().print(
            f"generation {generation.n}: back to generation {n} "
            f"(weights {generation.weights}, memory {generation.memory[:8] or 'none'})"
        )


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The run folder.")],
    as_json: AsJson = False,
) -> None:
    """Audit a run: hashes, lineage, split leakage, adapters, index against ledger.

    Example: instar verify runs/quickstart
    """
    from agent.verify import verify as audit

    checked, problems = audit(folder)
    if as_json:
        _print_json({"ok": not problems, "checked": checked, "problems": problems})
    else:
        out = Console(highlight=False, soft_wrap=True)
        for name, count in checked.items():
            out.print(f"{name}: {count}")
        for problem in problems:
            out.print(Text(f"PROBLEM {problem}", style="red"))
        many = f"{len(problems)} problem{'s' * (len(problems) != 1)}"
        out.print(many if problems else "[green]nothing is off[/green]")
    if problems:
        raise typer.Exit(1)


@app.command()
def suites(
    name: Annotated[str | None, typer.Argument(help="Show this one's options.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the suites that are shipped, or one suite's options.

    Example: instar suites textworld-express
    """
    from environments.suites import describe_suites

    described = describe_suites(name)
    if as_json:
        _print_json(described)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("suite" if name is None else "option", no_wrap=True)
    table.add_column("what it is" if name is None else "default", overflow="fold")
    for suite in described:
        if name is None:
            table.add_row(suite["name"], suite["description"])
        for option, value in suite["options"].items() if name is not None else ():
            table.add_row(option, Text(json.dumps(value)))
    Console().print(table)


app.command()(check)
app.command("new-env")(new_env)
app.command()(view)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """What this machine can do, and what to install for the rest.

    Example: instar doctor
    """
    from agent.doctor import diagnose, render

    findings = diagnose()
    if as_json:
        _print_json([finding.model_dump(mode="json") for finding in findings])
    else:
        Console().print(render(findings))


def _console(as_json: bool) -> Console:
    return Console(stderr=True) if as_json else Console()


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1))


if __name__ == "__main__":
    main()
