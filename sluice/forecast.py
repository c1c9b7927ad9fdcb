"""Forecasts: when a budget will be spent, from what its team has been sending. Pure.

What a team offers, and not what is let through, is what is learned: sampling and dropping
change the second and not the first. The rate expected at a time of day is that of the same hour on
the days before, or, while an hour has not been seen, the mean of the last day; the deviation of
the last minutes from it fades away. What would be let through follows from the budget's rules.

Threads: one at a time; Outlooks has a lock of its own.
"""

import array
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from sluice import budget, columns, policy, usage, window
from sluice.columns import DAY, MONTH
from sluice.policy import Action

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
# Of the longest forecast: a month.
DAYS_MAX = 32


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


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit as it is applied: up to `soft` all passes, up to `hard` the share `kept`."""

    soft: int
    hard: int
    kept: float

    @classmethod
    def of(cls, own: budget.Budget, limit: int) -> Self:
        """The rule that a budget has for a limit. A dry run lets everything pass."""
        return cls(policy.soft_limit(limit), limit, 1.0 if own.dry_run else own.sample_rate)

    def offered(self, used: float) -> float:
        """Bytes that have to be offered from `used` on until the limit is spent."""
        if used >= self.hard:
            return 0.0
        band = self.hard - max(used, self.soft)
        return max(0.0, self.soft - used) + (band / self.kept if self.kept else math.inf)

    def used(self, used: float, offered: float) -> float:
        """Usage after `offered` more bytes."""
        free = max(0.0, self.soft - used)
        if offered <= free:
            return used + offered
        return max(used, min(self.hard, used + free + (offered - free) * self.kept))


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is expected of a team.

    Attributes:
        rate, usual: bytes per second offered in the last minutes and in the last day.
        trend: rising, steady or falling.
        day, month: when the limit will be spent (epoch seconds); None: not in the open window.
        now, end: when this was expected, and the end of the open day (epoch seconds).
        sizes: bytes of the day now, at each full hour and at its end.
    """

    rate: float
    usual: float
    trend: str
    day: float | None
    month: float | None
    now: float
    end: float
    # Of a thousand teams these are a quarter of a megabyte, and pairs in lists were five.
    sizes: "array.array[float]"

    @property
    def curve(self) -> list[tuple[float, int]]:
        """(moment, bytes of the day then), from now to the day's end."""
        moments = [self.now, *hours_until(self.now, self.end)]
        return [(at, int(size)) for at, size in zip(moments, self.sizes, strict=True)]

    def as_json(self) -> dict[str, object]:
        """The `forecast` of the REST API."""
        return {
            "bytesPerSecond": round(self.rate),
            "usualBytesPerSecond": round(self.usual),
            "trend": self.trend,
            "dayExhausted": None if self.day is None else window.iso(self.day),
            "monthExhausted": None if self.month is None else window.iso(self.month),
        }


def outlook(row: usage.Row, rates: Rates) -> Outlook:
    """What is expected of a team, by its row and what it has been offering until now."""
    own, now = row.budget, row.now
    path = list(expected(rates, now, row.windows.end))
    daily = Rule.of(own, own.daily_limit)
    day_action, month_action = row.window_action(DAY), row.window_action(MONTH)
    through = daily
    if month_action is Action.DROP:
        through = replace(daily, soft=-1, kept=0.0)
    elif month_action is Action.THROTTLE:
        through = replace(daily, soft=-1)
    day = now if day_action is Action.DROP else _crossing(path, through.offered(row.day))
    used = [(at, through.used(row.day, total)) for at, total in path]
    month = now if month_action is Action.DROP else _month(row, rates, daily, used)
    sizes = array.array("d", [size for _, size in used])
    return Outlook(rates.now, rates.mean, rates.trend, day, month, now, row.windows.end, sizes)


def _crossing(path: Iterable[tuple[float, float]], size: float) -> float | None:
    """When a path of (moment, bytes) first has `size` bytes; None if it does not."""
    before_at, before = 0.0, 0.0
    for at, total in path:
        if total >= size:
            share = (size - before) / (total - before) if total > before else 1.0
            return before_at + (at - before_at) * share
        before_at, before = at, total
    return None


