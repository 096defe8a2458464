"""TextWorldExpress: every game solved in a real Java process, and Java lost in every way."""

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from environments.base import EnvironmentFailure, SuiteError, Task
from environments.checks import check_suite
from environments.conformance import GARBAGE
from environments.suites import load_suite
from environments.suites.java_games import Game, JavaPool
from environments.suites.text_world import as_action
from environments.suites.textworld_express import LEVELS, TextWorldExpress

GAMES = tuple(LEVELS)


def running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def wait_until_gone(pids: list[int], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(running, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(running, pids))


@pytest.fixture(autouse=True)
def collected(nothing_leaks: Path) -> Iterator[None]:
    """Suites that an exception's frames hold are let go before leaks are looked for."""
    yield
    gc.collect()


@pytest.fixture
def suite() -> Iterator[TextWorldExpress]:
    suite = TextWorldExpress(games=GAMES, per_game=6)
    yield suite
    suite._pool.close()


def answers(suite: TextWorldExpress, task: Task, commands: list[str]) -> list[Any]:
    environment = suite.environment(task)
    told: list[Any] = [environment.start()]
    for command in commands:
        told.append(environment.step(as_action(command)))
        if told[-1].terminated or told[-1].truncated:
            break
    environment.close()
    environment.close()
    return told


def solution(suite: TextWorldExpress, task: Task) -> list[str]:
    return [action.arguments["command"] for action in suite.gold(task)]


def test_solutions_solve_every_game(suite: TextWorldExpress) -> None:
    tasks = suite.tasks()
    assert {task.family for task in tasks} == set(GAMES)
    for task in tasks:
        first, *results = answers(suite, task, solution(suite, task))
        assert first == task.prompt and first.startswith(("Your ", "You are hungry"))
        assert (results[-1].reward, results[-1].terminated) == (1.0, True), task
        assert results[-1].metrics == {"score": 1.0}
        assert not any(result.reward for result in results[:-1])


def test_episodes_that_share_a_process_do_not_meet(suite: TextWorldExpress) -> None:
    """Two games of a process share state (sorting does), so a process holds one at a time."""
    tasks = suite.tasks()[::3]
    plans = {task.id: solution(suite, task) for task in tasks}
    alone = {task.id: answers(suite, task, plans[task.id]) for task in tasks}
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda task: answers(suite, task, plans[task.id]), tasks))
    assert together == [alone[task.id] for task in tasks]
    assert 1 <= len(suite._pool.pids()) <= 2

    open_at_once = [suite.environment(task) for task in tasks]
    told: dict[str, list[Any]] = {
        t.id: [e.start()] for t, e in zip(tasks, open_at_once, strict=True)
    }
    for turn in range(max(map(len, plans.values()))):
        for task, environment in zip(tasks, open_at_once, strict=True):
            if turn + 1 < len(alone[task.id]):
                told[task.id].append(environment.step(as_action(plans[task.id][turn])))
    assert told == alone
    for environment in open_at_once:
        environment.close()


def test_tasks_are_the_same_in_another_process(suite: TextWorldExpress) -> None:
    first = [task.id for task in suite.tasks()]
    suite._pool.close()
    again = TextWorldExpress(games=GAMES, per_game=6)
    assert [task.id for task in again.tasks()] == first
    assert again._pool is not suite._pool
    again._pool.close()


def test_valid_actions_are_understood(suite: TextWorldExpress) -> None:
    choose = random.Random(0)
    for task in suite.tasks()[::2]:
        environment = suite.environment(task)
        environment.start()
        while True:
            result = environment.step(as_action(choose.choice(environment.valid_actions)))
            assert result.error is None
            if result.terminated or result.truncated:
                break
        assert environment.valid_actions == () or result.truncated
        with pytest.raises(EnvironmentFailure):
            environment.step(as_action("look around"))
        environment.close()


