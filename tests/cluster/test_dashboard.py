"""`sluice dashboard` on a real API server: what TeamBudgets and Events say, and nothing written."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from cluster.harness import Cluster
from cluster.processes import Agent, Controller, Dashboard, apply, budget_of, status_of
from cluster.proxy import Proxy
from harness import TESTS, Upstream, budget, wait_until
from shippers import billed, make_streams, promtail

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(own_cluster: Cluster) -> Cluster:
    """An API server of this file's own, with no objects that tests have written by hand."""
    return own_cluster


def push_to(agent: Agent, namespace: str, entries: int, seed: int = 1) -> int:
    """Push entries of a namespace; returns what Loki would bill."""
    streams = make_streams(seed, [namespace], streams=1, entries=entries)
    assert agent.send(promtail(streams)).status == 204
    return billed(streams)


def shown(dashboard: Dashboard, namespace: str) -> dict[str, Any]:
    """The team of a namespace, {} if there is none."""
    teams = dashboard.get("/api/teams").json["teams"]
    return next((team for team in teams if team["namespace"] == namespace), {})


def test_a_team_s_usage_decision_and_events_are_shown(
    cluster: Cluster,
    namespace: str,
    node: str,
    upstream: Upstream,
    agents: Callable[..., Agent],
    controllers: Callable[..., Controller],
    dashboards: Callable[..., Dashboard],
) -> None:
    apply(cluster, budget("team", 20_000, namespace=namespace))
    controllers(cluster)
    agent = agents(cluster, node, upstream.url)
    agent.wait_for_budget(namespace, "team")
    dashboard = dashboards(cluster)
    seeds = itertools.count()

    def drops() -> bool:
        # What is left is less than a line; with more lines, than a line of mean size.
        push_to(agent, namespace, 100, next(seeds))
        return shown(dashboard, namespace).get("action") == "drop"

    wait_until(drops, "the team drops", 40)

    def agreed() -> dict[str, Any]:
        """The team, if it is shown as the status says; which may change between two looks."""
        team, status = shown(dashboard, namespace), status_of(cluster, namespace, "team")
        known = ("currentUsage", "lastUpdated")
        is_same = all(team[name] == status[name] for name in known)
        return team if is_same and team["counts"] == status["today"] else {}

    team = wait_until(agreed, "dashboard and status agree")
    assert 19_000 < team["currentUsage"] <= 20_000
    assert "forecast" in team
    assert "nodeUsage" not in team

    def reasons() -> list[str]:
        found = dashboard.get(f"/api/events?namespace={namespace}&team=team").json["events"]
        return [event["reason"] for event in found]

    wait_until(lambda: "Exceeded" in reasons(), "the Event is shown", 30)
    page = dashboard.get(f"/teams/{namespace}/team")
    assert page.status == 200
    assert "--prometheus-url" in dashboard.get(f"/teams/{namespace}/team/panel.json").text
    top = dashboard.get(f"/api/teams/team/top?namespace={namespace}")
    assert top.status == 404
    assert "--prometheus-url" in top.json["error"]


def test_a_budget_that_changes_or_goes_does_so_on_the_page(
    cluster: Cluster, namespace: str, dashboards: Callable[..., Dashboard]
) -> None:
    dashboard = dashboards(cluster)
    apply(cluster, budget("team", 1000, namespace=namespace))
    wait_until(lambda: shown(dashboard, namespace).get("dailyLimit") == 1000, "the team is there")
    apply(cluster, budget("team", 2000, namespace=namespace))
    wait_until(lambda: shown(dashboard, namespace)["dailyLimit"] == 2000, "the limit has changed")
    cluster.kubectl("delete", "teambudget", "team", "-n", namespace)
    wait_until(lambda: not shown(dashboard, namespace), "the team is gone")


def test_nothing_is_written_to_the_cluster(
    cluster: Cluster, namespace: str, dashboards: Callable[..., Dashboard]
) -> None:
    apply(cluster, budget("team", 1000, namespace=namespace))
    before = budget_of(cluster, namespace, "team")
    dashboard = dashboards(cluster)
    wait_until(lambda: shown(dashboard, namespace), "the team is there")
    for path in ("/", f"/teams/{namespace}/team", "/api/health", "/api/events", "/metrics"):
        assert dashboard.get(path).status == 200
        assert dashboard.request("POST", path, b"{}").status == 405
    assert budget_of(cluster, namespace, "team") == before


