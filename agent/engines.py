"""The configured engine: a policy that acts, and training that makes its next weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from agent.config import Config, PolicySettings
from agent.machine import give_back_memory
from agent.policies.base import Policy, PolicyFailure
from agent.report.terminal import phase
from agent.run_folder import config_hash
from agent.training.adapter import read_manifest, save_adapter
from agent.training.packing import Example

if TYPE_CHECKING:
    from agent.distributed.fleet import Fleet
    from agent.policies.served import Words
    from agent.run import Run
    from agent.training.merging import Recipe

SEED_APART = 1_000_003  # between the seeds of trainings on the same examples


class Engine:
    """What a run's policies are made by; it outlives them.

    One server (or one ``vllm.LLM``) serves all versions of a run's weights: it starts with the
    first policy, stays while policies come and go, and ends with ``close``.

    Args:
        config: which engine.
        log: file for what a server writes.
        say: told what the user should know, as a server that had to be started again.
        unsafe: whether the sandbox may be ``none``, where others play the episodes.

    Attributes:
        fleet: the processes that play and generate, if these are others than this one.
    """

    def __init__(
        self, config: Config, log: Path, say: Callable[[str], None], *, unsafe: bool = False
    ):
        self.config, self.log, self.say = config, log, say
        self._service: Any = None  # a Service, or OfflineVllm
        self.fleet: Fleet | None = None
        if config.rollouts.runner == "ray":
            from agent.distributed.fleet import Fleet

            self.fleet = Fleet(config, say, unsafe=unsafe)

    def policy(self, adapter: Path | None, version: str) -> Policy:
        """A policy at one version of its weights.

        Raises:
            ModelError, PolicyFailure: it cannot be had; one line.
        """
        settings = self.config.policy
        if self.fleet is not None:
            return self.fleet.policy(adapter, version)
        if settings.engine == "scripted":
            from agent.policies.scripted import ScriptedPolicy

            context = settings.context
            return ScriptedPolicy(settings.model, adapter, version=version, context=context)
        from agent.policies.models import resolve_model

        model = resolve_model(settings.model)
        if adapter is not None:
            made_on(model, adapter)
        if settings.engine != "transformers":
            return self._served(model, adapter, version)
        from agent.policies.transformers import TransformersPolicy

        return TransformersPolicy(
            model,
            adapter,
            version=version,
            slots=settings.slots,
            context=settings.context,
            dtype=settings.dtype,
            device=settings.device,
            threads=settings.threads,
        )

    def _served(self, model: Path, adapter: Path | None, version: str) -> Policy:
        from agent.policies.chat import load_chat
        from agent.policies.offline import OfflinePolicy, OfflineVllm
        from agent.policies.remote import RemoteService, Spoken
        from agent.policies.served import ServedPolicy, Words, asker
        from agent.policies.vllm_server import VllmServer

        settings, learns = self.config.policy, self.config.update_weights
        chat, ends = load_chat(model)
        shape: dict[str, Any] = {
            "context": settings.context,
            "slots": settings.slots,
            "dtype": settings.dtype,
            "rank": learns.highest_rank if learns.enabled or adapter is not None else None,
        }
        if self._service is None and settings.engine == "vllm":
            self._service = VllmServer(model, settings.vllm, self.log, say=self.say, **shape)
        elif self._service is None and settings.engine == "vllm-offline":
            self._service = OfflineVllm(model, settings.vllm, **shape)
        elif self._service is None:
            evolves = learns.enabled or adapter is not None
            probe = chat.ids("Hello")
            self._service = RemoteService(settings.endpoint, evolves=evolves, probe=probe)
        service, context = self._service, settings.context
        if isinstance(service, OfflineVllm):
            return OfflinePolicy(chat, ends, service, adapter, version=version, context=context)
        words, ask = cast(Words, chat), asker(service, chat, ends)
        if settings.engine == "openai" and not settings.endpoint.token_ids:
            words = spoken = Spoken(chat)
            ask = spoken.ask(service, settings.endpoint)
        return ServedPolicy(
            words,
            ask,
            service,
            adapter,
            version=version,
            context=context,
            under_way=settings.slots * 3 // 2,
        )

    def make_room(self) -> None:
        """Before training on this machine: free what it needs."""
        if self.fleet is not None:
            self.fleet.rest()
        if self._service is None:
            return
        import torch

        how = self.config.policy.vllm.training
        if how == "stop" or (how == "auto" and torch.cuda.is_available()):
            self._service.rest()

    def close(self) -> None:
        """End what was started; safe to call twice."""
        if self._service is not None:
            self._service.close()
        if self.fleet is not None:
            self.fleet.close()


def made_on(model: Path, adapter: Path) -> None:
    """Whether an adapter belongs to this base model.

    Raises:
        ModelError: it was made on another one; with this one it would be weights that nobody made.
    """
    from agent.policies.models import ModelError, model_identity

    told = read_manifest(adapter).get("model")
    if told and told != (own := model_identity(model)):
        raise ModelError(
            f"{adapter} was made on another base model ({told}) than policy.model names ({own}, "
            f"{model}): name the one that it was made on"
        )


def words_of(settings: PolicySettings) -> Words:
    """Texts as ids of the configured policy, where its weights are not needed.

    Raises:
        ModelError: it has no tokeniser here; one line.
    """
    if settings.engine == "scripted":
        from agent.policies.scripted import ScriptedPolicy

        return ScriptedPolicy(settings.model, context=settings.context)
    from agent.policies.chat import load_chat
    from agent.policies.models import resolve_model
    from agent.policies.remote import Spoken

    chat, _ = load_chat(resolve_model(settings.model))
    spoken = settings.engine == "openai" and not settings.endpoint.token_ids
    return Spoken(chat) if spoken else chat


def train_adapter(
    run: Run,
    examples: Sequence[Example],
    folder: Path,
    manifest: Mapping[str, Any],
    label: str,
    repeat: int = 0,
) -> Mapping[str, Any]:
    """Train the configured engine's weights on examples; returns the adapter's manifest.

    Args:
        run, examples, folder, label: for whom, on what, where to, how it is called on the screen.
        manifest: what its manifest is to say besides; training begins with its ``parent``.
        repeat: how often it was trained on these examples before; each has a seed of its own.
    """
    config = run.config
    manifest = {**manifest, "config": config_hash(run.folder)}
    start = run.adapter(str(manifest["parent"]))
    if config.policy.engine == "scripted":
        from agent.policies.scripted import write_learnt

        described = {**manifest, "sources": [e.source for e in examples], "tokens": 0}
        learnt = [e for e in examples if e.advantage >= 0]  # it cannot unlearn
        save_adapter(folder, lambda target: write_learnt(target, learnt, start), described)
        return read_manifest(folder)
    from agent.policies.models import model_identity, resolve_model
    from agent.training.lora import train

    if any(token < 0 for e in examples for token in e.token_ids):
        raise PolicyFailure("an endpoint without token ids wrote what was to be trained on")
    run.engine.make_room()
    model = resolve_model(config.policy.model)
    with phase(run.console, label, None, quiet=run.quiet) as meter:

        def progress(done: int, total: int, tokens: int, loss: float) -> None:
            meter.total = total
            meter.advance(1, tokens)

        train(
            model,
            examples,
            config.update_weights,
            folder,
            seed=config.seed + SEED_APART * repeat,
            manifest={**manifest, "model": model_identity(model)},
            start=start,
            progress=progress,
            dtype=config.policy.dtype,
            device=config.policy.device,
        )
    give_back_memory()
    return read_manifest(folder)


def merge_adapters(
    run: Run,
    parents: Sequence[Path],
    recipe: Recipe,
    folder: Path,
    manifest: Mapping[str, Any],
) -> Mapping[str, Any]:
    """Merge adapters of the configured engine's weights; returns the merged one's manifest."""
    from agent.training.merging import lineage, merge

    config = run.config
    described = {**manifest, "config": config_hash(run.folder)}
    if config.policy.engine == "scripted":
        from agent.policies.scripted import merge_learnt

        described |= lineage(parents, recipe)
        save_adapter(folder, lambda target: merge_learnt(target, parents), described)
    else:
        from agent.policies.models import resolve_model

        model, policy = resolve_model(config.policy.model), config.policy
        device, dtype = policy.device, policy.dtype
        merge(model, parents, recipe, folder, manifest=described, dtype=dtype, device=device)
    return read_manifest(folder)
