"""The calls that Sluice makes to the API server: plain dicts in and out.

What a call raises is an `ApiError`; transport.py has the rules.
"""

import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from sluice.kube import access
from sluice.kube.access import Identity, NoCluster
from sluice.kube.refusal import (
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    Terminating,
    Throttled,
    Unauthorized,
    Unreachable,
)
from sluice.kube.transport import CALL_S, Object, Transport, Watch

# What callers need of the modules below, so that they import this one only.
__all__ = [
    "CALL_S",
    "Api",
    "ApiError",
    "Conflict",
    "Forbidden",
    "Gone",
    "Identity",
    "Invalid",
    "NoCluster",
    "NotFound",
    "Object",
    "Terminating",
    "Throttled",
    "Unauthorized",
    "Unreachable",
    "Watch",
    "connect",
]

TCO = "/apis/tco.io/v1"
USAGES = f"{TCO}/nodelogusages"
LEASES = "/apis/coordination.k8s.io/v1"
EVENTS = "/apis/events.k8s.io/v1"
MERGE_PATCH = "application/merge-patch+json"
FIELD_MANAGER = "sluice-controller"

# (connect, read), seconds.
LIST_S = (3.05, 30.0)
# Objects per page of a list, which bounds what is parsed at once.
PAGE = 500


def connect(
    kubeconfig: Path | None = None,
    context: str | None = None,
    *,
    user_agent: str = "sluice",
    service_account: Path = access.SERVICE_ACCOUNT,
) -> "Api":
    """The API server of the named kubeconfig, else of the pod we are in, else of the user's
    kubeconfig ($KUBECONFIG, ~/.kube/config). Nothing is sent yet.

    Args:
        user_agent: who we are in its logs and, up to a "/", in `managedFields`.

    Raises:
        NoCluster: there are no credentials, or none that can be used.
    """
    return Api(access.find(kubeconfig, context, service_account), user_agent)


class Api:
    """An API server. Each method is one call, and raises an `ApiError` if it is not done.

    Threads: any number.
    """

    def __init__(self, way: access.Access, user_agent: str = "sluice") -> None:
        self._way = way
        self._transport = Transport(way, user_agent)
        # For what has no method of its own.
        self.call = self._transport.send

    def identity(self) -> Identity:
        """What our current token says about this pod."""
        return self._way.identity()

    def ca_changed(self) -> bool:
        """Whether the file of trusted certificates has changed, so that a new Api is needed."""
        return self._way.ca_changed()

    def node_usage(self, name: str) -> Object | None:
        """The NodeLogUsage of this name, or None."""
        return self._get(f"{USAGES}/{_quoted(name)}")

    def create_node_usage(self, obj: Object) -> Object:
        """Make it. Conflict, with `already_exists`, if it is there."""
        return self.call("POST", USAGES, obj)

    def put_node_usage(self, obj: Object) -> Object:
        """Replace metadata and spec. Conflict unless `obj` names the current version."""
        return self.call("PUT", f"{USAGES}/{_name_of(obj)}", obj)

    def put_node_usage_status(self, obj: Object) -> Object:
        """Replace the status. Conflict unless `obj` names the current version."""
        return self.call("PUT", f"{USAGES}/{_name_of(obj)}/status", obj)

    def delete_node_usage(self, name: str, uid: str | None = None) -> None:
        """Delete it; with `uid` only that very object, else Conflict."""
        options = {"preconditions": {"uid": uid}} if uid is not None else None
        self.call("DELETE", f"{USAGES}/{_quoted(name)}", options)

    def patch_budget_status(
        self, namespace: str, name: str, status: Object, resource_version: str | None = None
    ) -> Object:
        """Merge `status` into that of a TeamBudget; None removes a field.

        With `resource_version`: Conflict unless that is the current version.
        """
        patch: Object = {"status": status}
        if resource_version is not None:
            patch["metadata"] = {"resourceVersion": resource_version}
        return self.call(
            "PATCH",
            f"{TCO}/namespaces/{_quoted(namespace)}/teambudgets/{_quoted(name)}/status",
            patch,
            query={"fieldManager": FIELD_MANAGER},
            content_type=MERGE_PATCH,
        )

    def budgets(self) -> list[Object]:
        """All TeamBudgets of the cluster."""
        return [item for page in self.pages("teambudgets") for item in page["items"]]

    def node_usages(self) -> list[Object]:
        """All NodeLogUsages."""
        return [item for page in self.pages("nodelogusages") for item in page["items"]]

    def create_event(self, namespace: str, event: Object) -> Object:
        """Make an Event of events.k8s.io/v1."""
        return self.call("POST", f"{EVENTS}/namespaces/{_quoted(namespace)}/events", event)

    def budget_events(self) -> list[Object]:
        """The Events of events.k8s.io/v1 on TeamBudgets, in no order."""
        query = {"limit": str(PAGE), "fieldSelector": "regarding.kind=TeamBudget"}
        found: list[Object] = []
        while True:
            page = self.call("GET", f"{EVENTS}/events", query=query, timeout_s=CALL_S)
            found += page["items"]
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return found

    def lease(
        self, namespace: str, name: str, timeout_s: tuple[float, float] = CALL_S
    ) -> Object | None:
        """The Lease of this name, or None."""
        return self._get(f"{_leases(namespace)}/{_quoted(name)}", timeout_s)

    def create_lease(self, obj: Object, timeout_s: tuple[float, float] = CALL_S) -> Object:
        """Make it. Conflict, with `already_exists`, if it is there."""
        path = _leases(obj["metadata"]["namespace"])
        return self.call("POST", path, obj, timeout_s=timeout_s)

    def put_lease(self, obj: Object, timeout_s: tuple[float, float] = CALL_S) -> Object:
        """Replace it. Conflict unless `obj` names the current version."""
        path = f"{_leases(obj['metadata']['namespace'])}/{_name_of(obj)}"
        return self.call("PUT", path, obj, timeout_s=timeout_s)

    def pages(self, plural: str, name: str | None = None) -> Iterator[Object]:
        """All objects of our kind `plural`, or the one of this name, in lists of `PAGE`.

        They are those of one moment, the first page's `metadata.resourceVersion`; Gone if that
        has become too old between two pages.
        """
        query = {"limit": str(PAGE), **_only(name)}
        while True:
            page = self.call("GET", f"{TCO}/{plural}", query=query, timeout_s=LIST_S)
            yield page
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return

    def watch(
        self, plural: str, version: str, *, name: str | None = None, seconds: int, slack_s: float
    ) -> Watch:
        """The changes to our kind `plural` after `version`, with bookmarks.

        Args:
            seconds: after these the API server ends it.
            slack_s: if it is silent for so much longer, it counts as Unreachable.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
            **_only(name),
        }
        return self._transport.watch(f"{TCO}/{plural}", query, seconds + slack_s)

    def _get(self, path: str, timeout_s: tuple[float, float] = CALL_S) -> Object | None:
        try:
            return self.call("GET", path, timeout_s=timeout_s)
        except NotFound:
            return None


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _name_of(obj: Object) -> str:
    return _quoted(obj["metadata"]["name"])


def _leases(namespace: str) -> str:
    return f"{LEASES}/namespaces/{_quoted(namespace)}/leases"


def _only(name: str | None) -> dict[str, str]:
    return {} if name is None else {"fieldSelector": f"metadata.name={name}"}
