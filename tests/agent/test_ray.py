"""Rollouts over Ray: a real cluster of several nodes, on this machine, whose parts are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from agent.config import Config, ConfigError, load_config
from agent.distributed.actors import Seat, Worker
from agent.distributed.crew import Member
from agent.distributed.fleet import Fleet
from agent.distributed.parcels import Parcel, pack, unpack
from agent.engines import Engine
from agent.evolution.cycle import evolve
from agent.loop import Assignment
from agent.policies.base import Completion, PolicyFailure, Request
from agent.policies.endpoint import NoAnswer
from agent.rollout import rollout
from agent.run import Run
from agent.run_folder import RunError, open_ledger
from agent.training.adapter import AdapterError, check_adapter, save_adapter
from agent.verify import verify
from agent.worlds import configured_suite
from environments.base import Task
from environments.sandbox.base import SandboxUnavailable
from memory.ledger import LedgerError
from memory.recall import Recall
from memory.records import MEMBER_OF, Generation, Kind, MemoryItem, Note, Recollection, Trajectory
from tests.agent.conftest import TOY
from tests.agent.walks import noted, walks
from tests.tiny import tiny_model

ROOT = Path(__file__).resolve().parents[2]
Instar = Callable[..., "subprocess.CompletedProcess[str]"]
WALKS: dict[str, Any] = {
    "seed": 3,
    "suite": {"name": "tests.agent.walks:Walks"},
    "policy": {"engine": "scripted", "model": "tests.agent.walks:script", "slots": 8},
    "agent": {"overflow": "page"},
    "rollouts": {"runner": "ray", "worker_cpus": 1, "engine_cpus": 1, "wait_s": 120},
}
FLEET = {"workers": 2, "engines": 2, "episodes": 4}


class Nodes(NamedTuple):
    """A cluster: the head has room for everything, the other node for half of it."""

    cluster: Any
    address: str
    others: list[Any]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    from ray.cluster_utils import Cluster

    small = {"include_dashboard": False, "object_store_memory": 80 * 2**20}
    fast = {"health_check_period_ms": 500, "health_check_failure_threshold": 2}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(
        initialize_head=True, head_node_args=small | {"num_cpus": 6, "_system_config": fast}
    )
    try:
        other = cluster.add_node(num_cpus=3, object_store_memory=small["object_store_memory"])
        yield Nodes(cluster, cluster.address, [other])
    finally:
        cluster.shutdown()


class Party(NamedTuple):
    """A fleet, and what it has said."""

    fleet: Fleet
    said: list[str]
    log: Path

    def members(self, role: str) -> list[Member]:
        return [m for m in self.fleet.crew.members if m.role == role]


def settings(address: str | None, log: Path | None = None, **rollouts: Any) -> Config:
    tree = WALKS | {"rollouts": WALKS["rollouts"] | FLEET | {"address": address} | rollouts}
    if log is not None:
        tree |= {"suite": WALKS["suite"] | {"options": {"log": str(log), "pause": 0.05}}}
    return Config.model_validate(tree)


@pytest.fixture(scope="module")
def party(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Party]:
    """One fleet for all tests that do not wear it out."""
    log = tmp_path_factory.mktemp("walks") / "log"
    said: list[str] = []
    fleet = Fleet(settings(nodes.address, log), said.append)
    try:
        fleet.policy(None, "base")
        yield Party(fleet, said, log)
    finally:
        fleet.close()


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest) -> None:
    """Each test reads what was said and noted since it began."""
    if "party" in request.fixturenames:
        party: Party = request.getfixturevalue("party")
        party.said.clear()
        party.log.write_text("")


def planned(tasks: Sequence[Task], **more: Any) -> list[Assignment]:
    return [Assignment(f"a/{t.id}", t, "train", "acquire", temperature=0.7, **more) for t in tasks]


def here(
    assignments: Iterable[Assignment],
    config: Config,
    adapter: Path | None = None,
    version: str = "base",
) -> dict[str, Trajectory]:
    """The episodes as they go in this process."""
    local = Config.model_validate(config.model_dump() | {"rollouts": {}})
    policy = Engine(local, Path(), print).policy(adapter, version)
    suite = configured_suite(local)
    batches = rollout(assignments, policy, suite, local.agent, seed=local.seed)
    return {t.slot: t for batch in batches for t in batch}


def there(
    fleet: Fleet, assignments: Sequence[Assignment], at: int = -1, do: Callable[[], Any] = bool
) -> dict[str, Trajectory]:
    """The episodes as the fleet plays them; once some of them have ended, something happens.

    Each comes once.
    """
    found: dict[str, Trajectory] = {}
    for batch in fleet.rollout(assignments):
        for trajectory in batch:
            assert trajectory.slot not in found
            found[trajectory.slot] = trajectory
        if 0 <= at <= len(found):
            at = -1
            do()
    return found


def kill(*members: Member) -> None:
    for member in members:
        assert member.home is not None
        os.kill(member.home.process, signal.SIGKILL)


def test_episodes_are_those_of_the_local_runner(party: Party) -> None:
    assignments = planned(walks(24))
    assert there(party.fleet, assignments) == here(assignments, settings(None))
    homes = [m.home for m in party.fleet.crew.members if m.home]
    assert len({home.process for home in homes}) == 4 and len({home.node for home in homes}) == 2
    players = {process for _, process in noted(party.log, "start")}
    assert players == {m.home.process for m in party.members("worker") if m.home}
    assert not party.said


def test_memory_is_read_where_the_run_is(party: Party) -> None:
    def found(text: str) -> Recall:
        item = MemoryItem(
            kind=Kind.FACT, text=f"{text}: seen", key=text, sources=("s",), tasks=("other",),
            family="walk", born=1,
        )  # fmt: skip
        return Recall((item,), Recollection(query=text, task="t", memory="m", reader="base"))

    asked: list[tuple[int, str]] = []

    def look(text: str, shown: frozenset[str]) -> Recall:
        asked.append((os.getpid(), text))
        if "walk 3." in text:
            raise ValueError("no such stone")
        return found(f"{text}, {len(shown)} shown")

    assignments = planned(
        walks(6), memory="m", recall=lambda: found("first"), look_again=look, search=look
    )
    distributed = there(party.fleet, assignments)
    assert {process for process, _ in asked} == {os.getpid()}
    questions = sorted(text for _, text in asked)
    assert "stones" in questions and any("A stone, on walk 2." in text for text in questions)
    asked.clear()
    assert distributed == here(assignments, settings(None))
    assert sorted(text for _, text in asked) == questions
    failures = {t.task: t.failure.message for t in distributed.values() if t.failure}
    assert failures == {walks(4)[3].id: "ValueError: no such stone"}


def test_a_memory_that_cannot_be_read_ends_the_rollout(party: Party) -> None:
    def lost(text: str, shown: frozenset[str]) -> Recall:
        raise LedgerError("it is gone")

    with pytest.raises(LedgerError, match="it is gone"):
        there(party.fleet, planned(walks(6), look_again=lost))
    party.fleet.policy(None, "base")  # starts anew
    assert len(there(party.fleet, planned(walks(6)))) == 6


def test_a_worker_that_is_killed_is_replaced(party: Party) -> None:
    assignments = planned([*walks(4, "slow walk"), *walks(20)])
    worker = party.members("worker")[0]
    before = worker.home
    assert before is not None
    assert there(party.fleet, assignments, 5, lambda: kill(worker)) == here(
        assignments, settings(None)
    )
    (said,) = party.said
    assert said.startswith(f"worker 0 ({before.host}, process {before.process}) was lost: ")
    played = noted(party.log, "start")
    again = [prompt for prompt, _ in played if sum(p == prompt for p, _ in played) > 1]
    assert again  # what it had begun was begun by others
    party.fleet.crew.until(lambda: len(party.fleet.crew.ready("worker")) == 2)
    assert worker.home != before
    assert len(there(party.fleet, planned(walks(8)))) == 8


def test_what_a_killed_engine_was_asked_is_asked_again(party: Party) -> None:
    """Both engines go; the episodes wait, and no walk is begun twice."""
    assignments = planned(walks(24))
    engines = party.members("engine")
    before = [engine.home for engine in engines]
    expected = here(assignments, settings(None))
    assert there(party.fleet, assignments, 5, lambda: kill(*engines)) == expected
    assert sorted(line.split(" (")[0] for line in party.said) == ["engine 0", "engine 1"]
    assert sorted(prompt for prompt, _ in noted(party.log, "start")) == sorted(
        a.task.prompt for a in assignments
    )
    party.fleet.crew.until(lambda: len(party.fleet.crew.ready("engine")) == 2)
    assert not {engine.home for engine in engines} & set(before)


def test_what_the_run_itself_asks_survives_as_well(party: Party) -> None:
    """As reflections are: through the policy, not through episodes."""
    policy = party.fleet.policy(None, "base")
    for n in range(30):
        prompt = policy.encode([{"role": "user", "content": f"walk {n}."}])
        policy.submit(n, Request(prompt_ids=prompt, max_new_tokens=20))
    answered = dict(policy.step())
    kill(*party.members("engine"))
    while policy.busy:
        done = dict(policy.step())
        assert not done.keys() & answered.keys()
        answered |= done
    policy.close()
    assert {n: c.text for n, c in answered.items()} == dict.fromkeys(range(30), "look()")
    assert len(party.said) >= 1


class ShortOfMemory:
    """Ray as it tells of losses where it killed to free memory: `OutOfMemoryError`, no other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        import ray

        self.told = 0
        self._get = ray.get
        monkeypatch.setattr(ray, "get", self.get)

    def get(self, ref: Any) -> Any:
        from ray.exceptions import OutOfMemoryError, RayActorError

        try:
            return self._get(ref)
        except RayActorError as error:
            self.told += 1
            raise OutOfMemoryError("Killed: low on memory.\nRefer to the documentation.") from error


