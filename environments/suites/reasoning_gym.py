"""Reasoning Gym: generated questions with verifiers, answered by writing Python.

Needs the package ``reasoning_gym`` (Apache-2.0).
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from environments.base import Environment, SuiteError, Task
from environments.kinds.python import PYTHON_BRIEFING, PythonAnswer
from environments.nonce import nonce
from environments.sandbox.base import Sandbox

FAMILIES = (
    "chain_sum",
    "basic_arithmetic",
    "products",
    "count_bits",
    "letter_counting",
    "spell_backward",
    "gcd",
    "word_sequence_reversal",
)
# Their verifiers evaluate the answer as Python in this process (``eval``, or SymPy's
# ``parse_expr``, which does): what an agent printed must not run outside the sandbox.
UNSAFE = frozenset(
    {
        "binary_matrix",
        "countdown",
        "intermediate_integration",
        "n_queens",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
        "spiral_matrix",
        "string_insertion",
    }
)

# Beside those that inherit the comparison: they compare numbers, or letter by letter.
COMPARING = frozenset({"chain_sum", "products", "spell_backward"})


class ReasoningGym:
    """Families of Reasoning Gym at their default difficulty.

    Args:
        families: names of its generators.
        per_family: tasks generated for each; the same question twice is one task.
        seed: of the generators.
        sandbox: makes the sandbox that an episode's code runs in.

    Raises:
        SuiteError: an unknown or unusable family, or no tasks at all.
    """

    name = "reasoning-gym"
    description = "generated questions with verifiers (Reasoning Gym), answered by writing Python"
    briefing = PYTHON_BRIEFING

    def __init__(
        self,
        families: Sequence[str] = FAMILIES,
        per_family: int = 200,
        seed: int = 0,
        *,
        sandbox: Callable[[], Sandbox],
    ) -> None:
        self._families = tuple(dict.fromkeys(families))
        self._per_family, self._seed, self._sandbox = per_family, seed, sandbox
        if not self._families or per_family < 1:
            raise SuiteError(
                f"{self.name}: no tasks; give at least one family and per_family of 1 or more"
            )
        known = _generators()
        for family in self._families:
            if family in UNSAFE:
                raise SuiteError(
                    f"{self.name}: family {family!r} is refused, because its verifier would run "
                    "the agent's answer as code outside the sandbox"
                )
            if family not in known:
                close = difflib.get_close_matches(family, known, n=5) or FAMILIES
                raise SuiteError(
                    f"{self.name}: unknown family {family!r}; did you mean: {', '.join(close)}?"
                )

    def tasks(self) -> Sequence[Task]:
        """All tasks, family by family; the same ones in the same order at every call."""
        return self._tasks

    @functools.cached_property
    def _tasks(self) -> tuple[Task, ...]:
        found = {
            task.id: task
            for family in self._families
            for task in _generate(self.name, family, self._per_family, self._seed)
        }
        return tuple(found.values())

    def environment(self, task: Task) -> Environment:
        """The question of one task, graded by its family's verifier."""
        entry = task.data["entry"]
        if not isinstance(entry, dict):
            raise SuiteError(f"{self.name}: task {task.id} has no entry to be graded with")
        grade = functools.partial(score, task.family, entry)
        return PythonAnswer(task.prompt, grade, self._sandbox)

    def canary(self, task: Task, seed: int) -> Task | None:
        """The same question with an answer that is made up; None where its verifier takes others.

        Some verifiers work the answer out instead of reading it, and some give credit to near
        ones: where the right answer, or a common one, would still earn half, there is no canary.
        """
        entry = task.data["entry"]
        assert isinstance(entry, dict)
        answer = entry["answer"]
        made_up = nonce(answer, seed) if isinstance(answer, str) else None
        if made_up is None:
            return None
        changed = {**entry, "answer": made_up}
        try:
            others = [score(task.family, changed, said) for said in (str(answer), "0", "1", "yes")]
        except Exception:  # a verifier that cannot read what is made up
            return None
        if max(others) >= 0.5:
            return None
        return task.model_copy(update={"data": {**task.data, "entry": changed}})

    def fields(self, task: Task) -> dict[str, str]:
        """The question and the generator's answer."""
        entry = task.data["entry"]
        assert isinstance(entry, dict)
        return {"prompt": task.prompt, "family": task.family, "answer": str(entry["answer"])}

    def spawn(self, fields: Mapping[str, str]) -> Task | None:
        """A question of a family whose verifier compares words or numbers; None of other ones.

        Other verifiers need more than an answer, and some run the right one as code, which is
        the generator's own everywhere else.
        """
        prompt, answer = fields["prompt"].strip(), fields["answer"].strip()
        if not prompt or not answer or not _compares(fields["family"]):
            return None
        entry = {"question": prompt, "answer": answer, "metadata": {}}
        return Task(suite=self.name, family=fields["family"], prompt=prompt, data={"entry": entry})


def score(family: str, entry: Mapping[str, Any], answer: str) -> float:
    """What the family's own verifier gives an answer: 1.0 for a right one, else less."""
    return float(_verifier(family).score_answer(answer, dict(entry)))


def _generate(suite: str, family: str, size: int, seed: int) -> list[Task]:
    from reasoning_gym import create_dataset

    try:
        entries = list(create_dataset(family, size=size, seed=seed))
    except Exception as error:  # some generators need settings or files that are not there
        raise SuiteError(
            f"{suite}: family {family!r} cannot be generated: {type(error).__name__}: {error}"
        ) from error
    tasks = []
    for generated in entries:
        # Its position is no part of the question: the same question is the same task.
        metadata = {k: v for k, v in generated["metadata"].items() if k != "source_index"}
        question, answer = generated["question"], generated["answer"]
        entry = {"question": question, "answer": answer, "metadata": metadata}
        try:
            stored = json.loads(json.dumps(entry))
        except (TypeError, ValueError) as error:
            raise SuiteError(
                f"{suite}: family {family!r} cannot be used, its tasks are not JSON: {error}"
            ) from None
        tasks.append(
            Task(suite=suite, family=family, prompt=question.strip(), data={"entry": stored})
        )
    return tasks


def _compares(family: str) -> bool:
    """Whether a family's verifier does nothing but compare with the answer."""
    from reasoning_gym.factory import ProceduralDataset

    if family in COMPARING:
        return True
    made = type(_verifier(family)) if family in _generators() else None
    return made is not None and made.score_answer is ProceduralDataset.score_answer


@functools.cache
def _verifier(family: str) -> Any:
    from reasoning_gym import create_dataset

    return create_dataset(family, size=1, seed=0)


def _generators() -> frozenset[str]:
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise SuiteError(
            f"the suite reasoning-gym needs the package reasoning_gym ({error}): "
            "pip install reasoning-gym"
        ) from error
    return frozenset(DATASETS)
