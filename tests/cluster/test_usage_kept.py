"""Usage objects that people or tools delete, on a real API server: what was used stays used."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from cluster.harness import DEPLOY, SYSTEM_NAMESPACE, USAGES, Cluster
from cluster.processes import Agent, Controller, apply, node_usage, status_of
from harness import Upstream, budget, wait_until
from shippers import Entry, Push, Stream, vector_json

pytestmark = pytest.mark.cluster

LIMIT = 1_000_000
CRD = "nodelogusages.tco.io"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
LEDGERS = ["sluice-ledger-0", "sluice-ledger-1"]


@pytest.fixture
def cluster(fresh_cluster: Cluster) -> Cluster:
    """An API server of the test's own, with one budget."""
    fresh_cluster.install()
    apply(fresh_cluster, budget("team", LIMIT, namespace="shop", throttle={"sampleRate": 1}))
    return fresh_cluster


def push_to(namespace: str, size: int) -> Push:
    return vector_json([Stream({"namespace": namespace}, [Entry(1, "x" * size)])])


def status(cluster: Cluster) -> Any:
    return status_of(cluster, "shop", "team")


def used(cluster: Cluster) -> int:
    found: int = status(cluster).get("currentUsage", 0)
    return found


def lost(cluster: Cluster) -> str:
    """The status of the condition UsageLost; "" without it."""
    found = {c["type"]: c["status"] for c in status(cluster).get("conditions", ())}
    return str(found.get("UsageLost", ""))


def names_of(cluster: Cluster) -> set[str]:
    """The NodeLogUsages that there are; none while the CRD is missing."""
    reply = cluster.call("GET", USAGES)
    return (
        {obj["metadata"]["name"] for obj in reply.json["items"]} if reply.status == 200 else set()
    )


def summed(cluster: Cluster) -> int:
    """What all objects have of the team's day."""
    objects = cluster.call("GET", USAGES).json["items"]
    day = f"d/{status(cluster)['currentDay']}"
    usages = [obj.get("status", {}).get("usage", {}).get(day, {}) for obj in objects]
    return sum(usage.get("shop/team", 0) for usage in usages)


def gone(
    cluster: Cluster, agents: Callable[..., Agent], upstream: Upstream, name: str, size: int
) -> None:
    """A node that used so much, and is gone."""
    agent = agents(cluster, name, upstream.url)
    agent.wait_for_budget("shop", "team")
    assert agent.send(push_to("shop", size)).status == 204
    assert agent.stop() == 0
    assert cluster.collect(name).status == 200
    wait_until(lambda: node_usage(cluster, name) is None, f"{name} is folded")


def test_a_ledger_object_cannot_be_deleted_and_moves_where_it_can(
    cluster: Cluster,
    upstream: Upstream,
    agents: Callable[..., Agent],
    controllers: Callable[..., Controller],
) -> None:
    controllers(cluster)
    gone(cluster, agents, upstream, "node-a", 100_000)
    wait_until(lambda: used(cluster) == 100_000, "the status has it")
    assert cluster.kubectl("delete", "nlu", LEDGERS[0], check=False).returncode != 0
    assert summed(cluster) == 100_000

    # Without the policy the finalizer is left.
    assert cluster.call("DELETE", f"{BINDINGS}/sluice-usage-is-kept").status == 200
    wait_until(
        lambda: cluster.kubectl(
            "delete", "nlu", LEDGERS[0], "--wait=false", check=False
        ).returncode == 0,
        "the policy is out of force",
    )  # fmt: skip
    wait_until(lambda: node_usage(cluster, LEDGERS[0]) is None, "it has moved")
    assert node_usage(cluster, LEDGERS[1])["status"]["merged"] is not None
    assert summed(cluster) == used(cluster) == 100_000
    assert lost(cluster) == ""


