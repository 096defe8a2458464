"""What is told of a generation beside its gate; none of it decides anything."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.policies.endpoint import EndpointSettings

Against = Literal["incumbent", "base"]

ROLES = (
    "the general public: you ask whether the attempt is of use to whoever set the task",
    "a critic: you look for what is wrong in an attempt, or missing from it",
    "a scientist: you check each step, and what it rests on",
)


class EvaluateSettings(BaseModel):
    """Judges and the account of each generation. The gate alone decides what goes live.

    Args:
        judge: who says which of two episodes of a gate task is better: ``none``; ``self``, the
            model as it was before any evolution, so that all generations have one judge;
            ``endpoint``, a model behind one.
        endpoint: that one.
        against: whose episodes the candidate's are compared with.
        how: ``alone``: one judge says it (LLM-as-a-judge, 2306.05685). ``debate``: several with
            roles of their own discuss it, then vote (ChatEval, 2308.07201).
        tasks: most gate tasks that are compared, of all families alike; null for all.
        roles: of the judges that debate, one each.
        rounds: how often each of them speaks before the vote.
        talk: ``one-by-one``: each hears all that was said before; ``simultaneous``: what was said
            in the rounds before; ``summarised``: a summary of that.
        tokens: most tokens of what a judge says.
        account: what was learnt and lost, in sentences that name their episodes: ``data``, made
            from the records; ``policy``, put into words by the agent that goes on, without the
            sentences that name no such episode; ``none``.
        account_tokens: most tokens of the policy's account.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    judge: Literal["none", "self", "endpoint"] = "none"
    endpoint: EndpointSettings = EndpointSettings()
    against: tuple[Against, ...] = Field(("incumbent", "base"), min_length=1)
    how: Literal["alone", "debate"] = "alone"
    tasks: int | None = Field(None, ge=1)
    roles: tuple[str, ...] = Field(ROLES, min_length=2)
    rounds: int = Field(2, ge=1)
    talk: Literal["one-by-one", "simultaneous", "summarised"] = "one-by-one"
    tokens: int = Field(96, ge=8)
    account: Literal["data", "policy", "none"] = "data"
    account_tokens: int = Field(256, ge=32)

    @model_validator(mode="after")
    def _judge_named(self) -> Self:
        if self.judge == "endpoint" and not (self.endpoint.url and self.endpoint.model):
            raise ValueError(
                "judge: endpoint needs evaluate.endpoint.url and evaluate.endpoint.model"
            )
        return self
