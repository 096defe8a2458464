"""Settings that were said and do nothing, since another setting leaves them no part to play."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel

from agent.config import Config

ONLY = {
    **{f"update_weights.{name}": ("update_weights.objective", (name,))
       for name in ("weighted", "dpo", "kto", "grpo")},
    "policy.vllm": ("policy.engine", ("vllm", "vllm-offline")),
    "policy.endpoint": ("policy.engine", ("openai",)),
}  # fmt: skip
"""Groups of settings that count only where another setting has one of these values."""

SWITCHES = ("update_memory", "update_weights", "update_weights.verifier")
"""Groups of settings that ``enabled`` switches off whole."""


def idle(config: Config, overrides: Sequence[str]) -> list[str]:
    """Of the settings that were said (``key.path=value``), those without effect, and why."""
    paths = [said.partition("=")[0] for said in overrides]
    return [f"{path} has no effect: {why}" for path in paths if (why := _why(config, path))]


def _why(config: Config, path: str) -> str:
    """Why a setting does nothing; "" if it does something."""
    for group in _above(path):
        off = f"{group}.enabled"
        if group in SWITCHES and path not in (group, off) and not _at(config, off):
            return f"{off} is false"
        decides, values = ONLY.get(group, ("", ()))
        if decides and (value := _at(config, decides)) not in values:
            return f"{decides} is {value}"
    return ""


def _above(path: str) -> Iterator[str]:
    """The groups that a setting stands in, the widest first; a group given whole is one."""
    parts = path.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])


def _at(config: BaseModel, path: str) -> object:
    found: object = config
    for name in path.split("."):
        found = getattr(found, name)
    return found
