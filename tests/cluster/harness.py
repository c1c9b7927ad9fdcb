"""A real Kubernetes API server for tests: etcd, kube-apiserver and kubectl on loopback.

No kubelet, no scheduler and no controllers: nothing reacts to objects, deletes what they own or
makes default service accounts. What API servers do is all there: schemas, CEL, RBAC, the Node
authorizer, admission policies, Pod Security, tokens, watches.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from cluster.control_plane import ADMIN, ApiServer, Etcd
from harness import Reply, wait_until
from kubernetes import client

DEPLOY = Path(__file__).parents[2] / "deploy" / "k8s"
MANIFESTS = ("teambudget-crd.yaml", "nodelogusage-crd.yaml", "rbac.yaml", "admission.yaml")
CRDS = ("teambudgets.tco.io", "nodelogusages.tco.io")
BUDGETS = "/apis/tco.io/v1/teambudgets"
USAGES = "/apis/tco.io/v1/nodelogusages"
COLLECTOR = "system:serviceaccount:kube-system:generic-garbage-collector"

SYSTEM_NAMESPACE = "sluice-system"
KUBECTL_S = 60
# Outlives every test.
TOKEN_S = 3600
# What Pod Security asks of a container in a namespace that enforces `restricted`.
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


class BoundToken(NamedTuple):
    """A service account's token, and what it is bound to; "" where it is not."""

    token: str
    node_uid: str
    pod_uid: str


def account_user(account: str, namespace: str = SYSTEM_NAMESPACE) -> str:
    """The user name of a service account."""
    return f"system:serviceaccount:{namespace}:{account}"


