"""The three flows on a real API server: budgets go down, bytes go through, usage comes up."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster.harness import CRDS, DEPLOY, Cluster
from cluster.processes import Agent, Controller, apply, budget_of, node_usage, status_of
from harness import Upstream, budget, wait_until
from shippers import Push, billed, make_streams, promtail

pytestmark = pytest.mark.cluster

EXAMPLE = """
apiVersion: tco.io/v1
kind: TeamBudget
metadata: {name: backend-team, namespace: default}
spec: {dailyLimit: 1000000, monthlyLimit: 30000000}
"""


@pytest.fixture(scope="module")
def cluster(own_cluster: Cluster) -> Cluster:
    """An API server of this file's own."""
    return own_cluster


@pytest.fixture
def controller(cluster: Cluster, controllers: Callable[..., Controller]) -> Controller:
    """A controller that leads."""
    made: Controller = controllers(cluster)
    wait_until(lambda: made.leads, "the controller leads")
    return made


@pytest.fixture
def agent(cluster: Cluster, node: str, upstream: Upstream, agents: Callable[..., Agent]) -> Agent:
    """An agent on a node of its own."""
    made: Agent = agents(cluster, node, upstream.url, args=["--evaluate"])
    return made


def pushed(namespace: str, entries: int, seed: int = 1) -> tuple[Push, int]:
    """A push of one namespace, and the bytes that Loki would bill for it."""
    streams = make_streams(seed, [namespace], streams=1, entries=entries)
    return promtail(streams), billed(streams)


def wait_for_usage(cluster: Cluster, namespace: str, name: str, size: int) -> Any:
    """The status of a budget, as soon as it says that so much is used."""

    def seen() -> Any:
        status = status_of(cluster, namespace, name)
        return status if status.get("currentUsage") == size else None

    return wait_until(seen, f"{size} bytes used in the status of {namespace}/{name}")


def test_a_push_shows_in_the_status_of_its_budget(
    cluster: Cluster, namespace: str, node: str, controller: Controller, agent: Agent
) -> None:
    apply(cluster, budget("team", 10_000_000, namespace=namespace))
    agent.wait_for_budget(namespace, "team")
    push, size = pushed(namespace, 500)
    assert agent.send(push).status == 204
    status = wait_for_usage(cluster, namespace, "team", size)
    assert status["today"]["forwarded"] == {"entries": 500, "bytes": size}
    assert status["decision"] == "Allow"
    assert node_usage(cluster, node)["status"]["instance"] == agent.bound.pod_uid
    # All three say the same: the agent, the controller's API, its metrics.
    team = agent.get(f"/api/teams/team?namespace={namespace}").json
    assert (team["currentUsage"], team["nodeUsage"]) == (size, size)
    (shown,) = (
        t for t in controller.get("/api/teams").json["teams"] if t["namespace"] == namespace
    )
    assert shown["currentUsage"] == size
    assert shown["counts"]["forwarded"] == {"entries": 500, "bytes": size}
    labels = {"team": "team", "namespace": namespace, "window": "day"}
    assert controller.metric("tco_budget_used_bytes", **labels) == size
    assert agent.metric("tco_node_used_bytes", **labels) == size
    assert agent.metric("tco_budget_used_bytes") == 0


