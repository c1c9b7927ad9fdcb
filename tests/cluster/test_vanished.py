"""Agents in a cluster that has no budgets any more, and agents that may not report."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import chaos
from cluster.harness import DEPLOY, MANIFESTS, SYSTEM_NAMESPACE, Cluster
from cluster.processes import Agent, apply
from harness import Upstream, wait_until
from shippers import Entry, Push, Stream, vector_json

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

LIMIT = 1_000
CRD = "customresourcedefinition/teambudgets.tco.io"


@pytest.fixture(scope="module")
def cluster(own_cluster: Cluster) -> Cluster:
    """An API server of this file's own: its CRD is deleted."""
    return own_cluster


def push_to(namespace: str, size: int) -> Push:
    return vector_json([Stream({"namespace": namespace}, [Entry(1, "x" * size)])])


def apply_team(cluster: Cluster, namespace: str) -> None:
    made = chaos.budget_of("team", LIMIT)
    apply(cluster, {**made, "metadata": {"name": "team", "namespace": namespace}})


@pytest.mark.parametrize("what", ["crd", "budgets"])
def test_budgets_that_vanish_stay_in_force_for_the_time_that_was_said(
    cluster: Cluster,
    namespace: str,
    node: str,
    upstream: Upstream,
    agents: Callable[..., Agent],
    what: str,
) -> None:
    apply_team(cluster, namespace)
    agent = agents(cluster, node, upstream.url, args=("--budgets-grace", "25"))
    agent.wait_for_budget(namespace, "team")
    assert agent.send(push_to(namespace, LIMIT)).status == 204
    begun = time.monotonic()
    if what == "crd":
        cluster.kubectl("delete", CRD)
    else:
        cluster.kubectl("delete", "teambudgets", "--all", "--all-namespaces")
    deleted = time.monotonic()

    def is_held() -> bool:
        return agent.metric("tco_budgets_held") >= 1

    wait_until(is_held, "the agent has seen it", 20)
    assert agent.stop() == 0
    agent.start()
    wait_until(is_held, "so has the next process")
    health = agent.get("/api/health").json
    assert health["status"] == "degraded"
    assert "stay in force for 25 s (--budgets-grace)" in health["complaints"]["cluster"]
    dropped = agent.metric("tco_log_bytes_total", team="team", outcome="dropped")
    assert agent.send(push_to(namespace, 10)).status == 204
    if time.monotonic() - begun < 25:
        now = agent.metric("tco_log_bytes_total", team="team", outcome="dropped")
        assert now == dropped + 10
    wait_until(lambda: not agent.get("/api/teams").json["teams"], "the time is over", 60)
    assert time.monotonic() - deleted > 20
    assert agent.metric("tco_budgets_held") == 0
    wanted = "degraded" if what == "crd" else "ok"
    assert agent.get("/api/health").json["status"] == wanted

    if what == "crd":
        cluster.kubectl("apply", "--server-side", "-f", str(DEPLOY / MANIFESTS[0]))
        cluster.wait_for_crd("teambudgets.tco.io")
    apply_team(cluster, namespace)
    agent.wait_for_budget(namespace, "team")
    wait_until(lambda: agent.get("/api/health").json["status"] == "ok", "all is well")
    assert agent.send(push_to(namespace, 10)).status == 204
    assert agent.metric("tco_log_bytes_total", team="team", outcome="dropped") >= 10


def test_an_agent_that_may_not_report_is_not_ready_and_says_why(
    cluster: Cluster, namespace: str, node: str, upstream: Upstream, tmp_path: Path
) -> None:
    apply_team(cluster, namespace)
    agent = Agent(tmp_path / "agent", cluster, node, upstream.url, args=("--node-name", node))
    # A token of the right account that is bound to no pod.
    agent.kubeconfig = cluster.kubeconfig(cluster.service_account_token("sluice-agent").token)
    try:
        agent.start()
        assert agent.send(push_to(namespace, 10)).status == 204
        wait_until(lambda: agent.get("/ready").status == 503, "it is not ready", 40)
        assert "this token is not bound to a pod on a node" in agent.get("/ready").text
        health = agent.get("/api/health").json
        assert (health["status"], health["ready"]) == ("degraded", False)
        assert agent.metric("tco_reports_forbidden") == 1
        # What its shippers send while they still reach it is taken.
        assert agent.send(push_to(namespace, 10)).status == 204

        def events() -> list[str]:
            path = f"/apis/events.k8s.io/v1/namespaces/{SYSTEM_NAMESPACE}/events"
            found = cluster.call("GET", path).json["items"]
            return [one["note"] for one in found if one["reason"] == "MayNotReport"]

        wait_until(lambda: any(node in note for note in events()), "there is an Event", 20)
    finally:
        agent.kill()