def test_a_ledger_object_without_its_finalizer_is_written_again(
    cluster: Cluster,
    upstream: Upstream,
    agents: Callable[..., Agent],
    controllers: Callable[..., Controller],
) -> None:
    controllers(cluster)
    gone(cluster, agents, upstream, "node-a", 100_000)
    wait_until(lambda: used(cluster) == 100_000, "the status has it")
    before = node_usage(cluster, LEDGERS[0])["metadata"]["uid"]
    assert cluster.call("DELETE", f"{BINDINGS}/sluice-usage-is-kept").status == 200
    patch = {"metadata": {"finalizers": None}}
    assert cluster.call("PATCH", f"{USAGES}/{LEDGERS[0]}", patch).status == 200
    wait_until(
        lambda: cluster.call("DELETE", f"{USAGES}/{LEDGERS[0]}").status == 200,
        "the policy is out of force",
    )
    wait_until(
        lambda: (node_usage(cluster, LEDGERS[0]) or {}).get("metadata", {}).get("uid", before)
        != before,
        "there is a new one",
    )  # fmt: skip
    wait_until(lambda: summed(cluster) == 100_000, "it has what the old one had")
    wait_until(lambda: lost(cluster) in ("", "False"), "nothing is missing")
    assert used(cluster) == 100_000


def test_a_crd_that_is_deleted_and_applied_again_gives_no_team_its_limit_again(
    cluster: Cluster,
    upstream: Upstream,
    agents: Callable[..., Agent],
    controllers: Callable[..., Controller],
) -> None:
    controller = controllers(cluster)
    gone(cluster, agents, upstream, "node-a", 100_000)
    nodes = [agents(cluster, name, upstream.url) for name in ("node-b", "node-c")]
    for agent, size in zip(nodes, (500_000, 400_000), strict=True):
        agent.wait_for_budget("shop", "team")
        wait_until(lambda agent=agent: agent.teams()["team"]["currentUsage"] > 0, "it has heard")
        assert agent.send(push_to("shop", size)).status == 204
    wait_until(lambda: used(cluster) == LIMIT, "the budget is spent")

    cluster.kubectl("delete", "crd", CRD, "--wait=false")
    wait_until(lambda: cluster.call("GET", f"{CRDS}/{CRD}").status == 404, "the CRD is gone", 30)
    assert used(cluster) == LIMIT
    for agent in nodes:
        assert agent.send(push_to("shop", 10_000)).status == 204
    assert used(cluster) == LIMIT

    cluster.kubectl("apply", "--server-side", "-f", str(DEPLOY / "nodelogusage-crd.yaml"))
    names = {*LEDGERS[:1], "node-b", "node-c"}
    wait_until(lambda: names <= names_of(cluster), "all objects are there again", 60)
    for agent in nodes:
        assert agent.send(push_to("shop", 10_000)).status == 204
        assert agent.teams()["team"]["nodeUsage"] in (500_000, 400_000)
    wait_until(lambda: summed(cluster) == LIMIT, "all of it is reported again", 60)
    wait_until(lambda: lost(cluster) == "False", "nothing is missing")
    assert used(cluster) == LIMIT
    path = "/apis/events.k8s.io/v1/namespaces/shop/events"
    reasons = [event["reason"] for event in cluster.call("GET", path).json["items"]]
    assert "Recovered" not in reasons
    assert reasons.count("UsageLost") >= 1
    assert controller.metric("tco_controller_usage_falls_total") >= 1


def test_the_crds_are_marked_as_not_to_be_pruned(cluster: Cluster) -> None:
    assert SYSTEM_NAMESPACE == "sluice-system"
    for name in (CRD, "teambudgets.tco.io"):
        found = cluster.kubectl("get", "crd", name, "-o", "json").stdout
        annotations = json.loads(found)["metadata"]["annotations"]
        assert annotations["helm.sh/resource-policy"] == "keep"
        assert annotations["argocd.argoproj.io/sync-options"] == "Prune=false"
        assert annotations["kustomize.toolkit.fluxcd.io/prune"] == "disabled"
