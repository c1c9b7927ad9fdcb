"""TeamBudget and NodeLogUsage as kubectl and the API server show and guard them."""

import json
import re
from typing import Any

import pytest
import yaml
from cluster.harness import DEPLOY, MANIFESTS, Cluster
from cluster.objects import DAY, MONTH, OUTCOMES, iso, put_status, team_budget, write_status

pytestmark = pytest.mark.cluster

EXAMPLE = """\
apiVersion: tco.io/v1
kind: TeamBudget
metadata: {name: backend-team, namespace: default}
spec: {dailyLimit: 1000000, monthlyLimit: 30000000}
"""


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_the_example_of_the_seed_applies_exactly_as_it_is(cluster: Cluster) -> None:
    try:
        applied = cluster.kubectl("apply", "-f", "-", stdin=EXAMPLE)
        assert applied.stdout == "teambudget.tco.io/backend-team created\n"
        assert applied.stderr == ""
        found = json.loads(cluster.kubectl("get", "tb", "backend-team", "-o", "json").stdout)
        given = yaml.safe_load(EXAMPLE)["spec"]
        assert {name: found["spec"][name] for name in given} == given
        again = cluster.kubectl("apply", "-f", "-", stdin=EXAMPLE)
        assert again.stdout == "teambudget.tco.io/backend-team unchanged\n"
    finally:
        cluster.kubectl("delete", "-f", "-", stdin=EXAMPLE)


def test_what_is_installed_may_be_applied_again_in_either_way(fresh_cluster: Cluster) -> None:
    files = [word for name in MANIFESTS for word in ("-f", str(DEPLOY / name))]
    first, again = (fresh_cluster.kubectl("apply", *files) for _ in range(2))
    assert {line[-1] for line in rows(first.stdout)} == {"created"}
    assert {line[-1] for line in rows(again.stdout)} == {"unchanged"}
    # A conflict, if defaults of the API server stand in the way.
    fresh_cluster.kubectl("apply", "--server-side", *files)


def test_kubectl_get_shows_what_people_ask_for(cluster: Cluster, namespace: str) -> None:
    status = {"currentUsage": 850000, "dailyPercent": 85, "decision": "Throttle"}
    team_budget(cluster, namespace, "payments", **status, lastUpdated=iso(age_s=310))
    head, row = rows(cluster.kubectl("get", "tb", "-n", namespace).stdout)
    assert head == ["NAME", "DAILY", "USED", "USE%", "DECISION", "UPDATED", "AGE"]
    assert row[:5] == ["payments", "1000000", "850000", "85", "Throttle"]
    assert re.fullmatch(r"5m1\ds", row[5])


def test_kubectl_get_wide_shows_the_month_and_the_nodes(cluster: Cluster, namespace: str) -> None:
    nodes = {"reporting": 7, "stale": 2}
    team_budget(cluster, namespace, "payments", monthlyUsage=5, nodes=nodes)
    head, row = (
        line.rsplit(maxsplit=6)[1:]
        for line in cluster.kubectl("get", "tb", "-n", namespace, "-o", "wide").stdout.splitlines()
    )
    assert head == ["MONTHLY", "MONTH-USED", "MODE", "NODES", "STALE", "AGE"]
    # No monthly limit: an empty column.
    assert row[1:5] == ["5", "Eventual", "7", "2"]


def test_kubectl_finds_them_by_short_name_category_and_decision(
    cluster: Cluster, namespace: str
) -> None:
    team_budget(cluster, namespace, "a", decision="Allow")
    team_budget(cluster, namespace, "b", decision="Drop")
    team_budget(cluster, namespace, "c")

    def names(*words: str) -> list[str]:
        return cluster.kubectl("get", *words, "-n", namespace, "-o", "name").stdout.split()

    all_of_them = [f"teambudget.tco.io/{name}" for name in "abc"]
    assert names("tb") == names("teambudgets") == all_of_them
    assert set(names("sluice")) >= set(all_of_them)
    assert names("tb", "--field-selector", "status.decision=Drop") == all_of_them[1:2]
    assert names("tb", "--field-selector", "spec.mode=Eventual") == all_of_them
    assert names("tb", "--field-selector", "spec.mode=Strict") == []
    assert cluster.kubectl("get", "nlu", "-o", "name").returncode == 0


def properties(schema: dict[str, Any], path: str) -> list[tuple[str, dict[str, Any]]]:
    """All fields below a schema, with their paths."""
    found = []
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        found += [(here, field), *properties(field, here)]
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            while "additionalProperties" in inner:
                inner = inner["additionalProperties"]
            found += properties(inner, path)
    return found


