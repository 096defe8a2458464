"""A house in text: receptacles, objects, and the commands that ALFWorld's games know.

The rules are those of ALFWorld's planning domain and the answers those of its grammar
(``alfred.pddl``, ``alfred.twl2``; https://github.com/alfworld/alfworld, MIT), with one
simplification: whoever goes to a receptacle is at that one only, also where the original puts
several receptacles into one place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from environments.suites.household.rules import (
    CONTAINS,
    KNIVES,
    LAMPS,
    OPENABLE,
    SLICEABLE,
    TREATMENTS,
)

NOTHING_HAPPENS = "Nothing happens."
HELP = (
    "Available commands:\n  look\n  inventory\n  go to (receptacle)\n  open (receptacle)\n"
    "  close (receptacle)\n  take (object) from (receptacle)\n  move (object) to (receptacle)\n"
    "  examine (receptacle or object)\n  use (lamp)\n  heat (object) with (microwave)\n"
    "  clean (object) with (sinkbasin)\n  cool (object) with (fridge)\n"
    "  slice (object) with (knife)"
)
_PUT = re.compile(r"(?:move|put|place) (.+?) (?:to|in/on|into|onto|in|on) (.+)")
_TAKE = re.compile(r"take (.+) from (.+)")
_WITH = re.compile(r"(heat|clean|cool|slice) (.+) with (.+)")
_ONE = re.compile(r"(go to|open|close|examine|use|turn on) (.+)")


@dataclass(frozen=True)
class Goal:
    """What has to be true at the end; kinds are words such as ``mug`` and ``desk``.

    Args:
        obj: kind of object.
        receptacle: kind of receptacle it has to be in; empty where a lamp is asked for.
        count: how many such objects have to be in one such receptacle.
        state: ``clean``, ``heat`` or ``cool`` where the object has to have been treated so.
        lamp: kind of lamp that has to be on beside the agent while it holds the object.
    """

    obj: str
    receptacle: str = ""
    count: int = 1
    state: str = ""
    lamp: str = ""


def kind(name: str) -> str:
    """``mug`` of ``mug 2``."""
    return name.rpartition(" ")[0]


class House:
    """One house, changed by commands.

    Args:
        receptacles: their names (``desk 1``), in the order in which they are told.
        objects: pairs of an object's name and the receptacle it is in.
        goal: when the house is solved.
    """

    def __init__(
        self, receptacles: Sequence[str], objects: Sequence[tuple[str, str]], goal: Goal
    ) -> None:
        self._goal = goal
        self._inside: dict[str, list[str]] = {name: [] for name in receptacles}
        for name, place in objects:
            self._inside[place].append(name)
        self._at: str | None = None
        self._held: str | None = None
        self._open: set[str] = set()
        self._lit: set[str] = set()
        self._state: dict[str, set[str]] = {"heat": set(), "cool": set(), "clean": set()}
        self._sliced: set[str] = set()

    def look(self) -> str:
        """What is to be seen from where the agent stands."""
        if self._at is not None:
            return f"You are facing the {self._at}. Next to it, you see nothing."
        return (
            "You are in the middle of a room. Looking quickly around you, you see "
            f"{_listed(list(self._inside))}."
        )

    @property
    def solved(self) -> bool:
        """The goal is reached."""
        goal, at = self._goal, self._at
        if goal.lamp:
            return (
                self._held is not None
                and kind(self._held) == goal.obj
                and at is not None
                and any(kind(o) == goal.lamp and o in self._lit for o in self._inside[at])
            )
        treated = self._state[goal.state] if goal.state else None
        return any(
            sum(kind(o) == goal.obj and (treated is None or o in treated) for o in inside)
            >= goal.count
            for place, inside in self._inside.items()
            if inside and kind(place) == goal.receptacle
        )

    def commands(self) -> list[str]:
        """All commands that are understood here and now, but for ``help``; each as it is told."""
        at, held = self._at, self._held
        found = ["look", "inventory"]
        found += [f"go to {place}" for place in self._inside if place != at]
        if at is None:
            return found
        found.append(f"examine {at}")
        if kind(at) in OPENABLE:
            found.append(f"close {at}" if at in self._open else f"open {at}")
        seen = self._inside[at] if self._accessible(at) else []
        found += [f"examine {o}" for o in seen]
        found += [f"use {o}" for o in seen if kind(o) in LAMPS]
        if held is None:
            return found + [f"take {o} from {at}" for o in seen if kind(o) not in LAMPS]
        found.append(f"examine {held}")
        if self._fits(held, at):
            found.append(f"move {held} to {at}")
        found += [
            f"{verb} {held} with {at}"
            for verb, (place, kinds) in TREATMENTS.items()
            if kind(at) == place and kind(held) in kinds
        ]
        if kind(held) in KNIVES:
            found += [f"slice {o} with {held}" for o in seen if kind(o) in SLICEABLE]
        return found

    def do(self, command: str) -> str | None:
        """Carry out a command.

        Returns:
            What the agent is told; None where the command is not understood or cannot be done
            here, and nothing changed.
        """
        command = " ".join(command.lower().split()).rstrip(".")
        if (one := _ONE.fullmatch(command)) is not None:
            return self._one(one[1], one[2])
        if (take := _TAKE.fullmatch(command)) is not None:
            return self._take(take[1], take[2])
        if (put := _PUT.fullmatch(command)) is not None:
            return self._put(put[1], put[2])
        if (treat := _WITH.fullmatch(command)) is not None:
            if treat[1] == "slice":
                return self._slice(treat[2], treat[3])
            return self._treat(treat[1], treat[2], treat[3])
        if command in ("look", "look around"):
            return self.look()
        if command == "inventory":
            held = self._held
            return f"You are carrying: a {held}." if held else "You are not carrying anything."
        return HELP if command == "help" else None

    def _one(self, verb: str, name: str) -> str | None:
        if verb == "go to":
            if name == self._at or name not in self._inside:
                return None
            self._at = name
            return f"You arrive at {name}. {self._contents(name)}"
        if verb == "examine":
            if name == self._at:
                return self._contents(name)
            return self._described(name) if name == self._held or self._sees(name) else None
        if verb in ("use", "turn on"):
            if kind(name) not in LAMPS or not self._sees(name):
                return None
            self._lit.add(name)  # as in the original, a lamp that is on stays on
            return f"You turn on the {name}."
        if (
            name != self._at
            or kind(name) not in OPENABLE
            or (name in self._open) == (verb == "open")
        ):
            return None
        if verb == "open":
            self._open.add(name)
            return f"You open the {name}. {self._contents(name)}"
        self._open.remove(name)
        return f"You close the {name}."

    def _take(self, name: str, place: str) -> str | None:
        if self._held or place != self._at or not self._sees(name) or kind(name) in LAMPS:
            return None
        self._inside[place].remove(name)
        self._held = name
        return f"You pick up the {name} from the {place}."

    def _put(self, name: str, place: str) -> str | None:
        if name != self._held or place != self._at or not self._fits(name, place):
            return None
        self._inside[place].append(name)
        self._held = None
        return f"You move the {name} to the {place}."

    def _treat(self, verb: str, name: str, place: str) -> str | None:
        needed, kinds = TREATMENTS[verb]
        if name != self._held or place != self._at or kind(place) != needed:
            return None
        if kind(name) not in kinds:
            return None
        self._state[verb].add(name)
        if verb != "clean":
            self._state["cool" if verb == "heat" else "heat"].discard(name)
        return f"You {verb} the {name} using the {place}."

    def _slice(self, name: str, knife: str) -> str | None:
        if knife != self._held or kind(knife) not in KNIVES:
            return None
        if kind(name) not in SLICEABLE or not self._sees(name):
            return None
        self._sliced.add(name)
        return f"You sliced the {name} with the {knife}."

    def _accessible(self, place: str) -> bool:
        return place in self._open or kind(place) not in OPENABLE

    def _sees(self, name: str) -> bool:
        at = self._at
        return at is not None and name in self._inside[at] and self._accessible(at)

    def _fits(self, name: str, place: str) -> bool:
        return self._accessible(place) and kind(name) in CONTAINS.get(kind(place), ())

    def _contents(self, place: str) -> str:
        if not self._accessible(place):
            return f"The {place} is closed."
        listed = _listed(self._inside[place])
        if place in self._open:
            return f"The {place} is open. In it, you see {listed}."
        return f"On the {place}, you see {listed}."

    def _described(self, name: str) -> str:
        if kind(name) in LAMPS:
            return f"This {name} is {'on' if name in self._lit else 'off'}."
        words = [word for word, verb in (("hot", "heat"), ("cool", "cool"), ("clean", "clean"))
                 if name in self._state[verb]]  # fmt: skip
        if name in self._sliced:
            return f"This is a {' and '.join(words) + ' ' if words else ''}sliced {name}."
        if not words:
            return f"There's nothing special about {name}."
        return f"This is a {'cold' if words == ['cool'] else ' and '.join(words)} {name}."


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    items = [f"a {name}" for name in names]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])}, and {items[-1]}"