@pytest.mark.parametrize("role", ["worker", "engine"])
def test_who_is_killed_for_memory_is_replaced(
    party: Party, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = ShortOfMemory(monkeypatch)
    member = party.members(role)[0]
    assignments = planned([*walks(4, "slow walk"), *walks(12)])
    found = there(party.fleet, assignments, 5, lambda: kill(member))
    party.fleet.crew.until(lambda: len(party.fleet.crew.ready("engine")) == 2)
    party.fleet.crew.until(lambda: len(party.fleet.crew.ready("worker")) == 2)
    assert found == here(assignments, settings(None)) and short.told
    (said,) = party.said
    assert said.startswith(f"{role} 0 (") and "was lost: Killed: low on memory; " in said


def test_an_engine_that_is_lost_in_any_way_is_asked_no_more(
    party: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray import exceptions

    class Engines:
        """Two of them: a call is the name of who was asked."""

        def __init__(self, name: str):
            self.actor = self.ask = self
            self.remote = lambda version, request: name

    done = Completion((1,), (-1.0,), "look()", True)
    lost = [
        exceptions.OutOfMemoryError("low on memory"), exceptions.WorkerCrashedError(),
        exceptions.NodeDiedError("gone"), exceptions.ActorDiedError(),
    ]  # fmt: skip
    for error in lost:

        def get(name: str, error: Exception = error) -> Completion:
            if name == "a":
                raise error
            return done

        monkeypatch.setattr(ray, "get", get)
        worker = Worker(settings(None), "", False)
        worker.engines(1, {"a": Engines("a"), "b": Engines("b")})
        request = Request(prompt_ids=(1,), max_new_tokens=1)
        assert worker._ask([Seat("a", Engines("a"))], "base", request) == done
        monkeypatch.setattr(party.fleet.crew, "ready", lambda role: [Engines("a")])
        with pytest.raises(NoAnswer, match="was lost"):
            party.fleet.ask("base", request)


def test_an_error_of_the_engine_ends_the_rollout_in_its_words(party: Party) -> None:
    with pytest.raises(PolicyFailure, match=r"^there are no words for this walk$"):
        there(party.fleet, planned([*walks(4), *walks(1, "unspeakable walk")]))
    party.fleet.policy(None, "base")


@pytest.mark.parametrize(("kind", "role"), [("deadly walk", "worker"), ("fatal walk", "engine")])
def test_who_is_lost_over_and_over_is_not_replaced_for_ever(
    nodes: Nodes, kind: str, role: str
) -> None:
    said: list[str] = []
    few = settings(nodes.address, workers=1, engines=1, restarts=1)
    fleet = Fleet(few, said.append)
    ended = []
    try:
        fleet.policy(None, "base")
        with pytest.raises(RunError) as error:
            for batch in fleet.rollout(planned([*walks(2), *walks(1, kind)])):
                ended += batch
    finally:
        fleet.close()
    assert len(said) >= 1 and "\n" not in str(error.value)
    assert str(error.value).startswith(f"{role} 0") and "lost 2 times in a row" in str(error.value)
    assert len(ended) <= 2


def test_no_place_in_the_cluster_is_said(nodes: Nodes) -> None:
    fleet = Fleet(settings(nodes.address, workers=99, wait_s=1), print)
    try:
        with pytest.raises(
            RunError, match=r"99 workers of 1 CPUs are asked for, and it has 9 CPUs"
        ):
            fleet.policy(None, "base")
    finally:
        fleet.close()


def test_no_cluster_is_said(instar: Instar) -> None:
    wanted = [f"rollouts.{key}" for key in ("runner=ray", "address=127.0.0.1:9")]
    policy = ["policy.engine=scripted", "policy.model=tests.agent.walks:script"]
    done = instar("run", "tests.agent.walks:Walks", *policy, *wanted, "--limit", 1)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "instar: rollouts.address: no Ray at 127.0.0.1:9"
    )


def test_an_environment_that_cannot_be_made_is_said(nodes: Nodes, instar: Instar) -> None:
    wanted = ["runner=ray", f"address={nodes.address}", "runtime_env={conda: there-is-none}"]
    policy = ["policy.engine=scripted", "policy.model=tests.agent.walks:script"]
    rollouts = [f"rollouts.{key}" for key in wanted]
    done = instar("run", "tests.agent.walks:Walks", *policy, *rollouts, "--limit", 1)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("instar: Ray cannot run ") and "(see rollouts): Failed to set up" in said


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'instar\[ray\]'"):
        Engine(settings(None), Path(), print).policy(None, "base")


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"ray://.* is not used"):
        load_config(None, ["rollouts.address=ray://host:10001"])
    endpoint = "policy={engine: openai, endpoint: {url: 'http://host/v1', model: m}}"
    with pytest.raises(ConfigError, match=r"rollouts.engines must be 1 for an endpoint"):
        load_config(None, [endpoint, "rollouts.engines=2", "rollouts.runner=ray"])


