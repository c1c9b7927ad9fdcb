"""deploy/prometheus: promtool finds no fault, and every rule has a test of its own there."""

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from monitoring.harness import ROOT, promtool

from sluice.commands import main

FOLDER = ROOT / "deploy" / "prometheus"
GROUPS = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
SEVERITIES = {"info", "warning", "critical"}


@pytest.mark.prometheus
def test_promtool_finds_no_fault_in_the_rules() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", str(FOLDER / "rules.yaml"))


@pytest.mark.prometheus
def test_the_rules_make_of_made_up_series_what_they_should() -> None:
    promtool("test", "rules", str(FOLDER / "rules_test.yaml"))


def test_every_rule_is_tested_and_every_alert_as_firing() -> None:
    tests = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())["tests"]
    cases = [case for test in tests for case in test["promql_expr_test"]]
    asked = " ".join(case["expr"] for case in cases if case["exp_samples"])
    expected = " ".join(each["labels"] for case in cases for each in case["exp_samples"])
    firing = set(re.findall(r'alertname="(\w+)", alertstate="firing"', expected))
    assert firing == {rule["alert"] for rule in ALERTS}
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    assert {name for name in recorded if name not in asked} == set()


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_what_happened(rule: dict[str, Any]) -> None:
    assert rule["alert"].startswith("Sluice")
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in SEVERITIES
    assert rule["annotations"].keys() == {"summary", "description"}


def test_no_summary_says_that_lines_are_lost_for_none_is_in_a_dry_run() -> None:
    """Prometheus does not know which budgets are dry runs; pagers show no more than the summary."""
    for rule in ALERTS:
        if "sluice:budget_action" in rule["expr"]:
            assert not re.search("sampled|dropped", rule["annotations"]["summary"])


def test_annotations_name_flags_that_there_are() -> None:
    text = " ".join(str(rule["annotations"]) for rule in ALERTS)
    context = click.Context(main)
    commands = [main.get_command(context, name) for name in main.list_commands(context)]
    flags = {option for each in commands for own in each.params for option in own.opts}
    assert set(re.findall(r"--[a-z-]+", text)) <= flags


def test_rules_hang_on_the_action_and_not_on_usage_that_stops_short_of_the_limit() -> None:
    for rule in ALERTS:
        if rule["alert"] in ("SluiceBudgetThrottling", "SluiceBudgetExceeded"):
            assert re.search(r"sluice:budget_action:max == [12]$", rule["expr"])
        assert not re.search(r"used_bytes\S* *>|usage:ratio *>", rule["expr"])


@pytest.mark.prometheus
def test_the_example_of_a_configuration_is_one(tmp_path: Path) -> None:
    """Debian builds its Prometheus without Kubernetes: that part is checked below."""
    config = yaml.safe_load((FOLDER / "scrape.yaml").read_text())
    pods, run = config["scrape_configs"]
    discovery = pods.pop("kubernetes_sd_configs")
    (tmp_path / "rules.yaml").write_text((FOLDER / "rules.yaml").read_text())
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    promtool("check", "config", str(tmp_path / "prometheus.yaml"))
    assert discovery == [
        {
            "role": "pod",
            "namespaces": {"names": ["sluice-system"]},
            "selectors": [{"role": "pod", "label": "app.kubernetes.io/name=sluice"}],
        }
    ]
    assert pods["honor_labels"] is run["honor_labels"] is True
    assert pods["job_name"] == run["static_configs"][0]["labels"]["job"] == "sluice"
    targets = {each.get("target_label") for each in pods["relabel_configs"]}
    assert "namespace" not in targets
