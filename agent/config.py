"""The configuration: one small tree of frozen records, from YAML and ``key=value``.

Each part's settings stand beside the part (``AgentSettings`` in ``agent/prompt.py``, and so
on); this module puts them together, reads files and reports mistakes in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import partial, reduce
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from agent.distributed.settings import RolloutSettings
from agent.evolution.acquire import AcquireSettings
from agent.evolution.evaluate.gate import GateSettings
from agent.evolution.evaluate.settings import EvaluateSettings
from agent.evolution.feedback.settings import FeedbackSettings
from agent.evolution.objective import ObjectiveSettings
from agent.evolution.refine import RefineSettings
from agent.evolution.update.memory import MemoryUpdateSettings
from agent.evolution.update.weights import WeightsUpdateSettings
from agent.policies.endpoint import EndpointSettings
from agent.policies.vllm_server import VllmSettings
from agent.prompt import AgentSettings
from environments.sandbox.base import Limits
from memory.kinds import KINDS
from memory.recall import RecallSettings
from memory.records import Kind


class ConfigError(ValueError):
    """A configuration that cannot be used; one line: which file and key, and what to do."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskCounts(_Settings):
    """How many tasks of each family are used from each split (as many as there are, if fewer)."""

    train: int = Field(60, ge=1)
    gate: int = Field(16, ge=1)
    retention: int = Field(8, ge=1)
    test: int = Field(25, ge=1)


class SuiteSettings(_Settings):
    """Which tasks.

    Args:
        name: a name of ``instar suites`` or an import path ``package.module:Class``.
        options: the suite's own options.
        tasks: how many tasks per family and split.
        unseen: families that stand in the test split alone: nobody practises them, no gate asks
            for them, so the test says what was learnt beyond the families that were practised.
        seconds: longest call of an environment, after which it counts as broken; null leaves it
            to the environment (60 s where that says nothing).
    """

    name: str = "reasoning-gym"
    options: dict[str, JsonValue] = Field(default_factory=dict)
    tasks: TaskCounts = TaskCounts()
    unseen: tuple[str, ...] = ()
    seconds: float | None = Field(None, gt=0)


class PolicySettings(_Settings):
    """Who acts.

    Args:
        engine: ``transformers``, in this process; ``vllm``, a server that the run starts (in an
            environment of its own) and stops; ``vllm-offline``, vLLM in this process;
            ``openai``, an endpoint that others run; ``scripted``, a function instead of a model,
            for tests. When to take which: agent/policies/README.md.
        model: ``default``, a folder, or a hub id; ``module:function`` for scripted. Of an
            endpoint: the model that it serves, whose tokeniser is needed here.
        vllm: the server of ``vllm``, and options of ``vllm-offline``.
        endpoint: the one of ``openai``.
        slots: rows generated at a time. Up to 56 rows of the default model, torch does the small
            operators on one thread, which is quicker than waking a second.
        context: longest prompt plus completion, in tokens.
        dtype, device: torch's; ``auto`` is bfloat16 (of the embedded engine and of training on a
            CPU without bfloat16 instructions: float32), and a GPU where there is one.
        threads: CPU threads; null is torch's default.
    """

    engine: Literal["transformers", "vllm", "vllm-offline", "openai", "scripted"] = "transformers"
    model: str = "default"
    slots: int = Field(56, ge=1)
    context: int = Field(2048, ge=128)
    dtype: Literal["auto", "bfloat16", "float32", "float16"] = "auto"
    device: str = "auto"
    threads: int | None = Field(None, ge=1)
    vllm: VllmSettings = VllmSettings()
    endpoint: EndpointSettings = EndpointSettings()

    @model_validator(mode="after")
    def _endpoint_named(self) -> Self:
        if self.engine == "openai" and not (self.endpoint.url and self.endpoint.model):
            raise ValueError("engine openai needs policy.endpoint.url and policy.endpoint.model")
        return self


