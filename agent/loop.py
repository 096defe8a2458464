"""One episode: ask, act, observe, until something ends it.

The loop reads memory (what was recalled stands in the prompt) and never writes it; grading
and tools are the environment's; parsing is the tools'. What breaks is recorded with whose
fault it was, so that a broken episode is data and is never trained on.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from agent.formats import format_of
from agent.paging import Paged, begin_anew
from agent.policies.base import Completion, PolicyFailure, Reader, Request
from agent.prompt import AgentSettings, frame, opening, with_notes
from environments.base import (
    FULL_REWARD,
    ROUNDING,
    Briefing,
    Environment,
    EnvironmentFailure,
    StepResult,
    Task,
)
from environments.calls import clean, read_action
from environments.sandbox.base import SandboxFailure, SandboxUnavailable
from memory.index import VectorIndexError
from memory.ledger import LedgerError
from memory.recall import Recall
from memory.records import Failure, Frame, MemoryItem, Step, StopReason, Trajectory


class Assignment(NamedTuple):
    """One episode to run; ``slot`` names it in the run and decides its randomness.

    Args:
        slot, task, split, phase: what to run, and as what.
        temperature, hot_tokens, heat: how to sample.
        memory: the snapshot that it may read.
        recall: waits for what memory holds for the task, which is looked up in the background.
        look_again: what memory holds for a newer observation, given also what the prompt shows
            already; None: memory is read once.
        search: what memory holds for a query, where the agent may search it (see `Paged`).
        carried: working memory, from earlier tries of this very task.
        role: what the system prompt says besides, also where it is trained on.
        follows: where there are valid actions, by the first word of the last action the first
            words of those that may come next; None: all of them.
        withhold: chance that a recalled item is left out, one always staying: so that there are
            episodes with and without it.
    """

    slot: str
    task: Task
    split: str
    phase: str
    temperature: float = 0.0
    memory: str = ""
    recall: Callable[[], Recall] | None = None
    look_again: Callable[[str, frozenset[str]], Recall] | None = None
    search: Callable[[str, frozenset[str]], Recall] | None = None
    carried: tuple[MemoryItem, ...] = ()
    role: str = ""
    follows: Mapping[str, Collection[str]] | None = None
    withhold: float = 0.0
    hot_tokens: int = 0
    heat: float = 1.0


class Cancelled(RuntimeError):
    """The run is being stopped; the episode never happened."""


def seed_of(*parts: object) -> int:
    """A seed derived from names, the same on every machine and in every process."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big")


def verb(action: str) -> str:
    """The first word of an action: what kind of action it is."""
    return next(iter(re.findall(r"\w+", action)), "")


def following(
    choices: tuple[str, ...], steps: Sequence[Step], follows: Mapping[str, Collection[str]] | None
) -> tuple[str, ...]:
    """The choices that may come next; all of them where none may, or nothing is known.

    Args:
        choices: the valid actions.
        steps: so far.
        follows: see `Assignment`; what may come first stands under "".
    """
    known = (follows or {}).get(verb(steps[-1].text) if steps else "")
    return tuple(c for c in choices if known is None or verb(c) in known) or choices


def sound(result: Any) -> StepResult:
    """A step's result, fit to be stored.

    Raises:
        EnvironmentFailure: what the environment returned is none, or no number it may return.
    """
    if not isinstance(result, StepResult):
        raise EnvironmentFailure(f"step returned {type(result).__name__}, not a StepResult")
    if not -ROUNDING <= result.reward <= 1 + ROUNDING:  # not a number fails as well
        raise EnvironmentFailure(f"the reward {result.reward} is not between 0 and 1")
    if not all(map(math.isfinite, result.metrics.values())):
        raise EnvironmentFailure(f"a metric is no finite number: {result.metrics}")
    reward = min(1.0, max(0.0, result.reward))
    return result.model_copy(update={"observation": clean(result.observation), "reward": reward})


