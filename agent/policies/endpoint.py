"""A client for OpenAI-compatible endpoints: token ids in, token ids and log-probabilities out."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agent.policies.base import PolicyFailure
from agent.policies.calls import IMPOSSIBLE, Call, Reply

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})  # it may answer when asked again
_SHOWN = 300  # characters of an error that are shown


class EndpointSettings(BaseModel):
    """An OpenAI-compatible endpoint that others run (``policy.engine: openai``).

    Args:
        url: up to its version, as ``https://host/v1``.
        model: the name under which it serves the model of ``policy.model``.
        key_variable: environment variable that holds its key.
        token_ids: whether it takes token ids, and returns them with their log-probabilities
            (``return_token_ids``, as vLLM does). One that does not may act, through chat
            messages, without hot tokens (``acquire.hot_tokens``), but nothing that it writes can
            be trained on.
        timeout_s: longest wait for an answer, in seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = ""
    model: str = ""
    key_variable: str = "OPENAI_API_KEY"
    token_ids: bool = True
    timeout_s: float = Field(600, gt=0)

    @field_validator("url")
    @classmethod
    def _can_be_asked(cls, url: str) -> str:
        if not url:
            return url  # none
        try:
            parts = urlsplit(url)
            port, host = parts.port, parts.hostname or ""
            host.encode("idna")
        except ValueError as error:  # a port or a host that is none, or half an IPv6 address
            said = str(error)
            raise ValueError(f"{url!r} is no URL ({said[:1].lower()}{said[1:]})") from error
        if any(c <= " " or c == "\x7f" for c in url) or not parts.path.isascii():
            raise ValueError(
                f"{url!r} is no URL (it has blanks, or letters that are to be escaped)"
            )
        if parts.scheme == "unix" and parts.path:
            return url
        if parts.scheme not in ("http", "https") or not host or port == 0:
            raise ValueError(f"{url!r} must be http:// or https:// and a host, up to the version")
        return url

    def key(self) -> str:
        """The key in its environment variable; "" if there is none.

        Raises:
            PolicyFailure: it cannot be sent; it is not shown.
        """
        key = os.environ.get(self.key_variable, "").strip()
        if any(not " " <= character <= "\x7e" for character in key):
            raise PolicyFailure(
                f"the key in the environment variable {self.key_variable} has a line break or "
                "letters that no key has, and cannot be sent: set it anew"
            )
        return key


class NoAnswer(ConnectionError):
    """Nothing came back, or that it cannot answer now; the request may be sent again."""


