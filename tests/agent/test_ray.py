"""Rollouts over Ray: a real cluster of several nodes, on this machine, whose parts are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from agent.config import Config, ConfigError, load_config
from agent.distributed.crew import Member
from agent.distributed.fleet import Fleet
from agent.distributed.parcels import Parcel, pack, unpack
from agent.engines import Engine
from agent.loop import Assignment, seed_of
from agent.policies.base import PolicyFailure
from agent.policies.models import ModelError
from agent.rollout import rollout
from agent.run import Run
from agent.run_folder import RunError, open_ledger
from agent.training.adapter import AdapterError, save_adapter
from agent.verify import verify
from agent.worlds import configured_suite
from environments.base import Task
from memory.ledger import LedgerError
from memory.recall import Recall
from memory.records import Generation, Kind, MemoryItem, Note, Recollection, Trajectory
from tests.agent.conftest import TOY
from tests.agent.walks import noted, walks
from tests.tiny import tiny_model

ROOT = Path(__file__).resolve().parents[2]
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


def here(assignments: Iterable[Assignment], config: Config) -> dict[str, Trajectory]:
    """The episodes as they go in this process."""
    local = Config.model_validate(config.model_dump() | {"rollouts": {}})
    policy = Engine(local, Path(), print).policy(None, "base")
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
    assignments = planned(walks(24))
    worker = party.members("worker")[0]
    before = worker.home
    assert there(party.fleet, assignments, 5, lambda: kill(worker)) == here(
        assignments, settings(None)
    )
    assert len(party.said) == 1 and "worker 0" in party.said[0] and "lost" in party.said[0]
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
    from agent.policies.base import Request

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
        with pytest.raises(RunError, match=r"99 workers of 1 CPUs are asked for, and it has 9 CPUs"):
            fleet.policy(None, "base")
    finally:
        fleet.close()


def test_no_cluster_is_said() -> None:
    fleet = Fleet(settings("127.0.0.1:9"), print)
    with pytest.raises(RunError, match=r"no Ray at 127\.0\.0\.1:9"):
        fleet.policy(None, "base")
    fleet.close()


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'instar\[ray\]'"):
        Engine(settings(None), Path(), print)


def test_what_cannot_be_made_there_is_told_as_here(nodes: Nodes) -> None:
    config = settings(nodes.address)
    wrong = {"engine": "scripted", "model": "tests.agent.walks:nowhere"}
    fleet = Fleet(Config.model_validate(config.model_dump() | {"policy": wrong}), print)
    fleet._words = Engine(Config(), Path(), print) and _words()  # type: ignore[assignment]
    try:
        with pytest.raises(ModelError, match="is no script"):
            fleet.policy(None, "base")
    finally:
        fleet.close()


def _words() -> Any:
    from agent.policies.scripted import ScriptedPolicy

    return ScriptedPolicy("tests.agent.walks:script", context=2048)
