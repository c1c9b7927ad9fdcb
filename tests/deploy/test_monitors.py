"""The chart's objects for the Prometheus operator."""

import pytest
import yaml
from chart import ROOT, pick, render, setting, template

pytestmark = pytest.mark.helm

ON = {"enabled": True, "labels": {"release": "x"}}
MONITORED = setting("monitoring", {"podMonitor": ON, "serviceMonitor": ON, "rules": ON})
OPERATORS = "monitoring.coreos.com/v1"


def test_nothing_of_the_prometheus_operator_is_installed_unasked() -> None:
    assert OPERATORS not in template().stdout


def test_monitors_scrape_every_pod_once_and_keep_the_namespace_of_a_budget() -> None:
    objects = render(MONITORED)
    agents = pick(objects, "PodMonitor", "tco-agent")
    others = pick(objects, "ServiceMonitor", "sluice")
    agent = pick(objects, "DaemonSet", "tco-agent")["spec"]["template"]["metadata"]["labels"]
    assert agents["spec"]["selector"]["matchLabels"].items() <= agent.items()
    selector = others["spec"]["selector"]
    (expression,) = selector["matchExpressions"]
    found = {
        each["metadata"]["name"]
        for each in objects
        if each["kind"] == "Service"
        and selector["matchLabels"].items() <= each["metadata"]["labels"].items()
        and each["metadata"]["labels"][expression["key"]] in expression["values"]
    }
    assert found == {"tco-controller", "tco-dashboard"}
    for monitor, endpoints in ((agents, "podMetricsEndpoints"), (others, "endpoints")):
        assert monitor["apiVersion"] == OPERATORS
        assert monitor["metadata"]["labels"]["release"] == "x"
        # The rules go by the job: the value of this label, which is `sluice` for all.
        assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/name"
        (endpoint,) = monitor["spec"][endpoints]
        assert (endpoint["port"], endpoint["honorLabels"]) == ("http", True)
        written = {rule.get("targetLabel") for rule in endpoint.get("relabelings", [])}
        assert "namespace" not in written
        assert not {"metricRelabelings"} & endpoint.keys()


def test_the_rules_of_the_operator_are_those_of_the_plain_file() -> None:
    rules = pick(render(MONITORED), "PrometheusRule", "sluice")
    plain = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yaml").read_text())
    assert rules["apiVersion"] == OPERATORS
    assert rules["metadata"]["labels"]["release"] == "x"
    assert rules["spec"] == plain
