"""History: whatever happens to clock, process and file, a day's steps add up to the day's bytes."""

import itertools
import logging
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sluice import budget, columns, errors, gate, ledger, usage, window
from sluice.dashboard import history, thin
from sluice.records import Event, NotHere, NotKept, Together

NOON = 1_795_435_200  # 2026-11-23T12:00:00Z
MIDNIGHT = NOON + 12 * 3600
# In Berlin, clocks are set back: the day has 25 hours.
LONG_DAY = 1_792_915_200  # 2026-10-25T08:00:00Z
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu")
PLENTY = 2**62
KEY = "default/shop"


def team(name: str = "shop", zone: str = "UTC") -> budget.Budget:
    return budget.Budget(name, "default", PLENTY, time_zone=zone)


def row(own: budget.Budget, now: float, *sizes: int, month: int | None = None) -> usage.Row:
    """A team's row with these bytes in its open day: forwarded, sampled, dropped, refused."""
    today = day_counts(sizes)
    day = sizes[0] if sizes else 0
    used = ledger.Usage(day, day if month is None else month, today, today)
    return usage.Row(own, used, window.open_windows(own.time_zone, now), now)


def day_counts(sizes: Sequence[int]) -> list[int]:
    counts = [0] * columns.COUNTS
    for outcome, size in zip(("forwarded", "sampled", "dropped", "refused"), sizes, strict=False):
        counts[columns.OUTCOMES[outcome] + 1] = size
    return counts


def sizes(of: Mapping[usage.Place, int]) -> usage.Sizes:
    """As usage.Apps.sizes() has them."""
    return list(of), np.array(list(of.values()), np.int64)


def sums(past: history.History, key: str, start: float, end: float, step_s: int) -> list[int]:
    """Bytes by outcome in all steps of a stretch."""
    points = past.history(key, int(start), int(end), step_s)
    assert all(start < one.at <= end and one.at % step_s == 0 for one in points)
    assert [one.at for one in points] == sorted({one.at for one in points})
    each = [(one.forwarded, one.sampled, one.dropped, one.refused) for one in points]
    assert all(size >= 0 for sizes in each for size in sizes)
    return [sum(sizes) for sizes in zip(*each, strict=True)] if each else [0] * 4


class Days(RuleBasedStateMachine):
    """Invariant: whatever is recorded when, the steps of a day add up to the day's bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.past = history.History(self.folder / "history.db")
        self.teams = [team(f"team-{i}", zone) for i, zone in enumerate(ZONES)]
        self.zones = {one.key: one.time_zone for one in self.teams}
        # By team and day: what was counted, and what of that was recorded.
        self.counted: dict[tuple[str, int], list[int]] = {}
        self.recorded: dict[tuple[str, int], list[int]] = {}
        self.first: dict[tuple[str, int], float] = {}

    @initialize(now=st.sampled_from([NOON, MIDNIGHT, LONG_DAY, MIDNIGHT - 19 * MINUTE_S]))
    def begin(self, now: int) -> None:
        self.now = float(now)

    def teardown(self) -> None:
        self.past.close()
        shutil.rmtree(self.folder)

    @rule(seconds=st.integers(1, 3 * HOUR_S), size=st.integers(0, 2**55), which=st.integers(0, 15))
    def count(self, seconds: int, size: int, which: int) -> None:
        self.now += seconds
        self.add(self.teams[which % 4], which // 4, size)

    def add(self, own: budget.Budget, outcome: int, size: int) -> None:
        day = window.open_windows(own.time_zone, self.now).day
        self.counted.setdefault((own.key, day), [0] * 4)[outcome] += size

    @rule()
    def record(self) -> None:
        rows = []
        for own in self.teams:
            here = window.open_windows(own.time_zone, self.now)
            sizes = self.counted.get((own.key, here.day), [0] * 4)
            rows.append(row(own, self.now, *sizes))
            self.recorded[own.key, here.day] = [*sizes]
            self.first.setdefault((own.key, here.day), self.now)
        self.past.record(rows, self.now)
        # What is too old, or recorded by a clock that was wrong, may be gone.
        for key, day in [*self.recorded]:
            here = window.open_windows(self.zones[key], self.first[key, day])
            if here.end > self.now + DAY_S or here.start < self.now - history.DAYS * DAY_S:
                del self.recorded[key, day]

    @rule(minutes=st.integers(1, 40), size=st.integers(1, 999), which=st.integers(0, 15))
    def go_on(self, minutes: int, size: int, which: int) -> None:
        for _ in range(minutes):
            self.count(MINUTE_S, size, which)
            self.record()

    @rule(seconds=st.integers(1, 20 * HOUR_S))
    def put_the_clock_back(self, seconds: int) -> None:
        self.now -= seconds

    @rule(hours=st.integers(1, 60))
    def stand_still(self, hours: int) -> None:
        self.now += hours * HOUR_S

    @rule()
    def thin_out(self) -> None:
        for _ in range(20):
            self.record()

    @rule(is_killed=st.booleans())
    def restart(self, is_killed: bool) -> None:
        if not is_killed:
            self.past.close()
        self.past = history.History(self.folder / "history.db")

    @invariant()
    def days_add_up(self) -> None:
        for (key, day), sizes in self.recorded.items():
            here = window.open_windows(self.zones[key], self.first[key, day])
            assert here.day == day
            for step_s in (MINUTE_S, 15 * MINUTE_S):
                assert sums(self.past, key, here.start, here.end, step_s) == sizes


TestDays = Days.TestCase
TestDays.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


@pytest.fixture
def past(tmp_path: Path) -> history.History:
    return history.History(tmp_path / "history.db")


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


def query(path: Path, sql: str) -> list[tuple[int, ...]]:
    db = sqlite3.connect(path)
    found: list[tuple[int, ...]] = db.execute(sql).fetchall()
    db.close()
    return found


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


KILLED = """
import itertools, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from dashboard import test_history as t
past = t.history.History(Path(sys.argv[1]))
for i in itertools.count(1):
    now = t.NOON + i * t.MINUTE_S
    rows = [t.row(t.team(f"team-{n}"), now, i * n) for n in range(50)]
    past.record(rows, now, sizes=t.sizes({(t.KEY, "n", "a"): i}))
    print(i, flush=True)
