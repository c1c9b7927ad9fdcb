"""/metrics: the ledger's counters, read when somebody asks, and the process's own beside them.

`namespace` is the budget's own, from its key; unbudgeted traffic has team="" and namespace="".
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import flask
import prometheus_client as prom
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from sluice import api, assign, columns, errors, gate, memory, usage
from sluice.policy import Action

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TEAM = ["team", "namespace"]
# Making pages may take a fifth of the time, or a page may be a second old.
PAGE_SHARE, PAGE_S = 0.2, 1.0
OUTCOMES = ("forwarded", "sampled", "dropped", "refused")


class Metrics:
    """The metrics of one process, in a registry of their own.

    Args:
        collectors: read when somebody asks.
    """

    def __init__(self, *collectors: Collector) -> None:
        self._registry = prom.CollectorRegistry()
        prom.ProcessCollector(registry=self._registry)
        for collector in collectors:
            self._registry.register(collector)
        self._refused = self._counter(
            "tco_requests_refused", "Requests that Sluice refused, by reason.", ["reason"]
        )
        self._broken = self._counter("tco_internal_errors", "Requests that met a defect.", [])
        self._page = Page(lambda: prom.generate_latest(self._registry))

    def _histogram(self, name: str, words: str) -> prom.Histogram:
        return prom.Histogram(name, words, buckets=BUCKETS, registry=self._registry)

    def _counter(self, name: str, words: str, labels: list[str]) -> prom.Counter:
        return prom.Counter(name, words, labels, registry=self._registry)

    def refused(self, error: errors.SluiceError) -> None:
        """Count a request that was refused."""
        self._refused.labels(type(error).__name__).inc()

    def broken(self) -> None:
        """Count a request that failed on a defect of ours."""
        self._broken.inc()

    def response(self) -> flask.Response:
        """Flask's view: everything in Prometheus' text format."""
        return flask.Response(self._page.get(), content_type=prom.CONTENT_TYPE_LATEST)


class Page:
    """A page that is made once for all who ask at the same time, and costs no more than a share of
    the time however many ask.

    Who asks gets a page that was begun after that, unless making pages has taken PAGE_SHARE of the
    last seconds: then one that is at most PAGE_S old. With few teams a page takes 2 ms, so that
    every scrape has the figures of its moment; with 5000 it takes 0.3 s, and 40 scrapers get the
    same one.

    Args:
        make: makes the page.
        monotonic: seconds that only grow.

    Threads: any number.
    """

    def __init__(
        self, make: Callable[[], bytes], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._make, self._monotonic = make, monotonic
        self._making = threading.Lock()
        self._page, self._begun = b"", float("-inf")
        # Seconds spent on pages that are not paid off yet, as of _begun.
        self._debt_s = 0.0

    def get(self) -> bytes:
        """The page."""
        asked = self._monotonic()
        with self._making:
            now = self._monotonic()
            owed_s = max(0.0, self._debt_s - (now - self._begun) * PAGE_SHARE)
            is_spared = owed_s > PAGE_SHARE * PAGE_S and now - self._begun < PAGE_S
            if self._begun < asked and not is_spared:
                self._page, self._begun = self._make(), now
                self._debt_s = owed_s + self._monotonic() - now
            return self._page


class PushMetrics(Metrics):
    """The metrics of a process that takes pushes.

    Args:
        door: whose ledger is read.
        clock: epoch seconds.
        status: reloads and clock steps.
        inside: how many pushes are being handled.
        settled: what was sent upstream.
        is_node: other nodes count for the same budgets; a sum over all must be right.
    """

    def __init__(
        self,
        door: gate.Gate,
        clock: Callable[[], float],
        status: api.Status,
        inside: Callable[[], int],
        receiving: Callable[[], int],
        *collectors: Collector,
        settled: "SettledBytes | None" = None,
        is_node: bool = False,
    ) -> None:
        self.settled = SettledBytes() if settled is None else settled
        own = (
            LedgerCollector(door, clock, is_node),
            StatusCollector(status, inside, receiving, door.memory),
            StateCollector(status),
            self.settled,
        )
        super().__init__(*own, *collectors)
        self._push = self._histogram("tco_push_duration_seconds", "Time to answer a push.")
        self._upstream = self._histogram(
            "tco_upstream_duration_seconds", "Time that upstream took to answer a push."
        )
        self._answers = self._counter(
            "tco_upstream_responses", "Upstream's answers by status; none: no answer.", ["code"]
        )
        self._stored = self._answers.labels("204")

    def push_took(self, seconds: float) -> None:
        """Observe how long it took to answer a push, its body included."""
        self._push.observe(seconds)

    def upstream_took(self, seconds: float) -> None:
        """Observe how long upstream took to answer, or not to answer, a push."""
        self._upstream.observe(seconds)

    def upstream_answered(self, code: str) -> None:
        """Count an answer of upstream."""
        # What nearly every push gets is at hand.
        (self._stored if code == "204" else self._answers.labels(code)).inc()


class SettledBytes(Collector):
    """The bytes of pushes sent upstream, by how their charge ended.

    Args:
        settlements: those that are shown before they occur.

    Threads: any number.
    """

    def __init__(self, settlements: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._sums = dict.fromkeys(map(str, settlements), 0)

    def add(self, settlement: str, size: int) -> None:
        """Count a push."""
        with self._lock:
            self._sums[settlement] = self._sums.get(settlement, 0) + size

    def sums(self) -> dict[str, int]:
        """The bytes so far."""
        with self._lock:
            return dict(self._sums)

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "tco_upstream_settled_bytes",
            "Bytes of pushes sent upstream, by how their charge ended.",
            labels=["settlement"],
        )
        for settlement, size in self.sums().items():
            family.add_metric([settlement], size)
        yield family


class LedgerCollector(Collector):
    """Series of teams and applications."""

    def __init__(self, door: gate.Gate, clock: Callable[[], float], is_node: bool) -> None:
        self._gate, self._clock, self._is_node = door, clock, is_node

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        now = self._clock()
        book = self._gate.ledger
        yield repair_series(book.repaired)
        if book.rules is None:
            return
        rows = usage.rows(book, now)
        counts = [(row.budget.name, row.budget.namespace, row.usage.counts) for row in rows]
        counts.append(("", "", book.usage([""], now)[""].counts))
        yield from outcome_series(counts)
        yield from action_series(counts)
        yield from node_series(rows) if self._is_node else budget_series(rows)
        yield from place_series(self._gate.apps)
        yield from loki_series(self._gate.loki_streams)


def repair_series(repaired: Mapping[str, int]) -> GaugeMetricFamily:
    """What the start found damaged."""
    family = GaugeMetricFamily(
        "tco_ledger_repaired_rows",
        "Rows of the ledger's file that this process found damaged, by what replaced them.",
        labels=["source"],
    )
    for source, rows in repaired.items():
        family.add_metric([source], rows)
    return family


Counts = list[tuple[str, str, list[int]]]


def outcome_series(counts: Counts) -> Iterator[CounterMetricFamily]:
    """What became of entries and their bytes."""
    for name, offset in (("entries", 0), ("bytes", 1)):
        family = CounterMetricFamily(
            f"tco_log_{name}", f"Log {name} by what became of them.", labels=[*TEAM, "outcome"]
        )
        for team, namespace, values in counts:
            for outcome in OUTCOMES:
                value = values[columns.OUTCOMES[outcome] + offset]
                family.add_metric([team, namespace, outcome], value)
        yield family
    family = CounterMetricFamily(
        "tco_upstream_rejected_bytes",
        "Bytes charged of pushes of which upstream received all and stored a part.",
        labels=TEAM,
    )
    for team, namespace, values in counts:
        family.add_metric([team, namespace], values[columns.REJECTED])
    yield family


def action_series(counts: Counts) -> Iterator[CounterMetricFamily]:
    """Decisions, and what a dry run would have decided."""
    for name, words, at in (
        ("tco_policy_engine_actions", "Entries by decision.", columns.ACTIONS),
        ("tco_dryrun_bytes", "Bytes by what an enforced budget would have done.", columns.DRY),
    ):
        family = CounterMetricFamily(name, words, labels=[*TEAM, "action"])
        for team, namespace, values in counts:
            for action in Action:
                family.add_metric([team, namespace, action.word], values[at + action])
        yield family


def place_series(apps: usage.Apps) -> Iterator[CounterMetricFamily]:
    """Who ate it: by application, and by the namespace that the streams came from."""
    for name, words, label, at in (
        ("tco_app_bytes", "Bytes forwarded, by application.", "app", usage.APP),
        ("tco_source_bytes", "Bytes forwarded, by the streams' namespace.", "source", 1),
    ):
        family = CounterMetricFamily(name, words, labels=[*TEAM, label])
        for (key, value), size in apps.totals(at).items():
            namespace, _, team = key.partition("/")
            family.add_metric([team, namespace, value], size)
        yield family


def loki_series(found: assign.LokiStreams) -> Iterator[CounterMetricFamily]:
    """What came in streams with one of Loki's own labels."""
    for name, value in (("entries", found.entries), ("bytes", found.size)):
        yield CounterMetricFamily(
            f"tco_loki_stream_{name}",
            f"Log {name} received in streams labelled __pattern__ or __aggregated_metric__.",
            value=value,
        )


