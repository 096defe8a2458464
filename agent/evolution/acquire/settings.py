"""How experience is gathered: which tasks, made up or chosen, and how they are tried."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat

from agent.choices import OneOf
from agent.evolution.solutions.settings import SolveSettings
from agent.policies.endpoint import EndpointSettings
from memory.recall import RecallSettings
from memory.records import Kind, Trust

Select = Literal["weights", "k-centre", "easy-to-hard", "learnability", "in-order"]
How = Literal[
    "none",
    "self-instruct",
    "evol-instruct",
    "metamath",
    "code-llama",
    "backtranslation",
    "ada-instruct",
    "promptbreeder",
    "documents",
    "tools",
    "schema",
    "absolute-zero",
]


class Near(BaseModel):
    """From where on two tasks are too much alike.

    Args:
        rouge: ROUGE-L of their words; 1 is the same words in the same order, above 1 it is not
            looked at.
        cosine: of their embeddings, likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rouge: float = Field(0.7, gt=0)
    cosine: float = Field(0.95, gt=0)


class GenerateSettings(BaseModel):
    """Tasks that are made up for the train split, for suites that take them (``spawn``).

    Args:
        how: by what method; README.md of this folder tells each. ``none``: no task is made up.
            Or ``package.module:function``, from an `Author` to drafts.
        count: most tasks that a generation takes.
        drafts: how many are written for them.
        share: of a generation's tasks, so many at most are made up ones, of all generations.
        demonstrations: tasks that a writer is shown.
        tokens, temperature: of what is written.
        tries: how often the policy tries a new task, to find its answer or to reach it.
        agreement: least share of these tries with the same answer, where it has to be found.
        solutions: programs that are written for a task with tests; the first that passes is taken.
        kill: least share of a program's mutants that a task's tests must tell from it.
        novel: a draft as near as that to a train task, or to a made-up one, is dropped.
        apart: one as near as that to a task that is measured.
        harder: of a task and its rewrite only a harder one is taken: fewer of its tries are right.
        grade: ``backtranslation``: least grade, of 5, that the policy gives a draft.
        documents: ``documents``: folder of texts (.md, .txt).
        passage: characters of a passage of them.
        vouched: whether you answer for the documents. If not, tasks of them are practised, and
            train nothing.
        teacher: an endpoint that writes drafts; without a URL the policy does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    how: Annotated[str, OneOf(get_args(How))] = "none"
    count: int = Field(16, ge=1)
    drafts: int = Field(48, ge=1)
    share: float = Field(0.5, ge=0, le=1)
    demonstrations: int = Field(8, ge=1)
    tokens: int = Field(160, ge=8)
    temperature: float = Field(0.8, ge=0)
    tries: int = Field(4, ge=2)
    agreement: float = Field(0.5, gt=0, le=1)
    solutions: int = Field(10, ge=1)
    kill: float = Field(0.8, gt=0, le=1)
    novel: Near = Near(cosine=2.0)
    apart: Near = Near()
    harder: bool = False
    grade: int = Field(4, ge=1, le=5)
    documents: str = ""
    passage: int = Field(600, ge=80)
    vouched: bool = True
    teacher: EndpointSettings = EndpointSettings()


class PracticeRecall(RecallSettings):
    """As `RecallSettings`, but untrusted items are shown too: practice is where they are tried."""

    trust: Trust = Trust.UNTRUSTED


class AcquireSettings(BaseModel):
    """How experience is gathered in each generation.

    Args:
        tasks: tasks per generation.
        first_tasks: tasks of the first generation, whose agent mostly fails.
        samples: episodes per task.
        explore: whether the incumbent is helped where it mostly fails: half the samples are the
            base model's, since evolved weights have settled on a few forms; every other one has
            a hot beginning; and there are ``further_samples``. Without it the incumbent alone
            tries, as published methods have it.
        further_samples: so many more per task in families of which none of the generation's
            tasks was solved: what is found seldom is looked for longer, and what is found at
            once is not (adaptive sampling; Reinforce-Ada, arXiv 2510.04996).
        temperatures: samples take them in turn, two each.
        hot_tokens, heat: where the incumbent mostly fails, every other sample draws the first
            so many tokens of a turn at so many times the temperature. A program's first tokens
            decide which one it is, the later ones whether it runs: the former should vary.
        memory_share: share of a task's samples that see recalled memory, if there is any.
        withhold: chance that an item which was recalled for a sample is left out of it, as long
            as one stays: with and without it on the same task tell what it is worth.
        recall: what they see; less alike than when acting, since a solution of another
            family can be the pattern for a first success. Items on trial are among them, and
            untrusted ones.
        retries: how often the first sample of a task that fails is tried again, each time with
            what the policy says went wrong so far (Reflexion, arXiv 2303.11366).
        carried: at most so many of those notes, the last ones; 0 asks for none, and a further
            try is one more sample.
        note_tokens: most tokens of such a note.
        solve: how they are tried, where it is not by samples alone.
        select: which train tasks are practised; ``in-order`` is for streams, whose tasks come one
            after the other as the data has them; or a function of your own,
            ``package.module:function``.
        generate: which tasks are made up for them.
        canaries: tasks per generation that cannot be solved, mixed in with the others (see
            `agent.evolution.canaries`): where one is "solved", nothing that the generation tried
            is learnt from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: int = Field(96, ge=1)
    first_tasks: int = Field(48, ge=1)
    samples: int = Field(8, ge=1)
    explore: bool = True
    further_samples: int = Field(0, ge=0)
    temperatures: tuple[NonNegativeFloat, ...] = Field((0.3, 0.4, 0.5, 0.7), min_length=1)
    hot_tokens: int = Field(3, ge=0)
    heat: float = Field(3.0, ge=1)
    memory_share: float = Field(0.6, ge=0, le=1)
    withhold: float = Field(0.25, ge=0, lt=1)
    recall: PracticeRecall = PracticeRecall(
        quotas={Kind.EXEMPLAR: 1, Kind.REFLECTION: 1}, min_similarity=0.0
    )
    retries: int = Field(0, ge=0)
    carried: int = Field(3, ge=0)
    note_tokens: int = Field(48, ge=8)
    solve: SolveSettings = SolveSettings()
    select: Annotated[str, OneOf(get_args(Select))] = "weights"
    generate: GenerateSettings = GenerateSettings()
    canaries: int = Field(0, ge=0)