class SandboxSettings(_Settings):
    """Where code runs.

    Args:
        backend: bubblewrap, docker, or none (code runs on this machine, unisolated; the command
            line has to allow it each time).
        limits: what one program may use.
        options: the backend's own, as ``{warm: true}`` (bubblewrap) or ``{runtime: runsc}``.
    """

    backend: str = "bubblewrap"
    limits: Limits = Limits()
    options: dict[str, JsonValue] = Field(default_factory=dict)


class StoreSettings(_Settings):
    """How memory is stored and recalled.

    Args:
        embedder: ``default``, ``hash``, a sentence-transformers folder or hub name.
        index: ``chroma``, in this process; ``chroma-server``, for several; or ``exact``, in
            memory, embedded anew at each start.
        index_url: of a Chroma server that runs already; null starts one where it is needed.
        recall: what is shown with a task.
        each_step: what is shown besides with each new observation; null reads memory once an
            episode. No exemplars: they would stand in the middle of another episode.
        search: what the agent finds when it searches (see `agent.overflow`); null: only in the
            turns that were paged out.
    """

    embedder: str = "default"
    index: Literal["chroma", "chroma-server", "exact"] = "chroma"
    index_url: str | None = None
    each_step: RecallSettings | None = None
    search: RecallSettings | None = None
    recall: RecallSettings = RecallSettings(quotas={Kind.EXEMPLAR: 2})

    @model_validator(mode="after")
    def _notes_only(self) -> Self:
        episodes = [
            k
            for k in (self.each_step or RecallSettings(quotas={})).quotas
            if KINDS[k].shown == "episode"
        ]
        if episodes:
            raise ValueError(f"each_step cannot show {episodes[0]}s, they are whole episodes")
        return self


class TestSettings(_Settings):
    """The final test.

    Args:
        run: whether to run it when the last generation is done.
        best_of_temperature: temperature of samples of which one is picked.
        best_of_max: most samples per task, whatever the token budget allows.
        best_of_pick: who picks among them: the ``majority``, or the learned ``verifier`` of the
            last generation that has one (``update_weights.verifier``).
        evolved_samples: answers of the evolved agent a task, of which one is picked likewise, as
            an arm of its own; 0 leaves it out.
    """

    run: bool = True
    best_of_temperature: float = Field(0.7, ge=0)
    best_of_max: int = Field(64, ge=1)
    best_of_pick: Literal["majority", "verifier"] = "majority"
    evolved_samples: int = Field(0, ge=0)


