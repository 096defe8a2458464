"""The cycle as a picture, with what a recipe chooses marked; and the list of all recipes.

What matters is said in characters as well as in colour, so nothing is lost without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.recipe_parts import DEFAULT, PHASES, SUITES, Part, Recipe

WIDTH = 78
LABEL = 15  # columns of a choice's name
OFF = {
    "update memory": "nothing is remembered",
    "update weights": "the weights stay as they are",
    "gate": "the best candidate goes on, shown to be better or not",
}
ON = {
    "gate": "a paired test, and retention: promoted, or the incumbent stays",
}
CHOSEN, OPEN, OTHER = "●", "○", "▸"


def picture(
    recipe: Recipe, parts: dict[str, list[Part]], plain: dict[str, list[Part]], off: Iterable[str]
) -> Group:
    """The cycle from objective to evaluation, in at most 80 columns.

    Args:
        recipe: what the picture is of.
        parts: its choices by phase.
        plain: the default's.
        off: phases that do nothing.
    """
    lines = [Text(f"{recipe.name} · {recipe.description}", "bold"), _facts(recipe)]
    default = {part.path: part for own in plain.values() for part in own}
    idle = set(off)
    for phase in PHASES:
        first = phase == "objective"
        rule = f"{phase.upper()} "
        head = Text("╭─► " if first else "│ ▼ ", "dim").append(rule, "bold")
        lines.append(head.append("─" * (WIDTH - 4 - len(rule)), "dim"))
        if phase in idle:
            lines.append(_row(f"{OPEN} off: {OFF.get(phase, '')}", mark=OTHER))
            continue
        if phase in ON:
            lines.append(_row(f"{CHOSEN} {ON[phase]}", "green"))
        label = ""
        for part in parts[phase]:
            again = part.label == label
            lines += _choice(part, part != default[part.path], "" if again else part.label)
            label = part.label
    back = "╰─── evaluation proposes what to practise next "
    lines.append(Text(back + "─" * (WIDTH - len(back)), "dim"))
    lines.append(Text(f"{CHOSEN} chosen   {OPEN} not   {OTHER} other than the default", "dim"))
    return Group(*lines)


def _row(text: str, style: str = "dim", mark: str = " ") -> Text:
    return Text("│ ", "dim").append(f"{mark}  ", "bold").append(text, style)


def _choice(part: Part, other: bool, label: str) -> list[Text]:
    """A choice, on as many lines as it takes; what is chosen stands out."""
    lines: list[Text] = []
    mark = f"{OTHER} " if other else "  "
    line = Text("│ ", "dim").append(f"{mark} {label:<{LABEL}}", "bold" if other else "")
    start = line.cell_len
    for option in part.options:
        chosen = option in part.chosen
        word = f"{CHOSEN if chosen else OPEN} {option}"
        if line.cell_len > start:
            if line.cell_len + 2 + len(word) <= WIDTH:
                line.append("  ")
            else:
                lines.append(line)
                line = Text("│", "dim").append(" " * (start - 1))
        line.append(word, "bold green" if chosen else "dim")
    return [*lines, line]


def _facts(recipe: Recipe) -> Text:
    sources = ", ".join(f"arXiv {source}" for source in recipe.sources) or "no paper"
    return Text(f"{sources} · needs {', '.join(recipe.needs) or 'nothing more'}", "dim")


def recipe_table(recipes: Sequence[Recipe]) -> RenderableType:
    """All recipes, phase by phase: what each is, its source, what it needs."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it is", overflow="fold", ratio=1)
    table.add_column("needs", overflow="fold", max_width=10)
    for phase in (SUITES, DEFAULT, *PHASES):
        own = [recipe for recipe in recipes if recipe.phase == phase]
        if not own:
            continue
        table.add_row()
        table.add_row(Text(phase.upper(), "bold"))
        for each in own:
            about = Text(each.description)
            about.append("".join(f" arXiv {source}" for source in each.sources[:1]), "dim")
            table.add_row(each.name, about, ", ".join(each.needs))
    return table
