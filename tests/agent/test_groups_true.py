"""An adapter per task group with a real model: trained, merged in, acting, killed and resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import load_config
from agent.run import Run
from agent.run_folder import BASE, open_ledger
from agent.training.adapter import read_manifest
from agent.verify import verify
from environments.base import Briefing, Environment, Task
from environments.kinds.text import TextAnswer, answer_tool
from memory.records import Generation, Trajectory
from tests.agent.test_canaries import contents, driven
from tests.tiny import tiny_model

RIGHT = {"fruit": "apple", "tool": "hammer"}
WORDS = ("apple", "pear", "hammer", "saw")


class Words:
    """Which word is a fruit, which a tool: the model chooses among four."""

    name = "words"
    description = "Words to choose, for tests."
    briefing = Briefing(text="Choose a word.", max_new_tokens=8)

    def tasks(self) -> Sequence[Task]:
        return [
            Task(suite=self.name, family=family, prompt=f"Name the best {family}, try {n}.")
            for family in RIGHT
            for n in range(60)
        ]

    def environment(self, task: Task) -> Environment:
        return TextAnswer(
            task.prompt,
            answer_tool("The word."),
            read=lambda said, _: said.strip() or None,
            grade=lambda said: float(said == RIGHT[task.family]),
            unreadable="Write a word.",
            valid_actions=WORDS,
        )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    model = tiny_model(folder / "model")
    settings = load_config(
        None,
        [
            "generations=1",
            "suite.name=tests.agent.test_groups_true:Words",
            "suite.tasks={train: 8, gate: 5, retention: 1, test: 1}",
            f"policy={{model: {model}, context: 512, slots: 8, dtype: float32, device: cpu}}",
            "memory.embedder=hash",
            "acquire={tasks: 8, first_tasks: 8, samples: 6, temperatures: [1.5], heat: 1}",
            "update_memory.enabled=false",
            "update_weights={adapters: per-group, min_examples: 1, epochs: 12, rank: 4, "
            "learning_rate: 0.02, checkpoint_seconds: 0}",
            "gate.enabled=false",
            "test.best_of_max=1",
        ],
    )
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert driven(config, folder) == {"signal": None, "error": ""}
    return folder


def test_each_group_is_solved_by_its_own_adapter(whole: Path) -> None:
    assert verify(whole)[1] == []
    manifest = read_manifest(whole / "generations" / "001" / "adapter")
    assert set(manifest["members"]) == set(RIGHT)
    assert len(set(manifest["members"].values())) == 2
    with open_ledger(whole) as ledger:
        version = [g.weights for _, g in ledger.all(Generation)][-1]
        assert version == manifest["version"]
        played = [t for _, t in ledger.all(Trajectory, f"gate/none+{version}/")]
        assert len(played) == 10
        for t in played:
            assert t.policy == f"{version}:{manifest['members'][t.family]}"
        before = [t for _, t in ledger.all(Trajectory, f"gate/none+{BASE}/")]
        assert sum(t.success for t in played) > sum(t.success for t in before)
    # The members are not one adapter twice: the other group's task gets another answer.
    with Run(whole, quiet=True) as run:
        from agent.loop import Assignment

        task = next(t for t in run.tasks("test") if t.family == "fruit")
        answers = set()
        for member in manifest["members"].values():
            slot = f"asked/{member}"
            own = Assignment(slot, task, "test", "test")
            (t,) = run.episodes("asked", [own], f"{version}:{member}")
            answers.add(t.steps[0].text)
        assert answers == set(RIGHT.values())


@pytest.mark.parametrize(
    "kill",
    [
        {"at": "agent.training.checkpoint:Checkpoint.save", "nth": 3, "when": "after"},
        {"at": "agent.training.lora:save_adapter", "nth": 2},
    ],
)
def test_killed_while_a_member_is_trained(
    tmp_path: Path, config: Path, whole: Path, kill: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    assert driven(config, folder, kill)["signal"] == 9
    assert driven(config, folder) == {"signal": None, "error": ""}
    own, other = (read_manifest(f / "generations/001/adapter") for f in (folder, whole))
    assert own["version"] == other["version"] and own["members"] == other["members"]
    found, expected = contents(folder), contents(whole)
    # Log-probabilities differ in their last digits by what was computed beside them.
    assert found["notes"] == expected["notes"] and found["generations"] == expected["generations"]
    assert verify(folder)[1] == []