def test_failing_ends_the_game_without_reward() -> None:
    suite = TextWorldExpress(games=["simonsays"], per_game=1)
    environment = suite.environment(suite.tasks()[0])
    environment.start()
    right = solution(suite, suite.tasks()[0])[0]
    wrong = next(action for action in environment.valid_actions if action != right)
    result = environment.step(as_action(wrong))
    assert (result.reward, result.terminated, result.truncated) == (0.0, True, False)
    environment.close()


def test_what_is_no_command_costs_a_turn() -> None:
    suite = TextWorldExpress(games=["coin"], per_game=1, steps=6)
    environment = suite.environment(suite.tasks()[0])
    environment.start()
    valid = environment.valid_actions
    errors = [environment.step(action).error for action in GARBAGE]
    assert errors == ["no call", "no call", "unknown tool", "unknown tool"]
    result = environment.step(as_action('dance \ud800\x00 "\n\\n'))
    assert result.observation.startswith("Unknown action")
    assert result.error == "invalid command" and environment.valid_actions == valid
    assert environment.step(as_action("dance")).truncated
    environment.close()


def test_the_suite_conforms() -> None:
    suite = load_suite("textworld-express", sandbox=lambda: pytest.fail("no sandbox is needed"),
                       options={"per_game": 5})  # fmt: skip
    assert check_suite(suite, limit=8) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"games": ["chess"]}, "unknown game 'chess'"),
        ({"games": []}, "at least one game"),
        ({"per_game": 1001}, "per_game from 1 to 1000"),
        ({"params": {"coin": ["rooms"]}}, "not of the form name=number"),
        ({"params": {"coin": ["rooms=3"]}}, "Unrecognized property name"),
        ({"params": {"coin": ["numLocations=99"]}}, "less than or equal to 11"),
        ({"params": {"coin": []}}, "at least one set"),
    ],
)
def test_bad_options_are_told_in_a_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SuiteError, match=says) as raised:
        TextWorldExpress(**options).tasks()
    assert "\n" not in str(raised.value)


def test_parameters_can_be_chosen() -> None:
    suite = TextWorldExpress(games=["coin"], per_game=4, params={"coin": ["numLocations = 2"]})
    assert {task.data["params"] for task in suite.tasks()} == {"numLocations=2"}


def test_a_game_that_differs_from_its_task_is_a_failure(suite: TextWorldExpress) -> None:
    task = suite.tasks()[0].model_copy(update={"prompt": "Something else."})
    environment = suite.environment(task)
    with pytest.raises(EnvironmentFailure, match="differs"):
        environment.start()
    environment.close()


def test_an_episode_outlives_its_java_process(suite: TextWorldExpress) -> None:
    task = next(task for task in suite.tasks() if task.family == "sorting")
    plan = solution(suite, task)
    expected = answers(suite, task, plan)
    environment = suite.environment(task)
    told: list[Any] = [environment.start()]
    killed = []
    for command in plan:
        (pid,) = suite._pool.pids()
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)
        told.append(environment.step(as_action(command)))
    environment.close()
    assert told == expected
    assert len(set(killed)) == len(plan) and wait_until_gone(killed)


def quick_pool(suite: TextWorldExpress, **bounds: float) -> JavaPool:
    return JavaPool(replace(suite._pool._spec, **bounds))  # type: ignore[arg-type]


def stop(pid: int) -> None:
    """Stop a process, and return when all its threads do stand still."""
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
        if all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats):
            return
        time.sleep(0.01)
    pytest.fail("the process does not stop")


def test_a_java_process_that_hangs_is_a_failure_and_is_replaced(suite: TextWorldExpress) -> None:
    task = suite.tasks()[0]
    suite._pool.close()
    suite._pool = quick_pool(suite, call_s=1.0)
    environment = suite.environment(task)
    environment.start()
    (pid,) = suite._pool.pids()
    stop(pid)
    with pytest.raises(EnvironmentFailure, match="did not answer within 1 s"):
        environment.step(as_action("look around"))
    assert wait_until_gone([pid]) and suite._pool.pids() == []
    environment.close()
    assert answers(suite, task, solution(suite, task))[-1].reward == 1.0


