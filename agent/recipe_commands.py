"""The commands ``instar recipes`` and ``instar recipes show NAME``."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from agent.environment_commands import AsJson

recipes_app = typer.Typer(
    help="Recipes: suites and published methods as settings.", invoke_without_command=True
)


@recipes_app.callback()
def listed(context: typer.Context, as_json: AsJson = False) -> None:
    """List the recipes phase by phase: what each is, where it comes from, what it needs.

    Example: instar recipes
    """
    from agent.config import recipes
    from agent.recipe_parts import recipe
    from agent.report.picture import recipe_table

    if context.invoked_subcommand is not None:
        return
    found = [recipe(name) for name in recipes()]
    if as_json:
        typer.echo(json.dumps([each._asdict() for each in found], indent=1))
    else:
        Console(highlight=False).print(recipe_table(found))


@recipes_app.command()
def show(
    name: Annotated[str, typer.Argument(help="The recipe's name, or a YAML file.")],
    picture: Annotated[
        bool, typer.Option("--picture", help="The cycle, with what it chooses marked.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a recipe as it is written; with --json, all settings that it comes to.

    Example: instar recipes show expel --picture
    """
    from agent.config import Config, find_recipe, load_config

    if as_json:
        typer.echo(json.dumps(load_config(name).model_dump(mode="json"), indent=1))
    elif picture:
        from agent.recipe_parts import PHASES, enabled, parts, recipe
        from agent.report.picture import picture as drawn

        config = load_config(name)
        off = [phase for phase in PHASES if not enabled(config, phase)]
        out = Console(highlight=False)
        out.print(drawn(recipe(name), parts(config), parts(Config()), off))
    else:
        typer.echo(find_recipe(name).read_text().rstrip())
