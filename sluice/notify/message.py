"""Texts of what is told: who, how much of what, until when, and what becomes of lines now. Pure.

Rule 1: plain text, one thought a line. A name is shown without whatever a chat could take for
markup, a mention or the end of a line.
"""

import datetime
import re
import urllib.parse
from collections.abc import Callable, Sequence

from sluice import records, texts, usage, window
from sluice.columns import DAY, MONTH
from sluice.notify.change import DROP, FORECAST, RECOVERY, THROTTLE, Change
from sluice.notify.rules import Condition
from sluice.policy import Action

# What names of Kubernetes are made of.
FOREIGN = re.compile(r"[^A-Za-z0-9./-]")
NAME_MAX = 130
# The most urgent first: as they stand in a message about many teams.
URGENCY = (DROP, THROTTLE, FORECAST, RECOVERY)
# By level: the reason of an event, its kind.
REASONS = {
    Action.ALLOW: ("Recovered", "Normal"),
    Action.THROTTLE: ("Throttling", "Warning"),
    Action.DROP: ("Exceeded", "Warning"),
}
WINDOWS = ("day", "month")


def plain(name: str) -> str:
    """A name that is nothing but a name, whatever reads it."""
    shown = FOREIGN.sub("?", name)
    return shown if len(shown) <= NAME_MAX else f"{shown[: NAME_MAX - 1]}…"


def kind_of(change: Change) -> int:
    """The window that a change is about: DAY or MONTH."""
    return DAY if change.window.startswith("d/") else MONTH


def figures(row: usage.Row, kind: int) -> tuple[int, int]:
    """Bytes used in a window, and its limit."""
    own = row.budget
    if kind == MONTH and own.monthly_limit is not None:
        return row.month, own.monthly_limit
    return row.day, own.daily_limit


def percent(row: usage.Row, kind: int) -> str:
    """Usage of a window: "81.2 %", rounded down."""
    return texts.percent(usage.tenths(*figures(row, kind)))


def moment(row: usage.Row, at: float) -> str:
    """A time on the clocks of the team's zone: "2026-11-24 00:00 CET"."""
    zone = window.find_zone(row.budget.time_zone)
    return f"{datetime.datetime.fromtimestamp(at, zone):%Y-%m-%d %H:%M %Z}"


def headline(change: Change) -> str:
    """Who, and what has changed, in a line."""
    row, kind = change.condition.row, kind_of(change)
    team, name = plain(change.key), WINDOWS[kind]
    dry = " (dry run)" if row.budget.dry_run else ""
    if change.rule == FORECAST:
        at = spent_at(change.condition, DAY)
        when = f", at {moment(row, at)}" if at is not None else ""
        return f"{team} will spend its day's budget before the day ends{when}{dry}"
    if change.rule == RECOVERY:
        if change.level is Action.ALLOW:
            return f"{team} has recovered: below 80 % of its limits{dry}"
        return f"{team} is no longer at its limit, but still above 80 % for the {name}{dry}"
    if change.level is Action.DROP:
        return f"{team} has spent its {name}'s budget{dry}"
    return f"{team} has used 80 % of its {name}'s budget{dry}"


def details(change: Change) -> str:
    """The figures, what becomes of lines, and what is to come: a line each."""
    row, kind = change.condition.row, kind_of(change)
    used, limit = figures(row, kind)
    end = row.windows.end if kind == DAY else row.windows.month_end
    lines = [
        f"Used in the {WINDOWS[kind]} so far: {texts.bytes_text(used)} of {texts.bytes_text(limit)}"
        f" ({percent(row, kind)}; {used:,} of {limit:,} bytes).",
        f"{fate(change.condition)} The {WINDOWS[kind]} ends at {moment(row, end)}.",
    ]
    at = spent_at(change.condition, kind)
    if at is not None and change.level is not Action.DROP:
        lines.append(f"At this pace the {WINDOWS[kind]}'s budget is spent at {moment(row, at)}.")
    return "\n".join(lines)


