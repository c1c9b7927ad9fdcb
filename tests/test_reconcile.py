"""Reconciliation: what upstream received beside what was charged, and any page of metrics."""

import base64
import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from harness import wait_until

from sluice import metrics
from sluice.agent import reconcile
from sluice.agent.answer import Settlement

NOON = 1_795_953_600.0


class Pages(ThreadingHTTPServer):
    """A server in another thread that answers every GET with `page`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.page: bytes = b""
        self.status = 200
        self.asked: list[dict[str, str]] = []
        self.drips = threading.Event()
        self.drips_headers = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/metrics"

    def show(self, received: int, tenant: str = "fake", more: str = "") -> None:
        labels = f'format="loki",policy="",retention_hours="744",tenant="{tenant}"'
        self.page = (
            f"# HELP {reconcile.COUNTER} The total number of uncompressed bytes received.\n"
            f"# TYPE {reconcile.COUNTER} counter\n"
            f"{reconcile.COUNTER}{{{labels}}} {float(received)}\n"
            f"{more}process_cpu_seconds_total 2.5\n"
        ).encode()


class Handler(BaseHTTPRequestHandler):
    server: Pages

    def do_GET(self) -> None:
        if self.server.drips_headers.is_set():
            with contextlib.suppress(OSError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
                while self.server.drips_headers.is_set():
                    self.wfile.write(b"x")
                    time.sleep(0.01)
            self.close_connection = True
            return
        self.server.asked.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(self.server.status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(self.server.page)
            while self.server.drips.is_set():
                self.wfile.write(b"#")
                self.server.drips.wait(0.01)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def pages() -> Iterator[Pages]:
    server = Pages()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.drips.clear()
    server.drips_headers.clear()
    server.shutdown()
    thread.join()
    server.server_close()


class Both:
    """A Reconciliation with its Sluice side, on a clock that a test sets."""

    def __init__(self, url: str | None, tenants: tuple[str, ...] = ("fake",)) -> None:
        self.settled = metrics.SettledBytes(Settlement)
        self.now = NOON
        self.it = reconcile.Reconciliation(
            self.settled.sums, url=url, tenants=tenants, clock=lambda: self.now
        )

    def poll(self) -> dict[str, object]:
        self.it.poll()
        return self.it.as_json()

    def series(self) -> dict[str, float]:
        return {
            sample.name: sample.value for family in self.it.collect() for sample in family.samples
        }


def test_both_sides_begin_with_the_first_page(pages: Pages) -> None:
    both = Both(pages.url)
    assert both.it.as_json() == {
        "settledBytes": dict.fromkeys(Settlement, 0),
        "tenants": ["fake"],
        "error": None,
    }
    assert both.series() == {}
    both.settled.add("stored", 70)
    pages.show(5_000)
    seen = both.poll()
    assert (seen["receivedBytes"], seen["chargedBytes"], seen["differenceBytes"]) == (0, 0, 0)

    both.settled.add("stored", 300)
    both.now += 30
    pages.show(5_300)
    seen = both.poll()
    assert (seen["receivedBytes"], seen["chargedBytes"], seen["differenceBytes"]) == (300, 300, 0)
    assert (seen["since"], seen["checked"]) == ("2026-11-29T12:00:00Z", "2026-11-29T12:00:30Z")
    assert seen["words"] == [
        "since 2026-11-29T12:00:00Z upstream received 300 bytes, 300 were charged: +0"
    ]
    assert both.series() == {
        "tco_upstream_received_bytes": 300,
        "tco_upstream_charged_bytes": 300,
        "tco_reconciliation_difference_bytes": 0,
        "tco_reconciliation_checked_timestamp_seconds": NOON + 30,
    }


def test_known_reasons_for_a_difference_are_told(pages: Pages) -> None:
    both = Both(pages.url)
    pages.show(0)
    both.poll()
    for size, settlement in enumerate(Settlement, 1):
        both.settled.add(settlement, 10**size)
    pages.show(12_345)
    seen = both.poll()
    # Charged: 10 stored and 100 in part.
    assert (seen["chargedBytes"], seen["differenceBytes"]) == (110, 12_235)
    assert seen["words"] == [
        "since 2026-11-29T12:00:00Z upstream received 12345 bytes, 110 were charged: +12235",
        "1000 bytes were received and not stored, and refunded",
        "10000000 bytes got no answer, were refunded, and may have been received",
        "1000000 bytes got a 5xx, were refunded, and may have been received",
        "100000 bytes were refused in unknown words, refunded, and may have been received",
        "100 bytes were charged and stored in part only",
        reconcile.OTHERS,
    ]


def test_series_of_the_tenant_are_added_up_and_of_no_other(pages: Pages) -> None:
    both = Both(pages.url, ("a", "b"))
    pages.show(100, "a")
    both.poll()
    other = f'{reconcile.COUNTER}{{tenant="c"}} 7e6\n'
    # A series that is new has counted from nought.
    new = f'{reconcile.COUNTER}{{tenant="b",policy="p"}} 30 1795953600000\n{other}'
    pages.show(110, "a", new)
    assert both.poll()["receivedBytes"] == 40


def test_a_counter_that_begins_again_begins_both_sides_again(pages: Pages) -> None:
    both = Both(pages.url)
    pages.show(1_000)
    both.poll()
    both.settled.add("stored", 500)
    pages.show(1_500)
    both.poll()
    both.now += 60
    # Upstream was restarted, and 40 bytes came to it since.
    both.settled.add("stored", 40)
    pages.show(40)
    seen = both.poll()
    assert (seen["receivedBytes"], seen["chargedBytes"]) == (0, 0)
    assert (seen["counterResets"], seen["since"]) == (1, "2026-11-29T12:01:00Z")
    both.settled.add("stored", 5)
    pages.show(45)
    assert both.poll()["differenceBytes"] == 0
    # Its series is gone: no push came since it was restarted.
    pages.show(9, "other")
    assert both.poll()["counterResets"] == 2
    both.settled.add("stored", 6)
    pages.show(6)
    seen = both.poll()
    assert (seen["receivedBytes"], seen["differenceBytes"]) == (6, 0)


LINE = reconcile.COUNTER.encode()
HOSTILE = {
    "empty": b"",
    "HTML": b"<html><body>loki_distributor_bytes_received_total</body></html>",
    "half a line": LINE + b'{tenant="fake"',
    "no number": LINE + b'{tenant="fake"} many\n',
    "NaN": LINE + b'{tenant="fake"} NaN\n',
    "infinite": LINE + b'{tenant="fake"} +Inf\n',
    "negative": LINE + b'{tenant="fake"} -1\n',
    "more than can be": LINE + b'{tenant="fake"} 1e300\n',
    "no text": LINE + b'{tenant="\xff"} 1\n',
    "zeros": bytes(1_000_000),
    "large": b"#" * (reconcile.PAGE_MAX + 1),
    "many series": b"".join(
        b'%s{tenant="fake",i="%d"} 1\n' % (LINE, i) for i in range(reconcile.SERIES_MAX + 1)
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_page_that_cannot_be_used_is_said_and_changes_nothing(pages: Pages, name: str) -> None:
    both = Both(pages.url)
    pages.show(100)
    both.poll()
    both.settled.add("stored", 10)
    pages.show(110)
    before = both.poll()
    pages.page = HOSTILE[name]
    both.now += 30
    after = both.poll()
    assert isinstance(after["error"], str)
    assert after["error"] == both.it.trouble != ""
    assert after == {**before, "error": after["error"]}
    assert both.series()["tco_reconciliation_difference_bytes"] == 0

    pages.show(110)
    assert both.poll()["error"] is None
    assert both.it.trouble == ""


def test_a_page_that_holds_nothing_of_the_counter_is_that_of_a_fresh_loki(pages: Pages) -> None:
    both = Both(pages.url)
    pages.page = b"# HELP up 1\nup 1\n"
    assert both.poll()["error"] is None
    both.settled.add("stored", 7)
    pages.show(7)
    seen = both.poll()
    assert (seen["receivedBytes"], seen["differenceBytes"]) == (7, 0)


@pytest.mark.parametrize("status", [204, 302, 401, 404, 500])
def test_another_status_is_no_page(pages: Pages, status: int) -> None:
    both = Both(pages.url)
    pages.show(7)
    pages.status = status
    assert both.poll()["error"] == f"answered with status {status}"
    assert len(pages.asked) == 1


def test_a_page_that_does_not_end_is_given_up(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "PAGE_S", 0.3)
    both = Both(pages.url)
    pages.drips.set()
    assert both.poll()["error"] == "the page did not end within 0.3 s"


def test_headers_that_do_not_end_are_said_while_they_come(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "PAGE_S", 0.2)
    both = Both(pages.url)
    pages.drips_headers.set()
    thread = threading.Thread(target=both.it.poll)
    thread.start()
    wait_until(lambda: both.it.trouble, "it is said")
    assert both.it.as_json()["error"] == "the headers of the page did not end within 0.4 s"
    pages.drips_headers.clear()
    thread.join()


def test_a_server_that_is_not_there_is_said_without_the_urls_password() -> None:
    both = Both("http://reader:secret@127.0.0.1:1/metrics")
    error = both.poll()["error"]
    assert "no answer" in error
    assert "secret" not in error


def test_user_and_password_of_the_url_are_sent_as_credentials(pages: Pages) -> None:
    both = Both(pages.url.replace("http://", "http://reader:a%3Ab@"))
    pages.show(1)
    assert both.poll()["error"] is None
    (headers,) = pages.asked
    assert headers["authorization"] == f"Basic {base64.b64encode(b'reader:a:b').decode()}"


def test_without_a_page_only_what_was_sent_is_shown() -> None:
    both = Both(None)
    both.it.start()
    both.settled.add("unknown", 9)
    seen = both.it.as_json()
    assert list(seen) == ["settledBytes"]
    assert seen["settledBytes"]["unknown"] == 9
    assert both.series() == {}


def test_sums_hold_under_threads() -> None:
    settled = metrics.SettledBytes(Settlement)

    def work() -> None:
        for _ in range(2_000):
            settled.add("stored", 3)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert settled.sums()["stored"] == 48_000
