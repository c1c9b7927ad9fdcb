"""The chart: what its values do, what it refuses, and that deploy/k8s is what it renders."""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import CHART, ROOT, container, helm, pick, render, setting, template, to_namespace
from servers import build

pytestmark = pytest.mark.helm

# A value other than the default for each that there is.
OTHERS: dict[str, Any] = {
    "image.repository": "registry.example/sluice",
    "image.tag": "v1.0.0",
    "image.digest": f"sha256:{'0' * 64}",
    "image.pullPolicy": "Always",
    "image.pullSecrets": [{"name": "registry"}],
    "upstream.url": "https://logs.example.com/loki/api/v1/push",
    "upstream.timeoutSeconds": 5,
    "upstream.metricsUrl": "http://loki.logs.svc:3100/metrics",
    "upstream.tenants": ["a", "b"],
    "upstream.headersSecret.name": "other",
    "upstream.headersSecret.key": "other",
    "upstream.caConfigMap.name": "other",
    "upstream.caConfigMap.key": "other",
    "upstream.clientCertSecret.name": "other",
    "unbudgeted": "drop",
    "exemptLokiStreams": True,
    "namespaceLabels": ["ns", "namespace"],
    "reportCeilingSeconds": 120,
    "heartbeatSeconds": 30,
    "logFormat": "text",
    "logLevel": "debug",
    "allowedHosts": ["logs.example.com"],
    "listenHost": "[::]",
    **{
        f"{process}.{name}": value
        for process in ("agent", "controller", "dashboard")
        for name, value in {
            "resources.requests.cpu": "1",
            "resources.requests.memory": "1Gi",
            "resources.limits.memory": "2Gi",
            "tolerations": [{"key": "other", "operator": "Exists"}],
            "nodeSelector": {"disk": "ssd"},
            "affinity": {"podAntiAffinity": {}},
            "podAnnotations": {"example.com/note": "x"},
            "podLabels": {"example.com/team": "x"},
            "extraEnv": [{"name": "SLUICE_THREADS", "value": "32"}],
        }.items()
    },
    "agent.resources.requests.ephemeral-storage": "1Gi",
    "agent.stateSizeLimit": "1Gi",
    "agent.state.hostPath": "/var/lib/sluice",
    "agent.state.volume": {"csi": {"driver": "example.com"}},
    "agent.maxUnavailable": 1,
    "controller.replicas": 1,
    "controller.notifySecret.name": "other",
    "controller.notifySecret.key": "other",
    "controller.notifyOn": "drop,recovery",
    "controller.dashboardUrl": "https://sluice.example.com",
    "dashboard.enabled": False,
    "dashboard.auth": "header:X-Forwarded-User",
    "dashboard.authSecret.name": "other",
    "dashboard.authSecret.key": "other",
    "dashboard.prometheusUrl": "http://prometheus.monitoring.svc:9090",
    "dashboard.costPerGiB": 0,
    "dashboard.currency": "EUR",
    "dashboard.resources.requests.ephemeral-storage": "1Gi",
    "dashboard.stateSizeLimit": "1Gi",
    "priorityClass.create": False,
    "priorityClass.name": "other",
    "priorityClass.value": 1000,
    "networkPolicy.enabled": False,
    "networkPolicy.shippers": [{"namespaceSelector": {}}],
    "networkPolicy.dashboard": [{"namespaceSelector": {}}],
    "networkPolicy.monitoring": [],
    "networkPolicy.dns": [{"namespaceSelector": {}}],
    "networkPolicy.apiServer": [{"ipBlock": {"cidr": "10.0.0.1/32"}}],
    "networkPolicy.apiServerPorts": [8443],
    "networkPolicy.upstream": [{"ipBlock": {"cidr": "10.0.0.2/32"}}],
    "networkPolicy.prometheus": [{"ipBlock": {"cidr": "10.0.0.3/32"}}],
    "networkPolicy.notify": [{"ipBlock": {"cidr": "10.0.0.4/32"}}],
    **{
        f"monitoring.{kind}.{name}": value
        for kind in ("podMonitor", "serviceMonitor", "rules")
        for name, value in {"enabled": False, "interval": "10s", "labels": {"release": "x"}}.items()
        if (kind, name) != ("rules", "interval")
    },
    "flowControl.enabled": False,
    "flowControl.concurrencyShares": 20,
    "createNamespace": True,
}
# Keys mean nothing without a name, nor peers without a URL, nor labels of what is not there. As
# JSON, for helm takes --set after that, wherever it stands.
NAMED = (
    '--set-json=upstream.headersSecret.name="a"',
    '--set-json=upstream.caConfigMap.name="a"',
    '--set-json=controller.notifySecret.name="a"',
    '--set-json=dashboard.authSecret.name="a"',
    '--set-json=dashboard.prometheusUrl="http://a"',
    "--set-json=monitoring.podMonitor.enabled=true",
    "--set-json=monitoring.serviceMonitor.enabled=true",
    "--set-json=monitoring.rules.enabled=true",
)


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_helm_lint_has_nothing_to_say() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART)).stdout