def fate(condition: Condition) -> str:
    """What becomes of a team's lines while this holds."""
    own = condition.row.budget
    share_kept = f"{own.sample_rate:.1%}".replace("%", " %")
    words = {
        Action.ALLOW: "All lines pass.",
        Action.THROTTLE: f"Lines are sampled: about {share_kept} of new ones are kept.",
        Action.DROP: "Lines that do not fit are dropped.",
    }[condition.level]
    if own.dry_run and condition.level:
        return f"This is a dry run, all lines pass; enforced: {words[0].lower()}{words[1:]}"
    return words


def spent_at(condition: Condition, kind: int) -> float | None:
    """When the forecast says that a window's budget is spent, if that lies ahead."""
    outlook = condition.outlook
    at = None if outlook is None else (outlook.day, outlook.month)[kind]
    return at if at is not None and at > condition.row.now else None


def link(dashboard_url: str | None, key: str) -> str:
    """Where the dashboard shows a team, or ""."""
    return f"{dashboard_url}/teams/{urllib.parse.quote(key)}" if dashboard_url else ""


def title(changes: Sequence[Change]) -> str:
    """The first line of a message about these changes, of which there is at least one."""
    if len(changes) == 1:
        return headline(changes[0])
    teams = {change.key for change in changes}
    if len(teams) == 1:
        return f"{plain(changes[0].key)}: {len(changes)} changes"
    counts = (
        (DROP, "at the limit"),
        (THROTTLE, "above 80 %"),
        (FORECAST, "will be spent today"),
        (RECOVERY, "recovered"),
    )
    named = [(sum(change.rule == rule for change in changes), words) for rule, words in counts]
    return f"{len(teams)} budgets changed: " + ", ".join(f"{n} {words}" for n, words in named if n)


def body(changes: Sequence[Change], dashboard_url: str | None, size_max: int) -> str:
    """What a message about these changes says below its title, in `size_max` characters.

    Of one change all is said, of many a line each, the most urgent first, as many as fit.
    """
    if len(changes) == 1:
        text = details(changes[0])
        where = link(dashboard_url, changes[0].key)
        return fitting([*text.split("\n"), where] if where else text.split("\n"), size_max, more)
    ordered = sorted(changes, key=lambda change: (URGENCY.index(change.rule), change.key))
    end = f"All teams: {dashboard_url}/" if dashboard_url else ""
    lines = [f"- {headline(change)}: {share(change)}" for change in ordered]
    left = size_max - len(end) - 1 if end else size_max
    return "\n".join(filter(None, [fitting(lines, left, more), end]))


def share(change: Change) -> str:
    """A change's usage in a few words."""
    kind = kind_of(change)
    _, limit = figures(change.condition.row, kind)
    return f"{percent(change.condition.row, kind)} of {texts.bytes_text(limit)}"


def more(count: int) -> str:
    """What stands for lines that did not fit."""
    return f"... and {count} more"


def fitting(lines: Sequence[str], size_max: int, rest: Callable[[int], str]) -> str:
    """As many lines as fit into `size_max` characters; the last then says how many are missing."""
    text = "\n".join(lines)
    if len(text) <= size_max:
        return text
    left = size_max - len(rest(len(lines)))
    shown: list[str] = []
    for line in lines:
        left -= len(line) + 1
        if left < 0:
            break
        shown.append(line)
    return "\n".join([*shown, rest(len(lines) - len(shown))])


def event(change: Change) -> records.Event:
    """The change as the dashboard's and the API's lists of events show it."""
    condition = change.condition
    reason, kind = REASONS[change.level]
    if change.rule == FORECAST:
        reason, kind = "Forecast", "Warning"
    text = f"{headline(change)}: {share(change)}"
    return records.Event(condition.row.now, change.key, kind, reason, text)
