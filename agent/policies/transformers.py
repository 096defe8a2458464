"""The embedded policy: a chat model in this process, evolved weights merged in."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from agent.machine import give_back_memory, share_cores
from agent.policies.base import Completion, Message, Request, engine_errors
from agent.policies.chat import Chat
from agent.policies.models import ModelError

SCALES = ("final_logit_softcapping", "logits_scaling", "logit_scale")  # Gemma 2, Granite, Cohere
DTYPES = ("auto", "bfloat16", "float32", "float16")


class TransformersPolicy:
    """A local chat model behind the continuous-batching engine.

    An adapter is merged into the weights: acting with merged weights is faster than with an
    adapter beside them, and a policy never changes after it was made.

    Args:
        model: folder of the base model.
        adapter: folder of a PEFT adapter, or None for the base weights.
        version: name of these weights in trajectories.
        slots: rows generated at a time.
        context: longest prompt plus completion, in tokens.
        dtype: one of ``DTYPES``; auto is bfloat16, or float32 on a CPU without bfloat16.
        device: torch device; auto picks a GPU where there is one.
        threads: CPU threads for torch; None leaves torch's default.

    Raises:
        ModelError: the model cannot be loaded, or some of its layers see less than ``context``.
    """

    def __init__(
        self,
        model: Path,
        adapter: Path | None = None,
        *,
        version: str = "base",
        slots: int = 56,
        context: int = 2048,
        dtype: str = "auto",
        device: str = "auto",
        threads: int | None = None,
    ):
        share_cores()
        import torch

        from agent.policies.engine import Engine
        from agent.policies.kernels import quicken

        if threads:
            torch.set_num_threads(threads)
        self.version, self.context = version, context
        self.tokenizer, network = merged_model(model, adapter, dtype=dtype, device=device)
        if (seen := window(network.config)) is not None and context > seen:
            raise ModelError(
                f"policy.context is {context}, and layers of the model in {model} see {seen} "
                "tokens back (sliding_window), which the embedded engine does not do: set "
                f"policy.context={seen}, or take policy.engine=vllm"
            )
        self.chat = Chat(self.tokenizer)
        self.engine = Engine(quicken(network.eval()), self.tokenizer, slots=slots, context=context)

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return self.chat.encode(messages)

    def extend(self, token_ids: tuple[int, ...], observation: str, begin: str) -> tuple[int, ...]:
        return self.chat.extend(token_ids, observation, begin)

    def count(self, text: str) -> int:
        return self.chat.count(text)

    def submit(self, ticket: Hashable, request: Request) -> None:
        self.engine.submit(ticket, request)

    def step(self) -> list[tuple[Hashable, Completion]]:
        with engine_errors("if memory ran out, lower policy.slots or policy.context"):
            return self.engine.step()

    @property
    def busy(self) -> bool:
        return self.engine.busy

    def close(self) -> None:
        del self.engine
        give_back_memory()


def window(config: Any) -> int | None:
    """How many tokens back some layers of a model see; None if all of them see everything."""
    size: int | None = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    used = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    return size if size and used else None


def merged_model(
    model: Path, adapter: Path | None, *, dtype: str = "auto", device: str = "auto"
) -> tuple[Any, Any]:
    """Tokeniser and model of a local folder, an adapter merged into its weights.

    Raises:
        ModelError: one of the two cannot be loaded.
    """
    tokenizer, network = load_model(model, dtype=dtype, device=device)
    if adapter is not None:
        try:
            network = with_adapter(network, adapter).merge_and_unload()
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelError(f"the adapter {adapter} cannot be loaded: {error}") from error
    return tokenizer, network


def with_adapter(network: Any, adapter: Path, **options: Any) -> Any:
    """A loaded model and an adapter on top (peft's), with peft's options."""
    from peft import PeftModel

    with warnings.catch_warnings():  # peft uses what transformers will rename
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(network, str(adapter), **options)


def load_model(folder: Path, *, dtype: str = "auto", device: str = "auto") -> tuple[Any, Any]:
    """Tokeniser and model of a local folder.

    Raises:
        ModelError: one line that names the folder and what is wrong with it.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import torch
    import transformers

    from agent.policies.kernels import best_dtype

    log: Any = transformers.logging  # not typed
    log.set_verbosity_error()
    log.disable_progress_bar()
    logging.getLogger("peft").setLevel(logging.ERROR)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = best_dtype(device) if dtype == "auto" else getattr(torch, dtype)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=kind, output_loading_info=True
        )
        model, told = loaded
    except Exception as error:  # whatever a damaged configuration leads the library to
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"the model in {folder} cannot be loaded: {reason}") from error
    lacking = sorted(told["missing_keys"]) or [key for key, *_ in told["mismatched_keys"]]
    if lacking:  # transformers would act with random numbers in their place
        raise ModelError(
            f"the model in {folder} lacks {len(lacking)} of its weights, or has them in another "
            f"shape, {lacking[0]} first: its files are of another model than its config.json"
        )
    if not (hasattr(model, "model") and hasattr(model, "lm_head")):
        raise ModelError(
            f"the model in {folder} is a {type(model).__name__}; the embedded engine needs a "
            "decoder with .model and .lm_head, as Llama, Qwen or SmolLM have"
        )
    scaled = [n for n in SCALES if getattr(model.config, n, None) not in (None, 1)]
    if scaled:
        raise ModelError(
            f"the model in {folder} changes its logits behind lm_head ({', '.join(scaled)} in "
            "config.json), which the embedded engine does not"
        )
    try:
        return tokenizer, model.to(device).eval()
    except (RuntimeError, AssertionError) as error:  # torch says both
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"policy.device: {device!r} cannot be used: {reason}") from error