def test_what_cannot_be_made_there_is_told_as_here(nodes: Nodes) -> None:
    """The driver has a tokeniser and no weights; what the engine finds wrong is one line."""
    config = settings(nodes.address, workers=1, engines=1)
    broken = {"sandbox": {"backend": "docker", "options": {"nonsense": 1}}}
    fleet = Fleet(Config.model_validate(config.model_dump() | broken), print)
    try:
        with pytest.raises(SandboxUnavailable, match="nonsense"):
            fleet.policy(None, "base")
    finally:
        fleet.close()


# --- a model, and its adapters ---


class Model(NamedTuple):
    config: Config
    adapter: Path
    version: str


@pytest.fixture(scope="module")
def model(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny Llama, and an adapter that makes it say other things."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tiny_model(tmp_path_factory.mktemp("model"))
    torch.manual_seed(1)
    base: Any = AutoModelForCausalLM.from_pretrained(folder)
    made: Any = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear"))
    for name, weights in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.5)
    adapter = tmp_path_factory.mktemp("adapters") / "adapter"
    version = save_adapter(adapter, lambda to: made.save_pretrained(str(to)), {"sources": []})
    config = settings(nodes.address, workers=1, engines=1, engine_gpus=0).model_dump() | {
        "policy": {"model": str(folder), "dtype": "float32", "slots": 6, "context": 1024},
        "agent": {"max_new_tokens": 12, "turns": 2},
    }
    return Model(Config.model_validate(config), adapter, version)


