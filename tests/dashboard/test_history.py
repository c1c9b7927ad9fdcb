"""History: points, tops and events, and what is thinned out or forgotten of them."""

import random
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from dashboard.histories import (
    DAY_S,
    HOUR_S,
    KEY,
    MIDNIGHT,
    MINUTE_S,
    NOON,
    ZONES,
    day_counts,
    query,
    row,
    sizes,
    sums,
    team,
)

from sluice import gate, ledger, usage, window
from sluice.dashboard import history, thin
from sluice.records import Event, NotHere, NotKept, Together


def test_a_point_has_the_usage_at_its_end_and_the_bytes_since_the_one_before(
    past: history.History,
) -> None:
    for i in range(1, 11):
        now = NOON + i * MINUTE_S
        past.record([row(team(), now, 100 * i, 10 * i, i, 2 * i, month=5000 + 100 * i)], now)
    first, second = (
        past.history(KEY, NOON, NOON + 599, 300),
        past.history(KEY, NOON, NOON + 600, 60),
    )
    assert [one.at for one in first] == [NOON + 300]
    assert (first[0].day_usage, first[0].month_usage) == (500, 5500)
    assert (first[0].forwarded, first[0].sampled, first[0].dropped, first[0].refused) == (
        *(500, 50, 5),
        10,
    )
    assert [one.at for one in second] == [NOON + i * MINUTE_S for i in range(1, 11)]
    assert [one.forwarded for one in second] == [100] * 10
    assert past.history(KEY, NOON + 300, NOON + 420, 60) == second[5:7]
    assert past.history("default/nobody", NOON, NOON + 600, 60) == []


def test_the_bytes_of_a_gap_are_in_the_first_point_after_it(past: history.History) -> None:
    for minute, size in ((1, 10), (2, 20), (30, 700)):
        now = NOON + minute * MINUTE_S
        past.record([row(team(), now, size)], now)
    points = past.history(KEY, NOON, NOON + HOUR_S, 60)
    assert [(one.at - NOON, one.forwarded) for one in points] == [(60, 10), (120, 10), (1800, 680)]


def test_a_new_day_begins_at_nothing(past: history.History) -> None:
    for now, size in ((MIDNIGHT - 60.4, 700), (MIDNIGHT + 0.4, 3), (MIDNIGHT + 60.4, 50)):
        past.record([row(team(), now, size, month=9000 + size)], now)
    points = past.history(KEY, MIDNIGHT - HOUR_S, MIDNIGHT + HOUR_S, 60)
    assert [(one.at - MIDNIGHT, one.day_usage, one.forwarded) for one in points] == [
        (-60, 700, 700),
        (60, 50, 50),
    ]


def test_integers_are_exact_to_the_last(past: history.History) -> None:
    places = sizes({(KEY, "n", "a"): 2**63 - 1})
    past.record([row(team(), NOON, 2**63 - 1, 2**63 - 2)], NOON, sizes=places)
    (point,) = past.history(KEY, NOON - 60, NOON, 60)
    assert (point.day_usage, point.forwarded, point.sampled) == (2**63 - 1, 2**63 - 1, 2**63 - 2)
    assert past.top(KEY, NOON - HOUR_S, 5)[1][0].size == 2**63 - 1


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("is_down", [False, True])
def test_the_last_bytes_of_a_day_are_had_from_the_ledger(
    past: history.History, zone: str, is_down: bool
) -> None:
    """Recorded half a minute before a day's end, or not for days after."""
    own = team(zone=zone)
    here = window.open_windows(zone, NOON)
    past.record([row(own, here.end - 30, 1000)], here.end - 30)
    now = here.end + (3 * DAY_S if is_down else 30)
    asked = []

    def kept(keys: Iterable[str]) -> ledger.Counted:
        asked.append(set(keys))
        return {window.day_key(here.day): {KEY: [1234, *day_counts([1234, 5, 6, 7])]}}

    past.record([row(own, now, 8, month=9999)], now, kept=kept)
    assert sums(past, KEY, here.start, here.end, 60) == [1234, 5, 6, 7]
    (last,) = past.history(KEY, int(here.end) - 60, int(here.end), 60)
    assert (last.day_usage, last.month_usage) == (1234, 9991)
    past.record([row(own, now + 600, 9)], now + 600, kept=kept)
    assert asked == [{KEY}]


