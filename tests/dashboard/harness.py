"""A dashboard in this process: pages over rows that a test makes, or over a real ledger."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import flask
from harness import free_port

from sluice import budget, columns, forecast, ledger, settings, source, usage, window
from sluice.dashboard import app, server
from sluice.records import Event, Place, Point

MINUTE_S = 60


def row(
    name: str = "shop",
    namespace: str = "default",
    *,
    now: float,
    day: int = 0,
    month: int = 0,
    limit: int = 1_000_000,
    month_limit: int | None = None,
    today: dict[str, int] | None = None,
    entries: int = 10,
    **own: Any,
) -> usage.Row:
    """A team's row; `today` is bytes by outcome, `entries` of each; all but names are checked by
    nobody."""
    rules = budget.Budget(name, namespace, limit, month_limit, **own)
    sizes = {"forwarded": day} | (today or {})
    sizes["received"] = sum(sizes.values())
    counts = [0] * columns.COUNTS
    for outcome, size in sizes.items():
        at = columns.OUTCOMES[outcome]
        counts[at : at + 2] = (entries if size else 0), size
    used = ledger.Usage(day, max(day, month), counts, counts)
    return usage.Row(rules, used, window.open_windows(rules.time_zone, now), now)


class Teams:
    """Rows that a test changes; asked for at any moment, they say that it is that moment's."""

    def __init__(self, rows: Sequence[usage.Row]) -> None:
        self.now = {one.budget.key: one for one in rows}

    def rows(self, now: float) -> list[usage.Row]:
        return [dataclasses.replace(one, now=now) for one in list(self.now.values())]

    def put(self, one: usage.Row) -> None:
        self.now[one.budget.key] = one


@dataclasses.dataclass
class Memory:
    """Records that a test fills."""

    points: list[Point] = dataclasses.field(default_factory=list)
    namespaces: list[Place] = dataclasses.field(default_factory=list)
    apps: list[Place] = dataclasses.field(default_factory=list)
    told: list[Event] = dataclasses.field(default_factory=list)

    def history(self, key: str, start: int, end: int, step_s: int) -> Sequence[Point]:
        return [one for one in self.points if start < one.at <= end and not one.at % step_s]

    def top(self, key: str, start: int, count: int) -> tuple[Sequence[Place], Sequence[Place]]:
        return self.namespaces[:count], self.apps[:count]

    def events(self, key: str | None, count: int) -> Sequence[Event]:
        return [one for one in self.told if key in (None, one.key)][:count]


def a_day(now: float, limit: int, step_s: int = 300) -> tuple[list[Point], int, int]:
    """A day until now with a peak in the morning: its points, and bytes forwarded and dropped."""
    at = math.floor(window.open_windows("UTC", now).start)
    points, used, dropped = [], 0, 0
    while at + step_s <= now:
        at += step_s
        hour = (at % 86_400) / 3600
        offered = int(limit / 200 * (0.5 + 1.4 * math.exp(-((hour - 10) ** 2) / 6)))
        kept = offered if used < limit * 0.8 else offered // 2
        forwarded = min(kept, limit - used)
        used += forwarded
        dropped += kept - forwarded
        points.append(Point(at, used, used * 9, forwarded, offered - kept, kept - forwarded, 0))
    return points, used, dropped


@contextlib.contextmanager
def serving(made: flask.Flask, listen: settings.Address | None = None) -> Iterator[str]:
    """Serve an application, on a port of its own unless one is given; gives its URL."""
    listen = listen or settings.Address("127.0.0.1", free_port())
    running = server.Server(made, listen)
    running.start()
    try:
        yield f"http://{listen}"
    finally:
        running.stop()


def site(origin: source.Source, **more: Any) -> flask.Flask:
    """The dashboard of an origin."""
    return app.create_app(origin, source.Status(), **more)


def origin_of(
    teams: Teams, now: float, records: Any = None, cost: float | None = None
) -> source.Source:
    """Rows with forecasts of their own."""
    outlooks = forecast.Outlooks()
    outlooks.observe(teams.rows(now))
    return source.Source(teams.rows, outlooks, records, cost)
