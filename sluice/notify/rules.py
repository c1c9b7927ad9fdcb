"""Rules: what holds for each team now, steadily enough to be told. Pure; time is an argument.

Rule 1: the level is the team's action, never a percentage: usage stops short of the limit.
Rule 2: a level that rises holds at once. One that falls must have lasted, for the mean size of an
entry and refunds make the action flicker at a threshold; but at the turn of its window, or after
the limits were edited, it falls at once.
Rule 3: the forecast holds when the day's limit was going to be spent before the day ends for some
minutes on end, and until it was not for some more, the day turns, or the limit is reached.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from sluice import budget, ledger, usage, window
from sluice.columns import DAY, MONTH
from sluice.forecast import Outlook
from sluice.policy import Action

HOLD_S = 60.0
RAISE_S, CLEAR_S = 300.0, 600.0

# What is expected of a team, by key.
Expect = Callable[[str], Outlook | None]
# The levels that anybody was told of a team before this process began, each with its window.
Before = Callable[[str], Iterable[tuple[Action, str]]]


@dataclass(frozen=True, slots=True)
class Condition:
    """What holds for a team. Two are equal if there is nothing to tell between them.

    Attributes:
        level: the action that holds.
        window: key of the window that causes it, d/2026-11-23 or m/2026-11: the month if the
            month alone does. It stays while it is open and the level holds.
        forecast: the day's limit will be spent before the day ends.
        open: keys of the open day and month.
        rules: what the team is told of; see budget.RULES.
        dry_run: no line is lost, whatever the level.
        row, outlook: the figures of the moment; the row without its counters.
        since, forecast_since: when level and forecast began to hold, as far as this process knows
            (epoch seconds).
    """

    level: Action
    window: str
    forecast: bool
    open: tuple[str, str]
    rules: tuple[str, ...]
    dry_run: bool
    row: usage.Row = field(compare=False)
    outlook: Outlook | None = field(compare=False)
    since: float = field(compare=False)
    forecast_since: float = field(compare=False)

    @property
    def key(self) -> str:
        """The team's budget: "namespace/name"."""
        return self.row.budget.key


Conditions = dict[str, Condition]


@dataclass(slots=True)
class _Held:
    """What is remembered of a team from one look to the next.

    `limits` are those that the level was judged with. `lower_since` and `peak`: since when the
    action has been below the level, and the highest it was meanwhile. `turned`: since when the
    forecast has been other than what holds. Not settled: others were told of a higher level.
    """

    level: Action
    window: str
    limits: tuple[int, int | None]
    since: float
    day: str
    is_settled: bool = True
    lower_since: float | None = None
    peak: Action = Action.ALLOW
    forecast: bool = False
    forecast_since: float = 0.0
    turned: float | None = None


class Judge:
    """Says what holds, by what has been the case so far.

    Args:
        default_rules: for budgets that name none of their own.
        before: asked once for each team, when it is first seen. A level below what others were
            told in a window that is still open has yet to last, like any that falls; until then
            nothing is said of the team.
        hold_s, raise_s, clear_s: how long a lower level, a forecast, and its absence must last.

    Threads: one at a time.
    """

    def __init__(
        self,
        default_rules: Sequence[str] = budget.RULES,
        before: Before = lambda key: (),
        *,
        hold_s: float = HOLD_S,
        raise_s: float = RAISE_S,
        clear_s: float = CLEAR_S,
    ) -> None:
        self._default_rules, self._before = tuple(default_rules), before
        self._hold_s, self._raise_s, self._clear_s = hold_s, raise_s, clear_s
        self._held: dict[str, _Held] = {}

    def judge(self, rows: Iterable[usage.Row], expect: Expect, now: float) -> Conditions:
        """What holds, by key. A team that is not among the rows any more is forgotten."""
        known, self._held = self._held, {}
        found: Conditions = {}
        for row in rows:
            own = row.budget
            held = known.get(own.key) or self._first(row, now)
            self._held[own.key] = held
            expected = expect(own.key)
            self._see_level(held, row, now)
            self._see_forecast(held, row, expected, now)
            if held.is_settled:
                rules = self._default_rules if own.notify is None else own.notify
                found[own.key] = Condition(
                    level=held.level,
                    window=held.window,
                    forecast=held.forecast,
                    open=open_keys(row),
                    rules=rules,
                    dry_run=own.dry_run,
                    row=slim(row),
                    outlook=expected,
                    since=held.since,
                    forecast_since=held.forecast_since,
                )
        return found

    def _first(self, row: usage.Row, now: float) -> _Held:
        day, level = open_keys(row)[DAY], row.action
        told = [one for one in self._before(row.budget.key) if one[1] in open_keys(row)]
        higher, where = max(told, default=(Action.ALLOW, ""))
        if higher > level:
            return _Held(higher, where, limits_of(row), now, day, is_settled=False)
        return _Held(level, cause(row, level), limits_of(row), now, day)

    def _see_level(self, held: _Held, row: usage.Row, now: float) -> None:
        level = row.action
        is_new = held.window not in open_keys(row) or held.limits != limits_of(row)
        if level > held.level or is_new:
            take(held, row, level, now)
        elif level == held.level:
            held.is_settled, held.lower_since = True, None
        else:
            # A clock that was put back tells nothing of how long it lasted.
            if held.lower_since is None or now < held.lower_since:
                held.lower_since, held.peak = now, level
            held.peak = max(held.peak, level)
            if now - held.lower_since >= self._hold_s:
                take(held, row, held.peak, now)

    def _see_forecast(
        self, held: _Held, row: usage.Row, outlook: Outlook | None, now: float
    ) -> None:
        day = open_keys(row)[DAY]
        if held.day != day or held.level is Action.DROP:
            held.day, held.forecast, held.turned = day, False, None
            return
        if outlook is None:
            return
        expected = outlook.day is not None and outlook.day > now
        if expected == held.forecast:
            held.turned = None
            return
        if held.turned is None or now < held.turned:
            held.turned = now
        if now - held.turned >= (self._raise_s if expected else self._clear_s):
            held.forecast, held.forecast_since, held.turned = expected, now, None


def slim(row: usage.Row) -> usage.Row:
    """A row without its counters, which no text names: of a thousand teams they are megabytes."""
    return replace(row, usage=ledger.Usage(row.usage.day, row.usage.month, [], []))


def take(held: _Held, row: usage.Row, level: Action, now: float) -> None:
    """Have a level hold from now on; what causes it is kept if it still does."""
    where = cause(row, level)
    if (level, where) != (held.level, held.window):
        held.since = now
    held.level, held.window, held.limits = level, where, limits_of(row)
    held.is_settled, held.lower_since = True, None


def cause(row: usage.Row, level: Action) -> str:
    """Key of the window that causes a level: the month's if the month alone does."""
    by_month = row.window_action(DAY) < level <= row.window_action(MONTH)
    return open_keys(row)[MONTH if by_month else DAY]


def open_keys(row: usage.Row) -> tuple[str, str]:
    """Keys of a team's open day and month."""
    return _keys(row.windows.day, row.windows.month)


# All teams share a few days, and ask several times in each look.
@functools.lru_cache(maxsize=64)
def _keys(day: int, month: int) -> tuple[str, str]:
    return window.day_key(day), window.month_key(month)


def limits_of(row: usage.Row) -> tuple[int, int | None]:
    """What an edit of the budget changes about its level."""
    return row.budget.daily_limit, row.budget.monthly_limit