def alike(a: dict[str, Trajectory], b: dict[str, Trajectory]) -> None:
    """The same tokens; log-probabilities but for rounding, which other rows in a batch change."""
    assert a.keys() == b.keys()
    for slot, trajectory in a.items():
        steps, others = trajectory.steps, b[slot].steps
        assert [s.token_ids for s in steps] == [s.token_ids for s in others]
        for step, other in zip(steps, others, strict=True):
            assert step.logprobs == pytest.approx(other.logprobs, abs=1e-3)


def test_a_model_acts_there_as_here(model: Model) -> None:
    """Greedily and sampled, with the base weights and with an adapter that only travels."""
    greedy = [a._replace(temperature=0.0, slot=f"{a.slot}/0") for a in planned(walks(6))]
    assignments = greedy + planned(walks(6))
    fleet = Fleet(model.config, print)
    try:
        fleet.policy(None, "base")
        base = there(fleet, assignments)
        sent = pack(model.version, model.adapter)
        fleet.crew.serve(model.version, sent._replace(folder="/on/another/machine"))
        fleet._version = model.version
        evolved = there(fleet, assignments)
        fleet.rest()  # as before training; the next request has the weights loaded again
        alike(there(fleet, assignments), evolved)
    finally:
        fleet.close()
    alike(base, here(assignments, model.config))
    alike(evolved, here(assignments, model.config, model.adapter, model.version))
    assert {t.policy for t in evolved.values()} == {model.version}
    said = [{t.slot: t.steps[0].text for t in found.values()} for found in (base, evolved)]
    assert all(said[0][slot] != said[1][slot] for slot in said[0])


