"""Windows: which day and which month it is in a time zone, and when they end.

Rule 1: a window is named by the local date, so that people find it on their calendar; it
lasts from the instant at which the local date becomes that date to the instant at which it
is another one: 23, 24 or 25 hours, and half an hour more or less where the zone says so.
Rule 2: where a clock set back just after midnight returns to the day before, that day's
window opens again; the window key is the same, so its usage goes on.
Instants are seconds since the epoch; whoever calls knows what time it is.
"""

import bisect
import datetime
import functools
import importlib.resources
import math
import re
import zoneinfo
from dataclasses import dataclass

from sluice import errors

DAY_S = 86400
EPOCH_ORDINAL = datetime.date(1970, 1, 1).toordinal()

# Two changes of a zone's offset are never closer than four days (tzdata 2026), so a probe
# twice a day sees each of them.
PROBE_S = DAY_S // 2

# A date lasts two days where a zone moved across the date line; a month ends 32 days ahead
# at most.
BEHIND_DAYS = 3
AHEAD_DAYS = 34

DAY_KEY = re.compile(r"d/([0-9]{4})-([0-9]{2})-([0-9]{2})")
MONTH_KEY = re.compile(r"m/([0-9]{4})-([0-9]{2})")


@dataclass(frozen=True, slots=True)
class Windows:
    """The day and the month that are open in a time zone.

    `day` is the proleptic ordinal of the local date, `month` is year * 12 + month - 1.
    The day lasts from `start` to before `end`, the month to before `month_end`.
    """

    day: int
    month: int
    start: float
    end: float
    month_end: float


