"""The commands for a run's memory and episodes: ``instar memory …``, ``instar episodes``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from agent.commands.environments import AsJson

memory_app = typer.Typer(
    no_args_is_help=True,
    help="Inspect and tend what a run remembers.\n\n"
    "Example: instar memory list --run runs/quickstart",
)

RunFolder = Annotated[Path, typer.Option("--run", metavar="DIR", help="The run folder.")]

AsOf = Annotated[
    int | None,
    typer.Option("--generation", "-g", help="As of this generation; default: the incumbent."),
]
Kind = Annotated[str | None, typer.Option(help="exemplar, reflection, insight, skill or fact.")]
Status = Annotated[
    str,
    typer.Option(
        help="shadow, active, absorbed, retired or quarantined; living: the first three; all."
    ),
]
Family = Annotated[str | None, typer.Option(help="Only this family.")]
Trust = Annotated[str | None, typer.Option(help="verified, judged or untrusted.")]
Item = Annotated[str, typer.Argument(help="The item's id, or its beginning.")]
DEFAULT = Path("runs/default")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@memory_app.command("list")
def list_(
    run: RunFolder = DEFAULT,
    generation: AsOf = None,
    kind: Kind = None,
    status: Status = "living",
    family: Family = None,
    trust: Trust = None,
    born: Annotated[int | None, typer.Option(help="Made in this generation.")] = None,
    min_uses: Annotated[int, typer.Option(min=0, help="Shown in so many episodes.")] = 0,
    text: Annotated[str, typer.Option(help="Says this.")] = "",
    as_json: AsJson = False,
) -> None:
    """List what a generation remembers.

    Example: instar memory list --run runs/quickstart --status active --family gcd
    """
    from agent.inspection import Filter, listing, outside
    from agent.report.memory import item_table, tally

    only = Filter(kind, status, family, trust, born, min_uses, text)
    rows = listing(run, generation=generation, only=only)
    if as_json:
        _print_json(rows)
    elif rows:
        _print(item_table(_visible(rows)), tally(rows))
    else:
        told = ["nothing passes" if only != Filter() else "the memory is empty"]
        if listing(run, generation=generation, only=only._replace(status="all")):
            told.append("--status all looks at what is gone as well")
        if n := outside(run, generation):
            told.append(f"items stored that this generation's memory has not: {n}")
        _print("; ".join(told))


@memory_app.command()
def show(
    item: Item, run: RunFolder = DEFAULT, generation: AsOf = None, as_json: AsJson = False
) -> None:
    """Show one item: text, sources, worth, and its status over the generations.

    Example: instar memory show 3f2a --run runs/quickstart
    """
    from agent.inspection import detail
    from agent.report.memory import item_page

    told = detail(run, item, generation)
    _print_json(told) if as_json else _print(item_page(_visible(told)))


@memory_app.command()
def search(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    run: RunFolder = DEFAULT,
    limit: Annotated[int, typer.Option(min=1, help="Most items to show.")] = 10,
    generation: AsOf = None,
    kind: Kind = None,
    status: Status = "living",
    family: Family = None,
    trust: Trust = None,
    as_json: AsJson = False,
) -> None:
    """Find the items nearest to a text.

    Example: instar memory search "greatest common divisor" --run runs/quickstart
    """
    from agent.inspection import Filter
    from agent.inspection import search as nearest
    from agent.report.memory import item_table

    rows = nearest(run, text, limit, generation, Filter(kind, status, family, trust))
    if as_json:
        _print_json(rows)
    else:
        _print(item_table(_visible(rows), similarity=True) if rows else "nothing found")


@memory_app.command()
def why(
    episode: Annotated[str, typer.Argument(help="The episode's slot, or its beginning.")],
    run: RunFolder = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Why memory showed an episode what it did: query, candidates, scores, what was shown.

    Example: instar memory why 2/acquire/1f0c/0 --run runs/quickstart
    """
    from agent.inspection import why as explain
    from agent.report.memory import why_page

    told = explain(run, episode)
    _print_json(told) if as_json else _print(why_page(_visible(told)))


@memory_app.command()
def history(
    item: Item,
    run: RunFolder = DEFAULT,
    full: Annotated[bool, typer.Option("--full", help="Every episode that was shown it.")] = False,
    as_json: AsJson = False,
) -> None:
    """What became of an item: changes, family, weights trained on it, who was shown it.

    Example: instar memory history 3f2a --run runs/quickstart
    """
    from agent.inspection import item_history
    from agent.report.memory import history_page

    told = item_history(run, item)
    _print_json(told) if as_json else _print(history_page(_visible(told), full))


@memory_app.command()
def timeline(run: RunFolder = DEFAULT, as_json: AsJson = False) -> None:
    """Memory over the generations: how much of what, and what happened to it.

    Example: instar memory timeline --run runs/quickstart
    """
    from agent.inspection import timeline as over_time
    from agent.report.memory import timeline_table

    told = over_time(run)
    if as_json:
        _print_json(told)
    else:
        _print(timeline_table(_visible(told)) if told else "no generation yet")


