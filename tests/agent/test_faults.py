"""Java that stands still, a browser and a container that are killed, each during an episode.

In a run: the episode is attributed and stored, the others succeed, it is tried once more, and
nothing is left behind.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent.config import validate
from agent.loop import Assignment
from agent.run import AGAIN, Run
from environments.base import Task
from environments.sandbox import make_sandbox
from environments.sandbox.base import Limits
from memory.records import StopReason, Trajectory
from tests.agent import faults
from tests.environments.conftest import engine  # noqa: F401
from tests.real import absent


class Loss(NamedTuple):
    """A suite of ``faults``, and what is to be seen of its loss.

    Args:
        suite: its name there.
        needs: the program it cannot do without.
        sandbox: the backend of the run.
        runs: what runs when the fault comes.
        source, says: of the failure.
        most: episodes that one loss can break.
    """

    suite: str
    needs: str
    sandbox: str
    runs: str
    source: str
    says: str
    most: int


LOSSES = {
    "java is stopped": Loss(
        "Coins", "java", "bubblewrap", "java", "environment", "did not answer within 5 s", 1
    ),
    "chromium is killed": Loss(
        "Buttons", "chromedriver", "bubblewrap", "chromium", "environment", "the browser", 2
    ),
    "a container is killed": Loss(
        "Boxes", "dockerd", "docker", "containers", "sandbox", "the sandbox's keeper ended", 1
    ),
}
EPISODES = 5
WAITS = (
    "import os, time\nopen('begun', 'w').close()\n"
    "while not os.path.exists('go'):\n    time.sleep(0.01)\nprint({})\n```\n"
)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A temporary folder of the test's own, and a mark by which its processes are known."""
    folder = tempfile.mkdtemp(prefix="instar-tests-")
    os.chmod(folder, 0o711)
    monkeypatch.setattr(tempfile, "tempdir", folder)
    make_sandbox("bubblewrap", Limits()).close()  # what starts sandboxes stays with the process
    monkeypatch.setenv(faults.MARK, uuid.uuid4().hex)
    yield
    shutil.rmtree(folder)


def plan_of(suite: Any, task: Task) -> list[str]:
    if task.suite == "toy":
        return [WAITS.format(task.data["answer"])]
    return [action.text for action in suite.gold(task)]


@pytest.mark.usefixtures("engine", "here")
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_is_one_episodes_and_nothing_is_left(
    loss: Loss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which(loss.needs):
        absent(f"needs {loss.needs} (.ci/services.sh)")
    before = faults.running(), len(os.listdir("/proc/self/fd")), threading.active_count()
    tree = {
        "suite": {"name": f"tests.agent.faults:{loss.suite}"},
        "policy": {"engine": "scripted", "model": "tests.agent.faults:script", "context": 100_000},
        "agent": {"max_new_tokens": 400},
        "sandbox": {"backend": loss.sandbox, "limits": {"wall_s": 60}},
        "memory": {"embedder": "hash"},
    }
    with Run(tmp_path / "run", validate(tree, loss.suite), quiet=True) as run:
        suite: Any = run.suite
        tasks = list(suite.tasks())[:EPISODES]
        plans = {task.prompt: plan_of(suite, task) for task in tasks if loss.suite != "Buttons"}
        monkeypatch.setattr(faults, "PLANS", plans)
        episodes = [Assignment(f"1/acquire/{t.id}/0", t, "train", "acquire") for t in tasks]
        got = run.episodes("practice", episodes, "base")
        stored = dict(run.ledger.all(Trajectory))
        fault = suite.fault
        suite.close()
    assert len(tasks) == EPISODES and all(t.success for t in got)
    broken = [t for t in stored.values() if t.failure is not None]
    assert 1 <= len(broken) <= loss.most
    for t in broken:
        assert t.failure and t.failure.source == loss.source and loss.says in t.failure.message
        assert (t.stop, t.success, t.reward) == (StopReason.FAILED, False, 0.0)
        assert stored[t.slot + AGAIN].success
    assert len(stored) == len(tasks) + len(broken)
    assert all(t.success for t in stored.values() if t not in broken)
    assert fault.seen[loss.runs] >= 1 > before[0][loss.runs]  # it is counted while it runs
    del run, suite, fault
    gc.collect()
    assert faults.running() == before[0]
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before[1:]
