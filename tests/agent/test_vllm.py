"""vLLM as policy, against a real server on the CPU (``make vllm``).

One server for all; the test that kills it stands last. Its numbers are held against a plain
forward pass in float32. vLLM computes in bf16, where a logit near 20 is rounded to steps of 0.125;
measured: 0.02 to 0.05 a token on average, 0.34 at most, as much as the embedded engine in bf16.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from agent.config import Config, validate
from agent.evolution.play import Assignment
from agent.policies.base import Completion, Message, PolicyFailure, Request
from agent.policies.chat import Chat, load_chat, option_ids
from agent.policies.models import ModelError, resolve_model
from agent.policies.served import ServedPolicy, asker
from agent.policies.transformers import load_model, merged_model
from agent.policies.vllm_server import BASE, VllmServer, VllmSettings, default_python
from agent.run import Run
from agent.training.adapter import save_adapter
from agent.training.merging import Recipe, merge
from memory.records import Note, Trajectory
from tests.real import absent

CLOSE = 0.6  # largest difference of one token's log-probability, bf16 against float32
MEAN = 0.12  # and of an answer's tokens, on average
ROOT = Path(__file__).resolve().parents[2]
EAGER: dict[str, Any] = {
    "arguments": {"enforce_eager": True},
    "environment": {"VLLM_CPU_KVCACHE_SPACE": "1"},
}
CHOICES = ("go east", "go to desk 1", "go to desk 12", "take lamp", "go", "inventory")
QUESTIONS = ("Name three colours.", "What is the capital of France?", "Write a haiku about rain.")

pytestmark = pytest.mark.timeout(1100)


@pytest.fixture(scope="module")
def model() -> Path:
    if not default_python().is_file():
        absent(f"there is no vLLM at {default_python()}: run `make vllm`")
    return resolve_model("default")


@pytest.fixture(scope="module")
def chat(model: Path) -> tuple[Chat, frozenset[int]]:
    return load_chat(model)


class Weights:
    """The base model and two adapters: on disk, and as plain forward passes."""

    def __init__(self, model: Path, folder: Path):
        from peft import LoraConfig, get_peft_model

        _, base = load_model(model, dtype="float32")
        config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        self.model: Any = get_peft_model(base, config, adapter_name="one")
        self.model.add_adapter("two", config)
        self.folders: dict[str, Path] = {}
        for seed, name in enumerate(("one", "two")):
            torch.manual_seed(seed)
            for key, parameter in self.model.named_parameters():
                if f".{name}." in key:  # an adapter that changes what is said
                    torch.nn.init.normal_(parameter, std=0.035)
            kept = folder / name

            def write(target: Path, name: str = name) -> None:
                self.model.save_pretrained(str(target), selected_adapters=[name])
                for file in (target / name).iterdir():
                    file.rename(target / file.name)
                (target / name).rmdir()

            version = save_adapter(kept, write, {"sources": []})
            self.folders[version] = kept
        self.one, self.two = self.folders

    def logprobs(self, version: str, prompt: Sequence[int], produced: Sequence[int]) -> list[float]:
        """Of the produced tokens, over the whole vocabulary."""
        table = self.table(version, prompt, produced).log_softmax(-1)
        return table[range(len(produced)), list(produced)].tolist()

    @torch.inference_mode()
    def table(self, version: str, prompt: Sequence[int], produced: Sequence[int]) -> Any:
        ids = torch.tensor([[*prompt, *produced]])
        if version == BASE:
            with self.model.disable_adapter():
                logits = self.model(ids).logits
        else:
            self.model.set_adapter("one" if version == self.one else "two")
            logits = self.model(ids).logits
        return logits[0, len(prompt) - 1 : -1].float()


@pytest.fixture(scope="module")
def weights(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return Weights(model, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    log = tmp_path_factory.mktemp("vllm") / "engine.log"
    settings = VllmSettings.model_validate(EAGER | {"adapters": 2, "start_s": 1000})
    server = VllmServer(model, settings, log, context=512, slots=16, rank=8)
    yield server
    server.close()


Act = Callable[[str], ServedPolicy]


@pytest.fixture(scope="module")
def act(server: VllmServer, weights: Weights, chat: tuple[Chat, frozenset[int]]) -> Act:
    """A policy at one version of the weights."""

    def make(version: str) -> ServedPolicy:
        words, ends = chat
        ask = asker(server, words, ends)
        folder = weights.folders.get(version)
        return ServedPolicy(words, ask, server, folder, version=version, context=512, under_way=24)

    return make


def ask(policy: Any, requests: Sequence[Request]) -> list[Completion]:
    for ticket, request in enumerate(requests):
        policy.submit(ticket, request)
    done: dict[Any, Completion] = {}
    while policy.busy:
        done |= dict(policy.step())
    return [done[ticket] for ticket in range(len(requests))]


def said(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def close(own: Sequence[float], plain: Sequence[float]) -> bool:
    furthest = max(abs(a - b) for a, b in zip(own, plain, strict=True))
    return furthest < CLOSE and apart(own, plain) < MEAN


def apart(own: Sequence[float], plain: Sequence[float]) -> float:
    return sum(abs(a - b) for a, b in zip(own, plain, strict=True)) / len(own)


def test_ids_and_logprobs_are_the_embedded_models(
    act: Act, weights: Weights, chat: tuple[Chat, frozenset[int]]
) -> None:
    """Greedy and sampled: the numbers are of temperature 1, over the whole vocabulary."""
    for version in (BASE, weights.one):
        policy = act(version)
        prompts = [policy.encode(said(q)) for q in QUESTIONS]
        requests = [
            Request(prompt_ids=p, max_new_tokens=24, temperature=t, seed=i, stop=(".",))
            for i, (p, t) in enumerate((p, t) for t in (0.0, 1.3) for p in prompts)
        ]
        for request, answer in zip(requests, ask(policy, requests), strict=True):
            plain = weights.logprobs(version, request.prompt_ids, answer.token_ids)
            assert close(answer.logprobs, plain), (version, answer.logprobs, plain)
            assert answer.text == chat[0].text(answer.token_ids)
            ended = answer.token_ids[-1] in chat[1] or "." in chat[0].piece(answer.token_ids[-1])
            assert answer.finished == ended and (ended or len(answer.token_ids) == 24)
            assert not any("." in chat[0].piece(t) for t in answer.token_ids[:-1])
            if not request.temperature:  # greedy: nothing was likelier
                table = weights.table(version, request.prompt_ids, answer.token_ids)
                lead = table.max(-1).values - table[range(len(plain)), list(answer.token_ids)]
                assert float(lead.max()) < CLOSE
        policy.close()


def test_a_conversation_goes_on_in_ids(act: Act, chat: tuple[Chat, frozenset[int]]) -> None:
    policy = act(BASE)
    prompt = policy.encode(said(QUESTIONS[0]))
    (first,) = ask(policy, [Request(prompt_ids=prompt, max_new_tokens=8)])
    longer = policy.extend(prompt + first.token_ids, "And one more?", "")
    assert longer[: len(prompt) + len(first.token_ids)] == prompt + first.token_ids
    (second,) = ask(policy, [Request(prompt_ids=longer, max_new_tokens=8)])
    assert second.token_ids and policy.count(QUESTIONS[0]) == len(chat[0].ids(QUESTIONS[0]))
    policy.close()


def test_hot_tokens_come_first_and_seeds_decide(act: Act, weights: Weights) -> None:
    policy = act(BASE)
    prompt = policy.encode(said(QUESTIONS[2]))
    asked: dict[str, Any] = {"prompt_ids": prompt, "max_new_tokens": 8, "temperature": 0.05}
    cold = Request(**asked)
    hot = [Request(**asked, hot_tokens=1, heat=30.0, seed=seed) for seed in range(12)]
    (plain,), *drawn = [ask(policy, requests) for requests in ([cold], hot, hot)]
    assert len({a.token_ids[0] for a in drawn[0]}) > 2  # at 1.5; at 0.05 there is one
    assert all(len(a.token_ids) == len(a.logprobs) <= 8 for a in drawn[0])
    assert [a.token_ids[0] for a in drawn[0]] == [a.token_ids[0] for a in drawn[1]]
    assert len(plain.token_ids) == 8
    hotter = [
        r.model_copy(update={"temperature": 1.0, "heat": 4.0, "hot_tokens": 2}) for r in hot[:4]
    ]
    for request, answer in zip(hotter, ask(policy, hotter), strict=True):  # vLLM refuses 4
        plainly = weights.logprobs(BASE, request.prompt_ids, answer.token_ids)
        assert apart(answer.logprobs, plainly) < 2 * MEAN
    policy.close()


def test_more_prompts_at_a_time_than_one_pass_reads(act: Act) -> None:
    """With seeds; vLLM on a CPU dies if it reads a prompt in parts (see ``whole_prompts``)."""
    policy = act(BASE)
    prompts = [policy.encode(said(f"{i} and " * 60)) for i in range(101, 109)]
    assert sum(map(len, prompts)) > 2048 and max(map(len, prompts)) < 500
    requests = [
        Request(prompt_ids=p, max_new_tokens=4, temperature=0.7, seed=i)
        for i, p in enumerate(prompts)
    ]
    assert all(answer.token_ids for answer in ask(policy, requests))
    policy.close()


def test_choices_have_our_ids_and_exact_logprobs(
    act: Act, weights: Weights, chat: tuple[Chat, frozenset[int]]
) -> None:
    policy, tokenizer = act(BASE), chat[0].tokenizer
    prompt = policy.encode(said("You are at a desk. What do you do?"))
    many = tuple(f"press button {letter}{n}" for n in range(9) for letter in "abcdefghijklmnopqrst")
    requests = [
        Request(prompt_ids=prompt, max_new_tokens=3, temperature=t, seed=i, choices=c)
        for i, (t, c) in enumerate([(0.0, CHOICES), *[(6.0, CHOICES)] * 7, (9.0, many)])
    ]
    free = [
        Request(prompt_ids=prompt, max_new_tokens=12, temperature=1.0, seed=s, **hot)
        for s in range(3)
        for hot in ({}, {"hot_tokens": 2, "heat": 4.0})
    ]
    *answers, _, _, _, _, _, _ = everything = ask(policy, [*requests, *free])
    for one, other in zip(free, everything[len(requests) :], strict=True):  # beside them, as ever
        plain = weights.logprobs(BASE, prompt, other.token_ids)
        assert apart(other.logprobs, plain) < 2 * MEAN, one
    assert len({a.text for a in answers}) > 2
    for request, answer in zip(requests, answers, strict=True):
        assert answer.text in request.choices and answer.finished
        assert answer.token_ids == option_ids(tokenizer, answer.text)
        options = [option_ids(tokenizer, c) for c in request.choices]
        table = weights.table(BASE, prompt, answer.token_ids)
        expected = []
        for i, token in enumerate(answer.token_ids):
            allowed = sorted({o[i] for o in options if o[:i] == answer.token_ids[:i]})
            expected.append(float(table[i, allowed].log_softmax(-1)[allowed.index(token)]))
        assert close(answer.logprobs, expected), (answer, expected)
    policy.close()


def test_structured_outputs_spell_choices_otherwise(
    server: VllmServer, chat: tuple[Chat, frozenset[int]]
) -> None:
    """Why they are not used: if this fails, vLLM's own choices may have become usable."""
    server.serve(BASE, None)
    body = {
        "model": BASE,
        "prompt": chat[0].encode(said("You are at a desk. What do you do?")),
        "structured_outputs": {"choice": ["inventory", "take lamp"]},
        "max_tokens": 12,
        "logprobs": 8,
        "temperature": 0,
        "return_token_ids": True,
    }
    found = server.endpoint.post("/completions", body)["choices"][0]
    assert found["text"] in ("inventory", "take lamp")
    top = found["logprobs"]["top_logprobs"][0]
    assert sum(logprob > -9999 for logprob in top.values()) > 2  # two choices, more beginnings


