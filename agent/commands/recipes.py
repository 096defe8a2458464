"""The commands ``instar recipes`` and ``instar recipes show NAME``."""

from __future__ import annotations

import json
from itertools import takewhile
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from agent.commands.environments import AsJson

recipes_app = typer.Typer(
    help="Recipes: suites and published methods as settings; alone, it lists them.\n\n"
    "Example: instar recipes",
    invoke_without_command=True,
)


@recipes_app.callback()
def listed(context: typer.Context, as_json: AsJson = False) -> None:
    """List the recipes phase by phase: what each is, where it comes from, what it needs."""
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
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE|FILE.yaml ... [key=value ...]", help="As for evolve; one, or a mixture."
        ),
    ],
    picture: Annotated[
        bool, typer.Option("--picture", help="The cycle, with what it chooses marked.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a recipe as it is written; of a mixture, or with --json, the settings it comes to.

    Example: instar recipes show expel --picture
    Example: instar recipes show mbpp star acquire.samples=8 --picture
    """
    from agent.config import Config, find_recipe, load_config
    from agent.idle import idle, overruled

    names = list(takewhile(lambda word: "=" not in word, what))
    overrides = what[len(names) :]
    config = load_config(names, overrides)  # a mistake in it is told, not shown
    for told in [*overruled(config, names), *idle(config, overrides)]:
        typer.echo(told, err=True)
    if as_json:
        typer.echo(json.dumps(config.model_dump(mode="json"), indent=1))
    elif picture:
        from agent.recipe_parts import PHASES, described, enabled, parts
        from agent.report.picture import picture as drawn

        off = [phase for phase in PHASES if not enabled(config, phase)]
        out = Console(highlight=False)
        out.print(drawn(described(names, what, config), parts(config), parts(Config()), off))
    elif what == names[:1]:
        typer.echo(find_recipe(what[0]).read_text().rstrip())
    else:
        typer.echo(
            yaml.safe_dump(
                _beside(*(c.model_dump(mode="json") for c in (config, Config()))), sort_keys=False
            ).rstrip()
        )


def _beside(own: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """The settings that are not the default's."""
    return {
        key: _beside(value, plain[key])
        if isinstance(value, dict) and isinstance(plain.get(key), dict)
        else value
        for key, value in own.items()
        if key not in plain or value != plain[key]
    }