class Config(_Settings):
    """Everything a run needs; stored in its folder.

    Args:
        generations: how many generations to evolve.
        token_budget: of practice, writing and training, not of what the gate measures. No
            generation begins of which, by what the last one took, less than half would fit; null
            is no limit.
        seed: decides tasks, samples and initialisations.
    """

    generations: int = Field(3, ge=1)
    token_budget: int | None = Field(None, ge=1)
    seed: int = 0
    suite: SuiteSettings = SuiteSettings()
    policy: PolicySettings = PolicySettings()
    agent: AgentSettings = AgentSettings()
    sandbox: SandboxSettings = SandboxSettings()
    rollouts: RolloutSettings = RolloutSettings()
    memory: StoreSettings = StoreSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    acquire: AcquireSettings = AcquireSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    refine: RefineSettings = RefineSettings()
    update_memory: MemoryUpdateSettings = MemoryUpdateSettings()
    update_weights: WeightsUpdateSettings = WeightsUpdateSettings()
    gate: GateSettings = GateSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    test: TestSettings = TestSettings()

    @model_validator(mode="after")
    def _one_endpoint(self) -> Self:
        if self.policy.engine == "openai" and self.rollouts.engines > 1:
            raise ValueError(
                "rollouts.engines must be 1 for an endpoint, which serves all by itself: one "
                "engine passes the requests on"
            )
        return self

    @model_validator(mode="after")
    def _trains_on_ids(self) -> Self:
        spoken = self.policy.engine == "openai" and not self.policy.endpoint.token_ids
        if spoken and self.update_weights.enabled:
            raise ValueError(
                "what an endpoint without token ids writes can never be trained on: set "
                "update_weights.enabled=false (only memory evolves then), or use vLLM"
            )
        return self

    @model_validator(mode="after")
    def _verifier_scores(self) -> Self:
        verifier = self.update_weights.enabled and self.update_weights.verifier.enabled
        if verifier and self.policy.engine != "transformers":
            raise ValueError(
                f"update_weights.verifier needs policy.engine=transformers, which alone scores "
                f"what is written, not {self.policy.engine}: set update_weights.verifier.enabled="
                "false, or take that engine"
            )
        if self.test.best_of_pick == "verifier" and not verifier:
            raise ValueError(
                "test.best_of_pick=verifier needs one that is trained: set "
                "update_weights.enabled=true and update_weights.verifier.enabled=true"
            )
        return self

    @model_validator(mode="after")
    def _judge_named(self) -> Self:
        judge, teacher = self.feedback.judge, self.acquire.generate.teacher
        if self.feedback.by == "judge" and not judge.url:
            raise ValueError("feedback.by=judge needs feedback.judge.url and feedback.judge.model")
        if judge.url and not judge.model:
            raise ValueError("feedback.judge.url needs feedback.judge.model")
        if teacher.url and not teacher.model:
            raise ValueError("acquire.generate.teacher.url needs acquire.generate.teacher.model")
        return self

    @model_validator(mode="after")
    def _hint_is_stripped(self) -> Self:
        shown = self.update_weights.enabled and self.update_weights.prompt == "acting"
        if self.refine.correct == "rationalise" and shown:
            raise ValueError(
                "refine.correct=rationalise gives the answer as a hint, which "
                "update_weights.prompt=acting would train on: set update_weights.prompt=bare"
            )
        return self


def load_config(
    sources: str | Path | Sequence[str | Path] | None, overrides: Sequence[str] = ()
) -> Config:
    """A configuration from YAML files (or names of shipped recipes) and overrides.

    Several are laid one over the other, a suite's recipe and a method's, say: groups of keys are
    merged, and where two set the same key, the later one holds.

    Args:
        sources: paths of YAML files or names of recipes in ``agent/recipes``; None for none.
        overrides: ``key.path=value``; the value is read as YAML.

    Raises:
        ConfigError: unreadable file, unknown key, wrong type or value; one line each.
    """
    names = [sources] if isinstance(sources, str | Path) else list(sources or ())
    trees = [read_recipe(name) for name in names]
    if len(trees) > 1:
        for name, tree in zip(names, trees, strict=True):
            validate(tree, str(name))  # a mistake is told with the file that it stands in
    tree = reduce(partial(_laid_over, Config), trees, {})
    return _overridden(tree, overrides, " + ".join(map(str, names)) or "the default configuration")


def read_recipe(source: str | Path) -> dict[str, Any]:
    """The settings that a YAML file, or a shipped recipe, writes down; raises as `load_config`."""
    path = find_recipe(source)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: cannot be read: {error}") from error
    loaded = _parsed(text, f"{source}:")
    if not isinstance(loaded, dict):
        raise ConfigError(f"{source}: must hold keys and values, as in agent/recipes/*.yaml")
    return loaded


def _parsed(text: str, label: str) -> Any:
    """What a YAML text says; a ConfigError that names it, if it says nothing or something twice."""
    try:
        return yaml.load(text, _Once)  # noqa: S506
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
            reason = f"line {error.problem_mark.line + 1}: {error.problem}"
        raise ConfigError(f"{label} is not valid YAML: {reason}") from error


