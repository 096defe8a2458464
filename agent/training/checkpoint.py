"""Where training stands, on disk: written whole or not at all, used only by the same training.

One file beside the adapter's folder. After a crash training goes on from it, and ends with the
same weights, bit for bit, as if nothing had happened (same machine, same libraries).
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SUFFIX = ".checkpoint"


class Checkpoint:
    """The checkpoint of one training.

    Args:
        folder: where the adapter will go.
        key: hash of all that decides the training (data, settings, seed, base model).
        seconds: least time between two saves; None saves nothing.
    """

    def __init__(self, folder: Path, key: str, seconds: float | None):
        self.path = folder.with_name(folder.name + SUFFIX)
        self.key, self.seconds = key, seconds
        self.last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was saved last; None if nothing was, or by another training."""
        import torch

        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        except Exception as error:  # damaged: many kinds, by torch, zip and pickle
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(
                f"{self.path} cannot be read ({reason}); training begins anew", stacklevel=2
            )
            return None
        return state if state["key"] == self.key else None

    @property
    def due(self) -> bool:
        return self.seconds is not None and time.monotonic() - self.last >= self.seconds

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace what was saved by this, in one step.

        Raises:
            OSError: there is no room.
        """
        import torch

        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        with partial.open("wb") as file:
            torch.save({**state, "key": self.key}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.path)
        self.last = time.monotonic()

    def remove(self) -> None:
        """Nothing is left to go on from."""
        self.path.unlink(missing_ok=True)
        self.path.with_name(self.path.name + ".partial").unlink(missing_ok=True)


def discard(folder: Path) -> None:
    """Remove the checkpoint of the training whose adapter lies in the folder now."""
    Checkpoint(folder, "", None).remove()
