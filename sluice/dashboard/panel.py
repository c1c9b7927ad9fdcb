"""The panel of a team's page: its plots, its lists and its events, as JSON that needs no computing.

Plots get floats in a unit that is chosen here, and texts for their hover boxes; times are positions
on an axis of UTC, labelled as the clocks in the team's zone show them, so that a day of 23 or 25
hours is drawn as it was.
"""

import datetime
import math
from collections.abc import Callable, Sequence
from typing import Any

from sluice import errors, policy, source, texts, usage
from sluice.dashboard import views
from sluice.records import Event, Place, Point

DAY, HOUR = "day", "hour"
SPANS = (DAY, HOUR)
HOUR_S = texts.HOUR_S
# What is shown ahead in the span of an hour.
AHEAD_S = 900
FINE_STEP_S, STEP_S = 60, 300
# A day that has had fewer hours is drawn in fine steps.
FINE_HOURS = 3
TICK_S, DAY_TICK_H, HOUR_TICK_MIN = 300, 3, 10
PLACES, EVENTS = 10, 20
TABLE_ROWS = 24
MS = 1000

OUTCOMES = ("forwarded", "sampled", "dropped", "refused")


def panel(origin: source.Source, team: views.Team, span: str) -> dict[str, object]:
    """Everything below the head of a team's page; a part that cannot be had says why.

    Args:
        span: DAY, the whole open day, or HOUR, what of it lies in the last hour; "": DAY, if more
            of it is known.
    """
    key, day_starts = team.row.budget.key, math.floor(team.row.windows.start)
    found: dict[str, object] = {"span": span or DAY}

    def plots() -> dict[str, object]:
        found["span"], start, step_s, points = _points(origin, team, span)
        axis = _axis(team, str(found["span"]), start)
        ahead = _ahead(team, _until(team, str(found["span"])))
        return {
            "usage": _usage(team, points, ahead, axis),
            "outcomes": _outcomes(team, points, step_s),
        }

    def lists() -> dict[str, object]:
        namespaces, apps = origin.past().top(key, day_starts, PLACES)
        if not (namespaces or apps):
            return {"missing": "Nothing that passed today is on record yet."}
        return {"namespaces": _places(team, namespaces), "apps": _places(team, apps)}

    def events() -> object:
        found = [_event(team, one) for one in origin.past().events(key, EVENTS)]
        return found or {"missing": "No events yet."}

    parts: dict[str, Callable[[], object]] = {"plots": plots, "lists": lists, "events": events}
    for name, make in parts.items():
        try:
            found[name] = make()
        except errors.SluiceError as error:
            found[name] = {"missing": error.message}
    return found


def _points(
    origin: source.Source, team: views.Team, span: str
) -> tuple[str, int, int, Sequence[Point]]:
    """What is shown of the past: the span, its start, seconds of a step, and its points."""
    key, now, history = team.row.budget.key, team.row.now, origin.past().history
    day_starts = math.floor(team.row.windows.start)
    recent = max(day_starts, math.floor(now) - HOUR_S)
    if span != HOUR:
        step_s = FINE_STEP_S if now - day_starts < FINE_HOURS * HOUR_S else STEP_S
        points = history(key, day_starts, math.ceil(now), step_s)
        if span == DAY or any(point.at <= recent for point in points):
            return DAY, day_starts, step_s, points
    return HOUR, recent, FINE_STEP_S, history(key, recent, math.ceil(now), FINE_STEP_S)


def _position(moment: float) -> str:
    """A moment on a plot's axis."""
    return f"{datetime.datetime.fromtimestamp(moment, datetime.UTC):%Y-%m-%d %H:%M:%S}"


def _until(team: views.Team, span: str) -> float:
    """Where a plot ends."""
    end = team.row.windows.end
    return min(end, team.row.now + AHEAD_S) if span == HOUR else end


def _ahead(team: views.Team, until: float) -> list[tuple[float, int]]:
    """The forecast as far as it is shown: what lies beyond would set the scale of the plot."""
    found: list[tuple[float, int]] = []
    for at, size in team.outlook.curve if team.outlook is not None else ():
        if at > until and found:
            before_at, before = found[-1]
            share = (until - before_at) / (at - before_at)
            found.append((until, before + int((size - before) * share)))
            break
        found.append((at, size))
    return found


