"""A run as one HTML file: the same pages, with their data in it, for ``file://`` and for others.

The modules of ``assets`` become one script and the style sheet one element, both allowed by
their hashes; the data is JSON that no browser runs.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from memory.inspector import pages, queries
from memory.inspector.bundle import assets, bundle
from memory.inspector.follow import Followed

MOST_ITEMS = 3000
MOST_EPISODES = 1500


def export(
    runs: Sequence[Followed],
    target: Path,
    most_items: int = MOST_ITEMS,
    most_episodes: int = MOST_EPISODES,
) -> list[str]:
    """Write the snapshot.

    Args:
        runs: one, or two to be compared; brought up to date here.
        target: a file that ends in ``.html``, or a folder for an ``index.html``.
        most_items: of each run; the newest are kept.
        most_episodes: pages of episodes, of each run: those that items were made from, then
            those that used one, then the newest.

    Returns:
        What was left out, in words; the page says it too.

    Raises:
        LedgerError: a run cannot be read.
        OSError: the file cannot be written.
    """
    missing: list[str] = []
    data = []
    for run in runs:
        run.catch_up()
        data.append(_data(run, most_items, most_episodes, missing))
    store = {"names": [run.name for run in runs], "runs": data, "left_out": missing}
    path = target if target.suffix == ".html" else target / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_page(to_json(store).decode()), encoding="utf-8")
    return missing


def _data(run: Followed, most_items: int, most_episodes: int, missing: list[str]) -> dict[str, Any]:
    digest, ledger = run.digest, run.ledger
    state = {**run.state(), "warning": "", "note": ""}  # these are of this machine
    timeline = queries.timeline(digest)
    kept: dict[str, Any] = {
        "overview": pages.overview(ledger, run.summary),
        "timeline": timeline,
        "facets": queries.facets(digest),
        "state": state,
        "points": queries.points(digest),
        "deltas": from_json(queries.deltas(digest)),
    }
    changes: dict[str, Any] = {}
    for n in timeline["generations"]:
        kept[f"generation/{n}"] = pages.generation(digest, ledger, n)
    for event in timeline["events"]:
        n, name = event["generation"], event["event"]
        changes[f"{n}/{name}"] = queries.changes(
            digest, queries.Changes(generation=n, event=name, limit=queries.MOST)
        )
        if event["n"] > queries.MOST:
            missing.append(
                f"{run.name}: {event['n'] - queries.MOST} items {name} in generation {n}"
            )
    texts: dict[int, dict[str, Any]] = {}
    rows: dict[int, list[list[Any]]] = {}
    for n in timeline["generations"]:
        rows[n] = []
        for row in _all_items(run, n, most_items):
            texts[row["no"]] = {
                name: row[name] for name in ("id", "kind", "family", "born", "trust", "text")
            }
            columns = ("no", "standing", "start", "uses", "wins", "measured")
            rows[n].append([row[name] for name in (*columns, "utility", "low", "high")])
    for text in texts.values():
        kept[f"item/{text['id']}"] = pages.item(digest, ledger, text["id"])
    if state["items"] > most_items:
        missing.append(
            f"{run.name}: in each generation all but its {most_items} newest items "
            f"(there are {state['items']})"
        )
    episodes, left = _episodes(run, most_episodes)
    for row in episodes:
        kept[f"episode/{row['slot']}"] = pages.episode(digest, ledger, row["slot"])
    if left:
        missing.append(f"{run.name}: {left} of {state['episodes']} episodes")
    return {"pages": kept, "changes": changes, "texts": texts, "items": rows, "episodes": episodes}


def _all_items(run: Followed, n: int, most: int) -> Iterator[dict[str, Any]]:
    for offset in range(0, most, queries.MOST):
        limit = min(queries.MOST, most - offset)
        asked = queries.Items(generation=n, offset=offset, limit=limit)
        found = queries.items(run.digest, asked)["rows"]
        yield from found
        if len(found) < limit:
            return


def _episodes(run: Followed, most: int) -> tuple[queries.Rows, int]:
    """The episodes to keep, newest first, each with the items that it used; and how many go."""
    with run.digest.open() as db:
        found = db.execute(
            "SELECT no, slot FROM episodes ORDER BY "
            "slot IN (SELECT slot FROM sources) DESC, recalled > 0 DESC, no DESC LIMIT ?",
            (most,),
        ).fetchall()
        (total,) = db.execute("SELECT count(*) FROM episodes").fetchone()
        rows = queries.episode_rows(db, [slot for _, slot in sorted(found, reverse=True)])
        for row in rows:
            used = db.execute(
                "SELECT i.id FROM uses JOIN items i ON i.no = item WHERE episode = "
                "(SELECT no FROM episodes WHERE slot = ?)",
                (row["slot"],),
            )
            row["items"] = [id_ for (id_,) in used]
    return rows, total - len(rows)


def _page(data: str) -> str:
    files = {name: body.decode() for name, body in assets().items()}
    script, style = f"\n{bundle(files)}\n", f"\n{files['style.css']}\n"
    # Within a script element "<" could begin its end; in JSON it can be written otherwise.
    data = data.replace("<", "\\u003c")
    icon = base64.b64encode(files["icon.svg"].encode()).decode()
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<title>Instar</title>\n'
        f'<link rel="icon" href="data:image/svg+xml;base64,{icon}">\n'
        f"<style>{style}</style>\n</head>\n<body>\n"
        '<header id="top"></header>\n<main id="main" tabindex="-1"></main>\n'
        f'<script type="application/json" id="data">{data}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
