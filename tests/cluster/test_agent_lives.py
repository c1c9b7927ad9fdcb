"""How an agent begins and ends: without an API server, under load, and beside its successor."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster import chaos
from cluster.chaos import Books
from cluster.harness import Cluster
from cluster.processes import Agent, Controller, apply, node_usage, status_of
from cluster.proxy import Proxy
from harness import Upstream, wait_until
from shippers import Entry, Push, Stream, vector_json
from shipping import shipping

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    # A socket that is reset before TLS begins on it is left to the garbage collector by CPython
    # 3.11 (ssl.SSLSocket._create).
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]

LIMIT = 1_000_000
# Nothing becomes stale meanwhile: what is known counts.
TRUSTING = ("--stale-after", "600")
END_S = 10


@pytest.fixture(scope="module")
def cluster(own_cluster: Cluster) -> Cluster:
    """An API server of this file's own."""
    return own_cluster


def cut_off(proxy: Proxy, mode: str = "refuse") -> None:
    """No API server from here on, as far as those behind the proxy can tell."""
    proxy.set(mode)
    if mode == "refuse":
        proxy.cut()


def push_to(namespace: str, size: int, number: int = 1) -> Push:
    return vector_json([Stream({"namespace": namespace}, [Entry(number, "x" * size)])])


def usage_of(cluster: Cluster, namespace: str) -> int:
    used: int = status_of(cluster, namespace, "team").get("currentUsage", 0)
    return used


def apply_team(cluster: Cluster, namespace: str, limit: int = LIMIT) -> None:
    made = chaos.budget_of("team", limit)
    apply(cluster, {**made, "metadata": {"name": "team", "namespace": namespace}})


def team_of(agent: Agent, namespace: str) -> Any:
    return agent.get("/api/teams/team", fields={"namespace": namespace}).json


def test_an_agent_with_a_saved_table_enforces_it_without_an_api_server(
    cluster: Cluster,
    namespace: str,
    node: str,
    upstream: Upstream,
    proxy: Proxy,
    agents: Callable[..., Agent],
    controllers: Callable[..., Controller],
) -> None:
    apply_team(cluster, namespace)
    controllers(cluster)
    other = agents(cluster, f"{node}-other", upstream.url)
    agent = agents(cluster, node, upstream.url, server=proxy.url, args=TRUSTING)
    assert other.send(push_to(namespace, 500_000)).status == 204
    assert agent.send(push_to(namespace, 100_000)).status == 204
    wait_until(lambda: usage_of(cluster, namespace) == 600_000, "all is in the status")
    wait_until(lambda: team_of(agent, namespace)["currentUsage"] == 600_000, "the agent knows")
    assert agent.stop() == 0

    cut_off(proxy)
    agent.launch()
    # The first answer of all is yes.
    wait_until(lambda: said(agent, "/ready"), "it answers")
    assert agent.get("/ready").status == 200
    health = agent.get("/api/health").json
    assert health["cluster"]["synced"] is False
    assert team_of(agent, namespace)["currentUsage"] == 600_000
    # 400 000 are left of the cluster's, not one more.
    assert agent.send(push_to(namespace, 400_001)).status == 204
    assert team_of(agent, namespace)["nodeUsage"] == 100_000
    assert agent.send(push_to(namespace, 400_000)).status == 204
    assert agent.send(push_to(namespace, 1)).status == 204
    team = team_of(agent, namespace)
    assert (team["nodeUsage"], team["action"]) == (500_000, "drop")
    assert team["counts"]["dropped"] == {"entries": 2, "bytes": 400_002}

    proxy.set("ok")
    wait_until(lambda: usage_of(cluster, namespace) == 1_000_000, "it has reported", 40)


def said(agent: Agent, path: str) -> bool:
    """Whether the agent answers at all; what, is the next question."""
    try:
        return bool(agent.get(path).status)
    except OSError:
        return False


