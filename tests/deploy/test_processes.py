"""The processes start as the manifests say: these arguments, variables, probes and account."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chart import container, pick, plain_objects
from cluster.harness import Cluster
from harness import Server, free_port

pytestmark = pytest.mark.cluster

NODE = "node-of-the-manifests"


class Pod(Server):
    """The container of a workload as a process, with a token of its service account."""

    def __init__(self, folder: Path, cluster: Cluster, workload: dict[str, Any]) -> None:
        self.container = container(workload)
        self.name = self.container["name"]
        self.ready_path = self.container["readinessProbe"]["httpGet"]["path"]
        super().__init__(folder)
        self.port = free_port()
        spec = workload["spec"]["template"]["spec"]
        token = cluster.service_account_token(spec["serviceAccountName"], node=NODE).token
        self.kubeconfig = cluster.kubeconfig(token)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "sluice", *self.container["args"]]

    def environment(self) -> dict[str, str]:
        fields = {"spec.nodeName": NODE, "metadata.namespace": "sluice-system"}
        given = {
            each["name"]: each["value"]
            if "value" in each
            else fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
            for each in self.container["env"]
        }
        # What differs on one machine: the port, the folder behind the mount, the way in.
        given["SLUICE_LISTEN"] = f"127.0.0.1:{self.port}"
        given["SLUICE_KUBECONFIG"] = str(self.kubeconfig)
        if "SLUICE_STATE_DIR" in given:
            given["SLUICE_STATE_DIR"] = str(self.folder / "state")
        return {"PATH": os.environ["PATH"], **given}


@pytest.fixture
def pod(tmp_path: Path, cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Pod]:
    made = Pod(tmp_path / "pod", cluster, pick(plain_objects(), *request.param))
    try:
        yield made
    finally:
        made.kill()


@pytest.mark.parametrize(
    "pod",
    [("DaemonSet", "tco-agent"), ("Deployment", "tco-controller"), ("Deployment", "tco-dashboard")],
    indirect=True,
    ids=["agent", "controller", "dashboard"],
)
def test_a_pod_becomes_ready_is_alive_logs_json_and_ends_when_told(pod: Pod) -> None:
    pod.start()
    alive = pod.container["livenessProbe"]["httpGet"]["path"]
    assert pod.get(alive).status == 200
    assert "process_" in pod.get("/metrics").text
    assert pod.stop(timeout_s=30) == 0
    lines = pod.log.read_text().splitlines()
    assert lines
    assert all(line.startswith("{") for line in lines), pod.tail()
