"""The plan: what a budget's status should say, and whether that is worth a write. Pure.

A status is written
    1. at once     when the decision, a condition or the generation it speaks of changes
    2. soon        when usage moved by a percent of the daily limit, or a window has turned
    3. in time     when anything moved and the heartbeat has passed
for every write is sent to every node.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sluice import budget, columns, ledger, policy, usage, window
from sluice.controller import totals

PERCENT_MAX = 2**31 - 1
# Of the nodes, or of a team's usage, that may be out of date unsaid.
STALE_NODES_PERCENT = 5
STALE_USAGE_PERCENT = 1
SHOWN_NODES = 3
LOST = "UsageLost"
MOVED_PERCENT = 1

DECISIONS = {
    policy.Action.ALLOW: "Allow",
    policy.Action.THROTTLE: "Throttle",
    policy.Action.DROP: "Drop",
}
Status = dict[str, Any]
NOTHING: Mapping[str, Any] = {}


class Urgency(enum.IntEnum):
    """How soon a status is to be written; the smaller goes first."""

    NOW = 1
    SOON = 2
    IN_TIME = 3
    NEVER = 4


@dataclass(frozen=True, slots=True)
class Doubt:
    """Nodes whose word on a team is doubted: name and bytes of the open day."""

    silent: Sequence[tuple[str, int]] = ()
    skewed: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True, slots=True)
class Concern:
    """Why a budget is not Ready: a CamelCase reason and a sentence."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Lost:
    """Bytes of the open day and month that were published and that no object has any more."""

    day: int
    month: int

    @property
    def is_any(self) -> bool:
        """Whether any are missing."""
        return self.day > 0 or self.month > 0


def row_of(
    own: budget.Budget, sums: totals.Totals, now: float, old: Mapping[str, Any] = NOTHING
) -> usage.Row:
    """A budget's row of the API: the cluster's.

    Usage is never less than what the status `old` says of the same window: both are lower bounds
    of what was used, so the larger is nearer (docs/decisions/0014).
    """
    windows = window.open_windows(own.time_zone, now)
    day, month = summed(own, sums, windows)
    today = (sums.sum(window.day_key(windows.day), own.key) + [0] * columns.COUNTS)[1:]
    counts = clamped(today[: columns.COUNTS])
    if old.get("currentDay") == window.day_key(windows.day)[2:]:
        day = max(day, old.get("currentUsage", 0))
        # One or the other whole, so that they still add up.
        counts = max(counts, columns.read_outcomes(old.get("today") or {}), key=received)
    if old.get("currentMonth") == window.month_key(windows.month)[2:]:
        month = max(month, old.get("monthlyUsage", 0))
    return usage.Row(own, ledger.Usage(day, month, counts, counts), windows, now)


def received(counts: Sequence[int]) -> int:
    """The bytes that came in, of outcome counts."""
    return counts[columns.RECEIVED + 1]


def summed(own: budget.Budget, sums: totals.Totals, windows: window.Windows) -> tuple[int, int]:
    """The bytes of the day and of the month that all objects together have of a budget."""
    (day, *_) = sums.sum(window.day_key(windows.day), own.key)
    (month, *_) = sums.sum(window.month_key(windows.month), own.key)
    return min(day, columns.COUNT_MAX), min(month, columns.COUNT_MAX)


def lost_of(row: usage.Row, sums: totals.Totals) -> Lost:
    """What of a row's usage no object has."""
    day, month = summed(row.budget, sums, row.windows)
    return Lost(row.day - day, row.month - month)


def clamped(values: Iterable[int]) -> list[int]:
    """The values, within what an int64 of the schema takes."""
    return [min(value, columns.COUNT_MAX) for value in values]


def status_of(
    row: usage.Row,
    sums: totals.Totals,
    *,
    generation: int,
    revision: int,
    concern: Concern | None,
    doubt: Doubt,
    old: Mapping[str, Any],
) -> Status:
    """The whole of a status but what others write; `old` is the one there is."""
    own, counted = row.budget, row.usage
    day = window.day_key(row.windows.day)
    action = row.action
    reporting = sums.contributors(day, own.key)
    status: Status = {
        "currentUsage": counted.day,
        "lastUpdated": window.iso(row.now),
        "monthlyUsage": counted.month,
        "droppedToday": counted.today[columns.DROPPED + 1],
        "dailyPercent": percent(counted.day, own.daily_limit),
        "monthlyPercent": None
        if own.monthly_limit is None
        else percent(counted.month, own.monthly_limit),
        "currentDay": day[2:],
        "currentMonth": window.month_key(row.windows.month)[2:],
        "decision": DECISIONS[action],
        "observedGeneration": generation,
        "usageRevision": str(revision),
        "nodes": {"reporting": reporting, "stale": len(doubt.silent)},
        "today": usage.counts(counted.today),
    }
    found = [
        *conditions(row, action, reporting, concern, doubt),
        *usage_lost(row, lost_of(row, sums), old),
    ]
    status["conditions"] = [transitioned(one, old, generation, row.now) for one in found]
    return status


def unreadable(
    concern: Concern | None, generation: int, old: Mapping[str, Any], now: float
) -> Status:
    """The status of a budget that the API server took and this version cannot read."""
    why = concern or Concern("InvalidSpec", "it cannot be read")
    condition = transitioned(("Ready", False, why.reason, why.message), old, generation, now)
    others = [c for c in old.get("conditions") or () if c.get("type") != "Ready"]
    return {
        "observedGeneration": generation,
        "lastUpdated": window.iso(now),
        "conditions": [condition, *others],
    }


