"""vLLM in this process: for those who have it in the same environment, on a GPU mostly."""

from __future__ import annotations

import os
import queue
from collections.abc import Hashable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from agent.policies.base import Completion, PolicyFailure, Request, engine_errors
from agent.policies.calls import MOST_LIKELY, Answer, Call, Reply, answer
from agent.policies.chat import Chat
from agent.policies.models import ModelError
from agent.policies.vllm_server import RANKS, VllmSettings, whole_prompts


class OfflineVllm:
    """One ``vllm.LLM`` for all versions of a run's weights; loaded when it is first needed.

    Args:
        model: folder of the base model.
        settings: its ``arguments`` go to ``vllm.LLM``, its ``environment`` into ours.
        context: longest prompt plus completion, in tokens.
        slots: rows generated at a time.
        dtype: one of torch's.
        rank: largest rank of adapters; None serves the base weights only, which is faster.
    """

    def __init__(
        self,
        model: Path,
        settings: VllmSettings,
        *,
        context: int = 2048,
        slots: int = 56,
        dtype: str = "auto",
        rank: int | None = None,
    ):
        self.options: dict[str, Any] = {
            "model": str(model),
            "dtype": "bfloat16" if dtype == "auto" else dtype,
            "max_model_len": context,
            "max_num_seqs": slots,
            "generation_config": "vllm",  # no model's own defaults of sampling
            "max_logprobs": MOST_LIKELY,
            "disable_log_stats": True,
        }
        if rank is not None:
            self.options |= {
                "enable_lora": True,
                "max_lora_rank": next((r for r in RANKS if r >= rank), rank),
                "max_loras": 2,
                "max_cpu_loras": settings.adapters,
            }
        self.arguments, self.environment = settings.arguments, settings.environment
        self.context = context
        self._llm: Any = None
        self._finished: dict[str, Any] = {}  # answers by request, until who asked fetches them
        self._numbers: dict[str, int] = {}

    def library(self, name: str, module: str = "vllm") -> Any:
        """Something of vLLM's; the first import finds the environment variables set.

        Args:
            name: what is wanted.
            module: where it is. Much of vLLM is imported when it is first named.

        Raises:
            ModelError: vLLM is not installed here.
        """
        for variable, value in {"VLLM_NO_USAGE_STATS": "1", **self.environment}.items():
            os.environ.setdefault(variable, value)
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ModelError(
                f"policy.engine=vllm-offline needs vllm in this environment ({error}): "
                "`pip install vllm`, or run it beside this one with policy.engine=vllm"
            ) from error

    @property
    def engine(self) -> Any:
        """Its engine, loaded if need be."""
        if self._llm is None:
            make = self.library("LLM")
            current_platform = self.library("current_platform", "vllm.platforms")
            with engine_errors("see what vLLM says above; policy.vllm.arguments are its options"):
                cpu: dict[str, Any] = {}
                if current_platform.is_cpu():
                    cpu |= whole_prompts(self.context)
                    if self.options.get("enable_lora"):
                        cpu["worker_extension_cls"] = "agent.policies.vllm_rows.Mended"
                self._llm = make(**{**self.options, **cpu, **self.arguments})
        return self._llm.llm_engine

    def step(self) -> dict[str, Any]:
        """One step of the engine; what is finished by then, of all policies that act."""
        with engine_errors("lower policy.slots or policy.context"):
            outputs = self.engine.step()
        self._finished |= {output.request_id: output for output in outputs if output.finished}
        return self._finished

    def forget(self, names: list[str]) -> None:
        """Nobody waits for these requests any more."""
        if self._llm is not None:
            self._llm.llm_engine.abort_request(names)
        for name in names:
            self._finished.pop(name, None)

    def lora(self, version: str, adapter: Path | None) -> Any:
        """What asks for an adapter: a name and a number of its own for each version."""
        if adapter is None:
            return None
        if not self.options.get("enable_lora"):
            raise PolicyFailure("it was made for the base weights: set update_weights.enabled")
        make = self.library("LoRARequest", "vllm.lora.request")
        number = self._numbers.setdefault(version, len(self._numbers) + 1)
        return make(f"policy-v{version}", number, str(adapter.absolute()))

    def rest(self) -> None:
        """Free its memory; it is loaded again when it is needed."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            self._finished.clear()

    def close(self) -> None:
        """End it; safe to call twice."""
        self.rest()


class OfflinePolicy:
    """One version of the weights of an ``OfflineVllm``.

    Args:
        chat: the model's tokeniser.
        ends: tokens that end a turn.
        service: the engine; it outlives the policy.
        adapter: folder of an adapter, or None for the base weights.
        version: name of these weights in trajectories.
        context: longest prompt plus completion, in tokens.
    """

    def __init__(
        self,
        chat: Chat,
        ends: frozenset[int],
        service: OfflineVllm,
        adapter: Path | None = None,
        *,
        version: str = "base",
        context: int = 2048,
    ):
        self.version, self.context = version, context
        self.encode, self.extend, self.count = chat.encode, chat.extend, chat.count
        self._chat = chat
        self._ends, self._service = ends, service
        self._lora = service.lora(version, adapter)
        self._waiting: queue.SimpleQueue[tuple[Hashable, Request]] = queue.SimpleQueue()
        self._running: dict[str, tuple[Hashable, Call, Answer]] = {}
        self._asked = 0

    def submit(self, ticket: Hashable, request: Request) -> None:
        self._waiting.put((ticket, request))

    def step(self) -> list[tuple[Hashable, Completion]]:
        done: list[tuple[Hashable, Completion]] = []
        while not self._waiting.empty():
            ticket, request = self._waiting.get()
            self._go_on(ticket, answer(request, self._chat, self._ends), None, done)
        if self._running:
            finished = self._service.step()
            for name in self._running.keys() & finished.keys():
                ticket, call, answering = self._running.pop(name)
                self._go_on(ticket, answering, _reply(finished.pop(name), call), done)
        return done

    def _go_on(
        self,
        ticket: Hashable,
        answering: Answer,
        reply: Reply | None,
        done: list[tuple[Hashable, Completion]],
    ) -> None:
        """Ask the engine for the next thing that an answer needs, or note that it is done."""
        try:
            call = next(answering) if reply is None else answering.send(reply)
        except StopIteration as ended:
            done.append((ticket, ended.value))
            return
        self._asked += 1
        name = f"{id(self)}-{self._asked}"
        library = self._service.library
        params = library("SamplingParams")(
            max_tokens=call.max_tokens,
            temperature=call.temperature,
            top_k=call.top_k if call.temperature else 0,
            seed=call.seed,
            stop=list(call.stop),
            stop_token_ids=sorted(self._ends),
            include_stop_str_in_output=True,
            logprobs=None if call.scored else call.likeliest,
            logprob_token_ids=list(call.scored) or None,
        )
        prompt = library("TokensPrompt")(prompt_token_ids=list(call.prompt_ids))
        try:
            self._service.engine.add_request(name, prompt, params, lora_request=self._lora)
        except ValueError as error:
            raise PolicyFailure(f"vLLM refuses a request: {error}") from error
        self._running[name] = (ticket, call, answering)

    @property
    def busy(self) -> bool:
        return bool(self._running) or not self._waiting.empty()

    def close(self) -> None:
        if self._running:
            self._service.forget(list(self._running))
            self._running.clear()


def _reply(output: Any, call: Call) -> Reply:
    made = output.outputs[0]
    told: Sequence[Any] = made.logprobs
    ids = tuple(made.token_ids)
    logprobs = tuple(float(told[i][token].logprob) for i, token in enumerate(ids))
    scores = {}
    if call.scored or call.likeliest:
        scores = {token: float(one.logprob) for token, one in told[0].items()}
    return Reply(ids, logprobs, made.finish_reason == "stop", scores)
