"""The commands for a run's evolved weights: ``instar adapters …``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent.commands.environments import AsJson, Unsafe

adapters_app = typer.Typer(
    no_args_is_help=True,
    help="Evolved weights: where they come from, merging, export, what can go.\n\n"
    "Example: instar adapters list --run runs/quickstart",
)

RunFolder = Annotated[Path, typer.Option("--run", metavar="DIR", help="The run folder.")]
Version = Annotated[str, typer.Argument(help="The adapter's version, or its beginning.")]
DEFAULT = Path("runs/default")


@adapters_app.command("list")
def list_(run: RunFolder = DEFAULT, as_json: AsJson = False) -> None:
    """List every adapter of a run, those that did not go live included.

    Example: instar adapters list --run runs/quickstart
    """
    from agent.adapters import listing

    rows = listing(run)
    if as_json:
        _print_json(rows)
        return
    if not rows:
        typer.echo("no adapter yet")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("version", "gen", "state", "made by", "parents", "examples", "loss", "size"):
        right = name in ("gen", "examples", "size")
        table.add_column(name, no_wrap=name != "parents", justify="right" if right else "left")
    for row in rows:
        loss = row["loss"]
        table.add_row(
            row["version"],
            str(row["generation"]),
            Text(row["state"], {"live": "green", "pruned": "dim"}.get(row["state"], "")),
            row["objective"] + (" verifier" if row["role"] == "verifier" else ""),
            ", ".join(p[:6] for p in row["parents"]),
            str(row["examples"]),
            f"{loss['first']:.2f} → {loss['last']:.2f}" if loss else "–",
            _size(row["bytes"]) if row["bytes"] else "–",
        )
    Console().print(table)


@adapters_app.command()
def show(version: Version, run: RunFolder = DEFAULT, as_json: AsJson = False) -> None:
    """Show an adapter's lineage: sources, data, settings, parents, what the gate measured.

    Example: instar adapters show a3f2 --run runs/quickstart
    """
    from agent.adapters import detail
    from agent.training.export import amounts

    told = detail(run, version)
    if as_json:
        _print_json(told)
        return
    out = Console(highlight=False, soft_wrap=True, markup=False)
    loss = told["loss"]
    lines = {
        "state": told["state"],
        "role": told["role"],
        "generation": told["generation"],
        "method": told["method"],
        "parents": ", ".join(told["parents"]),
        "merged by": told["merge"] and json.dumps(told["merge"]),
        "fitness": told["fitness"] is not None
        and f"{told['fitness']:.3f} of {told['tries']} tries",
        "base model": f"{told['base']} {told['model']}",
        "data": told["data"],
        "configuration": told["config"],
        "examples": f"{told['examples']} of {amounts(told['kinds'])}",
        "families": ", ".join(f"{f} {n}" for f, n in sorted(told["families"].items())),
        "loss": loss and f"{loss['first']:.3f} to {loss['last']:.3f} in {loss['steps']} steps",
        "tokens read": told["tokens"],
        "folder": f"{told['folder']} ({_size(told['bytes'])})",
    }
    out.print(Text(told["version"], "bold"))
    for name, value in lines.items():
        if value:
            out.print(Text.assemble((f"  {name:14}", "dim"), str(value)))
    for test in told["gate"]:
        out.print(Text(f"  gate of generation {test['generation']}: {test['decision']}", "bold"))
        for cell, s in test["cells"].items():
            out.print(
                f"    {cell:10} {s['mean']:.3f} [{s['low']:.3f}, {s['high']:.3f}] of {s['n']}"
            )
        out.print(Text(f"    {test['reason']}", "dim"))
    for kind, slots in told["kinds"].items():
        if slots:
            out.print(Text(f"  {kind}", "bold"))
        for slot in slots:
            out.print(f"    {slot}")
    for parent in told["made_of"]:
        sources = amounts(parent.get("kinds", {}))
        out.print(f"  made of {parent['version']}: {sources}, {parent.get('objective')}")


@adapters_app.command()
def merge(
    versions: Annotated[list[str], typer.Argument(help="Versions, or their beginnings.")],
    run: RunFolder = DEFAULT,
    how: Annotated[str, typer.Option(help="soup, ties, dare, evolve or ama.")] = "soup",
    greedy: Annotated[
        bool, typer.Option("--greedy", help="soup: keep only members that help.")
    ] = False,
    density: Annotated[
        float | None, typer.Option(help="ties, dare: the share of a change that is kept.")
    ] = None,
    scale: Annotated[float | None, typer.Option(help="ties, dare: of the merged change.")] = None,
    mean: Annotated[float | None, typer.Option(help="ama: how far from the base.")] = None,
    budget: Annotated[int | None, typer.Option(help="evolve, ama: merges tried.")] = None,
    tasks: Annotated[int | None, typer.Option(help="Train tasks of each family.")] = None,
    rank: Annotated[int | None, typer.Option(help="Of the result, at most.")] = None,
    unsafe: Unsafe = False,
    as_json: AsJson = False,
) -> None:
    """Merge adapters into a new one, which is stored and not live.

    Example: instar adapters merge a3f2 a91c --how ties --run runs/quickstart
    """
    from agent.adapters import detail
    from agent.adapters import merge as make

    given = {
        "how": how, "greedy": greedy or None, "density": density, "scale": scale, "mean": mean,
        "budget": budget, "tasks": tasks, "rank": rank,
    }  # fmt: skip
    asked = {name: value for name, value in given.items() if value is not None}
    version = make(run, versions, asked, unsafe=unsafe, quiet=as_json)
    if as_json:
        _print_json(detail(run, version))
    else:
        typer.echo(f"{version}: instar adapters show {version} --run {run}")


@adapters_app.command()
def export(
    version: Version,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to.")],
    run: RunFolder = DEFAULT,
    form: Annotated[
        str, typer.Option("--as", help="peft (an adapter's folder) or merged (a whole model).")
    ] = "peft",
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write an adapter as others load it, with a model card.

    Example: instar adapters export a3f2 out/agent --as merged --run runs/quickstart
    """
    from agent.adapters import write
    from agent.config import ConfigError
    from agent.training.export import As

    if form not in ("peft", "merged"):
        raise ConfigError(f"--as {form}: must be peft or merged")
    told = write(run, version, folder, cast(As, form), force)
    if as_json:
        _print_json(told)
    else:
        typer.echo(f"{told['version']} as {form} in {folder}: {', '.join(told['files'])}")


@adapters_app.command()
def prune(
    versions: Annotated[
        list[str] | None, typer.Argument(help="Only these; default: all that nobody needs.")
    ] = None,
    run: RunFolder = DEFAULT,
    every: Annotated[
        bool, typer.Option("--all", help="Those that only rollback would need as well.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else it is only told.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove the weights of adapters that nobody needs; their lineage stays.

    Example: instar adapters prune --yes --run runs/quickstart
    """
    from agent.adapters import prune as remove

    told = remove(run, versions or (), every=every, sure=yes)
    if as_json:
        _print_json(told)
        return
    going = told["pruned" if yes else "would_prune"]
    if not going:
        typer.echo("nothing to prune: every adapter is needed")
    else:
        says = "pruned" if yes else "to be pruned"
        typer.echo(f"{says}: {', '.join(going)} ({_size(told['bytes'])})")
    for kept in told["kept"]:
        typer.echo(f"kept: {kept['version']} ({kept['for']})")
    if going and not yes:
        typer.echo("nothing is removed yet; --yes does it, and it cannot be undone")


def _size(n: int) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e5 else f"{n / 1e3:.1f} kB"


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1))