def budget_series(rows: list[usage.Row]) -> Iterator[GaugeMetricFamily]:
    """Limits, committed usage in the open windows, when they end, and the action of each."""
    limits, used, ends, actions = (
        GaugeMetricFamily(f"tco_budget_{name}", words, labels=[*TEAM, "window"])
        for name, words in (
            ("limit_bytes", "A budget's limit."),
            ("used_bytes", "Bytes forwarded in the open window."),
            ("window_end_timestamp_seconds", "When the open window ends."),
            (
                "action",
                "What an entry of mean size would get: 0 allow, 1 throttle, 2 drop.",
            ),
        )
    )
    for row in rows:
        own = row.budget
        for name, kind, limit, value, end in (
            ("day", columns.DAY, own.daily_limit, row.day, row.windows.end),
            ("month", columns.MONTH, own.monthly_limit, row.month, row.windows.month_end),
        ):
            labels = [own.name, own.namespace, name]
            if limit is not None:
                limits.add_metric(labels, limit)
                actions.add_metric(labels, row.window_action(kind))
            used.add_metric(labels, value)
            ends.add_metric(labels, end)
    yield from (limits, used, ends, actions)


def node_series(rows: list[usage.Row]) -> Iterator[GaugeMetricFamily]:
    """This node's part in the usage of the cluster's budgets."""
    used = GaugeMetricFamily(
        "tco_node_used_bytes",
        "Bytes forwarded by this node in the open window.",
        labels=[*TEAM, "window"],
    )
    for row in rows:
        for name, value in (("day", row.usage.day), ("month", row.usage.month)):
            used.add_metric([row.budget.name, row.budget.namespace, name], value)
    yield used


