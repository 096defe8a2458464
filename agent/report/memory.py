"""What a run remembers, as tables and diffs for the terminal; rows come from ``inspection``.

What matters is said in characters as well as in colour, so nothing is lost without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher, ndiff
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from agent.report import write_count, write_number

Row = Mapping[str, Any]

STATUS_STYLE = {
    "active": "green",
    "absorbed": "cyan",
    "shadow": "yellow",
    "retired": "dim",
    "quarantined": "red",
}
STATUS_BLOCK = {
    "active": "█",
    "absorbed": "▓",
    "shadow": "▒",
    "retired": "░",
    "quarantined": "×",
}
MARK = {"retired": "-", "replaced": "-", "quarantined": "-", "absorbed": "-", "demoted": "-"}
CHANGED = ("merged", "revised", "split")  # made of something that can be looked at beside it
_LINES = 12  # of a text, unless all of it is asked for
_USES = 20  # of an item, unless all are asked for
_BAR = 16


def item_table(rows: Sequence[Row], similarity: bool = False) -> Table:
    """One line per item."""
    table = Table(box=None, header_style="bold", pad_edge=False, expand=True)
    if similarity:
        table.add_column("near", no_wrap=True)
    for name in ("item", "kind", "family", "status"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    table.add_column("won", justify="right", no_wrap=True)
    table.add_column("utility", justify="right", no_wrap=True)
    table.add_column("text", no_wrap=True, overflow="ellipsis", ratio=1, min_width=16)
    for row in rows:
        cells: list[Any] = [write_number(row["similarity"])] if similarity else []
        table.add_row(
            *cells,
            row["id"][:8],
            row["kind"],
            Text(row["family"]),
            status(row["status"]),
            f"{row['wins']}/{row['uses']}",
            write_number(row["utility"], signed=True) if row["pairs"] else "–",
            Text(flat(row["text"], 200)),
        )
    return table


def tally(rows: Sequence[Row], what: str = "status") -> Text:
    """``12 items: 9 active, 3 retired``."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[str(row[what])] = counts.get(str(row[what]), 0) + 1
    return Text(f"{len(rows)} item{'s' * (len(rows) != 1)}: {_counted(counts)}", "dim")


def item_page(item: Row) -> Group:
    """One item whole."""
    parts: list[RenderableType] = [heading(item), Padding(Text(item["text"]), (0, 0, 0, 2))]
    parts.append(field("found by", flat(item["key"], 160)))
    if item["sources"]:
        parts.append(field("from", ", ".join(item["sources"])))
    if item["parents"]:
        parts.append(field("made of", ", ".join(item["parents"])))
    parts.append(field("worth", worth(item)))
    parts.append(changes_table(item["history"]))
    return Group(*parts)


def history_page(told: Row, full: bool = False) -> Group:
    """What became of an item; of the episodes that were shown it the last few, unless ``full``."""
    parts: list[RenderableType] = [heading(told, standing=False)]
    parts.append(Padding(clipped(told["text"], "", "", False), (0, 0, 0, 2)))
    parts.append(changes_table(told["changes"]))
    for name in ("ancestors", "descendants"):
        for other in told[name]:
            line = f"{other['id'][:8]} {other['kind']}, {other['made']} in {other['born']}: "
            parts.append(field(name[:-1], line + flat(other["text"], 120)))
    if told["sources"]:
        parts.append(field("from", ", ".join(told["sources"])))
    trained = ", ".join(told["adapters"]) or "no adapter was trained on its episodes"
    parts.append(field("weights", trained))
    won = sum(use["success"] for use in told["uses"])
    parts.append(field("shown", _in_episodes(len(told["uses"]), won)))
    few = told["uses"] if full else told["uses"][-_USES:]
    if before := len(told["uses"]) - len(few):
        parts.append(Text(f"    … {before} before these; --full shows all", "dim"))
    parts += [Padding(outcome(use), (0, 0, 0, 4)) for use in few]
    return Group(*parts)


