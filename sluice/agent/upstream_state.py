"""Records whether upstream works, for /api/health, /metrics and the log."""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from sluice import window
from sluice.agent.http_response import Reply

log = logging.getLogger("sluice.agent")

# One line in so many seconds says that pushes fail; there may be 1000 pushes in one.
TELL_EVERY_S = 10.0
# The share of pushes that failed is their mean up to so many; then the last one weighs 1 / ALIKE.
ALIKE = 5
# A share that is smaller is nothing.
LEAST = 0.001
# Characters of upstream's own text.
SAMPLE = 200
BLOCKED = 260
HINTS = {
    401: "credentials are given with --upstream-header",
    403: "credentials are given with --upstream-header",
    404: "--upstream is to name a server that takes Loki's pushes",
    405: "--upstream is to name a server that takes Loki's pushes",
}
# Answers 400 that are not about the push: a shipper that got them would throw its lines away.
# Of Go's net/http, nginx and Apache.
NOT_ABOUT_THE_PUSH = (
    (
        re.compile(
            rb"HTTP request to an HTTPS server|plain HTTP request was sent to HTTPS port"
            rb"|speaking plain HTTP to an SSL-enabled server port"
        ),
        "it speaks TLS: its URL begins with https://",
    ),
    (
        re.compile(rb"No required SSL certificate was sent|The SSL certificate error"),
        "it wants a client certificate that it trusts: see --upstream-cert",
    ),
)


class UpstreamState(Collector):
    """How the recent pushes went.

    Args:
        where: upstream's host and port.
        monotonic, clock: seconds; epoch seconds.

    Attributes:
        trouble: why pushes fail, "" while they do not.
        resends: pushes that were sent twice, because the first connection was closed while idle.

    Threads: any number.
    """

    def __init__(
        self,
        where: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.trouble = ""
        self.resends = 0
        self._where, self._monotonic, self._clock = where, monotonic, clock
        self._lock = threading.Lock()
        # Pushes that were counted, up to ALIKE, and the share that failed.
        self._n, self._share = 0, 0.0
        self._failed = self._failed_untold = 0
        self._since = self._began = self._last = 0.0
        self._quiet_until = self._over_at = -TELL_EVERY_S
        self._is_told, self._is_sudden = False, True

    @property
    def is_failing(self) -> bool:
        """Whether most of the recent pushes failed."""
        return bool(self.trouble) and self._share > 0.5

    def as_json(self) -> dict[str, object]:
        """Its part of /api/health."""
        with self._lock:
            if not self.trouble:
                return {"error": None, "since": None, "failed": 0}
            since = window.iso(self._since)
            return {"error": self.trouble, "since": since, "failed": self._failed}

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(
            "tco_upstream_resends",
            "Pushes sent twice, because upstream had closed the idle connection.",
            self.resends,
        )

    def resent(self) -> None:
        """Note a push that is sent a second time."""
        with self._lock:
            self.resends += 1

    def taken(self) -> None:
        """Note a push that upstream has taken."""
        # Nothing to note, which is what nearly every push finds.
        if not (self.trouble or self._share or self._n < ALIKE):
            return
        with self._lock:
            self._count(0.0)
            now = self._monotonic()
            # Taken again after failures alone: it is over. If some fail and some do not, or they
            # failed again at once, it is over when none has failed for a while.
            if self.trouble and (self._is_sudden or now >= self._last + TELL_EVERY_S):
                self._end(now)

    def failed(self, reason: str, consequence: str) -> None:
        """Note a push that upstream has not taken.

        Args:
            consequence: what became of it, for the log.
        """
        with self._lock:
            self._count(1.0)
            now = self._monotonic()
            if not self.trouble:
                self._since, self._began, self._failed = self._clock(), now, 0
                self._failed_untold, self._is_told = 0, False
                self._is_sudden = now >= self._over_at + TELL_EVERY_S
            self.trouble, self._last = reason, now
            self._failed += 1
            self._failed_untold += 1
            if now >= self._quiet_until:
                self._quiet_until, self._is_told = now + TELL_EVERY_S, True
                several = f" ({n} pushes)" if (n := self._failed_untold) > 1 else ""
                log.warning("upstream %s: %s; %s%s", self._where, reason, consequence, several)
                self._failed_untold = 0

    def _count(self, outcome: float) -> None:
        self._n = min(self._n + 1, ALIKE)
        self._share += (outcome - self._share) / self._n
        if self._share < LEAST:
            self._share = 0.0

    def _end(self, now: float) -> None:
        if self._is_told:
            log.info(
                "upstream %s takes pushes again, after %.0f s and %d that it did not take",
                self._where,
                now - self._began,
                self._failed,
            )
        self.trouble, self._over_at, self._share = "", now, 0.0


def why_not_taken(reply: Reply) -> str:
    """Why upstream did not take a push that it answered so, "" if it did, or if the push is bad.

    400 is the shipper's own fault; rules.yaml counts failures alike.
    """
    status = reply.status
    if (200 <= status < 300 and status != BLOCKED) or status == 400:
        return ""
    text = " ".join(reply.body[:SAMPLE].decode(errors="replace").split())
    words = f"it answers {status}"
    if 300 <= status < 400:
        words += ": give its final URL to Sluice"
    elif text and "<" not in text:
        words += ": " + "".join(c if c.isprintable() else "?" for c in text)
    return f"{words} ({HINTS[status]})" if status in HINTS else words


def fault_of_the_way(reply: Reply) -> str:
    """What is wrong with the way to upstream, where it answers 400 for that; "" otherwise."""
    if reply.status == 400:
        for pattern, words in NOT_ABOUT_THE_PUSH:
            if pattern.search(reply.body):
                return words
    return ""
