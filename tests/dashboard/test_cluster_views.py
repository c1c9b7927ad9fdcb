"""What the dashboard makes of a cluster's objects: TeamBudgets as rows, and Events."""

from datetime import UTC, datetime
from typing import Any

import pytest
from harness import budget

from sluice import columns
from sluice.dashboard import cluster
from sluice.records import Event

NOW = datetime(2026, 11, 23, 14, 10, tzinfo=UTC).timestamp()
CREATED = "2026-11-23T14:00:00Z"
CREATED_AT = datetime(2026, 11, 23, 14, 0, tzinfo=UTC).timestamp()


def event(said: str | None, **more: Any) -> dict[str, Any]:
    """An Event as the API server tells it; `said` is its eventTime."""
    return {
        "metadata": {"creationTimestamp": CREATED},
        "eventTime": said,
        "regarding": {"namespace": "shop", "name": "team"},
        "type": "Warning",
        "reason": "Exceeded",
        "note": "words",
        **more,
    }


def told(limit: object, used: int = 0, **spec: Any) -> dict[str, Any]:
    """A TeamBudget as a list has it: without apiVersion and kind, with a status."""
    found = budget("team", 0, namespace="shop", **spec)
    return {
        "metadata": found["metadata"],
        "spec": {**found["spec"], "dailyLimit": limit},
        "status": {
            "currentDay": "2026-11-23",
            "currentMonth": "2026-11",
            "currentUsage": used,
            "monthlyUsage": 10 * used,
            "today": {"dropped": {"entries": 2, "bytes": used // 10}},
            "lastUpdated": CREATED,
        },
    }


def test_an_event_is_of_the_moment_that_it_says() -> None:
    assert cluster.event_of(event("2026-11-23T14:05:00.250000Z")) == Event(
        CREATED_AT + 300.25, "shop/team", "Warning", "Exceeded", "words"
    )


@pytest.mark.parametrize(
    "said",
    [
        None,
        "",
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "1970-01-01T00:00:00.000000Z",
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59-12:00",
        "2026-11-22T14:00:00Z",
        "2026-11-24T14:00:00Z",
    ],
)
def test_an_event_whose_time_cannot_be_is_of_the_moment_that_it_was_made(said: str | None) -> None:
    assert cluster.event_of(event(said)).at == CREATED_AT


@pytest.mark.parametrize("said", ["2026-11-22T14:00:01Z", "2026-11-24T13:59:59Z"])
def test_an_event_may_be_told_of_late_or_by_a_clock_that_is_off(said: str) -> None:
    assert cluster.event_of(event(said)).at == datetime.fromisoformat(said).timestamp()


def test_an_event_that_older_clients_wrote_has_no_time_and_may_lack_the_rest() -> None:
    found = {"metadata": {"creationTimestamp": CREATED}}
    assert cluster.event_of(found) == Event(CREATED_AT, "/", "Normal", "", "")


def test_a_budget_that_cannot_be_read_is_shown_as_it_was_with_its_new_usage() -> None:
    teams = cluster.Teams()
    teams.handle("ADDED", told(1000, 100))
    assert teams.problems() == []
    teams.handle("MODIFIED", told("much", 700))
    (row,) = teams.rows(NOW)
    assert row.budget.daily_limit == 1000
    assert (row.day, row.month) == (700, 7000)
    assert row.usage.today[columns.DROPPED + 1] == 70
    assert row.updated == CREATED_AT
    (problem,) = teams.problems()
    assert problem["budget"] == "shop/team"
    assert "spec.dailyLimit: 'much' is not a whole number of bytes" in str(problem["error"])
    teams.handle("MODIFIED", told(2000, 800))
    assert [row.budget.daily_limit for row in teams.rows(NOW)] == [2000]
    assert teams.problems() == []


def test_a_budget_that_could_never_be_read_has_no_row_and_says_why() -> None:
    teams = cluster.Teams()
    teams.handle("ADDED", told(-1, 100))
    assert teams.rows(NOW) == []
    (problem,) = teams.problems()
    assert problem["budget"] == "shop/team"
    assert "-1 bytes is less than 0" in str(problem["error"])
    teams.handle("DELETED", told(-1, 100))
    assert teams.problems() == []


def test_a_budget_that_is_deleted_is_forgotten_and_so_what_it_was_before() -> None:
    teams = cluster.Teams()
    teams.handle("ADDED", told(1000, 100))
    teams.handle("DELETED", told(1000, 100))
    assert teams.rows(NOW) == []
    teams.handle("ADDED", told("much", 100))
    assert teams.rows(NOW) == []
