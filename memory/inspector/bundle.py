"""The pages' own files, and their modules as one script."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

ASSETS = files("memory.inspector") / "assets"
_ENTRY = "main.js"
_IMPORT = re.compile(r'^import (\{[^}]*\}) from "([^"]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?function|class|const)", re.MULTILINE)
_NAME = re.compile(r"^export (?:async )?(?:function|class|const) (\w+)", re.MULTILINE)


def assets() -> dict[str, bytes]:
    """The pages' own files, by their paths."""
    found: dict[str, bytes] = {}
    for entry in ASSETS.iterdir():
        if entry.is_dir():
            found |= {f"{entry.name}/{e.name}": e.read_bytes() for e in entry.iterdir()}
        else:
            found[entry.name] = entry.read_bytes()
    return found


def bundle(sources: Mapping[str, str]) -> str:
    """The modules as one classic script: one request, and it runs from ``file://`` as well.

    Each becomes a function of its own, run in the order of the imports, which form no circle.

    Args:
        sources: the assets by path; `main.js` is where it begins.
    """
    done: dict[str, str] = {}

    def add(name: str) -> None:
        if name in done:
            return
        folder, body = name.rpartition("/")[0], sources[name]
        for _, where in _IMPORT.findall(body):
            add(_resolve(folder, where))
        names = ", ".join(_NAME.findall(body))
        body = _IMPORT.sub(
            lambda found: f'const {found[1]} = modules["{_resolve(folder, found[2])}"];\n', body
        )
        body = _EXPORT.sub("", body)
        done[name] = f'modules["{name}"] = (() => {{\n{body}\nreturn {{ {names} }};\n}})();\n'

    add(_ENTRY)
    return '"use strict";\nconst modules = {};\n' + "".join(done.values())


def _resolve(folder: str, where: str) -> str:
    parts = folder.split("/") if folder else []
    for part in where.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
