"""Tasks made up from knowledge: documents, an environment's tools, a database's schema.

Each names what it is from (``source``), and its answer can be checked. What documents say is data:
it is shown in lines that begin with ``|``, and stands in the tasks as a quotation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from agent.config import ConfigError
from agent.evolution.acquire.drafts import Author, Draft, ask, first_task
from agent.evolution.acquire.proof import within
from agent.evolution.feedback.base import quoted
from agent.worlds import first_world
from environments.base import Task, Tool
from memory.frame import inert

KINDS = (".md", ".txt")
REMEMBERED = 5  # earlier tasks of a tool that are shown
MOST_ANSWER = 80  # characters of an answer in a passage
_PARTS = re.compile(
    r"(?:question|task)\s*:\s*(?P<asked>.+?)\n+\s*(?:answer|query)\s*:\s*(?P<given>.+)",
    re.DOTALL | re.IGNORECASE,
)
_TABLE = re.compile(r"CREATE TABLE\s+(?:IF NOT EXISTS\s+)?[\"`\[]?(\w+)", re.IGNORECASE)
_FENCE = re.compile(r"```\w*\n?|```")


def documents(author: Author) -> list[Draft]:
    """Questions that a passage of a document answers; the passage stands in the task.

    As in SciGLM (arXiv 2401.07950, §3) and UltraChat, whose questions come from a corpus; here the
    answer is words of the passage, so that it can be checked. Passages that gave no task yet come
    first.
    """
    every = passages(Path(author.settings.documents), author.settings.passage)
    used = {made.source for made in author.made}
    names = list(every)
    author.chance("passages").shuffle(names)
    names.sort(key=lambda name: name in used)
    names = names[: author.settings.drafts]
    questions = {
        str(i): f"Passage {name}:\n{quoted(every[name])}\n\nWrite one question that this passage "
        "answers, and its answer: a word, a name or a number that stands in the passage.\n"
        "Question: …\nAnswer: …"
        for i, name in enumerate(names)
    }
    said = ask(author, "documents", questions)
    drafts = []
    for (key, text), name in zip(said.items(), names, strict=True):
        asked, given = parts(text)
        given = (given.splitlines() or [""])[0].strip().rstrip(".")
        lost = "" if asked and given else "is no question with an answer"
        if not lost and not (len(given) <= MOST_ANSWER and within(given, every[name])):
            lost = "has an answer that is not in its passage"
        if not lost and within(given, asked):
            lost = "gives its answer away"
        drafts.append(
            Draft(
                key=f"documents/{key}",
                prompt=f"{name} says:\n{quoted(every[name])}\n\n{asked}",
                family=author.some(int(key), 1)[0].family,
                how="documents",
                source=name,
                fields={"answer": given},
                told=asked,
                lost=lost,
            )
        )
    return drafts


def passages(folder: Path, most: int) -> dict[str, str]:
    """The texts of a folder, cut between paragraphs, by ``file#number``.

    Args:
        folder: read with all folders in it; files of ``KINDS``.
        most: characters of a passage; a longer paragraph is cut.

    Raises:
        ConfigError: a file is no text in UTF-8, or cannot be read.
    """
    found: dict[str, str] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix in KINDS and p.is_file()):
        name, kept = path.relative_to(folder).as_posix(), list[str]()
        try:
            text = inert(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"acquire.generate.documents: {path} cannot be read as text in UTF-8 ({error}); "
                "convert it, or take it out of the folder"
            ) from error
        for paragraph in filter(None, (p.strip() for p in re.split(r"\n\s*\n", text))):
            for start in range(0, len(paragraph), most):
                piece = paragraph[start : start + most]
                if kept and len(kept[-1]) + len(piece) + 2 <= most:
                    kept[-1] += f"\n\n{piece}"
                else:
                    kept.append(piece)
        found |= {f"{name}#{i}": piece for i, piece in enumerate(kept, 1)}
    return found


def tools(author: Author) -> list[Draft]:
    """Tasks for which one of an environment's documented tools is needed, tool by tool.

    As STE (arXiv 2403.04746, §3) imagines what a tool could be asked for; what it was asked for
    before, and whether that could be done, is in sight (its long-term memory). The policy fills in
    what a task of the suite is made of; a solution has to call the tool.
    """
    catalogue = tools_of(author)
    shown = {str(i): author.some(i, 3) for i in range(author.settings.drafts)}
    chosen = {key: catalogue[i % len(catalogue)] for i, key in enumerate(shown)}
    questions = {}
    for key, own in shown.items():
        tool = chosen[key]
        like = "\n".join(json.dumps(_blank(author, task)) for task in own)
        questions[key] = (
            f"A tool: {tool.name}({', '.join(tool.properties)})\n{quoted(tool.description)}\n\n"
            f"Tasks, each a line of JSON:\n{like}\n\n{_asked_before(author, tool)}"
            f"Write one more, in the same form, that needs the tool {tool.name}."
        )
    drafts = []
    for key, text in ask(author, "tools", questions).items():
        fields = json_in(text, author.form | {"prompt"})
        drafts.append(
            Draft(
                key=f"tools/{key}",
                prompt=fields.pop("prompt", ""),
                family=shown[key][0].family,
                how="tools/tool",
                parents=tuple(task.id for task in shown[key]),
                source=chosen[key].name,
                fields=fields,
                lost="" if fields else "is not in the form of a task",
            )
        )
    return drafts


def _asked_before(author: Author, tool: Tool) -> str:
    """The last tasks that were made up for a tool, and how they went; "" where there are none."""
    lines = []
    for made in [m for m in author.made if m.source == tool.name][-REMEMBERED:]:
        tried = author.tried.get(made.task.id)
        went = "not tried" if tried is None else "solved" if tried.solved else "not solved"
        lines.append(f"{json.dumps(_blank(author, made.task))} ({went})")
    return "Made up before:\n" + "\n".join(lines) + "\n\n" if lines else ""


def tools_of(author: Author) -> list[Tool]:
    """The tools that an environment of the suite documents."""
    with first_world(author.run, author.seeds[0]) as world:
        return list(world.tools)


def schema(author: Author) -> list[Draft]:
    """Questions about one table of a database, each with a query that answers it.

    The query's result is the answer (see the suite's ``spawn``), and the query names the table.
    """
    databases: dict[str, Task] = {}
    for task in author.seeds:
        databases.setdefault(author.fields(task)["database"], task)
    tables = [
        (name, table, author.fields(task)["schema"], task)
        for name, task in sorted(databases.items())
        for table in dict.fromkeys(_TABLE.findall(author.fields(task)["schema"]))
    ]
    author.chance("tables").shuffle(tables)
    asked_of = [tables[i % len(tables)] for i in range(author.settings.drafts)] if tables else []
    questions = {
        str(i): f"A database:\n{quoted(text)}\n\nWrite one question about the table {table}, and "
        "the SQLite query that answers it.\nQuestion: …\nQuery: …"
        for i, (_, table, text, _) in enumerate(asked_of)
    }
    drafts = []
    said = ask(author, "schema", questions)
    for (key, text), (name, table, _, task) in zip(said.items(), asked_of, strict=True):
        asked, query = parts(text)
        query = " ".join(_FENCE.sub(" ", query).split()).partition(";")[0].strip()
        lost = "" if asked and query else "is no question with a query"
        if not lost and not re.search(rf"\b{re.escape(table)}\b", query, re.IGNORECASE):
            lost = "has a query that does not ask its table"
        drafts.append(
            Draft(
                key=f"schema/{key}",
                prompt=asked,
                family=task.family,
                how="schema",
                source=f"{name}.{table}",
                fields={"database": name, "query": query},
                lost=lost,
            )
        )
    return drafts


def parts(text: str) -> tuple[str, str]:
    """A question, and the answer or query that is given to it; both "" where there is none."""
    found = _PARTS.search(text)
    if not found:
        return "", ""
    return first_task(" ".join(found["asked"].split())), found["given"].strip()


def json_in(text: str, names: Sequence[str] | frozenset[str]) -> dict[str, str]:
    """The first JSON object in a text that has just these fields, as texts; {} for none."""
    for found in re.finditer(r"\{", text):
        try:
            value, _ = json.JSONDecoder().raw_decode(text[found.start() :])
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and set(value) == set(names):
            return {k: v if isinstance(v, str) else json.dumps(v) for k, v in value.items()}
    return {}


def _blank(author: Author, task: Task) -> dict[str, str]:
    return {k: v for k, v in author.fields(task).items() if k != "family"}