class Endpoint:
    """One endpoint. A connection of its own for each request; safe to use from any thread.

    Args:
        url: ``http://``, ``https://`` (up to the version), or ``unix:`` and a socket's path.
        key: sent as bearer token, unless empty.
        timeout_s: longest wait for an answer.
    """

    def __init__(self, url: str, key: str = "", timeout_s: float = 600):
        self.url, self.timeout_s = url.rstrip("/"), timeout_s
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        parts = urlsplit(self.url)
        self._path = "/v1" if parts.scheme == "unix" else parts.path
        self._parts = parts

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        scheme, host = self._parts.scheme, self._parts.hostname or ""
        if scheme == "unix":
            return _UnixConnection(self._parts.path, timeout_s)
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        return kind(host, self._parts.port, timeout=timeout_s)

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, wait_s: float = 0
    ) -> tuple[int, str]:
        """Status and text of an answer.

        Args:
            method, path: the latter behind the endpoint's version, or, if it begins with
                ``//``, behind its host alone.
            body: sent as JSON.
            wait_s: longest wait, if not the usual.

        Raises:
            NoAnswer: the connection failed or took too long.
        """
        full = path[1:] if path.startswith("//") else self._path + path
        connection = self._connect(wait_s or self.timeout_s)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, full, sent, self._headers)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"{self.url}: {error or type(error).__name__}") from error
        finally:
            connection.close()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON that is answered.

        Raises:
            NoAnswer: there is none; ask again.
            PolicyFailure: the request is refused, or the answer is no JSON.
        """
        status, text = self.request("POST", path, body)
        if status in _AGAIN:
            raise NoAnswer(f"{self.url} answers {status}: {_reason(text)}")
        if status != 200:
            raise PolicyFailure(f"{self.url} refuses a request ({status}): {_reason(text)}")
        try:
            found = json.loads(text)
        except ValueError as error:
            raise PolicyFailure(f"{self.url} answers no JSON: {text[:_SHOWN]!r}") from error
        if not isinstance(found, dict):
            raise PolicyFailure(f"{self.url} answers no JSON object: {text[:_SHOWN]!r}")
        return found

    def complete(self, model: str, call: Call, ends: frozenset[int]) -> Reply:
        """Ask for ids; every sampling parameter is said, so that no default of a server counts.

        Raises:
            NoAnswer: there is none; ask again.
            PolicyFailure: refused, from another model, or without ids and log-probabilities.
        """
        body: dict[str, Any] = {
            "model": model,
            "prompt": call.prompt_ids,
            "max_tokens": call.max_tokens,
            "temperature": call.temperature,
            "top_p": 1.0,
            "top_k": call.top_k if call.temperature else 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": call.seed,
            "stop": call.stop,
            "stop_token_ids": sorted(ends),
            "include_stop_str_in_output": True,
            "logprobs": call.likeliest,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }
        if call.scored:
            body |= {"logprob_token_ids": call.scored, "logprobs": len(call.scored)}
        return self.read(model, call, self.post("/completions", body))

    def read(self, model: str, call: Call, found: Mapping[str, Any]) -> Reply:
        """An answer, checked.

        Raises:
            PolicyFailure: it is not what was asked for.
        """
        if found.get("model") != model:
            raise PolicyFailure(
                f"{self.url} answered as {found.get('model')!r} where {model!r} was asked: what "
                "it writes cannot be attributed"
            )
        try:
            choice = found["choices"][0]
            ids, told = choice.get("token_ids"), choice.get("logprobs")
            if ids is None or not told or choice.get("prompt_token_ids") is None:
                raise PolicyFailure(
                    f"{self.url} returns no token ids with log-probabilities (return_token_ids): "
                    "use vLLM, or set policy.endpoint.token_ids=false to act through messages, "
                    "with weights that do not evolve"
                )
            if tuple(choice["prompt_token_ids"]) != call.prompt_ids:
                raise PolicyFailure(f"{self.url} read another prompt than it was sent")
            logprobs = tuple(map(float, told["token_logprobs"]))
            if len(logprobs) != len(ids) or min(logprobs, default=0.0) <= IMPOSSIBLE:
                raise PolicyFailure(f"{self.url} did not say each token's log-probability")
            scores: dict[int, float] = {}
            if call.scored or call.likeliest:
                first = told["top_logprobs"][0]
                scores = {int(name.partition(":")[2]): value for name, value in first.items()}
            return Reply(tuple(ids), logprobs, choice["finish_reason"] == "stop", scores)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise PolicyFailure(
                f"{self.url} answers in another form than vLLM's completions: {error!r}"
            ) from error

    def load_adapter(self, name: str, folder: str) -> bool:
        """Have it serve an adapter under a name; its folder must lie on the server's machine.

        Returns:
            whether it did not serve it already, since another run had it loaded.

        Raises:
            NoAnswer: ask again.
            PolicyFailure: it cannot.
        """
        body = {"lora_name": name, "lora_path": folder}
        status, text = self.request("POST", "/load_lora_adapter", body)
        if status == 200 or (status == 400 and "already" in text):  # names are of the content
            return status == 200
        raise PolicyFailure(f"{self.url} cannot load the adapter {name}: {_reason(text)}")

    def unload_adapter(self, name: str, wait_s: float = 0) -> None:
        """Forget an adapter; requests that use it already are still answered by it."""
        self.request("POST", "/unload_lora_adapter", {"lora_name": name}, wait_s=wait_s)

    def loads_adapters(self) -> bool:
        """Whether adapters can be loaded while it runs."""
        return self.request("POST", "/load_lora_adapter", {})[0] not in (404, 405)


def _reason(text: str) -> str:
    """What an error's body says, in one line."""
    try:
        found = json.loads(text)
        found = found.get("error", found)
        text = str(found.get("message", found) if isinstance(found, dict) else found)
    except (ValueError, AttributeError):
        pass
    return " ".join(text.split())[:_SHOWN] or "(it says nothing)"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP through a Unix socket."""

    def __init__(self, path: str, timeout_s: float):
        super().__init__("localhost", timeout=timeout_s)
        self._socket_path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._socket_path)