def test_chart_and_program_have_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (project["version"], project["version"])


def test_every_value_has_an_effect() -> None:
    """Invariant: changing any one value of values.yaml changes what is rendered."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(leaves(values)) == set(OTHERS)
    default = template(*NAMED).stdout
    idle = [
        path
        for path, value in OTHERS.items()
        if template(*NAMED, setting(path, value)).stdout == default
    ]
    assert not idle


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("upstream.uri", "http://loki", "uri"),
        ("upsteam.url", "http://loki", "upsteam"),
        ("agent.resource.limits.memory", "1Gi", "resource"),
        ("controller.replica", 3, "replica"),
        ("networkPolicy.shipper", [], "shipper"),
        ("networkPolicy.shippers", [], "shippers"),
        ("networkPolicy.shippers", [{"namespaces": ["a"]}], "namespaces"),
        ("networkPolicy.dns", [], "dns"),
        ("upstream.url", "loki:3100", "url"),
        ("upstream.url", "", "url"),
        ("upstream.url", "http://user:secret@loki", "url"),
        ("upstream.timeoutSeconds", 0, "timeoutSeconds"),
        ("upstream.metricsUrl", "loki:3100", "metricsUrl"),
        ("upstream.metricsUrl", "http://user:secret@loki", "metricsUrl"),
        ("upstream.tenants", ["a b"], "tenants"),
        ("unbudgeted", "deny", "unbudgeted"),
        ("exemptLokiStreams", "yes", "exemptLokiStreams"),
        ("heartbeatSeconds", 0, "heartbeatSeconds"),
        ("logLevel", "trace", "logLevel"),
        ("agent.stateSizeLimit", "512", "stateSizeLimit"),
        ("agent.state.hostPath", "var/lib/sluice", "hostPath"),
        ("agent.state.volume", {"csi": {}, "nfs": {}}, "volume"),
        ("agent.maxUnavailable", "0%", "maxUnavailable"),
        ("agent.extraEnv", [{"nam": "A"}], "extraEnv"),
        ("image.digest", "sha256:0", "digest"),
        ("controller.replicas", -1, "replicas"),
        ("controller.notifyOn", "drops", "notifyOn"),
        ("controller.dashboardUrl", "sluice.example.com", "dashboardUrl"),
        ("dashboard.auth", "", "auth"),
        ("dashboard.auth", "bearer", "auth"),
        ("dashboard.costPerGiB", -1, "costPerGiB"),
        ("dashboard.prometheusUrl", "http://user:secret@prometheus", "prometheusUrl"),
        ("dashboard.replicas", 2, "replicas"),
        ("networkPolicy.dashboard", [{"namespaces": ["a"]}], "namespaces"),
        ("monitoring.podMonitor.interval", "30", "interval"),
        ("monitoring.prometheusRule.enabled", True, "prometheusRule"),
    ],
)
def test_a_misspelt_or_impossible_value_is_refused_by_name(
    path: str, value: Any, says: str
) -> None:
    refused = template(setting(path, value), check=False)
    assert refused.returncode != 0
    assert says in refused.stderr


def test_a_cluster_older_than_what_was_tried_is_refused() -> None:
    assert template("--kube-version=1.32.0").returncode == 0
    refused = template("--kube-version=1.31.9", check=False)
    assert refused.returncode != 0
    assert ">=1.32" in refused.stderr


def test_the_client_certificate_of_upstream_is_a_secret_that_is_mounted_whole() -> None:
    """Mounted whole, and not file by file, it changes with the secret."""
    agent = pick(
        render("--set=upstream.url=https://loki,upstream.clientCertSecret.name=mtls"),
        "DaemonSet",
        "tco-agent",
    )
    env = {each["name"]: each.get("value") for each in container(agent)["env"]}
    (mount,) = [
        each for each in container(agent)["volumeMounts"] if each["name"] == "upstream-cert"
    ]
    (volume,) = [
        each for each in agent["spec"]["template"]["spec"]["volumes"]
        if each["name"] == "upstream-cert"
    ]  # fmt: skip
    assert env["SLUICE_UPSTREAM_CERT"] == f"{mount['mountPath']}/tls.crt"
    assert env["SLUICE_UPSTREAM_KEY"] == f"{mount['mountPath']}/tls.key"
    assert "subPath" not in mount
    assert volume["secret"]["secretName"] == "mtls"


def test_headers_and_certificates_of_upstream_come_from_objects_that_others_keep() -> None:
    agent = pick(
        render("--set=upstream.headersSecret.name=loki,upstream.caConfigMap.name=ca"),
        "DaemonSet",
        "tco-agent",
    )
    env = {each["name"]: each for each in container(agent)["env"]}
    assert env["SLUICE_UPSTREAM_HEADER"]["valueFrom"]["secretKeyRef"] == {
        "name": "loki",
        "key": "headers",
    }
    mounts = {each["name"]: each for each in container(agent)["volumeMounts"]}
    ca = env["SLUICE_UPSTREAM_CA"]["value"]
    assert ca == f"{mounts['upstream-ca']['mountPath']}/ca.crt"


def test_a_digest_wins_over_the_tag() -> None:
    digest = f"sha256:{'1' * 64}"
    objects = render("--set", f"image.repository=r.example/s,image.tag=v1,image.digest={digest}")
    for kind, name in (
        ("DaemonSet", "tco-agent"),
        ("Deployment", "tco-controller"),
        ("Deployment", "tco-dashboard"),
    ):
        assert container(pick(objects, kind, name))["image"] == f"r.example/s@{digest}"


def test_in_another_namespace_nothing_names_the_usual_one() -> None:
    text = template("--include-crds", namespace="logging").stdout
    assert "sluice-system" not in text.replace("else `sluice-system`", "")
    assert "system:serviceaccount:logging:sluice-agent" in text


def test_agents_and_controller_go_by_the_same_numbers_and_labels() -> None:
    objects = render(
        setting("namespaceLabels", ["ns", "namespace"]),
        "--set=reportCeilingSeconds=120,heartbeatSeconds=30",
    )
    for kind, name in (("DaemonSet", "tco-agent"), ("Deployment", "tco-controller")):
        env = {
            each["name"]: each.get("value") for each in container(pick(objects, kind, name))["env"]
        }
        assert env["SLUICE_REPORT_CEILING"] == "120"
        assert env["SLUICE_HEARTBEAT"] == "30"
        assert env["SLUICE_NAMESPACE_LABEL"] == "ns namespace"


def test_the_streams_that_loki_makes_are_exempt_where_it_is_asked_for() -> None:
    for given, wanted in ((False, None), (True, "true")):
        objects = render(setting("exemptLokiStreams", given))
        env = {
            each["name"]: each.get("value")
            for each in container(pick(objects, "DaemonSet", "tco-agent"))["env"]
        }
        assert env.get("SLUICE_EXEMPT_LOKI_STREAMS") == wanted


def test_every_process_knows_the_names_that_people_reach_it_under() -> None:
    objects = render(
        setting("allowedHosts", ["logs.example.com", ".teams.example.com"]),
        setting("controller.dashboardUrl", "https://shown.example.com:8443/x"),
    )
    for kind, process in (
        ("DaemonSet", "agent"),
        ("Deployment", "controller"),
        ("Deployment", "dashboard"),
    ):
        made = container(pick(objects, kind, f"tco-{process}"))
        env = {each["name"]: each.get("value") for each in made["env"]}
        wanted = "logs.example.com .teams.example.com shown.example.com"
        assert env["SLUICE_ALLOWED_HOST"] == wanted


def upstream_rules(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The egress rules of the agent before those that both processes have."""
    both = pick(objects, "NetworkPolicy", "tco-controller")["spec"]["egress"]
    agents = pick(objects, "NetworkPolicy", "tco-agent")["spec"]["egress"]
    assert agents[-len(both) :] == both
    return list(agents[: -len(both)])