def test_versions_are_swapped_under_load(server: VllmServer, act: Act, weights: Weights) -> None:
    """While one version answers, the next is loaded; each answer is of the version asked."""
    one = act(weights.one)
    prompts = [one.encode(said(f"{q} ({i})")) for i in range(4) for q in QUESTIONS]
    requests = [Request(prompt_ids=p, max_new_tokens=32) for p in prompts]
    for ticket, request in enumerate(requests):
        one.submit(ticket, request)
    started: dict[Any, Completion] = {}
    while not started:  # some are under way, some wait
        started |= dict(one.step())
    assert one.busy
    two = act(weights.two)
    after = ask(two, requests)
    while one.busy:
        started |= dict(one.step())
    before = [started[i] for i in range(len(requests))]
    assert [a.token_ids for a in before] != [a.token_ids for a in after]
    for version, other, answers in (
        (weights.one, weights.two, before),
        (weights.two, weights.one, after),
    ):
        own, foreign = [], []
        for request, answer in list(zip(requests, answers, strict=True))[::2]:
            ids = (request.prompt_ids, answer.token_ids)
            plain = weights.logprobs(version, *ids)
            assert close(answer.logprobs, plain)
            own.append(apart(answer.logprobs, plain))
            foreign.append(apart(answer.logprobs, weights.logprobs(other, *ids)))
        assert 3 * sum(own) < sum(foreign), (own, foreign)
        assert all(o < f for o, f in zip(own, foreign, strict=True)), (own, foreign)
    one.close()
    assert {f"policy-v{weights.one}", f"policy-v{weights.two}", BASE} == served(server)
    server.serve("third", weights.folders[weights.one])  # two are kept: the oldest idle one goes
    assert served(server) == {"policy-vthird", f"policy-v{weights.two}", BASE}
    server.release("third")
    two.close()


