"""Kubernetes Events on a TeamBudget: of its decision, its forecast, and lost usage. Pure."""

import datetime
from collections.abc import Mapping
from typing import Any

from sluice import budget
from sluice.controller import fleet, plan
from sluice.notify import message
from sluice.notify.change import Change

# Source: the API server's validation of an Event's note.
NOTE_MAX = 1024
# Of a name of 253 characters, with room for what follows.
PREFIX_MAX = 220
# By decision: reason, type, words.
NOTES = {
    "Allow": ("Recovered", "Normal", "below the throttle band again"),
    "Throttle": ("Throttling", "Warning", "in the throttle band: lines are sampled"),
    "Drop": ("Exceeded", "Warning", "at its limit: lines are dropped"),
}


def of(
    member: fleet.Member, old: Mapping[str, Any], new: plan.Status, now: float, identity: str
) -> dict[str, Any] | None:
    """The Event of a status that replaces another; None if its decision is the same.

    That a budget begins with Allow is no news.
    """
    before, after = old.get("decision"), new.get("decision")
    if before == after or after is None or (before is None and after == "Allow"):
        return None
    reason, kind, words = NOTES[after]
    mode = " (DryRun: only counted)" if member.own is not None and member.own.dry_run else ""
    used = f"{new['currentUsage']} bytes today ({new['dailyPercent']} %)"
    note = f"{words}{mode}; {used}; before: {before or 'nothing'}"
    return _made(member, f"{int(now * 1e9):x}", now, identity, reason, kind, note)


def of_loss(member: fleet.Member, lost: plan.Lost, now: float, identity: str) -> dict[str, Any]:
    """The Event of usage that was published and that no NodeLogUsage has any more."""
    note = (
        f"usage fell inside a window: {lost.day} bytes of the day and {lost.month} of the month are"
        " in no NodeLogUsage any more; they count until the window ends"
    )
    return _made(member, f"lost-{int(now * 1e9):x}", now, identity, plan.LOST, "Warning", note)


def of_forecast(member: fleet.Member, change: Change, now: float, identity: str) -> dict[str, Any]:
    """The Event of a forecast that holds from now on."""
    told = message.event(change)
    day = f"forecast-{change.window.partition('/')[2]}"
    return _made(member, day, now, identity, told.reason, told.kind, told.text)


def _made(
    member: fleet.Member,
    suffix: str,
    now: float,
    identity: str,
    reason: str,
    kind: str,
    note: str,
) -> dict[str, Any]:
    prefix = member.name[:PREFIX_MAX].rstrip(".-")
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        # As client-go names them.
        "metadata": {"name": f"{prefix}.{suffix}", "namespace": member.namespace},
        "eventTime": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "action": "Decide",
        "reason": reason,
        "type": kind,
        "note": note[:NOTE_MAX],
        "regarding": {
            "apiVersion": budget.API_VERSION,
            "kind": budget.KIND,
            "namespace": member.namespace,
            "name": member.name,
            "uid": member.uid,
        },
        "reportingController": "tco.io/sluice-controller",
        "reportingInstance": identity,
    }
