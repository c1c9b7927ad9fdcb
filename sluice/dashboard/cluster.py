"""What a cluster says of its teams: TeamBudgets and Kubernetes' Events, read and never written."""

import datetime
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from sluice import budget, columns, errors, ledger, metrics, records, usage, window
from sluice.kube import client

log = logging.getLogger("sluice.dashboard")

# Many viewers cost the API server no more than one.
EVENTS_S = 10.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A TeamBudget: what it sets, and what the controller last said of it."""

    own: budget.Budget
    status: Mapping[str, Any]


class Teams:
    """The TeamBudgets of a cluster, as an informer brings them.

    Threads: the informer's hands in; any may read.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, Seen] = {}
        self._problems: dict[str, str] = {}

    def handle(self, kind: str, found: dict[str, Any]) -> None:
        """Take in an event of a TeamBudget."""
        key = budget.object_key(found)
        with self._lock:
            if kind == "DELETED":
                self._seen.pop(key, None)
                self._problems.pop(key, None)
                return
            own, wrong = budget.read_object(found)
            if own is None and key in self._seen:
                # It is enforced as it was before; so it is shown.
                own = self._seen[key].own
            if own is not None:
                self._seen[key] = Seen(own, found.get("status") or {})
            self._problems.pop(key, None)
            if wrong:
                self._problems[key] = "; ".join(error.message for error in wrong)

    def rows(self, now: float) -> list[usage.Row]:
        """Every team's row, by key."""
        with self._lock:
            return [row_of(seen, now) for _, seen in sorted(self._seen.items())]

    def problems(self) -> list[dict[str, object]]:
        """What is wrong with budgets, for /api/health."""
        with self._lock:
            return [{"budget": key, "error": text} for key, text in sorted(self._problems.items())]


def row_of(seen: Seen, now: float) -> usage.Row:
    """A team's row, by the status that it has; a window that has turned since begins at 0."""
    status, windows = seen.status, window.open_windows(seen.own.time_zone, now)
    is_today = status.get("currentDay") == window.day_key(windows.day)[2:]
    is_month = status.get("currentMonth") == window.month_key(windows.month)[2:]
    today = columns.read_outcomes(status.get("today") or {}) if is_today else [0] * columns.COUNTS
    counted = ledger.Usage(
        status.get("currentUsage", 0) if is_today else 0,
        status.get("monthlyUsage", 0) if is_month else 0,
        today,
        today,
    )
    updated = status.get("lastUpdated")
    return usage.Row(seen.own, counted, windows, now, updated=_instant(updated) if updated else now)


class WatchCollector(Collector):
    """Series of the informer."""

    def __init__(self, watch: metrics.Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield from metrics.watch_series({"teambudgets": self._watch})


class Events:
    """Kubernetes' Events on TeamBudgets, asked for when somebody looks.

    Threads: any number.
    """

    def __init__(self, api: client.Api, monotonic: Callable[[], float]) -> None:
        self._api, self._monotonic = api, monotonic
        self._lock = threading.Lock()
        self._found: list[records.Event] = []
        self._complaint = ""
        self._asked_at = float("-inf")

    def events(self, key: str | None, count: int) -> Sequence[records.Event]:
        """See records.Records."""
        # One asks; whoever comes meanwhile gets what was found before. An API server that hangs
        # must not hang all pages.
        if self._monotonic() - self._asked_at > EVENTS_S and self._lock.acquire(blocking=False):
            try:
                self._ask()
            finally:
                self._asked_at = self._monotonic()
                self._lock.release()
        if self._complaint:
            raise errors.Unavailable(self._complaint)
        return [one for one in self._found if key in (None, one.key)][:count]

    def _ask(self) -> None:
        try:
            found = self._api.budget_events()
        except client.ApiError as error:
            self._complaint = f"Events: {error.message}"
            return
        self._found = sorted(map(event_of, found), key=lambda one: -one.at)
        self._complaint = ""


def event_of(found: Mapping[str, Any]) -> records.Event:
    """An Event of events.k8s.io/v1 as the dashboard shows it."""
    regarding = found.get("regarding") or {}
    at = _instant(found["metadata"]["creationTimestamp"])
    # What older clients wrote has no eventTime; what others wrote may be any time at all.
    said = _instant(found.get("eventTime") or found["metadata"]["creationTimestamp"])
    return records.Event(
        at=said if abs(said - at) < window.DAY_S else at,
        key=f"{regarding.get('namespace', '')}/{regarding.get('name', '')}",
        kind=found.get("type") or "Normal",
        reason=found.get("reason") or "",
        text=found.get("note") or "",
    )


def _instant(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()
