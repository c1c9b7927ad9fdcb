"""deploy/k8s as it stands: what its parts promise each other and the program."""

import re
from typing import Any

import click
import pytest
import yaml
from chart import PLAIN, ROOT, container, pick, plain_objects

from sluice import columns, ledger_file, quantity
from sluice.commands import main

OBJECTS = plain_objects()
AGENT = pick(OBJECTS, "DaemonSet", "tco-agent")
CONTROLLER = pick(OBJECTS, "Deployment", "tco-controller")
DASHBOARD = pick(OBJECTS, "Deployment", "tco-dashboard")
WORKLOADS = {"agent": AGENT, "controller": CONTROLLER, "dashboard": DASHBOARD}

each_workload = pytest.mark.parametrize("name", WORKLOADS)


def test_the_example_is_the_one_that_the_documents_show() -> None:
    shown = """
        apiVersion: tco.io/v1
        kind: TeamBudget
        metadata: {name: backend-team, namespace: default}
        spec: {dailyLimit: 1000000, monthlyLimit: 30000000}
    """
    assert yaml.safe_load((PLAIN / "example-teambudget.yaml").read_text()) == yaml.safe_load(shown)


def test_the_kustomization_has_every_object_but_the_example_once() -> None:
    resources = yaml.safe_load((PLAIN / "Kustomization").read_text())["resources"]
    listed = [
        (each["kind"], each["metadata"]["name"])
        for name in resources
        for each in yaml.safe_load_all((PLAIN / name).read_text())
    ]
    assert len(listed) == len(set(listed))
    assert set(listed) == {(each["kind"], each["metadata"]["name"]) for each in OBJECTS}


@each_workload
def test_every_variable_is_a_setting_of_the_process_and_has_a_value_that_it_takes(
    name: str,
) -> None:
    command = main.commands[name]
    options = {
        variable: option
        for option in command.params
        if isinstance(option, click.Option)
        # One that is shared with other programs has two names.
        for variable in ([option.envvar] if isinstance(option.envvar, str) else option.envvar or ())
    }
    main_container = container(WORKLOADS[name])
    assert main_container["args"] == [name]
    given = {each["name"]: each for each in main_container["env"]}
    assert given.keys() <= options.keys()
    context = click.Context(command)
    for variable, each in given.items():
        if "value" in each:
            options[variable].type_cast_value(context, each["value"])