"""


@pytest.mark.parametrize("minutes", [1, 40])
def test_a_process_killed_in_the_middle_loses_at_most_a_minute(
    tmp_path: Path, minutes: int
) -> None:
    path = tmp_path / "history.db"
    tests = Path(__file__).parent.parent
    command = [sys.executable, "-c", KILLED, str(path), str(tests), str(tests.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in itertools.islice(process.stdout, minutes):
            last = int(line)
        process.send_signal(signal.SIGKILL)
        last = max([last, *map(int, process.stdout)])
    past = history.History(path)
    points = past.history("default/team-7", NOON, NOON + (last + 2) * MINUTE_S, 60)
    assert len(points) in (last, last + 1)
    assert all(one.forwarded == 7 for one in points)
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    now = NOON + (last + 2) * MINUTE_S
    past.record([row(team("team-7"), now, 7 * (last + 2))], now)
    assert sum(one.forwarded for one in past.history("default/team-7", NOON, now, 60)) == 7 * (
        last + 2
    )
    past.close()


def test_readers_see_whole_minutes_while_they_are_written(past: history.History) -> None:
    teams = [team(f"team-{i}") for i in range(20)]
    is_over = threading.Event()
    found: list[int] = []
    failed: list[BaseException] = []

    def read(own: budget.Budget) -> None:
        try:
            seen = 0
            while not is_over.is_set():
                points = past.history(own.key, NOON, NOON + DAY_S // 2, 60)
                total = sum(one.forwarded for one in points)
                assert total == (points[-1].day_usage if points else 0)
                assert total >= seen
                seen = total
            found.append(seen)
        except BaseException as error:
            failed.append(error)
            raise

    past.record([row(own, NOON, 0) for own in teams], NOON)
    readers = [threading.Thread(target=read, args=(teams[i],)) for i in range(4)]
    for reader in readers:
        reader.start()
    for i in range(1, 200):
        now = NOON + i * MINUTE_S
        past.record([row(own, now, i * 10) for own in teams], now)
        past.note(Event(now, teams[0].key, "Normal", "R", "x"))
    is_over.set()
    for reader in readers:
        reader.join()
    assert not failed
    assert len(found) == 4
    past.close()


def test_whoever_reads_for_long_is_not_waited_for(past: history.History, tmp_path: Path) -> None:
    past.record([row(team(), NOON, 1)], NOON)
    slow = sqlite3.connect(tmp_path / "history.db")
    slow.execute("BEGIN")
    assert slow.execute("SELECT count(*) FROM usage").fetchone() == (1,)
    past.record([row(team(), NOON + 60, 2)], NOON + 60)
    assert len(past.history(KEY, NOON - 60, NOON + 60, 60)) == 2
    assert slow.execute("SELECT count(*) FROM usage").fetchone() == (1,)
    slow.close()
    past.close()


def spoil(path: Path, how: str) -> None:
    """Make a history of two hours, and then something else of it."""
    past = history.History(path)
    for i in range(120):
        rows = [row(team(f"team-{n}"), NOON + i * MINUTE_S, i) for n in range(20)]
        past.record([row(team(), NOON + i * MINUTE_S, i), *rows], NOON + i * MINUTE_S)
    past.close()
    content = bytearray(path.read_bytes())
    if how == "text":
        path.write_text("this is no database\n" * 1000)
    elif how == "cut":
        path.write_bytes(content[: len(content) // 3])
    elif how == "holes":
        content[4096:-4096] = random.Random(1).randbytes(len(content) - 8192)
        path.write_bytes(content)
    else:
        db = sqlite3.connect(path)
        if how == "newer":
            db.execute("PRAGMA user_version = 99")
        else:
            path.unlink()
            db.close()
            db = sqlite3.connect(path)
            db.execute("CREATE TABLE precious (x)")
        db.commit()
        db.close()


@pytest.mark.parametrize("how", ["text", "cut", "holes", "newer", "foreign"])
def test_a_file_that_cannot_be_trusted_is_set_aside_and_a_new_one_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    path = tmp_path / "history.db"
    spoil(path, how)
    before = path.read_bytes()
    past = history.History(path)
    now = NOON + 3 * HOUR_S
    if how in ("text", "holes"):
        with pytest.raises(errors.Unavailable, match=str(path)):
            past.history(KEY, NOON, now, 60)
    with caplog.at_level(logging.WARNING):
        past.record([row(team(), now, 5)], now)
    assert [one.forwarded for one in past.history(KEY, NOON, now, 60)] == [5]
    assert (tmp_path / f"history.db.damaged-{now}").read_bytes()[:4096] == before[:4096]
    assert [one.message for one in caplog.records if "damaged" in one.message] == [
        one.message for one in caplog.records
    ]
    assert len(caplog.records) == 1
    past.close()


def test_no_more_than_a_few_damaged_files_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    for i in range(6):
        path.write_text("no database" * 100)
        past = history.History(path)
        past.record([row(team(), NOON + i * MINUTE_S, 5)], NOON + i * MINUTE_S)
        past.close()
    kept = sorted(one.name for one in tmp_path.glob("*damaged*"))
    assert kept == [f"history.db.damaged-{NOON + i * MINUTE_S}" for i in (3, 4, 5)]


def test_a_file_that_somebody_removes_is_begun_anew(past: history.History, tmp_path: Path) -> None:
    past.record([row(team(), NOON, 5)], NOON)
    (tmp_path / "history.db").unlink()
    assert past.history(KEY, NOON - 60, NOON + 60, 60) == []
    past.record([row(team(), NOON + 60, 7)], NOON + 60)
    assert [one.forwarded for one in past.history(KEY, NOON - 60, NOON + 60, 60)] == [7]
    past.close()


def test_without_a_place_to_write_it_is_said_once_and_life_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "gone"
    past = history.History(folder / "history.db")
    with caplog.at_level(logging.INFO):
        for i in range(3):
            past.record([row(team(), NOON, 5)], NOON, sizes=sizes({(KEY, "n", "a"): i}))
            past.note(Event(NOON, KEY, "Normal", "R", "x"))
        assert len(caplog.records) == 1
        assert str(folder / "history.db") in caplog.text
        assert past.history(KEY, NOON - 60, NOON, 60) == []
        assert past.top(KEY, NOON - 60, 5) == ([], [])
        folder.mkdir()
        past.record([row(team(), NOON, 5)], NOON, sizes=sizes({(KEY, "n", "a"): 7}))
    assert "is written again" in caplog.records[1].message
    assert past.history(KEY, NOON - 60, NOON, 60)[0].forwarded == 5
    # What could not be written is in what comes after.
    assert past.top(KEY, NOON - HOUR_S, 5)[0][0].size == 7
    past.close()


FULL_DISK = """
import logging, resource, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from dashboard import test_history as t
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
past = t.history.History(Path(sys.argv[1]))
def record(minutes):
    for i in minutes:
        now = t.NOON + i * t.MINUTE_S
        past.record([t.row(t.team(f"team-{n}"), now, i) for n in range(100)], now)
record(range(1, 5))
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
record(range(5, 55))
print(len(past.history("default/team-1", t.NOON, t.NOON + t.DAY_S // 4, 60)) < 54, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
record([55, 56])
print(sum(p.forwarded for p in past.history("default/team-1", t.NOON, t.NOON + t.DAY_S // 4, 60)))
past.close()
"""


def test_a_full_disk_is_said_once_and_costs_points_but_no_bytes(tmp_path: Path) -> None:
    """While it is full, what a checkpoint frees lets a minute pass now and then."""
    tests = Path(__file__).parent.parent
    path = str(tmp_path / "history.db")
    command = [sys.executable, "-c", FULL_DISK, path, str(tests), str(tests.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    full, again, is_short, size = done.stdout.splitlines()
    assert f"{path} cannot be written" in full
    assert (is_short, size) == ("True", "56")
    assert "is written again" in again
    assert done.stderr == ""


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
