"""The pages in a real browser: drawn, live, sorted, filtered, dark, by keyboard, on a phone, axe.

`base_url` is a dashboard over a real ledger that is being charged; any running Sluice would do,
such as that of `sluice demo`.
"""

import contextlib
import threading
import time
from collections.abc import Iterator

import playwright.sync_api as playwright
import pytest
from dashboard.browsing import drawn, names, serious_faults
from dashboard.harness import Memory, Teams, a_day, origin_of, row, serving, site
from harness import budget, free_port

from sluice import Budget, Gate, forecast, settings, source, usage
from sluice.dashboard import app
from sluice.records import Event, Place

pytestmark = pytest.mark.chromium

FEED_S = 0.2
LIMIT = 1_000_000
BUDGETS = [
    budget("checkout", LIMIT, monthlyLimit=30 * LIMIT, costPerGiB=0.5),
    budget("payments", LIMIT, throttle={"sampleRate": 0.25}, timeZone="Europe/Berlin"),
    budget("search", LIMIT, enforcement="DryRun"),
    budget("batch-jobs", LIMIT),
]
# What each has used before anybody looks, and then each FEED_S.
USED = {"checkout": 100_000, "payments": 850_000, "search": 2_000_000, "batch-jobs": 999_990}
EVIL = '"><script>window.evil=1</script><img src=x onerror="window.evil=1"><a href=//evil>x</a>'


@contextlib.contextmanager
def charged(gate: Gate) -> Iterator[None]:
    """Charge all teams while this lasts."""
    stopping = threading.Event()
    teams = gate.resolve(list(USED))
    gate.evaluate(teams, list(USED.values()), now=time.time())

    def feed() -> None:
        while not stopping.wait(FEED_S):
            gate.evaluate(teams, [777] * len(teams), now=time.time())

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """The URL of a dashboard whose teams are being charged."""
    gate, now = Gate([Budget.from_manifest(one) for one in BUDGETS]), time.time()
    points, _, _ = a_day(now, LIMIT, 60)
    records = Memory(
        points,
        [Place("checkout", 80_000)],
        [Place("api", 60_000), Place("worker", 20_000)],
        [Event(now - 60, "checkout/checkout", "Warning", "BudgetThrottled", "80 % is used")],
    )

    outlooks = forecast.Outlooks()
    with charged(gate):
        outlooks.observe(usage.rows(gate.ledger, now))
        origin = source.Source(lambda at: usage.rows(gate.ledger, at), outlooks, records, None)
        with serving(site(origin, currency="EUR")) as url:
            yield url


def first_team(base_url: str, page: playwright.Page) -> str:
    return base_url + (page.locator("#teams tbody a").first.get_attribute("href") or "")


def test_the_overview_shows_every_team_with_its_action(base_url, look):
    page = look(base_url)
    assert sorted(names(page)) == sorted(set(names(page)))
    words = set(page.locator("#teams tbody b").all_text_contents())
    assert words <= {"allow", "throttle", "drop"}
    assert page.locator("#teams tbody tr").count() == len(names(page))
    assert page.locator("#teams tbody td:nth-child(3) span").first.inner_text().endswith(" %")


def test_the_overview_changes_without_being_reloaded(base_url, look):
    page = look(base_url)
    page.evaluate("window.untouched = true")
    cell = '#teams tbody tr:has(b.allow) td[title$="bytes"]'
    before = page.locator(cell).first.get_attribute("title")
    page.wait_for_function(
        "([cell, before]) => document.querySelector(cell).title !== before", arg=[cell, before]
    )
    assert page.evaluate("window.untouched") is True


def test_a_team_page_draws_its_plots_and_changes_without_being_reloaded(base_url, look):
    page = look(base_url)
    page = look(first_team(base_url, page))
    drawn(page)
    page.evaluate("window.untouched = true")
    assert page.locator("#usage .legendtext").all_text_contents()[:3] == [
        "used",
        "forecast",
        "80 %",
    ]
    assert page.locator("#outcomes .legendtext").all_text_contents()[:3] == [
        "allowed", "sampled out", "dropped",
    ]  # fmt: skip
    before = page.locator("#time").inner_text()
    page.wait_for_function(
        "before => document.getElementById('time').textContent !== before", arg=before
    )
    assert page.evaluate("window.untouched") is True


def test_the_plot_itself_goes_on(base_url, look):
    page = look(f"{base_url}/teams/checkout/checkout")
    drawn(page)
    ends = "document.getElementById('usage').data[0].x.at(-1)"
    before = page.evaluate(ends)
    page.wait_for_function(f"before => {ends} > before", arg=before)


