"""MiniWoB++ pages in a real headless Chromium, and what happens when it is lost."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import environments
from environments.base import Action, EnvironmentFailure, Suite, SuiteError, Task
from environments.calls import write_call
from environments.checks import check_suite
from environments.suites.miniwob import PAGES, MiniWob, MiniWobEnvironment


def call(tool: str, **arguments: Any) -> Action:
    return Action(text=tool, tool=tool, arguments=arguments)


def refs(seen: str, kind: str, name: str = "") -> list[int]:
    """Numbers of the elements of a kind (with a name) in an observation."""
    quoted = f' "{re.escape(name)}"' if name else ".*"
    return [int(ref) for ref in re.findall(rf"^\[(\d+)\] {kind}{quoted}", seen, re.MULTILINE)]


def quoted(seen: str) -> list[str]:
    return re.findall(r'"([^"]*)"', seen.splitlines()[0])


def click_button(seen: str) -> Iterator[Action]:
    yield call("click", ref=refs(seen, "button", quoted(seen)[0])[0])


def click_link(seen: str) -> Iterator[Action]:
    yield call("click", ref=refs(seen, "link", quoted(seen)[0])[0])


def click_dialog(seen: str) -> Iterator[Action]:
    name = {"x": "Close"}.get(quoted(seen)[0], quoted(seen)[0])
    yield call("click", ref=refs(seen, "button", name)[0])


def click_checkboxes(seen: str) -> Iterator[Action]:
    wanted = re.match(r"Select (.*) and click Submit", seen)
    for name in wanted[1].split(", ") if wanted and wanted[1] != "nothing" else []:
        yield call("click", ref=refs(seen, "checkbox", name)[0])
    yield call("click", ref=refs(seen, "button", "Submit")[0])


def click_option(seen: str) -> Iterator[Action]:
    wanted = re.match(r"Select (.*) and click Submit", seen)
    assert wanted
    yield call("click", ref=refs(seen, "radio", wanted[1])[0])
    yield call("click", ref=refs(seen, "button", "Submit")[0])


def click_tab(seen: str) -> Iterator[Action]:
    """The link is on the tab that shows, or else must be on the other one."""
    found = refs(seen, "link", quoted(seen)[0]) or refs(seen, "link", "Tab #2")
    yield call("click", ref=found[0])


def choose_list(seen: str) -> Iterator[Action]:
    wanted = re.match(r"Select (.*) from the list", seen)
    assert wanted
    yield call("select", ref=refs(seen, "list")[0], option=wanted[1])
    yield call("click", ref=refs(seen, "button", "Submit")[0])


def focus_text(seen: str) -> Iterator[Action]:
    place = re.search(r"(\d)(?:st|nd|rd|th)", seen)
    assert place
    yield call("click", ref=refs(seen, "textbox")[int(place[1]) - 1])


def fill_in(seen: str) -> Iterator[Action]:
    boxes, texts = refs(seen, "textbox"), quoted(seen)
    for box, text in zip(boxes, texts * (1 if len(texts) > 1 else len(boxes)), strict=True):
        yield call("type", ref=box, text=text)
    yield call("click", ref=refs(seen, "button")[-1])


SOLVERS: dict[str, Callable[[str], Iterator[Action]]] = {
    "click-button": click_button,
    "click-link": click_link,
    "click-dialog-2": click_dialog,
    "click-checkboxes": click_checkboxes,
    "click-option": click_option,
    "click-tab-2-medium": click_tab,
    "choose-list": choose_list,
    "focus-text-2": focus_text,
    "enter-text": fill_in,
    "enter-password": fill_in,
    "login-user": fill_in,
}


def chromium() -> list[int]:
    """Pids of the browser processes below this one's temporary folder, the main one first."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        if b"instar-tests-" in line and b"instar-browser-" in line and b"/chromium" in line:
            found.append((b"--type=" in line or b"crashpad" in line, int(path.parent.name)))
    return [pid for _, pid in sorted(found)]


@pytest.fixture
def load(gone: Callable[..., bool]) -> Iterator[Callable[..., MiniWob]]:
    made: list[MiniWob] = []

    def load(*pages: str, **options: Any) -> MiniWob:
        made.append(MiniWob(pages or tuple(SOLVERS), **options))
        return made[-1]

    yield load
    for suite in made:
        suite.close()
        suite.close()
    assert gone("instar-browser-")


def start(suite: MiniWob, task: Task) -> tuple[MiniWobEnvironment, str]:
    environment = suite.environment(task)
    assert isinstance(environment, MiniWobEnvironment)
    return environment, environment.start()


def test_scripted_solutions_are_worth_the_full_reward(load: Callable[..., MiniWob]) -> None:
    suite = load(per_page=3)
    assert isinstance(suite, Suite) and set(SOLVERS) == set(PAGES)
    for stored in suite.tasks():
        task = Task.model_validate_json(stored.model_dump_json())
        environment, seen = start(suite, task)
        for action in SOLVERS[task.family](seen):
            assert write_call(action.tool or "", action.arguments) in environment.valid_actions
            result = environment.step(action)
            assert result.error is None
        assert (result.reward, result.terminated) == (1.0, True), (task, seen, result)
        with pytest.raises(EnvironmentFailure, match="over"):
            environment.step(call("click", ref=1))
        environment.close()


