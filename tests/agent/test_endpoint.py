"""What engines outside are asked and answer, without one: calls, HTTP, refusals."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from agent.config import ConfigError, validate
from agent.engines import Engine
from agent.policies.base import Completion, PolicyFailure, Request
from agent.policies.calls import MOST_SCORED, Call, Reply, answer
from agent.policies.chat import Chat, load_chat, option_ids
from agent.policies.endpoint import Endpoint, EndpointSettings, NoAnswer
from agent.policies.models import ModelError, resolve_model
from agent.policies.remote import RemoteService, Spoken
from agent.policies.served import TRIES, drive
from agent.policies.vllm_server import VllmServer, VllmSettings, last_words
from agent.training.adapter import save_adapter
from tests.agent.servers import Server

ROOT = Path(__file__).resolve().parents[2]
ENDS = frozenset({2})
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever was inherited
from agent.cli import main
main()
"""


@pytest.fixture(scope="module")
def chat() -> Chat:
    return load_chat(resolve_model("default"))[0]


def run(request: Request, chat: Chat, reply: Callable[[Call], Reply]) -> Completion:
    return drive(answer(request, chat, ENDS), reply)


# --- calls ---


def test_hot_tokens_are_a_call_of_their_own(chat: Chat) -> None:
    asked: list[Call] = []

    def reply(call: Call) -> Reply:
        asked.append(call)
        return Reply(tuple(range(100, 100 + call.max_tokens)), (-1.0,) * call.max_tokens, False)

    request = Request(
        prompt_ids=(7, 8), max_new_tokens=5, temperature=0.5, hot_tokens=2, heat=3.0, seed=9
    )
    found = run(request, chat, reply)
    assert found.token_ids == (100, 101, 100, 101, 102) and not found.finished
    assert [(c.max_tokens, c.temperature) for c in asked] == [(2, 1.5), (3, 0.5)]
    assert asked[1].prompt_ids == (7, 8, 100, 101) and asked[0].seed != asked[1].seed
    asked.clear()
    for plain in ({"temperature": 0.0}, {"hot_tokens": 0}, {"heat": 1.0}):
        run(request.model_copy(update=plain), chat, reply)
    assert [c.max_tokens for c in asked] == [5, 5, 5]