def test_the_base_is_itself_beside_adapters(server: VllmServer, act: Act, weights: Weights) -> None:
    """In one batch with both: on a CPU, vLLM gives the base's rows one of the adapters."""
    policies = {version: act(version) for version in (weights.one, weights.two, BASE)}
    request = Request(prompt_ids=policies[BASE].encode(said(QUESTIONS[0])), max_new_tokens=24)
    for policy in policies.values():
        for ticket in range(2):
            policy.submit(ticket, request)
    found: dict[str, list[Completion]] = {version: [] for version in policies}
    while any(policy.busy for policy in policies.values()):
        for version, policy in policies.items():
            found[version] += [answer for _, answer in policy.step()]
    for version, answers in found.items():
        for answer in answers:
            assert close(
                answer.logprobs, weights.logprobs(version, request.prompt_ids, answer.token_ids)
            )
        policies[version].close()


def served(server: VllmServer) -> set[str]:
    _, text = server.endpoint.request("GET", "/models")
    return {model["id"] for model in json.loads(text)["data"]}


def test_an_answer_of_another_model_is_refused(
    server: VllmServer, chat: tuple[Chat, frozenset[int]]
) -> None:
    from agent.policies.calls import Call

    server.serve(BASE, None)
    call = Call(chat[0].ids("Hello"), max_tokens=1)
    with pytest.raises(PolicyFailure, match=r"refuses a request \(404\).*does not exist"):
        server.endpoint.complete("policy-vnone", call, chat[1])
    found = server.endpoint.post("/completions", {"model": BASE, "prompt": [1], "max_tokens": 1})
    with pytest.raises(PolicyFailure, match="where 'policy-vx' was asked"):
        server.endpoint.read("policy-vx", call, found)
    with pytest.raises(PolicyFailure, match="returns no token ids"):
        server.endpoint.read(BASE, call, found)


