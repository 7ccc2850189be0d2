"""The board's server and Debian's chromium, for tests that look at pages as a reader does."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-quic"]
DESKTOP, PHONE = {"width": 1440, "height": 1800}, {"width": 390, "height": 1600}

# Milliseconds, and seconds until a server over many records listens: it builds their database first.
PATIENCE = 60_000
UNTIL_IT_LISTENS = 180.0

# What Streamlit draws where a script broke.
BROKEN = '[data-testid="stException"]'

# True once no script runs and nothing on the page has changed for a while: parts of it are loaded when they are needed.
_AT_REST = """() => {
  const app = document.querySelector('[data-testid="stApp"]');
  const now = document.body.innerText + document.querySelectorAll("*").length + location.href;
  if (app?.dataset.testScriptState !== "notRunning" || now !== window.seenAtRest) {
    window.seenAtRest = now;
    window.restsSince = performance.now();
  }
  return performance.now() - window.restsSince > 700;
}"""

# Streamlit asks for its own service below the address of a page first, and is told that it lies elsewhere.
_ELSEWHERE = re.compile(r"/\w+/_stcore/")


@contextmanager
def served(results: Path, log: Path) -> Iterator[str]:
    """`python -m harness board` over these results, at the address that this gives; what it says goes to `log`."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "harness", "board", "--headless", "--port", str(port), "--results", str(results)]
    with log.open("w") as out:
        server = subprocess.Popen(words, stdout=out, stderr=out, start_new_session=True)
        try:
            _wait(f"http://localhost:{port}/_stcore/health", server)
            yield f"http://localhost:{port}"
        finally:
            os.killpg(server.pid, 15)
            server.wait()


def complaints(log: Path) -> list[str]:
    """The lines of a server's log that tell of an error."""
    return [line for line in log.read_text().splitlines() if re.search(r"Traceback|Exception|Error|Warning", line)]


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser (playwright's); the test is skipped where there is none, unless CI is set."""
    if CHROMIUM is None:
        assert not os.environ.get("CI"), "CI must have chromium"
        pytest.skip("no chromium: `apt-get install chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Reader:
    """A reader with a browser context of their own, who notes every error that the console shows."""

    def __init__(self, browser: Any, size: dict[str, int] = DESKTOP, **options: Any) -> None:
        self.page = browser.new_context(viewport=size, **options).new_page()
        self.page.set_default_timeout(PATIENCE)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._note)

    def open(self, address: str) -> None:
        """Go to a page of the board, and wait until its script has run."""
        self.page.goto(address)
        self.page.locator('[data-testid="stMainBlockContainer"] h1').first.wait_for()
        self.rest()

    def rest(self) -> None:
        """Wait until the page's script has run and all is drawn; it must not have broken."""
        self.page.evaluate("() => { window.seenAtRest = null; window.restsSince = performance.now(); }")
        self.page.wait_for_function(_AT_REST, polling=200)
        assert self.page.locator(BROKEN).count() == 0, self.page.locator(BROKEN).first.inner_text()

    def said(self) -> list[str]:
        """What the page says in words, without the sidebar, tables and charts."""
        words = self.page.locator('[data-testid="stMainBlockContainer"] [data-testid="stMarkdownContainer"]:visible')
        return list(words.all_inner_texts())

    def close(self) -> None:
        """Leave."""
        self.page.context.close()

    def _note(self, message: Any) -> None:
        address = (message.location or {}).get("url", "")
        if message.type == "error" and not _ELSEWHERE.search(address):
            self.errors.append(f"{message.text} {address}")


def _wait(address: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + UNTIL_IT_LISTENS
    while time.monotonic() < until:
        assert server.poll() is None, "the server stopped"
        try:
            urllib.request.urlopen(address, timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the server did not start")