@each_workload
def test_probes_ask_the_port_that_the_process_listens_on(name: str) -> None:
    main_container = container(WORKLOADS[name])
    (port,) = main_container["ports"]
    env = {each["name"]: each.get("value") for each in main_container["env"]}
    assert env["SLUICE_LISTEN"] == f"0.0.0.0:{port['containerPort']}"
    paths = {
        probe: main_container[probe]["httpGet"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert {get["port"] for get in paths.values()} == {port["name"]}
    assert paths["livenessProbe"]["path"] == paths["startupProbe"]["path"] == "/api/health"
    assert paths["readinessProbe"]["path"] == "/ready"


@each_workload
def test_services_policies_and_budgets_find_the_pods_they_are_meant_for(name: str) -> None:
    labels = WORKLOADS[name]["spec"]["template"]["metadata"]["labels"]
    others = [
        workload["spec"]["template"]["metadata"]["labels"]
        for other, workload in WORKLOADS.items()
        if other != name
    ]

    def finds(selector: dict[str, str], wanted: dict[str, str]) -> bool:
        return selector.items() <= wanted.items()

    own = [WORKLOADS[name]["spec"]["selector"]["matchLabels"]]
    own.append(pick(OBJECTS, "Service", f"tco-{name}")["spec"]["selector"])
    policy = pick(OBJECTS, "NetworkPolicy", f"tco-{name}")
    own.append(policy["spec"]["podSelector"]["matchLabels"])
    if name == "controller":
        disruption = pick(OBJECTS, "PodDisruptionBudget", "tco-controller")
        own.append(disruption["spec"]["selector"]["matchLabels"])
    for selector in own:
        assert finds(selector, labels)
        assert not any(finds(selector, other) for other in others)
    deny = pick(OBJECTS, "NetworkPolicy", "sluice-default-deny")
    assert finds(deny["spec"]["podSelector"]["matchLabels"], labels)


@each_workload
def test_pods_name_accounts_and_a_priority_that_are_installed_with_them(name: str) -> None:
    pod = WORKLOADS[name]["spec"]["template"]["spec"]
    account = pick(OBJECTS, "ServiceAccount", pod["serviceAccountName"])
    assert account["metadata"]["name"] == f"sluice-{name}"
    assert account["metadata"]["namespace"] == WORKLOADS[name]["metadata"]["namespace"]
    pick(OBJECTS, "PriorityClass", pod["priorityClassName"])


def test_a_shipper_reaches_only_the_agent_of_its_own_node() -> None:
    service = pick(OBJECTS, "Service", "tco-agent")["spec"]
    assert service["internalTrafficPolicy"] == "Local"
    assert [port["port"] for port in service["ports"]] == [8080]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & AGENT["spec"]["template"]["spec"].keys()


def test_the_readme_for_shippers_says_what_is_installed() -> None:
    readme = (ROOT / "deploy" / "shippers" / "README.md").read_text()
    service = pick(OBJECTS, "Service", "tco-agent")
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    (port,) = service["spec"]["ports"]
    assert f"http://{name}.{namespace}.svc:{port['port']}/loki/api/v1/push" in readme
    policy = pick(OBJECTS, "NetworkPolicy", "tco-agent")["spec"]
    shippers, *_ = policy["ingress"][0]["from"]
    ((label, value),) = shippers["namespaceSelector"]["matchLabels"].items()
    assert f"kubectl label namespace NAME {label}={value}" in readme


@each_workload
def test_pods_write_nowhere_but_into_their_state_and_see_no_host(name: str) -> None:
    pod = WORKLOADS[name]["spec"]["template"]["spec"]
    assert container(WORKLOADS[name])["securityContext"]["readOnlyRootFilesystem"] is True
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (
        65532,
    ) * 2
    kinds = [key for each in pod.get("volumes", []) for key in each if key != "name"]
    assert kinds == ([] if name == "controller" else ["emptyDir"])


def test_the_dashboard_is_one_pod_behind_a_service_and_says_who_may_look() -> None:
    assert DASHBOARD["spec"]["replicas"] == 1
    service = pick(OBJECTS, "Service", "tco-dashboard")["spec"]
    assert [port["port"] for port in service["ports"]] == [3000]
    env = {each["name"]: each.get("value") for each in container(DASHBOARD)["env"]}
    # Without it the process would not start: it listens beyond loopback.
    assert env["SLUICE_AUTH"] == "none"
    (state,) = DASHBOARD["spec"]["template"]["spec"]["volumes"]
    (mount,) = container(DASHBOARD)["volumeMounts"]
    assert mount == {"name": state["name"], "mountPath": env["SLUICE_STATE_DIR"]}
    assert "sizeLimit" in state["emptyDir"]


def test_the_dashboard_may_only_read_and_no_secret() -> None:
    rules = pick(OBJECTS, "ClusterRole", "sluice-dashboard")["rules"]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert {kind for rule in rules for kind in rule["resources"]} == {"teambudgets", "events"}


def test_agents_replace_each_other_and_never_overlap() -> None:
    rolling = AGENT["spec"]["updateStrategy"]["rollingUpdate"]
    assert rolling == {"maxUnavailable": "10%", "maxSurge": 0}


def test_the_state_volume_has_room_for_the_largest_ledger_there_can_be() -> None:
    rows = ledger_file.ROWS * columns.COLUMNS * 8
    whole_file = ledger_file.PAGE + rows + 2 * ledger_file.TABLE_ROOM
    snapshot = rows + ledger_file.TABLE_ROOM
    # The file, one set aside, a snapshot and the next one being written.
    most = 2 * whole_file + 2 * snapshot
    (state,) = AGENT["spec"]["template"]["spec"]["volumes"]
    limit = quantity.parse(state["emptyDir"]["sizeLimit"], "sizeLimit")
    assert limit > 1.5 * most
    (mount,) = container(AGENT)["volumeMounts"]
    env = {each["name"]: each.get("value") for each in container(AGENT)["env"]}
    assert mount == {"name": state["name"], "mountPath": env["SLUICE_STATE_DIR"]}


def test_all_run_the_image_that_the_documented_command_builds() -> None:
    built = re.search(
        r"docker build .* -t (\S+) \.", (ROOT / "deploy/docker/Dockerfile").read_text()
    )
    assert built
    assert {container(each)["image"] for each in WORKLOADS.values()} == {built[1]}
    # The tag is that of a local build: no registry is to be asked for it.
    assert {container(each)["imagePullPolicy"] for each in WORKLOADS.values()} == {"IfNotPresent"}


def test_agents_queue_at_the_api_server_behind_each_other_only() -> None:
    schema = pick(OBJECTS, "FlowSchema", "sluice")["spec"]
    level = pick(OBJECTS, "PriorityLevelConfiguration", "sluice")
    assert schema["priorityLevelConfiguration"]["name"] == level["metadata"]["name"]
    subjects: list[Any] = [each["serviceAccount"] for each in schema["rules"][0]["subjects"]]
    assert subjects == [{"name": "sluice-agent", "namespace": "sluice-system"}]