def test_a_merged_adapter_is_served(
    act: Act, weights: Weights, model: Path, chat: tuple[Chat, frozenset[int]], tmp_path: Path
) -> None:
    """Its rank is the sum of its parents', for which the server starts anew."""
    parents = [weights.folders[version] for version in (weights.one, weights.two)]
    mean = Recipe(how="soup", weights=(0.5, 0.5))
    version = str(merge(model, parents, mean, tmp_path / "m", manifest={})["version"])
    weights.folders[version] = tmp_path / "m"
    try:
        policy = act(version)
        request = Request(prompt_ids=policy.encode(said(QUESTIONS[0])), max_new_tokens=16)
        (answer,) = ask(policy, [request])
        policy.close()
    finally:
        del weights.folders[version]
    _, network = merged_model(model, tmp_path / "m", dtype="float32")
    ids = torch.tensor([[*request.prompt_ids, *answer.token_ids]])
    with torch.inference_mode():
        table = network(ids).logits[0, len(request.prompt_ids) - 1 : -1].float().log_softmax(-1)
    plain = table[range(len(answer.token_ids)), list(answer.token_ids)].tolist()
    assert close(answer.logprobs, plain), (answer.logprobs, plain)
    base = weights.logprobs(BASE, request.prompt_ids, answer.token_ids)
    assert not close(answer.logprobs, base)


