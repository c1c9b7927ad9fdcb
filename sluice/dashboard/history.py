"""History: what was counted in each minute, kept over restarts in an SQLite file.

Rule 1: a row has what a team's open day has counted until then, not what a minute added. So a
minute that is missing, or is thinned out, takes nothing from a day's sum.
Rule 2: within a day nothing falls. What lies below what was there before it (a clock was put
back) adds nothing.
Rule 3: a minute is named by its end, and lies in the day that it belongs to.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sluice import columns, state_files, usage, window
from sluice.dashboard import counted, database, thin
from sluice.records import Event, Place, Point

MINUTE_S = 60
DAYS = 35
# The minutes of a day lie no further apart: from where it begins first, UTC+14, to where it ends
# last, UTC-12, with a team that moved between them.
DAY_SPAN_MIN = 50 * 60
EVENTS = 10_000
EVENT_CHARACTERS = 1024

VERSION = 1
SCHEMA = """
CREATE TABLE teams (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, seen_day INTEGER NOT NULL);
CREATE TABLE minutes (minute INTEGER PRIMARY KEY, is_thin INTEGER NOT NULL DEFAULT 0);
CREATE TABLE usage (
    minute INTEGER, team INTEGER, day INTEGER, day_usage INTEGER, month_usage INTEGER,
    forwarded INTEGER, sampled INTEGER, dropped INTEGER, refused INTEGER,
    PRIMARY KEY (minute, team, day)) WITHOUT ROWID;
CREATE TABLE places (
    day INTEGER, team INTEGER, namespace TEXT, app TEXT, size INTEGER, minute INTEGER,
    PRIMARY KEY (day, team, namespace, app)) WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY, at REAL, key TEXT, kind TEXT, reason TEXT, text TEXT);
CREATE INDEX events_of ON events (key)
"""
KEEP_MINUTE = """
INSERT INTO minutes (minute) VALUES (?) ON CONFLICT (minute) DO UPDATE SET is_thin = 0
"""
# Whatever is counted twice for a minute: the newest is the largest.
KEEP = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (minute, team, day) DO UPDATE SET
    day_usage = max(day_usage, excluded.day_usage),
    month_usage = max(month_usage, excluded.month_usage),
    forwarded = max(forwarded, excluded.forwarded), sampled = max(sampled, excluded.sampled),
    dropped = max(dropped, excluded.dropped), refused = max(refused, excluded.refused)
"""
# By minutes: all rows of a minute stand together, those of a team do not.
BEFORE = """
SELECT day, max(forwarded), max(sampled), max(dropped), max(refused)
FROM minutes CROSS JOIN usage USING (minute)
WHERE minute > :low - :span AND minute <= :low AND team = :team GROUP BY day
"""
ROWS = """
SELECT minute, day, day_usage, month_usage, forwarded, sampled, dropped, refused
FROM minutes CROSS JOIN usage USING (minute)
WHERE minute > :low AND minute <= :high AND team = :team ORDER BY minute, day
"""
ADD_TO_PLACE = f"""
UPDATE places SET
    size = CASE WHEN size > {columns.COUNT_MAX} - ? THEN {columns.COUNT_MAX} ELSE size + ? END,
    minute = ?
WHERE day = ? AND team = ? AND namespace = ? AND app = ?
"""
# One look-up a day, instead of reading all teams' places since.
PLACES = """
WITH RECURSIVE days (day) AS (
    SELECT min(day) FROM places WHERE day >= :first UNION ALL
    SELECT (SELECT min(day) FROM places WHERE day > days.day) FROM days WHERE day IS NOT NULL)
SELECT namespace, app, size FROM days CROSS JOIN places USING (day)
WHERE team = :team AND minute > :minute
"""


