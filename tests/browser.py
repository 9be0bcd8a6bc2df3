"""A real browser, and `harness ui` for it to look at."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
from conftest import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")


@contextmanager
def serving(folder):
    """`harness ui` of a repository; its address, and its process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "ui"], cwd=folder, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", address), address
        yield address, process
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        found = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Watched:
    """A page, and all that should not happen in it: `troubles` are errors, `elsewhere` requests to others."""

    def __init__(self, browser, address, **about):
        self.context = browser.new_context(**about)
        self.page = self.context.new_page()
        self.address, self.troubles, self.elsewhere = address, [], []
        self.page.on("console", lambda said: said.type == "error" and self.troubles.append(said.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", self._asked)

    def _asked(self, request):
        own = self.address.rsplit("/", 1)[0]
        if not request.url.startswith((own, "data:", "blob:")):
            self.elsewhere.append(request.url)

    def look(self, view="overview"):
        self.page.goto(f"{self.address}#/{view}")
        self.page.reload()
        self.page.wait_for_selector("main h2")
        return self.page

    def close(self):
        assert not self.troubles and not self.elsewhere
        self.context.close()


@pytest.fixture
def watch(browser):
    opened = []

    def opens(address, **about):
        opened.append(Watched(browser, address, **about))
        return opened[-1]

    yield opens
    for each in opened:
        each.close()
