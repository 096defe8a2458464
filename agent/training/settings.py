"""How weights are trained: the objective, its own few settings, LoRA's, and the machinery's."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.choices import OneOf

Objective = Literal["sft", "weighted", "dpo", "kto", "grpo"]

# Peaks for LoRA on a model of about 100 million parameters. TRL's 1e-6 for preferences assumes
# full fine-tuning of billions; LoRA wants at least ten times that ("LoRA Without Regret").
LEARNING_RATES: dict[Objective, float] = {
    "sft": 8e-4,
    "weighted": 8e-4,
    "dpo": 2e-4,
    "kto": 2e-4,
    "grpo": 1e-4,
}


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WeightedSettings(_Settings):
    """Supervised, each trajectory as much as it earned.

    Args:
        by: ``reward`` (AgentEvol, arXiv 2406.04151, §3.3), or ``advantage``: exp(advantage /
            temperature), at most ``max_weight`` (AWR, 1910.00177, eq. 8), where failures count a
            little as well.
        temperature: of the advantages, in units of reward; lower is nearer to the best alone.
        max_weight: before weights are scaled to a mean of 1.
        per_task: trajectories taken of a task, solved and failed ones in turn, the newest first.
    """

    by: Literal["reward", "advantage"] = "reward"
    temperature: float = Field(0.5, gt=0)
    max_weight: float = Field(20.0, gt=0)
    per_task: int = Field(8, ge=1)


class DpoSettings(_Settings):
    """Pairs of a solved and a failed trajectory of one task (DPO, 2305.18290; ETO, 2403.02502).

    Args:
        beta: how hard the weights are held to the reference.
        nll: weight of the solved trajectories' own likelihood, per token (RPO, 2404.19733). ETO
            fails without supervised training first; training begins at the base here, so the
            two go together.
        pairs_per_task: at most.
        pair: ``solved`` ones above failed ones, or the best above the worst of a task by reward or
            grade, one pair a task (Self-Rewarding, 2401.10020, §2.2).
        weigh: a pair counts as much as its rewards differ (DLMA's pairs, 2402.11907); one whose
            failure has no lower reward does not count.
    """

    beta: float = Field(0.1, gt=0)
    nll: float = Field(1.0, ge=0)
    pairs_per_task: int = Field(4, ge=1)
    pair: Literal["solved", "extremes"] = "solved"
    weigh: bool = False


class KtoSettings(_Settings):
    """Solved and failed trajectories that need no partner (KTO, 2402.01306).

    Args:
        beta: how hard the weights are held to the reference.
        desirable, undesirable: weights of the two kinds; null for undesirable makes both kinds
            weigh the same in all (the paper's eq. 8).
        per_task: failures taken of a task.
    """

    beta: float = Field(0.1, gt=0)
    desirable: float = Field(1.0, gt=0)
    undesirable: float | None = Field(None, gt=0)
    per_task: int = Field(4, ge=1)


class GrpoSettings(_Settings):
    """Policy gradient with a task's other trajectories as the baseline (GRPO, 2402.03300).

    Args:
        clip_low, clip_high: the ratio of new to old probability is clipped to 1 - low … 1 + high
            (unequal in DAPO, 2503.14476). Published ones are 0.2 and 0.2 to 0.28, for samples that
            are new every few steps. A generation trains dozens of steps on its samples, where 0.2
            keeps a token from ever becoming more than a fifth likelier; see the benchmarks.
        kl: weight of the divergence from the reference, per token.
        scale: advantages by the group's standard deviation, or ``none`` (Dr. GRPO, 2503.20783).
        aggregate: the mean over all tokens (DAPO), or over each trajectory first (GRPO).
        old_logprobs: what ratios are of. ``recomputed``: under the prompt of training and the
            weights that training begins with (the proximal policy of decoupled PPO, 2110.00641).
            ``generation``: those noted while acting, where they hold for the trained ids (same
            prompt, nothing left out, written freely), else recomputed.
        truncate: with recomputed ones, each token also counts by how likely they make it against
            acting, at most so much (truncated importance sampling); null leaves that out.
        per_task: trajectories taken of a task, solved and failed ones in turn, the newest first.
    """

    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(9.0, gt=0)
    kl: float = Field(0.0, ge=0)
    scale: Literal["std", "none"] = "std"
    aggregate: Literal["token", "sequence"] = "token"
    old_logprobs: Literal["recomputed", "generation"] = "recomputed"
    truncate: float | None = Field(None, gt=0)
    per_task: int = Field(16, ge=2)

    @model_validator(mode="after")
    def _one_correction(self) -> Self:
        if self.truncate is not None and self.old_logprobs == "generation":
            raise ValueError(
                "truncate needs old_logprobs: recomputed; ratios to generation correct already"
            )
        return self


class GroupSettings(_Settings):
    """An adapter per task group (ConPET, 2309.14763).

    Args:
        most: groups at most. A family is a group; of more families than this, those whose
            prompts are alike share one.
        rehearsal: examples of other groups that a group's adapter is trained on besides its own,
            as a share of its own, of all other groups alike (the paper's replay).
        margin: how much nearer a prompt has to be to its group than to any other (cosine); below
            that the base model acts.
    """

    most: int = Field(8, ge=1)
    rehearsal: float = Field(0.25, ge=0)
    margin: float = Field(0.05, ge=0, le=2)


class RegulariseSettings(_Settings):
    """What holds the weights near those that training began with.

    Args:
        kl: weight of the divergence of the trained weights' next token from the start's, per
            loss token, added to any objective.
        ema: decay of a moving average of the weights, which is what training ends with; null
            for none.
        reset_every: steps after which training goes on from the average, and the average from
            the start (Elastic Reset, 2312.07551); needs ``ema``.
    """

    kl: float = Field(0.0, ge=0)
    ema: float | None = Field(None, gt=0, lt=1)
    reset_every: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _something_to_reset_to(self) -> Self:
        if self.reset_every is not None and self.ema is None:
            raise ValueError("reset_every needs ema, the decay of the average that is reset to")
        return self


class LoraSettings(_Settings):
    """How to train.

    Args:
        objective: what is learnt from, and by which loss; its own settings stand under its name
            (see training/README.md).
        weighted, dpo, kto, grpo: settings of these objectives; ``sft`` has none.
        loss: another loss for what the objective learns from: ``package.module:function``, from
            the `Tokens` of a row and the `Batch` that it is a share of.
        regularise: what holds the weights near the start.
        rank, alpha, dropout: LoRA's; on all linear layers.
        learning_rate: peak, reached after ``warmup`` of the steps, then cosine to a tenth; null
            takes what suits the objective (``LEARNING_RATES``).
        epochs: passes over the examples.
        row_tokens: tokens of one packed row.
        batch_rows: rows per optimiser step.
        max_grad_norm: gradient clipping.
        checkpoint_seconds: a checkpoint whenever a step ends so long after the last one, from
            which training goes on after a crash; null for none.
        backend: own, or trl's SFTTrainer for ``sft``.
        launch: a command that starts training in processes of its own, as ``[accelerate, launch,
            --num_processes, "4"]``; empty trains in this process.
    """

    objective: Objective = "sft"
    weighted: WeightedSettings = WeightedSettings()
    dpo: DpoSettings = DpoSettings()
    kto: KtoSettings = KtoSettings()
    grpo: GrpoSettings = GrpoSettings()
    loss: Annotated[str, OneOf(())] | None = None
    regularise: RegulariseSettings = RegulariseSettings()
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    learning_rate: float | None = Field(None, gt=0)
    warmup: float = Field(0.1, ge=0, le=1)
    epochs: int = Field(3, ge=1)
    row_tokens: int = Field(512, ge=1)
    batch_rows: int = Field(1, ge=1)
    max_grad_norm: float = Field(1.0, gt=0)
    checkpoint_seconds: float | None = Field(60.0, ge=0)
    backend: Literal["own", "trl"] = "own"
    launch: tuple[str, ...] = ()

    @property
    def peak(self) -> float:
        """The learning rate's peak."""
        return self.learning_rate or LEARNING_RATES[self.objective]

    @model_validator(mode="after")
    def _trl_can(self) -> Self:
        if self.backend == "trl" and self.objective != "sft":
            raise ValueError(
                f"backend: trl does objective: sft only, not {self.objective} (its DPO and KTO "
                "train on observations, its GRPO generates itself); take backend: own"
            )
        if self.backend == "trl" and self.loss is not None:
            raise ValueError("backend: trl takes no loss of your own; take backend: own")
        if self.backend == "trl" and self.regularise != RegulariseSettings():
            raise ValueError("backend: trl does not regularise; take backend: own")
        return self