def run_episode(
    assignment: Assignment,
    make: Callable[[], Environment],
    query: Callable[[Request], Completion],
    policy: Reader,
    settings: AgentSettings,
    briefing: Briefing,
    *,
    seed: int,
) -> Trajectory:
    """Run one episode to its end and return it as a record.

    Args:
        assignment: the task and how to sample.
        make: makes the task's environment; it is closed on return.
        query: blocks until the policy has answered a request.
        policy: turns text into ids, and says which weights act and how much they can read.
        settings: the agent's prompt and budgets.
        briefing: the suite's, where the settings leave it to that.
        seed: the run's seed.

    Raises:
        SandboxUnavailable: nothing can run on this machine; not an episode's failure.
        LedgerError, VectorIndexError: memory cannot be read; neither is that.
        Cancelled: the run is being stopped.
    """
    looks = [assignment.recall()] if assignment.recall else []  # no episode's fault if it fails
    opened = (*assignment.carried, *_withheld(looks, assignment, seed))
    found: list[Recall] = []  # by the agent's own searches
    steps: list[Step] = []
    stop, failure, prompt, asked = StopReason.TURNS, None, "", Frame()
    turns, max_new_tokens = settings.settled(briefing)
    metrics: dict[str, float] = {}
    source: str = "environment"
    environment: Environment | None = None
    try:
        environment = make()
        pager = _pager(environment, assignment, found) if settings.overflow == "page" else None
        environment = pager or environment
        prompt = clean(environment.start())
        format_ = format_of(environment.tools)
        asked = frame(settings, briefing, format_)
        if assignment.role:
            asked = asked.model_copy(update={"system": f"{asked.system}\n{assignment.role}"})
        prompt_ids = policy.encode(opening(asked, prompt, opened))
        notes: Sequence[MemoryItem] = ()
        shown = {item.id for item in opened}
        known, seen = 0, ""  # how much of the conversation the steps so far hold
        anew: int | None = None
        for turn in range(turns):
            source = "environment"
            choices: tuple[str, ...] = ()
            if settings.constrain and not asked.begin:  # else they would stand behind it
                choices = tuple(getattr(environment, "valid_actions", None) or ())
                choices = following(choices, steps, assignment.follows)
            source = "policy"
            room = policy.context - max_new_tokens
            if pager and steps and len(prompt_ids) > room:
                page = begin_anew(policy, room, asked, prompt, steps, opened, seen)
                if page is not None:
                    (prompt_ids, anew), known = page, 0
                    pager.page_out(steps[: len(steps) - anew])
            if len(prompt_ids) > room:
                stop = StopReason.CONTEXT
                break
            completion = query(
                Request(
                    prompt_ids=prompt_ids,
                    max_new_tokens=max_new_tokens,
                    temperature=assignment.temperature,
                    hot_tokens=assignment.hot_tokens,
                    heat=assignment.heat,
                    seed=seed_of(seed, assignment.slot, turn),
                    stop=format_.stop,
                    keep=turn + 1 < turns,
                    choices=choices,
                )
            )
            source = "environment"
            text = asked.begin + completion.text
            action = read_action(text, environment.tools)  # they may change as it goes on
            if pager:
                pager.fill((len(prompt_ids) + len(completion.token_ids)) / room)
            result = sound(environment.step(action))
            metrics = result.metrics
            new_ids, produced = prompt_ids[known:], completion.token_ids
            steps.append(
                Step(
                    token_ids=new_ids + produced,
                    loss_mask=(0,) * len(new_ids) + (1,) * len(produced),
                    logprobs=completion.logprobs,
                    choices=choices,
                    notes=tuple(item.id for item in notes),
                    anew=anew,
                    policy=policy.version,
                    text=text,
                    action=action.model_dump(mode="json", exclude={"text"}),
                    observation=result.observation,
                    reward=result.reward,
                    error=result.error,
                )
            )
            if result.terminated or result.truncated:
                stop = StopReason.TERMINATED if result.terminated else StopReason.TRUNCATED
                break
            known, anew = len(prompt_ids) + len(produced), None
            source = "policy"
            seen = result.observation
            if assignment.look_again:
                looks.append(assignment.look_again(seen, frozenset(shown)))
                notes = looks[-1].items
                shown.update(item.id for item in notes)
                seen = with_notes(notes, seen)
            prompt_ids = policy.extend(prompt_ids + produced, seen, asked.begin)
    except (Cancelled, SandboxUnavailable, LedgerError, VectorIndexError):
        raise
    except SandboxFailure as error:
        failure = Failure(source="sandbox", message=str(error))
    except PolicyFailure as error:
        failure = Failure(source="policy", message=str(error))
    except Exception as error:  # a broken world is data: attributed, stored, never trained on
        failure = Failure(
            source="policy" if source == "policy" else "environment",
            message=f"{type(error).__name__}: {error}",
        )
    finally:
        try:
            if environment is not None:
                environment.close()
        except Exception as error:
            message = f"closing it: {type(error).__name__}: {error}"
            failure = failure or Failure(source="environment", message=message)
    reward = steps[-1].reward if steps and failure is None else 0.0
    # What was noted after the last step stood in no prompt.
    recalled = [item.id for item in opened] + [note for step in steps for note in step.notes]
    recalled += [item.id for look in found for item in look.items]
    return Trajectory(
        slot=assignment.slot,
        task=assignment.task.id,
        suite=assignment.task.suite,
        family=assignment.task.family,
        split=assignment.split,
        phase=assignment.phase,
        policy=policy.version,
        memory=assignment.memory,
        recalled=tuple(dict.fromkeys(recalled)),
        recollections=tuple(x.recollection.id for x in (*looks, *found) if x.recollection),
        frame=asked,
        temperature=assignment.temperature,
        hot_tokens=assignment.hot_tokens,
        heat=assignment.heat,
        seed=seed,
        prompt=prompt,
        steps=tuple(steps),
        reward=reward,
        success=failure is None and reward >= FULL_REWARD,
        stop=StopReason.FAILED if failure else stop,
        failure=failure,
        metrics=metrics,
    )


def _pager(environment: Environment, assignment: Assignment, looks: list[Recall]) -> Paged:
    """The environment with memory's tools; what they find is added to the looks."""
    search = assignment.search
    if search is None:
        return Paged(environment)

    def look(query: str) -> Sequence[MemoryItem]:
        looks.append(search(query, frozenset()))
        return looks[-1].items

    return Paged(environment, look)


def _withheld(looks: Sequence[Recall], assignment: Assignment, seed: int) -> list[MemoryItem]:
    """What was recalled, less what is left out by chance."""
    items = [item for look in looks for item in look.items]
    if not assignment.withhold or len(items) < 2:
        return items
    chance = random.Random(seed_of(seed, assignment.slot, "withhold"))
    kept = [item for item in items if chance.random() >= assignment.withhold]
    return kept or [chance.choice(items)]