def test_the_last_hour_can_be_looked_at_more_closely(base_url, look):
    page = look(f"{base_url}/teams/checkout/checkout")
    drawn(page)
    length = "Date.parse(document.getElementById('usage').layout.xaxis.range[1])" \
        " - Date.parse(document.getElementById('usage').layout.xaxis.range[0])"  # fmt: skip
    # Which of the two it begins with depends on the time of day.
    page.get_by_role("button", name="day", exact=True).click()
    page.wait_for_function(f"() => {length} > 20 * 3600000")
    page.get_by_role("button", name="last hour").click()
    page.wait_for_function(f"() => {length} < 2 * 3600000")


def test_every_plot_has_its_numbers_in_words(base_url, look):
    page = look(f"{base_url}/teams/checkout/checkout")
    drawn(page)
    label = page.locator("#usage").get_attribute("aria-label")
    assert "of 1.00 MB at" in label
    page.get_by_text("Usage as a table").click()
    assert page.locator("#usage-table tbody tr").count() > 0
    assert page.locator("#apps tbody th").all_inner_texts() == ["api", "worker"]
    assert "BudgetThrottled" in page.locator("#events").inner_text()


@pytest.mark.parametrize("column", ["Team", "Action", "Today", "Month", "Rate", "Cut today"])
def test_a_column_sorts_both_ways_by_mouse_and_by_keyboard(base_url, look, column):
    page = look(base_url)
    head = page.locator("#teams thead th").filter(has_text=column).first
    button = head.get_by_role("button")
    button.click()
    one, way = names(page), head.get_attribute("aria-sort")
    button.focus()
    page.keyboard.press("Enter")
    other = head.get_attribute("aria-sort")
    assert {way, other} == {"ascending", "descending"}
    assert page.locator('#teams thead [aria-sort="ascending"]').count() <= 1
    assert sorted(one) == sorted(names(page))
    if column == "Team":
        assert names(page) == one[::-1]


def test_filters_are_in_the_address_and_come_back_with_it(base_url, look):
    page = look(base_url)
    everybody = len(names(page))
    page.get_by_label("Find teams").fill("check")
    assert names(page) == ["checkout"]
    assert page.locator("#shown").inner_text() == "1 shown"
    assert "q=check" in page.url
    again = look(page.url)
    assert names(again) == ["checkout"]
    page.get_by_label("Find teams").fill("")
    assert len(names(page)) == everybody
    page.locator('.chips button[data-action="allow"]').click()
    assert set(page.locator("#teams tbody tr:visible b").all_text_contents()) <= {"allow"}
    assert (
        page.locator('.chips button[data-action="allow"]').get_attribute("aria-pressed") == "true"
    )


def test_a_filter_that_nothing_passes_says_so_and_one_that_there_is_not_is_none(base_url, look):
    page = look(f"{base_url}/?action=explode")
    assert len(names(page)) == page.locator("#teams tbody tr").count() > 0
    assert page.locator('.chips [aria-pressed="true"]').get_attribute("data-action") == ""
    assert page.locator("#none").is_hidden()
    page.get_by_label("Find teams").fill("nobody-is-called-so")
    assert names(page) == []
    assert page.locator("#none").is_visible()
    assert page.locator("#empty").is_hidden()
    page.get_by_label("Find teams").fill("")
    assert page.locator("#none").is_hidden()


def test_dark_is_chosen_by_the_system_and_then_by_the_reader_who_is_remembered(base_url, look):
    page = look(base_url, color_scheme="dark")
    root = page.locator("html")
    assert root.get_attribute("data-theme") == "dark"
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert root.get_attribute("data-theme") == "light"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    page.reload()
    assert root.get_attribute("data-theme") == "light"


def test_plots_follow_the_colours(base_url, look):
    page = look(f"{base_url}/teams/checkout/checkout")
    drawn(page)
    ink = "getComputedStyle(document.querySelector('#usage .xtick text')).fill"
    before = page.evaluate(ink)
    page.locator("#theme").click()
    page.wait_for_function(f"before => {ink} !== before", arg=before)


