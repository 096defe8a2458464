"""Settings that were said and do nothing, since another setting leaves them no part to play."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import attrgetter

from agent.config import Config, read_recipe

OBJECTIVES = ("weighted", "dpo", "kto", "grpo")  # that have settings of their own
EXPLORES = ("further_samples", "hot_tokens", "heat")
ONLY: dict[str, tuple[str, tuple[object, ...]]] = {
    **{f"update_weights.{name}": ("update_weights.objective", (name,)) for name in OBJECTIVES},
    **{f"acquire.{name}": ("acquire.explore", (True,)) for name in EXPLORES},
    "policy.vllm": ("policy.engine", ("vllm", "vllm-offline")),
    "policy.endpoint": ("policy.engine", ("openai",)),
}
"""Groups of settings that count only where another setting has one of these values."""

HALVES = ("update_memory", "update_weights")

SWITCHES = ("update_memory", "update_weights", "update_weights.verifier")
"""Groups of settings that ``enabled`` switches off whole."""

VERIFIER = ("update_weights", "update_weights.dpo")  # by these a verifier is trained as well


def idle(config: Config, overrides: Sequence[str]) -> list[str]:
    """Of the settings that were said (``key.path=value``), those without effect, and why."""
    paths = [said.partition("=")[0] for said in overrides]
    return [f"{path} has no effect: {why}" for path in paths if (why := _why(config, path))]


def overruled(config: Config, sources: Sequence[str]) -> list[str]:
    """What a method's recipe sets for memory or weights, and another recipe switches off.

    Two methods, one of memory and one of weights, each switch the other's half off: laid over each
    other as they are, nothing would evolve.
    """
    trees = {source: read_recipe(source) for source in sources}
    found = []
    for source, tree in trees.items():
        for group in HALVES if "suite" not in tree else ():  # a suite's recipe suits any method
            own = tree.get(group) or {}
            others = [s for s in trees if (trees[s].get(group) or {}).get("enabled") is False]
            if own.get("enabled", bool(own)) and others and not getattr(config, group).enabled:
                found.append(
                    f"what {source} sets for {group} has no effect: {others[-1]} switches it off "
                    f"({group}.enabled=true switches it on)"
                )
    return found


def _why(config: Config, path: str) -> str:
    """Why a setting does nothing; "" if it does something."""
    verifies = config.update_weights.verifier.enabled
    for group in accumulate(path.split("."), "{}.{}".format):  # the widest first, itself the last
        if verifies and group in VERIFIER:
            continue
        off = f"{group}.enabled"
        if group in SWITCHES and path not in (group, off) and not attrgetter(off)(config):
            return f"{off} is false"
        decides, values = ONLY.get(group, ("", ()))
        if decides and (value := attrgetter(decides)(config)) not in values:
            return f"{decides} is {value}"
    return ""
