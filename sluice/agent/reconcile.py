"""Compare what was charged with what upstream's own counter says it received.

A page of metrics is read every half a minute, in a thread of its own. What is wrong with the page
is shown in /api/health, and nothing else depends on it.
"""

import dataclasses
import logging
import re
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import urllib3
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from sluice import window
from sluice.agent.answer import Settlement
from sluice.agent.certificates import Certificates
from sluice.agent.destination import Proxy

log = logging.getLogger("sluice.agent")

COUNTER = "loki_distributor_bytes_received_total"
# Its lines only: a page of Loki has thousands of series, and parsing all would hold up pushes.
LINES = re.compile(rb"^" + COUNTER.encode() + rb"[{ \t][^\n]*$", re.MULTILINE)
DESCRIPTION = re.compile(rb"^# (?:HELP|TYPE) ", re.MULTILINE)
POLL_S = 30.0
PAGE_MAX, PAGE_S = 8 * 2**20, 10.0
SERIES_MAX = 10_000
PIECE = 2**16
# What prometheus_client's parser raises on a line that it cannot read.
UNREADABLE = (ValueError, IndexError, KeyError, TypeError, AttributeError)

Series = dict[tuple[tuple[str, str], ...], float]

# Why upstream may have received something else than was charged, as /api/health says it.
REASONS = {
    Settlement.NOT_STORED: "were received and not stored, and refunded",
    Settlement.UNANSWERED: "got no answer, were refunded, and may have been received",
    Settlement.FAILED: "got a 5xx, were refunded, and may have been received",
    Settlement.UNKNOWN: "were refused in unknown words, refunded, and may have been received",
    Settlement.IN_PART: "were charged and stored in part only",
}
OTHERS = (
    "what others send to the same tenant is in the difference, other nodes of Sluice included,"
    " and what is on its way right now"
)


