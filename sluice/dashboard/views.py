"""Views: what a page says of a team, as texts by name. Pure.

A Line is a team's row in the overview, a detail its own page's head; the browser puts each text
where its name is found, and computes nothing.
"""

import functools
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from sluice import budget, columns, forecast, texts, usage
from sluice.columns import DAY, MONTH
from sluice.policy import THROTTLE_PERCENT, Action

Line = dict[str, str]

# Sorts after every number, in whichever direction: what is not known or will not be.
LAST = "~"
MONEY_SCALE = 10**6
MINUTE_S = texts.MINUTE_S
# Usage that was heard of longer ago is out of date: what agents call stale.
STALE_S = 180.0


@dataclass(frozen=True)
class Team:
    """What is known of a team at a moment; `per_gib` is what a GiB costs, if anything."""

    row: usage.Row
    outlook: forecast.Outlook | None
    per_gib: float | None

    @functools.cached_property
    def actions(self) -> tuple[Action, Action]:
        """What its next entry would get by the day's limit, and by the month's."""
        return self.row.window_action(DAY), self.row.window_action(MONTH)

    @property
    def today(self) -> dict[str, dict[str, int]]:
        """Outcome counters of the open day."""
        return usage.counts(self.row.usage.today)

    @property
    def cut(self) -> int:
        """Bytes of the open day that were sampled out or dropped."""
        today = self.row.usage.today
        return today[columns.SAMPLED + 1] + today[columns.DROPPED + 1]

    @property
    def month_cost(self) -> Fraction | None:
        """What the open month has cost so far."""
        return None if self.per_gib is None else texts.cost_of(self.row.month, self.per_gib)

    @property
    def spent(self) -> tuple[float, int] | None:
        """When the first of its limits will be spent, and which; None: in no open window."""
        if self.outlook is None:
            return None
        day, month = self.outlook.day, self.outlook.month
        if month is not None and (day is None or month < day):
            return month, MONTH
        return None if day is None else (day, DAY)


@functools.lru_cache(maxsize=1024)
def clock_of(zone: str) -> texts.Clock:
    """The clock of a zone."""
    return texts.Clock(zone)


def href(namespace: str, name: str) -> str:
    """The path of a team's page."""
    return "/teams/" + "/".join(urllib.parse.quote(part, safe="") for part in (namespace, name))


def line(team: Team, currency: str = "") -> Line:
    """A team's row in the overview, and in `sort` the keys of its columns after the first."""
    row, own, outlook = team.row, team.row.budget, team.outlook
    spent, cut, cost = team.spent, team.cut, team.month_cost
    actions, action = team.actions, max(team.actions)
    day, month = usage.tenths(row.day, own.daily_limit), _month_tenths(row)
    day_text, day_bar, day_action, day_exact = _bar(row.day, own.daily_limit, actions[DAY])
    month_text, month_bar, month_action, month_exact = _bar(
        row.month, own.monthly_limit, actions[MONTH]
    )
    keys = (
        fullness(team),
        texts.order(day),
        texts.order(row.day),
        LAST if month is None else texts.order(month),
        LAST if outlook is None else texts.order(max(0, int(outlook.rate))),
        LAST if spent is None else texts.order(int(spent[0])),
        texts.order(cut),
        LAST if cost is None else texts.order(round(cost * MONEY_SCALE)),
    )
    today = row.usage.today
    return {
        "name": own.name,
        "namespace": own.namespace,
        "href": href(own.namespace, own.name),
        "action": action.word,
        "dry": "dry run" if own.dry_run else "",
        "day": day_text,
        "dayBar": day_bar,
        "dayAction": day_action,
        "dayExact": day_exact,
        "used": f"{texts.bytes_text(row.day)} of {texts.bytes_text(own.daily_limit)}",
        "month": month_text,
        "monthBar": month_bar,
        "monthAction": month_action,
        "monthExact": month_exact,
        "rate": "" if outlook is None else texts.rate(outlook.rate),
        "trend": "" if outlook is None else outlook.trend,
        "spent": texts.NONE if spent is None else _spent_briefly(row, *spent),
        "spentExact": "" if spent is None else _spent_exactly(row, *spent),
        "cut": texts.bytes_text(cut) if cut else texts.NONE,
        "cutExact": f"sampled out {texts.exact(today[columns.SAMPLED + 1])},"
        f" dropped {texts.exact(today[columns.DROPPED + 1])}",
        "cost": texts.NONE if cost is None else texts.cost(cost, currency),
        "sort": " ".join(keys),
    }