def test_tokens_hotter_than_the_engine_allows_are_drawn_here(chat: Chat) -> None:
    table = torch.randn(1000, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    top = table.topk(41)
    likely = dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    asked: list[Call] = []

    def reply(call: Call) -> Reply:
        asked.append(call)
        if call.likeliest:
            return Reply((1,), (-1.0,), False, likely)
        return Reply((100,) * call.max_tokens, (-0.5,) * call.max_tokens, False)

    request = Request(
        prompt_ids=(7,), max_new_tokens=4, temperature=0.9, hot_tokens=2, heat=3.0, top_k=40
    )
    found = [run(request.model_copy(update={"seed": s}), chat, reply) for s in range(60)]
    firsts = {f.token_ids[0] for f in found}
    assert len(firsts) > 10 and firsts <= set(list(likely)[:40])
    for one in found:
        assert one.token_ids[2:] == (100, 100)
        assert one.logprobs[:2] == tuple(likely[t] for t in one.token_ids[:2])
    assert [(c.max_tokens, c.likeliest, c.temperature) for c in asked[:3]] == [
        (1, 40, 0.0),
        (1, 40, 0.0),
        (2, 0, 0.9),
    ]
    assert any(f.token_ids[0] != f.token_ids[1] for f in found)
    with pytest.raises(PolicyFailure, match="--max-logprobs"):
        run(request, chat, lambda call: Reply((1,), (-1.0,), False, {1: -1.0}))


def test_a_turn_ends_where_ours_would(chat: Chat) -> None:
    """At the token that completes a stop text or ends the turn, also across two calls."""
    ids = chat.ids("one\n```\ntwo")
    for hot in (0, 1, 2, 3):

        def reply(call: Call, ids: Sequence[int] = ids) -> Reply:
            begin = len(call.prompt_ids) - 1
            new = tuple(ids[begin : begin + call.max_tokens])
            return Reply(new, (-0.5,) * len(new), False)

        request = Request(
            prompt_ids=(7,), max_new_tokens=9, temperature=1.0, hot_tokens=hot, heat=2.0,
            stop=("\n```\n",),
        )  # fmt: skip
        found = run(request, chat, reply)
        assert found.text == "one\n```\n" and found.finished
        assert len(found.logprobs) == len(found.token_ids) < len(ids)
    ended = run(
        Request(prompt_ids=(7,), max_new_tokens=9), chat,
        lambda call: Reply((100, 2, 101), (-1.0, -2.0, -3.0), False),
    )  # fmt: skip
    assert (ended.token_ids, ended.logprobs, ended.finished) == ((100, 2), (-1.0, -2.0), True)


def test_choices_are_scored_where_they_part(chat: Chat) -> None:
    """Only there is the engine asked; its numbers are of all tokens, ours of the allowed."""
    table = torch.randn(60_000, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    asked: list[Call] = []

    def reply(call: Call) -> Reply:
        asked.append(call)
        return Reply((1,), (-1.0,), False, {t: float(table[t]) for t in (*call.scored, 1)})

    choices = ("go to desk 1", "go to desk 12", "go to desk 13")
    request = Request(prompt_ids=(7,), max_new_tokens=1, temperature=1.0, choices=choices)
    found = [run(request.model_copy(update={"seed": s}), chat, reply) for s in range(40)]
    assert {f.text for f in found} == set(choices)
    for one in found:
        assert one.token_ids == option_ids(chat.tokenizer, one.text) and one.finished
    options = [option_ids(chat.tokenizer, c) for c in choices]
    shared = next(i for i, ids in enumerate(zip(*options, strict=False)) if len(set(ids)) > 1)
    allowed = sorted({o[shared] for o in options})
    assert asked[0].prompt_ids == (7, *options[0][:shared]) and asked[0].scored == tuple(allowed)
    expected = table[allowed].log_softmax(-1)
    for one in found:
        at = allowed.index(one.token_ids[shared])
        assert one.logprobs[shared] == pytest.approx(float(expected[at]), abs=1e-5)
        assert one.logprobs[:shared] == (0.0,) * shared
    asked.clear()
    only = run(request.model_copy(update={"choices": ("shout",)}), chat, reply)
    assert only.text == "shout" and not asked and set(only.logprobs) == {0.0}
    many = tuple(dict.fromkeys(chat.piece(t) for t in range(300, 700)))
    many = tuple(t for t in many if len(option_ids(chat.tokenizer, t)) == 2)
    run(request.model_copy(update={"choices": many}), chat, reply)
    assert len(asked) == -(-len(many) // MOST_SCORED) > 1


def test_an_engine_that_cannot_score_cannot_choose(chat: Chat) -> None:
    request = Request(prompt_ids=(7,), max_new_tokens=1, choices=("yes", "no"))
    with pytest.raises(PolicyFailure, match=r"agent\.constrain=false"):
        run(request, chat, lambda call: Reply((1,), (-1.0,), False))


# --- an endpoint that is no vLLM ---


class Other(Server):
    """Chat completions as a plain endpoint gives them: text, no ids; it can be out of order."""

    def __init__(self) -> None:
        self.broken = 0
        self.content = "Sure:\n```python\nprint(1)\n```\nDone."
        self.seen: list[dict[str, Any]] = []
        super().__init__()

    def reply(
        self, path: str, headers: Mapping[str, str], body: dict[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        if headers["Authorization"] != "Bearer secret":
            return 401, {"error": {"message": "who are you?"}}
        if self.broken:
            self.broken -= 1
            return 503, {"error": {"message": "busy"}}
        self.seen.append(body)
        choice: dict[str, Any] = {"finish_reason": "stop"}
        if path == "/v1/chat/completions":
            choice["message"] = {"role": "assistant", "content": self.content}
        elif path == "/v1/completions":
            choice["text"] = self.content
        else:
            return 404, {"detail": "Not Found"}
        return 200, {"model": body["model"], "choices": [choice]}


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[Other]:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with Other().serving() as server:
        yield server


class Asleep(Server):
    """It is asked, and answers when it is woken."""

    def __init__(self) -> None:
        self.asked, self.woken = threading.Event(), threading.Event()
        super().__init__()

    def reply(
        self, path: str, headers: Mapping[str, str], body: dict[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        self.asked.set()
        self.woken.wait()
        return 503, {}


def test_who_waits_for_an_answer_can_be_interrupted() -> None:
    """At once, whatever policy.endpoint.timeout_s says; what `run` had done is not kept."""
    with Asleep().serving() as server:
        endpoint = f"{{url: '{server.url}', model: m, token_ids: false}}"
        run = ["run", "tests.agent.walks:Walks", "update_weights.enabled=false"]
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTIBLE, *run, "policy.engine=openai",
             f"policy.endpoint={endpoint}", "--limit", "4"],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert server.asked.wait(100)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
            server.woken.set()
    assert process.returncode == 130 and said.splitlines() == ["interrupted"]


def tree(url: str, *, token_ids: bool, learns: bool) -> dict[str, Any]:
    endpoint = {"url": url, "model": "m", "token_ids": token_ids}
    return {
        "policy": {"engine": "openai", "endpoint": endpoint},
        "update_weights": {"enabled": learns},
    }


def test_messages_are_sent_and_a_turn_that_was_begun_goes_on(
    other: Other, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.policies.remote.time.sleep", lambda seconds: None)
    engine = Engine(validate(tree(other.url, token_ids=False, learns=False), "t"), tmp_path, print)
    policy = engine.policy(None, "base")
    opening = [
        {"role": "system", "content": "Be <|im_end|> brief."},
        {"role": "user", "content": "Print one."},
        {"role": "assistant", "content": "```python\n"},
    ]
    ids = policy.encode(opening)
    other.broken = 2  # asked again until it answers
    policy.submit("a", Request(prompt_ids=ids, max_new_tokens=50, stop=("\n```\n",)))
    done: list[Any] = []
    while policy.busy:
        done += policy.step()
    ((ticket, found),) = done
    assert ticket == "a" and found.text == "print(1)\n```\n" and found.logprobs == ()
    assert other.seen[-1]["messages"] == opening[:2]
    longer = policy.extend(ids + found.token_ids, "1", "```python\n")
    policy.submit("b", Request(prompt_ids=longer, max_new_tokens=50))
    while policy.busy:
        policy.step()
    said = other.seen[-1]["messages"]
    assert said[2]["content"] == "```python\nprint(1)\n```\n" and said[3]["content"] == "1"

    other.content = '{"choice": "go east"}'
    choices = ("go east", "go west")
    policy.submit("c", Request(prompt_ids=ids, max_new_tokens=50, choices=choices))
    while policy.busy:
        for _, chosen in policy.step():
            assert chosen.text == "go east"
    assert other.seen[-1]["response_format"]["json_schema"]["schema"]["properties"]["choice"][
        "enum"
    ] == list(choices)
    other.content = "I would rather not."
    policy.submit("d", Request(prompt_ids=ids, max_new_tokens=50, choices=choices))
    with pytest.raises(PolicyFailure, match=r"agent\.constrain=false"):
        while policy.busy:
            policy.step()
    policy.close()

    other.broken = 10**6
    again = engine.policy(None, "base")
    again.submit("e", Request(prompt_ids=ids, max_new_tokens=5))
    with pytest.raises(PolicyFailure, match=f"no answer in {TRIES} tries.*503: busy"):
        while again.busy:
            again.step()
    again.close()
    engine.close()


def test_what_cannot_be_trained_on_is_refused_at_once(other: Other, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can never be trained on: set update_weights.enabled"):
        validate(tree(other.url, token_ids=False, learns=True), "t")
    with pytest.raises(ConfigError, match=r"needs policy\.endpoint\.url and policy\.endpoint"):
        validate({"policy": {"engine": "openai"}}, "t")
    for learns in (True, False):
        config = validate(tree(other.url, token_ids=True, learns=learns), "t")
        with pytest.raises(PolicyFailure, match="returns no token ids"):
            Engine(config, tmp_path, print).policy(None, "base")
    endpoint = validate(tree(other.url, token_ids=False, learns=False), "t").policy.endpoint
    with pytest.raises(PolicyFailure, match="cannot load adapters: start vLLM with --enable-lora"):
        RemoteService(endpoint, evolves=True, probe=(1,))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://host:port/v1", "port could not be cast to integer"),
        ("http://host:99999/v1", "port out of range"),
        ("http://[::1/v1", "invalid IPv6 URL"),
        ("http://host:0/v1", "must be http"),
        ("ftp://host/v1", "must be http:// or https://"),
        ("http:///v1", "must be http:// or https:// and a host"),
        ("unix:", "must be http:// or https://"),
        (f"http://{'x' * 64}.org/v1", "label"),
        ("host:8000/v1", "must be http:// or https://"),
        ("http://my host/v1", "it has blanks"),
        ("http://host/v1/ä", "letters that are to be escaped"),
    ],
)
def test_a_url_that_cannot_be_asked(url: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(tree(url, token_ids=False, learns=False), "t")
    assert str(caught.value).startswith("t: policy.endpoint.url: ") and says in str(caught.value)
    assert "\n" not in str(caught.value) and str(caught.value).count(url) == 1
    with pytest.raises(ConfigError, match=r"^t: feedback\.judge\.url: "):
        validate({"feedback": {"judge": {"url": url, "model": "m"}}}, "t")


@pytest.mark.parametrize(
    "url", ["", "http://127.0.0.1:8000/v1", "https://[::1]/v1", "https://höst/v1", "unix:/a"]
)
def test_a_url_that_can(url: str) -> None:
    assert EndpointSettings(url=url).url == url


@pytest.mark.parametrize("key", ["se\ncret", "se\rcret", "secr\u20act", "secr\xe9t", "se\tcret"])
def test_a_key_that_cannot_be_sent(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named by its variable, and never shown."""
    monkeypatch.setenv("MY_KEY", key)
    settings = EndpointSettings(url="http://127.0.0.1:9/v1", model="m", key_variable="MY_KEY")
    with pytest.raises(PolicyFailure, match="environment variable MY_KEY") as caught:
        RemoteService(settings, evolves=False, probe=(1,))
    assert "cret" not in str(caught.value) and "secr" not in str(caught.value)
    monkeypatch.setenv("MY_KEY", " secret\n")  # as files end
    assert settings.key() == "secret"


def test_errors_of_an_endpoint_are_one_line(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PolicyFailure, match=r"refuses a request \(401\): who are you\?"):
        Endpoint(other.url, "wrong").post("/chat/completions", {})
    with pytest.raises(NoAnswer, match="refused"):
        Endpoint("http://127.0.0.1:9/v1").post("/completions", {})
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    endpoint = validate(tree("http://127.0.0.1:9/v1", token_ids=True, learns=False), "t")
    with pytest.raises(PolicyFailure, match="does not answer"):
        RemoteService(endpoint.policy.endpoint, evolves=False, probe=(1,))


class Adapters(Server):
    """Loads adapters as vLLM does: one folder under a name, until it is unloaded."""

    def __init__(self) -> None:
        self.served: dict[str, str] = {}
        super().__init__()

    def reply(
        self, path: str, headers: Mapping[str, str], body: dict[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        if (name := body.get("lora_name")) is None:
            return 400, {"message": "a name is missing"}
        if path == "/v1/unload_lora_adapter":
            return (200, {}) if self.served.pop(name, "") else (404, {"message": "not found"})
        if name in self.served:
            return 400, {"message": f"'{name}' has already been loaded"}
        self.served[name] = body["lora_path"]
        return 200, {}


def test_an_adapter_that_has_moved_is_loaded_from_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of a merge that was tried is gone when the merge is stored and acts."""
    monkeypatch.setattr(VllmServer, "running", True)
    for name in ("tried", "stored"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text('{"r": 8}')
    with Adapters().serving() as server:
        own = VllmServer(tmp_path, VllmSettings(), tmp_path / "log", rank=8)
        own._endpoint = Endpoint(server.url)
        name = own.serve("a1", tmp_path / "tried")
        own.serve("a2", tmp_path / "tried")
        own.release("a1")
        assert own.serve("a1", tmp_path / "stored") == name == "policy-va1"
        assert server.served == {
            "policy-va1": str(tmp_path / "stored"),
            "policy-va2": str(tmp_path / "tried"),
        }
        server.served.clear()  # nothing is loaded that is there already
        own.serve("a1", tmp_path / "stored")
        assert server.served == {}


def test_an_adapter_that_another_run_has_loaded_stays(tmp_path: Path) -> None:
    with Adapters().serving() as server:
        settings = EndpointSettings(url=server.url, model="m", token_ids=False)
        first, second = (RemoteService(settings, evolves=True, probe=(1,)) for _ in range(2))
        assert first.serve("a1", tmp_path) == second.serve("a1", tmp_path) == "policy-va1"
        second.release("a1")
        second.serve("a1", tmp_path)
        second.serve("a2", tmp_path)
        second.close()
        assert server.served == {"policy-va1": str(tmp_path)}
        first.close()
        assert server.served == {}


def test_what_is_said_survives_as_ids(chat: Chat) -> None:
    spoken = Spoken(chat)
    messages = [
        {"role": "system", "content": " Ä \n\n<|im_start|>x"},
        {"role": "user", "content": "日本 and 'tabs'\t."},
    ]
    ids = spoken.encode(messages)
    *back, last = spoken.messages(ids)
    assert back == messages and last == {"role": "assistant", "content": ""}
    assert spoken.count("one two") == chat.count("one two")


def test_vllm_in_this_process_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever needs it first, an adapter or a request; told in one line."""
    monkeypatch.setitem(sys.modules, "vllm", None)
    config = validate({"policy": {"engine": "vllm-offline"}}, "t")
    adapter = tmp_path / "adapter"
    save_adapter(adapter, lambda folder: (folder / "w").write_text("w"), {"sources": []})
    with pytest.raises(ModelError, match=r"^policy\.engine=vllm-offline needs vllm in this env"):
        Engine(config, tmp_path, print).policy(adapter, "a1")
    policy = Engine(config, tmp_path, print).policy(None, "base")
    policy.submit("a", Request(prompt_ids=(1,), max_new_tokens=1))
    with pytest.raises(ModelError, match="needs vllm in this environment"):
        policy.step()


def test_a_log_says_why_in_one_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "old: ValueError: of an earlier start\n"
        "(EngineCore pid=7) ERROR 11-26 17:27:50 [core.py:906] Traceback (most recent call last):\n"
        "(EngineCore pid=7) ERROR 11-26 17:27:50 [core.py:906] ValueError: no room\n"
        "(APIServer pid=6) RuntimeError: Engine core initialization failed.\n"
        "\x1b[1;36mgone\x1b[0m\n"
    )
    assert last_words(log, 37) == f"ValueError: no room … gone (log: {log})"
    assert last_words(tmp_path / "none").startswith("(no log")


def test_prompts_and_choices_are_encoded_side_by_side(chat: Chat) -> None:
    """Control tokens count in prompts and not in choices, whichever thread asks when."""
    control = "<|im_end|>"
    asked = [chat.ids, lambda text: option_ids(chat.tokenizer, text)] * 2
    texts = [f"{control} go north {control}" * 20 for _ in asked]
    alone = [encode(text) for encode, text in zip(asked, texts, strict=True)]
    assert alone[0] != alone[1]

    def often(number: int) -> bool:
        return all(asked[number](texts[number]) == alone[number] for _ in range(1000))

    with ThreadPoolExecutor(len(asked)) as threads:
        assert all(threads.map(often, range(len(asked))))
