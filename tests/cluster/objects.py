"""TeamBudgets and NodeLogUsages of a test, and the ways to write their status."""

import datetime
from typing import Any

from cluster.harness import USAGES, Cluster
from harness import Reply

DAY, MONTH = "d/2026-11-22", "m/2026-11"
OUTCOMES = ("received", "forwarded", "sampled", "dropped", "refused")


def iso(age_s: float = 0) -> str:
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age_s)
    return then.strftime("%Y-%m-%dT%H:%M:%SZ")


def team_budget(cluster: Cluster, namespace: str, name: str, **status: Any) -> str:
    """Make a TeamBudget, write its status, and return its path."""
    path = f"/apis/tco.io/v1/namespaces/{namespace}/teambudgets"
    kind = {"apiVersion": "tco.io/v1", "kind": "TeamBudget"}
    made = {**kind, "metadata": {"name": name}, "spec": {"dailyLimit": 1000000}}
    cluster.get_or_create(path, made)
    if status:
        reply = write_status(cluster, f"{path}/{name}", status)
        assert reply.status == 200, reply
    return f"{path}/{name}"


def node_usage(cluster: Cluster, name: str) -> str:
    """Make a NodeLogUsage and return its path."""
    kind = {"apiVersion": "tco.io/v1", "kind": "NodeLogUsage"}
    # With a label, for the API server tracks no managed fields of an object made without any.
    metadata = {"name": name, "labels": {"app.kubernetes.io/name": "sluice"}}
    cluster.get_or_create(USAGES, {**kind, "metadata": metadata})
    return f"{USAGES}/{name}"


def write_status(cluster: Cluster, path: str, status: dict[str, Any]) -> Reply:
    """Merge into the status, strictly."""
    return cluster.call(
        "PATCH", f"{path}/status", {"status": status}, fields={"fieldValidation": "Strict"}
    )


def put_status(cluster: Cluster, path: str, status: dict[str, Any]) -> Reply:
    """Replace the status, strictly."""
    whole = {**cluster.call("GET", path).json, "status": status}
    return cluster.call("PUT", f"{path}/status", whole, fields={"fieldValidation": "Strict"})