def test_the_example_applies_and_kubectl_shows_what_is_used(
    cluster: Cluster, controller: Controller, agent: Agent
) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=EXAMPLE)
    agent.wait_for_budget("default", "backend-team")
    push, size = pushed("default", 4000)
    assert 800_000 < size < 1_000_000
    assert agent.send(push).status == 204
    # Throttled from 80 % on, it samples; what went on is what is used.
    used = agent.teams()["backend-team"]["currentUsage"]
    wait_for_usage(cluster, "default", "backend-team", used)
    shown = cluster.kubectl("get", "tb", "-n", "default").stdout.splitlines()
    assert shown[0].split()[:6] == ["NAME", "DAILY", "USED", "USE%", "DECISION", "UPDATED"]
    name, daily, usage, percent, decision, *_ = shown[1].split()
    assert (name, daily, usage) == ("backend-team", "1000000", str(used))
    assert (int(percent), decision) == (used // 10_000, "Throttle")
    cluster.kubectl("delete", "tb", "backend-team", "-n", "default")


def test_a_changed_limit_is_enforced_within_a_second(
    cluster: Cluster, namespace: str, agent: Agent
) -> None:
    apply(cluster, budget("team", "1Gi", namespace=namespace))
    agent.wait_for_budget(namespace, "team")
    for limit in (0, 10**9, 0, 10**9, 0):
        patch = json.dumps({"spec": {"dailyLimit": limit}})
        cluster.kubectl("patch", "tb", "team", "-n", namespace, "--type=merge", "-p", patch)
        applied = time.monotonic()
        wanted = "drop" if limit == 0 else "allow"
        call = json.dumps({"namespace": namespace, "size": 1, "dryRun": True}).encode()

        def judged(call: bytes = call, wanted: str = wanted) -> bool:
            headers = {"Content-Type": "application/json"}
            reply = agent.request("POST", "/api/v1/evaluate", call, headers)
            return bool(reply.json["action"] == wanted)

        wait_until(judged, f"dailyLimit {limit} in force", timeout_s=1)
        assert time.monotonic() - applied < 1


def test_each_change_of_a_decision_is_an_event(
    cluster: Cluster, namespace: str, controller: Controller, agent: Agent
) -> None:
    apply(cluster, budget("team", 100_000, namespace=namespace, throttle={"sampleRate": 1}))
    agent.wait_for_budget(namespace, "team")
    for entries, decision in ((300, "Allow"), (85, "Throttle"), (600, "Drop")):
        push, _ = pushed(namespace, entries, seed=entries)
        assert agent.send(push).status == 204
        wait_until(
            lambda decision=decision: (
                status_of(cluster, namespace, "team").get("decision") == decision
            ),
            decision,
        )
    patch = '{"spec": {"dailyLimit": "1Gi"}}'
    cluster.kubectl("patch", "tb", "team", "-n", namespace, "--type=merge", "-p", patch)

    def reasons() -> list[str]:
        events = cluster.call("GET", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events").json
        return [event["reason"] for event in events["items"]]

    wait_until(lambda: len(reasons()) == 3, "three Events")
    assert sorted(reasons()) == ["Exceeded", "Recovered", "Throttling"]
    described = cluster.kubectl("describe", "tb", "team", "-n", namespace).stdout
    assert "lines are dropped" in described
    assert status_of(cluster, namespace, "team")["decision"] == "Allow"


def test_conditions_say_what_is_wrong_with_a_budget(
    cluster: Cluster, namespace: str, controller: Controller
) -> None:
    other = cluster.namespace(f"{namespace}-b")
    apply(
        cluster,
        budget("zone", 1000, namespace=namespace, timeZone="Nowhere/At_All",
               selector={"matchLabels": {"app": "zone"}}),
        budget("wide", 1000, namespace=namespace, namespaces=[namespace, other],
               selector={"matchLabels": {"app": "wide"}}),
        budget("first", 1000, namespace=other),
        budget("second", 1000, namespace=other),
    )  # fmt: skip

    def ready(home: str, name: str) -> tuple[str, str]:
        found = budget_of(cluster, home, name)
        for condition in found.get("status", {}).get("conditions", ()):
            if condition["type"] == "Ready":
                assert condition["observedGeneration"] == found["metadata"]["generation"]
                return condition["status"], condition["reason"]
        return "", ""

    wanted = {
        (namespace, "zone"): ("False", "InvalidTimeZone"),
        (namespace, "wide"): ("False", "NamespacesNotAllowed"),
        (other, "first"): ("True", "Enforced"),
        (other, "second"): ("False", "Overlapping"),
    }
    for (home, name), verdict in wanted.items():
        wait_until(lambda h=home, n=name, v=verdict: ready(h, n) == v, f"{name}: {verdict}")
    cluster.kubectl("delete", "tb", "first", "-n", other)
    wait_until(lambda: ready(other, "second") == ("True", "Enforced"), "the second governs")


def test_two_controllers_have_one_leader_and_a_stop_hands_over(
    cluster: Cluster,
    namespace: str,
    agent: Agent,
    controllers: Callable[..., Controller],
) -> None:
    two = [controllers(cluster), controllers(cluster)]
    wait_until(lambda: any(one.leads for one in two), "somebody leads")
    leader, other = sorted(two, key=lambda one: not one.leads)
    assert not other.leads
    assert leader.stop() == 0
    stopped = time.monotonic()
    wait_until(lambda: other.leads, "the other leads")
    # It gave the lease back: nobody waited for its end.
    assert time.monotonic() - stopped < 2.5
    apply(cluster, budget("team", 10_000_000, namespace=namespace))
    agent.wait_for_budget(namespace, "team")
    push, size = pushed(namespace, 100)
    assert agent.send(push).status == 204
    wait_for_usage(cluster, namespace, "team", size)


def test_a_node_that_is_deleted_keeps_its_usage_in_the_sum(
    cluster: Cluster, namespace: str, node: str, controller: Controller, agent: Agent
) -> None:
    apply(cluster, budget("team", 10_000_000, namespace=namespace))
    agent.wait_for_budget(namespace, "team")
    push, size = pushed(namespace, 100)
    assert agent.send(push).status == 204
    wait_for_usage(cluster, namespace, "team", size)
    owner = node_usage(cluster, node)["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["uid"]) == ("Node", agent.bound.node_uid)
    assert agent.stop() == 0
    assert cluster.collect(node).status == 200
    wait_until(lambda: node_usage(cluster, node) is None, "the object is folded and gone")
    assert status_of(cluster, namespace, "team")["currentUsage"] == size
    book = node_usage(cluster, "sluice-ledger-0")["status"]
    day = status_of(cluster, namespace, "team")["currentDay"]
    assert book["usage"][f"d/{day}"][f"{namespace}/team"] == size
    wait_until(
        lambda: node_usage(cluster, "sluice-ledger-0")["status"].get("merged", []) == [],
        "its uid is forgotten",
    )


def test_the_steps_to_uninstall_leave_nothing(
    fresh_cluster: Cluster, upstream: Upstream, agents: Callable[..., Agent], tmp_path: Path
) -> None:
    fresh_cluster.kubectl("apply", "-k", str(DEPLOY))
    fresh_cluster.install()
    apply(fresh_cluster, budget("team", 10_000_000))
    agent = agents(fresh_cluster, "node-a", upstream.url)
    wait_until(lambda: node_usage(fresh_cluster, "node-a") is not None, "the node's object")
    assert agent.stop() == 0
    program = Controller(tmp_path / "uninstall", fresh_cluster, args=["--uninstall"])
    program.launch()
    assert program.process is not None
    assert program.process.wait(30) == 0, program.tail()
    assert "1 NodeLogUsages released" in program.tail()
    # Nobody here ends a namespace, which a cluster's controllers do.
    fresh_cluster.kubectl("delete", "-k", str(DEPLOY), "--wait=false")
    for crd in CRDS:
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd}"
        wait_until(
            lambda path=path: fresh_cluster.call("GET", path).status == 404, f"{crd} is gone"
        )