def test_the_suite_is_sound(load: Callable[..., MiniWob]) -> None:
    suite = load("enter-text", per_page=1)
    assert check_suite(suite) == []
    assert suite._holder._browser and suite._holder._browser.pages == 0


def test_pages_are_the_same_for_the_same_seed_and_differ_by_seed(
    load: Callable[..., MiniWob],
) -> None:
    suite = load("click-button", "login-user", per_page=3)
    seen = []
    for task in (*suite.tasks(), *suite.tasks()):
        environment, first = start(suite, task)
        seen.append(first)
        environment.close()
    assert seen[:6] == seen[6:] and len(set(seen)) == 6
    assert seen[3].splitlines()[1:] == [
        "Username", '[1] textbox: ""', "Password", '[2] textbox: ""', '[3] button "Login"'
    ]  # fmt: skip


def test_what_is_wrong_changes_nothing_and_what_is_done_shows(
    load: Callable[..., MiniWob],
) -> None:
    suite = load("login-user", per_page=1)
    environment, seen = start(suite, suite.tasks()[0])
    for action, error in (
        (Action(text="click 1"), "no call"),
        (call("press", ref=1), "unknown tool"),
        (call("click", ref=9), "unknown ref"),
        (call("click", ref=True), "unknown ref"),
        (call("click", ref="1"), "unknown ref"),
        (call("click"), "bad arguments"),
        (call("click", ref=1, twice=True), "bad arguments"),
        (call("type", ref=3, text="x"), "not a textbox"),
        (call("type", ref=1, text="\ue007\x00"), "bad arguments"),
        (call("type", ref=1, text="x" * 999), "bad arguments"),
        (call("select", ref=1, option="x"), "unknown option"),
    ):
        assert environment.step(action).error == error, action
    after = environment.step(call("type", ref=1, text='I\'m "x" é'))
    assert after.observation == seen.replace('[1] textbox: ""', '[1] textbox: "I\'m "x" é"')
    result = environment.step(call("click", ref=3))
    assert (result.reward, result.terminated, result.metrics) == (0, True, {"raw_reward": -1})
    environment.close()
    environment.close()


def test_pages_are_apart_and_more_than_may_be_open_wait(load: Callable[..., MiniWob]) -> None:
    suite = load("enter-text", per_page=3, open_pages=2)
    first, _ = start(suite, suite.tasks()[0])
    second, seen = start(suite, suite.tasks()[1])
    first.step(call("type", ref=1, text="mine"))
    assert second.step(call("click", ref=1)).observation == seen
    third = suite.environment(suite.tasks()[2])
    thread = threading.Thread(target=third.start)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    first.close()
    thread.join(10)
    assert third.valid_actions and not thread.is_alive()
    second.close()
    third.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_browser_is_the_environments_failure(
    load: Callable[..., MiniWob], how: signal.Signals
) -> None:
    suite = load("enter-text", per_page=1, timeout_s=2.0)
    environment, _ = start(suite, suite.tasks()[0])
    os.kill(chromium()[0], how)
    with pytest.raises(EnvironmentFailure, match="browser") as error:
        environment.step(call("click", ref=1))
    assert "\n" not in str(error.value)
    environment.close()
    assert not chromium()
    following, seen = start(suite, suite.tasks()[0])
    assert seen.startswith("Enter")
    following.close()


def test_no_browser_outlives_its_process(gone: Callable[..., bool], nothing_leaks: Path) -> None:
    root = Path(environments.__file__).parents[1]
    code = (
        "import os, sys, signal, tempfile\n"
        f"tempfile.tempdir = {str(nothing_leaks)!r}\n"
        "from environments.suites.miniwob import MiniWob\n"
        "suite = MiniWob(['enter-text'])\n"
        "environment = suite.environment(suite.tasks()[0])\n"
        "environment.start()\n"
        "print(os.listdir(tempfile.tempdir), flush=True)\n"
        "if sys.argv[1:]: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for arguments in ([], ["killed"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=root, capture_output=True, text=True
        )
        assert "instar-browser-" in done.stdout, done.stderr
        assert gone("instar-browser-")
        deadline = time.monotonic() + 2
        while list(nothing_leaks.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not list(nothing_leaks.iterdir())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pages": ["click-buton"]}, "unknown page 'click-buton'; did you mean: click-button"),
        ({"pages": ["../x"]}, "unknown page"),
        ({"pages": []}, "give pages"),
        ({"per_page": 0}, "positive"),
    ],
)
def test_errors_say_what_is_wrong(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SuiteError, match=says):
        MiniWob(**options)


def test_a_missing_browser_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SuiteError, match="apt-get install chromium chromium-driver"):
        MiniWob()