@pytest.mark.parametrize(
    ("url", "rules"),
    [
        ("http://loki-gateway.loki.svc/loki/api/v1/push", [to_namespace("loki")]),
        ("http://loki.logs.svc.cluster.local:3100", [to_namespace("logs")]),
        ("http://loki:3100", [to_namespace("sluice-system")]),
        ("http://loki.logs:3100", [to_namespace("logs"), {"ports": [{"port": 3100}]}]),
        ("https://logs.example.com/loki/api/v1/push", [{"ports": [{"port": 443}]}]),
        ("http://logs.example.com", [{"ports": [{"port": 80}]}]),
        ("http://10.1.2.3:3100", [{"ports": [{"port": 3100}]}]),
        ("http://[fd00::1]:3100", [{"ports": [{"port": 3100}]}]),
        ("http://[fd00::1]", [{"ports": [{"port": 80}]}]),
    ],
)
def test_agents_may_reach_upstream_wherever_its_url_says_it_is(
    url: str, rules: list[dict[str, Any]]
) -> None:
    assert upstream_rules(render("--set", f"upstream.url={url}")) == rules


def test_named_peers_of_upstream_replace_what_the_url_says() -> None:
    peers = [{"ipBlock": {"cidr": "10.0.0.2/32"}}]
    assert upstream_rules(render(setting("networkPolicy.upstream", peers))) == [{"to": peers}]