def test_what_was_last_seen_is_shown_while_the_api_server_is_away(
    cluster: Cluster, namespace: str, proxy: Proxy, dashboards: Callable[..., Dashboard]
) -> None:
    apply(cluster, budget("team", 1000, namespace=namespace))
    dashboard = dashboards(cluster, server=proxy.url)
    wait_until(lambda: shown(dashboard, namespace), "the team is there")
    proxy.set("refuse")
    assert shown(dashboard, namespace)["dailyLimit"] == 1000
    assert dashboard.get("/").status == 200
    assert dashboard.get("/api/events").status in (200, 503)


def watched(dashboard: Dashboard) -> dict[str, float]:
    """The informer's series, by name."""
    found = [one for one in dashboard.metrics() if one.name.startswith("tco_api_")]
    assert [one.labels for one in found] == [{"resource": "teambudgets"}] * len(found)
    return {one.name.removeprefix("tco_api_"): one.value for one in found}


def test_it_tells_how_it_stands_with_the_api_server_from_its_start_on(
    cluster: Cluster,
    namespace: str,
    proxy: Proxy,
    dashboards: Callable[..., Dashboard],
) -> None:
    apply(cluster, budget("team", 1000, namespace=namespace))
    dashboard = dashboards(cluster, server=proxy.url)
    series = ("relists_total", "watches_total", "failures_total", "handler_errors_total")
    wait_until(
        lambda: watched(dashboard) == dict(zip(series, (0, 1, 0, 0), strict=True)), "it watches"
    )
    health = dashboard.get("/api/health").json
    assert (health["status"], health["ready"], health["problems"]) == ("ok", True, [])
    assert 0 <= health["cluster"]["secondsSinceContact"] < 60

    proxy.set("refuse")
    proxy.cut()
    wait_until(lambda: watched(dashboard)["failures_total"] > 0, "a try has failed")
    # It goes on with what it has.
    assert dashboard.get("/ready").status == 200
    proxy.set("ok")
    wait_until(lambda: watched(dashboard)["watches_total"] > 1, "it watches again", 40)

    assert dashboard.stop() == 0
    proxy.set("refuse")
    dashboard.launch()
    wait_until(lambda: answers(dashboard), "it answers")
    ready, health = dashboard.get("/ready"), dashboard.get("/api/health")
    assert (ready.status, health.status) == (503, 200)
    assert "no list of teambudgets" in ready.text
    assert health.json["ready"] is False
    assert "no list of teambudgets" in health.json["missing"]
    assert health.json["cluster"] == {"secondsSinceContact": None}
    # Nothing known is not the same as nobody there.
    assert dashboard.get("/api/teams").status == 503
    wait_until(lambda: watched(dashboard)["failures_total"] > 0, "a try has failed")
    proxy.set("ok")
    wait_until(lambda: dashboard.get("/ready").status == 200, "it has the list", 40)
    assert dashboard.get("/api/health").json["ready"] is True
    assert shown(dashboard, namespace)["dailyLimit"] == 1000


def answers(dashboard: Dashboard) -> bool:
    """Whether it answers at all; what, is the next question."""
    try:
        return bool(dashboard.get("/ready").status)
    except OSError:
        return False


def test_what_is_wrong_with_a_budget_is_said_until_it_is_mended(
    cluster: Cluster, namespace: str, dashboards: Callable[..., Dashboard]
) -> None:
    dashboard = dashboards(cluster)
    apply(cluster, budget("team", 1000, namespace=namespace, timeZone="Nowhere/Land"))
    wait_until(lambda: shown(dashboard, namespace), "the team is there")
    health = dashboard.get("/api/health").json
    assert (health["status"], health["ready"]) == ("degraded", True)
    (problem,) = health["problems"]
    assert problem["budget"] == f"{namespace}/team"
    assert "Nowhere/Land" in problem["error"]
    apply(cluster, budget("team", 1000, namespace=namespace, timeZone="Asia/Kathmandu"))
    wait_until(lambda: not dashboard.get("/api/health").json["problems"], "it is mended")
    assert dashboard.get("/api/health").json["status"] == "ok"


@pytest.mark.parametrize(
    ("args", "code"), [(("--listen", "0.0.0.0:0"), 2), (("--listen", "[::]:0"), 2)]
)
def test_a_port_that_others_can_reach_needs_a_word_on_who_may_look(
    cluster: Cluster, args: tuple[str, ...], code: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sluice", "dashboard", *args, "--kubeconfig", cluster.kubeconfig()],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code
    assert "--auth" in done.stderr
    assert "Traceback" not in done.stderr
