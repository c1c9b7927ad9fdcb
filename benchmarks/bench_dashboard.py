"""The dashboard with 1000 teams: time to the first byte and until it can be used; 50 live pages.

The server runs in a process of its own (dashboard_site.py), whose CPU is measured; a hundred of
its teams change each second.
"""

import http.client
import os
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import load
import playwright.sync_api as playwright
import pytest
from harness import running
from monitoring.harness import program
from race import add_row, ms

TEAMS, CHANGES_PER_S = 1000, 100
LISTENERS = 50
SECONDS = float(os.environ.get("BENCH_DASHBOARD_SECONDS", "20"))
LOOKS = 15
HTML = {"Accept": "text/html", "Accept-Encoding": "gzip"}
MB = 1_000_000
# What must hold.
FIRST_BYTE_S, INTERACTIVE_S, CORE = 0.1, 1.0, 0.2


@pytest.fixture
def site(tmp_path: Path) -> Iterator[load.Script]:
    """A dashboard in another process."""
    server = load.Script(
        tmp_path, "dashboard_site.py", "--teams", str(TEAMS), "--changes", str(CHANGES_PER_S)
    )
    with running(server):
        yield server


def first_byte(port: int) -> tuple[float, int]:
    """Seconds from the request to the first byte of the overview, and its size as sent."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.connect()
    began = time.perf_counter()
    connection.request("GET", "/", headers=HTML)
    reply = connection.getresponse()
    seconds = time.perf_counter() - began
    size = len(reply.read())
    connection.close()
    return seconds, size


def bench_first_byte(benchmark: Any, site: load.Script) -> None:
    seconds, sizes = [], []
    for i in range(LOOKS):
        # Each in a second of its own, so that none finds what another has made.
        time.sleep(1.1)
        look = first_byte if i else lambda port: benchmark.pedantic(first_byte, args=(port,))
        took, size = look(site.port)
        seconds.append(took)
        sizes.append(size)
    add_row(
        f"Overview of {TEAMS} teams, first byte",
        median_ms=ms(statistics.median(seconds)),
        slowest_ms=ms(max(seconds)),
        kB_sent=f"{max(sizes) / 1000:.0f}",
        must_hold_ms=ms(FIRST_BYTE_S),
    )


def bench_interactive(benchmark: Any, site: load.Script) -> None:
    if program("chromium") is None:
        pytest.skip("no chromium here")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )

        def opened() -> tuple[float, float]:
            """Seconds until the page can be used, and until its first sort is drawn."""
            context = browser.new_context(viewport={"width": 1440, "height": 900})
            page = context.new_page()
            page.goto(site.url, wait_until="commit")
            page.wait_for_function("() => document.documentElement.dataset.ready")
            usable = page.evaluate(
                "() => performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
            )
            page.click("text=Used today")
            sort = page.evaluate(
                "() => { const from = performance.now();"
                " document.querySelector('[data-name=used] button').click();"
                " document.body.offsetHeight; return performance.now() - from; }"
            )
            context.close()
            return usable / 1000, sort / 1000

        looks = [benchmark.pedantic(opened), *(opened() for _ in range(4))]
        browser.close()
    usable, sort = zip(*looks, strict=True)
    add_row(
        f"Overview of {TEAMS} teams in Chromium",
        interactive_median_ms=ms(statistics.median(usable)),
        slowest_ms=ms(max(usable)),
        a_sort_ms=ms(statistics.median(sort)),
        must_hold_ms=ms(INTERACTIVE_S),
    )


def read(port: int, path: str, counts: list[int], stopping: threading.Event) -> None:
    """Read events until told to stop; counts their bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    reply = connection.getresponse()
    while not stopping.is_set():
        counts.append(len(reply.readline()))
    reply.close()
    connection.close()


def listened(site: load.Script, listeners: int) -> tuple[float, int, float]:
    """Cores, bytes a second and MB resident of a server with so many live pages."""
    counts: list[int] = []
    stopping = threading.Event()
    readers = [
        threading.Thread(target=read, args=(site.port, "/live", counts, stopping), daemon=True)
        for _ in range(listeners)
    ]
    for reader in readers:
        reader.start()
    time.sleep(2)
    (process,) = site.family()
    before, sent, began = load.cpu_s([process]), sum(counts), time.monotonic()
    time.sleep(SECONDS)
    seconds = time.monotonic() - began
    cores, bytes_per_s = (load.cpu_s([process]) - before) / seconds, (sum(counts) - sent) / seconds
    resident = process.memory_info().rss / MB
    stopping.set()
    for reader in readers:
        reader.join(10)
    return cores, round(bytes_per_s), resident


def bench_live(benchmark: Any, site: load.Script) -> None:
    for listeners in (0, 1, LISTENERS):
        if listeners == LISTENERS:
            cores, sent, resident = benchmark.pedantic(listened, args=(site, listeners))
        else:
            cores, sent, resident = listened(site, listeners)
        add_row(
            f"Live pages on {TEAMS} teams, {CHANGES_PER_S} of which change each second",
            pages=listeners,
            cores=f"{cores:.3f}",
            kB_per_s=f"{sent / 1000:.0f}",
            resident_MB=f"{resident:.0f}",
            must_hold_cores=CORE,
        )
