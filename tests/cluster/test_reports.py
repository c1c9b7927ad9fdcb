"""What the API server takes of an agent's reports: NodeLogUsage and its transition rules."""

import json
from typing import Any

import pytest
from cluster.harness import Cluster
from cluster.objects import DAY, MONTH, OUTCOMES, iso, node_usage, put_status

pytestmark = pytest.mark.cluster

# What one agent reports on a crowded node.
TEAMS = 110


def test_a_report_has_a_greater_number_than_the_last(cluster: Cluster, namespace: str) -> None:
    path = node_usage(cluster, namespace)
    report = {"seq": 5, "usage": {DAY: {"a/a": 5}}}
    assert put_status(cluster, path, report).status == 200
    # Said twice, it changes nothing and is no fault.
    assert put_status(cluster, path, report).status == 200
    for seq in 4, 5:
        refused = put_status(cluster, path, {"seq": seq, "usage": {DAY: {"a/a": 6}}})
        assert refused.status == 422
        assert "seq must grow" in refused.text
    assert put_status(cluster, path, {**report, "seq": 6}).status == 200


def test_usage_never_decreases_but_windows_and_teams_may_go(
    cluster: Cluster, namespace: str
) -> None:
    path = node_usage(cluster, namespace)
    usage = {DAY: {"a/a": 5, "b/b": 5}, MONTH: {"a/a": 5}}
    assert put_status(cluster, path, {"seq": 1, "usage": usage}).status == 200
    for window in DAY, MONTH:
        worse = {**usage, window: {**usage[window], "a/a": 4}}
        refused = put_status(cluster, path, {"seq": 2, "usage": worse})
        assert refused.status == 422
        assert "may not decrease" in refused.text
    less = {DAY: {"a/a": 5, "c/c": 0}}
    assert put_status(cluster, path, {"seq": 2, "usage": less}).status == 200
    assert cluster.call("GET", path).json["status"]["usage"] == less


def report(seq: int, teams: int, windows: int = 4) -> dict[str, Any]:
    """What an agent reports at most: two days and two months, counts of two days."""
    names = [f"namespace-of-team-{i:04}/team-{i:04}" for i in range(teams)]
    count = {"entries": seq * 1000, "bytes": seq * 10**9}
    days = [f"d/2026-11-{22 + i}" for i in range(windows // 2)]
    months = [f"m/2026-{11 + i}" for i in range(windows // 2)]
    return {
        "instance": "40ebd0d7-0f5b-4d60-9d3b-3e3c6a3fb0c0",
        "seq": seq,
        "reportedAt": iso(),
        "usage": {window: dict.fromkeys(names, seq * 10**9) for window in (*days, *months)},
        "counts": {
            window: {name: dict.fromkeys(OUTCOMES, count) for name in names} for window in days
        },
    }


def test_the_report_of_a_crowded_node_is_taken_again_and_again(
    cluster: Cluster, namespace: str
) -> None:
    path = node_usage(cluster, namespace)
    for seq in range(1, 6):
        reply = put_status(cluster, path, report(seq, TEAMS))
        assert reply.status == 200, reply.text[:500]
    managed = cluster.call("GET", path).json["metadata"]["managedFields"]
    # Atomic maps: one entry for all teams, or the object would grow by each of them.
    assert "team-0000" not in json.dumps(managed)


@pytest.mark.parametrize(
    "counts",
    [
        {DAY: {"a/a": {"received": {"entries": -1}}}},
        {DAY: {"a/a": {"received": {"entries": 1.5}}}},
        {DAY: {"a/a": {"lost": {"entries": 1}}}},
        {DAY: {"a/a": 5}},
        {DAY: 5},
        {f"d/{day}": {} for day in range(17)},
    ],
    ids=lambda counts: json.dumps(counts)[:60],
)
def test_counts_that_nobody_could_read_are_refused(
    cluster: Cluster, namespace: str, counts: dict[str, Any]
) -> None:
    reply = put_status(cluster, node_usage(cluster, namespace), {"seq": 1, "counts": counts})
    assert reply.status in (400, 422), reply
    assert "counts" in reply.text
