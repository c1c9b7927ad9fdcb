"""Installing Sluice on a real API server, in each of the ways that are documented."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import CHART, PLAIN, helm, pick, plain_objects, render
from cluster.harness import Cluster
from harness import wait_until

pytestmark = pytest.mark.cluster

# The order of the quick start.
STEPS = (
    "teambudget-crd.yaml",
    "rbac.yaml",
    "controller-deployment.yaml",
    "agent-daemonset.yaml",
    "example-teambudget.yaml",
)
# Objects without which something that runs would not work; the others only restrict or protect.
NEEDED = {
    *(("CustomResourceDefinition", f"{plural}.tco.io") for plural in ("teambudgets",
                                                                      "nodelogusages")),
    *(("ServiceAccount", f"sluice-{name}") for name in ("agent", "controller", "dashboard")),
    ("Namespace", "sluice-system"),
    ("PriorityClass", "sluice"),
    ("ClusterRole", "sluice-agent"),
    ("ClusterRole", "sluice-controller"),
    ("Deployment", "tco-controller"),
    ("Service", "tco-controller"),
    ("DaemonSet", "tco-agent"),
    ("Service", "tco-agent"),
}  # fmt: skip


def applied(said: str) -> list[str]:
    """What kubectl apply did with each object, as its last word."""
    return [line.split()[-1] for line in said.splitlines()]


def exists(cluster: Cluster, kind: str, name: str) -> bool:
    asked = ("get", kind, name, "-n", "sluice-system", "--ignore-not-found", "-o", "name")
    return bool(cluster.kubectl(*asked).stdout)


def assert_nothing_is_left_to_apply(cluster: Cluster) -> None:
    """What `kubectl apply -k` would install is there, to the last field.

    Not by its word "unchanged": it sends, and calls it configured, what holds a default of the
    API server in a list.
    """
    compared = cluster.kubectl("diff", "-k", str(PLAIN), check=False)
    assert compared.returncode == 0, compared.stdout + compared.stderr


def example_is_listed(cluster: Cluster) -> bool:
    listed = cluster.kubectl("get", "teambudgets", check=False).stdout
    return "backend-team" in listed and "DAILY" in listed


def test_one_command_installs_all_but_the_example_on_an_empty_cluster(
    fresh_cluster: Cluster,
) -> None:
    first = fresh_cluster.kubectl("apply", "-k", str(PLAIN))
    assert applied(first.stdout) == ["created"] * len(plain_objects())
    assert not first.stderr, "Pod Security and the API server have nothing to remark"
    assert_nothing_is_left_to_apply(fresh_cluster)
    fresh_cluster.kubectl(
        *("wait", "--for=condition=Established", "crd/teambudgets.tco.io"), "--timeout=30s"
    )
    assert not fresh_cluster.kubectl("get", "teambudgets", "-A").stdout
    fresh_cluster.kubectl("apply", "-f", str(PLAIN / "example-teambudget.yaml"))
    assert example_is_listed(fresh_cluster)


def test_the_documented_steps_work_file_by_file_in_their_order(fresh_cluster: Cluster) -> None:
    for step in STEPS:
        done = fresh_cluster.kubectl("apply", "-f", str(PLAIN / step))
        assert set(applied(done.stdout)) == {"created"}, step
        assert not done.stderr
    assert example_is_listed(fresh_cluster)
    assert [each for each in sorted(NEEDED) if not exists(fresh_cluster, *each)] == []
    # The whole folder brings the rest, and takes nothing in it for an object that is none.
    whole = fresh_cluster.kubectl("apply", "-f", f"{PLAIN}/")
    assert "configured" not in applied(whole.stdout)
    assert_nothing_is_left_to_apply(fresh_cluster)


def test_the_documented_upgrade_takes_new_fields_and_keeps_what_is_there(
    fresh_cluster: Cluster, tmp_path: Path
) -> None:
    fresh_cluster.kubectl("apply", "-k", str(PLAIN))
    fresh_cluster.kubectl(
        *("wait", "--for=condition=Established", "crd/teambudgets.tco.io"), "--timeout=30s"
    )
    fresh_cluster.kubectl("apply", "-f", str(PLAIN / "example-teambudget.yaml"))
    crds = []
    for name in ("teambudget-crd.yaml", "nodelogusage-crd.yaml"):
        crd = yaml.safe_load((PLAIN / name).read_text())
        spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        spec["properties"]["fromALaterVersion"] = {"type": "string"}
        crds.append(tmp_path / name)
        crds[-1].write_text(yaml.safe_dump(crd))
    fresh_cluster.kubectl("apply", "--server-side", *(f"-f={path}" for path in crds))
    wait_until(
        lambda: "fromALaterVersion" in fresh_cluster.kubectl("explain", "teambudget.spec").stdout,
        "the API server knows the new field",
    )
    assert example_is_listed(fresh_cluster)
    # And the workloads and roles after it, as often as one likes.
    for _ in range(2):
        fresh_cluster.kubectl("apply", "-k", str(PLAIN))


def test_the_chart_installs_upgrades_and_leaves_the_budgets_behind(
    fresh_cluster: Cluster, tmp_path: Path
) -> None:
    asked = ["sluice", str(CHART), "--namespace=logging", "--create-namespace"]
    where = [f"--kubeconfig={fresh_cluster.kubeconfig()}"]
    notes = helm("install", *asked, *where, home=tmp_path).stdout
    assert "http://tco-agent.logging.svc:8080/loki/api/v1/push" in notes
    assert "kubectl -n logging port-forward service/tco-dashboard 3000" in notes
    fresh_cluster.kubectl("apply", "-f", str(PLAIN / "example-teambudget.yaml"))
    helm("upgrade", *asked[:3], *where, "--set=controller.replicas=3", home=tmp_path)
    replicas = ("get", "deployment", "tco-controller", "-n", "logging")
    found = fresh_cluster.kubectl(*replicas, "-o", "jsonpath={.spec.replicas}")
    assert found.stdout == "3"
    helm("uninstall", "sluice", "--namespace=logging", *where, home=tmp_path)
    assert "NotFound" in fresh_cluster.kubectl(*replicas, check=False).stderr
    assert example_is_listed(fresh_cluster)


def pod_of(workload: dict[str, Any], name: str, namespace: str) -> dict[str, Any]:
    """The pod that a controller would make of a workload, as a manifest."""
    template = copy.deepcopy(workload["spec"]["template"])
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**template["metadata"], "name": name, "namespace": namespace},
        "spec": template["spec"],
    }


@pytest.fixture(scope="module")
def restricted(cluster: Cluster) -> str:
    """A namespace that refuses what Pod Security does not call restricted."""
    priority = pick(plain_objects(), "PriorityClass", "sluice")
    cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(priority))
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return cluster.namespace("restricted", labels)


WORKLOADS = (
    ("DaemonSet", "tco-agent"),
    ("Deployment", "tco-controller"),
    ("Deployment", "tco-dashboard"),
)
# With everything that can add to a pod.
FULL = (
    "--set=upstream.headersSecret.name=a,upstream.caConfigMap.name=a",
    "--set=controller.notifySecret.name=a,dashboard.authSecret.name=a",
)


def create(cluster: Cluster, manifest: dict[str, Any]) -> Any:
    """Have the API server judge an object as if it were created."""
    asked = ("create", "--dry-run=server", "-o", "json", "-f", "-")
    return cluster.kubectl(*asked, stdin=yaml.safe_dump(manifest), check=False)


@pytest.mark.helm
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload[1])
def test_pods_run_where_pod_security_is_restricted(
    cluster: Cluster, restricted: str, workload: tuple[str, str]
) -> None:
    for objects in (plain_objects(), render(*FULL)):
        pod = pod_of(pick(objects, *workload), workload[1], restricted)
        made = create(cluster, pod)
        assert made.returncode == 0, made.stderr
        assert json.loads(made.stdout)["spec"]["priority"] == 100_000_000
        # Each line of it counts: without any one the pod is refused.
        for path in (
            ("securityContext", "runAsNonRoot"),
            ("securityContext", "seccompProfile"),
            ("containers", 0, "securityContext", "allowPrivilegeEscalation"),
            ("containers", 0, "securityContext", "capabilities"),
        ):
            weaker = copy.deepcopy(pod)
            part: Any = weaker["spec"]
            for step in path[:-1]:
                part = part[step]
            del part[path[-1]]
            refused = create(cluster, weaker)
            assert "violates PodSecurity" in refused.stderr, path


def test_the_plain_folder_repairs_itself_on_an_empty_cluster_when_applied_twice(
    fresh_cluster: Cluster,
) -> None:
    """kubectl goes through it by name: the first time, some come before their namespace."""
    fresh_cluster.kubectl("apply", "-f", f"{PLAIN}/", check=False)

    def applies() -> bool:
        return fresh_cluster.kubectl("apply", "-f", f"{PLAIN}/", check=False).returncode == 0

    wait_until(applies, "the folder applies without an error", 30)
    assert example_is_listed(fresh_cluster)