def test_an_agent_that_knows_no_budgets_waits_for_a_while_and_then_lets_all_pass(
    cluster: Cluster,
    namespace: str,
    node: str,
    upstream: Upstream,
    proxy: Proxy,
    agents: Callable[..., Agent],
    tmp_path: Path,
) -> None:
    apply_team(cluster, namespace)
    cut_off(proxy)
    grace_s = 3.0
    args = ("--start-grace", str(grace_s), "--unbudgeted", "drop")
    agent = Agent(tmp_path / "agent", cluster, node, upstream.url, server=proxy.url, args=args)
    try:
        begun = time.monotonic()
        agent.launch()
        wait_until(lambda: said(agent, "/ready"), "it answers")
        refused = agent.send(push_to(namespace, 1000))
        ready = agent.get("/ready")
        assert (refused.status, ready.status) == (503, 503), (refused, ready)
        assert time.monotonic() - begun < grace_s + 2, "too slow a machine for this test"
        assert "no budgets" in refused.text
        assert "no budgets" in ready.text
        assert refused.headers["retry-after"] == "1"

        wait_until(lambda: agent.get("/ready").status == 200, "the time of grace has passed")
        assert agent.send(push_to(namespace, 2_000_000)).status == 204
        assert upstream.count()["acknowledged"] == 1
        health = agent.get("/api/health").json
        assert health["status"] == "degraded"
        assert "everything passes" in health["problems"][0]["error"]
        assert "everything passes" in agent.tail()
        assert agent.metric("tco_budget_problems") == 1
        assert agent.metric("tco_log_bytes_total", team="", outcome="forwarded") == 2_000_000

        proxy.set("ok")
        wait_until(lambda: agent.get("/api/teams").json["teams"], "budgets are in force", 40)
        assert agent.get("/api/health").json["problems"] == []
        assert agent.metric("tco_budget_problems") == 0
        assert agent.send(push_to(namespace, LIMIT + 1)).status == 204
        assert agent.send(push_to(namespace, LIMIT)).status == 204
        team = team_of(agent, namespace)
        assert team["nodeUsage"] == LIMIT
        assert team["counts"]["dropped"]["bytes"] == LIMIT + 1
        # What belongs to nobody is dropped only now, as it was asked for.
        assert agent.send(push_to("nobody", 1000)).status == 204
        assert agent.metric("tco_log_bytes_total", team="", outcome="dropped") == 1000
        assert agent.stop() == 0
    finally:
        agent.kill()


def test_an_agent_that_is_told_to_stop_under_load_reports_for_the_last_time(
    cluster: Cluster,
    namespace: str,
    node: str,
    upstream: Upstream,
    agents: Callable[..., Agent],
    controllers: Callable[..., Controller],
) -> None:
    apply_team(cluster, namespace, 10**9)
    upstream.control("slow:0.2", keep=False)
    controllers(cluster)
    agent = agents(cluster, node, upstream.url)
    with shipping(agent, lambda number: push_to(namespace, 1000, number), 4) as load:
        load.wait_for(30)
        assert agent.stop(END_S) == 0, agent.tail()
        load.stop()
    status = node_usage(cluster, node)["status"]
    assert status["final"] is True
    assert status["instance"] == agent.bound.pod_uid
    taken = Books(upstream).read()[namespace]
    print(f"{taken} bytes, answers {dict(load.answers)}")
    assert sum(sizes[f"{namespace}/team"] for name, sizes in status["usage"].items()
               if name.startswith("d/")) == taken  # fmt: skip
    wait_until(lambda: usage_of(cluster, namespace) == taken, "the status is exact")


@pytest.mark.parametrize("mode", ["refuse", "blackhole"])
def test_an_agent_that_is_told_to_stop_does_not_wait_for_an_api_server(
    cluster: Cluster,
    namespace: str,
    node: str,
    upstream: Upstream,
    proxy: Proxy,
    agents: Callable[..., Agent],
    controllers: Callable[..., Controller],
    mode: str,
) -> None:
    apply_team(cluster, namespace, 10**9)
    upstream.control("slow:0.2", keep=False)
    controllers(cluster)
    agent = agents(cluster, node, upstream.url, server=proxy.url)
    with shipping(agent, lambda number: push_to(namespace, 1000, number), 4) as load:
        load.wait_for(20)
        cut_off(proxy, mode)
        # Long enough for a report to be on its way.
        load.wait_for(60)
        begun = time.monotonic()
        assert agent.stop(END_S) == 0, agent.tail()
        print(f"gone after {time.monotonic() - begun:.1f} s")
        load.stop()
    proxy.set("ok")
    proxy.cut()
    taken = Books(upstream).read()[namespace]
    agent.start()
    wait_until(lambda: usage_of(cluster, namespace) == taken, "the status is exact", 40)
    assert team_of(agent, namespace)["nodeUsage"] == taken