def test_no_peers_for_monitoring_lets_nobody_in_instead_of_everybody() -> None:
    objects = render(setting("networkPolicy.monitoring", []))
    policy = pick(objects, "NetworkPolicy", "tco-controller")["spec"]
    assert "ingress" not in policy
    assert "Ingress" in policy["policyTypes"]
    (rule,) = pick(objects, "NetworkPolicy", "tco-agent")["spec"]["ingress"]
    assert rule["from"], "an empty list of peers would mean everybody"


def manifests(root: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run tools/manifests.py as make does, on the checkout at `root`."""
    command = [sys.executable, str(root / "tools" / "manifests.py")]
    return subprocess.run(
        [*command, "--helm", str(build.place("helm")), *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_plain_manifests_are_what_the_chart_renders() -> None:
    checked = manifests(ROOT, "--check")
    assert checked.returncode == 0, checked.stderr


def append(path: str, text: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        with (root / path).open("a") as file:
            file.write(text)

    return change


def replace(path: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        before = (root / path).read_text()
        assert old in before
        (root / path).write_text(before.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (append("deploy/k8s/rbac.yaml", "# more\n"), "rbac.yaml: differs"),
        (replace("deploy/k8s/agent-daemonset.yaml", "Local", "Cluster"), "daemonset.yaml: differs"),
        (replace("deploy/helm/sluice/values.yaml", "replicas: 2", "replicas: 3"),
         "controller-deployment.yaml: differs"),
        (append("deploy/helm/sluice/crds/teambudget-crd.yaml", "# more\n"), "crd.yaml: differs"),
        (append("deploy/helm/sluice/crds/nodelogusage-crd.yaml", "# more\n"),
         "controller-deployment.yaml: differs"),
        (lambda root: (root / "deploy/k8s/pdb.yaml").unlink(), "pdb.yaml: is missing"),
        (append("deploy/k8s/more.yaml", "kind: Pod\n"), "more.yaml: not of the chart"),
        (append("deploy/helm/sluice/files/rules.yaml", "# more\n"), "rules.yaml: differs"),
        (append("deploy/prometheus/rules.yaml", "# more\n"), "rules.yaml: differs"),
        (append("deploy/helm/sluice/templates/more.yaml", "kind: Pod\n"), "templates/more.yaml"),
        (lambda root: (root / "deploy/helm/sluice/templates/pdb.yaml").unlink(),
         "nothing from templates/pdb.yaml"),
    ],
)  # fmt: skip
def test_drift_is_found_on_either_side(
    tmp_path: Path, change: Callable[[Path], None], says: str
) -> None:
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    change(tmp_path)
    checked = manifests(tmp_path, "--check")
    assert checked.returncode != 0
    assert says in checked.stderr


def test_the_state_of_an_agent_may_outlive_its_pod() -> None:
    def pod(*args: str) -> Any:
        return pick(render(*args), "DaemonSet", "tco-agent")["spec"]["template"]["spec"]

    (state,) = (v for v in pod()["volumes"] if v["name"] == "state")
    assert state == {"name": "state", "emptyDir": {"sizeLimit": "512Mi"}}
    assert "initContainers" not in pod()

    on_host = pod(setting("agent.state.hostPath", "/var/lib/sluice"))
    (state,) = (v for v in on_host["volumes"] if v["name"] == "state")
    assert state["hostPath"] == {"path": "/var/lib/sluice", "type": "DirectoryOrCreate"}
    # The kubelet makes it as root's.
    (owner,) = on_host["initContainers"]
    assert owner["command"] == ["chown", "65532:65532", "/var/lib/sluice"]
    assert owner["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}

    source = {"ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}}
    (state,) = (
        v for v in pod(setting("agent.state.volume", source))["volumes"] if v["name"] == "state"
    )
    assert state == {"name": "state", **source}

    both = setting("agent.state.hostPath", "/x"), setting("agent.state.volume", source)
    refused = template(*both, check=False)
    assert "expected hostPath or volume, got both" in refused.stderr
