"""`sluice agent`, `controller` and `dashboard` as real processes, each with a token of its own."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.harness import Cluster
from harness import Subcommand, wait_until

# Everything that takes a minute in earnest takes a second here; the rules are the same.
FLOOR_S, CEILING_S, HEARTBEAT_S, STALE_S = 0.5, 2.0, 1.0, 6.0
LEASE_S = 3


class Process(Subcommand):
    """The subcommand `name` with a token of its service account, bound to `pod` on `node` if any.

    `server` is another URL of the API server, such as a proxy's.
    """

    def __init__(
        self,
        folder: Path,
        cluster: Cluster,
        *,
        node: str | None = None,
        pod: str | None = None,
        server: str | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder, args=args, env=env)
        self.state_dir = folder / "state"
        self.bound = cluster.service_account_token(f"sluice-{self.name}", node, pod)
        self.kubeconfig = cluster.kubeconfig(self.bound.token, server)

    def command(self) -> list[str]:
        return [
            *(sys.executable, *self.program(), self.name),
            *("--kubeconfig", str(self.kubeconfig)),
            *("--listen", f"127.0.0.1:{self.port}"),
            *self.options(),
            *self.args,
        ]

    def options(self) -> list[str]:
        """What only this subcommand is told."""
        raise NotImplementedError


class Agent(Process):
    """An agent of a node; may be started again with the same state."""

    name = "agent"

    def __init__(
        self, folder: Path, cluster: Cluster, node: str, upstream: str, **more: Any
    ) -> None:
        super().__init__(folder, cluster, node=node, **more)
        self.node = node
        self.upstream = upstream

    def options(self) -> list[str]:
        return [
            *("--upstream", self.upstream),
            *("--state-dir", str(self.state_dir)),
            *("--report-floor", str(FLOOR_S), "--report-ceiling", str(CEILING_S)),
            *("--heartbeat", str(HEARTBEAT_S), "--stale-after", str(STALE_S)),
        ]

    def wait_for_budget(self, namespace: str, name: str) -> None:
        """Wait until this agent enforces the budget."""
        path = f"/api/teams/{name}?namespace={namespace}"
        wait_until(lambda: self.get(path).status == 200, f"the agent has {namespace}/{name}")


class Controller(Process):
    """A controller; several may run, one leads."""

    name = "controller"

    def options(self) -> list[str]:
        return [
            *("--report-ceiling", str(CEILING_S), "--heartbeat", str(HEARTBEAT_S)),
            *("--lease-duration", str(LEASE_S)),
        ]

    @property
    def leads(self) -> bool:
        found: bool = self.get("/api/health").json["cluster"]["leader"]
        return found


class Dashboard(Process):
    """A dashboard of the cluster."""

    name = "dashboard"

    def options(self) -> list[str]:
        return ["--state-dir", str(self.state_dir)]


def apply(cluster: Cluster, *manifests: Mapping[str, Any]) -> None:
    """Apply budgets as a user does, their namespaces made."""
    for manifest in manifests:
        cluster.namespace(manifest["metadata"]["namespace"])
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List",
                                                          "items": list(manifests)}))  # fmt: skip


def budget_of(cluster: Cluster, namespace: str, name: str) -> Any:
    """A TeamBudget as it is now."""
    path = f"/apis/tco.io/v1/namespaces/{namespace}/teambudgets/{name}"
    return cluster.call("GET", path).json


def status_of(cluster: Cluster, namespace: str, name: str) -> Any:
    """The status of a TeamBudget as it is now; {} before the first."""
    return budget_of(cluster, namespace, name).get("status", {})


def node_usage(cluster: Cluster, node: str) -> Any:
    """The NodeLogUsage of a node as it is now; None if there is none."""
    reply = cluster.call("GET", f"/apis/tco.io/v1/nodelogusages/{node}")
    return None if reply.status == 404 else reply.json
