"""Windows are the instants at which a zone's calendar shows a date; zoneinfo is the oracle."""

import datetime
import importlib.resources
import math
import os
import subprocess
import sys
import zoneinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice import errors, window

HOUR = 3600
DAY = 86400
MINUTE = 60

ZONES = sorted(window._known_zones())
# Where calendars were or are odd: half hours, changes at midnight or one minute past it, dates
# skipped and dates repeated.
ODD_ZONES = [
    "America/St_Johns",
    "America/Sao_Paulo",
    "America/Havana",
    "America/Juneau",
    "Pacific/Apia",
    "Pacific/Kwajalein",
    "Pacific/Kiritimati",
    "Asia/Kathmandu",
    "Asia/Manila",
    "Asia/Tehran",
    "Africa/Casablanca",
    "Africa/Monrovia",
    "Australia/Lord_Howe",
    "Europe/Dublin",
]
ODD_INSTANTS = [
    datetime.datetime(2009, 11, 1, 2, 30, 30, tzinfo=datetime.UTC),
    datetime.datetime(2009, 11, 1, 3, tzinfo=datetime.UTC),
    datetime.datetime(2011, 12, 30, 9, 59, 59, tzinfo=datetime.UTC),
    datetime.datetime(2011, 12, 30, 10, tzinfo=datetime.UTC),
    datetime.datetime(1993, 8, 21, 12, tzinfo=datetime.UTC),
    datetime.datetime(1969, 9, 30, 13, tzinfo=datetime.UTC),
    datetime.datetime(1867, 10, 19, 15, tzinfo=datetime.UTC),
    datetime.datetime(1844, 12, 31, 16, tzinfo=datetime.UTC),
    datetime.datetime(2018, 11, 4, 3, tzinfo=datetime.UTC),
    datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC),
]

zones = st.sampled_from(ODD_ZONES) | st.sampled_from(ZONES)
# From before the first railway time to far beyond the tables, where only rules are left.
instants = (
    st.floats(-4e9, 6e9).map(lambda at: round(at, 3))
    | st.integers(0, 4_000_000_000).map(float)
    | st.builds(
        lambda moment, seconds: moment.timestamp() + seconds,
        st.sampled_from(ODD_INSTANTS),
        st.integers(-2 * DAY, 2 * DAY),
    )
)


def date_at(zone: zoneinfo.ZoneInfo, at: float) -> datetime.date:
    """The oracle: what a calendar in the zone shows."""
    return datetime.datetime.fromtimestamp(at, zone).date()


def at(text: str) -> float:
    """An ISO time in UTC as an instant."""
    return datetime.datetime.fromisoformat(f"{text}+00:00").timestamp()


@given(zone=zones, now=instants)
def test_a_day_is_where_the_calendar_shows_its_date(zone: str, now: float) -> None:
    """In every minute of a day the calendar shows its date; a second before and after, not."""
    own = window.find_zone(zone)
    found = window.open_windows(zone, now)
    date = date_at(own, now)
    assert found.day == date.toordinal()
    assert found.start <= now < found.end
    assert date_at(own, found.start - 1) != date
    assert date_at(own, found.end) != date
    minutes = range(int(found.start), int(found.end), MINUTE)
    assert {date_at(own, minute) for minute in (*minutes, found.end - 1)} == {date}


@given(zone=zones, now=instants)
def test_a_month_ends_where_the_calendar_turns_its_page(zone: str, now: float) -> None:
    """From now to a second before its end the calendar shows the month, at its end another."""
    own = window.find_zone(zone)
    found = window.open_windows(zone, now)
    date = date_at(own, now)
    assert found.month == date.year * 12 + date.month - 1
    assert found.end <= found.month_end
    hours = [now + i * HOUR for i in range(math.ceil((found.month_end - now) / HOUR))]
    shown = {date_at(own, hour).replace(day=1) for hour in (*hours, found.month_end - 1)}
    assert shown == {date.replace(day=1)}
    assert date_at(own, found.month_end).replace(day=1) != date.replace(day=1)


@given(zone=zones, now=instants)
def test_windows_follow_one_another_without_gap(zone: str, now: float) -> None:
    """Where one day's window ends, the next one starts, and it looks the same from inside."""
    found = window.open_windows(zone, now)
    after = window.open_windows(zone, found.end)
    assert after.start == found.end
    assert window.open_windows(zone, math.nextafter(found.end, -math.inf)) == found
    assert window.open_windows(zone, found.start) == found
    # From the last day of a month its end is the day's.
    assert (after.month != found.month) == (found.end == found.month_end)


