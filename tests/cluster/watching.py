"""What the tests of sluice/kube share: clients through the proxy, and a handler that remembers."""

import contextlib
import threading
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

from cluster.harness import Cluster
from cluster.proxy import Proxy
from harness import budget, wait_until

from sluice.kube import client
from sluice.kube.informer import Informer, Pace

# Everything fast: what takes minutes in a cluster takes seconds here.
FAST = Pace(
    renew_min_s=2,
    renew_max_s=2,
    slack_s=1.0,
    steady_s=1.0,
    backoff_s=0.1,
    backoff_max_s=0.5,
)


class Change(NamedTuple):
    """A call of a handler."""

    kind: str
    name: str
    version: int
    # The informer's revision at that moment.
    revision: int
    obj: dict[str, Any]


class Recorder:
    """A handler that remembers what happens in one namespace (or, with "", to all)."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.changes: list[Change] = []
        self.threads: set[str] = set()
        self.informer: Informer | None = None

    def __call__(self, kind: str, obj: dict[str, Any]) -> None:
        meta = obj["metadata"]
        self.threads.add(threading.current_thread().name)
        if not self.namespace or meta.get("namespace") == self.namespace:
            assert self.informer is not None
            version = int(meta["resourceVersion"])
            self.changes.append(Change(kind, meta["name"], version, self.informer.revision, obj))

    def kinds(self) -> list[tuple[str, str]]:
        """What happened to which, in order."""
        return [(change.kind, change.name) for change in self.changes]

    def wait_for(self, kind: str, name: str, timeout_s: float = 20.0) -> None:
        what = f"{kind} {name}; so far {self.kinds()}"
        wait_until(lambda: (kind, name) in self.kinds(), what, timeout_s)


@contextlib.contextmanager
def watching(
    api: client.Api, plural: str, namespace: str = "", *, pace: Pace = FAST, **more: Any
) -> Iterator[tuple[Informer, Recorder]]:
    """A started informer and what it tells."""
    recorder = Recorder(namespace)
    informer = recorder.informer = Informer(api, plural, recorder, pace=pace, **more)
    informer.start()
    try:
        yield informer, recorder
    finally:
        informer.stop()


def through(cluster: Cluster, proxy: Proxy) -> client.Api:
    """A client that may do everything, whose connections go through the proxy."""
    return client.connect(cluster.kubeconfig(server=proxy.url))


def create_budget(cluster: Cluster, namespace: str, name: str, limit: int = 1000) -> dict[str, Any]:
    reply = cluster.call("POST", budgets_path(namespace), budget(name, limit, namespace=namespace))
    assert reply.status == 201, reply
    made: dict[str, Any] = reply.json
    return made


def change_budget(cluster: Cluster, namespace: str, name: str, limit: int) -> dict[str, Any]:
    path = f"{budgets_path(namespace)}/{name}"
    reply = cluster.call("PATCH", path, {"spec": {"dailyLimit": limit}})
    assert reply.status == 200, reply
    changed: dict[str, Any] = reply.json
    return changed


def delete_budget(cluster: Cluster, namespace: str, name: str) -> None:
    reply = cluster.call("DELETE", f"{budgets_path(namespace)}/{name}")
    assert reply.status == 200, reply


def budgets_path(namespace: str) -> str:
    return f"/apis/tco.io/v1/namespaces/{namespace}/teambudgets"


def unique(prefix: str) -> str:
    """A name that no other test uses on the shared API server."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def as_controller(cluster: Cluster) -> client.Api:
    """A client of the controller's account, the one that may delete a NodeLogUsage."""
    token = cluster.service_account_token("sluice-controller").token
    return client.connect(cluster.kubeconfig(token))
