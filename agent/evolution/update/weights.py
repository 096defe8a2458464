"""In-weight update: refined solutions become a candidate adapter.

Context distillation: the solutions were found with memory, retries and several samples; the
adapter is trained to give them from the bare prompt. The ids that are trained on are the ids
that were generated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent import choices
from agent.evolution.refine import RefineSettings, Solution, earned, solves
from agent.evolution.update import lessons as make
from agent.evolution.update.lessons import Lessons
from agent.paging import reopened
from agent.policies.base import Policy
from agent.prompt import opening
from agent.training import job
from agent.training.merging import MergeSettings
from agent.training.packing import Example
from agent.training.settings import GroupSettings, LoraSettings
from agent.training.verifier import VerifierSettings
from memory.records import COMPOSED, CORRECTION, REWRITE, Step, Trajectory

if TYPE_CHECKING:
    from agent.run import Run

Prompt = Literal["bare", "acting"]


class ReplaySettings(BaseModel):
    """What is trained on besides new solutions, so that what was known stays known.

    Args:
        past: with ``data: new``, past solved tasks that are trained on besides, as a share of the
            new solved ones, of all families alike.
        synthesised: made-up tasks that are rehearsed, with what the incumbent answers (SSR,
            arXiv 2403.01244); 0 for none.
        demonstrations: past tasks shown for each of these.
        drafts: so many times as many are written, before diverse ones are chosen.
        tokens: most tokens of a made-up task, and of its answer.
        rewrite: train on each solution in the words of the weights that training begins with,
            where these are right as well (SDFT, 2402.13669).
        rounds: how often the trained student is tried, what it gets wrong practised by it, and
            training begun again on all that and what there was (LLM2LLM, 2403.15042).
        tasks: tasks that a student is tried on, of all families alike.
        samples: tries of each task that the student gets wrong, and of one more like it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    past: float = Field(0.0, ge=0)
    synthesised: int = Field(0, ge=0)
    demonstrations: int = Field(3, ge=1)
    drafts: int = Field(2, ge=1)
    tokens: int = Field(128, ge=8)
    rewrite: bool = False
    rounds: int = Field(0, ge=0)
    tasks: int = Field(32, ge=1)
    samples: int = Field(2, ge=1)


class WeightsUpdateSettings(LoraSettings):
    """How to train (see `LoraSettings`), on what, and when at all.

    Args:
        enabled: off leaves the weights alone (memory-only evolution).
        prompt: ``bare`` strips memory from what is trained on (context distillation: weights
            learn to do without it). ``acting`` keeps the prompts as they were (ExpRAG-LoRA,
            arXiv 2603.18272: weights learn to use memory).
        begin: what training begins with: ``base``, so that errors of one generation do not pile up
            in the next, or the ``incumbent``'s weights, which go on being trained. The reference
            of DPO, KTO, GRPO and of ``regularise.kl`` is what training began with.
        data: ``all`` verified experience so far, or what is ``new`` in the generation.
        replay: what is trained on besides (see `ReplaySettings`).
        min_examples: with fewer solutions (pairs, trajectories of groups) than this nothing is
            trained; the reason is printed.
        min_per_family: ``sft``: a family with fewer solutions has them repeated up to this
            often, so that a rare first success is heard.
        adapters: ``one`` for all tasks, or ``per-group``: one for each group of families and a
            selector, that are one version of the weights (see `agent.evolution.update.groups`).
        groups: settings of ``per-group``.
        merge: what of several trainings goes before the gate (see `MergeSettings`).
        verifier: a learned judge, trained beside the policy (see `VerifierSettings`).
    """

    enabled: bool = True
    prompt: Prompt = "bare"
    begin: Literal["base", "incumbent"] = "base"
    data: Literal["all", "new"] = "all"
    replay: ReplaySettings = ReplaySettings()
    min_examples: int = Field(8, ge=1)
    min_per_family: int = Field(12, ge=1)
    adapters: Literal["one", "per-group"] = "one"
    groups: GroupSettings = GroupSettings()
    merge: MergeSettings = MergeSettings()
    verifier: VerifierSettings = VerifierSettings()

    @model_validator(mode="after")
    def _can_begin_there(self) -> Self:
        if self.begin == "incumbent" and self.backend == "trl":
            raise ValueError("backend: trl begins at the base; take backend: own")
        if self.begin == "incumbent" and self.adapters == "per-group":
            raise ValueError(
                "adapters: per-group trains a group's adapter from base (the others stay as they "
                "are); take begin: base, or adapters: one"
            )
        if self.replay.past and self.data == "all":
            raise ValueError("replay.past is for data: new; data: all has the past in it")
        if self.replay.synthesised and self.objective not in ("sft", "weighted"):
            raise ValueError("replay.synthesised has no rewards: take objective: sft or weighted")
        if (self.replay.synthesised or self.replay.rounds) and self.adapters == "per-group":
            raise ValueError("replay.synthesised and replay.rounds are for adapters: one")
        if self.merge.how != "none" and self.adapters == "per-group":
            raise ValueError("merge is for adapters: one; a set's adapters stay apart")
        return self

    @property
    def highest_rank(self) -> int:
        """Of the adapters that act."""
        return self.rank if self.merge.how == "none" else max(self.rank, self.merge.rank)


def check(run: Run) -> None:
    """Whether the configured loss and launcher can be had.

    Raises:
        ConfigError: the loss is one of the user's own and cannot be imported.
        PolicyFailure: there is no such launcher.
    """
    job.check(run.config.update_weights.launch)
    if run.config.update_weights.loss is not None:
        choices.own(run.config.update_weights.loss, "update_weights.loss")


