"""Rates: what a team offers, learned from what it has been offering. Pure.

The rate expected at a time of day is that of the same hour on the days before, or, while an hour
has not been seen, the mean of the last day; both times how today compares with the days before.
The deviation of the last minutes from it fades away.

Threads: one at a time.
"""

import array
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

HOUR_S, DAY_S = 3600.0, 86_400.0
HOURS = 24
# The time in which what was seen loses weight by e: of the last minutes, of the last day, of an
# hour of the day in hours of its own kind, and of today's level.
FAST_S, SLOW_S, PROFILE_S, LEVEL_S = 900.0, DAY_S, 2 * HOUR_S, 3 * HOUR_S
# The time in which the deviation of the last minutes fades by e.
FADE_S = HOUR_S
# What one moment may say of today's level: a burst is none of it.
LEVEL_MIN, LEVEL_MAX = 0.5, 2.0
# An hour of the day counts in full when it has this weight: about 40 minutes of it were seen.
SEEN = 0.28
# A gap that is longer tells the mean, and nothing of an hour or of the last minutes.
GAP_S = HOUR_S
# What is more than usual, and what is less.
RISING, FALLING = 1.25, 0.8


def no_hours() -> "array.array[float]":
    """A number for each hour of the day, 0."""
    return array.array("d", [0.0]) * HOURS


@dataclass(slots=True)
class Rates:
    """What a team offers, in bytes per second: sums with fading weights, by how they fade.

    `at` is when something was learned last (epoch seconds). Each mean is a sum by its weight.
    """

    at: float
    fast: float = 0.0
    fast_weight: float = 0.0
    slow: float = 0.0
    slow_weight: float = 0.0
    hours: "array.array[float]" = field(default_factory=no_hours)
    hour_weights: "array.array[float]" = field(default_factory=no_hours)
    ratio: float = 0.0
    ratio_weight: float = 0.0

    def learn(self, now: float, size: int) -> None:
        """Take in that `size` bytes were offered since `at`."""
        elapsed = now - self.at
        # A clock that was put back: what came meanwhile belongs to no known time.
        self.at = now
        if elapsed <= 0:
            return
        rate = size / elapsed
        fade = math.exp(-elapsed / SLOW_S)
        self.slow = self.slow * fade + rate * (1 - fade)
        self.slow_weight = self.slow_weight * fade + 1 - fade
        if elapsed > GAP_S:
            self.fast = self.fast_weight = 0.0
            return
        fade = math.exp(-elapsed / FAST_S)
        self.fast = self.fast * fade + rate * (1 - fade)
        self.fast_weight = self.fast_weight * fade + 1 - fade
        hour, fade = hour_of(now - elapsed / 2), math.exp(-elapsed / LEVEL_S)
        if usual := self.usual(hour):
            ratio = min(LEVEL_MAX, max(LEVEL_MIN, self.now / usual))
            self.ratio = self.ratio * fade + ratio * (1 - fade)
            self.ratio_weight = self.ratio_weight * fade + 1 - fade
        fade = math.exp(-elapsed / PROFILE_S)
        self.hours[hour] = self.hours[hour] * fade + rate * (1 - fade)
        self.hour_weights[hour] = self.hour_weights[hour] * fade + 1 - fade

    @property
    def now(self) -> float:
        """Bytes per second in the last minutes; of the last day where there was a gap."""
        return self.fast / self.fast_weight if self.fast_weight else self.mean

    @property
    def mean(self) -> float:
        """Bytes per second in the last day."""
        return self.slow / self.slow_weight if self.slow_weight else 0.0

    def usual(self, hour: int) -> float:
        """Bytes per second in an hour of the day (0 to 23, UTC)."""
        weight = self.hour_weights[hour]
        if not weight:
            return self.mean
        share = min(1.0, weight / SEEN)
        return share * self.hours[hour] / weight + (1 - share) * self.mean

    @property
    def level(self) -> float:
        """How today compares with the days before: 1 is the same."""
        return self.ratio + 1 - self.ratio_weight

    @property
    def trend(self) -> str:
        """How the last minutes compare with the last day: rising, steady or falling."""
        if self.now > RISING * self.mean:
            return "rising"
        return "falling" if self.now < FALLING * self.mean else "steady"


def hour_of(moment: float) -> int:
    """The hour of the day, in UTC."""
    return int(moment // HOUR_S) % HOURS


def hours_until(now: float, end: float) -> Iterator[float]:
    """The full hours after `now` and before `end`, and `end`."""
    at = now
    while at < end:
        at = min(end, (at // HOUR_S + 1) * HOUR_S)
        yield at


def expected(rates: Rates, now: float, end: float) -> Iterator[tuple[float, float]]:
    """What will be offered from `now` on: (moment, bytes until then) at each full hour and `end`.

    It starts with (now, 0.0), and never falls.
    """
    level = rates.level
    deviation = rates.now - level * rates.usual(hour_of(now))
    at, total = now, 0.0
    yield at, total
    for then in hours_until(now, end):
        faded = math.exp((now - at) / FADE_S) - math.exp((now - then) / FADE_S)
        total += max(
            0.0, level * rates.usual(hour_of(at)) * (then - at) + deviation * FADE_S * faded
        )
        at = then
        yield at, total