def _axis(team: views.Team, span: str, start: int) -> dict[str, object]:
    """From where to where a plot goes, and where its labels stand."""
    clock, end = views.clock_of(team.row.budget.time_zone), _until(team, span)
    if span == HOUR:
        start = min(start, math.floor(end) - HOUR_S)
    ticks = []
    for moment in range(-(-start // TICK_S) * TICK_S, math.floor(end) + 1, TICK_S):
        local = clock.local(moment)
        is_labelled = (
            local.minute % HOUR_TICK_MIN == 0
            if span == HOUR
            else local.minute == 0 and local.hour % DAY_TICK_H == 0
        )
        if is_labelled:
            ticks.append((_position(moment), f"{local:%H:%M}"))
    return {
        "range": [_position(start), _position(end)],
        "at": [at for at, _ in ticks],
        "labels": [label for _, label in ticks],
    }


def _usage(
    team: views.Team,
    points: Sequence[Point],
    curve: Sequence[tuple[float, int]],
    axis: dict[str, object],
) -> dict[str, object]:
    """The plot of what is used of the day's limit."""
    row, clock = team.row, views.clock_of(team.row.budget.time_zone)
    limit, now = row.budget.daily_limit, row.now
    known = [(float(point.at), point.day_usage) for point in points if point.at < now]
    # History ends with the last full step; the page is of now.
    known.append((now, row.day))
    power = texts.unit_of(max([limit, *(size for _, size in [*known, *curve])]))

    def told(moment: float, size: int, word: str) -> str:
        tenths = usage.tenths(size, limit)
        return (
            f"{clock.near(moment, now)}  {texts.bytes_text(size)} {word}, {texts.percent(tenths)}"
        )

    def line(path: Sequence[tuple[float, int]], word: str) -> dict[str, object]:
        return {
            "x": [_position(moment) for moment, _ in path],
            "y": [_scaled(size, power) for _, size in path],
            "hover": [told(moment, size, word) for moment, size in path],
        }

    return {
        "unit": texts.UNITS[power],
        "axis": axis,
        "used": line(known, "used"),
        "forecast": line(curve, "expected"),
        "limit": _scaled(limit, power),
        "limitText": f"limit {texts.bytes_text(limit)}",
        "soft": _scaled(policy.soft_limit(limit), power),
        "softText": f"{policy.THROTTLE_PERCENT} %",
        "summary": f"Usage over the day: {texts.bytes_text(row.day)} of"
        f" {texts.bytes_text(limit)} at {clock.time(now)}.",
        "table": {
            "head": ["Time", "Used", "Of the limit"],
            "rows": [
                [
                    clock.near(moment, now),
                    texts.bytes_text(size),
                    texts.percent(usage.tenths(size, limit)),
                ]
                for moment, size in [group[-1] for group in _groups(known)]
            ],
        },
    }


def _outcomes(team: views.Team, points: Sequence[Point], step_s: int) -> dict[str, object]:
    """The plot of what became of log bytes, step by step."""
    clock, now = views.clock_of(team.row.budget.time_zone), team.row.now
    # Bytes that upstream refused come again; they are shown where there are any.
    shown = [one for one in OUTCOMES if one != "refused" or any(point.refused for point in points)]
    most = max((sum(getattr(point, one) for one in shown) for point in points), default=0)
    power = texts.unit_of(most)

    def words(group: Sequence[Point]) -> list[str]:
        return [texts.bytes_text(sum(getattr(point, one) for point in group)) for one in shown]

    names = {"forwarded": "allowed", "sampled": "sampled out", "refused": "refused by upstream"}
    titles = [names.get(one, one) for one in shown]
    return {
        "unit": texts.UNITS[power],
        "widthMs": step_s * MS,
        "x": [_position(point.at - step_s) for point in points],
        "hover": [
            f"{clock.near(point.at - step_s, now)}  "
            + ", ".join(f"{t} {w}" for t, w in zip(titles, words([point]), strict=True))
            for point in points
        ],
        "series": [
            {
                "outcome": one,
                "name": title,
                "y": [_scaled(getattr(point, one), power) for point in points],
            }
            for one, title in zip(shown, titles, strict=True)
        ],
        "summary": "What became of log bytes: "
        + ", ".join(f"{t} {w}" for t, w in zip(titles, words(points), strict=True))
        + ".",
        "table": {
            "head": ["From", *titles],
            "rows": [
                [clock.near(group[0].at - step_s, now), *words(group)] for group in _groups(points)
            ],
        },
    }


def _groups(items: Sequence[Any]) -> list[Sequence[Any]]:
    """Neighbours put together, so that a table has at most TABLE_ROWS rows."""
    size = max(1, -(-len(items) // TABLE_ROWS))
    return [items[at : at + size] for at in range(0, len(items), size)]


def _scaled(size: int, power: int) -> float:
    return float(size / texts.THOUSAND**power)


def _places(team: views.Team, places: Sequence[Place]) -> list[dict[str, str]]:
    """A list of who ate it; shares are of what the team has used today."""
    whole = max(team.row.day, sum(place.size for place in places))
    return [
        {
            "name": texts.visible(place.name) or "(none)",
            "size": texts.bytes_text(place.size),
            "exact": texts.exact(place.size),
            "share": texts.percent(tenths := texts.share(place.size, whole)),
            "bar": texts.bar(tenths),
        }
        for place in places
    ]


def _event(team: views.Team, event: Event) -> dict[str, str]:
    clock = views.clock_of(team.row.budget.time_zone)
    return {
        "time": clock.near(event.at, team.row.now),
        "exact": clock.full(event.at),
        "kind": event.kind,
        "reason": event.reason,
        "text": event.text,
    }
