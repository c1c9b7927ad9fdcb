"""Forecasts: when a budget will be spent, at the rates that its team has been keeping. Pure.

What a team offers is learned (rates.py), and not what is let through: sampling and dropping change
the second and not the first. What would be let through follows from the budget's rules.

Threads: one at a time; Outlooks has a lock of its own.
"""

import array
import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from sluice import budget, columns, policy, usage, window
from sluice.columns import DAY, MONTH
from sluice.policy import Action
from sluice.rates import DAY_S, GAP_S, HOUR_S, HOURS, Rates, expected


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit as it is applied: up to `soft` all passes, up to `hard` the share `kept`, and what
    comes then only in a dry run."""

    soft: float
    hard: float
    kept: float
    is_dry: bool = False

    @classmethod
    def of(cls, own: budget.Budget, limit: int) -> Self:
        """The rule that a budget has for a limit. A dry run lets everything pass."""
        kept = 1.0 if own.dry_run else own.sample_rate
        return cls(policy.soft_limit(limit), limit, kept, own.dry_run)

    def moved(self, by: float) -> "Rule":
        """The same on a scale on which usage is `by` more."""
        return replace(self, soft=self.soft + by, hard=self.hard + by)

    def within(self, other: "Rule") -> "Rule":
        """Both at once: the stricter decides. In a dry run none stands in the way of another."""
        if self.is_dry:
            return self
        return replace(self, soft=min(self.soft, other.soft), hard=min(self.hard, other.hard))

    def offered(self, used: float) -> float:
        """Bytes that have to be offered from `used` on until the limit is spent."""
        if used >= self.hard:
            return 0.0
        band = self.hard - max(used, self.soft)
        return max(0.0, self.soft - used) + (band / self.kept if self.kept else math.inf)

    def used(self, used: float, offered: float) -> float:
        """Usage after `offered` more bytes."""
        free = max(0.0, self.soft - used)
        if offered <= free or self.is_dry:
            return used + offered
        return max(used, min(self.hard, used + free + (offered - free) * self.kept))


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is expected of a team.

    Attributes:
        rate, usual: bytes per second offered in the last minutes and in the last day.
        trend: rising, steady or falling.
        day, month: when the limit will be spent (epoch seconds); None: not in the open window.
        moments: now, each full hour, the open day's end, and where the curve bends (epoch seconds).
        sizes: bytes of the day at each of them.
    """

    rate: float
    usual: float
    trend: str
    day: float | None
    month: float | None
    # Of a thousand teams these are half a megabyte, and pairs in lists were five.
    moments: "array.array[float]"
    sizes: "array.array[float]"

    @property
    def curve(self) -> list[tuple[float, int]]:
        """(moment, bytes of the day then), from now to the day's end."""
        return [(at, int(size)) for at, size in zip(self.moments, self.sizes, strict=True)]

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
    own, now, used = row.budget, row.now, row.day
    path = list(expected(rates, now, row.windows.end))
    daily = both = Rule.of(own, own.daily_limit)
    monthly = None if own.monthly_limit is None else Rule.of(own, own.monthly_limit)
    # On the scale of the day's usage.
    left = None if monthly is None else monthly.moved(used - row.month)
    if left is not None:
        both = daily.within(left)

    def spent(kind: int, rule: Rule) -> float | None:
        if row.window_action(kind) is Action.DROP:
            return now
        applied = rule.within(both)
        # The other limit may be spent first, and let nothing come to this one.
        return _crossing(path, applied.offered(used)) if applied.hard == rule.hard else None

    sizes = [(at, both.used(used, total)) for at, total in bent(path, both, used)]
    month = None
    if monthly is not None and left is not None:
        month = spent(MONTH, left)
        if month is None:
            at_end = row.month - used + sizes[-1][1]
            month = _spent_later(row, rates, daily, monthly, at_end)
    return Outlook(
        rates.now,
        rates.mean,
        rates.trend,
        spent(DAY, daily),
        month,
        *(array.array("d", values) for values in zip(*sizes, strict=True)),
    )


def bent(path: Sequence[tuple[float, float]], rule: Rule, used: float) -> list[tuple[float, float]]:
    """A path of (moment, bytes offered) with the moments at which less begins to be let through:
    between two full hours the curve would go straight on, and not stop at the limit."""
    bends = [(_crossing(path, size), size) for size in (rule.soft - used, rule.offered(used))]
    points = dict(path)
    for at, size in bends:
        if at is not None:
            points.setdefault(at, size)
    return sorted(points.items())


def _crossing(path: Iterable[tuple[float, float]], size: float) -> float | None:
    """When a path of (moment, bytes) first has `size` bytes; None if it does not."""
    before_at, before = 0.0, 0.0
    for at, total in path:
        if total >= size:
            share = (size - before) / (total - before) if total > before else 1.0
            return before_at + (at - before_at) * share
        before_at, before = at, total
    return None


def _spent_later(
    row: usage.Row, rates: Rates, daily: Rule, monthly: Rule, total: float
) -> float | None:
    """When the month's limit will be spent on a day after today; `total` is used when that ends."""
    at, end = row.windows.end, row.windows.month_end
    usual = sum(rates.usual(hour) for hour in range(HOURS)) * HOUR_S
    full = daily.used(0.0, usual)
    if not full:
        return None
    # Days before the month's band all end alike.
    alike = max(0.0, min((end - at) // DAY_S, (monthly.soft - total) // full))
    at, total = at + alike * DAY_S, total + alike * full
    while at < end:
        step = min(DAY_S, end - at)
        left, offered = monthly.moved(-total), usual * step / DAY_S
        applied = left.within(daily)
        needed = applied.offered(0.0)
        if applied.hard == left.hard and needed <= offered:
            return at + step * needed / offered
        at, total = at + step, total + applied.used(0.0, offered)
    return None


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
    # Nothing so far is rather a Sluice that has just begun than a team that is silent.
    if row.now - row.windows.start > GAP_S and offered_today(row):
        rates.at = row.windows.start
        rates.learn(row.now, offered_today(row))
    return rates
