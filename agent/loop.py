"""One episode: ask, act, observe, until something ends it.

The loop reads memory (what was recalled stands in the prompt) and never writes it; grading
and tools are the environment's; parsing is the prompt's. What breaks is recorded with whose
fault it was, so that a broken episode is data and is never trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from agent.policies.base import Completion, Message, PolicyFailure, Request
from agent.prompt import CODE_STOP, AgentSettings, after, opening, parse
from environments.base import Environment, Task
from environments.sandbox.base import SandboxFailure, SandboxUnavailable
from memory.recall import Recall
from memory.records import Failure, Step, StopReason, Trajectory

FULL_REWARD = 1.0 - 1e-6


class Assignment(NamedTuple):
    """One episode to run; ``slot`` names it in the run and decides its randomness.

    ``recall`` waits for what memory holds for the task, which is looked up in the background.
    """

    slot: str
    task: Task
    split: str
    phase: str
    temperature: float = 0.0
    memory: str = ""
    recall: Callable[[], Recall] | None = None
    hot_tokens: int = 0
    heat: float = 1.0


class Cancelled(RuntimeError):
    """The run is being stopped; the episode never happened."""


def seed_of(*parts: object) -> int:
    """A seed derived from names, the same on every machine and in every process."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big")


def run_episode(
    assignment: Assignment,
    make: Callable[[], Environment],
    query: Callable[[Request], Completion],
    encode: Callable[[Sequence[Message]], tuple[int, ...]],
    settings: AgentSettings,
    *,
    policy: str,
    context: int,
    seed: int,
) -> Trajectory:
    """Run one episode to its end and return it as a record.

    Args:
        assignment: the task and how to sample.
        make: makes the task's environment; it is closed on return.
        query: blocks until the policy has answered a request.
        encode: messages to token ids.
        settings: the agent's prompt and budgets.
        policy: version of the weights behind ``query``.
        context: longest prompt plus completion the policy can take, in tokens.
        seed: the run's seed.

    Raises:
        SandboxUnavailable: nothing can run on this machine; not an episode's failure.
        Cancelled: the run is being stopped.
    """
    recall = assignment.recall() if assignment.recall else None  # no episode's fault if it fails
    steps: list[Step] = []
    stop, failure, prompt = StopReason.TURNS, None, ""
    metrics: dict[str, float] = {}
    source: str = "environment"
    environment: Environment | None = None
    try:
        environment = make()
        prompt = environment.start()
        messages = opening(settings, prompt, recall)
        for turn in range(settings.turns):
            source = "policy"
            prompt_ids = encode(messages)
            if len(prompt_ids) + settings.max_new_tokens > context:
                stop = StopReason.CONTEXT
                break
            completion = query(
                Request(
                    prompt_ids=prompt_ids,
                    max_new_tokens=settings.max_new_tokens,
                    temperature=assignment.temperature,
                    hot_tokens=assignment.hot_tokens,
                    heat=assignment.heat,
                    seed=seed_of(seed, assignment.slot, turn),
                    stop=CODE_STOP,
                    keep=turn + 1 < settings.turns,
                )
            )
            source = "environment"
            text = settings.begin + completion.text
            action = parse(text)
            result = environment.step(action)
            metrics = result.metrics
            steps.append(
                Step(
                    token_ids=prompt_ids + completion.token_ids,
                    loss_mask=(0,) * len(prompt_ids) + (1,) * len(completion.token_ids),
                    logprobs=completion.logprobs,
                    policy=policy,
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
            messages = after(settings, messages, text, result.observation)
    except (Cancelled, SandboxUnavailable):
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
    return Trajectory(
        slot=assignment.slot,
        task=assignment.task.id,
        suite=assignment.task.suite,
        family=assignment.task.family,
        split=assignment.split,
        phase=assignment.phase,
        policy=policy,
        memory=assignment.memory,
        recalled=tuple(item.id for item in recall.items) if recall else (),
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
