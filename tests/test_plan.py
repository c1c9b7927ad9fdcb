"""What a status says, and whether it is worth a write."""

from typing import Any

import pytest

from sluice import nodeusage
from sluice.budget import Budget
from sluice.controller import plan, totals

NOON = 1_795_435_200.0  # 2026-11-23T12:00:00Z
DAY, MONTH = "d/2026-11-23", "m/2026-11"
OWN = Budget(name="team", namespace="ns", daily_limit=1000, monthly_limit=5000)


def sums(day: int, month: int | None = None, entries: int = 10) -> totals.Totals:
    made = totals.Totals()
    values = [day, entries, day] + [0] * (nodeusage.DAY_VALUES - 3)
    counted = {DAY: {"ns/team": values}, MONTH: {"ns/team": [day if month is None else month]}}
    made.put(totals.Node("n", "u", 1, 1, NOON, False, False, counted, frozenset()))
    return made


def status(own: Budget = OWN, made: totals.Totals | None = None, **more: Any) -> plan.Status:
    made = sums(100) if made is None else made
    given = {"generation": 1, "revision": 7, "concern": None, "doubt": plan.Doubt(), "old": {}}
    return plan.status_of(plan.row_of(own, made, NOON), made, **{**given, **more})


def test_a_status_says_it_all() -> None:
    found = status()
    conditions = found.pop("conditions")
    assert found == {
        "currentUsage": 100,
        "lastUpdated": "2026-11-23T12:00:00Z",
        "monthlyUsage": 100,
        "droppedToday": 0,
        "dailyPercent": 10,
        "monthlyPercent": 2,
        "currentDay": "2026-11-23",
        "currentMonth": "2026-11",
        "decision": "Allow",
        "observedGeneration": 1,
        "usageRevision": "7",
        "nodes": {"reporting": 1, "stale": 0},
        "today": {
            "received": {"entries": 10, "bytes": 100},
            **{
                name: {"entries": 0, "bytes": 0}
                for name in ("forwarded", "sampled", "dropped", "refused")
            },
        },
    }
    assert [(c["type"], c["status"]) for c in conditions] == [
        ("Ready", "True"),
        ("Throttling", "False"),
        ("Exceeded", "False"),
        ("DataStale", "False"),
        ("ClockSkew", "False"),
    ]


@pytest.mark.parametrize(
    ("day", "month", "decision"),
    # The next entry, of 100 bytes, decides: 80 % and 100 % of 1000 a day and 5000 a month.
    [
        (700, 700, "Allow"),
        (800, 800, "Throttle"),
        (900, 900, "Throttle"),
        (1000, 1000, "Drop"),
        (100, 3900, "Allow"),
        (100, 3901, "Throttle"),
        (100, 4900, "Throttle"),
        (100, 4901, "Drop"),
    ],
)
def test_the_decision_is_what_a_mean_entry_would_get(day: int, month: int, decision: str) -> None:
    assert status(made=sums(day, month, entries=day // 100))["decision"] == decision


@pytest.mark.parametrize(
    ("used", "limit", "percent"),
    [(0, 0, 0), (1, 0, 100), (999, 1000, 99), (1000, 1000, 100), (2**63 - 1, 1, 2**31 - 1)],
)
def test_percentages_are_rounded_down_and_bounded(used: int, limit: int, percent: int) -> None:
    assert plan.percent(used, limit) == percent


def test_sums_beyond_an_int64_stay_within_the_schema() -> None:
    huge = sums(2**63 - 1)
    counted = {DAY: {"ns/team": [2**63 - 1] + [0] * (nodeusage.DAY_VALUES - 1)}}
    huge.put(totals.Node("m", "v", 1, 1, NOON, False, False, counted, frozenset()))
    found = status(made=huge)
    assert found["currentUsage"] == 2**63 - 1
    assert found["dailyPercent"] == 2**31 - 1


@pytest.mark.parametrize(
    ("change", "urgency"),
    [
        ({}, plan.Urgency.NEVER),
        ({"usageRevision": "8", "lastUpdated": "2026-11-23T12:00:10Z"}, plan.Urgency.NEVER),
        ({"currentUsage": 101}, plan.Urgency.IN_TIME),
        ({"nodes": {"reporting": 2, "stale": 0}}, plan.Urgency.IN_TIME),
        ({"currentUsage": 110}, plan.Urgency.SOON),
        ({"currentDay": "2026-11-24"}, plan.Urgency.SOON),
        ({"decision": "Throttle"}, plan.Urgency.NOW),
        ({"observedGeneration": 2}, plan.Urgency.NOW),
    ],
)
def test_a_status_is_written_as_soon_as_it_matters(
    change: dict[str, Any], urgency: plan.Urgency
) -> None:
    old = status()
    assert plan.urgency(old, {**old, **change}, limit=1000) is urgency


def test_a_condition_that_changes_is_written_at_once_and_its_words_are_not() -> None:
    old = status()
    worded = status()
    worded["conditions"][1]["message"] = "other words"
    assert plan.urgency(old, worded, limit=1000) is plan.Urgency.NEVER
    concerned = status(concern=plan.Concern("Overlapping", "somebody else governs it"), old=old)
    assert plan.urgency(old, concerned, limit=1000) is plan.Urgency.NOW


@pytest.mark.parametrize(
    ("silent", "reporting_more", "is_stale"),
    [
        ([], 0, "False"),
        # 1 of 1 is more than 5 %.
        ([("n", 0)], 0, "True"),
        # 1 of 20 is 5 %, and has no more than 1 % of the usage.
        ([("n", 1)], 19, "False"),
        ([("n", 2)], 19, "True"),
        ([("n", 0), ("o", 0)], 19, "True"),
    ],
)
def test_usage_is_stale_when_nodes_that_matter_are_silent(
    silent: list[tuple[str, int]], reporting_more: int, is_stale: str
) -> None:
    made = sums(100)
    for i in range(reporting_more):
        counted = {DAY: {"ns/team": [0] * nodeusage.DAY_VALUES}}
        made.put(totals.Node(f"x{i}", f"y{i}", 1, 1, NOON, False, False, counted, frozenset()))
    found = status(made=made, doubt=plan.Doubt(silent=silent))
    (stale,) = (c for c in found["conditions"] if c["type"] == "DataStale")
    assert stale["status"] == is_stale


def test_a_budget_that_cannot_be_read_says_so_and_keeps_the_rest() -> None:
    old = status()
    found = plan.unreadable(plan.Concern("InvalidSpec", "no limit"), 2, old, NOON + 1)
    assert found["observedGeneration"] == 2
    ready = found["conditions"][0]
    assert (ready["status"], ready["reason"]) == ("False", "InvalidSpec")
    assert ready["lastTransitionTime"] == "2026-11-23T12:00:01Z"
    assert len(found["conditions"]) == 5
    assert plan.urgency(old, found, limit=0) is plan.Urgency.NOW
    assert plan.urgency({**old, **found}, found, limit=0) is plan.Urgency.NEVER