def open_windows(time_zone: str, now: float) -> Windows:
    """Find the day and the month that `now` lies in.

    Raises:
        BadBudget: nobody knows the zone; to fall back on UTC is the caller's business.
        ValueError, OverflowError: `now` is not in the years 1 to 9999.
    """
    starts, windows = _windows_of_day(time_zone, int(now // DAY_S))
    return windows[bisect.bisect_right(starts, now) - 1]


def find_zone(time_zone: str) -> zoneinfo.ZoneInfo:
    """Find a zone by its IANA name.

    Raises:
        BadBudget: not an IANA name. The machine's own "localtime" is none, and neither is
            "right/UTC", which counts leap seconds: both would differ from node to node.
    """
    if time_zone not in _known_zones():
        raise errors.BadBudget(f"{time_zone[:64]!r} is not an IANA time zone", "spec.timeZone")
    return _zone(time_zone)


def day_key(day: int) -> str:
    """Name a day as reports and ledger do: "d/2026-11-22"."""
    return f"d/{datetime.date.fromordinal(day).isoformat()}"


def month_key(month: int) -> str:
    """Name a month as reports and ledger do: "m/2026-11"."""
    return f"m/{month // 12:04}-{month % 12 + 1:02}"


def parse_day_key(key: str) -> int:
    """Read back what `day_key` wrote; anything else is a ValueError."""
    match = DAY_KEY.fullmatch(key)
    if match is None:
        raise ValueError(f"{key[:20]!r} is not a day such as d/2026-11-22")
    return datetime.date(int(match[1]), int(match[2]), int(match[3])).toordinal()


def parse_month_key(key: str) -> int:
    """Read back what `month_key` wrote; anything else is a ValueError."""
    match = MONTH_KEY.fullmatch(key)
    if match is None:
        raise ValueError(f"{key[:20]!r} is not a month such as m/2026-11")
    return _month_of(datetime.date(int(match[1]), int(match[2]), 1).toordinal())


def key_of(kind: int, number: int) -> str:
    """Name a day (kind 0) or a month (1); "" for number 0, which is before the first."""
    return (day_key, month_key)[kind](number) if number else ""


def parse_key(key: str) -> tuple[int, int]:
    """Read the key of either kind: 0 and a day, or 1 and a month; else a ValueError."""
    return (0, parse_day_key(key)) if key.startswith("d/") else (1, parse_month_key(key))


def iso(epoch: float) -> str:
    """Write an instant as the API does, in UTC, to the second: "2026-11-24T00:00:00Z"."""
    moment = datetime.datetime.fromtimestamp(math.floor(epoch), datetime.UTC)
    return f"{moment.replace(tzinfo=None).isoformat()}Z"


def instant(now: float | datetime.datetime) -> float:
    """Turn a time as people hand it in into seconds since the epoch.

    Raises:
        ValueError: a datetime without a zone, whose instant would depend on the machine,
            or a number that is not finite.
    """
    if isinstance(now, datetime.datetime):
        if now.utcoffset() is None:
            raise ValueError(f"{now} has no time zone")
        return now.timestamp()
    if not math.isfinite(now):
        raise ValueError(f"{now} is not an instant")
    return float(now)


# Ten thousand teams share a few zones, and ask again at each reload.
@functools.lru_cache(maxsize=1024)
def _windows_of_day(time_zone: str, utc_day: int) -> tuple[tuple[float, ...], tuple[Windows, ...]]:
    """All windows that touch one day of UTC, and their starts to search by."""
    starts, days = _date_changes(
        find_zone(time_zone), (utc_day - BEHIND_DAYS) * DAY_S, (utc_day + AHEAD_DAYS) * DAY_S
    )
    windows = []
    for i in range(1, bisect.bisect_left(starts, (utc_day + 1) * DAY_S)):
        month = _month_of(days[i])
        j = next(j for j in range(i + 1, len(days)) if _month_of(days[j]) != month)
        windows.append(
            Windows(
                day=days[i],
                month=month,
                start=float(starts[i]),
                end=float(starts[i + 1]),
                month_end=float(starts[j]),
            )
        )
    return tuple(window.start for window in windows), tuple(windows)


def _date_changes(zone: zoneinfo.ZoneInfo, at: int, end: int) -> tuple[list[int], list[int]]:
    """The instants from `at` to `end` at which the local date changes, and the new dates.

    The first of them is `at` itself.
    """
    starts: list[int] = []
    days: list[int] = []
    while at < end:
        offset = _offset(zone, at)
        until = _next_transition(zone, at, end)
        first_midnight = ((at + offset) // DAY_S + 1) * DAY_S - offset
        for change in (at, *range(first_midnight, until, DAY_S)):
            day = (change + offset) // DAY_S + EPOCH_ORDINAL
            if not days or day != days[-1]:
                starts.append(change)
                days.append(day)
        at = until
    return starts, days


def _next_transition(zone: zoneinfo.ZoneInfo, at: int, end: int) -> int:
    """The first instant after `at` with another offset than at `at`; `end` if there is none."""
    offset = _offset(zone, at)
    before = at
    while before < end:
        after = before + PROBE_S
        if _offset(zone, after) != offset:
            found = bisect.bisect_left(
                range(before, after), True, key=lambda t: _offset(zone, t) != offset
            )
            return min(before + found, end)
        before = after
    return end


def _offset(zone: zoneinfo.ZoneInfo, at: int) -> int:
    """How many seconds the zone's clocks are ahead of UTC."""
    offset = datetime.datetime.fromtimestamp(at, zone).utcoffset()
    return (offset or datetime.timedelta()) // datetime.timedelta(seconds=1)


def _month_of(day: int) -> int:
    date = datetime.date.fromordinal(day)
    return date.year * 12 + date.month - 1


# Both from the package that Sluice brings along, so that nodes agree; the machine's own files may
# be years old.


@functools.cache
def _known_zones() -> frozenset[str]:
    names = importlib.resources.files("tzdata").joinpath("zones").read_text("utf-8")
    return frozenset(names.split())


@functools.cache
def _zone(time_zone: str) -> zoneinfo.ZoneInfo:
    files = importlib.resources.files("tzdata").joinpath("zoneinfo")
    with files.joinpath(*time_zone.split("/")).open("rb") as file:
        return zoneinfo.ZoneInfo.from_file(file, key=time_zone)
