"""The supervised arm: trained on gold solutions instead of on what the agent found.

A gold solution is replayed through the environment in the prompt that the agent acts under, token
by token as the engine would have produced it, and becomes an episode like any other. Then the same
trainer makes an adapter from it, on the same base, in as many optimiser steps. The product never
does this: it has no gold. Here it says how far weights get that were told the answers, on the very
tasks (the train split) that the others practised.

Where a suite knows its solutions (``gold(task)``) they are taken; Reasoning Gym knows answers
only, so ``PROGRAMS`` writes for each family the program that a person would. What does not earn the
full reward is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agent.config import Config
from agent.engines import train_adapter
from agent.evolution.play import measure
from agent.evolution.refine import Solution
from agent.evolution.update.weights import examples
from agent.loop import Assignment, run_episode
from agent.policies.base import Completion, Policy, Request
from agent.policies.chat import load_chat, option_ids
from agent.policies.models import resolve_model
from agent.run import Run
from agent.run_folder import BASE
from agent.training.loop import plan
from agent.training.packing import Example, common_prefix
from environments.base import Suite, Task
from environments.splits import families_in_turn
from memory.records import Note, Trajectory

Spell = Callable[[str, bool], tuple[int, ...]]
"""A text as a turn's ids; True: it is one of the environment's choices, the turn's end included."""
ENOUGH = 400  # gold solutions that are replayed at most


def _expression(task: Task) -> str:
    exact = str(_metadata(task)["expression"]).replace("/", "//")  # no remainder, and no ".0"
    return f"print({exact})"


def _metadata(task: Task) -> Mapping[str, Any]:
    entry: Any = task.data["entry"]
    found: Mapping[str, Any] = entry["metadata"]
    return found


def _letters(task: Task) -> str:
    own = _metadata(task)
    text, letter = " ".join(own["span"]), own["target_letter"]
    return f"text = {text!r}\nprint(text.lower().count({letter!r}))"


PROGRAMS: dict[str, Callable[[Task], str]] = {
    "chain_sum": _expression,
    "basic_arithmetic": _expression,
    "products": _expression,
    "count_bits": lambda t: f'print(bin({_metadata(t)["number"]}).count("1"))',
    "letter_counting": _letters,
    "spell_backward": lambda t: f"word = {_metadata(t)['word']!r}\nprint(word[::-1])",
    "gcd": lambda t: (
        f"import math\nprint(math.gcd({', '.join(map(str, _metadata(t)['numbers']))}))"
    ),
    "word_sequence_reversal": lambda t: (
        f"words = {_metadata(t)['words']!r}\nprint(', '.join(reversed(words)))"
    ),
}


class Trained(NamedTuple):
    """The supervised arm of one run.

    Args:
        success: by test task's id, greedily.
        steps: optimiser steps.
        solutions: different gold solutions that were trained on.
        replayed, solved: gold solutions that were replayed, and that earned the full reward.
    """

    success: Mapping[str, float]
    steps: int
    solutions: int
    replayed: int
    solved: int


def texts(suite: Suite, task: Task) -> list[str]:
    """What an agent would write, turn by turn, that solves the task; [] if nobody knows."""
    if (gold := getattr(suite, "gold", None)) is not None:
        return [action.text for action in gold(task) or ()]
    write = PROGRAMS.get(task.family)
    return [write(task)] if write else []


def speller(model: Path) -> Spell:
    """How the model's tokeniser spells a turn."""
    chat, _ = load_chat(model)

    def spell(text: str, chosen: bool) -> tuple[int, ...]:
        return option_ids(chat.tokenizer, text) if chosen else chat.ids(text)

    return spell


def replay(
    suite: Suite, tasks: Sequence[Task], config: Config, policy: Policy, spell: Spell
) -> list[Trajectory]:
    """Episodes of the gold solutions, solved or not, in the prompt that the agent acts under."""
    found = []
    for task in tasks:
        todo = texts(suite, task)
        if not todo:
            continue

        def query(request: Request, todo: list[str] = todo) -> Completion:
            text = todo.pop(0) if todo else ""
            chosen = bool(request.choices)
            if not chosen and request.stop:
                text += request.stop[0]
            return Completion(spell(text, chosen), (), text, True)

        assignment = Assignment(f"gold/{task.id}", task, "train", "acquire")
        found.append(
            run_episode(
                assignment,
                lambda task=task: suite.environment(task),  # type: ignore[misc]
                query,
                policy,
                config.agent,
                suite.briefing,
                seed=config.seed,
            )
        )
    return found


def fitted(
    solved: Sequence[Trajectory], config: Config, policy: Policy, steps: int
) -> tuple[list[Example], int]:
    """As many solutions, in turn, as make the wanted number of optimiser steps (or nearly).

    Args:
        solved: gold episodes, families in turn; from their beginning again if they are too few.
        config: the trainer's settings.
        policy: turns text into ids.
        steps: how many the agent's own weights were trained for.

    Returns:
        what to train on, and the steps that it makes.
    """
    every = examples([Solution(t, "", 1.0) for t in solved], policy, min_per_family=1)
    in_turn = {t.slot: i for i, t in enumerate(solved)}
    every.sort(key=lambda e: in_turn[e.source])
    settings = config.update_weights

    def made(count: int) -> tuple[list[Example], int]:
        chosen = [every[i % len(every)] for i in range(count)]
        return chosen, len(plan(chosen, settings, config.seed, common_prefix(chosen)))

    low, high = 1, 2
    while made(high)[1] < steps:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if made(middle)[1] < steps else (low, middle)
    near = [made(low), made(high)]
    return min(near, key=lambda chosen: (abs(chosen[1] - steps), -chosen[1]))


def supervise(folder: Path, config: Config, steps: int, *, quiet: bool = False) -> Trained:
    """Train on gold and answer the test tasks; continues what is there.

    Args:
        folder: a run folder of its own, so that the measured run stays as it was.
        config: of the run that it stands beside; the objective becomes supervised.
        steps: optimiser steps of that run's weights.
    """
    sft = config.update_weights.model_copy(update={"objective": "sft"})
    config = config.model_copy(update={"update_weights": sft})
    with Run(folder, config, quiet=quiet) as run:
        note = run.ledger.get(Note, "gold")
        if note is None:
            policy = run.policy(BASE)
            tasks = families_in_turn(run.tasks("train"), ENOUGH)
            spell = speller(resolve_model(config.policy.model))
            episodes = replay(run.suite, tasks, config, policy, spell)
            solved = [t for t in episodes if t.success]
            if not solved:
                raise SystemExit(f"{folder.name}: no gold solution earned the full reward")
            chosen, made = fitted(solved, config, policy, steps)
            place = run.generation_folder(1) / "adapter"
            label = f"gold · train on {len(chosen)}"
            manifest = train_adapter(run, chosen, place, {"generation": 1, "parent": BASE}, label)
            version = str(manifest["version"])
            stored = {
                "folder": str(place.relative_to(run.folder)),
                "sources": sorted(set(manifest["sources"])),
                "tokens": manifest["tokens"],
            }
            counts = {
                "version": version,
                "steps": made,
                "solutions": len({e.source for e in chosen}),
                "replayed": len(episodes),
                "solved": len(solved),
            }
            note = Note(data=counts)
            taught = [(t.slot, t) for t in solved if t.slot in set(stored["sources"])]
            notes = [(f"adapter/{version}", Note(data=stored)), ("gold", note)]
            run.ledger.append_many([*taught, *notes])
        data: dict[str, Any] = dict(note.data)
        success = measure(run, "test · gold", "test", "", str(data.pop("version")))
        return Trained(success, **data)
