"""What the kinds of answer share."""

from __future__ import annotations

import math


def as_reward(grade: float) -> float:
    """A grade cut to 0 … 1; one that is no finite number is 0."""
    reward = float(grade)  # graders return numbers of many types
    return min(1.0, max(0.0, reward)) if math.isfinite(reward) else 0.0