def test_a_keyboard_reaches_everything_and_sees_where_it_is(base_url, look):
    page = look(base_url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = []
    for _ in range(18):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.textContent.trim()"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert "Team" in seen
    assert any(team in seen for team in names(page))


@pytest.mark.parametrize("path", ["/", "/teams/checkout/checkout"])
def test_a_phone_shows_it_without_scrolling_sideways(base_url, look, path):
    page = look(base_url + path, viewport={"width": 360, "height": 740}, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    if path == "/":
        assert page.locator("#teams tbody tr td:visible").count() >= 2 * len(names(page))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/teams/checkout/checkout", "/teams/payments/payments"])
def test_axe_finds_no_serious_fault(base_url, look, path, scheme):
    page = look(base_url + path, color_scheme=scheme)
    if path != "/":
        drawn(page)
    assert serious_faults(page) == []


def test_a_lost_connection_is_said_and_comes_back_with_everything(look):
    teams = Teams([row(now=time.time(), day=5)])
    origin, listen = origin_of(teams, time.time()), settings.Address("127.0.0.1", free_port())
    with serving(site(origin), listen) as url:
        page = look(url, forgives="net::ERR_")
    page.wait_for_selector('#state[data-state="reconnecting"]')
    teams.put(row("late", now=time.time(), day=6))
    with serving(site(origin), listen):
        page.wait_for_selector('#state[data-state="live"]')
        page.wait_for_selector("text=late")
        page.context.close()


def test_hostile_names_run_nothing(look):
    now = time.time()
    name, points = EVIL.replace("/", "|"), a_day(now, 1000)[0]
    teams = Teams([row(name, "<b>ns", now=now, day=900, limit=1000)])
    memory = Memory(points, [Place(EVIL, 5)], [Place(EVIL, 5)],
                    [Event(now, f"<b>ns/{name}", "Warning", EVIL, EVIL)])  # fmt: skip
    with serving(site(origin_of(teams, now, memory, 1.0), currency=EVIL, title_note=EVIL)) as url:
        page = look(url)
        assert names(page) == [name]
        # A row that comes later is made in the browser.
        teams.put(row(f"{name}2", "<b>ns", now=now, day=1))
        page.wait_for_function("() => document.querySelectorAll('#teams tbody tr').length === 2")
        assert f"{name}2" in names(page)
        page = look(first_team(url, page))
        drawn(page)
        page.wait_for_selector("#events td")
        assert EVIL in page.locator("#events").inner_text()
        assert page.evaluate("window.evil") is None
        assert page.locator("main img, main script").count() == 0


def test_teams_of_one_name_are_told_apart_by_their_namespaces_and_long_names_by_their_titles(look):
    now, long = time.time(), "a-name-of-63-letters-" * 3
    teams = Teams([row("backend-team", space, now=now) for space in ("production", "staging")])
    with serving(site(origin_of(teams, now))) as url:
        page = look(url)
        teams.put(row(long, long, now=now))
        page.wait_for_function("() => document.querySelectorAll('#teams tbody tr').length === 3")
        cut = """cells => cells.filter(one => one.scrollWidth > one.clientWidth)
            .map(one => one.textContent)"""
        assert page.locator("#teams tbody th > a, #teams tbody th > small").evaluate_all(cut) == [
            long, long,
        ]  # fmt: skip
        titles = page.locator("#teams tbody th").evaluate_all("all => all.map(one => one.title)")
        assert sorted(titles) == [
            f"{long}/{long}", "production/backend-team", "staging/backend-team",
        ]  # fmt: skip


def test_budgets_that_are_refused_are_told_where_teams_are_looked_for(look):
    now, status = time.time(), source.Status()
    made = app.create_app(origin_of(Teams([row(now=now)]), now), status)
    with serving(made) as url:
        page = look(url)
        told = page.locator("#problems")
        assert told.is_hidden()
        status.problems = [{"file": "a.yaml", "message": "spec: <b>"}, {"file": "b.yaml"}]
        told.wait_for(state="visible")
        assert told.inner_text().startswith("2 problems with budgets")
        assert page.evaluate("fetch(document.querySelector('#problems a').href).then(r => r.ok)")
        assert serious_faults(page) == []
        assert look(url).locator("#problems").is_visible()
        status.problems = []
        told.wait_for(state="hidden")


def test_without_history_the_panels_say_so(look):
    teams = Teams([row(now=time.time(), day=5)])
    with serving(site(origin_of(teams, time.time()))) as url:
        page = look(f"{url}/teams/default/shop")
        page.wait_for_selector(".missing:not([hidden])")
        assert "keeps no history" in page.locator(".missing:visible").first.inner_text()
        assert page.locator("#usage").is_hidden()


def test_a_thousand_teams_can_be_sorted_and_found(look):
    now = time.time()
    teams = Teams([row(f"team-{i:04}", now=now, day=i) for i in range(1000)])
    with serving(site(origin_of(teams, now))) as url:
        page = look(url)
        page.get_by_role("button", name="Used today").click()
        assert page.locator("#teams tbody th a").first.text_content() == "team-0999"
        page.get_by_label("Find teams").fill("team-0500")
        assert names(page) == ["team-0500"]
        del teams.now["default/team-0500"]
        page.wait_for_function("() => document.querySelectorAll('#teams tbody tr').length === 999")
        assert names(page) == []
