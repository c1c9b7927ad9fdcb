"""One controller and many nodes: what both write to the API server, and what the controller takes.

The API server, etcd and the controller are real processes, the nodes are those of nodes.py. The
load is the worst that a minute can hold: see growths().
"""

import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster.harness import Cluster
from cluster.processes import Controller
from harness import Server, budget, running, wait_until
from load import cpu_s
from nodes import Growth, Nodes
from race import add_row
from servers import build

from sluice import Budget

# Nobody closes a pool of connections but the end of a process.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
TEAMS = 50
LIMIT = 10_000_000_000
COUNTS = (50, 200, 800)
SECONDS = float(os.environ.get("BENCH_CLUSTER_SECONDS", "20"))
# Settings of an installation, where tests/cluster/processes.py has short ones.
DEFAULTS = ("--report-ceiling", "60", "--heartbeat", "10", "--lease-duration", "15")
LOOK_S = 2.0
# Writes are counted in all spans of so many seconds, from one look to another.
SPAN_S = 10.0
MB = 1_000_000

# What must hold at 200 nodes.
NODES, REPORTS_PER_S, STATUSES_PER_S, CORES, RESIDENT_MB = 200, 100, 20, 0.25, 200
# The API server's own count of requests of our kinds.
REQUESTS = re.compile(
    r'^apiserver_request_total\{[^}]*group="tco.io",resource="(\w+)"'
    r'[^}]*verb="(\w+)"[^}]*\} (\S+)$',
    re.MULTILINE,
)
WRITES = ("POST", "PUT", "PATCH")


def growths() -> list[Growth]:
    """Ten teams that reach their limits one after the other, so that some team of every node is
    always due by amount; fifteen that use most of their day in this run, so that each moves by a
    percent in every tick of the controller; and the rest, which grow a little."""
    made = []
    for i in range(TEAMS):
        own = Budget.from_manifest(budget(f"team-{i:02}", LIMIT))
        if i < 10:
            per_s = 0.8 * LIMIT / SECONDS
            made.append(Growth(own, int(LIMIT - per_s * SECONDS * (i + 1) / 10), per_s))
        elif i < 25:
            made.append(Growth(own, 0, 0.75 * LIMIT / SECONDS))
        else:
            made.append(Growth(own, LIMIT // 5, LIMIT / 86_400))
    return made


@dataclass
class Look:
    """One look at the API server's counters, asked for and answered then, and at the controller."""

    asked: float
    at: float
    writes: dict[str, int]
    resident: int


@dataclass
class Looker:
    """Looks every LOOK_S seconds, in a thread of its own."""

    cluster: Cluster
    controller: Server
    looks: list[Look] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stopping.wait(LOOK_S):
            self.look()

    def look(self) -> Look:
        writes = dict.fromkeys(("nodelogusages", "teambudgets"), 0)
        asked = time.monotonic()
        text = self.cluster.call("GET", "/metrics").text
        for resource, verb, value in REQUESTS.findall(text):
            if verb in WRITES:
                writes[resource] += int(float(value))
        resident = sum(process.memory_info().rss for process in self.controller.family())
        self.looks.append(Look(asked, time.monotonic(), writes, resident))
        return self.looks[-1]

    def per_s(self, resource: str, since: float) -> tuple[float, float]:
        """Writes per second since then: on average, and the most in any span of SPAN_S."""
        looks = [look for look in self.looks if look.at >= since]
        rates = [
            rate(a, b, resource)
            for i, a in enumerate(looks)
            for b in looks[i:]
            if b.asked - a.at >= SPAN_S
        ]
        return rate(looks[0], looks[-1], resource), max(rates)


def rate(first: Look, last: Look, resource: str) -> float:
    """Writes per second between two looks, at least: the API server counted somewhere within."""
    return (last.writes[resource] - first.writes[resource]) / (last.at - first.asked)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    # An API server of a real cluster holds gigabytes and collects garbage accordingly seldom; this
    # one's heap is small, and a third of its time went there.
    monkeypatch.setenv("GOGC", "800")
    if not build.stands("kubernetes"):
        pytest.skip(f"no API server here; `make servers` builds it, {build.GO['kubernetes'].cost}")
    server = Cluster(tmp_path / "cluster", build.place("kubernetes"))
    try:
        yield server.start().install()
    finally:
        server.kill()


@pytest.mark.parametrize("count", COUNTS)
def bench_load(benchmark: Any, cluster: Cluster, tmp_path: Path, count: int) -> None:
    plan = growths()
    for growth in plan:
        own = growth.team
        cluster.namespace(own.namespace)
        made = cluster.call(
            "POST",
            f"/apis/tco.io/v1/namespaces/{own.namespace}/teambudgets",
            budget(own.name, own.daily_limit),
        )
        assert made.status == 201, made
    controller = Controller(tmp_path / "controller", cluster, args=DEFAULTS)
    with running(controller):
        looker = Looker(cluster, controller)
        looking = threading.Thread(target=looker.run)
        nodes = Nodes(cluster, plan, count)
        looking.start()
        try:
            nodes.start()
            wait_until(
                lambda: list(nodes.reporting.values()) == [count] * TEAMS,
                "every node counts in every status",
                120,
            )
            nodes.is_loaded = True
            benchmark.pedantic(measure, args=(looker, nodes), rounds=1)
        finally:
            looker.stopping.set()
            looking.join()
            nodes.stop()


def measure(looker: Looker, nodes: Nodes) -> None:
    """Watch for SECONDS, and add the row."""
    cluster = looker.cluster
    families = {
        "controller": looker.controller.family(),
        "API server": cluster.api.family(),
        "etcd": cluster.etcd.family(),
        "nodes": [psutil.Process()],
    }
    before = {name: cpu_s(family) for name, family in families.items()}
    received = nodes.watches.received
    began = looker.look().at
    time.sleep(SECONDS)
    took = looker.look().at - began
    cores = {name: (cpu_s(family) - before[name]) / took for name, family in families.items()}
    reports = looker.per_s("nodelogusages", began)
    statuses = looker.per_s("teambudgets", began)
    started = looker.per_s("nodelogusages", 0.0)
    resident = max(look.resident for look in looker.looks) / MB
    add_row(
        f"One controller, {TEAMS} teams, {SECONDS:.0f} s",
        nodes=len(nodes.nodes),
        reports_per_s=f"{reports[0]:.1f}",
        most_in_10_s=f"{reports[1]:.1f}",
        with_the_start=f"{started[1]:.1f}",
        statuses_per_s=f"{statuses[0]:.1f}",
        most_of_them_in_10_s=f"{statuses[1]:.1f}",
        **{f"{name} cores": f"{value:.3f}" for name, value in cores.items()},
        controller_MB=f"{resident:.0f}",
        watches_MB_per_s=f"{(nodes.watches.received - received) / took / MB:.1f}",
        failed_reports=nodes.failed(),
        slowest_round_s=f"{nodes.slowest_s:.2f}",
    )
    assert reports[1] <= REPORTS_PER_S
    assert statuses[1] <= STATUSES_PER_S
    if len(nodes.nodes) == NODES:
        assert cores["controller"] <= CORES
        assert resident <= RESIDENT_MB
