"""When a budget will be spent: the rules of budgets, and what a team's history tells."""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice import Budget, forecast, ledger, rates, usage, window

MIDNIGHT = 1_795_996_800.0  # 2026-11-30T00:00:00Z, the last day of a month
NOON = MIDNIGHT + 12 * 3600
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
ENTRY = 100


def make(daily: int, monthly: int | None = None, **more: object) -> Budget:
    return Budget("shop", "default", daily, monthly, **more)


def row(
    own: Budget, used: int, now: float, *, offered: int | None = None, month: int | None = None
):
    offered = used if offered is None else offered
    entries = offered // ENTRY
    today = [entries, offered, entries, used, 0, offered - used, 0, 0, 0, 0]
    counted = ledger.Usage(used, used if month is None else month, today, today)
    return usage.Row(own, counted, window.open_windows(own.time_zone, now), now)


def steady(own: Budget, rate: int, start: float, until: float) -> tuple[forecast.Outlooks, int]:
    """A team that has sent `rate` bytes a second from `start` on, looked at every minute."""
    outlooks = forecast.Outlooks()
    now = start
    while now <= until:
        outlooks.observe([row(own, int(rate * (now - start)), now)])
        now += MINUTE
    return outlooks, int(rate * (until - start))


def test_a_steady_team_spends_its_budget_when_division_says():
    own = make(10**9)
    outlooks, used = steady(own, 15_000, MIDNIGHT, NOON)
    found = outlooks.of(own.key)
    # Up to 80 % all counts, from there on every other byte.
    left = 800_000_000 - used + 2 * 200_000_000
    assert found.day == pytest.approx(NOON + left / 15_000, abs=60)
    assert found.rate == pytest.approx(15_000, rel=0.01)
    assert found.trend == "steady"


def test_a_budget_that_will_last_has_no_moment_of_exhaustion():
    own = make(10**9, 10**12)
    outlooks, used = steady(own, 5_000, MIDNIGHT, NOON)
    found = outlooks.of(own.key)
    assert (found.day, found.month) == (None, None)
    at, size = found.curve[-1]
    assert at == MIDNIGHT + DAY
    assert size == pytest.approx(2 * used, rel=0.01)


@pytest.mark.parametrize(
    ("more", "factor"),
    [({"dry_run": True}, 1), ({"sample_rate": 1.0}, 1), ({"sample_rate": 0.25}, 4)],
)
def test_the_band_is_passed_as_fast_as_its_sample_rate_lets_through(more, factor):
    own = make(10**9, **more)
    outlooks, used = steady(own, 40_000, MIDNIGHT, MIDNIGHT + 4 * HOUR)
    left = 800_000_000 - used + factor * 200_000_000
    due = MIDNIGHT + 4 * HOUR + left / 40_000
    assert outlooks.of(own.key).day == pytest.approx(due, abs=60)


def test_a_band_that_keeps_nothing_is_never_passed():
    own = make(10**9, sample_rate=0.0)
    outlooks, _ = steady(own, 40_000, MIDNIGHT, MIDNIGHT + 4 * HOUR)
    found = outlooks.of(own.key)
    assert found.day is None
    assert found.curve[-1][1] == 800_000_000


@pytest.mark.parametrize("sample_rate", [1.0, 0.5, 0.1])
def test_the_curve_bends_where_the_band_begins_and_where_the_limit_is_spent(sample_rate):
    own = make(10**9, sample_rate=sample_rate)
    outlooks, used = steady(own, 100_000, MIDNIGHT, MIDNIGHT + 90 * MINUTE)
    found = outlooks.of(own.key)
    curve = dict(found.curve)
    begins = MIDNIGHT + 90 * MINUTE + (800_000_000 - used) / 100_000
    assert min(at for at, size in curve.items() if size >= 799_999_999) == pytest.approx(begins)
    assert curve[found.day] == 10**9
    # Neither lies at a full hour: straight lines between those would tell other moments.
    assert begins % HOUR
    assert found.day % HOUR


def test_a_month_that_is_spent_with_the_day_is_spent_at_the_same_moment():
    own = make(10**9, 10**9)
    outlooks, _ = steady(own, 100_000, MIDNIGHT - 2 * DAY, MIDNIGHT - 2 * DAY + 140 * MINUTE)
    found = outlooks.of(own.key)
    assert found.month == pytest.approx(found.day, abs=1)


def test_a_team_that_drops_has_spent_it_now():
    own = make(1000)
    outlooks = forecast.Outlooks()
    outlooks.observe([row(own, 990, NOON, offered=100_000)])
    assert outlooks.of(own.key).day == NOON


def test_the_curve_of_a_team_that_drops_for_its_month_is_flat():
    own = make(10**6, 10**7)
    outlooks = forecast.Outlooks()
    for minute in range(60):
        now = NOON + minute * MINUTE
        outlooks.observe([row(own, 500_000, now, offered=500_000 + 1000 * minute, month=10**7)])
    found = outlooks.of(own.key)
    assert {size for _, size in found.curve} == {500_000}
    assert found.day is None
    assert found.month == now


