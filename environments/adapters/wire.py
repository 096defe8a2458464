"""What passes between an agent and a world of another project: arguments, text, rewards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

ARGUMENT_CHARS = 100_000
OBSERVATION_CHARS = 2000


def sendable(arguments: Mapping[str, Any]) -> bool:
    """Whether arguments are JSON of a sensible length that UTF-8 can hold."""
    try:
        body = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        return len(body.encode()) <= ARGUMENT_CHARS
    except (TypeError, ValueError, RecursionError):  # UnicodeEncodeError is a ValueError
        return False


def scaled(score: float, fail: float, success: float) -> float:
    """A score as a reward: 0 up to ``fail``, 1 from ``success`` on, in proportion between."""
    return min(1.0, max(0.0, (score - fail) / (success - fail)))
