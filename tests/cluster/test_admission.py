"""An agent writes about its own node only, the controller about none; with real bound tokens."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
from cluster.harness import (
    COLLECTOR,
    SYSTEM_NAMESPACE,
    USAGES,
    BoundToken,
    Cluster,
    account_user,
)
from harness import Reply

pytestmark = pytest.mark.cluster

KIND = {"apiVersion": "tco.io/v1", "kind": "NodeLogUsage"}
FINALIZER = "tco.io/fold-usage"
DAY = "d/2026-11-22"
NOT_BOUND = "this token is not bound to a pod on a node"
NOT_OWN = "may not write NodeLogUsage"
NOT_WHOLE = "a new NodeLogUsage must carry no grants"
NOT_ITS_POD = "status.instance must be the UID of the pod that writes it"


class Agent(NamedTuple):
    """An agent's node and token, and what it asks of the API server."""

    cluster: Cluster
    node: str
    bound: BoundToken

    @property
    def path(self) -> str:
        return f"{USAGES}/{self.node}"

    def ask(self, method: str, path: str, body: object = None) -> Reply:
        return self.cluster.call(method, path, body, token=self.bound.token)

    def object(self, name: str | None = None, **more: Any) -> dict[str, Any]:
        """The NodeLogUsage as an agent creates it, with other fields of its metadata or spec."""
        owner = {"apiVersion": "v1", "kind": "Node", "name": self.node, "uid": self.bound.node_uid}
        metadata = {
            "name": name or self.node,
            "finalizers": [FINALIZER],
            "ownerReferences": [owner],
        }
        spec = {"spec": more.pop("spec")} if "spec" in more else {}
        return {**KIND, "metadata": {**metadata, **more}, **spec}

    def owner(self, **other: str) -> list[dict[str, str]]:
        return [{**self.object()["metadata"]["ownerReferences"][0], **other}]

    def create(self, **more: Any) -> Reply:
        return self.ask("POST", USAGES, self.object(**more))

    def report(self, path: str | None = None, **status: Any) -> Reply:
        """Replace the status, as the pod that it is."""
        path = path or self.path
        whole = self.cluster.call("GET", path).json
        whole["status"] = {"instance": self.bound.pod_uid, "seq": 1, **status}
        return self.ask("PUT", f"{path}/status", whole)


@pytest.fixture
def agent(cluster: Cluster, namespace: str) -> Agent:
    """An agent that has created nothing, on a node of the test's own."""
    node = f"node-{namespace}"
    return Agent(cluster, node, cluster.service_account_token("sluice-agent", node))


@pytest.fixture
def other(cluster: Cluster, namespace: str) -> Agent:
    """An agent on another node, which has its object."""
    node = f"other-{namespace}"
    made = Agent(cluster, node, cluster.service_account_token("sluice-agent", node))
    assert made.create().status == 201
    return made


def controller(cluster: Cluster, method: str, path: str, body: Mapping[str, Any]) -> Reply:
    token = cluster.service_account_token("sluice-controller").token
    return cluster.call(method, path, body, token=token)


def assert_denied(reply: Reply, words: str, status: int = 403) -> None:
    assert reply.status == status, reply
    assert words in reply.json["message"]


# What is allowed: 3 cases.


def test_an_agent_creates_its_own_object(agent: Agent) -> None:
    assert agent.create().status == 201


def test_an_agent_writes_its_own_status(agent: Agent) -> None:
    agent.create()
    reply = agent.report(usage={DAY: {"a/a": 5}})
    assert reply.status == 200
    assert reply.json["status"]["usage"] == {DAY: {"a/a": 5}}
    patched = agent.ask(
        "PATCH",
        f"{agent.path}/status",
        {"status": {"instance": agent.bound.pod_uid, "seq": 2}},
    )
    assert patched.status == 200


def test_an_agent_lists_budgets(agent: Agent) -> None:
    assert agent.ask("GET", "/apis/tco.io/v1/teambudgets").status == 200


# What is denied: 12 cases.


def test_an_agent_does_not_create_the_object_of_another_node(agent: Agent) -> None:
    assert_denied(agent.create(name=f"{agent.node}-2"), NOT_OWN)


def test_a_token_that_is_bound_to_no_pod_creates_nothing(agent: Agent) -> None:
    loose = agent.cluster.service_account_token("sluice-agent")
    reply = agent.cluster.call("POST", USAGES, agent.object(), token=loose.token)
    assert_denied(reply, NOT_BOUND)


def test_a_pod_on_no_node_creates_nothing(agent: Agent) -> None:
    pod = agent.cluster.service_account_token("sluice-agent", pod=f"pod-{agent.node}")
    reply = agent.cluster.call("POST", USAGES, agent.object(), token=pod.token)
    assert_denied(reply, NOT_BOUND)


