"""The embedded policy: a chat model in this process, evolved weights merged in."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from agent.openmp import share_cores
from agent.policies.base import Completion, Message, Request, engine_errors, split_begin
from agent.policies.models import ModelError

SCALES = ("final_logit_softcapping", "logits_scaling", "logit_scale")  # Gemma 2, Granite, Cohere
_MARK = "\u241e"  # stands for a turn of the assistant's while the template is rendered
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
        dtype: one of ``DTYPES``; auto is bfloat16.
        device: torch device; auto picks a GPU where there is one.
        threads: CPU threads for torch; None leaves torch's default.
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

        if threads:
            torch.set_num_threads(threads)
        self.version, self.context = version, context
        self.tokenizer, network = load_model(model, dtype=dtype, device=device)
        if adapter is not None:
            from peft import PeftModel

            try:
                network = PeftModel.from_pretrained(network, str(adapter)).merge_and_unload()
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                raise ModelError(f"the adapter {adapter} cannot be loaded: {error}") from error
        added = self.tokenizer.added_tokens_decoder.values()
        self._controls = tuple(token.content for token in added if token.special)
        self.engine = Engine(network.eval(), self.tokenizer, slots=slots, context=context)

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        messages, begin = split_begin(messages)
        return (*self._ids(self._render(messages)), *self._ids(begin))

    def extend(self, token_ids: tuple[int, ...], observation: str, begin: str) -> tuple[int, ...]:
        turn: list[Message] = [
            {"role": "user", "content": "."},
            {"role": "assistant", "content": _MARK},
            {"role": "user", "content": observation},
        ]
        more = self._ids(self._render(turn).partition(_MARK)[2])
        if token_ids[-1] == more[0]:  # the policy has ended its turn itself
            more = more[1:]
        return (*token_ids, *more, *self._ids(begin))

    def _render(self, messages: Sequence[Message]) -> str:
        told = [{**m, "content": self._harmless(m["content"])} for m in messages]
        rendered = self.tokenizer.apply_chat_template(
            told, add_generation_prompt=True, tokenize=False
        )
        return str(rendered)

    def _harmless(self, text: str) -> str:
        """A text without the model's control tokens: text from a world cannot end its turn."""
        for control in self._controls:
            if control in text:
                text = text.replace(control, f"{control[0]}\u200b{control[1:]}")
        return text

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def count(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False))

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


def load_model(folder: Path, *, dtype: str = "auto", device: str = "auto") -> tuple[Any, Any]:
    """Tokeniser and model of a local folder.

    Raises:
        ModelError: one line that names the folder and what is wrong with it.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import torch
    import transformers

    log: Any = transformers.logging  # not typed
    log.set_verbosity_error()
    log.disable_progress_bar()
    logging.getLogger("peft").setLevel(logging.ERROR)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=kind)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"the model in {folder} cannot be loaded: {reason}") from error
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
