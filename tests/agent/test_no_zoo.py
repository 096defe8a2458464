"""Recipes share parts: how much code is there for the sake of one recipe alone?

Of each choice that a recipe can make, its function and all that this reaches within the cycle are
read from the source. What only one recipe's choices reach is that recipe's own.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from statistics import median
from typing import Any

from agent.config import recipes
from agent.evolution.acquire.generate import WRITERS
from agent.evolution.acquire.select import SELECTORS
from agent.evolution.correct.corrections import CORRECTORS
from agent.evolution.feedback.verdicts import JUDGES
from agent.evolution.solutions import methods
from agent.evolution.update import writers
from agent.evolution.update.writers import WriteSettings
from agent.recipe_parts import SUITES, recipe

CYCLE = "agent.evolution."

Place = tuple[str, str]  # a module, and a name in it


def entries() -> dict[tuple[str, str], Place]:
    """Where each choice (setting, value) is carried out."""
    known: dict[str, dict[str, Callable[..., Any]]] = {
        "acquire.select": dict(SELECTORS),
        "acquire.generate.how": dict(WRITERS),
        "feedback.by": dict(JUDGES),
        "refine.correct": dict(CORRECTORS),
    }
    found = {(p, n): (f.__module__, f.__name__) for p, own in known.items() for n, f in own.items()}
    for module in iter_modules(methods.__path__):
        place = (f"{methods.__name__}.{module.name}", "solve")
        found["acquire.solve.how", module.name.replace("_", "-")] = place
    for kind in set(WriteSettings.model_fields) - {"own"}:
        found["update_memory.write", kind] = (f"{writers.__name__}.{kind}", kind)
    return found


@cache
def module(name: str) -> tuple[dict[str, ast.stmt], dict[str, Place]]:
    """A module's own definitions, and what it imports from the cycle."""
    spec = find_spec(name)
    assert spec is not None and spec.origin is not None, name
    tree = ast.parse(Path(spec.origin).read_text())
    own: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            own |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    imported = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and f"{node.module}.".startswith(CYCLE)
        for alias in node.names
    }
    return own, imported


def reached(place: Place, seen: dict[Place, int]) -> None:
    """Definitions that one needs, itself among them, with their lines less the docstring."""
    own, imported = module(place[0])
    if place[1] in imported:
        source, name = imported[place[1]]
        if name in module(source)[0]:
            reached((source, name), seen)
    elif place[1] in own and place not in seen:
        node = own[place[1]]
        seen[place] = lines(node)
        for used in names(node, imported):
            reached(used if used[0] else (place[0], used[1]), seen)


def names(node: ast.stmt, imported: dict[str, Place]) -> Iterator[Place]:
    """What a definition names: ("", name) of its module, or (module, name) through one."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield "", part.id
        elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            package, name = imported.get(part.value.id, ("", ""))
            if package and find_spec(package) and name not in module(package)[0]:
                yield f"{package}.{name}", part.attr


def lines(node: ast.stmt) -> int:
    count = (node.end_lineno or node.lineno) - node.lineno + 1
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
        said = node.body[0]
        count -= (said.end_lineno or said.lineno) - said.lineno + 1
    return count


def test_few_lines_are_there_for_one_recipe_alone() -> None:
    methods_ = {name: recipe(name) for name in recipes()}
    methods_ = {name: made for name, made in methods_.items() if made.phase != SUITES}
    users: dict[Place, set[str]] = defaultdict(set)
    size: dict[Place, int] = {}
    for (path, choice), place in entries().items():
        seen: dict[Place, int] = {}
        reached(place, seen)
        assert seen, (place, "is not where the choice is carried out")
        size |= seen
        who = {name for name, made in methods_.items() if choice in made.choices.get(path, ())}
        for definition in seen:
            users[definition] |= who or {f"{path}={choice}"}  # the default's, or nobody's yet
    alone = dict.fromkeys(methods_, 0)
    for definition, who in users.items():
        if len(who) == 1 and (only := next(iter(who))) in alone:
            alone[only] += size[definition]
    longest = max(alone, key=alone.__getitem__)
    assert len(alone) >= 60 and alone["ldb"] > 40, "what is counted is not there"
    assert median(alone.values()) <= 40
    assert alone[longest] <= 150, (longest, alone[longest])