class _Once(yaml.SafeLoader):
    """Of a key that stands twice YAML takes the last and drops the other: here it is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                told = f"the key {key.value} stands twice in one group"
                raise yaml.MarkedYAMLError(problem=told, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _laid_over(model: Any, under: Any, over: Any) -> Any:
    """A tree of settings over another; what is no group of settings is replaced whole."""
    if model is None or not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    merged = {
        key: _laid_over(_group(model, key), under.get(key), value) for key, value in over.items()
    }
    return under | merged


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """A configuration with some settings changed, as ``load_config`` does it."""
    if not overrides:
        return config
    return _overridden(config.model_dump(mode="json"), overrides, "the settings given")


def _overridden(tree: dict[str, Any], overrides: Sequence[str], label: str) -> Config:
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"{override!r} is no override; write key=value, e.g. generations=5 (recipes and "
                "files stand before the first of them)"
            )
        _set(tree, key.split("."), _parsed(text, f"{override!r}: the value"), override)
    return validate(tree, label)


def validate(tree: Mapping[str, Any], label: str) -> Config:
    """A configuration from a parsed tree; every mistake in one line that names its key."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        found = error.errors()
        inner = {e["loc"][:n] for e in found for n in range(len(e["loc"]))}
        # A list is not too short besides because its items are wrong.
        told = [e for e in found if not (e["type"] == "too_short" and e["loc"] in inner)]
        raise ConfigError(f"{label}: {'; '.join(map(_explain, told))}") from error


def recipes() -> list[str]:
    """Names of the shipped recipes."""
    folder = resources.files("agent") / "recipes"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if ".yaml" in p.name)


def find_recipe(source: str | Path) -> Path:
    """The file that a path or a recipe's name stands for.

    Raises:
        ConfigError: neither.
    """
    path = Path(source)
    if path.is_file():
        return path
    if str(source) in recipes():
        return Path(str(resources.files("agent") / "recipes" / f"{source}.yaml"))
    from environments.suites import suite_names

    close = difflib.get_close_matches(str(source), recipes(), n=1)
    told = "the recipes are listed by: instar recipes"
    if str(source) in suite_names():
        told = f"it is a suite: --suite {source}"
    elif close:
        told = f"did you mean {close[0]}?"
    raise ConfigError(f"{source}: no such file, and no such recipe ({told})")


def _set(tree: dict[str, Any], path: list[str], value: Any, override: str) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{override!r}: {name} is a value, not a group of keys")
    tree[path[-1]] = value


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _keys(error["loc"][:-1])
        close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"
        return f"unknown key {where} ({hint})"
    if error["type"] in ("model_type", "model_attributes_type", "dict_type") and where:
        keys = ", ".join(f"{where}.{key}" for key in _fields(error["loc"])[:3])
        return f"{where} is a group of settings, as {keys}" if keys else f"{where}: must hold keys"
    if error["type"] in ("tuple_type", "list_type"):
        one = error["input"]
        shown = f", as [{one}]" if isinstance(one, str | int | float | dict) else ""
        return f"{where}: must be a list{shown}"
    got = error.get("input")
    shown = f" (got {got!r})" if isinstance(got, str | int | float | bool | type(None)) else ""
    said = error["msg"].removeprefix("Value error, ")
    if said == error["msg"]:
        said = f"{said[0].lower()}{said[1:]}"
    shown = "" if repr(got) in said else shown
    return ": ".join(filter(None, (where, f"{said}{shown}")))


def _keys(path: Sequence[int | str]) -> list[str]:
    return sorted(_fields(path))


def _fields(path: Sequence[int | str]) -> list[str]:
    """The keys of the group of settings at a path, the ones that matter most first."""
    model: Any = Config
    for part in path:
        model = _group(model, part)
    return list(getattr(model, "model_fields", {}))


def _group(model: Any, key: int | str) -> Any:
    """The settings that stand under a key of settings; None if none do."""
    if isinstance(key, int):  # of several that stand in a list
        return model
    field = getattr(model, "model_fields", {}).get(key)
    kind = field.annotation if field is not None else None
    kinds = [k for k in (kind, *get_args(kind)) if hasattr(k, "model_fields")]  # or null
    return kinds[0] if kinds else None
