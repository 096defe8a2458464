"""Weights that leave a run: a PEFT folder or a whole model, each with a model card.

Written beside the target first and renamed, so that a folder that exists is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from agent.training.adapter import COMPLETE, MANIFEST, AdapterError, check_adapter
from agent.training.adapter_set import refuse_set
from memory.sqlite import sync

As = Literal["peft", "merged"]
CARD, LINEAGE = "README.md", "lineage.json"
MADE_UP = "made-up prompts"  # a kind of source: what the policy rehearsed, which nobody judged
TOKENIZER = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "chat_template*", "*.model",
)  # fmt: skip


def export(
    adapter: Path,
    target: Path,
    *,
    form: As,
    model: Path,
    base: str,
    card: str,
    lineage: Mapping[str, Any],
    dtype: str = "auto",
    device: str = "auto",
    force: bool = False,
) -> list[str]:
    """Write an adapter as others load it.

    Args:
        adapter: its folder.
        target: where to; its parent is made if it is missing.
        form: ``peft``, the adapter for ``PeftModel.from_pretrained`` and vLLM; ``merged``, the
            whole model in safetensors with its tokeniser, as the embedded engine acts with it.
        model: folder of the base model.
        base: what the adapter calls its base model.
        card: text of the model card.
        lineage: all that is known about where it comes from, as JSON.
        dtype, device: of the base model while it is merged.
        force: replace an earlier export.

    Returns:
        names of the files.

    Raises:
        AdapterError: the adapter is damaged or a set of them, the target is there already, or it
            is there and no export.
    """
    check_adapter(adapter)
    refuse_set(adapter, "exported")
    if target.exists() or target.is_symlink():
        if not force:
            raise AdapterError(f"{target} exists already: take another place, or --force")
        if not (target.is_dir() and (target / LINEAGE).is_file()):
            raise AdapterError(f"{target} is no export (it has no {LINEAGE}), so it stays")
    target.parent.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    partial, before = room / "new", room / "before"
    try:
        partial.mkdir()  # not the room itself, which is for this user alone
        if form == "peft":
            _adapter(adapter, partial, base)
        else:
            _whole(adapter, partial, model, dtype, device)
        (partial / CARD).write_text(card)
        (partial / LINEAGE).write_text(json.dumps(lineage, indent=1))
        for path in partial.iterdir():
            sync(path)
        if target.exists():
            os.replace(target, before)
        try:
            os.replace(partial, target)
        except BaseException:  # an interrupt too: the room goes, and the old one with it
            if before.exists():
                os.replace(before, target)
            raise
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return sorted(path.name for path in target.iterdir())


def _adapter(adapter: Path, target: Path, base: str) -> None:
    for path in adapter.iterdir():
        if path.name not in (COMPLETE, MANIFEST):
            shutil.copyfile(path, target / path.name)
    config = json.loads((target / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base
    (target / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True))


def _whole(adapter: Path, target: Path, model: Path, dtype: str, device: str) -> None:
    from agent.policies.transformers import merged_model

    _, network = merged_model(model, adapter, dtype=dtype, device=device)
    try:
        network.save_pretrained(str(target))
    except OSError:
        raise
    except Exception as error:  # a full disk, in the words of the library that writes
        raise AdapterError(f"{target}: the model cannot be written ({error})") from error
    for path in target.glob("*.safetensors"):  # which the library lets nobody but its owner read
        path.chmod((target / "config.json").stat().st_mode)
    for pattern in TOKENIZER:  # as they are: libraries do not save all that they read
        for path in model.glob(pattern):
            shutil.copyfile(path, target / path.name)


def amounts(kinds: Mapping[str, Sequence[str]]) -> str:
    """How many sources of each kind there are, in words: ``12 episodes, 1 rewrite``."""
    counts = {kind: len(own) for kind, own in kinds.items() if own}
    return ", ".join(f"{n} {kind[:-1] if n == 1 else kind}" for kind, n in counts.items())


def model_card(told: Mapping[str, Any], form: As) -> str:
    """The model card of an export, in the form that hubs read (metadata, then text).

    Args:
        told: from ``agent.adapters.detail``.
        form: of the export.
    """
    import yaml

    base, licence = str(told["base"]), told["licence"]
    head: dict[str, Any] = {
        "base_model": base,
        "base_model_relation": "adapter" if form == "peft" else "finetune",
        "library_name": "peft" if form == "peft" else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["instar", "lora", str(told["objective"])],
        **({"license": licence} if licence else {}),
    }
    name = f"{Path(base).name}-{told['version']}"
    gate = [line for test in told["gate"] for line in _gate(test)]
    families = ", ".join(f"{family} {n}" for family, n in sorted(told["families"].items()))
    parents = ", ".join(told["parents"])
    judged = {kind: told["kinds"][kind] for kind in ("episodes", "rewrites")}
    by = told.get("judge", "")
    verified = "" if by else "verified "
    grader = f"`{by}` and not the suite's grader" if by else "the suite's own grader"
    made_up = amounts({MADE_UP: told["kinds"][MADE_UP]})
    made_up = f" {made_up} with the model's own answers, which nobody judged." if made_up else ""
    return "\n".join(
        [
            "---",
            yaml.safe_dump(head, sort_keys=False).strip(),
            "---",
            "",
            f"# {name}",
            "",
            f"Weights that an agent trained on its own {verified}experience: {told['suite']}, "
            f"generation {told['generation']}.",
            "",
            "## Method",
            "",
            f"{told['method']} From {parents}. {_losses(told['loss'])}".rstrip(),
            "",
            "## Data",
            "",
            f"{amounts(judged)} of the run's train split, which {grader} judged"
            f"{f': {families}' if families else ''}.{made_up} No gate, retention or test task is "
            "among them.",
            "",
            "## Gate",
            "",
            *(gate or ["These weights have not stood before the gate."]),
            "",
            "## Lineage",
            "",
            f"Version `{told['version']}` (hash of the weights), data `{told['data']}`, "
            f"configuration `{told['config']}`, base model `{told['model']}`. `{LINEAGE}` "
            "names every source episode, the settings, and the parents' parents.",
            "",
            "## Licence",
            "",
            f"That of the base model{f', {licence}' if licence else ': see there'}, and the "
            "terms of the data that it practised on.",
            "",
            "## How to load",
            "",
            "```python",
            *_loading(form, base),
            "```",
            "",
        ]
    )


def _loading(form: As, base: str) -> list[str]:
    if form == "peft":
        return [
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM",
            "",
            f"base = AutoModelForCausalLM.from_pretrained({base!r})",
            'model = PeftModel.from_pretrained(base, ".")',
        ]
    return [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained(".", dtype="auto")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
    ]


def _losses(loss: Mapping[str, Any] | None) -> str:
    if not loss:
        return ""
    return f"Loss {loss['first']:.3f} to {loss['last']:.3f} in {loss['steps']} steps."


def _gate(test: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Generation {test['generation']}, {test['decision']}: {test['reason']}",
        "",
        "| agent | success on held-out gate tasks | 95 % interval | tasks |",
        "| --- | ---: | ---: | ---: |",
    ]
    for cell, score in test["cells"].items():
        interval = f"[{score['low']:.3f}, {score['high']:.3f}]"
        lines.append(f"| {cell} | {score['mean']:.3f} | {interval} | {score['n']} |")
    for compared in test["comparisons"]:
        d = compared["difference"]
        lines += [
            "",
            f"{compared['cell']} against the incumbent, paired: {d['mean']:+.3f} "
            f"[{d['low']:+.3f}, {d['high']:+.3f}], e-value {compared['e_value']:.3g}.",
        ]
    return [*lines, ""]