def fullness(team: Team) -> str:
    """The key of a team's place in the overview before anybody sorts it: action, then percent."""
    day, month = usage.tenths(team.row.day, team.row.budget.daily_limit), _month_tenths(team.row)
    return f"{max(team.actions):d}{texts.order(max(day, month or 0))}"


def _bar(used: int, limit: int | None, action: Action) -> tuple[str, str, str, str]:
    """A window's bar: its percent, its width, its colour and its bytes; without a limit, none."""
    if limit is None:
        word = f"{action.word} none"
        return texts.bytes_text(used), "0", word, f"{texts.exact(used)}, no limit"
    tenths = usage.tenths(used, limit)
    exact = f"{used:,} of {texts.exact(limit)}"
    return texts.percent(tenths), texts.bar(tenths), action.word, exact


def _month_tenths(row: usage.Row) -> int | None:
    limit = row.budget.monthly_limit
    return None if limit is None else usage.tenths(row.month, limit)


def _spent_briefly(row: usage.Row, moment: float, kind: int) -> str:
    which = " (month)" if kind == MONTH else ""
    if moment <= row.now:
        return f"now{which}"
    when = clock_of(row.budget.time_zone).near(moment, row.now)
    if moment - row.now >= texts.DAY_S:
        return f"{when}{which}"
    return f"{when}, {texts.until(moment - row.now)}{which}"


def _spent_exactly(row: usage.Row, moment: float, kind: int) -> str:
    which = ("the day's", "the month's")[kind]
    return f"{which} limit: {clock_of(row.budget.time_zone).full(moment)}"


def detail(team: Team, currency: str = "") -> Line:
    """The head of a team's own page."""
    row, own, clock = team.row, team.row.budget, clock_of(team.row.budget.time_zone)
    windows, now = row.windows, row.now
    found = {
        "action": row.action.word,
        "means": means(row),
        "dry": "Dry run: nothing is thinned out or dropped; this is what would be."
        if own.dry_run
        else "",
        **_named("day", _bar(row.day, own.daily_limit, team.actions[DAY])),
        "used": f"{texts.bytes_text(row.day)} of {texts.bytes_text(own.daily_limit)}",
        "dayEnds": f"ends {clock.near(windows.end, now)}, {texts.until(windows.end - now)}",
        **_named("month", _bar(row.month, own.monthly_limit, team.actions[MONTH])),
        "monthUsed": _month_used(row),
        "monthEnds": f"ends {clock.near(windows.month_end, now)},"
        f" {texts.until(windows.month_end - now)}",
        "rate": _rate(team),
        "dayForecast": _forecast(team, DAY),
        "monthForecast": _forecast(team, MONTH),
        "zone": own.time_zone,
        "enforcement": "dry run" if own.dry_run else "enforced",
        "sampleRate": f"{_kept(own)} kept above {THROTTLE_PERCENT} %",
        "namespaces": ", ".join(own.namespaces or (own.namespace,)),
        "updated": _updated(row, clock),
    }
    for outcome, count in team.today.items():
        size, entries = count["bytes"], count["entries"]
        found[outcome] = texts.bytes_text(size)
        found[f"{outcome}Exact"] = f"{texts.exact(size)}, {entries:,} entries"
    if team.per_gib is not None:
        found |= {
            "dayCost": texts.cost(texts.cost_of(row.day, team.per_gib), currency),
            "monthCost": texts.cost(texts.cost_of(row.month, team.per_gib), currency),
            "perGib": texts.cost(Fraction(repr(team.per_gib)), currency),
        }
    return found


def _named(name: str, bar: tuple[str, str, str, str]) -> Line:
    return dict(zip((name, f"{name}Bar", f"{name}Action", f"{name}Exact"), bar, strict=True))


def _updated(row: usage.Row, clock: texts.Clock) -> str:
    """The time; where usage was heard of long ago, since when."""
    now = f"{clock.local(row.now):%H:%M:%S}"
    if row.updated is None or row.now - row.updated < STALE_S:
        return now
    return f"{now}, usage as of {clock.near(row.updated, row.now)}"


