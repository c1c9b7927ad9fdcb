"""Each service account may do what its process does, and nothing else; asked with real tokens."""

from collections.abc import Iterator
from itertools import product

import pytest
import yaml
from cluster.harness import DEPLOY, SYSTEM_NAMESPACE, USAGES, Cluster
from harness import wait_until

pytestmark = pytest.mark.cluster

READ = frozenset({"get", "list", "watch"})
CHANGE = frozenset({"update", "patch"})
VERBS = (*READ, *CHANGE, "create", "delete", "deletecollection")
BUDGETS = "teambudgets.tco.io"
USAGE = "nodelogusages.tco.io"
EVENTS = "events.events.k8s.io"
LEASES = "leases.coordination.k8s.io"

# Row by row what is allowed; what is not here is refused. A name in brackets narrows to it.
ALLOWED: dict[str, dict[str, frozenset[str]]] = {
    "sluice-agent": {
        BUDGETS: READ,
        USAGE: frozenset({"get", "create"}),
        f"{USAGE}/status": CHANGE,
        EVENTS: frozenset({"create"}),
    },
    "sluice-controller": {
        BUDGETS: READ,
        f"{BUDGETS}/status": CHANGE,
        USAGE: READ | CHANGE | {"create", "delete"},
        f"{USAGE}/status": CHANGE,
        EVENTS: frozenset({"create", "patch"}),
        LEASES: frozenset({"create"}),
        f"{LEASES}[sluice-controller]": frozenset({"create", "get", "update"}),
    },
    "sluice-dashboard": {BUDGETS: READ, EVENTS: READ},
}
RESOURCES = (
    *(BUDGETS, f"{BUDGETS}/status", USAGE, f"{USAGE}/status", EVENTS),
    *(LEASES, f"{LEASES}[sluice-controller]", f"{LEASES}[other]"),
    *("nodes", "nodes/status", "nodes/proxy", "pods", "pods/log", "pods/exec", "namespaces"),
    *("secrets", "configmaps", "events", "services", "endpoints", "serviceaccounts"),
    *("serviceaccounts/token", "deployments.apps", "daemonsets.apps"),
    *("clusterroles.rbac.authorization.k8s.io", "roles.rbac.authorization.k8s.io"),
    "customresourcedefinitions.apiextensions.k8s.io",
    "validatingadmissionpolicies.admissionregistration.k8s.io",
)


def split(resource: str) -> tuple[str, str, str]:
    """The API group, the resource with its subresource, and the name of a row."""
    resource, _, name = resource.rstrip("]").partition("[")
    resource, slash, subresource = resource.partition("/")
    resource, _, group = resource.partition(".")
    return group, resource + slash + subresource, name


def may(cluster: Cluster, token: str, verb: str, resource: str, namespace: str) -> bool:
    """What the API server answers to the account's own question."""
    group, path, name = split(resource)
    asked = {
        "verb": verb,
        "group": group,
        "resource": path.partition("/")[0],
        "subresource": path.partition("/")[2],
        "name": name,
        "namespace": namespace,
    }
    reply = cluster.call(
        "POST",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        {"spec": {"resourceAttributes": asked}},
        token=token,
    )
    assert reply.status == 201, reply
    allowed: bool = reply.json["status"]["allowed"]
    return allowed


def expected(account: str, resource: str, namespace: str) -> frozenset[str]:
    # The lease and an agent's own Events are in Sluice's own namespace, all else in every one.
    is_own = resource.startswith(LEASES) or (account, resource) == ("sluice-agent", EVENTS)
    if is_own and namespace != SYSTEM_NAMESPACE:
        return frozenset()
    rows = ALLOWED[account]
    return rows.get(resource, rows.get(resource.partition("[")[0], frozenset()))


@pytest.mark.parametrize("account", ALLOWED)
def test_an_account_may_do_this_and_nothing_else(cluster: Cluster, account: str) -> None:
    token = cluster.service_account_token(account).token
    for resource, namespace in product(RESOURCES, (SYSTEM_NAMESPACE, "default")):
        got = {verb for verb in VERBS if may(cluster, token, verb, resource, namespace)}
        assert got == expected(account, resource, namespace), (resource, namespace)