def _month(
    row: usage.Row, rates: Rates, daily: Rule, today: Sequence[tuple[float, float]]
) -> float | None:
    """When the month's limit will be spent, if no day lets more through than its own limit."""
    own = row.budget
    if own.monthly_limit is None:
        return None
    monthly = Rule.of(own, own.monthly_limit)
    size = monthly.offered(row.month)
    path = [(at, used - row.day) for at, used in today]
    full = daily.used(0.0, sum(rates.usual(hour) for hour in range(HOURS)) * HOUR_S)
    at, total = path[-1]
    # In the band already: today's curve has been thinned out by it.
    thinned = row.window_action(MONTH) is Action.THROTTLE
    if thinned:
        size, full = monthly.hard - row.month, full * monthly.kept
    for _ in range(DAYS_MAX):
        if at >= row.windows.month_end or total >= size:
            break
        step = min(DAY_S, row.windows.month_end - at)
        at, total = at + step, total + full * step / DAY_S
        path.append((at, total))
    return _crossing(path, size)


class Outlooks:
    """The rates of all teams, and what follows from them.

    observe() is called every so often with all rows; of() tells what it found then.

    Threads: any number.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rates: dict[str, Rates] = {}
        # By key: the open day, and the bytes offered in it that were learned.
        self._learned: dict[str, tuple[int, int]] = {}
        self._found: dict[str, Outlook] = {}

    def observe(self, rows: Iterable[usage.Row]) -> None:
        """Learn from all rows of a moment; teams that are not among them are forgotten."""
        with self._lock:
            found = {row.budget.key: self._observed(row) for row in rows}
            for gone in self._rates.keys() - found.keys():
                del self._rates[gone], self._learned[gone]
            self._found = found

    def of(self, key: str) -> Outlook | None:
        """What is expected of a team; None before it has been observed."""
        return self._found.get(key)

    def _observed(self, row: usage.Row) -> Outlook:
        key, offered = row.budget.key, offered_today(row)
        rates = self._rates.get(key)
        if rates is None:
            rates = self._rates[key] = begun(row)
        else:
            day, before = self._learned[key]
            size = offered - before if day == row.windows.day else offered
            rates.learn(row.now, max(0, size))
        self._learned[key] = row.windows.day, offered
        return outlook(row, rates)

    def dump(self) -> dict[str, Any]:
        """What load() reads: plain JSON."""
        with self._lock:
            return {
                key: [one.at, one.fast, one.fast_weight, one.slow, one.slow_weight,
                      one.ratio, one.ratio_weight, one.hours.tolist(), one.hour_weights.tolist(),
                      *self._learned[key]]
                for key, one in self._rates.items()
            }  # fmt: skip

    def load(self, dumped: dict[str, Any]) -> None:
        """Go on from what dump() gave.

        Raises:
            TypeError, ValueError, AttributeError: it is something else; nothing was changed.
        """
        rates, learned = {}, {}
        for key, (*numbers, hours, weights, day, offered) in dumped.items():
            if not len(hours) == len(weights) == HOURS:
                raise ValueError(f"{key}: {len(hours)} hours and {len(weights)} weights")
            at, fast, fast_weight, slow, slow_weight, *ratio = map(float, numbers)
            by_hour = array.array("d", hours), array.array("d", weights)
            rates[key] = Rates(at, fast, fast_weight, slow, slow_weight, *by_hour, *ratio)
            learned[key] = int(day), int(offered)
        with self._lock:
            self._rates, self._learned = rates, learned


def offered_today(row: usage.Row) -> int:
    """Bytes that a team offered in the open day; what upstream refused will come again."""
    today = row.usage.today
    return sum(today[at + 1] for at in (columns.FORWARDED, columns.SAMPLED, columns.DROPPED))


def begun(row: usage.Row) -> Rates:
    """What is known of a team that is seen for the first time: the mean of its day so far."""
    rates = Rates(row.now)
    if row.now - row.windows.start > GAP_S:
        rates.at = row.windows.start
        rates.learn(row.now, offered_today(row))
    return rates
