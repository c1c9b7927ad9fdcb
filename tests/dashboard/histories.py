"""What a history is told in tests, and what is read from it: rows of teams, sums, the bare file."""

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sluice import budget, columns, ledger, usage, window
from sluice.dashboard import history

NOON = 1_795_435_200  # 2026-11-23T12:00:00Z
MIDNIGHT = NOON + 12 * 3600
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


def query(path: Path, sql: str) -> list[tuple[int, ...]]:
    db = sqlite3.connect(path)
    found: list[tuple[int, ...]] = db.execute(sql).fetchall()
    db.close()
    return found