def test_the_games_own_exception_is_a_failure_and_the_process_goes_on(
    suite: TextWorldExpress,
) -> None:
    game = Game(open=lambda server: server.load("coin", ""), repeat=lambda server, command: None)
    with pytest.raises(EnvironmentFailure, match="the game broke"):
        suite._pool.call(game, lambda server: server.stepJSON(3))
    (pid,) = suite._pool.pids()
    task = suite.tasks()[0]
    assert answers(suite, task, solution(suite, task))[-1].reward == 1.0
    assert suite._pool.pids() == [pid]


def test_java_that_cannot_start_is_a_failure(
    suite: TextWorldExpress, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = suite.tasks()[0]
    suite._pool.close()
    suite._pool = quick_pool(suite, start_s=2.0)
    for body, says in (("echo no memory; exit 1", "no memory"), ("exec sleep 60", "within 2 s")):
        (tmp_path / "java").write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "java").chmod(0o755)
        with monkeypatch.context() as changed:
            changed.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
            with pytest.raises(EnvironmentFailure, match=says):
                suite.environment(task).start()
    assert suite.environment(task).start() == task.prompt


def test_without_java_or_package_the_suite_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SuiteError, match="apt-get install openjdk-17-jre-headless"):
        TextWorldExpress()
    monkeypatch.setattr("environments.suites.textworld_express.find_spec", lambda name: None)
    with pytest.raises(SuiteError, match="pip install textworld-express"):
        TextWorldExpress()


def test_waiting_callers_are_served_when_a_process_is_free(suite: TextWorldExpress) -> None:
    suite._pool.close()
    suite._pool = quick_pool(suite, processes=1)
    running_now, most = 0, 0
    lock = threading.Lock()

    def work(server: Any) -> None:
        nonlocal running_now, most
        with lock:
            running_now += 1
            most = max(most, running_now)
        time.sleep(0.01)
        with lock:
            running_now -= 1

    def one(_: int) -> None:
        suite._pool.call(Game(open=lambda server: None, repeat=lambda s, c: None), work)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(one, range(32)))
    assert most == 1 and len(suite._pool.pids()) == 1


def test_processes_end_with_the_last_suite() -> None:
    first = TextWorldExpress(games=["coin"], per_game=1)
    second = TextWorldExpress(games=["coin"], per_game=2)
    assert first.tasks() and second.tasks()
    pids = first._pool.pids()
    assert len(pids) == 1 and second._pool.pids() == pids
    del first
    gc.collect()
    assert running(pids[0])
    del second
    gc.collect()
    assert wait_until_gone(pids, 2)


ENDS = {
    "ends": "",
    "exits": "raise SystemExit(3)",
    "is killed": "os.kill(os.getpid(), 9)",
    "is terminated after a fork": "if os.fork():\n    os.wait(); os.kill(os.getpid(), 15)",
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_nothing_is_left_when_the_interpreter_ends(end: str, nothing_leaks: Path) -> None:
    program = (
        "import os\n"
        "from environments.suites.textworld_express import TextWorldExpress\n"
        "suite = TextWorldExpress(games=['coin'], per_game=1)\n"
        "suite.tasks()\n"
        "print(*suite._pool.pids(), flush=True)\n" + end
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "TMPDIR": str(nothing_leaks)},
        timeout=60,
    )
    assert done.stderr == ""
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 1 and wait_until_gone(pids)


def test_a_fork_leaves_its_parents_processes_alone(suite: TextWorldExpress) -> None:
    task = suite.tasks()[0]
    (pid,) = suite._pool.pids()
    child = os.fork()
    if not child:
        suite._pool.close()
        os._exit(0 if suite._pool.closed else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert running(pid)
    assert answers(suite, task, [])[0] == task.prompt
    assert suite._pool.pids() == [pid]
