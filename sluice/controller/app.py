"""The controller's HTTP: the REST API of the whole cluster, health and metrics."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import flask
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from sluice import api, auth, metrics
from sluice.controller import loop
from sluice.kube import lease

log = logging.getLogger("sluice.controller")

GAUGES = {
    "budgets": ("tco_controller_budgets", "TeamBudgets."),
    "nodes": ("tco_controller_nodes", "Nodes that count."),
    "silentNodes": ("tco_controller_silent_nodes", "Nodes not heard of for too long."),
    "skewedNodes": ("tco_controller_skewed_nodes", "Nodes whose clock differs."),
    "statusesDue": ("tco_controller_statuses_due", "Statuses that wait to be written."),
    "foldsFailing": (
        "tco_controller_folds_failing",
        "NodeLogUsages of nodes that are gone whose counts no ledger object takes.",
    ),
}


def create_app(
    work: loop.Loop,
    watches: Mapping[str, metrics.Watch],
    election: Callable[[], lease.State],
    status: api.Status,
    source: api.Source,
    guard: auth.Auth = auth.NOBODY_IS_ASKED,
    collectors: Iterable[Collector] = (),
) -> flask.Flask:
    """The WSGI application of the controller.

    Args:
        watches: its informers, by resource.
        guard: who may look.
        collectors: further series of /metrics.
    """
    app = flask.Flask("sluice.controller", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    counters = metrics.Metrics(ControllerCollector(work, watches, election), *collectors)
    app.register_blueprint(api.blueprint(source, time.time, status))
    app.add_url_rule("/metrics", "metrics", counters.response)
    api.errors_as_json(app, log, counters)
    guard.guard(app)
    return app


class ControllerCollector(Collector):
    """Series of the cluster's budgets, and of the controller's own work."""

    def __init__(
        self,
        work: loop.Loop,
        watches: Mapping[str, metrics.Watch],
        election: Callable[[], lease.State],
    ) -> None:
        self._work, self._watches, self._election = work, watches, election

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        yield from metrics.budget_series(self._work.rows(time.time()))
        writes = CounterMetricFamily(
            "tco_controller_writes", "What became of statuses, Events and folds.", labels=["result"]
        )
        for result, value in self._work.counters.items():
            writes.add_metric([result], value)
        yield writes
        for name, value in self._work.gauges().items():
            yield GaugeMetricFamily(*GAUGES[name], value)
        yield CounterMetricFamily(
            "tco_controller_usage_falls",
            "How often the usage of a budget fell inside a window.",
            self._work.losses.falls,
        )
        yield lost_series(self._work, time.time())
        yield GaugeMetricFamily(
            "tco_controller_leader", "1 for the one that leads.", self._election().is_leader
        )
        yield from metrics.watch_series(self._watches)


def lost_series(work: loop.Loop, now: float) -> GaugeMetricFamily:
    """Bytes that were published and that no NodeLogUsage has any more."""
    family = GaugeMetricFamily(
        "tco_budget_lost_bytes",
        "Bytes of the open window that were published and that no NodeLogUsage has any more.",
        labels=[*metrics.TEAM, "window"],
    )
    for row, lost in work.lost(now):
        own = row.budget
        family.add_metric([own.name, own.namespace, "day"], lost.day)
        family.add_metric([own.name, own.namespace, "month"], lost.month)
    return family