def test_an_account_that_is_no_pod_at_all_creates_nothing(agent: Agent) -> None:
    """Whoever may impersonate the account has its name, and none of the claims of a token."""
    headers = {"Impersonate-User": account_user("sluice-agent")}
    reply = agent.cluster.call("POST", USAGES, agent.object(), headers=headers)
    assert_denied(reply, NOT_BOUND)


@pytest.mark.parametrize("finalizers", [None, [], ["tco.io/other"]])
def test_an_object_without_our_finalizer_is_not_created(
    agent: Agent, finalizers: list[str] | None
) -> None:
    assert_denied(agent.create(finalizers=finalizers), NOT_WHOLE, status=422)


def test_an_object_of_another_owner_is_not_created(agent: Agent, other: Agent) -> None:
    wrong = (
        agent.owner(uid=other.bound.node_uid),
        other.owner(),
        agent.owner(kind="Pod"),
        agent.owner(name=other.node),
        agent.owner() + other.owner(),
        [],
        None,
    )
    for owners in wrong:
        assert_denied(agent.create(ownerReferences=owners), NOT_WHOLE, status=422)


def test_an_object_with_grants_is_not_created(agent: Agent) -> None:
    grants = {"grants": {DAY: {"a/a": 2**40}}}
    assert_denied(agent.create(spec=grants), NOT_WHOLE, status=422)


def test_a_status_in_the_name_of_another_pod_is_not_written(agent: Agent, other: Agent) -> None:
    agent.create()
    for instance in other.bound.pod_uid, "", None:
        assert_denied(agent.report(instance=instance), NOT_ITS_POD)


def test_an_agent_does_not_say_what_is_merged(agent: Agent) -> None:
    agent.create()
    words = "status.merged and status.folded belong to the controller"
    assert_denied(agent.report(merged=["x"]), words)
    assert_denied(agent.report(folded={"m/2026-11": {"x": 1}}), words)


def test_a_pod_whose_object_was_taken_over_has_one_of_its_own(agent: Agent, other: Agent) -> None:
    own = f"{agent.node}.{agent.bound.pod_uid}"
    assert agent.create(name=own).status == 201
    took = {"instance": other.bound.pod_uid, "seq": 7}
    reply = agent.report(f"{USAGES}/{own}", tookOver=took)
    assert reply.json["status"]["tookOver"] == took, reply
    assert_denied(other.report(f"{USAGES}/{own}", seq=2), NOT_OWN)
    for name in f"{agent.node}.{other.bound.pod_uid}", f"{agent.node}.x", f"{own}.x":
        assert_denied(agent.create(name=name), NOT_OWN)


def test_the_status_of_another_node_is_not_written(agent: Agent, other: Agent) -> None:
    assert_denied(agent.report(other.path), NOT_OWN)


def test_an_agent_does_not_change_its_spec(agent: Agent) -> None:
    agent.create()
    patch = {"spec": {"grants": {DAY: {"a/a": 2**40}}}}
    assert_denied(agent.ask("PATCH", agent.path, patch), "cannot patch resource")


def test_an_agent_does_not_delete_its_object(agent: Agent) -> None:
    agent.create()
    assert_denied(agent.ask("DELETE", agent.path), "cannot delete resource")


def test_an_agent_does_not_write_the_status_of_a_budget(agent: Agent, namespace: str) -> None:
    budgets = f"/apis/tco.io/v1/namespaces/{namespace}/teambudgets"
    manifest = {
        "apiVersion": "tco.io/v1",
        "kind": "TeamBudget",
        "metadata": {"name": "a"},
        "spec": {"dailyLimit": 1},
    }
    agent.cluster.get_or_create(budgets, manifest)
    reply = agent.ask("PATCH", f"{budgets}/a/status", {"status": {"currentUsage": 0}})
    assert_denied(reply, "cannot patch resource")


def test_an_agent_does_not_list_nodes(agent: Agent) -> None:
    assert_denied(agent.ask("GET", "/api/v1/nodes"), "cannot list resource")


# What the API server drops by itself: the 16th case.


def test_grants_in_a_status_report_are_dropped(agent: Agent) -> None:
    agent.create()
    whole = agent.cluster.call("GET", agent.path).json
    whole["spec"] = {"grants": {DAY: {"a/a": 2**40}}}
    whole["status"] = {"instance": agent.bound.pod_uid, "seq": 1}
    whole["metadata"]["finalizers"] = []
    reply = agent.ask("PUT", f"{agent.path}/status", whole)
    assert reply.status == 200
    assert "grants" not in reply.json.get("spec", {})
    assert reply.json["metadata"]["finalizers"] == [FINALIZER]


# The rules hold even if somebody gave the agents more rights than ours.


