"""The chart's dashboard and notifications: who may look, whom they may reach, what stays secret."""

from typing import Any

import pytest
from chart import container, pick, render, setting, to_namespace

pytestmark = pytest.mark.helm


def dashboard_rules(*args: str) -> list[dict[str, Any]]:
    """The egress rules of the dashboard before those that all processes have."""
    objects = render(*args)
    every = pick(objects, "NetworkPolicy", "tco-controller")["spec"]["egress"]
    own = pick(objects, "NetworkPolicy", "tco-dashboard")["spec"]["egress"]
    assert own[-len(every) :] == every
    return list(own[: -len(every)])


def test_the_dashboard_may_reach_prometheus_if_there_is_one_and_nothing_else() -> None:
    assert dashboard_rules() == []
    url = "--set=dashboard.prometheusUrl=http://prometheus-operated.monitoring.svc:9090"
    assert dashboard_rules(url) == [to_namespace("monitoring")]
    peers = [{"ipBlock": {"cidr": "10.0.0.3/32"}}]
    assert dashboard_rules(url, setting("networkPolicy.prometheus", peers)) == [{"to": peers}]


def controller_rules(*args: str) -> list[dict[str, Any]]:
    """The egress rules of the controller, more than those of the dashboard."""
    objects = render(*args)
    every = pick(objects, "NetworkPolicy", "tco-dashboard")["spec"]["egress"]
    own = pick(objects, "NetworkPolicy", "tco-controller")["spec"]["egress"]
    return [rule for rule in own if rule not in every]


def test_the_controller_may_only_leave_the_cluster_to_tell_somebody() -> None:
    assert controller_rules() == []
    secret = "--set=controller.notifySecret.name=a"
    assert controller_rules(secret) == [{}]
    peers = [{"ipBlock": {"cidr": "10.0.0.4/32"}}]
    assert controller_rules(secret, setting("networkPolicy.notify", peers)) == [{"to": peers}]


def test_urls_to_notify_and_the_token_of_the_dashboard_come_from_secrets() -> None:
    objects = render(
        "--set=controller.notifySecret.name=sinks,dashboard.authSecret.name=token",
        "--set=dashboard.auth=bearer:/etc/sluice/auth/token",
    )
    controller = container(pick(objects, "Deployment", "tco-controller"))
    env = {each["name"]: each for each in controller["env"]}
    assert env["SLUICE_NOTIFY"]["valueFrom"]["secretKeyRef"] == {"name": "sinks", "key": "urls"}
    dashboard = pick(objects, "Deployment", "tco-dashboard")
    env = {each["name"]: each for each in container(dashboard)["env"]}
    mounts = {each["name"]: each for each in container(dashboard)["volumeMounts"]}
    volumes = {each["name"]: each for each in dashboard["spec"]["template"]["spec"]["volumes"]}
    assert mounts["auth"]["readOnly"] is True
    assert env["SLUICE_AUTH"]["value"] == f"bearer:{mounts['auth']['mountPath']}/token"
    assert volumes["auth"]["secret"] == {
        "secretName": "token",
        "items": [{"key": "token", "path": "token"}],
    }


def test_without_a_dashboard_nothing_of_it_is_installed_but_its_account() -> None:
    left = {
        (each["kind"], each["metadata"]["name"])
        for each in render("--set=dashboard.enabled=false")
        if "dashboard" in each["metadata"]["name"]
    }
    assert left == {
        ("ServiceAccount", "sluice-dashboard"),
        ("ClusterRole", "sluice-dashboard"),
        ("ClusterRoleBinding", "sluice-dashboard"),
    }
