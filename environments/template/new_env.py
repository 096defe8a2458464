"""A shop with changing prices: look them up, then buy the right thing.

Replace it with a world of your own. `instar check new_env:NewEnv` says what is wrong with it.
"""

import random

from environments.tools import ToolError

KINDS = ("mug", "hat", "lamp", "chair", "scarf", "bowl", "clock", "basket", "mirror", "vase")
COLOURS = ("red", "blue", "green", "white")


class NewEnv:
    """You shop for a customer. First search for the prices, then buy what is asked for."""

    tasks = "new_env_tasks.jsonl"  # each line: the arguments of reset, and a family
    turns = 4  # how many calls an episode may have
    example = ("Buy the cheapest pen.", 'search(kind="pen")')  # of no kind that is sold here

    def reset(self, order: str, kind: str, dearest: bool, seed: int, other_than: str = "") -> str:
        """Begin an episode; returns what the agent sees first."""
        items = [f"{colour} {kind}" for kind in KINDS for colour in COLOURS]
        prices = random.Random(seed).sample(range(5, 100), len(items))
        self._prices = dict(zip(items, prices, strict=True))
        choice = [item for item in self._of(kind) if item != f"{other_than} {kind}"]
        self._kind = kind
        self._wanted = (max if dearest else min)(choice, key=self._prices.__getitem__)
        self._bought = ""
        self.done = False
        return order

    def search(self, kind: str) -> dict[str, int]:
        """List all items of a kind with their prices.

        Args:
            kind: one word, such as mug
        """
        if not self._of(kind):
            raise ToolError(f"we have no {kind}; we sell: {', '.join(KINDS)}")
        return {item: self._prices[item] for item in self._of(kind)}

    def buy(self, item: str) -> str:
        """Buy one item; this ends the episode.

        Args:
            item: colour and kind, such as red mug
        """
        if item not in self._prices:
            raise ToolError(f"we have no {item}; search for a kind to see what there is")
        self._bought, self.done = item, True
        return f"You bought the {item} for {self._prices[item]}."

    def reward(self) -> float:
        """1 for the right item, 0 for any other and for none."""
        return float(self._bought == self._wanted)

    def gold(self) -> list[str]:
        """A solution, as the agent would write it; `instar check` replays it."""
        return [f'search(kind="{self._kind}")', f'buy(item="{self._wanted}")']

    def _of(self, kind: str) -> list[str]:
        return [item for item in self._prices if item.split()[1] == kind]
