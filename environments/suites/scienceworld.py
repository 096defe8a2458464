"""ScienceWorld: primary-school science in a simulated house, thirty kinds of task.

Needs the package ``scienceworld`` (Apache-2.0) and Java.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from environments.base import (
    Action,
    Briefing,
    Environment,
    EnvironmentFailure,
    StepResult,
    SuiteError,
    Task,
    Tool,
)
from environments.suites.java_games import (
    Game,
    JavaGames,
    JavaPool,
    require_java,
    shared_pool,
    texts,
)
from environments.suites.text_world import ACT, as_action, command_of

T = TypeVar("T")
# Those whose solutions are short.
TASKS = (
    "find-living-thing",
    "find-non-living-thing",
    "find-plant",
    "find-animal",
    "lifespan-longest-lived",
    "lifespan-shortest-lived",
    "lifespan-longest-lived-then-shortest-lived",
    "power-component",
    "chemistry-mix-paint-secondary-color",
    "use-thermometer",
)
_UNKNOWN = "No known action matches"


class ScienceWorld:
    """Tasks of ScienceWorld; a family is a kind of task.

    The simulator draws by chance what animals and instruments do; here it is seeded before each
    command, so that the same commands have the same consequences.

    Args:
        tasks: kinds of task, by ScienceWorld's names (``boil``, ``find-plant``).
        variations: most variations of each kind, spread over those it has.
        simplifications: ScienceWorld's, comma-separated: ``easy`` for all, or empty.
        steps: commands an episode may give.
        valid_actions: offer all commands that can be given; there are hundreds, and to compute
            them takes longer than everything else.
        processes: Java processes at a time (about 450 MB each).

    Raises:
        SuiteError: an unknown task or simplification, no tasks, or a missing package or Java.
    """

    name = "scienceworld"
    description = "science tasks in a simulated house (ScienceWorld), one text command a turn"

    def __init__(
        self,
        tasks: Sequence[str] = TASKS,
        variations: int = 10,
        simplifications: str = "easy",
        steps: int = 50,
        valid_actions: bool = False,
        processes: int = 2,
    ) -> None:
        if not tasks or variations < 1 or steps < 1 or processes < 1:
            raise SuiteError(
                f"{self.name}: give at least one task, and variations, steps and processes of 1 "
                "or more"
            )
        self._kinds, self._variations = tuple(dict.fromkeys(tasks)), variations
        self._simplifications = ",".join(simplifications.replace(" ", "").split(","))
        self._steps, self._choices = steps, valid_actions
        self._pool = shared_pool(_games(self.name, processes))
        self.briefing = Briefing(
            text=(
                "You are in a house with a laboratory and have a task to do. Write one command, "
                "such as: look around; open door to X; go to X; teleport to X; pick up X; "
                "move X to Y; use X on Y; focus on X; wait."
            ),
            example=(
                "Your task is to read the letter.\n\nThis room is called the attic. In it, you "
                "see: a letter",
                "read letter",
            ),
            turns=steps,
            max_new_tokens=24,
        )

    def tasks(self) -> Sequence[Task]:
        """All tasks, kind by kind; the first call loads each one (about 0.1 s)."""
        return self._tasks

    @functools.cached_property
    def _tasks(self) -> tuple[Task, ...]:
        known, simplifications = self._use(
            lambda simulator: (
                texts(simulator.server.getTaskNames()),
                {"", "easy", *simulator.server.getPossibleSimplifications().split(", ")},
            )
        )
        for kind in self._kinds:
            if kind not in known:
                raise SuiteError(
                    f"{self.name}: unknown task {kind!r}; choose of: {', '.join(known)}"
                )
        for given in self._simplifications.split(","):
            if given not in simplifications:
                raise SuiteError(
                    f"{self.name}: unknown simplification {given!r}; choose of: "
                    f"{', '.join(sorted(simplifications - {''}))}"
                )
        found: dict[str, Task] = {}
        for kind in self._kinds:
            for task in self._made(kind):
                found[task.id] = task
        return tuple(found.values())

    def _made(self, kind: str) -> list[Task]:
        def make(simulator: Simulator) -> list[Task]:
            there = int(simulator.server.getTaskMaxVariations(kind))
            count = min(there, self._variations)
            made = []
            for variation in (i * there // count for i in range(count)):
                data: Any = {
                    "task": kind,
                    "variation": variation,
                    "simplifications": self._simplifications,
                }
                simulator.load(data)
                made.append(Task(suite=self.name, family=kind, prompt=simulator.first(), data=data))
            return made

        return self._use(make)

    def _use(self, work: Callable[[Simulator], T]) -> T:
        """Let ``work`` have a simulator that holds nothing that anybody needs."""
        nothing = Game(open=lambda simulator: None, repeat=lambda simulator, command: None)
        try:
            return self._pool.call(nothing, work)
        finally:
            self._pool.forget(nothing)

    def environment(self, task: Task) -> Environment:
        """The simulator of one task."""
        make = ScienceWorldChoices if self._choices else ScienceWorldEnvironment
        return make(task, self._pool, self._steps)

    def gold(self, task: Task) -> list[Action]:
        """ScienceWorld's own solution; it takes a second to half a minute to find."""

        def solve(simulator: Simulator) -> list[str]:
            simulator.load(task.data, gold=True)
            plan = texts(simulator.server.getGoldActionSequence())
            simulator.load(task.data)
            for turn, command in enumerate(plan, 1):  # some plans go on after the end
                if simulator.step(command)[2]:
                    return plan[:turn]
            return plan

        return [as_action(command) for command in self._use(solve)]