def changes_table(past: Sequence[Row]) -> RenderableType:
    """An item over the generations; a generation that changed nothing has no line."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("gen", "status", "won", "utility"):
        table.add_column(name, no_wrap=True)
    table.add_column("why", overflow="fold")
    before: tuple[Any, ...] = ()
    for entry in past:
        if (entry["status"], entry["changed"]) == before:
            continue
        before = (entry["status"], entry["changed"])
        own = entry["worth"]
        why = Text(entry["reason"])
        if entry["because"]:
            why.append(f"  because of {_episodes(entry['because'])}", "dim")
        table.add_row(
            str(entry["generation"]),
            status(entry["status"]),
            f"{own['wins']}/{own['uses']}",
            utility(own),
            why,
        )
    return table if past else Text("in no generation's memory", "dim")


def why_page(told: Row) -> Group:
    """What an episode was shown, and what else was considered."""
    parts: list[RenderableType] = [outcome(told)]
    memory = told["memory"][:8] or "none"
    parts.append(Text(f"weights {told['weights']}, memory {memory}", "dim"))
    if not told["looks"]:
        shown = ", ".join(i[:8] for i in told["recalled"])
        parts.append(Text(f"no look into memory is recorded; shown: {shown or 'nothing'}"))
    for number, look in enumerate(told["looks"], 1):
        parts += ["", Text.assemble((f"look {number} ", "bold"), flat(look["query"], 300))]
        table = Table(box=None, header_style="bold", pad_edge=False, expand=True)
        for name in ("", "item", "kind"):
            table.add_column(name, no_wrap=True)
        for name in ("like", "recent", "useful", "score"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("text", no_wrap=True, overflow="ellipsis", ratio=1, min_width=12)
        for c in look["candidates"]:
            style = "green" if c["verdict"] == "shown" else "dim"
            table.add_row(
                Text(c["verdict"], style),
                c["item"][:8],
                c["kind"],
                *(write_number(c[n]) for n in ("similarity", "recency", "utility", "score")),
                Text(flat(c["text"], 200)),
            )
        parts.append(table if look["candidates"] else Text("  nothing was near enough", "dim"))
        shown_now = [c for c in look["candidates"] if c["verdict"] == "shown"]
        if shown_now:
            parts.append(Text(f"shown, {look['tokens']} tokens:", "bold"))
        for c in shown_now:
            about = f"{c['item'][:8]} {c['kind']} · {c['trust']} · {c['made']} in generation "
            origin = f"{c['born']} from {_episodes(c['sources'] or c['parents'])}"
            parts.append(Padding(Text(about + origin, "cyan"), (0, 0, 0, 2)))
            parts.append(Padding(Text(c["text"]), (0, 0, 0, 4)))
    return Group(*parts)


def timeline_table(told: Sequence[Row]) -> Group:
    """A line per generation: how much of what, and what happened to it."""
    most = max((sum(_statuses(g).values()) for g in told), default=0)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("gen", justify="right", no_wrap=True)
    table.add_column("decision", no_wrap=True)
    table.add_column("items", no_wrap=True)
    table.add_column("kinds", overflow="fold")
    table.add_column("changes", overflow="fold")
    for g in told:
        counts = _statuses(g)
        kinds = ", ".join(f"{sum(own.values())} {kind}" for kind, own in g["items"].items())
        changes = ", ".join(f"{n} {name}" for name, n in g["changes"].items())
        table.add_row(str(g["generation"]), g["decision"], _bar(counts, most), kinds, changes)
    legend = Text()
    for name, block in STATUS_BLOCK.items():
        legend.append(f"{block} ", STATUS_STYLE[name]).append(f"{name}  ", "dim")
    return Group(table, legend)


def _statuses(generation: Row) -> dict[str, int]:
    counts = dict.fromkeys(STATUS_BLOCK, 0)
    for own in generation["items"].values():
        for name, n in own.items():
            counts[name] += n
    return counts


def _bar(counts: Mapping[str, int], most: int) -> Text:
    bar, done, drawn = Text(), 0, 0
    for name, n in counts.items():
        done += n
        upto = round(_BAR * done / most) if most else 0
        bar.append(STATUS_BLOCK[name] * (upto - drawn), STATUS_STYLE[name])
        drawn = upto
    return bar.append(" " * (_BAR - drawn) + f" {done}")


def difference_page(told: Row, full: bool = False) -> Group:
    """A diff of two generations' memories."""
    title = f"memory, generation {told['from']} → {told['to']}"
    parts: list[RenderableType] = [Text(title, "bold")]
    shown = {p["id"] for e in told["entries"] if e["group"] in CHANGED for p in e["parents"]}
    group = ""
    for entry in told["entries"]:
        if entry["group"] == "replaced" and entry["id"] in shown:
            continue  # it stands where its successor does
        if entry["group"] != group:
            group = entry["group"]
            parts += ["", Text(group, "bold underline")]
        parts += _entry(entry, full)
    summary = ", ".join(f"{n} {name}" for name, n in told["summary"].items())
    return Group(*parts, "", Text(summary or "nothing changed", "bold"))


