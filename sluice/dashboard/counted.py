"""Counting: from rows to what history.py keeps of them, and from that to points. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from sluice import columns, ledger, usage, window
from sluice.records import Place, Point

MINUTE_S = 60
# For so long after a day's end, pushes that were in flight are added to it.
LATE_S = 180
OUTCOMES = (columns.FORWARDED, columns.SAMPLED, columns.DROPPED, columns.REFUSED)

# The ledger's record(), see ledger.Ledger.
Kept = Callable[[Iterable[str]], ledger.Counted]
# Minute, day, bytes of the day and of the month, bytes of the day by OUTCOMES.
Counted = tuple[int, int, int, int, int, int, int, int]
NOTHING = (0, 0, 0, 0)


def current(row: usage.Row) -> Counted:
    """What a row has counted; its minute is the nearest whose end lies in the row's day."""
    here = row.windows
    minute = int((row.now + MINUTE_S / 2) // MINUTE_S)
    minute += minute * MINUTE_S <= here.start
    minute -= minute * MINUTE_S > here.end
    return minute, here.day, *bounded(row.day, row.month, row.usage.today)


def bounded(
    day_usage: int, month_usage: int, counts: Sequence[int]
) -> tuple[int, int, int, int, int, int]:
    """The numbers of a row as SQLite can hold them."""
    forwarded, sampled, dropped, refused = (
        min(counts[at + 1], columns.COUNT_MAX) for at in OUTCOMES
    )
    usages = min(day_usage, columns.COUNT_MAX), min(month_usage, columns.COUNT_MAX)
    return *usages, forwarded, sampled, dropped, refused


def ended(
    rows: Iterable[usage.Row], kept: Kept, since: float | None, now: float
) -> list[tuple[str, Counted]]:
    """With what days have ended since `since` (epoch seconds; None: at no time), and shortly ago.

    The last row of a day was recorded up to a minute before its end, or before a process ended.
    """
    if since is None:
        return []
    found = {}
    for row in rows:
        start, key = row.windows.start, row.budget.key
        moments = [since - 1] if since <= start else []
        moments += [start - 1] if now - start < LATE_S else []
        for at in moments:
            before = window.open_windows(row.budget.time_zone, at)
            found[key, before.day] = row, before
    if not found:
        return []
    counted, values = kept({key for key, _ in found}), []
    for (key, day), (row, before) in found.items():
        counts = counted.get(window.day_key(day), {}).get(key)
        if counts is None:
            continue
        month = row.usage.month - row.usage.day
        if before.month != row.windows.month:
            month = counted.get(window.month_key(before.month), {}).get(key, [0])[0]
        minute = int(before.end // MINUTE_S)
        values.append((key, (minute, day, *bounded(counts[0], month, counts[1:]))))
    return values


def grown(now: npt.NDArray[np.int64], before: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Which of the sizes have grown since there were those of `before`, and by how much."""
    added = now.copy()
    added[: len(before)] -= before
    for at in np.flatnonzero(added):
        yield int(at), int(added[at])


def points(
    rows: Iterable[Counted], before: dict[int, tuple[int, ...]], step_s: int
) -> Iterator[Point]:
    """Points from rows in order of their minutes.

    Args:
        before: what each day had counted before the first of them, by OUTCOMES.
    """
    at, added = 0, [0] * len(OUTCOMES)
    usages = (0, 0)
    for minute, day, day_usage, month_usage, *counts in rows:
        end = -(-minute * MINUTE_S // step_s) * step_s
        if end != at and at:
            yield Point(at, *usages, *added)
            added = [0] * len(OUTCOMES)
        old = before.get(day, NOTHING)
        new = tuple(map(max, counts, old))
        added = [n + new[i] - old[i] for i, n in enumerate(added)]
        at, usages, before[day] = end, (day_usage, month_usage), new
    if at:
        yield Point(at, *usages, *added)


def largest(sizes: Iterable[tuple[str, int]], count: int) -> list[Place]:
    """The names with the largest sums, at most `count`."""
    sums: dict[str, int] = {}
    for name, size in sizes:
        sums[name] = sums.get(name, 0) + size
    found = sorted(sums.items(), key=lambda one: (-one[1], one[0]))
    return [Place(*one) for one in found[:count]]
