"""How far the forecast of the day's exhaustion is off, on synthetic days; and what it costs.

Each day's limit is set so that it is spent at a known share of the day. The forecast is asked at a
quarter, a half and three quarters of the time until then; its error is in minutes of the truth.
Beside it what people do otherwise: the mean since midnight, and the last 15 minutes, carried on.
"""

import random
import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import data
import days
import pytest
from race import add_row

from sluice import Budget, forecast, ledger, policy, usage, window

START = 1_795_996_800.0  # 2026-11-30T00:00:00Z
MINUTE_S = 60.0
RUNS = 9
LEARNED = {"first day": 0, "after a week": 7}
SPENT = (0.5, 0.8, 0.95)
ASKED = (0.25, 0.5, 0.75)
RECENT = 15
TEAMS, ENTRY = 1000, 200


class Case(NamedTuple):
    """A day on which a limit is spent in minute `spent`."""

    own: Budget
    sizes: list[int]
    learned: int
    spent: int


def let_through(own: Budget, sizes: list[int]) -> Iterator[int]:
    """Usage after each minute of a day, if the band keeps its share of each."""
    used, soft = 0.0, policy.soft_limit(own.daily_limit)
    for size in sizes:
        free = max(0.0, soft - used)
        used += min(size, free) + max(0.0, size - free) * own.sample_rate
        used = min(used, own.daily_limit)
        yield int(used)


def cases(shape: days.Shape, learned: int, has_burst: bool) -> Iterator[Case]:
    rng = random.Random(data.SEED)
    for run in range(RUNS):
        sizes = list(days.minutes(shape, learned + 1, 1_000_000, rng))
        history, today = sizes[: -days.DAY_MINUTES], sizes[-days.DAY_MINUTES :]
        if has_burst:
            today = days.with_burst(today, rng.randrange(300, 900), 45, 6)
        share = SPENT[run % len(SPENT)]
        wanted = sum(today[: int(share * days.DAY_MINUTES)])
        # The band keeps half: the limit that is spent when `wanted` has been offered.
        own = Budget("team", "default", int(wanted / 1.2))
        used = list(let_through(own, today))
        spent = next((i for i, size in enumerate(used) if size >= own.daily_limit - 1), None)
        if spent is not None:
            yield Case(own, history + today, learned, spent)


def row(own: Budget, offered: int, used: int, now: float) -> usage.Row:
    entries = max(1, offered // ENTRY)
    today = [entries, offered, entries, used, 0, offered - used, 0, 0, 0, 0]
    counted = ledger.Usage(used, used, today, today)
    return usage.Row(own, counted, window.open_windows("UTC", now), now)


def asked(case: Case) -> Iterator[tuple[int, dict[str, float]]]:
    """At each moment asked about: the minute, and each method's minute of exhaustion."""
    own, sizes = case.own, case.sizes
    outlooks = forecast.Outlooks()
    moments = {int(share * case.spent) for share in ASKED}
    first = case.learned * days.DAY_MINUTES
    offered, used = 0, 0
    for i, size in enumerate(sizes):
        minute = i % days.DAY_MINUTES
        if minute == 0:
            offered = 0
            through = let_through(own, sizes[i : i + days.DAY_MINUTES])
        offered, used = offered + size, next(through)
        if i >= first + case.spent:
            return
        now = START + (i + 1) * MINUTE_S
        # Observed at the minute's end; at midnight the new day has just begun.
        if minute < days.DAY_MINUTES - 1:
            outlooks.observe([row(own, offered, used, now)])
        if i >= first and minute in moments:
            rule = forecast.Rule.of(own, own.daily_limit)
            left = rule.offered(used)
            recent = sum(sizes[max(first, i + 1 - RECENT) : i + 1]) / min(RECENT, minute + 1)
            found = outlooks.of(own.key)
            assert found is not None
            end = first + days.DAY_MINUTES
            sluice = end if found.day is None else (found.day - START) / MINUTE_S
            yield (
                case.spent - minute,
                {
                    "sluice": sluice - first,
                    "mean since midnight": minute + 1 + left / (offered / (minute + 1)),
                    "last 15 minutes": minute + 1 + left / max(recent, 1e-9),
                },
            )


@pytest.mark.parametrize("learned", LEARNED)
@pytest.mark.parametrize("has_burst", [False, True], ids=["", "burst"])
@pytest.mark.parametrize("shape", days.SHAPES)
def bench_error(benchmark: Any, shape: str, has_burst: bool, learned: str) -> None:
    errors: dict[str, list[float]] = {}
    left = []

    def measure() -> None:
        for case in cases(days.SHAPES[shape], LEARNED[learned], has_burst):
            for ahead, answers in asked(case):
                left.append(ahead)
                for method, minute in answers.items():
                    # Nobody is told of a moment after the day's end.
                    found = min(minute, days.DAY_MINUTES)
                    errors.setdefault(method, []).append(abs(found - case.spent))

    benchmark.pedantic(measure, rounds=1)
    cells = {
        f"{method}, {name}": f"{value:.0f}"
        for method, minutes in errors.items()
        for name, value in (
            ("median", statistics.median(minutes)),
            ("p90", statistics.quantiles(minutes, n=10)[-1]),
        )
    }
    add_row(
        "Error of the day's forecast, minutes",
        **{
            "day": shape + (" with a burst" if has_burst else ""),
            "learned": learned,
            "asked": len(left),
            "minutes ahead, median": f"{statistics.median(left):.0f}",
            **cells,
        },
    )


def bench_observe(benchmark: Any) -> None:
    budgets = [Budget(f"team-{i}", "default", 10**9, 10**10) for i in range(TEAMS)]
    outlooks = forecast.Outlooks()
    state = {"now": START + 36_000.0, "offered": 0}

    def observe() -> None:
        state["now"] += 10
        state["offered"] += 1_000_000
        offered = int(state["offered"])
        outlooks.observe([row(own, offered, offered, state["now"]) for own in budgets])

    benchmark.pedantic(observe, rounds=10, warmup_rounds=1)
    add_row(
        "Forecasts of 1000 teams",
        **{"teams": TEAMS, "ms": f"{1000 * benchmark.stats.stats.median:.1f}"},
    )