def test_an_adapter_that_arrives_otherwise_is_refused(
    party: Party, model: Model, tmp_path: Path
) -> None:
    import ray

    whole = pack(model.version, model.adapter)
    assert unpack(whole, tmp_path) == model.adapter  # seen from here, so nothing is copied
    elsewhere = whole._replace(folder=str(tmp_path / "no"))
    assert unpack(elsewhere, tmp_path) == tmp_path / model.version
    (tmp_path / model.version / "adapter_config.json").write_text("{}")  # cut by a crash, say
    assert unpack(elsewhere, tmp_path) == tmp_path / model.version
    assert check_adapter(tmp_path / model.version) == model.version
    member = f"set{MEMBER_OF}{model.version}"  # a set's member travels by both names
    travelled = unpack(pack(member, model.adapter)._replace(folder="/no"), tmp_path)
    assert check_adapter(travelled) == model.version
    files = dict(ray.get(whole.files[0])) | {"adapter_config.json": b"{}"}
    with pytest.raises(AdapterError, match=f"the adapter {model.version} did not arrive whole"):
        unpack(Parcel(model.version, "", (ray.put(files),)), tmp_path / "other")


# --- a machine less ---


def test_a_node_that_is_lost_is_done_without(nodes: Nodes, party: Party) -> None:
    """Its worker and its engine find places on the node that is left; no episode is lost."""
    lost = nodes.others[0]
    on_it = [m for m in party.fleet.crew.members if m.home and m.home.node == lost.node_id]
    assert {m.role for m in on_it} == {"worker", "engine"}
    assignments = planned(walks(30))
    found = there(
        party.fleet, assignments, 5, lambda: nodes.cluster.remove_node(lost, allow_graceful=False)
    )
    assert found == here(assignments, settings(None))
    party.fleet.crew.until(lambda: all(m.state == "ready" for m in party.fleet.crew.members))
    assert {m.home.node for m in party.fleet.crew.members if m.home} == {
        nodes.cluster.head_node.node_id
    }
    assert len(party.said) >= len(on_it)