def percent(used: int, limit: int) -> int:
    """`used` in percent of `limit`, rounded down; of a limit of 0, 0 while unused, else 100."""
    if limit == 0:
        return 100 if used else 0
    return min(PERCENT_MAX, used * 100 // limit)


def conditions(
    row: usage.Row,
    action: policy.Action,
    reporting: int,
    concern: Concern | None,
    doubt: Doubt,
) -> list[tuple[str, bool, str, str]]:
    """Type, status, reason and message of each condition."""
    own = row.budget
    used = f"{row.day} of {own.daily_limit} bytes of the day are used"
    if own.monthly_limit is not None:
        used += f", {row.month} of {own.monthly_limit} of the month"
    used += " (DryRun: only counted)" if own.dry_run else ""
    is_throttled, is_over = action is policy.Action.THROTTLE, action is policy.Action.DROP
    return [
        ("Ready", True, "Enforced", "the budget is in force")
        if concern is None
        else ("Ready", False, concern.reason, concern.message),
        ("Throttling", is_throttled, "InThrottleBand" if is_throttled else "NotInBand", used),
        ("Exceeded", is_over, "LimitReached" if is_over else "BelowLimit", used),
        stale(row, reporting, doubt),
        ("ClockSkew", True, "NodeClocksDiffer", "clocks differ: " + shown(
            [f"{name} by {seconds:+.0f} s" for name, seconds in doubt.skewed]))
        if doubt.skewed
        else ("ClockSkew", False, "ClocksAgree", "the nodes' clocks agree with the controller's"),
    ]  # fmt: skip


def usage_lost(
    row: usage.Row, lost: Lost, old: Mapping[str, Any]
) -> list[tuple[str, bool, str, str]]:
    """The condition that usage fell inside a window.

    Absent as long as it never did: a status goes to every node.
    """
    if lost.is_any:
        text = (
            f"of {row.day} bytes of the day {lost.day} and of {row.month} of the month"
            f" {lost.month} are in no NodeLogUsage any more; they count until the window ends"
        )
        return [(LOST, True, "UsageFell", text)]
    if is_lost(old):
        return [(LOST, False, "UsageComplete", "the NodeLogUsages have all that was published")]
    return [
        (LOST, False, one["reason"], one["message"])
        for one in old.get("conditions") or ()
        if one.get("type") == LOST
    ]


def is_lost(status: Mapping[str, Any]) -> bool:
    """Whether a status says that usage was lost."""
    return any(
        one.get("type") == LOST and one.get("status") == "True"
        for one in status.get("conditions") or ()
    )


def stale(row: usage.Row, reporting: int, doubt: Doubt) -> tuple[str, bool, str, str]:
    """The condition that usage is older than it looks."""
    silent = doubt.silent
    share = STALE_USAGE_PERCENT * row.usage.day
    is_stale = len(silent) * 100 > STALE_NODES_PERCENT * reporting or any(
        size * 100 > share for _, size in silent
    )
    if not (silent and is_stale):
        return "DataStale", False, "NodesReport", f"{reporting} nodes report"
    names = shown([name for name, _ in silent])
    text = f"{len(silent)} of {reporting} nodes are silent: {names}"
    return "DataStale", True, "NodesSilent", text


def shown(names: Sequence[str]) -> str:
    """The first few of many."""
    more = f" and {len(names) - SHOWN_NODES} more" if len(names) > SHOWN_NODES else ""
    return ", ".join(sorted(names)[:SHOWN_NODES]) + more


def transitioned(
    condition: tuple[str, bool, str, str], old: Mapping[str, Any], generation: int, now: float
) -> dict[str, Any]:
    """A condition as the API server keeps it: it knows since when its status holds."""
    kind, holds, reason, message = condition
    status = str(holds)
    before: Mapping[str, Any] = next(
        (c for c in old.get("conditions") or () if c.get("type") == kind), {}
    )
    since = before.get("lastTransitionTime") if before.get("status") == status else None
    return {
        "type": kind,
        "status": status,
        "observedGeneration": generation,
        "lastTransitionTime": since or window.iso(now),
        "reason": reason,
        "message": message,
    }


def urgency(old: Mapping[str, Any], new: Status, limit: int) -> Urgency:
    """How soon `new` is to replace `old`; `limit` is the daily one, in bytes."""
    if old.get("observedGeneration") != new["observedGeneration"]:
        return Urgency.NOW
    if verdicts(old) != verdicts(new):
        return Urgency.NOW
    if "decision" not in new:
        return Urgency.NEVER
    if old.get("decision") != new["decision"]:
        return Urgency.NOW
    if any(old.get(name) != new[name] for name in ("currentDay", "currentMonth")):
        return Urgency.SOON
    moved = abs(new["currentUsage"] - old.get("currentUsage", 0))
    if moved and moved * 100 >= MOVED_PERCENT * limit:
        return Urgency.SOON
    moving = ("currentUsage", "monthlyUsage", "today", "nodes")
    if any(old.get(name) != new[name] for name in moving):
        return Urgency.IN_TIME
    return Urgency.NEVER


def verdicts(status: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Status and reason of the conditions, without the words and numbers."""
    return {c["type"]: (c["status"], c["reason"]) for c in status.get("conditions") or ()}