class Simulator:
    """ScienceWorld's interface object, seeded.

    Args:
        server: the interface object.
    """

    def __init__(self, server: Any) -> None:
        self.server = server
        # The one generator that everything in the simulator draws from.
        generator = server.getClass().forName("scala.util.Random$")
        self._random = generator.getField("MODULE$").get(None)
        self._turn = 0

    def load(self, data: Any, gold: bool = False) -> None:
        """Begin a task (``Task.data``), with its solution or without."""
        self._turn = 0
        self._random.setSeed(0)
        self.server.load(data["task"], data["variation"], data["simplifications"], gold)
        self.server.reset()

    def first(self) -> str:
        """The task, and what is to be seen."""
        parts = (self.server.getTaskDescription(), self.server.freeActionLook())
        return "\n\n".join(str(part).strip() for part in parts)

    def step(self, command: str) -> tuple[str, float, bool]:
        """What the command brings: the answer, the score (1 is full), whether it is over."""
        self._turn += 1
        self._random.setSeed(self._turn)
        answer = str(self.server.step(command)).strip()
        return answer, float(self.server.getScore()), bool(self.server.getCompleted())

    def valid(self) -> tuple[str, ...]:
        """All commands that can be given."""
        listed = json.loads(self.server.getValidActionObjectCombinationsJSON())["validActions"]
        return tuple(sorted({str(entry["action"]) for entry in listed}))


class ScienceWorldEnvironment:
    """One task.

    Args:
        task: which one.
        pool: the Java processes.
        steps: commands it may be given.
    """

    def __init__(self, task: Task, pool: JavaPool, steps: int) -> None:
        self._prompt, self._pool, self._left = task.prompt, pool, steps
        self._over, self._score = False, 0.0
        self._valid: tuple[str, ...] = ()
        self._game = Game(
            open=lambda simulator: simulator.load(task.data),
            repeat=lambda simulator, command: simulator.step(command),
        )

    @property
    def tools(self) -> Sequence[Tool]:
        """The one tool, ``act``."""
        return (ACT,)

    def _find_valid(self, simulator: Simulator) -> tuple[str, ...]:
        return ()

    def start(self) -> str:
        """The task, and what is to be seen.

        Raises:
            EnvironmentFailure: Java does not answer, or makes another task than it once made.
        """
        prompt: str
        prompt, self._valid = self._pool.call(
            self._game, lambda simulator: (simulator.first(), self._find_valid(simulator))
        )
        if prompt != self._prompt:
            raise EnvironmentFailure(
                "scienceworld: the simulator differs from the task's (another version of the "
                "package?); make the tasks anew"
            )
        return prompt

    def step(self, action: Action) -> StepResult:
        """Give one command; the reward is the score so far, 1.0 when the task is done.

        Raises:
            EnvironmentFailure: Java was lost or does not answer, or the episode is over.
        """
        if self._over:
            raise EnvironmentFailure("the episode is over: make a new environment")
        self._left -= 1
        command, problem = command_of(action)
        if command is None:
            assert problem is not None
            self._over = self._left <= 0
            return problem.model_copy(update={"reward": self._score, "truncated": self._over})
        (answer, score, ended), self._valid = self._pool.call(
            self._game,
            lambda simulator: (simulator.step(command), self._find_valid(simulator)),
        )
        self._game.past.append(command)
        ended = ended or score < 0  # a wrong focus loses the task
        self._score = max(0.0, round(score, 2))
        self._over = ended or self._left <= 0
        if self._over:
            self._valid = ()
        return StepResult(
            observation=answer or "Nothing happens.",
            reward=self._score,
            terminated=ended,
            truncated=self._over and not ended,
            error="invalid command" if answer.startswith(_UNKNOWN) else None,
        )

    def close(self) -> None:
        """Give the task's place in its process to others."""
        self._over, self._valid = True, ()
        self._pool.forget(self._game)


class ScienceWorldChoices(ScienceWorldEnvironment):
    """One task, with the commands that can be given."""

    @property
    def valid_actions(self) -> Sequence[str]:
        """The commands that can be given at the moment."""
        return self._valid

    def _find_valid(self, simulator: Simulator) -> tuple[str, ...]:
        return simulator.valid()


def _games(suite: str, processes: int) -> JavaGames:
    found = find_spec("scienceworld")
    if found is None or found.origin is None:
        raise SuiteError(f"{suite} needs its package: pip install scienceworld")
    require_java(suite)
    return JavaGames(
        suite=suite,
        jar=Path(found.origin).parent / "scienceworld.jar",
        interface="scienceworld.runtime.pythonapi.PythonInterface",
        processes=processes,
        games=16,
        heap_mb=768,
        call_s=60.0,
        # The order of its sets follows the hash of their objects: the same in every process.
        flags=("-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2"),
        wrap=Simulator,
    )
