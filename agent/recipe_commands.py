"""The commands ``instar recipes`` and ``instar recipes show NAME``."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent.environment_commands import AsJson

recipes_app = typer.Typer(
    help="Recipes: suites and published methods as settings.", invoke_without_command=True
)


@recipes_app.callback()
def listed(context: typer.Context, as_json: AsJson = False) -> None:
    """List the recipes, each with the first line that it says about itself.

    Example: instar recipes
    """
    from agent.config import find_recipe, recipes

    if context.invoked_subcommand is not None:
        return
    found = {name: _first(find_recipe(name).read_text()) for name in recipes()}
    if as_json:
        typer.echo(json.dumps([{"name": n, "description": d} for n, d in found.items()], indent=1))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for name, description in found.items():
        table.add_row(name, Text(description))
    Console().print(table)


@recipes_app.command()
def show(
    name: Annotated[str, typer.Argument(help="The recipe's name, or a YAML file.")],
    as_json: AsJson = False,
) -> None:
    """Show a recipe as it is written; with --json, all settings that it comes to.

    Example: instar recipes show expel
    """
    from agent.config import find_recipe, load_config

    if as_json:
        typer.echo(json.dumps(load_config(name).model_dump(mode="json"), indent=1))
    else:
        typer.echo(find_recipe(name).read_text().rstrip())


def _first(body: str) -> str:
    """The first line of a recipe's head comment."""
    return body.partition("\n")[0].lstrip("# ") if body.startswith("#") else ""
