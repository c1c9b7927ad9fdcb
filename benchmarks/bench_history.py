"""History of 1000 teams: what a minute costs to keep, on disk and in time, and to read."""

import functools
import gc
import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data
import numpy as np
from race import add_row

from sluice import columns, ledger, usage, window
from sluice.dashboard import history, thin

TEAMS, APPS_A_TEAM = 1000, 10
MINUTE_S, DAY_S = 60, 86_400
NOW = int(data.NOW)
ROUNDS = 30
# What a busy team sends: 60 GB a day.
BYTES_A_MINUTE = 42_000_000
# The minutes that are there after 35 days: all of two days, then the last of each quarter.
FILL = """
WITH RECURSIVE every (minute) AS (
    SELECT :first UNION ALL SELECT minute + 1 FROM every WHERE minute < :last)
INSERT INTO minutes SELECT minute, minute < :whole FROM every
WHERE minute % 15 = 0 OR minute >= :whole
"""
FILL_USAGE = """
INSERT INTO usage SELECT minute, id, :epoch + (minute - 1) / 1440,
    grown, grown * 20, grown, grown / 8, grown / 9, 0
FROM (
    SELECT minute, id, ((minute - 1) % 1440 + 1) * (:size + id) AS grown
    FROM minutes CROSS JOIN teams ORDER BY minute, id)
"""


def rows_at(now: float) -> list[usage.Row]:
    """A row of each team."""
    windows = window.open_windows("UTC", now)
    found = []
    for i, own in enumerate(data.budgets(TEAMS)):
        size = int((now - windows.start) / MINUTE_S) * (BYTES_A_MINUTE + i)
        today = [0] * columns.COUNTS
        today[columns.FORWARDED + 1] = size
        today[columns.SAMPLED + 1] = today[columns.DROPPED + 1] = size // 9
        found.append(usage.Row(own, ledger.Usage(size, 20 * size, today, today), windows, now))
    return found


def sizes_at(minute: int) -> usage.Sizes:
    """Sizes of ten applications a team, all of which have grown."""
    places = [
        (f"{data.team_name(i)}/{data.team_name(i)}", data.team_name(i), f"app-{app}")
        for i in range(TEAMS)
        for app in range(APPS_A_TEAM)
    ]
    return places, np.full(len(places), minute, np.int64)


def filled(path: Path) -> history.History:
    """A history that has been kept for 35 days."""
    past = history.History(path)
    past.record(rows_at(NOW - 36 * DAY_S), NOW - 36 * DAY_S, sizes=sizes_at(1))
    last = NOW // MINUTE_S
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("DELETE FROM usage")
    db.execute("DELETE FROM minutes")
    db.execute("UPDATE teams SET seen_day = ?", (NOW // DAY_S,))
    first, whole = last - history.DAYS * 24 * 60, last - thin.WHOLE_MIN
    db.execute("BEGIN")
    db.execute(FILL, {"first": first, "last": last, "whole": whole})
    db.execute(FILL_USAGE, {"epoch": window.EPOCH_ORDINAL, "size": BYTES_A_MINUTE})
    db.execute("COMMIT")
    db.close()
    return past


def timed(what: Callable[[], Any]) -> float:
    gc.collect()
    begun = time.perf_counter()
    what()
    return time.perf_counter() - begun


def add_times(what: str, found: int, times: list[float]) -> None:
    add_row(
        f"History of {TEAMS} teams, ms",
        what=what,
        points=found or "",
        median=f"{statistics.median(times) * 1000:.1f}",
        worst=f"{max(times) * 1000:.1f}",
    )


def bench_history(benchmark: Any, tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    past = filled(path)
    past.close()
    size = path.stat().st_size
    db = sqlite3.connect(path)
    (rows,) = db.execute("SELECT count(*) FROM usage").fetchone()
    db.close()
    add_row(
        f"History of {TEAMS} teams on disk, 35 days",
        rows=f"{rows:,}",
        MB=f"{size / 1e6:.0f}",
        bytes_a_row=f"{size / rows:.1f}",
        kB_a_team=f"{size / TEAMS / 1e3:.0f}",
    )
    for name, grows in (("record(), no places", False), ("record(), 10,000 places", True)):
        times = []
        for i in range(1, ROUNDS + 1):
            now = NOW + (i + ROUNDS * grows) * MINUTE_S
            sizes = sizes_at(i + 1) if grows else None
            record = functools.partial(past.record, rows_at(now), now, sizes=sizes)
            times.append(timed(record))
        add_times(name, 0, times)
    key = f"{data.team_name(500)}/{data.team_name(500)}"
    for name, seconds, step_s in (
        ("history(), an hour by minutes", 3600, 60),
        ("history(), a day in 300 steps", DAY_S, 300),
        ("history(), two days by minutes", 2 * DAY_S, 60),
        ("history(), 30 days in 360 steps", 30 * DAY_S, 7200),
    ):
        ask = functools.partial(past.history, key, NOW - seconds, NOW, step_s)
        points = ask()
        assert points, name
        add_times(name, len(points), [timed(ask) for _ in range(ROUNDS)])
    add_times("top()", 0, [timed(lambda: past.top(key, NOW - DAY_S, 10)) for _ in range(ROUNDS)])
    benchmark.pedantic(past.history, args=(key, NOW - DAY_S, NOW, 300), rounds=ROUNDS)
    past.close()
