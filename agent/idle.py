"""Settings that were said and do nothing, since another setting leaves them no part to play."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import attrgetter

from agent.config import Config, read_recipe
from agent.evolution.acquire import GenerateSettings

OBJECTIVES = ("weighted", "dpo", "kto", "grpo")  # that have settings of their own
OFF = ("none", "sample", 0)  # of a setting that is nothing
_Only = tuple[str, tuple[object, ...]]


def _only(group: str, names: str, decides: str, *values: object) -> dict[str, _Only]:
    return {f"{group}.{name}": (f"{group}.{decides}", values) for name in names.split()}


ONLY: dict[str, _Only] = {
    **{f"update_weights.{name}": ("update_weights.objective", (name,)) for name in OBJECTIVES},
    **_only("update_weights", "merge", "merge.how"),
    **_only("update_weights", "groups", "adapters", "per-group"),
    **_only("acquire", "further_samples hot_tokens heat", "explore", True),
    **_only("acquire", "carried note_tokens", "retries"),
    **_only("acquire", "solve", "solve.how"),
    **_only("acquire.solve", "tell keep lead", "how", "prepare"),
    **_only("acquire.solve", "better worse weigh worse_by", "how", "contrast"),
    **_only("acquire.solve", "views", "how", "perspectives"),
    **_only("acquire.solve", "follows", "how", "rules"),
    # "apart" is held against rehearsed tasks as well.
    **_only("acquire.generate", " ".join({*GenerateSettings.model_fields} - {"apart"}), "how"),
    **_only("acquire.generate", "documents passage vouched", "how", "documents"),
    **_only("acquire.generate", "grade", "how", "backtranslation"),
    **_only("feedback", "judge", "by", "judge", "pairwise", "constitution"),
    **_only("feedback", "scale passes", "by", "self-judge", "judge"),
    **_only("feedback", "opponents", "by", "pairwise"),
    **_only("feedback", "agreement", "by", "consistency"),
    **_only("feedback", "conditions", "by", "self-verification"),
    **_only("feedback", "samples temperature", "by", "self-verification", "tests"),
    **_only("feedback", "tests", "by", "tests"),
    **_only("feedback", "probes", "by", "usefulness"),
    **_only("refine", "rounds carried critique_tokens", "correct"),
    **_only("evaluate", "against how tasks tokens", "judge"),
    **_only("evaluate", "endpoint", "judge", "endpoint"),
    **_only("evaluate", "roles rounds talk", "how", "debate"),
    **_only("evaluate", "account_tokens", "account", "policy"),
    **_only("memory", "index_url", "index", "chroma-server"),
    **_only("policy", "vllm", "engine", "vllm", "vllm-offline"),
    **_only("policy", "endpoint", "engine", "openai"),
    "rollouts": ("rollouts.runner", ("ray",)),
    "test": ("test.run", (True,)),
}
"""Groups of settings that count only where another setting has one of these values; without any
named, where it is not off. A function of one's own may read all of them."""

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
        if not decides or f"{decides}.".startswith(f"{path}."):
            continue
        value = attrgetter(decides)(config)
        if not (value in values if values else value not in OFF) and ":" not in str(value):
            return f"{decides} is {str(value).lower() if isinstance(value, bool) else value}"
    return ""
