"""MiniWoB++: small web pages in headless Chromium, seen and used through text.

Needs the packages ``miniwob`` (MIT; it carries the pages) and ``selenium``, and Chromium with its
driver: see ``environments/adapters/browser.py``. Source: https://miniwob.farama.org.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import math
import re
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from environments.adapters.browser import Browser, BrowserHolder, find_programs
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
from environments.calls import write_call

# Pages whose text and controls say all that is needed, and that differ from seed to seed.
PAGES = (
    "click-button",
    "click-checkboxes",
    "click-dialog-2",
    "click-link",
    "click-option",
    "click-tab-2-medium",
    "choose-list",
    "enter-password",
    "enter-text",
    "focus-text-2",
    "login-user",
)
TEXT_CHARS = 200
_READY_S = 3.0  # animations end, pages are ready
_SCRIPT = Path(__file__).with_name("miniwob_page.js")
# No time limit (the longest that a timer takes), and the seed is the only randomness.
_BEGIN = (
    "core.EPISODE_MAX_TIME = 2147483647; Math.seedrandom(arguments[0]); core.startEpisodeReal();"
)
_ELEMENT = "return (window.instarRefs || [])[arguments[0] - 1];"


def _tool(name: str, description: str, **parameters: str) -> Tool:
    properties: dict[str, JsonValue] = {name: {"type": kind} for name, kind in parameters.items()}
    return Tool(
        name=name,
        description=description,
        parameters={
            "type": "object",
            "properties": properties,
            "required": list(parameters),
        },
    )


TOOLS = (
    _tool("click", "Clicks on an element.", ref="integer"),
    _tool("type", "Replaces the text in a textbox.", ref="integer", text="string"),
    _tool("select", "Chooses an option of a list.", ref="integer", option="string"),
)


class MiniWob:
    """Tasks are seeds of pages. The reward is the page's own, without its penalty for time.

    What the pages call -1 … 0 (wrong, or nothing) is 0 here.

    Args:
        pages: names of pages; each is a family.
        per_page: seeds of each, from 0.
        turns: how many times the agent may act.
        open_pages: most pages open at a time, in one browser.
        timeout_s: most seconds of each command to the browser.

    Raises:
        SuiteError: an unknown page, or something that is not installed.
    """

    name = "miniwob"
    description = "small web pages (MiniWoB++) in headless Chromium, used by their elements"

    def __init__(
        self,
        pages: Sequence[str] = PAGES,
        per_page: int = 50,
        turns: int = 8,
        open_pages: int = 32,
        timeout_s: float = 20.0,
    ) -> None:
        if per_page < 1 or not pages or turns < 1 or open_pages < 1 or timeout_s <= 0:
            raise SuiteError(f"{self.name}: give pages, and positive numbers")
        self._folder = _pages_folder(self.name)
        self._pages, self._per_page = tuple(dict.fromkeys(pages)), per_page
        known = sorted(path.stem for path in self._folder.glob("*.html"))
        for page in self._pages:
            if page not in known:
                close = difflib.get_close_matches(page, known, n=5) or PAGES
                raise SuiteError(
                    f"{self.name}: unknown page {page!r}; did you mean: {', '.join(close)}?"
                )
        self._holder = BrowserHolder(find_programs(self.name), timeout_s, open_pages)
        weakref.finalize(self, self._holder.close)
        self.briefing = Briefing(
            text=(
                "You use a web page through its elements. Each has a number in [ ]. "
                "Reply with one call."
            ),
            example=(
                'Press the button "Next".\n[1] textbox: ""\n[2] button "Back"\n[3] button "Next"',
                "click(ref=3)",
            ),
            turns=turns,
            max_new_tokens=48,
        )

    def tasks(self) -> Sequence[Task]:
        """All seeds of all pages, page by page."""
        return self._tasks

    @functools.cached_property
    def _tasks(self) -> tuple[Task, ...]:
        return tuple(
            Task(
                suite=self.name,
                family=page,
                prompt=f"The web page {page}, number {seed}.",
                data={"page": page, "seed": seed},
            )
            for page in self._pages
            for seed in range(self._per_page)
        )

    def environment(self, task: Task) -> Environment:
        """A fresh page for one task, in the suite's browser."""
        page, seed = task.data.get("page"), task.data.get("seed")
        path = self._folder / f"{page}.html"
        if not isinstance(page, str) or not re.fullmatch(r"[\w-]+", page) or not path.exists():
            raise SuiteError(f"{self.name}: task {task.id} names no page")
        return MiniWobEnvironment(self._holder, path.as_uri(), f"instar-{seed}")

    def close(self) -> None:
        """End the browser now; otherwise it ends with the suite, or with this process."""
        self._holder.close()


