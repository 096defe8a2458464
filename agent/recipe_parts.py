"""What a recipe chooses in each phase of the cycle, where it comes from and what it needs.

All of it is read from the settings and the head comment of the recipe: a choice that is added to
the settings is a choice here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agent.choices import OneOf
from agent.config import Config, find_recipe, load_config

PHASES: dict[str, str] = {
    "objective": "objective",
    "acquire": "acquire",
    "feedback": "feedback",
    "refine": "refine",
    "update memory": "update_memory",
    "update weights": "update_weights",
    "gate": "gate",
    "evaluate": "evaluate",
}
"""The phases in the order of the cycle, and the settings of each."""

SUITES = "suites"  # where recipes stand that say what to evolve on, and no method
DEFAULT = "default"  # where the recipe stands that chooses nothing else

DETAILS = frozenset(
    {"weighted", "dpo", "kto", "grpo", "groups", "of", "dropout", "learning_rate", "backend",
     "launch", "corrupt", "endpoint", "teacher", "recall", "novel", "apart", "credit",
     "tasks", "talk", "against", "preset", "tell", "keep", "weigh", "worse_by", "follows",
     "temperature", "token_ids", "vouched"}
)  # fmt: skip
"""Settings that say how a choice is carried out, or for experiments only."""

IDLE = {"evaluate.how": ("evaluate.judge", "none")}
"""Choices that mean nothing where another is so."""

NEEDS: dict[str, dict[str, str]] = {
    "feedback.by": {
        "environment": "verifier",
        "usefulness": "verifier",
        "self-judge": "judge",
        "judge": "judge",
        "pairwise": "judge",
        "constitution": "judge",
        "tests": "programs",
    },
    "refine.correct": {
        "rationalise": "gold",
        "self-debug": "programs",
        "interpreter": "programs",
        "blocks": "programs",
    },
    "acquire.solve.how": {"reference": "gold", "trials": "tools", "rules": "valid actions"},
    "acquire.generate.how": {
        "metamath": "answers",
        "code-llama": "tests",
        "documents": "documents",
        "tools": "tools",
        "schema": "database",
    },
    "update_memory.write": {"skills": "programs"},
    "evaluate.judge": {"self": "judge", "endpoint": "judge"},
}
"""What a choice cannot do without, by the setting's path. A judge is a model that grades: the
policy itself, unless an endpoint is set; ``answers``, ``gold``, ``tests``, ``programs``, ``tools``,
``valid actions`` and ``database`` are the suite's to have."""

LABELS = {"acquire.solve.how": frozenset({"contrast", "reference", "debate"})}
"""Choices that say themselves which try is the better one, so that no feedback is needed."""


class Part(NamedTuple):
    """One choice of a phase.

    Args:
        path: of the setting, or of the group whose switches it is.
        label: its short name.
        options: all that there is to choose.
        chosen: what is chosen of it.
    """

    path: str
    label: str
    options: tuple[str, ...]
    chosen: tuple[str, ...]


class Recipe(NamedTuple):
    """A recipe as a list shows it.

    Args:
        name, description: its name, and the first line of its head comment.
        phase: where it makes the choice that it is known for; ``suites``, or ``default``.
        sources: arXiv numbers of the papers, the method's own first.
        needs: what it cannot do without.
        choices: by path, what it chooses other than the default.
    """

    name: str
    description: str
    phase: str
    sources: tuple[str, ...]
    needs: tuple[str, ...]
    choices: dict[str, list[str]]


def recipe(name: str) -> Recipe:
    """What a recipe says and sets.

    Raises:
        ConfigError: no such recipe or file, or it cannot be used.
    """
    return described([name], [name], load_config(name))


def described(names: Sequence[str], words: Sequence[str], config: Config) -> Recipe:
    """What one or several recipes and settings over them say and set.

    Args:
        names: the recipes; none for settings over the default.
        words: all that was said, which is the mixture's name.
        config: what that comes to.
    """
    texts = [find_recipe(name).read_text() for name in names]
    heads = [[line.lstrip("# ") for line in _head(text)] for text in texts]
    told = " ".join(line for head in heads for line in head)
    sources = dict.fromkeys(re.findall(r"\b(\d{4}\.\d{5})\b", told))
    own, plain = parts(config), parts(Config())
    differ = [
        (phase, part, default)
        for phase in PHASES
        for part, default in zip(own[phase], plain[phase], strict=True)
        if part != default
    ]
    return Recipe(
        name=" ".join(words),
        description=" ".join(head[0] for head in heads if head),
        phase=_phase(yaml.safe_load(texts[-1]) or {} if texts else {}, config, differ),
        sources=tuple(sources),
        needs=needs(config),
        choices={part.path: list(part.chosen) for _, part, _ in differ},
    )


