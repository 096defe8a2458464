"""Headless Chromium, one process tree for many pages, without a network.

Needs the package ``selenium`` (Apache-2.0) and the programs ``chromium`` and ``chromedriver``
(Debian: ``apt-get install chromium chromium-driver``); other paths are named by the environment
variables MINIWOB_CHROME_BINARY and MINIWOB_CHROMEDRIVER. As root Chromium runs only without its
own sandbox (``--no-sandbox``), so that its pages must be trusted: these are files that were
installed, never the web, and no name of a host is resolved.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from environments.adapters.processes import Server, free_port
from environments.base import EnvironmentFailure, SuiteError

START_S = 40.0
_FLAGS = (
    "--headless=new", "--disable-gpu", "--no-first-run", "--no-default-browser-check",
    "--disable-dev-shm-usage", "--mute-audio", "--hide-scrollbars", "--window-size=500,500",
    "--disable-extensions", "--disable-sync", "--disable-component-update", "--disable-breakpad",
    "--disable-background-networking", "--disable-default-apps", "--disable-translate",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9",
    "--disable-background-timer-throttling", "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--disable-features=Translate,MediaRouter,OptimizationHints,AutofillServerCommunication,"
    "SpareRenderer,SpareRendererForSitePerProcess",  # no process that waits for a page
)  # fmt: skip


def find_programs(suite: str) -> tuple[str, str]:
    """Paths of Chromium and its driver.

    Raises:
        SuiteError: one of them, or selenium, is not installed.
    """
    try:
        import selenium  # noqa: F401
    except ImportError as error:
        raise SuiteError(
            f"the suite {suite} needs the package selenium ({error}): pip install selenium"
        ) from error
    chrome = os.environ.get("MINIWOB_CHROME_BINARY") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    driver = os.environ.get("MINIWOB_CHROMEDRIVER") or shutil.which("chromedriver")
    if not chrome or not driver:
        raise SuiteError(
            f"the suite {suite} needs {'chromedriver' if chrome else 'chromium'}: "
            "apt-get install chromium chromium-driver"
        )
    return chrome, driver


class Browser:
    """One browser; it has any number of pages, and one thread at a time uses it.

    Args:
        programs: paths of Chromium and its driver.
        timeout_s: most seconds for each command to it.

    Raises:
        EnvironmentFailure: it cannot be started.
    """

    def __init__(self, programs: tuple[str, str], timeout_s: float) -> None:
        from selenium import webdriver
        from selenium.webdriver.remote.client_config import ClientConfig

        chrome, driver = programs
        port = free_port()
        self._lock = threading.Lock()
        self._broken = ""
        self.pages = 0
        environ = {**os.environ, "DBUS_SESSION_BUS_ADDRESS": "disabled:"}
        self._server = Server([driver, f"--port={port}"], prefix="instar-browser-", environ=environ)
        self._server.wait_until(lambda: _listens(port), START_S)
        options = webdriver.ChromeOptions()
        options.binary_location = chrome
        options.unhandled_prompt_behavior = "accept"
        options.page_load_strategy = "normal"
        for flag in _FLAGS:
            options.add_argument(flag)
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")
        options.add_argument(f"--user-data-dir={self._server.folder / 'profile'}")
        address = f"http://127.0.0.1:{port}"
        self._config = ClientConfig(remote_server_addr=address, timeout=int(START_S))
        try:
            self._driver: Any = webdriver.Remote(
                address, options=options, client_config=self._config
            )
            self._driver.set_page_load_timeout(timeout_s)
            self._driver.set_script_timeout(timeout_s)
            self._home = self._driver.current_window_handle
        except Exception as error:
            said = self._server.said()
            self.close()
            raise EnvironmentFailure(f"no browser: {told(error)}; {said}") from error
        self._config.timeout = int(timeout_s) + 5

    @property
    def alive(self) -> bool:
        """Whether it can be used."""
        return not self._broken and self._server.alive()

    def open(self) -> str:
        """Open an empty page; returns its handle."""
        with self.driver() as driver:
            driver.switch_to.window(self._home)
            driver.switch_to.new_window("tab")
            self.pages += 1
            return str(driver.current_window_handle)

    def leave(self, handle: str) -> None:
        """Close a page; of a broken browser all pages are closed."""
        with contextlib.suppress(EnvironmentFailure), self.driver(handle) as driver:
            driver.close()
        self.pages -= 1

    @contextlib.contextmanager
    def driver(self, handle: str = "") -> Iterator[Any]:
        """The driver, alone with it, on a page.

        Raises:
            EnvironmentFailure: the browser is lost or hangs, or the page is; it is ended then.
        """
        from selenium.common.exceptions import WebDriverException

        with self._lock:
            if not self.alive:
                raise EnvironmentFailure(f"the browser is lost: {self._broken or 'it has ended'}")
            try:
                if handle:
                    self._driver.switch_to.window(handle)
                yield self._driver
            except (WebDriverException, OSError) as error:
                self._fail(error)
            except Exception as error:  # the connection's own (urllib3)
                if not type(error).__module__.startswith("urllib3"):
                    raise
                self._fail(error)

    def close(self) -> None:
        """End it with all its processes; safe to call twice."""
        self._broken = self._broken or "it was closed"
        self._server.close()
        driver = getattr(self, "_driver", None)
        if driver is not None:
            with contextlib.suppress(Exception):
                driver.command_executor.close()

    def _fail(self, error: Exception) -> None:
        self._broken = told(error)
        self.close()
        raise EnvironmentFailure(f"the browser failed: {self._broken}") from error


class BrowserHolder:
    """The browser of a suite: started when first needed, and again when it was lost.

    Args:
        programs: paths of Chromium and its driver.
        timeout_s: most seconds for each command to it.
        pages: most pages at a time; a further one waits.
    """

    def __init__(self, programs: tuple[str, str], timeout_s: float, pages: int) -> None:
        self._programs, self._timeout_s = programs, timeout_s
        self._places = threading.BoundedSemaphore(pages)
        self._lock = threading.Lock()
        self._browser: Browser | None = None

    def open(self) -> tuple[Browser, str]:
        """A new page, and the browser that it is in; to be left with :meth:`leave`."""
        self._places.acquire()
        try:
            with self._lock:
                if self._browser is None or not self._browser.alive:
                    if self._browser is not None:
                        self._browser.close()
                    self._browser = Browser(self._programs, self._timeout_s)
                browser = self._browser
            return browser, browser.open()
        except BaseException:
            self._places.release()
            raise

    def leave(self, browser: Browser, handle: str) -> None:
        """Close a page."""
        try:
            browser.leave(handle)
        finally:
            self._places.release()

    def close(self) -> None:
        """End the browser; safe to call twice."""
        with self._lock:
            if self._browser is not None:
                self._browser.close()
                self._browser = None


def told(error: BaseException) -> str:
    """An error in one line, without the driver's stack trace."""
    text = str(getattr(error, "msg", None) or error).split("Stacktrace:")[0]
    return " ".join(f"{type(error).__name__}: {text}".split())[:300]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        time.sleep(0.01)
        return True
    return False
