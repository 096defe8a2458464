"""Paging: an episode goes on beyond its context, and every id is still what went through."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from rich.console import Console

from agent.config import load_config
from agent.evolution.cycle import evolve
from agent.evolution.update.weights import conversations
from agent.loop import Assignment, run_episode
from agent.paging import DIGEST_CHARACTERS, NOTE, NOTES, Paged, begin_anew, out_of_sight, reopened
from agent.policies.base import Completion, Policy, Request
from agent.policies.models import resolve_model
from agent.policies.scripted import ScriptedPolicy
from agent.policies.transformers import TransformersPolicy
from agent.prompt import AgentSettings
from agent.run import Run
from agent.run_folder import open_ledger
from agent.verify import verify
from environments.base import Action, Briefing, Environment, StepResult, Task, Tool
from environments.sandbox.base import Sandbox
from memory.recall import Recall
from memory.records import Frame, Kind, MemoryItem, Recollection, Step, StopReason, Trajectory

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
LOOK = Tool(name="look", description="Looks around.", parameters={})
SAY = Tool(name="say", description="Says the code.", parameters=TEXT)
DAYS = 24


class House:
    """The first room holds a code; many rooms later it is asked for."""

    tools = (LOOK, SAY)

    def __init__(self, code: str) -> None:
        self.code, self.room = code, 0

    def start(self) -> str:
        return f"Walk through {DAYS} rooms, then say the code of the blue room."

    def step(self, action: Action) -> StepResult:
        if action.tool == "say":
            right = action.arguments.get("text") == self.code
            return StepResult(observation="End.", reward=float(right), terminated=True)
        if action.tool != "look":
            return StepResult(observation="What?", error="no call")
        self.room += 1
        seen = f"blue room, its code is {self.code}" if self.room == 1 else "grey room, dust"
        more = "Nothing else is there. " * 4
        last = "Say the code now." if self.room >= DAYS else ""
        return StepResult(observation=f"Room {self.room}: {seen}. {more}{last}")

    def close(self) -> None:
        pass


class Houses:
    name = "houses"
    description = "Long walks, for tests."
    briefing = Briefing(text="You walk.", turns=DAYS + 8, max_new_tokens=60)

    def __init__(self, sandbox: Callable[[], Sandbox] | None = None):
        pass

    def tasks(self) -> Sequence[Task]:
        code = range(60)
        return [Task(suite="houses", family="walk", prompt="Walk.", data={"n": n}) for n in code]

    def environment(self, task: Task) -> Environment:
        return House(f"X{task.data['n']}Y")


def walker(prompt: str, chance: random.Random, learnt: Sequence[tuple[str, str]]) -> str:
    """Walks; says the code if it stands in the prompt, else searches for it."""
    if "You take short notes" in prompt:
        return "blue room: it holds the code"
    asked = prompt.rsplit("<user>", 1)[1]
    if "Say the code" in asked or asked.startswith("- look()"):  # at the end, or found
        code = re.search(r"its code is (X\d+Y)", prompt)
        return f'say(text="{code[1]}")\n' if code else 'memory_search(query="blue room code")\n'
    if asked.startswith("Nothing was found"):
        return 'say(text="?")\n'
    return "look()\n"


def episode(
    policy: Policy,
    query: Callable[[Request], Completion],
    settings: AgentSettings,
    **more: Any,
) -> Trajectory:
    suite = Houses()
    task = suite.tasks()[3]
    assignment = Assignment("act/x", task, "test", "act", **more)
    return run_episode(
        assignment, lambda: suite.environment(task), query, policy, settings, suite.briefing, seed=0
    )


class Played(NamedTuple):
    trajectory: Trajectory
    requests: list[Request]
    policy: ScriptedPolicy


def play(overflow: str, context: int = 2600, script: str = "walker", **more: Any) -> Played:
    policy = ScriptedPolicy(f"tests.agent.test_paging:{script}", context=context)
    requests: list[Request] = []

    def query(request: Request) -> Completion:
        requests.append(request)
        policy.submit(0, request)
        ((_, completion),) = policy.step()
        return completion

    settings = AgentSettings.model_validate({"overflow": overflow})
    return Played(episode(policy, query, settings, **more), requests, policy)


def stretches(t: Trajectory) -> list[tuple[tuple[int, ...], Step]]:
    """Each step with all that the policy had read before it wrote."""
    ids: tuple[int, ...] = ()
    found = []
    for step in t.steps:
        ids = () if step.anew is not None else ids
        found.append((ids + step.prompt_ids, step))
        ids += step.token_ids
    return found


def text(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


def test_without_paging_the_episode_stops() -> None:
    t = play("stop").trajectory
    assert t.stop is StopReason.CONTEXT and len(t.steps) < DAYS and not t.success


def test_the_episode_goes_on_and_finds_what_is_out_of_sight() -> None:
    played = play("page")
    t = played.trajectory
    assert t.success and t.stop is StopReason.TERMINATED and len(t.steps) == DAYS + 2
    anew = [i for i, step in enumerate(t.steps) if step.anew is not None]
    assert len(anew) >= 2
    for i in anew:
        opened = text(t.steps[i].prompt_ids)
        kept = t.steps[i].anew or 0
        assert f"{i - kept} earlier turns are out of sight." in opened
        assert opened.count("<assistant>look()</assistant>") == kept  # the last ones
        assert f"Room {i}:" in opened  # the newest answer stands last
        assert opened.index("Walk through") < opened.index("out of sight")
    search = t.steps[-2]
    assert search.action["tool"] == "memory_search" and "its code is X3Y" in search.observation
    blue = [s for s in t.steps if "its code" in text(s.prompt_ids)]
    assert blue[-1] is t.steps[-1]  # it was out of sight, and came back by the search


def test_what_is_stored_is_what_went_through() -> None:
    played = play("page")
    read = [ids for ids, _ in stretches(played.trajectory)]
    assert read == [request.prompt_ids for request in played.requests]
    room = played.policy.context
    assert all(len(r.prompt_ids) + r.max_new_tokens <= room for r in played.requests)


def test_each_stretch_is_an_example_of_its_own() -> None:
    played = play("page")
    t = played.trajectory
    made = conversations(t, played.policy)
    assert len(made) == 1 + sum(step.anew is not None for step in t.steps)
    whole = [ids + step.produced_ids for ids, step in stretches(t)]
    assert all(example.token_ids in whole for example in made)  # nothing was added or re-made
    trained = [i for e in made for i, m in zip(e.token_ids, e.loss_mask, strict=True) if m]
    assert trained == [i for step in t.steps for i in step.produced_ids]  # each turn once


def test_memory_is_left_out_of_every_stretch() -> None:
    note = MemoryItem(
        kind=Kind.INSIGHT, text="Mind the zanzibar.", key="k", sources=("s",), tasks=("other",),
        family="walk", born=1,
    )  # fmt: skip
    played = play("page", recall=lambda: Recall((note,)))
    t = played.trajectory
    opened = [s for i, s in enumerate(t.steps) if not i or s.anew is not None]
    assert all("zanzibar" in text(s.prompt_ids) for s in opened) and t.recalled == (note.id,)
    made = conversations(t, played.policy)
    assert len(made) == len(opened)
    assert not [e for e in made if "zanzibar" in text(e.token_ids)]
    bare = play("page").trajectory  # as it would have gone without
    assert made[0].token_ids[:200] == bare.steps[0].token_ids[:200]


def test_a_search_looks_into_memory_and_is_recorded() -> None:
    item = MemoryItem(
        kind=Kind.FACT, text="codes: they are short", key="k", sources=("s",), tasks=("other",),
        family="walk", born=1,
    )  # fmt: skip
    asked: list[str] = []

    def search(query: str, shown: frozenset[str]) -> Recall:
        asked.append(query)
        return Recall((item,), Recollection(query=query, task="t", memory="m", reader="base"))

    t = play("page", search=search).trajectory
    assert asked == ["blue room code"] and t.recalled == (item.id,) and len(t.recollections) == 1
    assert "- codes: they are short" in t.steps[-2].observation.splitlines()


def test_what_is_noted_after_the_last_turn_was_not_read() -> None:
    noted: list[str] = []

    def again(seen: str, shown: frozenset[str]) -> Recall:
        assert shown == set(noted)
        item = MemoryItem(
            kind=Kind.FACT, text=seen[:7], key=f"k{len(noted)}", sources=("s",), tasks=("other",),
            family="walk", born=1,
        )  # fmt: skip
        noted.append(item.id)
        return Recall((item,))

    t = play("stop", look_again=again).trajectory
    assert t.stop is StopReason.CONTEXT and len(noted) == len(t.steps) > 2
    assert [step.notes for step in t.steps] == [(), *((id_,) for id_ in noted[:-1])]
    assert t.recalled == tuple(noted[:-1])


def test_the_last_turn_must_fit() -> None:
    t = play("page", context=760).trajectory
    assert t.stop is StopReason.CONTEXT and not t.failure


# --- the parts ---


def step(said: str, seen: str, **action: object) -> Step:
    return Step(
        token_ids=(), loss_mask=(), logprobs=(), policy="base", text=said, action=dict(action),
        observation=seen,
    )  # fmt: skip


def test_the_digest_is_bounded_and_inert() -> None:
    many = [step(f"go {i}\nthere", f"<|im_end|>\nroom {i} " * 40) for i in range(300)]
    said = out_of_sight(many, many)
    first, *lines = said.splitlines()
    assert first.startswith("300 earlier turns are out of sight")
    assert sum(map(len, lines)) <= DIGEST_CHARACTERS + 2 * len(lines)
    assert lines[-1].startswith("- go 299 there -> ") and "<|im_end|>" not in said


def test_notes_stay_in_sight_and_are_bounded() -> None:
    notes = [
        step("n", "Noted.", tool=NOTE.name, arguments={"text": f"note {i} " + "x" * 500})
        for i in range(9)
    ]
    said = out_of_sight([], notes)
    assert [f"note {i} " in said for i in range(9)] == [False] * (9 - NOTES) + [True] * NOTES
    assert len(said) < 60 + NOTES * 210
    refused = step("n", "Write", tool=NOTE.name, arguments={"text": "no"})
    refused = refused.model_copy(update={"error": "no text"})
    assert "Your notes" not in out_of_sight([], [refused])


def test_tools_are_offered_where_there_is_room() -> None:
    names = [tool.name for tool in Paged(House("x")).tools]
    assert names == ["look", "say", "memory_search", "memory_note"]
    lone = House("x")
    lone.tools = (SAY,)  # type: ignore[assignment]
    assert [tool.name for tool in Paged(lone).tools] == ["say"]


def test_memory_changes_neither_world_nor_reward() -> None:
    world = Paged(House("x"))
    world.step(Action(text="", tool="look"))
    for tool, arguments in (("memory_note", {"text": "a"}), ("memory_search", {"query": "room"})):
        result = world.step(Action(text="", tool=tool, arguments=arguments))
        assert (result.reward, result.error, result.terminated) == (0.0, None, False)
    assert result.observation == "Nothing was found."  # all is in sight
    for wrong in ({}, {"query": ""}, {"query": 3}):
        assert world.step(Action(text="", tool="memory_search", arguments=wrong)).error == "no text"
    world.page_out([step("look()", "a red lamp"), step("look()", "a blue lamp")])
    assert world.search("the blue one") == "- look() -> a blue lamp"
    assert world.search("quite different") == "Nothing was found."


def test_as_many_turns_are_kept_as_leave_room() -> None:
    policy = ScriptedPolicy("tests.agent.test_paging:walker", context=3000)
    steps = [step("look()", f"room {i} " * 20) for i in range(19)]
    page = begin_anew(policy, 2900, Frame(), "task", steps, (), steps[-1].observation)
    assert page is not None
    ids, kept = page
    assert 1 < kept < 18 and len(ids) <= 1500
    more = policy.encode(reopened(Frame(), "task", steps, kept + 1))
    assert len(more) > 1500
    assert begin_anew(policy, 300, Frame(), "task", steps, (), "x" * 400) is None
    assert begin_anew(policy, 2900, Frame(), "task", steps[:1], (), "x") is None  # nothing to gain


# --- with a model, and as a recipe ---


def test_log_probabilities_are_those_of_a_plain_forward_pass() -> None:
    policy = TransformersPolicy(resolve_model("default"), dtype="float32", slots=2, context=420)
    said = iter(range(100))

    def query(request: Request) -> Completion:
        ids = tuple(policy.tokenizer.encode("look()\n", add_special_tokens=False))
        if next(said) % 3:  # most turns are given, so that the walk goes on
            return Completion(ids, (0.0,) * len(ids), "look()\n", True)
        policy.submit("x", request)
        while True:
            for _, completion in policy.step():
                return completion

    settings = AgentSettings(overflow="page", max_new_tokens=16, turns=14)
    t = episode(policy, query, settings)
    anew = [step for step in t.steps if step.anew is not None]
    assert anew and t.failure is None
    for ids, own in stretches(t):
        assert len(ids) + 16 <= 420
        if any(own.logprobs):
            with torch.inference_mode():
                logits = policy.engine.model(torch.tensor([ids + own.produced_ids])).logits[0]
            table = logits.float().log_softmax(-1)[len(ids) - 1 : -1]
            plain = table[torch.arange(len(own.produced_ids)), torch.tensor(own.produced_ids)]
            assert own.logprobs == pytest.approx(plain.tolist(), abs=2e-3)
    for i, own in enumerate(t.steps):  # what is trained on begins with what was read
        if own.anew is not None:
            messages = reopened(t.frame, t.prompt, t.steps[:i], own.anew)
            assert own.prompt_ids == policy.encode(messages)
    policy.close()


def test_memgpt_pages_and_searches(toy_yaml: Path, tmp_path: Path) -> None:
    overrides = [
        "generations=2",
        "suite={name: tests.agent.test_paging:Houses, tasks: {train: 6, gate: 2, test: 2}}",
        "policy.model=tests.agent.test_paging:walker",
        "policy.context=2600",
        "agent.max_new_tokens=60",
        "gate.enabled=false",
        "memory.search.tokens=9000",
    ]
    said = Console(record=True, width=200, file=io.StringIO())
    with Run(tmp_path / "run", load_config([toy_yaml, "memgpt"], overrides), console=said) as run:
        evolve(run)
    assert "no effect" not in said.export_text()
    with open_ledger(tmp_path / "run") as ledger:
        played = [t for _, t in ledger.all(Trajectory, "2/acquire/")]
        items = dict(ledger.all(MemoryItem))
    assert played and all(t.success for t in played)
    assert all(any(s.anew is not None for s in t.steps) for t in played)
    found = [items[i] for t in played for i in t.recalled]
    assert found and {i.kind for i in found} == {Kind.EXEMPLAR, Kind.FACT}  # by search alone
    assert all(s.action["tool"] == "memory_search" for t in played for s in t.steps[-2:-1])
    assert verify(tmp_path / "run")[1] == []


def test_it_is_told_where_memory_cannot_be_searched(toy_yaml: Path, tmp_path: Path) -> None:
    """An action of the toy suite is a program alone."""
    said = Console(record=True, width=200, file=io.StringIO())
    config = load_config([toy_yaml, "memgpt"], ["generations=1"])
    with Run(tmp_path / "run", config, console=said) as run:
        evolve(run)
    assert "memory.search has no effect: an action of suite" in said.export_text()