@pytest.mark.parametrize(
    ("zone", "now", "start", "hours"),
    [
        ("UTC", "2026-11-22T12:00", "2026-11-22T00:00", 24),
        ("Europe/Berlin", "2026-03-29T12:00", "2026-03-28T23:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00", "2026-10-24T22:00", 25),
        ("Asia/Kathmandu", "2026-11-22T18:15", "2026-11-22T18:15", 24),
        ("Australia/Lord_Howe", "2026-10-03T20:00", "2026-10-03T13:30", 23.5),
        # Midnight does not exist: the day begins at 1:00.
        ("America/Sao_Paulo", "2018-11-04T12:00", "2018-11-04T03:00", 23),
        # 30 December 2011 does not exist.
        ("Pacific/Apia", "2011-12-30T09:59:59", "2011-12-29T10:00", 24),
        ("Pacific/Apia", "2011-12-30T10:00", "2011-12-30T10:00", 24),
        # 1 November lasts a minute, then 31 October returns for 59.
        ("America/St_Johns", "2009-11-01T02:30:30", "2009-11-01T02:30", 1 / 60),
        ("America/St_Johns", "2009-11-01T02:31", "2009-11-01T02:31", 59 / 60),
        # 30 September 1969 began again when it was over.
        ("Pacific/Kwajalein", "1969-09-30T13:30", "1969-09-29T13:00", 47),
    ],
)
def test_odd_days_are_as_long_as_they_are(zone: str, now: str, start: str, hours: float) -> None:
    found = window.open_windows(zone, at(now))
    assert window.iso(found.start) == window.iso(at(start))
    assert found.end - found.start == pytest.approx(hours * HOUR)


def test_a_month_that_returns_for_an_hour_ends_twice() -> None:
    ends = [
        window.iso(window.open_windows("America/St_Johns", at(now)).month_end)
        for now in (
            "2009-10-31T12:00",
            "2009-11-01T02:30:30",
            "2009-11-01T02:31",
            "2009-11-02T00:00",
        )
    ]
    assert ends == [
        "2009-11-01T02:30:00Z",
        "2009-11-01T02:31:00Z",
        "2009-11-01T03:30:00Z",
        "2009-12-01T03:30:00Z",
    ]


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2024-02-29T23:59:59", "2024-03-01T00:00:00Z"),
        ("2023-02-28T00:00:00", "2023-03-01T00:00:00Z"),
        ("2026-12-01T00:00:00", "2027-01-01T00:00:00Z"),
        ("2026-01-31T12:00:00", "2026-02-01T00:00:00Z"),
    ],
)
def test_months_end_with_their_last_day(now: str, end: str) -> None:
    assert window.iso(window.open_windows("UTC", at(now)).month_end) == end


@pytest.mark.parametrize(
    "zone", ["", "Mars/Olympus", "Europe", "../etc/passwd", "localtime", "x\n"]
)
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(errors.BadBudget, match="is not an IANA time zone"):
        window.open_windows(zone, 0.0)


@pytest.mark.parametrize("zone", ZONES)
def test_every_zone_of_iana_has_a_today(zone: str) -> None:
    found = window.open_windows(zone, at("2026-11-22T12:00"))
    assert abs(found.day - datetime.date(2026, 11, 22).toordinal()) <= 1


@pytest.mark.parametrize("now", [math.nan, math.inf, -1e12, 1e12])
def test_no_windows_are_open_outside_the_calendar(now: float) -> None:
    with pytest.raises((ValueError, OverflowError)):
        window.open_windows("UTC", now)


@given(st.dates())
def test_keys_read_back(date: datetime.date) -> None:
    """A window key names its window and reads back as it."""
    month = date.year * 12 + date.month - 1
    assert window.day_key(date.toordinal()) == f"d/{date.isoformat()}"
    assert window.parse_day_key(window.day_key(date.toordinal())) == date.toordinal()
    assert window.month_key(month) == f"m/{date.isoformat()[:7]}"
    assert window.parse_month_key(window.month_key(month)) == month


@pytest.mark.parametrize(
    "key",
    [
        "",
        "d/",
        "d/2026-11",
        "d/2026-13-01",
        "d/2026-02-30",
        "m/2026-11-22",
        "d/2026-1-1",
        "d/2026-11-22\n",
    ],
)
def test_what_is_no_day_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"day|month"):
        window.parse_day_key(key)


@pytest.mark.parametrize(
    "key", ["", "m/2026", "m/2026-13", "m/2026-00", "d/2026-11-22", "m/0000-01"]
)
def test_what_is_no_month_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"month|year"):
        window.parse_month_key(key)


def test_instants_are_written_to_the_second() -> None:
    assert window.iso(at("2026-11-24T00:00:00")) == "2026-11-24T00:00:00Z"
    assert window.iso(at("2026-11-23T23:59:59") + 0.999) == "2026-11-23T23:59:59Z"
    assert window.iso(-0.5) == "1969-12-31T23:59:59Z"


def test_an_instant_may_come_as_number_or_as_aware_datetime() -> None:
    moment = datetime.datetime(2026, 11, 24, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    assert window.instant(moment) == at("2026-11-24T01:00")
    assert window.instant(5) == 5.0
    assert type(window.instant(5)) is float
    assert window.instant(5.5) == 5.5


@pytest.mark.parametrize("now", [datetime.datetime(2026, 11, 24), math.nan, math.inf])
def test_what_is_no_instant_is_refused(now: float | datetime.datetime) -> None:
    with pytest.raises(ValueError, match=r"has no time zone|is not an instant"):
        window.instant(now)


def test_the_machines_own_files_of_zones_play_no_part(tmp_path):
    """Or nodes with old files would turn their windows at another time than the rest."""
    noon = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.UTC).timestamp()
    (tmp_path / "Asia").mkdir()
    utc_file = importlib.resources.files("tzdata").joinpath("zoneinfo", "Etc", "UTC")
    (tmp_path / "Asia" / "Pyongyang").write_bytes(utc_file.read_bytes())
    code = f"from sluice import window; print(window.open_windows('Asia/Pyongyang', {noon}).end)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONTZPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) == noon + 3 * HOUR