def test_the_ledger_of_a_real_gate_knows_the_last_bytes_of_a_day(past: history.History) -> None:
    book = ledger.Ledger()
    entrance = gate.Gate([team()], book)

    def charge(size: int, now: float) -> None:
        entrance.evaluate(entrance.resolve(["default"]), np.array([size]), now=now)

    charge(100, MIDNIGHT - 40)
    past.record(usage.rows(book, MIDNIGHT - 30), MIDNIGHT - 30, kept=book.record)
    charge(23, MIDNIGHT - 20)
    charge(7, MIDNIGHT + 10)
    past.record(usage.rows(book, MIDNIGHT + 30), MIDNIGHT + 30, kept=book.record)
    assert sums(past, KEY, MIDNIGHT - DAY_S, MIDNIGHT, 60)[0] == 123
    assert sums(past, KEY, MIDNIGHT, MIDNIGHT + DAY_S, 60)[0] == 7


def test_old_minutes_are_thinned_out_and_days_still_add_up(
    past: history.History, tmp_path: Path
) -> None:
    """Every minute of three days is recorded: what stays is bounded, and small."""
    teams = [team(f"team-{i:02}", zone) for i, zone in enumerate(ZONES * 5)]
    rng = random.Random(1)
    sizes: dict[tuple[str, int], list[int]] = {}
    now = float(MIDNIGHT)
    for minute in range(1, 3 * 24 * 60 + 1):
        now = MIDNIGHT + minute * MINUTE_S - rng.random()
        rows = []
        for own in teams:
            day = window.open_windows(own.time_zone, now).day
            held = sizes.setdefault((own.key, day), [10**11 + rng.randrange(10**9)] * 4)
            held[minute % 4] += 10**6
            rows.append(row(own, now, *held, month=10**13))
        past.record(rows, now)
    for own in teams[:4]:
        here = window.open_windows(own.time_zone, MIDNIGHT + 36 * HOUR_S)
        assert sums(past, own.key, here.start, here.end, 900) == sizes[own.key, here.day]
    past.close()
    recorded = query(tmp_path / "history.db", "SELECT DISTINCT minute FROM usage")
    old = [minute for (minute,) in recorded if minute < now // MINUTE_S - thin.WHOLE_MIN]
    assert old
    assert [minute for minute in old if minute % 15] == []
    assert len(recorded) <= thin.WHOLE_MIN + 24 * 4 + 2
    # Freed pages are used again: beside one day's rows there is little else.
    size = (tmp_path / "history.db").stat().st_size
    assert size / (len(recorded) * len(teams)) < 75


def test_what_was_counted_after_a_clock_was_put_back_is_not_thinned_out(
    past: history.History, tmp_path: Path
) -> None:
    """Minutes that lie behind it were recorded before it, and have less."""
    for minute, size in ((1, 10), (4, 40), (10, 100), (3, 150)):
        past.record([row(team(), NOON + minute * MINUTE_S, size)], NOON + minute * MINUTE_S)
    later = NOON + 3 * DAY_S
    past.record([row(team(), later, 1)], later)
    points = past.history(KEY, NOON, NOON + HOUR_S, 60)
    assert [(one.at - NOON, one.forwarded) for one in points] == [(180, 150), (600, 0)]
    past.close()


def test_what_is_too_old_or_from_a_wrong_future_goes_little_by_little(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    past = history.History(path, days=3)
    places = {(KEY, "default", "cart"): 0}
    for minute in range(30):
        for at in (NOON, NOON + 400 * DAY_S):
            now = at + minute * MINUTE_S
            places[KEY, "default", "cart"] += 1
            past.record([row(team(), now, minute)], now, sizes=sizes(places))
    now = NOON + 4 * DAY_S
    past.record([row(team("new"), now, 1)], now)
    # Thirty recorded when it was wrong by a year have cost no more than ten each.
    left = query(path, "SELECT count(*) FROM minutes")
    assert 0 < left[0][0] <= 31 + 20
    for _ in range(5):
        past.record([row(team("new"), now, 1)], now)
    assert len(query(path, "SELECT minute FROM minutes")) == 1
    assert query(path, "SELECT count(*) FROM usage") == [(1,)]
    assert query(path, "SELECT count(*) FROM places") == [(0,)]
    later = now + 10 * DAY_S
    past.record([row(team("newer"), later, 1)], later)
    assert query(path, "SELECT key FROM teams WHERE key = 'default/new'") == []
    past.close()


def test_the_top_of_a_day_survives_restarts_and_ends_with_the_day(tmp_path: Path) -> None:
    past = history.History(tmp_path / "history.db")
    start = MIDNIGHT - DAY_S
    own, other = team(), team("other")

    def record(now: float, places: Mapping[usage.Place, int]) -> None:
        past.record([row(own, now, 1), row(other, now, 1)], now, sizes=sizes(places))

    before = {(KEY, "default", "cart"): 100, (KEY, "jobs", "cart"): 5, (KEY, "jobs", "db"): 50}
    record(NOON, before)
    record(NOON + 60, {**before, (KEY, "jobs", "db"): 80, ("default/other", "x", "y"): 7})
    past.close()
    past = history.History(tmp_path / "history.db")
    # The process is new, and has counted these since it began.
    record(NOON + 120, {(KEY, "default", "cart"): 1, (KEY, "new", "n"): 2, ("", "x", "y"): 9})
    namespaces, apps = past.top(KEY, start, 10)
    assert [(one.name, one.size) for one in namespaces] == [
        ("default", 101),
        ("jobs", 85),
        ("new", 2),
    ]
    assert [(one.name, one.size) for one in apps] == [("cart", 106), ("db", 80), ("n", 2)]
    assert [one.name for one in past.top(KEY, start, 2)[0]] == ["default", "jobs"]
    assert past.top("default/other", start, 10)[1][0].size == 7
    assert past.top("default/nobody", start, 10) == ([], [])
    record(MIDNIGHT + 1, {(KEY, "default", "cart"): 1, (KEY, "new", "n"): 5, ("", "x", "y"): 9})
    assert [(one.name, one.size) for one in past.top(KEY, MIDNIGHT, 10)[1]] == [("n", 3)]
    assert past.top(KEY, start, 10)[1][0].size == 106
    past.close()


def test_places_of_a_day_are_bounded(past: history.History) -> None:
    def places(first: int) -> dict[usage.Place, int]:
        return {(KEY, f"ns-{i}", "app"): 10 for i in range(first, first + usage.APPS - 1)}

    first = places(0)
    past.record([row(team(), NOON, 1)], NOON, sizes=sizes(first))
    past.record([row(team(), NOON, 1)], NOON, sizes=sizes(first | places(usage.APPS)))
    namespaces = past.top(KEY, MIDNIGHT - DAY_S, 2 * usage.APPS)[0]
    assert len(namespaces) == usage.APPS + 1
    assert (namespaces[0].name, namespaces[0].size) == (usage.OTHER, 10 * (usage.APPS - 2))


@pytest.mark.parametrize(
    "name", ["nul \0 in it", "half \ud800 a pair", "'; DROP TABLE teams --", ""]
)
def test_hostile_names_are_kept_as_they_are(past: history.History, name: str) -> None:
    past.record([row(team(), NOON, 5)], NOON, sizes=sizes({(KEY, name, name): 3}))
    past.note(Event(NOON, KEY, "Normal", "Reason", name))
    shown = name.encode("utf-8", "replace").decode()
    assert past.history(f"default/{name}", NOON - 60, NOON, 60) == []
    assert past.events(f"default/{name}", 5) == []
    namespaces, apps = past.top(KEY, NOON - HOUR_S, 5)
    assert namespaces[0].name == apps[0].name == shown
    assert past.events(KEY, 5)[0].text == shown


def test_events_are_newest_first_and_bounded(past: history.History, tmp_path: Path) -> None:
    assert past.events(None, 10) == []
    for i in range(10):
        past.note(Event(NOON + i, f"default/team-{i % 2}", "Warning", "NearLimit", f"{i}"))
    assert [one.text for one in past.events(None, 3)] == ["9", "8", "7"]
    assert [one.text for one in past.events("default/team-0", 3)] == ["8", "6", "4"]
    assert past.events("default/team-1", 1) == [
        Event(NOON + 9, "default/team-1", "Warning", "NearLimit", "9")
    ]
    db = sqlite3.connect(tmp_path / "history.db")
    with db:
        many = ((i,) for i in range(20, 20 + history.EVENTS))
        db.executemany("INSERT INTO events VALUES (?, 1, 'a/b', 'Normal', 'R', 'x')", many)
    db.close()
    past.note(Event(NOON, "default/last", "Normal", "R", "t" * 5000))
    assert query(tmp_path / "history.db", "SELECT count(*) FROM events") == [(history.EVENTS,)]
    assert len(past.events(None, 1)[0].text) == history.EVENT_CHARACTERS


def test_each_part_of_the_past_may_be_kept_by_somebody_else(past: history.History) -> None:
    past.record([row(team(), NOON, 5)], NOON, sizes=sizes({(KEY, "n", "a"): 1}))
    past.note(Event(NOON, KEY, "Normal", "R", "x"))
    nobody = NotHere("ask somebody else")
    both = Together(history=past, top=nobody, events=past)
    assert len(both.history(KEY, NOON - 60, NOON, 60)) == 1
    assert len(both.events(KEY, 5)) == 1
    with pytest.raises(NotKept, match="ask somebody else") as refused:
        both.top(KEY, NOON, 5)
    assert refused.value.status == 404
    with pytest.raises(NotKept):
        nobody.history(KEY, NOON, NOON, 60)
    with pytest.raises(NotKept):
        nobody.events(None, 5)
