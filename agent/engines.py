"""The configured engine: a policy that acts, and training that makes its next weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.config import Config
from agent.policies.base import Policy
from agent.report.terminal import phase
from agent.training.adapter import read_manifest, save_adapter
from agent.training.packing import Example

if TYPE_CHECKING:
    from agent.run import Run


def make_policy(config: Config, adapter: Path | None, version: str) -> Policy:
    """A policy of the configured engine at one version of its weights."""
    settings = config.policy
    if settings.engine == "scripted":
        from agent.policies.scripted import ScriptedPolicy

        return ScriptedPolicy(settings.model, adapter, version=version, context=settings.context)
    from agent.policies.models import resolve_model
    from agent.policies.transformers import TransformersPolicy

    return TransformersPolicy(
        resolve_model(settings.model),
        adapter,
        version=version,
        slots=settings.slots,
        context=settings.context,
        dtype=settings.dtype,
        device=settings.device,
        threads=settings.threads,
    )


def train_adapter(
    run: Run, examples: Sequence[Example], folder: Path, manifest: Mapping[str, Any], label: str
) -> Mapping[str, Any]:
    """Train the configured engine's weights on examples; returns the adapter's manifest."""
    config = run.config
    if config.policy.engine == "scripted":
        from agent.policies.scripted import write_learnt

        described = {**manifest, "sources": [e.source for e in examples], "tokens": 0}
        learnt = [e for e in examples if e.advantage >= 0]  # it cannot unlearn
        save_adapter(folder, lambda target: write_learnt(target, learnt), described)
        return read_manifest(folder)
    from agent.policies.models import model_identity, resolve_model
    from agent.training.lora import train

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
            seed=config.seed,
            manifest={**manifest, "model": model_identity(model)},
            progress=progress,
            dtype=config.policy.dtype,
            device=config.policy.device,
        )
    return read_manifest(folder)