# --- whole runs, with a Ray of their own ---


def contents(folder: Path) -> dict[str, Any]:
    """All that a run found out: everything but times."""
    with open_ledger(folder) as ledger:
        return {
            "trajectories": {slot: t.id for slot, t in ledger.all(Trajectory)},
            "items": {key: item.id for key, item in ledger.all(MemoryItem)},
            "adapters": sorted(key for key, _ in ledger.all(Note, "adapter/")),
            "generations": [
                g.model_copy(update={"seconds": {}}).id for _, g in ledger.all(Generation)
            ],
        }


def marked(mark: str) -> list[str]:
    """Command lines of the processes that carry a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended
            continue
    return found


def left(mark: str) -> list[str]:
    """The processes with a mark that have not ended after a minute."""
    until = time.monotonic() + 60
    while (found := marked(mark)) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def test_a_ray_of_its_own_leaves_no_files(instar: Instar) -> None:
    wanted = ["policy.engine=scripted", "policy.model=tests.agent.walks:script"]
    wanted += [f"rollouts.{key}" for key in ("runner=ray", "workers=1", "engine_gpus=0")]
    with tempfile.TemporaryDirectory(prefix="r") as short:  # Ray's sockets need short paths
        env = {"RAY_TMPDIR": short}
        done = instar("run", "tests.agent.walks:Walks", *wanted, "--limit", 1, env=env)
        assert done.returncode == 0, done.stderr
        assert Path(short, "ray").is_dir() and not list(Path(short, "ray").glob("session_*"))


def test_a_run_is_killed_interrupted_and_continued(tmp_path: Path) -> None:
    """It ends as the local run does, and leaves no process behind however it ends."""
    small = "suite.tasks={train: 6, gate: 5, retention: 1, test: 2}"
    config = tmp_path / "toy.yaml"
    tree = load_config(None).model_dump(mode="json") | TOY
    config.write_text(yaml.safe_dump(tree))
    overrides = ["generations=1", small, "test.run=false"]
    alone, folder = tmp_path / "alone", tmp_path / "run"
    with Run(alone, load_config(config, overrides), quiet=True) as run:
        evolve(run)
    mark = f"INSTAR_MARK={uuid.uuid4().hex}"
    name, _, value = mark.partition("=")

    def begun(ends: signal.Signals | None, episodes: int = 0) -> tuple[int, str]:
        """Evolve; once so many episodes are stored, a signal comes."""
        process = subprocess.Popen(
            [sys.executable, "-m", "agent.cli", "evolve", str(config), *overrides,
             "rollouts={runner: ray, workers: 2, episodes: 2}", "--run", str(folder)],
            cwd=ROOT, env=os.environ | {name: value}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while ends is not None and process.poll() is None:
            if (folder / "ledger.sqlite").is_file():
                with contextlib.suppress(LedgerError), open_ledger(folder) as ledger:
                    if ledger.count(Trajectory) >= episodes:
                        process.send_signal(ends)
                        break
            time.sleep(0.02)
        _, said = process.communicate(timeout=200)
        return process.returncode, said

    assert begun(signal.SIGKILL, 5)[0] == -signal.SIGKILL
    assert left(mark) == []
    status, said = begun(signal.SIGINT, 20)
    assert status == 130 and "nothing is lost" in said and "Traceback" not in said
    assert left(mark) == []
    with open_ledger(folder) as ledger:
        assert 20 <= ledger.count(Trajectory) < len(contents(alone)["trajectories"])
    status, said = begun(None)
    assert status == 0, said
    assert left(mark) == []
    assert verify(folder)[1] == []
    assert contents(folder) == contents(alone)
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    assert stored["rollouts"]["runner"] == "ray"
    with Run(folder, load_config(config, overrides), quiet=True) as run:  # and on, locally
        assert evolve(run).n == 1
