"""A server and a browser for the tests of the inspector's pages."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from memory.inspector.follow import Followed
from memory.inspector.server import application

WAIT_S = 60  # a busy machine must not decide


@contextmanager
def served(*runs: Followed, every_s: float = 0.2) -> Iterator[str]:
    """Serve runs on a free port; yields the address. They are closed at the end."""
    for run in runs:
        run.start(every_s)
    config = uvicorn.Config(
        application(runs), host="127.0.0.1", port=0, log_level="error", lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        for run in runs:
            run.close()


def open_chromium() -> webdriver.Chrome:
    """Headless Chromium that reaches this machine only: whatever else a page asks for fails."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium and driver, "apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-extensions", "--disable-background-networking", "--disable-component-update",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):  # fmt: skip
        options.add_argument(flag)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


class Page:
    """A page of the inspector in a browser.

    Args:
        driver: the browser.
        address: of the server or of the exported file, without ``#``.
    """

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver, self.address = driver, address
        self.look(1280, 900)

    def look(self, width: int, height: int, dark: bool = False) -> None:
        """Set the window's size and the system's colours."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def go(self, route: str) -> Page:
        """Open a route afresh, and wait for its heading."""
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get(f"{self.address}{'' if '://' in route else '#/'}{route}")
        self.until("return document.querySelector('main h1, main .empty h3') !== null")
        return self

    def until(self, script: str, *arguments: Any) -> Any:
        """Wait until a script returns something true."""
        wait = WebDriverWait(self.driver, WAIT_S, poll_frequency=0.05)
        return wait.until(lambda driver: driver.execute_script(script, *arguments), script)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def text(self, selector: str = "main") -> str:
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def all(self, selector: str) -> Sequence[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def complaints(self) -> list[str]:
        """What the browser's console says: errors of scripts, refused contents, failed loads."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def wider_by(self) -> int:
        """How many pixels the page is wider than its window."""
        return self.run(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )

    def point_at_an_item(self) -> tuple[int, int]:
        """Move the pointer over the map until an item's text shows; where that is on the canvas."""
        self.until("return document.querySelector('.mapbox')?.dataset.ready === 'yes'")
        at = self.run(
            """
            const canvas = document.querySelector('.mapbox canvas');
            const box = canvas.getBoundingClientRect();
            const over = (x, y) => {
              canvas.dispatchEvent(new PointerEvent('pointermove', {
                clientX: box.left + x, clientY: box.top + y, pointerType: 'mouse',
              }));
              return canvas.style.cursor === 'pointer';
            };
            for (let y = 0; y < box.height; y += 9) {
              for (let x = 0; x < box.width; x += 9) {
                // Its row is the first that reaches an item, which so lies below.
                if (over(x, y) && over(x + 2, y + 5)) return [x + 2, y + 5];
              }
            }
            return null;"""
        )
        assert at, "there is no item on the map"
        self.until("return !document.querySelector('.tip').hidden")
        return at[0], at[1]


def follow(ledger: Path, folder: Path, name: str = "made") -> Followed:
    """A run with its digest in ``folder``."""
    return Followed(name, ledger, folder=folder)
