"""Values as JSON that may stand in a page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def json_for_html(value: Any) -> str:
    """JSON that may stand inside a script element: no ``<``, ``>``, ``&``, no NaN."""
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def plain(value: Any) -> Any:
    """The value with only what JSON has: text for the unknown, null for what is not finite."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    return str(value)