def test_a_dry_run_is_expected_to_go_on_past_its_limits():
    own = make(1_000_000, 20_000_000, dry_run=True)
    outlooks = forecast.Outlooks()
    start, now = MIDNIGHT - 29 * DAY, MIDNIGHT - 29 * DAY
    while now <= start + DAY / 2:
        used = int(35 * (now - start))
        outlooks.observe([row(own, used, now, month=used)])
        now += 10 * MINUTE
    found = outlooks.of(own.key)
    # Three megabytes a day, whatever the day's limit.
    assert found.curve[-1][1] == pytest.approx(35 * DAY, rel=0.02)
    assert found.month == pytest.approx(start + 20_000_000 / 35, abs=DAY / 4)


def test_no_day_of_a_month_counts_for_more_than_its_limit():
    # Ten times its daily limit is offered each day; the month has room for eight days more.
    own = make(864 * 10**6, 30 * 864 * 10**6)
    start = MIDNIGHT - 29 * DAY
    outlooks = forecast.Outlooks()
    now = start
    while now <= start + DAY / 2:
        offered = int(100_000 * (now - start))
        used = min(own.daily_limit, offered)
        outlooks.observe([row(own, used, now, offered=offered, month=22 * own.daily_limit)])
        now += 10 * MINUTE
    found = outlooks.of(own.key)
    # In its band, from 24 days on, every other line is enough to spend a day's limit. The last day
    # is over after a fifth: ten times the limit, of which half is let through.
    assert found.month == pytest.approx(start + DAY + 7.2 * DAY, abs=HOUR)


