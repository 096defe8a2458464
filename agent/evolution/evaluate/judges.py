"""How the judges of an evaluation are asked, and what they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from agent.evolution.feedback.base import SYSTEM, ask_endpoint
from agent.evolution.feedback.judges import both
from agent.evolution.update.writers.base import put
from agent.run_folder import BASE
from memory.records import Trajectory

if TYPE_CHECKING:
    from agent.run import Run

TIE = "C"


def question(a: Trajectory, b: Trajectory) -> str:
    """Two episodes of one task, without their scores, and what is asked of them."""
    return (
        f"{both(a, b)}\n\nWhich attempt is better, A or B? Write the letter alone; {TIE} for a tie."
    )


def ask(
    run: Run, n: int, questions: Mapping[str, str], tokens: int, *, vote: bool = False
) -> dict[str, str]:
    """Answers by key; each question is asked once in a run, and is read by nothing that learns.

    Args:
        run: whose policy, as it was before evolution, or whose endpoint is asked.
        n: the generation.
        questions: by key.
        tokens: most tokens of an answer.
        vote: whether the policy chooses among the letters; an endpoint writes freely.

    Raises:
        PolicyFailure: the endpoint does not answer; what it has said is kept.
    """
    settings = run.config.evaluate
    asked = put(n, "evaluate", SYSTEM, questions)
    label = f"generation {n} · judges"
    if settings.judge == "endpoint":
        answers = ask_endpoint(run, BASE, label, asked, tokens, settings.endpoint, "judge")
    else:
        answers = run.say(label, asked, BASE, tokens, ("A", "B", TIE) if vote else ())
    return dict(zip(questions, answers.values(), strict=True))
