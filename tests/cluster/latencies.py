"""How long the word of a node takes to reach the others, seen by watching as they do."""

import re
import time
from typing import Any, NamedTuple

from cluster.harness import Cluster

from sluice import policy
from sluice.agent import daemon, report
from sluice.controller import plan
from sluice.kube import client, informer

PUTS = re.compile(
    r"^apiserver_request_duration_seconds_(sum|count)\{[^}]*"
    r'resource="nodelogusages"[^}]*subresource="status"[^}]*verb="PUT"[^}]*\} (\S+)$',
    re.MULTILINE,
)


class Report(NamedTuple):
    """A report as the API server showed it: when, its version, and the team's sum by then."""

    at: float
    version: int
    sum: int


class Status(NamedTuple):
    """A status of the team: when it was shown, the reports it counts, and what it says."""

    at: float
    revision: int
    used: int
    decision: str


class Latencies:
    """Watches reports and statuses of one team while inside.

    Args:
        team: namespace and name of the budget. limit: its bytes a day. entry: those of an entry.
    """

    def __init__(self, cluster: Cluster, team: str, limit: int, entry: int) -> None:
        self.cluster, self.team = cluster, team
        self.key, self.limit, self.entry = f"{team}/{team}", limit, entry
        self.used: dict[str, int] = {}
        self.reports: list[Report] = []
        self.statuses: list[Status] = []
        api = client.connect(cluster.kubeconfig())
        self.informers = [
            informer.Informer(api, "nodelogusages", self.on_report),
            informer.Informer(api, "teambudgets", self.on_status),
        ]

    def __enter__(self) -> "Latencies":
        for each in self.informers:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.informers:
            each.stop()

    def on_report(self, _kind: str, found: dict[str, Any]) -> None:
        """Take note of a new report if it has more of the team."""
        usage = found.get("status", {}).get("usage", {})
        size = sum(teams.get(self.key, 0) for name, teams in usage.items() if name[:2] == "d/")
        name = found["metadata"]["name"]
        if size > self.used.get(name, 0):
            self.used[name] = size
            version = int(found["metadata"]["resourceVersion"])
            self.reports.append(Report(time.monotonic(), version, sum(self.used.values())))

    def on_status(self, _kind: str, found: dict[str, Any]) -> None:
        """Take note of a new status of the team."""
        status = found.get("status", {})
        if found["metadata"]["namespace"] == self.team and "usageRevision" in status:
            at = time.monotonic()
            told = int(status["usageRevision"]), status["currentUsage"], status["decision"]
            self.statuses.append(Status(at, *told))

    def publications(self) -> list[float]:
        """Of each status that a report made necessary: seconds since that report."""
        found = []
        for old, new in zip(self.statuses, self.statuses[1:], strict=False):
            worth = [
                each.at
                for each in self.reports
                if old.revision < each.version <= new.revision and self.is_worth(each.sum, old)
            ]
            found += [new.at - worth[0]] if worth else []
        return found

    def is_worth(self, used: int, old: Status) -> bool:
        """Whether the controller's rules publish this sum without waiting for a heartbeat."""
        action = policy.evaluate_usage_stateless(self.team, self.limit, used, self.entry)
        moved = abs(used - old.used)
        return (
            plan.DECISIONS[action] != old.decision or moved * 100 >= plan.MOVED_PERCENT * self.limit
        )

    def __str__(self) -> str:
        found = self.publications()
        return (
            f"{len(self.reports)} reports, written in {self.write_s():.3f} s,"
            f" {len(found)} statuses that had to be, after {max(found):.2f} s at most"
        )

    def write_s(self) -> float:
        """Mean seconds that the API server has taken for a report."""
        values = dict.fromkeys(("sum", "count"), 0.0)
        for part, value in PUTS.findall(self.cluster.call("GET", "/metrics").text):
            values[part] += float(value)
        return values["sum"] / values["count"]

    def delay_s(self) -> float:
        """From when a report is due until every node heeds it, at worst.

        What cannot be seen from outside, how often an agent looks, is taken from its code.
        """
        return report.TICK_S + self.write_s() + max(self.publications()) + daemon.TICK_S