def simulated(own: Budget, rate: int, now: float) -> dict[str, float]:
    """When a team at a steady rate first has lines dropped: for the limit of the first day, and
    for the month's. Minute by minute, by the rules of every line; both windows begin at `now`."""
    found: dict[str, float] = {}
    day = month = 0.0
    tomorrow, until = now + DAY, now + 30 * DAY
    midnight = tomorrow
    while now < until:
        if now >= midnight:
            midnight, day = midnight + DAY, 0.0
        offered = rate * MINUTE
        totals = {"day": (day, own.daily_limit), "month": (month, own.monthly_limit)}
        over = [kind for kind, (used, limit) in totals.items() if used + offered > limit]
        in_band = any(used + offered > limit * 80 // 100 for used, limit in totals.values())
        for kind in over:
            if kind == "month" or now < tomorrow:
                found.setdefault(kind, now)
        passed = 0.0 if over else offered * (own.sample_rate if in_band else 1.0)
        day, month, now = day + passed, month + passed, now + MINUTE
    return found


# No strategies here: where day and month end together the last line decides which of them it was,
# and hypothesis looks for just that.
@pytest.mark.parametrize("seed", range(40))
def test_a_month_is_spent_when_the_rules_of_every_line_say(seed: int) -> None:
    """At a steady rate, day and month are foretold as they come out line by line."""
    rng = random.Random(seed)
    days_of_limit, months_of_day = rng.uniform(0.2, 8), rng.randrange(29) + rng.uniform(0.1, 0.9)
    sample_rate = rng.choice([1.0, 0.5, 0.25])
    rate = 100_000
    daily = int(rate * DAY / days_of_limit)
    own = make(daily, int(daily * months_of_day), sample_rate=sample_rate)
    start = MIDNIGHT - 29 * DAY
    learned = rates.Rates(start - DAY)
    for minute in range(1, 1441):
        learned.learn(start - DAY + minute * MINUTE, int(rate * MINUTE))
    found = forecast.outlook(row(own, 0, start), learned)
    happens = simulated(own, rate, start)
    for kind, at in (("day", found.day), ("month", found.month)):
        if kind in happens:
            assert at == pytest.approx(happens[kind], abs=2 * HOUR)
        else:
            assert at is None or at > start + 30 * DAY - 2 * HOUR


def test_a_window_that_ends_first_is_not_forecast_beyond():
    own = make(10**9, 2 * 10**9)
    outlooks, _ = steady(own, 5_000, MIDNIGHT, NOON)
    # The month ends with this day.
    assert outlooks.of(own.key).month is None


def test_the_hour_of_other_days_is_expected_again():
    own = make(10**9)
    outlooks = forecast.Outlooks()
    start, offered = MIDNIGHT - 3 * DAY, 0
    for minute in range(3 * 1440 + 6 * 60):
        now = start + minute * MINUTE
        if minute % 1440 == 0:
            offered = 0
        # Four hours around noon, and nothing else.
        if 10 <= minute % 1440 // 60 < 14:
            offered += 6_000_000
        outlooks.observe([row(own, min(offered, 999_999_900), now, offered=offered)])
    # At six in the morning nothing has come yet.
    found = outlooks.of(own.key)
    assert offered == 0
    assert found.rate == pytest.approx(0, abs=1000)
    # 800 MB and the band's 400 MB at 6 MB a minute.
    assert found.day == pytest.approx(MIDNIGHT + 10 * HOUR + 200 * MINUTE, abs=30 * MINUTE)


def test_a_burst_is_told_as_rising_and_fades():
    own = make(10**12)
    outlooks, used = steady(own, 1000, MIDNIGHT, NOON)
    for minute in range(1, 16):
        outlooks.observe([row(own, used + 600_000 * minute, NOON + minute * MINUTE)])
    found = outlooks.of(own.key)
    assert found.trend == "rising"
    # It is not carried on until midnight.
    assert found.curve[-1][1] < used + 9_000_000 + 12 * HOUR * 6_000


def test_midnight_is_no_fall_of_what_is_offered():
    own = make(10**9)
    outlooks, used = steady(own, 1000, MIDNIGHT, MIDNIGHT + DAY - MINUTE)
    before = outlooks.of(own.key).rate
    outlooks.observe([row(own, 0, MIDNIGHT + DAY + 1, month=used)])
    outlooks.observe([row(own, 59_000, MIDNIGHT + DAY + MINUTE, month=used)])
    assert outlooks.of(own.key).rate == pytest.approx(before, rel=0.1)


@pytest.mark.parametrize("step", [-DAY, -MINUTE, 0.0, DAY, 365 * DAY])
def test_a_clock_that_jumps_is_survived(step):
    own = make(10**9)
    outlooks, used = steady(own, 1000, MIDNIGHT, NOON)
    for now in (NOON + step, NOON + step + MINUTE, NOON, NOON + MINUTE):
        outlooks.observe([row(own, used, now)])
        found = outlooks.of(own.key)
        assert math.isfinite(found.rate)
        assert found.rate >= 0
        assert found.day is None or found.day >= now


def test_what_was_learned_outlives_the_process():
    own = make(10**9)
    outlooks, used = steady(own, 15_000, MIDNIGHT, NOON)
    again = forecast.Outlooks()
    again.load(json.loads(json.dumps(outlooks.dump())))
    for one in (outlooks, again):
        one.observe([row(own, used + 900_000, NOON + MINUTE)])
    assert again.of(own.key) == outlooks.of(own.key)


@pytest.mark.parametrize(
    "junk", [{"a/b": 5}, {"a/b": []}, {"a/b": [1, 2, [0], [0], 1, 1]}, [], "x"]
)
def test_junk_is_refused_and_nothing_is_changed(junk):
    own = make(10**9)
    outlooks, _ = steady(own, 15_000, MIDNIGHT, MIDNIGHT + HOUR)
    before = outlooks.dump()
    with pytest.raises((TypeError, ValueError, AttributeError)):
        outlooks.load(junk)
    assert outlooks.dump() == before


def test_a_team_that_is_gone_is_forgotten():
    own = make(10**9)
    outlooks, _ = steady(own, 15_000, MIDNIGHT, MIDNIGHT + HOUR)
    outlooks.observe([])
    assert outlooks.of(own.key) is None
    assert outlooks.dump() == {}


def test_a_team_met_in_the_middle_of_its_day_begins_with_that_day_s_mean():
    own = make(10**9)
    outlooks = forecast.Outlooks()
    outlooks.observe([row(own, 43_200_000, NOON)])
    assert outlooks.of(own.key).rate == pytest.approx(1000, rel=0.01)


@given(
    limit=st.integers(0, 2**63 - 1),
    used=st.integers(0, 2**63 - 1),
    kept=st.floats(0.01, 1),
    more=st.lists(st.floats(0, 2.0**63), max_size=5),
)
def test_usage_never_falls_and_never_passes_the_limit(limit, used, kept, more):
    """Whatever is offered, expected usage grows with it and stays within the limit."""
    rule = forecast.Rule(limit * 80 // 100, limit, kept)
    found = [rule.used(used, offered) for offered in sorted([0, *more])]
    assert found == sorted(found)
    assert all(used <= size <= max(used, limit) for size in found)
    spent = rule.used(used, rule.offered(used))
    assert spent == pytest.approx(max(used, limit), rel=1e-6)


@given(
    sizes=st.lists(st.integers(0, 10**12), min_size=1, max_size=30),
    steps=st.lists(st.floats(-7200, 100_000), min_size=30, max_size=30),
)
def test_what_is_expected_never_falls(sizes, steps):
    """Whatever was seen when, expected bytes grow with time and are finite."""
    learned = rates.Rates(MIDNIGHT)
    now = MIDNIGHT
    for size, step in zip(sizes, steps, strict=False):
        now += step
        learned.learn(now, size)
    path = list(rates.expected(learned, now, now + DAY))
    totals = [size for _, size in path]
    assert totals == sorted(totals)
    assert all(math.isfinite(size) for size in totals)
    assert [at for at, _ in path] == sorted({at for at, _ in path})
    assert path[-1][0] == now + DAY
