"""`sluice agent`, `controller` and `dashboard` as real processes, each with a token of its own."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.harness import Cluster
from harness import Server, Sluice, free_port, wait_until

# Everything that takes a minute in earnest takes a second here; the rules are the same.
FLOOR_S, CEILING_S, HEARTBEAT_S, STALE_S = 0.5, 2.0, 1.0, 6.0
LEASE_S = 3


class Agent(Sluice):
    """An agent of a node; may be started again with the same state."""

    name = "agent"

    def __init__(
        self,
        folder: Path,
        cluster: Cluster,
        node: str,
        upstream: str,
        *,
        server: str | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        pod: str | None = None,
    ) -> None:
        super().__init__(folder, folder, upstream, args=args, env=env)
        self.node = node
        self.bound = cluster.service_account_token("sluice-agent", node, pod)
        self.kubeconfig = cluster.kubeconfig(self.bound.token, server)

    def command(self) -> list[str]:
        return [
            *(sys.executable, *self.program(), "agent"),
            *("--kubeconfig", str(self.kubeconfig)),
            *("--upstream", self.upstream),
            *("--listen", f"127.0.0.1:{self.port}"),
            *("--state-dir", str(self.state_dir)),
            *("--report-floor", str(FLOOR_S), "--report-ceiling", str(CEILING_S)),
            *("--heartbeat", str(HEARTBEAT_S), "--stale-after", str(STALE_S)),
            *self.args,
        ]

    def wait_for_budget(self, namespace: str, name: str) -> None:
        """Wait until this agent enforces the budget."""
        path = f"/api/teams/{name}?namespace={namespace}"
        wait_until(lambda: self.get(path).status == 200, f"the agent has {namespace}/{name}")


class Controller(Server):
    """A controller; several may run, one leads."""

    name = "controller"

    def __init__(
        self,
        folder: Path,
        cluster: Cluster,
        *,
        server: str | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.args = list(args)
        self.env = dict(env or {})
        self.kubeconfig = cluster.kubeconfig(
            cluster.service_account_token("sluice-controller").token, server
        )

    def command(self) -> list[str]:
        return [
            *(sys.executable, *Sluice.program(self), "controller"),  # type: ignore[arg-type]
            *("--kubeconfig", str(self.kubeconfig)),
            *("--listen", f"127.0.0.1:{self.port}"),
            *("--report-ceiling", str(CEILING_S), "--heartbeat", str(HEARTBEAT_S)),
            *("--lease-duration", str(LEASE_S)),
            *self.args,
        ]

    def environment(self) -> dict[str, str]:
        return Sluice.environment(self)  # type: ignore[arg-type]

    @property
    def leads(self) -> bool:
        found: bool = self.get("/api/health").json["cluster"]["leader"]
        return found


class Dashboard(Server):
    """A dashboard of the cluster."""

    name = "dashboard"

    def __init__(
        self,
        folder: Path,
        cluster: Cluster,
        *,
        server: str | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.args = list(args)
        self.env = dict(env or {})
        self.state_dir = folder / "state"
        self.kubeconfig = cluster.kubeconfig(
            cluster.service_account_token("sluice-dashboard").token, server
        )

    def command(self) -> list[str]:
        return [
            *(sys.executable, *Sluice.program(self), "dashboard"),  # type: ignore[arg-type]
            *("--kubeconfig", str(self.kubeconfig)),
            *("--listen", f"127.0.0.1:{self.port}"),
            *("--state-dir", str(self.state_dir)),
            *self.args,
        ]

    def environment(self) -> dict[str, str]:
        return Sluice.environment(self)  # type: ignore[arg-type]


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
