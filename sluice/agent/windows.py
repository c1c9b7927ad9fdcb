"""Which windows a report is about. No I/O, no clock."""

from sluice import window
from sluice.columns import DAY, MONTH

# A window's last report may be under way, or be asked for, for so long after its end.
KEPT_AFTER_S = 7200.0
# The date line: a day is open somewhere from 14 hours before UTC's to 12 after it.
AHEAD_S, BEHIND_S = 14 * 3600, 12 * 3600


def is_recent(here: window.Windows, kind: int, number: int, now: float) -> bool:
    """Whether a window is open, or ended not long ago."""
    if number == (here.day, here.month)[kind]:
        return True
    first_of_month = f"{window.month_key(here.month)[2:]}-01"
    began_today = kind == DAY or window.day_key(here.day)[2:] == first_of_month
    is_last = number == (here.day, here.month)[kind] - 1
    return is_last and began_today and now < here.start + KEPT_AFTER_S


def is_open_somewhere(kind: int, number: int, now: float) -> bool:
    """Whether it is this day, or month, anywhere on earth."""
    first, last = (window.open_windows("UTC", at) for at in (now - BEHIND_S, now + AHEAD_S))
    return (first.day, first.month)[kind] <= number <= (last.day, last.month)[kind]


def is_near(utc: window.Windows, kind: int, number: int) -> bool:
    """Whether a window may be open somewhere on earth, or have ended not long ago."""
    return abs(number - (utc.day, utc.month)[kind]) <= (1 if kind == MONTH else 2)