class History:
    """The Records of a process, in a file that it fills itself.

    All minutes of the last two days are kept, of the days before the last of each quarter of an
    hour. A row takes 58 bytes of the file, so that a team takes 350 kB with 35 days, and 1000 teams
    350 MB. Places, at most usage.APPS a day, are up to 1 MB a day; events are at most EVENTS.

    What cannot be written is logged and lost: nothing here raises but reading.

    Args:
        path: the file; made by the first record() or note().
        days: how long history is kept.
        state: where it is said what cannot be written.

    Threads: any number may read; one calls record(), any number note().
    """

    def __init__(
        self, path: Path, *, days: int = DAYS, state: state_files.StateFiles | None = None
    ) -> None:
        self._file = database.Database(path, SCHEMA, VERSION, state or state_files.StateFiles())
        self._days = days
        self._sizes = np.zeros(0, np.int64)

    def record(
        self,
        rows: Sequence[usage.Row],
        now: float,
        *,
        sizes: usage.Sizes | None = None,
        kept: counted.Kept | None = None,
    ) -> None:
        """Keep the rows of a moment; meant for once a minute, and once more at the end.

        Args:
            now: epoch seconds.
            sizes: usage.Apps.sizes(), always of the same Apps; what they have grown since the last
                call is added to the open days.
            kept: ledger.Ledger.record, asked for the last bytes of days that ended meanwhile.
        """

        places, new = sizes or ((), self._sizes)

        def change(db: sqlite3.Connection) -> None:
            found = [(row.budget.key, counted.current(row)) for row in rows]
            if kept is not None:
                found += counted.ended(rows, kept, last_minute(db, now), now)
            ids = team_ids(db, [row.budget.key for row in rows], now)
            db.executemany(KEEP_MINUTE, {(minute,) for _, (minute, *_) in found})
            db.executemany(KEEP, ((minute, ids[key], *rest) for key, (minute, *rest) in found))
            added = counted.grown(new, self._sizes)
            add_places(db, rows, ids, ((places[at], size) for at, size in added))
            thin.tidy(db, now, self._days)

        if self._file.write(change, now):
            self._sizes = new

    def note(self, event: Event) -> None:
        """Keep an event."""

        def change(db: sqlite3.Connection) -> None:
            values = (event.at, clean(event.key), event.kind, event.reason)
            text = clean(event.text[:EVENT_CHARACTERS])
            add = "INSERT INTO events (at, key, kind, reason, text) VALUES (?, ?, ?, ?, ?)"
            number = db.execute(add, (*values, text)).lastrowid
            db.execute("DELETE FROM events WHERE id <= ?", ((number or 0) - EVENTS,))

        self._file.write(change, event.at)

    def history(self, key: str, start: int, end: int, step_s: int) -> Sequence[Point]:
        """See records.Records; bytes of minutes that are missing are in the first point after."""
        low, high = start // step_s * step_s // MINUTE_S, end // step_s * step_s // MINUTE_S
        with self._file.reading() as db:
            if db is None:
                return []
            of = {"team": team_id(db, key), "low": low, "high": high, "span": DAY_SPAN_MIN}
            before = {day: tuple(values) for day, *values in db.execute(BEFORE, of)}
            return list(counted.points(db.execute(ROWS, of), before, step_s))

    def top(self, key: str, start: int, count: int) -> tuple[Sequence[Place], Sequence[Place]]:
        """See records.Records; the day that `start` is in, or begins, is counted whole."""
        day = window.EPOCH_ORDINAL + start // window.DAY_S
        with self._file.reading() as db:
            if db is None:
                return [], []
            since = {"team": team_id(db, key), "first": day - 1, "minute": start // MINUTE_S}
            found = db.execute(PLACES, since).fetchall()
        return (
            counted.largest(((namespace, size) for namespace, _, size in found), count),
            counted.largest(((app, size) for _, app, size in found), count),
        )

    def events(self, key: str | None, count: int) -> Sequence[Event]:
        """See records.Records."""
        with self._file.reading() as db:
            if db is None:
                return []
            found = db.execute(
                "SELECT at, key, kind, reason, text FROM events"
                f" {'' if key is None else 'WHERE key = :key'} ORDER BY id DESC LIMIT :count",
                {"key": None if key is None else clean(key), "count": count},
            )
            return [Event(*values) for values in found]

    def close(self) -> None:
        """Write everything down and close the file; a later call opens it again."""
        self._file.close()


def last_minute(db: sqlite3.Connection, now: float) -> float | None:
    """When something was recorded last, in epoch seconds; None if it never was."""
    query = "SELECT max(minute) FROM minutes WHERE minute <= ?"
    found: int | None = db.execute(query, (int(now // MINUTE_S) + 1,)).fetchone()[0]
    return None if found is None else float(found * MINUTE_S)


def team_ids(db: sqlite3.Connection, keys: Sequence[str], now: float) -> dict[str, int]:
    """The numbers of teams, which are given to those that have none."""
    today = int(now // window.DAY_S)
    seen = dict(db.execute("SELECT key, seen_day FROM teams"))
    db.executemany(
        "INSERT INTO teams (key, seen_day) VALUES (?, ?)"
        " ON CONFLICT (key) DO UPDATE SET seen_day = excluded.seen_day",
        [(key, today) for key in keys if seen.get(key) != today],
    )
    return dict(db.execute("SELECT key, id FROM teams"))


def team_id(db: sqlite3.Connection, key: str) -> int | None:
    """The number of a team, if it has one."""
    found = db.execute("SELECT id FROM teams WHERE key = ?", (clean(key),)).fetchone()
    return found and int(found[0])


def add_places(
    db: sqlite3.Connection,
    rows: Iterable[usage.Row],
    ids: Mapping[str, int],
    sizes: Iterable[tuple[usage.Place, int]],
) -> None:
    """Add bytes by (team, namespace, application) to the open days of their teams.

    One by one: reading a day's places, to count them together, took megabytes for a moment.
    """
    open_in = {row.budget.key: (row.windows.day, counted.current(row)[0]) for row in rows}
    room: dict[int, int] = {}
    for (key, namespace, app), size in sizes:
        if key not in open_in:
            continue
        day, minute = open_in[key]
        if day not in room:
            (known,) = db.execute("SELECT count(*) FROM places WHERE day = ?", (day,)).fetchone()
            room[day] = usage.APPS - known
        spot = day, ids[key], clean(namespace), clean(app)
        if db.execute(ADD_TO_PLACE, (size, size, minute, *spot)).rowcount:
            continue
        if room[day] <= 0:
            spot = day, ids[key], usage.OTHER, usage.OTHER
            if db.execute(ADD_TO_PLACE, (size, size, minute, *spot)).rowcount:
                continue
        db.execute("INSERT INTO places VALUES (?, ?, ?, ?, ?, ?)", (*spot, size, minute))
        room[day] -= 1


def clean(text: str) -> str:
    """What can be stored: half a surrogate pair, which JSON may bring, cannot."""
    return text.encode("utf-8", "replace").decode()
