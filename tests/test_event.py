"""Events: one at each change of a decision, and what they say."""

from typing import Any

import pytest

from sluice.budget import Budget
from sluice.controller import event, fleet

NOON = 1_795_435_200.0  # 2026-11-23T12:00:00Z


def told(before: str | None, after: str | None, *, dry_run: bool = False) -> dict[str, Any] | None:
    own = Budget(name="team", namespace="ns", daily_limit=1000, dry_run=dry_run)
    member = fleet.Member("ns", "team", "uid-1", 1, "7", {}, own, None)
    new = {"decision": after, "currentUsage": 900, "dailyPercent": 90} if after else {}
    return event.of(member, {"decision": before} if before else {}, new, NOON, "pod-1")


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (None, "Allow", None),
        (None, None, None),
        ("Allow", "Allow", None),
        ("Drop", None, None),
        (None, "Drop", "Exceeded"),
        ("Allow", "Throttle", "Throttling"),
        ("Throttle", "Drop", "Exceeded"),
        ("Drop", "Throttle", "Throttling"),
        ("Drop", "Allow", "Recovered"),
    ],
)
def test_a_change_of_the_decision_is_an_event(
    before: str | None, after: str | None, reason: str | None
) -> None:
    found = told(before, after)
    assert (found["reason"] if found else None) == reason


def test_an_event_is_about_its_budget_and_says_how_much_is_used() -> None:
    found = told("Allow", "Throttle")
    assert found is not None
    assert found["regarding"]["uid"] == "uid-1"
    assert found["eventTime"] == "2026-11-23T12:00:00.000000Z"
    assert found["note"] == (
        "in the throttle band: lines are sampled; 900 bytes today (90 %); before: Allow"
    )


def test_an_event_of_a_dry_run_does_not_say_that_lines_are_lost_without_more() -> None:
    found = told("Allow", "Drop", dry_run=True)
    assert found is not None
    assert "lines are dropped (DryRun: only counted)" in found["note"]
