"""Refine: from trajectories to what is worth learning.

Keep what was verified right (ReST-EM's binary filter, arXiv 2312.06585), drop duplicates,
cap each task and family (RFT's distinct solutions, 2308.01825), filter further if asked (full
reward alone, sub-goals reached, the vote of a task's tries), and prefer solutions whose
*form* keeps working: a program that printed the right number once by luck is told apart from
one that computes it by how the same program, with the task's own values taken out, fared on
all the tasks it was tried on.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Annotated, Literal, NamedTuple, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.choices import OneOf
from agent.evolution.votes import elected
from environments.base import FULL_REWARD, ROUNDING
from memory.records import Trajectory

Corrupt = Literal["none", "flip", "duplicate", "one-family"]
Correct = Literal[
    "none",
    "self-refine",
    "constitutional",
    "rci",
    "critic",
    "isr-llm",
    "rationalise",
    "self-debug",
    "interpreter",
    "blocks",
    "redraft",
    "verify",
]
Filter = Literal["full", "subgoals", "vote"]


class RefineSettings(BaseModel):
    """What is kept.

    Args:
        per_task: distinct solutions kept per task.
        per_family: solutions kept per family, from easy and hard tasks alike.
        min_reliability: least share of right answers of a solution's form (a smoothed
            estimate: a form that was tried once and was right has 0.75). Programs have a form.
        thresholds: least reward of a solution, generation by generation; the last holds from
            then on (ReST's rising threshold, 2308.08998, §3). None: full reward alone.
        filters: what a solution has to pass besides, all of them. ``full``: full reward, whatever
            the thresholds say (AutoAct, 2401.05268, §2.3). ``subgoals``: ``subgoal`` of it reached
            (see there). ``vote``: most of its task's tries gave its answer, ``agreement`` of them
            at least (self-consistency, 2203.11171). Dual execution agreement is
            ``feedback.by=tests``.
        subgoal, subgoals: name of a number that the environment tells beside the reward
            (``metrics``), and the least of it. With the filter, what reached it is a solution
            even without full reward (Self-Talk, 2401.05033, §3.3).
        agreement: see ``filters``.
        correct: how what no try of a task solved is tried again; each is a function in
            ``agent/evolution/correct``, or one of your own, ``package.module:function``.
        rounds: most further tries of a task.
        carried: of so many rounds, the last ones, drafts and critiques stand before the task.
        critique_tokens: most tokens of a critique.
        corrupt: for experiments only, which show what the gate does with bad data. ``flip``:
            failures are taken for successes and the reverse. ``duplicate``: each family's
            solutions are copies of its best one. ``one-family``: the solutions of the first
            family (by name) alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_task: int = Field(2, ge=1)
    per_family: int = Field(32, ge=1)
    min_reliability: float = Field(0.3, ge=0, le=1)
    thresholds: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    filters: tuple[Filter, ...] = ()
    subgoal: str = ""
    subgoals: float = 1.0
    agreement: float = Field(0.5, ge=0, le=1)
    correct: Annotated[str, OneOf(get_args(Correct))] = "none"
    rounds: int = Field(1, ge=1)
    carried: int = Field(2, ge=1)
    critique_tokens: int = Field(96, ge=8)
    corrupt: Corrupt = "none"

    @model_validator(mode="after")
    def _subgoal_named(self) -> Self:
        if "subgoals" in self.filters and not self.subgoal:
            raise ValueError("filter subgoals needs refine.subgoal, the metric's name")
        return self


class Solution(NamedTuple):
    """A verified trajectory, its form and how reliable that form is."""

    trajectory: Trajectory
    form: str
    reliability: float


def earned(trajectory: Trajectory, settings: RefineSettings) -> float:
    """The reward that is learnt from: the trajectory's own, unless rewards are flipped."""
    return 1 - trajectory.reward if settings.corrupt == "flip" else trajectory.reward


def solves(trajectory: Trajectory, settings: RefineSettings, generation: int | None = None) -> bool:
    """Whether a trajectory counts as a solution.

    Args:
        trajectory: any that did not break.
        settings: thresholds.
        generation: whose threshold holds, from 1; None asks for full reward.
    """
    if "subgoals" in settings.filters and "full" not in settings.filters:
        return trajectory.metrics.get(settings.subgoal, -inf) >= settings.subgoals - ROUNDING
    if generation is None or not settings.thresholds:
        return trajectory.success != (settings.corrupt == "flip")
    threshold = settings.thresholds[min(generation, len(settings.thresholds)) - 1]
    return earned(trajectory, settings) >= threshold - ROUNDING


def refine(
    trajectories: Iterable[Trajectory], settings: RefineSettings, generation: int | None = None
) -> list[Solution]:
    """The solutions worth learning from, best first within each family.

    Args:
        trajectories: all acquired so far (the rolling mix); broken ones are skipped.
        settings: caps and thresholds.
        generation: whose threshold holds; None asks for full reward.
    """
    usable = [t for t in trajectories if t.failure is None and t.steps and t.split == "train"]
    right = [t for t in usable if solves(t, settings, generation)]
    right = _filtered(right, usable, settings)
    if settings.corrupt == "flip":  # a text without an action teaches nothing either way
        right = [t for t in right if t.turns[-1].action.get("tool")]
    attempts, successes = Counter(t.task for t in usable), Counter(t.task for t in right)
    solved = {task: successes[task] / n for task, n in attempts.items()}
    won: dict[tuple[str, str], set[str]] = defaultdict(set)
    tried: dict[tuple[str, str], set[str]] = defaultdict(set)
    forms = {t.slot: form_of(t) for t in usable}
    for t in usable:
        tried[t.family, forms[t.slot]].add(t.task)
    for t in right:
        won[t.family, forms[t.slot]].add(t.task)

    def reliability(t: Trajectory) -> float:
        if not forms[t.slot]:
            return 1.0
        key = t.family, forms[t.slot]
        return (len(won[key]) + 0.5) / (len(tried[key]) + 1)

    kept: list[Solution] = []
    for family in sorted({t.family for t in right}):
        found = [Solution(t, forms[t.slot], reliability(t)) for t in right if t.family == family]
        # The best rated first (a judge rates); then reliable forms; of those, short first turns
        # before long or mended ones.
        found.sort(
            key=lambda s: (
                -round(s.trajectory.reward, 3),
                -round(s.reliability, 3),
                len(s.trajectory.steps),
                sum(sum(step.loss_mask) for step in s.trajectory.turns),
                s.trajectory.slot,
            )
        )
        per_task: dict[str, set[str]] = defaultdict(set)
        chosen: list[Solution] = []
        for solution in found:
            if solution.reliability < settings.min_reliability:
                continue
            seen = per_task[solution.trajectory.task]
            text = wording(solution.trajectory)
            if text in seen or len(seen) >= settings.per_task:
                continue
            seen.add(text)
            chosen.append(solution)
        kept += _spread(chosen, solved, settings.per_family)
    return _corrupted(kept, settings.corrupt)


def wording(trajectory: Trajectory) -> str:
    """What was written, turn by turn; of a task's solutions that say the same one is kept."""
    return "\n".join(step.text.strip() for step in trajectory.turns)


def _corrupted(solutions: Sequence[Solution], how: Corrupt) -> list[Solution]:
    """The solutions as a fault would leave them (see ``RefineSettings.corrupt``)."""
    best: dict[str, Solution] = {}
    for solution in solutions:
        best.setdefault(solution.trajectory.family, solution)
    if how == "duplicate":
        return [best[s.trajectory.family] for s in solutions]
    if how == "one-family":
        return [s for s in solutions if s.trajectory.family == min(best)]
    return list(solutions)


def _filtered(
    right: Sequence[Trajectory], tried: Sequence[Trajectory], settings: RefineSettings
) -> list[Trajectory]:
    """The solutions that pass ``RefineSettings.filters``."""
    kept = list(right)
    if "full" in settings.filters:
        kept = [t for t in kept if earned(t, settings) >= FULL_REWARD]
    if "subgoals" in settings.filters:
        least = settings.subgoals - ROUNDING
        kept = [t for t in kept if t.metrics.get(settings.subgoal, -inf) >= least]
    if "vote" in settings.filters:
        chosen = elected(tried, settings.agreement)
        kept = [t for t in kept if t.slot in chosen]
    return kept


def _spread(
    solutions: Sequence[Solution], solved: Mapping[str, float], limit: int
) -> list[Solution]:
    """At most so many, from rarely, sometimes and mostly solved tasks in turn.

    What is solved at every try would crowd out what was hard to find.
    """
    levels: list[list[Solution]] = [[], [], []]
    for solution in solutions:
        levels[min(2, int(3 * solved[solution.trajectory.task]))].append(solution)
    turns = [level[i] for i in range(limit) for level in levels if i < len(level)]
    chosen = {s.trajectory.slot for s in turns[:limit]}
    return [s for s in solutions if s.trajectory.slot in chosen]


_VALUE = re.compile(r"\d+(?:\.\d+)?")


def form_of(trajectory: Trajectory) -> str:
    """A program with the task's own values taken out: two with the same form do the same.

    Code is compared as a syntax tree without its constants and without the shape of its
    arithmetic (``1 + 2`` and ``3 * 4 - 5`` are both "an expression"). What is no program (an
    answer, a walk through a world) has no form: it cannot be right by luck on other tasks.
    """
    last = trajectory.turns[-1]
    arguments = last.action.get("arguments")
    code = arguments.get("code") if isinstance(arguments, dict) else None
    if not isinstance(code, str):
        return ""
    try:
        tree = ast.parse(code)
        return ast.dump(_Shape().visit(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _VALUE.sub("#", code.strip())


class _Shape(ast.NodeTransformer):
    """Constants to their type, literal arithmetic and literal lists to one placeholder each."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Name(id=f"_{type(node.value).__name__}", ctx=ast.Load())

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        return _literal(node) or self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        return _literal(node) or self.generic_visit(node)

    def visit_List(self, node: ast.List) -> ast.AST:
        return _literal(node) or self.generic_visit(node)


def _literal(node: ast.expr) -> ast.Name | None:
    inner = list(ast.walk(node))
    names = any(isinstance(n, ast.Name | ast.Call | ast.Attribute) for n in inner)
    return None if names else ast.Name(id=f"_{type(node).__name__}", ctx=ast.Load())


def instructive_failures(
    trajectories: Sequence[Trajectory], limit: int
) -> list[tuple[Trajectory, Trajectory]]:
    """Failures that teach something: the same task was solved otherwise.

    Args:
        trajectories: one generation's.
        limit: most failures per family.

    Returns:
        (failed trajectory, a trajectory that solved the task); one whose first turn failed and
        a later one mended it is both.
    """
    solved: dict[str, Trajectory] = {}
    for t in trajectories:
        if not t.success or not t.steps:  # without steps: erased
            continue
        if t.task not in solved or len(t.steps) < len(solved[t.task].steps):
            solved[t.task] = t
    found: list[tuple[Trajectory, Trajectory]] = []
    count: dict[str, int] = defaultdict(int)
    seen: set[tuple[str, str]] = set()
    for t in sorted(trajectories, key=lambda t: (-len(t.steps), t.slot)):
        if t.failure is not None or t.task not in solved or not t.steps:
            continue
        step = t.steps[0]
        mended = t.success and step.error is not None and len(t.steps) > 1
        kind: Literal["error", "wrong"] = "error" if step.error else "wrong"
        if not (mended or not t.success) or not step.action.get("tool"):
            continue
        label = (t.family, kind + _VALUE.sub("#", (step.error or "")))
        if label in seen or count[t.family] >= limit:
            continue
        seen.add(label)
        count[t.family] += 1
        found.append((t, solved[t.task]))
    return found