def test_of_two_agents_on_a_node_each_reports_what_it_counted(
    cluster: Cluster,
    namespace: str,
    node: str,
    upstream: Upstream,
    agents: Callable[..., Agent],
    controllers: Callable[..., Controller],
) -> None:
    apply_team(cluster, namespace)
    controllers(cluster)
    old = agents(cluster, node, upstream.url, pod=f"{node}-old")
    assert old.send(push_to(namespace, 300_000)).status == 204
    wait_until(lambda: usage_of(cluster, namespace) == 300_000, "the old one has reported")

    new = agents(cluster, node, upstream.url, pod=f"{node}-new")
    assert new.bound.node_uid == old.bound.node_uid
    assert new.bound.pod_uid != old.bound.pod_uid
    wait_until(
        lambda: node_usage(cluster, node)["status"]["instance"] == new.bound.pod_uid,
        "the new one has taken the object over",
    )
    # Nothing tells it yet that it was replaced.
    assert old.send(push_to(namespace, 10_000)).status == 204
    extra = f"{node}.{old.bound.pod_uid}"
    wait_until(lambda: node_usage(cluster, extra) is not None, "the old one has its own object", 20)
    wait_until(lambda: usage_of(cluster, namespace) == 310_000, "all is in the status")
    assert node_usage(cluster, node)["status"]["instance"] == new.bound.pod_uid
    # The new one goes on where the old one was: 690 000 are left.
    wait_until(lambda: team_of(new, namespace)["nodeUsage"] == 300_000, "it took the usage over")
    wait_until(lambda: team_of(new, namespace)["currentUsage"] == 310_000, "it knows the rest")
    # What is known is in force within a second.
    time.sleep(1)
    assert new.send(push_to(namespace, 690_001)).status == 204
    assert old.send(push_to(namespace, 690_000)).status == 204
    wait_until(lambda: usage_of(cluster, namespace) == LIMIT, "the status is exact")
    assert Books(upstream).read()[namespace] == LIMIT
    # It ends, its node does not: its object is folded all the same.
    assert old.stop() == 0
    wait_until(lambda: node_usage(cluster, extra) is None, "its object was folded", 20)
    assert usage_of(cluster, namespace) == LIMIT


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_usage_object_that_is_lost_is_reported_again(
    cluster: Cluster,
    namespace: str,
    node: str,
    upstream: Upstream,
    agents: Callable[..., Agent],
    controllers: Callable[..., Controller],
    is_killed: bool,
) -> None:
    apply_team(cluster, namespace)
    controllers(cluster)
    agent = agents(cluster, node, upstream.url)
    assert agent.send(push_to(namespace, 300_000)).status == 204
    wait_until(lambda: usage_of(cluster, namespace) == 300_000, "it has reported")
    uid = node_usage(cluster, node)["metadata"]["uid"]
    if is_killed:
        agent.kill()
    # As an administrator does who finds that it cannot be deleted.
    cluster.kubectl(
        *("patch", "nodelogusage", node, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    )
    reply = cluster.collect(node)
    assert reply.status == 200, reply.text
    assert node_usage(cluster, node) is None
    if is_killed:
        agent.start()
    assert agent.send(push_to(namespace, 5)).status == 204
    wait_until(lambda: node_usage(cluster, node) is not None, "there is a new object", 90)
    assert node_usage(cluster, node)["metadata"]["uid"] != uid
    wait_until(lambda: usage_of(cluster, namespace) == 300_005, "all is reported again", 90)
    day = f"d/{status_of(cluster, namespace, 'team')['currentDay']}"

    def reported() -> int:
        usage = node_usage(cluster, node).get("status", {}).get("usage", {})
        size: int = usage.get(day, {}).get(f"{namespace}/team", 0)
        return size

    wait_until(lambda: reported() == 300_005, "the new object has it all", 90)


def test_what_a_node_that_is_gone_has_used_stays_used(
    cluster: Cluster,
    namespace: str,
    node: str,
    upstream: Upstream,
    agents: Callable[..., Agent],
    controllers: Callable[..., Controller],
) -> None:
    apply_team(cluster, namespace)
    controllers(cluster)
    first = agents(cluster, node, upstream.url, pod=f"{node}-first")
    assert first.send(push_to(namespace, 300_000)).status == 204
    assert first.stop() == 0
    wait_until(lambda: usage_of(cluster, namespace) == 300_000, "it has reported")
    assert cluster.collect(node).status == 200
    wait_until(lambda: node_usage(cluster, node) is None, "it was folded and let go")
    book = node_usage(cluster, "sluice-ledger-0")["status"]
    day = f"d/{status_of(cluster, namespace, 'team')['currentDay']}"
    assert book["usage"][day][f"{namespace}/team"] == 300_000

    # A new node of the same name begins at nothing, and knows what was used.
    second = agents(cluster, node, upstream.url, pod=f"{node}-second")
    wait_until(lambda: team_of(second, namespace)["currentUsage"] == 300_000, "it knows")
    assert second.send(push_to(namespace, 700_001)).status == 204
    assert second.send(push_to(namespace, 700_000)).status == 204
    assert team_of(second, namespace)["nodeUsage"] == 700_000
    wait_until(lambda: usage_of(cluster, namespace) == LIMIT, "the status is exact")