class Cluster:
    """One API server with its etcd, kubectl and clients.

    `etcd` and `api` are servers of the harness: `cluster.api.kill()` and `cluster.api.start()`
    are an outage, with the same port, certificate, keys and store. `cluster.etcd.compact()`
    forgets history; who watches notices after the next start of the API server, which until
    then answers from its own cache.
    """

    def __init__(self, folder: Path, assets: Path, *, args: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.assets = assets
        self.etcd = Etcd(folder / "etcd", assets / "etcd")
        self.api = ApiServer(folder / "api", assets / "kube-apiserver", self.etcd, args)
        self.clients: dict[tuple[str, str], client.ApiClient] = {}
        self.kubeconfigs: dict[tuple[str, str], Path] = {}

    @property
    def url(self) -> str:
        return self.api.url

    def start(self) -> "Cluster":
        try:
            self.etcd.start()
            self.api.start()
        except BaseException:
            self.kill()
            raise
        return self

    def kill(self) -> None:
        for each in self.clients.values():
            each.close()
        self.clients.clear()
        self.api.kill()
        self.api.holder.close()
        self.etcd.kill()

    def install(self) -> "Cluster":
        """Apply CRDs, roles and policies, and return once all of them are in force."""
        files = [word for name in MANIFESTS for word in ("-f", str(DEPLOY / name))]
        self.kubectl("apply", "--server-side", *files)
        for name in CRDS:
            self.wait_for_crd(name)
        wait_until(self.is_served, "both kinds are served")
        wait_until(self.is_guarded, "all admission policies are in force")
        # kubectl keeps what it has seen served, and looks no new short name up.
        self.kubectl("api-resources", "--api-group=tco.io")
        return self

    def is_served(self) -> bool:
        """Whether both kinds can be listed: once established they are refused for a moment more."""
        return all(self.call("GET", path).status == 200 for path in (BUDGETS, USAGES))

    def is_guarded(self) -> bool:
        """Whether all admission policies are in force: each stops what it is there to stop."""
        probe = {"apiVersion": "tco.io/v1", "kind": "NodeLogUsage", "metadata": {"name": "probe"}}
        self.get_or_create(USAGES, probe)
        probe = self.call("GET", f"{USAGES}/probe").json
        answers = [
            self.call(
                "PUT",
                f"{USAGES}/probe/status",
                {**probe, "status": {"instance": "probe"}},
                headers={"Impersonate-User": account_user(account)},
                fields={"dryRun": "All"},
            )
            for account in ("sluice-agent", "sluice-controller")
        ]
        answers.append(self.call("DELETE", f"{USAGES}/probe"))
        self.collect("probe")
        return all("ValidatingAdmissionPolicy" in answer.text for answer in answers)

    def collect(self, node: str) -> Reply:
        """Delete a node's NodeLogUsage, as the garbage collector does once its Node is gone."""
        # The role is made by the API server, the account by a controller that does not run here.
        return self.call("DELETE", f"{USAGES}/{node}", headers={"Impersonate-User": COLLECTOR})

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = ADMIN,
        headers: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Reply:
        """Ask the API server once, in JSON; a PATCH is a merge patch. Any status is an answer."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        sent = {"Content-Type": kind, **(headers or {})}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        return self.api.request(method, path, data, sent, fields=fields)

    def get_or_create(self, path: str, body: dict[str, Any]) -> Any:
        """Return the object of this name in a collection, made now if it was not there."""
        reply = self.call("POST", path, body)
        if reply.status == 409:
            reply = self.call("GET", f"{path}/{body['metadata']['name']}")
        assert reply.status in (200, 201), reply
        return reply.json

    def namespace(self, name: str, labels: Mapping[str, str] | None = None) -> str:
        """Make a namespace unless it is there."""
        self.get_or_create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        return name

    def node(self, name: str) -> str:
        """Make a Node unless it is there, and return its UID."""
        uid: str = self.get_or_create("/api/v1/nodes", {"metadata": {"name": name}})["metadata"][
            "uid"
        ]
        return uid

    def service_account_token(
        self,
        account: str,
        node: str | None = None,
        pod: str | None = None,
        namespace: str = SYSTEM_NAMESPACE,
    ) -> BoundToken:
        """A token such as the kubelet of `node` mounts into `pod`; what is missing is made.

        With `node` alone the pod's name follows from both names; with neither the token is
        bound to nothing.
        """
        home = f"/api/v1/namespaces/{self.namespace(namespace)}"
        self.get_or_create(f"{home}/serviceaccounts", {"metadata": {"name": account}})
        node_uid = self.node(node) if node else ""
        pod_uid = ""
        spec: dict[str, Any] = {"audiences": [], "expirationSeconds": TOKEN_S}
        if pod or node:
            name = pod or f"{account}-{node}"
            made = self.get_or_create(f"{home}/pods", pod_manifest(name, account, node))
            pod_uid = made["metadata"]["uid"]
            bound = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod_uid}
            spec["boundObjectRef"] = bound
        reply = self.call("POST", f"{home}/serviceaccounts/{account}/token", {"spec": spec})
        assert reply.status == 201, reply
        return BoundToken(reply.json["status"]["token"], node_uid, pod_uid)

    def kubeconfig(self, token: str = ADMIN, server: str | None = None) -> Path:
        """A kubeconfig file for a token; `server` is another URL, such as a proxy's."""
        key = token, server or self.url
        if key not in self.kubeconfigs:
            path = self.folder / f"kubeconfig-{len(self.kubeconfigs)}.yaml"
            path.touch(mode=0o600)
            path.write_text(yaml.safe_dump(kubeconfig(*key, self.api.ca)))
            self.kubeconfigs[key] = path
        return self.kubeconfigs[key]

    def wait_for_crd(self, name: str) -> None:
        """Wait until a CRD is served."""
        # kubectl fails on one that was made a moment ago and has no conditions yet.
        command = ("wait", "--for=condition=Established", f"crd/{name}")
        wait_until(
            lambda: self.kubectl(*command, check=False).returncode == 0,
            f"{name} is established",
            30,
        )

    def kubectl(
        self,
        *args: str,
        stdin: str | None = None,
        token: str = ADMIN,
        server: str | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as a user does; AssertionError with its words if it fails, unless told."""
        # Settings, cache and plugins of whoever runs the tests are not the tests'.
        env = {
            "PATH": os.defpath,
            "HOME": str(self.folder),
            "KUBECONFIG": str(self.kubeconfig(token, server)),
        }
        done = subprocess.run(
            [str(self.assets / "kubectl"), *args],
            input=stdin,
            env=env,
            capture_output=True,
            text=True,
            timeout=KUBECTL_S,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"kubectl {' '.join(args)}: {done.stdout}{done.stderr}"
        return done

    def api_client(self, token: str = ADMIN, server: str | None = None) -> client.ApiClient:
        """A client of the kubernetes package for a token; it is closed with the cluster."""
        key = token, server or self.url
        if key not in self.clients:
            settings = client.Configuration()
            settings.host = key[1]
            settings.ssl_ca_cert = str(self.api.ca)
            settings.api_key = {"authorization": f"Bearer {token}"}
            self.clients[key] = client.ApiClient(settings)
        return self.clients[key]

    @property
    def admin(self) -> client.ApiClient:
        """A client of the kubernetes package that may do everything."""
        return self.api_client()


def pod_manifest(name: str, account: str, node: str | None) -> dict[str, Any]:
    """A pod that a namespace of Sluice's kind admits; it runs nowhere, for nothing runs it."""
    container = {"name": "main", "image": "none", "securityContext": RESTRICTED}
    spec = {"serviceAccountName": account, "nodeName": node, "containers": [container]}
    return {"metadata": {"name": name}, "spec": spec}


def kubeconfig(token: str, server: str, ca: Path) -> dict[str, Any]:
    """The content of a kubeconfig file with one cluster and one user."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "test", "cluster": {"server": server, "certificate-authority": str(ca)}}
        ],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
