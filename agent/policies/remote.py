"""Endpoints that others run: by URL, through token ids where they take them, else as messages."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.policies.base import Completion, Message, PolicyFailure, Request
from agent.policies.calls import Call
from agent.policies.chat import Chat
from agent.policies.endpoint import Endpoint, EndpointSettings, NoAnswer
from agent.policies.served import Ask, HttpService

ROLES = ("system", "user", "assistant")
_LONGEST_WAIT_S = 60.0
_GOODBYE_S = 10.0  # longest wait for an adapter to be unloaded: who hangs must not hold us up


class RemoteService:
    """An endpoint that we neither start nor stop.

    Args:
        settings: which.
        evolves: whether adapters will have to be loaded.
        probe: ids of a short text; they are sent once, to see whether it takes ids.

    Raises:
        PolicyFailure: it does not answer, or cannot do what it has to; one line.
    """

    def __init__(self, settings: EndpointSettings, *, evolves: bool, probe: tuple[int, ...]):
        self.settings = settings
        self._endpoint = Endpoint(settings.url, settings.key(), settings.timeout_s)
        self._ours: dict[str, str] = {}  # names of adapters that others do not have loaded
        try:
            if settings.token_ids:
                self._endpoint.complete(settings.model, Call(probe, max_tokens=1), frozenset())
            if evolves and not self._endpoint.loads_adapters():
                raise PolicyFailure(
                    f"{settings.url} cannot load adapters: start vLLM with --enable-lora and "
                    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or set update_weights.enabled=false"
                )
        except NoAnswer as error:
            raise PolicyFailure(f"the endpoint does not answer: {error}") from error

    def serve(self, version: str, adapter: Path | None) -> str:
        if adapter is None:
            return self.settings.model
        name = f"policy-v{version}"
        if version not in self._ours:
            try:
                if self._endpoint.load_adapter(name, str(adapter.absolute())):
                    self._ours[version] = name
            except NoAnswer as error:
                raise PolicyFailure(f"the adapter {version} was not loaded: {error}") from error
        return name

    def release(self, version: str) -> None:
        """An adapter that no policy uses any more is unloaded, if it was loaded for this run."""
        if name := self._ours.pop(version, ""):
            with contextlib.suppress(NoAnswer):
                self._endpoint.unload_adapter(name, wait_s=_GOODBYE_S)

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def revive(self, error: NoAnswer, tries: int) -> None:
        time.sleep(min(_LONGEST_WAIT_S, 2.0**tries))

    def rest(self) -> None:
        """It is not ours to stop."""

    def close(self) -> None:
        for version in list(self._ours):
            self.release(version)


class Spoken:
    """Conversations for endpoints that take messages only: ids are a local tokeniser's.

    They carry the text to the endpoint and measure its length; nothing is known of the ids that
    the endpoint's model sees. A negative id opens the turn of a role, so that what a text says
    can never be taken for one.
    """

    def __init__(self, chat: Chat):
        self.chat = chat

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        ids: list[int] = []
        for message in messages:
            ids += [-1 - ROLES.index(message["role"]), *self._ids(message["content"])]
        if not messages or messages[-1]["role"] != "assistant":
            ids.append(-1 - ROLES.index("assistant"))
        return tuple(ids)

    def extend(self, token_ids: tuple[int, ...], observation: str, begin: str) -> tuple[int, ...]:
        turn: list[Message] = [
            {"role": "user", "content": observation},
            {"role": "assistant", "content": begin},
        ]
        return (*token_ids, *self.encode(turn))

    def count(self, text: str) -> int:
        return len(self._ids(text))

    def messages(self, ids: Sequence[int]) -> list[dict[str, str]]:
        """The conversation that ids carry; the last turn is the one that is to be continued."""
        turns: list[tuple[str, list[int]]] = []
        for token in ids:
            if token < 0:
                turns.append((ROLES[-1 - token], []))
            else:
                turns[-1][1].append(token)
        return [{"role": role, "content": self._text(own)} for role, own in turns]

    def ask(self, service: HttpService, settings: EndpointSettings) -> Ask:
        """Has requests answered through chat messages."""

        def ask(name: str, request: Request) -> Completion:
            *messages, last = self.messages(request.prompt_ids)
            body: dict[str, Any] = {
                "model": name,
                "messages": messages,
                "max_tokens": request.max_new_tokens,
                "temperature": request.temperature,
                "seed": request.seed % 2**31,
            }
            if request.choices:
                body["response_format"] = _one_of(request.choices)
            text, finished = _said(service.endpoint, name, service.endpoint.post(
                "/chat/completions", body))  # fmt: skip
            if request.choices:
                text = _chosen(text, request.choices, settings.url)
            else:
                text = _continued(text, last["content"], request.stop)
            return Completion(self._ids(text), (), text, finished)

        return ask

    def _ids(self, text: str) -> tuple[int, ...]:
        encode = self.chat.tokenizer.encode
        return tuple(encode(text, add_special_tokens=False, split_special_tokens=True))

    def _text(self, ids: Sequence[int]) -> str:
        decode = self.chat.tokenizer.decode
        return str(decode(list(ids), clean_up_tokenization_spaces=False))


def _said(endpoint: Endpoint, name: str, found: Mapping[str, Any]) -> tuple[str, bool]:
    """The text of an answer, and whether it ended by itself."""
    try:
        choice = found["choices"][0]
        return str(choice["message"]["content"] or ""), choice.get("finish_reason") == "stop"
    except (LookupError, TypeError, AttributeError) as error:
        raise PolicyFailure(
            f"{endpoint.url} answers {name} in another form than chat completions: {error!r}"
        ) from error


def _one_of(choices: Sequence[str]) -> dict[str, Any]:
    """OpenAI's structured outputs for one of some texts."""
    schema = {
        "type": "object",
        "properties": {"choice": {"type": "string", "enum": list(choices)}},
        "required": ["choice"],
        "additionalProperties": False,
    }
    return {
        "type": "json_schema",
        "json_schema": {"name": "choice", "schema": schema, "strict": True},
    }


def _chosen(text: str, choices: Sequence[str], url: str) -> str:
    try:
        chosen = str(json.loads(text)["choice"])
    except (ValueError, LookupError, TypeError):
        chosen = text.strip()
    if chosen not in choices:
        raise PolicyFailure(
            f"{url} does not choose among what is valid (it wrote {text[:80]!r}): it knows no "
            "structured outputs, or max_new_tokens is too small; set agent.constrain=false"
        )
    return chosen


def _continued(text: str, begin: str, stop: Sequence[str]) -> str:
    """What an answer says behind the turn's given beginning, up to where the turn ends.

    Endpoints do not continue a turn that is begun: most write the beginning once more.
    """
    opening = begin.strip()
    if opening and opening in text:
        text = text.split(opening, 1)[1].removeprefix("\n")
    ends = [text.index(s) + len(s) for s in stop if s in text]
    return text[: min(ends)] if ends else text