def parts(config: Config) -> dict[str, list[Part]]:
    """By phase, all choices, and what a configuration chooses."""
    found = {phase: list(_walk(getattr(config, key), key)) for phase, key in PHASES.items()}
    every = {part.path: part for own in found.values() for part in own}
    for phase, own in found.items():
        idle = {p for p, (other, value) in IDLE.items() if every[other].chosen == (value,)}
        found[phase] = [p._replace(chosen=()) if p.path in idle else p for p in own]
    return found


def enabled(config: Config, phase: str) -> bool:
    """Whether a phase does anything."""
    return bool(getattr(getattr(config, PHASES[phase]), "enabled", True))


def needs(config: Config) -> tuple[str, ...]:
    """What a configuration cannot do without (see `NEEDS`); a teacher, where one is set."""
    every = {phase: own for phase, own in parts(config).items() if enabled(config, phase)}
    labelled = any(
        LABELS.get(part.path, frozenset()) & set(part.chosen)
        for own in every.values()
        for part in own
    )
    found = [
        NEEDS.get(part.path, {}).get(choice)
        for phase, own in every.items()
        for part in own
        for choice in part.chosen
        if not (labelled and phase == "feedback")
    ]
    teacher = bool(config.acquire.generate.teacher.url)
    return tuple(dict.fromkeys(filter(None, [*found, "teacher" if teacher else None])))


def _phase(tree: Mapping[str, Any], config: Config, differ: list[tuple[str, Part, Part]]) -> str:
    """Of the choices that are not the default's the first; a switch only if there is no other.

    What is merely left out is nothing that a method is known for.
    """
    if "name" in (tree.get("suite") or {}):
        return SUITES
    if not differ:
        return DEFAULT
    added = [
        (phase, part)
        for phase, part, default in differ
        if set(part.chosen) - set(default.chosen) and enabled(config, phase)
    ]
    added.sort(key=lambda each: each[1].label == BESIDES)
    if added:
        return added[0][0]
    return "update weights" if enabled(config, "update weights") else "update memory"


BESIDES = "besides"


def _walk(group: BaseModel, path: str, label: str = "") -> Iterator[Part]:
    """The choices of a group of settings; its switches are one choice of several."""
    switches: dict[str, bool] = {}
    for name, field in type(group).model_fields.items():
        value, where = getattr(group, name), f"{path}.{name}"
        if name in DETAILS or (name == "enabled" and not label):
            continue
        if options := _options(field):
            chosen = tuple(value) if isinstance(value, tuple) else (str(value),)
            known = (*options, *(c for c in chosen if c not in options))  # a function of one's own
            yield Part(where, label if name in ("how", "by") and label else name, known, chosen)
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            yield from _together(value, where)
        elif _is_group(field):
            if getattr(field.default, "enabled", True):
                yield from _walk(value, where, name)
            else:
                switches[name] = bool(value.enabled)
        elif _is_switch(field):
            switches[name] = bool(value)
    if switches:
        on = tuple(name for name, is_on in switches.items() if is_on)
        yield Part(path, label or BESIDES, tuple(switches), on)


def _together(several: tuple[BaseModel, ...], path: str) -> Iterator[Part]:
    """The choices of several groups as one."""
    for same in zip(*(_walk(each, path) for each in several), strict=True):
        chosen = tuple(dict.fromkeys(choice for part in same for choice in part.chosen))
        yield same[0]._replace(chosen=chosen)


def _options(field: FieldInfo) -> tuple[str, ...]:
    """What a setting is chosen among; empty where it is no choice of names."""
    for about in field.metadata:
        if isinstance(about, OneOf):
            return about.names
    kind = field.annotation
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    names = get_args(kind) if get_origin(kind) is Literal else ()
    return names if len(names) > 1 and all(isinstance(name, str) for name in names) else ()


def _is_group(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _is_switch(field: FieldInfo) -> bool:
    """Whether a setting is on or off, is off by default, or is a group that may be null."""
    kinds = get_args(field.annotation)
    if type(None) in kinds and any(isinstance(k, type) and issubclass(k, BaseModel) for k in kinds):
        return True
    if isinstance(field.default, bool):
        return True
    return field.default is None or (not field.default and not isinstance(field.default, str))


def _head(text: str) -> list[str]:
    lines = text.splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return lines[:end]
