"""Texts: numbers as people read them. Pure, and exact: a browser gets text and does not compute.

Rule 1: shortened numbers are rounded down, so that no team reads 100 % while it has a byte left.
"""

import datetime
from fractions import Fraction

from sluice import window

UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
THOUSAND, FIGURES = 1000, 3
GIB = 2**30
FULL_TENTHS, TEN = 1000, 10
CENTS = 100
# How many digits follow, in a key that sorts.
LENGTHS = [f"{digits:02}" for digits in range(100)]
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
NONE = "\N{EN DASH}"


def unit_of(size: int) -> int:
    """The power of 1000 in which a size has one to three digits before its point."""
    return min((len(str(size)) - 1) // FIGURES, len(UNITS) - 1)


def bytes_text(size: int) -> str:
    """A size in three figures: "12.3 MB"."""
    power, digits = unit_of(size), str(size)
    if power == 0:
        return f"{size} B"
    # Digits that are cut off are rounded down. A page has three thousand sizes: no division.
    point = len(digits) - FIGURES * power
    if point >= FIGURES:
        return f"{int(digits[:point]):,} {UNITS[power]}"
    return f"{digits[:point]}.{digits[point:FIGURES]} {UNITS[power]}"


def decimal(number: int, places: int) -> str:
    """A whole number of 10^-places with its point: decimal(1234, 2) is "12.34"."""
    if not places:
        return f"{number:,}"
    whole, rest = divmod(number, TEN**places)
    return f"{whole:,}.{rest:0{places}}"


def exact(size: int) -> str:
    """Every byte of a size: "812,345 bytes"."""
    return f"{size:,} byte" if size == 1 else f"{size:,} bytes"


def percent(tenths: int) -> str:
    """Tenths of a percent: "81.2 %"."""
    return f"{tenths // TEN:,}.{tenths % TEN} %"


def bar(tenths: int) -> str:
    """The filled part of a bar in percent, from 0.0 to 100.0."""
    filled = min(max(0, tenths), FULL_TENTHS)
    return f"{filled // TEN}.{filled % TEN}"


def share(part: int, whole: int) -> int:
    """A part in tenths of a percent; 0 of nothing."""
    return part * FULL_TENTHS // whole if whole else 0


def order(number: int) -> str:
    """A key that sorts as text like a number >= 0 does, whatever its size."""
    digits = str(number)
    return LENGTHS[len(digits)] + digits


def cost_of(size: int, per_gib: float) -> Fraction:
    """What bytes cost. The rate is meant as it is written: 0.1 is a tenth."""
    return Fraction(repr(per_gib)) * size / GIB


def cost(amount: Fraction, currency: str) -> str:
    """An amount of money with two decimals: "12.30 EUR"."""
    cents = round(amount * CENTS)
    text = "< 0.01" if amount > 0 and cents == 0 else decimal(cents, len(str(CENTS)) - 1)
    return f"{text} {currency}".strip()


def rate(bytes_per_s: float) -> str:
    """A speed: "12.3 kB/s"."""
    return f"{bytes_text(max(0, int(bytes_per_s)))}/s"


def until(seconds: float) -> str:
    """How long it is until then, in whole minutes: "in 2 h 10 min"."""
    if seconds < MINUTE_S:
        return "in under 1 min"
    days, rest = divmod(int(seconds), DAY_S)
    hours, rest = divmod(rest, HOUR_S)
    parts = ((days, "d"), (hours, "h"), (rest // MINUTE_S, "min"))
    # A day from now, minutes are noise.
    named = [f"{count} {name}" for count, name in parts[: 2 if days else None] if count]
    return f"in {' '.join(named)}"


def visible(name: str) -> str:
    """A name that shows all that is in it: what is not seen, or turns the direction of writing, as
    its escape. Else one name could be taken for another."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in name
    )


class Clock:
    """Times of a team, as the clocks in its zone show them."""

    def __init__(self, zone: str) -> None:
        self.zone = zone
        self._zone = window.find_zone(zone)

    def local(self, moment: float) -> datetime.datetime:
        """The local date and time."""
        return datetime.datetime.fromtimestamp(moment, self._zone)

    def time(self, moment: float) -> str:
        """The time of day: "16:20"."""
        return f"{self.local(moment):%H:%M}"

    def near(self, moment: float, now: float) -> str:
        """The time of day, with the date unless it is today's: "28 Nov 16:20"."""
        then = self.local(moment)
        if then.date() == self.local(now).date():
            return f"{then:%H:%M}"
        return f"{then.day} {then:%b %H:%M}"

    def full(self, moment: float) -> str:
        """Date, time and zone: "2026-11-23 16:20:05 Europe/Berlin"."""
        return f"{self.local(moment):%Y-%m-%d %H:%M:%S} {self.zone}"
