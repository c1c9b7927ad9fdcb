"""Metrics of an agent's reports to the cluster and of the budgets it read there."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from sluice import metrics
from sluice.agent import budgets, elsewhere, report


class ClusterCollector(Collector):
    """What the agent told and heard, read when somebody asks."""

    def __init__(
        self,
        watch: metrics.Watch,
        reporter: report.Reporter,
        others: elsewhere.Elsewhere,
        held: budgets.Budgets,
    ) -> None:
        self._watch, self._reporter, self._others = watch, reporter, others
        self._budgets = held

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        reports = CounterMetricFamily(
            "tco_node_reports", "Reports of this node's usage, by result.", labels=["result"]
        )
        for result, value in self._reporter.counters.items():
            reports.add_metric([result], value)
        yield reports
        yield from metrics.watch_series({"teambudgets": self._watch})
        yield GaugeMetricFamily(
            "tco_budgets_synced",
            "1 once the budgets were read from the API server; 0: those of the last run, or none.",
            self._watch.synced.is_set(),
        )
        yield GaugeMetricFamily(
            "tco_budgets_held",
            "Budgets in force that the cluster does not have any more: all vanished at once.",
            self._budgets.held(),
        )
        yield GaugeMetricFamily(
            "tco_reports_forbidden",
            "1 while the API server answers every report of this agent since its start with 403.",
            self._reporter.forbidden_s is not None,
        )
        yield GaugeMetricFamily(
            "tco_stale_teams",
            "Teams whose usage on other nodes is too old to trust: onStale applies.",
            len(self._others.stale),
        )
