"""What Gymnasium's toy-text worlds mean: names of their actions, rules, scores, text.

The numbers of the actions and the rewards are those of Gymnasium's documentation
(https://gymnasium.farama.org/environments/toy_text/).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

Score = Literal["last", "sum"]


class World(NamedTuple):
    """How a world is told and scored.

    Args:
        rules: for the agent.
        actions: names of its actions, by number.
        score: what counts: the last reward, or the sum of all.
        success: the score that is the full reward, 1.
        fail: the score that is no reward, 0.
        max_steps: most actions of an episode.
        describe: the world as text, for those whose rendering needs colours.
        vary: keyword arguments that make the world of a seed; None where seeds suffice.
    """

    rules: str = ""
    actions: Sequence[str] = ()
    score: Score = "last"
    success: float = 1.0
    fail: float = 0.0
    max_steps: int = 100
    describe: Callable[[Any], str] | None = None
    vary: Callable[[int, Mapping[str, Any]], dict[str, Any]] | None = None


def _lake(seed: int, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A random map, unless the user named one."""
    from gymnasium.envs.toy_text.frozen_lake import generate_random_map

    if kwargs.get("desc") is not None or kwargs.get("map_name") is not None:
        return {}
    return {"desc": generate_random_map(size=4, seed=seed)}


def _taxi(env: Any) -> str:
    """The taxi's street map has colours only; here it is in words."""
    row, column, passenger, goal = map(int, env.decode(env.s))
    names = ("R (row 0, column 0)", "G (row 0, column 4)",
             "Y (row 4, column 0)", "B (row 4, column 3)")  # fmt: skip
    where = "in the taxi" if passenger == 4 else f"at {names[passenger]}"
    return f"Taxi: row {row}, column {column}. Passenger: {where}. Goal: {names[goal]}."


def _cards(env: Any) -> str:
    total = env._get_obs()
    ace = " (with a usable ace)" if total[2] else ""
    return f"Your hand: {int(total[0])}{ace}. The dealer shows: {int(total[1])}."


WORLDS: dict[str, World] = {
    "FrozenLake": World(
        rules="Walk over the frozen lake from S to G. F is ice, H is a hole. [ ] marks you.",
        actions=("left", "down", "right", "up"),
        max_steps=20,
        vary=_lake,
    ),
    "Taxi": World(
        rules=(
            "Drive the taxi to the passenger, pick the passenger up, drive to the goal, drop off. "
            "Rows count southwards, columns eastwards. Walls block some streets."
        ),
        actions=("south", "north", "east", "west", "pickup", "dropoff"),
        success=20.0,
        max_steps=40,
        describe=_taxi,
    ),
    "CliffWalking": World(
        rules="Walk from x to T, not over the cliff C: that sends you back. Use few steps.",
        actions=("up", "right", "down", "left"),
        score="sum",
        success=-13.0,
        fail=-100.0,
        max_steps=40,
    ),
    "Blackjack": World(
        rules="Get closer to 21 than the dealer, not over it.",
        actions=("stick", "hit"),
        max_steps=12,
        describe=_cards,
    ),
}


def world_of(name: str) -> World:
    """The world of a Gymnasium id, whatever its version; an empty one for unknown ids."""
    return WORLDS.get(name.rsplit(":", 1)[-1].rsplit("/", 1)[-1].rsplit("-v", 1)[0], World())
