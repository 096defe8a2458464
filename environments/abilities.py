"""Which abilities a suite's tasks ask for: what an objective chooses families by.

The abilities are those of the survey of self-evolution (arXiv 2404.14387): seven of a language
model, four of an agent. What the shipped suites ask for stands in ``suites/abilities.yaml``; a
suite of one's own says it in an attribute ``abilities``: names for all its tasks, or names by
family.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from importlib import resources
from typing import Any

import yaml

from environments.base import Suite, SuiteError

ABILITIES: dict[str, str] = {
    "instruction-following": "does what is asked, in the form that is asked for",
    "reasoning": "reaches what is not said from what is said",
    "maths": "calculates and solves problems in numbers",
    "coding": "writes programs and queries that do what they should",
    "role-play": "speaks as somebody, and stays in the part",
    "robustness": "is not led astray by how something is put",
    "factuality": "says what is so, and nothing else",
    "planning": "orders steps towards an end that is several of them away",
    "tool-use": "chooses tools and gives them the right arguments",
    "embodied-control": "moves and handles things in a world",
    "communication": "finds out, tells and agrees with others",
}


def abilities_of(name: str, suite: Suite, families: Iterable[str]) -> dict[str, frozenset[str]]:
    """The abilities that each family asks for; none where nobody says it.

    Args:
        name: the suite's name or import path, as it is configured.
        suite: the suite; its own ``abilities``, if it has any, hold instead of the file's.
        families: the families that are asked about.

    Raises:
        SuiteError: a name that is no ability, or ``abilities`` that are no names.
    """
    own = getattr(suite, "abilities", ())
    said = () if callable(own) else own  # a tool may be called so
    tags = said or tagged().get(name, ())
    found = {family: frozenset(_of(name, tags, family)) for family in families}
    for family, named in found.items():
        if unknown := sorted(named - ABILITIES.keys()):
            raise SuiteError(
                f"suite {name}: {unknown[0]!r} is no ability (family {family}); abilities: "
                f"{', '.join(ABILITIES)}"
            )
    return found


def tagged() -> dict[str, Any]:
    """The tags of the shipped suites: names, or names by family (``else`` for the others)."""
    text = resources.files("environments.suites").joinpath("abilities.yaml").read_text()
    tags: dict[str, Any] = yaml.safe_load(text)
    return tags


def _of(name: str, tags: Any, family: str) -> Sequence[str]:
    named = tags.get(family, tags.get("else", ())) if isinstance(tags, Mapping) else tags
    named = (named,) if isinstance(named, str) else named
    if not isinstance(named, Sequence | Set) or not all(isinstance(each, str) for each in named):
        raise SuiteError(
            f"suite {name}: abilities are names, or names by family, not {named!r} ({family})"
        )
    return tuple(named)