@memory_app.command()
def diff(
    a: Annotated[int, typer.Argument(metavar="GEN", help="The one generation.")],
    b: Annotated[int, typer.Argument(metavar="GEN", help="The other; told is always forwards.")],
    run: RunFolder = DEFAULT,
    full: Annotated[bool, typer.Option("--full", help="Long texts whole.")] = False,
    as_json: AsJson = False,
) -> None:
    """What was added, merged, revised or retired between two generations, and why.

    Example: instar memory diff 1 2 --run runs/quickstart
    """
    from agent.inspection import difference
    from agent.report.memory import difference_page

    told = difference(run, a, b)
    if as_json:
        _print_json(told)
        return
    if a > b:
        _print(Text(f"{b} came before {a}, so this is told from {b} to {a}", "dim"))
    _print(difference_page(_visible(told), full))


@memory_app.command()
def stats(run: RunFolder = DEFAULT, generation: AsOf = None, as_json: AsJson = False) -> None:
    """How much is remembered, of what, whether it is used, and what it takes on disk.

    Example: instar memory stats --run runs/quickstart
    """
    from agent.inspection import stats as count
    from agent.report.memory import stats_page

    told = count(run, generation)
    _print_json(told) if as_json else _print(stats_page(_visible(told)))


@memory_app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to.")],
    run: RunFolder = DEFAULT,
    generation: Annotated[
        int | None, typer.Option("--generation", "-g", help="Only of this one; default: all.")
    ] = None,
    what: Annotated[
        list[str] | None, typer.Option(help="items, trajectories or chat; default: all three.")
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="jsonl or parquet.")] = "jsonl",
    split: Annotated[
        list[str] | None, typer.Option(help="Episodes of these splits; default: train only.")
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Failed episodes as well in the chat dataset.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write items, trajectories and a chat-format dataset, with a manifest.

    Example: instar memory export out --run runs/quickstart --format parquet
    """
    from agent.memory_upkeep import export as write

    manifest = write(
        run,
        folder,
        generation=generation,
        what=what or (),
        format_=format_,
        splits=split or (),
        failures=all_,
    )
    if as_json:
        _print_json(manifest)
        return
    for name, file in manifest["files"].items():
        _print(f"{folder / name}: {file['rows']} {file['what']}")
    if manifest["left_out"]:
        told = ", ".join(f"{n} of {split}" for split, n in manifest["left_out"].items())
        _print(f"left out: {told} (--split NAME); only train episodes are for training")
    if held_out := [name for name in manifest["splits"] if name != "train"]:
        _print(
            Text(f"holds {' and '.join(held_out)} episodes: training on them voids the measure"),
            style="yellow",
        )


@memory_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="An export's folder, or a JSONL or Parquet file.")],
    run: RunFolder = DEFAULT,
    vouch: Annotated[
        bool,
        typer.Option(
            "--vouch",
            help="Believe the export: items whose graded episodes it holds keep their trust.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take items from a file, all or none; they begin on trial, in a generation of their own.

    Example: instar memory import out/items.jsonl --run runs/other
    """
    from agent.memory_upkeep import take_in

    told = take_in(run, file, vouched=vouch)
    if as_json:
        _print_json(told)
        return
    _print(f"{len(told['imported'])} of {told['read']} items imported, {told['known']} known")
    if told["imported"]:
        counts = {t: list(told["trust"].values()).count(t) for t in told["trust"].values()}
        trust = ", ".join(f"{n} {name}" for name, n in counts.items())
        _print(f"generation {told['generation']}: on trial ({trust}), shown only while learning")


@memory_app.command()
def rebuild(run: RunFolder = DEFAULT, as_json: AsJson = False) -> None:
    """Make the vector index anew from the ledger.

    Example: instar memory rebuild --run runs/quickstart
    """
    from agent.memory_upkeep import rebuild as remake

    told = remake(run)
    if as_json:
        _print_json(told)
    else:
        _print(f"{told['items']} items embedded by {told['embedder']} in {told['folder']}")


@memory_app.command()
def erase(
    what: Annotated[
        list[str] | None, typer.Argument(metavar="[ITEM|EPISODE]...", help="Ids and slots.")
    ] = None,
    run: RunFolder = DEFAULT,
    text: Annotated[str, typer.Option(help="And all that says this.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else it is only shown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase items or episodes for good, with all that holds their text.

    Example: instar memory erase 3f2a --run runs/quickstart
    """
    from agent.memory_upkeep import erase as forget

    told = forget(run, what or [], text=text, sure=yes)
    if as_json:
        _print_json(told)
        return
    parts = (
        ("items", "memory items, {n} of them active now", len(told["active"])),
        ("episodes", "episodes, in all they say", 0),
        ("openings", "episodes, in what stood before the first turn", 0),
        ("recollections", "looks into memory", 0),
        ("notes", "notes", 0),
        ("snapshots", "snapshots, in their reasons", 0),
        ("files", "files (instar evolve writes them anew)", 0),
    )
    if not any(told[name] for name, *_ in parts):
        _print("nothing says this, so there is nothing to erase")
        return
    _print(Text("erased" if yes else "to be erased", "bold"))
    for name, says, n in parts:
        if told[name]:
            shown = ", ".join(map(str, told[name][:3])) + (" …" if len(told[name]) > 3 else "")
            _print(Text(f"  {len(told[name])} {says.format(n=n)}: ").append(shown, "dim"))
    if told["adapters"]:
        _print(
            Text(
                f"weights that were trained on these episodes cannot forget them: "
                f"{', '.join(told['adapters'])}; go back to a generation before them "
                "(instar rollback), remove them (instar adapters prune) and evolve again"
            ),
            style="yellow",
        )
    if told["left"]:
        _print(Text(f"still says it: {', '.join(told['left'])}"), style="red")
    if not yes:
        _print("nothing is erased yet; --yes does it, and it cannot be undone")


def episodes(
    run: RunFolder = DEFAULT,
    generation: Annotated[
        int | None, typer.Option("--generation", "-g", min=0, help="Played for this generation.")
    ] = None,
    phase: Annotated[
        str,
        typer.Option(
            help="acquire, canary, probe, rewrite, composed, correction, gate, retention or test."
        ),
    ] = "",
    split: Annotated[str, typer.Option(help="train, gate, retention or test.")] = "",
    family: Annotated[str, typer.Option(help="Only this family.")] = "",
    outcome: Annotated[
        str, typer.Option(help="success, wrong, error (in some step) or broken.")
    ] = "",
    task: Annotated[str, typer.Option(help="Only of this task, by its id.")] = "",
    item: Annotated[str, typer.Option(help="Only with this memory item in the prompt.")] = "",
    text: Annotated[str, typer.Option(help="In the slot, or where the task begins.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=500, help="Most episodes to show.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List episodes, newest first, by the slots that `instar memory why` and `erase` take.

    Example: instar episodes --run runs/quickstart --generation 2 --outcome wrong
    """
    from agent.config import ConfigError
    from agent.inspection import find_item
    from agent.made_tasks import MadeTasks
    from agent.report.memory import episode_list
    from agent.run_folder import LEDGER, open_ledger
    from agent.verify import LEARNING
    from environments.splits import SPLITS
    from memory.inspector import queries
    from memory.inspector.digest import Digest

    known = {
        "outcome": (outcome, queries.OUTCOMES),
        "phase": (phase, (*LEARNING, *SPLITS[1:])),
        "split": (split, SPLITS),
    }
    for option, (given, names) in known.items():
        if given and given not in names:
            must_be = ", ".join(filter(None, names))
            raise ConfigError(f"--{option} {given}: must be one of {must_be}")
    with open_ledger(run) as ledger:
        item = find_item(ledger, item).id if item else ""
    digest = Digest(run / LEDGER)
    digest.update()
    facets = queries.facets(digest) if family or generation is not None else {}
    there = {
        "generation": (generation, facets.get("episode_generations", ())),
        "family": (family, facets.get("episode_families", ())),
    }
    for option, (wanted, some) in there.items():
        if wanted not in (None, "") and wanted not in some:
            known_here = ", ".join(map(str, some)) or "none"
            raise ConfigError(
                f"--{option} {wanted}: {run} has no such episode, only of: {known_here}"
            )
    asked = {
        "phase": phase, "split": split, "family": family, "outcome": outcome, "task": task,
        "item": item, "text": text, "limit": limit,
        "generation": "" if generation is None else str(generation),
    }  # fmt: skip
    told = queries.episodes(digest, queries.Episodes.model_validate(asked))
    with open_ledger(run) as ledger:
        made = MadeTasks(ledger)
        for row in told["rows"]:
            row["made"] = made[row["task"]].how if row["task"] in made else ""
    _print_json(told) if as_json else _print(episode_list(_visible(told)))


def _print(*things: RenderableType, style: str | None = None) -> None:
    out = Console(highlight=False, markup=False)
    with out.capture() as told:
        for thing in things:
            # Sentences are not cut into lines: they may be read by a program.
            out.print(thing, style=style, soft_wrap=isinstance(thing, str | Text))
    for line in told.get().removesuffix("\n").split("\n"):  # nor are blanks at the end of use
        typer.echo(line if out.is_terminal else line.rstrip(), color=True)


def _visible(value: Any) -> Any:
    """The same with control characters drawn: a remembered text must not steer the terminal."""
    if isinstance(value, str):
        return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [_visible(part) for part in value]
    return {k: _visible(v) for k, v in value.items()} if isinstance(value, dict) else value


def _print_json(value: Sequence[Any] | dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=1))