@pytest.mark.parametrize("kind", ["teambudget", "nodelogusage"])
def test_kubectl_explain_describes_every_field(cluster: Cluster, kind: str) -> None:
    crd = yaml.safe_load((DEPLOY / f"{kind}-crd.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    fields = [
        (path, field)
        for part in ("spec", "status")
        for path, field in properties(schema["properties"][part], f"{kind}.{part}")
    ]
    assert len(fields) > 10
    said = {}
    for path, field in fields:
        parent = path.rpartition(".")[0]
        if parent not in said:
            said[parent] = " ".join(cluster.kubectl("explain", parent).stdout.split())
        assert " ".join(field["description"].split()) in said[parent], path


def test_status_is_written_through_its_own_endpoint_only(cluster: Cluster, namespace: str) -> None:
    path = team_budget(cluster, namespace, "payments")
    before = cluster.call("GET", path).json
    reply = cluster.call("PATCH", path, {"status": {"currentUsage": 5}})
    assert reply.status == 200
    assert "status" not in reply.json
    assert write_status(cluster, path, {"currentUsage": 5}).status == 200
    after = cluster.call("GET", path).json
    assert after["status"] == {"currentUsage": 5}
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_a_whole_status_is_taken(cluster: Cluster, namespace: str) -> None:
    status = {
        "currentUsage": 2**63 - 1,
        "lastUpdated": iso(),
        "monthlyUsage": 2**63 - 1,
        "droppedToday": 1,
        "dailyPercent": 2**31 - 1,
        "monthlyPercent": 2**31 - 1,
        "currentDay": "2026-11-22",
        "currentMonth": "2026-11",
        "today": {name: {"entries": 2**63 - 1, "bytes": 0} for name in OUTCOMES},
        "decision": "Drop",
        "observedGeneration": 1,
        "usageRevision": "18446744073709551615",
        "nodes": {"reporting": 5000, "stale": 1},
        "notified": [
            {"rule": "eighty", "window": DAY, "at": iso()},
            {"rule": "eighty", "window": MONTH, "at": iso()},
            {"rule": "hundred", "window": DAY, "at": iso()},
        ],
        "conditions": [
            {
                "type": kind,
                "status": "False",
                "observedGeneration": 1,
                "lastTransitionTime": iso(),
                "reason": "NamespacesNotAllowed",
                "message": "",
            }
            for kind in ("Ready", "Throttling", "Exceeded", "DataStale", "ClockSkew")
        ],
    }
    path = team_budget(cluster, namespace, "payments")
    assert put_status(cluster, path, status).json["status"] == status


@pytest.mark.parametrize(
    "status",
    [
        {"currentUsage": -1},
        {"currentUsage": 2**63},
        {"currentUsage": "5"},
        {"dailyPercent": 2**31},
        {"currentDay": "2026-11"},
        {"currentMonth": "2026-11-22"},
        {"decision": "allow"},
        {"usageRevision": "v5"},
        {"today": {"received": {"entries": -1}}},
        {"today": {"lost": {"entries": 1}}},
        {"today": {"received": 5}},
        {"notified": [{"rule": "eighty", "window": DAY}]},
        {"notified": [{"rule": "eighty", "window": "2026-11-22", "at": "2026-11-22T00:00:00Z"}]},
        {"notified": [{"rule": "x", "window": DAY, "at": "2026-11-22T00:00:00Z"}] * 2},
        {"conditions": [{"type": "Ready", "status": "True"}]},
        {"speed": 5},
    ],
    ids=json.dumps,
)
def test_a_status_that_nobody_could_read_is_refused(
    cluster: Cluster, namespace: str, status: dict[str, Any]
) -> None:
    reply = put_status(cluster, team_budget(cluster, namespace, "payments"), status)
    assert reply.status in (400, 422), reply
    assert next(iter(status)) in reply.text


def test_the_ledger_of_strict_mode_only_grows(cluster: Cluster, namespace: str) -> None:
    granted = {"day": "2026-11-22", "dayBytes": 5, "month": "2026-11", "monthBytes": 7}
    path = team_budget(cluster, namespace, "payments", reserved=granted)
    for worse in ({**granted, "dayBytes": 4}, {**granted, "monthBytes": 6}):
        assert "may not decrease" in put_status(cluster, path, {"reserved": worse}).text
    assert "may not be removed" in put_status(cluster, path, {}).text
    later = {**granted, "day": "2026-11-23", "dayBytes": 0}
    assert put_status(cluster, path, {"reserved": later}).status == 200