def test_an_agent_with_the_right_to_delete_is_still_stopped(agent: Agent) -> None:
    agent.create()
    user = agent.cluster.call(
        "POST",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        {},
        token=agent.bound.token,
    ).json["status"]["userInfo"]
    extra = {
        f"Impersonate-Extra-{key.replace('/', '%2f')}": v[0] for key, v in user["extra"].items()
    }
    # A member of system:masters passes RBAC; the policies look at the name.
    headers = {
        "Impersonate-User": user["username"],
        "Impersonate-Group": "system:masters",
        **extra,
    }
    reply = agent.cluster.call("DELETE", agent.path, headers=headers)
    assert_denied(reply, "agents may not delete NodeLogUsage objects")


# The ledger is the controller's, and nothing else is.


def ledger(namespace: str) -> dict[str, Any]:
    return {**KIND, "metadata": {"name": f"sluice-ledger-{namespace}"}}


def test_the_controller_writes_the_status_of_its_ledger(cluster: Cluster, namespace: str) -> None:
    made = controller(cluster, "POST", USAGES, ledger(namespace))
    assert made.status == 201, made
    status = {"usage": {DAY: {"a/a": 5}}, "merged": ["x"]}
    path = f"{USAGES}/{made.json['metadata']['name']}"
    reply = controller(cluster, "PUT", f"{path}/status", {**made.json, "status": status})
    assert reply.status == 200, reply
    assert reply.json["status"] == status


def test_the_controller_does_not_write_the_status_of_a_node(other: Agent) -> None:
    words = f"only write the status of its own sluice-ledger- objects, not of {other.node}"
    whole = {**other.cluster.call("GET", other.path).json, "status": {"seq": 1}}
    reply = controller(other.cluster, "PUT", f"{other.path}/status", whole)
    assert_denied(reply, words)
    reply = controller(other.cluster, "PATCH", f"{other.path}/status", {"status": {"seq": 1}})
    assert_denied(reply, words)


def test_the_controller_lets_a_node_go(other: Agent) -> None:
    cluster = other.cluster
    assert controller(cluster, "DELETE", other.path, {}).status == 200
    assert cluster.call("GET", other.path).json["metadata"]["deletionTimestamp"]
    let_go = controller(cluster, "PATCH", other.path, {"metadata": {"finalizers": None}})
    assert let_go.status == 200, let_go
    assert cluster.call("GET", other.path).status == 404


# What was used is deleted by the controller only.


def test_an_administrator_does_not_delete_what_a_node_has_used(other: Agent) -> None:
    done = other.cluster.kubectl("delete", "nlu", other.node, check=False)
    assert done.returncode != 0
    assert "holds what this node has used: delete the Node" in done.stderr
    done = other.cluster.kubectl("delete", "nlu", "--all", check=False)
    assert done.returncode != 0
    assert_denied(other.cluster.call("DELETE", USAGES), "sluice-usage-is-kept")
    found = other.cluster.call("GET", other.path)
    assert "deletionTimestamp" not in found.json["metadata"]


@pytest.mark.parametrize("collector", [COLLECTOR, "system:kube-controller-manager"])
def test_the_garbage_collector_deletes_what_a_node_that_is_gone_has_owned(
    other: Agent, collector: str
) -> None:
    headers = {"Impersonate-User": collector, "Impersonate-Group": "system:masters"}
    assert other.cluster.call("DELETE", other.path, headers=headers).status == 200
    found = other.cluster.call("GET", other.path).json
    assert found["metadata"]["deletionTimestamp"], "the finalizer keeps it until it is folded"


def test_a_ledger_object_is_deleted_by_the_controller_only(
    cluster: Cluster, namespace: str
) -> None:
    name = ledger(namespace)["metadata"]["name"]
    assert controller(cluster, "POST", USAGES, ledger(namespace)).status == 201
    done = cluster.kubectl("delete", "nlu", name, check=False)
    assert done.returncode != 0
    assert f"{name} holds what nodes that are gone have used" in done.stderr
    # Somebody may have given it an owner.
    assert_denied(cluster.collect(name), "only the controller may delete it")
    assert controller(cluster, "DELETE", f"{USAGES}/{name}", {}).status == 200


def test_an_agent_on_a_node_that_is_called_like_a_ledger_is_refused(
    cluster: Cluster, namespace: str
) -> None:
    node = ledger(namespace)["metadata"]["name"]
    agent = Agent(cluster, node, cluster.service_account_token("sluice-agent", node))
    words = "names that begin with sluice-ledger- are the controller's"
    assert_denied(agent.create(), words)
    controller(cluster, "POST", USAGES, ledger(namespace))
    assert_denied(agent.report(), words)


def test_a_privileged_pod_is_not_admitted_beside_the_agents(
    cluster: Cluster, namespace: str
) -> None:
    """Sluice's namespace enforces the strictest Pod Security."""
    container = {"name": "a", "image": "a", "securityContext": {"privileged": True}}
    pods = f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/pods"
    pod = {"metadata": {"name": namespace}, "spec": {"containers": [container]}}
    assert_denied(cluster.call("POST", pods, pod), "violates PodSecurity")
