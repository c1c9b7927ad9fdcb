"""What other tests rely on: an outage keeps everything, and tokens say what they are bound to."""

import base64
import json

import pytest
from cluster.harness import Cluster
from cluster.proxy import Proxy

pytestmark = pytest.mark.cluster

NAMESPACES = "/api/v1/namespaces"


def test_a_killed_api_server_comes_back_with_its_objects_and_its_tokens(
    fresh_cluster: Cluster,
) -> None:
    cluster = fresh_cluster
    token = cluster.service_account_token("sluice-agent", "node-a").token
    review = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    before = cluster.call("POST", review, {}, token=token).json["status"]
    old = cluster.call("GET", NAMESPACES).json["metadata"]["resourceVersion"]
    cluster.namespace("kept")
    cluster.api.kill()
    with pytest.raises(ConnectionRefusedError):
        cluster.call("GET", NAMESPACES)
    assert cluster.etcd.compact() > int(old)
    cluster.api.start()
    assert cluster.call("GET", f"{NAMESPACES}/kept").status == 200
    assert cluster.call("POST", review, {}, token=token).json["status"] == before
    # What was before the compaction cannot be watched any more.
    watched = cluster.call(
        "GET", NAMESPACES, fields={"watch": "1", "resourceVersion": old, "timeoutSeconds": "5"}
    )
    assert '"code":410' in watched.text
    assert cluster.api.stop() == 0


def test_a_bound_token_names_its_node_and_its_pod(cluster: Cluster, namespace: str) -> None:
    node = f"node-{namespace}"
    bound = cluster.service_account_token("sluice-agent", node, pod=namespace)
    payload = bound.token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["kubernetes.io"] == {
        "namespace": "sluice-system",
        "node": {"name": node, "uid": bound.node_uid},
        "pod": {"name": namespace, "uid": bound.pod_uid},
        "serviceaccount": claims["kubernetes.io"]["serviceaccount"],
    }
    again = cluster.service_account_token("sluice-agent", node, pod=namespace)
    assert again[1:] == bound[1:]


def test_kubectl_goes_through_a_proxy(cluster: Cluster) -> None:
    with Proxy(cluster.api.port) as proxy:
        found = cluster.kubectl("get", "namespaces", "-o", "name", server=proxy.url)
        assert "namespace/default" in found.stdout.split()
        assert proxy.accepted > 0
        proxy.set("refuse")
        failed = cluster.kubectl("get", "namespaces", server=proxy.url, check=False)
        assert failed.returncode != 0
        assert "refused" in failed.stderr