def test_nobody_else_reaches_the_server(server: VllmServer) -> None:
    server.serve(BASE, None)
    socket = Path(server.endpoint.url.removeprefix("unix:"))
    assert socket.parent.stat().st_mode & 0o077 == 0
    listening = subprocess.run(["ps", "-eo", "pgid,args"], capture_output=True, text=True).stdout
    assert [line for line in listening.splitlines() if "--port" in line and "vllm" in line] == []


def test_an_endpoint_by_url_acts_with_and_without_ids(
    server: VllmServer, weights: Weights, tmp_path: Path
) -> None:
    """The same server as if it were another's: with ids, as messages, with an adapter."""
    server.serve(BASE, None)
    tree: dict[str, Any] = {
        "policy": {
            "engine": "openai",
            "context": 512,
            "endpoint": {"url": server.endpoint.url, "model": BASE},
        },
        "update_weights": {"enabled": False},
    }
    from agent.engines import Engine

    engine = Engine(validate(tree, "test"), tmp_path / "log", print)
    policy = engine.policy(None, BASE)
    prompt = policy.encode(said(QUESTIONS[1]))
    (answer,) = ask(policy, [Request(prompt_ids=prompt, max_new_tokens=8)])
    assert close(answer.logprobs, weights.logprobs(BASE, prompt, answer.token_ids))
    policy.close()
    evolved = engine.policy(weights.folders[weights.two], "theirs")  # unloaded when it is closed
    (answer,) = ask(evolved, [Request(prompt_ids=prompt, max_new_tokens=8)])
    assert close(answer.logprobs, weights.logprobs(weights.two, prompt, answer.token_ids))
    assert "policy-vtheirs" in served(server)
    evolved.close()
    assert "policy-vtheirs" not in served(server)
    engine.close()

    tree["policy"]["endpoint"]["token_ids"] = False
    engine = Engine(validate(tree, "test"), tmp_path / "log", print)
    spoken = engine.policy(None, BASE)
    prompt = spoken.encode(said(QUESTIONS[1]))
    answers = ask(
        spoken,
        [
            Request(prompt_ids=prompt, max_new_tokens=12),
            Request(prompt_ids=prompt, max_new_tokens=30, choices=CHOICES),
        ],
    )
    assert "Paris" in answers[0].text and answers[1].text in CHOICES
    assert [a.logprobs for a in answers] == [(), ()]
    longer = spoken.extend(prompt + answers[0].token_ids, "And of Italy?", "The")
    (more,) = ask(spoken, [Request(prompt_ids=longer, max_new_tokens=12)])
    assert more.text and min(longer) < 0
    spoken.close()


