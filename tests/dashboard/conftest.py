"""Fixtures of the dashboard's tests: a real browser for its pages, and a history in a file."""

import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import playwright.sync_api as playwright
import pytest
from dashboard.browsing import ARGUMENTS, Watched
from monitoring.harness import program

from sluice.dashboard import history


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program("chromium"), args=list(ARGUMENTS))
        yield started
        started.close()


@pytest.fixture
def look(browser: playwright.Browser) -> Iterator[Any]:
    """Open a page: `look(url, ...)`; at the end nothing was complained of or asked elsewhere."""
    opened = []

    def go(url: str, forgives: str = "", **more: Any) -> playwright.Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **more})
        watched = Watched(context.new_page(), forgives)
        opened.append((context, watched, urllib.parse.urlsplit(url).netloc))
        watched.page.set_default_timeout(20_000)
        watched.page.goto(url)
        watched.page.wait_for_selector('#state[data-state="live"]')
        return watched.page

    yield go
    for context, watched, host in opened:
        context.close()
        assert watched.complaints == []
        assert watched.hosts == {host}


@pytest.fixture
def past(tmp_path: Path) -> history.History:
    return history.History(tmp_path / "history.db")