class StatusCollector(Collector):
    """Series of the process's own state."""

    def __init__(
        self,
        status: api.Status,
        inside: Callable[[], int],
        receiving: Callable[[], int],
        room: memory.Memory,
    ) -> None:
        self._status, self._inside, self._receiving = status, inside, receiving
        self._memory = room

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        status = self._status
        reloads = CounterMetricFamily(
            "tco_budget_reloads", "Changes of the budgets read, by result.", labels=["result"]
        )
        for result, value in status.reloads.items():
            reloads.add_metric([result], value)
        yield reloads
        yield GaugeMetricFamily(
            "tco_budget_problems", "Budgets that are refused now.", len(status.all_problems)
        )
        yield CounterMetricFamily(
            "tco_clock_steps", "Jumps of the wall clock by over a minute.", status.clock_steps
        )
        room = self._memory
        for name, words, value in (
            ("tco_pushes_in_flight", "Pushes being handled now.", self._inside()),
            ("tco_bodies_receiving", "Request bodies being received now.", self._receiving()),
            ("tco_push_memory_bytes", "Bytes of --max-memory that pushes hold now.", room.taken),
            ("tco_push_memory_limit_bytes", "Bytes of --max-memory.", room.total),
        ):
            yield GaugeMetricFamily(name, words, value)


class StateCollector(Collector):
    """Series of the files that a process writes."""

    def __init__(self, status: api.Status) -> None:
        self._state = status.state

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "tco_state_write_failing",
            "1 for a state file that could not be written when it was last tried.",
            labels=["file"],
        )
        for name, fails in self._state.all().items():
            family.add_metric([name], fails)
        yield family


class Watch(Protocol):
    """What is shown of an informer."""

    synced: threading.Event
    relists: int
    watches: int
    failures: int
    handler_errors: int


def watch_series(watches: Mapping[str, Watch]) -> Iterator[CounterMetricFamily]:
    """Series of informers, by the resource that they watch."""
    for name, words in (
        ("relists", "Lists read anew, for changes had been missed."),
        ("watches", "Watches opened."),
        ("failures", "Lists and watches that failed."),
        ("handler_errors", "Changes that met a defect."),
    ):
        family = CounterMetricFamily(f"tco_api_{name}", words, labels=["resource"])
        for resource, watch in watches.items():
            family.add_metric([resource], getattr(watch, name))
        yield family