class MiniWobEnvironment:
    """One episode on one page; ``valid_actions`` are calls for all that the page offers.

    Args:
        holder: has the browser.
        url: of the page.
        seed: of the page's random numbers.
    """

    seconds = 600.0  # ``start`` may wait for a place; each command has a limit of its own

    def __init__(self, holder: BrowserHolder, url: str, seed: str) -> None:
        self._holder, self._url, self._seed = holder, url, seed
        self._browser: Browser | None = None
        self._handle = ""
        self._over = False
        self._items: dict[int, Mapping[str, Any]] = {}
        self.valid_actions: Sequence[str] = ()

    @property
    def tools(self) -> Sequence[Tool]:
        """``click``, ``type`` and ``select``."""
        return TOOLS

    def start(self) -> str:
        """Open the page and begin its episode; returns the task and the page's elements."""
        if self._over or self._browser is not None:
            raise EnvironmentFailure("an environment is used once: make a new one")
        self._browser, self._handle = self._holder.open()
        with self._browser.driver(self._handle) as driver:
            driver.get(self._url)
            driver.execute_script(_BEGIN, self._seed)
            return self._seen(self._look(driver))

    def step(self, action: Action) -> StepResult:
        """Use one element.

        Raises:
            EnvironmentFailure: the browser is lost or hangs.
        """
        if self._over or self._browser is None:
            raise EnvironmentFailure("the episode is over or not begun: make a new environment")
        if problem := self._problem(action):
            return StepResult(observation=problem[1], error=problem[0])
        with self._browser.driver(self._handle) as driver:
            from selenium.common.exceptions import (
                ElementNotInteractableException,
                InvalidElementStateException,
                StaleElementReferenceException,
            )

            try:
                _use(driver, action)
            except (
                ElementNotInteractableException,  # also: something lies over it
                InvalidElementStateException,
                StaleElementReferenceException,
            ) as error:
                return StepResult(
                    observation=f"That element cannot be used now ({type(error).__name__}).",
                    error="not interactable",
                )
            page = self._look(driver)
        if not page["done"]:
            return StepResult(observation=self._seen(page))
        self._over = True
        reward = float(page["reward"] or 0.0)
        if not math.isfinite(reward):
            raise EnvironmentFailure(f"the page gave the reward {reward}")
        return StepResult(
            observation="The page has ended the task.",
            reward=min(1.0, max(0.0, reward)),
            terminated=True,
            metrics={"raw_reward": reward},
        )

    def close(self) -> None:
        """Close the page; safe to call twice."""
        self._over = True
        browser, self._browser = self._browser, None
        if browser is not None:
            self._holder.leave(browser, self._handle)

    def _look(self, driver: Any) -> Mapping[str, Any]:
        deadline = time.monotonic() + _READY_S
        while True:
            page: Mapping[str, Any] = driver.execute_script(_script())
            if page["done"] or not page["busy"] or time.monotonic() > deadline:
                return page
            time.sleep(0.05)

    def _seen(self, page: Mapping[str, Any]) -> str:
        self._items = {item["ref"]: item for item in page["items"] if item["ref"]}
        self.valid_actions = list(_choices(self._items.values(), page["utterance"]))
        return "\n".join([page["utterance"], *map(_line, page["items"])])

    def _problem(self, action: Action) -> tuple[str, str] | None:
        """Short name and text of what is wrong with an action."""
        wanted = {tool.name: tool.parameters["required"] for tool in TOOLS}
        if action.tool is None:
            return "no call", "No call found. Reply with click(ref=…), type(…) or select(…)."
        if action.tool not in wanted:
            return "unknown tool", f"Unknown tool {action.tool[:50]!r}. Tools: click, type, select."
        ref, given = action.arguments.get("ref"), dict(action.arguments)
        if sorted(given) != sorted(wanted[action.tool]):  # type: ignore[arg-type,type-var]
            names = ", ".join(map(str, wanted[action.tool]))  # type: ignore[arg-type]
            return "bad arguments", f"The tool {action.tool} takes: {names}."
        item = self._items.get(ref) if type(ref) is int else None
        if item is None:
            return "unknown ref", "There is no element with that number in [ ]."
        if action.tool == "type":
            text = given["text"]
            if item["kind"] != "textbox":
                return "not a textbox", f"Element {ref} is no textbox."
            if not isinstance(text, str) or not _typable(text):
                return "bad arguments", f"Give text of at most {TEXT_CHARS} usual characters."
        if action.tool == "select" and given["option"] not in item["options"]:
            options = ", ".join(item["options"]) or "none, it is no list"
            return "unknown option", f"Options of element {ref}: {options[:500]}."
        return None


def _use(driver: Any, action: Action) -> None:
    from selenium.webdriver.support.select import Select

    element = driver.execute_script(_ELEMENT, action.arguments["ref"])
    if action.tool == "click":
        element.click()
    elif action.tool == "type":
        element.clear()
        element.send_keys(action.arguments["text"])
    else:
        Select(element).select_by_visible_text(action.arguments["option"])


def _choices(items: Any, utterance: str) -> Any:
    """All calls that an agent may want to make: the texts are those that the task quotes."""
    texts = list(dict.fromkeys(re.findall(r'"([^"]{1,60})"', utterance)))
    for item in items:
        ref = item["ref"]
        if item["kind"] == "list":
            for option in item["options"]:
                yield write_call("select", {"ref": ref, "option": option})
            continue
        yield write_call("click", {"ref": ref})
        if item["kind"] == "textbox":
            for text in texts:
                yield write_call("type", {"ref": ref, "text": text})


def _line(item: Mapping[str, Any]) -> str:
    if not item["ref"]:
        return str(item["name"])
    name = f' "{item["name"]}"' if item["name"] else ""
    line = f"[{item['ref']}] {item['kind']}{name}"
    if item["kind"] == "textbox":
        return f'{line}: "{item["state"]}"'
    if item["kind"] == "list":
        return f'{line}: "{item["state"]}" of {", ".join(item["options"])}'
    return f"{line} ({item['state']})" if item["state"] else line


def _typable(text: str) -> bool:
    """Characters that a driver can type: printable, none beyond the basic plane."""
    return len(text) <= TEXT_CHARS and all(c.isprintable() and c < "\U00010000" for c in text)


@functools.cache
def _script() -> str:
    return _SCRIPT.read_text(encoding="utf-8")


def _pages_folder(suite: str) -> Path:
    found = importlib.util.find_spec("miniwob")  # not imported: that loads Gymnasium
    if found is None or found.origin is None:
        raise SuiteError(
            f"the suite {suite} needs the package miniwob, which carries the pages: "
            "pip install --no-deps miniwob"
        )
    return Path(found.origin).parent / "html" / "miniwob"