def _entry(entry: Row, full: bool) -> Iterator[RenderableType]:
    group = entry["group"]
    mark = "~" if group in CHANGED else MARK.get(group, "+")
    style = {"+": "green", "-": "red", "~": "yellow"}[mark]
    family = entry["family"] or "any family"
    head = Text.assemble((f"{mark} ", style), (entry["id"][:8], f"bold {style}"))
    head.append(f" {entry['kind']} · {family}")
    if entry["before"]:
        head.append(f" · {entry['before']} → {entry['after']}", "dim")
    elif entry["after"] != "active":
        head.append(f" · {entry['after']}", "dim")
    yield head
    if group in CHANGED and entry["parents"]:
        yield Padding(against(entry["parents"], entry["text"]), (0, 0, 0, 4))
    elif group in ("promoted", "absorbed", "demoted", "back"):  # the text is what it was
        yield Padding(Text(flat(entry["text"], 140), "dim"), (0, 0, 0, 4))
    else:
        yield Padding(clipped(entry["text"], mark, style, full), (0, 0, 0, 4))
    if entry["reason"]:
        yield Padding(Text(entry["reason"], "italic"), (0, 0, 0, 4))
    for name, says in (("because", "because of"), ("sources", "from")):
        if entry[name]:
            yield Padding(Text(f"{says} {_episodes(entry[name])}", "dim"), (0, 0, 0, 4))
            break


def clipped(text: str, mark: str, style: str, full: bool) -> Text:
    """A text's lines, each with its mark; the first few unless all are wanted."""
    lines = text.splitlines() or [""]
    most = len(lines) if full or len(lines) <= _LINES + 1 else _LINES
    told = Text("\n".join(f"{mark} {line}" if mark else line for line in lines[:most]), style)
    return told.append(f"\n… {len(lines) - most} more lines", "dim") if most < len(lines) else told


def against(parents: Sequence[Row], text: str) -> Text:
    """A text beside those it was made of: the nearest by word or by line, others whole."""
    near = max(parents, key=lambda p: SequenceMatcher(None, p["text"], text).ratio())
    told = Text()
    for parent in parents:
        if parent is not near:
            told.append(f"- {parent['id'][:8]}: {flat(parent['text'], 400)}\n", "red")
    told.append(f"against {near['id'][:8]}:\n", "dim")
    if max(near["text"].count("\n"), text.count("\n")) > 1:
        for line in ndiff(near["text"].splitlines(), text.splitlines()):
            if line[0] in "+- ":
                told.append(line + "\n", {"+": "green", "-": "red"}.get(line[0], "dim"))
    else:
        told.append_text(words(near["text"], text)).append("\n")
    told.right_crop(1)
    return told


def words(old: str, new: str) -> Text:
    """What changed between two texts, word by word, marked as git does: [-old-]{+new+}."""
    a, b = old.split(), new.split()
    told = Text()
    for what, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if what == "equal":
            told.append(" ".join(a[i:j]) + " ")
            continue
        if j > i:
            told.append(f"[-{' '.join(a[i:j])}-]", "red")
        if m > k:
            told.append(f"{{+{' '.join(b[k:m])}+}}", "green")
        told.append(" ")
    told.rstrip()
    return told


