"""The dashboard of a running `sluice demo`, in a real browser."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard.browsing import drawn, names, serious_faults
from harness import TESTS, free_port, wait_until

pytestmark = pytest.mark.chromium

TEAMS = ["batch-jobs", "checkout", "payments", "search"]
# The team that is over its budget first, after 12 seconds.
FIRST_OVER = "batch-jobs"
OVER_S = 60_000


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a demo's dashboard."""
    log: Path = tmp_path_factory.mktemp("demo") / "demo.log"
    api, pages = (f"127.0.0.1:{free_port()}" for _ in range(2))
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "sluice", "demo"),
                *("--listen", api, "--dashboard-listen", pages),
            ],
            cwd=TESTS.parent,
            env={n: v for n, v in os.environ.items() if not n.startswith("SLUICE_")},
            stdout=out,
            stderr=out,
        )
    try:
        wait_until(lambda: f"http://{pages}/" in log.read_text(), "the demo says what to open", 60)
        yield f"http://{pages}"
    finally:
        process.terminate()
        assert process.wait(20) == 0
    assert "Traceback" not in log.read_text()


def test_teams_move_through_the_actions_while_one_looks(demo, look):
    page = look(demo)
    page.evaluate("window.untouched = true")
    assert sorted(names(page)) == TEAMS
    badge = f"#teams tbody tr:has(a:text-is('{FIRST_OVER}')) b"
    page.wait_for_selector(f"{badge}:text-is('drop')", timeout=OVER_S)
    assert page.evaluate("window.untouched") is True


def test_a_team_page_has_plots_places_and_events(demo, look):
    page = look(f"{demo}/teams/default/{FIRST_OVER}")
    page.wait_for_selector("h1 ~ b.drop, .drop:visible", timeout=OVER_S)
    page.wait_for_selector("#events td:has-text('Exceeded')", timeout=OVER_S)
    before = page.locator("#time").inner_text()
    page.wait_for_function(
        "before => document.getElementById('time').textContent !== before", arg=before
    )
    # A minute is over, and history has who it was.
    page.wait_for_selector(f"#apps tbody th:has-text('{FIRST_OVER}-')", timeout=2 * OVER_S)
    assert page.locator("#namespaces tbody th").all_inner_texts() == [FIRST_OVER]
    drawn(page)


def test_sorting_filter_and_dark(demo, look):
    page = look(demo)
    page.locator("#teams thead th").filter(has_text="Team").first.get_by_role("button").click()
    assert names(page) in (TEAMS, TEAMS[::-1])
    page.get_by_label("Find teams").fill("sea")
    assert names(page) == ["search"]
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", f"/teams/default/{FIRST_OVER}"])
def test_axe_finds_no_serious_fault_in_the_demo(demo, look, path, scheme):
    page = look(demo + path, color_scheme=scheme)
    if path != "/":
        drawn(page)
    assert serious_faults(page) == []