def means(row: usage.Row) -> str:
    """What a team's action means for its next entries."""
    own = row.budget
    would = "would be" if own.dry_run else "are"
    windows = [kind for kind in (DAY, MONTH) if row.window_action(kind) == row.action]
    which = ("day", "month")[windows[-1]]
    if row.action is Action.DROP and not (own.daily_limit, own.monthly_limit)[windows[-1]]:
        return f"The {which}'s limit is 0: all entries {would} dropped."
    if row.action is Action.DROP:
        end = (row.windows.end, row.windows.month_end)[windows[-1]]
        ends = clock_of(own.time_zone).near(end, row.now)
        return f"The {which}'s limit is spent: entries {would} dropped until {ends}."
    if row.action is Action.THROTTLE:
        return (
            f"More than {THROTTLE_PERCENT} % of the {which}'s limit is used:"
            f" {_kept(own)} of entries {would} kept."
        )
    return "Every entry passes."


def _kept(own: budget.Budget) -> str:
    """The sample rate: "50 %", "0.1 %"."""
    share = Fraction(repr(own.sample_rate)) * texts.CENTS
    return f"{float(share):g} %"


def _month_used(row: usage.Row) -> str:
    limit, used = row.budget.monthly_limit, texts.bytes_text(row.month)
    return f"{used}, no limit" if limit is None else f"{used} of {texts.bytes_text(limit)}"


def _rate(team: Team) -> str:
    if team.outlook is None:
        return "No rate is known yet."
    now, usual = texts.rate(team.outlook.rate), texts.rate(team.outlook.usual)
    return f"{now} in the last minutes, {team.outlook.trend}; {usual} on average in a day."


def _forecast(team: Team, kind: int) -> str:
    """A sentence on when a limit will be spent."""
    which = ("day", "month")[kind]
    limit = (team.row.budget.daily_limit, team.row.budget.monthly_limit)[kind]
    if limit is None:
        return ""
    if limit == 0:
        return "There is nothing to spend."
    if team.outlook is None:
        return "No forecast yet."
    moment, now = (team.outlook.day, team.outlook.month)[kind], team.row.now
    if moment is None:
        return f"At this pace the budget lasts until the {which} ends."
    if moment <= now:
        return f"The {which}'s budget is spent."
    when = clock_of(team.row.budget.time_zone).near(moment, now)
    return f"At this pace the {which}'s budget is spent at {when}, {texts.until(moment - now)}."


def totals(teams: Iterable[Team], now: float, currency: str = "") -> Line:
    """The line above the table: all teams together."""
    count, used, limit, cut = 0, 0, 0, 0
    actions = dict.fromkeys(Action, 0)
    money: Fraction | None = None
    for team in teams:
        count += 1
        used += team.row.day
        limit += team.row.budget.daily_limit
        cut += team.cut
        actions[max(team.actions)] += 1
        if team.per_gib is not None:
            money = (money or Fraction()) + (team.month_cost or 0)
    return {
        "time": f"{clock_of('UTC').local(now):%H:%M:%S} UTC",
        "teams": f"{count:,}",
        **{action.word: f"{number:,}" for action, number in actions.items()},
        "used": f"{texts.bytes_text(used)} of {texts.bytes_text(limit)}",
        "usedExact": f"{used:,} of {texts.exact(limit)}",
        "cut": texts.bytes_text(cut),
        "cutExact": texts.exact(cut),
        "cost": "" if money is None else texts.cost(money, currency),
    }


def problems(count: int) -> str:
    """A sentence on budgets that are not in force as they were written; "" if all are."""
    if not count:
        return ""
    return f"{count:,} problem{'s' * (count > 1)} with budgets: not all that was written holds."


def reads_the_same(before: Team, after: Team) -> bool:
    """Whether line() gives the same texts for a team at two moments."""
    return (
        before.outlook is after.outlook
        and _facts(before) == _facts(after)
        and _countdown(before) == _countdown(after)
    )


def _countdown(team: Team) -> tuple[bool, int] | None:
    """Whether the limit is spent, and the whole minutes until then; None without a forecast.

    A line says how much time is left, so its text changes when that crosses a minute, at any
    second of the clock. Dates change only with the window, which is among the facts.
    """
    spent = team.spent
    if spent is None:
        return None
    left_s = spent[0] - team.row.now
    return left_s <= 0, int(left_s // MINUTE_S)


def _facts(team: Team) -> tuple[object, ...]:
    row = team.row
    return row.usage, row.budget, row.windows, row.elsewhere, row.room, team.per_gib