def test_it_runs_in_the_process_too(model: Path, weights: Weights, server: VllmServer) -> None:
    """``vllm-offline`` by vLLM's interpreter: base and adapters, in turn, then beside."""
    del server  # after it, not beside its start: this machine may be small
    folders = {v: str(f) for v, f in weights.folders.items()}
    program = (Path(__file__).with_name("offline_driver.py")).read_text()
    done = subprocess.run(
        [str(default_python()), "-c", program, str(model), json.dumps(folders)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1"},
        capture_output=True,
        text=True,
        timeout=1000,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {BASE, *folders}
    for version, answers in found.items():
        assert len(answers["free"]) == 3
        for prompt, ids, logprobs in answers["free"]:
            assert close(logprobs, weights.logprobs(version, prompt, ids))
        assert answers["chosen"] in CHOICES


def test_it_says_in_one_line_why_it_does_not_start(model: Path, tmp_path: Path) -> None:
    nowhere = VllmServer(model, VllmSettings(python="/nowhere/python"), tmp_path / "log")
    with pytest.raises(ModelError, match="there is no vLLM at /nowhere/python: run `make vllm`"):
        nowhere.serve(BASE, None)
    odd = VllmServer(model, VllmSettings(arguments={"sing_along": True}), tmp_path / "log")
    with pytest.raises(PolicyFailure, match=r"died \(status 2\): .*--sing-along") as told:
        odd.serve(BASE, None)
    assert "\n" not in str(told.value) and str(tmp_path / "log") in str(told.value)


def test_it_dies_with_whoever_started_it(model: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from agent.policies.vllm_server import *\n"
        "server = VllmServer(Path(sys.argv[1]), VllmSettings(), Path(sys.argv[2]) / 'log')\n"
        "import threading; threading.Thread(target=server.serve, args=('base', None)).start()\n"
        "import time\n"
        "while not server.running: time.sleep(0.05)\n"
        "print(server.pid, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(model), str(tmp_path)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert owner.stdout is not None
    group = int(owner.stdout.readline())
    while not members(group) - {group}:  # the supervisor, and vLLM below it
        time.sleep(0.05)
    owner.kill()
    owner.wait()
    deadline = time.monotonic() + 60
    while members(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not members(group)


def members(group: int) -> set[int]:
    """Pids of a process group that live."""
    done = subprocess.run(["ps", "-eo", "pid,pgid,stat"], capture_output=True, text=True)
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    return {int(pid) for pid, own, state in rows if int(own) == group and state[0] != "Z"}


def api_server(group: int) -> int:
    """The process that the supervisor started."""
    done = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True)
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    return next(int(pid) for pid, parent in rows if int(parent) == group)


def test_a_server_that_is_killed_costs_nothing(
    server: VllmServer, act: Act, weights: Weights, tmp_path: Path
) -> None:
    """SIGKILL in the middle of a run's episodes: it starts again, none is lost or doubled.

    What it then answers is a cold start's: the same as after a hot swap.
    """
    request = Request(prompt_ids=act(BASE).encode(said(QUESTIONS[2])), max_new_tokens=24)
    two = act(weights.two)
    (hot,) = ask(two, [request])
    config: Config = validate(
        {
            "suite": {"name": "tests.agent.test_choices:Mazes"},
            "policy": {"engine": "vllm", "context": 512, "slots": 16, "vllm": EAGER},
        },
        "test",
    )
    killed = threading.Event()
    with Run(tmp_path / "run", config, quiet=True) as run:
        run.engine._service, server.say = server, run.engine.say
        (task,) = run.suite.tasks()
        slots = [f"1/acquire/{i}" for i in range(24)]
        assignments = [Assignment(slot, task, "train", "acquire", 1.0) for slot in slots]

        def kill() -> None:
            while run_folder_episodes(tmp_path / "run") < 2:
                time.sleep(0.02)
            os.kill(api_server(server.pid), signal.SIGKILL)
            killed.set()

        assassin = threading.Thread(target=kill)
        assassin.start()
        episodes = run.episodes("acquire", assignments, BASE)
        assassin.join()
        assert killed.is_set() and server.deaths == 1
        assert [t.slot for t in episodes] == slots
        assert all(t.failure is None and t.policy == BASE for t in episodes)
        assert run.ledger.count(Trajectory) == len(slots)
        notes = [str(n.data["said"]) for _, n in run.ledger.all(Note, "engine/")]
        assert len(notes) == 1 and "died (signal 9)" in notes[0] and "(1 of 3)" in notes[0]
        (cold,) = ask(two, [request])
        run.engine._service = None  # not this run's to close
    assert cold.token_ids == hot.token_ids
    assert cold.logprobs == pytest.approx(hot.logprobs, abs=CLOSE)
    assert close(cold.logprobs, weights.logprobs(weights.two, request.prompt_ids, cold.token_ids))

    server.settings = server.settings.model_copy(update={"restarts": 1})
    os.kill(api_server(server.pid), signal.SIGKILL)
    with pytest.raises(PolicyFailure, match=r"died \(signal 9\).*started again 1 times"):
        ask(two, [request])


def run_folder_episodes(folder: Path) -> int:
    """How many episodes a run's ledger holds."""
    from agent.run_folder import open_ledger

    with open_ledger(folder) as ledger:
        return ledger.count(Trajectory)
