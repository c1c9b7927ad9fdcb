"""A team that spends its budget is told of by a real Prometheus and a real Alertmanager."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Sluice, Upstream, budget, running, wait_until, write_budgets
from monitoring.harness import ROOT, Alertmanager, Prometheus, webhook
from shippers import make_streams, promtail

pytestmark = [pytest.mark.prometheus, pytest.mark.alertmanager]

ALERT_S = 60


def hasty(folder: Path) -> Path:
    """The rules, as they are but for their times: they fire after a second, and look back ten."""
    text = (ROOT / "deploy" / "prometheus" / "rules.yaml").read_text()
    text, waits = re.subn(r"for: \d+m$", "for: 1s", text, flags=re.M)
    text, spans = re.subn(r"\[\d+[mhd]\]", "[10s]", text)
    assert waits
    assert spans
    path = folder / "rules.yaml"
    path.write_text(text)
    return path


def send(server: Sluice, namespace: str, seed: int) -> None:
    """Push about 70 kB for a namespace."""
    push = promtail(make_streams(seed, [namespace], streams=1, entries=300))
    assert server.send(push).status == 204


def test_a_spent_budget_is_told_by_namespace_and_taken_back_when_it_is_raised(
    tmp_path: Path, upstream: Upstream, sluice: Callable[..., Sluice]
) -> None:
    """The target's own label `namespace` is in the way all along."""
    budgets = [budget(name, 20_000, namespace=f"{name}-logs", namespaces=[name])
               for name in ("shop", "search")]  # fmt: skip
    calm = budget("calm", "1Gi")
    server = sluice([*budgets, calm], upstream.url)
    with webhook() as receiver:
        alertmanager = Alertmanager(tmp_path / "alertmanager", receiver.url, group_by=["namespace"])
        prometheus = Prometheus(
            tmp_path / "prometheus",
            {f"127.0.0.1:{server.port}": {"namespace": "sluice-system"}},
            rules=[hasty(tmp_path)],
            alertmanager=f"127.0.0.1:{alertmanager.port}",
        )
        with running(alertmanager, prometheus):
            for name in ("shop", "search", "calm"):
                send(server, name, seed=1)
            assert server.teams()["shop"]["action"] == "drop"
            # Short of its limit by less than a line, as all that is spent; by chance, by none.
            assert server.teams()["shop"]["currentUsage"] <= 20_000

            def grouped() -> set[str]:
                told = receiver.told("SluiceBudgetExceeded", "firing")
                return {group["groupLabels"]["namespace"] for group in told}

            wait_until(lambda: len(grouped()) == 2, "both teams are told of", ALERT_S)
            assert grouped() == {"shop-logs", "search-logs"}
            for group in receiver.told("SluiceBudgetExceeded", "firing"):
                namespaces = {alert["labels"]["namespace"] for alert in group["alerts"]}
                assert namespaces == {group["groupLabels"]["namespace"]}
            (shop, *_) = [
                alert
                for alert in alertmanager.alerts()
                if alert["labels"]["alertname"] == "SluiceBudgetExceeded"
                and alert["labels"]["team"] == "shop"
            ]
            assert shop["labels"]["severity"] == "warning"
            assert shop["labels"]["window"] == "day"
            words = "shop-logs/shop has spent its log budget of the day"
            assert shop["annotations"]["summary"] == words
            assert "<error" not in str(shop["annotations"])

            # Raised for one of them.
            raised = budget("shop", "1Gi", namespace="shop-logs", namespaces=["shop"])
            write_budgets(server.budgets, [raised, budgets[1], calm])
            resolved = wait_until(
                lambda: receiver.told("SluiceBudgetExceeded", "resolved"),
                "the alert is taken back",
                ALERT_S,
            )
            assert {group["groupLabels"]["namespace"] for group in resolved} == {"shop-logs"}
            still = {
                alert["labels"]["namespace"]
                for alert in alertmanager.alerts()
                if alert["labels"]["alertname"] == "SluiceBudgetExceeded"
            }
            assert still == {"search-logs"}
            # Nothing else fired, of the team within its budget least of all.
            names = {
                alert["labels"]["alertname"]
                for group in receiver.groups
                for alert in group["alerts"]
            }
            assert names <= {
                "SluiceBudgetExceeded",
                "SluiceBudgetThrottling",
                "SluiceBudgetWillBeExhausted",
            }
            calm_ones = [
                alert
                for group in receiver.groups
                for alert in group["alerts"]
                if alert["labels"].get("team") == "calm"
            ]
            assert not calm_ones