class BadPage(Exception):
    """The page of metrics cannot be had or cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Books:
    """Both sides since the same moment, in bytes.

    Attributes:
        since, checked: epoch seconds.
        received: by upstream's counter.
        settled: by Sluice, by settlement.
    """

    since: float
    checked: float
    received: int
    settled: Mapping[str, int]

    @property
    def charged(self) -> int:
        """What became usage."""
        return sum(self.settled.get(one, 0) for one in Settlement if one.is_charged)

    @property
    def difference(self) -> int:
        """What upstream received beyond what was charged."""
        return self.received - self.charged

    def words(self) -> list[str]:
        """The same in sentences."""
        sides = f"upstream received {self.received} bytes, {self.charged} were charged"
        found = [f"since {window.iso(self.since)} {sides}: {self.difference:+d}"]
        for settlement, words in REASONS.items():
            if size := self.settled.get(settlement, 0):
                found.append(f"{size} bytes {words}")
        if self.difference:
            found.append(OTHERS)
        return found


class Reconciliation(Collector):
    """Keep both sides of the books; what /api/health and /metrics show of them.

    Args:
        settled: bytes sent upstream by settlement, since the process began.
        url: a page in Prometheus' text format, or None to compare nothing; a user and a password in
            it are sent as basic authentication.
        tenants: whose series are added up.
        tls: makes the context of a new connection to an https:// page; None: the system's
            authorities and no certificate of our own.
        proxy: the way to the page, as upstream has it.
        clock: epoch seconds.

    Threads: one calls poll(), any number the rest.
    """

    def __init__(
        self,
        settled: Callable[[], Mapping[str, int]],
        *,
        url: str | None,
        tenants: Sequence[str],
        tls: Certificates | None = None,
        proxy: Proxy | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settled, self._tenants, self._clock = settled, tenants, clock
        self._url, self._headers = without_credentials(url or "")
        self._tls, self._proxy = tls, proxy
        self._context: ssl.SSLContext | None = None
        self._pool: urllib3.PoolManager | None = None
        self._last: Series | None = None
        self._first: Series = {}
        self._settled_first: Mapping[str, int] = {}
        self._resets = 0
        # Replaced as a whole.
        self.books: Books | None = None
        self._failure = ""
        # When a poll began that has not ended (monotonic seconds).
        self._began: float | None = None

    @property
    def trouble(self) -> str:
        """Why the page could not be read last, "" where it could.

        A server that drips its headers is not bounded by a timeout of urllib3: it is said here.
        """
        began = self._began
        if began is not None and time.monotonic() > began + 2 * PAGE_S:
            return f"the headers of the page did not end within {2 * PAGE_S:g} s"
        return self._failure or (self._tls.complaint if self._tls else "")

    def poll(self) -> None:
        """Read the page and bring both sides up to date."""
        self._began = time.monotonic()
        try:
            series = read_series(self._page(), self._tenants)
        except BadPage as error:
            if self._failure != str(error):
                log.warning("upstream's metrics: %s", error)
            self._failure = str(error)
            return
        finally:
            self._began = None
        self._failure = ""
        self._update(series, self._settled(), self._clock())

    def start(self) -> None:
        """Poll until the process ends; nothing is lost when that ends a poll half-way."""
        if self._url:
            threading.Thread(target=self._run, name="reconciliation", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                self.poll()
            except Exception:
                log.exception("reconciliation failed")
            time.sleep(POLL_S)

    def _update(self, series: Series, settled: Mapping[str, int], now: float) -> None:
        """Compare with the page before; a counter that fell or is gone begins both sides again."""
        last = self._last
        if last is None or any(series.get(labels, -1.0) < value for labels, value in last.items()):
            self._resets += last is not None
            self._first, self._settled_first = series, dict(settled)
            self.books = Books(now, now, 0, dict.fromkeys(settled, 0))
        elif self.books is not None:
            received = sum(series.values()) - sum(self._first.values())
            ours = {name: size - self._settled_first.get(name, 0) for name, size in settled.items()}
            self.books = dataclasses.replace(
                self.books, checked=now, received=round(received), settled=ours
            )
        self._last = series

    def _manager(self) -> urllib3.PoolManager:
        """The connections to the page; new ones when certificates have changed."""
        context = self._tls.context() if self._tls else None
        if self._pool is None or context is not self._context:
            given: dict[str, Any] = {
                "headers": self._headers,
                "retries": False,
                "timeout": PAGE_S,
                "ssl_context": context,
            }
            if self._proxy is None:
                self._pool = urllib3.PoolManager(**given)
            else:
                own = self._proxy.authorization
                named = {"Proxy-Authorization": own} if own else {}
                self._pool = urllib3.ProxyManager(str(self._proxy), proxy_headers=named, **given)
            self._context = context
        return self._pool

    def _page(self) -> bytes:
        """The page.

        Raises:
            BadPage: there is none.
        """
        until = time.monotonic() + PAGE_S
        try:
            # No redirects: a redirect would lead to a server that nobody named.
            response = self._manager().request(
                "GET", self._url, preload_content=False, redirect=False
            )
            try:
                if response.status != 200:
                    raise BadPage(f"answered with status {response.status}")
                page = bytearray()
                while piece := response.read1(PIECE, decode_content=False):
                    page += piece
                    if len(page) > PAGE_MAX:
                        raise BadPage(f"the page has more than {PAGE_MAX} bytes")
                    if time.monotonic() > until:
                        raise BadPage(f"the page did not end within {PAGE_S:g} s")
                return bytes(page)
            finally:
                response.close()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if self._tls is not None and isinstance(error, urllib3.exceptions.SSLError):
                self._tls.distrust()
            # The text of urllib3's errors holds the URL.
            raise BadPage(f"no answer ({type(error).__name__})") from error

    def as_json(self) -> dict[str, object]:
        """The part of /api/health."""
        settled: Mapping[str, int] = self._settled()
        found: dict[str, object] = {"settledBytes": dict(settled)}
        if not self._url:
            return found
        found |= {"tenants": list(self._tenants), "error": self.trouble or None}
        if (books := self.books) is not None:
            found |= {
                "since": window.iso(books.since),
                "checked": window.iso(books.checked),
                "counterResets": self._resets,
                "receivedBytes": books.received,
                "chargedBytes": books.charged,
                "differenceBytes": books.difference,
                "words": books.words(),
            }
        return found

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The series of /metrics; none before the first page."""
        if (books := self.books) is None:
            return
        for name, words, value in (
            ("tco_upstream_received_bytes", "received by upstream's counter", books.received),
            ("tco_upstream_charged_bytes", "charged for what was sent upstream", books.charged),
            ("tco_reconciliation_difference_bytes", "received and not charged", books.difference),
        ):
            yield GaugeMetricFamily(name, f"Bytes {words}, since both were compared first.", value)
        yield GaugeMetricFamily(
            "tco_reconciliation_checked_timestamp_seconds",
            "When upstream's counter was read last.",
            books.checked,
        )


def without_credentials(url: str) -> tuple[str, dict[str, str]]:
    """Return the URL without user and password, and the headers that carry them."""
    parts = urllib3.util.parse_url(url)
    if not parts.auth:
        return url, {}
    headers = urllib3.make_headers(basic_auth=urllib.parse.unquote(parts.auth))
    return parts._replace(auth=None).url, dict(headers)


def read_series(page: bytes, tenants: Sequence[str]) -> Series:
    """Return the counter's series of these tenants, by their labels.

    Raises:
        BadPage: it is no page of metrics, or one that cannot be used.
    """
    lines = LINES.findall(page)
    if not lines and not DESCRIPTION.search(page):
        raise BadPage("what was answered is no page in Prometheus' text format")
    if len(lines) > SERIES_MAX:
        raise BadPage(f"{len(lines)} series of {COUNTER}, at most {SERIES_MAX} are read")
    found: Series = {}
    try:
        text = b"\n".join(lines).decode() + "\n"
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.labels.get("tenant") in tenants:
                    found[tuple(sorted(sample.labels.items()))] = sample.value
    except UNREADABLE as error:
        raise BadPage(f"a line of {COUNTER} cannot be read ({type(error).__name__})") from error
    # Also what is no number: it is not below anything.
    if not all(0 <= value < 2**63 for value in found.values()):
        raise BadPage(f"{COUNTER} has a value that is no count")
    return found
