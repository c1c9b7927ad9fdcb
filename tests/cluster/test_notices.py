"""The leader's notifier on a real API server: told once, also when another leads."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cluster.harness import Cluster
from cluster.processes import Agent, Controller, apply, status_of
from harness import Upstream, budget, wait_until
from notify.fakes import Listener, listening
from shippers import make_streams, promtail

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(own_cluster: Cluster) -> Cluster:
    """An API server of this file's own: whoever leads tells of all its teams."""
    return own_cluster


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as made:
        yield made


def spend(agent: Agent, namespace: str) -> None:
    """Push far more than the team may."""
    agent.wait_for_budget(namespace, "team")
    for seed in range(10):
        streams = make_streams(seed, [namespace], streams=1, entries=100)
        assert agent.send(promtail(streams)).status == 204


def heard_of(listener: Listener, namespace: str) -> list[str]:
    return [body["title"] for body in listener.bodies if namespace in str(body)]


def notified(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = status_of(cluster, namespace, "team").get("notified", [])
    return found


def test_a_change_of_leader_repeats_nothing(
    cluster: Cluster,
    node: str,
    upstream: Upstream,
    agents: Callable[..., Agent],
    controllers: Callable[..., Controller],
    listener: Listener,
) -> None:
    args = ("--notify", f"json://127.0.0.1:{listener.port}/")
    first, second = (controllers(cluster, args=args) for _ in range(2))
    leader = wait_until(lambda: next((c for c in (first, second) if c.leads), None), "one leads")
    other = second if leader is first else first
    agent = agents(cluster, node, upstream.url)
    apply(cluster, budget("team", 20_000, namespace="over"))
    spend(agent, "over")
    wait_until(lambda: any("over" in title for title in heard_of(listener, "over")), "it is told")

    def is_kept() -> bool:
        rules = [item["rule"].split("@") for item in notified(cluster, "over")]
        return [rule for rule, sink in rules if sink.startswith("json-")] == ["drop"]

    wait_until(is_kept, "what was told stands in the status")
    # The controller's own writes leave it alone.
    wait_until(lambda: status_of(cluster, "over", "team").get("decision") == "Drop", "it drops")
    assert is_kept()
    count = len(heard_of(listener, "over"))
    leader.kill()
    wait_until(lambda: other.leads, "the other one leads", 30)
    apply(cluster, budget("team", 20_000, namespace="later"))
    spend(agent, "later")
    # It is told by the new leader, which saw the other team before it.
    wait_until(lambda: heard_of(listener, "later"), "the next one is told", 30)
    assert len(heard_of(listener, "over")) == count
    assert is_kept()


def test_the_sinks_are_in_health_and_metrics_without_their_secrets(
    cluster: Cluster, controllers: Callable[..., Controller]
) -> None:
    controller = controllers(cluster, args=("--notify", "json://user:hunter2@127.0.0.1:9/secret"))
    health, metrics = (controller.get(path).text for path in ("/api/health", "/metrics"))
    assert '"notifications"' in health
    assert "tco_notifications_total" in metrics
    assert "hunter2" not in health + metrics + controller.tail(1000)