def lessons(
    settings: WeightsUpdateSettings,
    judged: RefineSettings,
    generation: int,
    solutions: Sequence[Solution],
    experience: Sequence[Trajectory],
    policy: Policy,
) -> Lessons:
    """What the configured objective learns from.

    Args:
        settings: which objective.
        judged: what counts as a solution.
        generation: for which one.
        solutions: from ``refine``.
        experience: all that was tried, oldest first; none of it by strangers.
        policy: turns text into ids.
    """
    if settings.objective == "sft":
        made = examples(solutions, policy, settings.min_per_family, settings.prompt)
        return Lessons(made, len(solutions), {})
    tried = [t for t in experience if t.failure is None and t.steps and t.split == "train"]
    sequences = partial(conversations, policy=policy, prompt=settings.prompt)
    rewards = {t.slot: earned(t, judged) for t in tried}
    if settings.objective == "dpo" and settings.dpo.pair == "extremes":
        return make.extremes(tried, rewards, sequences, settings.dpo)
    if settings.objective in ("dpo", "kto"):
        solved = [s.trajectory for s in solutions]
        failed = [t for t in tried if not solves(t, judged, generation)]
        if settings.objective == "dpo":
            return make.pairs(solved, failed, sequences, settings.dpo)
        return make.verdicts(solved, failed, sequences, settings.kto)
    if settings.objective == "weighted":
        return make.by_worth(tried, rewards, sequences, settings.weighted)
    return make.groups(tried, rewards, sequences, settings.grpo)


def examples(
    solutions: Sequence[Solution],
    policy: Policy,
    min_per_family: int,
    prompt: Prompt = "bare",
) -> list[Example]:
    """Training examples: the conversations of what was solved.

    Args:
        solutions: from ``refine``.
        policy: turns text into ids.
        min_per_family, prompt: see ``WeightsUpdateSettings``.
    """
    made: dict[str, list[Example]] = {}
    for solution in solutions:
        trajectory = solution.trajectory
        own = conversations(trajectory, policy, prompt=prompt)
        made.setdefault(trajectory.family, []).extend(own)
    balanced: list[Example] = []
    for own in made.values():
        copies = -(-min_per_family // len(own)) if 0 < len(own) < min_per_family else 1
        balanced += (own * copies)[: max(len(own), min_per_family)]
    return balanced


def conversations(
    trajectory: Trajectory, policy: Policy, *, prompt: Prompt = "bare", whole: bool = False
) -> list[Example]:
    """A trajectory as sequences: the opening, then turn by turn what was done and seen.

    It is one sequence, unless the conversation outgrew the context and was begun anew: then one
    for each stretch, which begins with what the policy read there.

    Turns with an error are left out, together with the world's complaint (see
    ``Trajectory.turns``). The ids of each turn and of each answer of the world are those that
    went through the model, but for what memory added to them; loss falls on the turns alone.

    Args:
        trajectory: a solved one.
        policy: turns the texts that memory stood beside into ids.
        prompt: whether what memory added is left out or kept.
        whole: keep the turns with an error too: what a policy is to be judged by is all it did.
    """
    if trajectory.phase in (REWRITE, COMPOSED):
        prompt = "bare"  # a solution of the very task stood in view, or what nobody acted under
    elif trajectory.phase == CORRECTION:
        prompt = "acting"  # what is corrected is the question
    steps = trajectory.steps
    starts = [i for i, step in enumerate(steps) if not i or step.anew is not None]
    stretches = zip(starts, [*starts[1:], len(steps)], strict=True)
    turns = steps if whole else trajectory.turns
    found = [_stretch(trajectory, turns, policy, prompt, start, end) for start, end in stretches]
    return [example for example in found if any(example.loss_mask)]


def _stretch(
    trajectory: Trajectory,
    turns: Sequence[Step],
    policy: Policy,
    prompt: Prompt,
    start: int,
    end: int,
) -> Example:
    """The steps of one conversation, from the one that begins it."""
    steps = trajectory.steps[start:end]
    bare = prompt == "bare"
    ids = list(_beginning(trajectory, policy, start) if bare else steps[0].prompt_ids)
    mask = [0] * len(ids)
    kept = [i for i, step in enumerate(steps) if any(step is t for t in turns)]
    for number in kept:
        step = steps[number]
        produced = step.produced_ids
        ids += produced
        mask += [1] * len(produced)
        if number != kept[-1]:  # the world's answer is what the next turn added
            seen = steps[number + 1].prompt_ids
            if bare and steps[number + 1].notes:
                extended = policy.extend(produced, step.observation, trajectory.frame.begin)
                seen = extended[len(produced) :]
            ids += seen
            mask += [0] * len(seen)
    acted = [token for step in steps for token in step.token_ids]
    exact = ids == acted and not any(step.choices for step in steps)
    return Example(
        tuple(ids),
        tuple(mask),
        weight=1.0,
        source=trajectory.slot,
        logprobs=tuple(p for step in steps for p in step.logprobs) if exact else (),
        reward=trajectory.reward,
        policy=trajectory.policy,
        task=trajectory.task,
    )


def _beginning(trajectory: Trajectory, policy: Policy, start: int) -> tuple[int, ...]:
    """What the policy read before the first turn of a conversation, without memory."""
    step, frame, prompt = trajectory.steps[start], trajectory.frame, trajectory.prompt
    if step.anew is None:
        return policy.encode(opening(frame, prompt))
    return policy.encode(reopened(frame, prompt, trajectory.steps[:start], step.anew))


def composition(examples: Sequence[Example], tried: Sequence[Trajectory]) -> dict[str, int]:
    """How many different trajectories of each family are trained on."""
    families = {t.slot: t.family for t in tried}
    return dict(Counter(families[slot] for slot in dict.fromkeys(e.source for e in examples)))