def stats_page(told: Row) -> Group:
    """How much there is, and whether it is used."""
    if told["generation"] is None:
        return Group("no generation yet")
    head = f"memory of generation {told['generation']}: {told['items']} living items, "
    head += f"{write_count(told['characters'])} characters"
    parts: list[RenderableType] = [Text(head, "bold")]
    if told["status"]:
        parts.append(field("status", _counted(told["status"])))
    for name, counts in told["by"].items() if told["items"] else ():
        parts.append(field(name, _counted(counts)))
    unused = f"{told['uses']} times in all; {told['never_used']:.0%} of the items never"
    if told["items"]:
        parts.append(field("used", unused))
    for name in ("best", "worst"):
        for row in told[name]:
            line = f"{row['id'][:8]} {utility(row)}  {row['kind']}  {flat(row['text'], 100)}"
            few = name == "best" and not told["worst"]  # all that was measured, good or bad
            parts.append(field("measured" if few else name, line))
    stored = told["stored"]
    ever = f"{stored['items']} items and {stored['episodes']} episodes stored"
    if stored["erased_items"] or stored["erased_episodes"]:
        ever += f", of which {stored['erased_items']} and {stored['erased_episodes']} erased"
    parts.append(field("ever", ever))
    sizes = (f"{name} {n / 2**20:.1f} MiB" for name, n in told["disk"].items() if n)
    parts.append(field("disk", ", ".join(sizes)))
    parts.append(field("index", told["index"]))
    return Group(*parts)


# --- pieces ---


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {name or 'any'}" for name, n in counts.items())


def heading(item: Row, standing: bool = True) -> Text:
    head = Text.assemble((item["id"], "bold"), f" · {item['kind']} · {item['family'] or 'any'}")
    head.append(f" · {item['trust']} · {item['made']} in generation {item['born']}")
    return head.append(" · ").append_text(status(item["status"])) if standing else head


def field(name: str, value: str) -> Table:
    """``name  value``, the value wrapped beside its name."""
    table = Table.grid(padding=(0, 1))
    table.add_column(width=10, style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(name, Text(value))
    return table


def status(name: str) -> Text:
    return Text(name, STATUS_STYLE.get(name, "dim"))


def utility(worth_: Row) -> str:
    """Measured utility with its interval, or that there is none."""
    if not worth_["pairs"]:
        return "–"
    low, high = write_number(worth_["low"], signed=True), write_number(worth_["high"], signed=True)
    return f"{write_number(worth_['utility'], signed=True)} [{low}, {high}]"


def worth(item: Row) -> str:
    if item["changed"] is None:
        return "not measured, as this generation's memory has it not"
    uses = f"shown {_in_episodes(item['uses'], item['wins'])}"
    if not item["pairs"]:
        return f"{uses}; utility not measured"
    return f"{uses}; utility {utility(item)} on {item['pairs']} tasks tried with and without"


def episode_list(told: Row) -> Group:
    """A line per episode, and how many there are."""
    lines = []
    for row in told["rows"]:
        line = outcome({**row, "episode": row["slot"], "end": row["stop"]})
        lines.append(line.append(f" · {flat(row['prompt'], 80)}", "dim"))
    more = len(told["rows"]) < told["total"]
    head = f"{told['total']} episode{'s' * (told['total'] != 1)}, {told['won']} successful"
    return Group(*lines, Text(head + f"; {len(lines)} shown (--limit)" * more, "dim"))


def outcome(episode: Row) -> Text:
    """An episode in a line."""
    won = episode["success"]
    line = Text("✓ " if won else "✗ ", "green" if won else "red")
    line.append(episode["episode"])
    made = f" · made up by {episode['made']}" if episode.get("made") else ""
    told = f"  {episode['family']} · {episode['phase']} · {episode['end']}{made}"
    return line.append(told, "dim")


def flat(text: str, most: int) -> str:
    """A text on one line, cut."""
    line = " ".join(text[: 4 * most].split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _in_episodes(n: int, won: int) -> str:
    return f"in {n} episode{'s' * (n != 1)}, {won} successful"


def _episodes(slots: Sequence[str]) -> str:
    more = f" and {len(slots) - 4} more" if len(slots) > 4 else ""
    return (", ".join(slots[:4]) or "none") + more