@pytest.mark.parametrize("account", ALLOWED)
def test_the_list_of_rules_of_an_account_is_no_longer_than_its_table(
    cluster: Cluster, account: str
) -> None:
    """Also what the table does not ask about: no wildcard, no resource that it forgot."""
    token = cluster.service_account_token(account).token
    reply = cluster.call(
        "POST",
        "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
        {"spec": {"namespace": SYSTEM_NAMESPACE}},
        token=token,
    )
    assert reply.status == 201, reply
    # Every account may ask who it is and what it may do.
    own = {"authorization.k8s.io", "authentication.k8s.io"}
    found = {
        (group, resource)
        for rule in reply.json["status"]["resourceRules"]
        for group, resource in product(rule["apiGroups"], rule["resources"])
        if group not in own
    }
    assert found == {split(resource)[:2] for resource in ALLOWED[account]}


def test_nobody_without_an_account_may_do_anything(cluster: Cluster) -> None:
    for path in (USAGES, "/apis/tco.io/v1/teambudgets"):
        assert cluster.call("GET", path, token=None).status == 403
        assert cluster.call("GET", path, token="wrong").status == 401


def calls(namespace: str) -> Iterator[tuple[str, str, str, int]]:
    """Real calls: the account, method, path, and the status."""
    tco, node = "/apis/tco.io/v1", f"{USAGES}/absent"
    budget = f"{tco}/namespaces/{namespace}/teambudgets/absent"
    for account in ALLOWED:
        yield account, "GET", f"{tco}/teambudgets", 200
        yield account, "GET", "/api/v1/secrets", 403
        yield account, "GET", "/api/v1/nodes", 403
        yield account, "GET", "/api/v1/pods", 403
        yield account, "DELETE", budget, 403
        yield account, "PATCH", budget, 403
    for account, status in ("sluice-agent", 403), ("sluice-controller", 404):
        yield account, "PATCH", f"{budget}/status", status
        yield account, "DELETE", node, status
    yield "sluice-dashboard", "PATCH", f"{budget}/status", 403
    yield "sluice-agent", "GET", USAGES, 403
    yield "sluice-agent", "GET", node, 404
    yield "sluice-controller", "GET", USAGES, 200
    yield "sluice-controller", "DELETE", USAGES, 403
    yield "sluice-dashboard", "GET", USAGES, 403
    yield "sluice-dashboard", "GET", node, 403
    yield "sluice-dashboard", "GET", "/apis/events.k8s.io/v1/events", 200
    yield "sluice-agent", "GET", "/apis/events.k8s.io/v1/events", 403


def test_calls_are_answered_as_the_table_says(cluster: Cluster, namespace: str) -> None:
    tokens = {account: cluster.service_account_token(account).token for account in ALLOWED}
    for account, method, path, status in calls(namespace):
        body = {"status": {}} if method == "PATCH" else None
        reply = cluster.call(method, path, body, token=tokens[account])
        assert reply.status == status, (account, method, path, reply.text)


def test_budgets_are_seen_by_viewers_and_edited_by_nobody_but_the_platform() -> None:
    roles = {
        role["metadata"]["name"]: role
        for role in yaml.safe_load_all((DEPLOY / "rbac.yaml").read_text())
        if role["kind"] == "ClusterRole"
    }
    aggregated = {
        (name, label.rpartition("/")[2])
        for name, role in roles.items()
        for label in role["metadata"]["labels"]
        if "aggregate" in label
    }
    # To edit and admin it comes through view. A team that could edit would raise its own limit.
    assert aggregated == {("sluice-teambudget-view", "aggregate-to-view")}
    (rule,) = roles["sluice-teambudget-view"]["rules"]
    assert set(rule["verbs"]) == READ


def test_the_editing_role_edits_budgets_but_not_their_status(
    cluster: Cluster, namespace: str
) -> None:
    token = cluster.service_account_token("platform", namespace=namespace).token
    assert not may(cluster, token, "create", BUDGETS, namespace)
    binding = {
        "metadata": {"name": "platform"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "sluice-teambudget-edit",
        },
        "subjects": [{"kind": "ServiceAccount", "name": "platform", "namespace": namespace}],
    }
    home = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"
    cluster.get_or_create(home, binding)
    wait_until(lambda: may(cluster, token, "create", BUDGETS, namespace), "the binding is in force")
    for verb in READ | CHANGE | {"create", "delete"}:
        assert may(cluster, token, verb, BUDGETS, namespace), verb
    for verb in CHANGE:
        assert not may(cluster, token, verb, f"{BUDGETS}/status", namespace), verb
