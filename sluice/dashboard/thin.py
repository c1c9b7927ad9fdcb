"""Thinning: what history.py forgets, a few minutes at each call, so that no call takes long."""

import sqlite3

from sluice import window

MINUTE_S = 60
QUARTER_MIN = 15
# For so long every minute is kept.
WHOLE_MIN = 2 * 24 * 60
# A minute further ahead was recorded by a clock that was wrong.
AHEAD_MIN = 24 * 60
# Of either kind; one a minute becomes due. Thus a clock that is wrong for a while, in either
# direction, costs little of what there is.
MINUTES_A_CALL = TEAMS_A_CALL = 10
# No team's day is further from UTC's.
ZONES_DAYS = 2

# A later row of its day in the quarter has all that this one has. That is not so where a clock was
# put back in between: then both are kept.
THIN = """
DELETE FROM usage WHERE minute = :minute AND EXISTS (
    SELECT 1 FROM minutes AS after CROSS JOIN usage AS later
        ON later.minute = after.minute AND later.team = usage.team AND later.day = usage.day
    WHERE after.minute > :minute AND after.minute <= :last
        AND later.forwarded >= usage.forwarded AND later.sampled >= usage.sampled
        AND later.dropped >= usage.dropped AND later.refused >= usage.refused)
"""


def tidy(db: sqlite3.Connection, now: float, days: int) -> None:
    """Thin out what is over two days old, and delete what is over `days` old.

    Args:
        now: epoch seconds.
    """
    minute, today = int(now // MINUTE_S), int(now // window.DAY_S)
    old = minutes(db, "minute < ? OR minute > ?", minute - days * 24 * 60, minute + AHEAD_MIN)
    for due in old:
        db.execute("DELETE FROM usage WHERE minute = ?", (due,))
        db.execute("DELETE FROM minutes WHERE minute = ?", (due,))
    for due in minutes(db, "NOT is_thin AND minute < ?", minute - WHOLE_MIN):
        last = -(-due // QUARTER_MIN) * QUARTER_MIN
        db.execute(THIN, {"minute": due, "last": last})
        db.execute("UPDATE minutes SET is_thin = 1 WHERE minute = ?", (due,))
        db.execute(
            "DELETE FROM minutes WHERE minute = :minute"
            " AND NOT EXISTS (SELECT 1 FROM usage WHERE minute = :minute)",
            {"minute": due},
        )
    first, last_day = window.EPOCH_ORDINAL + today - days, window.EPOCH_ORDINAL + today + ZONES_DAYS
    db.execute("DELETE FROM places WHERE day = (SELECT min(day) FROM places) AND day < ?", (first,))
    db.execute(
        "DELETE FROM places WHERE day = (SELECT max(day) FROM places) AND day > ?", (last_day,)
    )
    db.execute(
        "DELETE FROM teams WHERE id IN (SELECT id FROM teams WHERE seen_day < ? LIMIT ?)",
        (today - days - ZONES_DAYS, TEAMS_A_CALL),
    )


def minutes(db: sqlite3.Connection, condition: str, *values: int) -> list[int]:
    """The first minutes for which a condition holds."""
    found = db.execute(
        f"SELECT minute FROM minutes WHERE {condition} ORDER BY minute LIMIT {MINUTES_A_CALL}",
        values,
    )
    return [minute for (minute,) in found]
